//! cqrs-es over the twin in memory: what the seam does when appends are in doubt, events are archived or
//! missing, and snapshots are odd.

#![cfg(feature = "twin")]

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use cqrs_es::persist::{PersistedEventRepository, PersistedEventStore, PersistenceError, SerializedEvent};
use cqrs_es::{AggregateError, CqrsFramework, EventStore};
use domain::append::{AppendError, AppendRequest, Appended, Role};
#[cfg(feature = "conformance")]
use domain::conformance::persistence::{self, Bed};
use domain::content::{Content, ContentCommand, ContentError, Deletion, Revision};
use domain::cqrs::{APPEND_ATTEMPTS_MAX, PayloadForm, RepositoryError, TieredEventRepository, Wiring};
use domain::event::{Data, NewEvent};
use domain::log::{Direction, EventLog, LogReader, ReadError};
use domain::record::{Record, RemovedBy, RemovedRecord};
use domain::tiered::TieredLog;
use domain::twin::{Between, Interposed, MemoryLog};
use domain::{Epoch, ErrorKind, FixedClock, Head, Position, StreamName, StreamVersion, Timestamp};

#[path = "cqrs_twin/snapshots.rs"]
mod snapshots;

fn at(text: &str) -> Timestamp {
    Timestamp::parse_rfc3339(text).expect("an instant")
}

/// What happens to the next append.
enum Fault {
    LoseTheReply,
    LoseTheRequest,
    Refuse(AppendError),
}

/// The log in memory, whose appends and reads go wrong on purpose, and the archive of what it pruned.
struct Rig {
    twin: Arc<MemoryLog>,
    log: Arc<Interposed<MemoryLog, LostReplies>>,
    reader: Arc<Interposed<TieredLog, ShortPages>>,
}

#[derive(Default)]
struct LostReplies {
    faults: Mutex<VecDeque<Fault>>,
    appends: AtomicU64,
}

#[async_trait]
impl Between for LostReplies {
    async fn append(&self, log: &dyn EventLog, request: AppendRequest) -> Result<Appended, AppendError> {
        self.appends.fetch_add(1, Ordering::Relaxed);
        let fault = self.faults.lock().expect("not poisoned").pop_front();
        let in_doubt = || AppendError::Indeterminate { reason: "the connection was lost".to_owned() };
        match fault {
            None => log.append(request).await,
            Some(Fault::LoseTheReply) => log.append(request).await.and_then(|_| Err(in_doubt())),
            Some(Fault::LoseTheRequest) => Err(in_doubt()),
            Some(Fault::Refuse(error)) => Err(error),
        }
    }
}

/// Pages of three: short pages are not the end.
#[derive(Default)]
struct ShortPages {
    /// Position whose read breaks off.
    unreadable: Mutex<Option<Position>>,
}

impl ShortPages {
    fn unless_broken(&self, page: Vec<Record>) -> Result<Vec<Record>, ReadError> {
        let unreadable = *self.unreadable.lock().expect("not poisoned");
        let away = || ReadError::Unavailable { reason: "the store is away".to_owned() };
        if page.iter().any(|record| Some(record.position()) == unreadable) { Err(away()) } else { Ok(page) }
    }
}

