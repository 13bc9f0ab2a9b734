//! Filtered reads of `GET /v1/log`: the records that a [`Filter`] wants, and up to where the log was looked at for them.
//!
//! What matches may be rare, so an answer is a page: bounded in records, in bytes and in what is looked at, and read before
//! its header is sent. `Coldstream-Next` says where the next page begins; without it, everything up to the head was looked
//! at. A tail goes on for ever, and a line with a resume token alone moves its reader over what does not match.
//!
//! It never looks at more than one part of the log at a time, and keeps nothing but what matches.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, Uri};
use axum::response::Response;
use bytes::Bytes;
use domain::append::LogHead;
use domain::filter::{Filter, FilterError, Searched, SearchedTo};
use domain::log::{Direction, LogReader, ReadError};
use domain::record::Record;
use domain::tiered::ANSWER_BYTES;
use domain::{ErrorKind, Head, Position, ResumeToken, Timestamp};
use futures::stream;
use schemars::Schema;
use schemars::generate::SchemaGenerator;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::held::PageRoom;
use super::page::PAGE_RECORDS;
use super::problem::Problem;
use super::query;
use super::range::{LogQuery, LogRange};
use super::read::{QUIET_ROUNDS, Spelling, answer, lines, log_broken_answer};
use super::resume::epoch_at;
use super::route::members;
use super::tails::Tails;
use crate::clock::Stopwatch;

/// One page takes so many searches at most. More make fewer requests of a reader for whom little matches, and each of them
/// longer: of the archive a search decodes up to 8 MiB.
const SEARCHES_A_PAGE: usize = 8;
/// Where the next page begins, if there is more to look at.
const NEXT: HeaderName = HeaderName::from_static("coldstream-next");

/// Adds what a query's member says to a filter.
type Add = fn(Filter, &str) -> Result<Filter, FilterError>;

/// Members of a query that may be given several times: any of the values suffices then.
const MEMBERS: [(&str, Add, &str); 3] = [
    ("category", Filter::category, "Only records of streams of this category; of any of them, if given several times"),
    ("type", Filter::event_type, "Only events of this type, or any of these"),
    ("stream_prefix", Filter::stream_prefix, "Only records of streams whose names begin so, or in any of these ways"),
];

/// The query of `GET /v1/log`, with the members of the filter.
pub(super) fn log_members(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = members::<LogQuery>(generator);
    if let Some(members) = schema.get_mut("properties").and_then(|members| members.as_object_mut()) {
        for (name, _, what) in MEMBERS {
            let member = json!({"type": "array", "items": {"type": "string"}, "description": what});
            members.insert(name.to_owned(), member);
        }
    }
    schema
}

/// What a URL's query says of the records that are wanted, and the URL without it: serde takes a member once only.
pub(super) fn filter(uri: &Uri) -> Result<(Filter, Uri), Problem> {
    let is_member = |pair: &&str| MEMBERS.iter().any(|(name, ..)| pair.split('=').next() == Some(name));
    let (named, rest): (Vec<&str>, Vec<&str>) = uri.query().unwrap_or_default().split('&').partition(is_member);
    let with_query = |pairs: &[&str]| {
        let uri = Uri::try_from(format!("{}?{}", uri.path(), pairs.join("&")));
        uri.map_err(|error| Problem::of(ErrorKind::Invalid, &error))
    };
    let named: Vec<(String, String)> = query(&with_query(&named)?)?;
    let filter = named.iter().try_fold(Filter::default(), |filter, (name, value)| {
        match MEMBERS.iter().find(|(member, ..)| member == name) {
            Some((_, add, _)) => add(filter, value),
            None => Ok(filter),
        }
    });
    Ok((filter.map_err(|error| Problem::of(ErrorKind::Invalid, &error))?, with_query(&rest)?))
}

/// A search of the log, step by step.
pub(super) struct Search {
    reader: Arc<dyn LogReader>,
    filter: Filter,
    spelling: Spelling,
    direction: Direction,
    /// What is looked at next; `None` below position 1.
    next: Option<Position>,
    /// No record before it is of the times that are wanted.
    first: Position,
    /// No record after it is wanted.
    last: Head,
    /// Records of a page at most.
    limit: usize,
    /// Whether the range begins above the head.
    is_ahead: bool,
    room: PageRoom,
}

/// What a page was made of.
#[derive(Default)]
struct Page {
    body: Vec<u8>,
    records: usize,
    to: Option<SearchedTo>,
}

