//! What every search of a log does, whatever the log is made of and wherever its records are.

use crate::filter::{Filter, SEARCH_POSITIONS_MAX, SearchedTo};
use crate::log::{Direction, LogReader};
use crate::record::Record;
use crate::{Head, Position};

/// A search walks the whole log, finds what [`Filter::matches`] wants of what a read gives, in order, each once, and says
/// after each step where it has come to.
///
/// # Panics
/// Where a search and a read do not agree.
pub async fn agrees(log: &dyn LogReader, filter: &Filter) {
    let all = read(log).await;
    let head = Head::new(all.len() as u64).expect("small");
    for (direction, from) in [(Direction::Forward, Some(Position::FIRST)), (Direction::Backward, head.newest())] {
        let mut wanted: Vec<&Record> = all.iter().filter(|record| filter.matches(record)).collect();
        if direction == Direction::Backward {
            wanted.reverse();
        }
        for limit in [2, usize::MAX >> 1] {
            let found = walk(log, &all, (from, direction), filter, limit).await;
            assert!(found.iter().eq(wanted.iter().copied()), "{direction:?} by {limit}, {filter:?}: {found:?}");
        }
    }
    let above = log.search_log(head.next(), Direction::Forward, filter, 1).await.expect("readable");
    assert!(above.records.is_empty() && above.to.is_none(), "there is nothing above the head");
}

/// Every record of a log, from position 1 on.
///
/// # Panics
/// If the log cannot be read.
pub async fn read(log: &dyn LogReader) -> Vec<Record> {
    let mut all: Vec<Record> = Vec::new();
    loop {
        let next = all.last().map_or(Position::FIRST, |record| record.position().next());
        match log.read_log(next, Direction::Forward, 1000).await.expect("readable") {
            part if part.is_empty() => return all,
            part => all.extend(part),
        }
    }
}

/// All that one search after the other finds, until there is nothing more to look at.
async fn walk(
    log: &dyn LogReader,
    all: &[Record],
    (from, direction): (Option<Position>, Direction),
    filter: &Filter,
    limit: usize,
) -> Vec<Record> {
    let (mut found, mut next) = (Vec::new(), from);
    while let Some(from) = next {
        let part = log.search_log(from, direction, filter, limit).await.expect("readable");
        let Some(to) = part.to else { break };
        let looked_at = to.position.get().abs_diff(from.get()) + 1;
        assert!(looked_at <= SEARCH_POSITIONS_MAX as u64 && part.records.len() <= limit, "its work is bounded");
        let last = usize::try_from(to.position.leaf()).ok().and_then(|index| all.get(index)).expect("it is in the log");
        assert_eq!(to, SearchedTo::of(last), "it says which record it looked at last");
        assert_ne!(to.next(direction), next, "it goes on");
        next = to.next(direction);
        found.extend(part.records);
    }
    found
}
