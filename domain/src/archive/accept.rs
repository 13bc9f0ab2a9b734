//! Takes a manifest into a region's catalog: its own after a lost reply, the other region's when mirroring, all
//! of them when a catalog is built anew.

use thiserror::Error;

use super::catalog::{Catalog, CatalogError, ManifestRef};
use super::chain::{Chain, ChainEnd, ChainError};
use super::manifest::Manifest;
use super::statement::Signed;
use crate::{ErrorKind, Head};

/// Why a manifest was not accepted.
#[derive(Debug, Clone, Error)]
pub enum AcceptError {
    /// It does not follow.
    #[error("the manifest does not follow")]
    Chain(#[from] ChainError),
    /// The catalog did not take it.
    #[error("the catalog did not take the manifest")]
    Catalog(#[from] CatalogError),
    /// Somebody else moved the catalog meanwhile: look again.
    #[error("the catalog was moved by somebody else")]
    Moved,
    /// It replaces segments, which this version of the catalog cannot do.
    #[error("manifest {} of epoch {} replaces segments: a newer version of this program is needed", .0.number, .0.epoch)]
    Replaces(ManifestRef),
}

impl AcceptError {
    /// What the caller has to do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Chain(error) => error.kind(),
            Self::Catalog(error) => error.kind(),
            Self::Moved => ErrorKind::Conflict,
            Self::Replaces(_) => ErrorKind::Invalid,
        }
    }
}

/// Checks that `step` follows what the catalog of the log `log` has, and adds its segments. Taking the newest
/// one again changes nothing.
///
/// # Errors
/// [`AcceptError`]; the catalog is as it was then.
pub async fn accept(catalog: &dyn Catalog, log: &str, step: &Signed<Manifest>) -> Result<(), AcceptError> {
    let last = catalog.last_manifest().await?;
    if last == Some(step.reference()) {
        return Ok(());
    }
    match check(catalog, log, step).await {
        // Another process took the same step between the two looks.
        Err(AcceptError::Moved) if catalog.last_manifest().await? == Some(step.reference()) => Ok(()),
        Err(error) => Err(error),
        Ok(_head) => Ok(catalog.accept(last, step.reference(), &step.statement.added).await?),
    }
}

/// Checks that `step` follows what the catalog has, and returns the archive's head after it. Whoever writes a manifest
/// asks first: one that does not follow can never be taken back. Only a step that lists all segments reads all of them.
///
/// # Errors
/// As [`accept`]; [`AcceptError::Moved`] if the catalog was moved while it was read.
pub async fn check(catalog: &dyn Catalog, log: &str, step: &Signed<Manifest>) -> Result<Head, AcceptError> {
    if !step.statement.replaced.is_empty() {
        return Err(AcceptError::Replaces(step.reference()));
    }
    let last = catalog.last_manifest().await?;
    let whole = match step.statement.in_force {
        Some(_) => Some(catalog.segments().await?.into_iter().map(|entry| entry.segment).collect()),
        None => None,
    };
    let newest = catalog.last_segment().await?;
    // The end of the chain and the segments are read one after the other: they belong together only if nobody moved.
    if catalog.last_manifest().await? != last {
        return Err(AcceptError::Moved);
    }
    let head = newest.map_or(Head::EMPTY, |entry| entry.segment.last.as_head());
    match whole {
        Some(in_force) => Chain::resume(log, last, in_force).accept(step)?,
        None => ChainEnd { log: log.to_owned(), last, head }.check(&step.statement)?,
    }
    Ok(step.statement.added.last().map_or(head, |segment| segment.last.as_head()))
}