#[async_trait]
impl Between for ShortPages {
    async fn read_log(
        &self,
        log: &dyn LogReader,
        from: Position,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<Record>, ReadError> {
        self.unless_broken(log.read_log(from, direction, limit.min(3)).await?)
    }

    async fn read_stream(
        &self,
        log: &dyn LogReader,
        stream: &StreamName,
        from: StreamVersion,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<Record>, ReadError> {
        self.unless_broken(log.read_stream(stream, from, direction, limit.min(3)).await?)
    }
}

impl Rig {
    fn new() -> Self {
        let clock = Arc::new(FixedClock(at("2026-06-01T00:00:00Z")));
        let twin = Arc::new(MemoryLog::new(clock, at("2026-01-01T00:00:00Z"), Role::Active));
        let tiered = Arc::new(TieredLog::new(Arc::<MemoryLog>::clone(&twin), twin.archive()));
        Self {
            log: Arc::new(Interposed { log: Arc::clone(&twin), between: LostReplies::default() }),
            reader: Arc::new(Interposed { log: tiered, between: ShortPages::default() }),
            twin,
        }
    }

    fn next_faults(&self, faults: impl IntoIterator<Item = Fault>) {
        self.log.between.faults.lock().expect("not poisoned").extend(faults);
    }

    fn appends(&self) -> u64 {
        self.log.between.appends.load(Ordering::Relaxed)
    }

    fn archive_up_to(&self, head: u64) {
        self.twin.prune_to(Head::new(head).expect("a head"));
    }

    fn remove(&self, position: u64) {
        let archived = self.twin.archive().records();
        let record = archived.iter().find(|record| record.position().get() == position).expect("archived");
        let removed = RemovedRecord {
            position: record.position(),
            version: record.version(),
            stream: record.stream().clone(),
            recorded_at: record.recorded_at(),
            removed: RemovedBy::Redaction,
            certificate: "certificate-1".to_owned(),
            leaf: record.leaf(),
        };
        assert!(self.twin.archive().replace(Record::Removed(removed)));
    }
}

fn wiring(rig: &Rig, reader: Arc<dyn LogReader>) -> Wiring {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    Wiring {
        log: Arc::<Interposed<MemoryLog, LostReplies>>::clone(&rig.log),
        reader,
        new_id: Arc::new(|| format!("id-{}", NEXT.fetch_add(1, Ordering::Relaxed))),
        spawn: Arc::new(|task| drop(tokio::spawn(task))),
        source: "/services/content".to_owned(),
        payload: PayloadForm::TaggedByType,
    }
}

fn repository_over(rig: &Rig, reader: Arc<dyn LogReader>) -> TieredEventRepository {
    TieredEventRepository::new(wiring(rig, reader))
}

fn repository(rig: &Rig) -> TieredEventRepository {
    repository_over(rig, Arc::<Interposed<TieredLog, ShortPages>>::clone(&rig.reader))
}

type Commands = CqrsFramework<Content, PersistedEventStore<TieredEventRepository, Content>>;

fn commands(rig: &Rig) -> Commands {
    CqrsFramework::new(repository(rig).into_store(), Vec::new(), ())
}

fn form(oid: &str) -> Revision {
    let text = |text: &str| text.to_owned();
    Revision { author: text("85ec80be"), change: text("25d1"), oid: text(oid), mode: text("100644"), size: 41 }
}

fn create(oid: &str) -> ContentCommand {
    ContentCommand::Create(form(oid))
}

fn revise(oid: &str) -> ContentCommand {
    ContentCommand::Revise(form(oid))
}

fn delete() -> ContentCommand {
    ContentCommand::Delete(Deletion { author: "85ec80be".to_owned(), change: "ed1b".to_owned() })
}

async fn head(rig: &Rig) -> u64 {
    rig.twin.log_head().await.expect("readable").head.get()
}

async fn only_event(rig: &Rig) -> NewEvent {
    let records = rig.twin.read_log(Position::FIRST, Direction::Forward, 9).await.expect("readable");
    let [Record::Event(event)] = records.as_slice() else { panic!("one event") };
    event.event.clone()
}

#[tokio::test]
async fn a_command_becomes_a_record_of_the_histories_form() {
    let rig = Rig::new();
    let metadata = HashMap::from([("traceid".to_owned(), "t1".to_owned()), ("Not a name".to_owned(), "x".to_owned())]);
    commands(&rig).execute_with_metadata("lib/a-b.ex", create("755b"), metadata.clone()).await.expect("decided");
    let event = only_event(&rig).await;
    assert_eq!(event.stream.as_str(), "content-lib/a-b.ex");
    assert_eq!((event.event_type.as_str(), event.event_version.as_deref()), ("content.created", Some("1.0")));
    assert_eq!(
        (event.source.as_str(), event.data_content_type.as_deref()),
        ("/services/content", Some("application/json"))
    );
    let Data::Json(data) = event.data else { panic!("JSON") };
    assert_eq!(serde_json::from_str::<Revision>(&data).expect("a revision"), form("755b"));
    assert!(event.extensions.iter().any(|extension| extension.name == "traceid"));
    let loaded = repository(&rig).into_store::<Content>().load_events("lib/a-b.ex").await.expect("readable");
    assert_eq!(loaded[0].metadata, metadata);
}

#[tokio::test]
async fn content_lives_dies_and_lives_again_across_the_archive() {
    let rig = Rig::new();
    let commands = commands(&rig);
    for command in [create("1"), revise("2"), revise("3"), revise("4")] {
        commands.execute("a", command).await.expect("decided");
    }
    // Partly archived, then wholly: the next version comes out right, and so does the state.
    rig.archive_up_to(3);
    commands.execute("a", delete()).await.expect("decided over archive and live log");
    rig.archive_up_to(5);
    let refused = commands.execute("a", revise("5")).await.expect_err("deleted");
    assert!(matches!(refused, AggregateError::UserError(ContentError::DoesNotExist)));
    commands.execute("a", create("6")).await.expect("created again");
    let stream = StreamName::of("content", "a").expect("a name");
    let head = rig.twin.stream_head(&stream).await.expect("readable").expect("has events");
    assert_eq!((head.version.get(), head.position.get()), (6, 6));
}

#[tokio::test]
async fn a_reader_of_the_live_log_alone_is_an_error_once_events_are_archived() {
    let rig = Rig::new();
    for command in [create("1"), revise("2")] {
        commands(&rig).execute("a", command).await.expect("decided");
    }
    for archived in [1, 2] {
        rig.archive_up_to(archived);
        let partial = repository_over(&rig, Arc::<MemoryLog>::clone(&rig.twin));
        let error = partial.get_events::<Content>("a").await.expect_err("version 1 is missing");
        assert_eq!(kind(&error), ErrorKind::Corrupt);
    }
}

fn kind(error: &PersistenceError) -> ErrorKind {
    match error {
        PersistenceError::OptimisticLockError => ErrorKind::Conflict,
        PersistenceError::ConnectionError(error)
        | PersistenceError::DeserializationError(error)
        | PersistenceError::UnknownError(error) => {
            error.downcast_ref::<RepositoryError>().expect("ours, with its kind").kind()
        }
    }
}

/// What cqrs-es would persist for the creation of "a".
async fn events_of_one_command() -> Vec<SerializedEvent> {
    let elsewhere = Rig::new();
    commands(&elsewhere).execute("a", create("1")).await.expect("decided");
    repository(&elsewhere).get_events::<Content>("a").await.expect("readable")
}

#[tokio::test]
async fn a_lost_reply_is_asked_again_with_the_same_ids_and_stores_once() {
    let rig = Rig::new();
    rig.next_faults([Fault::LoseTheReply, Fault::LoseTheRequest]);
    commands(&rig).execute("a", create("1")).await.expect("acknowledged at last");
    assert_eq!((head(&rig).await, rig.appends()), (1, 3));
}

#[tokio::test]
async fn an_append_in_doubt_stays_in_doubt_whatever_the_later_attempts_say_of_themselves() {
    let rig = Rig::new();
    let away = || Fault::Refuse(AppendError::Unavailable { reason: "away".to_owned(), retry_after_seconds: None });
    let fenced = Fault::Refuse(AppendError::Fenced { epoch: Epoch::FIRST, reason: "demoted".to_owned() });
    rig.next_faults([Fault::LoseTheReply, away(), fenced, away()]);
    let events = events_of_one_command().await;
    let error = repository(&rig).persist::<Content>(&events, None).await.expect_err("in doubt");
    assert_eq!(kind(&error), ErrorKind::Indeterminate);
    assert!(matches!(error, PersistenceError::ConnectionError(_)));
    assert_eq!(rig.appends(), u64::from(APPEND_ATTEMPTS_MAX));
    assert_eq!(head(&rig).await, 1, "it had happened");
}

#[tokio::test]
async fn what_did_not_happen_is_said_at_once() {
    let rig = Rig::new();
    let events = events_of_one_command().await;
    rig.next_faults([Fault::Refuse(AppendError::Unavailable { reason: "away".to_owned(), retry_after_seconds: None })]);
    let error = repository(&rig).persist::<Content>(&events, None).await.expect_err("away");
    assert!(matches!(error, PersistenceError::ConnectionError(_)));
    assert_eq!((kind(&error), rig.appends()), (ErrorKind::Unavailable, 1));
    assert_eq!(head(&rig).await, 0);
}

#[tokio::test]
async fn two_commands_decided_on_the_same_version_are_a_conflict_for_the_second() {
    let rig = Rig::new();
    let events = events_of_one_command().await;
    repository(&rig).persist::<Content>(&events, None).await.expect("the first");
    let error = repository(&rig).persist::<Content>(&events, None).await.expect_err("the second");
    assert!(matches!(error, PersistenceError::OptimisticLockError));
    assert_eq!(head(&rig).await, 1);
}

#[tokio::test]
async fn events_that_are_not_consecutive_versions_of_one_stream_are_refused() {
    let rig = Rig::new();
    let one = events_of_one_command().await.remove(0);
    let other_stream = SerializedEvent { aggregate_id: "b".to_owned(), sequence: 2, ..one.clone() };
    let hole = SerializedEvent { sequence: 3, ..one.clone() };
    let from_zero = SerializedEvent { sequence: 0, ..one.clone() };
    for events in [vec![one.clone(), other_stream], vec![one.clone(), hole], vec![from_zero]] {
        let error = repository(&rig).persist::<Content>(&events, None).await.expect_err("refused");
        assert_eq!(kind(&error), ErrorKind::Invalid);
    }
    assert_eq!(head(&rig).await, 0);
}

#[tokio::test]
async fn an_aggregate_with_a_removed_event_is_an_error_and_never_a_shorter_history() {
    let rig = Rig::new();
    for command in [create("1"), revise("2"), revise("3")] {
        commands(&rig).execute("a", command).await.expect("decided");
    }
    rig.archive_up_to(2);
    rig.remove(2);
    let error = repository(&rig).get_events::<Content>("a").await.expect_err("removed");
    assert_eq!(kind(&error), ErrorKind::NotFound);
    let after = repository(&rig).get_last_events::<Content>("a", 2).await.expect("what is after it is there");
    assert_eq!(after.len(), 1);
}

async fn replayed(rig: &Rig, all: bool) -> Vec<Result<usize, ErrorKind>> {
    let repository = repository(rig);
    let mut stream = match all {
        true => repository.stream_all_events::<Content>().await,
        false => repository.stream_events::<Content>("a").await,
    }
    .expect("started");
    let mut found = Vec::new();
    while let Some(event) = stream.next::<Content>(&[]).await {
        found.push(event.map(|event| event.sequence).map_err(|error| kind(&error)));
    }
    found
}

#[tokio::test]
async fn a_replay_goes_through_archive_and_live_log_and_ends_at_the_head() {
    let rig = Rig::new();
    for (id, command) in [
        ("a", create("1")),
        ("b", create("1")),
        ("a", revise("2")),
        ("a", revise("3")),
        ("b", delete()),
        ("a", delete()),
    ] {
        commands(&rig).execute(id, command).await.expect("decided");
    }
    rig.archive_up_to(3);
    assert_eq!(replayed(&rig, false).await, [Ok(1), Ok(2), Ok(3), Ok(4)]);
    assert_eq!(replayed(&rig, true).await, [Ok(1), Ok(1), Ok(2), Ok(3), Ok(2), Ok(4)]);
}

#[tokio::test]
async fn a_replay_that_breaks_off_says_so() {
    let rig = Rig::new();
    commands(&rig).execute("a", create("0")).await.expect("decided");
    for oid in ["1", "2", "3", "4", "5"] {
        commands(&rig).execute("a", revise(oid)).await.expect("decided");
    }
    *rig.reader.between.unreadable.lock().expect("not poisoned") = Position::new(5);
    let broken_off = [Ok(1), Ok(2), Ok(3), Err(ErrorKind::Unavailable)];
    assert_eq!(replayed(&rig, false).await, broken_off);
    assert_eq!(replayed(&rig, true).await, broken_off);
}

#[tokio::test]
async fn a_removed_record_is_an_error_in_its_place_of_a_replay() {
    let rig = Rig::new();
    for command in [create("1"), revise("2"), revise("3")] {
        commands(&rig).execute("a", command).await.expect("decided");
    }
    rig.archive_up_to(2);
    rig.remove(2);
    for all in [true, false] {
        assert_eq!(replayed(&rig, all).await, [Ok(1), Err(ErrorKind::NotFound), Ok(3)]);
    }
}

#[cfg(feature = "conformance")]
#[tokio::test]
async fn the_repository_over_the_twin_keeps_what_cqrs_es_expects() {
    persistence::run(|| async {
        let rig = Rig::new();
        let wiring = Wiring { payload: PayloadForm::AsStored, ..wiring(&rig, rig.reader.clone()) };
        Bed { wiring, snapshots: Arc::new(snapshots::Snapshots::default()) }
    })
    .await;
}
