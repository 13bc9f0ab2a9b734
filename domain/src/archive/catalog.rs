//! What the archive holds, as the database caches it, and what must be so before anything is pruned.

use std::fmt;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::merkle::{Frontier, Hash};
use crate::spelling;
use crate::{Epoch, ErrorKind, Head, Position, Timestamp};

/// A segment as manifest, catalog and confirmation name it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Segment {
    /// Position of its first record.
    #[serde(with = "spelling::text")]
    pub first: Position,
    /// Position of its last record.
    #[serde(with = "spelling::text")]
    pub last: Position,
    /// The epoch in which it was sealed.
    #[serde(with = "spelling::text")]
    pub epoch: Epoch,
    /// SHA-256 of the stored object.
    #[serde(with = "spelling::text")]
    pub sha256: Hash,
    /// CRC-32/IEEE of the stored object.
    #[serde(with = "spelling::crc")]
    pub crc32: u32,
    /// Length of the stored object.
    #[serde(with = "spelling::text")]
    pub bytes: u64,
    /// Length of the records before compression, LFs included.
    #[serde(with = "spelling::text")]
    pub record_bytes: u64,
    /// SHA-256 of the index object.
    #[serde(with = "spelling::text")]
    pub index_sha256: Hash,
    /// CRC-32/IEEE of the index object.
    #[serde(with = "spelling::crc")]
    pub index_crc32: u32,
    /// Length of the index object.
    #[serde(with = "spelling::text")]
    pub index_bytes: u64,
    /// RFC 6962 root over the segment's leaves alone.
    #[serde(with = "spelling::text")]
    pub root: Hash,
    /// `recordedat` of the first record.
    #[serde(with = "spelling::text")]
    pub first_at: Timestamp,
    /// `recordedat` of the last record.
    #[serde(with = "spelling::text")]
    pub last_at: Timestamp,
}

impl Segment {
    /// Number of records.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.last.get() - self.first.get() + 1
    }

    /// Length of both objects.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        self.bytes + self.index_bytes
    }

    /// Whether it holds the record at `position`.
    #[must_use]
    pub fn holds(&self, position: Position) -> bool {
        self.first <= position && position <= self.last
    }
}

/// A segment and how far it has come: sealed → in a manifest → verified here → confirmed there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogEntry {
    /// The segment.
    pub segment: Segment,
    /// Epoch and number of the manifest that added it.
    pub manifest: (Epoch, u64),
    /// When this region last read its own copy back whole and found it right.
    pub verified_at: Option<Timestamp>,
    /// When the other store's confirmation was last checked here.
    pub confirmed_at: Option<Timestamp>,
}

/// The last manifest that this region accepted: the end of the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestRef {
    /// Its epoch.
    #[serde(with = "spelling::text")]
    pub epoch: Epoch,
    /// Its number, from 1, dense across epochs.
    #[serde(with = "spelling::text")]
    pub number: u64,
    /// SHA-256 of its object.
    #[serde(with = "spelling::text")]
    pub sha256: Hash,
}

/// A signed checkpoint as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredCheckpoint {
    /// Tree size.
    pub size: Head,
    /// Root at that size.
    pub root: Hash,
    /// The signed note (C2SP tlog-checkpoint), with the cosignature once there is one.
    pub note: String,
    /// Whether both regions signed it.
    pub cosigned: bool,
}

/// One month's partition of the live log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Start of its month.
    pub month: Timestamp,
    /// Its first position.
    pub first: Position,
    /// Its last position so far.
    pub last: Position,
    /// Rows that are really in it.
    pub rows: u64,
}

/// What a region notes of a segment when it has looked for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// The own copy was read back whole and is right.
    Verified,
    /// The other store's confirmation was checked.
    Confirmed,
}

/// Counts and sums over the segments in force. Sizes are in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CatalogTotals {
    /// How many there are.
    pub segments: u64,
    /// Newest position that is in one.
    pub archived: Head,
    /// How many of them this region has read back.
    pub verified: u64,
    /// How many of them the other store has confirmed.
    pub confirmed: u64,
    /// Length of their objects, indexes included.
    pub stored_bytes: u64,
    /// Length of the records in them.
    pub record_bytes: u64,
    /// When the one that was read longest ago was read; `None` if none was.
    pub oldest_verified_at: Option<Timestamp>,
}

/// Why the archive's state was not read or moved.
#[derive(Debug, Clone, Error)]
pub enum CatalogError {
    /// The database did not answer; repeat it, all verbs can be.
    #[error("the catalog is unavailable: {reason}")]
    Unavailable {
        /// Why.
        reason: String,
    },
    /// What was asked for contradicts what is there; nothing was changed.
    #[error("the catalog refuses: {reason}")]
    Refused {
        /// Why.
        reason: String,
    },
}

impl CatalogError {
    /// What the caller has to do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Unavailable { .. } => ErrorKind::Unavailable,
            Self::Refused { .. } => ErrorKind::Conflict,
        }
    }
}

