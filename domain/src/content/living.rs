//! Which items live, as of any position: a pure fold over records in memory.
//!
//! Audit, demo and tests compare it with what others computed; it must never read anything by itself.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha256};

use super::{CATEGORY, Change};
use crate::merkle::Hash;
use crate::record::Record;

/// The items that live after the records that were applied: id → object id. Costs memory in proportion to
/// the living items, not to the records.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LivingItems {
    // Ordered by UTF-8 bytes, which is the order of code points.
    oids: BTreeMap<String, String>,
    unknown: BTreeSet<String>,
}

impl LivingItems {
    /// Takes the next record of the log, or of one stream. Other categories leave it as it is.
    ///
    /// A record whose content is gone, or cannot be read, takes its item out: what it is now is not known,
    /// and an older form would be a lie. The item's next change brings it back.
    pub fn apply(&mut self, record: &Record) {
        if record.stream().category() != CATEGORY {
            return;
        }
        let id = record.stream().id();
        let change = match record {
            Record::Event(event) => Change::of(event),
            Record::Removed(_) => Change::Unreadable,
        };
        match change {
            Change::Created(form) | Change::Revised(form) => {
                self.unknown.remove(id);
                self.oids.insert(id.to_owned(), form.oid);
            }
            Change::Deleted(_) | Change::Closed => {
                self.unknown.remove(id);
                self.oids.remove(id);
            }
            Change::Unreadable => {
                self.oids.remove(id);
                self.unknown.insert(id.to_owned());
            }
            Change::Other => {}
        }
    }

    /// Object id of a living item.
    #[must_use]
    pub fn oid(&self, id: &str) -> Option<&str> {
        self.oids.get(id).map(String::as_str)
    }

    /// Number of living items.
    #[must_use]
    pub fn len(&self) -> usize {
        self.oids.len()
    }

