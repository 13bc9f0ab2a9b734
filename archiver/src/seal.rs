//! Seal: cuts the log into segments, stores them, reads them back, and says in a signed manifest that they are
//! archived.
//!
//! Only the region that holds the epoch seals. What is decided ([`plan`]) is pure; what is done can be done
//! again: after a crash between any two steps the next run finishes the work or leaves an orphan object.

use std::sync::Arc;

use domain::append::{LogHead, Role};
use domain::archive::accept;
use domain::archive::catalog::{Catalog, ManifestRef, Mark, Segment};
use domain::archive::epoch_claim::EpochClaim;
use domain::archive::manifest::{Fork, LIST_EVERY, Manifest};
use domain::archive::segment::{Sealed, SegmentWriter};
use domain::archive::{layout, statement};
use domain::keys::{KeyRing, SigningKey};
use domain::log::{Direction, LogReader};
use domain::store::{ObjectStore, StoreError};
use domain::{Clock, Epoch, Position, Timestamp};
use tokio::sync::Mutex;
use tracing::info;

use crate::error::busy;
use crate::verify::{self, VerifiedSegment};
use crate::{ArchiveError, ArchiverConfig, StepObserver, catch_up};

/// How many records are read at once.
const READ_RECORDS: usize = 1024;
/// How many segments that were not read back are asked for at once.
const PENDING_SEGMENTS: usize = 100;

/// What a run of the sealer is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand {
    /// Cut by size and age.
    ByRules,
    /// Seal all there is, whatever its size and age.
    Everything,
}

/// What is known of the segment that is being written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenSegment {
    /// Length of its records, LFs included.
    pub record_bytes: u64,
    /// `recordedat` of its first record; `None` while it is empty.
    pub first_at: Option<Timestamp>,
    /// Whether a cut now would leave no partial block.
    pub between_blocks: bool,
    /// Whether the log has no record after it.
    pub at_head: bool,
}

/// What to do with the segment that is being written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Seal it.
    Cut,
    /// Read on.
    ReadOn,
    /// Nothing now: it is neither large nor old enough, and there is nothing more to read.
    Wait,
}

/// Decides what to do with the segment that is being written. Touches nothing.
///
/// Size counts at any time, at the next end of a block; age only at the log's head: while there is more to read,
/// an old record is no reason for a small segment.
#[must_use]
pub fn plan(open: OpenSegment, config: &ArchiverConfig, demand: Demand, now: Timestamp) -> Step {
    if open.record_bytes >= config.segment_bytes && open.between_blocks {
        return Step::Cut;
    }
    if !open.at_head {
        return Step::ReadOn;
    }
    let old = |first_at: Timestamp| now.micros_since(first_at) >= i64::from(config.seal_after_seconds) * 1_000_000;
    match (open.first_at, demand) {
        (Some(_), Demand::Everything) => Step::Cut,
        (Some(first_at), Demand::ByRules) if old(first_at) => Step::Cut,
        _ => Step::Wait,
    }
}

/// What the sealer works with.
#[derive(Clone)]
pub struct SealIo {
    /// This region's own live log. Not live log and archive as one: verifying means to compare with the rows.
    pub log: Arc<dyn LogReader>,
    /// This region's bucket.
    pub store: Arc<dyn ObjectStore>,
    /// This region's catalog.
    pub catalog: Arc<dyn Catalog>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// This region's key.
    pub key: Arc<SigningKey>,
    /// The public keys of all regions.
    pub keys: KeyRing,
    /// Held while a manifest is written and taken into the catalog. Whoever is to say which one is the last stops
    /// sealing by the region's role first and then waits for this.
    pub publishing: Arc<Mutex<()>>,
    /// Is told of each step.
    pub steps: Arc<dyn StepObserver>,
}

/// Seals one region's log. Two at once do no harm: one of them is [`ArchiveError::Overtaken`].
pub struct Sealer {
    io: SealIo,
    config: ArchiverConfig,
    /// What was read since the last cut, so that nothing is read twice while the process lives.
    open: Option<SegmentWriter>,
}

