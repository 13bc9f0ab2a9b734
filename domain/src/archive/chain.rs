//! The chain of manifests: which segments are in force (FORMAT.md §7).
//!
//! It takes manifests whose signatures were checked, in order, and refuses one that does not follow. It does
//! not read objects, and it never skips a step.

use std::collections::BTreeMap;

use thiserror::Error;

use super::catalog::{CatalogEntry, ManifestRef, Segment};
use super::manifest::Manifest;
use super::statement::Signed;
use crate::{Epoch, ErrorKind, Head, Position};

/// Why a manifest does not follow.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("manifest {number} of epoch {epoch} does not follow: {reason}")]
pub struct ChainError {
    /// Its epoch.
    pub epoch: Epoch,
    /// Its number.
    pub number: u64,
    /// What is wrong.
    pub reason: String,
}

impl ChainError {
    /// What the caller has to do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Corrupt
    }
}

/// Where the archive's history ends: all that the usual step, which adds segments at the end, has to follow. What it
/// takes to know does not grow with history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainEnd {
    /// Name of the log.
    pub log: String,
    /// The last manifest accepted.
    pub last: Option<ManifestRef>,
    /// Newest position that is archived.
    pub head: Head,
}

impl ChainEnd {
    /// Checks a step that replaces nothing, but not its list of all segments if it has one: that takes a [`Chain`].
    ///
    /// # Errors
    /// [`ChainError`] that says why it does not follow.
    pub fn check(&self, manifest: &Manifest) -> Result<(), ChainError> {
        self.check_place(manifest).map_err(|reason| refused(manifest, reason))?;
        check_dense(self.head.next(), &manifest.added).map_err(|reason| refused(manifest, reason))
    }

    fn check_place(&self, manifest: &Manifest) -> Result<(), &'static str> {
        if manifest.log != self.log {
            return Err("it is of another log");
        }
        if manifest.number != self.last.map_or(1, |last| last.number + 1) {
            return Err("its number is not the next");
        }
        if manifest.previous != self.last.map(|last| last.sha256) {
            return Err("it names another one as the one before it");
        }
        let opens_epoch = self.last.map_or(manifest.epoch > Epoch::FIRST, |last| manifest.epoch != last.epoch);
        match manifest.fork {
            None if opens_epoch => Err("it opens an epoch and does not say where"),
            Some(_) if !opens_epoch => Err("it says where an epoch begins and opens none"),
            Some(fork) if fork.after != self.last => Err("its epoch begins after another manifest"),
            Some(fork) if self.head > fork.position => Err("its epoch begins before the archive ends"),
            _ if self.last.is_some_and(|last| manifest.epoch < last.epoch) => Err("its epoch is over"),
            _ => Ok(()),
        }
    }
}

fn refused(manifest: &Manifest, reason: impl Into<String>) -> ChainError {
    ChainError { epoch: manifest.epoch, number: manifest.number, reason: reason.into() }
}

/// The archive's history so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    end: ChainEnd,
    in_force: Vec<Segment>,
}

impl Chain {
    /// The empty archive of a log.
    #[must_use]
    pub fn new(log: &str) -> Self {
        Self::resume(log, None, Vec::new())
    }

    /// An archive as it stood after `last`, with all segments in force by position.
    #[must_use]
    pub fn resume(log: &str, last: Option<ManifestRef>, in_force: Vec<Segment>) -> Self {
        let head = in_force.last().map_or(Head::EMPTY, |segment| segment.last.as_head());
        Self { end: ChainEnd { log: log.to_owned(), last, head }, in_force }
    }

    /// The last manifest accepted.
    #[must_use]
    pub fn last(&self) -> Option<ManifestRef> {
        self.end.last
    }

    /// The segments in force, by position, without a hole from position 1 on.
    #[must_use]
    pub fn in_force(&self) -> &[Segment] {
        &self.in_force
    }

    /// Newest position that is archived.
    #[must_use]
    pub fn head(&self) -> Head {
        self.end.head
    }

    /// Takes the next step. Nothing is changed by one that is refused.
    ///
    /// # Errors
    /// [`ChainError`] that says why it does not follow.
    pub fn accept(&mut self, step: &Signed<Manifest>) -> Result<(), ChainError> {
        let manifest = &step.statement;
        let other_list = "its list of segments in force is not what the steps give";
        if manifest.replaced.is_empty() {
            // The usual step adds at the end: checking it must not cost the length of the whole list.
            self.end.check(manifest)?;
            let parts = Some((self.in_force.as_slice(), manifest.added.as_slice()));
            let listed = manifest.in_force.as_ref();
            if listed.is_some_and(|list| list.split_at_checked(self.in_force.len()) != parts) {
                return Err(refused(manifest, other_list));
            }
            self.in_force.extend(manifest.added.iter().cloned());
        } else {
            self.end.check_place(manifest).map_err(|reason| refused(manifest, reason))?;
            let in_force = self.rebuilt(manifest).map_err(|reason| refused(manifest, reason))?;
            if manifest.in_force.as_ref().is_some_and(|listed| *listed != in_force) {
                return Err(refused(manifest, other_list));
            }
            self.in_force = in_force;
        }
        self.end.last = Some(step.reference());
        self.end.head = self.in_force.last().map_or(Head::EMPTY, |segment| segment.last.as_head());
        Ok(())
    }

