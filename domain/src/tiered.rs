//! Live log and archive read as one: before and after pruning the same bytes, also across the boundary.
//!
//! The live log is asked first and the archive only for what the live log no longer has. In this order nothing
//! can slip through: what was pruned in between is in the archive already (ARC-1). What neither has is
//! [`ReadError::Corrupt`], never a shorter answer.

use std::sync::Arc;

use async_trait::async_trait;

use crate::append::{LogHead, StreamHead};
use crate::filter::{Filter, SEARCH_POSITIONS_MAX, Searched};
use crate::log::{Direction, LogReader, ReadError};
use crate::record::{Lines, Record};
use crate::{Head, Position, StreamName, StreamVersion, Timestamp};

/// An answer that has this many bytes of events ends, if it has at least one record: several parts are put
/// together only below it. A larger one costs memory in every reader at once.
pub const ANSWER_BYTES: usize = 4 << 20;

/// Reads of the archive. Every record that comes out was compared with what was stored (ARC-4).
#[async_trait]
pub trait ArchiveReader: Send + Sync {
    /// As [`LogReader::read_log`], over the archived part of the log. Empty where `from` is above it.
    ///
    /// # Errors
    /// `Corrupt` if no good copy is left, `Unavailable`.
    async fn read_log(&self, from: Position, direction: Direction, limit: usize) -> Result<Vec<Record>, ReadError>;

    /// As [`LogReader::search_log`], over the archived part of the log: there is nothing where `from` is above it.
    ///
    /// # Errors
    /// As [`ArchiveReader::read_log`].
    async fn search_log(
        &self,
        from: Position,
        direction: Direction,
        filter: &Filter,
        limit: usize,
    ) -> Result<Searched, ReadError> {
        let records = self.read_log(from, direction, SEARCH_POSITIONS_MAX).await?;
        Ok(Searched::among(records.iter(), filter, limit))
    }

    /// As [`LogReader::read_stream`], over the archived part of the stream, whose newest event stands at
    /// `newest` or below it: from there the back links lead to the older ones.
    ///
    /// # Errors
    /// As [`ArchiveReader::read_log`].
    async fn read_stream(
        &self,
        stream: &StreamName,
        newest: Position,
        from: StreamVersion,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<Record>, ReadError>;

    /// How many events of the archive were recorded at or before `at`.
    ///
    /// # Errors
    /// As [`ArchiveReader::read_log`].
    async fn head_as_of(&self, at: Timestamp) -> Result<Head, ReadError>;
}

/// Live log and archive as one [`LogReader`].
#[derive(Clone)]
pub struct TieredLog {
    live: Arc<dyn LogReader>,
    archive: Arc<dyn ArchiveReader>,
}

/// What is read of a stream, and how far the answer has come.
struct StreamRead<'a> {
    stream: &'a StreamName,
    direction: Direction,
    limit: usize,
    /// The version wanted next; `None` below version 1.
    next: Option<StreamVersion>,
    found: Vec<Record>,
    bytes: usize,
}

impl TieredLog {
    /// Reads `live`, and what it no longer has from `archive`.
    #[must_use]
    pub fn new(live: Arc<dyn LogReader>, archive: Arc<dyn ArchiveReader>) -> Self {
        Self { live, archive }
    }

    async fn read_part(&self, from: Position, direction: Direction, limit: usize) -> Result<Vec<Record>, ReadError> {
        match self.live.read_log(from, direction, limit).await {
            Err(ReadError::Pruned { .. }) => self.archived_part(from, direction, limit).await,
            answer => answer,
        }
    }

    async fn archived_part(
        &self,
        from: Position,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<Record>, ReadError> {
        let part = self.archive.read_log(from, direction, limit).await?;
        if part.is_empty() { Err(nowhere(format_args!("position {from}"))) } else { Ok(part) }
    }

    async fn lines_part(&self, from: Position, limit: usize) -> Result<Lines, ReadError> {
        match self.live.read_lines(from, limit).await {
            Err(ReadError::Pruned { .. }) => {
                self.archived_part(from, Direction::Forward, limit).await.map(|part| Lines::of(&part))
            }
            answer => answer,
        }
    }

    /// The next part of a stream: `None` if there is no more of it.
    async fn next_part(&self, read: &StreamRead<'_>) -> Result<Option<Vec<Record>>, ReadError> {
        let (stream, direction, limit) = (read.stream, read.direction, read.limit - read.found.len());
        let Some(next) = read.next else { return Ok(None) };
        // An event appended after the first look is found by the second; what neither look finds is nowhere.
        for _look in 0..2 {
            let live = self.live.read_stream(stream, next, direction, limit).await?;
            if live.first().is_some_and(|first| direction == Direction::Backward || first.version() == next) {
                return Ok(Some(live));
            }
            let Some(head) = self.live.stream_head(stream).await? else { return Ok(None) };
            let wanted = match direction {
                Direction::Forward if next > head.version => return Ok(None),
                Direction::Forward => next,
                Direction::Backward => next.min(head.version),
            };
            // The nearest newer event that is known leads to the older ones; without one, whatever the live log
            // does not have is among what was pruned.
            let newer = read.found.last().filter(|_| direction == Direction::Backward).or(live.first());
            let newest = match newer {
                Some(newer) => before_in_stream(newer),
                None => self.live.log_head().await?.pruned.newest().map(|pruned| pruned.min(head.position)),
            };
            let Some(newest) = newest else { continue };
            let part = self.archive.read_stream(stream, newest, wanted, direction, limit).await?;
            if part.first().is_some_and(|first| first.version() == wanted) {
                return Ok(Some(part));
            }
        }
        Err(nowhere(format_args!("version {next} of {stream}")))
    }
}

impl StreamRead<'_> {
    fn is_full(&self) -> bool {
        self.found.len() >= self.limit || self.bytes >= ANSWER_BYTES
    }

