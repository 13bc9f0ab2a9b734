//! Damages archived objects behind the store's back, and shows that a read finds and heals them.

use std::collections::BTreeSet;
use std::path::PathBuf;

use domain::merkle::Hash;

use super::api::{Api, number};
use super::passage::until;
use super::{Demo, DemoError, chapter, check, counted, held, io, note};

impl Demo {
    /// One object gets a flipped byte, another one is deleted; then the archive is read as if nothing had happened.
    pub(super) async fn damage_and_heal(&mut self) -> Result<(), DemoError> {
        chapter(
            "Home's archive is damaged",
            "Behind the object store's back, as a dying disk would. Then it is read as if nothing had happened.",
        );
        let keys = self.segment_keys()?;
        check(!keys.is_empty(), || "there is a segment to damage".into())?;
        // What is live is not read from the archive: the damage is done where only the archive has the records.
        let pruned = number(&Api::of(&self.home).status().await?.pruned)?;
        let whole = keys.iter().rposition(|key| last_position(key).is_some_and(|last| last <= pruned)).unwrap_or(0);
        let flipped = self.home.object_file(&keys[0]);
        let deleted = self.home.object_file(&keys[whole]);
        let before = (digest(&flipped)?, digest(&deleted)?);
        let archived = number(&Api::of(&self.home).archive_status().await?.archived_head)?;
        let good = self.digest_of_log(archived).await?;
        let mut damaged = BTreeSet::from([keys[0].clone()]);

        note(&format!("flipping one bit of {}", keys[0]));
        let mut bytes = std::fs::read(&flipped).map_err(io("reading an object's file"))?;
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x20;
        std::fs::write(&flipped, bytes).map_err(io("damaging an object"))?;
        if whole > 0 {
            note(&format!("deleting {}", keys[whole]));
            let folder = deleted.parent().expect("an object's file is in its folder");
            std::fs::remove_dir_all(folder).map_err(io("deleting an object"))?;
            damaged.insert(keys[whole].clone());
        }
        check(digest(&flipped)? != before.0, || "the object is damaged".into())?;

        let served = self.digest_of_log(archived).await?;
        check(served == good, || "what is served is what was appended".into())?;
        held(&format!("all {} records are served right, byte for byte", counted(archived)));
        check(digest(&flipped)? == before.0, || "the flipped object is healed".into())?;
        check(digest(&deleted)? == before.1, || "the deleted object is there again".into())?;
        held("what was damaged is healed from the other region: its bytes are the old ones again");
        let home = &self.home;
        let expected = &damaged;
        until("the log says what was healed", || async move {
            Ok((healed(&Api::of(home).stream("archive-findings").await?) == *expected).then_some(()))
        })
        .await?;
        held("the log has an event segment.healed for each of them, and for nothing else");
        self.figures.healed = damaged.len();
        Ok(())
    }

    /// SHA-256 over the lines of positions 1 to `head`.
    async fn digest_of_log(&self, head: u64) -> Result<Hash, DemoError> {
        let mut all = Vec::new();
        Api::of(&self.home)
            .log::<DemoError>(1, Some(head), |line| {
                all.extend_from_slice(line);
                all.push(b'\n');
                Ok(())
            })
            .await?;
        Ok(Hash::of(&all))
    }

    /// Keys of the segments in home's bucket, in position order.
    fn segment_keys(&self) -> Result<Vec<String>, DemoError> {
        let folder = self.home.objects_folder().join(crate::dev::region::BUCKET).join("seg");
        let mut keys = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(io("listing the bucket's folder"))? {
            let name = entry.map_err(io("listing the bucket's folder"))?.file_name();
            if let Some(name) = name.to_str().and_then(|name| name.strip_prefix('=')) {
                keys.push(format!("seg/{name}"));
            }
        }
        keys.sort();
        Ok(keys)
    }
}

/// The objects that the log says were healed.
fn healed(findings: &[serde_json::Value]) -> BTreeSet<String> {
    let healed = findings.iter().filter(|record| record["type"] == "segment.healed");
    healed.filter_map(|record| Some(record["data"]["object"].as_str()?.to_owned())).collect()
}

fn last_position(key: &str) -> Option<u64> {
    key.split('-').nth(1)?.parse().ok()
}

fn digest(file: &PathBuf) -> Result<Hash, DemoError> {
    std::fs::read(file).map(|bytes| Hash::of(&bytes)).map_err(io("reading an object's file"))
}
