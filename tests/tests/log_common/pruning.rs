//! An archive that says whatever a test wants, and a history over it: what pruning and retries of archived requests
//! stand on.

use std::sync::Arc;

use async_trait::async_trait;
use domain::append::{LogHead, StreamHead};
use domain::archive::catalog::{
    Catalog, CatalogEntry, CatalogError, Copies, EvidenceStore, LivePartitions, ManifestRef, Partition, PruneFacts,
    PruneProof, Segment, StoredCheckpoint,
};
use domain::log::{Direction, LogReader, ReadError};
use domain::merkle::Hash;
use domain::record::Record;
use domain::{Epoch, Head, Position, StreamName, StreamVersion, Timestamp};
use event_log::PgLog;

use super::at;

/// A segment that claims the positions.
pub(crate) fn segment(first: Position, last: Position) -> Segment {
    Segment {
        first,
        last,
        epoch: Epoch::FIRST,
        sha256: Hash::of(b"segment"),
        crc32: u32::MAX,
        bytes: 1000,
        record_bytes: 5000,
        index_sha256: Hash::of(b"index"),
        index_crc32: 0,
        index_bytes: 100,
        root: Hash::of(b"root"),
        first_at: at("2020-01-01T00:00:00Z"),
        last_at: at("2020-02-01T00:00:00Z"),
    }
}

pub(crate) fn manifest(number: u64) -> ManifestRef {
    ManifestRef { epoch: Epoch::FIRST, number, sha256: Hash::of(&number.to_be_bytes()) }
}

/// Adds a segment over all positions up to `last` that no segment holds.
pub(crate) async fn seal_to(log: &PgLog, last: Position) -> Position {
    let after = log.last_manifest().await.expect("readable");
    let sealed = log.segments().await.expect("readable");
    let first = sealed.last().map_or(Position::FIRST, |entry| entry.segment.last.next());
    let step = manifest(after.map_or(1, |manifest| manifest.number + 1));
    log.accept(after, step, &[segment(first, last)]).await.expect("accepted");
    first
}

/// A checkpoint of that size that both regions signed.
pub(crate) async fn cosign(log: &PgLog, size: Head) {
    let checkpoint = StoredCheckpoint { size, root: Hash::of(b"root"), note: "a note".into(), cosigned: true };
    log.save_checkpoint(&checkpoint).await.expect("saved");
}

/// A proof that rests on nothing: what the database sees by itself is then all that protects the rows.
pub(crate) fn unfounded_proof(partition: &Partition) -> PruneProof {
    let entry = CatalogEntry {
        segment: segment(partition.first, partition.last),
        manifest: (Epoch::FIRST, 1),
        verified_at: Some(at("2020-01-01T00:00:00Z")),
        confirmed_at: Some(at("2020-01-01T00:00:00Z")),
    };
    let facts = PruneFacts {
        cutoff: at("9999-01-01T00:00:00Z"),
        segments: vec![entry],
        cosigned: Some(partition.last.as_head()),
        consumers: Vec::new(),
        pruned: partition.first.head_before(),
        copies: Copies::Two,
    };
    let rows = partition.last.get() - partition.first.get() + 1;
    PruneProof::of(Partition { rows, ..partition.clone() }, &facts).expect("the facts leave no doubt")
}

/// Makes the archive complete up to the window's cutoff as of simulated `now`, and prunes. Returns what was pruned.
pub(crate) async fn prune_as_of(log: &PgLog, now: &str) -> Vec<Record> {
    log.set_simulated_now(at(now)).await.expect("moved on");
    let cutoff = domain::window::LiveWindow::default().cutoff(at(now)).expect("in range");
    let mut pruned = Vec::new();
    for partition in log.partitions().await.expect("readable") {
        if partition.month >= cutoff {
            break;
        }
        let first = seal_to(log, partition.last).await;
        log.mark_verified(first, at(now)).await.expect("marked");
        log.mark_confirmed(first, at(now)).await.expect("marked");
        cosign(log, partition.last.as_head()).await;
        let mut next = partition.first;
        while next <= partition.last {
            let left = usize::try_from(partition.last.get() - next.get() + 1).expect("small");
            let page = log.read_log(next, Direction::Forward, left).await.expect("readable");
            next = page.last().expect("it has rows").position().next();
            pruned.extend(page);
        }
        log.prune(unfounded_proof(&partition)).await.expect("pruned");
    }
    pruned
}

/// Reads live log and archive as one: the archive is what a test has kept.
pub(crate) struct History {
    pub(crate) live: Arc<PgLog>,
    pub(crate) archived: Vec<Record>,
}

impl History {
    async fn all(&self) -> Result<Vec<Record>, ReadError> {
        let mut records = self.archived.clone();
        loop {
            let next = records.last().map_or(Position::FIRST, |record| record.position().next());
            let page = self.live.read_log(next, Direction::Forward, 1000).await?;
            if page.is_empty() {
                return Ok(records);
            }
            records.extend(page);
        }
    }
}

/// As far as retries need it: forward reads that begin in the archive.
#[async_trait]
impl LogReader for History {
    async fn log_head(&self) -> Result<LogHead, ReadError> {
        self.live.log_head().await
    }

    async fn read_log(&self, from: Position, direction: Direction, limit: usize) -> Result<Vec<Record>, ReadError> {
        assert_eq!(direction, Direction::Forward);
        let index = usize::try_from(from.get() - 1).expect("small");
        // Short pages: whoever reads must go on.
        match self.archived.get(index..) {
            Some(archived) if !archived.is_empty() => Ok(archived.iter().take(limit.min(3)).cloned().collect()),
            _ => self.live.read_log(from, direction, limit).await,
        }
    }

    async fn read_stream(
        &self,
        stream: &StreamName,
        from: StreamVersion,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<Record>, ReadError> {
        assert_eq!(direction, Direction::Forward);
        let archived = self.archived.iter().filter(|r| r.stream() == stream && r.version() >= from);
        let archived: Vec<Record> = archived.take(limit).cloned().collect();
        if archived.is_empty() { self.live.read_stream(stream, from, direction, limit).await } else { Ok(archived) }
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
        let records = self.all().await?;
        let counted = records.iter().take_while(|record| record.recorded_at() <= at).last();
        Ok(counted.map_or(Head::EMPTY, |record| record.position().as_head()))
    }

    async fn wait_beyond(&self, seen: Head) -> Result<Head, ReadError> {
        self.live.wait_beyond(seen).await
    }
}

/// The error's reason, of one that refuses.
pub(crate) fn refusal(result: Result<(), CatalogError>) -> String {
    match result {
        Err(CatalogError::Refused { reason }) => reason,
        other => panic!("not refused: {other:?}"),
    }
}