    /// Takes a part whose versions must follow those found so far.
    fn take(&mut self, part: Vec<Record>) -> Result<(), ReadError> {
        for record in part {
            let version = record.version();
            let follows = self.next.is_some_and(|next| match self.direction {
                Direction::Forward => version == next,
                // The first one may be lower: the stream ends below the version that was asked for.
                Direction::Backward => version == next || (self.found.is_empty() && version < next),
            });
            if !follows {
                let reason = format!("{} has version {version} where another one belongs", self.stream);
                return Err(ReadError::Corrupt { reason });
            }
            self.next = match self.direction {
                Direction::Forward => Some(version.next()),
                Direction::Backward => StreamVersion::new(version.get() - 1),
            };
            self.bytes += bytes_of(&record);
            self.found.push(record);
        }
        Ok(())
    }
}

/// Where the newest event of a record's stream can stand that is older than the record.
fn before_in_stream(record: &Record) -> Option<Position> {
    match record {
        Record::Event(event) => event.previous,
        Record::Removed(removed) => removed.position.head_before().newest(),
    }
}

pub(crate) fn bytes_of(record: &Record) -> usize {
    match record {
        Record::Event(event) => event.event.bytes(),
        Record::Removed(_) => 0,
    }
}

fn nowhere(what: std::fmt::Arguments<'_>) -> ReadError {
    ReadError::Corrupt { reason: format!("{what} is neither in the live log nor in the archive") }
}

#[async_trait]
impl LogReader for TieredLog {
    async fn log_head(&self) -> Result<LogHead, ReadError> {
        self.live.log_head().await
    }

    async fn read_log(&self, from: Position, direction: Direction, limit: usize) -> Result<Vec<Record>, ReadError> {
        let (mut found, mut bytes, mut next) = (Vec::new(), 0, Some(from));
        while let Some(from) = next.filter(|_| found.len() < limit && bytes < ANSWER_BYTES) {
            let part = self.read_part(from, direction, limit - found.len()).await?;
            let Some(last) = part.last() else { break };
            next = match direction {
                Direction::Forward => Some(last.position().next()),
                Direction::Backward => last.position().head_before().newest(),
            };
            bytes += part.iter().map(bytes_of).sum::<usize>();
            found.extend(part);
        }
        Ok(found)
    }

    async fn read_lines(&self, from: Position, limit: usize) -> Result<Lines, ReadError> {
        let (mut found, mut next) = (Lines::default(), from);
        while found.count() < limit && found.bytes().len() < ANSWER_BYTES {
            let part = self.lines_part(next, limit - found.count()).await?;
            let Some(last) = part.last() else { break };
            next = last.next();
            found.append(part);
        }
        Ok(found)
    }

    async fn search_log(
        &self,
        from: Position,
        direction: Direction,
        filter: &Filter,
        limit: usize,
    ) -> Result<Searched, ReadError> {
        // A search may end anywhere: one that comes to the boundary ends there, and nothing is put together.
        match self.live.search_log(from, direction, filter, limit).await {
            Err(ReadError::Pruned { .. }) => {
                let found = self.archive.search_log(from, direction, filter, limit).await?;
                if found.to.is_none() { Err(nowhere(format_args!("position {from}"))) } else { Ok(found) }
            }
            answer => answer,
        }
    }

    async fn read_stream(
        &self,
        stream: &StreamName,
        from: StreamVersion,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<Record>, ReadError> {
        let mut read = StreamRead { stream, direction, limit, next: Some(from), found: Vec::new(), bytes: 0 };
        while !read.is_full() {
            let Some(part) = self.next_part(&read).await? else { break };
            read.take(part)?;
        }
        Ok(read.found)
    }

    async fn stream_head(&self, stream: &StreamName) -> Result<Option<StreamHead>, ReadError> {
        self.live.stream_head(stream).await
    }

    async fn streams(
        &self,
        category: &str,
        after: Option<&StreamName>,
        limit: usize,
    ) -> Result<Vec<(StreamName, StreamHead)>, ReadError> {
        self.live.streams(category, after, limit).await
    }

    async fn find_event(&self, source: &str, id: &str) -> Result<Option<Position>, ReadError> {
        self.live.find_event(source, id).await
    }

    async fn head_as_of(&self, at: Timestamp) -> Result<Head, ReadError> {
        match self.live.head_as_of(at).await {
            Err(ReadError::Pruned { .. }) => self.archive.head_as_of(at).await,
            answer => answer,
        }
    }

    async fn wait_beyond(&self, seen: Head) -> Result<Head, ReadError> {
        self.live.wait_beyond(seen).await
    }
}
