//! The manifest: one signed step of the archive's history (FORMAT.md §7).
//!
//! A manifest says which segments belong to the archive. Each names the one before it, so they form a chain;
//! [`super::chain`] follows it. One is created only if it is absent and never deleted: a number is used once.

use serde::{Deserialize, Serialize};

use super::catalog::{ManifestRef, Segment};
use super::statement::{self, Signed, Statement};
use crate::keys::KeyId;
use crate::merkle::Hash;
use crate::spelling;
use crate::{Epoch, Head, Position, Timestamp};

/// Every manifest whose number is a multiple of this also lists all segments in force, so that a reader in a
/// hurry starts there.
pub const LIST_EVERY: u64 = 1024;

/// A step of the archive's history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`statement::FORMAT`].
    pub format: u32,
    /// Name of the log.
    pub log: String,
    /// The epoch in which it was written.
    #[serde(with = "spelling::text")]
    pub epoch: Epoch,
    /// From 1, dense across epochs.
    #[serde(with = "spelling::text")]
    pub number: u64,
    /// SHA-256 of the manifest before it; `None` for number 1.
    #[serde(with = "spelling::text_or_null")]
    pub previous: Option<Hash>,
    /// When it was signed.
    #[serde(with = "spelling::text")]
    pub time: Timestamp,
    /// In the first manifest of every epoch but 1, and nowhere else: where the epoch begins.
    pub fork: Option<Fork>,
    /// Segments that belong to the archive from now on, by position.
    pub added: Vec<Segment>,
    /// Segments that do not any more: `added` covers the same records.
    pub replaced: Vec<Replaced>,
    /// All segments in force after this step, by position; `None` but for every [`LIST_EVERY`]th.
    pub in_force: Option<Vec<Segment>>,
}

/// Where an epoch begins. What an older epoch wrote beyond is void.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fork {
    /// The last manifest of an older epoch that counts; `None` if none does.
    pub after: Option<ManifestRef>,
    /// Newest position that both branches share.
    #[serde(with = "spelling::text")]
    pub position: Head,
}

/// Names a segment that is no longer in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replaced {
    /// Its first position.
    #[serde(with = "spelling::text")]
    pub first: Position,
    /// Its last position.
    #[serde(with = "spelling::text")]
    pub last: Position,
    /// SHA-256 of its object.
    #[serde(with = "spelling::text")]
    pub sha256: Hash,
}

impl Replaced {
    /// Whether it names this segment.
    #[must_use]
    pub fn names(&self, segment: &Segment) -> bool {
        (self.first, self.last, self.sha256) == (segment.first, segment.last, segment.sha256)
    }
}

impl Statement for Manifest {
    const WORD: &'static str = "manifest";

    fn check(&self, _signer: &KeyId) -> Result<(), String> {
        statement::check_common(self.format, &self.log)?;
        if (self.number == 1) != self.previous.is_none() || self.number == 0 {
            return Err("every manifest but number 1 names the one before it".into());
        }
        if self.number.is_multiple_of(LIST_EVERY) != self.in_force.is_some() {
            return Err(format!("every {LIST_EVERY}th manifest lists all segments, and no other does"));
        }
        if let Some(stranger) = self.added.iter().find(|segment| segment.epoch != self.epoch) {
            return Err(format!("it adds a segment sealed in epoch {}", stranger.epoch));
        }
        match self.fork {
            Some(fork) if fork.after.map(|after| after.sha256) != self.previous => {
                Err("fork and previous name different manifests".into())
            }
            Some(fork) if fork.after.is_some_and(|after| after.epoch >= self.epoch) => {
                Err("the fork is not in an older epoch".into())
            }
            _ => self.added.iter().chain(self.in_force.iter().flatten()).try_for_each(check_segment),
        }
    }
}

/// What must be so of any segment that a statement names.
pub(super) fn check_segment(segment: &Segment) -> Result<(), String> {
    if segment.last < segment.first || segment.last_at < segment.first_at {
        return Err(format!("a segment ends before it begins, at position {}", segment.first));
    }
    Ok(())
}

impl Signed<Manifest> {
    /// How the next manifest and the catalog name it.
    #[must_use]
    pub fn reference(&self) -> ManifestRef {
        ManifestRef { epoch: self.statement.epoch, number: self.statement.number, sha256: self.sha256 }
    }
}
