//! What the tests of the log share: a private cluster with databases made from one template, logs in them, and checks
//! that look at the rows themselves.

#![allow(dead_code, reason = "each test file uses its part")]

pub(crate) mod proxy;
pub(crate) mod pruning;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use domain::append::{AppendError, AppendRequest, Appended, Expectation, ExpectedVersion, Role};
use domain::archive::catalog::Copies;
use domain::event::{Data, NewEvent};
use domain::log::{Direction, LogReader};
use domain::record::Record;
use domain::window::LiveWindow;
use domain::{Epoch, Head, Position, StreamName, StreamVersion, Timestamp};
use event_log::{Admin, NewLog, PgConfig, PgLog, ServiceLogin};
use ops::clock::SystemClock;
use ops::dev::postgres::{PostgresCluster, PostgresOptions};
use sqlx::{Connection, Executor, PgConnection, Row};
use uuid::Uuid;

/// The role that the service logs in as.
pub(crate) const SERVICE: &str = "coldstream_app";
const TEMPLATE: &str = "log_template";

pub(crate) fn at(text: &str) -> Timestamp {
    Timestamp::parse_rfc3339(text).expect("an instant")
}

pub(crate) fn name(text: &str) -> StreamName {
    StreamName::parse(text).expect("a stream's name")
}

pub(crate) fn position(number: u64) -> Position {
    Position::new(number).expect("from 1")
}

pub(crate) fn version(number: u64) -> StreamVersion {
    StreamVersion::new(number).expect("from 1")
}

/// A cluster that makes empty logs fast.
pub(crate) struct Rig {
    pub(crate) cluster: PostgresCluster,
    made: AtomicU32,
}

/// A database with a log.
pub(crate) struct Database {
    pub(crate) name: String,
    /// As the service.
    pub(crate) url: String,
    /// As the superuser.
    pub(crate) admin_url: String,
}

/// How a log is created unless a test says otherwise.
pub(crate) fn new_log() -> NewLog {
    NewLog {
        log_id: "log-under-test".into(),
        incarnation: Uuid::from_u128(system_tests::chance::random()),
        role: Role::Active,
        epoch: Epoch::FIRST,
        earliest: at("0001-01-01T00:00:00Z"),
        window: LiveWindow::default(),
        copies: Copies::Two,
        simulated_now: None,
    }
}

/// The same with simulated time.
pub(crate) fn new_simulated(now: &str) -> NewLog {
    NewLog { simulated_now: Some(at(now)), ..new_log() }
}

impl Rig {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    pub(crate) async fn start_with(settings: &[(&str, &str)]) -> Self {
        let settings = settings.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let options = PostgresOptions { settings, ..PostgresOptions::default() };
        let cluster = PostgresCluster::launch(options).await.expect("a cluster");
        cluster.create_database(TEMPLATE).await.expect("a database");
        prepare(&cluster.superuser_url(TEMPLATE)).await;
        Self { cluster, made: AtomicU32::new(0) }
    }

    /// A database with an empty log.
    pub(crate) async fn database(&self, log: NewLog) -> Database {
        let name = format!("log_{}", self.made.fetch_add(1, Ordering::Relaxed));
        let mut admin = PgConnection::connect(&self.cluster.superuser_url("postgres")).await.expect("connected");
        let create = format!("CREATE DATABASE {name} TEMPLATE {TEMPLATE}");
        admin.execute(create.as_str()).await.expect("a database");
        let admin_url = self.cluster.superuser_url(&name);
        let mut admin = Admin::connect(&admin_url).await.expect("connected");
        assert!(admin.create_log(&log).await.expect("a log"));
        Database { url: self.cluster.url(SERVICE, &name), name, admin_url }
    }

    /// An empty log in a database of its own.
    pub(crate) async fn log(&self, log: NewLog) -> PgLog {
        self.database(log).await.open().await
    }
}

/// Roles, schema and migrations.
pub(crate) async fn prepare(admin_url: &str) {
    let mut admin = Admin::connect(admin_url).await.expect("connected");
    let login = ServiceLogin { name: SERVICE.into(), password: None };
    assert!(!admin.prepare(&login).await.expect("prepared").is_empty());
    assert!(admin.prepare(&login).await.expect("prepared again").is_empty());
}

impl Database {
    pub(crate) async fn open(&self) -> PgLog {
        self.open_at(&self.url).await
    }

    pub(crate) async fn open_at(&self, url: &str) -> PgLog {
        PgLog::connect(PgConfig::at(url), Arc::new(SystemClock)).await.expect("the log opens")
    }

    pub(crate) async fn superuser(&self) -> PgConnection {
        PgConnection::connect(&self.admin_url).await.expect("connected")
    }

    pub(crate) async fn service(&self) -> PgConnection {
        PgConnection::connect(&self.url).await.expect("connected")
    }

    pub(crate) async fn run(&self, statement: &str) {
        self.superuser().await.execute(statement).await.expect("runs");
    }
}

pub(crate) fn event(stream: &str, id: &str) -> NewEvent {
    NewEvent {
        id: id.into(),
        source: "/tests".into(),
        event_type: "thing.happened".into(),
        stream: name(stream),
        time: None,
        event_version: None,
        data_schema: None,
        data_content_type: Some("application/json".into()),
        extensions: Vec::new(),
        data: Data::Json(format!(r#"{{"id":"{id}","number":1.0}}"#)),
    }
}

pub(crate) fn request(events: &[(&str, &str)], expect: &[(&str, ExpectedVersion)]) -> AppendRequest {
    AppendRequest {
        events: events.iter().map(|(stream, id)| event(stream, id)).collect(),
        expect: expect
            .iter()
            .map(|(stream, version)| Expectation { stream: name(stream), version: *version })
            .collect(),
        ..AppendRequest::default()
    }
}

/// The request recorded at a given instant, as an import does.
pub(crate) fn recorded(at_text: &str, request: AppendRequest) -> AppendRequest {
    AppendRequest { recorded_at: Some(at(at_text)), ..request }
}

pub(crate) fn places(appended: &Appended) -> Vec<(u64, u64)> {
    appended.events.iter().map(|event| (event.position.get(), event.version.get())).collect()
}

pub(crate) fn is_unavailable(error: &AppendError) -> bool {
    matches!(error, AppendError::Unavailable { .. })
}

/// All records from position 1 on, read in pages.
pub(crate) async fn all(log: &dyn LogReader) -> Vec<Record> {
    let mut records: Vec<Record> = Vec::new();
    loop {
        let next = records.last().map_or(Position::FIRST, |record| record.position().next());
        let page = log.read_log(next, Direction::Forward, 1000).await.expect("readable");
        if page.is_empty() {
            return records;
        }
        records.extend(page);
    }
}

/// LOG-2, LOG-3 and LOG-4 on the rows themselves: dense positions and versions, back links, instants that never go
/// back, each id once, and head rows that agree with all of it. Returns the head.
pub(crate) async fn is_sound(database: &Database) -> Head {
    let mut admin = database.superuser().await;
    let row = admin.fetch_one(include_str!("soundness.sql")).await.expect("readable");
    let count = |column: &str| row.try_get::<i64, _>(column).expect("a count");
    for fault in [
        "positions_missing",
        "versions_missing",
        "back_links_wrong",
        "went_back",
        "ids_twice",
        "ids_missing",
        "heads_wrong",
        "partitions_wrong",
        "tags_wrong",
        "types_wrong",
    ] {
        assert_eq!(count(fault), 0, "{fault}");
    }
    assert_eq!(count("newest"), count("head"), "the head is the newest position");
    Head::from_i64(count("head")).expect("not negative")
}
