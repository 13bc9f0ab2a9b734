//! What an outsider finds in a region's bucket, with public keys and nothing else.

use domain::Head;
use domain::archive::{checkpoint, layout};
use domain::keys::KeyRing;
use domain::merkle::{Frontier, Hash, leaf_hash};
use domain::store::ObjectStore;
use ops::config::{Config, Overrides};
use ops::dev::region::Region;
use segment_store::S3Store;

const OBJECTS_MAX: usize = 1000;

/// The bucket of a region.
///
/// # Panics
/// If its configuration has none.
#[must_use]
pub fn bucket(region: &Region) -> S3Store {
    let config = Config::load(Some(&region.config), &Overrides::default()).expect("a configuration");
    S3Store::connect(&config.archive.store.expect("a bucket")).expect("a store")
}

/// Root of the first records, by size, from 0 on.
#[must_use]
pub fn roots(lines: &[Vec<u8>]) -> Vec<Hash> {
    let mut tree = Frontier::default();
    let mut roots = vec![tree.root()];
    for line in lines {
        tree.push(leaf_hash(line));
        roots.push(tree.root());
    }
    roots
}

/// Reads all checkpoints in a bucket, and gives their sizes: each is signed by two and agrees with `roots` (EVD-1).
///
/// # Panics
/// If one is not.
pub async fn published(region: &Region, keys: &KeyRing, roots: &[Hash]) -> Vec<u64> {
    let store = bucket(region);
    let mut sizes = Vec::new();
    for object in store.list(layout::CHECKPOINTS, None, OBJECTS_MAX).await.expect("listed") {
        let note = String::from_utf8(store.get(&object.key).await.expect("read").bytes).expect("a note");
        let (said, signers) = checkpoint::verify(&note, keys).expect("a signed checkpoint");
        assert_eq!(signers.len(), 2, "{}: only what both regions signed is published", object.key);
        let size = usize::try_from(said.size.get()).expect("small");
        assert_eq!(Some(&said.root), roots.get(size), "{}: the root is that of both logs", object.key);
        assert_eq!(layout::parse_checkpoint(&object.key).map(|(_, size)| size), Head::new(said.size.get()));
        sizes.push(said.size.get());
    }
    sizes
}
