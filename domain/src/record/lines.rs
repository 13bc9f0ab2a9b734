//! Records as their lines: what is read to be sent on is spelled once, and never held as records.

use super::{Assigned, Record, write, write_event};
use crate::Position;
use crate::event::{self, EventError, EventRef};

/// About as many bytes a line has besides what was appended: names, punctuation, what the log assigns.
const ENVELOPE_BYTES: usize = 256;

/// Records that follow each other, as their lines: each ends with LF.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lines {
    bytes: Vec<u8>,
    count: usize,
    first: Option<Position>,
    last: Option<Position>,
    /// The first position between them that is missing.
    hole: Option<Position>,
}

impl Lines {
    /// The lines of `records`.
    #[must_use]
    pub fn of(records: &[Record]) -> Self {
        let mut lines = Self::default();
        records.iter().for_each(|record| lines.push(record));
        lines
    }

    /// Makes room for `count` more, of events of so many bytes ([`NewEvent::bytes`](crate::event::NewEvent::bytes)) together.
    pub fn reserve(&mut self, count: usize, bytes: usize) {
        self.bytes.reserve(bytes + count * ENVELOPE_BYTES);
    }

    /// Writes one more.
    pub fn push(&mut self, record: &Record) {
        self.begin(record.position());
        write(record, &mut self.bytes);
        self.end(record.position());
    }

    /// Writes one more that is an event, with its extensions as the one JSON object that they are stored as.
    ///
    /// # Errors
    /// What is wrong with that object. The lines are of no further use then.
    pub fn push_event(&mut self, assigned: Assigned, event: &EventRef<'_>, extensions: &str) -> Result<(), EventError> {
        self.begin(assigned.position);
        let members = |out: &mut Vec<u8>| event::write_members_of(extensions, out);
        write_event(Some(assigned), event, members, &mut self.bytes)?;
        self.end(assigned.position);
        Ok(())
    }

    /// Puts `more` behind them.
    pub fn append(&mut self, more: Self) {
        let Some(first) = more.first else { return };
        self.begin(first);
        self.hole = self.hole.or(more.hole);
        self.bytes.extend_from_slice(&more.bytes);
        self.count += more.count;
        self.last = more.last;
    }

    /// Before something that begins at `position`.
    fn begin(&mut self, position: Position) {
        let expected = self.last.map_or(position, Position::next);
        if expected != position {
            self.hole.get_or_insert(expected);
        }
        self.first.get_or_insert(position);
    }

    /// After the line of `position`.
    fn end(&mut self, position: Position) {
        self.bytes.push(b'\n');
        self.count += 1;
        self.last = Some(position);
    }

    /// The first position that is missing, where they are to begin at `from`.
    #[must_use]
    pub fn hole(&self, from: Position) -> Option<Position> {
        if self.first == Some(from) { self.hole } else { Some(from) }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Position of the last one.
    #[must_use]
    pub fn last(&self) -> Option<Position> {
        self.last
    }

    /// All of them.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The same, to keep.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}
