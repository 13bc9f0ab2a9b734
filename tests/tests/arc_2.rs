//! ARC-2: nothing is pruned before its segment was re-read and matched in two independent stores and is covered by a
//! checkpoint that both regions signed; until then it stays, and `status` says why. What is pruned is really gone: the
//! live database grows with the window and the number of streams, not with history.

use std::fs;

use domain::Timestamp;
use domain::append::AppendRequest;
use domain::archive::catalog::{Catalog, Segment};
use domain::archive::layout;
use domain::event::{Data, NewEvent};
use domain::log::LogReader;
use domain::{Position, StreamName};
use event_log::PgLog;
use ops::dev::Region;
use sqlx::{Connection, PgConnection};
use system_tests::regions::{
    Api, History, Pair, Setting, Truth, append, at, is_whole, number, open, seed, single, table_bytes, until,
};

const EVENTS: usize = 1300;
const STREAMS: usize = 100;
const NOT_CONFIRMED: &str = "2025-01 has to stay: the segment from 1 is not confirmed by the other store";

fn setting(now: Timestamp) -> Setting {
    let settings = vec![("archive.sealing.segment_bytes", (64 << 10).into())];
    Setting { now, window_months: 1, settings }
}

async fn pruned(region: &Region) -> u64 {
    number(&Api::of(region).status().await.pruned)
}

async fn prunes_up_to(region: &Region, last: u64) {
    until(&format!("{} prunes up to {last}", region.name), async || (pruned(region).await == last).then_some(())).await;
}

