//! The log's tree at a given size: from the nearest stored frontier on, over the records in between. Reads only.

use domain::archive::catalog::{CatalogError, EvidenceStore};
use domain::log::{Direction, LogReader, ReadError};
use domain::merkle::Frontier;
use domain::{ErrorKind, Head};
use thiserror::Error;

/// Records are read this many at a time.
const CHUNK_RECORDS: usize = 4096;

/// Why the tree is not known.
#[derive(Debug, Error)]
pub enum TreeError {
    /// The records between were not read.
    #[error("the records of the log's tree were not read")]
    Read(#[from] ReadError),
    /// The stored frontier was not read.
    #[error("the stored tree was not read")]
    Evidence(#[from] CatalogError),
    /// The log ends earlier, or has a hole.
    #[error("the tree of {wanted} leaves ends at {found}")]
    Short {
        /// The size asked for.
        wanted: Head,
        /// How far the records go.
        found: Head,
    },
}

impl TreeError {
    /// What the caller has to do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Read(error) => error.kind(),
            Self::Evidence(error) => error.kind(),
            Self::Short { .. } => ErrorKind::Corrupt,
        }
    }
}

/// The frontier at `size`. `history` has to reach back to the nearest stored one.
pub(crate) async fn frontier_at(
    history: &dyn LogReader,
    evidence: &dyn EvidenceStore,
    size: Head,
) -> Result<Frontier, TreeError> {
    extend(history, evidence.frontier_at_most(size).await?, size).await
}

/// `frontier` with the leaves up to `size` added.
pub(crate) async fn extend(history: &dyn LogReader, mut frontier: Frontier, size: Head) -> Result<Frontier, TreeError> {
    while frontier.size() < size {
        let records = history.read_log(frontier.size().next(), Direction::Forward, CHUNK_RECORDS).await?;
        let before = frontier.size();
        for record in records.iter().take_while(|record| size.includes(record.position())) {
            if record.position() != frontier.size().next() {
                return Err(TreeError::Short { wanted: size, found: frontier.size() });
            }
            frontier.push(record.leaf());
        }
        if frontier.size() == before {
            return Err(TreeError::Short { wanted: size, found: before });
        }
    }
    Ok(frontier)
}
