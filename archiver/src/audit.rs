//! The outsider's view: verifies and replays an archive from a bucket and public keys alone. No database.
//!
//! It believes nothing that it has not computed: every digest, every leaf, the whole tree. What is wrong becomes a
//! finding with its object's name, and the audit goes on as far as it can; one finding is enough for "not proven".
//! Memory: one segment, the list of all, and 32 bytes of each stream (with the map's own room up to 75, while it grows 110).

mod history;
mod replay;
mod streams;

use std::collections::BTreeMap;

use domain::archive::catalog::Segment;
use domain::archive::confirmation::Confirmation;
use domain::archive::reader::Scan;
use domain::archive::segment::SegmentError;
use domain::archive::{checkpoint, layout, statement};
use domain::evidence::two_regions;
use domain::keys::{KeyId, KeyRing};
use domain::merkle::{Frontier, Hash};
use domain::record::Record;
use domain::store::{ObjectStore, StoreError};
use domain::{Epoch, Head, Timestamp};
use serde::Serialize;

use self::history::History;
pub use self::replay::{AsOf, ReplayError, ReplayReport, Sink, replay};
use self::streams::Streams;
use crate::error::busy;
use crate::{ArchiveError, catch_up};

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AuditFinding {
    /// The object, or what else it is about.
    pub object: String,
    /// What is wrong.
    pub reason: String,
}

/// What an audit saw. Sizes are in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct AuditReport {
    /// Name of the log; empty if there is no manifest.
    pub log: String,
    /// Newest archived position whose record and all before it were verified.
    pub verified_head: u64,
    /// Newest archived position that the manifests state.
    pub archived_head: u64,
    /// Root over all verified leaves, 64 hexadecimal digits.
    pub root: String,
    /// Manifests that count.
    pub manifests: u64,
    /// Manifests of branches that lost.
    pub void_manifests: Vec<String>,
    /// Claims of epochs.
    pub epoch_claims: u64,
    /// Segments in force.
    pub segments: u64,
    /// Segments in force that a region other than the sealing one confirmed.
    pub confirmed_segments: u64,
    /// Records verified.
    pub records: u64,
    /// Removed lines among them: their leaves are taken as stated.
    pub removed_records: u64,
    /// Length of the verified records, LFs included.
    pub record_bytes: u64,
    /// Length of the verified objects.
    pub stored_bytes: u64,
    /// Signed checkpoints whose root was recomputed and is right.
    pub checkpoints: u64,
    /// Size of the newest one that two regions signed.
    pub cosigned_head: Option<u64>,
    /// Signed checkpoints above the archived head: nothing to compare them with.
    pub checkpoints_beyond: u64,
    /// Signed checkpoints of branches that lost.
    pub void_checkpoints: Vec<String>,
    /// Objects that no manifest in force names.
    pub orphans: Vec<String>,
    /// What is wrong.
    pub findings: Vec<AuditFinding>,
}

impl AuditReport {
    /// Whether everything that is there is right. A bucket alone cannot show that something newer existed.
    #[must_use]
    pub fn is_proven(&self) -> bool {
        self.findings.is_empty()
    }

    /// Whether there is an archive in the bucket at all. Of one without a manifest nothing is wrong, and it shows nothing:
    /// a new region's, or one that somebody has mistyped.
    #[must_use]
    pub fn has_archive(&self) -> bool {
        self.manifests > 0
    }

    pub(crate) fn find(&mut self, object: impl Into<String>, error: &dyn std::error::Error) {
        let causes = std::iter::successors(Some(error), |error| error.source());
        self.state(object, causes.map(ToString::to_string).collect::<Vec<_>>().join(": "));
    }

    pub(crate) fn state(&mut self, object: impl Into<String>, reason: impl Into<String>) {
        let finding = AuditFinding { object: object.into(), reason: reason.into() };
        // An object that is read twice is wrong once.
        if !self.findings.contains(&finding) {
            self.findings.push(finding);
        }
    }
}

/// Is told how far an audit has come, after each segment.
pub type Progress<'a> = &'a (dyn Fn(&AuditReport) + Sync);

/// A checkpoint that the tree has to agree with when it reaches its size.
struct Expected {
    object: String,
    root: Hash,
    cosigned: bool,
}

/// The tree over all leaves so far, and what the records so far fix for those that follow.
#[derive(Default)]
struct Walk {
    tree: Frontier,
    newest: Option<(Timestamp, Epoch)>,
    streams: Streams,
    removed: u64,
    /// Roots at the sizes of checkpoints that were passed.
    roots: BTreeMap<Head, Hash>,
}

