//! A test between a log and its callers: reads that are slow, counted, wrong or fail, appends whose replies are lost, and what
//! happens beside a change of role.

use std::sync::Arc;

use async_trait::async_trait;

use crate::append::{AppendError, AppendRequest, Appended, LogHead, Role, StreamHead};
use crate::log::{ApplyError, Direction, EventLog, FollowerLog, LogReader, ReadError};
use crate::record::Record;
use crate::{Epoch, Head, Position, StreamName, StreamVersion, Timestamp};

/// What a test does with calls on their way to `log`. Each method that is left out lets its call through.
#[async_trait]
pub trait Between: Send + Sync {
    /// [`LogReader::read_log`].
    async fn read_log(
        &self,
        log: &dyn LogReader,
        from: Position,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<Record>, ReadError> {
        log.read_log(from, direction, limit).await
    }

    /// [`LogReader::read_stream`].
    async fn read_stream(
        &self,
        log: &dyn LogReader,
        stream: &StreamName,
        from: StreamVersion,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<Record>, ReadError> {
        log.read_stream(stream, from, direction, limit).await
    }

    /// [`LogReader::head_as_of`].
    async fn head_as_of(&self, log: &dyn LogReader, at: Timestamp) -> Result<Head, ReadError> {
        log.head_as_of(at).await
    }

    /// [`LogReader::wait_beyond`].
    async fn wait_beyond(&self, log: &dyn LogReader, seen: Head) -> Result<Head, ReadError> {
        log.wait_beyond(seen).await
    }

    /// [`EventLog::append`].
    async fn append(&self, log: &dyn EventLog, request: AppendRequest) -> Result<Appended, AppendError> {
        log.append(request).await
    }

    /// [`FollowerLog::change_role`].
    async fn change_role(
        &self,
        log: &dyn FollowerLog,
        from: (Epoch, Role),
        to: (Epoch, Role),
    ) -> Result<LogHead, ApplyError> {
        log.change_role(from, to).await
    }
}

/// A log with a test in front of it. What no test has changed yet is not in [`Between`] and goes straight through.
pub struct Interposed<L, B> {
    /// The log.
    pub log: Arc<L>,
    /// The test.
    pub between: B,
}

#[async_trait]
impl<L: LogReader, B: Between> LogReader for Interposed<L, B> {
    async fn log_head(&self) -> Result<LogHead, ReadError> {
        self.log.log_head().await
    }

    async fn read_log(&self, from: Position, direction: Direction, limit: usize) -> Result<Vec<Record>, ReadError> {
        self.between.read_log(&*self.log, from, direction, limit).await
    }

    async fn read_stream(
        &self,
        stream: &StreamName,
        from: StreamVersion,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<Record>, ReadError> {
        self.between.read_stream(&*self.log, stream, from, direction, limit).await
    }

    async fn stream_head(&self, stream: &StreamName) -> Result<Option<StreamHead>, ReadError> {
        self.log.stream_head(stream).await
    }

    async fn streams(
        &self,
        category: &str,
        after: Option<&StreamName>,
        limit: usize,
    ) -> Result<Vec<(StreamName, StreamHead)>, ReadError> {
        self.log.streams(category, after, limit).await
    }

    async fn find_event(&self, source: &str, id: &str) -> Result<Option<Position>, ReadError> {
        self.log.find_event(source, id).await
    }

    async fn head_as_of(&self, at: Timestamp) -> Result<Head, ReadError> {
        self.between.head_as_of(&*self.log, at).await
    }

    async fn wait_beyond(&self, seen: Head) -> Result<Head, ReadError> {
        self.between.wait_beyond(&*self.log, seen).await
    }
}

#[async_trait]
impl<L: EventLog, B: Between> EventLog for Interposed<L, B> {
    async fn append(&self, request: AppendRequest) -> Result<Appended, AppendError> {
        self.between.append(&*self.log, request).await
    }

    async fn consumer_checkpoint(&self, consumer: &str) -> Result<u64, ReadError> {
        self.log.consumer_checkpoint(consumer).await
    }
}

#[async_trait]
impl<L: FollowerLog, B: Between> FollowerLog for Interposed<L, B> {
    async fn apply_keeping(&self, records: &[Record], kept: &[Position]) -> Result<Head, ApplyError> {
        self.log.apply_keeping(records, kept).await
    }

    async fn kept_ids(&self, first: Position, last: Position) -> Result<Vec<Position>, ReadError> {
        self.log.kept_ids(first, last).await
    }

    async fn change_role(&self, from: (Epoch, Role), to: (Epoch, Role)) -> Result<LogHead, ApplyError> {
        self.between.change_role(&*self.log, from, to).await
    }
}
