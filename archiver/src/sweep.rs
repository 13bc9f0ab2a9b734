//! Sweep: finds objects that an interrupted step left behind, and removes them when told to.
//!
//! It never takes what a manifest names, what an unfinished plan may still need (anything beyond the archived
//! head), or what another epoch sealed: that belongs into a quarantine.

use std::collections::HashSet;

use domain::archive::catalog::Catalog;
use domain::archive::layout;
use domain::store::ObjectStore;

use crate::{ArchiveError, catch_up};

/// Finds the orphans among segments and indexes, by key. Touches nothing.
///
/// # Errors
/// [`ArchiveError::Store`], [`ArchiveError::Catalog`].
pub async fn find(store: &dyn ObjectStore, catalog: &dyn Catalog) -> Result<Vec<String>, ArchiveError> {
    // The bucket is listed first: what is archived meanwhile is in the catalog by the time that is read.
    let mut keys = catch_up::list_all(store, layout::SEGMENTS).await?;
    keys.extend(catch_up::list_all(store, layout::INDEXES).await?);
    let Some(manifest) = catalog.last_manifest().await? else { return Ok(Vec::new()) };
    let segments: Vec<_> = catalog.segments().await?.into_iter().map(|entry| entry.segment).collect();
    let Some(archived) = segments.last().map(|segment| segment.last) else { return Ok(Vec::new()) };
    let named: HashSet<String> =
        segments.iter().flat_map(|segment| [layout::segment(segment), layout::index(segment)]).collect();
    keys.retain(|key| {
        let parsed = layout::parse_range(key);
        parsed.is_some_and(|(_, last, epoch)| last <= archived && epoch == manifest.epoch) && !named.contains(key)
    });
    Ok(keys)
}

/// Removes the orphans that [`find`] found.
///
/// # Errors
/// [`ArchiveError::Store`]; those before it are gone.
pub async fn remove(store: &dyn ObjectStore, orphans: &[String]) -> Result<(), ArchiveError> {
    for key in orphans {
        store.delete(key).await?;
    }
    Ok(())
}
