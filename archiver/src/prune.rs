//! Prune: takes a month out of the live log when its time is over and nothing speaks against it (ARC-2).
//!
//! It decides nothing itself: [`PruneProof::of`] does, and the database checks again. Any doubt leaves the rows
//! where they are and is reported with its reason.

use std::fmt;
use std::sync::Arc;

use domain::archive::catalog::{
    Catalog, CatalogEntry, Copies, Doubt, EvidenceStore, LivePartitions, Partition, PruneFacts, PruneProof,
};
use domain::archive::{checkpoint, layout};
use domain::evidence::two_regions;
use domain::keys::KeyRing;
use domain::log::LogReader;
use domain::store::ObjectStore;
use domain::window::LiveWindow;
use domain::{Clock, Head, Timestamp};
use tracing::info;

use crate::{ArchiveError, StepObserver};

/// What the pruner works with.
#[derive(Clone)]
pub struct PruneIo {
    /// This region's own live log.
    pub log: Arc<dyn LogReader>,
    /// Its partitions.
    pub partitions: Arc<dyn LivePartitions>,
    /// This region's catalog.
    pub catalog: Arc<dyn Catalog>,
    /// This region's signed checkpoints.
    pub evidence: Arc<dyn EvidenceStore>,
    /// This region's bucket.
    pub store: Arc<dyn ObjectStore>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// The public keys of all regions.
    pub keys: KeyRing,
    /// Is told of each step.
    pub steps: Arc<dyn StepObserver>,
}

/// A month whose time is over and that has to stay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// The month.
    pub partition: Partition,
    /// Why.
    pub doubts: Vec<Doubt>,
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let doubts: Vec<String> = self.doubts.iter().map(ToString::to_string).collect();
        let (year, month) = self.partition.month.year_month();
        write!(f, "{year:04}-{month:02} has to stay: {}", doubts.join("; "))
    }
}

/// What a run did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PruneReport {
    /// Start of the live window.
    pub cutoff: Timestamp,
    /// The months that are out now.
    pub pruned: Vec<Partition>,
    /// The oldest month whose time is over and that has to stay; the later ones wait for it.
    pub waiting: Option<Waiting>,
}

/// Prunes one region's live log.
#[derive(Clone)]
pub struct Pruner {
    io: PruneIo,
    window: LiveWindow,
    copies: Copies,
}

impl Pruner {
    /// A pruner that keeps `window` live and waits for `copies`.
    #[must_use]
    pub fn new(io: PruneIo, window: LiveWindow, copies: Copies) -> Self {
        Self { io, window, copies }
    }

    /// Prunes all months that have left the window, oldest first, up to the first doubt.
    ///
    /// # Errors
    /// [`ArchiveError`]; what was pruned before it is out, everything else is where it was. A doubt is no error.
    pub async fn run(&self) -> Result<PruneReport, ArchiveError> {
        let cutoff = self.window.cutoff(self.io.clock.now().await?)?;
        let mut report = PruneReport { cutoff, pruned: Vec::new(), waiting: None };
        for partition in self.io.partitions.partitions().await? {
            // Facts are gathered anew for each month: they may have changed while the last one was dropped.
            let facts = self.facts(&partition, cutoff).await?;
            match PruneProof::of(partition.clone(), &facts) {
                Ok(proof) => {
                    self.io.steps.reached("prune.proven");
                    self.io.partitions.prune(proof).await?;
                    self.io.steps.reached("prune.pruned");
                    info!(month = %partition.month, rows = partition.rows, "month pruned");
                    report.pruned.push(partition);
                }
                Err(doubts) => {
                    let due = !doubts.contains(&Doubt::InWindow);
                    report.waiting = due.then_some(Waiting { partition, doubts });
                    break;
                }
            }
        }
        Ok(report)
    }

    async fn facts(&self, partition: &Partition, cutoff: Timestamp) -> Result<PruneFacts, ArchiveError> {
        let io = &self.io;
        let mut segments = io.catalog.segments_between(partition.first, partition.last).await?;
        for entry in &mut segments {
            if !self.is_present(entry).await? {
                // It was verified once, but it is not there now: that is no copy.
                entry.verified_at = None;
            }
        }
        Ok(PruneFacts {
            cutoff,
            segments,
            cosigned: self.cosigned().await?,
            consumers: io.partitions.consumers().await?,
            pruned: io.log.log_head().await?.pruned,
            copies: self.copies,
        })
    }

    /// Whether both objects are there and have the length that they should have.
    async fn is_present(&self, entry: &CatalogEntry) -> Result<bool, ArchiveError> {
        let segment = &entry.segment;
        let object = self.io.store.head(&layout::segment(segment)).await?;
        let index = self.io.store.head(&layout::index(segment)).await?;
        let lengths = (object.map(|meta| meta.bytes), index.map(|meta| meta.bytes));
        Ok(lengths == (Some(segment.bytes), Some(segment.index_bytes)))
    }

    /// Size of the newest checkpoint that two regions signed. The signatures are checked here again: pruning
    /// stands on them, not on a column that says that they were good.
    async fn cosigned(&self) -> Result<Option<Head>, ArchiveError> {
        let Some(stored) = self.io.evidence.newest_checkpoint(true).await? else { return Ok(None) };
        let (stated, signers) = checkpoint::verify(&stored.note, &self.io.keys)?;
        let sound = (stated.size, stated.root) == (stored.size, stored.root) && two_regions(&signers);
        Ok(sound.then_some(stated.size))
    }
}
