//! An append: what a client asks for, and what it is answered.

mod condition;
mod document;

use std::collections::HashSet;

use thiserror::Error;

use crate::event::{EventError, NewEvent, TAGS_EXTENSION, TAGS_MAX};
use crate::{Epoch, ErrorKind, Head, Position, StreamName, StreamVersion, Timestamp};

pub use condition::{AppendCondition, CONDITION_ITEMS_MAX, ConditionItem, ITEM_TYPES_MAX};

/// An event's line is at most this long, with room for what the log assigns.
pub const EVENT_BYTES_MAX: usize = 1 << 20;
/// A request is at most this long.
pub const REQUEST_BYTES_MAX: usize = 16 << 20;
/// A request has at most this many events. A larger one holds the head lock for longer.
pub const REQUEST_EVENTS_MAX: usize = 16_384;

const _: () = assert!(EVENT_BYTES_MAX * 8 <= REQUEST_BYTES_MAX, "a request holds several of the largest events");

/// What the writer believes of a stream when it appends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpectedVersion {
    /// Anything goes.
    Any,
    /// The stream has never had an event (a deleted item's stream has had some).
    NoStream,
    /// The stream has at least one event, live or archived.
    StreamExists,
    /// The stream's newest event has this version.
    Exactly(StreamVersion),
}

/// What is believed of one stream. It may be a stream that the request does not write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expectation {
    /// The stream.
    pub stream: StreamName,
    /// What is believed of it before this request.
    pub version: ExpectedVersion,
}

/// Where an importer stands, moved in the same transaction as the events it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerCheckpoint {
    /// Name of the consumer.
    pub consumer: String,
    /// Where it stood before: the move is refused as Conflict if it stands elsewhere. 0 at first.
    pub from: u64,
    /// Where it stands now.
    pub to: u64,
}

/// Events that are appended together or not at all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AppendRequest {
    /// The events, of one stream or many, in order. Not empty.
    pub events: Vec<NewEvent>,
    /// At most one expectation a stream; a stream without one is `Any`.
    pub expect: Vec<Expectation>,
    /// What must not have happened. A retry is answered before any of them is looked at (LOG-4).
    pub conditions: Vec<AppendCondition>,
    /// For a migration only: the instant to record instead of the clock's. Raised to the head's where it is
    /// earlier, lowered to the clock's where it is later (LOG-2).
    pub recorded_at: Option<Timestamp>,
    /// For an importer only.
    pub checkpoint: Option<ConsumerCheckpoint>,
    /// Who asks, where whoever takes the request for them knows it: clients take turns. It is not stored.
    pub client: Option<String>,
}

/// For how long the log knows an id, whatever the mode in which it comes again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepIds {
    /// As long as its event is in the live log.
    WhileLive,
    /// Also when its event is archived.
    ForEver,
}

/// Where one event stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppendedEvent {
    /// Its stream.
    pub stream: StreamName,
    /// Its place in the stream.
    pub version: StreamVersion,
    /// Its place in the log.
    pub position: Position,
    /// The epoch that acknowledged it.
    pub epoch: Epoch,
    /// When the log recorded it.
    pub recorded_at: Timestamp,
}

/// A request that is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appended {
    /// The same request had been appended before: nothing was stored now, and these are its first positions.
    pub replayed: bool,
    /// One for each event of the request, in its order.
    pub events: Vec<AppendedEvent>,
}

