//! Pages of an answer: how many records one may have, and that there is no hole between them. It reads nothing.

use domain::log::{Direction, ReadError};
use domain::record::Record;

/// Records read from the log at a time. More cost memory for each reader.
pub(super) const PAGE_RECORDS: usize = 1024;

pub(super) fn records_u64(records: &[Record]) -> u64 {
    u64::try_from(records.len()).expect("a page has few records")
}

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
