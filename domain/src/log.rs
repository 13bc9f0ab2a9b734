//! The ports of the log. PostgreSQL implements them in `event-log`; the twin in memory in [`twin`].

use async_trait::async_trait;
use thiserror::Error;

use crate::append::{AppendError, AppendRequest, Appended, LogHead, Role, StreamHead};
use crate::filter::{Filter, SEARCH_POSITIONS_MAX, Searched};
use crate::record::{Lines, Record};
use crate::{Epoch, ErrorKind, Head, Position, StreamName, StreamVersion, Timestamp};

/// Which way a read goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From older to newer.
    Forward,
    /// From newer to older.
    Backward,
}

/// Why a read gave nothing.
#[derive(Debug, Clone, Error)]
pub enum ReadError {
    /// The position is out of the live log: it is in the archive.
    #[error("positions up to {pruned} are in the archive only")]
    Pruned {
        /// The newest position that is out.
        pruned: Head,
    },
    /// The resume token is from a branch that lost.
    #[error("position {position} was recorded in epoch {recorded}, not in {token}; the fork is at {fork}")]
    Forked {
        /// The token's position.
        position: Position,
        /// The token's epoch.
        token: Epoch,
        /// The epoch of the record that is there.
        recorded: Epoch,
        /// The newest position that both branches share.
        fork: Head,
    },
    /// The log or the archive did not answer.
    #[error("the read did not happen: {reason}")]
    Unavailable {
        /// Why, with what to do.
        reason: String,
    },
    /// Stored bytes are not what was stored.
    #[error("stored bytes are not what was stored: {reason}")]
    Corrupt {
        /// What was found, and where.
        reason: String,
    },
}

impl ReadError {
    /// What the caller has to do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Pruned { .. } => ErrorKind::NotFound,
            Self::Forked { .. } => ErrorKind::Forked,
            Self::Unavailable { .. } => ErrorKind::Unavailable,
            Self::Corrupt { .. } => ErrorKind::Corrupt,
        }
    }
}

/// Reads of the log. All answers are of committed events only, and what is at a position never changes.
#[async_trait]
pub trait LogReader: Send + Sync {
    /// Where the log ends and who may move it.
    async fn log_head(&self) -> Result<LogHead, ReadError>;

    /// Up to `limit` records from `from` on (inclusive), without a hole. Fewer than `limit` only at the end
    /// of the log (forward) or at its beginning (backward), or where the adapter bounds bytes: at least one
    /// record is returned where there is one. Forward from above the head is empty.
    ///
    /// # Errors
    /// `Pruned` where a record of the answer is out of the live log (backward: where `from` is).
    /// `Corrupt` if there is a hole.
    async fn read_log(&self, from: Position, direction: Direction, limit: usize) -> Result<Vec<Record>, ReadError>;

    /// As [`LogReader::read_log`] forward, for whoever hands the lines on as they are: an adapter need not have all of the
    /// records at once for it.
    ///
    /// # Errors
    /// As [`LogReader::read_log`].
    async fn read_lines(&self, from: Position, limit: usize) -> Result<Lines, ReadError> {
        self.read_log(from, Direction::Forward, limit).await.map(|records| Lines::of(&records))
    }

    /// Up to `limit` records from `from` on (inclusive) that `filter` wants, among at most [`SEARCH_POSITIONS_MAX`]
    /// positions; it says up to where it has looked, which may be anywhere, and whoever wants more goes on after that.
    /// It looks at one position at least where there is one; forward from above the head there is nothing. The work and
    /// the memory are bounded whatever matches.
    ///
    /// # Errors
    /// As [`LogReader::read_log`]. A hole is found also among records that do not match.
    async fn search_log(
        &self,
        from: Position,
        direction: Direction,
        filter: &Filter,
        limit: usize,
    ) -> Result<Searched, ReadError> {
        let records = self.read_log(from, direction, SEARCH_POSITIONS_MAX).await?;
        Ok(Searched::among(records.iter(), filter, limit))
    }