/// The catalog: a cache of the manifests in force; it can be rebuilt from the bucket.
///
/// History has any number of segments. So each verb but [`Catalog::segments`] gives what its caller needs and no more:
/// the next segment costs as much as the first.
#[async_trait]
pub trait Catalog: Send + Sync {
    /// All segments in force, by first position; they follow each other without a hole from position 1. For the rare
    /// step that lists or compares all of them.
    async fn segments(&self) -> Result<Vec<CatalogEntry>, CatalogError>;

    /// The segments in force that hold a position from `first` to `last`, by position.
    async fn segments_between(&self, first: Position, last: Position) -> Result<Vec<CatalogEntry>, CatalogError>;

    /// The newest segment in force; `None` while nothing is archived.
    async fn last_segment(&self) -> Result<Option<CatalogEntry>, CatalogError>;

    /// The newest segment whose first record was recorded at or before `at`.
    async fn segment_as_of(&self, at: Timestamp) -> Result<Option<CatalogEntry>, CatalogError>;

    /// Of the segments that begin at `from` or after it, the first `limit` that lack a mark, by position.
    async fn unmarked(&self, mark: Mark, from: Position, limit: usize) -> Result<Vec<CatalogEntry>, CatalogError>;

    /// The segments that were verified longest ago, those that never were first; as many as it takes for their objects
    /// to be `bytes` long together.
    async fn least_recently_verified(&self, bytes: u64) -> Result<Vec<CatalogEntry>, CatalogError>;

    /// Counts and sums over all segments in force.
    async fn totals(&self) -> Result<CatalogTotals, CatalogError>;

    /// The segment that holds `position`.
    async fn segment_holding(&self, position: Position) -> Result<Option<CatalogEntry>, CatalogError>;

    /// The last manifest accepted; `None` before the first.
    async fn last_manifest(&self) -> Result<Option<ManifestRef>, CatalogError>;

    /// Accepts the manifest `step` that follows `after` and adds its segments, in one transaction. Accepting
    /// the same one again changes nothing.
    ///
    /// # Errors
    /// `Refused` if another manifest is the last, or a segment does not follow the last one.
    async fn accept(
        &self,
        after: Option<ManifestRef>,
        step: ManifestRef,
        added: &[Segment],
    ) -> Result<(), CatalogError>;

    /// Takes the catalog back from `last`, which stands on a branch that lost, to `to`, the last step of its own
    /// that counts (`None`: none does): forgets the steps after it with their segments, in one transaction.
    /// Repeating it changes nothing.
    ///
    /// Nothing pruned is ever forgotten (ARC-1). It cannot come to that while two copies are asked for: pruning
    /// waits for the other region's confirmation (ARC-2), that region confirms only what stands in its own
    /// catalog, and the first manifest of its epoch names the last step of that catalog; so a step which a newer
    /// epoch does not name was never confirmed. One accepted copy, or a region that was promoted from an old
    /// backup, breaks this chain of reasons; then this verb refuses.
    ///
    /// # Errors
    /// `Refused` if another manifest is the last, `to` added no segment here, or a segment that would be forgotten
    /// holds a pruned position.
    async fn wind_back(&self, last: ManifestRef, to: Option<ManifestRef>) -> Result<(), CatalogError>;

    /// Notes that this region read its own copy back whole and found it right.
    async fn mark_verified(&self, first: Position, at: Timestamp) -> Result<(), CatalogError>;

    /// Notes that the other store's confirmation was checked.
    async fn mark_confirmed(&self, first: Position, at: Timestamp) -> Result<(), CatalogError>;
}

/// Where the tree and the signed checkpoints are kept.
#[async_trait]
pub trait EvidenceStore: Send + Sync {
    /// The newest stored frontier of at most `size` leaves; the empty one if there is none.
    async fn frontier_at_most(&self, size: Head) -> Result<Frontier, CatalogError>;

    /// Stores a frontier. Storing the same one again changes nothing.
    async fn save_frontier(&self, frontier: &Frontier) -> Result<(), CatalogError>;

    /// The newest signed checkpoint; with `cosigned`, the newest that both regions signed.
    async fn newest_checkpoint(&self, cosigned: bool) -> Result<Option<StoredCheckpoint>, CatalogError>;

    /// Stores a signed checkpoint, or its cosigned form over the one without.
    ///
    /// # Errors
    /// `Refused` if one of the same size with another root is there.
    async fn save_checkpoint(&self, checkpoint: &StoredCheckpoint) -> Result<(), CatalogError>;
}

/// What prevents a partition from being pruned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Doubt {
    /// It is inside the live window, or its month is not over.
    InWindow,
    /// A position in it is in no segment in force.
    NotSealed(Position),
    /// A segment was not read back here.
    NotVerified(Position),
    /// The other store has not confirmed a segment.
    NotConfirmed(Position),
    /// No checkpoint that both regions signed covers it.
    NotCosigned(Option<Head>),
    /// A projection is not done with it.
    ConsumerBehind(String, u64),
    /// It has not as many rows as positions.
    Rows(u64),
    /// An older partition is still there: they go in order.
    OlderFirst,
}

