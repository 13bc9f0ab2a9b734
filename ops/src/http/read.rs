//! `GET /v1/log`, `GET /v1/stream` and `GET /v1/content/history`: records as NDJSON, one line each, byte for
//! byte what the log holds.
//!
//! An answer is bounded by the head at its start, so that `Coldstream-Resume` can stand in the header: the
//! token of the last record of the answer. With `follow=true` it never ends; an empty line says that there
//! is nothing new, and each record carries its own position and epoch to resume from. If a read fails in
//! the middle, the connection breaks off: no client can take a part for the whole.
//!
//! A tail may be had as server-sent events (WHATWG HTML §9.2): `id` is the resume token, `data` the record's line.
//! What is ahead of a reader is read when the socket takes more, one page at a time: a slow reader costs no memory.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use domain::append::LogHead;
use domain::content::CATEGORY;
use domain::log::{Direction, LogReader, ReadError};
use domain::record::{self, Record};
use domain::{ErrorKind, Head, Position, ResumeToken, StreamName, StreamVersion};
use futures::stream::{self, Stream};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use super::page::{PAGE_RECORDS, dense, page_limit, records_u64};
use super::problem::Problem;
use super::resume::{self, epoch_at};
use super::route::{Answer, NDJSON, Route, lines as lines_shape, members, text};
use super::{ApiState, READERS, query};
use crate::subject;

/// Media type of server-sent events.
const EVENTS: &str = "text/event-stream";
const LAST_EVENT_ID: &str = "Last-Event-ID";
/// The head when the answer began.
const HEAD: HeaderName = HeaderName::from_static("coldstream-head");
/// Token of the answer's last record.
const RESUME: HeaderName = HeaderName::from_static("coldstream-resume");
/// `true` where records of the answer are, or may be, out of the live log.
pub(super) const ARCHIVE: HeaderName = HeaderName::from_static("coldstream-archive");

pub(super) static ROUTES: &[Route] = &[
    Route {
        summary: "Records of the log, from a position or a resume token on",
        query: Some(members::<LogQuery>),
        headers: &[(
            LAST_EVENT_ID,
            "Of a reader of events that comes back: the resume token to go on from, above the query",
        )],
        kinds: &[ErrorKind::NotFound, ErrorKind::Forked, ErrorKind::Corrupt],
        example: &[("from", "1"), ("limit", "2")],
        ..Route::get("/v1/log", READERS, || get(log), LOG)
    },
    Route {
        summary: "Records of a stream",
        query: Some(members::<StreamQuery>),
        kinds: &[ErrorKind::NotFound, ErrorKind::Corrupt],
        example: &[("stream", "content-guide")],
        ..Route::get("/v1/stream", READERS, || get(stream), RECORDS)
    },
    Route {
        summary: "All that happened to a content item, whether live or archived",
        query: Some(members::<HistoryQuery>),
        kinds: &[ErrorKind::NotFound, ErrorKind::Corrupt],
        example: &[("id", "guide")],
        ..Route::get("/v1/content/history", READERS, || get(history), RECORDS)
    },
];

const LOG: &[Answer] = &[Answer {
    what: "Records, byte for byte what the log holds; with `follow=true` and `Accept: text/event-stream` as events, \
           whose `id` is the resume token. An answer that breaks off is not whole",
    forms: &[(NDJSON, lines_shape), (EVENTS, text)],
    ..RECORDS[0]
}];

const RECORDS: &[Answer] = &[Answer {
    status: StatusCode::OK,
    what: "Records, byte for byte what the log holds. An answer that breaks off is not whole",
    forms: &[(NDJSON, lines_shape)],
    headers: &["Coldstream-Head", "Coldstream-Resume", "Coldstream-Archive"],
}];

#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Way {
    #[default]
    Forward,
    Backward,
}

