//! What cqrs-es expects of a `PersistedEventRepository`, by its documentation: the suite of [`TieredEventRepository`]
//! over any log, with any store of snapshots.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use cqrs_es::event_sink::EventSink;
use cqrs_es::persist::{
    EventUpcaster, PersistedEventRepository, PersistedEventStore, PersistenceError, QueryReplay,
    SemanticVersionEventUpcaster, SerializedEvent,
};
use cqrs_es::{Aggregate, AggregateError, DomainEvent, EventEnvelope, EventStore, Query};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::cqrs::snapshot::{Snapshot, SnapshotStore, Snapshots};
use crate::cqrs::{TieredEventRepository, Wiring, category_of, coldstream_cqrs, coldstream_snapshot_cqrs};
use crate::{StreamName, StreamVersion};

/// More events than any page or channel holds.
const MANY: usize = 1_300;

/// An empty log and what goes with it.
pub struct Bed {
    /// The log; its payloads as stored.
    pub wiring: Wiring,
    /// An empty store of snapshots.
    pub snapshots: Arc<dyn SnapshotStore>,
}

/// An aggregate whose events have changed twice. Its type is no category as it stands.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Ledger {
    entries: u64,
    sum: i64,
    /// The states of older forms had none: they can be read, and say too little.
    #[serde(default)]
    currency: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum LedgerEvent {
    Entered { amount: i64, currency: String },
    Closed,
}

impl DomainEvent for LedgerEvent {
    fn event_type(&self) -> String {
        match self {
            Self::Entered { .. } => "Entered".to_owned(),
            Self::Closed => "Closed".to_owned(),
        }
    }

    fn event_version(&self) -> String {
        "3.0".to_owned()
    }
}

impl Aggregate for Ledger {
    const TYPE: &'static str = "Conformance.Ledger";
    type Command = Vec<LedgerEvent>;
    type Event = LedgerEvent;
    type Error = Infallible;
    type Services = ();

    async fn handle(&mut self, events: Vec<LedgerEvent>, (): &(), sink: &EventSink<Self>) -> Result<(), Infallible> {
        for event in events {
            sink.write(event, self).await;
        }
        Ok(())
    }

    fn apply(&mut self, event: LedgerEvent) {
        if let LedgerEvent::Entered { amount, currency } = event {
            // Not commutative: an event that is missing, doubled or misplaced shows.
            self.sum = (self.sum * 31 + amount) % 1_000_003;
            self.currency = currency;
        }
        self.entries += 1;
    }
}

/// Another type, whose aggregates have the same ids.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Note(u64);

impl Aggregate for Note {
    const TYPE: &'static str = "conformance_note";
    type Command = ();
    type Event = LedgerEvent;
    type Error = Infallible;
    type Services = ();

    async fn handle(&mut self, (): (), (): &(), sink: &EventSink<Self>) -> Result<(), Infallible> {
        sink.write(LedgerEvent::Closed, self).await;
        Ok(())
    }

    fn apply(&mut self, _: LedgerEvent) {
        self.0 += 1;
    }
}

type Store = PersistedEventStore<TieredEventRepository, Ledger>;

impl Bed {
    fn repository(&self) -> TieredEventRepository {
        TieredEventRepository::new(self.wiring.clone())
    }

    fn store(&self) -> Store {
        self.repository().into_store()
    }

    fn snapshots(&self, every: usize, form: &str) -> Snapshots {
        let snapshots = Snapshots::new(Arc::clone(&self.snapshots), NonZeroUsize::new(every).expect("not 0"), form);
        Snapshots { upcasters: upcasters().into_iter().map(Arc::from).collect(), ..snapshots }
    }

    fn snapshot_store(&self, every: usize, form: &str) -> Store {
        self.repository().into_snapshot_store(self.snapshots(every, form))
    }
}

fn entered(amounts: impl IntoIterator<Item = i64>) -> Vec<LedgerEvent> {
    let event = |amount| LedgerEvent::Entered { amount, currency: "EUR".to_owned() };
    amounts.into_iter().map(event).collect()
}

async fn commit(store: &Store, id: &str, events: Vec<LedgerEvent>) -> Result<(), AggregateError<Infallible>> {
    let context = store.load_aggregate(id).await?;
    store.commit(events, context, HashMap::new()).await.map(drop)
}

async fn loaded(store: &Store, id: &str) -> (Ledger, usize) {
    let context = store.load_aggregate(id).await.expect("readable");
    (context.aggregate, context.current_sequence)
}

async fn sequences(repository: &TieredEventRepository, id: &str, after: usize) -> Vec<usize> {
    let events = repository.get_last_events::<Ledger>(id, after).await.expect("readable");
    events.iter().map(|event| event.sequence).collect()
}

