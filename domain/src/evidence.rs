//! The tree over the log, kept by tailing it, and the checkpoints that a region signs over it (EVD-1).
//!
//! Off the append path: it reads the log like any other consumer. It never signs what contradicts an older
//! signed checkpoint, and never cosigns what it has not computed from its own log.

use std::sync::{Arc, Mutex, PoisonError};

use thiserror::Error;

use crate::archive::catalog::{CatalogError, EvidenceStore, StoredCheckpoint};
use crate::archive::checkpoint::{self, Checkpoint, CheckpointError};
use crate::keys::{KeyId, KeyRing, SigningKey};
use crate::log::{Direction, LogReader, ReadError};
use crate::merkle::{Frontier, Hash};
use crate::{Epoch, ErrorKind, Head};

/// A frontier is stored every so many leaves: a root at any size costs at most this many leaves to compute.
pub const FRONTIER_EVERY: u64 = 1024;

/// How many records are read at once.
const READ_RECORDS: usize = 1024;

/// Why a root was not computed, or a checkpoint not signed.
#[derive(Debug, Clone, Error)]
pub enum EvidenceError {
    /// The log was not read.
    #[error("the log was not read")]
    Log(#[from] ReadError),
    /// The tree's state was not read or stored.
    #[error("the tree's state was not read or stored")]
    Store(#[from] CatalogError),
    /// It is no signed checkpoint.
    #[error("the checkpoint is not valid")]
    Checkpoint(#[from] CheckpointError),
    /// The log is shorter than what is asked for.
    #[error("the log ends at {head}, before {size}")]
    Short {
        /// Where it ends.
        head: Head,
        /// What was asked for.
        size: Head,
    },
    /// A signed root is not the log's.
    #[error("the root signed at size {size} is {signed}, this log's is {own}")]
    Differs {
        /// The size.
        size: Head,
        /// What was signed.
        signed: Hash,
        /// What this log gives.
        own: Hash,
    },
    /// It is another log's.
    #[error("the checkpoint is of the log {found:?}, not of {own:?}")]
    OtherLog {
        /// Its log.
        found: String,
        /// Ours.
        own: String,
    },
}

impl EvidenceError {
    /// What the caller has to do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Log(error) => error.kind(),
            Self::Store(error) => error.kind(),
            Self::Checkpoint(error) => error.kind(),
            Self::Short { .. } => ErrorKind::Unavailable,
            Self::Differs { .. } => ErrorKind::Corrupt,
            Self::OtherLog { .. } => ErrorKind::Invalid,
        }
    }
}

/// The tree of one region's log.
pub struct Evidence {
    log: Arc<dyn LogReader>,
    store: Arc<dyn EvidenceStore>,
    /// Where the last computation ended. Two at a time may both compute; both are right.
    tail: Mutex<Frontier>,
}

impl Evidence {
    /// The tree over `log` (live and archive as one), with its state in `store`.
    #[must_use]
    pub fn new(log: Arc<dyn LogReader>, store: Arc<dyn EvidenceStore>) -> Self {
        Self { log, store, tail: Mutex::new(Frontier::default()) }
    }

    /// The root at a size.
    ///
    /// # Errors
    /// [`EvidenceError::Short`] above the log's head, [`EvidenceError::Log`], [`EvidenceError::Store`].
    pub async fn root_at(&self, size: Head) -> Result<Hash, EvidenceError> {
        Ok(self.frontier_at(size).await?.root())
    }

    /// Brings the tree up to the log's head and returns that.
    ///
    /// # Errors
    /// As [`Evidence::root_at`].
    pub async fn follow(&self) -> Result<Head, EvidenceError> {
        let head = self.log.log_head().await?.head;
        self.frontier_at(head).await?;
        Ok(head)
    }

    /// Signs a checkpoint at the log's head, stores it, and returns it. Above an older one it must agree with it.
    ///
    /// # Errors
    /// [`EvidenceError::Short`] or [`EvidenceError::Differs`] if the newest signed one is ahead of this log or
    /// has another root: then nothing is signed.
    pub async fn sign(&self, key: &SigningKey) -> Result<StoredCheckpoint, EvidenceError> {
        let at = self.log.log_head().await?;
        if let Some(newest) = self.store.newest_checkpoint(false).await? {
            if newest.size > at.head {
                return Err(EvidenceError::Short { head: at.head, size: newest.size });
            }
            self.compare(newest.size, newest.root).await?;
            if newest.size == at.head {
                return Ok(newest);
            }
        }
        self.sign_at(at.head, at.epoch, at.log_id, key).await
    }

