//! Reads a segment back and compares it with the log: the only place where a [`VerifiedSegment`] is made.

use domain::archive::catalog::Segment;
use domain::archive::{layout, read_back};
use domain::log::LogReader;
use domain::store::ObjectStore;

use crate::ArchiveError;

/// Proof that both objects of a segment were read back from the store and that every record in them is the
/// log's own, selected anew. A manifest demands one for each segment that it adds, and spends it.
#[derive(Debug)]
pub struct VerifiedSegment {
    segment: Segment,
}

impl VerifiedSegment {
    /// The segment that was verified.
    #[must_use]
    pub fn segment(&self) -> &Segment {
        &self.segment
    }

    /// Spends the proof.
    #[must_use]
    pub(crate) fn into_segment(self) -> Segment {
        self.segment
    }
}

/// Reads segment and index back and compares them with what they should be, byte by byte, and with the rows of
/// `log`. Memory: both objects, and one block.
///
/// # Errors
/// `Corrupt` if anything differs; `Unavailable` if the store or the log did not answer.
pub async fn read_back(
    store: &dyn ObjectStore,
    log: &dyn LogReader,
    segment: &Segment,
) -> Result<VerifiedSegment, ArchiveError> {
    let object = store.get(&layout::segment(segment)).await?;
    let index = store.get(&layout::index(segment)).await?;
    read_back::matches_log(segment, &object.bytes, &index.bytes, log).await?;
    Ok(VerifiedSegment { segment: segment.clone() })
}
