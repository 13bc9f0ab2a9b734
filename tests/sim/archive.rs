//! The model of what is public: looks into both buckets past all stores and checks published checkpoints (EVD-1),
//! what may be pruned (ARC-1, ARC-2) and what is archived (ARC-3), with a Merkle tree and a decoder of its own.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use domain::archive::catalog::{Catalog, CatalogEntry};
use domain::archive::layout;
use domain::log::LogReader;
use domain::store::ObjectStore;
use sha2::{Digest, Sha256};

use crate::ledger::{Kept, Ledger, broken, check, index};
use crate::world::{NAMES, Site, World};

/// What was seen in the buckets.
#[derive(Default)]
pub(crate) struct Shelves {
    checkpoints: BTreeSet<(usize, String)>,
    /// Size of the largest published checkpoint in each bucket.
    published: [u64; 2],
    pruned: [u64; 2],
    /// Objects that were damaged and not healed yet, by region and key, as they were.
    pub(crate) damaged: BTreeMap<(usize, String), Vec<u8>>,
}

/// RFC 6962 §2.1.
fn root(leaves: &[[u8; 32]]) -> [u8; 32] {
    match leaves {
        [] => Sha256::digest([]).into(),
        [leaf] => *leaf,
        _ => {
            let middle = leaves.len().next_power_of_two() / 2;
            let (left, right) = (root(&leaves[..middle]), root(&leaves[middle..]));
            Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
        }
    }
}

async fn object(site: &Site, key: &str) -> Option<Vec<u8>> {
    site.bucket.inner().get(key).await.ok().map(|object| object.bytes)
}

/// Keys of all segments and indexes that a catalog has in force.
async fn named(world: &World) -> Vec<String> {
    let mut keys = BTreeSet::new();
    for site in &world.sites {
        for entry in site.disk().segments().await.expect("a twin answers") {
            keys.extend([layout::segment(&entry.segment), layout::index(&entry.segment)]);
        }
    }
    keys.into_iter().collect()
}

impl Shelves {
    /// Looks at both buckets and both pruned heads after a step.
    pub(crate) async fn observe(&mut self, world: &World, ledger: &Ledger) -> Kept {
        for site in &world.sites {
            for key in site.bucket.inner().keys() {
                let new =
                    key.starts_with(layout::CHECKPOINTS) && !self.checkpoints.contains(&(site.number, key.clone()));
                if new {
                    self.look_at(site, &key, world, ledger).await?;
                    self.checkpoints.insert((site.number, key));
                }
            }
        }
        let most = self.published();
        check("EVD-1", most <= ledger.head(), || {
            format!("a checkpoint of {most} events is published, the log has {}", ledger.head())
        })?;
        for site in &world.sites {
            let pruned = site.disk().log_head().await.expect("a twin answers").pruned.get();
            if pruned > self.pruned[site.number] {
                self.pruned(site, pruned, world, ledger).await?;
            }
            self.pruned[site.number] = pruned;
        }
        Ok(())
    }

    async fn look_at(&mut self, site: &Site, key: &str, world: &World, ledger: &Ledger) -> Kept {
        let note = String::from_utf8(object(site, key).await.expect("listed")).expect("text");
        let wrong = |what: &str| format!("{key} of {}: {what}: {note}", site.name());
        let mut lines = note.lines().skip(1);
        let size: Option<u64> = lines.next().and_then(|size| size.parse().ok());
        let Some(size) = size else { return broken("EVD-1", wrong("no size")) };
        let stated = lines.next().and_then(|root| STANDARD.decode(root).ok()).unwrap_or_default();
        for name in NAMES {
            let signed = note.lines().any(|line| line.starts_with(&format!("\u{2014} {name} ")));
            check("EVD-1", signed, || wrong("one signature is missing"))?;
        }
        for holder in &world.sites {
            let head = holder.disk().log_head().await.expect("a twin answers").head.get();
            check("EVD-1", size <= head, || wrong(&format!("{} holds {head} events", holder.name())))?;
        }
        let leaf = |bytes: &[u8]| Sha256::new().chain_update([0]).chain_update(bytes).finalize().into();
        let leaves: Vec<[u8; 32]> = ledger.lines.iter().take(index(size)).map(|line| leaf(&line.bytes)).collect();
        let own = (leaves.len() == index(size)).then(|| root(&leaves));
        check("EVD-1", own.is_some_and(|own| own[..] == stated), || wrong("another root than the log's"))?;
        self.published[site.number] = self.published[site.number].max(size);
        Ok(())
    }

