//! The example view of a user's own, on a real database: its live rows, swept month by month, and a rebuilt version are
//! what counting the events of the window anew gives, however they are cut into batches.

mod door_common;
#[allow(unreachable_pub, reason = "it is a program to those who copy it")]
#[path = "../../ops/examples/own_view.rs"]
mod own_view;
mod prj_common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use domain::Position;
use domain::log::{Direction, LogReader};
use ops::config::{Config, Overrides};
use ops::node::Node;
use own_view::changes_by_author::{ChangesByAuthor, fold};
use prj_common::{History, Rig, append, form};
use projections::install;
use projections::rebuild::{Differences, Unwatched};
use rustix::process::Signal;
use tokio::sync::oneshot;
use tokio::time::timeout;

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

/// As its user would: beside a server, whose metrics and status know it, until it is taken out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_of_ones_own_keeps_it_beside_the_server_and_takes_it_out_again() {
    let rig = door_common::Rig::serving().await;
    own_view::install(&rig.region.superuser_url()).await.expect("installed");
    let config = Config::load(Some(&rig.region.config), &Overrides::default()).expect("the region's");
    let node = Node::open(&config).await.expect("opened");
    let runner = Arc::new(own_view::runner(&node, &config));
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn({
        let runner = runner.clone();
        async move { runner.run(async { drop(stopped.await) }).await }
    });
    let mut position = 0;
    for number in 1..=3 {
        let event = serde_json::json!({
            "specversion": "1.0", "id": format!("own:{number}"), "source": "/own", "type": "content.created",
            "subject": format!("content-{number}"),
            "data": serde_json::from_str::<serde_json::Value>(&form("1")).expect("JSON")
        });
        position = append_one(&rig, &event).await;
        let seen = runner.at_least(Position::new(position).expect("from 1"), Duration::from_secs(30)).await;
        assert!(seen.expect("in the view").checkpoint.get() >= position);
        let changes = "SELECT sum(number)::bigint FROM view_changes_by_author.changes";
        let count: i64 = sqlx::query_scalar(changes).fetch_one(&node.views).await.expect("readable");
        assert_eq!(count, number);
    }
    let too_far = runner.at_least(Position::new(position + 1).expect("from 1"), Duration::from_millis(50)).await;
    assert!(matches!(too_far, Err(projections::ProjectionError::NotYet { .. })));
    assert_eq!(own_view::rebuild(&node).await.expect("rebuilt").version, 2);
    let metrics = reqwest::Client::new().get(format!("{}/metrics", rig.region.url));
    let metrics = metrics.bearer_auth(&rig.region.tokens.reader).send().await.expect("metrics").text().await;
    let line = format!("coldstream_view_checkpoint{{view=\"view_changes_by_author\"}} {position}");
    assert!(metrics.expect("whole").contains(&line), "{line}");
    let status = door_common::text(&rig.run(&["projection", "status"]).await.stdout);
    assert!(status.contains("view_changes_by_author"), "{status}");

    let url = rig.region.superuser_url();
    let take_out = |view: &'static str| {
        let arguments = ["--json", "projection", "uninstall", view, "--yes"];
        let mut command = rig.command("", &arguments);
        command.env("COLDSTREAM_ADMIN_URL", &url);
        async move { command.output().await.expect("it runs") }
    };
    assert_eq!(take_out("view_content").await.status.code(), Some(2), "the servers' own");
    assert!(door_common::text(&take_out("view_changes_by_author").await.stdout).contains("true"));
    assert!(door_common::text(&take_out("view_changes_by_author").await.stdout).contains("false"));
    let ended = timeout(Duration::from_secs(60), running).await.expect("it ends by itself").expect("no panic");
    assert!(matches!(ended, Err(projections::ProjectionError::NotSetUp { .. })), "{ended:?}");
    drop(stop);
    let left = "SELECT count(*) FROM coldstream.consumers WHERE name = 'view_changes_by_author'";
    assert_eq!(sqlx::query_scalar::<_, i64>(left).fetch_one(&node.views).await.expect("readable"), 0);
    node.log.shut_down().await;
    rig.end().await;
}

#[tokio::test]
async fn a_supervisor_and_a_terminal_can_end_the_program() {
    for signal in [Signal::TERM, Signal::INT] {
        let ending = own_view::asked_to_end().expect("it listens");
        rustix::process::kill_process(rustix::process::getpid(), signal).expect("sent");
        ending.await;
    }
}

/// Appends one event through the door, and says where it stands.
async fn append_one(rig: &door_common::Rig, event: &serde_json::Value) -> u64 {
    let request = reqwest::Client::new().post(format!("{}/v1/append", rig.region.url));
    let request = request.header("content-type", "application/cloudevents+json").body(event.to_string());
    let answer = request.bearer_auth(&rig.region.tokens.appender).send().await.expect("an answer");
    let answer: serde_json::Value = answer.json().await.expect("JSON");
    let position = answer["events"][0]["position"].as_str().unwrap_or_else(|| panic!("{answer}"));
    position.parse().expect("a number")
}
