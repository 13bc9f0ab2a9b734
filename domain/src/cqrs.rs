//! The seam to cqrs-es: `CqrsFramework` and `PersistedEventStore` over the log and its archive.
//!
//! Owns how an aggregate's events become appends and how records become them again. It must never guess: a
//! version that is missing, removed or unreadable is an error, never a shorter history.
//!
//! cqrs-es's after-commit queries are forgotten in a crash; what must not be lost belongs in a projection.
//!
//! A service that comes from postgres-es calls [`coldstream_cqrs`] where it called `postgres_cqrs`, and
//! [`coldstream_snapshot_cqrs`] where it called `postgres_snapshot_cqrs`; aggregates, commands, queries, upcasters
//! and view repositories stay as they are.

mod payload;
mod replay;
pub mod snapshot;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use cqrs_es::persist::{
    PersistedEventRepository, PersistedEventStore, PersistenceError, ReplayStream, SerializedEvent, SerializedSnapshot,
};
use cqrs_es::{Aggregate, CqrsFramework, Query};
use serde_json::Value;
use thiserror::Error;

use self::replay::Pages;
use self::snapshot::{Kept, Snapshot, Snapshots};
use crate::append::{AppendError, AppendRequest, Appended, Expectation, ExpectedVersion};
use crate::event::EventError;
use crate::log::{EventLog, LogReader, ReadError};
use crate::{ErrorKind, StreamName, StreamNameError, StreamVersion};

/// How often an append that may have happened is sent again, with the same ids, before the caller is told.
pub const APPEND_ATTEMPTS_MAX: u32 = 4;
/// A replay keeps at most this many events ahead of who reads it. More costs memory.
pub const REPLAY_EVENTS_AHEAD_MAX: usize = 256;

/// How the payload of an aggregate's events stands in the record's `data`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PayloadForm {
    /// As serde writes the event enum, tag included: what postgres-es stores. For a team that comes from it.
    AsStored,
    /// The record's `type` is the tag. cqrs-es's payload is the externally tagged `{"TYPE":INNER}` (serde's
    /// own form, with the variants renamed to the event types); `data` is INNER alone, and the tag is put
    /// around it again on load. A variant without fields has no `data`.
    TaggedByType,
}

/// Makes a fresh event id at each call. Never derived from stream and version: after a failover another
/// event may stand there.
pub type NewId = Arc<dyn Fn() -> String + Send + Sync>;
/// What a [`Spawn`] runs.
pub type Task = Pin<Box<dyn Future<Output = ()> + Send>>;
/// Runs a task to its end, beside the caller. A task that is dropped before ends its replay early and
/// silently: drop none but with the whole runtime.
pub type Spawn = Arc<dyn Fn(Task) + Send + Sync>;

/// What a repository stands on.
#[derive(Clone)]
pub struct Wiring {
    /// Takes the appends.
    pub log: Arc<dyn EventLog>,
    /// Reads live log and archive as one; a bare live log is an error as soon as something was pruned.
    pub reader: Arc<dyn LogReader>,
    /// Makes event ids.
    pub new_id: NewId,
    /// Runs replays.
    pub spawn: Spawn,
    /// The events' `source`: a URI reference of the service.
    pub source: String,
    /// How payloads are stored.
    pub payload: PayloadForm,
}

/// cqrs-es's framework over the log: as postgres-es's `PostgresCqrs`.
pub type ColdstreamCqrs<A> = CqrsFramework<A, PersistedEventStore<TieredEventRepository, A>>;

/// The framework without snapshots, in the place of postgres-es's `postgres_cqrs(pool, queries, services)`.
pub fn coldstream_cqrs<A: Aggregate>(
    wiring: Wiring,
    queries: Vec<Box<dyn Query<A>>>,
    services: A::Services,
) -> ColdstreamCqrs<A> {
    CqrsFramework::new(TieredEventRepository::new(wiring).into_store(), queries, services)
}

/// The framework with snapshots, in the place of `postgres_snapshot_cqrs(pool, queries, every, services)`.
pub fn coldstream_snapshot_cqrs<A: Aggregate>(
    wiring: Wiring,
    queries: Vec<Box<dyn Query<A>>>,
    snapshots: Snapshots,
    services: A::Services,
) -> ColdstreamCqrs<A> {
    CqrsFramework::new(TieredEventRepository::new(wiring).into_snapshot_store(snapshots), queries, services)
}

