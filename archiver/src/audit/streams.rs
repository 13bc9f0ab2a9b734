//! Where each stream stands: versions are dense from 1, and each event names the one before it (FORMAT.md §3, LOG-3).
//!
//! It remembers streams by the first 16 bytes of their name's SHA-256, as indexes do (FORMAT.md §5), and so 32 bytes of each
//! however long its name is; the map's own room makes that 37 to 75. Ten million streams take some 600 MB. Two names that
//! agree in those bytes would be a finding of an archive that is right: with ten million streams once in 10^24 archives.

use std::collections::HashMap;

use domain::merkle::Hash;
use domain::record::Record;
use domain::{Position, StreamVersion};

/// The newest version of each stream, and where it stands.
#[derive(Default)]
pub(super) struct Streams(HashMap<[u8; 16], (StreamVersion, Position)>);

impl Streams {
    /// Takes the next record of the log, or says why it does not follow in its stream.
    pub(super) fn follow(&mut self, record: &Record) -> Result<(), String> {
        let Hash(digest) = Hash::of(record.stream().as_str().as_bytes());
        let (short, _) = digest.split_first_chunk().expect("32 bytes begin with 16");
        let before = self.0.insert(*short, (record.version(), record.position()));
        let expected = before.map_or(StreamVersion::FIRST, |(version, _)| version.next());
        if record.version() != expected {
            let (stream, version) = (record.stream(), record.version());
            return Err(format!("it is version {version} of {stream}, which comes to version {expected}"));
        }
        // A removed line does not say what came before it.
        match record {
            Record::Event(event) if event.previous != before.map(|(_, position)| position) => {
                let place = |position: Option<Position>| position.map_or(0, Position::get);
                let (said, is) = (place(event.previous), place(before.map(|(_, position)| position)));
                Err(format!(
                    "it says that the event before it in {} is at {said}, and that is at {is}",
                    record.stream()
                ))
            }
            _ => Ok(()),
        }
    }
}
