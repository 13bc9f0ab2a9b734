//! How far an import came that was begun before another region took over. Checkpoints of consumers belong to a region and are
//! not shipped; events are, and what an import brought stands in the log in its order, behind its opening event. So it is
//! looked for there, one event after the other: a forced failover may have kept the first part of a group, and ids of events
//! that are archived are not known to the log any more.

use std::collections::VecDeque;

use domain::Position;
use domain::event::NewEvent;
use domain::log::{Direction, LogReader, ReadError};
use domain::record::Record;
use tokio::sync::mpsc;

use super::send::{Place, READ_AHEAD};
use super::survey::each_group;
use super::{Import, ImportError};

/// Records that are read at once.
const PAGE_RECORDS: usize = 1024;

/// Walks along what the log has behind an opening event.
pub(super) struct Brought<'a> {
    reader: &'a dyn LogReader,
    next: Position,
    page: VecDeque<Record>,
}

impl<'a> Brought<'a> {
    /// What stands behind `opening`.
    pub(super) fn behind(reader: &'a dyn LogReader, opening: Position) -> Self {
        Self { reader, next: opening.next(), page: VecDeque::new() }
    }

    /// Whether `event` stands behind those that were asked for before. After the first that does not, none does.
    pub(super) async fn has(&mut self, event: &NewEvent) -> Result<bool, ReadError> {
        while let Some(record) = self.next().await? {
            if matches!(&record, Record::Event(recorded) if event.says_the_same(&recorded.event)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn next(&mut self) -> Result<Option<Record>, ReadError> {
        if self.page.is_empty() {
            self.page = self.reader.read_log(self.next, Direction::Forward, PAGE_RECORDS).await?.into();
        }
        let record = self.page.pop_front();
        self.next = record.as_ref().map_or(self.next, |record| record.position().next());
        Ok(record)
    }
}

/// How far an import of this file came whose opening event stands at `opening`.
pub(super) async fn place(import: &Import, opening: Position) -> Result<Place, ImportError> {
    let (path, recorded_at) = (import.file.clone(), import.recorded_at);
    let (groups, mut read) = mpsc::channel(READ_AHEAD);
    let reading = tokio::task::spawn_blocking(move || {
        each_group(&path, recorded_at, |group| groups.blocking_send(group).is_ok())
    });
    let (mut brought, mut place) = (Brought::behind(&*import.reader, opening), Place::default());
    'all: while let Some(group) = read.recv().await {
        for event in &group.events {
            if !brought.has(event).await? {
                break 'all;
            }
            place.partly += 1;
        }
        (place.done, place.partly) = (group.last_line, 0);
    }
    drop(read);
    reading.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
    Ok(place)
}
