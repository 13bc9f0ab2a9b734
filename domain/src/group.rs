//! Named consumer groups: many workers share the events of one log (GRP-1). The server keeps which events are handed out,
//! wait for another attempt or are parked; whatever leaves no trace here and is not after `listed_to` is settled.
//!
//! ```text
//!               list            take                  done
//! log ─search─▶ ready ────────▶ leased ─────────────▶ gone: it is settled
//!                 ▲  ▲            │  │
//!                 │  └─ due ── waiting ◀─ retry, lapse │ ─ release ─▶ ready
//!                 │                                    ▼
//!                 └──────────── replay ───────────── parked ─ discard ─▶ gone
//! ```
//!
//! Each matching event is handed out at least once, and the events of one stream one after another: a stream is in one lease
//! at a time, and what waits holds back what is after it in its stream. What is parked holds back nothing: it is replayed
//! later, out of its order. Records are never copied, only their positions are kept, so a group holds no pruning back.

mod delivery;
mod reading;
mod settings;

use async_trait::async_trait;
use thiserror::Error;

pub use delivery::{
    Delivered, Extended, Idle, Lease, LeaseNumber, Outcome, Parked, Reason, Settled, Settlement, Take, Which,
    check_settlements,
};
pub use reading::{Listing, look_on, records_at};
pub use settings::{
    ATTEMPTS_MAX, ConsumerName, GroupName, GroupSettings, InvalidGroup, LEASE_SECONDS_MAX, NAME_BYTES_MAX, NewGroup,
    REASON_BYTES_MAX, RETRY_SECONDS_MAX, Start, UNSETTLED_MAX,
};

use crate::append::Role;
use crate::filter::Filter;
use crate::log::ReadError;
use crate::{Epoch, ErrorKind, Head, Timestamp};

/// A log has so many groups at most. Each costs every scrape of the metrics a look.
pub const GROUPS_MAX: usize = 256;
/// One take hands out so many events at most, and one settlement names so many.
pub const TAKE_EVENTS_MAX: usize = 1000;
/// A group that has parked so many events lists no more of them until somebody replays or discards some: what fails with
/// everything would otherwise copy the log into its database, position by position.
pub const PARKED_MAX: usize = 100_000;
/// So many parked events are shown at a time.
pub const PARKED_PAGE_MAX: usize = 1000;
/// The reason of an attempt whose lease ran out.
pub const LAPSED_REASON: &str = "its lease ran out";

/// Which group, whatever is called by its name later: a number that is never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub i64);

/// A group as it was created: nothing of this ever changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Which one.
    pub id: GroupId,
    /// What it is called, which events it wants, where it began, and its settings.
    pub made: NewGroup,
    /// When, by the database's clock.
    pub created_at: Timestamp,
}

impl Group {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &GroupName {
        &self.made.name
    }

    /// Which events it wants.
    #[must_use]
    pub fn filter(&self) -> &Filter {
        &self.made.filter
    }

    /// Its settings.
    #[must_use]
    pub fn settings(&self) -> &GroupSettings {
        &self.made.settings
    }
}

/// What creating a group has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Created {
    /// There is a new one.
    New(Group),
    /// There was one already, made with the same values.
    Same(Group),
}

impl Created {
    /// The group.
    #[must_use]
    pub fn group(&self) -> &Group {
        match self {
            Self::New(group) | Self::Same(group) => group,
        }
    }
}

/// Whether a listing was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listed {
    /// It was.
    Stored,
    /// Nothing was changed: somebody else has listed meanwhile.
    Moved,
}

/// How a group is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupStatus {
    /// Which one.
    pub group: Group,
    /// Up to here the log was looked through for it.
    pub listed_to: Head,
    /// Up to here every event that it wants was done, parked or discarded. Replaying does not take it back.
    pub checkpoint: Head,
    /// Events that are ready, handed out or waiting.
    pub unsettled: u64,
    /// Events that are parked.
    pub parked: u64,
    /// How long ago the oldest unsettled event was listed or replayed.
    pub oldest_unsettled_seconds: Option<u64>,
    /// How many attempts ended because their lease ran out, since the group was created.
    pub lapses: u64,
}

impl GroupStatus {
    /// Events between its checkpoint and the log's head, whether it wants them or not.
    #[must_use]
    pub fn lag(&self, head: Head) -> u64 {
        head.get().saturating_sub(self.checkpoint.get())
    }
}

