//! What a team that uses cqrs-es with postgres-es gets: stock postgres-es writes its own tables on a real cluster, the
//! real binary takes them over, and the same aggregates go on over the log.

mod door_common;

#[allow(unreachable_pub, dead_code, reason = "it is a library to those who copy it")]
#[path = "../../domain/event-log/examples/from_postgres_es.rs"]
mod from_postgres_es;

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use cqrs_es::event_sink::EventSink;
use cqrs_es::persist::PersistedEventStore;
use cqrs_es::{Aggregate, DomainEvent, EventStore};
use domain::append::{AppendError, AppendRequest, Appended, Role};
use domain::cqrs::TieredEventRepository;
use domain::cqrs::snapshot::Snapshots;
use domain::log::{Direction, EventLog, FollowerLog, LogReader};
use domain::twin::{Between, Interposed, MemoryLog};
use domain::{Epoch, Position, Timestamp};
use door_common::{Rig, text};
use event_log::{PgConfig, PgLog};
use from_postgres_es::{Account, AccountCommand, after, before, wiring};
use futures::{StreamExt, TryStreamExt};
use ops::clock::SystemClock;
use ops::config::{Config, Overrides, SecretUrl};
use ops::import::postgres_es::{Order, PostgresEsError, PostgresEsImport, PostgresEsTables};
use ops::import::{Progress, RecordedAt};
use ops::node::Node;
use postgres_es::{PostgresEventRepository, postgres_cqrs};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::{Executor, PgPool};
use system_tests::regions::until;

const SOURCE: &str = "/services/accounts";
const ACCOUNTS: u32 = 120;
const BASKETS: u32 = 40;

/// postgres-es's own tables.
const TABLES: &str = include_str!("../bench/peers/src/sql/postgres_es.sql");

/// An aggregate of another type, with another shape of event and no snapshots.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Basket(Vec<String>);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Put(String);

impl DomainEvent for Put {
    fn event_type(&self) -> String {
        "put".to_owned()
    }

    fn event_version(&self) -> String {
        "2".to_owned()
    }
}

impl Aggregate for Basket {
    const TYPE: &'static str = "shop_basket";
    type Command = String;
    type Event = Put;
    type Error = std::convert::Infallible;
    type Services = ();

    async fn handle(&mut self, thing: String, (): &(), sink: &EventSink<Self>) -> Result<(), Self::Error> {
        sink.write(Put(thing), self).await;
        Ok(())
    }

    fn apply(&mut self, Put(thing): Put) {
        self.0.push(thing);
    }
}

/// A region, and beside it the database of a service that uses postgres-es.
struct Service {
    rig: Rig,
    pool: PgPool,
}

impl Service {
    async fn start() -> Self {
        let rig = Rig::idle().await;
        let cluster = &rig.region.cluster;
        cluster.create_database("service").await.expect("a database");
        let pool = PgPool::connect(&cluster.superuser_url("service")).await.expect("connected");
        let made = format!("{TABLES} CREATE ROLE importer LOGIN; GRANT SELECT ON events, snapshots TO importer");
        pool.execute(made.as_str()).await.expect("postgres-es's tables");
        Self { rig, pool }
    }

    /// As a role that may only read.
    fn url(&self) -> String {
        self.rig.region.cluster.url("importer", "service")
    }

    /// Accounts by commands of one to four events with snapshots, baskets without; all by stock postgres-es.
    async fn write(&self, seed: u64) {
        let accounts = (0..ACCOUNTS).map(|account| (account, StdRng::seed_from_u64(seed + u64::from(account))));
        let write_one = async |(account, mut random): (u32, StdRng)| {
            let (cqrs, id) = (before(self.pool.clone()), format!("account {account}/ü-\"{account}\""));
            let open = AccountCommand::Open { owner: format!("owner \u{1F600} {account}") };
            let metadata = [("traceid", "4bf9"), ("Not An Attribute", "ünï\n"), ("metadata", "{}")];
            let metadata: HashMap<_, _> = metadata.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
            cqrs.execute_with_metadata(&id, open, metadata).await.expect("decided");
            for _ in 0..8 {
                let cents = (0..random.random_range(1..=4)).map(|_| random.random_range(1..1_000)).collect();
                cqrs.execute(&id, AccountCommand::PayIn { cents }).await.expect("decided");
            }
            if account % 3 == 0 {
                cqrs.execute(&id, AccountCommand::Close).await.expect("decided");
            }
        };
        futures::stream::iter(accounts).for_each_concurrent(8, write_one).await;
        for basket in 0..BASKETS {
            let cqrs = postgres_cqrs::<Basket>(self.pool.clone(), Vec::new(), ());
            for thing in 0..basket % 5 + 1 {
                cqrs.execute(&basket.to_string(), format!("thing {thing}")).await.expect("decided");
            }
        }
    }

