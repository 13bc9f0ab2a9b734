//! The ports as a process sees them: the durable twins behind calls that can be cut, fail before the work or lose
//! its answer. They decide nothing; what a call does, the twin does at once.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use domain::append::{AppendError, AppendRequest, Appended, LogHead, Role, StreamHead};
use domain::archive::catalog::{
    Catalog, CatalogEntry, CatalogError, CatalogTotals, EvidenceStore, LivePartitions, ManifestRef, Mark, Partition,
    PruneProof, Segment, StoredCheckpoint,
};
use domain::log::{ApplyError, Direction, EventLog, FollowerLog, LogReader, ReadError};
use domain::merkle::Frontier;
use domain::record::Record;
use domain::replication::{Heard, PeerMemory};
use domain::store::{Created, Object, ObjectMeta, ObjectStore, StoreError};
use domain::twin::{MemoryLog, MemoryStore};
use domain::{Epoch, Head, Position, StreamName, StreamVersion, Timestamp};
use segment_store::LyingStore;

use crate::life::{Dice, Life};
use crate::link::Wire;

/// How long a store's adapter waits for an answer.
const STORE_PATIENCE: Duration = Duration::from_secs(30);

/// One region's database.
pub(crate) struct Database {
    pub(crate) twin: Arc<MemoryLog>,
    pub(crate) life: Arc<Life>,
}

fn lost() -> String {
    "the connection was lost".into()
}

/// A call that reads: it fails before, or not at all.
macro_rules! read {
    ($self:ident, $failed:expr, $call:expr) => {{
        $self.life.pass().await;
        if $self.life.database_fails() {
            return Err($failed);
        }
        $call.await
    }};
}

/// A call that writes: it may also be done and its answer lost.
macro_rules! write {
    ($self:ident, $before:expr, $after:expr, $call:expr) => {{
        $self.life.pass().await;
        if $self.life.database_fails() {
            return Err($before);
        }
        let done = $call.await;
        $self.life.pass().await;
        if $self.life.database_fails() {
            return Err($after);
        }
        done
    }};
}

fn unread() -> ReadError {
    ReadError::Unavailable { reason: lost() }
}

fn unmoved() -> CatalogError {
    CatalogError::Unavailable { reason: lost() }
}

fn unapplied() -> ApplyError {
    ApplyError::Unavailable { reason: lost() }
}

#[async_trait]
impl LogReader for Database {
    async fn log_head(&self) -> Result<LogHead, ReadError> {
        read!(self, unread(), self.twin.log_head())
    }

    async fn read_log(&self, from: Position, direction: Direction, limit: usize) -> Result<Vec<Record>, ReadError> {
        read!(self, unread(), self.twin.read_log(from, direction, limit))
    }

    async fn read_stream(
        &self,
        stream: &StreamName,
        from: StreamVersion,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<Record>, ReadError> {
        read!(self, unread(), self.twin.read_stream(stream, from, direction, limit))
    }

    async fn stream_head(&self, stream: &StreamName) -> Result<Option<StreamHead>, ReadError> {
        read!(self, unread(), self.twin.stream_head(stream))
    }

    async fn streams(
        &self,
        category: &str,
        after: Option<&StreamName>,
        limit: usize,
    ) -> Result<Vec<(StreamName, StreamHead)>, ReadError> {
        read!(self, unread(), self.twin.streams(category, after, limit))
    }

    async fn find_event(&self, source: &str, id: &str) -> Result<Option<Position>, ReadError> {
        read!(self, unread(), self.twin.find_event(source, id))
    }

    async fn head_as_of(&self, at: Timestamp) -> Result<Head, ReadError> {
        read!(self, unread(), self.twin.head_as_of(at))
    }

    async fn wait_beyond(&self, seen: Head) -> Result<Head, ReadError> {
        read!(self, unread(), self.twin.wait_beyond(seen))
    }
}

#[async_trait]
impl EventLog for Database {
    async fn append(&self, request: AppendRequest) -> Result<Appended, AppendError> {
        let before = AppendError::Unavailable { reason: lost(), retry_after_seconds: None };
        write!(self, before, AppendError::Indeterminate { reason: lost() }, self.twin.append(request))
    }

    async fn consumer_checkpoint(&self, consumer: &str) -> Result<u64, ReadError> {
        read!(self, unread(), self.twin.consumer_checkpoint(consumer))
    }
}

#[async_trait]
impl FollowerLog for Database {
    async fn apply_keeping(&self, records: &[Record], kept: &[Position]) -> Result<Head, ApplyError> {
        write!(self, unapplied(), unapplied(), self.twin.apply_keeping(records, kept))
    }

    async fn kept_ids(&self, first: Position, last: Position) -> Result<Vec<Position>, ReadError> {
        read!(self, unread(), self.twin.kept_ids(first, last))
    }

    async fn change_role(&self, from: (Epoch, Role), to: (Epoch, Role)) -> Result<LogHead, ApplyError> {
        write!(self, unapplied(), unapplied(), self.twin.change_role(from, to))
    }
}

#[async_trait]
impl Catalog for Database {
    async fn segments(&self) -> Result<Vec<CatalogEntry>, CatalogError> {
        read!(self, unmoved(), self.twin.segments())
    }

    async fn segments_between(&self, first: Position, last: Position) -> Result<Vec<CatalogEntry>, CatalogError> {
        read!(self, unmoved(), self.twin.segments_between(first, last))
    }

    async fn last_segment(&self) -> Result<Option<CatalogEntry>, CatalogError> {
        read!(self, unmoved(), self.twin.last_segment())
    }