/// Waits for what the region's own worker says of pruning to name all of `doubts`, and for two more of its rounds;
/// nothing leaves the live log meanwhile.
async fn stays_because(region: &Region, doubts: &[&str]) {
    let api = Api::of(region);
    let before = pruned(region).await;
    let rounds = until(&format!("the status of {} names {doubts:?}", region.name), async || {
        let status = api.status().await;
        let worker = &status.workers["prune"];
        doubts.iter().all(|doubt| worker.note.contains(doubt)).then_some(worker.rounds)
    })
    .await;
    until("more rounds", async || (api.status().await.workers["prune"].rounds >= rounds + 2).then_some(())).await;
    let waiting = api.run().await.waiting.expect("a month waits");
    assert!(doubts.iter().all(|doubt| waiting.contains(doubt)), "{waiting}");
    assert_eq!(pruned(region).await, before, "{}: nothing has left", region.name);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_month_stays_until_two_stores_hold_it_and_both_regions_have_signed_it() {
    let start = at("2025-01-01T00:00:00Z");
    let month = |n| start.months_after(n).expect("a month");
    let mut pair = Pair::set_up(&setting(start)).await;
    let (mut history, mut truth) = (History::new(seed(), STREAMS), Truth::default());
    pair.move_to(month(1)).await;
    append(&pair.log, history.month(start, EVENTS)).await;
    truth.learn(&pair.log).await;
    let first_month = truth.head().get();
    pair.move_to(month(2)).await;

    pair.home.serve().await.expect("home serves");
    let home = Api::of(&pair.home);
    until("home has sealed it", async || (number(&home.archive().await.archived_head) == first_month).then_some(()))
        .await;
    stays_because(&pair.home, &[NOT_CONFIRMED, "no checkpoint is signed by both regions"]).await;
    the_database_refuses_by_itself(&pair.home, (start, first_month), "not confirmed by the other store").await;

    let damaged = damage_first_segment(&pair).await;
    pair.dr.serve().await.expect("dr serves");
    dr_does_not_take_it(&pair).await;
    stays_because(&pair.home, &[NOT_CONFIRMED]).await;
    fs::write(&damaged.0, damaged.1).expect("put right");
    for region in [&pair.home, &pair.dr] {
        prunes_up_to(region, first_month).await;
        assert_eq!(is_whole(region, truth.head()).await.0, first_month);
        truth.is_the_log_of(region).await;
    }

    append(&pair.log, history.month(month(2), EVENTS)).await;
    truth.learn(&pair.log).await;
    verified_once_is_no_copy_now(&mut pair, &mut truth, month(4)).await;
    truth.are_the_streams_of(&pair.dr).await;
    pair.end().await;
}

/// The service's own role, with the pruning function alone, gets no further than the archiver.
async fn the_database_refuses_by_itself(region: &Region, (start, last): (Timestamp, u64), doubt: &str) {
    let mut service = PgConnection::connect(&region.database_url()).await.expect("connected");
    let detach = format!("SELECT coldstream.detach_partition('{start}', 1, {last})");
    let refused = sqlx::query(&detach).execute(&mut service).await.expect_err("refused").to_string();
    assert!(refused.contains(doubt), "{refused}");
    assert_eq!(pruned(region).await, 0);
}

/// Flips a byte of the first segment in home's bucket; returns its file and what was in it.
async fn damage_first_segment(pair: &Pair) -> (std::path::PathBuf, Vec<u8>) {
    let segment = first_segment(&pair.log).await;
    let file = pair.home.object_file(&layout::segment(&segment));
    let good = fs::read(&file).expect("an object");
    let mut bad = good.clone();
    bad[good.len() / 3] ^= 0x10;
    fs::write(&file, bad).expect("damaged");
    (file, good)
}

async fn first_segment(log: &PgLog) -> Segment {
    let entry = log.segment_holding(Position::FIRST).await.expect("a catalog");
    entry.expect("the first segment").segment
}

/// Dr has all events and finds that home's object does not hold them: it says so, and neither keeps nor confirms it.
async fn dr_does_not_take_it(pair: &Pair) {
    let dr = Api::of(&pair.dr);
    let error = until("dr's mirror fails", async || {
        let status = dr.status().await;
        let worker = &status.workers["mirror"];
        (worker.state == "failing").then(|| worker.error.clone().unwrap_or_default())
    })
    .await;
    let archive = dr.archive().await;
    let events = dr.status().await.head;
    if error.contains("the segment from position 1 in the other region's bucket was not accepted") {
        assert_eq!((archive.segments.as_str(), archive.confirmed.as_str()), ("0", "0"), "{events} events, {error}");
    } else {
        panic!("{error}");
    }
}

/// Confirmed and signed by both is not enough where the own object has gone since; the copy in dr's bucket heals it,
/// also while dr's server is down.
async fn verified_once_is_no_copy_now(pair: &mut Pair, truth: &mut Truth, later: Timestamp) {
    let head = truth.head().get();
    let (now, before) = (pair.log.log_head().await.expect("readable").recorded_at, pruned(&pair.home).await);
    pair.move_to(now.month_start().months_after(1).expect("a month")).await;
    let home = Api::of(&pair.home);
    until("both stores hold the second month, and both have signed", async || {
        let archive = home.archive().await;
        let done = archive.confirmed == archive.segments && archive.cosigned_head == Some(head.to_string());
        (done && number(&archive.archived_head) == head).then_some(())
    })
    .await;
    assert_eq!(pruned(&pair.home).await, before, "it is inside the window");
    pair.dr.kill_server().await.expect("killed");

    let at = Position::new(head).expect("from 1");
    let newest = pair.log.segment_holding(at).await.expect("a catalog").expect("the newest segment").segment;
    let file = pair.home.object_file(&layout::index(&newest));
    fs::remove_dir_all(file.parent().expect("a folder")).expect("deleted");
    pair.move_to(later).await;
    stays_because(
        &pair.home,
        &[&format!("2025-03 has to stay: the segment from {} was not found whole in the own store", newest.first)],
    )
    .await;
    assert_eq!(Api::of(&pair.home).scrub().await.damaged, "1");
    prunes_up_to(&pair.home, head).await;
    pair.dr.serve().await.expect("dr serves again");
    prunes_up_to(&pair.dr, head).await;
    // The one event since then says what the scrub healed.
    for region in [&pair.home, &pair.dr] {
        until("the finding is on the record", async || {
            (number(&Api::of(region).status().await.head) == head + 1).then_some(())
        })
        .await;
    }
    truth.learn(&pair.log).await;
    for region in [&pair.home, &pair.dr] {
        assert_eq!(is_whole(region, truth.head()).await.0, head);
        truth.is_the_log_of(region).await;
    }
}

/// Revisions of content items: each item in turn.
fn revisions(month: Timestamp, numbers: std::ops::Range<usize>, items: usize) -> Vec<AppendRequest> {
    let event = |number: usize| {
        let kind = if number < items { "created" } else { "revised" };
        NewEvent {
            id: number.to_string(),
            source: "/tests".into(),
            event_type: format!("content.{kind}"),
            stream: StreamName::of("content", &format!("folder/item-{}", number % items)).expect("a name"),
            time: None,
            event_version: None,
            data_schema: None,
            data_content_type: Some("application/json".into()),
            extensions: Vec::new(),
            data: Data::Json(format!(
                r#"{{"author":"a{}","change":"c{number}","oid":"{number:040x}","mode":"100644","size":{number}}}"#,
                number % 7
            )),
        }
    };
    let all: Vec<usize> = numbers.collect();
    let request = |some: &[usize]| {
        let events = some.iter().map(|number| event(*number)).collect();
        AppendRequest { events, recorded_at: Some(month), ..AppendRequest::default() }
    };
    all.chunks(50).map(request).collect()
}

/// Table and index bytes of a region that has archived `archived` events of 300 items and keeps 4,000 live.
async fn live_bytes(archived: usize) -> u64 {
    let (items, live) = (300, 4000);
    let start = at("2025-01-01T00:00:00Z");
    let month = |n| start.months_after(n).expect("a month");
    let (mut region, _folder) = single(&Setting { now: start, window_months: 1, settings: Vec::new() }).await;
    let log = open(&region).await;
    region.serve().await.expect("it serves");
    for (n, quarter) in (0..).zip(0..4) {
        log.set_simulated_now(month(n)).await.expect("moved");
        append(&log, revisions(month(n), archived * quarter / 4..archived * (quarter + 1) / 4, items)).await;
    }
    log.set_simulated_now(month(4)).await.expect("moved");
    append(&log, revisions(month(4), archived..archived + live, items)).await;
    log.set_simulated_now(month(5)).await.expect("moved");
    prunes_up_to(&region, archived as u64).await;
    let api = Api::of(&region);
    until("the view has caught up", async || {
        let at = format!("at {}", archived + live);
        (api.status().await.workers["content view"].note == at).then_some(())
    })
    .await;
    log.maintain().await.expect("maintained");
    let bytes = table_bytes(&region).await;
    log.shut_down().await;
    region.end().await.expect("it ends");
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_times_the_archived_events_need_no_larger_live_database() {
    let (one, ten) = tokio::join!(live_bytes(3_000), live_bytes(30_000));
    println!("{one} bytes live after 3,000 archived events, {ten} after 30,000");
    assert!(one.abs_diff(ten) * 10 <= one.min(ten), "{one} and {ten} bytes differ by more than a tenth");
}