    async fn count(&self, table: &str) -> u64 {
        let count: i64 =
            sqlx::query_scalar(&format!("SELECT count(*) FROM {table}")).fetch_one(&self.pool).await.expect("counted");
        u64::try_from(count).expect("not negative")
    }

    async fn ids(&self, aggregate_type: &str) -> Vec<String> {
        let ids = "SELECT DISTINCT aggregate_id FROM events WHERE aggregate_type = $1 ORDER BY 1";
        sqlx::query_scalar(ids).bind(aggregate_type).fetch_all(&self.pool).await.expect("ids")
    }

    async fn run(&self, json: bool, more: &[&str]) -> Output {
        let url = self.url();
        let first = if json { vec!["--json"] } else { Vec::new() };
        let arguments = ["import-postgres-es", "--from", &url, "--source", SOURCE];
        self.rig.run(&[&first, &arguments[..], more].concat()).await
    }

    async fn report(&self, more: &[&str]) -> Value {
        let output = self.run(true, more).await;
        assert!(output.status.success(), "{}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    async fn log(&self) -> Arc<PgLog> {
        let url = self.rig.region.cluster.url("coldstream", "coldstream");
        Arc::new(PgLog::connect(PgConfig::at(&url), Arc::new(SystemClock)).await.expect("the log opens"))
    }

    /// An import in this process, whose appends go through `between`.
    async fn import<B: Between + 'static>(&self, between: B) -> PostgresEsImport {
        let log = self.log().await;
        PostgresEsImport {
            log: Arc::new(Interposed { log: log.clone(), between }),
            reader: log.clone(),
            snapshots: log,
            clock: Arc::new(SystemClock),
            from: SecretUrl::new(self.url()),
            tables: PostgresEsTables { events: "events".to_owned(), snapshots: Some("snapshots".to_owned()) },
            order: Order::Sequence,
            source: SOURCE.to_owned(),
            recorded_at: RecordedAt::Clock,
        }
    }

    async fn end(self) {
        self.pool.close().await;
        self.rig.region.end().await.expect("it ends");
    }
}

struct Unwatched;

impl Progress for Unwatched {
    fn surveyed(&self, _all: u64, _done: u64) {}
    fn done(&self, _done: u64) {}
}

/// Id, version and state of what the log keeps of accounts.
async fn kept_snapshots(service: &Service) -> Vec<(String, i64, Value)> {
    let kept = "SELECT aggregate_id, last_sequence, payload FROM coldstream.snapshots
        WHERE aggregate_type = 'account' ORDER BY aggregate_id";
    let pool = PgPool::connect(&service.rig.region.cluster.superuser_url("coldstream")).await.expect("connected");
    sqlx::query_as(kept).fetch_all(&pool).await.expect("rows")
}

/// State and version of each aggregate by its events alone, as stock postgres-es and cqrs-es give them.
async fn stock<A: Aggregate>(service: &Service) -> Vec<(String, Value, usize)> {
    let store = PersistedEventStore::<_, A>::new_event_store(PostgresEventRepository::new(service.pool.clone()));
    loaded(&store, service.ids(A::TYPE).await).await
}

async fn loaded<A: Aggregate, S>(store: &S, ids: Vec<String>) -> Vec<(String, Value, usize)>
where
    S: EventStore<A, AC = cqrs_es::persist::EventStoreAggregateContext<A>>,
{
    let load = async |id: String| {
        let context = store.load_aggregate(&id).await.map_err(|error| error.to_string())?;
        let state = serde_json::to_value(&context.aggregate).expect("JSON");
        Ok::<_, String>((id, state, context.current_sequence))
    };
    futures::stream::iter(ids).then(load).try_collect().await.expect("readable")
}

/// Ends the import after some groups, as a server that steps down would.
struct EndsAfter(AtomicU32);

