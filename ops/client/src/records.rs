//! A read that goes on where it broke off: each record once, in order, without a hole, across broken connections and
//! from whichever region answers.

use std::sync::Arc;
use std::time::Duration;

use domain::event::TraceContext;
use domain::filter::Filter;
use domain::record::{self, Record};
use domain::{Head, Position, ResumeToken, StreamName, StreamVersion};
use reqwest::{Method, RequestBuilder, Response};
use serde::Deserialize;
use tokio::time::timeout;

use crate::error::ClientError;
use crate::regions::Patience;
use crate::{Client, From, SILENCE_MAX, Shared, answer};

/// A line is never longer: an event's limit, and as much again.
const LINE_BYTES_MAX: usize = domain::append::EVENT_BYTES_MAX * 2;

/// Records that come one by one. What is not asked for is not fetched: a slow reader slows nobody else.
pub struct Records {
    shared: Arc<Shared>,
    trace: Option<Arc<TraceContext>>,
    place: Place,
    confirmed: bool,
    answer: Option<Answer>,
    lines: Lines,
    patience: Patience,
    ended: bool,
}

/// An answer that is being read.
struct Answer {
    response: Response,
    region: usize,
    page: Page,
}

/// What the header of an answer says of its end.
#[derive(Clone, Copy)]
struct Page {
    /// The log's head when it began.
    head: Option<Head>,
    /// Of a filtered one: where the next begins; `None` where nothing is left to look at.
    next: Option<Position>,
    /// The token of the last record that was read for it.
    resume: Option<ResumeToken>,
}

/// A line of a filtered tail that moves its reader over what does not match.
#[derive(Deserialize)]
struct Passed {
    resume: String,
}

/// Such a line begins so, and no record does.
const PASSED: &[u8] = b"{\"resume\":";

/// What comes next. A stream's `head` is that of the log which answered first: where one that is below it ends, the stream
/// does not.
enum Place {
    Log { next: Position, token: Option<ResumeToken>, end: End, filter: Filter },
    Stream { stream: StreamName, next: StreamVersion, follow: bool, head: Option<Head> },
}

/// Where a read of the log ends.
#[derive(Clone, Copy)]
enum End {
    /// Never.
    Tail,
    /// At the head that the first answer will name.
    AtHead,
    /// At this head, which the first answer named.
    At(Head),
}

impl Records {
    pub(crate) fn of_log(client: &Client, from: From, filter: Filter, follow: bool) -> Self {
        let (next, token) = match from {
            From::Start => (Position::FIRST, None),
            From::Position(position) => (position, None),
            From::Token(token) => (token.position.next(), Some(token)),
        };
        let end = if follow { End::Tail } else { End::AtHead };
        Self::of(client, Place::Log { next, token, end, filter })
    }

    pub(crate) fn of_stream(client: &Client, stream: StreamName, next: StreamVersion, follow: bool) -> Self {
        Self::of(client, Place::Stream { stream, next, follow, head: None })
    }

    fn of(client: &Client, place: Place) -> Self {
        let (shared, trace) = (Arc::clone(&client.shared), client.trace.clone());
        let patience = Patience::of_read(shared.give_up_after, shared.readers.count());
        Self { shared, trace, place, confirmed: false, answer: None, lines: Lines::default(), patience, ended: false }
    }

    /// Only what both regions have for certain, so that no failover, forced or not, takes back what was read. It comes some
    /// rounds of the other region later, and not at all while that is away. For reads of the log: one of a stream, and one
    /// of a log without another region, is refused as Invalid.
    #[must_use]
    pub fn confirmed(self) -> Self {
        Self { confirmed: true, ..self }
    }

