//! PRJ-1 and PRJ-2 of a rebuilt view: built beside the live one, it is the same fold, row for row, whatever is killed
//! meanwhile; and readers see one version or the other, whole.

mod prj_common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use domain::{ErrorKind, Head, Position};
use prj_common::tally::{Fault, Tally};
use prj_common::{APPLICATION, History, Model, Rig, is_the_fold};
use projections::ProjectionError;
use projections::content::{AT_LEAST_WAIT, ContentView, Lookup};
use projections::rebuild::{Differences, Unwatched, Watch, drop_rebuild};
use projections::status;
use sqlx::{Connection, PgConnection};
use system_tests::chance::{Moments, generator};
use tokio::sync::{Notify, oneshot};

/// Says when a step is reached.
struct Tells(&'static str, Notify);

impl Watch for Tells {
    fn reached(&self, step: &'static str) {
        if step == self.0 {
            self.1.notify_one();
        }
    }
    fn folded(&self, _checkpoint: Head, _live: Head) {}
}

async fn version(rig: &Rig) -> u64 {
    status::of_all(&rig.pool).await.expect("readable")[0].version
}

#[tokio::test]
async fn a_view_is_rebuilt_while_it_is_served_and_moved_and_readers_never_see_half() {
    let rig = Arc::new(Rig::start("2024-01-01T00:00:00Z").await);
    let mut history = History::new(11, "2024-01-01T00:00:00Z", 300, 9);
    history.go_on(&rig.log, &rig.clock, 1_500).await;
    rig.runner().catch_up().await.expect("caught up");
    let (stop, stopped) = oneshot::channel::<()>();
    let runner = rig.runner().with_batches_of(20);
    let running = tokio::spawn(async move { runner.run(async { drop(stopped.await) }).await });
    let done = Arc::new(AtomicBool::new(false));
    let reading = tokio::spawn({
        let (rig, done) = (rig.clone(), done.clone());
        async move {
            let (mut reads, mut before) = (0, Head::EMPTY);
            while !done.load(Ordering::Relaxed) || reads == 0 {
                let checkpoint = is_the_fold(&rig).await.checkpoint;
                assert!(checkpoint >= before, "a reader never sees a view go back");
                (reads, before) = (reads + 1, checkpoint);
            }
            reads
        }
    });
    for rebuilds in 1..=3 {
        let rebuild = rig.rebuild_of(ContentView, Arc::new(Unwatched)).with_batches_of(70);
        let (rebuilt, ()) = tokio::join!(rebuild.run(Differences::Refused), history.go_on(&rig.log, &rig.clock, 300));
        let rebuilt = rebuilt.expect("rebuilt");
        assert_eq!((rebuilt.version, rebuilt.folds, rebuilt.comparison.differing), (1 + rebuilds, [1, 1], 0));
        assert_eq!(rebuilt.comparison.live, rebuilt.comparison.beside);
        assert!(rebuilt.comparison.live.count > 100, "{:?}", rebuilt.comparison);
        assert_eq!(rig.schemas().await, ["view_content"]);
    }
    done.store(true, Ordering::Relaxed);
    let reads = reading.await.expect("whole");
    println!("{reads} whole reads");
    stop.send(()).expect("still running");
    running.await.expect("no panic").expect("no error");
    rig.runner().catch_up().await.expect("caught up");
    assert_eq!(is_the_fold(&rig).await.checkpoint.get(), 2_400);
}

/// Cuts rebuilds off at random moments in two ways: the task is dropped, or PostgreSQL ends its sessions.
#[tokio::test]
async fn a_rebuild_that_is_killed_at_any_moment_goes_on_and_ends_as_the_fold() {
    let rig = Rig::start("2024-01-01T00:00:00Z").await;
    let mut history = History::new(12, "2024-01-01T00:00:00Z", 80, 9);
    history.go_on(&rig.log, &rig.clock, 600).await;
    rig.runner().catch_up().await.expect("caught up");
    let mut admin = PgConnection::connect(&rig.cluster.superuser_url("views")).await.expect("connected");
    let kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = $1";
    let mut moments = Moments::within(Duration::from_millis(150));
    let mut round = 0;
    while moments.counts().0 < 12 {
        round += 1;
        let rebuild = rig.rebuild_of(ContentView, Arc::new(Unwatched)).with_batches_of(150);
        let moment = moments.draw(&mut generator());
        let ended = if round % 2 == 0 {
            tokio::time::timeout(moment, rebuild.run(Differences::Refused)).await.ok()
        } else {
            let task = tokio::spawn(async move { rebuild.run(Differences::Refused).await });
            let mut pace = tokio::time::interval(moment);
            pace.tick().await;
            pace.tick().await;
            sqlx::query(kill).bind(APPLICATION).execute(&mut admin).await.expect("killed");
            Some(task.await.expect("no panic"))
        };
        // One that is refused, because the session of the one before still lives, was not cut.
        if !matches!(ended, Some(Err(ProjectionError::RebuildRuns { .. }))) {
            moments.was_cut(!matches!(ended, Some(Ok(_))));
        }
        history.go_on(&rig.log, &rig.clock, 10).await;
        // Sessions that were ended are still in the pool: the first questions may meet them.
        let mut caught_up = false;
        for _ in 0..20 {
            caught_up = caught_up || rig.runner().catch_up().await.is_ok();
        }
        assert!(caught_up, "the live one goes on");
        is_the_fold(&rig).await;
    }
    println!("{moments:?}");
    let before = version(&rig).await;
    let rebuild = rig.rebuild_of(ContentView, Arc::new(Unwatched));
    let rebuilt = until_alone(async || rebuild.run(Differences::Refused).await).await;
    assert_eq!((rebuilt.comparison.differing, rig.schemas().await), (0, vec!["view_content".to_owned()]));
    assert!(version(&rig).await >= before);
    assert_eq!(is_the_fold(&rig).await.checkpoint.get(), 600 + round * 10);
}

/// The session of a rebuild that was dropped may not have ended yet: as long as it has not, the next one is refused.
async fn until_alone<T>(mut rebuild: impl AsyncFnMut() -> Result<T, ProjectionError>) -> T {
    let mut pace = tokio::time::interval(Duration::from_millis(20));
    loop {
        pace.tick().await;
        match rebuild().await {
            Err(ProjectionError::RebuildRuns { .. }) => {}
            done => return done.expect("rebuilt"),
        }
    }
}

#[tokio::test]
async fn two_rebuilds_of_one_view_at_once_are_refused_and_one_that_is_given_up_leaves_nothing() {
    let rig = Rig::start("2024-01-01T00:00:00Z").await;
    History::new(13, "2024-01-01T00:00:00Z", 30, 9).go_on(&rig.log, &rig.clock, 200).await;
    let before = rig.runner().catch_up().await.expect("caught up");
    for step in ["rebuild.begun", "rebuild.folded", "rebuild.met", "rebuild.compared"] {
        let tells = Arc::new(Tells(step, Notify::new()));
        let rebuild = rig.rebuild_of(ContentView, tells.clone()).with_batches_of(9);
        let mut first = Box::pin(rebuild.run(Differences::Refused));
        tokio::select! {
            biased;
            () = tells.1.notified() => {}
            done = &mut first => panic!("not there yet: {done:?}"),
        }
        let second = rig.rebuild_of(ContentView, Arc::new(Unwatched)).run(Differences::Refused).await;
        let error = second.expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(matches!(&error, ProjectionError::RebuildRuns { view } if view == "view_content"), "{error}");
        assert_eq!(drop_rebuild(&rig.pool, "view_content").await.expect_err("refused").kind(), ErrorKind::Conflict);
        drop(first);
        assert!(until_alone(async || drop_rebuild(&rig.pool, "view_content").await).await, "after {step}");
        assert!(!drop_rebuild(&rig.pool, "view_content").await.expect("nothing"));
        assert_eq!(rig.schemas().await, ["view_content"]);
    }
    assert_eq!(is_the_fold(&rig).await, before);
    assert_eq!(version(&rig).await, 1);
}

#[tokio::test]
async fn a_version_that_differs_is_an_alarm_that_names_the_row_and_is_swapped_only_if_told_to() {
    let rig = Rig::start("2024-01-01T00:00:00Z").await;
    History::new(14, "2024-01-01T00:00:00Z", 60, 20).go_on(&rig.log, &rig.clock, 500).await;
    rig.runner().catch_up().await.expect("caught up");
    let items = rig.content().items(None, 3).await.expect("readable");
    let [first, _, third] = items.as_slice() else { panic!("three") };
    let changed = format!("UPDATE view_content.items SET oid = 'flipped' WHERE id = '{}'", third.stub.id);
    rig.tamper(&format!("DELETE FROM view_content.items WHERE id = '{}'; {changed}", first.stub.id)).await;
    let wrong = Model::read(&rig.content()).await;
    let rebuild = rig.rebuild_of(ContentView, Arc::new(Unwatched));
    for _first_and_again in 0..2 {
        let error = rebuild.run(Differences::Refused).await.expect_err("an alarm");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        let ProjectionError::Differs { checkpoint, differing, first: named, .. } = error else { panic!("{error}") };
        assert_eq!((checkpoint.get(), differing), (500, 2));
        assert_eq!(named, format!("items ({})", first.stub.id));
    }
    assert_eq!(Model::read(&rig.content()).await, wrong, "what was served is served");
    let status = status::of_all(&rig.pool).await.expect("readable").remove(0);
    let noted = status.rebuild.expect("beside").comparison.expect("compared");
    assert_eq!((status.version, noted.differing, noted.live.count + 1), (1, 2, noted.beside.count));

    let rebuilt = rebuild.run(Differences::AcceptedByOperator).await.expect("swapped");
    assert_eq!((rebuilt.version, rebuilt.comparison.differing), (2, 2));
    is_the_fold(&rig).await;
    assert!(matches!(rig.content().get(&first.stub.id).await.expect("readable"), Lookup::Live(item) if item == *first));
}

#[tokio::test]
async fn where_the_fold_changed_the_old_one_goes_on_until_the_swap_and_differences_are_counted() {
    let rig = Rig::start("2024-01-01T00:00:00Z").await;
    let mut history = History::new(15, "2024-01-01T00:00:00Z", 20, 9);
    history.go_on(&rig.log, &rig.clock, 300).await;
    let old = Tally { name: "view_tally", fold: 1, fault: Fault::None }.installed(&rig).await;
    old.runner(&rig).catch_up().await.expect("caught up");
    let new = Tally { fold: 2, ..old }.installed(&rig).await;
    let error = new.runner(&rig).step().await.expect_err("its rows are of the old fold");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(matches!(error, ProjectionError::OtherFold { rows: 1, program: 2, .. }), "{error}");
    history.go_on(&rig.log, &rig.clock, 50).await;
    old.runner(&rig).catch_up().await.expect("the old one goes on");
    old.is_the_fold_of(&rig, 350).await;

    let rebuilt = rig.rebuild_of(new, Arc::new(Unwatched)).run(Differences::Refused).await.expect("swapped");
    let rows = u64::try_from(old.rows(&rig.pool).await.len()).expect("few");
    assert_eq!((rebuilt.version, rebuilt.folds), (2, [1, 2]));
    // All rows but that of "all", which both folds count alike.
    assert_eq!((rebuilt.comparison.differing, rebuilt.comparison.live.count), (rows - 1, rows));
    new.is_the_fold_of(&rig, 350).await;
    old.runner(&rig).step().await.expect_err("the old program stops");
    history.go_on(&rig.log, &rig.clock, 50).await;
    new.runner(&rig).catch_up().await.expect("the new one goes on");
    new.is_the_fold_of(&rig, 400).await;

    // What one program has swapped in and not cleared away, the next one clears away, and then begins its own.
    let tells = Arc::new(Tells("rebuild.swapped", Notify::new()));
    let rebuild = rig.rebuild_of(new, tells.clone());
    tokio::select! {
        biased;
        () = tells.1.notified() => {}
        done = rebuild.run(Differences::Refused) => panic!("it was to be cut off: {done:?}"),
    }
    assert_eq!(rig.schemas().await, ["view_content", "view_tally", "view_tally_old"]);
    let newest = Tally { fold: 3, ..old }.installed(&rig).await;
    let rebuild = rig.rebuild_of(newest, Arc::new(Unwatched));
    let rebuilt = until_alone(async || rebuild.run(Differences::Refused).await).await;
    assert_eq!((rebuilt.version, rebuilt.folds), (4, [2, 3]));
    newest.is_the_fold_of(&rig, 400).await;
    assert_eq!(rig.schemas().await, ["view_content", "view_tally"]);
}

#[tokio::test]
async fn a_read_of_at_least_a_position_waits_for_the_view_and_no_longer_than_it_may() {
    let rig = Rig::start("2026-01-15T00:00:00Z").await;
    History::new(16, "2026-01-15T00:00:00Z", 5, 1).go_on(&rig.log, &rig.clock, 20).await;
    let position = Position::new(20).expect("from 1");
    let runner = rig.runner().with_batches_of(3);
    let content = rig.content().following(runner.following());
    let (read, moved) = tokio::join!(content.at_least(position), runner.catch_up());
    assert_eq!(read.expect("it came"), moved.expect("caught up"));
    // Moved by another process: the database says so.
    History::new(17, "2026-01-16T00:00:00Z", 5, 1).go_on(&rig.log, &rig.clock, 10).await;
    rig.runner().catch_up().await.expect("caught up");
    let position = Position::new(30).expect("from 1");
    assert_eq!(content.at_least(position).await.expect("it is there").checkpoint.get(), 30);
    let error = content.at_least(position.next()).await.expect_err("nobody moves it there");
    assert!(AT_LEAST_WAIT <= Duration::from_secs(5) && error.kind() == ErrorKind::Unavailable);
    assert!(matches!(error, ProjectionError::NotYet { checkpoint, .. } if checkpoint.get() == 30), "{error}");
}
