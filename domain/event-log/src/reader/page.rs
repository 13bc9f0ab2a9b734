//! What an answer holds, and what is missing from it: the pure part of reading.

use domain::append::StreamHead;
use domain::log::Direction;
use domain::record::{Lines, Record};
use domain::{Head, Position, StreamVersion};

use crate::rows::Values;

/// An answer is cut after this many bytes: what a reader can hold many of.
const ANSWER_BYTES_MAX: i64 = 8 << 20;

/// What an answer gathers of its rows.
pub(super) trait Answer: Default {
    /// For so many rows that will come, of about so many bytes together.
    fn make_room(&mut self, rows: usize, bytes: usize);
    fn take(&mut self, row: &Values<'_>) -> Result<(), sqlx::Error>;
}

impl Answer for Vec<Record> {
    fn make_room(&mut self, rows: usize, _bytes: usize) {
        self.reserve(rows);
    }

    fn take(&mut self, row: &Values<'_>) -> Result<(), sqlx::Error> {
        self.push(row.record()?);
        Ok(())
    }
}

impl Answer for Lines {
    fn make_room(&mut self, rows: usize, bytes: usize) {
        self.reserve(rows, bytes);
    }

    fn take(&mut self, row: &Values<'_>) -> Result<(), sqlx::Error> {
        row.line(self)
    }
}

/// The records of an answer, and what still fits.
pub(super) struct Page<G = Vec<Record>> {
    pub(super) gathered: G,
    count: usize,
    limit: usize,
    bytes: i64,
}

/// Where a record stands.
pub(super) struct Place {
    pub(super) position: Position,
    pub(super) version: StreamVersion,
}

impl<G: Answer> Page<G> {
    pub(super) fn new(limit: usize) -> Self {
        Self { gathered: G::default(), count: 0, limit, bytes: 0 }
    }

    /// Takes a row. Its bytes are counted as the statement counts them, so that both stop at the same row.
    pub(super) fn push(&mut self, row: &Values<'_>) -> Result<Place, sqlx::Error> {
        let (position, version) = row.numbers()?;
        self.gathered.take(row)?;
        (self.bytes, self.count) = (self.bytes + i64::from(row.content.bytes), self.count + 1);
        Ok(Place { position, version })
    }

    /// For so many rows that will come, of about so many bytes together.
    pub(super) fn make_room(&mut self, rows: i64, bytes: i64) {
        self.gathered.make_room(usize::try_from(rows).unwrap_or(0), usize::try_from(bytes).unwrap_or(0));
    }

    pub(super) fn is_full(&self) -> bool {
        self.count >= self.limit || self.bytes > ANSWER_BYTES_MAX
    }

    pub(super) fn bytes(&self) -> i64 {
        self.bytes
    }

    pub(super) fn rows_left(&self) -> i64 {
        i64::try_from(self.limit - self.count).unwrap_or(i64::MAX)
    }

    pub(super) fn bytes_left(&self) -> i64 {
        ANSWER_BYTES_MAX - self.bytes
    }
}

/// Halfway between a head that is known and a position that is beyond; `None` when nothing is between.
pub(super) fn middle(known: Head, beyond: Position) -> Option<Position> {
    let between = beyond.get().checked_sub(known.get() + 1)?;
    if between == 0 { None } else { Position::new(known.get() + 1 + (between - 1) / 2) }
}

/// The version that follows in reading order.
pub(super) fn after(version: StreamVersion, direction: Direction) -> Option<StreamVersion> {
    match direction {
        Direction::Forward => Some(version.next()),
        Direction::Backward => StreamVersion::new(version.get() - 1),
    }
}

/// The first version that is missing from a page of a stream. `whole` says that none of its events is pruned.
pub(super) fn gap(
    page: &Page,
    from: StreamVersion,
    direction: Direction,
    head: &StreamHead,
    whole: bool,
) -> Option<StreamVersion> {
    let start = match direction {
        Direction::Forward => from,
        Direction::Backward => from.min(head.version),
    };
    let mut next = Some(start);
    for (index, version) in page.gathered.iter().map(Record::version).enumerate() {
        // Forward, a read may begin above `from`: what is older is archived.
        let archived_before = index == 0 && !whole && direction == Direction::Forward && version > start;
        if next != Some(version) && !archived_before {
            return next.or(Some(version));
        }
        next = after(version, direction);
    }
    let missing = match direction {
        Direction::Forward => next.filter(|next| *next <= head.version),
        Direction::Backward => next.filter(|_| whole),
    };
    missing.filter(|_| !page.is_full())
}

#[cfg(test)]
mod tests {
    use domain::StreamName;
    use domain::Timestamp;
    use domain::merkle::Hash;
    use domain::record::{RemovedBy, RemovedRecord};

    use super::*;

    fn version(number: u64) -> StreamVersion {
        StreamVersion::new(number).expect("from 1")
    }

    fn at(number: u64) -> Position {
        Position::new(number).expect("from 1")
    }

    fn page(versions: &[u64], limit: usize) -> Page {
        let record = |number: &u64| {
            Record::Removed(RemovedRecord {
                position: at(*number),
                version: version(*number),
                stream: StreamName::parse("a-1").expect("a name"),
                recorded_at: Timestamp::parse_rfc3339("2026-01-01T00:00:00Z").expect("an instant"),
                removed: RemovedBy::Retention,
                certificate: "c".into(),
                leaf: Hash::of(b""),
            })
        };
        Page { gathered: versions.iter().map(record).collect(), count: versions.len(), limit, bytes: 0 }
    }

    /// What is missing of a stream of nine events.
    fn missing(versions: &[u64], from: u64, direction: Direction, whole: bool, limit: usize) -> Option<u64> {
        let head = StreamHead { version: version(9), position: at(9), first: at(1), closed: false };
        gap(&page(versions, limit), version(from), direction, &head, whole).map(StreamVersion::get)
    }

    #[test]
    fn a_page_of_a_stream_has_no_gap_between_where_it_starts_and_where_it_may_end() {
        use Direction::{Backward, Forward};
        assert_eq!(missing(&[3, 4, 5, 6, 7, 8, 9], 3, Forward, true, 99), None);
        assert_eq!(missing(&[3, 4], 3, Forward, true, 2), None, "the limit ends it");
        assert_eq!(missing(&[3, 4], 3, Forward, true, 99), Some(5), "the head is at 9");
        assert_eq!(missing(&[3, 5], 3, Forward, true, 2), Some(4));
        assert_eq!(missing(&[4, 5], 3, Forward, true, 2), Some(3));
        assert_eq!(missing(&[4, 5], 3, Forward, false, 2), None, "what is older is archived");
        assert_eq!(missing(&[8, 9, 10], 8, Forward, true, 99), None, "appended meanwhile");
        assert_eq!(missing(&[], 10, Forward, true, 99), None, "beyond the end");
        assert_eq!(missing(&[3, 2, 1], 3, Backward, true, 99), None);
        assert_eq!(missing(&[3, 2], 3, Backward, true, 99), Some(1));
        assert_eq!(missing(&[3, 2], 3, Backward, false, 99), None, "what is older is archived");
        assert_eq!(missing(&[9, 8], 12, Backward, true, 2), None, "it starts at the head");
        assert_eq!(missing(&[9, 7], 12, Backward, true, 2), Some(8));
    }

    #[test]
    fn halves_meet() {
        let head = |number| Head::new(number).expect("small");
        assert_eq!(middle(head(4), at(5)), None);
        assert_eq!(middle(head(4), at(6)), Some(at(5)));
        assert_eq!(middle(head(0), at(10)), Some(at(5)));
    }
}