impl Search {
    /// Begins at the range's end from which it goes, and where the times that are wanted begin: `recordedat` never
    /// decreases, so nothing before or after them is looked at.
    pub(super) async fn plan(
        reader: Arc<dyn LogReader>,
        filter: Filter,
        range: LogRange,
        spelling: Spelling,
        room: PageRoom,
    ) -> Result<Self, ReadError> {
        let (from, before) = filter.recorded();
        let first = match from {
            Some(from) => recorded_before(&*reader, from).await?.next(),
            None => Position::FIRST,
        };
        let last = match before {
            Some(before) => recorded_before(&*reader, before).await?.min(range.newest),
            None => range.newest,
        };
        let next = match range.direction {
            Direction::Forward => range.next.max(Some(first)),
            Direction::Backward => range.next.min(last.newest()),
        };
        Ok(Self {
            limit: usize::try_from(range.left).unwrap_or(PAGE_RECORDS).min(PAGE_RECORDS),
            is_ahead: range.next.is_some_and(|next| !range.newest.includes(next)),
            direction: range.direction,
            reader,
            filter,
            spelling,
            next,
            first,
            last,
            room,
        })
    }

    /// What a page has still to look at.
    fn next_of_page(&self) -> Option<Position> {
        self.next.filter(|next| match self.direction {
            Direction::Forward => self.last.includes(*next),
            Direction::Backward => *next >= self.first,
        })
    }

    /// One page, with what its reader goes on with. Once it has taken for `long_enough` it ends with what it has: an answer
    /// that comes too late would be asked for again, and come too late again.
    pub(super) async fn page(
        mut self,
        head: &LogHead,
        token: Option<ResumeToken>,
        long_enough: Duration,
    ) -> Result<Response, Problem> {
        let (begun, watch) = (self.next_of_page(), Stopwatch::start());
        let mut page = Page::default();
        for _ in 0..SEARCHES_A_PAGE {
            let Some(next) = self.next_of_page() else { break };
            let is_late = page.to.is_some() && watch.elapsed() >= long_enough;
            if is_late || page.records >= self.limit || page.body.len() >= ANSWER_BYTES {
                break;
            }
            let found = self.look(next, self.limit - page.records).await?;
            let Some(to) = found.to else { return Err(missing(next).into()) };
            page.body.extend_from_slice(&lines(&found.records, self.spelling));
            page.records += found.records.len();
            page.to = Some(to);
            self.next = to.next(self.direction);
        }
        let oldest = if self.direction == Direction::Forward { begun } else { page.to.map(|to| to.position) };
        let archived = oldest.is_some_and(|oldest| head.pruned.includes(oldest));
        let resume = self.resume(&page, head.head, token).await?;
        let body = self.room.page(page.body, page.records);
        let mut response = answer(Body::from(body), head, archived, resume)?;
        if let Some(next) = self.next_of_page() {
            response.headers_mut().insert(NEXT, HeaderValue::from(next.get()));
        }
        Ok(response)
    }

    /// The token of what was looked at last; once nothing is left, of the head: whoever comes back with it is not sent
    /// through what is not of the times that are wanted.
    async fn resume(
        &self,
        page: &Page,
        head: Head,
        token: Option<ResumeToken>,
    ) -> Result<Option<ResumeToken>, ReadError> {
        if self.direction == Direction::Backward {
            return Ok(None);
        }
        if self.is_ahead {
            return Ok(token);
        }
        let looked_at = page.to.filter(|to| self.next_of_page().is_some() || !head.includes(to.position.next()));
        match (looked_at, head.newest()) {
            (Some(to), _) => Ok(to.token()),
            (None, Some(newest)) => {
                let epoch = epoch_at(&*self.reader, newest).await?;
                Ok(epoch.map(|epoch| ResumeToken { position: newest, epoch }))
            }
            (None, None) => Ok(token),
        }
    }

    /// The range and whatever is appended, for as long as the client listens. It looks on when the socket takes more.
    pub(super) fn tail(self, head: &LogHead, tails: &Tails, shutdown: CancellationToken) -> Result<Response, Problem> {
        // A read forward has always something next, if only what is not appended yet.
        let next = self.next.unwrap_or(Position::FIRST);
        let archived = head.pruned.includes(next);
        let open = tails.open(next.head_before())?;
        let body = stream::try_unfold((self, next, 0), move |(mut search, next, quiet)| {
            let (shutdown, open) = (shutdown.clone(), open.clone());
            async move {
                let found = tokio::select! {
                    () = shutdown.cancelled() => return Ok(None),
                    found = search.wait(next, quiet) => found.inspect_err(log_broken_answer)?,
                };
                let after = found.to.map_or(next, |to| to.position.next());
                open.at(after.head_before());
                let quiet = if found.to.is_some() { 0 } else { (quiet + 1) % QUIET_ROUNDS };
                let piece = search.piece(&found);
                Ok::<_, ReadError>(Some((piece, (search, after, quiet))))
            }
        });
        answer(Body::from_stream(body), head, archived, None)
    }

