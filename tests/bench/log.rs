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

fn main() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        single_appends_by_many_writers().await;
        an_import_of_twelve_years().await;
    });
}
