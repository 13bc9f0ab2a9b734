//! PRJ-1: a view is exactly fold(events up to its checkpoint, window cutoff), also between any two kills.

mod prj_common;

use std::sync::Arc;
use std::time::Duration;

use domain::log::LogReader;
use domain::twin::MemoryLog;
use domain::{ErrorKind, Head, Position};
use prj_common::{APPLICATION, History, Rig, append, empty_log, form, is_the_fold};
use projections::ProjectionError;
use projections::content::{ItemState, Lookup};
use projections::runner::Step;
use sqlx::{Connection, PgConnection};
use system_tests::chance::{Moments, generator};

#[tokio::test]
async fn after_every_step_a_view_is_the_fold_of_its_checkpoint_and_cutoff() {
    let rig = Rig::start("2024-01-01T00:00:00Z").await;
    let mut history = History::new(1, "2024-01-01T00:00:00Z", 400, 7);
    let (mut swept, mut applied) = (0, 0);
    // The clock follows the history for a year and a half, in steps that never fit a month.
    for (events, batch) in [(300, 70), (1, 1), (500, 2_000), (0, 5), (700, 333), (311, 90)] {
        history.go_on(&rig.log, &rig.clock, events).await;
        let runner = rig.runner().with_batches_of(batch);
        loop {
            match runner.step().await.expect("a step") {
                Step::Swept { .. } => swept += 1,
                Step::Applied { records, .. } => applied += records,
                Step::CaughtUp { .. } => break,
                Step::Overtaken => panic!("nobody else moves the view"),
            }
            is_the_fold(&rig).await;
        }
    }
    let progress = is_the_fold(&rig).await;
    assert_eq!((progress.checkpoint.get(), applied), (1_812, 1_812));
    assert!(swept > 3, "the window moved {swept} times");
    let counts = rig.content().counts().await.expect("readable");
    assert!(counts.archived > 0 && counts.living > 0 && counts.not_living > 0, "{counts:?}");
}

/// Cuts a runner off at random moments in two ways: its task is dropped, or PostgreSQL ends its session.
#[tokio::test]
async fn a_runner_that_is_killed_at_any_moment_leaves_rows_and_checkpoint_together() {
    let rig = Rig::start("2024-01-01T00:00:00Z").await;
    let mut history = History::new(2, "2024-01-01T00:00:00Z", 200, 7);
    let mut admin = PgConnection::connect(&rig.cluster.superuser_url("views")).await.expect("connected");
    let kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = $1";
    let mut moments = Moments::within(Duration::from_millis(20));
    let (mut round, mut progressed) = (0, Head::EMPTY);
    while moments.counts().0 < 20 {
        round += 1;
        history.go_on(&rig.log, &rig.clock, 30).await;
        let runner = rig.runner().with_batches_of(3);
        let moment = moments.draw(&mut generator());
        let done = if round % 2 == 0 {
            let outcome = tokio::time::timeout(moment, runner.catch_up()).await;
            outcome.is_ok_and(|outcome| outcome.is_ok())
        } else {
            let task = tokio::spawn(async move { runner.catch_up().await });
            pass(moment).await;
            sqlx::query(kill).bind(APPLICATION).execute(&mut admin).await.expect("killed");
            task.await.expect("no panic").is_ok()
        };
        moments.was_cut(!done);
        let progress = until_readable(&rig).await;
        assert!(progress >= progressed, "a checkpoint never goes back");
        progressed = progress;
    }
    println!("{moments:?}");
    rig.runner().catch_up().await.expect("the rest");
    assert_eq!(is_the_fold(&rig).await.checkpoint.get(), round * 30);
}

async fn pass(moment: Duration) {
    let mut interval = tokio::time::interval(moment);
    interval.tick().await;
    interval.tick().await;
}

/// Sessions that were ended are still in the pool: the first questions may meet them.
async fn until_readable(rig: &Rig) -> Head {
    for _ in 0..20 {
        if rig.content().counts().await.is_ok() {
            break;
        }
    }
    is_the_fold(rig).await.checkpoint
}

#[tokio::test]
async fn a_view_goes_on_by_itself_after_postgresql_was_killed() {
    let rig = Rig::start("2024-01-01T00:00:00Z").await;
    let mut history = History::new(3, "2024-01-01T00:00:00Z", 30, 3);
    history.go_on(&rig.log, &rig.clock, 200).await;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let runner = rig.runner().with_batches_of(10);
    let running = tokio::spawn(async move { runner.run(async { drop(stopped.await) }).await });
    for _ in 0..2 {
        rig.cluster.kill().await.expect("killed");
        history.go_on(&rig.log, &rig.clock, 100).await;
        rig.cluster.start().await.expect("started");
    }
    let head = rig.log.log_head().await.expect("readable").head;
    let mut pace = tokio::time::interval(Duration::from_millis(20));
    while rig.runner().progress().await.ok().is_none_or(|progress| progress.checkpoint < head) {
        assert!(!running.is_finished(), "the runner gave up");
        pace.tick().await;
    }
    stop.send(()).expect("still running");
    running.await.expect("no panic").expect("no error");
    is_the_fold(&rig).await;
}