impl Sealer {
    /// A sealer that has read nothing yet.
    #[must_use]
    pub fn new(io: SealIo, config: ArchiverConfig) -> Self {
        Self { io, config, open: None }
    }

    /// Finishes what a crash left, then seals what `demand` asks for. Returns the segments sealed by this run.
    ///
    /// # Errors
    /// [`ArchiveError`]; what was sealed before it stays sealed. `Conflict` and `Unavailable`: run again.
    /// `Fenced`: this region does not hold the epoch. `Corrupt`: a person has to look.
    pub async fn run(&mut self, demand: Demand) -> Result<Vec<Segment>, ArchiveError> {
        // Also while the region drains: a manifest that a crash left in the bucket is the other region's to mirror, so
        // the catalog has to have it before both can say that they end with the same one.
        let asked_at = self.head_as(&[Role::Active, Role::Draining]).await?;
        catch_up::own_manifests(&*self.io.store, &*self.io.catalog, &self.io.keys, &asked_at).await?;
        self.verify_pending().await?;
        let mut sealed = Vec::new();
        loop {
            let head = self.active_head().await?;
            let mut writer = self.open_writer(head.epoch).await?;
            // Everything is what there was when it was asked for: under load something newer is always there, and a
            // run that went after it would cut small segments without end.
            let demand = if asked_at.head.includes(writer.first()) { demand } else { Demand::ByRules };
            let step = loop {
                let (read, step) = self.read_on(writer, &head, demand).await?;
                writer = read;
                if step != Step::ReadOn {
                    break step;
                }
            };
            if step == Step::Wait {
                self.open = Some(writer);
                return Ok(sealed);
            }
            let segment = busy(|| writer.finish()).await??;
            sealed.push(self.execute(segment, &head).await?);
        }
    }

    /// The log's head, if this region may seal it. One that drains may not: the region that takes over names the last
    /// manifest that it has, and what is sealed after it has said so would be void.
    async fn active_head(&self) -> Result<LogHead, ArchiveError> {
        self.head_as(&[Role::Active]).await
    }

    async fn head_as(&self, roles: &[Role]) -> Result<LogHead, ArchiveError> {
        let head = self.io.log.log_head().await?;
        if roles.contains(&head.role) {
            return Ok(head);
        }
        Err(ArchiveError::NotActive { role: head.role, epoch: head.epoch })
    }

    /// The writer that stands where the archive ends: the one kept from the last run, if it still does.
    async fn open_writer(&mut self, epoch: Epoch) -> Result<SegmentWriter, ArchiveError> {
        let first = self.archive_end().await?;
        match self.open.take() {
            Some(writer) if (writer.first(), writer.epoch()) == (first, epoch) => Ok(writer),
            _ => Ok(SegmentWriter::new(first, epoch)?),
        }
    }

    /// Position that the next segment begins with.
    async fn archive_end(&self) -> Result<Position, ArchiveError> {
        let last = self.io.catalog.last_segment().await?;
        Ok(last.map_or(Position::FIRST, |entry| entry.segment.last.next()))
    }

    /// Reads the next records into the writer, as far as it may grow, and decides what comes next.
    async fn read_on(
        &self,
        writer: SegmentWriter,
        head: &LogHead,
        demand: Demand,
    ) -> Result<(SegmentWriter, Step), ArchiveError> {
        let now = self.io.clock.now().await?;
        let records = if head.head.includes(writer.next()) {
            self.io.log.read_log(writer.next(), Direction::Forward, READ_RECORDS).await?
        } else {
            Vec::new()
        };
        let (head, config) = (head.head, self.config.clone());
        busy(move || {
            let mut writer = writer;
            let step = |writer: &SegmentWriter| {
                let open = OpenSegment {
                    record_bytes: writer.record_bytes(),
                    first_at: writer.first_at(),
                    between_blocks: writer.is_between_blocks(),
                    at_head: !head.includes(writer.next()),
                };
                plan(open, &config, demand, now)
            };
            for record in &records {
                if step(&writer) != Step::ReadOn {
                    break;
                }
                writer.push(record)?;
            }
            let step = step(&writer);
            Ok((writer, step))
        })
        .await?
    }