    /// ARC-2 at the moment of pruning.
    async fn pruned(&self, site: &Site, pruned: u64, world: &World, ledger: &Ledger) -> Kept {
        let before = self.pruned[site.number];
        check("ARC-2", self.published[site.number] >= pruned, || {
            let published = self.published[site.number];
            format!("{} pruned up to {pruned}, and checkpoints are published up to {published}", site.name())
        })?;
        let mut next = before + 1;
        for entry in site.disk().segments().await.expect("a twin answers") {
            let (first, last) = (entry.segment.first.get(), entry.segment.last.get());
            if last < next || first > pruned {
                continue;
            }
            check("ARC-1", first <= next, || format!("{} pruned {next}, which is in no segment", site.name()))?;
            next = last + 1;
            for holder in &world.sites {
                self.holds(holder, &entry, ledger).await?;
            }
            let mut word = false;
            for holder in &world.sites {
                let key = layout::confirmation(holder.name(), &entry.segment);
                word |= object(holder, &key).await.is_some();
            }
            check("ARC-2", word, || format!("{} pruned {first} to {last}, which nobody confirmed", site.name()))?;
        }
        check("ARC-1", next > pruned, || format!("{} pruned {next}, which is in no segment", site.name()))
    }

    /// Whether a bucket has a segment, with the log's own lines in it.
    async fn holds(&self, site: &Site, entry: &CatalogEntry, ledger: &Ledger) -> Kept {
        let segment = &entry.segment;
        for key in [layout::segment(segment), layout::index(segment)] {
            if self.damaged.contains_key(&(site.number, key.clone())) {
                continue;
            }
            let Some(bytes) = object(site, &key).await else {
                return broken("ARC-1", format!("{} has no {key}", site.name()));
            };
            if !key.starts_with(layout::SEGMENTS) {
                continue;
            }
            let decoded = zstd::decode_all(&bytes[..]).unwrap_or_default();
            let wanted = &ledger.lines[index(segment.first.get() - 1)..index(segment.last.get())];
            let lines = decoded.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
            let same = lines.eq(wanted.iter().map(|line| line.bytes.as_slice()));
            check("ARC-3", same, || format!("{key} of {} has other lines than the log", site.name()))?;
        }
        Ok(())
    }

    /// All segments that the catalogs have in force.
    pub(crate) async fn inspect(&self, world: &World, ledger: &Ledger) -> Kept {
        for site in &world.sites {
            let own = ledger.branched[site.number].unwrap_or(u64::MAX);
            for entry in site.disk().segments().await.expect("a twin answers") {
                let last = entry.segment.last.get();
                if last <= own.min(ledger.head()) {
                    self.holds(site, &entry, ledger).await?;
                }
            }
        }
        Ok(())
    }

    /// Size of the largest checkpoint that is published anywhere.
    pub(crate) fn published(&self) -> u64 {
        self.published[0].max(self.published[1])
    }

    /// What both regions have pruned.
    pub(crate) fn pruned_by_both(&self) -> u64 {
        self.pruned[0].min(self.pruned[1])
    }

    /// A region's log was replaced by an empty one.
    pub(crate) fn emptied(&mut self, site: usize) {
        self.pruned[site] = 0;
    }

    /// Forgets the damage that was healed, and that of objects which no catalog names any more.
    pub(crate) async fn look_for_healed(&mut self, world: &World) {
        let named = named(world).await;
        self.damaged.retain(|(_, key), _| named.contains(key));
        let mut healed = Vec::new();
        for ((number, key), good) in &self.damaged {
            if object(&world.sites[*number], key).await.as_ref() == Some(good) {
                healed.push((*number, key.clone()));
            }
        }
        for key in healed {
            self.damaged.remove(&key);
        }
    }

    /// Objects of a bucket that a catalog names and that have a good copy in the other one.
    pub(crate) async fn damageable(&self, world: &World, number: usize) -> Vec<String> {
        let (own, other) = (&world.sites[number], &world.sites[1 - number]);
        let mut keys = named(world).await;
        keys.retain(|key| (0..2).all(|site| !self.damaged.contains_key(&(site, key.clone()))));
        let mut safe = Vec::new();
        for key in keys {
            let (here, there) = (object(own, &key).await, object(other, &key).await);
            if here.is_some() && here == there {
                safe.push(key);
            }
        }
        safe
    }

    /// Damages an object of a bucket: takes it away, cuts it or changes a byte.
    pub(crate) async fn damage(&mut self, world: &World, number: usize, key: &str, way: usize) {
        let store = world.sites[number].bucket.inner();
        let good = object(&world.sites[number], key).await.expect("listed");
        match way % 3 {
            0 => store.delete(key).await.expect("a twin deletes"),
            1 => assert!(store.damage(key, |bytes| bytes.truncate(bytes.len() / 3)), "{key} is there"),
            _ => assert!(store.damage(key, |bytes| bytes[way % good.len()] ^= 4), "{key} is there"),
        }
        self.damaged.insert((number, key.to_owned()), good);
    }
}
