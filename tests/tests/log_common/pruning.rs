//! An archive that says whatever a test wants: what pruning stands on.

use domain::archive::catalog::{
    Catalog, CatalogEntry, CatalogError, Copies, EvidenceStore, LivePartitions, ManifestRef, Partition, PruneFacts,
    PruneProof, Segment, StoredCheckpoint,
};
use domain::log::{Direction, LogReader};
use domain::merkle::Hash;
use domain::record::Record;
use domain::{Epoch, Head, Position};
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

/// The error's reason, of one that refuses.
pub(crate) fn refusal(result: Result<(), CatalogError>) -> String {
    match result {
        Err(CatalogError::Refused { reason }) => reason,
        other => panic!("not refused: {other:?}"),
    }
}