impl From<Way> for Direction {
    fn from(way: Way) -> Self {
        match way {
            Way::Forward => Self::Forward,
            Way::Backward => Self::Backward,
        }
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LogQuery {
    /// The first position; excludes `after` and `token`.
    from: Option<u64>,
    /// The position before the first.
    after: Option<u64>,
    /// A resume token, as `Coldstream-Resume` gave it: `position@epoch`.
    token: Option<String>,
    /// Which way.
    #[serde(default)]
    direction: Way,
    /// Records at most.
    limit: Option<u64>,
    /// Whether to go on with what is appended, for as long as the client listens.
    #[serde(default)]
    follow: bool,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct StreamQuery {
    /// The stream's name.
    stream: String,
    /// The first version.
    from: Option<u64>,
    /// Which way.
    #[serde(default)]
    direction: Way,
    /// Records at most.
    limit: Option<u64>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct HistoryQuery {
    /// The content's id.
    id: String,
    /// The first version.
    from: Option<u64>,
    /// Which way.
    #[serde(default)]
    direction: Way,
    /// Events at most.
    limit: Option<u64>,
}

/// How a record is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spelling {
    /// Its line, byte for byte.
    Record,
    /// Its line with the content's id as `subject`, as its source had it.
    Content,
    /// Its line as a server-sent event.
    Event,
}

impl Spelling {
    /// What says that there is nothing new.
    fn heartbeat(self) -> Bytes {
        Bytes::from_static(if self == Self::Event { b":\n\n" } else { b"\n" })
    }
}

/// The log from a position on, or from a resume token on.
pub(super) async fn log(State(state): State<Arc<ApiState>>, uri: Uri, headers: HeaderMap) -> Result<Response, Problem> {
    let mut query: LogQuery = query(&uri)?;
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let events = query.follow && text(header::ACCEPT.as_str()).is_some_and(|accepted| accepted.contains(EVENTS));
    if let Some(seen) = text(LAST_EVENT_ID).filter(|_| events) {
        // A browser comes back to the URL that it began with, and says here how far it got.
        query = LogQuery { from: None, after: None, token: Some(seen.to_owned()), ..query };
    }
    let head = state.reader.log_head().await?;
    let token = token_of(&query)?;
    if let Some(token) = token {
        resume::check(token, &*state.reader, &head).await?;
    }
    let range = LogRange::plan(&query, token, head.head)?;
    let resume = range.resume(&*state.reader, token).await?;
    let archived = range.oldest().is_some_and(|oldest| head.pruned.includes(oldest));
    let scan = Scan {
        reader: state.reader.clone(),
        place: Place::Log(range),
        spelling: if events { Spelling::Event } else { Spelling::Record },
    };
    let body = if query.follow {
        tail(scan, range.next_after(), state.shutdown.clone())
    } else {
        first_page_then_rest(scan).await?
    };
    let mut response = answer(body, &head, archived, resume)?;
    if events {
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(EVENTS));
    }
    Ok(response)
}

/// A stream from a version on.
pub(super) async fn stream(State(state): State<Arc<ApiState>>, uri: Uri) -> Result<Response, Problem> {
    let StreamQuery { stream, from, direction, limit } = query(&uri)?;
    let name = StreamName::parse(&stream).map_err(|error| Problem::of(ErrorKind::Invalid, &error))?;
    stream_answer(&state, name, Spelling::Record, (from, direction.into(), limit)).await
}

/// All that happened to a content item, whether live or archived.
pub(super) async fn history(State(state): State<Arc<ApiState>>, uri: Uri) -> Result<Response, Problem> {
    let HistoryQuery { id, from, direction, limit } = query(&uri)?;
    let name = StreamName::of(CATEGORY, &id).map_err(|error| Problem::of(ErrorKind::Invalid, &error))?;
    stream_answer(&state, name, Spelling::Content, (from, direction.into(), limit)).await
}

async fn stream_answer(
    state: &ApiState,
    name: StreamName,
    spelling: Spelling,
    (from, direction, left): (Option<u64>, Direction, Option<u64>),
) -> Result<Response, Problem> {
    // The log's head first: what the stream's head says, read after it, is not above what that says of archives.
    let head = state.reader.log_head().await?;
    let Some(stream_head) = state.reader.stream_head(&name).await? else {
        return Err(Problem::new(ErrorKind::NotFound, format!("{name} has never had an event")));
    };
    let from = match (from, direction) {
        (None, Direction::Forward) => StreamVersion::FIRST,
        (None, Direction::Backward) => stream_head.version,
        (Some(from), _) => StreamVersion::new(from).ok_or_else(|| Problem::invalid("versions are counted from 1"))?,
    };
    let range = StreamRange {
        next: if direction == Direction::Backward { from.min(stream_head.version) } else { from },
        newest: stream_head.version,
        left: limit(left)?,
        direction,
    };
    let scan = Scan { reader: state.reader.clone(), place: Place::Stream(name, range), spelling };
    // Where an old version stands is not known before it is read: the header speaks of the whole stream then.
    let archived = head.pruned.includes(stream_head.first);
    answer(first_page_then_rest(scan).await?, &head, archived, None)
}

fn token_of(query: &LogQuery) -> Result<Option<ResumeToken>, Problem> {
    let read = |text: &String| ResumeToken::parse(text).ok_or_else(|| Problem::invalid("token is position@epoch"));
    query.token.as_ref().map(read).transpose()
}

fn limit(limit: Option<u64>) -> Result<u64, Problem> {
    match limit {
        Some(0) => Err(Problem::invalid("limit is at least 1")),
        other => Ok(other.unwrap_or(u64::MAX)),
    }
}

/// Positions that an answer holds: `next` first, `left` of them, none above `newest`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct LogRange {
    next: Option<Position>,
    newest: Head,
    left: u64,
    direction: Direction,
}

impl LogRange {
    fn plan(query: &LogQuery, token: Option<ResumeToken>, head: Head) -> Result<Self, Problem> {
        let direction = Direction::from(query.direction);
        let starts = [query.from.is_some(), query.after.is_some(), token.is_some()];
        if starts.into_iter().filter(|given| *given).count() > 1 {
            return Err(Problem::invalid("from, after and token exclude each other"));
        }
        if direction == Direction::Backward && (query.follow || query.after.is_some() || token.is_some()) {
            return Err(Problem::invalid("follow, after and token are for reading forward"));
        }
        if query.follow && query.limit.is_some() {
            return Err(Problem::invalid("a tail has no limit"));
        }
        let from = match (query.from, query.after, token) {
            (Some(from), ..) => {
                Some(Position::new(from).ok_or_else(|| Problem::invalid("positions are counted from 1"))?)
            }
            (_, Some(after), _) => Some(Head::new(after).ok_or_else(|| Problem::invalid("no such position"))?.next()),
            (_, _, Some(token)) => Some(token.position.next()),
            (None, None, None) if direction == Direction::Backward => head.newest(),
            (None, None, None) => Some(Position::FIRST),
        };
        let next = match direction {
            Direction::Forward => from,
            // The head may have been asked for from above: an answer starts at the newest record then.
            Direction::Backward => from.min(head.newest()),
        };
        Ok(Self { next, newest: head, left: limit(query.limit)?, direction })
    }

