//! The follower's copy of the archive: walks the other region's manifests, and for each segment compares every
//! record with its own log before it keeps the object (ARC-2). Manifests are copied byte for byte, so both
//! buckets tell the same history.
//!
//! Where the own catalog stands on a branch that lost, it is wound back first to where the branches part.
//!
//! It seals nothing, and overwrites only what is damaged: an object that an interrupted round left, and that is not the
//! one that it is named after any more. A segment that differs from the own log is an alarm, not a copy.

use domain::append::{LogHead, Role};
use domain::archive::accept::{self, AcceptError};
use domain::archive::catalog::{CatalogError, ManifestRef, Segment};
use domain::archive::chain::Lineage;
use domain::archive::layout;
use domain::archive::manifest::Manifest;
use domain::archive::read_back::{self, ReadBackError};
use domain::archive::statement::{self, Signed, StatementError};
use domain::log::ReadError;
use domain::store::{ObjectStore, StoreError};
use domain::{Epoch, ErrorKind, Head, Position};
use thiserror::Error;

use crate::confirm::{self, ConfirmError};
use crate::listing;
use crate::region::Region;

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
    /// A manifest does not follow the last one, or asks for what this version cannot do.
    #[error(transparent)]
    Accept(#[from] AcceptError),
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
    /// Both buckets have a manifest of this name, and not the same one.
    #[error("manifest {number} of epoch {epoch} is another one in the other region's bucket")]
    TwoOfAName {
        /// Its epoch.
        epoch: Epoch,
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
            Self::Accept(error) => error.kind(),
            Self::Segment { source, .. } => source.kind(),
            Self::Misplaced { .. } | Self::TwoOfAName { .. } => ErrorKind::Corrupt,
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
    /// The end of the own archive was void: the catalog was wound back to the manifest of this number, 0 if none
    /// counts.
    WoundBack {
        /// Its number.
        number: u64,
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
        Some(peer) if own.role == Role::Follower => mirror_next(region, peer.as_ref(), &own).await?,
        _ => Round::Idle,
    };
    confirm::settle(region).await?;
    Ok(round)
}

async fn mirror_next(region: &Region, peer: &dyn ObjectStore, own: &LogHead) -> Result<Round, MirrorError> {
    let last = region.catalog.last_manifest().await?;
    let (epoch, number) = match next_manifest(region, peer, last).await? {
        Next::None => return Ok(Round::CaughtUp),
        Next::Manifest(epoch, number) => (epoch, number),
        // A newer epoch than the own one is for the watch first: until it is followed it makes nothing void.
        Next::Void { last, by } if by <= own.epoch => return wind_back(region, peer, last).await,
        Next::Void { .. } => return Ok(Round::Idle),
    };
    let (bytes, step) = read_manifest(region, peer, epoch, number).await?;
    let head = accept::check(region.catalog.as_ref(), &own.log_id, &step).await?;
    if head > own.head {
        return Ok(Round::Behind(head));
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
    Ok(Round::Mirrored { number, head })
}

/// What follows the last manifest that was accepted.
enum Next {
    None,
    /// This one: the next of its epoch, or the first of a newer one.
    Manifest(Epoch, u64),
    /// Nothing: the last one itself is beyond where the newest epoch forked.
    Void {
        last: ManifestRef,
        by: Epoch,
    },
}

async fn next_manifest(
    region: &Region,
    peer: &dyn ObjectStore,
    last: Option<ManifestRef>,
) -> Result<Next, MirrorError> {
    let after = last.map(|last| layout::manifest(last.epoch, last.number));
    let newer = listing::names(peer, layout::MANIFESTS, after, layout::parse_manifest).await?;
    let Some(by) = newer.last().map(|(epoch, _)| *epoch) else { return Ok(Next::None) };
    let names = last.iter().map(|last| (last.epoch, last.number)).chain(newer.iter().copied());
    let mut lineage = Lineage::of(names);
    while let Some((epoch, number)) = lineage.wanted() {
        if last.is_some_and(|last| epoch <= last.epoch) {
            break;
        }
        let fork = read_manifest(region, peer, epoch, number).await?.1.statement.fork;
        lineage.forked(fork.and_then(|fork| fork.after));
    }
    if let Some(last) = last.filter(|last| !lineage.counts(last.epoch, last.number)) {
        return Ok(Next::Void { last, by });
    }
    // Two manifests may have the wanted number: an older epoch's step beyond the fork is void.
    let wanted = last.map_or(1, |last| last.number + 1);
    let next = newer.into_iter().find(|(epoch, number)| *number == wanted && lineage.counts(*epoch, *number));
    Ok(next.map_or(Next::None, |(epoch, number)| Next::Manifest(epoch, number)))
}

/// The end of the own archive lost: a promotion that did not know it (this region had just written it and died, or
/// was cut off) forked before it. Takes the catalog back to where both branches part; the next rounds mirror from
/// there. All that the void steps archived is still live, or the catalog refuses (ARC-1). Their objects stay in the
/// own bucket: an audit lists them as void, and nobody removes them.
async fn wind_back(region: &Region, peer: &dyn ObjectStore, last: ManifestRef) -> Result<Round, MirrorError> {
    let mut lineage = Lineage::of(listing::names(peer, layout::MANIFESTS, None, layout::parse_manifest).await?);
    while let Some((epoch, number)) = lineage.wanted() {
        let fork = read_manifest(region, peer, epoch, number).await?.1.statement.fork;
        lineage.forked(fork.and_then(|fork| fork.after));
    }
    let to = match lineage.newest_of(&region.catalog.segments().await?) {
        None => None,
        Some((epoch, number)) => {
            let (_, own) = read_manifest(region, region.store.as_ref(), epoch, number).await?;
            let (_, theirs) = read_manifest(region, peer, epoch, number).await?;
            // Before anything is forgotten: what is under the same name must be the same step.
            if own.sha256 != theirs.sha256 {
                return Err(MirrorError::TwoOfAName { epoch, number });
            }
            Some(own.reference())
        }
    };
    let number = to.map_or(0, |to| to.number);
    let (from_epoch, from) = (last.epoch.get(), last.number);
    tracing::warn!(from_epoch, from, to = number, "the end of the own archive is void: its catalog is wound back");
    region.catalog.wind_back(last, to).await?;
    region.reached("mirror.wind_back");
    Ok(Round::WoundBack { number })
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
    keep(region, &layout::index(segment), &index).await?;
    region.reached("mirror.index");
    keep(region, &layout::segment(segment), &object).await?;
    region.reached("mirror.segment");
    Ok(())
}

/// Keeps an object that was compared with the own log. Other bytes under its name are damage, for the name holds the
/// segment's digest, and no scrub would find them: no catalog names them yet. So they are healed here (ARC-4).
async fn keep(region: &Region, key: &str, good: &[u8]) -> Result<(), MirrorError> {
    match region.store.create(key, good).await {
        Err(StoreError::Different { .. }) => {}
        created => return Ok(created.map(|_| ())?),
    }
    let bad = region.store.get(key).await?;
    // A single reply may have been bad, and the object good.
    if bad.bytes != good {
        region.store.replace(key, &bad.meta.etag, good).await?;
        tracing::warn!(key, "a damaged object from an interrupted round was replaced by the good one");
    }
    Ok(())
}

#[cfg(test)]
mod tests;
