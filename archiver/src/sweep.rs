//! Sweep: finds objects that an interrupted seal left behind, and removes them.
//!
//! Only the region that holds the epoch sweeps, and of its bucket only segments and indexes that were sealed in that epoch,
//! so by itself: what another epoch sealed belongs into a quarantine, and a follower's bucket is the mirror's. No clock is
//! asked: an object is an orphan when segments in force that this region has read back hold all of its positions and none of
//! them is it. Then no plan can need it any more: whoever still wants to add it follows a manifest that is not the last.

use std::sync::Arc;

use domain::append::Role;
use domain::archive::catalog::{Catalog, CatalogEntry};
use domain::archive::layout;
use domain::log::LogReader;
use domain::store::ObjectStore;
use domain::{Epoch, Position};
use tracing::info;

use crate::{ArchiveError, StepObserver};

/// How many objects a round looks at.
const ROUND_OBJECTS: usize = 1000;
/// Where orphans are looked for, in this order.
const FOLDERS: [&str; 2] = [layout::SEGMENTS, layout::INDEXES];

/// What a sweep works with.
#[derive(Clone)]
pub struct SweepIo {
    /// This region's log: its role and epoch.
    pub log: Arc<dyn LogReader>,
    /// This region's bucket.
    pub store: Arc<dyn ObjectStore>,
    /// This region's catalog.
    pub catalog: Arc<dyn Catalog>,
    /// Is told of each step.
    pub steps: Arc<dyn StepObserver>,
}

/// What a round did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SweepReport {
    /// Objects whose names were looked at.
    pub seen: usize,
    /// Keys of those that were removed.
    pub removed: Vec<String>,
}

/// Sweeps a bucket in rounds, each of which looks at so many objects; after the last it begins anew.
pub struct Sweeper {
    io: SweepIo,
    /// Which folder comes next, and after which key in it.
    folder: usize,
    after: Option<String>,
}

impl Sweeper {
    /// A sweeper that begins at the first object.
    #[must_use]
    pub fn new(io: SweepIo) -> Self {
        Self { io, folder: 0, after: None }
    }

    /// Looks at the next objects and removes the orphans among them.
    ///
    /// # Errors
    /// [`ArchiveError::NotActive`] in a region that does not seal; otherwise store, log or catalog did not answer. What was
    /// removed before it is gone, and the next round looks at the same objects again.
    pub async fn round(&mut self) -> Result<SweepReport, ArchiveError> {
        let (seen, orphans, last) = look(&self.io, FOLDERS[self.folder], self.after.as_deref()).await?;
        remove(&self.io, &orphans).await?;
        if last.is_none() {
            self.folder = (self.folder + 1) % FOLDERS.len();
        }
        self.after = last;
        Ok(SweepReport { seen, removed: orphans })
    }
}

/// Finds all orphans, by key. Touches nothing.
///
/// # Errors
/// As [`Sweeper::round`].
pub async fn find(io: &SweepIo) -> Result<Vec<String>, ArchiveError> {
    let mut found = Vec::new();
    for folder in FOLDERS {
        let mut after = None;
        loop {
            let (_, orphans, last) = look(io, folder, after.as_deref()).await?;
            found.extend(orphans);
            if last.is_none() {
                break;
            }
            after = last;
        }
    }
    Ok(found)
}

/// Removes orphans that [`find`] found. Can be repeated.
///
/// # Errors
/// [`ArchiveError::Store`]; those before it are gone.
pub async fn remove(io: &SweepIo, orphans: &[String]) -> Result<(), ArchiveError> {
    for key in orphans {
        io.store.delete(key).await?;
        io.steps.reached("sweep.removed");
        info!(key, "orphan of an interrupted seal removed");
    }
    Ok(())
}

/// How many objects come next in a folder, the orphans among them, and the last key unless the folder ends.
async fn look(
    io: &SweepIo,
    folder: &str,
    after: Option<&str>,
) -> Result<(usize, Vec<String>, Option<String>), ArchiveError> {
    let head = io.log.log_head().await?;
    if head.role != Role::Active {
        return Err(ArchiveError::NotActive { role: head.role, epoch: head.epoch });
    }
    // The bucket is listed first: what is archived meanwhile is in the catalog by the time that is read.
    let page = io.store.list(folder, after, ROUND_OBJECTS).await?;
    let last = page.last().map(|object| object.key.clone()).filter(|_| page.len() == ROUND_OBJECTS);
    let own: Vec<(String, (Position, Position))> =
        page.iter().filter_map(|object| Some((object.key.clone(), of_epoch(&object.key, head.epoch)?))).collect();
    let ends = own.iter().map(|(_, range)| *range).reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)));
    let Some((first, end)) = ends else { return Ok((page.len(), Vec::new(), last)) };
    let in_force = io.catalog.segments_between(first, end).await?;
    let orphans = own.into_iter().filter(|(key, range)| is_orphan(key, *range, &in_force)).map(|(key, _)| key);
    Ok((page.len(), orphans.collect(), last))
}

fn of_epoch(key: &str, epoch: Epoch) -> Option<(Position, Position)> {
    layout::parse_range(key).filter(|(_, _, sealed_in)| *sealed_in == epoch).map(|(first, last, _)| (first, last))
}

/// Whether segments in force that were read back hold all positions of the object, and none of them is it. `in_force` are
/// by position and without a hole.
fn is_orphan(key: &str, (first, last): (Position, Position), in_force: &[CatalogEntry]) -> bool {
    let begin = in_force.partition_point(|entry| entry.segment.last < first);
    let end = in_force.partition_point(|entry| entry.segment.first <= last);
    let holding = in_force.get(begin..end).unwrap_or_default();
    let is_covered = holding.first().is_some_and(|entry| entry.segment.first <= first)
        && holding.last().is_some_and(|entry| last <= entry.segment.last)
        && holding.iter().all(|entry| entry.verified_at.is_some());
    let is_it = |entry: &CatalogEntry| layout::segment(&entry.segment) == key || layout::index(&entry.segment) == key;
    is_covered && !holding.iter().any(is_it)
}
