//! What a group is made with: its name, the events that it wants, where it begins, and its limits. Decides what is valid.

use std::fmt;

use thiserror::Error;

use crate::filter::Filter;
use crate::{ErrorKind, Position};

/// A group's or a consumer's name is at most this long.
pub const NAME_BYTES_MAX: usize = 64;
/// A lease is at most so long. A longer one keeps what a dead consumer held from others for longer.
pub const LEASE_SECONDS_MAX: u32 = 3600;
/// After so many failed attempts at most an event is parked.
pub const ATTEMPTS_MAX: u32 = 100;
/// Between two attempts lie so many seconds at most.
pub const RETRY_SECONDS_MAX: u32 = 86_400;
/// Events of a group that are listed and not settled, at most. More let more consumers work at once, and cost more rows.
pub const UNSETTLED_MAX: u32 = 10_000;
/// What is kept of the reason of a failed attempt.
pub const REASON_BYTES_MAX: usize = 512;

/// Why a group, or what it is asked for, is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum InvalidGroup {
    /// The name of a group.
    #[error("a group's name is 1 to {NAME_BYTES_MAX} of a-z, 0-9, _ and -")]
    Name,
    /// The name of a consumer.
    #[error("a consumer's name has 1 to {NAME_BYTES_MAX} bytes and no control characters")]
    Consumer,
    /// A setting is out of its bounds.
    #[error("{setting} is from {least} to {most}")]
    Setting {
        /// Which one.
        setting: &'static str,
        /// At least.
        least: u32,
        /// At most.
        most: u32,
    },
    /// A group has no end, so its filter names no times.
    #[error("a group wants whatever is appended: its filter names no times")]
    Times,
    /// A position stands twice in a settlement.
    #[error("a position is settled once, and one stands twice")]
    Twice,
    /// A request names too many events.
    #[error("at most {} events at a time", super::TAKE_EVENTS_MAX)]
    TooManyEvents,
}

impl InvalidGroup {
    /// What the caller has to do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }
}

/// What a group is called.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupName(String);