    fn rebuilt(&self, manifest: &Manifest) -> Result<Vec<Segment>, String> {
        let mut in_force = self.in_force.clone();
        for replaced in &manifest.replaced {
            let at = in_force.iter().position(|segment| replaced.names(segment));
            in_force.remove(at.ok_or("it replaces a segment that is not in force")?);
        }
        in_force.extend(manifest.added.iter().cloned());
        in_force.sort_by_key(|segment| segment.first);
        check_dense(Position::FIRST, &in_force)?;
        Ok(in_force)
    }
}

fn check_dense(first: Position, segments: &[Segment]) -> Result<(), String> {
    segments.iter().try_fold(first, |next, segment| {
        let follows = segment.first == next;
        follows.then(|| segment.last.next()).ok_or_else(|| format!("position {next} is in no segment, or in two"))
    })?;
    Ok(())
}

/// The part of one epoch's manifests that counts: from its first to `last`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// The epoch.
    pub epoch: Epoch,
    /// Number of its first manifest.
    pub first: u64,
    /// Number of its last one that counts.
    pub last: u64,
}

/// Finds the manifests that count, from the names of all: those of the highest epoch, and of each older epoch
/// those up to where the next one forked. Ask [`Lineage::wanted`] which manifest to read, give its fork to
/// [`Lineage::forked`], until nothing is wanted.
#[derive(Debug, Clone)]
pub struct Lineage {
    numbers: BTreeMap<Epoch, (u64, u64)>,
    /// Newest first.
    stretches: Vec<Stretch>,
    complete: bool,
}

impl Lineage {
    /// From the epochs and numbers of all manifests of a bucket.
    #[must_use]
    pub fn of(names: impl IntoIterator<Item = (Epoch, u64)>) -> Self {
        let mut numbers = BTreeMap::new();
        for (epoch, number) in names {
            let (first, last) = numbers.entry(epoch).or_insert((number, number));
            (*first, *last) = (number.min(*first), number.max(*last));
        }
        let newest = numbers.last_key_value().map(|(epoch, (first, last))| Stretch {
            epoch: *epoch,
            first: *first,
            last: *last,
        });
        Self { numbers, complete: newest.is_none(), stretches: newest.into_iter().collect() }
    }

    /// The manifest whose fork must be known to go on.
    #[must_use]
    pub fn wanted(&self) -> Option<(Epoch, u64)> {
        let oldest = self.stretches.last().filter(|_| !self.complete)?;
        Some((oldest.epoch, oldest.first))
    }

    /// Goes on to the epoch before: `after` is the last manifest of it that counts, `None` if there is none.
    pub fn forked(&mut self, after: Option<ManifestRef>) {
        let newer = self.stretches.last().map(|stretch| stretch.epoch);
        // A fork into its own or a later epoch would lead round and round; the chain refuses it by its epoch.
        let Some(after) = after.filter(|after| newer.is_some_and(|newer| after.epoch < newer)) else {
            self.complete = true;
            return;
        };
        // What is named and not there stays in the list: whoever reads it finds that it is missing.
        let first = self.numbers.get(&after.epoch).map_or(after.number, |(first, _)| after.number.min(*first));
        self.stretches.push(Stretch { epoch: after.epoch, first, last: after.number });
    }

    /// The stretches that count, oldest first.
    #[must_use]
    pub fn stretches(&self) -> Vec<Stretch> {
        self.stretches.iter().rev().copied().collect()
    }

    /// Of the steps that a catalog has taken, the newest that counts: where its branch and this one part.
    #[must_use]
    pub fn newest_of(&self, entries: &[CatalogEntry]) -> Option<(Epoch, u64)> {
        entries.iter().rev().map(|entry| entry.manifest).find(|(epoch, number)| self.counts(*epoch, *number))
    }

    /// Whether a manifest counts.
    #[must_use]
    pub fn counts(&self, epoch: Epoch, number: u64) -> bool {
        self.stretches.iter().any(|s| s.epoch == epoch && (s.first..=s.last).contains(&number))
    }
}
