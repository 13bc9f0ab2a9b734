//! SEC-1, in the database: nobody's database role can update or delete an event, and the service can do nothing but
//! what it is for. (Tokens on every request are tested with the API.)

mod log_common;

use std::sync::{Arc, Mutex};

use domain::log::EventLog;
use domain::merkle::Hash;
use event_log::{Admin, EventLogError, PgConfig, PgLog, ServiceLogin, TokenLimits, TokenState};
use log_common::{Rig, SERVICE, is_sound, new_log, recorded, request};
use ops::clock::SystemClock;
use sqlx::{Connection, Executor, PgConnection};
use system_tests::administrators::slowed;

/// Runs a statement that must be refused, and gives the reason.
async fn refused(session: &mut PgConnection, statement: &str) -> String {
    match session.execute(statement).await {
        Ok(_) => panic!("was allowed: {statement}"),
        Err(error) => error.to_string(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_changes_an_event_not_even_a_superuser() {
    let rig = Rig::start().await;
    let database = rig.database(new_log()).await;
    let log = database.open().await;
    for (id, month) in [("1", "2020-01"), ("2", "2020-02")] {
        let instant = format!("{month}-01T00:00:00Z");
        log.append(recorded(&instant, request(&[("a-1", id)], &[]))).await.expect("acknowledged");
    }
    let mut superuser = database.superuser().await;
    let mut replica = database.superuser().await;
    replica.execute("SET session_replication_role = replica").await.expect("a superuser may");
    let mut owner = database.superuser().await;
    owner.execute("SET ROLE coldstream_owner").await.expect("a superuser may");
    let mut service = database.service().await;
    for table in ["events", "events_2020_01", "events_2020_02"] {
        for statement in [
            format!("UPDATE coldstream.{table} SET payload = '1'"),
            format!("UPDATE coldstream.{table} SET recorded_at = recorded_at + interval '1 month'"),
            format!("DELETE FROM coldstream.{table}"),
            format!("TRUNCATE coldstream.{table}"),
        ] {
            for session in [&mut superuser, &mut replica, &mut owner] {
                let reason = refused(session, &statement).await;
                assert!(reason.contains("SEC-1"), "{statement}: {reason}");
            }
            assert!(refused(&mut service, &statement).await.contains("permission denied"), "{statement}");
        }
    }
    assert_eq!(is_sound(&database).await.get(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_can_do_only_what_it_is_for() {
    let rig = Rig::start().await;
    let database = rig.database(new_log()).await;
    let log = database.open().await;
    log.append(recorded("2020-01-01T00:00:00Z", request(&[("a-1", "1")], &[]))).await.expect("acknowledged");
    let mut service = database.service().await;
    for statement in [
        "DROP TABLE coldstream.events_2020_01",
        "ALTER TABLE coldstream.events DETACH PARTITION coldstream.events_2020_01",
        "ALTER TABLE coldstream.events DISABLE TRIGGER an_event_is_never_changed",
        "CREATE TABLE coldstream.mine ()",
        "CREATE SCHEMA mine",
        "SET ROLE coldstream_owner",
        "SET session_replication_role = replica",
        "DELETE FROM coldstream.streams",
        "UPDATE coldstream.streams SET first_position = 1",
        "DELETE FROM coldstream.event_ids",
        "DELETE FROM coldstream.event_tags",
        "UPDATE coldstream.event_tags SET position = 1",
        "DELETE FROM coldstream.type_heads",
        "UPDATE coldstream.tags_state SET since = 0",
        "DELETE FROM coldstream.log_head",
        "UPDATE coldstream.log_head SET pruned = 1",
        "UPDATE coldstream.log_head SET copies = 1",
        "UPDATE coldstream.log_head SET window_months = 1",
        "UPDATE coldstream.log_head SET log_id = 'mine'",
        "DELETE FROM coldstream.partitions",
        "UPDATE coldstream.partitions SET detached = true",
        "DELETE FROM coldstream.tokens",
        "UPDATE coldstream.tokens SET role = 'operator'",
        "UPDATE coldstream.tokens SET categories = NULL",
        "UPDATE coldstream.tokens SET expires_at = NULL",
        "UPDATE coldstream.tokens SET requests_per_second = 0",
        "DELETE FROM coldstream.consumers",
        "UPDATE coldstream.consumer_groups SET name = 'mine'",
        "UPDATE coldstream.consumer_groups SET categories = '{}'",
        "UPDATE coldstream.consumer_groups SET attempts_max = 1",
        "TRUNCATE coldstream.group_events",
        "UPDATE coldstream.group_events SET position = 1",
        "UPDATE coldstream.group_events SET category = 'mine'",
        "SELECT setval('coldstream.group_leases', 1)",
        "DELETE FROM coldstream.segments",
        "DELETE FROM coldstream.last_manifest",
        "UPDATE coldstream.migrations SET version = 0",
        "SELECT coldstream.prune_doubt(1, 1)",
    ] {
        let reason = refused(&mut service, statement).await;
        assert!(["permission denied", "must be owner"].iter().any(|no| reason.contains(no)), "{statement}: {reason}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_s_functions_cannot_be_led_to_other_tables() {
    let rig = Rig::start().await;
    let database = rig.database(new_log()).await;
    let mut admin = database.superuser().await;
    let unfixed = "SELECT count(*) FROM pg_proc WHERE pronamespace = 'coldstream'::regnamespace AND prosecdef
        AND NOT coalesce('search_path=pg_catalog, pg_temp' = ANY (proconfig), false)";
    let unfixed: i64 = sqlx::query_scalar(unfixed).fetch_one(&mut admin).await.expect("a count");
    assert_eq!(unfixed, 0, "each function that runs as the owner has a fixed search path");
    let public = "SELECT count(*) FROM pg_proc WHERE pronamespace = 'coldstream'::regnamespace
        AND has_function_privilege('public', oid, 'EXECUTE')";
    let public: i64 = sqlx::query_scalar(public).fetch_one(&mut admin).await.expect("a count");
    assert_eq!(public, 0, "and none is anybody's");
    admin.execute("CREATE ROLE stranger LOGIN").await.expect("a role");
    let mut stranger = admin;
    stranger.execute("SET ROLE stranger").await.expect("a superuser may");
    assert!(refused(&mut stranger, "SELECT * FROM coldstream.events").await.contains("permission denied"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_refuses_to_run_as_somebody_who_could_change_events() {
    let rig = Rig::start().await;
    let database = rig.database(new_log()).await;
    let unsafe_at = |url: &str| {
        let config = PgConfig::at(url);
        async move {
            match PgLog::connect(config, Arc::new(SystemClock)).await {
                Err(EventLogError::Unsafe { reason }) => reason,
                Err(error) => panic!("{error}"),
                Ok(_) => panic!("it runs"),
            }
        }
    };
    assert!(unsafe_at(&database.admin_url).await.contains("superuser"));
    database.run("CREATE ROLE mighty LOGIN IN ROLE coldstream_owner, coldstream_service").await;
    let mighty = rig.cluster.url("mighty", &database.name);
    assert!(unsafe_at(&mighty).await.contains("coldstream_owner"));
    for (name, power) in [
        ("maker", "CREATEROLE"),
        ("runner", "IN ROLE pg_execute_server_program"),
        ("writer", "IN ROLE pg_write_server_files"),
        ("editor", "IN ROLE pg_write_all_data"),
    ] {
        database.run(&format!("CREATE ROLE {name} LOGIN {power}; GRANT coldstream_service TO {name}")).await;
        let reason = unsafe_at(&rig.cluster.url(name, &database.name)).await;
        let word = power.rsplit(' ').next().expect("a word");
        assert!(reason.contains(word) && reason.contains("log.allow_superuser"), "{reason}");
    }
    database
        .run("CREATE ROLE granted LOGIN IN ROLE coldstream_service; GRANT UPDATE ON coldstream.events TO granted")
        .await;
    assert!(unsafe_at(&rig.cluster.url("granted", &database.name)).await.contains("coldstream.events"));
    let asked_for = PgConfig { allow_superuser: true, ..PgConfig::at(&database.admin_url) };
    assert!(PgLog::connect(asked_for, Arc::new(SystemClock)).await.is_ok(), "only where it is asked for by name");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_refuses_a_server_that_would_lose_what_it_acknowledges() {
    let rig = Rig::start_with(&[("fsync", "off")]).await;
    let database = rig.database(new_log()).await;
    let opened = PgLog::connect(PgConfig::at(&database.url), Arc::new(SystemClock)).await;
    let Err(EventLogError::Unsafe { reason }) = opened else { panic!("it runs with fsync off") };
    assert!(reason.contains("fsync"), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_is_flushed_even_where_the_database_would_not_wait() {
    let rig = Rig::start().await;
    let database = rig.database(new_log()).await;
    database.run(&format!("ALTER ROLE {SERVICE} SET synchronous_commit = off")).await;
    let log = database.open().await;
    log.append(request(&[("a-1", "1")], &[])).await.expect("acknowledged");
    rig.cluster.kill().await.expect("killed at once");
    rig.cluster.start().await.expect("started again");
    assert_eq!(is_sound(&database).await.get(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_without_a_log_or_with_another_schema_is_refused() {
    let rig = Rig::start().await;
    rig.cluster.create_database("bare").await.expect("a database");
    let opened = PgLog::connect(PgConfig::at(&rig.cluster.url(SERVICE, "bare")), Arc::new(SystemClock)).await;
    assert!(matches!(opened.err(), Some(EventLogError::NotInitialised)));
    let database = rig.database(new_log()).await;
    let last = "version = (SELECT max(version) FROM coldstream.migrations)";
    database.run(&format!("DELETE FROM coldstream.migrations WHERE {last}")).await;
    let opened = PgLog::connect(PgConfig::at(&database.url), Arc::new(SystemClock)).await;
    let Some(EventLogError::WrongSchema { found, needed, .. }) = opened.err() else {
        panic!("a schema that is too old")
    };
    assert_eq!(found + 1, needed);
    database.run("UPDATE coldstream.migrations SET sha256 = sha256('other') WHERE version = 1").await;
    let opened = PgLog::connect(PgConfig::at(&database.url), Arc::new(SystemClock)).await;
    assert!(matches!(opened.err(), Some(EventLogError::MigrationChanged { version: 1 })));
    let mut admin = event_log::Admin::connect(&rig.database(new_log()).await.admin_url).await.expect("connected");
    let same = new_log();
    assert!(!admin.create_log(&same).await.expect("it is there"), "creating it again changes nothing");
    let other = event_log::NewLog { log_id: "another".into(), ..new_log() };
    assert!(matches!(admin.create_log(&other).await, Err(EventLogError::OtherLog { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_kept_as_its_hash_and_opens_nothing_once_revoked() {
    let rig = Rig::start().await;
    let database = rig.database(new_log()).await;
    let log = database.open().await;
    let (hash, other) = (Hash::of(b"secret"), Hash::of(b"other"));
    let all = TokenLimits::default();
    log.create_token("importer", &hash, "appender", &all).await.expect("created");
    let twice = log.create_token("importer", &other, "operator", &all).await.expect_err("the name is taken");
    assert!(matches!(twice, EventLogError::Refused { .. }), "{twice}");
    let found = log.find_token(&hash).await.expect("readable").expect("known");
    assert_eq!((found.id.as_str(), found.role.as_str(), found.state), ("importer", "appender", TokenState::Valid));
    assert_eq!((found.limits, found.last_used_at), (all, None));
    assert_eq!(log.find_token(&other).await.expect("readable"), None);
    log.token_used("importer").await.expect("noted");
    assert!(log.revoke_token("importer").await.expect("revoked"));
    assert!(!log.revoke_token("nobody").await.expect("there is none"));
    let found = log.find_token(&hash).await.expect("readable").expect("known");
    assert_eq!(found.state, TokenState::Revoked);
    let listed = log.tokens().await.expect("readable");
    assert!(listed.len() == 1 && listed[0].revoked_at.is_some() && listed[0].last_used_at.is_some());
    let mut service = database.service().await;
    let reason = refused(&mut service, "UPDATE coldstream.tokens SET revoked_at = NULL").await;
    assert!(reason.contains("never goes back"), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_opens_until_it_expires_and_only_appenders_and_readers_have_categories() {
    let rig = Rig::start().await;
    let database = rig.database(new_log()).await;
    let log = database.open().await;
    let instant = |text: &str| domain::Timestamp::parse_rfc3339(text).expect("an instant");
    let until = |end: &str| TokenLimits { expires_at: Some(instant(end)), ..TokenLimits::default() };
    for (name, end, state) in
        [("old", "2020-01-01T00:00:00Z", TokenState::Expired), ("new", "9999-01-01T00:00:00Z", TokenState::Valid)]
    {
        let hash = Hash::of(name.as_bytes());
        log.create_token(name, &hash, "reader", &until(end)).await.expect("created");
        let found = log.find_token(&hash).await.expect("readable").expect("known");
        assert_eq!((found.state, found.limits), (state, until(end)), "{name}");
    }
    let limited = TokenLimits {
        categories: Some(vec!["order".to_owned()]),
        requests_per_second: Some(5),
        append_bytes_per_second: Some(0),
        ..TokenLimits::default()
    };
    for (role, may) in [("appender", true), ("reader", true), ("operator", false), ("auditor", false)] {
        let hash = Hash::of(role.as_bytes());
        assert_eq!(log.create_token(role, &hash, role, &limited).await.is_ok(), may, "{role}");
        let found = log.find_token(&hash).await.expect("readable");
        assert_eq!(found.map(|token| token.limits), may.then(|| limited.clone()), "{role}");
    }
    let nothing = TokenLimits { categories: Some(Vec::new()), ..TokenLimits::default() };
    assert!(log.create_token("none", &Hash::of(b"none"), "reader", &nothing).await.is_err(), "none is not all");
}

/// What a test's thread has logged.
#[derive(Clone, Default)]
struct Logged(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Logged {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("not poisoned").write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_services_password_is_in_no_log_at_whatever_level_and_lets_it_in() {
    const PASSWORD: &str = "hush-database-password";
    // The server logs whatever it is sent, and would keep a password as MD5.
    let rig = Rig::start_with(&[("log_statement", "all"), ("password_encryption", "md5")]).await;
    let database = rig.database(new_log()).await;
    let logged = Logged::default();
    let writer = logged.clone();
    let everything =
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(move || writer.clone());
    let logging = tracing::subscriber::set_default(everything.finish());
    let mut admin = Admin::connect(&database.admin_url).await.expect("connected");
    let login = ServiceLogin { name: SERVICE.into(), password: Some(PASSWORD.into()) };
    slowed(&database.admin_url, SERVICE, admin.prepare(&login)).await.expect("prepared");
    drop(logging);

    let own = String::from_utf8(logged.0.lock().expect("not poisoned").clone()).expect("text");
    assert!(own.contains("CONNECTION LIMIT"), "the driver logs what it is not told to keep to itself");
    let servers = std::fs::read_to_string(rig.cluster.log_file()).expect("the server's log");
    assert!(servers.contains("LOGIN PASSWORD 'SCRAM-SHA-256$4096:"), "it logs all statements");
    for log in [own, servers] {
        assert_eq!(log.lines().find(|line| line.contains(PASSWORD)), None);
    }

    let hba = format!("host all {SERVICE} 127.0.0.1/32 md5\nhost all all 127.0.0.1/32 trust\n");
    std::fs::write(rig.cluster.data_folder().join("pg_hba.conf"), hba).expect("written");
    database.run("SELECT pg_reload_conf()").await;
    let with = |password: &str| database.url.replacen('@', &format!(":{password}@"), 1);
    while PgConnection::connect(&with("another")).await.is_ok() {}
    PgConnection::connect(&with(PASSWORD)).await.expect("it is let in");
}
