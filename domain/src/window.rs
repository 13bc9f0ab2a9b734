//! The live window: what the live database keeps.

use crate::{Timestamp, TimestampError};

/// Length of the live window in whole calendar months of `recordedat`. A longer one costs disk in the live
/// database in proportion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LiveWindow {
    months: u32,
}

impl Default for LiveWindow {
    fn default() -> Self {
        Self { months: 6 }
    }
}

impl LiveWindow {
    /// A window of `months` calendar months; `None` for 0, which would prune what was just appended.
    #[must_use]
    pub fn of_months(months: u32) -> Option<Self> {
        (months > 0).then_some(Self { months })
    }

    /// Its length in months.
    #[must_use]
    pub fn months(self) -> u32 {
        self.months
    }

    /// Start of the UTC month that holds (now − months): what was recorded before it is out, the rest is in.
    ///
    /// # Errors
    /// [`TimestampError`] if that is before the year 1.
    pub fn cutoff(self, now: Timestamp) -> Result<Timestamp, TimestampError> {
        Ok(now.months_before(self.months)?.month_start())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cutoff_is_the_start_of_a_month_at_least_six_months_back() {
        let at = |text| Timestamp::parse_rfc3339(text).expect("an instant");
        let window = LiveWindow::default();
        assert_eq!(window.cutoff(at("2026-08-31T23:59:59Z")), Ok(at("2026-02-01T00:00:00Z")));
        assert_eq!(window.cutoff(at("2026-09-01T00:00:00Z")), Ok(at("2026-03-01T00:00:00Z")));
        assert_eq!(LiveWindow::of_months(0), None);
    }
}
