//! `GET /v1/log`, `GET /v1/stream` and `GET /v1/content/history`: records as NDJSON, one line each, byte for
//! byte what the log holds.
//!
//! An answer is bounded by the head at its start, so that `Coldstream-Resume` can stand in the header: the
//! token of the last record of the answer. One that is filtered is a page ([`search`]). With `follow=true` it never ends;
//! an empty line says that there is nothing new, and each record carries its own position and epoch to resume from. If a
//! read fails in the middle, the connection breaks off: no client can take a part for the whole.
//!
//! A tail may be had as server-sent events (WHATWG HTML §9.2): `id` is the resume token, `data` the record's line.
//! How far ahead of a reader the log is read, [`super::scan`] says.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
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
use futures::stream;
use schemars::JsonSchema;
use serde::Deserialize;

use super::auth::Caller;
use super::held::PageRoom;
use super::page::dense;
use super::problem::Problem;
use super::range::{LogQuery, LogRange, Way, limit};
use super::route::{Answer, NDJSON, Route, lines as lines_shape, members, text};
use super::scan::{Rest, Scan, StreamRange, pages};
use super::scope::Touches;
use super::search::{self, Search};
use super::tails::Tail;
use super::{ApiState, READERS, follow, query, resume};
use crate::subject;

/// Media type of server-sent events.
pub(super) const EVENTS: &str = "text/event-stream";
pub(super) const LAST_EVENT_ID: &str = "Last-Event-ID";
/// The head when the answer began.
const HEAD: HeaderName = HeaderName::from_static("coldstream-head");
/// Token of the answer's last record.
const RESUME: HeaderName = HeaderName::from_static("coldstream-resume");
/// `true` where records of the answer are, or may be, out of the live log.
pub(super) const ARCHIVE: HeaderName = HeaderName::from_static("coldstream-archive");

pub(super) static ROUTES: &[Route] = &[
    Route {
        summary: "Records of the log, from a position or a resume token on: all of them, or those that a filter wants",
        touches: Touches::WhatItNames,
        query: Some(search::log_members),
        headers: &[(
            LAST_EVENT_ID,
            "Of a reader of events that comes back: the resume token to go on from, above the query",
        )],
        kinds: &[ErrorKind::NotFound, ErrorKind::Forked, ErrorKind::Corrupt],
        example: &[("from", "1"), ("limit", "2")],
        ..Route::get("/v1/log", READERS, || get(log), LOG)
    },
    Route {
        summary: "Records of a stream; with `follow=true` also those that are appended to it",
        touches: Touches::WhatItNames,
        query: Some(members::<StreamQuery>),
        headers: &[(
            LAST_EVENT_ID,
            "Of a reader of events that comes back: the last version that it has, above the query",
        )],
        kinds: &[ErrorKind::NotFound, ErrorKind::Corrupt],
        example: &[("stream", "content-guide")],
        ..Route::get("/v1/stream", READERS, || get(stream), STREAM)
    },
    Route {
        summary: "All that happened to a content item, whether live or archived",
        touches: Touches::Category(CATEGORY),
        query: Some(members::<HistoryQuery>),
        kinds: &[ErrorKind::NotFound, ErrorKind::Corrupt],
        example: &[("id", "guide")],
        ..Route::get("/v1/content/history", READERS, || get(history), RECORDS)
    },
];

const LOG: &[Answer] = &[Answer {
    what: "Records, byte for byte what the log holds; with `follow=true` and `Accept: text/event-stream` as events, \
           whose `id` is the resume token. An answer that breaks off is not whole. A filtered answer is a page: with \
           `Coldstream-Next` there is more to look at. A filtered tail has lines `{\"resume\":\"TOKEN\"}` (events without \
           data) that move its reader over what does not match. A tail where nothing comes says so every second or so: an empty \
           line, or a comment `:` among events. Tails hold three quarters of the connections at most; one more is refused (503)",
    forms: &[(NDJSON, lines_shape), (EVENTS, text)],
    headers: &["Coldstream-Head", "Coldstream-Resume", "Coldstream-Archive", "Coldstream-Next"],
    ..RECORDS[0]
}];

const STREAM: &[Answer] = &[Answer {
    what: "Records, byte for byte what the log holds; with `follow=true` and `Accept: text/event-stream` as events, whose \
           `id` is the record's version. An answer that breaks off is not whole. A tail where nothing comes says so every \
           second or so: an empty line, or a comment `:` among events. Tails hold three quarters of the connections at most; one \
           more is refused (503)",
    forms: &[(NDJSON, lines_shape), (EVENTS, text)],
    ..RECORDS[0]
}];