    /// The next record; `None` at the end. A call that is dropped before it is done loses nothing.
    ///
    /// # Errors
    /// What the server refuses, such as Forked for a token whose branch lost; `GaveUp` when nobody has answered for
    /// too long; `Corrupt` for a hole. It may be called again: it then goes on after the last record that it gave.
    pub async fn next(&mut self) -> Result<Option<Record>, ClientError> {
        loop {
            match self.take_line() {
                Ok(None) => {}
                Ok(record) => {
                    self.patience.renew();
                    return Ok(record);
                }
                Err(error) => {
                    // The next call asks again for what this answer did not give whole.
                    (self.answer, self.lines) = (None, Lines::default());
                    return Err(error);
                }
            }
            if self.ended || self.place.is_done() {
                return Ok(None);
            }
            if let Err(error) = self.read_on().await {
                let region = self.answer.take().map_or_else(|| self.shared.readers.current(), |answer| answer.region);
                self.lines = Lines::default();
                let next = self.shared.readers.learn(region, &error);
                self.patience.after(error, region, next).await?;
            }
        }
    }

    /// The next record of the lines that have arrived.
    fn take_line(&mut self) -> Result<Option<Record>, ClientError> {
        while let Some(line) = self.lines.next()? {
            if line.is_empty() {
                // A sign of life: a quiet log is no failure.
                self.patience.renew();
                continue;
            }
            let before = self.place.token();
            if let Some(record) = self.place.take(line)? {
                return Ok(Some(record));
            }
            if self.place.token() != before {
                // It moved on over what the filter does not want. A line that moves nothing does not count: a server that
                // says the same one at each attempt is given up on.
                self.patience.renew();
            }
        }
        Ok(None)
    }

    /// The token of the last event that was given, or of a later one that the filter does not want: keep it with your own
    /// work, and go on with [`From::Token`].
    #[must_use]
    pub fn token(&self) -> Option<ResumeToken> {
        self.place.token()
    }

    /// Reads some more bytes, from a new answer if there is none.
    async fn read_on(&mut self) -> Result<(), ClientError> {
        let Some(answer) = &mut self.answer else {
            let region = self.shared.readers.current();
            let mut request = self.place.request(&self.shared, region, self.trace.as_deref());
            if self.confirmed {
                request = request.query(&[("confirmed", "true")]);
            }
            let answered = timeout(self.shared.answer_within, answer::of(request)).await;
            let response = answered.map_err(|_elapsed| self.silent(region, self.shared.answer_within))??;
            let page = Page::of(&response);
            self.place.begins(&page)?;
            self.answer = Some(Answer { response, region, page });
            return Ok(());
        };
        match timeout(SILENCE_MAX, answer.response.chunk()).await {
            Ok(Ok(Some(bytes))) => self.lines.push(&bytes),
            Ok(Ok(None)) => return self.body_ended(),
            Ok(Err(error)) => return Err(answer::no_answer(&error)),
            Err(_elapsed) => {
                let region = answer.region;
                return Err(self.silent(region, SILENCE_MAX));
            }
        }
        Ok(())
    }

    fn silent(&self, region: usize, within: Duration) -> ClientError {
        let (url, seconds) = (self.shared.readers.at(region).url.clone(), within.as_secs());
        ClientError::NoAnswer { url, reason: format!("it said nothing for {seconds} s"), may_have_arrived: false }
    }

    fn body_ended(&mut self) -> Result<(), ClientError> {
        let Some(Answer { region, page, .. }) = self.answer.take() else { return Ok(()) };
        let stopped = |reason: &str| ClientError::NoAnswer {
            url: self.shared.readers.at(region).url.clone(),
            reason: reason.to_owned(),
            may_have_arrived: false,
        };
        if !self.lines.is_empty() {
            return Err(stopped("its answer ends within a line"));
        }
        self.place.turn(&page);
        self.ended = match self.place {
            // Another region than the one that answered first, which follows and is behind: its end is not the stream's.
            Place::Stream { head, .. } if page.head < head => {
                return Err(stopped("its log ends before the first one's"));
            }
            Place::Stream { follow, .. } if !follow => true,
            Place::Stream { .. } | Place::Log { end: End::Tail, .. } => return Err(stopped("it ended the tail")),
            Place::Log { ref filter, .. } if !filter.is_all() && page.next.is_some() => {
                // A whole page, also one without a record.
                self.patience.renew();
                false
            }
            Place::Log { .. } if self.place.is_done() => true,
            Place::Log { .. } => return Err(stopped("its log ends before the head that was named")),
        };
        Ok(())
    }
}