/// Verifies a whole bucket: chain of manifests and signatures, every object, block, leaf and root. `kept` is a
/// signed checkpoint that the auditor kept from before: the bucket must reach it and agree with it.
///
/// # Errors
/// [`ArchiveError`] if the store does not answer. What is wrong in the bucket is no error but a finding.
pub async fn verify(
    store: &dyn ObjectStore,
    keys: &KeyRing,
    kept: Option<&str>,
    progress: Progress<'_>,
) -> Result<AuditReport, ArchiveError> {
    let mut report = AuditReport::default();
    let history = History::read(store, keys, &mut report).await?;
    let mut expected = read_checkpoints(store, keys, &history, &mut report).await?;
    if let Some(kept) = kept {
        expect_kept(kept, keys, &history, &mut expected, &mut report);
    }
    let mut walk = Walk::default();
    for segment in history.in_force() {
        walk = match verify_segment(store, segment, walk, &expected, &mut report).await? {
            Some(walk) => walk,
            None => break,
        };
        (report.verified_head, report.root) = (walk.tree.size().get(), walk.tree.root().to_hex());
        report.removed_records = walk.removed;
        compare_roots(&walk, &mut expected, &mut report);
        progress(&report);
    }
    let beyond = expected.values().flatten();
    report.checkpoints_beyond = u64::try_from(beyond.filter(|expected| expected.object != KEPT).count()).unwrap_or(0);
    if expected.values().flatten().any(|expected| expected.object == KEPT) {
        report.state(KEPT, "the bucket ends before it: something newer existed");
    }
    read_confirmations(store, keys, &history, &mut report).await?;
    find_orphans(store, &history, &mut report).await?;
    Ok(report)
}

/// How findings name the auditor's own checkpoint.
const KEPT: &str = "the checkpoint that you kept";

async fn read_checkpoints(
    store: &dyn ObjectStore,
    keys: &KeyRing,
    history: &History,
    report: &mut AuditReport,
) -> Result<BTreeMap<Head, Vec<Expected>>, ArchiveError> {
    let mut expected: BTreeMap<Head, Vec<Expected>> = BTreeMap::new();
    for key in catch_up::list_all(store, layout::CHECKPOINTS).await? {
        let object = store.get(&key).await?;
        let note = String::from_utf8_lossy(&object.bytes);
        let (stated, signers) = match checkpoint::verify(&note, keys) {
            Ok(verified) => verified,
            Err(error) => {
                report.find(key, &error);
                continue;
            }
        };
        if layout::parse_checkpoint(&key) != Some((stated.epoch, stated.size)) || stated.log != history.log() {
            report.state(key, "its name says something else than it does");
        } else if history.is_void(stated.epoch, stated.size) {
            report.void_checkpoints.push(key);
        } else {
            let cosigned = two_regions(&signers);
            expected.entry(stated.size).or_default().push(Expected { object: key, root: stated.root, cosigned });
        }
    }
    Ok(expected)
}

fn expect_kept(
    note: &str,
    keys: &KeyRing,
    history: &History,
    expected: &mut BTreeMap<Head, Vec<Expected>>,
    report: &mut AuditReport,
) {
    match checkpoint::verify(note, keys) {
        Ok((stated, _)) if stated.log != history.log() => report.state(KEPT, "it is of another log"),
        Ok((stated, signers)) => {
            let cosigned = two_regions(&signers);
            let kept = Expected { object: KEPT.into(), root: stated.root, cosigned };
            expected.entry(stated.size).or_default().push(kept);
        }
        Err(error) => report.find(KEPT, &error),
    }
}

/// Verifies a segment and pushes its leaves; `None` if it is not right: the tree ends before it.
async fn verify_segment(
    store: &dyn ObjectStore,
    segment: &Segment,
    walk: Walk,
    expected: &BTreeMap<Head, Vec<Expected>>,
    report: &mut AuditReport,
) -> Result<Option<Walk>, ArchiveError> {
    let key = layout::segment(segment);
    let Some((object, index)) = fetch(store, segment, report).await? else { return Ok(None) };
    let (whole, sizes) = (segment.clone(), expected.keys().copied().collect::<Vec<Head>>());
    let walked = busy(move || walk.through(&whole, &object, &index, &sizes)).await?;
    match walked {
        Ok(walk) => {
            report.records += segment.records();
            report.record_bytes += segment.record_bytes;
            report.stored_bytes += segment.bytes + segment.index_bytes;
            Ok(Some(walk))
        }
        Err(error) => {
            report.find(key, &error);
            Ok(None)
        }
    }
}