    /// The position of the answer's last record.
    fn last(&self) -> Option<Position> {
        let next = self.next?;
        match self.direction {
            Direction::Forward if !self.newest.includes(next) => None,
            Direction::Forward => Position::new(self.newest.get().min(next.get().saturating_add(self.left - 1))),
            Direction::Backward => Position::new(next.get().saturating_sub(self.left - 1).max(1)),
        }
    }

    fn oldest(&self) -> Option<Position> {
        match self.direction {
            Direction::Forward => self.last().and(self.next),
            Direction::Backward => self.last(),
        }
    }

    /// Where a tail goes on after the range.
    fn next_after(&self) -> Position {
        self.last().map_or(self.next.unwrap_or(Position::FIRST), Position::next)
    }

    /// The token of the last record; of the token that was sent, where the answer is empty.
    async fn resume(
        &self,
        reader: &dyn LogReader,
        token: Option<ResumeToken>,
    ) -> Result<Option<ResumeToken>, ReadError> {
        if self.direction == Direction::Backward {
            return Ok(None);
        }
        let Some(position) = self.last() else { return Ok(token) };
        let epoch = epoch_at(reader, position).await?;
        Ok(epoch.map(|epoch| ResumeToken { position, epoch }))
    }
}

/// Versions that an answer holds: `next` first, `left` of them, none above `newest`.
#[derive(Debug, Clone, Copy)]
struct StreamRange {
    next: StreamVersion,
    newest: StreamVersion,
    left: u64,
    direction: Direction,
}

enum Place {
    Log(LogRange),
    Stream(StreamName, StreamRange),
    Done,
}

/// A read of a range, page by page.
struct Scan {
    reader: Arc<dyn LogReader>,
    place: Place,
    spelling: Spelling,
}

impl Scan {
    /// The next page; empty at the end. Density is checked here again: a hole is an error, never an answer.
    async fn page(&mut self) -> Result<Vec<Record>, ReadError> {
        match &mut self.place {
            Place::Done => Ok(Vec::new()),
            Place::Log(range) => {
                let Some(next) = range.next.filter(|_| range.last().is_some()) else { return Ok(Vec::new()) };
                let limit = page_limit(range.left, range.newest.get(), next.get(), range.direction);
                let mut records = self.reader.read_log(next, range.direction, limit).await?;
                records.truncate(limit);
                let numbers = records.iter().map(|record| record.position().get());
                let end = dense(numbers, next.get(), range.direction, "position")?;
                range.left -= records_u64(&records);
                match Position::new(end).filter(|end| range.left > 0 && range.newest.includes(*end)) {
                    Some(end) => range.next = Some(end),
                    None => self.place = Place::Done,
                }
                Ok(records)
            }
            Place::Stream(name, range) => {
                if range.next > range.newest {
                    return Ok(Vec::new());
                }
                let limit = page_limit(range.left, range.newest.get(), range.next.get(), range.direction);
                let mut records = self.reader.read_stream(name, range.next, range.direction, limit).await?;
                records.truncate(limit);
                let numbers = records.iter().map(|record| record.version().get());
                let end = dense(numbers, range.next.get(), range.direction, "version")?;
                range.left -= records_u64(&records);
                match StreamVersion::new(end).filter(|end| range.left > 0 && *end <= range.newest) {
                    Some(end) => range.next = end,
                    None => self.place = Place::Done,
                }
                Ok(records)
            }
        }
    }
}

fn lines(records: &[Record], spelling: Spelling) -> Bytes {
    let mut bytes = Vec::with_capacity(records.len() * 512);
    for record in records {
        match spelling {
            Spelling::Record => record::write(record, &mut bytes),
            Spelling::Event => event(record, &mut bytes),
            Spelling::Content => bytes.extend(subject::of_source(record.to_line())),
        }
        bytes.push(b'\n');
    }
    bytes.into()
}

/// A removed record does not say its epoch: it has no id, and who comes back after it sees it again.
fn event(record: &Record, out: &mut Vec<u8>) {
    if let Record::Event(event) = record {
        let token = ResumeToken { position: event.position, epoch: event.epoch };
        out.extend_from_slice(format!("id: {token}\n").as_bytes());
    }
    out.extend_from_slice(b"data: ");
    record::write(record, out);
    out.push(b'\n');
}

/// The first page is read before the header is sent, so that most errors are a problem and not a broken line.
async fn first_page_then_rest(mut scan: Scan) -> Result<Body, Problem> {
    let first = lines(&scan.page().await?, scan.spelling);
    let rest = pages(scan);
    Ok(Body::from_stream(stream::StreamExt::chain(stream::iter([Ok(first)]), rest)))
}

fn pages(scan: Scan) -> impl Stream<Item = Result<Bytes, ReadError>> {
    stream::try_unfold(scan, |mut scan| async move {
        let records = scan.page().await.inspect_err(log_broken_answer)?;
        Ok((!records.is_empty()).then(|| (lines(&records, scan.spelling), scan)))
    })
}

fn log_broken_answer(error: &ReadError) {
    tracing::error!(error = %crate::chain::chain(error), "an answer is broken off in its middle");
}

/// The range, and then whatever is appended, for as long as the client listens. What was read last decides
/// what is read next, so nothing is missed and nothing comes twice, whatever the hint of the log says.
fn tail(scan: Scan, next: Position, shutdown: CancellationToken) -> Body {
    let (reader, spelling) = (scan.reader.clone(), scan.spelling);
    let live = stream::try_unfold((reader, next), move |(reader, next)| {
        let shutdown = shutdown.clone();
        async move {
            let waited = tokio::select! {
                () = shutdown.cancelled() => return Ok(None),
                waited = next_records(&*reader, next) => waited.inspect_err(log_broken_answer)?,
            };
            match waited.last() {
                None => Ok(Some((spelling.heartbeat(), (reader, next)))),
                Some(last) => {
                    let after = last.position().next();
                    Ok(Some((lines(&waited, spelling), (reader, after))))
                }
            }
        }
    });
    Body::from_stream(stream::StreamExt::chain(pages(scan), live))
}

/// What stands from `next` on; waits about a second for it if there is nothing.
async fn next_records(reader: &dyn LogReader, next: Position) -> Result<Vec<Record>, ReadError> {
    let mut records = reader.read_log(next, Direction::Forward, PAGE_RECORDS).await?;
    if records.is_empty() {
        reader.wait_beyond(next.head_before()).await?;
        records = reader.read_log(next, Direction::Forward, PAGE_RECORDS).await?;
    }
    if !records.is_empty() {
        dense(records.iter().map(|record| record.position().get()), next.get(), Direction::Forward, "position")?;
    }
    Ok(records)
}

fn answer(body: Body, head: &LogHead, archived: bool, resume: Option<ResumeToken>) -> Result<Response, Problem> {
    let mut response = body.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(NDJSON));
    headers.insert(HEAD, HeaderValue::from(head.head.get()));
    if archived {
        headers.insert(ARCHIVE, HeaderValue::from_static("true"));
    }
    if let Some(token) = resume {
        let value = HeaderValue::try_from(token.to_string()).expect("digits and @ are header characters");
        headers.insert(RESUME, value);
    }
    Ok(response)
}