    /// Whether nothing lives.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.oids.is_empty()
    }

    /// The living items (id, object id), by id in code-point order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.oids.iter().map(|(id, oid)| (id.as_str(), oid.as_str()))
    }

    /// Items whose newest record does not say what they are: it was removed, or cannot be read.
    pub fn unknown(&self) -> impl Iterator<Item = &str> {
        self.unknown.iter().map(String::as_str)
    }

    /// SHA-256 over `id NUL oid LF` of the living items, by id in code-point order.
    #[must_use]
    pub fn digest(&self) -> Hash {
        let mut hasher = Sha256::new();
        for (id, oid) in self.iter() {
            hasher.update(id);
            hasher.update([0]);
            hasher.update(oid);
            hasher.update(b"\n");
        }
        Hash(hasher.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde::Deserialize;
    use serde_json::value::RawValue;

    use super::*;
    use crate::event::{Data, NewEvent, TOMBSTONE_TYPE};
    use crate::record::{RecordedEvent, RemovedBy, RemovedRecord};
    use crate::{Epoch, Position, StreamName, StreamVersion, Timestamp};

    fn record(position: u64, stream: StreamName, event_type: &str, data: &str) -> Record {
        Record::Event(Box::new(RecordedEvent {
            position: Position::new(position).expect("from 1"),
            recorded_at: Timestamp::from_unix_micros(0).expect("1970"),
            version: StreamVersion::FIRST,
            previous: None,
            epoch: Epoch::FIRST,
            event: NewEvent {
                id: position.to_string(),
                source: "/test".to_owned(),
                event_type: event_type.to_owned(),
                stream,
                time: None,
                event_version: None,
                data_schema: None,
                data_content_type: None,
                extensions: Vec::new(),
                data: Data::Json(data.to_owned()),
            },
        }))
    }

    fn content(event_type: &str, data: &str) -> Record {
        record(1, StreamName::of(CATEGORY, "a").expect("a name"), event_type, data)
    }

    fn living(oid: &str) -> String {
        format!(r#"{{"author":"x","change":"y","oid":"{oid}","mode":"100644","size":1}}"#)
    }

    #[test]
    fn what_is_not_known_any_more_does_not_live_until_its_next_change() {
        let mut items = LivingItems::default();
        items.apply(&content("content.created", &living("1")));
        assert_eq!(items.oid("a"), Some("1"));
        items.apply(&content("content.revised", "{}"));
        assert_eq!((items.len(), items.unknown().collect::<Vec<_>>()), (0, vec!["a"]));
        items.apply(&content("content.revised", &living("2")));
        assert_eq!((items.oid("a"), items.unknown().count()), (Some("2"), 0));
        items.apply(&Record::Removed(RemovedRecord {
            position: Position::FIRST,
            version: StreamVersion::FIRST,
            stream: StreamName::of(CATEGORY, "a").expect("a name"),
            recorded_at: Timestamp::from_unix_micros(0).expect("1970"),
            removed: RemovedBy::Redaction,
            certificate: "c".to_owned(),
            leaf: Hash::of(b""),
        }));
        assert_eq!((items.is_empty(), items.unknown().count()), (true, 1));
    }

    #[test]
    fn deletion_and_tombstone_end_an_item_and_unknown_types_leave_it() {
        let mut items = LivingItems::default();
        items.apply(&content("content.created", &living("1")));
        items.apply(&content("content.shared", "{}"));
        items.apply(&record(2, StreamName::of("other", "a").expect("a name"), "content.deleted", "{}"));
        assert_eq!(items.oid("a"), Some("1"));
        items.apply(&content("content.deleted", r#"{"author":"x","change":"y"}"#));
        assert!(items.is_empty());
        items.apply(&content("content.created", &living("2")));
        items.apply(&content(TOMBSTONE_TYPE, "{}"));
        assert!(items.is_empty());
        assert_eq!(items.digest(), Hash::of(b""));
    }

    #[derive(Deserialize)]
    struct Oracle {
        checkpoints: Vec<OraclePoint>,
    }

    #[derive(Deserialize)]
    struct OraclePoint {
        after_events: usize,
        live: usize,
        digest: String,
    }

    #[derive(Deserialize)]
    struct Line<'a> {
        #[serde(rename = "type")]
        event_type: String,
        subject: String,
        #[serde(borrow)]
        data: &'a RawValue,
    }

    fn agrees_with_its_oracle(oracle_file: &Path, history_file: &Path) {
        let oracle: Oracle =
            serde_json::from_slice(&std::fs::read(oracle_file).expect("the oracle")).expect("an oracle");
        let history = std::fs::File::open(history_file).expect("the history");
        let history = String::from_utf8(zstd::decode_all(history).expect("zstd")).expect("UTF-8");
        let lines: Vec<&str> = history.lines().collect();
        assert!(!oracle.checkpoints.is_empty());
        let (mut items, mut applied) = (LivingItems::default(), 0);
        for point in oracle.checkpoints {
            for line in &lines[applied..point.after_events] {
                let line: Line<'_> = serde_json::from_str(line).expect("a CloudEvent");
                let stream = StreamName::of(CATEGORY, &line.subject).expect("a name");
                applied += 1;
                items.apply(&record(applied as u64, stream, &line.event_type, line.data.get()));
            }
            let found = (items.len(), items.digest().to_hex());
            assert_eq!(found, (point.live, point.digest), "{history_file:?} after {} events", point.after_events);
        }
        assert_eq!(applied, lines.len(), "the oracle goes to the end");
    }

    /// Runs over the histories of the folder CONTENT_HISTORIES (`NAME.ndjson.zst` with `NAME.oracle.json`).
    #[test]
    fn the_living_items_of_real_histories_agree_with_their_oracles() {
        let Ok(folder) = std::env::var("CONTENT_HISTORIES") else {
            assert!(std::env::var("CI").is_err(), "CONTENT_HISTORIES is not set");
            println!("skipped: CONTENT_HISTORIES names no folder with histories");
            return;
        };
        let folder = Path::new(&folder);
        let mut histories = 0;
        for entry in std::fs::read_dir(folder).expect("the folder") {
            let oracle = entry.expect("an entry").path();
            let name = oracle.file_name().and_then(|name| name.to_str()).expect("UTF-8").to_owned();
            if let Some(history) = name.strip_suffix(".oracle.json") {
                agrees_with_its_oracle(&oracle, &folder.join(format!("{history}.ndjson.zst")));
                histories += 1;
            }
        }
        assert!(histories > 0, "no NAME.oracle.json in {folder:?}");
    }
}