impl GroupName {
    /// The group called `text`.
    ///
    /// # Errors
    /// [`InvalidGroup::Name`] unless it is `[a-z0-9_-]{1,64}`.
    pub fn parse(text: &str) -> Result<Self, InvalidGroup> {
        let fits = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-');
        let is_name = (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(fits);
        if is_name { Ok(Self(text.to_owned())) } else { Err(InvalidGroup::Name) }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who takes events: for people who look where one hangs. It opens nothing and holds nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerName(String);

impl ConsumerName {
    /// The consumer called `text`.
    ///
    /// # Errors
    /// [`InvalidGroup::Consumer`] if it is empty, too long, or has control characters.
    pub fn parse(text: &str) -> Result<Self, InvalidGroup> {
        let is_name = (1..=NAME_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control);
        if is_name { Ok(Self(text.to_owned())) } else { Err(InvalidGroup::Consumer) }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Where a group begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With what is appended after it was created.
    Head,
    /// With the event at this position.
    From(Position),
}

/// A group's limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupSettings {
    /// How long a lease is. A shorter one hands what a dead consumer held to others sooner; a consumer that takes longer
    /// over an event has to extend it.
    pub lease_seconds: u32,
    /// After so many failed attempts an event is parked.
    pub attempts_max: u32,
    /// Between the first failed attempt and the next lie so many seconds; each time twice as many.
    pub retry_first_seconds: u32,
    /// But never more than this.
    pub retry_max_seconds: u32,
    /// Events that are listed and not settled, at most: what waits for an attempt counts too, so more of them let other
    /// streams go on while some fail.
    pub unsettled_max: u32,
}

impl Default for GroupSettings {
    fn default() -> Self {
        Self {
            lease_seconds: 30,
            attempts_max: 10,
            retry_first_seconds: 1,
            retry_max_seconds: 300,
            unsettled_max: 1000,
        }
    }
}

impl GroupSettings {
    /// Checks all bounds.
    ///
    /// # Errors
    /// [`InvalidGroup::Setting`] with the first that is out of its own.
    pub fn check(&self) -> Result<(), InvalidGroup> {
        let within = |setting, value, least, most| match (least..=most).contains(&value) {
            true => Ok(()),
            false => Err(InvalidGroup::Setting { setting, least, most }),
        };
        within("lease_seconds", self.lease_seconds, 1, LEASE_SECONDS_MAX)?;
        within("attempts_max", self.attempts_max, 1, ATTEMPTS_MAX)?;
        within("retry_first_seconds", self.retry_first_seconds, 0, RETRY_SECONDS_MAX)?;
        within("retry_max_seconds", self.retry_max_seconds, self.retry_first_seconds, RETRY_SECONDS_MAX)?;
        within("unsettled_max", self.unsettled_max, 1, UNSETTLED_MAX)
    }

    /// How long an event waits after its `failed`th failed attempt (from 1): first · 2^(failed − 1), at most the most.
    #[must_use]
    pub fn retry_seconds(&self, failed: u32) -> u32 {
        let factor = 1_u32.checked_shl(failed.saturating_sub(1)).unwrap_or(u32::MAX);
        self.retry_first_seconds.saturating_mul(factor).min(self.retry_max_seconds)
    }

    /// Whether an event is parked after its `failed`th failed attempt.
    #[must_use]
    pub fn parks_after(&self, failed: u32) -> bool {
        failed >= self.attempts_max
    }
}

/// A group that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewGroup {
    /// What it is called.
    pub name: GroupName,
    /// Which events it wants.
    pub filter: Filter,
    /// Where it begins.
    pub start: Start,
    /// Its limits.
    pub settings: GroupSettings,
}

impl NewGroup {
    /// A group that wants everything that is appended from now on.
    #[must_use]
    pub fn called(name: GroupName) -> Self {
        Self { name, filter: Filter::default(), start: Start::Head, settings: GroupSettings::default() }
    }

    /// Checks what a name alone does not.
    ///
    /// # Errors
    /// An [`InvalidGroup`].
    pub fn check(&self) -> Result<(), InvalidGroup> {
        match self.filter.recorded() {
            (None, None) => self.settings.check(),
            _ => Err(InvalidGroup::Times),
        }
    }

    /// What of `other`, which has the same name, is not as here.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Option<&'static str> {
        let sorted = |values: &[String]| {
            let mut values = values.to_vec();
            values.sort_unstable();
            values.dedup();
            values
        };
        let named = |filter: &Filter| [filter.categories(), filter.event_types(), filter.stream_prefixes()].map(sorted);
        if named(&self.filter) != named(&other.filter) {
            return Some("filter");
        }
        if self.start != other.start {
            return Some("start");
        }
        (self.settings != other.settings).then_some("setting")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_small_letters_digits_and_two_signs() {
        for good in ["a", "mail-er_2", &"x".repeat(64)] {
            assert!(GroupName::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "A", "a b", "ä", "a\n", "a.b", &"x".repeat(65)] {
            assert_eq!(GroupName::parse(bad), Err(InvalidGroup::Name), "{bad}");
        }
        assert!(ConsumerName::parse("Wörker 1").is_ok() && ConsumerName::parse("a\tb").is_err());
        assert!(ConsumerName::parse("").is_err() && ConsumerName::parse(&"x".repeat(65)).is_err());
    }

    #[test]
    fn each_wait_is_twice_the_one_before_until_the_longest() {
        let settings = GroupSettings { retry_first_seconds: 3, retry_max_seconds: 20, ..GroupSettings::default() };
        let waits: Vec<u32> = (1..=6).map(|failed| settings.retry_seconds(failed)).collect();
        assert_eq!(waits, [3, 6, 12, 20, 20, 20]);
        assert_eq!(settings.retry_seconds(u32::MAX), 20, "it never overflows");
        let at_once = GroupSettings { retry_first_seconds: 0, ..settings };
        assert_eq!(at_once.retry_seconds(99), 0);
    }

    #[test]
    fn a_setting_out_of_its_bounds_is_named() {
        let good = GroupSettings::default();
        assert_eq!(good.check(), Ok(()));
        let named = |settings: GroupSettings| match settings.check() {
            Err(InvalidGroup::Setting { setting, .. }) => setting,
            other => panic!("{other:?}"),
        };
        assert_eq!(named(GroupSettings { lease_seconds: 0, ..good }), "lease_seconds");
        assert_eq!(named(GroupSettings { lease_seconds: 3601, ..good }), "lease_seconds");
        assert_eq!(named(GroupSettings { attempts_max: 0, ..good }), "attempts_max");
        assert_eq!(named(GroupSettings { retry_first_seconds: 301, ..good }), "retry_max_seconds");
        assert_eq!(named(GroupSettings { unsettled_max: 10_001, ..good }), "unsettled_max");
    }

    #[test]
    fn the_same_values_in_another_order_are_the_same_group() {
        let made = |types: &[&str]| {
            let filter = types.iter().try_fold(Filter::default(), |filter, named| filter.event_type(named));
            let name = GroupName::parse("g").expect("a name");
            NewGroup { filter: filter.expect("a filter"), ..NewGroup::called(name) }
        };
        assert_eq!(made(&["a", "b"]).difference(&made(&["b", "a", "a"])), None);
        assert_eq!(made(&["a"]).difference(&made(&["b"])), Some("filter"));
        let later = NewGroup { start: Start::From(Position::FIRST), ..made(&["a"]) };
        assert_eq!(made(&["a"]).difference(&later), Some("start"));
        let settings = GroupSettings { attempts_max: 1, ..GroupSettings::default() };
        assert_eq!(made(&["a"]).difference(&NewGroup { settings, ..made(&["a"]) }), Some("setting"));
    }
}