    /// What a search from `next` on finds; waits about a second if there is nothing to look at.
    /// After a quiet round, what the wait says is believed.
    async fn wait(&self, next: Position, quiet: u32) -> Result<Searched, ReadError> {
        if quiet == 0 {
            let found = self.look(next, self.room.records()).await?;
            if found.to.is_some() {
                return Ok(found);
            }
        }
        if self.reader.wait_beyond(next.head_before()).await?.includes(next) {
            return self.look(next, self.room.records()).await;
        }
        Ok(Searched::default())
    }

    /// Its records, and a token if it has looked farther than the last of them; a sign of life if there is neither.
    fn piece(&mut self, found: &Searched) -> Bytes {
        let last = found.records.last().map(Record::position);
        let passed = found.to.filter(|to| Some(to.position) != last).and_then(SearchedTo::token);
        let mut piece = lines(&found.records, self.spelling);
        if let Some(token) = passed {
            piece.extend_from_slice(self.spelling.passed(token).as_bytes());
        }
        if piece.is_empty() {
            return self.spelling.heartbeat();
        }
        self.room.page(piece, found.records.len())
    }

    /// One search. What it says is held against the port's contract before anybody is told.
    async fn look(&self, next: Position, limit: usize) -> Result<Searched, ReadError> {
        let found = self.reader.search_log(next, self.direction, &self.filter, limit).await?;
        let Some(to) = found.to else { return Ok(found) };
        let before = |one: &Position, other: &Position| match self.direction {
            Direction::Forward => one < other,
            Direction::Backward => one > other,
        };
        let places: Vec<Position> = found.records.iter().map(Record::position).collect();
        let inside = |place: &Position| !before(place, &next) && !before(&to.position, place);
        if places.is_sorted_by(before) && places.iter().chain([&to.position]).all(inside) {
            return Ok(found);
        }
        let reason = format!("a search from {next} to {} gives {places:?}", to.position);
        Err(ReadError::Corrupt { reason })
    }
}

/// How many events were recorded before `instant`.
async fn recorded_before(reader: &dyn LogReader, instant: Timestamp) -> Result<Head, ReadError> {
    match Timestamp::from_unix_micros(instant.unix_micros() - 1) {
        Ok(at) => reader.head_as_of(at).await,
        // There is no earlier instant.
        Err(_) => Ok(Head::EMPTY),
    }
}

