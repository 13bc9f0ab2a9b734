//! Snapshots of aggregates: a cache beside the log, never a truth.

use std::num::NonZeroUsize;

use async_trait::async_trait;

use super::version;
use crate::{StreamName, StreamVersion};

/// An aggregate's state after one version of its stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// The stream.
    pub stream: StreamName,
    /// The newest version that is in it.
    pub version: StreamVersion,
    /// cqrs-es's count of snapshots of this aggregate, from 1. Starts again where older ones were lost.
    pub number: usize,
    /// The aggregate as cqrs-es serialized it.
    pub state: serde_json::Value,
}

/// Keeps the newest snapshot of each stream.
///
/// It cannot fail towards its caller, because nothing depends on it: a snapshot that is lost, late or
/// unreadable costs the next load a longer read of the log. So an adapter logs its own errors, as a warning.
#[async_trait]
pub trait SnapshotStore: Send + Sync {
    /// The newest snapshot of the stream; `None` if there is none or it cannot be read.
    async fn load(&self, stream: &StreamName) -> Option<Snapshot>;

    /// Keeps the snapshot instead of one with a lower version; one with a higher version stays. May be lost.
    async fn save(&self, snapshot: Snapshot);
}

/// The version that cqrs-es 0.5's snapshot is of, when `events` events follow version `before` and one is
/// made at every `every`th version: the last such version among them. `None` if there is none.
///
/// cqrs-es hands over the state without that version (its own adapters keep it under the version of the last
/// event, which loses the events after it where a command made several).
pub(super) fn version_of(before: usize, events: usize, every: NonZeroUsize) -> Option<StreamVersion> {
    let last = before.checked_add(events)?;
    let at = last - last % every;
    if at > before { version(at) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_of_the_last_multiple_among_the_new_versions() {
        let of = |before, events, every| {
            version_of(before, events, NonZeroUsize::new(every).expect("not 0")).map(StreamVersion::get)
        };
        // The cases of cqrs-es's own test: it applies 3 of 3 events after 5, and 7 of 8 events after 5.
        assert_eq!(of(5, 3, 4), Some(8));
        assert_eq!(of(5, 4, 4), Some(8));
        assert_eq!(of(5, 8, 4), Some(12));
        assert_eq!(of(5, 2, 4), None);
        assert_eq!(of(0, 1, 1), Some(1));
        assert_eq!(of(4, 0, 4), None);
    }
}
