//! What the tests of the projections share: a cluster with the views, a log in memory whose clock can be set,
//! random histories, and an independent model of the view "content now".

#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

pub mod tally;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use domain::append::{AppendRequest, Role};
use domain::event::{Data, NewEvent};
use domain::log::{Direction, EventLog, LogReader};
use domain::twin::MemoryLog;
use domain::window::LiveWindow;
use domain::{Clock, ClockError, Position, StreamName, Timestamp};
use event_log::{Admin, ServiceLogin};
use ops::dev::postgres::{PostgresCluster, PostgresOptions};
use projections::content::{ContentNow, ContentView, Item, Stub};
use projections::rebuild::{Rebuild, Watch};
use projections::runner::{Progress, Runner};
use projections::{SessionLimits, View};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use sqlx::postgres::{PgConnectOptions, PgPool};
use sqlx::{Connection, PgConnection};

/// Name under which the views' sessions are seen by PostgreSQL.
pub const APPLICATION: &str = "projections-under-test";

pub fn at(text: &str) -> Timestamp {
    Timestamp::parse_rfc3339(text).expect("an instant")
}

/// A clock that stands where it was put.
pub struct SetClock(Mutex<Timestamp>);

impl SetClock {
    pub fn at(text: &str) -> Arc<Self> {
        Arc::new(Self(Mutex::new(at(text))))
    }

    pub fn set(&self, now: Timestamp) {
        *self.0.lock().expect("not poisoned") = now;
    }
}

#[async_trait]
impl Clock for SetClock {
    async fn now(&self) -> Result<Timestamp, ClockError> {
        Ok(*self.0.lock().expect("not poisoned"))
    }
}

/// A cluster with the views, and a log in memory beside it.
pub struct Rig {
    pub cluster: PostgresCluster,
    pub pool: PgPool,
    pub clock: Arc<SetClock>,
    pub log: Arc<MemoryLog>,
}

impl Rig {
    pub async fn start(now: &str) -> Self {
        let cluster = PostgresCluster::launch(PostgresOptions::default()).await.expect("a cluster");
        cluster.create_database("views").await.expect("a database");
        let mut admin = Admin::connect(&cluster.superuser_url("views")).await.expect("connected");
        let login = ServiceLogin { name: "service".to_owned(), password: None };
        admin.prepare(&login).await.expect("the log's schema");
        for _first_and_again in 0..2 {
            projections::migrate(admin.as_owner().await.expect("the owner")).await.expect("the views");
        }
        let clock = SetClock::at(now);
        let log = empty_log(&clock);
        let pool = pool(&cluster);
        Self { cluster, pool, clock, log }
    }

    pub fn runner(&self) -> Runner<ContentView> {
        self.runner_over(Arc::<MemoryLog>::clone(&self.log))
    }

    /// A runner of any view, over the same log.
    pub fn runner_of<V: View>(&self, view: V) -> Runner<V> {
        let (reader, clock) = (Arc::<MemoryLog>::clone(&self.log), Arc::<SetClock>::clone(&self.clock));
        Runner::new(self.pool.clone(), reader, clock, LiveWindow::default(), view)
    }

    /// A rebuild of any view, over the same log.
    pub fn rebuild_of<V: View>(&self, view: V, watch: Arc<dyn Watch>) -> Rebuild<V> {
        Rebuild::new(self.pool.clone(), Arc::<MemoryLog>::clone(&self.log), view, watch)
    }

    /// An administrator's session.
    pub async fn admin(&self) -> Admin {
        Admin::connect(&self.cluster.superuser_url("views")).await.expect("connected")
    }

    /// Runs a statement as a superuser.
    pub async fn tamper(&self, sql: &str) {
        let mut admin = PgConnection::connect(&self.cluster.superuser_url("views")).await.expect("connected");
        sqlx::raw_sql(sql).execute(&mut admin).await.expect("done");
    }

    /// The schemas of all versions of all views, by name.
    pub async fn schemas(&self) -> Vec<String> {
        let sql = r"SELECT nspname::text FROM pg_namespace WHERE nspname LIKE 'view\_%' ORDER BY 1";
        sqlx::query_scalar(sql).fetch_all(&self.pool).await.expect("readable")
    }

    pub fn runner_over(&self, reader: Arc<dyn LogReader>) -> Runner<ContentView> {
        let clock = Arc::<SetClock>::clone(&self.clock);
        Runner::new(self.pool.clone(), reader, clock, LiveWindow::default(), ContentView)
    }

