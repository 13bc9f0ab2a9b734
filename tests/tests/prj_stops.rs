//! PRJ-1, where a view cannot fold an event: it stops there, by name, the others go on, and a program that can fold the
//! event goes on from the checkpoint.

mod prj_common;

use std::sync::Arc;
use std::time::Duration;

use domain::window::LiveWindow;
use domain::{ErrorKind, Position};
use futures::TryStreamExt;
use prj_common::tally::{Fault, Tally};
use prj_common::{Rig, form, is_the_fold};
use projections::rebuild::{Differences, Rebuild, Unwatched};
use projections::runner::Runner;
use projections::status::{self, Stopped, ViewStatus};
use projections::{ProjectionError, SessionLimits, install};
use sqlx::Transaction;
use sqlx::postgres::{PgConnectOptions, Postgres};
use system_tests::two_regions::until;

const NAMES: [(&str, Fault, &str); 3] = [
    ("view_refuses", Fault::Refuses, "the fold refuses it: deleted"),
    ("view_panics", Fault::Panics, "the fold panicked: as a fault in the program would"),
    ("view_overflows", Fault::Overflows, "bigint out of range"),
];

async fn status_of(rig: &Rig, view: &str) -> ViewStatus {
    let all = status::of_all(&rig.pool).await.expect("readable");
    all.into_iter().find(|status| status.view == view).expect("installed")
}