#[async_trait]
impl Between for EndsAfter {
    async fn append(&self, log: &dyn EventLog, request: AppendRequest) -> Result<Appended, AppendError> {
        if self.0.fetch_sub(1, Ordering::Relaxed) == 0 {
            let epoch = log.log_head().await.expect("readable").epoch;
            return Err(AppendError::Fenced { epoch, reason: "the region steps down".to_owned() });
        }
        log.append(request).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_goes_on_over_the_log_with_the_same_aggregates_after_an_import_that_was_killed() {
    let seed: u64 = system_tests::chance::random::<u32>().into();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let service = Service::start().await;
    service.write(seed).await;
    let (events, snapshots) = (service.count("events").await, service.count("snapshots").await);
    assert!(events > 1_800 && snapshots > 50, "{events} events, {snapshots} snapshots");

    // The opening event and two groups, then the end; then kills at random moments.
    let import = service.import(EndsAfter(AtomicU32::new(3))).await;
    let ended = import.run(&Unwatched).await.expect_err("ended");
    assert!(matches!(ended, PostgresEsError::Refused { first: 1025, .. }), "{ended}");
    drop(import);
    let url = service.url();
    for _ in 0..4 {
        let arguments = ["import-postgres-es", "--from", &url, "--source", SOURCE];
        let mut command = service.rig.command("", &arguments);
        let mut run = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("started");
        let patience = Duration::from_millis(random.random_range(20..400));
        // One that is done before is not killed any more, and has to have gone well.
        match tokio::time::timeout(patience, run.wait()).await {
            Ok(status) => assert!(status.expect("waited for").success()),
            Err(_) => run.kill().await.expect("killed"),
        }
    }
    let report = service.report(&[]).await;
    assert!(report["events_before"].as_u64() >= Some(1024), "{report}");
    let taken_over = &report["snapshots"]["taken_over"];
    assert_eq!((&report["events"], taken_over), (&events.into(), &snapshots.into()));
    assert_eq!(report["types"][0]["category"], "account", "{report}");
    assert_eq!(report["types"][1]["aggregate_type"], "shop_basket", "{report}");
    let again = service.report(&[]).await;
    assert_eq!((&again["events_before"], &again["appends"]), (&events.into(), &0.into()));
    assert_eq!(again["snapshots"], report["snapshots"], "each once, however often it was run");

    let log = service.log().await;
    assert_eq!(log.log_head().await.expect("readable").head.get(), events + 1, "each once, behind the opening event");
    goes_on(&service, log.clone(), log).await;
    service.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_goes_on_over_what_the_archive_has_taken_from_the_live_log() {
    let mut service = Service::start().await;
    let times = "ALTER TABLE events ADD COLUMN written timestamptz NOT NULL DEFAULT '2020-01-15T12:00:00Z'";
    service.pool.execute(times).await.expect("added");
    service.write(7).await;
    let events = service.count("events").await;
    service.report(&["--timestamps", "written", "--recorded-at", "source"]).await;

    service.rig.region.serve().await.expect("it serves");
    let config = Config::load(Some(&service.rig.region.config), &Overrides::default()).expect("valid");
    let node = Node::open(&config).await.expect("opened");
    // The view has to have folded a month before it leaves.
    until("the month leaves", async || {
        let output = service.rig.run(&["--json", "archive", "run", "--everything", "--yes"]).await;
        assert!(output.status.success(), "{}", text(&output.stderr));
        let pruned = node.log.log_head().await.expect("readable").pruned.get();
        (pruned == events + 1).then_some(())
    })
    .await;
    let live = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM coldstream.events").fetch_one(&node.readers);
    assert_eq!(live.await.expect("counted"), 0, "the month's partition is gone");
    goes_on(&service, node.log.clone(), node.reader.clone()).await;
    node.log.shut_down().await;
    service.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_that_a_failover_cut_is_finished_by_the_other_region() {
    let service = Service::start().await;
    service.write(7).await;
    let events = service.count("events").await;
    let earliest = Timestamp::parse_rfc3339("2000-01-01T00:00:00Z").expect("an instant");
    let region = |role| Arc::new(MemoryLog::new(Arc::new(SystemClock), earliest, role));
    let (home, dr) = (region(Role::Active), region(Role::Follower));
    let base = service.import(EndsAfter(AtomicU32::new(0))).await;
    let cut = Interposed { log: home.clone(), between: EndsAfter(AtomicU32::new(3)) };
    let import = PostgresEsImport { log: Arc::new(cut), reader: home.clone(), ..base };
    import.run(&Unwatched).await.expect_err("ended");
    // The opening event, a group, and the first part of the one after it: more was not shipped.
    let shipped = home.read_log(Position::FIRST, Direction::Forward, 1 + 900).await.expect("readable");
    dr.apply_keeping(&shipped, &[]).await.expect("it follows");
    dr.change_role((Epoch::FIRST, Role::Follower), (Epoch::FIRST.next(), Role::Active)).await.expect("promoted");

    let import = PostgresEsImport { log: dr.clone(), reader: dr.clone(), ..import };
    let report = import.run(&Unwatched).await.expect("finished, and proven");
    assert_eq!((report.events, report.events_before), (events, 900));
    assert_eq!(dr.log_head().await.expect("readable").head.get(), events + 1, "each once, behind the opening event");
    let again = import.run(&Unwatched).await.expect("nothing to do");
    assert_eq!((again.events_before, again.appends), (events, 0));
    service.end().await;
}

/// The same states at the same versions, and the next commands after them.
async fn goes_on(service: &Service, log: Arc<PgLog>, reader: Arc<dyn LogReader>) {
    let repository = || TieredEventRepository::new(wiring(log.clone(), reader.clone()));
    let (accounts, baskets) = (stock::<Account>(service).await, stock::<Basket>(service).await);
    assert_eq!(loaded(&repository().into_store::<Account>(), service.ids("Account").await).await, accounts);
    assert_eq!(loaded(&repository().into_store::<Basket>(), service.ids("shop_basket").await).await, baskets);
    let events = repository().into_store::<Account>().load_events(&accounts[0].0).await.expect("readable");
    assert_eq!(events[0].metadata.get("Not An Attribute").map(String::as_str), Some("ünï\n"));

    let cqrs = after(log.clone(), reader.clone());
    for (id, _, _) in &accounts {
        cqrs.execute(id, AccountCommand::PayIn { cents: vec![1, 2] }).await.expect("decided");
    }
    let expected = accounts.into_iter().map(|(id, mut state, sequence)| {
        state["cents"] = (state["cents"].as_i64().expect("a sum") + 3).into();
        state["payments"] = (state["payments"].as_u64().expect("a count") + 2).into();
        (id, state, sequence + 2)
    });
    let found = loaded(&repository().into_store::<Account>(), service.ids("Account").await).await;
    assert_eq!(found, expected.collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_are_taken_over_and_one_that_has_events_twice_is_built_anew_by_the_first_load() {
    let service = Service::start().await;
    let cqrs = before(service.pool.clone());
    // Nine events, and a command of three: the tenth is applied by the command, and again for the snapshot.
    cqrs.execute("a", AccountCommand::Open { owner: "ann".to_owned() }).await.expect("decided");
    cqrs.execute("a", AccountCommand::PayIn { cents: vec![1; 8] }).await.expect("decided");
    cqrs.execute("a", AccountCommand::PayIn { cents: vec![1; 3] }).await.expect("decided");
    let repository = PostgresEventRepository::new(service.pool.clone());
    let stock = PersistedEventStore::<_, Account>::new_snapshot_store(repository, 10);
    let stock = stock.load_aggregate("a").await.expect("readable").aggregate;
    assert_eq!((stock.cents, stock.payments), (12, 12), "postgres-es counts one of the eleven payments twice");
    // Another one, whose snapshot is right; an older one of it is left out, as is one of no event.
    cqrs.execute("b", AccountCommand::Open { owner: "ben".to_owned() }).await.expect("decided");
    cqrs.execute("b", AccountCommand::PayIn { cents: vec![1; 9] }).await.expect("decided");
    let (_, right, _) = self::stock::<Account>(&service).await.remove(1);
    let mend = "UPDATE snapshots SET payload = $1 WHERE aggregate_id = 'b' AND last_sequence = 10";
    let mended = sqlx::query(mend).bind(&right).execute(&service.pool).await.expect("mended");
    assert_eq!(mended.rows_affected(), 1);
    // And one whose numbers take all digits that there are; what is said of them must be so after they came over too.
    let odd = r#"INSERT INTO snapshots VALUES ('Account', 'b', 1, 1, '{}'), ('Account', 'c', 0, 0, '{}'),
        ('shop_basket', 'floats', 1, 1, '[1.6309962197106975e-07, 1.2345678901234567e25, -0.0, 5e-324, 18446744073709551615]')"#;
    service.pool.execute(odd).await.expect("put");
    let event = "INSERT INTO events VALUES ('shop_basket', 'floats', 1, 'put', '2', '\"x\"', '{}')";
    service.pool.execute(event).await.expect("put");

    let report = service.report(&[]).await;
    assert_eq!((&report["snapshots"]["taken_over"], &report["snapshots"]["made_since"]), (&3.into(), &0.into()));
    assert_eq!(report["snapshots"]["left_out"], 2);
    let (log, kept) = (service.log().await, kept_snapshots(&service).await);
    assert_eq!(kept.iter().map(|(id, ..)| id.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert!(kept.iter().all(|(.., state)| state.get("imported").is_some()), "{kept:?}");
    // Loading them is what proves them.
    for id in ["a", "b"] {
        let snapshots = Snapshots::new(log.clone(), NonZeroUsize::new(10).expect("not 0"), "1");
        let store = TieredEventRepository::new(wiring(log.clone(), log.clone()));
        store.into_snapshot_store::<Account>(snapshots).load_aggregate(id).await.expect("readable");
    }
    let proven = kept_snapshots(&service).await;
    assert_eq!(proven[1].2, serde_json::json!({ "form": "1", "state": right }));
    assert_eq!((&proven[0].2["form"], &proven[0].2["state"]["payments"]), (&"1".into(), &(proven[0].1 - 1).into()));
    let again = service.report(&[]).await;
    assert_eq!((&again["snapshots"]["taken_over"], &again["snapshots"]["made_since"]), (&1.into(), &2.into()));
    assert_eq!(kept_snapshots(&service).await, proven, "what the service made since stays");

    let cqrs = after(log.clone(), log.clone());
    cqrs.execute("a", AccountCommand::PayIn { cents: vec![1; 9] }).await.expect("decided");
    let store = TieredEventRepository::new(wiring(log.clone(), log.clone()));
    let snapshots = Snapshots::new(log, NonZeroUsize::new(10).expect("not 0"), "1");
    let found = store.into_snapshot_store::<Account>(snapshots).load_aggregate("a").await.expect("readable");
    assert_eq!((found.aggregate.cents, found.current_sequence, found.current_snapshot), (20, 21, Some(2)));

    // An aggregate whose events somebody has removed lives on in its snapshot only: it is not taken for empty.
    service.pool.execute("DELETE FROM events WHERE sequence = 12").await.expect("removed");
    let refused = service.run(false, &[]).await;
    let said = text(&refused.stderr);
    assert!(said.contains("\"Account\" \"a\" 12: a snapshot is of it, and the event is not there"), "{said}");
    service.pool.execute("UPDATE snapshots SET payload = '1e999' WHERE aggregate_id = 'b'").await.expect("spoilt");
    let said = text(&service.run(false, &[]).await.stderr);
    assert!(
        said.contains("\"Account\" \"b\" 10: its snapshot cannot be taken over: its state: number out of range"),
        "{said}"
    );
    service.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_rows_are_named_before_anything_is_stored_and_a_source_that_is_written_to_is_not_proven() {
    let service = Service::start().await;
    let put = "INSERT INTO events SELECT 'Order', id, sequence, 'Placed', version, payload, metadata FROM (VALUES
        ('gap', 1, '1.0', '{}'::json, '{}'::json), ('gap', 3, '1.0', '{}', '{}'),
        ('number', 1, '1.0', '{}', '{\"n\":1}'), ('large', 1, '1.0', to_json(repeat('x', 1100000)), '{}'),
        ('twice', 1, '1.0', '{\"a\":1,\"a\":2}', '{}')) AS rows (id, sequence, version, payload, metadata)";
    service.pool.execute(put).await.expect("put");
    let refused = service.run(false, &[]).await;
    assert_eq!(refused.status.code(), Some(1));
    let said = text(&refused.stderr);
    let expected = [
        "4 rows cannot be imported, nothing was stored",
        "\"Order\" \"gap\" 3: the sequences from 2 to 2 are missing before it",
        "\"Order\" \"large\" 1: the event is over 1048576 bytes",
        "\"Order\" \"number\" 1: metadata: \"n\": cqrs-es keeps strings there, and this is none",
        "\"Order\" \"twice\" 1: payload: ",
    ];
    for expected in expected {
        assert!(said.contains(expected), "{expected:?} is not in: {said}");
    }
    let log = service.log().await;
    assert_eq!(log.log_head().await.expect("readable").head.get(), 0);
    let wrong = service.run(false, &["--events-table", "nowhere.events"]).await;
    assert!(text(&wrong.stderr).contains("no table \"nowhere.events\""), "{}", text(&wrong.stderr));

    service.pool.execute("DELETE FROM events").await.expect("mended");
    before(service.pool.clone()).execute("a", AccountCommand::Open { owner: "ann".to_owned() }).await.expect("decided");
    let import = service.import(WritesMeanwhile(service.pool.clone())).await;
    let differs = import.run(&Unwatched).await.expect_err("not proven");
    assert!(matches!(&differs, PostgresEsError::Differs { what } if what.contains("account-a has")), "{differs}");
    let later = service.run(false, &[]).await;
    assert!(text(&later.stderr).contains("the log has account-a already"), "{}", text(&later.stderr));
    service.end().await;
}

/// A service that nobody has stopped.
struct WritesMeanwhile(PgPool);

#[async_trait]
impl Between for WritesMeanwhile {
    async fn append(&self, log: &dyn EventLog, request: AppendRequest) -> Result<Appended, AppendError> {
        before(self.0.clone()).execute("a", AccountCommand::PayIn { cents: vec![1] }).await.expect("decided");
        log.append(request).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn times_of_the_source_order_its_streams_and_can_be_recorded() {
    let service = Service::start().await;
    service.pool.execute("ALTER TABLE events ADD COLUMN written timestamptz").await.expect("added");
    // Stream b goes back in time: its second event stands with the latest time up to it.
    let put =
        "INSERT INTO events SELECT 'Order', id, sequence, 'Placed', '1.0', 'null', '{}', at::timestamptz FROM (VALUES
        ('a', 1, '2020-01-01T00:00:00Z'), ('b', 1, '2020-03-01T00:00:00.000001Z'), ('b', 2, '2020-02-01T00:00:00Z'),
        ('a', 2, '2020-02-01T12:00:00+01:00'), ('c', 1, '2020-03-01T00:00:00.000001Z')) AS rows (id, sequence, at)";
    service.pool.execute(put).await.expect("put");
    let arguments = ["--timestamps", "written", "--recorded-at", "source", "--snapshots-table", "none"];
    let refused = service.run(false, &["--recorded-at", "source"]).await;
    assert!(text(&refused.stderr).contains("only where a column of times is named"), "{}", text(&refused.stderr));
    let report = service.report(&arguments).await;
    assert_eq!(report["order"], "by written, then aggregate_type, aggregate_id, sequence");

    let log = service.log().await;
    let records = log.read_log(domain::Position::FIRST, domain::log::Direction::Forward, 100).await.expect("readable");
    let seen: Vec<(String, String)> = records
        .iter()
        .map(|record| (format!("{}@{}", record.stream(), record.version()), record.recorded_at().to_string()))
        .collect();
    let expected = [
        ("order-a@1", "2020-01-01T00:00:00.000000Z"),
        ("order-a@2", "2020-02-01T11:00:00.000000Z"),
        ("order-b@1", "2020-03-01T00:00:00.000001Z"),
        ("order-b@2", "2020-03-01T00:00:00.000001Z"),
        ("order-c@1", "2020-03-01T00:00:00.000001Z"),
    ];
    assert_eq!(seen[0].1, expected[0].1, "the opening event does not stand above the times that follow");
    assert_eq!(seen[1..], expected.map(|(name, at)| (name.to_owned(), at.to_owned())));
    let other = service.run(false, &["--timestamps", "written", "--snapshots-table", "none"]).await;
    assert!(text(&other.stderr).contains("begun with recordedat from the source"), "{}", text(&other.stderr));
    service.pool.execute("UPDATE events SET written = 'infinity' WHERE aggregate_id = 'c'").await.expect("changed");
    let refused = service.run(false, &arguments).await;
    let said = text(&refused.stderr);
    assert!(said.contains("\"Order\" \"c\" 1: it has no time, and the order is to be taken from it"), "{said}");
    service.end().await;
}