    /// Checks another region's checkpoint: signatures, log, and the root against this log's own. Returns who
    /// signed it.
    ///
    /// # Errors
    /// Any [`EvidenceError`]; [`EvidenceError::Short`] where this log has not come so far yet.
    pub async fn check(&self, note: &str, keys: &KeyRing) -> Result<(Checkpoint, Vec<KeyId>), EvidenceError> {
        let (stated, signers) = checkpoint::verify(note, keys)?;
        let own = self.log.log_head().await?.log_id;
        if stated.log != own {
            return Err(EvidenceError::OtherLog { found: stated.log, own });
        }
        self.compare(stated.size, stated.root).await?;
        Ok((stated, signers))
    }

    /// Checks another region's checkpoint and adds this region's signature. It is stored here too.
    ///
    /// # Errors
    /// As [`Evidence::check`]; nothing is signed then.
    pub async fn cosign(
        &self,
        note: &str,
        keys: &KeyRing,
        key: &SigningKey,
    ) -> Result<StoredCheckpoint, EvidenceError> {
        let (stated, signers) = self.check(note, keys).await?;
        let note = checkpoint::cosign(note, key)?;
        let cosigned = signers.iter().any(|signer| signer.name() != key.id().name());
        let stored = StoredCheckpoint { size: stated.size, root: stated.root, note, cosigned };
        self.store.save_checkpoint(&stored).await?;
        Ok(stored)
    }

    /// Takes back a checkpoint that the other region cosigned, and stores it. It is `cosigned` if two regions
    /// signed it.
    ///
    /// # Errors
    /// As [`Evidence::check`].
    pub async fn take_cosigned(&self, note: &str, keys: &KeyRing) -> Result<StoredCheckpoint, EvidenceError> {
        let (stated, signers) = self.check(note, keys).await?;
        let cosigned = two_regions(&signers);
        let stored = StoredCheckpoint { size: stated.size, root: stated.root, note: note.to_owned(), cosigned };
        self.store.save_checkpoint(&stored).await?;
        Ok(stored)
    }

    async fn sign_at(
        &self,
        size: Head,
        epoch: Epoch,
        log: String,
        key: &SigningKey,
    ) -> Result<StoredCheckpoint, EvidenceError> {
        let frontier = self.frontier_at(size).await?;
        let root = frontier.root();
        let note = Checkpoint { log, size, root, epoch }.sign(key)?;
        let stored = StoredCheckpoint { size, root, note, cosigned: false };
        // The frontier first: with it the root of a signed checkpoint can always be shown again at no cost.
        self.store.save_frontier(&frontier).await?;
        self.store.save_checkpoint(&stored).await?;
        Ok(stored)
    }

    async fn compare(&self, size: Head, signed: Hash) -> Result<(), EvidenceError> {
        let own = self.root_at(size).await?;
        if own == signed { Ok(()) } else { Err(EvidenceError::Differs { size, signed, own }) }
    }

    /// The tree at a size, from the nearest one that is known.
    ///
    /// # Errors
    /// As [`Evidence::root_at`].
    pub async fn frontier_at(&self, size: Head) -> Result<Frontier, EvidenceError> {
        let tail = self.tail().clone();
        let mut frontier = match tail.size() {
            at if at == Head::EMPTY || at > size => self.store.frontier_at_most(size).await?,
            _ => tail,
        };
        while frontier.size() < size {
            let next = frontier.size().next();
            let missing = usize::try_from(size.get() - frontier.size().get()).unwrap_or(usize::MAX);
            let records = self.log.read_log(next, Direction::Forward, missing.min(READ_RECORDS)).await?;
            if records.is_empty() {
                return Err(EvidenceError::Short { head: frontier.size(), size });
            }
            for record in &records {
                frontier.push(record.leaf());
                if frontier.size().get().is_multiple_of(FRONTIER_EVERY) {
                    self.store.save_frontier(&frontier).await?;
                }
            }
        }
        let mut tail = self.tail();
        if frontier.size() > tail.size() {
            *tail = frontier.clone();
        }
        Ok(frontier)
    }

    fn tail(&self) -> std::sync::MutexGuard<'_, Frontier> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether keys of two regions are among the signers: what makes a checkpoint cosigned.
#[must_use]
pub fn two_regions(signers: &[KeyId]) -> bool {
    signers.iter().any(|signer| signer.name() != signers[0].name())
}