/// Both objects of a segment; `None` with a finding if one is missing.
async fn fetch(
    store: &dyn ObjectStore,
    segment: &Segment,
    report: &mut AuditReport,
) -> Result<Option<(Vec<u8>, Vec<u8>)>, ArchiveError> {
    let mut found = Vec::new();
    for key in [layout::segment(segment), layout::index(segment)] {
        match store.get(&key).await {
            Ok(object) => found.push(object.bytes),
            Err(error @ StoreError::NotFound { .. }) => {
                report.find(key, &error);
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(found.pop().zip(found.pop()).map(|(index, object)| (object, index)))
}

impl Walk {
    fn through(mut self, segment: &Segment, object: &[u8], index: &[u8], sizes: &[Head]) -> Result<Self, SegmentError> {
        let mut scan = Scan::open(segment, object, index)?;
        while let Some(block) = scan.next_block()? {
            for (record, leaf) in block.records.iter().zip(&block.leaves) {
                self.follow(record)?;
                self.tree.push(*leaf);
                if sizes.binary_search(&self.tree.size()).is_ok() {
                    self.roots.insert(self.tree.size(), self.tree.root());
                }
            }
        }
        scan.finish().map(|()| self)
    }

    /// Checks a record against those before it, also of other segments: time and epoch never fall (LOG-2, LOG-5), and it
    /// follows in its stream (LOG-3).
    fn follow(&mut self, record: &Record) -> Result<(), SegmentError> {
        let (position, at) = (record.position(), record.recorded_at());
        let (newest_at, newest_epoch) = self.newest.unwrap_or((at, Epoch::FIRST));
        if at < newest_at {
            return Err(SegmentError::TimeWentBack { position });
        }
        let epoch = match record {
            Record::Event(event) => event.epoch,
            Record::Removed(_) => newest_epoch,
        };
        if epoch < newest_epoch {
            return Err(SegmentError::Damaged { position, reason: "its epoch is older than that before it".into() });
        }
        self.streams.follow(record).map_err(|reason| SegmentError::Damaged { position, reason })?;
        self.removed += u64::from(matches!(record, Record::Removed(_)));
        self.newest = Some((at, epoch));
        Ok(())
    }
}

/// Compares the roots of checkpoints that the tree has reached, and takes them off the list.
fn compare_roots(walk: &Walk, expected: &mut BTreeMap<Head, Vec<Expected>>, report: &mut AuditReport) {
    while let Some(entry) = expected.first_entry() {
        let size = *entry.key();
        if size > walk.tree.size() {
            break;
        }
        // The empty tree has a root too (RFC 6962 §2.1), and no record that it stands behind.
        let own = if size == Head::EMPTY { Some(Frontier::default().root()) } else { walk.roots.get(&size).copied() };
        for Expected { object, root, cosigned } in entry.remove() {
            if own != Some(root) {
                report.state(object, format!("its root at size {size} is not the one that the records give"));
                continue;
            }
            report.checkpoints += 1;
            if cosigned {
                report.cosigned_head = report.cosigned_head.max(Some(size.get()));
            }
        }
    }
}

async fn read_confirmations(
    store: &dyn ObjectStore,
    keys: &KeyRing,
    history: &History,
    report: &mut AuditReport,
) -> Result<(), ArchiveError> {
    let mut confirmed = std::collections::BTreeSet::new();
    for key in catch_up::list_all(store, layout::CONFIRMATIONS).await? {
        let object = store.get(&key).await?;
        match statement::verify::<Confirmation>(&object.bytes, keys) {
            Ok(signed) => {
                let Confirmation { log, region, segment, .. } = &signed.statement;
                if *log != history.log() || layout::confirmation(region, segment) != key {
                    report.state(key, "its name says something else than it does");
                } else if history.sealed_by(segment).is_some_and(|sealer: &KeyId| sealer.name() != region) {
                    confirmed.insert(segment.first);
                }
            }
            Err(error) => report.find(key, &error),
        }
    }
    report.confirmed_segments = u64::try_from(confirmed.len()).unwrap_or(u64::MAX);
    Ok(())
}

async fn find_orphans(
    store: &dyn ObjectStore,
    history: &History,
    report: &mut AuditReport,
) -> Result<(), ArchiveError> {
    let segments = history.in_force();
    let named: std::collections::HashSet<String> =
        segments.iter().flat_map(|segment| [layout::segment(segment), layout::index(segment)]).collect();
    for prefix in [layout::SEGMENTS, layout::INDEXES] {
        let keys = catch_up::list_all(store, prefix).await?;
        report.orphans.extend(keys.into_iter().filter(|key| !named.contains(key)));
    }
    Ok(())
}
