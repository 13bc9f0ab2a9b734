//! Instants of the log: UTC, microseconds, one spelling.

use std::fmt;

use chrono::{DateTime, Datelike, Months, SubsecRound, TimeZone, Timelike, Utc};
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

/// Bytes of every instant's spelling.
const SPELLED_BYTES: usize = 27;

impl Timestamp {
    /// Appends the one spelling of `recordedat` to `out`: `2026-05-01T08:00:00.612345Z`, always six digits.
    pub fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.spelled());
    }

    fn spelled(self) -> [u8; SPELLED_BYTES] {
        let mut text = *b"0000-00-00T00:00:00.000000Z";
        let time = self.0.time();
        digits(self.0.year().unsigned_abs(), &mut text[0..4]);
        digits(self.0.month(), &mut text[5..7]);
        digits(self.0.day(), &mut text[8..10]);
        digits(time.hour(), &mut text[11..13]);
        digits(time.minute(), &mut text[14..16]);
        digits(time.second(), &mut text[17..19]);
        digits(time.nanosecond() / 1000, &mut text[20..26]);
        text
    }
}

/// Writes `number` with leading zeros over all of `text`.
fn digits(mut number: u32, text: &mut [u8]) {
    for digit in text.iter_mut().rev() {
        *digit = b'0' + u8::try_from(number % 10).expect("a digit");
        number /= 10;
    }
}

impl fmt::Display for Timestamp {
    /// As [`Timestamp::write`] spells it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.spelled()).expect("ASCII"))
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
        assert_eq!(at("9999-12-31T23:59:59.999999Z").to_string(), "9999-12-31T23:59:59.999999Z");
        assert!(Timestamp::parse_rfc3339("0000-12-31T23:59:59Z").is_err());
        assert!(Timestamp::parse_rfc3339("2026-02-30T00:00:00Z").is_err());
    }

    proptest::proptest! {
        #[test]
        fn what_is_spelled_is_read_as_the_same_instant(micros in -62_135_596_800_000_000_i64..253_402_300_800_000_000) {
            let instant = Timestamp::from_unix_micros(micros).expect("between the years 1 and 9999");
            let spelled = instant.0.to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
            proptest::prop_assert_eq!(instant.to_string(), spelled.clone());
            proptest::prop_assert_eq!(Timestamp::parse_rfc3339(&spelled), Ok(instant));
        }
    }

    #[test]
    fn months_are_calendar_months() {
        assert_eq!(at("2026-08-31T12:00:00Z").months_before(6), Ok(at("2026-02-28T12:00:00Z")));
        assert_eq!(at("2026-02-28T12:00:00Z").month_start(), at("2026-02-01T00:00:00Z"));
    }
}