const RECORDS: &[Answer] = &[Answer {
    status: StatusCode::OK,
    what: "Records, byte for byte what the log holds. An answer that breaks off is not whole",
    forms: &[(NDJSON, lines_shape)],
    headers: &["Coldstream-Head", "Coldstream-Resume", "Coldstream-Archive"],
}];

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
    /// Whether to go on with what is appended to the stream, for as long as the client listens; also where it has not begun.
    #[serde(default)]
    follow: bool,
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
pub(super) enum Spelling {
    /// Its line, byte for byte.
    Record,
    /// Its line with the content's id as `subject`, as its source had it.
    Content,
    /// Its line as a server-sent event.
    Event,
    /// The same, of a stream: its id is the version.
    EventOfStream,
}

impl Spelling {
    /// What says that there is nothing new.
    pub(super) fn heartbeat(self) -> Bytes {
        Bytes::from_static(if matches!(self, Self::Event | Self::EventOfStream) { b":\n\n" } else { b"\n" })
    }

    /// What says that everything up to `token` was looked at. An event without data is given to nobody, and its id counts.
    pub(super) fn passed(self, token: ResumeToken) -> String {
        match self {
            Self::Event | Self::EventOfStream => format!("id: {token}\n\n"),
            Self::Record | Self::Content => format!("{{\"resume\":\"{token}\"}}\n"),
        }
    }
}

/// The log from a position on, or from a resume token on.
pub(super) async fn log(
    State(state): State<Arc<ApiState>>,
    Extension(caller): Extension<Arc<Caller>>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (filter, rest) = search::filter(&uri)?;
    caller.scope.check_filter(&filter)?;
    let mut query: LogQuery = query(&rest)?;
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let events = query.follow && wants_events(&headers);
    if let Some(seen) = text(LAST_EVENT_ID).filter(|_| events) {
        // A browser comes back to the URL that it began with, and says here how far it got.
        (query.from, query.after, query.token) = (None, None, Some(seen.to_owned()));
    }
    let head = state.reader.log_head().await?;
    let token = query.token()?;
    if let Some(token) = token {
        resume::check(token, &*state.reader, &head).await?;
    }
    let reader = reader(&state, query.confirmed)?;
    let head = if query.confirmed { reader.log_head().await? } else { head };
    let range = LogRange::plan(&query, token, head.head)?;
    let spelling = if events { Spelling::Event } else { Spelling::Record };
    let filter = query.times(filter)?;
    let mut response = if filter.is_all() {
        let resume = range.resume(&*reader, token).await?;
        let archived = range.oldest().is_some_and(|oldest| head.pruned.includes(oldest));
        let body = if query.follow {
            tail(&state, reader, range, spelling, head.pruned)?
        } else {
            let scan = Scan::new(reader, Rest::Log(range), spelling, head.pruned, &state.readers);
            first_page_then_rest(scan).await?
        };
        answer(body, &head, archived, resume)?
    } else {
        let search = Search::plan(reader, filter, range, spelling, state.readers.held.reader()).await?;
        if query.follow {
            search.tail(&head, &state.tails, state.shutdown.clone())?
        } else {
            search.page(&head, token, Duration::from_secs(state.limits.answer_seconds) / 2).await?
        }
    };
    if events {
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(EVENTS));
    }
    Ok(response)
}

/// The log, or as much of it as the other region has too.
fn reader(state: &ApiState, confirmed: bool) -> Result<Arc<dyn LogReader>, Problem> {
    if !confirmed {
        return Ok(state.reader.clone());
    }
    match &state.confirmed {
        Some(confirmed) => Ok(confirmed.clone()),
        None => Err(Problem::invalid("confirmed: there is no other region that could")),
    }
}

pub(super) fn wants_events(headers: &HeaderMap) -> bool {
    let accepted = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    accepted.is_some_and(|accepted| accepted.contains(EVENTS))
}