    async fn segment_as_of(&self, at: Timestamp) -> Result<Option<CatalogEntry>, CatalogError> {
        read!(self, unmoved(), self.twin.segment_as_of(at))
    }

    async fn unmarked(&self, mark: Mark, from: Position, limit: usize) -> Result<Vec<CatalogEntry>, CatalogError> {
        read!(self, unmoved(), self.twin.unmarked(mark, from, limit))
    }

    async fn least_recently_verified(&self, bytes: u64) -> Result<Vec<CatalogEntry>, CatalogError> {
        read!(self, unmoved(), self.twin.least_recently_verified(bytes))
    }

    async fn totals(&self) -> Result<CatalogTotals, CatalogError> {
        read!(self, unmoved(), self.twin.totals())
    }

    async fn segment_holding(&self, position: Position) -> Result<Option<CatalogEntry>, CatalogError> {
        read!(self, unmoved(), self.twin.segment_holding(position))
    }

    async fn last_manifest(&self) -> Result<Option<ManifestRef>, CatalogError> {
        read!(self, unmoved(), self.twin.last_manifest())
    }

    async fn accept(&self, after: Option<ManifestRef>, step: ManifestRef, add: &[Segment]) -> Result<(), CatalogError> {
        write!(self, unmoved(), unmoved(), self.twin.accept(after, step, add))
    }

    async fn wind_back(&self, last: ManifestRef, to: Option<ManifestRef>) -> Result<(), CatalogError> {
        write!(self, unmoved(), unmoved(), self.twin.wind_back(last, to))
    }

    async fn mark_verified(&self, first: Position, at: Timestamp) -> Result<(), CatalogError> {
        write!(self, unmoved(), unmoved(), self.twin.mark_verified(first, at))
    }

    async fn mark_confirmed(&self, first: Position, at: Timestamp) -> Result<(), CatalogError> {
        write!(self, unmoved(), unmoved(), self.twin.mark_confirmed(first, at))
    }
}

#[async_trait]
impl EvidenceStore for Database {
    async fn frontier_at_most(&self, size: Head) -> Result<Frontier, CatalogError> {
        read!(self, unmoved(), self.twin.frontier_at_most(size))
    }

    async fn save_frontier(&self, frontier: &Frontier) -> Result<(), CatalogError> {
        write!(self, unmoved(), unmoved(), self.twin.save_frontier(frontier))
    }

    async fn newest_checkpoint(&self, cosigned: bool) -> Result<Option<StoredCheckpoint>, CatalogError> {
        read!(self, unmoved(), self.twin.newest_checkpoint(cosigned))
    }

    async fn save_checkpoint(&self, checkpoint: &StoredCheckpoint) -> Result<(), CatalogError> {
        write!(self, unmoved(), unmoved(), self.twin.save_checkpoint(checkpoint))
    }
}

#[async_trait]
impl LivePartitions for Database {
    async fn partitions(&self) -> Result<Vec<Partition>, CatalogError> {
        read!(self, unmoved(), self.twin.partitions())
    }

    async fn consumers(&self) -> Result<Vec<(String, u64)>, CatalogError> {
        read!(self, unmoved(), self.twin.consumers())
    }

    async fn prune(&self, proof: PruneProof) -> Result<(), CatalogError> {
        write!(self, unmoved(), unmoved(), self.twin.prune(proof))
    }
}

#[async_trait]
impl PeerMemory for Database {
    async fn heard(&self) -> Result<Option<Heard>, CatalogError> {
        read!(self, unmoved(), self.twin.heard())
    }

    async fn hear(&self, heard: Heard) -> Result<(), CatalogError> {
        write!(self, unmoved(), unmoved(), self.twin.hear(heard))
    }
}

/// A bucket as one region reaches it.
pub(crate) struct Reach {
    pub(crate) bucket: Arc<LyingStore<MemoryStore>>,
    pub(crate) life: Arc<Life>,
    /// What lies between; `None` for the own bucket.
    pub(crate) wire: Option<Arc<Wire>>,
    /// Calls that never come back.
    pub(crate) hangs: Arc<Dice>,
}

impl Reach {
    async fn bucket(&self, key: &str) -> Result<&LyingStore<MemoryStore>, StoreError> {
        self.life.pass().await;
        let unavailable = |reason: &str| StoreError::Unavailable { key: key.into(), reason: reason.into() };
        if self.wire.as_ref().is_some_and(|wire| !wire.reaches_buckets()) {
            return Err(unavailable("no route to host"));
        }
        if self.hangs.is_hit() {
            let never = tokio::time::timeout(STORE_PATIENCE, pending::<()>()).await;
            return Err(unavailable(&never.expect_err("nothing comes").to_string()));
        }
        Ok(&self.bucket)
    }
}

#[async_trait]
impl ObjectStore for Reach {
    async fn create(&self, key: &str, bytes: &[u8]) -> Result<Created, StoreError> {
        self.bucket(key).await?.create(key, bytes).await
    }

    async fn replace(&self, key: &str, etag: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.bucket(key).await?.replace(key, etag, bytes).await
    }

    async fn get(&self, key: &str) -> Result<Object, StoreError> {
        self.bucket(key).await?.get(key).await
    }

    async fn get_range(&self, key: &str, offset: u64, bytes: u64) -> Result<Vec<u8>, StoreError> {
        self.bucket(key).await?.get_range(key, offset, bytes).await
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, StoreError> {
        self.bucket(key).await?.head(key).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<ObjectMeta>, StoreError> {
        self.bucket(prefix).await?.list(prefix, after, limit).await
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.bucket(key).await?.delete(key).await
    }
}