/// The category of an aggregate type: `Customer` is `customer`, `bank-account` is `bank_account`. Letters become
/// small, and what no [`crate::Category`] can hold becomes `_`. Two types of one service must not become the same.
#[must_use]
pub fn category_of(aggregate_type: &str) -> String {
    let fits = |c: &char| c.is_ascii_lowercase() || c.is_ascii_digit();
    aggregate_type.chars().map(|c| Some(c.to_ascii_lowercase()).filter(fits).unwrap_or('_')).collect()
}

/// cqrs-es's repository over live log and archive. An aggregate's stream is `CATEGORY-ID` ([`category_of`]).
///
/// The log is the truth. `PersistedEventStore::new_aggregate_store`, where the snapshot would be, does not
/// work over it (every append to a stream that has events is a conflict).
pub struct TieredEventRepository {
    wiring: Wiring,
    snapshots: Option<Snapshots>,
}

/// Why the repository did not do it.
#[derive(Debug, Error)]
pub enum RepositoryError {
    /// The log or the archive was not read.
    #[error("the stream was not read")]
    Read(#[from] ReadError),
    /// The log did not take the events. After kind Indeterminate they may be there: load again and look.
    #[error("the events were not acknowledged")]
    Append(#[from] AppendError),
    /// Aggregate type and id make no stream's name.
    #[error("{aggregate_type:?} and {aggregate_id:?} name no stream")]
    Name {
        /// The aggregate's type.
        aggregate_type: String,
        /// The aggregate's id.
        aggregate_id: String,
        /// Why not.
        #[source]
        source: StreamNameError,
    },
    /// The events do not follow each other in one stream.
    #[error("the events to append are not consecutive versions of one stream")]
    NotConsecutive,
    /// An event breaks a rule of the log.
    #[error("the event {event_type:?} cannot be appended")]
    Event {
        /// Its type.
        event_type: String,
        /// The rule.
        #[source]
        source: EventError,
    },
    /// A payload is not in the repository's form.
    #[error("the payload of {event_type:?} is not as {form:?}: {reason}")]
    Payload {
        /// The event's type.
        event_type: String,
        /// The form.
        form: PayloadForm,
        /// What is wrong.
        reason: String,
    },
    /// A record's content was taken out, so the aggregate cannot be built from its events.
    #[error("version {version} of {stream} was removed; see the certificate {certificate:?}")]
    Removed {
        /// The stream.
        stream: StreamName,
        /// Which one.
        version: StreamVersion,
        /// The certificate that says why.
        certificate: String,
    },
    /// The reader left something out.
    #[error("{what} is missing from what was read")]
    Gap {
        /// What.
        what: String,
    },
}

impl RepositoryError {
    /// What the caller has to do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Read(error) => error.kind(),
            Self::Append(error) => error.kind(),
            Self::Name { .. } | Self::NotConsecutive | Self::Event { .. } | Self::Payload { .. } => ErrorKind::Invalid,
            Self::Removed { .. } => ErrorKind::NotFound,
            Self::Gap { .. } => ErrorKind::Corrupt,
        }
    }
}

impl From<RepositoryError> for PersistenceError {
    /// The error itself stays inside and can be had by `downcast_ref`, with its kind.
    fn from(error: RepositoryError) -> Self {
        match (&error, error.kind()) {
            (RepositoryError::Append(AppendError::WrongVersion { .. }), _) => Self::OptimisticLockError,
            (RepositoryError::Payload { .. }, _) => Self::DeserializationError(Box::new(error)),
            (_, ErrorKind::Unavailable | ErrorKind::Indeterminate) => Self::ConnectionError(Box::new(error)),
            _ => Self::UnknownError(Box::new(error)),
        }
    }
}

impl TieredEventRepository {
    /// A repository without snapshots.
    #[must_use]
    pub fn new(wiring: Wiring) -> Self {
        Self { wiring, snapshots: None }
    }

    /// cqrs-es's store over this repository, without snapshots: each load reads the whole stream.
    #[must_use]
    pub fn into_store<A: Aggregate>(self) -> PersistedEventStore<Self, A> {
        PersistedEventStore::new_event_store(self)
    }

