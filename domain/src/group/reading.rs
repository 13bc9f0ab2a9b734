//! What a group reads of the log: what to list next, and the records of what is handed out. Both through the one
//! [`LogReader`] of live log and archive, with bounded work and memory; nothing is stored here.

use std::collections::VecDeque;

use super::{Delivered, Group, TAKE_EVENTS_MAX};
use crate::log::{Direction, LogReader, ReadError};
use crate::record::Record;
use crate::tiered::{ANSWER_BYTES, bytes_of};
use crate::{Head, Position, StreamName};

/// Events that stand so near each other are searched for together: to look at so many positions costs about what one more
/// question does.
const NEAR_POSITIONS: u64 = 128;

/// What a search after a group's `listed_to` has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// Up to here it has looked.
    pub to: Head,
    /// What the group wants of that, by position.
    pub events: Vec<(Position, StreamName)>,
}

/// Looks through the next part of the log for up to `room` events that `group` wants. `None`: there is nothing to look at.
///
/// # Errors
/// As [`LogReader::search_log`].
pub async fn look_on(
    reader: &dyn LogReader,
    group: &Group,
    listed_to: Head,
    room: usize,
) -> Result<Option<Listing>, ReadError> {
    let limit = room.clamp(1, TAKE_EVENTS_MAX);
    let found = reader.search_log(listed_to.next(), Direction::Forward, group.filter(), limit).await?;
    let Some(to) = found.to else { return Ok(None) };
    let to = to.position.as_head();
    let events: Vec<(Position, StreamName)> =
        found.records.iter().map(|record| (record.position(), record.stream().clone())).collect();
    let positions = [listed_to.newest(), to.newest()];
    let inside = |position: &Position| Some(*position) > positions[0] && Some(*position) <= positions[1];
    if to > listed_to && events.is_sorted_by(|one, other| one.0 < other.0) && events.iter().all(|(at, _)| inside(at)) {
        return Ok(Some(Listing { to, events }));
    }
    Err(ReadError::Corrupt { reason: format!("a search after {listed_to} says that it looked up to {to}") })
}

/// The records of `events` of `group`, in their order, until they have many bytes: the first at least. Those that stand near
/// each other are read together; it jumps over what lies between the others.
///
/// # Errors
/// As [`LogReader::search_log`]; `Corrupt` where a record is not where it was listed.
pub async fn records_at(reader: &dyn LogReader, group: &Group, events: &[Delivered]) -> Result<Vec<Record>, ReadError> {
    let mut wanted: VecDeque<Position> = events.iter().map(|event| event.position).collect();
    let (mut records, mut bytes) = (Vec::with_capacity(wanted.len()), 0);
    while let Some(next) = wanted.front().copied().filter(|_| bytes < ANSWER_BYTES) {
        let found = reader.search_log(next, Direction::Forward, group.filter(), near(&wanted)).await?;
        let mut found = found.records;
        if found.first().is_none_or(|first| first.position() != next) {
            // What was removed since it was listed has no type any more, and still has its place.
            found = reader.read_log(next, Direction::Forward, 1).await?;
        }
        if found.first().is_none_or(|first| first.position() != next) {
            return Err(ReadError::Corrupt { reason: format!("position {next} was listed and is not there") });
        }
        for record in found {
            // Between what was found and matches, something may stand that was removed: it is looked for by itself.
            if bytes < ANSWER_BYTES && wanted.front() == Some(&record.position()) {
                wanted.pop_front();
                bytes += bytes_of(&record);
                records.push(record);
            }
        }
    }
    Ok(records)
}

/// How many positions stand together at the front. A search for so many ends with the last of them at the latest.
fn near(wanted: &VecDeque<Position>) -> usize {
    let pairs = wanted.iter().zip(wanted.iter().skip(1));
    1 + pairs.take_while(|(one, next)| next.get() - one.get() <= NEAR_POSITIONS).count()
}
