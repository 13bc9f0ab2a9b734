//! The archive's state in memory.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::log::MemoryLog;
use crate::archive::catalog::{
    Catalog, CatalogEntry, CatalogError, CatalogTotals, EvidenceStore, LivePartitions, ManifestRef, Mark, Partition,
    PruneProof, Segment, StoredCheckpoint,
};
use crate::merkle::Frontier;
use crate::{Head, Position, Timestamp};

#[derive(Default)]
pub(super) struct Archive {
    segments: BTreeMap<Position, CatalogEntry>,
    manifest: Option<ManifestRef>,
    frontiers: BTreeMap<Head, Frontier>,
    checkpoints: BTreeMap<Head, StoredCheckpoint>,
}

fn refused(reason: &str) -> CatalogError {
    CatalogError::Refused { reason: reason.into() }
}

#[async_trait]
impl Catalog for MemoryLog {
    async fn segments(&self) -> Result<Vec<CatalogEntry>, CatalogError> {
        Ok(self.state().archive.segments.values().cloned().collect())
    }

    async fn segments_between(&self, first: Position, last: Position) -> Result<Vec<CatalogEntry>, CatalogError> {
        let state = self.state();
        let segments = state.archive.segments.values();
        let overlaps = |entry: &&CatalogEntry| entry.segment.first <= last && first <= entry.segment.last;
        Ok(segments.filter(overlaps).cloned().collect())
    }

    async fn last_segment(&self) -> Result<Option<CatalogEntry>, CatalogError> {
        Ok(self.state().archive.segments.values().next_back().cloned())
    }

    async fn segment_as_of(&self, at: Timestamp) -> Result<Option<CatalogEntry>, CatalogError> {
        let state = self.state();
        Ok(state.archive.segments.values().rfind(|entry| entry.segment.first_at <= at).cloned())
    }

    async fn unmarked(&self, mark: Mark, from: Position, limit: usize) -> Result<Vec<CatalogEntry>, CatalogError> {
        let state = self.state();
        let lacks = |entry: &&CatalogEntry| match mark {
            Mark::Verified => entry.verified_at.is_none(),
            Mark::Confirmed => entry.confirmed_at.is_none(),
        };
        Ok(state.archive.segments.range(from..).map(|(_, entry)| entry).filter(lacks).take(limit).cloned().collect())
    }

    async fn least_recently_verified(&self, bytes: u64) -> Result<Vec<CatalogEntry>, CatalogError> {
        let mut entries: Vec<CatalogEntry> = self.state().archive.segments.values().cloned().collect();
        entries.sort_by_key(|entry| entry.verified_at);
        let mut before = 0;
        let is_within = |entry: &CatalogEntry| {
            let is_wanted = before < bytes;
            before += entry.segment.stored_bytes();
            is_wanted
        };
        Ok(entries.into_iter().take_while(is_within).collect())
    }

    async fn totals(&self) -> Result<CatalogTotals, CatalogError> {
        let state = self.state();
        Ok(state.archive.segments.values().fold(CatalogTotals::default(), |totals, entry| CatalogTotals {
            segments: totals.segments + 1,
            archived: entry.segment.last.as_head(),
            verified: totals.verified + u64::from(entry.verified_at.is_some()),
            confirmed: totals.confirmed + u64::from(entry.confirmed_at.is_some()),
            stored_bytes: totals.stored_bytes + entry.segment.stored_bytes(),
            record_bytes: totals.record_bytes + entry.segment.record_bytes,
            oldest_verified_at: [totals.oldest_verified_at, entry.verified_at].into_iter().flatten().min(),
        }))
    }

    async fn segment_holding(&self, position: Position) -> Result<Option<CatalogEntry>, CatalogError> {
        let state = self.state();
        let below = state.archive.segments.range(..=position).next_back();
        Ok(below.map(|(_, entry)| entry.clone()).filter(|entry| entry.segment.holds(position)))
    }

    async fn last_manifest(&self) -> Result<Option<ManifestRef>, CatalogError> {
        Ok(self.state().archive.manifest)
    }

