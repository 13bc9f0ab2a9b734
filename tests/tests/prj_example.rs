//! The example view of a user's own, on a real database: its live rows, swept month by month, and a rebuilt version are
//! what counting the events of the window anew gives, however they are cut into batches.

mod prj_common;

#[allow(unreachable_pub, reason = "it is a library to those who copy it")]
#[path = "../../projections/examples/changes_by_author.rs"]
mod changes_by_author;

use std::collections::BTreeMap;
use std::sync::Arc;

use changes_by_author::{ChangesByAuthor, fold};
use domain::Position;
use domain::log::{Direction, LogReader};
use prj_common::{History, Rig, append, form};
use projections::install;
use projections::rebuild::{Differences, Unwatched};

#[tokio::test]
async fn given_changes_when_they_are_folded_then_each_author_has_a_count_a_month() {
    let clock = prj_common::SetClock::at("2026-01-31T23:59:59Z");
    let log = prj_common::empty_log(&clock);
    append(&log, "a", "content.created", &form("1")).await;
    clock.set(prj_common::at("2026-02-01T00:00:00Z"));
    for (event_type, data) in
        [("content.revised", form("2")), ("content.deleted", r#"{"author":"ann\u0000","change":"c"}"#.to_owned())]
    {
        append(&log, "a", event_type, &data).await;
    }
    append(&log, "a", "content.revised", "[]").await;
    let records = log.read_log(Position::FIRST, Direction::Forward, 10).await.expect("readable");
    let count = |author: &str, month: &str| ((author.to_owned(), month.to_owned()), 1);
    let (january, february) = (count("85ec80be", "2026-01-01"), count("85ec80be", "2026-02-01"));
    let ann = count("ann\u{fffd}", "2026-02-01");
    let all = BTreeMap::from([january, february.clone(), ann.clone()]);
    assert_eq!(fold(&records, prj_common::at("2026-01-01T00:00:00Z")), all);
    assert_eq!(fold(&records, prj_common::at("2026-02-01T00:00:00Z")), BTreeMap::from([february, ann]));
}

#[tokio::test]
async fn its_rows_are_its_fold_live_and_rebuilt() {
    let rig = Rig::start("2024-01-01T00:00:00Z").await;
    install(rig.admin().await.as_owner().await.expect("the owner"), &ChangesByAuthor).await.expect("installed");
    let mut history = History::new(21, "2024-01-01T00:00:00Z", 30, 20);
    for batch in [7, 60, 2_000] {
        history.go_on(&rig.log, &rig.clock, 200).await;
        let progress = rig.runner_of(ChangesByAuthor).with_batches_of(batch).catch_up().await.expect("caught up");
        let records = rig.log.read_log(Position::FIRST, Direction::Forward, usize::MAX).await.expect("readable");
        let expected = fold(&records, progress.cutoff);
        assert_eq!(rows(&rig).await, expected);
        let rebuild = rig.rebuild_of(ChangesByAuthor, Arc::new(Unwatched)).with_batches_of(batch / 2);
        let rebuilt = rebuild.run(Differences::Refused).await.expect("rebuilt");
        assert_eq!(rebuilt.comparison.differing, 0);
        assert!(rebuilt.comparison.live.count > 0);
        assert_eq!(rows(&rig).await, expected);
    }
}

async fn rows(rig: &Rig) -> BTreeMap<(String, String), i64> {
    let sql = "SELECT author, month::text, number FROM view_changes_by_author.changes";
    let rows: Vec<(String, String, i64)> = sqlx::query_as(sql).fetch_all(&rig.pool).await.expect("readable");
    rows.into_iter().map(|(author, month, number)| ((author, month), number)).collect()
}
