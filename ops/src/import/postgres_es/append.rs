//! Appends the rows in the import's order, in atomic groups, some in flight.
//!
//! Order is kept twice over: requests enter the log's queue in their order, and each moves the import's checkpoint from
//! where the one before it ended, so that after a refused one all later ones are refused too.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::Poll;

use domain::append::{
    AppendError, AppendRequest, Appended, ConsumerCheckpoint, EVENT_BYTES_MAX, Expectation, ExpectedVersion,
    REQUEST_BYTES_MAX, REQUEST_EVENTS_MAX,
};
use domain::event::NewEvent;
use domain::{ErrorKind, Position, StreamName, StreamVersion, Timestamp};
use futures::future::{BoxFuture, FutureExt, ready};
use futures::stream::{FuturesOrdered, StreamExt};

use super::row::Row;
use super::source::{Source, next_row};
use super::survey::BadRow;
use super::{PostgresEsError, PostgresEsImport, Progress, RecordedAt};
use crate::import::resume::Brought;
use crate::import::{RETRIES_MAX, RETRY_PAUSE};

/// A group ends with the event that reaches one of these. Larger ones are a little faster and hold the head longer.
const GROUP_EVENTS: usize = 512;
const GROUP_BYTES: usize = 1 << 20;
const _: () = assert!(GROUP_EVENTS <= REQUEST_EVENTS_MAX, "a group is one request");
const _: () = assert!(GROUP_BYTES + EVENT_BYTES_MAX <= REQUEST_BYTES_MAX, "a group is one request");
/// Groups in flight. More fill the log's own groups better where each instant is a group; they cost memory.
const IN_FLIGHT_MAX: usize = 64;
/// Bytes of events in flight, besides one group.
const IN_FLIGHT_BYTES_MAX: usize = 8 << 20;

/// Events that are appended together.
#[derive(Debug, Default)]
struct Group {
    events: Vec<NewEvent>,
    bytes: usize,
    /// What the group's first event of each stream follows.
    expect: BTreeMap<StreamName, ExpectedVersion>,
    /// What is to be recorded as its instant.
    recorded_at: Option<Timestamp>,
}

impl Group {
    /// Whether an event of this instant belongs to it too.
    fn has_room(&self, recorded_at: Option<Timestamp>) -> bool {
        self.events.len() < GROUP_EVENTS && self.bytes < GROUP_BYTES && self.recorded_at == recorded_at
    }

    /// `sequence` is from 1: the survey has seen to it.
    fn push(&mut self, event: NewEvent, sequence: i64) {
        // Exactly where the source has it: nobody else has written to the stream, also not between two runs.
        let before = StreamVersion::from_i64(sequence - 1);
        let expected = before.map_or(ExpectedVersion::NoStream, ExpectedVersion::Exactly);
        self.expect.entry(event.stream.clone()).or_insert(expected);
        self.bytes += event.bytes();
        self.events.push(event);
    }
}

/// One append under way.
struct Sent {
    first: u64,
    last: u64,
    bytes: usize,
    result: Result<Appended, AppendError>,
}

#[derive(Default)]
struct InFlight {
    appends: FuturesOrdered<BoxFuture<'static, Sent>>,
    bytes: usize,
}

impl InFlight {
    fn has_room(&self) -> bool {
        self.appends.len() < IN_FLIGHT_MAX && self.bytes < IN_FLIGHT_BYTES_MAX
    }
}

pub(super) struct Appender<'a> {
    pub(super) import: &'a PostgresEsImport,
    pub(super) consumer: &'a str,
    pub(super) progress: &'a dyn Progress,
    /// The import's checkpoint when it was last read. It may be behind `done`: what another region's run brought did not
    /// move it.
    pub(super) checkpoint: u64,
    /// So many events are durable.
    pub(super) done: u64,
    /// Appends that were acknowledged.
    pub(super) appends: u64,
}