    /// cqrs-es's store over this repository, with snapshots and upcasters.
    ///
    /// The only way to snapshots. cqrs-es 0.5 says neither of which version a snapshot is, nor hands over its state:
    /// `CqrsFramework` has applied a command's events before the store applies some of them once more. So the
    /// repository makes it of the events themselves, and has to know how far apart two are, and the upcasters: give
    /// them here, and not to `with_upcasters` of what this returns.
    #[must_use]
    pub fn into_snapshot_store<A: Aggregate>(mut self, snapshots: Snapshots) -> PersistedEventStore<Self, A> {
        let (every, upcasters) = (snapshots.every.get(), snapshots.boxed_upcasters());
        self.snapshots = Some(snapshots);
        PersistedEventStore::new_snapshot_store(self, every).with_upcasters(upcasters)
    }

    fn pages<A: Aggregate>(&self) -> Pages {
        let Wiring { reader, payload, .. } = &self.wiring;
        Pages { reader: Arc::clone(reader), aggregate_type: A::TYPE, form: *payload }
    }

    fn request(&self, stream: &StreamName, events: &[SerializedEvent]) -> Result<AppendRequest, RepositoryError> {
        let first = events.first().ok_or(RepositoryError::NotConsecutive)?;
        for (event, sequence) in events.iter().zip(first.sequence..) {
            if event.sequence != sequence || event.aggregate_id != stream.id() {
                return Err(RepositoryError::NotConsecutive);
            }
        }
        let version = match first.sequence {
            0 => return Err(RepositoryError::NotConsecutive),
            1 => ExpectedVersion::NoStream,
            next => ExpectedVersion::Exactly(version(next - 1).ok_or(RepositoryError::NotConsecutive)?),
        };
        let new_event = |event| payload::to_new_event(&self.wiring, stream, event);
        Ok(AppendRequest {
            events: events.iter().map(new_event).collect::<Result<_, _>>()?,
            expect: vec![Expectation { stream: stream.clone(), version }],
            ..AppendRequest::default()
        })
    }

    async fn append(&self, request: AppendRequest) -> Result<Appended, RepositoryError> {
        let mut in_doubt = None;
        for _ in 0..APPEND_ATTEMPTS_MAX {
            match self.wiring.log.append(request.clone()).await {
                Ok(appended) => return Ok(appended),
                Err(error) if error.kind() == ErrorKind::Indeterminate => in_doubt = Some(error),
                // "Did not happen" and "may not append" speak of this attempt only. While an earlier one may
                // have happened they decide nothing; a refusal does, because ids are looked up first.
                Err(error) if in_doubt.is_some() && decides_nothing(error.kind()) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(in_doubt.expect("only an attempt in doubt is repeated").into())
    }

    /// Keeps the snapshot that is due with these events, if one is.
    async fn keep_snapshot<A: Aggregate>(&self, events: &[SerializedEvent], stream: StreamName, number: usize) {
        let Some(snapshots) = &self.snapshots else { return };
        let before = events.first().map_or(0, |event| event.sequence.saturating_sub(1));
        let Some(version) = snapshot::version_of(before, events.len(), snapshots.every) else { return };
        let older = snapshots.load(&stream).await.and_then(Kept::made).filter(|older| older.version < version);
        let from = older.as_ref().map_or(StreamVersion::FIRST, |older| older.version.next());
        // The append is acknowledged, whatever becomes of this: what cannot be read now is said by the next load.
        let Ok(mut after) = self.pages::<A>().stream_after(&stream, from).await else { return };
        after.retain(|event| event.sequence <= sequence(version));
        let Some(state) = snapshots.fold::<A>(older.map(|older| older.state), after) else { return };
        // After the append, never before it: a snapshot of events that were not acknowledged would be ahead
        // of the log. Losing it to a crash in between costs the next load a longer read, nothing else.
        snapshots.save(Snapshot { stream, version, number, state }).await;
    }

    /// What the events give in the place of an imported snapshot, which is kept from now on; `None` where they do not reach
    /// that far, or cannot be read.
    async fn prove<A: Aggregate>(&self, snapshots: &Snapshots, imported: Snapshot) -> Option<Snapshot> {
        let last = sequence(imported.version);
        let mut events = self.pages::<A>().stream_after(&imported.stream, StreamVersion::FIRST).await.ok()?;
        events.retain(|event| event.sequence <= last);
        events.last().filter(|event| event.sequence == last)?;
        let state = snapshots.fold::<A>(None, events)?;
        if state != imported.state {
            snapshots.store.was_wrong(&imported.stream, imported.version);
        }
        let proven = Snapshot { state, ..imported };
        snapshots.save(proven.clone()).await;
        Some(proven)
    }
}

fn decides_nothing(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Unavailable | ErrorKind::Fenced | ErrorKind::Corrupt)
}

fn version(sequence: usize) -> Option<StreamVersion> {
    u64::try_from(sequence).ok().and_then(StreamVersion::new)
}

fn sequence(version: StreamVersion) -> usize {
    // 64-bit machines only differ by type.
    usize::try_from(version.get()).unwrap_or(usize::MAX)
}

fn stream_of<A: Aggregate>(aggregate_id: &str) -> Result<StreamName, RepositoryError> {
    StreamName::of(&category_of(A::TYPE), aggregate_id).map_err(|source| RepositoryError::Name {
        aggregate_type: A::TYPE.to_owned(),
        aggregate_id: aggregate_id.to_owned(),
        source,
    })
}

impl PersistedEventRepository for TieredEventRepository {
    async fn get_events<A: Aggregate>(&self, aggregate_id: &str) -> Result<Vec<SerializedEvent>, PersistenceError> {
        self.get_last_events::<A>(aggregate_id, 0).await
    }

