//! What the log serves, and whether that is what was acknowledged.

use std::collections::{HashMap, HashSet};

use domain::Timestamp;
use domain::record::{self, Record};

use super::request::Client;
use super::writer::Journal;

/// What stands in the log, by (source-free) id: stream, version, position and instant, as a writer is told them.
pub type Stored = HashMap<String, (String, u64, u64, String)>;

/// Reads the whole log over HTTP and checks LOG-2 and LOG-3 on the way: dense positions from 1, dense versions from 1,
/// instants that never go back, back links, each id once.
///
/// # Panics
/// With what is wrong.
pub async fn served(client: &Client, url: &str) -> Stored {
    let page = client.page(url, "/v1/log?from=1").await;
    let mut stored = Stored::new();
    let mut streams: HashMap<String, (u64, u64)> = HashMap::new();
    let mut newest: Option<Timestamp> = None;
    for (line, expected) in page.lines().zip(1_u64..) {
        let Ok(Record::Event(event)) = record::read(line.as_bytes()) else { panic!("no event: {line}") };
        let (position, version) = (event.position.get(), event.version.get());
        assert_eq!(position, expected, "LOG-2: positions are dense");
        assert!(newest <= Some(event.recorded_at), "LOG-2: recordedat goes back at {position}");
        newest = Some(event.recorded_at);
        let stream = event.event.stream.as_str().to_owned();
        let previous = event.previous.map_or(0, domain::Position::get);
        let before = streams.insert(stream.clone(), (version, position)).unwrap_or((0, 0));
        assert_eq!((version, previous), (before.0 + 1, before.1), "LOG-3: {stream} at position {position}");
        let place = (stream, version, position, event.recorded_at.to_string());
        assert!(stored.insert(event.event.id.clone(), place).is_none(), "LOG-1: {} stands twice", event.event.id);
    }
    stored
}

impl Journal {
    /// LOG-1: all that was acknowledged is stored, once, where it was said to stand; what was refused is not.
    ///
    /// # Panics
    /// With what is wrong.
    pub fn is_kept_by(&self, stored: &Stored) {
        for place in &self.acknowledged {
            let told = (place.stream.clone(), place.version, place.position, place.recordedat.clone());
            assert_eq!(stored.get(&place.id), Some(&told), "LOG-1: {} was acknowledged", place.id);
        }
        for id in &self.refused {
            assert!(!stored.contains_key(id), "LOG-3: {id} was refused and is stored");
        }
    }

    /// The journals of writers that have all been answered are the whole log: nothing else is stored.
    ///
    /// # Panics
    /// With what is wrong.
    pub fn are_all_of(journals: &[Self], stored: &Stored) {
        let mut acknowledged = HashSet::new();
        for journal in journals {
            journal.is_kept_by(stored);
            acknowledged.extend(journal.acknowledged.iter().map(|place| &place.id));
        }
        let unknown: Vec<&String> = stored.keys().filter(|id| !acknowledged.contains(id)).collect();
        assert!(unknown.is_empty(), "stored and never acknowledged: {unknown:?}");
    }
}