#[tokio::test]
async fn two_runners_of_one_view_fold_every_record_once() {
    let rig = Rig::start("2024-01-01T00:00:00Z").await;
    History::new(4, "2024-01-01T00:00:00Z", 40, 9).go_on(&rig.log, &rig.clock, 600).await;
    let runners = (0..3).map(|_| rig.runner().with_batches_of(7));
    let tasks: Vec<_> = runners.map(|runner| tokio::spawn(async move { runner.catch_up().await })).collect();
    for task in tasks {
        task.await.expect("no panic").expect("caught up");
    }
    assert_eq!(is_the_fold(&rig).await.checkpoint.get(), 600);
}

#[tokio::test]
async fn a_view_that_is_ahead_of_its_log_stops_and_says_so() {
    let rig = Rig::start("2024-06-01T00:00:00Z").await;
    for n in 0..5 {
        rig.append("a", "content.created", &form(&n.to_string())).await;
    }
    let before = rig.runner().catch_up().await.expect("caught up");
    let older = empty_log(&rig.clock);
    append(&older, "a", "content.created", &form("0")).await;
    let error = rig.runner_over(older).run(std::future::pending()).await.expect_err("stopped");
    assert_eq!(error.kind(), ErrorKind::Forked);
    let ProjectionError::AheadOfLog { checkpoint, head, .. } = error else { panic!("{error}") };
    assert_eq!((checkpoint.get(), head.get()), (5, 1));
    assert_eq!(rig.runner().progress().await.expect("readable"), before);
}

#[tokio::test]
async fn a_view_of_a_branch_that_lost_stops_and_says_so() {
    let rig = Rig::start("2024-06-01T00:00:00Z").await;
    for n in 0..5 {
        rig.append("a", "content.created", &form(&n.to_string())).await;
    }
    rig.runner().catch_up().await.expect("caught up");
    let other: Arc<MemoryLog> = empty_log(&rig.clock);
    for n in 0..9 {
        append(&other, "a", "content.created", &form(&format!("other-{n}"))).await;
    }
    let error = rig.runner_over(other).run(std::future::pending()).await.expect_err("stopped");
    assert_eq!(error.kind(), ErrorKind::Forked);
    let at = Position::new(5).expect("from 1");
    assert!(matches!(error, ProjectionError::OtherHistory { position, .. } if position == at), "{error}");
    is_the_fold(&rig).await;
}

#[tokio::test]
async fn a_view_that_starts_over_is_the_fold_of_the_log_that_is_there() {
    let mut rig = Rig::start("2024-01-01T00:00:00Z").await;
    History::new(7, "2024-01-01T00:00:00Z", 90, 24).go_on(&rig.log, &rig.clock, 400).await;
    rig.runner().catch_up().await.expect("caught up");
    rig.log = empty_log(&rig.clock);
    History::new(8, "2024-01-01T00:00:00Z", 90, 24).go_on(&rig.log, &rig.clock, 450).await;
    assert_eq!(rig.runner().catch_up().await.expect_err("another history").kind(), ErrorKind::Forked);
    assert!(rig.runner().start_over().await.expect("emptied"));
    is_the_fold(&rig).await;
    rig.runner().with_batches_of(60).catch_up().await.expect("caught up");
    assert_eq!(is_the_fold(&rig).await.checkpoint.get(), 450);
}

#[tokio::test]
async fn an_event_that_postgresql_could_not_store_does_not_stop_the_view() {
    let rig = Rig::start("2024-06-01T00:00:00Z").await;
    let too_large = form("1").replace(":41", ":18446744073709551615");
    for (id, data) in [("nul", form("\\u0000")), ("large", too_large), ("list", "[]".to_owned())] {
        rig.append(id, "content.created", &data).await;
    }
    rig.append("fine", "content.created", &form("2")).await;
    rig.runner().catch_up().await.expect("caught up");
    for id in ["nul", "large", "list"] {
        let Lookup::Live(item) = rig.content().get(id).await.expect("readable") else { panic!("live") };
        assert_eq!((item.stub.state, item.form), (ItemState::Unknown, None));
    }
    let Lookup::Live(fine) = rig.content().get("fine").await.expect("readable") else { panic!("live") };
    assert_eq!(fine.form.map(|form| form.oid).as_deref(), Some("2"));
}

#[tokio::test]
async fn a_view_that_is_not_set_up_says_so() {
    let rig = Rig::start("2024-06-01T00:00:00Z").await;
    let mut admin = PgConnection::connect(&rig.cluster.superuser_url("views")).await.expect("connected");
    sqlx::query("DELETE FROM projections.progress").execute(&mut admin).await.expect("gone");
    let error = rig.runner().step().await.expect_err("not set up");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(matches!(error, ProjectionError::NotSetUp { .. }));
}
