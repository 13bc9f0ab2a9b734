//! What the log says of its server before anything goes wrong, what an administrator can look at without changing it,
//! and LOG-1 on a disk that is really full, be it that of the tables or that of the WAL.

mod log_common;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use domain::ErrorKind;
use domain::append::AppendRequest;
use domain::event::Data;
use domain::log::{EventLog, LogReader};
use event_log::{Admin, EventLogError, Missing, PgConfig, PgLog, ServiceLogin};
use log_common::proxy::Proxy;
use log_common::{Rig, SERVICE, is_sound, new_log, request};
use ops::clock::SystemClock;
use ops::dev::postgres::{PostgresCluster, PostgresOptions};
use serde_json::{Value, json};
use sqlx::{Connection, Executor, PgConnection};
use system_tests::binary;
use system_tests::regions::until;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_that_could_be_better_are_advice_and_keep_nobody_from_serving() {
    let good =
        [("idle_in_transaction_session_timeout", "5min"), ("lock_timeout", "5s"), ("statement_timeout", "10min")];
    let rig = Rig::start_with(&good).await;
    let database = rig.database(new_log()).await;
    let advised = async || {
        let log = database.open().await;
        let advice = log.advice(4).await.expect("looked");
        log.shut_down().await;
        let said = advice.into_iter().map(|advice| (advice.setting, advice.value));
        // Whether pages have checksums is the choice of who made the cluster, and of PostgreSQL's version.
        said.filter(|(setting, _)| *setting != "data_checksums").collect::<Vec<_>>()
    };
    let named = |names: &[(&'static str, &str)]| {
        names.iter().map(|(setting, value)| (*setting, (*value).to_owned())).collect::<Vec<_>>()
    };
    assert_eq!(advised().await, named(&[("max_wal_size", "1024 MB")]));
    for setting in ["synchronous_commit = 'off'", "lock_timeout = 0", "statement_timeout = 0"] {
        database.run(&format!("ALTER ROLE {SERVICE} SET {setting}")).await;
    }
    database.run(&format!("ALTER ROLE {SERVICE} CONNECTION LIMIT 14")).await;
    database.run("ALTER SYSTEM SET full_page_writes = off").await;
    database.run("SELECT pg_reload_conf()").await;
    let torn = async || advised().await.iter().any(|(setting, _)| *setting == "full_page_writes").then_some(());
    until("the server has read its settings", torn).await;
    let more = [
        ("full_page_writes", "off"),
        ("max_wal_size", "1024 MB"),
        ("synchronous_commit", "off"),
        ("lock_timeout", "0"),
        ("statement_timeout", "0"),
        ("max_connections", "14"),
    ];
    assert_eq!(
        advised().await,
        named(&more),
        "as a session has it that sets nothing; the log's own set what they need"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_that_drops_what_a_session_sets_is_refused_and_lost_commits_with_it() {
    let rig = Rig::start().await;
    let database = rig.database(new_log()).await;
    let proxy = Proxy::start(rig.cluster.port()).await;
    let connect = async || PgLog::connect(PgConfig::at(&proxy.url(&database.url)), Arc::new(SystemClock)).await;
    let log = connect().await.expect("a proxy that changes nothing");
    log.append(large(1)).await.expect("appended");
    log.shut_down().await;
    database.run(&format!("ALTER ROLE {SERVICE} SET synchronous_commit = 'off'")).await;
    connect().await.expect("sessions set their own").shut_down().await;
    proxy.drop_options();
    let refused = connect().await.err().expect("it is refused");
    assert!(
        matches!(&refused, EventLogError::Unsafe { reason } if reason.contains("pooler")),
        "its answers would be lost in a crash: {refused}"
    );
}

/// `coldstream db init --dry-run`, as an administrator of `url`.
fn dry_run(url: &str, log: &str) -> Output {
    let words = ["--json", "db", "init", "--dry-run", "--service-role", SERVICE, "--log-id", log];
    Command::new(binary()).args(words).env("COLDSTREAM_ADMIN_URL", url).output().expect("it runs")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_says_what_is_missing_and_changes_nothing() {
    let rig = Rig::start().await;
    rig.cluster.create_database("bare").await.expect("a database");
    let bare = rig.cluster.superuser_url("bare");
    let mut admin = Admin::connect(&bare).await.expect("connected");
    let found = admin.missing("nobody-yet").await.expect("looked");
    assert_eq!((found.roles.as_slice(), found.log), (&["nobody-yet".to_owned()][..], None));
    assert_eq!(found.migrations.first(), Some(&"log"));
    let said = dry_run(&bare, "log-under-test");
    let said: Value = serde_json::from_slice(&said.stdout).expect("JSON");
    assert_eq!(
        (&said["roles"], &said["migrations"], &said["log"]),
        (&json!([]), &json!(found.migrations), &json!(null))
    );
    assert_eq!(said["view_migrations"][0], "progress");
    let mut connection = PgConnection::connect(&bare).await.expect("connected");
    let schemas = "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'coldstream%' OR nspname LIKE 'view%'";
    assert_eq!(sqlx::query_scalar::<_, i64>(schemas).fetch_one(&mut connection).await.expect("counted"), 0);

    let database = rig.database(new_log()).await;
    let mut admin = Admin::connect(&database.admin_url).await.expect("connected");
    admin.prepare(&ServiceLogin { name: SERVICE.into(), password: None }).await.expect("prepared");
    projections::migrate(admin.as_owner().await.expect("the owner")).await.expect("the views");
    let last = "DELETE FROM coldstream.migrations WHERE version = (SELECT max(version) FROM coldstream.migrations)";
    database.run(last).await;
    let mut admin = Admin::connect(&database.admin_url).await.expect("connected");
    let before = admin.missing(SERVICE).await.expect("looked");
    let newest = found.migrations.last().copied().expect("some");
    let log = Some("log-under-test".to_owned());
    assert_eq!(before, Missing { roles: Vec::new(), migrations: vec![newest], log });
    assert_eq!(admin.missing(SERVICE).await.expect("looked again"), before);
    database.run("DELETE FROM projections.migrations WHERE number = 3").await;
    let said: Value = serde_json::from_slice(&dry_run(&database.admin_url, "log-under-test").stdout).expect("JSON");
    assert_eq!((&said["migrations"], &said["view_migrations"]), (&json!([newest]), &json!(["rebuild beside"])));
    let other = dry_run(&database.admin_url, "another");
    assert_eq!(other.status.code(), Some(1), "db init would refuse it too");
    database.run("UPDATE coldstream.migrations SET sha256 = sha256('other') WHERE version = 1").await;
    assert!(admin.missing(SERVICE).await.is_err(), "an upgrade would be refused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn administrators_who_prepare_a_database_at_once_wait_for_each_other() {
    let rig = Rig::start().await;
    rig.cluster.create_database("bare").await.expect("a database");
    let bare = rig.cluster.superuser_url("bare");
    // The first round makes everything, the others find it.
    for _ in 0..5 {
        let prepared = (0..4).map(|_| async {
            let mut admin = Admin::connect(&bare).await.expect("connected");
            admin.prepare(&ServiceLogin { name: SERVICE.into(), password: None }).await
        });
        for prepared in futures::future::join_all(prepared).await {
            prepared.expect("prepared");
        }
    }
}

/// As managed databases have it: the administrator owns the database and may create roles, and is no superuser.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_administrator_who_is_no_superuser_prepares_a_database_and_migrates_it_again() {
    let cluster = PostgresCluster::launch(PostgresOptions::default()).await.expect("a cluster");
    let mut superuser = PgConnection::connect(&cluster.superuser_url("postgres")).await.expect("connected");
    for statement in ["CREATE ROLE keeper LOGIN CREATEROLE", "CREATE DATABASE managed OWNER keeper"] {
        superuser.execute(statement).await.expect("done");
    }
    let mut admin = Admin::connect(&cluster.url("keeper", "managed")).await.expect("connected");
    for _first_and_again in 0..2 {
        admin.prepare(&ServiceLogin { name: SERVICE.into(), password: None }).await.expect("prepared");
        projections::migrate(admin.as_owner().await.expect("the owner")).await.expect("the views");
        admin.create_log(&new_log()).await.expect("the log");
    }
    let log = PgLog::connect(PgConfig::at(&cluster.url(SERVICE, "managed")), Arc::new(SystemClock)).await;
    log.expect("the service serves").append(large(1)).await.expect("appended");
}

/// A small disk of its own, for as long as this lives.
struct Disk(PathBuf);

impl Disk {
    /// A file system of so many MiB in memory, in the server's own folder; `None` where this user may mount none.
    fn mount(beside: &Path, mib: u32) -> Option<Self> {
        let owner = fs::metadata(beside).expect("a folder");
        let folder = beside.with_file_name("disk");
        fs::create_dir(&folder).expect("made");
        let options = format!("size={mib}m,mode=0700,uid={},gid={}", owner.uid(), owner.gid());
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&folder).output();
        mounted.is_ok_and(|mounted| mounted.status.success()).then_some(Self(folder))
    }

    /// Takes all that is free.
    fn fill(&self) -> PathBuf {
        let file = self.0.join("filler");
        let filled = fs::write(&file, vec![7; 128 << 20]).expect_err("more than there is");
        assert_eq!(filled.kind(), std::io::ErrorKind::StorageFull);
        file
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a server that is still at it must not keep it mounted.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A request of one event of some KiB.
fn large(number: usize) -> AppendRequest {
    let mut request = request(&[("thing-1", &number.to_string())], &[]);
    request.events[0].data = Data::Json(format!("{:?}", "x".repeat(4000)));
    request
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_makes_appends_unavailable_with_the_reason_and_no_longer_than_it_is_full() {
    let rig = Rig::start().await;
    let Some(disk) = Disk::mount(rig.cluster.data_folder(), 32) else {
        println!("skipped: this user may not mount a file system");
        return;
    };
    let database = rig.database(new_log()).await;
    let mut admin = PgConnection::connect(&rig.cluster.superuser_url("postgres")).await.expect("connected");
    let tablespace = format!("CREATE TABLESPACE small LOCATION '{}'", disk.0.display());
    admin.execute(tablespace.as_str()).await.expect("made");
    admin.execute(format!("ALTER DATABASE {} SET TABLESPACE small", database.name).as_str()).await.expect("moved");
    let log = database.open().await;
    log.append(large(0)).await.expect("acknowledged");

    let filler = disk.fill();
    let mut stored = 1;
    // What its pages have room for is stored.
    let refused = loop {
        match log.append(large(stored)).await {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(refused.kind(), ErrorKind::Unavailable);
    assert!(refused.to_string().contains("No space left on device"), "{refused}");
    assert_eq!(log.log_head().await.expect("reads go on").head.get(), u64::try_from(stored).expect("few"));
    fs::remove_file(filler).expect("removed");
    for number in stored..stored + 20 {
        log.append(large(number)).await.expect("acknowledged, and nothing was started again");
    }
    assert_eq!(is_sound(&database).await.get(), u64::try_from(stored + 20).expect("few"));
    log.shut_down().await;
    rig.cluster.stop().await.expect("stopped");
}

/// A request of one event of about 100 kB that no compression makes smaller.
fn huge(number: usize) -> AppendRequest {
    let mut request = request(&[("thing-1", &number.to_string())], &[]);
    let digits: String = (0..3000).map(|_| format!("{:032x}", system_tests::chance::random::<u128>())).collect();
    request.events[0].data = Data::Json(format!("{digits:?}"));
    request
}

/// PostgreSQL panics then, and may not come back by itself: what was acknowledged is durable, what was not is said to be open, and the
/// log goes on when the operator has made room and started the server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_full_of_wal_takes_nothing_back_and_the_log_goes_on_when_there_is_room() {
    let rig = Rig::start().await;
    let Some(disk) = Disk::mount(rig.cluster.data_folder(), 112) else {
        println!("skipped: this user may not mount a file system");
        return;
    };
    let database = rig.database(new_log()).await;
    rig.cluster.stop().await.expect("stopped");
    let (wal, moved) = (rig.cluster.data_folder().join("pg_wal"), disk.0.join("wal"));
    let copied = Command::new("cp").arg("-a").args([&wal, &moved]).status().expect("cp runs");
    assert!(copied.success(), "the WAL fits");
    fs::remove_dir_all(&wal).expect("removed");
    std::os::unix::fs::symlink(&moved, &wal).expect("linked");
    rig.cluster.start().await.expect("started");
    let log = database.open().await;

    let filler = disk.fill();
    let mut stored = 0;
    let (open, error) = loop {
        let request = huge(stored);
        match log.append(request.clone()).await {
            Ok(_) => stored += 1,
            Err(error) => break (request, error),
        }
    };
    assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Indeterminate), "{error}");
    let said = fs::read_to_string(rig.cluster.log_file()).expect("readable");
    assert!(said.contains("pg_wal") && said.contains("No space left on device"), "{said}");

    fs::remove_file(filler).expect("removed");
    rig.cluster.kill().await.expect("whatever is left of it");
    rig.cluster.start().await.expect("started");
    let again = until("the log goes on", async || log.append(open.clone()).await.ok()).await;
    assert_eq!(
        usize::try_from(again.events[0].position.get()).expect("few"),
        stored + 1,
        "after all that was acknowledged"
    );
    for number in stored + 1..stored + 20 {
        log.append(huge(number)).await.expect("acknowledged, and nothing of ours was started again");
    }
    assert_eq!(is_sound(&database).await.get(), u64::try_from(stored + 20).expect("few"));
    println!("{stored} events were acknowledged before the disk was full, and the next one was: {error}");
    log.shut_down().await;
    rig.cluster.stop().await.expect("stopped");
}
