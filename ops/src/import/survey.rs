//! The first pass over a file: every line is read and checked before anything is stored, and the places are
//! noted where a simulated clock has to move.

use std::path::Path;

use domain::Timestamp;

use super::group::{Group, Grouping};
use super::lines::{Digested, Lines};
use super::{ImportError, RecordedAt};

/// Lines during which a simulated clock stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stretch {
    /// Its first line.
    pub(super) first_line: u64,
    /// What the clock says during it: the latest time of its lines.
    pub(super) clock: Timestamp,
}

/// So many lines are sent between two moves of a simulated clock where `recordedat` comes from the source. A move waits for
/// the head of the log, and so the lines behind it wait.
const SOURCE_STRETCH_LINES: u64 = 4096;

impl RecordedAt {
    /// Whether a simulated clock may stand still from `stretch` to a line at `time`.
    fn is_same_stretch(self, stretch: Stretch, line: u64, time: Timestamp) -> bool {
        const DAY_MICROS: i64 = 86_400_000_000;
        let day = |at: Timestamp| at.unix_micros().div_euclid(DAY_MICROS);
        match self {
            Self::Clock => day(stretch.clock) == day(time),
            // What is recorded is given: the clock only has to be ahead of it.
            Self::Source => line - stretch.first_line < SOURCE_STRETCH_LINES,
        }
    }
}

/// What a file holds.
#[derive(Debug, Clone)]
pub(super) struct Survey {
    pub(super) file: Digested,
    /// Number of the last line.
    pub(super) lines: u64,
    pub(super) events: u64,
    pub(super) first_time: Option<Timestamp>,
    pub(super) stretches: Vec<Stretch>,
}

impl Survey {
    /// Reads the whole file.
    ///
    /// # Errors
    /// The first bad line, or that the file cannot be read.
    pub(super) fn of(path: &Path, recorded_at: RecordedAt) -> Result<Self, ImportError> {
        let mut survey = Self {
            file: Digested { sha256: [0; 32], bytes: 0 },
            lines: 0,
            events: 0,
            first_time: None,
            stretches: Vec::new(),
        };
        survey.file = each_group(path, recorded_at, |group| {
            survey.add(&group, recorded_at);
            true
        })?;
        Ok(survey)
    }

    fn add(&mut self, group: &Group, recorded_at: RecordedAt) {
        self.lines = group.last_line;
        self.events += u64::try_from(group.events.len()).expect("a group has few events");
        self.first_time = self.first_time.or(group.time);
        let Some(time) = group.time else { return };
        match self.stretches.last_mut() {
            Some(stretch) if recorded_at.is_same_stretch(*stretch, group.first_line, time) => stretch.clock = time,
            _ => self.stretches.push(Stretch { first_line: group.first_line, clock: time }),
        }
    }
}

/// Reads a file group by group until `each` says no; returns what the whole file is.
pub(super) fn each_group(
    path: &Path,
    recorded_at: RecordedAt,
    mut each: impl FnMut(Group) -> bool,
) -> Result<Digested, ImportError> {
    let unreadable = |source| ImportError::Read { path: path.to_owned(), source };
    let mut lines = Lines::open(path).map_err(unreadable)?;
    let mut grouping = Grouping::new(recorded_at == RecordedAt::Source);
    while let Some((number, line)) = lines.next()? {
        if let Some(group) = grouping.take(number, line)?
            && !each(group)
        {
            return lines.finish().map_err(unreadable);
        }
    }
    if let Some(group) = grouping.finish() {
        each(group);
    }
    lines.finish().map_err(unreadable)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn the_clock_moves_once_in_many_lines_or_once_a_day_and_never_back() {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        let times = ["2020-01-01", "2020-01-02", "2019-12-01", "2020-02-01", "2020-02-01"];
        for (id, time) in times.iter().enumerate() {
            writeln!(
                file,
                r#"{{"specversion":"1.0","id":"{id}","source":"/s","type":"t","subject":"x","time":"{time}T00:00:00Z"}}"#
            )
            .expect("written");
        }
        let at = |day: &str| Timestamp::parse_rfc3339(&format!("{day}T00:00:00Z")).expect("an instant");
        let stretches = |recorded_at| {
            let survey = Survey::of(file.path(), recorded_at).expect("valid");
            assert_eq!((survey.lines, survey.events, survey.first_time), (5, 5, Some(at("2020-01-01"))));
            survey.stretches.iter().map(|stretch| (stretch.first_line, stretch.clock)).collect::<Vec<_>>()
        };
        assert_eq!(stretches(RecordedAt::Source), [(1, at("2020-02-01"))]);
        let january = Stretch { first_line: 1, clock: at("2020-01-02") };
        for (line, same) in [(SOURCE_STRETCH_LINES, true), (SOURCE_STRETCH_LINES + 1, false)] {
            assert_eq!(RecordedAt::Source.is_same_stretch(january, line, at("2020-02-01")), same);
        }
        let days = [(1, at("2020-01-01")), (2, at("2020-01-02")), (4, at("2020-02-01"))];
        assert_eq!(stretches(RecordedAt::Clock), days);
    }
}
