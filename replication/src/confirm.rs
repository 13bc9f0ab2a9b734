//! Who holds what: each region states in its own bucket, signed, which of the other's segments it has read back
//! and found right; the other reads that and notes it in its catalog. Nothing is pruned before (ARC-2).
//!
//! It never confirms what this region sealed itself, and never takes the word of the own key for the other's.

use domain::archive::catalog::{CatalogEntry, CatalogError, Mark, Segment};
use domain::archive::confirmation::Confirmation;
use domain::archive::layout;
use domain::archive::reader;
use domain::archive::segment::SegmentError;
use domain::archive::statement::{self, FORMAT, StatementError};
use domain::log::ReadError;
use domain::store::{ObjectStore, StoreError};
use domain::{ClockError, ErrorKind, Position};
use thiserror::Error;

use crate::mirror::{self, MirrorError};
use crate::region::Region;

/// How many segments that are not confirmed are asked for at once.
const OPEN_SEGMENTS: usize = 100;

/// Why a segment was not confirmed.
#[derive(Debug, Error)]
pub enum ConfirmError {
    /// A bucket did not answer.
    #[error("a confirmation was not read or written")]
    Store(#[from] StoreError),
    /// The catalog did not answer.
    #[error("the catalog was not read or moved")]
    Catalog(#[from] CatalogError),
    /// The log was not read.
    #[error("the own log was not read")]
    Read(#[from] ReadError),
    /// An object is no confirmation that we trust.
    #[error("{key} is not a confirmation to trust")]
    Statement {
        /// Its key.
        key: String,
        /// Why.
        #[source]
        source: StatementError,
    },
    /// It confirms something else.
    #[error("{key} confirms another segment, or is signed by another region")]
    Other {
        /// Its key.
        key: String,
    },
    /// The own copy is not what the manifest says.
    #[error("the own copy of the segment from position {first} is damaged")]
    OwnCopy {
        /// Its first position.
        first: Position,
        /// What is wrong.
        #[source]
        source: SegmentError,
    },
    /// The manifest that added the segment was not read.
    #[error("the manifest that added a segment was not read")]
    Manifest(#[source] Box<MirrorError>),
    /// The clock was not read.
    #[error(transparent)]
    Clock(#[from] ClockError),
}

impl ConfirmError {
    /// What the caller has to do. Corrupt needs a person, or the scrub.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Store(error) => error.kind(),
            Self::Catalog(error) => error.kind(),
            Self::Read(error) => error.kind(),
            Self::Statement { source, .. } => source.kind(),
            Self::Other { .. } => ErrorKind::Corrupt,
            Self::OwnCopy { source, .. } => source.kind(),
            Self::Manifest(error) => error.kind(),
            Self::Clock(_) => ErrorKind::Unavailable,
        }
    }
}

/// Goes through the segments that are not confirmed yet: states the own copy of those that the other region
/// sealed, and looks for the other's statement of those that were sealed here. May be repeated. Returns how
/// many became confirmed.
///
/// # Errors
/// The first [`ConfirmError`]; what was settled before it stays.
pub async fn settle(region: &Region) -> Result<usize, ConfirmError> {
    if region.peer_store.is_none() && region.peer.is_none() {
        // There is nobody to take a word from and nobody to give one to, for all of history.
        return Ok(0);
    }
    let log = region.log.log_head().await?.log_id;
    let mut settled = 0;
    let mut sealed_here: Option<((domain::Epoch, u64), bool)> = None;
    let mut from = Position::FIRST;
    loop {
        let open = region.catalog.unmarked(Mark::Confirmed, from, OPEN_SEGMENTS).await?;
        let Some(last) = open.last() else { return Ok(settled) };
        from = last.segment.last.next();
        for entry in &open {
            // Segments come in the order of their manifests: each manifest is read once.
            let here = match sealed_here.filter(|(manifest, _)| *manifest == entry.manifest) {
                Some((_, here)) => here,
                None => is_sealed_here(region, entry).await?,
            };
            sealed_here = Some((entry.manifest, here));
            let done =
                if here { take_word(region, &log, entry).await? } else { give_word(region, &log, entry).await? };
            settled += usize::from(done);
        }
    }
}

async fn is_sealed_here(region: &Region, entry: &CatalogEntry) -> Result<bool, ConfirmError> {
    let (epoch, number) = entry.manifest;
    let read = mirror::read_manifest(region, region.store.as_ref(), epoch, number).await;
    let (_, signed) = read.map_err(|error| ConfirmError::Manifest(Box::new(error)))?;
    Ok(signed.signer == *region.key.id())
}

/// Sealed there, mirrored here: reads the own copy back whole and says so. That the other copy was right is
/// known from mirroring it, so both copies were matched by this region itself.
async fn give_word(region: &Region, log: &str, entry: &CatalogEntry) -> Result<bool, ConfirmError> {
    let segment = &entry.segment;
    let object = region.store.get(&layout::segment(segment)).await?.bytes;
    let index = region.store.get(&layout::index(segment)).await?.bytes;
    let checked = reader::check(segment, &object, &index);
    checked.map_err(|source| ConfirmError::OwnCopy { first: segment.first, source })?;
    let now = region.clock.now().await?;
    region.catalog.mark_verified(segment.first, now).await?;
    region.reached("confirm.mark_verified");

    let name = region.name().to_owned();
    let statement =
        Confirmation { format: FORMAT, log: log.to_owned(), region: name, segment: segment.clone(), verified_at: now };
    let key = layout::confirmation(region.name(), segment);
    let signed = match statement::sign(&statement, &region.key) {
        Ok(signed) => signed,
        Err(source) => return Err(ConfirmError::Statement { key, source }),
    };
    match region.store.create(&key, &signed).await {
        Ok(_) => {}
        // Said before, at another time: as good, if it says the same.
        Err(StoreError::Different { .. }) => {
            let there = read_word(region, region.store.as_ref(), region.name(), segment).await?;
            check_word(&there, log, region.name(), segment, key)?;
        }
        Err(error) => return Err(error.into()),
    }
    region.reached("confirm.statement");
    // Marked last: as long as it is not, the next round says it again.
    region.catalog.mark_confirmed(segment.first, now).await?;
    region.reached("confirm.mark_confirmed");
    Ok(true)
}

/// Sealed here: is there a confirmation by another key in the other bucket?
async fn take_word(region: &Region, log: &str, entry: &CatalogEntry) -> Result<bool, ConfirmError> {
    let Some(peer) = &region.peer_store else { return Ok(false) };
    let others = region.keys.iter().filter(|key| key.id().name() != region.name());
    for other in others {
        let name = other.id().name();
        match read_word(region, peer.as_ref(), name, &entry.segment).await {
            Ok(word) => check_word(&word, log, name, &entry.segment, layout::confirmation(name, &entry.segment))?,
            Err(ConfirmError::Store(StoreError::NotFound { .. })) => continue,
            Err(error) => return Err(error),
        }
        region.reached("confirm.read");
        region.catalog.mark_confirmed(entry.segment.first, region.clock.now().await?).await?;
        region.reached("confirm.take");
        return Ok(true);
    }
    Ok(false)
}

async fn read_word(
    region: &Region,
    store: &dyn ObjectStore,
    name: &str,
    segment: &Segment,
) -> Result<Confirmation, ConfirmError> {
    let key = layout::confirmation(name, segment);
    let bytes = store.get(&key).await?.bytes;
    match statement::verify::<Confirmation>(&bytes, &region.keys) {
        Ok(signed) => Ok(signed.statement),
        Err(source) => Err(ConfirmError::Statement { key, source }),
    }
}

/// The statement's own check has tied its region to the key that signed it.
fn check_word(
    word: &Confirmation,
    log: &str,
    region: &str,
    segment: &Segment,
    key: String,
) -> Result<(), ConfirmError> {
    let said = (word.log.as_str(), word.region.as_str(), &word.segment);
    if said == (log, region, segment) { Ok(()) } else { Err(ConfirmError::Other { key }) }
}