/// Twelve events; the eighth is the one.
async fn history(rig: &Rig) {
    for n in 1..=12 {
        let data = if n == 8 { r#"{"author":"x","change":"y"}"#.to_owned() } else { form("1") };
        let event_type = if n == 8 { "content.deleted" } else { "content.revised" };
        rig.append(&format!("item-{}", n % 3), event_type, &data).await;
    }
}

#[tokio::test]
async fn a_view_stops_at_the_event_by_name_the_others_go_on_and_a_mended_program_goes_on_from_there() {
    let rig = Rig::start("2026-01-15T00:00:00Z").await;
    let mut views = Vec::new();
    for (name, fault, reason) in NAMES {
        views.push((Tally { name, fold: 1, fault }.installed(&rig).await, reason));
    }
    history(&rig).await;
    // All at once, each at its own pace; the view of content is one of them.
    let content = tokio::spawn({
        let runner = rig.runner().with_batches_of(2);
        async move { runner.catch_up().await }
    });
    let stopping = views.iter().map(|(view, reason)| {
        let runner = view.runner(&rig);
        let (rig, reason) = (&rig, *reason);
        async move {
            let error = runner.run(std::future::pending()).await.expect_err("it stops");
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(matches!(&error, ProjectionError::Event { position, event_type, .. }
                if position.get() == 8 && event_type == "content.deleted"));
            assert_eq!(runner.seen().borrow().stopped, Position::new(8));
            // Asked again it still stands before the event, and what it has is the fold of what was before.
            runner.step().await.expect_err("still stopped");
            view.is_the_fold_of(rig, 7).await;
            let status = status_of(rig, view.name).await;
            let Some(Stopped { position, id, event_type, reason: why }) = status.stopped else { panic!("stopped") };
            assert_eq!((status.checkpoint.get(), position.get(), id.as_str()), (7, 8, "7-item-2"));
            assert!(event_type == "content.deleted" && why.contains(reason), "{why}");
        }
    });
    futures::future::join_all(stopping).await;
    content.await.expect("no panic").expect("it goes on");
    assert_eq!(is_the_fold(&rig).await.checkpoint.get(), 12);

    for (view, _) in views {
        let mended = Tally { fault: Fault::None, ..view };
        let runner = mended.runner(&rig);
        assert_eq!(runner.catch_up().await.expect("it goes on").checkpoint.get(), 12);
        mended.is_the_fold_of(&rig, 12).await;
        assert_eq!(status_of(&rig, view.name).await.stopped, None);
        assert_eq!(runner.seen().borrow().stopped, None);
    }
}

/// A rebuild that ends while the live version is stopped takes the old version's note with it.
#[tokio::test]
async fn a_view_that_still_stands_before_the_event_says_so_again_after_its_note_is_gone() {
    let rig = Rig::start("2026-01-15T00:00:00Z").await;
    let view = Tally { name: "view_refuses", fold: 1, fault: Fault::Refuses }.installed(&rig).await;
    history(&rig).await;
    let runner = view.runner(&rig);
    runner.catch_up().await.expect_err("it stops");
    let noted = status_of(&rig, view.name).await.stopped;
    assert!(noted.is_some());
    let columns = "stopped_position = NULL, stopped_id = NULL, stopped_type = NULL, stopped_reason = NULL";
    rig.tamper(&format!("UPDATE projections.progress SET {columns}")).await;
    assert_eq!(status_of(&rig, view.name).await.stopped, None);
    runner.step().await.expect_err("still stopped");
    assert_eq!(status_of(&rig, view.name).await.stopped, noted);
}

/// A view, its history, and a process that holds it, in a session with these limits.
async fn held(rig: &Rig, limits: SessionLimits) -> (Runner<Tally>, Transaction<'static, Postgres>) {
    let view = Tally { name: "view_tally", fold: 1, fault: Fault::None }.installed(rig).await;
    history(rig).await;
    let url: PgConnectOptions = rig.cluster.url("service", "views").parse().expect("a URL");
    let pool = projections::pool(url, 2, &limits);
    let mut frozen = pool.begin().await.expect("begun");
    sqlx::query("SELECT FROM coldstream.consumers WHERE name = $1 FOR NO KEY UPDATE")
        .bind(view.name)
        .execute(&mut *frozen)
        .await
        .expect("it holds the view");
    (Runner::new(pool, rig.log.clone(), rig.clock.clone(), LiveWindow::default(), view), frozen)
}

/// The view is held at first, and not for ever.
async fn goes_on(runner: &Runner<Tally>) {
    let mut refused = 0;
    while let Err(error) = runner.step().await {
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
        refused += 1;
        assert!(refused < 300, "nobody ends who holds it");
    }
    assert!(refused > 0, "the lock was not to be had at first");
    assert_eq!(runner.catch_up().await.expect("it goes on").checkpoint.get(), 12);
}

/// A process that is stopped in the middle of a step, as by a debugger or a machine that pages.
#[tokio::test]
async fn a_frozen_process_holds_a_view_up_for_its_limit_and_no_longer() {
    let rig = Rig::start("2026-01-15T00:00:00Z").await;
    let limits = SessionLimits { lock: Duration::from_millis(100), idle: Duration::from_secs(5), ..LONG };
    let (runner, frozen) = held(&rig, limits).await;
    goes_on(&runner).await;
    let lost = frozen.commit().await.expect_err("its session was ended");
    assert_eq!(ProjectionError::database("commit")(lost).kind(), ErrorKind::Unavailable);
}

/// As while the month's sweep of a large view runs, which holds it for longer than a session waits.
#[tokio::test]
async fn a_rebuild_waits_for_a_live_version_that_is_held_for_longer_than_a_lock_is_waited_for() {
    let rig = Rig::start("2026-01-15T00:00:00Z").await;
    let view = Tally { name: "view_tally", fold: 1, fault: Fault::None }.installed(&rig).await;
    history(&rig).await;
    view.runner(&rig).catch_up().await.expect("caught up");
    let mut sweeping = rig.pool.begin().await.expect("begun");
    sqlx::query("SELECT FROM coldstream.consumers WHERE name = $1 FOR NO KEY UPDATE")
        .bind(view.name)
        .execute(&mut *sweeping)
        .await
        .expect("it holds the view");
    let limits = SessionLimits { lock: Duration::from_millis(300), ..LONG };
    let url: PgConnectOptions = rig.cluster.url("service", "views").parse().expect("a URL");
    let url = url.application_name("rebuild");
    let rebuild = Rebuild::new(projections::pool(url, 4, &limits), rig.log.clone(), view, Arc::new(Unwatched));
    let rebuilding = tokio::spawn(async move { rebuild.run(Differences::Refused).await });
    let mut waits = 0;
    for expected in [true, false, true, false] {
        until(&format!("it waits for the live version: {expected}"), async || {
            let waiting =
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'rebuild' AND wait_event_type = 'Lock'";
            let waiting: i64 =
                sqlx::query_scalar(waiting).fetch_one(&rig.pool).await.map_err(|error| error.to_string())?;
            if (waiting > 0) == expected { Ok(()) } else { Err(format!("{waiting} wait")) }
        })
        .await;
        waits += 1;
    }
    assert_eq!(waits, 4);
    sweeping.commit().await.expect("the sweep ends");
    let rebuilt = rebuilding.await.expect("no panic").expect("it goes on");
    assert_eq!((rebuilt.version, rebuilt.comparison.differing), (2, 0));
}

#[tokio::test]
async fn a_process_that_is_frozen_while_rows_come_holds_a_view_up_no_longer_either() {
    let rig = Rig::start("2026-01-15T00:00:00Z").await;
    let limits = SessionLimits { lock: Duration::from_millis(100), unread: Duration::from_secs(2), ..LONG };
    let (runner, mut frozen) = held(&rig, limits).await;
    // More than all buffers on the way hold: the server goes on sending, and is not kept waiting for a statement.
    let mut rows = sqlx::query("SELECT repeat('x', 1000) FROM generate_series(1, 200000)").fetch(&mut *frozen);
    rows.try_next().await.expect("a row");
    goes_on(&runner).await;
    let lost = loop {
        if let Err(lost) = rows.try_next().await.map(|row| row.expect("not all of them")) {
            break lost;
        }
    };
    assert_eq!(ProjectionError::database("read")(lost).kind(), ErrorKind::Unavailable);
}

/// Limits that no test waits for.
const LONG: SessionLimits = SessionLimits {
    lock: Duration::from_secs(3600),
    idle: Duration::from_secs(3600),
    unread: Duration::from_secs(3600),
};

/// As while its space is given back.
#[tokio::test]
async fn who_asks_a_view_waits_for_its_tables_longer_than_who_moves_it() {
    let rig = Rig::start("2026-01-15T00:00:00Z").await;
    let url: PgConnectOptions = rig.cluster.url("service", "views").parse().expect("a URL");
    let limits = [SessionLimits::default(), SessionLimits::of_readers()];
    let [moving, asking] = limits.map(|limits| projections::pool(url.clone(), 1, &limits));
    for (pool, lock) in [(&moving, "10s"), (&asking, "1min")] {
        let limits: (String, String, String) = sqlx::query_as(
            "SELECT current_setting('lock_timeout'), current_setting('idle_in_transaction_session_timeout'),
                    current_setting('tcp_user_timeout')",
        )
        .fetch_one(pool)
        .await
        .expect("readable");
        assert_eq!(limits, (lock.to_owned(), "2min".to_owned(), "20000".to_owned()));
    }
}

#[tokio::test]
async fn tables_that_change_without_their_fold_or_have_no_key_are_refused() {
    let rig = Rig::start("2026-01-15T00:00:00Z").await;
    Tally { name: "view_tally", fold: 2, fault: Fault::None }.installed(&rig).await;
    let mut admin = rig.admin().await;
    let owner = admin.as_owner().await.expect("the owner");
    let mut refused = async |name, fold, tables| {
        let error = install(owner, &Bare { name, fold, tables }).await.expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Invalid);
        std::error::Error::source(&error).expect("what PostgreSQL said").to_string()
    };
    let said = refused("view_tally", 2, "CREATE TABLE other (n int PRIMARY KEY)").await;
    assert!(said.contains("the tables of view_tally have changed, and fold 2 has not"), "{said}");
    let said = refused("view_bare", 1, "CREATE TABLE bare (n int)").await;
    assert!(said.contains("the table bare has no primary key"), "{said}");
    for name in ["tally", "view_", "view_Tally", "view_x_next", "view_x_old", "coldstream"] {
        refused(name, 1, "CREATE TABLE tally (n int PRIMARY KEY)").await;
    }
    assert_eq!(rig.schemas().await, ["view_content", "view_tally"]);
}

/// A view of which only the tables matter.
struct Bare {
    name: &'static str,
    fold: i32,
    tables: &'static str,
}

#[async_trait::async_trait]
impl projections::View for Bare {
    fn name(&self) -> &'static str {
        self.name
    }
    fn fold(&self) -> i32 {
        self.fold
    }
    fn tables(&self) -> &'static str {
        self.tables
    }
    async fn apply(
        &self,
        _: &mut sqlx::PgConnection,
        _: &[domain::record::Record],
        _: domain::Timestamp,
    ) -> Result<(), ProjectionError> {
        Ok(())
    }
    async fn sweep(&self, _: &mut sqlx::PgConnection, _: domain::Timestamp) -> Result<(), ProjectionError> {
        Ok(())
    }
}
