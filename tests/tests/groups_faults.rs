//! A consumer group on PostgreSQL whose calls fail or are dropped: nothing is passed over, and no transaction is left.

mod log_common;

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use domain::group::{
    ConsumerGroups, ConsumerName, Created, Group, GroupError, GroupName, Lease, Listed, NewGroup, Start, Take, look_on,
};
use domain::log::EventLog;
use domain::{ErrorKind, Head, Position};
use event_log::PgLog;
use log_common::{Database, Rig, new_log, request};
use ops::groups::{Groups, Wanted};
use sqlx::{Connection as _, Executor as _, PgConnection};
use system_tests::regions::until;
use tokio_util::sync::CancellationToken;

/// As many as one listing takes in.
const EVENTS: usize = 100;

/// A log of some events, each of a stream of its own, and a group that wants them all and has listed none.
async fn group(database: &Database) -> (Arc<PgLog>, Group) {
    let log = Arc::new(database.open().await);
    let streams: Vec<String> = (1..=EVENTS).map(|number| format!("a-{number}")).collect();
    let events: Vec<(&str, &str)> = streams.iter().map(|stream| (stream.as_str(), stream.as_str())).collect();
    log.append(request(&events, &[])).await.expect("acknowledged");
    let name = GroupName::parse("workers").expect("a name");
    let new = NewGroup { start: Start::From(Position::FIRST), ..NewGroup::called(name) };
    let Created::New(group) = log.create(&new).await.expect("created") else { panic!("it is new") };
    (log, group)
}

fn consumer() -> ConsumerName {
    ConsumerName::parse("one").expect("a name")
}

async fn take(groups: &Groups, group: &Group) -> Result<Option<Lease>, GroupError> {
    let consumer = consumer();
    let wanted = Wanted { consumer: &consumer, max: EVENTS, wait: Duration::from_secs(20) };
    let handed = groups.take(group, &wanted, &CancellationToken::new()).await;
    Ok(handed?.map(|handed| handed.lease))
}

/// Whether a session waits for a lock.
async fn one_waits(admin: &mut PgConnection) -> Option<()> {
    let waiting =
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
    let waiting: i64 = sqlx::query_scalar(waiting).fetch_one(admin).await.expect("counted");
    (waiting > 0).then_some(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_found_and_not_stored_is_found_again() {
    let rig = Rig::start().await;
    let database = rig.database(new_log()).await;
    let (log, group) = group(&database).await;
    let groups = Groups::new(log.clone(), log.clone());
    let (mut holder, mut admin) = (database.superuser().await, database.superuser().await);
    let mut held = holder.begin().await.expect("begun");
    held.execute("SELECT FROM coldstream.consumer_groups FOR UPDATE").await.expect("held");
    let error = take(&groups, &group).await.expect_err("the group's row is held for longer than anybody waits for it");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    let dropped = async {
        tokio::select! {
            taken = take(&groups, &group) => panic!("the row is held: {taken:?}"),
            () = until("it waits for the row", async || one_waits(&mut admin).await) => {}
        }
    };
    dropped.await;
    held.rollback().await.expect("released");
    let lease = take(&groups, &group).await.expect("answered").expect("what was there all the time");
    let positions: Vec<u64> = lease.events.iter().map(|event| event.position.get()).collect();
    assert_eq!(positions, (1..=EVENTS as u64).collect::<Vec<u64>>());
}

/// Drops `future` after so many polls; `None` if it had not ended by then.
async fn dropped_after<T>(polls: usize, future: impl Future<Output = T>) -> Option<T> {
    let (mut future, mut left) = (pin!(future), polls);
    let cut = poll_fn(|context| match left.checked_sub(1) {
        None => Poll::Ready(None),
        Some(fewer) => {
            left = fewer;
            future.as_mut().poll(context).map(Some)
        }
    });
    cut.await
}

/// Waits until no session of the service is in a transaction.
async fn no_transaction_is_left(database: &Database, why: &str) {
    let mut admin = database.superuser().await;
    let open = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'coldstream_app' AND state <> 'idle'";
    let mut pace = tokio::time::interval(Duration::from_millis(2));
    let ended = async {
        while sqlx::query_scalar::<_, i64>(open).fetch_one(&mut admin).await.expect("counted") > 0 {
            pace.tick().await;
        }
    };
    // The server itself ends a transaction in which nothing happens, after a minute.
    let ended = tokio::time::timeout(Duration::from_secs(20), ended).await;
    ended.unwrap_or_else(|_| panic!("a transaction is open: {why}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_take_that_is_dropped_anywhere_leaves_no_transaction_open() {
    let rig = Rig::start().await;
    let database = rig.database(new_log()).await;
    let (log, group) = group(&database).await;
    let listing = look_on(&*log, &group, Head::default(), EVENTS).await.expect("readable").expect("events");
    assert_eq!(log.list(&group, Head::default(), &listing).await.expect("listed"), Listed::Stored);
    for polls in 1..100 {
        let taken = dropped_after(polls, log.take(&group, &consumer(), 1)).await;
        no_transaction_is_left(&database, &format!("a take was dropped after {polls} polls")).await;
        if let Some(taken) = taken {
            assert!(polls > 2 && matches!(taken.expect("answered"), Take::Lease(_)), "{polls} polls");
            return;
        }
    }
    panic!("it never ends");
}