    async fn accept(
        &self,
        after: Option<ManifestRef>,
        step: ManifestRef,
        added: &[Segment],
    ) -> Result<(), CatalogError> {
        let mut state = self.state();
        let archive = &mut state.archive;
        if archive.manifest == Some(step) {
            return Ok(());
        }
        if archive.manifest != after {
            return Err(refused("another manifest is the last"));
        }
        let mut next = archive.segments.values().next_back().map_or(Position::FIRST, |last| last.segment.last.next());
        for segment in added {
            if segment.first != next {
                return Err(refused("a segment does not follow the last one"));
            }
            next = segment.last.next();
        }
        let entry = |segment: &Segment| CatalogEntry {
            segment: segment.clone(),
            manifest: (step.epoch, step.number),
            verified_at: None,
            confirmed_at: None,
        };
        archive.segments.extend(added.iter().map(|segment| (segment.first, entry(segment))));
        archive.manifest = Some(step);
        Ok(())
    }

    async fn wind_back(&self, last: ManifestRef, to: Option<ManifestRef>) -> Result<(), CatalogError> {
        let mut state = self.state();
        let pruned = state.head.pruned;
        let archive = &mut state.archive;
        if archive.manifest == to {
            return Ok(());
        }
        if archive.manifest != Some(last) {
            return Err(refused("another manifest is the last"));
        }
        if to.is_some_and(|to| !archive.segments.values().any(|entry| entry.manifest == (to.epoch, to.number))) {
            return Err(refused("the step to go back to added no segment here"));
        }
        let counts = |entry: &CatalogEntry| to.is_some_and(|to| entry.manifest.1 <= to.number);
        if archive.segments.values().any(|entry| !counts(entry) && pruned.includes(entry.segment.first)) {
            return Err(refused("a segment that would be forgotten holds a pruned position"));
        }
        archive.segments.retain(|_, entry| counts(entry));
        archive.manifest = to;
        Ok(())
    }

    async fn mark_verified(&self, first: Position, at: Timestamp) -> Result<(), CatalogError> {
        let mut state = self.state();
        let entry = state.archive.segments.get_mut(&first).ok_or_else(|| refused("no such segment"))?;
        entry.verified_at = Some(at);
        Ok(())
    }

    async fn mark_confirmed(&self, first: Position, at: Timestamp) -> Result<(), CatalogError> {
        let mut state = self.state();
        let entry = state.archive.segments.get_mut(&first).ok_or_else(|| refused("no such segment"))?;
        entry.confirmed_at = Some(at);
        Ok(())
    }
}

#[async_trait]
impl EvidenceStore for MemoryLog {
    async fn frontier_at_most(&self, size: Head) -> Result<Frontier, CatalogError> {
        let state = self.state();
        Ok(state.archive.frontiers.range(..=size).next_back().map(|(_, f)| f.clone()).unwrap_or_default())
    }

    async fn save_frontier(&self, frontier: &Frontier) -> Result<(), CatalogError> {
        self.state().archive.frontiers.insert(frontier.size(), frontier.clone());
        Ok(())
    }

    async fn newest_checkpoint(&self, cosigned: bool) -> Result<Option<StoredCheckpoint>, CatalogError> {
        let state = self.state();
        Ok(state.archive.checkpoints.values().rev().find(|c| c.cosigned || !cosigned).cloned())
    }

    async fn save_checkpoint(&self, checkpoint: &StoredCheckpoint) -> Result<(), CatalogError> {
        let mut state = self.state();
        if let Some(there) = state.archive.checkpoints.get(&checkpoint.size) {
            if there.root != checkpoint.root {
                return Err(refused("a checkpoint of this size with another root is there"));
            }
            if there.cosigned && !checkpoint.cosigned {
                return Ok(());
            }
        }
        state.archive.checkpoints.insert(checkpoint.size, checkpoint.clone());
        Ok(())
    }
}

#[async_trait]
impl LivePartitions for MemoryLog {
    async fn partitions(&self) -> Result<Vec<Partition>, CatalogError> {
        let state = self.state();
        let mut partitions: Vec<Partition> = Vec::new();
        for record in &state.records {
            let month = record.recorded_at().month_start();
            match partitions.last_mut().filter(|partition| partition.month == month) {
                Some(partition) => {
                    partition.last = record.position();
                    partition.rows += 1;
                }
                None => {
                    let (first, last) = (record.position(), record.position());
                    partitions.push(Partition { month, first, last, rows: 1 });
                }
            }
        }
        Ok(partitions)
    }

    async fn consumers(&self) -> Result<Vec<(String, u64)>, CatalogError> {
        Ok(Vec::new())
    }

    async fn prune(&self, proof: PruneProof) -> Result<(), CatalogError> {
        let mut state = self.state();
        let last = proof.partition().last;
        if proof.partition().first != state.head.pruned.next() {
            return Err(refused("an older partition is still there"));
        }
        state.prune_to(last.as_head());
        Ok(())
    }
}