/// Runs the suite; `bed` makes an empty log each time.
///
/// # Panics
/// Where the contract is broken.
pub async fn run<F: Future<Output = Bed>>(bed: impl Fn() -> F) {
    an_aggregate_without_events_is_the_default_at_sequence_0(&bed().await).await;
    events_come_back_as_they_were_persisted(&bed().await).await;
    of_two_commands_on_one_version_the_second_is_a_conflict_and_leaves_nothing(&bed().await).await;
    aggregates_of_one_id_and_two_types_are_two(&bed().await).await;
    a_replay_gives_every_event_once_through_the_upcasters(&bed().await).await;
    with_snapshots_every_n_an_aggregate_is_what_its_events_make_it(&bed().await).await;
    upcasters_are_applied_in_their_order_and_to_older_versions_only(&bed().await).await;
    a_snapshot_from_before_an_upcaster_is_built_anew_under_another_form(&bed().await).await;
    a_large_stream_is_loaded_and_replayed_whole(&bed().await).await;
}

async fn an_aggregate_without_events_is_the_default_at_sequence_0(bed: &Bed) {
    let repository = bed.repository();
    assert_eq!(repository.get_events::<Ledger>("none").await.expect("readable"), []);
    assert_eq!(repository.get_last_events::<Ledger>("none", 7).await.expect("readable"), []);
    assert_eq!(repository.get_snapshot::<Ledger>("none").await.expect("readable"), None);
    assert!(repository.stream_events::<Ledger>("none").await.expect("begun").next::<Ledger>(&[]).await.is_none());
    assert!(repository.stream_all_events::<Ledger>().await.expect("begun").next::<Ledger>(&[]).await.is_none());
    for store in [bed.store(), bed.snapshot_store(2, "1")] {
        assert_eq!(loaded(&store, "none").await, (Ledger::default(), 0));
        // A command that decides nothing leaves nothing.
        commit(&store, "none", Vec::new()).await.expect("nothing to do");
        assert_eq!(loaded(&store, "none").await, (Ledger::default(), 0));
    }
}

async fn events_come_back_as_they_were_persisted(bed: &Bed) {
    let metadata = json!({"who": "ann", "Not An Attribute": "ü\n", "tags": "", "metadata": "{\"a\":\"b\"}"});
    let event = |sequence, version: &str, payload: Value| {
        let (kind, version) = (if payload.is_string() { "Closed" } else { "Entered" }, version.to_owned());
        SerializedEvent::new(
            "a/1 ü".into(),
            sequence,
            Ledger::TYPE.into(),
            kind.into(),
            version,
            payload,
            metadata.clone(),
        )
    };
    let odd = json!({"Entered": {"z": [1, 1.5, -0.0, null, "\u{0}\u{1F600}"], "a": u64::MAX}});
    let persisted = [event(1, "1.0", odd), event(2, "x", json!("Closed")), event(3, "2.1.7", json!({"Entered": {}}))];
    let repository = bed.repository();
    repository.persist::<Ledger>(&persisted[..2], None).await.expect("persisted");
    repository.persist::<Ledger>(&persisted[2..], None).await.expect("persisted");
    assert_eq!(repository.get_events::<Ledger>("a/1 ü").await.expect("readable"), persisted);
    for (after, expected) in [(0, &[1, 2, 3][..]), (1, &[2, 3]), (2, &[3]), (3, &[]), (9, &[])] {
        assert_eq!(sequences(&repository, "a/1 ü", after).await, expected, "after {after}");
    }
}

async fn of_two_commands_on_one_version_the_second_is_a_conflict_and_leaves_nothing(bed: &Bed) {
    for (id, store) in [("a", bed.store()), ("b", bed.snapshot_store(1, "1"))] {
        for before in [Vec::new(), entered([7])] {
            commit(&store, id, before).await.expect("committed");
            let contexts = [store.load_aggregate(id).await, store.load_aggregate(id).await];
            let [first, second] = contexts.map(|context| context.expect("readable"));
            store.commit(entered([1]), first, HashMap::new()).await.expect("the first");
            let after_the_first = loaded(&store, id).await;
            let refused = store.commit(entered([2, 3]), second, HashMap::new()).await.expect_err("the second");
            assert!(matches!(refused, AggregateError::AggregateConflict), "{refused}");
            assert_eq!(loaded(&store, id).await, after_the_first, "nothing of it, and no snapshot of it");
        }
        // Decided again, it is accepted.
        commit(&store, id, entered([2, 3])).await.expect("the second, again");
        assert_eq!(loaded(&store, id).await.1, 5);
    }
    let events = bed.repository().get_events::<Ledger>("a").await.expect("readable");
    let again = bed.repository().persist::<Ledger>(&events[4..], None).await.expect_err("there already");
    assert!(matches!(again, PersistenceError::OptimisticLockError), "{again}");
}