impl Appender<'_> {
    /// Appends everything that is not done.
    pub(super) async fn append_all(&mut self, source: &mut Source) -> Result<(), PostgresEsError> {
        let mut pause = tokio::time::interval(RETRY_PAUSE);
        let mut retries = 0;
        loop {
            let appends_before = self.appends;
            let Err(error) = self.attempt(source).await else { return Ok(()) };
            retries = if self.appends > appends_before { 0 } else { retries + 1 };
            let passes = matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Indeterminate);
            // A source that breaks off takes its snapshot with it: that is another run's.
            let of_source = matches!(error, PostgresEsError::Source { .. });
            if !passes || of_source || retries > RETRIES_MAX {
                return Err(error);
            }
            tracing::info!(error = %crate::chain::chain(&error), "the import goes on from its checkpoint");
            pause.tick().await;
        }
    }

    /// Appends until the end or the first error; nothing is under way afterwards.
    async fn attempt(&mut self, source: &mut Source) -> Result<(), PostgresEsError> {
        let mut in_flight = InFlight::default();
        let sent = self.send(source, &mut in_flight).await;
        // What was refused after the first refusal was refused because of it; what was stored, the checkpoint says.
        while in_flight.appends.next().await.is_some() {}
        sent
    }

    async fn send(&mut self, source: &mut Source, in_flight: &mut InFlight) -> Result<(), PostgresEsError> {
        let import = self.import;
        let checkpoint = import.log.consumer_checkpoint(self.consumer).await?;
        if checkpoint != self.checkpoint {
            self.done = self.done.max(checkpoint);
        }
        self.checkpoint = checkpoint;
        // The first group moves the checkpoint from where it stands.
        let (mut from, mut done) = (checkpoint, self.done);
        let mut rows = source.in_order(done);
        let mut group = Group::default();
        while let Some((row, place)) = next_row(&mut rows).await? {
            let event = row.event(&import.source).map_err(|reason| unsteady(&row, reason))?;
            let recorded_at = match import.recorded_at {
                RecordedAt::Clock => None,
                RecordedAt::Source => place.and_then(|micros| Timestamp::from_unix_micros(micros).ok()),
            };
            if !group.events.is_empty() && !group.has_room(recorded_at) {
                done = self.begin(std::mem::take(&mut group), (from, done), in_flight).await?;
                from = done;
            }
            group.recorded_at = recorded_at;
            group.push(event, row.sequence);
        }
        if !group.events.is_empty() {
            self.begin(group, (from, done), in_flight).await?;
        }
        while let Some(sent) = in_flight.appends.next().await {
            self.settle(sent, in_flight)?;
        }
        Ok(())
    }

    /// Puts a group into the log's queue, behind `done` events: in its place already, since it is polled here. It moves the
    /// checkpoint from `from`. Returns how many are done after it.
    async fn begin(
        &mut self,
        group: Group,
        (from, done): (u64, u64),
        in_flight: &mut InFlight,
    ) -> Result<u64, PostgresEsError> {
        while !in_flight.has_room()
            && let Some(sent) = in_flight.appends.next().await
        {
            self.settle(sent, in_flight)?;
        }
        let (first, last) = (done + 1, done + u64::try_from(group.events.len()).expect("a group has few events"));
        let bytes = group.bytes;
        let expectation = |(stream, version)| Expectation { stream, version };
        let request = AppendRequest {
            events: group.events,
            expect: group.expect.into_iter().map(expectation).collect(),
            recorded_at: group.recorded_at,
            checkpoint: Some(ConsumerCheckpoint { consumer: self.consumer.to_owned(), from, to: last }),
            ..AppendRequest::default()
        };
        let log = Arc::clone(&self.import.log);
        let append = async move { Sent { first, last, bytes, result: log.append(request).await } };
        let mut append: BoxFuture<'static, Sent> = append.boxed();
        let polled = futures::poll!(&mut append);
        in_flight.bytes += bytes;
        in_flight.appends.push_back(match polled {
            Poll::Ready(sent) => ready(sent).boxed(),
            Poll::Pending => append,
        });
        Ok(last)
    }

    fn settle(&mut self, sent: Sent, in_flight: &mut InFlight) -> Result<(), PostgresEsError> {
        let Sent { first, last, bytes, result } = sent;
        in_flight.bytes -= bytes;
        result.map_err(|source| PostgresEsError::Refused { first, last, source })?;
        self.appends += 1;
        self.done = last;
        self.progress.done(last);
        Ok(())
    }
}

/// How many events of the import's order the log has behind the opening event at `opening`.
pub(super) async fn brought(
    import: &PostgresEsImport,
    source: &mut Source,
    opening: Position,
) -> Result<u64, PostgresEsError> {
    let mut brought = Brought::behind(&*import.reader, opening);
    let (mut rows, mut done) = (source.in_order(0), 0);
    while let Some((row, _)) = next_row(&mut rows).await? {
        let event = row.event(&import.source).map_err(|reason| unsteady(&row, reason))?;
        if !brought.has(&event).await? {
            break;
        }
        done += 1;
    }
    Ok(done)
}

fn unsteady(row: &Row, reason: String) -> PostgresEsError {
    let Row { aggregate_type, aggregate_id, sequence, .. } = row.clone();
    PostgresEsError::Unsteady(BadRow { aggregate_type, aggregate_id, sequence, reason })
}