/// Why a request was not acknowledged.
#[derive(Debug, Clone, Error)]
pub enum AppendError {
    /// A stream is not where the writer believed it to be.
    #[error("{stream} is at version {}, expected {expected}", .actual.map_or(0, StreamVersion::get))]
    WrongVersion {
        /// The stream.
        stream: StreamName,
        /// What the request said.
        expected: ExpectedVersion,
        /// What is so; `None`: the stream has never had an event.
        actual: Option<StreamVersion>,
    },
    /// The id is known with other content (LOG-4).
    #[error("the event {id:?} of {source_uri:?} is at position {position} with other content")]
    IdTaken {
        /// The event's source.
        source_uri: String,
        /// The event's id.
        id: String,
        /// Where the other one stands.
        position: Position,
    },
    /// Some events of the request are known and others are not (LOG-4).
    #[error("only {known} of the request's {total} events are known, the first at position {position}")]
    PartlyKnown {
        /// How many are known.
        known: usize,
        /// How many there are.
        total: usize,
        /// Where the first known one stands.
        position: Position,
    },
    /// An event that a condition excludes is there.
    #[error("the event at position {position} matches a condition, which says that none does after {after}")]
    ConditionFailed {
        /// The condition's position.
        after: Head,
        /// Where the event stands, or one of those that match.
        position: Position,
    },
    /// The events that could match a condition are too old or too many to be looked up now.
    #[error(
        "whether an event after {after} matches a condition cannot be told up to position {up_to}: read on to there, \
         decide again, and name that position or a later one"
    )]
    ConditionUnsettled {
        /// The condition's position.
        after: Head,
        /// A condition of this position or a later one can be told.
        up_to: Head,
    },
    /// A condition names a position that this log has not reached: what its writer has read is not in it.
    #[error("a condition names position {after}, and the log ends at {head}")]
    ConditionAhead {
        /// The condition's position.
        after: Head,
        /// Where the log ends.
        head: Head,
    },
    /// A tombstone closed the stream for good.
    #[error("{stream} was closed at version {version}")]
    StreamClosed {
        /// The stream.
        stream: StreamName,
        /// The tombstone's version.
        version: StreamVersion,
    },
    /// The importer's checkpoint stands elsewhere: another run moved it.
    #[error("the checkpoint of {consumer:?} stands at {actual}, not at {expected}")]
    CheckpointMoved {
        /// The consumer.
        consumer: String,
        /// Where the request believed it to be.
        expected: u64,
        /// Where it is.
        actual: u64,
    },
    /// The request breaks a rule.
    #[error("the request is not valid")]
    Invalid(#[from] InvalidRequest),
    /// This region may not append (LOG-5).
    #[error("this region may not append: {reason}")]
    Fenced {
        /// The epoch in force here.
        epoch: Epoch,
        /// Why.
        reason: String,
    },
    /// Nothing was stored.
    #[error("not stored: {reason}")]
    Unavailable {
        /// Why, with what to do.
        reason: String,
        /// When a retry makes sense, if that is known.
        retry_after_seconds: Option<u32>,
    },
    /// It may be stored.
    #[error("it is not known whether this is stored: {reason}")]
    Indeterminate {
        /// Why.
        reason: String,
    },
    /// Stored bytes are not what was stored.
    #[error("stored bytes are not what was stored: {reason}")]
    Corrupt {
        /// What was found.
        reason: String,
    },
}

impl AppendError {
    /// What the caller has to do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::WrongVersion { .. }
            | Self::IdTaken { .. }
            | Self::PartlyKnown { .. }
            | Self::ConditionFailed { .. }
            | Self::ConditionUnsettled { .. }
            | Self::ConditionAhead { .. }
            | Self::StreamClosed { .. }
            | Self::CheckpointMoved { .. } => ErrorKind::Conflict,
            Self::Invalid(_) => ErrorKind::Invalid,
            Self::Fenced { .. } => ErrorKind::Fenced,
            Self::Unavailable { .. } => ErrorKind::Unavailable,
            Self::Indeterminate { .. } => ErrorKind::Indeterminate,
            Self::Corrupt { .. } => ErrorKind::Corrupt,
        }
    }
}

/// Which rule a request breaks.
#[derive(Debug, Clone, Error)]
pub enum InvalidRequest {
    /// The document or batch is no JSON, or JSON that has two meanings.
    #[error("not acceptable JSON")]
    Json(#[from] crate::json::JsonError),
    /// A member of the document has a value that it cannot have.
    #[error("{member:?}: {reason}")]
    Document {
        /// The member.
        member: String,
        /// What is wrong.
        reason: String,
    },
    /// No events.
    #[error("a request has at least one event")]
    Empty,
    /// Too many events.
    #[error("a request has at most {REQUEST_EVENTS_MAX} events")]
    TooManyEvents,
    /// Too many bytes.
    #[error("a request is at most {REQUEST_BYTES_MAX} bytes")]
    TooLarge,
    /// Two expectations of one stream.
    #[error("{0} is expected twice")]
    ExpectedTwice(StreamName),
    /// Two events of one (source, id).
    #[error("the event {id:?} of {source_uri:?} stands twice in the request")]
    IdTwice {
        /// The source.
        source_uri: String,
        /// The id.
        id: String,
    },
    /// An event breaks a rule.
    #[error("event {index} is not valid")]
    Event {
        /// Which one, from 0.
        index: usize,
        /// The rule.
        #[source]
        source: EventError,
    },
}

impl InvalidRequest {
    fn document(member: &str, reason: impl Into<String>) -> Self {
        Self::Document { member: member.to_owned(), reason: reason.into() }
    }
}

impl AppendRequest {
    /// Checks what can be checked without the log. The log calls it on each request.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn check(&self) -> Result<(), InvalidRequest> {
        self.check_size()?;
        let mut streams = HashSet::new();
        if let Some(twice) = self.expect.iter().find(|e| !streams.insert(&e.stream)) {
            return Err(InvalidRequest::ExpectedTwice(twice.stream.clone()));
        }
        let mut ids = HashSet::new();
        if let Some(twice) = self.events.iter().find(|e| !ids.insert((&e.source, &e.id))) {
            return Err(InvalidRequest::IdTwice { source_uri: twice.source.clone(), id: twice.id.clone() });
        }
        if let Some(index) = self.events.iter().position(|event| event.tags().count() > TAGS_MAX) {
            let source = EventError::attribute(TAGS_EXTENSION, format!("an event has at most {TAGS_MAX} tags"));
            return Err(InvalidRequest::Event { index, source });
        }
        condition::check(&self.conditions)
    }