async fn aggregates_of_one_id_and_two_types_are_two(bed: &Bed) {
    let notes = coldstream_cqrs::<Note>(bed.wiring.clone(), Vec::new(), ());
    notes.execute("a", ()).await.expect("decided");
    commit(&bed.store(), "a", entered([1, 2])).await.expect("committed");
    commit(&bed.store(), "a-a", entered([1])).await.expect("committed");
    notes.execute("a", ()).await.expect("decided");
    assert_eq!(bed.repository().into_store::<Note>().load_aggregate("a").await.expect("readable").aggregate, Note(2));
    assert_eq!(loaded(&bed.store(), "a").await.1, 2);
    let events = bed.repository().get_events::<Ledger>("a").await.expect("readable");
    assert!(events.iter().all(|event| event.aggregate_type == Ledger::TYPE && event.aggregate_id == "a"));
}

/// Keeps what it was told.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<(String, usize, LedgerEvent)>>>);

#[async_trait]
impl Query<Ledger> for Heard {
    async fn dispatch(&self, id: &str, events: &[EventEnvelope<Ledger>]) {
        let heard = events.iter().map(|event| (id.to_owned(), event.sequence, event.payload.clone()));
        self.0.lock().expect("not poisoned").extend(heard);
    }
}

async fn replayed(bed: &Bed, id: Option<&str>) -> Vec<(String, usize, LedgerEvent)> {
    let heard = Heard::default();
    let mut replay = QueryReplay::new(bed.repository(), heard.clone()).with_upcasters(upcasters());
    replay.use_error_handler(Box::new(|error| panic!("{error}")));
    match id {
        Some(id) => replay.replay(id).await.expect("replayed"),
        None => replay.replay_all().await.expect("replayed"),
    }
    let heard = heard.0.lock().expect("not poisoned");
    heard.clone()
}

async fn a_replay_gives_every_event_once_through_the_upcasters(bed: &Bed) {
    first_form(bed, "old", 2).await;
    for (id, amounts) in [("a", [1, 2]), ("b", [3, 4]), ("a", [5, 6])] {
        commit(&bed.store(), id, entered(amounts)).await.expect("committed");
    }
    let event = |id: &str, sequence, amount: i64| (id.to_owned(), sequence, entered([amount]).remove(0));
    let a = [event("a", 1, 1), event("a", 2, 2), event("a", 3, 5), event("a", 4, 6)];
    assert_eq!(replayed(bed, Some("a")).await, a);
    let [a1, a2, a3, a4] = a;
    let old = [event("old", 1, 1), event("old", 2, 2)];
    let all = [old.to_vec(), vec![a1, a2, event("b", 1, 3), event("b", 2, 4), a3, a4]].concat();
    assert_eq!(replayed(bed, None).await, all, "in the order of the log");
}

async fn with_snapshots_every_n_an_aggregate_is_what_its_events_make_it(bed: &Bed) {
    let by_events = bed.store();
    // Commands of 0 to 9 events: between two snapshots, onto one, over one, over several.
    let sizes = [1, 1, 3, 0, 2, 9, 4, 5, 1, 7, 8, 2, 6];
    for every in 1..=6 {
        let (id, store) = (format!("every-{every}"), bed.snapshot_store(every, "1"));
        // Through the framework, which applies a command's events before they come to the store.
        let cqrs = coldstream_snapshot_cqrs::<Ledger>(bed.wiring.clone(), Vec::new(), bed.snapshots(every, "1"), ());
        let (mut amount, mut snapshots) = (0, 0);
        for size in sizes {
            let (before, events) = (loaded(&store, &id).await.1, entered(amount..amount + size));
            amount += size;
            cqrs.execute(&id, events).await.expect("decided");
            let (ledger, sequence) = loaded(&store, &id).await;
            assert_eq!(
                (ledger, sequence),
                loaded(&by_events, &id).await,
                "every {every}, {size} events after {before}"
            );
            // One more snapshot wherever a multiple was reached, however many of them.
            snapshots += usize::from(sequence / every > before / every);
            let context = store.load_aggregate(&id).await.expect("readable");
            assert_eq!(context.current_snapshot.unwrap_or(0), snapshots, "every {every}, {size} events after {before}");
        }
    }
}

/// Events of the form before all upcasters.
async fn first_form(bed: &Bed, id: &str, events: usize) {
    let event = |sequence: usize| {
        let payload = json!({"Entered": {"cents": sequence}});
        let kind = "Entered".to_owned();
        SerializedEvent::new(id.into(), sequence, Ledger::TYPE.into(), kind, "1.0".into(), payload, json!({}))
    };
    let events: Vec<_> = (1..=events).map(event).collect();
    bed.repository().persist::<Ledger>(&events, None).await.expect("persisted");
}

