//! The seam to cqrs-es: `CqrsFramework` and `PersistedEventStore` over the log and its archive.
//!
//! Owns how an aggregate's events become appends and how records become them again. It must never guess: a
//! version that is missing, removed or unreadable is an error, never a shorter history.
//!
//! cqrs-es's after-commit queries are forgotten in a crash; what must not be lost belongs in a projection.

mod payload;
mod replay;
pub mod snapshot;

use std::future::Future;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;

use cqrs_es::Aggregate;
use cqrs_es::persist::{
    PersistedEventRepository, PersistedEventStore, PersistenceError, ReplayStream, SerializedEvent, SerializedSnapshot,
};
use serde_json::Value;
use thiserror::Error;

use self::replay::Pages;
use self::snapshot::{Snapshot, SnapshotStore};
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

/// cqrs-es's repository over live log and archive. An aggregate's stream is `TYPE-ID`, so its `TYPE` has to
/// be a [`crate::Category`].
///
/// The log is the truth. `PersistedEventStore::new_aggregate_store`, where the snapshot would be, does not
/// work over it (every append to a stream that has events is a conflict).
pub struct TieredEventRepository {
    wiring: Wiring,
    snapshots: Option<Snapshots>,
}

struct Snapshots {
    store: Arc<dyn SnapshotStore>,
    every: NonZeroUsize,
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

    /// cqrs-es's store over this repository, with a snapshot at every `every`th version.
    ///
    /// The only way to snapshots, because store and repository have to agree on `every`: cqrs-es hands a
    /// snapshot over without the version that it is of, and one kept under another version would lose events
    /// from the aggregate.
    #[must_use]
    pub fn into_snapshot_store<A: Aggregate>(
        mut self,
        store: Arc<dyn SnapshotStore>,
        every: NonZeroUsize,
    ) -> PersistedEventStore<Self, A> {
        self.snapshots = Some(Snapshots { store, every });
        PersistedEventStore::new_snapshot_store(self, every.get())
    }

    fn pages(&self) -> Pages {
        Pages { reader: Arc::clone(&self.wiring.reader), form: self.wiring.payload }
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

    async fn keep_snapshot(&self, events: &[SerializedEvent], stream: StreamName, state: Value, number: usize) {
        let Some(snapshots) = &self.snapshots else { return };
        let before = events.first().map_or(0, |event| event.sequence.saturating_sub(1));
        let Some(version) = snapshot::version_of(before, events.len(), snapshots.every) else { return };
        // After the append, never before it: a snapshot of events that were not acknowledged would be ahead
        // of the log. Losing it to a crash in between costs the next load a longer read, nothing else.
        snapshots.store.save(Snapshot { stream, version, number, state }).await;
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
    StreamName::of(A::TYPE, aggregate_id).map_err(|source| RepositoryError::Name {
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
        Ok(self.pages().stream_after(&stream, from).await?)
    }

    async fn get_snapshot<A: Aggregate>(
        &self,
        aggregate_id: &str,
    ) -> Result<Option<SerializedSnapshot>, PersistenceError> {
        let Some(snapshots) = &self.snapshots else { return Ok(None) };
        let stream = stream_of::<A>(aggregate_id)?;
        let Some(snapshot) = snapshots.store.load(&stream).await else { return Ok(None) };
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
        if let Some((_, state, number)) = snapshot_update {
            self.keep_snapshot(events, stream, state, number).await;
        }
        Ok(())
    }

    async fn stream_events<A: Aggregate>(&self, aggregate_id: &str) -> Result<ReplayStream, PersistenceError> {
        let stream = stream_of::<A>(aggregate_id)?;
        let (feed, replay) = ReplayStream::new(REPLAY_EVENTS_AHEAD_MAX);
        (self.wiring.spawn)(Box::pin(self.pages().feed_stream(stream, feed)));
        Ok(replay)
    }

    async fn stream_all_events<A: Aggregate>(&self) -> Result<ReplayStream, PersistenceError> {
        let (feed, replay) = ReplayStream::new(REPLAY_EVENTS_AHEAD_MAX);
        (self.wiring.spawn)(Box::pin(self.pages().feed_category(A::TYPE, feed)));
        Ok(replay)
    }
}
