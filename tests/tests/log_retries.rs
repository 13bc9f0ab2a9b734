//! LOG-4 over a real archive: retries of appends already made, before and after their events were sealed, verified and
//! pruned. Nothing is stored twice, and each is answered with its first positions.

mod log_common;

use std::sync::Arc;

use archiver::seal::Demand;
use domain::append::{AppendError, AppendRequest, Appended, ExpectedVersion};
use domain::archive::catalog::LivePartitions;
use domain::event::Data;
use domain::log::{EventLog, LogReader};
use domain::{Head, StreamVersion};
use event_log::PgLog;
use futures::StreamExt;
use log_common::{Database, at, is_sound, places, request};
use ops::config::{Config, Overrides};
use ops::dev::region::Region;
use ops::node::Node;
use projections::content::ContentView;
use projections::runner::Runner;
use system_tests::torture::plan;

/// Retries while everything is live, and once more after all of it is pruned.
const RETRIES: usize = 50_000;
/// Rounds of one request in each mode.
const ROUNDS: u64 = 250;
const AT_ONCE: usize = 256;

/// A request, where its events were put first, and whether a retry of it is known for ever.
struct Made {
    request: AppendRequest,
    first: Appended,
    for_ever: bool,
}

/// One request in every mode, some over several streams. `round` counts from 0; the streams of a round's checks are
/// moved on by the next one.
fn one_of_each(round: u64) -> Vec<(AppendRequest, bool)> {
    let stream = |what: &str| format!("thing-{round}/{what}");
    let id = |what: &str| format!("{round}/{what}");
    let exactly = |version| ExpectedVersion::Exactly(StreamVersion::new(version).expect("from 1"));
    let (none, two) = (stream("none"), stream("two"));
    let (any, clock) = ("thing-any", "thing-clock");
    let moved = if round == 0 { ExpectedVersion::NoStream } else { exactly(round) };
    vec![
        (request(&[(any, &id("any"))], &[]), false),
        (request(&[(any, &id("exists"))], &[(any, ExpectedVersion::StreamExists)]), false),
        (request(&[(&none, &id("none"))], &[(&none, ExpectedVersion::NoStream)]), true),
        (request(&[(&none, &id("exact")), (&none, &id("exact2"))], &[(&none, exactly(1))]), true),
        // Of several streams: one in mode Any first, one that is new, one at its version.
        (
            request(
                &[(any, &id("many")), (&two, &id("many2")), (&none, &id("many3"))],
                &[(&two, ExpectedVersion::NoStream), (&none, exactly(3))],
            ),
            true,
        ),
        // It checks a stream that it does not write, and that moves on every round; what it writes is named too.
        (request(&[(&two, &id("checked"))], &[(clock, moved), (&two, exactly(1))]), true),
        (request(&[(clock, &id("clock"))], &[(clock, moved)]), true),
        // Only a stream that it checks is named: its id is kept.
        (request(&[(any, &id("foreign"))], &[(&two, exactly(2))]), true),
    ]
}

async fn append_all(log: &PgLog, rounds: std::ops::Range<u64>) -> Vec<Made> {
    let mut made = Vec::new();
    for (request, for_ever) in rounds.flat_map(one_of_each) {
        let first = log.append(request.clone()).await.expect("acknowledged");
        assert!(!first.replayed);
        made.push(Made { request, first, for_ever });
    }
    made
}

/// Sends `count` retries, many at a time, and gives how many were answered.
async fn retry(log: &PgLog, made: &[&Made], count: usize) -> usize {
    let send = |made: &Made| {
        let (request, expected) = (made.request.clone(), places(&made.first));
        async move {
            let id = request.events[0].id.clone();
            let again = log.append(request).await.unwrap_or_else(|error| panic!("the retry of {id}: {error}"));
            assert!(again.replayed, "{id} was stored again");
            assert_eq!(places(&again), expected, "{id} was somewhere else first");
        }
    };
    let sent = futures::stream::iter(made.iter().cycle().take(count).map(|made| send(made)));
    sent.buffer_unordered(AT_ONCE).count().await
}

/// The same ids with other content, for each request.
async fn forgeries_are_refused(log: &PgLog, made: &[&Made]) {
    for Made { request, .. } in made {
        let mut forged = request.clone();
        forged.events[0].data = Data::Json(r#"{"other":"content"}"#.into());
        let error = log.append(forged).await.expect_err("other content");
        assert!(matches!(error, AppendError::IdTaken { .. }), "{error}");
        if request.events.len() > 1 {
            let mut partly = request.clone();
            partly.events[0].id.push_str("-new");
            let error = log.append(partly).await.expect_err("partly known");
            assert!(matches!(error, AppendError::PartlyKnown { .. } | AppendError::WrongVersion { .. }), "{error}");
        }
    }
}

/// Seals all there is and prunes what has left the window, after the view has seen it.
async fn seal_and_prune(node: &Node, config: &Config) -> Head {
    let (views, reader, clock) = (node.views.clone(), node.reader.clone(), node.clock.clone());
    let view = Runner::new(views, reader, clock, config.live_window(), ContentView);
    view.catch_up().await.expect("caught up");
    let archive = node.archive.as_ref().expect("the region has a bucket");
    archive.sealer.lock().await.run(Demand::Everything).await.expect("sealed");
    let report = archive.prune().await.expect("pruned");
    assert!(report.waiting.is_none(), "{:?}", report.waiting);
    node.log.log_head().await.expect("readable").pruned
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retries_before_and_after_pruning_store_nothing_and_get_their_first_positions() {
    let folder = tempfile::tempdir().expect("a folder");
    let region = Region::single(&plan(folder.path(), Some(at("2020-01-10T00:00:00Z")))).await.expect("a region");
    let config = Config::load(Some(&region.config), &Overrides::default()).expect("a configuration");
    let (url, admin_url) = (region.database_url(), region.superuser_url());
    let database = Database { name: "coldstream".into(), url, admin_url };

    let node = Node::open(&config).await.expect("a node");
    let mut made = append_all(&node.log, 0..ROUNDS / 2).await;
    // Into another month, and so into another partition.
    node.log.set_simulated_now(at("2020-02-10T00:00:00Z")).await.expect("moved on");
    made.extend(append_all(&node.log, ROUNDS / 2..ROUNDS).await);
    let old = is_sound(&database).await;

    let all: Vec<&Made> = made.iter().collect();
    assert_eq!(retry(&node.log, &all, RETRIES).await, RETRIES);
    forgeries_are_refused(&node.log, &all).await;
    assert_eq!(is_sound(&database).await, old, "a retry stored something");

    node.log.set_simulated_now(at("2020-11-10T00:00:00Z")).await.expect("moved on");
    append_all(&node.log, ROUNDS..ROUNDS + 1).await;
    assert_eq!(seal_and_prune(&node, &config).await, old, "everything old is out of the live log");
    assert_eq!(node.log.partitions().await.expect("readable").len(), 1);
    node.log.shut_down().await;

    // Another process, which has nothing in memory.
    let node = Arc::new(Node::open(&config).await.expect("a node"));
    let head = is_sound(&database).await;
    let for_ever: Vec<&Made> = made.iter().filter(|made| made.for_ever).collect();
    assert_eq!(retry(&node.log, &for_ever, RETRIES).await, RETRIES);
    forgeries_are_refused(&node.log, &for_ever).await;
    assert_eq!(is_sound(&database).await, head, "a retry stored something");
    assert_eq!(node.log.metrics().events, 0);
    node.log.shut_down().await;
    region.end().await.expect("it ends");
}