fn missing(position: Position) -> ReadError {
    ReadError::Corrupt { reason: format!("position {position} is below the head and not there") }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use async_trait::async_trait;
    use axum::body::to_bytes;
    use domain::FixedClock;
    use domain::append::{AppendRequest, Role};
    use domain::event::NewEvent;
    use domain::log::EventLog;
    use domain::record;
    use domain::twin::{Between, Interposed, MemoryLog};

    use super::*;
    use crate::http::held::HeldPages;

    const EVENTS: u64 = 200;

    /// Lets a search look at three positions, and remembers where reads began.
    #[derive(Default)]
    struct ShortReads(Mutex<Vec<u64>>);

    #[async_trait]
    impl Between for ShortReads {
        async fn read_log(
            &self,
            log: &dyn LogReader,
            from: Position,
            direction: Direction,
            limit: usize,
        ) -> Result<Vec<Record>, ReadError> {
            self.0.lock().expect("no panic").push(from.get());
            log.read_log(from, direction, limit.min(3)).await
        }
    }

    type Log = Interposed<MemoryLog, ShortReads>;

    fn second(number: u64) -> Timestamp {
        let start = Timestamp::parse_rfc3339("2026-05-01T00:00:00Z").expect("an instant").unix_micros();
        Timestamp::from_unix_micros(start + number.cast_signed() * 1_000_000).expect("an instant")
    }

    /// One event a second; each fiftieth is a note.
    async fn log() -> Arc<Log> {
        let log = MemoryLog::new(Arc::new(FixedClock(second(EVENTS))), second(0), Role::Active);
        for number in 1..=EVENTS {
            let category = if number % 50 == 0 { "note" } else { "other" };
            let text = format!(
                r#"{{"specversion":"1.0","id":"{number}","source":"/t","type":"made","subject":"{category}-{}"}}"#,
                number % 7
            );
            let event = NewEvent::from_cloudevent(text.as_bytes()).expect("an event");
            let recorded_at = Some(second(number));
            let request = AppendRequest { events: vec![event], recorded_at, ..AppendRequest::default() };
            log.append(request).await.expect("acknowledged");
        }
        Arc::new(Interposed { log: Arc::new(log), between: ShortReads::default() })
    }

    fn notes() -> Filter {
        Filter::default().category("note").expect("a filter")
    }

    /// A page: the positions of its records, where the next begins, and its token.
    async fn page(log: &Arc<Log>, filter: Filter, query: &str) -> (Vec<u64>, Option<u64>, Option<String>) {
        let head = log.log_head().await.expect("readable");
        let query: LogQuery = super::query(&format!("/v1/log?{query}").parse().expect("a URL")).expect("a query");
        let range = LogRange::plan(&query, None, head.head).expect("a range");
        let search = Search::plan(log.clone(), filter, range, Spelling::Record, HeldPages::default().reader());
        let search = search.await.expect("readable");
        let response = search.page(&head, None, Duration::MAX).await.expect("a page");
        let header = |name: &str| Some(response.headers().get(name)?.to_str().expect("text").to_owned());
        let next = header("coldstream-next").map(|next| next.parse().expect("a position"));
        let resume = header("coldstream-resume");
        let body = to_bytes(response.into_body(), usize::MAX).await.expect("a body");
        let lines = body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let positions = lines.map(|line| record::read(line).expect("a record").position().get()).collect();
        (positions, next, resume)
    }

    #[tokio::test]
    async fn a_page_that_finds_nothing_says_where_the_next_begins_and_all_together_find_everything() {
        let log = log().await;
        for (direction, first, found_in_order) in
            [("forward", 1, [50, 100, 150, 200]), ("backward", EVENTS, [200, 150, 100, 50])]
        {
            let (mut found, mut from, mut empty) = (Vec::new(), Some(first), 0);
            while let Some(at) = from {
                let (positions, next, resume) =
                    page(&log, notes(), &format!("from={at}&direction={direction}&limit=9")).await;
                let end = next.unwrap_or(if first == 1 { EVENTS + 1 } else { 0 });
                assert!((1..=24).contains(&end.abs_diff(at)), "its work is bounded, and it goes on: {at} {end}");
                let token = (first == 1).then(|| format!("{}@1", end - 1));
                assert_eq!(resume, token, "its token goes on over what does not match");
                empty += usize::from(positions.is_empty());
                found.extend(positions);
                from = next;
            }
            assert_eq!(found, found_in_order, "{direction}");
            assert!(empty > 3, "{direction}: {empty} pages found nothing");
        }
        let (positions, next, resume) = page(&log, notes(), "from=49&limit=1").await;
        assert_eq!((positions, next, resume.as_deref()), (vec![50], Some(51), Some("50@1")), "the limit ends a page");
    }

    #[tokio::test]
    async fn what_is_outside_of_the_times_is_not_looked_at() {
        let log = log().await;
        let looked_at = |log: &Arc<Log>| std::mem::take(&mut *log.between.0.lock().expect("no panic"));
        let times = || Filter::default().recorded_from(second(90)).recorded_before(second(110));
        for (query, expected) in [("limit=9", [90, 98]), ("limit=9&direction=backward", [109, 101])] {
            let (positions, next, _) = page(&log, times(), query).await;
            assert_eq!([positions[0], positions[8]], expected);
            assert_eq!(next, Some(if expected[0] == 90 { 99 } else { 100 }));
            assert!(looked_at(&log).iter().all(|from| (90..110).contains(from)), "{query}");
        }
        let (positions, next, resume) = page(&log, times(), "").await;
        assert_eq!(
            (positions.len(), next, resume),
            (20, None, Some("200@1".to_owned())),
            "the rest is not of the times"
        );
        let before = Filter::default().recorded_before(second(0));
        assert_eq!(page(&log, before, "").await, (vec![], None, Some("200@1".to_owned())));
        let later = Filter::default().recorded_from(second(EVENTS + 1));
        assert_eq!(page(&log, later, "direction=backward").await, (vec![], None, None));
    }

    #[test]
    fn a_member_of_the_filter_may_be_given_several_times_and_is_decoded() {
        let uri: Uri =
            "/v1/log?type=a&from=7&type=b%26c&category=note&stream_prefix=note-%C3%BC".parse().expect("a URL");
        let (named, rest) = filter(&uri).expect("a filter");
        assert_eq!(named.event_types(), ["a", "b&c"]);
        assert_eq!(
            (named.categories(), named.stream_prefixes()),
            (&["note".to_owned()][..], &["note-ü".to_owned()][..])
        );
        assert_eq!(rest, "/v1/log?from=7");
        let nothing = filter(&"/v1/log".parse().expect("a URL")).expect("a filter").0;
        assert!(nothing.is_all());
        for wrong in ["category=Note", "type=", "stream_prefix=a%00", "category"] {
            let refused = filter(&format!("/v1/log?{wrong}").parse().expect("a URL")).expect_err("refused");
            assert_eq!(refused.kind(), ErrorKind::Invalid, "{wrong}");
        }
    }
}