    /// Stores, reads back and publishes a segment. Can be repeated with the same records.
    async fn execute(&self, sealed: Sealed, head: &LogHead) -> Result<Segment, ArchiveError> {
        let Sealed { segment, object, index } = sealed;
        let io = &self.io;
        let after = io.catalog.last_manifest().await?;
        if self.archive_end().await? != segment.first {
            let number = after.map_or(1, |after| after.number);
            return Err(ArchiveError::Overtaken { epoch: head.epoch, number });
        }
        let fork = self.fork(after, head).await?;
        create(&*io.store, &layout::segment(&segment), &object).await?;
        io.steps.reached("seal.segment");
        create(&*io.store, &layout::index(&segment), &index).await?;
        io.steps.reached("seal.index");
        drop((object, index));
        let verified = verify::read_back(&*io.store, &*io.log, &segment).await?;
        io.steps.reached("seal.read_back");
        // The manifest last: a crash above leaves orphan objects, which `sweep` removes; the other order would
        // leave a manifest that promises bytes that we do not have.
        self.publish(verified, head, (after, fork)).await?;
        info!(first = segment.first.get(), last = segment.last.get(), bytes = segment.bytes, "segment sealed");
        Ok(segment)
    }

    /// Writes the manifest that follows `after` and adds a verified segment, and takes it into the catalog.
    async fn publish(
        &self,
        verified: VerifiedSegment,
        head: &LogHead,
        (after, fork): (Option<ManifestRef>, Option<Fork>),
    ) -> Result<(), ArchiveError> {
        let io = &self.io;
        // The lock before the role, and until the catalog has it: a drain changes the role and then waits for the lock,
        // so either it finds this manifest in the catalog, or this look finds the drain and nothing is written.
        let _publishing = io.publishing.lock().await;
        // Reading back took a while: a region that lost its epoch meanwhile writes no manifest.
        let now_in_force = self.active_head().await?;
        if now_in_force.epoch != head.epoch {
            return Err(ArchiveError::NotActive { role: now_in_force.role, epoch: now_in_force.epoch });
        }
        let number = after.map_or(1, |after| after.number + 1);
        let first = verified.segment().first;
        let manifest = Manifest {
            format: statement::FORMAT,
            log: head.log_id.clone(),
            epoch: head.epoch,
            number,
            previous: after.map(|after| after.sha256),
            time: io.clock.now().await?,
            fork,
            added: vec![verified.segment().clone()],
            replaced: Vec::new(),
            in_force: self.list_in_force(number, verified).await?,
        };
        let object = statement::sign(&manifest, &io.key)?;
        let signed = statement::verify::<Manifest>(&object, &io.keys)?;
        if io.catalog.last_manifest().await? != after {
            return Err(ArchiveError::Overtaken { epoch: head.epoch, number });
        }
        accept::check(&*io.catalog, &head.log_id, &signed).await?;
        match io.store.create(&layout::manifest(head.epoch, number), &object).await {
            Ok(_new_or_lost_reply) => io.steps.reached("seal.manifest"),
            // Number and digest are taken: whoever was faster has sealed, and the next run takes their manifest.
            Err(StoreError::Different { .. }) => return Err(ArchiveError::Overtaken { epoch: head.epoch, number }),
            Err(error) => return Err(error.into()),
        }
        accept::accept(&*io.catalog, &head.log_id, &signed).await?;
        io.steps.reached("seal.accept");
        io.catalog.mark_verified(first, io.clock.now().await?).await?;
        io.steps.reached("seal.mark_verified");
        Ok(())
    }

    /// All segments in force after this step, where a manifest of this number lists them.
    async fn list_in_force(&self, number: u64, added: VerifiedSegment) -> Result<Option<Vec<Segment>>, ArchiveError> {
        if !number.is_multiple_of(LIST_EVERY) {
            return Ok(None);
        }
        let before = self.io.catalog.segments().await?.into_iter().map(|entry| entry.segment);
        Ok(Some(before.chain([added.into_segment()]).collect()))
    }

