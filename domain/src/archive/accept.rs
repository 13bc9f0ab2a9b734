//! Takes a manifest into a region's catalog: its own after a lost reply, the other region's when mirroring, all
//! of them when a catalog is built anew.

use thiserror::Error;

use super::catalog::{Catalog, CatalogError, ManifestRef};
use super::chain::{Chain, ChainError};
use super::manifest::Manifest;
use super::statement::Signed;
use crate::ErrorKind;

/// Why a manifest was not accepted.
#[derive(Debug, Clone, Error)]
pub enum AcceptError {
    /// It does not follow.
    #[error("the manifest does not follow")]
    Chain(#[from] ChainError),
    /// The catalog did not take it.
    #[error("the catalog did not take the manifest")]
    Catalog(#[from] CatalogError),
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
    if !step.statement.replaced.is_empty() {
        return Err(AcceptError::Replaces(step.reference()));
    }
    let in_force = catalog.segments().await?.into_iter().map(|entry| entry.segment).collect();
    Chain::resume(log, last, in_force).accept(step)?;
    Ok(catalog.accept(last, step.reference(), &step.statement.added).await?)
}