    async fn get_last_events<A: Aggregate>(
        &self,
        aggregate_id: &str,
        last_sequence: usize,
    ) -> Result<Vec<SerializedEvent>, PersistenceError> {
        let stream = stream_of::<A>(aggregate_id)?;
        let from = version(last_sequence).map_or(StreamVersion::FIRST, StreamVersion::next);
        Ok(self.pages::<A>().stream_after(&stream, from).await?)
    }

    async fn get_snapshot<A: Aggregate>(
        &self,
        aggregate_id: &str,
    ) -> Result<Option<SerializedSnapshot>, PersistenceError> {
        let Some(snapshots) = &self.snapshots else { return Ok(None) };
        let stream = stream_of::<A>(aggregate_id)?;
        let snapshot = match snapshots.load(&stream).await {
            Some(Kept::Made(snapshot)) => Some(snapshot),
            Some(Kept::Imported(snapshot)) => self.prove::<A>(snapshots, snapshot).await,
            None => None,
        };
        let Some(snapshot) = snapshot else { return Ok(None) };
        let head = self.wiring.reader.stream_head(&stream).await.map_err(RepositoryError::from)?;
        // Ahead of the log (a restored or lagging database): of events that are not there, so of no use.
        if head.is_none_or(|head| head.version < snapshot.version) {
            return Ok(None);
        }
        Ok(Some(SerializedSnapshot {
            aggregate_id: aggregate_id.to_owned(),
            aggregate: snapshot.state,
            current_sequence: sequence(snapshot.version),
            current_snapshot: snapshot.number,
        }))
    }

    async fn persist<A: Aggregate>(
        &self,
        events: &[SerializedEvent],
        snapshot_update: Option<(String, Value, usize)>,
    ) -> Result<(), PersistenceError> {
        // A command without events appends nothing, and so says nothing that could be kept.
        let Some(first) = events.first() else { return Ok(()) };
        let stream = stream_of::<A>(&first.aggregate_id)?;
        let request = self.request(&stream, events)?;
        let appended = self.append(request).await?;
        let placed = appended.events.iter().map(|event| sequence(event.version));
        if !placed.eq(events.iter().map(|event| event.sequence)) {
            let what = format!("an answer that places the events of {stream} where they were expected");
            return Err(RepositoryError::Gap { what }.into());
        }
        if let Some((_, _state, number)) = snapshot_update {
            self.keep_snapshot::<A>(events, stream, number).await;
        }
        Ok(())
    }

    async fn stream_events<A: Aggregate>(&self, aggregate_id: &str) -> Result<ReplayStream, PersistenceError> {
        let stream = stream_of::<A>(aggregate_id)?;
        let (feed, replay) = ReplayStream::new(REPLAY_EVENTS_AHEAD_MAX);
        (self.wiring.spawn)(Box::pin(self.pages::<A>().feed_stream(stream, feed)));
        Ok(replay)
    }

    async fn stream_all_events<A: Aggregate>(&self) -> Result<ReplayStream, PersistenceError> {
        let (feed, replay) = ReplayStream::new(REPLAY_EVENTS_AHEAD_MAX);
        (self.wiring.spawn)(Box::pin(self.pages::<A>().feed_category(feed)));
        Ok(replay)
    }
}
