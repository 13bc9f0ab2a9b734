//! The archive in memory: what a log has pruned.

use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use crate::log::{Direction, ReadError};
use crate::record::Record;
use crate::tiered::ArchiveReader;
use crate::{Head, Position, StreamName, StreamVersion, Timestamp};

/// The archive answers with this many records at most: whoever reads has to go on.
const PAGE_RECORDS: usize = 3;

/// Records from position 1 on, without a hole.
#[derive(Debug, Default)]
pub struct MemoryArchive {
    records: Mutex<Vec<Record>>,
}

impl MemoryArchive {
    /// An archive of these records.
    #[must_use]
    pub fn of(records: Vec<Record>) -> Self {
        Self { records: Mutex::new(records) }
    }

    /// Takes the records that follow those that are there.
    pub fn extend(&self, records: impl IntoIterator<Item = Record>) {
        self.locked().extend(records);
    }

    /// All records, by position.
    #[must_use]
    pub fn records(&self) -> Vec<Record> {
        self.locked().clone()
    }

    /// Puts `record` in the place of the one at its position, as a removal does; `false` if there is none.
    pub fn replace(&self, record: Record) -> bool {
        let mut records = self.locked();
        let there = records.iter_mut().find(|there| there.position() == record.position());
        there.map(|there| *there = record).is_some()
    }

    fn locked(&self) -> MutexGuard<'_, Vec<Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A page of those that `wanted` wants, in `direction`.
    fn page(&self, direction: Direction, limit: usize, wanted: impl Fn(&Record) -> bool) -> Vec<Record> {
        let records = self.locked();
        let (wanted, limit) = (records.iter().filter(|record| wanted(record)), limit.min(PAGE_RECORDS));
        match direction {
            Direction::Forward => wanted.take(limit).cloned().collect(),
            Direction::Backward => wanted.rev().take(limit).cloned().collect(),
        }
    }
}

#[async_trait]
impl ArchiveReader for MemoryArchive {
    async fn read_log(&self, from: Position, direction: Direction, limit: usize) -> Result<Vec<Record>, ReadError> {
        Ok(self.page(direction, limit, |record| match direction {
            Direction::Forward => record.position() >= from,
            Direction::Backward => record.position() <= from,
        }))
    }

    async fn read_stream(
        &self,
        stream: &StreamName,
        newest: Position,
        from: StreamVersion,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<Record>, ReadError> {
        let inside = |record: &Record| match direction {
            Direction::Forward => record.version() >= from,
            Direction::Backward => record.version() <= from,
        };
        Ok(self.page(direction, limit, |record| {
            record.stream() == stream && record.position() <= newest && inside(record)
        }))
    }

    async fn head_as_of(&self, at: Timestamp) -> Result<Head, ReadError> {
        let records = self.locked();
        let newest = records.iter().take_while(|record| record.recorded_at() <= at).last();
        Ok(newest.map_or(Head::EMPTY, |record| record.position().as_head()))
    }
}
