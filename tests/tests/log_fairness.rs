//! A client that sends huge batches and one that sends single events share a log: neither waits for all that the other has
//! queued, and neither takes up the room of the other.

mod log_common;

use std::sync::Arc;

use domain::append::{AppendError, AppendRequest, Appended};
use domain::event::{Data, NewEvent};
use domain::log::EventLog;
use event_log::{PgConfig, PgLog};
use log_common::{Database, Rig, event, is_sound, new_log};
use ops::clock::SystemClock;
use sqlx::{Executor, PgConnection};
use tokio::task::JoinHandle;

const MIB: usize = 1 << 20;

/// `mib` MiB in one request, or a single small event for 0.
fn request(source: &str, id: usize, mib: usize) -> AppendRequest {
    let one = |number: usize, payload: usize| NewEvent {
        source: source.into(),
        data: Data::Json(format!(r#""{}""#, "x".repeat(payload))),
        ..event(&format!("thing{source}-{id}").replace('/', ""), &format!("{id}/{number}"))
    };
    let events = (0..mib.max(1)).map(|number| one(number, if mib == 0 { 10 } else { MIB - 4096 })).collect();
    AppendRequest { events, ..AppendRequest::default() }
}

fn append(log: &Arc<PgLog>, request: AppendRequest) -> JoinHandle<Result<Appended, AppendError>> {
    let log = Arc::clone(log);
    tokio::spawn(async move { log.append(request).await })
}

async fn queued(log: &PgLog, requests: u64) {
    while log.metrics().queued_requests < requests {
        tokio::task::yield_now().await;
    }
}

async fn hold_head(database: &Database) -> PgConnection {
    let mut holder = database.superuser().await;
    holder.execute("BEGIN; SELECT FROM coldstream.log_head FOR UPDATE").await.expect("held");
    holder
}

/// One huge request is being committed and waits for the head; `more` of them wait behind it.
async fn behind_huge_ones(log: &Arc<PgLog>, more: usize) -> Vec<JoinHandle<Result<Appended, AppendError>>> {
    let mut huge = vec![append(log, request("/huge", 0, 8))];
    // Taken, since nothing waits any more though it is not answered.
    while log.metrics().queued_bytes == 0 || log.metrics().queued_requests > 0 {
        tokio::task::yield_now().await;
    }
    huge.extend((1..=more).map(|id| append(log, request("/huge", id, 8))));
    queued(log, more as u64).await;
    huge
}

async fn first_position(append: JoinHandle<Result<Appended, AppendError>>) -> u64 {
    append.await.expect("no panic").expect("acknowledged").events[0].position.get()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn single_events_wait_for_one_huge_batch_and_not_for_all() {
    let rig = Rig::start().await;
    let database = rig.database(new_log()).await;
    let log = Arc::new(database.open().await);
    let mut holder = hold_head(&database).await;
    let huge = behind_huge_ones(&log, 2).await;
    let small: Vec<_> = (0..20).map(|id| append(&log, request("/small", id, 0))).collect();
    queued(&log, 22).await;
    holder.execute("ROLLBACK").await.expect("let go");
    let mut of_huge = Vec::new();
    for append in huge {
        of_huge.push(first_position(append).await);
    }
    for append in small {
        let position = first_position(append).await;
        assert!((9..29).contains(&position), "behind the first huge batch and before the second: {position}");
    }
    of_huge.sort_unstable();
    assert_eq!(of_huge, [1, 29, 37]);
    assert_eq!(is_sound(&database).await.get(), 44);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whole_groups_are_built_while_the_ones_before_them_are_flushed() {
    let rig = Rig::start().await;
    let database = rig.database(new_log()).await;
    let config = PgConfig { group_events: 4, ..PgConfig::at(&database.url) };
    let log = Arc::new(PgLog::connect(config, Arc::new(SystemClock)).await.expect("the log opens"));
    let mut holder = hold_head(&database).await;
    let appends: Vec<_> = (0..42).map(|id| append(&log, request("/small", id, 0))).collect();
    // Some may have been taken already.
    queued(&log, 38).await;
    holder.execute("ROLLBACK").await.expect("let go");
    let mut positions = Vec::new();
    for append in appends {
        positions.push(first_position(append).await);
    }
    positions.sort_unstable();
    assert!(positions.into_iter().eq(1..=42), "each has a place of its own");
    assert_eq!(is_sound(&database).await.get(), 42);
    // All but the first one or two, and the last, which is not whole.
    let metrics = log.metrics();
    assert!(metrics.built_ahead >= 7, "{metrics:?}");
    // Those that still form are left to.
    log.append(request("/small", 42, 0)).await.expect("acknowledged");
    assert_eq!(log.metrics().built_ahead, metrics.built_ahead);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_fills_its_share_is_refused_and_another_is_not() {
    let rig = Rig::start().await;
    let database = rig.database(new_log()).await;
    let config = PgConfig { queue_bytes: 40 * MIB, ..PgConfig::at(&database.url) };
    let log = Arc::new(PgLog::connect(config, Arc::new(SystemClock)).await.expect("the log opens"));
    let mut holder = hold_head(&database).await;
    let huge = behind_huge_ones(&log, 1).await;
    let refused = log.append(request("/huge", 2, 8)).await.expect_err("its share is full");
    assert!(
        matches!(&refused, AppendError::Unavailable { reason, retry_after_seconds: Some(_) } if reason.contains("source")),
        "{refused}"
    );
    let small = append(&log, request("/small", 0, 0));
    queued(&log, 2).await;
    holder.execute("ROLLBACK").await.expect("let go");
    assert_eq!(first_position(small).await, 9);
    for append in huge {
        first_position(append).await;
    }
    let again = log.append(request("/huge", 2, 8)).await.expect("there is room again");
    assert_eq!(again.events.len(), 8);
    assert_eq!(is_sound(&database).await.get(), 25);
}
