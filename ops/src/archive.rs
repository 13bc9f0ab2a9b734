//! The archive's work in one region's process, and what last came of it. What the work does is the archiver's.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use archiver::ArchiveError;
use archiver::cold::ColdReader;
use archiver::prune::{PruneReport, Pruner};
use archiver::scrub::{ScrubReport, Scrubber};
use archiver::seal::Sealer;
use archiver::sweep::SweepIo;
use domain::Timestamp;
use domain::archive::catalog::Doubt;
use domain::keys::KeyRing;
use segment_store::{ProbedStore, S3Store};

use crate::heals::HealRecorder;

/// The archive of one region.
pub struct ArchiveNode {
    /// The own bucket: nothing is created in it before it has shown that it keeps its promises.
    pub store: Arc<ProbedStore<S3Store>>,
    /// Reads what is archived.
    pub reader: Arc<ColdReader>,
    /// Seals; one run at a time.
    pub sealer: tokio::sync::Mutex<Sealer>,
    /// What was found damaged.
    pub heals: Arc<HealRecorder>,
    /// Both regions' public keys.
    pub keys: KeyRing,
    /// What sweeping works with.
    pub sweep: SweepIo,
    pruner: Pruner,
    scrubber: Scrubber,
    last: Mutex<ArchiveWork>,
}

/// What came of the archive's work since the process started.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ArchiveWork {
    /// Start of the live window when pruning last looked.
    pub cutoff: Option<Timestamp>,
    /// What keeps the oldest month whose time is over in the live log.
    pub held: Vec<Doubt>,
    /// Segments that scrubs have read.
    pub scrubbed_segments: u64,
    /// Bytes that scrubs have read.
    pub scrubbed_bytes: u64,
}

impl ArchiveNode {
    /// The archive of a bucket, and those who work on it.
    #[must_use]
    pub fn new(
        store: Arc<ProbedStore<S3Store>>,
        reader: Arc<ColdReader>,
        heals: Arc<HealRecorder>,
        keys: KeyRing,
        (sealer, pruner, scrubber): (Sealer, Pruner, Scrubber),
        sweep: SweepIo,
    ) -> Self {
        let sealer = tokio::sync::Mutex::new(sealer);
        Self { store, reader, sealer, heals, keys, sweep, pruner, scrubber, last: Mutex::default() }
    }

    /// Prunes what is proven.
    ///
    /// # Errors
    /// As [`Pruner::run`].
    pub async fn prune(&self) -> Result<PruneReport, ArchiveError> {
        let report = self.pruner.run().await?;
        let mut last = self.last();
        last.cutoff = Some(report.cutoff);
        last.held = report.waiting.as_ref().map(|waiting| waiting.doubts.clone()).unwrap_or_default();
        Ok(report)
    }

    /// Reads about `budget_bytes` of what is stored again.
    ///
    /// # Errors
    /// As [`Scrubber::run`].
    pub async fn scrub(&self, budget_bytes: u64) -> Result<ScrubReport, ArchiveError> {
        let report = self.scrubber.run(budget_bytes).await?;
        let mut last = self.last();
        last.scrubbed_segments += report.segments;
        last.scrubbed_bytes += report.bytes;
        Ok(report)
    }

    /// What came of the work.
    #[must_use]
    pub fn work(&self) -> ArchiveWork {
        self.last().clone()
    }

    fn last(&self) -> MutexGuard<'_, ArchiveWork> {
        // Each field is true by itself: a panic elsewhere leaves nothing half said.
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