impl Page {
    fn of(response: &Response) -> Self {
        let text = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        Self {
            head: text("coldstream-head").and_then(|head| Head::new(head.parse().ok()?)),
            next: text("coldstream-next").and_then(|next| Position::new(next.parse().ok()?)),
            resume: text("coldstream-resume").and_then(ResumeToken::parse),
        }
    }
}

impl Place {
    fn request(&self, shared: &Shared, region: usize, trace: Option<&TraceContext>) -> RequestBuilder {
        match self {
            Self::Log { next, token, end, filter } => {
                let mut query = members(filter);
                query.push(match token {
                    Some(token) => ("token", token.to_string()),
                    None => ("from", next.to_string()),
                });
                if let End::Tail = end {
                    query.push(("follow", "true".to_owned()));
                }
                shared.request(Method::GET, region, "/v1/log", trace).query(&query)
            }
            Self::Stream { stream, next, follow, .. } => {
                let mut query = vec![("stream", stream.as_str().to_owned()), ("from", next.to_string())];
                if *follow {
                    query.push(("follow", "true".to_owned()));
                }
                shared.request(Method::GET, region, "/v1/stream", trace).query(&query)
            }
        }
    }

    /// Takes the head from an answer's header: the end of the whole read, also if a later answer knows more.
    fn begins(&mut self, page: &Page) -> Result<(), ClientError> {
        let end = match self {
            Self::Stream { head, .. } => {
                *head = head.or(page.head);
                return Ok(());
            }
            Self::Log { end: end @ End::AtHead, .. } => end,
            Self::Log { .. } => return Ok(()),
        };
        *end = End::At(page.head.ok_or_else(|| corrupt("an answer does not name the head"))?);
        Ok(())
    }

    /// At the end of a page: everything up to where the next one begins was looked at; without a next one, up to the head
    /// of the log that answered, which may be a follower's and below the one that was named first.
    fn turn(&mut self, page: &Page) {
        let Self::Log { next, token, filter, end: End::At(_) } = self else { return };
        if filter.is_all() {
            return;
        }
        let beyond = page.next.or(page.head.map(Head::next)).filter(|beyond| beyond > next);
        if let Some(beyond) = beyond {
            // A page whose last record is a removed one has no token: an older one would lead into the same page again.
            (*next, *token) = (beyond, page.resume);
        }
    }

    fn token(&self) -> Option<ResumeToken> {
        match self {
            Self::Log { token, .. } => *token,
            Self::Stream { .. } => None,
        }
    }

    fn is_done(&self) -> bool {
        matches!(self, Self::Log { next, end: End::At(head), .. } if !head.includes(*next))
    }

    /// Takes a line; `None` for a record that was given before.
    fn take(&mut self, line: &[u8]) -> Result<Option<Record>, ClientError> {
        if self.is_done() {
            return Ok(None);
        }
        if let Self::Log { next, token, end, filter } = self
            && !filter.is_all()
        {
            return take_found(line, (next, token), *end, filter);
        }
        let record = record::read(line).map_err(|error| corrupt(&crate::error::chain(&error)))?;
        match self {
            // A removed record has no token of its own: after one, the token leads back to the event before it.
            Self::Log { next, .. } if record.position() < *next => return Ok(None),
            Self::Log { next, token, .. } if record.position() == *next => {
                *next = next.next();
                if let Record::Event(event) = &record {
                    *token = Some(ResumeToken { position: event.position, epoch: event.epoch });
                }
            }
            Self::Stream { stream, next, .. } if record.version() == *next && record.stream() == stream => {
                *next = next.next();
            }
            Self::Log { next, .. } => {
                return Err(corrupt(&format!("position {} stands where {next} should", record.position())));
            }
            Self::Stream { stream, next, .. } => {
                let (found, version) = (record.stream(), record.version());
                return Err(corrupt(&format!("{found} {version} stands where {stream} {next} should")));
            }
        }
        Ok(Some(record))
    }
}