/// 1.0 had `cents`, 2.0 has `amount`, 3.0 has a currency. The second would spoil what it is not meant for.
fn upcasters() -> Vec<Box<dyn EventUpcaster>> {
    let renamed = |mut payload: Value| {
        let cents = payload["Entered"]["cents"].take();
        payload["Entered"] = json!({ "amount": cents });
        payload
    };
    let in_euro = |mut payload: Value| {
        assert!(payload["Entered"]["amount"].is_i64(), "the older upcaster comes first: {payload}");
        payload["Entered"]["currency"] = json!("EUR");
        payload
    };
    vec![
        Box::new(SemanticVersionEventUpcaster::new("Entered", "2.0", Box::new(renamed))),
        Box::new(SemanticVersionEventUpcaster::new("Entered", "3.0", Box::new(in_euro))),
    ]
}

async fn upcasters_are_applied_in_their_order_and_to_older_versions_only(bed: &Bed) {
    first_form(bed, "a", 3).await;
    let store = bed.store().with_upcasters(upcasters());
    let mut events = entered([1, 2, 3]);
    events.push(LedgerEvent::Closed);
    events.extend(entered([4]));
    commit(&store, "a", events[3..].to_vec()).await.expect("committed");
    let found = store.load_events("a").await.expect("readable").into_iter().map(|event| event.payload);
    assert_eq!(found.collect::<Vec<_>>(), events);
    // What is stored stays as it was: upcasters are for who reads.
    let stored = bed.repository().get_events::<Ledger>("a").await.expect("readable");
    assert_eq!((stored[0].event_version.as_str(), &stored[0].payload), ("1.0", &json!({"Entered": {"cents": 1}})));
    let without = bed.store().load_aggregate("a").await.map(drop).expect_err("no upcaster");
    assert!(matches!(without, AggregateError::DeserializationError(_)), "{without}");
}

async fn a_snapshot_from_before_an_upcaster_is_built_anew_under_another_form(bed: &Bed) {
    first_form(bed, "a", 4).await;
    // Kept by a program of the time before: it knew no currency.
    let by_events = loaded(&bed.store().with_upcasters(upcasters()), "a").await;
    let old_state = json!({"entries": 4, "sum": by_events.0.sum});
    let stream = StreamName::of(&category_of(Ledger::TYPE), "a").expect("a name");
    let version = StreamVersion::new(4).expect("from 1");
    let state = json!({"form": "1", "state": old_state});
    bed.snapshots.save(Snapshot { stream, version, number: 2, state }).await;

    // Under the old form's name the state can be read, and is wrong: that is why forms have names.
    let (old, _) = loaded(&bed.snapshot_store(2, "1"), "a").await;
    assert_eq!((old.sum, old.currency.as_str()), (by_events.0.sum, ""));
    let store = bed.snapshot_store(2, "2");
    assert_eq!((by_events.0.currency.as_str(), by_events.1), ("EUR", 4));
    assert_eq!(loaded(&store, "a").await, by_events);
    // The next snapshot is of the new form, made of the upcast events, and stands.
    commit(&store, "a", entered([5, 6])).await.expect("committed");
    let context = store.load_aggregate("a").await.expect("readable");
    assert_eq!((context.current_snapshot, context.current_sequence), (Some(1), 6));
    assert_eq!(context.aggregate, loaded(&bed.store().with_upcasters(upcasters()), "a").await.0);
}

async fn a_large_stream_is_loaded_and_replayed_whole(bed: &Bed) {
    let many = i64::try_from(MANY).expect("small");
    let store = bed.snapshot_store(500, "1");
    commit(&store, "a", entered(0..many)).await.expect("one command of many events");
    for amount in 0..3 {
        commit(&bed.store(), "b", entered([amount])).await.expect("committed");
    }
    commit(&store, "a", entered(0..many)).await.expect("and another");
    let expected = loaded(&bed.store(), "a").await;
    assert_eq!(expected.1, 2 * MANY);
    assert_eq!(loaded(&store, "a").await, expected);
    assert_eq!(sequences(&bed.repository(), "a", 2 * MANY - 2).await, [2 * MANY - 1, 2 * MANY]);
    let whole: Vec<usize> = (1..=2 * MANY).collect();
    let of_a = replayed(bed, Some("a")).await;
    assert_eq!(of_a.iter().map(|(_, sequence, _)| *sequence).collect::<Vec<_>>(), whole);
    assert_eq!(replayed(bed, None).await.len(), 2 * MANY + 3);
}
