//! cqrs-es over the log on PostgreSQL and its archive: what a service that uses `CqrsFramework` gets.

mod log_common;

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;

use archiver::cold::ColdReader;
use archiver::heal::{Healer, LogOnly};
use archiver::prune::{PruneIo, Pruner};
use archiver::seal::{Demand, SealIo, Sealer};
use archiver::{ArchiverConfig, Silent};
use cqrs_es::persist::{PersistedEventRepository, PersistedEventStore, PersistenceError};
use cqrs_es::{AggregateError, CqrsFramework, EventStore};
use domain::Head;
use domain::archive::catalog::Copies;
use domain::conformance::persistence::{self, Bed};
use domain::content::{Content, ContentCommand, ContentError, Deletion, Revision};
use domain::cqrs::snapshot::Snapshots;
use domain::cqrs::{PayloadForm, TieredEventRepository, Wiring};
use domain::keys::{KeyRing, SigningKey};
use domain::log::{LogReader, ReadError};
use domain::store::ObjectStore;
use domain::tiered::TieredLog;
use domain::twin::MemoryStore;
use domain::window::LiveWindow;
use event_log::{NewLog, PgLog};
use log_common::{Database, Rig, at, name, new_simulated};
use sqlx::Executor;
use uuid::Uuid;

/// A region: the log on PostgreSQL, and an archive in a bucket in memory.
struct Region {
    log: Arc<PgLog>,
    database: Database,
    store: Arc<MemoryStore>,
    rig: Rig,
}

impl Region {
    async fn start(now: &str) -> Self {
        let rig = Rig::start().await;
        // One copy is enough here: what pruning waits for is shown elsewhere.
        let database = rig.database(NewLog { copies: Copies::OneAcceptedByOperator, ..new_simulated(now) }).await;
        let log = Arc::new(database.open().await);
        let region = Self { log, database, store: Arc::new(MemoryStore::new()), rig };
        region.log.set_archive(region.cold());
        region
    }

    fn store(&self) -> Arc<dyn ObjectStore> {
        Arc::<MemoryStore>::clone(&self.store)
    }

    fn cold(&self) -> Arc<ColdReader> {
        let healer = Healer { own: self.store(), other: None, observer: Arc::new(LogOnly) };
        Arc::new(ColdReader::new(Arc::<PgLog>::clone(&self.log), healer, 8 << 20))
    }

    fn tiered(&self) -> Arc<TieredLog> {
        Arc::new(TieredLog::new(Arc::<PgLog>::clone(&self.log), self.cold()))
    }

    /// Moves the clock on, archives everything and prunes what is older than the window. Returns what is out then.
    async fn archive_at(&self, now: &str) -> Head {
        self.log.set_simulated_now(at(now)).await.expect("later");
        let key = Arc::new(SigningKey::from_seed("home", &[7; 32]).expect("a name"));
        let keys = KeyRing::new([key.verify_key()]).expect("a key");
        let (log, clock) = (&self.log, self.log.clock());
        let io = SealIo {
            log: Arc::<PgLog>::clone(log),
            store: self.store(),
            catalog: Arc::<PgLog>::clone(log),
            clock: Arc::clone(&clock),
            key,
            keys: keys.clone(),
            publishing: Arc::default(),
            steps: Arc::new(Silent),
        };
        Sealer::new(io, ArchiverConfig::default()).run(Demand::Everything).await.expect("sealed");
        let io = PruneIo {
            log: Arc::<PgLog>::clone(log),
            partitions: Arc::<PgLog>::clone(log),
            catalog: Arc::<PgLog>::clone(log),
            evidence: Arc::<PgLog>::clone(log),
            store: self.store(),
            clock,
            keys,
            steps: Arc::new(Silent),
        };
        let pruner = Pruner::new(io, LiveWindow::default(), Copies::OneAcceptedByOperator);
        let report = pruner.run().await.expect("pruned");
        assert_eq!(report.waiting, None);
        log.log_head().await.expect("readable").pruned
    }

    fn repository(&self) -> TieredEventRepository {
        TieredEventRepository::new(Wiring {
            log: Arc::<PgLog>::clone(&self.log),
            reader: self.tiered(),
            new_id: Arc::new(|| Uuid::from_u128(system_tests::chance::random()).to_string()),
            spawn: Arc::new(|task| drop(tokio::spawn(task))),
            source: "/services/content".to_owned(),
            payload: PayloadForm::TaggedByType,
        })
    }

    fn commands(&self) -> CqrsFramework<Content, PersistedEventStore<TieredEventRepository, Content>> {
        CqrsFramework::new(self.repository().into_store(), Vec::new(), ())
    }