    /// Up to `limit` records of a stream from version `from` on (inclusive), dense among themselves. The live
    /// log answers with those that it has: where older ones are archived the first version returned is above
    /// `from` (forward), or the answer ends above version 1 (backward).
    async fn read_stream(
        &self,
        stream: &StreamName,
        from: StreamVersion,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<Record>, ReadError>;

    /// Where a stream ends; `None` if it has never had an event. It survives pruning.
    async fn stream_head(&self, stream: &StreamName) -> Result<Option<StreamHead>, ReadError>;

    /// Up to `limit` streams of a category, by name, after `after`.
    async fn streams(
        &self,
        category: &str,
        after: Option<&StreamName>,
        limit: usize,
    ) -> Result<Vec<(StreamName, StreamHead)>, ReadError>;

    /// Where the event (source, id) stands, if it is in the live log.
    async fn find_event(&self, source: &str, id: &str) -> Result<Option<Position>, ReadError>;

    /// How many events of the live log were recorded at or before `at`: the head as of that instant.
    ///
    /// # Errors
    /// `Pruned` if the answer lies in the archive.
    async fn head_as_of(&self, at: Timestamp) -> Result<Head, ReadError>;

    /// Returns when the head is above `seen`, or after about a second; a hint, never a promise.
    async fn wait_beyond(&self, seen: Head) -> Result<Head, ReadError>;
}

/// The log that takes appends.
#[async_trait]
pub trait EventLog: LogReader {
    /// Stores all of `request` or none of it, and returns where it stands in the log.
    /// After `Indeterminate` it may be stored: send it again with the same event ids; the second time
    /// changes nothing. After `Fenced`, stop: this region's epoch has lost.
    async fn append(&self, request: AppendRequest) -> Result<Appended, AppendError>;

    /// Where a consumer's checkpoint stands; 0 if it has none.
    async fn consumer_checkpoint(&self, consumer: &str) -> Result<u64, ReadError>;
}

/// Why a batch was not applied.
#[derive(Debug, Clone, Error)]
pub enum ApplyError {
    /// It does not start where this log ends. Nothing was changed.
    #[error("the next position here is {expected}, the batch starts at {found}")]
    OutOfOrder {
        /// What this log waits for.
        expected: Position,
        /// What the batch has.
        found: Position,
    },
    /// A record contradicts this log (version, back link, time, epoch). Nothing was changed.
    #[error("position {position} cannot follow this log: {reason}")]
    Refused {
        /// Which one.
        position: Position,
        /// Why.
        reason: String,
    },
    /// This region does not follow (any more).
    #[error("this region is {} in epoch {epoch}, it does not apply batches", .role.as_str())]
    NotFollowing {
        /// What it is.
        role: Role,
        /// Its epoch.
        epoch: Epoch,
    },
    /// It is not known whether it was applied: read the head and go on from there.
    #[error("the batch may or may not be applied: {reason}")]
    Unavailable {
        /// Why.
        reason: String,
    },
}

/// The log of a region that follows another, and its change of role.
#[async_trait]
pub trait FollowerLog: LogReader {
    /// Applies records that continue this log, all or none, in one transaction; the head is the cursor.
    /// Records that are there already, byte for byte, are skipped: a batch already applied changes nothing.
    /// The ids of the events at the positions `kept` are kept for ever (LOG-4), as at the sender; those of
    /// the others only while they are live. Returns the head after it.
    async fn apply_keeping(&self, records: &[Record], kept: &[Position]) -> Result<Head, ApplyError>;

    /// [`FollowerLog::apply_keeping`] for records of which no id is kept for ever.
    async fn apply(&self, records: &[Record]) -> Result<Head, ApplyError> {
        self.apply_keeping(records, &[]).await
    }

    /// Which positions from `first` to `last` have ids that are kept for ever, ascending; live or pruned.
    async fn kept_ids(&self, first: Position, last: Position) -> Result<Vec<Position>, ReadError>;

    /// Moves (epoch, role) from `from` to `to` if `from` is still in force, in one transaction that waits for
    /// the append under way. Afterwards no append of the old role is acknowledged. The epoch never falls.
    ///
    /// # Errors
    /// `NotFollowing` with what is in force if it is not `from`.
    async fn change_role(&self, from: (Epoch, Role), to: (Epoch, Role)) -> Result<LogHead, ApplyError>;
}
