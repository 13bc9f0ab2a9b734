//! How fast the log is on a private cluster with fsync on: figures to report, never a verdict. Run with
//! `cargo bench -p system-tests --bench log`, on a machine that does nothing else.

#[path = "../tests/log_common/mod.rs"]
mod log_common;

use std::sync::Arc;

use domain::append::AppendRequest;
use domain::log::EventLog;
use event_log::PgLog;
use futures::StreamExt;
use log_common::{Rig, event, is_sound, new_log, request};
use ops::clock::Stopwatch;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sqlx::{Executor, Row};
use uuid::Uuid;

/// Appends `requests`, `in_flight` at once, and prints events per second.
async fn measure(what: &str, log: &PgLog, requests: Vec<AppendRequest>, in_flight: usize) {
    let events: usize = requests.iter().map(|request| request.events.len()).sum();
    let watch = Stopwatch::start();
    let mut answers = futures::stream::iter(requests).map(|request| log.append(request)).buffered(in_flight);
    while let Some(answer) = answers.next().await {
        answer.expect("acknowledged");
    }
    let seconds = watch.elapsed().as_secs_f64();
    let metrics = log.metrics();
    println!("{what}: {events} events in {seconds:.3} s = {:.0} events/s; {metrics:?}", events as f64 / seconds);
}

async fn single_appends_by_many_writers() {
    let rig = Rig::start().await;
    for writers in [1_usize, 8, 64, 512] {
        let log = Arc::new(rig.log(new_log()).await);
        let per_writer = 40_000 / writers.max(40);
        let watch = Stopwatch::start();
        let tasks = (0..writers).map(|writer| {
            let log = Arc::clone(&log);
            tokio::spawn(async move {
                for number in 0..per_writer {
                    let stream = format!("thing-{}", (writer * 31 + number) % 5000);
                    log.append(request(&[(&stream, &format!("{writer}-{number}"))], &[])).await.expect("acknowledged");
                }
            })
        });
        futures::future::join_all(tasks).await;
        let seconds = watch.elapsed().as_secs_f64();
        let events = per_writer * writers;
        println!("{writers} writers: {:.0} events/s; {:?}", events as f64 / seconds, log.metrics());
        log.shut_down().await;
    }
}

async fn an_import_of_twelve_years() {
    let rig = Rig::start().await;
    let database = rig.database(new_log()).await;
    let log = database.open().await;
    // 50,000 events in 150 months, in requests of five: what a real history looks like.
    let start = log_common::at("2014-04-01T00:00:00Z").unix_micros();
    let month_micros = 30_436_875_i64 * 86_400;
    let requests = (0..10_000_i64).map(|number| AppendRequest {
        events: (0..5)
            .map(|i| {
                event(&format!("content-src/module/file_{}.rs", (number * 7 + i) % 9000), &format!("{number}/{i}"))
            })
            .collect(),
        recorded_at: Some(
            domain::Timestamp::from_unix_micros(start + number * month_micros * 148 / 10_000).expect("in range"),
        ),
        ..AppendRequest::default()
    });
    measure("import", &log, requests.collect(), 2000).await;
    assert_eq!(is_sound(&database).await.get(), 50_000);
    log.shut_down().await;
}

/// What it costs that each id is stored once (LOG-4): the rows of ids by themselves against the appends that they belong to.
async fn what_ids_cost() {
    const GROUPS: usize = 300;
    const EVENTS: usize = 1000;
    let rig = Rig::start().await;
    let database = rig.database(new_log()).await;
    let log = database.open().await;
    let requests = (0..GROUPS).map(|group| AppendRequest {
        events: (0..EVENTS).map(|i| event(&format!("thing-{}", i % 500), &format!("{group}/{i}"))).collect(),
        ..AppendRequest::default()
    });
    let watch = Stopwatch::start();
    let mut answers = futures::stream::iter(requests).map(|request| log.append(request)).buffered(8);
    while let Some(answer) = answers.next().await {
        answer.expect("acknowledged");
    }
    let all = watch.elapsed().as_secs_f64();
    let mut admin = database.superuser().await;
    admin.execute("CREATE TABLE ids (LIKE coldstream.event_ids INCLUDING ALL)").await.expect("a table");
    let insert =
        "INSERT INTO ids (id_hash, position) SELECT id, $2 + n FROM unnest($1::uuid[]) WITH ORDINALITY AS u (id, n)";
    let mut rng = StdRng::seed_from_u64(20_260_501);
    let watch = Stopwatch::start();
    for group in 0..GROUPS {
        // Sorted, as the appender writes them.
        let mut ids: Vec<Uuid> = (0..EVENTS).map(|_| Uuid::from_u128(rng.random())).collect();
        ids.sort_unstable();
        let first = i64::try_from(group * EVENTS).expect("few");
        sqlx::query(insert).bind(ids).bind(first).execute(&mut admin).await.expect("stored");
    }
    let ids = watch.elapsed().as_secs_f64();
    let sizes = "SELECT pg_total_relation_size('coldstream.event_ids') AS ids, sum(pg_total_relation_size(c.oid))::bigint AS rows
        FROM pg_class c WHERE c.relname LIKE 'events_2%' AND c.relkind = 'r'";
    let sizes = admin.fetch_one(sizes).await.expect("sizes");
    let (of_ids, of_rows): (i64, i64) = (sizes.get("ids"), sizes.get("rows"));
    let events = GROUPS * EVENTS;
    println!(
        "ids: {ids:.2} s by themselves, of {all:.2} s for {events} appended events ({:.0} %); {} bytes an event beside {} of its row",
        100.0 * ids / all,
        of_ids / i64::try_from(events).expect("few"),
        of_rows / i64::try_from(events).expect("few"),
    );
    log.shut_down().await;
}

fn main() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        single_appends_by_many_writers().await;
        an_import_of_twelve_years().await;
        what_ids_cost().await;
    });
}
