//! Brings a catalog to where the bucket's chain of manifests stands: after a lost reply, or from nothing.
//!
//! The bucket is the truth and the catalog a cache of it. Nothing is taken that is not signed and does not follow.

use domain::Epoch;
use domain::append::LogHead;
use domain::archive::accept;
use domain::archive::catalog::{Catalog, ManifestRef};
use domain::archive::chain::Lineage;
use domain::archive::layout;
use domain::archive::manifest::Manifest;
use domain::archive::statement::{self, Signed};
use domain::keys::KeyRing;
use domain::store::{ObjectStore, StoreError};

use crate::ArchiveError;

/// How many names are listed at once.
const LIST_OBJECTS: usize = 1000;

/// Takes the manifests of the epoch in force that this region wrote and whose reply it did not see. Returns how
/// many there were. One request where there is none.
///
/// # Errors
/// [`ArchiveError`]; what was taken before it stays.
pub async fn own_manifests(
    store: &dyn ObjectStore,
    catalog: &dyn Catalog,
    keys: &KeyRing,
    head: &LogHead,
) -> Result<u64, ArchiveError> {
    let mut taken = 0;
    loop {
        let number = catalog.last_manifest().await?.map_or(1, |last| last.number + 1);
        let step = match manifest(store, keys, head.epoch, number).await {
            Ok(step) => step,
            Err(ArchiveError::Store(StoreError::NotFound { .. })) => return Ok(taken),
            Err(error) => return Err(error),
        };
        accept::accept(catalog, &head.log_id, &step).await?;
        taken += 1;
    }
}

/// Builds the catalog of the log `log` from the bucket: takes all manifests that count and that it does not have. A
/// catalog that stands on a branch that lost is wound back first. Returns how many it took.
///
/// # Errors
/// [`ArchiveError::OtherChain`] if the bucket has another manifest than the catalog under the same name; the catalog is
/// not changed then.
pub async fn rebuild(
    store: &dyn ObjectStore,
    catalog: &dyn Catalog,
    keys: &KeyRing,
    log: &str,
) -> Result<u64, ArchiveError> {
    let lineage = lineage(store, keys).await?;
    let last = match catalog.last_manifest().await? {
        Some(last) if lineage.counts(last.epoch, last.number) => {
            let ManifestRef { epoch, number, sha256 } = last;
            if manifest(store, keys, epoch, number).await?.sha256 != sha256 {
                return Err(ArchiveError::OtherChain(format!(
                    "manifest {number} of epoch {epoch} is another one there"
                )));
            }
            Some(last)
        }
        Some(void) => {
            let to = match lineage.newest_of(&catalog.segments().await?) {
                Some((epoch, number)) => Some(manifest(store, keys, epoch, number).await?.reference()),
                None => None,
            };
            catalog.wind_back(void, to).await?;
            to
        }
        None => None,
    };
    let mut taken = 0;
    for stretch in lineage.stretches() {
        for number in stretch.first..=stretch.last {
            if last.is_some_and(|last| number <= last.number) {
                continue;
            }
            let step = manifest(store, keys, stretch.epoch, number).await?;
            accept::accept(catalog, log, &step).await?;
            taken += 1;
        }
    }
    Ok(taken)
}

/// Which manifests of a bucket count: found from their names and the first of each epoch.
///
/// # Errors
/// [`ArchiveError`].
pub async fn lineage(store: &dyn ObjectStore, keys: &KeyRing) -> Result<Lineage, ArchiveError> {
    let names = list_all(store, layout::MANIFESTS).await?;
    let mut lineage = Lineage::of(names.iter().filter_map(|key| layout::parse_manifest(key)));
    while let Some((epoch, number)) = lineage.wanted() {
        let first = manifest(store, keys, epoch, number).await?;
        lineage.forked(first.statement.fork.and_then(|fork| fork.after));
    }
    Ok(lineage)
}

/// Reads a manifest and checks its signature, and that it is the one that its name says.
///
/// # Errors
/// [`ArchiveError`].
pub async fn manifest(
    store: &dyn ObjectStore,
    keys: &KeyRing,
    epoch: Epoch,
    number: u64,
) -> Result<Signed<Manifest>, ArchiveError> {
    let key = layout::manifest(epoch, number);
    let object = store.get(&key).await?;
    let signed = statement::verify::<Manifest>(&object.bytes, keys)?;
    if (signed.statement.epoch, signed.statement.number) == (epoch, number) {
        Ok(signed)
    } else {
        Err(ArchiveError::Foreign { key })
    }
}

/// All keys that start with `prefix`, sorted.
///
/// # Errors
/// [`ArchiveError::Store`].
pub async fn list_all(store: &dyn ObjectStore, prefix: &str) -> Result<Vec<String>, ArchiveError> {
    let mut keys: Vec<String> = Vec::new();
    loop {
        let page = store.list(prefix, keys.last().map(String::as_str), LIST_OBJECTS).await?;
        if page.is_empty() {
            return Ok(keys);
        }
        keys.extend(page.into_iter().map(|meta| meta.key));
    }
}
