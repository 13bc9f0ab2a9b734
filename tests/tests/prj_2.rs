//! PRJ-2: live views hold the window; what is older is recalled on demand.

mod prj_common;

use std::sync::Arc;

use domain::append::AppendRequest;
use domain::log::{Direction, EventLog, LogReader, ReadError};
use domain::record::Record;
use domain::twin::{Between, Interposed};
use domain::{ErrorKind, StreamName, StreamVersion};
use prj_common::{History, Rig, at, empty_log, event, form, is_the_fold};
use projections::content::{ContentNow, Counts, Item, ItemState, Lookup};
use projections::runner::Step;
use sqlx::{Connection, PgConnection, Row};

async fn live(rig: &Rig, id: &str) -> Item {
    match rig.content().get(id).await.expect("readable") {
        Lookup::Live(item) => item,
        other => panic!("{id} is not live: {other:?}"),
    }
}

#[tokio::test]
async fn what_did_not_change_within_the_window_leaves_a_stub_and_comes_back_by_recall() {
    let rig = Rig::start("2026-01-31T23:00:00Z").await;
    rig.append("old", "content.created", &form("1")).await;
    rig.append("old", "content.revised", &form("2")).await;
    rig.append("gone", "content.created", &form("3")).await;
    rig.append("gone", "content.deleted", r#"{"author":"x","change":"y"}"#).await;
    rig.clock.set(at("2026-02-01T00:00:00Z"));
    rig.append("young", "content.created", &form("4")).await;
    rig.runner().catch_up().await.expect("caught up");
    let old = live(&rig, "old").await;

    // The last instant at which January is inside the window, then the first at which it is out.
    rig.clock.set(at("2026-07-31T23:59:59Z"));
    assert!(matches!(rig.runner().step().await.expect("a step"), Step::Swept { .. }));
    assert_eq!(live(&rig, "old").await, old);
    rig.clock.set(at("2026-08-01T00:00:00Z"));
    let cutoff = at("2026-02-01T00:00:00Z");
    assert_eq!(rig.runner().step().await.expect("a step"), Step::Swept { cutoff });
    assert_eq!(is_the_fold(&rig).await.cutoff, cutoff);

    let content = rig.content();
    assert_eq!(content.get("old").await.expect("readable"), Lookup::Archived(old.stub.clone()));
    let Lookup::Archived(gone) = content.get("gone").await.expect("readable") else { panic!("archived") };
    assert_eq!(gone.state, ItemState::Deleted);
    assert_eq!(live(&rig, "young").await.form.map(|form| form.oid).as_deref(), Some("4"));
    assert_eq!(content.get("never").await.expect("readable"), Lookup::Never);

    assert_eq!(content.recall("old").await.expect("recalled"), Lookup::Recalled(old.clone()));
    assert_eq!(content.get("old").await.expect("readable"), Lookup::Recalled(old));
    assert_eq!(content.recall("young").await.expect("live"), Lookup::Live(live(&rig, "young").await));
    assert_eq!(content.recall("never").await.expect("readable"), Lookup::Never);
    is_the_fold(&rig).await;
}

#[tokio::test]
async fn a_recalled_item_stays_until_the_next_sweep() {
    let rig = Rig::start("2026-01-15T00:00:00Z").await;
    rig.append("a", "content.created", &form("1")).await;
    rig.clock.set(at("2026-09-01T00:00:00Z"));
    rig.runner().catch_up().await.expect("caught up");
    let content = rig.content();
    content.recall("a").await.expect("recalled");
    rig.append("b", "content.created", &form("2")).await;
    rig.runner().catch_up().await.expect("caught up");
    assert!(matches!(content.get("a").await.expect("readable"), Lookup::Recalled(_)));
    rig.clock.set(at("2026-10-01T00:00:00Z"));
    rig.runner().catch_up().await.expect("swept");
    assert!(matches!(content.get("a").await.expect("readable"), Lookup::Archived(_)));
    let counts = Counts { living: 1, not_living: 0, archived: 1, recalled: 0 };
    assert_eq!(content.counts().await.expect("readable"), counts);
}

#[tokio::test]
async fn a_change_brings_an_archived_item_back_with_what_is_known_of_it() {
    let rig = Rig::start("2026-01-15T00:00:00Z").await;
    for id in ["recalled", "archived"] {
        rig.append(id, "content.created", &form("1")).await;
        rig.append(id, "content.revised", &form("2")).await;
    }
    rig.clock.set(at("2026-09-01T00:00:00Z"));
    rig.runner().catch_up().await.expect("caught up");
    rig.content().recall("recalled").await.expect("recalled");
    for id in ["recalled", "archived"] {
        rig.append(id, "content.revised", &form("3")).await;
    }
    rig.runner().catch_up().await.expect("caught up");
    for id in ["recalled", "archived"] {
        let item = live(&rig, id).await;
        assert_eq!((item.stub.revisions, item.stub.version.get()), (2, 3));
        assert_eq!(item.stub.created.map(|created| created.recorded_at), Some(at("2026-01-15T00:00:00Z")));
    }
    let counts = Counts { living: 2, not_living: 0, archived: 0, recalled: 0 };
    assert_eq!(rig.content().counts().await.expect("readable"), counts);
}

#[tokio::test]
async fn a_history_older_than_the_window_never_enters_the_live_rows() {
    let rig = Rig::start("2024-01-01T00:00:00Z").await;
    History::new(5, "2024-01-01T00:00:00Z", 50, 6).go_on(&rig.log, &rig.clock, 400).await;
    rig.clock.set(at("2026-01-01T00:00:00Z"));
    rig.runner().with_batches_of(60).catch_up().await.expect("caught up");
    let counts = rig.content().counts().await.expect("readable");
    assert_eq!((counts.living, counts.not_living), (0, 0));
    assert!(counts.archived > 40, "{counts:?}");
    is_the_fold(&rig).await;
}

#[tokio::test]
async fn a_clock_that_goes_back_brings_nothing_back() {
    let rig = Rig::start("2026-01-15T00:00:00Z").await;
    rig.append("a", "content.created", &form("1")).await;
    rig.clock.set(at("2026-09-01T00:00:00Z"));
    let before = rig.runner().catch_up().await.expect("caught up");
    rig.clock.set(at("2026-01-15T00:00:00Z"));
    assert_eq!(rig.runner().catch_up().await.expect("caught up"), before);
    assert!(matches!(rig.content().get("a").await.expect("readable"), Lookup::Archived(_)));
}

/// An archive that gives another item's records than the ones that are asked for, or none.
struct Wrong {
    instead: Option<&'static str>,
}

#[async_trait::async_trait]
impl Between for Wrong {
    async fn read_stream(
        &self,
        log: &dyn LogReader,
        _: &StreamName,
        from: StreamVersion,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<Record>, ReadError> {
        let Some(other) = self.instead else { return Ok(Vec::new()) };
        let other = StreamName::of("content", other).expect("a name");
        log.read_stream(&other, from, direction, limit).await
    }
}

#[tokio::test]
async fn a_recall_never_serves_what_is_not_the_items_last_change() {
    let rig = Rig::start("2026-01-15T00:00:00Z").await;
    rig.append("a", "content.created", &form("1")).await;
    rig.append("b", "content.created", &form("2")).await;
    rig.clock.set(at("2026-09-01T00:00:00Z"));
    rig.runner().catch_up().await.expect("caught up");
    for instead in [None, Some("b")] {
        let reader = Arc::new(Interposed { log: Arc::clone(&rig.log), between: Wrong { instead } });
        let content = ContentNow::new(rig.pool.clone(), reader);
        let error = content.recall("a").await.expect_err("not served");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(matches!(content.get("a").await.expect("readable"), Lookup::Archived(_)));
    }
}

#[tokio::test]
async fn a_recall_beside_a_change_leaves_the_changed_item() {
    let rig = Rig::start("2026-01-15T00:00:00Z").await;
    for n in 0..40 {
        rig.append(&n.to_string(), "content.created", &form("old")).await;
    }
    rig.clock.set(at("2026-09-01T00:00:00Z"));
    rig.runner().catch_up().await.expect("caught up");
    for n in 0..40 {
        rig.append(&n.to_string(), "content.revised", &form("new")).await;
    }
    let (content, runner) = (rig.content(), rig.runner().with_batches_of(1));
    let recalls = async {
        for n in 0..40 {
            content.recall(&n.to_string()).await.expect("recalled or live");
        }
    };
    let (caught_up, ()) = tokio::join!(runner.catch_up(), recalls);
    caught_up.expect("caught up");
    for n in 0..40 {
        assert_eq!(live(&rig, &n.to_string()).await.form.map(|form| form.oid).as_deref(), Some("new"));
    }
    assert_eq!(content.counts().await.expect("readable").recalled, 0);
    is_the_fold(&rig).await;
}

#[tokio::test]
async fn a_stub_keeps_nothing_of_the_content_or_its_author() {
    let rig = Rig::start("2026-01-15T00:00:00Z").await;
    let secret = form("secret-oid").replace("85ec80be", "secret-author").replace("c-secret", "secret-change");
    rig.append("a", "content.created", &secret).await;
    rig.clock.set(at("2026-09-01T00:00:00Z"));
    rig.runner().catch_up().await.expect("caught up");
    let mut admin = PgConnection::connect(&rig.cluster.superuser_url("views")).await.expect("connected");
    let stub = sqlx::query("SELECT stub::text AS stub FROM view_content.stubs stub").fetch_one(&mut admin).await;
    let stub: String = stub.expect("one").get("stub");
    assert!(stub.starts_with("(a,living,") && !stub.contains("secret"), "{stub}");
}

#[tokio::test]
async fn a_sweep_gives_the_space_back() {
    let rig = Rig::start("2024-01-01T00:00:00Z").await;
    let bytes = || async {
        let mut admin = PgConnection::connect(&rig.cluster.superuser_url("views")).await.expect("connected");
        let sql = "SELECT pg_total_relation_size('view_content.items')";
        sqlx::query_scalar::<_, i64>(sql).fetch_one(&mut admin).await.expect("a size")
    };
    History::new(6, "2024-01-01T00:00:00Z", 3_000, 1).go_on(&rig.log, &rig.clock, 4_000).await;
    rig.runner().with_batches_of(500).catch_up().await.expect("caught up");
    let full = bytes().await;
    rig.clock.set(at("2026-01-01T00:00:00Z"));
    rig.runner().catch_up().await.expect("swept");
    let swept = bytes().await;
    assert!(full > 400_000 && swept < 40_000, "{full} bytes before, {swept} after");
}

#[tokio::test]
async fn ten_times_the_archived_events_of_the_same_items_take_the_same_space() {
    let mut rig = Rig::start("2024-01-01T00:00:00Z").await;
    let mut sizes = Vec::new();
    for revisions in [5, 50] {
        rig.log = empty_log(&rig.clock);
        let event = |nth: u64| event(nth, &format!("item-{}", nth % 300), "content.created", &form("1"));
        for nth in 0..revisions {
            let events = (300 * nth..300 * (nth + 1)).map(event).collect();
            let at = Some(at(&format!("2024-01-01T00:00:{nth:02}Z")));
            let request = AppendRequest { events, recorded_at: at, ..AppendRequest::default() };
            rig.log.append(request).await.expect("appended");
        }
        rig.clock.set(at("2026-01-01T00:00:00Z"));
        assert!(rig.runner().start_over().await.expect("emptied"));
        let progress = rig.runner().with_batches_of(290).catch_up().await.expect("caught up");
        assert_eq!(progress.checkpoint.get(), 300 * revisions);
        assert_eq!(rig.content().counts().await.expect("readable").archived, 300);
        let mut admin = PgConnection::connect(&rig.cluster.superuser_url("views")).await.expect("connected");
        let sql = "SELECT sum(pg_total_relation_size(oid))::bigint FROM pg_class \
            WHERE relkind = 'r' AND relnamespace = 'view_content'::regnamespace";
        sizes.push(sqlx::query_scalar::<_, i64>(sql).fetch_one(&mut admin).await.expect("a size"));
    }
    let [once, ten_times] = sizes[..] else { panic!("two sizes") };
    assert!(ten_times <= once + once / 10, "{once} bytes, then {ten_times}");
}