    pub fn content(&self) -> ContentNow {
        ContentNow::new(self.pool.clone(), Arc::<MemoryLog>::clone(&self.log))
    }

    /// Appends one event to the stream of `id`.
    pub async fn append(&self, id: &str, event_type: &str, data: &str) {
        append(&self.log, id, event_type, data).await;
    }
}

pub fn empty_log(clock: &Arc<SetClock>) -> Arc<MemoryLog> {
    let clock = Arc::<SetClock>::clone(clock);
    Arc::new(MemoryLog::new(clock, at("2016-01-01T00:00:00Z"), Role::Active))
}

/// The service's own pool: not a superuser.
pub fn pool(cluster: &PostgresCluster) -> PgPool {
    let url: PgConnectOptions = cluster.url("service", "views").parse().expect("a URL");
    projections::pool(url.application_name(APPLICATION), 6, &SessionLimits::default())
}

pub async fn append(log: &MemoryLog, id: &str, event_type: &str, data: &str) {
    let head = log.log_head().await.expect("readable").head.get();
    let events = vec![event(head, id, event_type, data)];
    log.append(AppendRequest { events, ..AppendRequest::default() }).await.expect("appended");
}

/// The `nth` event of a log.
pub fn event(nth: u64, id: &str, event_type: &str, data: &str) -> NewEvent {
    NewEvent {
        id: format!("{nth}-{id}"),
        source: "/test".to_owned(),
        event_type: event_type.to_owned(),
        stream: StreamName::of("content", id).expect("a name"),
        time: Some(format!("2016-02-03T04:05:06.{nth}+02:00")),
        event_version: None,
        data_schema: None,
        data_content_type: Some("application/json".to_owned()),
        extensions: Vec::new(),
        data: Data::Json(data.to_owned()),
    }
}

