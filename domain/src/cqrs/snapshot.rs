//! Snapshots of aggregates: a cache beside the log, never a truth.

use std::num::NonZeroUsize;
use std::sync::Arc;

use async_trait::async_trait;
use cqrs_es::persist::{EventUpcaster, SerializedEvent};
use cqrs_es::{Aggregate, EventEnvelope};
use serde_json::{Value, json};

use super::version;
use crate::{StreamName, StreamVersion};

/// Under this name stands the state of a snapshot that is not proven.
const IMPORTED: &str = "imported";

/// How a repository keeps snapshots.
#[derive(Clone)]
pub struct Snapshots {
    /// Where they are kept.
    pub store: Arc<dyn SnapshotStore>,
    /// One is made at every `every`th version. Fewer cost longer reads, more cost writes.
    pub every: NonZeroUsize,
    /// A name for the form of the aggregate's state, such as `1`. Upcasters change events and no snapshot, and a
    /// state of an older form may well be readable and wrong; so give another name whenever an upcaster is added, or
    /// the aggregate's fields or its `apply` change. A snapshot of another form is not read: it is built anew from
    /// the events, which the upcasters have gone over.
    pub form: String,
    /// The upcasters, in their order: of every load, and of the events that a snapshot is made of.
    pub upcasters: Vec<Arc<dyn EventUpcaster>>,
}

impl Snapshots {
    /// Snapshots of an aggregate without upcasters.
    #[must_use]
    pub fn new(store: Arc<dyn SnapshotStore>, every: NonZeroUsize, form: &str) -> Self {
        Self { store, every, form: form.to_owned(), upcasters: Vec::new() }
    }

    /// The upcasters for cqrs-es's store.
    pub(super) fn boxed_upcasters(&self) -> Vec<Box<dyn EventUpcaster>> {
        let boxed =
            |upcaster: &Arc<dyn EventUpcaster>| Box::new(Shared(Arc::clone(upcaster))) as Box<dyn EventUpcaster>;
        self.upcasters.iter().map(boxed).collect()
    }

    /// The newest snapshot of the stream that is of this form, or was imported; with its state out of its wrapping.
    pub(super) async fn load(&self, stream: &StreamName) -> Option<Kept> {
        let mut snapshot = self.store.load(stream).await?;
        if let Some(state) = snapshot.state.get_mut(IMPORTED) {
            snapshot.state = state.take();
            return Some(Kept::Imported(snapshot));
        }
        let of_this_form = snapshot.state.get("form").and_then(Value::as_str) == Some(self.form.as_str());
        snapshot.state = snapshot.state.get_mut("state").filter(|_| of_this_form)?.take();
        Some(Kept::Made(snapshot))
    }

    pub(super) async fn save(&self, snapshot: Snapshot) {
        let state = json!({ "form": self.form, "state": snapshot.state });
        self.store.save(Snapshot { state, ..snapshot }).await;
    }

    /// `state` after `events`, upcast and applied one by one; `None` where one of them cannot be read.
    pub(super) fn fold<A: Aggregate>(&self, state: Option<Value>, events: Vec<SerializedEvent>) -> Option<Value> {
        let mut aggregate = state.map_or_else(|| Ok(A::default()), serde_json::from_value).ok()?;
        for event in events {
            let upcast = |event: SerializedEvent, upcaster: &Arc<dyn EventUpcaster>| {
                let older = upcaster.can_upcast(&event.event_type, &event.event_version);
                if older { upcaster.upcast(event) } else { event }
            };
            let event = self.upcasters.iter().fold(event, upcast);
            aggregate.apply(EventEnvelope::<A>::try_from(event).ok()?.payload);
        }
        serde_json::to_value(aggregate).ok()
    }
}

/// What is kept of a stream.
pub(super) enum Kept {
    /// Made of the events.
    Made(Snapshot),
    /// Taken over from another store, and not proven yet.
    Imported(Snapshot),
}

impl Kept {
    pub(super) fn made(self) -> Option<Snapshot> {
        match self {
            Self::Made(snapshot) => Some(snapshot),
            Self::Imported(_) => None,
        }
    }
}

/// One upcaster for two users of it.
struct Shared(Arc<dyn EventUpcaster>);

impl EventUpcaster for Shared {
    fn can_upcast(&self, event_type: &str, event_version: &str) -> bool {
        self.0.can_upcast(event_type, event_version)
    }

    fn upcast(&self, event: SerializedEvent) -> SerializedEvent {
        self.0.upcast(event)
    }
}

/// An aggregate's state after one version of its stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// The stream.
    pub stream: StreamName,
    /// The newest version that is in it.
    pub version: StreamVersion,
    /// cqrs-es's count of snapshots of this aggregate, from 1. Starts again where older ones were lost.
    pub number: usize,
    /// The aggregate as cqrs-es serialized it, under the name of its form: `{"form":NAME,"state":STATE}`; or
    /// `{"imported":STATE}`.
    pub state: Value,
}

impl Snapshot {
    /// A snapshot that another store made. The first load holds it against the events, and replaces it by what they give.
    #[must_use]
    pub fn imported(stream: StreamName, version: StreamVersion, number: usize, state: Value) -> Self {
        Self { stream, version, number, state: json!({ IMPORTED: state }) }
    }

    /// Whether it is such a one.
    #[must_use]
    pub fn is_imported(&self) -> bool {
        self.state.get(IMPORTED).is_some()
    }
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

    /// Tells whoever runs this that an imported snapshot was not what the events give: the store that made it was wrong, or
    /// what made it of them has changed since, or the aggregate serializes in another order each time.
    fn was_wrong(&self, stream: &StreamName, version: StreamVersion);
}

/// The version that a snapshot is of, when `events` events follow version `before` and one is made at every `every`th
/// version: the last such version among them. `None` if there is none.
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
