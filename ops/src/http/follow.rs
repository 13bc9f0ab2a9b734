//! A stream that is followed: its records from a version on, and then what is appended to it. The log is never read for it:
//! when the head has moved, the stream's own row is looked at, and its records are read only if that says that there are
//! some. So a tail costs one look-up by key for each move of the head, and no more than one each [`LOOK_EVERY`], whatever
//! happens in other streams.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use domain::log::{Direction, LogReader, ReadError};
use domain::{Head, StreamName, StreamVersion};
use futures::stream::{self, StreamExt};
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::ApiState;
use super::held::PageRoom;
use super::page::dense;
use super::problem::Problem;
use super::read::{EVENTS, LAST_EVENT_ID, QUIET_ROUNDS, Spelling, answer, lines, log_broken_answer, wants_events};
use super::tails::Tail;
use crate::clock::Stopwatch;

/// A tail looks at its stream at most so often: what is appended comes so much later where the log is never still.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// A client that is told nothing for so long is told that it is so.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(1);

/// A tail of a stream.
struct Following {
    reader: Arc<dyn LogReader>,
    name: StreamName,
    next: StreamVersion,
    /// The log up to here has no record of it that was not handed on.
    seen: Head,
    /// Whether the last page may not have been the last.
    behind: bool,
    spelling: Spelling,
    pace: Interval,
    /// For how many rounds the log has not moved.
    still: u32,
    quiet: Stopwatch,
    tail: Tail,
    room: PageRoom,
}

/// Answers `GET /v1/stream?follow=true`: in lines, or as events whose id is the version.
pub(super) async fn asked(
    state: &ApiState,
    name: StreamName,
    from: Option<u64>,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let events = wants_events(headers);
    let seen = headers.get(LAST_EVENT_ID).filter(|_| events);
    let after = |seen: &HeaderValue| {
        let seen = seen.to_str().ok()?.parse::<u64>().ok()?;
        seen.checked_add(1)
    };
    let from = match seen {
        Some(seen) => Some(after(seen).ok_or_else(|| Problem::invalid("Last-Event-ID is a version of the stream"))?),
        None => from,
    };
    let from = from.map_or(Some(StreamVersion::FIRST), StreamVersion::new);
    let next = from.ok_or_else(|| Problem::invalid("versions are counted from 1"))?;
    let spelling = if events { Spelling::EventOfStream } else { Spelling::Record };
    let mut response = tail(state, name, next, spelling).await?;
    if events {
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(EVENTS));
    }
    Ok(response)
}

/// The stream from version `next` on, and what is appended to it for as long as the client listens.
async fn tail(
    state: &ApiState,
    name: StreamName,
    next: StreamVersion,
    spelling: Spelling,
) -> Result<Response, Problem> {
    // The head first: what the stream's row says, read after it, is not older.
    let head = state.reader.log_head().await?;
    let archived = state.reader.stream_head(&name).await?.is_some_and(|stream| head.pruned.includes(stream.first));
    let mut pace = interval(LOOK_EVERY);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut following = Following {
        reader: state.reader.clone(),
        name,
        next,
        seen: head.head,
        behind: false,
        spelling,
        pace,
        still: 0,
        quiet: Stopwatch::start(),
        tail: state.tails.open(head.head)?,
        room: state.readers.held.reader(),
    };
    // Before the header is sent, so that most errors are a problem and not a broken line.
    let first = following.look().await?;
    let shutdown = state.shutdown.clone();
    let rest = stream::try_unfold(following, move |mut following| {
        let shutdown = shutdown.clone();
        async move {
            let piece = tokio::select! {
                () = shutdown.cancelled() => return Ok(None),
                piece = following.piece() => piece.inspect_err(log_broken_answer)?,
            };
            Ok::<_, ReadError>(Some((piece, following)))
        }
    });
    answer(Body::from_stream(stream::iter([Ok(first)]).chain(rest)), &head, archived, None)
}

impl Following {
    /// What is there from `next` on, a page of it; empty if there is nothing.
    async fn look(&mut self) -> Result<Bytes, ReadError> {
        let there = self.reader.stream_head(&self.name).await?.is_some_and(|head| head.version >= self.next);
        self.behind = there;
        if !there {
            self.tail.at(self.seen);
            return Ok(Bytes::new());
        }
        let most = self.room.records();
        let mut records = self.reader.read_stream(&self.name, self.next, Direction::Forward, most).await?;
        records.truncate(most);
        let versions = records.iter().map(|record| record.version().get());
        let end = dense(versions, self.next.get(), Direction::Forward, "version")?;
        self.next = StreamVersion::new(end).expect("it is above a version");
        Ok(self.room.page(lines(&records, self.spelling), records.len()))
    }

    /// The next records, or a sign of life.
    async fn piece(&mut self) -> Result<Bytes, ReadError> {
        loop {
            if !self.behind {
                self.pace.tick().await;
                // About a second, if nothing moves.
                let seen = self.reader.wait_beyond(self.seen).await?;
                self.still = if seen > self.seen { 0 } else { (self.still + 1) % QUIET_ROUNDS };
                self.seen = seen.max(self.seen);
                if self.still > 0 {
                    self.quiet = Stopwatch::start();
                    return Ok(self.spelling.heartbeat());
                }
            }
            let page = self.look().await?;
            let silent = page.is_empty();
            if silent && self.quiet.elapsed() < HEARTBEAT_EVERY {
                continue;
            }
            self.quiet = Stopwatch::start();
            return Ok(if silent { self.spelling.heartbeat() } else { page });
        }
    }
}
