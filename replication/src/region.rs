//! One region with everything that replication needs of it: its ports, its keys, its peer. Holds; decides nothing.

use std::sync::Arc;

use domain::Clock;
use domain::archive::catalog::{Catalog, EvidenceStore};
use domain::evidence::Evidence;
use domain::keys::{KeyRing, SigningKey};
use domain::log::{FollowerLog, LogReader};
use domain::replication::PeerMemory;
use domain::store::ObjectStore;
use tokio::sync::Mutex;

use crate::peer::Peer;

/// What the parts of replication work with. Made once by the composition root, one a process.
pub struct Region {
    /// The live log: applies what is shipped, changes its role.
    pub log: Arc<dyn FollowerLog>,
    /// Live log and archive as one, for reads that go back beyond the live window.
    pub history: Arc<dyn LogReader>,
    /// The catalog of the archive.
    pub catalog: Arc<dyn Catalog>,
    /// The tree over `history`, with its state in `evidence`.
    pub tree: Arc<Evidence>,
    /// Frontiers and signed checkpoints.
    pub evidence: Arc<dyn EvidenceStore>,
    /// What was heard of the peer.
    pub memory: Arc<dyn PeerMemory>,
    /// The own bucket.
    pub store: Arc<dyn ObjectStore>,
    /// The peer's bucket, where this region may reach it.
    pub peer_store: Option<Arc<dyn ObjectStore>>,
    /// The other region; `None` for a log that has only one.
    pub peer: Option<Arc<dyn Peer>>,
    /// What this region signs with. The key's name is the region's name.
    pub key: Arc<SigningKey>,
    /// Public keys of both regions.
    pub keys: Arc<KeyRing>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Held by this process's sealer while it writes a manifest; the same lock as the sealer's.
    pub publishing: Arc<Mutex<()>>,
    /// Is told of each step of mirroring, confirming and cosigning whose effect is stored, by a name such as
    /// `mirror.segment`: a place at which a test can kill the process. Nobody looks: `Arc::new(|_| ())`.
    pub steps: Arc<dyn Fn(&'static str) + Send + Sync>,
    /// Held while this process changes the region's role: the watch and a promotion never interleave.
    pub role_change: Mutex<()>,
}

impl Region {
    /// The region's name: that of its key.
    #[must_use]
    pub fn name(&self) -> &str {
        self.key.id().name()
    }

    pub(crate) fn reached(&self, step: &'static str) {
        (self.steps)(step);
    }

    /// Both buckets that this region reaches, the own one last.
    pub(crate) fn stores(&self) -> impl Iterator<Item = &Arc<dyn ObjectStore>> {
        self.peer_store.iter().chain(std::iter::once(&self.store))
    }
}