/// Why a group did not do what it was asked for.
#[derive(Debug, Clone, Error)]
pub enum GroupError {
    /// There is none.
    #[error("there is no group {name:?}")]
    NotFound {
        /// Of that name.
        name: String,
    },
    /// There is one of that name, made with other values.
    #[error("there is a group {name:?} already, with another {member}")]
    Differs {
        /// Of that name.
        name: String,
        /// What is other.
        member: &'static str,
    },
    /// It would begin where the log is not yet.
    #[error("the log ends at {head}: a group begins at {next} at the latest", next = .head.next())]
    Ahead {
        /// Where the log ends.
        head: Head,
    },
    /// There are too many.
    #[error("a log has at most {GROUPS_MAX} groups: remove one that nobody uses")]
    TooMany,
    /// A value is none.
    #[error(transparent)]
    Invalid(#[from] InvalidGroup),
    /// This region hands nothing out: the other one would hand the same out again.
    #[error("this region hands nothing out: it is {}", .role.as_str())]
    Fenced {
        /// What it is.
        role: Role,
        /// The epoch in force here.
        epoch: Epoch,
    },
    /// Nothing was changed.
    #[error("it did not happen: {reason}")]
    Unavailable {
        /// Why, with what to do.
        reason: String,
    },
    /// It may have happened: doing it again is harmless.
    #[error("it is not known whether this happened: {reason}")]
    Indeterminate {
        /// Why.
        reason: String,
    },
    /// What is stored contradicts itself.
    #[error("stored bytes are not what was stored: {reason}")]
    Corrupt {
        /// What was found.
        reason: String,
    },
    /// The log's records were not read.
    #[error("the records were not read")]
    Read(#[from] ReadError),
}

impl GroupError {
    /// What the caller has to do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::Differs { .. } | Self::TooMany => ErrorKind::Conflict,
            Self::Ahead { .. } | Self::Invalid(_) => ErrorKind::Invalid,
            Self::Fenced { .. } => ErrorKind::Fenced,
            Self::Unavailable { .. } => ErrorKind::Unavailable,
            Self::Indeterminate { .. } => ErrorKind::Indeterminate,
            Self::Corrupt { .. } => ErrorKind::Corrupt,
            Self::Read(error) => error.kind(),
        }
    }
}

/// Where groups are kept. Each call is all or nothing; after `Indeterminate` it may have been done, and repeating it is
/// harmless: a take leaves a lease that runs out, a settlement answers `Lapsed` for what was settled. Leases and waits run
/// by the clock of the store, and by no other. A group that was removed meanwhile is `NotFound`.
#[async_trait]
pub trait ConsumerGroups: Send + Sync {
    /// Makes a group, or finds the one that was made with the same values.
    ///
    /// # Errors
    /// `Differs`, `Ahead`, `TooMany`, `Invalid`; `Fenced` where the region is not active.
    async fn create(&self, new: &NewGroup) -> Result<Created, GroupError>;

    /// The group of that name.
    ///
    /// # Errors
    /// `NotFound`.
    async fn find(&self, name: &GroupName) -> Result<Group, GroupError>;

    /// How all groups are, by name. It reads each group's unsettled and parked positions.
    async fn statuses(&self) -> Result<Vec<GroupStatus>, GroupError>;

    /// Makes what a search from `from` on has found ready to be taken, unless somebody else has listed meanwhile: the
    /// group's `listed_to` is still `from` then, and it is `listing.to` afterwards. So each event is listed once.
    async fn list(&self, group: &Group, from: Head, listing: &Listing) -> Result<Listed, GroupError>;

    /// Hands up to `max` ready events out to `consumer`, lowest positions first, under one lease with a number that is never
    /// used twice. First it takes back what is due: a lease that ran out is a failed attempt.
    ///
    /// An event is handed out only if no event of its stream is under another lease, and none before it in its stream
    /// waits. So several events of one stream may be in one lease, in their order and without a gap. An event whose last
    /// attempt ended with its lease is handed out alone: of those that were under that lease one may have killed its
    /// worker, and the others are not to fail with it again.
    ///
    /// # Errors
    /// `Fenced` where the region is not active.
    async fn take(&self, group: &Group, consumer: &ConsumerName, max: usize) -> Result<Take, GroupError>;

    /// Ends attempts of a lease, as each outcome says; the answers are in the order of `events`. Of an event that is not
    /// under this lease any more nothing changes, and `Lapsed` is answered: a late worker changes nothing. A lease whose
    /// deadline is over holds its events until a take takes them back.
    ///
    /// # Errors
    /// `Invalid` if a position is named twice, or too many are.
    async fn settle(
        &self,
        group: &Group,
        lease: LeaseNumber,
        events: &[Settlement],
    ) -> Result<Vec<Settled>, GroupError>;

    /// A whole lease's time from now on for what is still under it.
    async fn extend(&self, group: &Group, lease: LeaseNumber) -> Result<Extended, GroupError>;

    /// Up to `limit` parked events after `after`, by position.
    async fn parked(&self, group: &Group, after: Head, limit: usize) -> Result<Vec<Parked>, GroupError>;

    /// Makes parked events ready once more, with no attempt counted and marked as replayed. Returns how many; what is not
    /// parked is left as it is.
    async fn replay(&self, group: &Group, which: &Which) -> Result<u64, GroupError>;

    /// Gives parked events up. Returns how many; what is not parked is left as it is.
    async fn discard(&self, group: &Group, which: &Which) -> Result<u64, GroupError>;

    /// Forgets a group with all that is kept of it. Removing it again is harmless.
    async fn remove(&self, group: &Group) -> Result<(), GroupError>;
}
