//! The follower's copy of the archive: walks the other region's manifests, and for each segment compares every
//! record with its own log before it keeps the object (ARC-2). Manifests are copied byte for byte, so both
//! buckets tell the same history.
//!
//! It seals nothing and never overwrites. A segment that differs from the own log is an alarm, not a copy.

use domain::append::Role;
use domain::archive::catalog::{CatalogError, ManifestRef, Segment};
use domain::archive::chain::{Chain, ChainError, Lineage};
use domain::archive::layout;
use domain::archive::manifest::Manifest;
use domain::archive::read_back::{self, ReadBackError};
use domain::archive::statement::{self, Signed, StatementError};
use domain::log::ReadError;
use domain::store::{ObjectStore, StoreError};
use domain::{Epoch, ErrorKind, Head, Position};
use thiserror::Error;

use crate::confirm::{self, ConfirmError};
use crate::region::Region;

/// Names are listed this many at a time.
const PAGE: usize = 1000;

/// Why the mirror did not go on.
#[derive(Debug, Error)]
pub enum MirrorError {
    /// A bucket did not answer, or holds other bytes under a name.
    #[error("an object was not copied")]
    Store(#[from] StoreError),
    /// The catalog did not answer.
    #[error("the catalog was not read or moved")]
    Catalog(#[from] CatalogError),
    /// The own log was not read.
    #[error("the own log was not read")]
    Read(#[from] ReadError),
    /// An object is no manifest that we trust.
    #[error("{key} is not a manifest to follow")]
    Statement {
        /// Its key.
        key: String,
        /// Why.
        #[source]
        source: StatementError,
    },
    /// A manifest stands under another's name.
    #[error("{key} holds manifest {number} of epoch {epoch}")]
    Misplaced {
        /// Its key.
        key: String,
        /// The epoch it says.
        epoch: Epoch,
        /// The number it says.
        number: u64,
    },
    /// A manifest does not follow the last one.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// A segment is not what the manifest says, or not what the own log says. The latter means that one of the
    /// two regions has lied or lost.
    #[error("the segment from position {first} in the other region's bucket was not accepted")]
    Segment {
        /// Its first position.
        first: Position,
        /// What is wrong.
        #[source]
        source: ReadBackError,
    },
    /// The manifest replaces segments.
    #[error("manifest {number} replaces segments, which this version does not mirror")]
    Replaces {
        /// Its number.
        number: u64,
    },
    /// What was mirrored was not confirmed.
    #[error(transparent)]
    Confirm(#[from] ConfirmError),
}

impl MirrorError {
    /// What the caller has to do. Corrupt needs a person.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Store(error) => error.kind(),
            Self::Catalog(error) => error.kind(),
            Self::Read(error) => error.kind(),
            Self::Statement { source, .. } => source.kind(),
            Self::Chain(error) => error.kind(),
            Self::Segment { source, .. } => source.kind(),
            Self::Misplaced { .. } => ErrorKind::Corrupt,
            Self::Replaces { .. } => ErrorKind::Invalid,
            Self::Confirm(error) => error.kind(),
        }
    }
}

/// What a round did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Round {
    /// Nothing: the region does not follow, or cannot reach the other bucket.
    Idle,
    /// There is no manifest after the last one.
    CaughtUp,
    /// The next manifest holds events that this region does not have yet, up to this head.
    Behind(Head),
    /// One manifest was mirrored.
    Mirrored {
        /// Its number.
        number: u64,
        /// The archive's head after it.
        head: Head,
    },
}

/// One round: mirrors at most one manifest with its segments, then settles what is still unconfirmed
/// ([`confirm::settle`]), also in a region that does not follow.
///
/// # Errors
/// A [`MirrorError`]; the next round takes up what was left.
pub async fn round(region: &Region) -> Result<Round, MirrorError> {
    let own = region.log.log_head().await?;
    let round = match &region.peer_store {
        Some(peer) if own.role == Role::Follower => mirror_next(region, peer.as_ref(), &own.log_id, own.head).await?,
        _ => Round::Idle,
    };
    confirm::settle(region).await?;
    Ok(round)
}

async fn mirror_next(region: &Region, peer: &dyn ObjectStore, log: &str, head: Head) -> Result<Round, MirrorError> {
    let last = region.catalog.last_manifest().await?;
    let Some((epoch, number)) = next_manifest(region, peer, last).await? else { return Ok(Round::CaughtUp) };
    let (bytes, step) = read_manifest(region, peer, epoch, number).await?;
    if !step.statement.replaced.is_empty() {
        return Err(MirrorError::Replaces { number });
    }
    let entries = region.catalog.segments().await?;
    let mut chain = Chain::resume(log, last, entries.into_iter().map(|entry| entry.segment).collect());
    chain.accept(&step)?;
    if chain.head() > head {
        return Ok(Round::Behind(chain.head()));
    }
    for segment in &step.statement.added {
        copy_segment(region, peer, segment).await?;
    }
    // Manifest after segments, catalog after manifest: a crash leaves objects that the next round finds equal,
    // never a manifest or a catalog that promises bytes we do not have.
    region.store.create(&layout::manifest(epoch, number), &bytes).await?;
    region.reached("mirror.manifest");
    region.catalog.accept(last, step.reference(), &step.statement.added).await?;
    region.reached("mirror.accept");
    Ok(Round::Mirrored { number, head: chain.head() })
}

/// Epoch and number of the manifest after `last`: the next of its epoch, or the first of a newer one.
async fn next_manifest(
    region: &Region,
    peer: &dyn ObjectStore,
    last: Option<ManifestRef>,
) -> Result<Option<(Epoch, u64)>, MirrorError> {
    let mut names: Vec<(Epoch, u64)> = last.iter().map(|last| (last.epoch, last.number)).collect();
    let mut after = last.map(|last| layout::manifest(last.epoch, last.number));
    loop {
        let page = peer.list(layout::MANIFESTS, after.as_deref(), PAGE).await?;
        names.extend(page.iter().filter_map(|object| layout::parse_manifest(&object.key)));
        match page.last() {
            Some(newest) if page.len() == PAGE => after = Some(newest.key.clone()),
            _ => break,
        }
    }
    let wanted = last.map_or(1, |last| last.number + 1);
    if !names.iter().any(|(_, number)| *number == wanted) {
        return Ok(None);
    }
    // Two manifests may have the wanted number: an older epoch's step beyond the fork is void.
    let mut lineage = Lineage::of(names.iter().copied());
    while let Some((epoch, number)) = lineage.wanted() {
        if last.is_some_and(|last| last.epoch == epoch) {
            break;
        }
        let fork = read_manifest(region, peer, epoch, number).await?.1.statement.fork;
        lineage.forked(fork.and_then(|fork| fork.after));
    }
    Ok(names.into_iter().find(|(epoch, number)| *number == wanted && lineage.counts(*epoch, *number)))
}

pub(crate) async fn read_manifest(
    region: &Region,
    store: &dyn ObjectStore,
    epoch: Epoch,
    number: u64,
) -> Result<(Vec<u8>, Signed<Manifest>), MirrorError> {
    let key = layout::manifest(epoch, number);
    let bytes = store.get(&key).await?.bytes;
    let signed = match statement::verify::<Manifest>(&bytes, &region.keys) {
        Ok(signed) => signed,
        Err(source) => return Err(MirrorError::Statement { key, source }),
    };
    let (found_epoch, found_number) = (signed.statement.epoch, signed.statement.number);
    if (found_epoch, found_number) != (epoch, number) {
        return Err(MirrorError::Misplaced { key, epoch: found_epoch, number: found_number });
    }
    Ok((bytes, signed))
}

/// Pulls one segment and its index, compares all of it, and keeps it in the own bucket.
async fn copy_segment(region: &Region, peer: &dyn ObjectStore, segment: &Segment) -> Result<(), MirrorError> {
    let object = peer.get(&layout::segment(segment)).await?.bytes;
    let index = peer.get(&layout::index(segment)).await?.bytes;
    read_back::matches_log(segment, &object, &index, region.history.as_ref())
        .await
        .map_err(|source| MirrorError::Segment { first: segment.first, source })?;
    // The index first: whoever finds a segment finds its index.
    region.store.create(&layout::index(segment), &index).await?;
    region.reached("mirror.index");
    region.store.create(&layout::segment(segment), &object).await?;
    region.reached("mirror.segment");
    Ok(())
}

#[cfg(test)]
mod tests;