/// As `status` says it: with what has to come about before the month goes.
impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InWindow => write!(f, "it is inside the live window"),
            Self::NotSealed(position) => write!(f, "position {position} is in no segment in force"),
            Self::NotVerified(first) => write!(f, "the segment from {first} was not found whole in the own store"),
            Self::NotConfirmed(first) => write!(f, "the segment from {first} is not confirmed by the other store"),
            Self::NotCosigned(None) => write!(f, "no checkpoint is signed by both regions"),
            Self::NotCosigned(Some(size)) => write!(f, "both regions have signed {size} events and no more"),
            Self::ConsumerBehind(name, at) => write!(f, "{name} is at {at}"),
            Self::Rows(rows) => write!(f, "it has {rows} rows, which is not one a position"),
            Self::OlderFirst => write!(f, "an older month is still live"),
        }
    }
}

/// What the log says of its oldest partition and of those who read it.
#[derive(Debug, Clone)]
pub struct PruneFacts {
    /// Start of the live window.
    pub cutoff: Timestamp,
    /// The segments in force.
    pub segments: Vec<CatalogEntry>,
    /// Size of the newest checkpoint that both regions signed.
    pub cosigned: Option<Head>,
    /// The projections and their checkpoints.
    pub consumers: Vec<(String, u64)>,
    /// Newest position that is already out.
    pub pruned: Head,
    /// How many independent stores must hold a segment: 2 by law, 1 only where that was asked for by name.
    pub copies: Copies,
}

/// How many independent verified copies pruning waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Copies {
    /// The own one and another store's, confirmed by a key of its own (ARC-2).
    #[default]
    Two,
    /// The own one only: asked for by name, and a warning everywhere.
    OneAcceptedByOperator,
}

/// Proof that a partition may be pruned. Only [`PruneProof::of`] makes one, and pruning spends it.
#[derive(Debug)]
pub struct PruneProof {
    partition: Partition,
}

impl PruneProof {
    /// Checks everything that ARC-2 asks for.
    ///
    /// # Errors
    /// All doubts; one is enough to leave the rows where they are.
    pub fn of(partition: Partition, facts: &PruneFacts) -> Result<Self, Vec<Doubt>> {
        let mut doubts = Vec::new();
        if partition.month.months_after(1).is_ok_and(|end| end > facts.cutoff) {
            doubts.push(Doubt::InWindow);
        }
        if partition.first != facts.pruned.next() {
            doubts.push(Doubt::OlderFirst);
        }
        if partition.rows != partition.last.get() - partition.first.get() + 1 {
            doubts.push(Doubt::Rows(partition.rows));
        }
        doubts.extend(copies_missing(&partition, facts));
        if facts.cosigned.is_none_or(|size| !size.includes(partition.last)) && facts.copies == Copies::Two {
            doubts.push(Doubt::NotCosigned(facts.cosigned));
        }
        let behind = facts.consumers.iter().filter(|(_, at)| *at < partition.last.get());
        doubts.extend(behind.map(|(name, at)| Doubt::ConsumerBehind(name.clone(), *at)));
        if doubts.is_empty() { Ok(Self { partition }) } else { Err(doubts) }
    }

    /// The partition that may go.
    #[must_use]
    pub fn partition(&self) -> &Partition {
        &self.partition
    }
}

fn copies_missing(partition: &Partition, facts: &PruneFacts) -> Option<Doubt> {
    let mut next = partition.first;
    while next <= partition.last {
        let Some(entry) = facts.segments.iter().find(|entry| entry.segment.holds(next)) else {
            return Some(Doubt::NotSealed(next));
        };
        if entry.verified_at.is_none() {
            return Some(Doubt::NotVerified(entry.segment.first));
        }
        if entry.confirmed_at.is_none() && facts.copies == Copies::Two {
            return Some(Doubt::NotConfirmed(entry.segment.first));
        }
        next = entry.segment.last.next();
    }
    None
}

/// The live log's partitions, and their end.
#[async_trait]
pub trait LivePartitions: Send + Sync {
    /// The partitions that still hold rows, oldest first.
    async fn partitions(&self) -> Result<Vec<Partition>, CatalogError>;

    /// The projections that must be done with an event before it goes, with their checkpoints.
    async fn consumers(&self) -> Result<Vec<(String, u64)>, CatalogError>;

    /// Takes a partition out of the live log: moves the pruned head, forgets its ids, detaches and drops it.
    /// The database checks by itself what it can see (epoch, segments, checkpoint, consumers, rows). May be
    /// repeated after any failure; a crash in between leaves a detached table that the next call drops.
    ///
    /// # Errors
    /// `Refused` if the database has a doubt; the rows are still there then.
    async fn prune(&self, proof: PruneProof) -> Result<(), CatalogError>;
}
