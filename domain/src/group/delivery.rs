//! What goes between a group and its consumers: leases and deliveries one way, outcomes the other. It decides nothing.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use super::settings::{InvalidGroup, REASON_BYTES_MAX};
use super::{PARKED_MAX, TAKE_EVENTS_MAX};
use crate::{Head, Position, StreamName, Timestamp};

/// The number of a lease. It is never used twice, by no group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseNumber(u64);

impl LeaseNumber {
    /// `None` for 0 and above 2^63 − 1, which no lease has.
    #[must_use]
    pub fn new(number: u64) -> Option<Self> {
        Position::new(number).map(|number| Self(number.get()))
    }

    /// The number, at least 1.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0
    }

    /// The number as PostgreSQL's bigint holds it.
    #[must_use]
    pub fn as_i64(self) -> i64 {
        self.0.cast_signed()
    }
}

impl fmt::Display for LeaseNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why an attempt failed, in its consumer's words: one line, cut where it is too long.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reason(String);

impl Reason {
    /// `text` on one line, without control characters, of [`REASON_BYTES_MAX`] bytes at most.
    #[must_use]
    pub fn of(text: &str) -> Self {
        let mut reason = String::new();
        for c in text.chars().map(|c| if c.is_control() { ' ' } else { c }) {
            if reason.len() + c.len_utf8() > REASON_BYTES_MAX {
                break;
            }
            reason.push(c);
        }
        Self(reason)
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The event is done: it is never handed out again.
    Done,
    /// It failed. It is handed out again later, or parked if that was the last attempt.
    Retry {
        /// After so many seconds; `None`: as the group's settings say.
        after_seconds: Option<u32>,
        /// Why.
        reason: Reason,
    },
    /// It failed, and another attempt would too.
    Park {
        /// Why.
        reason: Reason,
    },
    /// It was not begun: it is ready for others at once, and no attempt is counted.
    Release,
}

/// The outcome of one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settlement {
    /// Which event.
    pub position: Position,
    /// How its attempt ended.
    pub outcome: Outcome,
}

/// Checks that each event is named once, and not too many are.
///
/// # Errors
/// [`InvalidGroup::Twice`], `TooManyEvents`.
pub fn check_settlements(events: &[Settlement]) -> Result<(), InvalidGroup> {
    if events.len() > TAKE_EVENTS_MAX {
        return Err(InvalidGroup::TooManyEvents);
    }
    let named: BTreeSet<Position> = events.iter().map(|event| event.position).collect();
    if named.len() == events.len() { Ok(()) } else { Err(InvalidGroup::Twice) }
}

/// What became of an event that was settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// It is done.
    Done,
    /// It waits for its next attempt.
    Waiting,
    /// It is parked.
    Parked,
    /// It is ready for others.
    Released,
    /// It was not under the lease any more, and nothing changed.
    Lapsed,
}

impl Settled {
    /// The word in API and CLI.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Waiting => "waiting",
            Self::Parked => "parked",
            Self::Released => "released",
            Self::Lapsed => "lapsed",
        }
    }

    /// Reads [`Settled::as_str`]'s word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Done, Self::Waiting, Self::Parked, Self::Released, Self::Lapsed].into_iter().find(|s| s.as_str() == word)
    }
}

/// An event that is handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivered {
    /// Which one.
    pub position: Position,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// Whether it was parked and is replayed: others of its stream may have been done before it.
    pub replayed: bool,
}

/// Events that one consumer holds until a deadline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Its number.
    pub number: LeaseNumber,
    /// When it runs out, by the database's clock.
    pub deadline: Timestamp,
    /// What is under it, by position; at least one.
    pub events: Vec<Delivered>,
}

/// What a take has given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Take {
    /// Events.
    Lease(Lease),
    /// Nothing is ready.
    Nothing(Idle),
}

/// How a group is that hands nothing out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Idle {
    /// Up to here the log was looked through.
    pub listed_to: Head,
    /// So many more may be listed.
    pub room: usize,
    /// When the next event is due that waits or is handed out; `None`: there is none.
    pub due_in: Option<Duration>,
}

impl Idle {
    /// How many more may be listed by a group that may have `unsettled_max`.
    #[must_use]
    pub fn room(unsettled_max: u32, unsettled: u64, parked: u64) -> usize {
        let room = u64::from(unsettled_max).saturating_sub(unsettled);
        let may_park = u64::try_from(PARKED_MAX).is_ok_and(|most| parked < most);
        if may_park { usize::try_from(room).unwrap_or(usize::MAX) } else { 0 }
    }
}

/// What extending a lease has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extended {
    /// Events that are still under it.
    pub events: u64,
    /// Until when; `None` if nothing is.
    pub deadline: Option<Timestamp>,
}

/// A parked event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parked {
    /// Which one.
    pub position: Position,
    /// Of which stream.
    pub stream: StreamName,
    /// Failed attempts.
    pub attempts: u32,
    /// Why the last one failed.
    pub reason: Reason,
    /// Who had it last.
    pub consumer: String,
    /// Since when, by the database's clock.
    pub parked_at: Timestamp,
}

/// Which of the parked events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// All of them.
    All,
    /// Those at these positions.
    These(Vec<Position>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_one_line_that_a_database_takes() {
        assert_eq!(Reason::of("a\nb\0c").as_str(), "a b c");
        let long = Reason::of(&"ä".repeat(REASON_BYTES_MAX));
        assert_eq!(long.as_str().len(), REASON_BYTES_MAX);
    }

    #[test]
    fn a_settlement_names_each_event_once() {
        let of = |number: u64| Settlement { position: Position::new(number).expect("from 1"), outcome: Outcome::Done };
        assert_eq!(check_settlements(&[of(1), of(2)]), Ok(()));
        assert_eq!(check_settlements(&[of(1), of(1)]), Err(InvalidGroup::Twice));
        let many: Vec<Settlement> = (1..=1001).map(of).collect();
        assert_eq!(check_settlements(&many), Err(InvalidGroup::TooManyEvents));
    }

    #[test]
    fn a_group_that_parks_without_end_has_no_room() {
        assert_eq!(Idle::room(10, 4, 0), 6);
        assert_eq!(Idle::room(10, 12, 0), 0, "what is replayed may be more");
        assert_eq!(Idle::room(10, 0, 100_000), 0);
    }
}