    /// Checks only how much it is: the part of [`Self::check`] that looks into no event.
    ///
    /// # Errors
    /// [`InvalidRequest`], if it has no events or too many.
    pub fn check_size(&self) -> Result<(), InvalidRequest> {
        if self.events.is_empty() {
            return Err(InvalidRequest::Empty);
        }
        if self.events.len() > REQUEST_EVENTS_MAX {
            return Err(InvalidRequest::TooManyEvents);
        }
        if self.bytes() > REQUEST_BYTES_MAX {
            return Err(InvalidRequest::TooLarge);
        }
        Ok(())
    }

    /// Rough size in bytes of events and conditions: what it takes while it waits.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let words = self.condition_items().flat_map(|item| item.types.iter().chain(&item.tags));
        self.events.iter().map(NewEvent::bytes).sum::<usize>() + words.map(String::len).sum::<usize>()
    }

    /// The items of its conditions, in the order in which they are answered.
    pub fn condition_items(&self) -> impl Iterator<Item = &ConditionItem> {
        self.conditions.iter().flat_map(|condition| &condition.fail_if_events_match)
    }

    /// For how long the log knows the ids of its events (LOG-4).
    ///
    /// A request that names the version of a stream that it writes is found by that version, in the archive too: its
    /// first event of the stream can only have had the next one. One that names only streams that it does not write
    /// leaves no such trace, nor does one with conditions only; its ids alone find it again, so they are kept. That costs
    /// the live database about 115 bytes an event, for ever.
    #[must_use]
    pub fn keep_ids(&self) -> KeepIds {
        let named = |e: &&Expectation| matches!(e.version, ExpectedVersion::NoStream | ExpectedVersion::Exactly(_));
        let mut named = self.expect.iter().filter(named).map(|expectation| &expectation.stream).peekable();
        if named.peek().is_none() && self.conditions.is_empty() {
            return KeepIds::WhileLive;
        }
        let written: HashSet<&StreamName> = self.events.iter().map(|event| &event.stream).collect();
        if named.any(|stream| written.contains(stream)) { KeepIds::WhileLive } else { KeepIds::ForEver }
    }

    /// What the request expects of `stream`.
    #[must_use]
    pub fn expected(&self, stream: &StreamName) -> ExpectedVersion {
        self.expect.iter().find(|e| e.stream == *stream).map_or(ExpectedVersion::Any, |e| e.version)
    }
}

/// Where a stream ends. It is kept for ever, also when all of the stream's events are archived (LOG-3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamHead {
    /// Version of the newest event.
    pub version: StreamVersion,
    /// Position of the newest event.
    pub position: Position,
    /// Position of the first event.
    pub first: Position,
    /// Whether a tombstone closed the stream.
    pub closed: bool,
}

/// What a region may do with its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Holds the epoch: acknowledges appends.
    Active,
    /// Applies what the active region ships.
    Follower,
    /// Was active and stopped for a switchover; takes no appends, still ships.
    Draining,
    /// Does not know whether a newer epoch exists: serves reads until an operator confirms.
    ReadOnly,
}

impl Role {
    /// The word in SQL, API and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Follower => "follower",
            Self::Draining => "draining",
            Self::ReadOnly => "read_only",
        }
    }

    /// Reads [`Role::as_str`]'s word.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Active, Self::Follower, Self::Draining, Self::ReadOnly].into_iter().find(|r| r.as_str() == text)
    }
}

/// The one row that decides: where the log ends and who may move it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogHead {
    /// Number of events.
    pub head: Head,
    /// `recordedat` of the newest event; of the log's creation while it is empty.
    pub recorded_at: Timestamp,
    /// Epoch in force.
    pub epoch: Epoch,
    /// What this region may do.
    pub role: Role,
    /// Every position up to here is out of the live log: read it from the archive.
    pub pruned: Head,
    /// Name of the log, the same in all regions: made at its creation.
    pub log_id: String,
    /// Whether the log was created with simulated time.
    pub simulated: bool,
}
