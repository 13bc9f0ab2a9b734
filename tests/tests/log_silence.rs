//! LOG-1 where somebody is gone without a word. The database's machine, or the network to it: connections stay open and
//! nothing comes through them; whoever waits is told, and once the database can be reached again everything goes on without a
//! restart. The standby that a commit waits for: nothing is acknowledged that it has not. And the appender's own task.

mod log_common;

use std::sync::Arc;

use async_trait::async_trait;
use domain::log::{EventLog, LogReader};
use domain::{Clock, ClockError, ErrorKind, Head, Timestamp};
use event_log::{PgConfig, PgLog};
use log_common::proxy::Proxy;
use log_common::{Database, Rig, new_log, places, request};
use sqlx::{Connection, Executor, PgConnection};

/// A log whose database is behind a proxy.
struct Behind {
    database: Database,
    proxy: Proxy,
    log: Arc<PgLog>,
    _rig: Rig,
}

impl Behind {
    async fn start() -> Self {
        let rig = Rig::start().await;
        let database = rig.database(new_log()).await;
        let proxy = Proxy::start(rig.cluster.port()).await;
        let log = Arc::new(database.open_at(&proxy.url(&database.url)).await);
        Self { database, proxy, log, _rig: rig }
    }
}

/// A session that holds the head's table: whoever asks for the head waits.
async fn holding(database: &Database) -> PgConnection {
    let mut session = PgConnection::connect(&database.admin_url).await.expect("connected");
    session.execute("BEGIN; LOCK TABLE coldstream.log_head").await.expect("held");
    session
}

/// Returns once so many sessions of the service wait for a lock.
async fn waiting(database: &Database, sessions: i64) {
    let mut session = PgConnection::connect(&database.admin_url).await.expect("connected");
    let query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
    while sqlx::query_scalar::<_, i64>(query).fetch_one(&mut session).await.expect("readable") < sessions {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn sessions_whose_server_is_gone_give_their_place_to_others() {
    let Behind { database, proxy, log, _rig } = Behind::start().await;
    let mut holding = holding(&database).await;
    let sessions = PgConfig::default().connections;
    let reads: Vec<_> = (0..sessions)
        .map(|_| {
            let log = log.clone();
            tokio::spawn(async move { log.log_head().await })
        })
        .collect();
    waiting(&database, i64::from(sessions)).await;
    proxy.silence();
    holding.execute("ROLLBACK").await.expect("let go");
    // As a door does whose clients have hung up.
    reads.into_iter().for_each(|read| read.abort());
    assert_eq!(log.log_head().await.expect("by a new session").head, Head::EMPTY);
}

#[tokio::test]
async fn whoever_waits_for_the_head_is_told_that_the_database_is_gone_and_goes_on_when_it_is_back() {
    let Behind { proxy, log, _rig, .. } = Behind::start().await;
    assert_eq!(log.wait_beyond(Head::EMPTY).await.expect("nothing new"), Head::EMPTY);
    let shut = proxy.shut().await;
    proxy.silence();
    let error = loop {
        match log.wait_beyond(Head::EMPTY).await {
            Ok(head) => assert_eq!(head, Head::EMPTY),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    drop(shut);
    while log.wait_beyond(Head::EMPTY).await.is_err() {}
}

#[tokio::test]
async fn an_append_that_the_server_does_not_answer_any_more_is_answered_by_what_it_holds() {
    let Behind { database, proxy, log, _rig } = Behind::start().await;
    let asked = |id: &str| request(&[("note-a", id)], &[]);
    log.append(asked("first")).await.expect("stored");
    let mut holding = holding(&database).await;
    let appending = tokio::spawn({
        let (log, asked) = (log.clone(), asked("second"));
        async move { log.append(asked).await }
    });
    waiting(&database, 1).await;
    proxy.silence();
    holding.execute("ROLLBACK").await.expect("let go");
    let answer = appending.await.expect("no panic");
    if let Err(error) = &answer {
        assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Indeterminate), "{error}");
    }
    let again = log.append(asked("second")).await.expect("it can be reached");
    if let Ok(first) = answer {
        assert_eq!(places(&again), places(&first));
    }
    assert_eq!(log.log_head().await.expect("readable").head, Head::new(2).expect("small"));
}

/// What a session of the appender waits for.
async fn appender_waits(admin: &mut PgConnection, event: &str) {
    let query =
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'coldstream append' AND wait_event = $1)";
    while !sqlx::query_scalar::<_, bool>(query).bind(event).fetch_one(&mut *admin).await.expect("readable") {}
}

#[tokio::test]
async fn what_a_synchronous_standby_has_not_got_is_not_acknowledged_though_it_can_be_seen() {
    let rig = Rig::start().await;
    let database = rig.database(new_log()).await;
    let log = Arc::new(database.open().await);
    log.append(request(&[("note-a", "first")], &[])).await.expect("stored");
    let mut admin = database.superuser().await;
    let standby = "ALTER SYSTEM SET synchronous_standby_names = 'absent'";
    admin.execute(standby).await.expect("set");
    admin.execute("SELECT pg_reload_conf()").await.expect("reloaded");
    let asked = request(&[("note-a", "second")], &[]);
    let appending = tokio::spawn({
        let (log, asked) = (log.clone(), asked.clone());
        async move { log.append(asked).await }
    });
    appender_waits(&mut admin, "SyncRep").await;
    // As a connection that breaks, or a server that restarts: what was committed here can be seen from now on.
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    admin.execute(end).await.expect("ended");
    let error = appending.await.expect("no panic").expect_err("this server may be lost, and the standby has it not");
    assert_eq!(error.kind(), ErrorKind::Indeterminate, "{error}");
    assert_eq!(log.log_head().await.expect("readable").head, Head::new(2).expect("small"));
    // A retry finds it, and so does another process.
    for log in [&*log, &database.open().await] {
        let error = log.append(asked.clone()).await.expect_err("it may still be lost");
        assert_eq!(error.kind(), ErrorKind::Indeterminate, "{error}");
    }
    admin.execute("ALTER SYSTEM RESET synchronous_standby_names").await.expect("reset");
    admin.execute("SELECT pg_reload_conf()").await.expect("reloaded");
    let again = loop {
        match log.append(asked.clone()).await {
            Ok(appended) => break appended,
            // Sessions that still wait hold the head for a moment.
            Err(error) => assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Indeterminate), "{error}"),
        }
    };
    assert!(again.replayed);
    assert_eq!(places(&again), [(2, 2)]);
}

/// A fault of the program, where the appender asks what time it is.
struct Faulty;

#[async_trait]
impl Clock for Faulty {
    async fn now(&self) -> Result<Timestamp, ClockError> {
        panic!("a fault")
    }
}

#[tokio::test]
async fn an_appender_that_a_fault_has_ended_says_so() {
    let rig = Rig::start().await;
    let database = rig.database(new_log()).await;
    let log = PgLog::connect(PgConfig::at(&database.url), Arc::new(Faulty)).await.expect("the log opens");
    let asked = || request(&[("note-a", "first")], &[]);
    let error = log.append(asked()).await.expect_err("nobody answers");
    assert_eq!(error.kind(), ErrorKind::Indeterminate, "{error}");
    log.broke().await;
    let error = log.append(asked()).await.expect_err("nobody takes it");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
}
