//! Compares stored objects with the rows of a region's own log, selected anew: what sealing and mirroring both
//! have to do before they say that they hold a segment (ARC-2, ARC-3).

use thiserror::Error;

use super::catalog::Segment;
use super::reader::Scan;
use super::segment::SegmentError;
use crate::log::{Direction, LogReader, ReadError};
use crate::record::Record;
use crate::{ErrorKind, Position};

/// Why stored objects are not what the log has.
#[derive(Debug, Clone, Error)]
pub enum ReadBackError {
    /// The objects are not what the manifest says.
    #[error("the stored segment is not right")]
    Segment(#[from] SegmentError),
    /// The rows were not read.
    #[error("the log was not read")]
    Log(#[from] ReadError),
    /// A record is another than the log's.
    #[error("the record at position {position} is another than the log's")]
    Differs {
        /// Where.
        position: Position,
    },
    /// The log ends inside the segment.
    #[error("the log has no record at position {position}")]
    Missing {
        /// Where.
        position: Position,
    },
}

impl ReadBackError {
    /// What the caller has to do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Segment(error) => error.kind(),
            Self::Log(error) => error.kind(),
            Self::Differs { .. } => ErrorKind::Corrupt,
            Self::Missing { .. } => ErrorKind::Unavailable,
        }
    }
}

/// Reads `object` and `index` as [`Scan`] does, and compares every record with `log`'s, read now. Memory: both
/// objects, and one block.
///
/// # Errors
/// [`ReadBackError`] for the first thing that does not match.
pub async fn matches_log(
    segment: &Segment,
    object: &[u8],
    index: &[u8],
    log: &dyn LogReader,
) -> Result<(), ReadBackError> {
    let mut scan = Scan::open(segment, object, index)?;
    while let Some(block) = scan.next_block()? {
        compare(&block.records, log).await?;
    }
    Ok(scan.finish()?)
}

async fn compare(stored: &[Record], log: &dyn LogReader) -> Result<(), ReadBackError> {
    let mut rest = stored;
    while let Some(first) = rest.first() {
        let rows = log.read_log(first.position(), Direction::Forward, rest.len()).await?;
        if rows.is_empty() {
            return Err(ReadBackError::Missing { position: first.position() });
        }
        // A record has one spelling, so equal records are equal lines.
        let (now, later) = rest.split_at(rows.len().min(rest.len()));
        if let Some((stored, _)) = now.iter().zip(&rows).find(|(stored, row)| stored != row) {
            return Err(ReadBackError::Differs { position: stored.position() });
        }
        rest = later;
    }
    Ok(())
}
