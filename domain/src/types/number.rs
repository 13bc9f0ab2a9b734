//! Numbers of the log: position, head, stream version, epoch. They never mix.

use std::fmt;
use std::num::NonZeroU64;

macro_rules! number_from_one {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(NonZeroU64);

        impl $name {
            /// The first one: 1.
            pub const FIRST: Self = Self(NonZeroU64::MIN);

            /// `None` for 0, which no such thing has, and above 2^63 − 1, which PostgreSQL's bigint cannot hold.
            #[must_use]
            pub const fn new(number: u64) -> Option<Self> {
                if number > i64::MAX as u64 {
                    return None;
                }
                match NonZeroU64::new(number) {
                    Some(number) => Some(Self(number)),
                    None => None,
                }
            }

            /// The number, at least 1.
            #[must_use]
            pub const fn get(self) -> u64 {
                self.0.get()
            }

            /// The number as PostgreSQL's bigint holds it.
            #[must_use]
            pub const fn as_i64(self) -> i64 {
                self.0.get().cast_signed()
            }

            /// From PostgreSQL's bigint; `None` below 1.
            #[must_use]
            pub fn from_i64(number: i64) -> Option<Self> {
                u64::try_from(number).ok().and_then(Self::new)
            }

            /// The next one. Saturates at 2^63 − 1, which no log reaches.
            #[must_use]
            pub fn next(self) -> Self {
                Self::new(self.get() + 1).unwrap_or(self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number_from_one! {
    /// Place of an event in the whole log, counted from 1, dense.
    Position
}
number_from_one! {
    /// Place of an event in its stream, counted from 1, dense.
    StreamVersion
}
number_from_one! {
    /// Grows by one at each promotion; every writer of an older epoch is refused.
    Epoch
}

impl Position {
    /// Number of this event's leaf in the log's Merkle tree, counted from 0 (RFC 6962 §2.1).
    #[must_use]
    pub const fn leaf(self) -> u64 {
        self.get() - 1
    }

    /// The head of a log that ends with this event.
    #[must_use]
    pub const fn as_head(self) -> Head {
        Head(self.get())
    }

    /// The head of a log that ends just before this event.
    #[must_use]
    pub const fn head_before(self) -> Head {
        Head(self.get() - 1)
    }
}

/// Position of the newest event = number of events = size of the Merkle tree. 0 is the empty log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Head(u64);

impl Head {
    /// The empty log.
    pub const EMPTY: Self = Self(0);

    /// `None` above 2^63 − 1.
    #[must_use]
    pub const fn new(events: u64) -> Option<Self> {
        if events > i64::MAX as u64 { None } else { Some(Self(events)) }
    }

    /// Number of events.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The number as PostgreSQL's bigint holds it.
    #[must_use]
    pub const fn as_i64(self) -> i64 {
        self.0.cast_signed()
    }

    /// From PostgreSQL's bigint; `None` below 0.
    #[must_use]
    pub fn from_i64(number: i64) -> Option<Self> {
        u64::try_from(number).ok().and_then(Self::new)
    }

    /// Position of the newest event; `None` in the empty log.
    #[must_use]
    pub const fn newest(self) -> Option<Position> {
        Position::new(self.0)
    }

    /// Position that the next event will have. Saturates at 2^63 − 1, which no log reaches.
    #[must_use]
    pub fn next(self) -> Position {
        self.newest().map_or(Position::FIRST, Position::next)
    }

    /// Whether the event at `position` is in the log.
    #[must_use]
    pub const fn includes(self, position: Position) -> bool {
        position.get() <= self.0
    }
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_start_at_one_and_fit_a_bigint() {
        assert_eq!(Position::new(0), None);
        assert_eq!(Position::new(u64::MAX), None);
        assert_eq!(Position::new(7).map(Position::leaf), Some(6));
        assert_eq!(Epoch::from_i64(-1), None);
        assert_eq!(Head::EMPTY.next(), Position::FIRST);
        assert!(!Head::EMPTY.includes(Position::FIRST));
    }
}