/// Takes a line of a filtered answer: a record, or a token that moves over what does not match.
fn take_found(
    line: &[u8],
    (next, token): (&mut Position, &mut Option<ResumeToken>),
    end: End,
    filter: &Filter,
) -> Result<Option<Record>, ClientError> {
    let damaged = |error: &dyn std::error::Error| corrupt(&crate::error::chain(error));
    if line.starts_with(PASSED) {
        let Passed { resume } = serde_json::from_slice(line).map_err(|error| damaged(&error))?;
        let passed = ResumeToken::parse(&resume).ok_or_else(|| corrupt(&format!("{resume:?} is no resume token")))?;
        if passed.position >= *next {
            (*next, *token) = (passed.position.next(), Some(passed));
        }
        return Ok(None);
    }
    let record = record::read(line).map_err(|error| damaged(&error))?;
    let position = record.position();
    if !filter.matches(&record) {
        return Err(corrupt(&format!("position {position} was not asked for")));
    }
    if position < *next {
        return Ok(None);
    }
    *next = position.next();
    if matches!(end, End::At(head) if !head.includes(position)) {
        return Ok(None);
    }
    if let Record::Event(event) = &record {
        *token = Some(ResumeToken { position, epoch: event.epoch });
    }
    Ok(Some(record))
}

/// The filter as members of a query.
fn members(filter: &Filter) -> Vec<(&'static str, String)> {
    let several = [
        ("category", filter.categories()),
        ("type", filter.event_types()),
        ("stream_prefix", filter.stream_prefixes()),
    ];
    let several = several.into_iter().flat_map(|(name, values)| values.iter().map(move |value| (name, value.clone())));
    let (from, before) = filter.recorded();
    let times = [("recorded_from", from), ("recorded_before", before)];
    let times = times.into_iter().filter_map(|(name, instant)| Some((name, instant?.to_string())));
    several.chain(times).collect()
}

fn corrupt(reason: &str) -> ClientError {
    ClientError::Corrupt { reason: reason.to_owned() }
}

/// Bytes that become lines.
#[derive(Default)]
struct Lines {
    bytes: Vec<u8>,
    /// Where the next line begins.
    at: usize,
    /// Up to where there is no line's end.
    searched: usize,
}

impl Lines {
    fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.at);
        self.searched -= self.at;
        self.at = 0;
        self.bytes.extend_from_slice(bytes);
    }

    fn is_empty(&self) -> bool {
        self.at == self.bytes.len()
    }

    /// The next whole line, without its LF.
    fn next(&mut self) -> Result<Option<&[u8]>, ClientError> {
        match self.bytes[self.searched..].iter().position(|byte| *byte == b'\n') {
            Some(length) => {
                let (begin, end) = (self.at, self.searched + length);
                (self.at, self.searched) = (end + 1, end + 1);
                Ok(Some(&self.bytes[begin..end]))
            }
            None if self.bytes.len() - self.at > LINE_BYTES_MAX => Err(corrupt("a line is longer than any record")),
            None => {
                self.searched = self.bytes.len();
                Ok(None)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_whole_however_the_bytes_come() {
        let mut lines = Lines::default();
        let mut got: Vec<String> = Vec::new();
        for bytes in ["ab", "c\n\nd", "", "e\nf", "\n"] {
            lines.push(bytes.as_bytes());
            while let Some(line) = lines.next().expect("short") {
                got.push(String::from_utf8(line.to_vec()).expect("text"));
            }
        }
        assert_eq!(got, ["abc", "", "de", "f"]);
        assert!(lines.is_empty());
        lines.push(&vec![b'x'; LINE_BYTES_MAX + 1]);
        assert!(lines.next().is_err());
    }
}
