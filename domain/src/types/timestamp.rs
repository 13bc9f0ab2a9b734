//! Instants of the log: UTC, microseconds, one spelling.

use std::fmt;

use chrono::{DateTime, Datelike, Months, SecondsFormat, SubsecRound, TimeZone, Utc};
use thiserror::Error;

/// An instant in UTC with microseconds, between the years 1 and 9999. PostgreSQL's timestamptz holds the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(DateTime<Utc>);

/// The text is no instant.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("not an RFC 3339 instant between the years 1 and 9999")]
pub struct TimestampError;

impl Timestamp {
    /// From microseconds since 1970-01-01T00:00:00Z.
    ///
    /// # Errors
    /// [`TimestampError`] outside the years 1 to 9999.
    pub fn from_unix_micros(micros: i64) -> Result<Self, TimestampError> {
        let instant = DateTime::from_timestamp_micros(micros).ok_or(TimestampError)?;
        if (1..=9999).contains(&instant.year()) { Ok(Self(instant)) } else { Err(TimestampError) }
    }

    /// Microseconds since 1970-01-01T00:00:00Z.
    #[must_use]
    pub fn unix_micros(self) -> i64 {
        self.0.timestamp_micros()
    }

    /// Reads any RFC 3339 instant, whatever its offset; what is finer than a microsecond is cut off.
    ///
    /// # Errors
    /// [`TimestampError`] if it is none.
    pub fn parse_rfc3339(text: &str) -> Result<Self, TimestampError> {
        let instant = DateTime::parse_from_rfc3339(text).map_err(|_| TimestampError)?;
        Self::from_unix_micros(instant.trunc_subsecs(6).timestamp_micros())
    }

    /// Start of the UTC calendar month that holds this instant.
    #[must_use]
    pub fn month_start(self) -> Self {
        let month = Utc.with_ymd_and_hms(self.0.year(), self.0.month(), 1, 0, 0, 0).single();
        Self(month.expect("the first of an existing month exists in UTC"))
    }

    /// The same instant `months` calendar months earlier, on the last day of that month if it has no such day.
    ///
    /// # Errors
    /// [`TimestampError`] before the year 1.
    pub fn months_before(self, months: u32) -> Result<Self, TimestampError> {
        let earlier = self.0.checked_sub_months(Months::new(months)).ok_or(TimestampError)?;
        Self::from_unix_micros(earlier.timestamp_micros())
    }

    /// The same instant `months` calendar months later.
    ///
    /// # Errors
    /// [`TimestampError`] after the year 9999.
    pub fn months_after(self, months: u32) -> Result<Self, TimestampError> {
        let later = self.0.checked_add_months(Months::new(months)).ok_or(TimestampError)?;
        Self::from_unix_micros(later.timestamp_micros())
    }

    /// Microseconds from `earlier` to this; negative if `earlier` is later.
    #[must_use]
    pub fn micros_since(self, earlier: Self) -> i64 {
        self.unix_micros().saturating_sub(earlier.unix_micros())
    }

    /// (year, month) in UTC.
    #[must_use]
    pub fn year_month(self) -> (i32, u32) {
        (self.0.year(), self.0.month())
    }
}

impl fmt::Display for Timestamp {
    /// The one spelling of `recordedat`: `2026-05-01T08:00:00.612345Z`, always six digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_rfc3339_opts(SecondsFormat::Micros, true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse_rfc3339(text).expect("an instant")
    }

    #[test]
    fn an_instant_has_one_spelling() {
        assert_eq!(at("2026-05-01T10:00:00.5+02:00").to_string(), "2026-05-01T08:00:00.500000Z");
        assert_eq!(at("0001-01-01T00:00:00Z").to_string(), "0001-01-01T00:00:00.000000Z");
        assert!(Timestamp::parse_rfc3339("0000-12-31T23:59:59Z").is_err());
        assert!(Timestamp::parse_rfc3339("2026-02-30T00:00:00Z").is_err());
    }

    #[test]
    fn months_are_calendar_months() {
        assert_eq!(at("2026-08-31T12:00:00Z").months_before(6), Ok(at("2026-02-28T12:00:00Z")));
        assert_eq!(at("2026-02-28T12:00:00Z").month_start(), at("2026-02-01T00:00:00Z"));
    }
}