    /// Where this region's epoch begins, as its claim says, if its next manifest is the first of the epoch.
    async fn fork(&self, after: Option<ManifestRef>, head: &LogHead) -> Result<Option<Fork>, ArchiveError> {
        if after.map_or(head.epoch == Epoch::FIRST, |after| after.epoch == head.epoch) {
            return Ok(None);
        }
        let claim = match self.io.store.get(&layout::epoch_claim(head.epoch)).await {
            Ok(object) => statement::verify::<EpochClaim>(&object.bytes, &self.io.keys)?.statement,
            Err(StoreError::NotFound { .. }) => return Err(ArchiveError::NoClaim(head.epoch)),
            Err(error) => return Err(error.into()),
        };
        if claim.log != head.log_id || claim.region != self.io.key.id().name() {
            return Err(ArchiveError::NotActive { role: head.role, epoch: head.epoch });
        }
        Ok(Some(Fork { after, position: claim.fork }))
    }

    /// Reads back what is in a manifest and was not marked as verified: a crash came in between, or the catalog
    /// was built anew.
    async fn verify_pending(&self) -> Result<(), ArchiveError> {
        let io = &self.io;
        // What has left the live log cannot be compared with it any more; the scrub reads it.
        let mut from = io.log.log_head().await?.pruned.next();
        loop {
            let pending = io.catalog.unmarked(Mark::Verified, from, PENDING_SEGMENTS).await?;
            let Some(last) = pending.last() else { return Ok(()) };
            from = last.segment.last.next();
            for entry in pending {
                let verified = verify::read_back(&*io.store, &*io.log, &entry.segment).await?;
                io.catalog.mark_verified(verified.segment().first, io.clock.now().await?).await?;
                io.steps.reached("seal.mark_verified");
            }
        }
    }
}

/// Creates an object whose name says what is in it: if it is there already, with the same bytes, a reply was lost.
async fn create(store: &dyn ObjectStore, key: &str, bytes: &[u8]) -> Result<(), ArchiveError> {
    match store.create(key, bytes).await {
        Ok(_new_or_lost_reply) => Ok(()),
        Err(StoreError::Different { key }) => Err(ArchiveError::Foreign { key }),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_micros(seconds * 1_000_000).expect("an instant")
    }

    fn open(record_bytes: u64, first_at: Option<Timestamp>, between_blocks: bool, at_head: bool) -> OpenSegment {
        OpenSegment { record_bytes, first_at, between_blocks, at_head }
    }

    fn planned(segment: OpenSegment, demand: Demand) -> Step {
        let config = ArchiverConfig { segment_bytes: 1000, seal_after_seconds: 60, ..ArchiverConfig::default() };
        plan(segment, &config, demand, at(100))
    }

    #[test]
    fn a_full_segment_is_cut_at_the_next_end_of_a_block() {
        assert_eq!(planned(open(1000, Some(at(99)), true, false), Demand::ByRules), Step::Cut);
        assert_eq!(planned(open(1000, Some(at(99)), false, false), Demand::ByRules), Step::ReadOn);
        assert_eq!(planned(open(999, Some(at(99)), true, false), Demand::ByRules), Step::ReadOn);
    }

    #[test]
    fn age_cuts_at_the_logs_head_only() {
        assert_eq!(planned(open(10, Some(at(40)), false, true), Demand::ByRules), Step::Cut);
        assert_eq!(planned(open(10, Some(at(41)), false, true), Demand::ByRules), Step::Wait);
        assert_eq!(planned(open(10, Some(at(40)), false, false), Demand::ByRules), Step::ReadOn);
    }

    #[test]
    fn nothing_is_never_sealed() {
        assert_eq!(planned(open(0, None, true, true), Demand::ByRules), Step::Wait);
        assert_eq!(planned(open(0, None, true, true), Demand::Everything), Step::Wait);
        assert_eq!(planned(open(1, Some(at(100)), false, true), Demand::Everything), Step::Cut);
    }
}
