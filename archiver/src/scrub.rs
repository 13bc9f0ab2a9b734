//! Scrub: re-reads what is stored, least recently verified first, and heals what is damaged (ARC-4).

use std::sync::Arc;

use domain::Clock;
use domain::archive::catalog::{Catalog, CatalogEntry};
use domain::archive::{layout, reader};
use domain::log::ReadError;
use domain::store::StoreError;

use crate::ArchiveError;
use crate::error::busy;
use crate::heal::{Healer, Part};

/// What a run of the scrub read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ScrubReport {
    /// Segments read.
    pub segments: u64,
    /// Bytes read from the own bucket.
    pub bytes: u64,
    /// Objects that were damaged; each was told to the healer's observer.
    pub damaged: u64,
    /// Keys of those that no good copy was left of.
    pub lost: Vec<String>,
}

/// Re-reads one region's bucket.
#[derive(Clone)]
pub struct Scrubber {
    /// This region's catalog.
    pub catalog: Arc<dyn Catalog>,
    /// This region's bucket and the one to heal from.
    pub healer: Healer,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
}

impl Scrubber {
    /// Reads about `budget_bytes` of segments whole: every byte, every checksum, every leaf. Damaged objects are
    /// healed; what cannot be is reported and the run goes on.
    ///
    /// # Errors
    /// [`ArchiveError`] if catalog or store do not answer.
    pub async fn run(&self, budget_bytes: u64) -> Result<ScrubReport, ArchiveError> {
        let mut report = ScrubReport::default();
        for entry in self.catalog.least_recently_verified(budget_bytes).await? {
            self.scrub(&entry, &mut report).await?;
        }
        Ok(report)
    }

    async fn scrub(&self, entry: &CatalogEntry, report: &mut ScrubReport) -> Result<(), ArchiveError> {
        let segment = &entry.segment;
        report.segments += 1;
        let Some(object) = self.read(entry, Part::Segment, report).await? else { return Ok(()) };
        let Some(index) = self.read(entry, Part::Index, report).await? else { return Ok(()) };
        let whole = segment.clone();
        busy(move || reader::check(&whole, &object, &index)).await??;
        Ok(self.catalog.mark_verified(segment.first, self.clock.now().await?).await?)
    }

    /// The good bytes of an object, healed if need be; `None` if there are none.
    async fn read(
        &self,
        entry: &CatalogEntry,
        part: Part,
        report: &mut ScrubReport,
    ) -> Result<Option<Vec<u8>>, ArchiveError> {
        let segment = &entry.segment;
        let (key, cause) = match part {
            Part::Segment => (layout::segment(segment), "the scrub found other bytes"),
            Part::Index => (layout::index(segment), "the scrub found another index"),
        };
        let cause = match self.healer.own.get(&key).await {
            Ok(object) => {
                report.bytes += object.meta.bytes;
                if part.is_good(segment, &object.bytes) {
                    return Ok(Some(object.bytes));
                }
                cause
            }
            Err(StoreError::NotFound { .. }) => "the scrub did not find it",
            Err(error) => return Err(error.into()),
        };
        report.damaged += 1;
        match self.healer.heal(segment, part, cause).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(ReadError::Corrupt { .. }) => {
                report.lost.push(key);
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }
}
