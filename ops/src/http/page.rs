//! Pages of an answer: how many records one may have, and that there is no hole between them. It reads nothing.

use domain::Position;
use domain::log::{Direction, ReadError};
use domain::record::Lines;

/// Records read from the log at a time. More cost memory for each reader.
pub(super) const PAGE_RECORDS: usize = 1024;

/// How many records a page may have so that it stays in its range.
pub(super) fn page_limit(left: u64, newest: u64, next: u64, direction: Direction) -> usize {
    let there = match direction {
        Direction::Forward => newest - next + 1,
        Direction::Backward => next,
    };
    usize::try_from(left.min(there)).unwrap_or(PAGE_RECORDS).min(PAGE_RECORDS)
}

/// Checks that `numbers` start at `next` and have no hole; returns what comes after them (0: nothing).
pub(super) fn dense(
    numbers: impl Iterator<Item = u64>,
    next: u64,
    direction: Direction,
    what: &str,
) -> Result<u64, ReadError> {
    let mut expected = next;
    let mut any = false;
    for number in numbers {
        if number != expected {
            let reason = format!("{what} {expected} is missing, {number} stands in its place");
            return Err(ReadError::Corrupt { reason });
        }
        any = true;
        expected = match direction {
            Direction::Forward => number + 1,
            Direction::Backward => number - 1,
        };
    }
    if any { Ok(expected) } else { Err(ReadError::Corrupt { reason: format!("{what} {next} is missing") }) }
}

/// The same of lines, of which at most `limit` were asked for.
pub(super) fn dense_lines(lines: &Lines, next: Position, limit: usize) -> Result<Position, ReadError> {
    let reason = match lines.hole(next) {
        Some(missing) => format!("position {missing} is missing"),
        None if lines.count() > limit => format!("{} records where at most {limit} were asked for", lines.count()),
        None => return Ok(lines.last().map_or(next, Position::next)),
    };
    Err(ReadError::Corrupt { reason })
}

#[cfg(test)]
pub(super) mod tests {
    use domain::merkle::Hash;
    use domain::record::{Record, RemovedBy, RemovedRecord};
    use domain::{StreamName, StreamVersion, Timestamp};

    use super::*;

    fn at(position: u64) -> Position {
        Position::new(position).expect("from 1")
    }

    /// Records at these positions.
    pub(in crate::http) fn records(positions: impl IntoIterator<Item = u64>) -> Vec<Record> {
        let record = |position| {
            Record::Removed(RemovedRecord {
                position: at(position),
                version: StreamVersion::FIRST,
                stream: StreamName::parse("a-1").expect("a name"),
                recorded_at: Timestamp::parse_rfc3339("2026-01-01T00:00:00Z").expect("an instant"),
                removed: RemovedBy::Retention,
                certificate: "c".into(),
                leaf: Hash::of(b""),
            })
        };
        positions.into_iter().map(record).collect()
    }

    fn lines(positions: &[u64]) -> Lines {
        Lines::of(&records(positions.iter().copied()))
    }

    #[test]
    fn lines_with_a_hole_are_no_answer() {
        assert_eq!(dense_lines(&lines(&[4, 5, 6]), at(4), 3).expect("dense"), at(7));
        assert!(dense_lines(&lines(&[4, 5, 6]), at(4), 2).is_err(), "more than was asked for");
        let holes =
            [(&[][..], 4), (&[4, 6], 4), (&[5, 6], 4), (&[4, 5], 5), (&[2, 3], 4), (&[4, 5, 5, 7], 4), (&[4, 4], 4)];
        for (positions, next) in holes {
            assert!(dense_lines(&lines(positions), at(next), 9).is_err(), "{positions:?} from {next}");
        }
        let mut parts = lines(&[4, 5]);
        parts.append(Lines::default());
        parts.append(lines(&[6, 7]));
        assert_eq!(parts, lines(&[4, 5, 6, 7]));
        parts.append(lines(&[9]));
        assert_eq!(parts.hole(at(4)), Some(at(8)));
    }
}