/// A stream from a version on.
pub(super) async fn stream(
    State(state): State<Arc<ApiState>>,
    Extension(caller): Extension<Arc<Caller>>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let StreamQuery { stream, from, direction, limit, follow } = query(&uri)?;
    let name = StreamName::parse(&stream).map_err(|error| Problem::of(ErrorKind::Invalid, &error))?;
    caller.scope.check(name.category())?;
    if follow {
        if limit.is_some() || matches!(direction, Way::Backward) {
            return Err(Problem::invalid("a tail has no limit and is read forward"));
        }
        return follow::asked(&state, name, from, &headers).await;
    }
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
    let rest = Rest::Stream(name, range);
    let scan = Scan::new(state.reader.clone(), rest, spelling, head.pruned, &state.readers);
    // Where an old version stands is not known before it is read: the header speaks of the whole stream then.
    let archived = head.pruned.includes(stream_head.first);
    answer(first_page_then_rest(scan).await?, &head, archived, None)
}

pub(super) fn lines(records: &[Record], spelling: Spelling) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(records.len() * 512);
    for record in records {
        match spelling {
            Spelling::Record => record::write(record, &mut bytes),
            Spelling::Event => event(record, &mut bytes),
            Spelling::EventOfStream => {
                bytes.extend_from_slice(format!("id: {}\ndata: ", record.version()).as_bytes());
                record::write(record, &mut bytes);
                bytes.push(b'\n');
            }
            Spelling::Content => bytes.extend(subject::of_source(record.to_line())),
        }
        bytes.push(b'\n');
    }
    bytes
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
    let first = scan.page().await?.bytes;
    let rest = pages(scan, None);
    Ok(Body::from_stream(stream::StreamExt::chain(stream::iter([Ok(first)]), rest)))
}

pub(super) fn log_broken_answer(error: &ReadError) {
    tracing::error!(error = %crate::chain::chain(error), "an answer is broken off in its middle");
}

/// A tail that is quiet reads its log once in so many rounds of a second, whatever the hint of the log says.
pub(super) const QUIET_ROUNDS: u32 = 5;

/// The range, and then whatever is appended, for as long as the client listens. What was read last decides
/// what is read next, so nothing is missed and nothing comes twice, whatever the hint of the log says.
fn tail(
    state: &ApiState,
    reader: Arc<dyn LogReader>,
    range: LogRange,
    spelling: Spelling,
    pruned: Head,
) -> Result<Body, Problem> {
    let next = range.next_after();
    let open = state.tails.open(range.next.unwrap_or(next).head_before())?;
    let scan = Scan::new(reader.clone(), Rest::Log(range), spelling, pruned, &state.readers);
    let live = Live { reader, next, spelling, quiet: 0, room: state.readers.held.reader(), tail: open.clone() };
    let shutdown = state.shutdown.clone();
    let live = stream::try_unfold(live, move |mut live| {
        let shutdown = shutdown.clone();
        async move {
            let piece = tokio::select! {
                () = shutdown.cancelled() => return Ok(None),
                piece = live.piece() => piece.inspect_err(log_broken_answer)?,
            };
            Ok::<_, ReadError>(Some((piece, live)))
        }
    });
    Ok(Body::from_stream(stream::StreamExt::chain(pages(scan, Some(open)), live)))
}

/// A tail that has everything up to the head of its beginning.
struct Live {
    reader: Arc<dyn LogReader>,
    next: Position,
    spelling: Spelling,
    /// For how many rounds nothing came.
    quiet: u32,
    room: PageRoom,
    tail: Tail,
}

impl Live {
    /// The next records, or a sign of life after about a second.
    async fn piece(&mut self) -> Result<Bytes, ReadError> {
        let mut records = Vec::new();
        if self.quiet == 0 {
            records = self.read().await?;
        }
        // After a quiet round, what the wait says is believed: however many tails are quiet, one look at the head is made for
        // all of them.
        if records.is_empty() && self.reader.wait_beyond(self.next.head_before()).await?.includes(self.next) {
            records = self.read().await?;
        }
        let Some(last) = records.last().map(Record::position) else {
            self.quiet = (self.quiet + 1) % QUIET_ROUNDS;
            return Ok(self.spelling.heartbeat());
        };
        dense(records.iter().map(|record| record.position().get()), self.next.get(), Direction::Forward, "position")?;
        (self.next, self.quiet) = (last.next(), 0);
        self.tail.at(last.as_head());
        Ok(self.room.page(lines(&records, self.spelling), records.len()))
    }

    async fn read(&self) -> Result<Vec<Record>, ReadError> {
        let most = self.room.records();
        self.reader.read_log(self.next, Direction::Forward, most).await
    }
}

pub(super) fn answer(
    body: Body,
    head: &LogHead,
    archived: bool,
    resume: Option<ResumeToken>,
) -> Result<Response, Problem> {
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