pub fn form(oid: &str) -> String {
    format!(r#"{{"author":"85ec80be","change":"c-{oid}","oid":"{oid}","mode":"100644","size":41}}"#)
}

/// A history of `events` events over `items` items, `hours` apart: creations, revisions, deletions, events of
/// other types and categories, and data that cannot be read.
pub struct History {
    rng: StdRng,
    items: u32,
    hours: i64,
    now: Timestamp,
}

impl History {
    pub fn new(seed: u64, start: &str, items: u32, hours: i64) -> Self {
        Self { rng: StdRng::seed_from_u64(seed), items, hours, now: at(start) }
    }

    pub async fn go_on(&mut self, log: &MemoryLog, clock: &SetClock, events: u32) {
        for _ in 0..events {
            let micros = self.now.unix_micros() + self.hours * 3_600_000_000;
            self.now = Timestamp::from_unix_micros(micros).expect("an instant");
            clock.set(self.now);
            let id = format!("dir/ünï-{}", self.rng.random_range(0..self.items));
            let oid = format!("{:08x}", self.rng.random::<u32>());
            let deletion = r#"{"author":"85ec80be","change":"d"}"#;
            match self.rng.random_range(0..100) {
                0..=29 => append(log, &id, "content.created", &form(&oid)).await,
                30..=79 => append(log, &id, "content.revised", &form(&oid)).await,
                80..=93 => append(log, &id, "content.deleted", deletion).await,
                94..=95 => append(log, &id, "content.shared", r#"{"with":"x"}"#).await,
                _ => append(log, &id, "content.revised", r#"{"oid":17}"#).await,
            }
        }
    }
}

/// The view, computed from the records' lines by rules of its own: id → row.
#[derive(Debug, Default, PartialEq)]
pub struct Model {
    pub items: BTreeMap<String, String>,
    pub stubs: BTreeMap<String, String>,
}

impl Model {
    /// What has to stand in the view as of `progress`.
    pub async fn of(log: &MemoryLog, progress: Progress) -> Self {
        let records = log.read_log(Position::FIRST, Direction::Forward, usize::MAX).await.expect("readable");
        let within = records.iter().filter(|record| progress.checkpoint.includes(record.position()));
        let lines = within.map(|record| serde_json::from_slice(&record.to_line()).expect("JSON"));
        Self::of_events(lines, progress.cutoff)
    }

    /// What has to stand in the view of a log that has these events.
    pub fn of_events(events: impl IntoIterator<Item = Value>, cutoff: Timestamp) -> Self {
        let mut streams: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for event in events {
            let subject = event["subject"].as_str().expect("text").to_owned();
            if let Some(id) = subject.strip_prefix("content-") {
                streams.entry(id.to_owned()).or_default().push(event);
            }
        }
        let mut model = Self::default();
        for (id, events) in streams {
            let Some((stub, rest, changed_at)) = row(&events) else { continue };
            if changed_at < cutoff {
                model.stubs.insert(id, stub);
            } else {
                model.items.insert(id, stub + &rest);
            }
        }
        model
    }

    /// What stands in the view.
    pub async fn read(content: &ContentNow) -> Self {
        let mut model = Self::default();
        let mut after = None;
        while let page @ [.., last] = content.items(after.as_deref(), 7).await.expect("readable").as_slice() {
            after = Some(last.stub.id.clone());
            model.items.extend(page.iter().map(|item| (item.stub.id.clone(), item_row(item))));
        }
        let mut after = None;
        while let page @ [.., last] = content.archived(after.as_deref(), 7).await.expect("readable").as_slice() {
            after = Some(last.id.clone());
            model.stubs.extend(page.iter().map(|stub| (stub.id.clone(), stub_row(stub))));
        }
        model
    }
}

/// The row of an item with this history: what its stub keeps, the rest, and when it last changed.
fn row(events: &[Value]) -> Option<(String, String, Timestamp)> {
    let text = |event: &Value, name: &str| event[name].as_str().expect("text").to_owned();
    let known = ["content.created", "content.revised", "content.deleted", "coldstream.tombstone"];
    let changes: Vec<&Value> = events.iter().filter(|event| known.contains(&&*text(event, "type"))).collect();
    let last = changes.last()?;
    let readable = |event: &Value| event["data"]["author"].is_string();
    let is = |event: &Value, event_type: &str| event["type"] == event_type && readable(event);
    let created = changes.iter().rposition(|event| is(event, "content.created"));
    let since = &changes[created.map_or(0, |at| at + 1)..];
    let revisions = since.iter().filter(|event| is(event, "content.revised")).count();
    let state = match last["type"].as_str().expect("text") {
        "coldstream.tombstone" => "closed",
        _ if !readable(last) => "unknown",
        "content.deleted" => "deleted",
        _ => "living",
    };
    let created = created.map(|at| (text(changes[at], "time"), text(changes[at], "recordedat")));
    let recorded = text(last, "recordedat");
    let stub =
        format!("{state} {created:?} {revisions} {} {} {recorded}", text(last, "version"), text(last, "position"));
    let data = |name: &str| last["data"].get(name).filter(|_| readable(last)).map(Value::to_string);
    let rest = format!(
        " {} {:?} {:?} {:?} {:?} {:?}",
        text(last, "time"),
        data("author"),
        data("change"),
        data("oid"),
        data("mode"),
        data("size")
    );
    Some((stub, rest, at(&recorded)))
}

fn stub_row(stub: &Stub) -> String {
    let created = stub.created.as_ref();
    let created = created.map(|at| (at.time.clone().expect("given"), at.recorded_at.to_string()));
    let (state, revisions) = (stub.state.as_str(), stub.revisions);
    format!("{state} {created:?} {revisions} {} {} {}", stub.version, stub.position, stub.changed_at)
}

fn item_row(item: &Item) -> String {
    let json = |text: Option<&String>| text.map(|text| Value::from(text.as_str()).to_string());
    let form = item.form.as_ref();
    format!(
        "{} {} {:?} {:?} {:?} {:?} {:?}",
        stub_row(&item.stub),
        item.changed_time.as_deref().expect("given"),
        json(item.author.as_ref()),
        json(item.change.as_ref()),
        json(form.map(|form| &form.oid)),
        json(form.map(|form| &form.mode)),
        form.map(|form| form.size.to_string())
    )
}

/// The view stands in the database exactly as the model says, as of its own checkpoint and cutoff (PRJ-1).
pub async fn is_the_fold(rig: &Rig) -> Progress {
    let mut before = rig.runner().progress().await.expect("readable");
    loop {
        let found = Model::read(&rig.content()).await;
        let after = rig.runner().progress().await.expect("readable");
        if before == after {
            assert_eq!(found, Model::of(&rig.log, before).await, "as of {before:?}");
            return before;
        }
        // It moved between the pages: a runner that was cut off in COMMIT may have committed.
        before = after;
    }
}