    async fn loaded(&self, id: &str) -> (Content, usize) {
        let context = self.repository().into_store::<Content>().load_aggregate(id).await.expect("readable");
        (context.aggregate, context.current_sequence)
    }
}

fn form(oid: &str) -> Revision {
    let text = |text: &str| text.to_owned();
    Revision { author: text("85ec80be"), change: text("25d1"), oid: text(oid), mode: text("100644"), size: 41 }
}

fn living(oid: &str) -> Content {
    Content::Living { oid: oid.to_owned(), mode: "100644".to_owned(), size: 41 }
}

fn create(oid: &str) -> ContentCommand {
    ContentCommand::Create(form(oid))
}

fn revise(oid: &str) -> ContentCommand {
    ContentCommand::Revise(form(oid))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_aggregate_is_the_same_and_goes_on_rightly_before_and_after_pruning() {
    let region = Region::start("2026-01-10T00:00:00Z").await;
    let commands = region.commands();
    for command in [create("1"), revise("2"), revise("3")] {
        commands.execute("lib/a-b.rs", command).await.expect("decided");
    }
    region.log.set_simulated_now(at("2026-02-10T00:00:00Z")).await.expect("later");
    commands.execute("lib/a-b.rs", revise("4")).await.expect("decided");
    let before = (living("4"), 4);
    assert_eq!(region.loaded("lib/a-b.rs").await, before);

    // Partly archived: January is out, February is not.
    assert_eq!(region.archive_at("2026-08-05T00:00:00Z").await.get(), 3);
    assert_eq!(region.loaded("lib/a-b.rs").await, before);
    // Wholly archived.
    assert_eq!(region.archive_at("2026-09-05T00:00:00Z").await.get(), 4);
    assert_eq!(region.loaded("lib/a-b.rs").await, before);

    let again = commands.execute("lib/a-b.rs", create("5")).await.expect_err("it exists, in the archive alone");
    assert!(matches!(again, AggregateError::UserError(ContentError::AlreadyExists)));
    let deletion = Deletion { author: "85ec80be".to_owned(), change: "ed1b".to_owned() };
    commands.execute("lib/a-b.rs", ContentCommand::Delete(deletion)).await.expect("decided");
    commands.execute("lib/a-b.rs", create("6")).await.expect("created again");
    assert_eq!(region.loaded("lib/a-b.rs").await, (living("6"), 6));
    let head = region.log.stream_head(&name("content-lib/a-b.rs")).await.expect("readable").expect("has events");
    assert_eq!((head.version.get(), head.position.get(), head.first.get()), (6, 6, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_start_of_a_stream_that_is_wholly_archived_is_a_conflict() {
    let region = Region::start("2026-01-10T00:00:00Z").await;
    region.commands().execute("a", create("1")).await.expect("decided");
    let first = region.repository().get_events::<Content>("a").await.expect("readable");
    assert_eq!(region.archive_at("2026-09-05T00:00:00Z").await.get(), 1);
    let error = region.repository().persist::<Content>(&first, None).await.expect_err("not the first");
    assert!(matches!(error, PersistenceError::OptimisticLockError));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_reads_archive_and_live_log_and_says_when_the_archive_is_damaged() {
    let region = Region::start("2026-01-10T00:00:00Z").await;
    let commands = region.commands();
    for id in ["a", "b", "c"] {
        commands.execute(id, create("1")).await.expect("decided");
    }
    assert_eq!(region.archive_at("2026-09-05T00:00:00Z").await.get(), 3);
    commands.execute("b", revise("2")).await.expect("decided");
    let replayed = async |region: &Region| {
        let mut stream = region.repository().stream_all_events::<Content>().await.expect("started");
        let mut found = Vec::new();
        while let Some(event) = stream.next::<Content>(&[]).await {
            found.push(event.map(|event| (event.aggregate_id, event.sequence)));
        }
        found
    };
    let found: Result<Vec<_>, _> = replayed(&region).await.into_iter().collect();
    let expected = [("a", 1), ("b", 1), ("c", 1), ("b", 2)].map(|(id, version)| (id.to_owned(), version));
    assert_eq!(found.expect("all readable"), expected);

    let segment = region.store.keys().into_iter().find(|key| key.starts_with("seg/") && key.ends_with(".zst"));
    region.store.delete(&segment.expect("a segment")).await.expect("lost");
    let damaged = replayed(&region).await;
    assert!(matches!(damaged.as_slice(), [Err(_)]), "an error and nothing after it: {damaged:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn commands_that_race_are_decided_one_after_the_other() {
    let region = Arc::new(Region::start("2026-01-10T00:00:00Z").await);
    region.commands().execute("a", create("0")).await.expect("decided");
    let racers = (0..6).map(|racer| {
        let region = Arc::clone(&region);
        tokio::spawn(async move {
            let commands = region.commands();
            for n in 0..5 {
                let oid = format!("{racer}-{n}");
                while let Err(error) = commands.execute("a", revise(&oid)).await {
                    assert!(matches!(error, AggregateError::AggregateConflict), "{error}");
                }
            }
        })
    });
    for racer in racers.collect::<Vec<_>>() {
        racer.await.expect("no panic");
    }
    assert_eq!(region.loaded("a").await.1, 31);
    let head = region.log.log_head().await.expect("readable").head;
    assert_eq!(head.get(), 31, "nothing was appended twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_are_a_cache_that_may_be_lost_damaged_or_ahead() {
    let region = Region::start("2026-01-10T00:00:00Z").await;
    let every = NonZeroUsize::new(2).expect("not 0");
    let store = || {
        let snapshots = Snapshots::new(Arc::<PgLog>::clone(&region.log), every, "1");
        region.repository().into_snapshot_store::<Content>(snapshots)
    };
    let commands = CqrsFramework::new(store(), Vec::new(), ());
    for command in [create("1"), revise("2"), revise("3"), revise("4"), revise("5")] {
        commands.execute("a", command).await.expect("decided");
    }
    let kept = "SELECT last_sequence || ' ' || current_snapshot || ' ' || payload FROM coldstream.snapshots";
    let rows: Vec<String> =
        sqlx::query_scalar(kept).fetch_all(&mut region.database.superuser().await).await.expect("rows");
    let [row] = rows.as_slice() else { panic!("one snapshot: {rows:?}") };
    assert!(row.starts_with("4 2 ") && row.contains("\"4\""), "{row}");

    let odd = [
        "DELETE FROM coldstream.snapshots",
        r#"UPDATE coldstream.snapshots SET payload = '{"form":"1","state":{"Living":"in another form"}}'"#,
        r#"UPDATE coldstream.snapshots SET payload = '{"form":"0","state":"Deleted"}'"#,
        r#"UPDATE coldstream.snapshots SET last_sequence = 99, payload = '{"form":"1","state":"Deleted"}'"#,
        "ALTER TABLE coldstream.snapshots RENAME TO gone",
    ];
    for (n, statement) in odd.into_iter().enumerate() {
        region.database.superuser().await.execute(statement).await.expect("done");
        let context = store().load_aggregate("a").await.expect("readable without it");
        assert_eq!(context.current_sequence, 5 + n, "after: {statement}");
        commands.execute("a", revise(&format!("odd-{n}"))).await.expect("decided without it");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metadata_comes_back_as_it_was_given() {
    let region = Region::start("2026-01-10T00:00:00Z").await;
    let pairs = [("traceid", "4bf9"), ("Not An Attribute", "ünï\n"), ("id", "mine"), ("metadata", "{}")];
    let metadata: HashMap<String, String> = pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    region.commands().execute_with_metadata("a", create("1"), metadata.clone()).await.expect("decided");
    let live = region.repository().into_store::<Content>().load_events("a").await.expect("readable");
    region.archive_at("2026-09-05T00:00:00Z").await;
    let archived = region.repository().into_store::<Content>().load_events("a").await.expect("readable");
    for events in [live, archived] {
        assert_eq!(events[0].metadata, metadata);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_away_is_a_connection_error_and_never_an_empty_history() {
    let region = Region::start("2026-01-10T00:00:00Z").await;
    region.commands().execute("a", create("1")).await.expect("decided");
    region.rig.cluster.stop().await.expect("stopped");
    let error = region.repository().get_events::<Content>("a").await.expect_err("away");
    let PersistenceError::ConnectionError(error) = error else { panic!("{error}") };
    let error = error.downcast_ref::<domain::cqrs::RepositoryError>().expect("ours, with its kind");
    assert!(matches!(error, domain::cqrs::RepositoryError::Read(ReadError::Unavailable { .. })), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_repository_over_postgresql_keeps_what_cqrs_es_expects() {
    let rig = Rig::start().await;
    persistence::run(async || {
        let log = Arc::new(rig.log(log_common::new_log()).await);
        let wiring = Wiring {
            log: log.clone(),
            reader: log.clone(),
            new_id: Arc::new(|| Uuid::from_u128(system_tests::chance::random()).to_string()),
            spawn: Arc::new(|task| drop(tokio::spawn(task))),
            source: "/services/ledger".to_owned(),
            payload: PayloadForm::AsStored,
        };
        Bed { wiring, snapshots: log }
    })
    .await;
}
