//! The log on PostgreSQL keeps the port's contract: the suite that the log in memory passes.

mod log_common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use domain::append::AppendRequest;
use domain::conformance::groups::Timed;
use domain::conformance::log::{Prunable, run_pruned};
use domain::conformance::{conditions, groups, search};
use domain::filter::{Filter, SEARCH_POSITIONS_MAX};
use domain::log::{Direction, EventLog, LogReader};
use domain::tiered::TieredLog;
use domain::twin::MemoryArchive;
use domain::{Head, Position, Timestamp};
use event_log::PgLog;
use log_common::pruning::prune_as_of;
use log_common::{Database, Rig, at, event, new_log, new_simulated, recorded};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use system_tests::two_regions::random;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_on_postgresql_passes_the_suite() {
    let rig = Rig::start().await;
    domain::conformance::log::run(|| rig.log(new_log())).await;
    conditions::run(|| rig.log(new_log())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_with_simulated_time_passes_the_suite() {
    let rig = Rig::start().await;
    domain::conformance::log::run(|| rig.log(new_simulated("2026-05-01T00:00:00Z"))).await;
}

/// A log whose simulated year ends with each pruning.
struct Archived {
    log: PgLog,
    archive: Arc<MemoryArchive>,
    year: AtomicU32,
}

#[async_trait]
impl Prunable for Archived {
    type Log = PgLog;

    fn log(&self) -> &PgLog {
        &self.log
    }

    async fn prune(&self) {
        let year = self.year.fetch_add(1, Ordering::Relaxed);
        self.archive.extend(prune_as_of(&self.log, &format!("{year}-12-20T00:00:00Z")).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_on_postgresql_with_an_archive_passes_the_suite() {
    let rig = Rig::start().await;
    let archived = async || {
        let log = rig.log(new_simulated("2020-01-10T00:00:00Z")).await;
        let archive = Arc::new(MemoryArchive::default());
        log.set_archive(Arc::<MemoryArchive>::clone(&archive));
        Archived { log, archive, year: AtomicU32::new(2020) }
    };
    run_pruned(archived).await;
    conditions::run_pruned(archived).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_catalog_on_postgresql_passes_the_suite() {
    let rig = Rig::start().await;
    let database = rig.database(new_log()).await;
    let prune_to = async |head: Head| {
        database.run(&format!("UPDATE coldstream.log_head SET position = {head}, pruned = {head}")).await;
    };
    domain::conformance::catalog::check(&database.open().await, prune_to).await;
    domain::conformance::catalog::check_answers(&rig.log(new_log()).await).await;
    domain::conformance::catalog::check_whole(&rig.log(new_log()).await).await;
}

/// Groups on PostgreSQL. Their time is the database's, which cannot be moved: what is due is moved instead.
struct Groups {
    log: PgLog,
    database: Database,
}

#[async_trait]
impl Timed for Groups {
    type Log = PgLog;
    type Groups = PgLog;

    fn log(&self) -> &PgLog {
        &self.log
    }

    fn groups(&self) -> &PgLog {
        &self.log
    }

    async fn pass(&self, seconds: u32) {
        let earlier = format!("UPDATE coldstream.group_events SET due_at = due_at - interval '{seconds} seconds'");
        self.database.run(&earlier).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consumer_groups_on_postgresql_pass_the_suite() {
    let rig = Rig::start().await;
    groups::run(async || {
        let database = rig.database(new_log()).await;
        Groups { log: database.open().await, database }
    })
    .await;
}

/// What streams and types are called here: what SQL's patterns, other alphabets and a careless concatenation trip over.
const STREAMS: [&str; 9] = ["a-1", "a-10", "a-b-1", "a_b-1", "ab-1", "a-%", "a-_", "a-ü\\'\"", "b-1"];
const TYPES: [&str; 6] = ["t", "t.u", "T", "%", "t\\", "ü"];

/// Months of events with odd names, some of which are pruned; live log and archive as one.
async fn odd_log(log: &Arc<PgLog>, random: &mut StdRng) -> TieredLog {
    let archive = Arc::new(MemoryArchive::default());
    log.set_simulated_now(at("2020-06-01T00:00:00Z")).await.expect("moved on");
    for month in 1..=4 {
        for number in 0..12 {
            let mut event = event(STREAMS.choose(random).expect("some"), &format!("{month}-{number}"));
            event.event_type = (*TYPES.choose(random).expect("some")).into();
            let request = AppendRequest { events: vec![event], ..AppendRequest::default() };
            let day = 1 + number / 2;
            log.append(recorded(&format!("2020-{month:02}-{day:02}T00:00:00Z"), request)).await.expect("acknowledged");
        }
    }
    archive.extend(prune_as_of(log, "2020-08-20T00:00:00Z").await);
    TieredLog::new(Arc::<PgLog>::clone(log), archive)
}

/// A filter that names some of what there is, and some of what there nearly is.
fn any_filter(random: &mut StdRng) -> Filter {
    let mut filter = Filter::default();
    let some = |random: &mut StdRng| if random.random_bool(0.5) { random.random_range(1..=3) } else { 0 };
    for _ in 0..some(random) {
        filter = filter.category(["a", "a_b", "ab", "b", "c"].choose(random).expect("some")).expect("a category");
    }
    for _ in 0..some(random) {
        filter = filter.event_type(TYPES.choose(random).expect("some")).expect("a type");
    }
    for _ in 0..some(random) {
        let stream: Vec<char> = STREAMS.choose(random).expect("some").chars().collect();
        let prefix: String = stream[..random.random_range(1..=stream.len())].iter().collect();
        filter = filter.stream_prefix(&prefix).expect("a prefix");
    }
    let mut instant = |filter: Filter, of: fn(Filter, Timestamp) -> Filter| match random.random_bool(0.3) {
        true => {
            let (month, day) = (random.random_range(1..=5), random.random_range(1..=7));
            of(filter, at(&format!("2020-{month:02}-{day:02}T00:00:00Z")))
        }
        false => filter,
    };
    let filter = instant(filter, Filter::recorded_from);
    instant(filter, Filter::recorded_before)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_postgresql_finds_is_what_the_filter_matches() {
    let rig = Rig::start().await;
    let log = Arc::new(rig.log(new_simulated("2020-01-01T00:00:00Z")).await);
    let mut random = random();
    let odd = odd_log(&log, &mut random).await;
    let pruned = log.log_head().await.expect("readable").pruned;
    assert!((12..48).contains(&pruned.get()), "{pruned} are archived only");
    for _ in 0..60 {
        search::agrees(&odd, &any_filter(&mut random)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_search_for_nothing_looks_at_so_much_and_no_more() {
    let rig = Rig::start().await;
    let log = rig.log(new_log()).await;
    let events = SEARCH_POSITIONS_MAX + 3;
    for part in (0..events).collect::<Vec<_>>().chunks(1000) {
        let events = part.iter().map(|number| event("a-1", &number.to_string())).collect();
        log.append(AppendRequest { events, ..AppendRequest::default() }).await.expect("acknowledged");
    }
    let nothing = Filter::default().category("b").expect("a filter");
    let bound = SEARCH_POSITIONS_MAX as u64;
    let ends =
        [(1, Direction::Forward, bound), (bound + 3, Direction::Backward, 4), (4, Direction::Forward, bound + 3)];
    for (from, direction, end) in ends {
        let from = Position::new(from).expect("from 1");
        let found = log.search_log(from, direction, &nothing, 1).await.expect("readable");
        assert_eq!(
            (found.records.len(), found.to.map(|to| to.position.get())),
            (0, Some(end)),
            "{direction:?} from {from}"
        );
    }
    let all = log.search_log(Position::FIRST, Direction::Forward, &Filter::default(), 5).await.expect("readable");
    assert_eq!(
        (all.records.len(), all.to.map(|to| to.position.get())),
        (5, Some(5)),
        "it ends with the last that is wanted"
    );
}
