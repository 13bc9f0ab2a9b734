//! Why a step of the archive was not done.

use domain::append::Role;
use domain::archive::accept::AcceptError;
use domain::archive::catalog::CatalogError;
use domain::archive::chain::ChainError;
use domain::archive::checkpoint::CheckpointError;
use domain::archive::read_back::ReadBackError;
use domain::archive::segment::SegmentError;
use domain::archive::statement::StatementError;
use domain::log::ReadError;
use domain::store::StoreError;
use domain::{ClockError, Epoch, ErrorKind, TimestampError};
use thiserror::Error;

/// Why a step of the archive was not done. Every step may be repeated.
#[derive(Debug, Error)]
pub enum ArchiveError {
    /// The bucket.
    #[error("object storage failed")]
    Store(#[from] StoreError),
    /// The catalog, the tree's state or the partitions.
    #[error("the archive's state was not read or moved")]
    Catalog(#[from] CatalogError),
    /// The log.
    #[error("the log was not read")]
    Log(#[from] ReadError),
    /// What was stored is not what the log has.
    #[error("what was stored did not read back")]
    ReadBack(#[from] ReadBackError),
    /// A segment.
    #[error("a segment is not right")]
    Segment(#[from] SegmentError),
    /// A signed statement.
    #[error("a signed statement is not right")]
    Statement(#[from] StatementError),
    /// A manifest that does not follow.
    #[error("the chain of manifests is broken")]
    Chain(#[from] ChainError),
    /// A manifest that the catalog does not take.
    #[error("a manifest was not accepted")]
    Accept(#[from] AcceptError),
    /// A signed checkpoint.
    #[error("a signed checkpoint is not right")]
    Checkpoint(#[from] CheckpointError),
    /// The clock.
    #[error("the time is not known")]
    Clock(#[from] ClockError),
    /// An instant out of range.
    #[error("the live window begins outside of time")]
    Time(#[from] TimestampError),
    /// Only the region that holds the epoch seals.
    #[error("this region is {} in epoch {epoch}: it does not seal", .role.as_str())]
    NotActive {
        /// What it is.
        role: Role,
        /// Its epoch.
        epoch: Epoch,
    },
    /// The name of an object says what is in it, and something else is.
    #[error("the object {key:?} is there with other bytes than its name says")]
    Foreign {
        /// Its key.
        key: String,
    },
    /// Another process wrote the next manifest first.
    #[error("manifest {number} of epoch {epoch} was written by somebody else: look again")]
    Overtaken {
        /// The epoch.
        epoch: Epoch,
        /// The number.
        number: u64,
    },
    /// Where this region's epoch begins stands in a claim, and the bucket has none.
    #[error("the bucket has no claim of epoch {0}: the promotion is not finished")]
    NoClaim(Epoch),
    /// The catalog is not on the chain that the bucket has.
    #[error("the catalog does not stand on the bucket's chain of manifests: {0}")]
    OtherChain(String),
    /// Work on another thread was broken off.
    #[error("the work was broken off: {0}")]
    BrokenOff(String),
}

impl ArchiveError {
    /// What the caller has to do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Store(error) => error.kind(),
            Self::Catalog(error) => error.kind(),
            Self::Log(error) => error.kind(),
            Self::ReadBack(error) => error.kind(),
            Self::Segment(error) => error.kind(),
            Self::Statement(error) => error.kind(),
            Self::Chain(error) => error.kind(),
            Self::Accept(error) => error.kind(),
            Self::Checkpoint(error) => error.kind(),
            Self::NotActive { .. } => ErrorKind::Fenced,
            Self::Foreign { .. } | Self::OtherChain(_) => ErrorKind::Corrupt,
            Self::Overtaken { .. } => ErrorKind::Conflict,
            Self::Clock(_) | Self::NoClaim(_) | Self::BrokenOff(_) => ErrorKind::Unavailable,
            Self::Time(_) => ErrorKind::Invalid,
        }
    }
}

/// Runs work that keeps a processor busy where it does not hold up others.
pub(crate) async fn busy<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ArchiveError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| ArchiveError::BrokenOff(error.to_string()))
}
