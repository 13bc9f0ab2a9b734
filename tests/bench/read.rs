//! How fast the log is read, on one region of the real binary with fsync on: figures to report, never a verdict. Run with
//! `cargo bench -p system-tests --bench read` after `cargo build --release -p ops --bins`, on a machine that does nothing
//! else. READ_EVENTS says how many events are behind it; with `-- log`, `-- projection` or `-- stuck` that is measured alone.
//!
//! - *log*: `GET /v1/log` of everything, as it is and compressed, and a tail that catches up. The ceiling is what
//!   PostgreSQL gives of the same rows to the same client: one COPY to it.
//! - *subscription*: from the acknowledgement of an event to its arrival at a tail, at a steady rate of appends.
//! - *projection*: the view "content now" of a new server over a log that is there. The ceiling is the log read by the
//!   same port that the view reads it by, folded into nothing. The new server also seals and signs all of it meanwhile;
//!   what catching up takes by itself is the time of a rebuild beside, once it has nothing else to do.
//! - *stuck*: appends over HTTP while readers are stuck, against the same appends without them, in turns.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use domain::append::AppendRequest;
use domain::event::{Data, Extension, ExtensionValue, NewEvent};
use domain::log::{Direction, EventLog, LogReader};
use domain::{Head, Position, StreamName};
use event_log::PgLog;
use futures::{StreamExt, TryStreamExt};
use ops::clock::Stopwatch;
use ops::dev::postgres::for_measurements;
use ops::dev::region::{Plan, Region};
use projections::SessionLimits;
use projections::content::ContentView;
use projections::rebuild::{Differences, Rebuild, Watch};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sqlx::postgres::PgPoolCopyExt;
use system_tests::regions::open;
use system_tests::torture::plan;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

const SEED: u64 = 20_260_501;
/// Events a request, and requests at once, where a log is filled.
const FILL_EVENTS: usize = 500;
const FILL_REQUESTS: usize = 8;
const STREAMS: usize = 20_000;
/// The steady load of the subscription.
const APPENDS_PER_SECOND: usize = 2000;
const SECONDS: usize = 10;
const WRITERS: usize = 64;
/// Stuck readers, what the log holds before they come, appends of a turn, and pairs of turns.
const STUCK_READERS: usize = 150;
const STUCK_BEHIND: usize = 50_000;
const STUCK_APPENDS: usize = 30_000;
const STUCK_PAIRS: usize = 9;
/// Bytes of an event's payload and of its metadata.
const PAYLOAD_BYTES: usize = 300;
const METADATA_BYTES: usize = 100;

fn events() -> usize {
    std::env::var("READ_EVENTS").map_or(500_000, |text| text.parse().expect("READ_EVENTS is a number"))
}

fn letters(rng: &mut StdRng, count: usize) -> String {
    (0..count).map(|_| char::from(rng.random_range(b'a'..=b'z'))).collect()
}

/// An event of 300 bytes of payload and 100 of metadata.
fn order(rng: &mut StdRng, id: &str) -> NewEvent {
    let stream = format!("order-{}", rng.random_range(0..STREAMS));
    NewEvent {
        id: id.to_owned(),
        source: "/bench".into(),
        event_type: "order.changed".into(),
        stream: StreamName::parse(&stream).expect("a name"),
        time: None,
        event_version: None,
        data_schema: None,
        data_content_type: None,
        extensions: vec![Extension {
            name: "note".into(),
            value: ExtensionValue::String(letters(rng, METADATA_BYTES)),
        }],
        data: Data::Json(format!(r#"{{"payload":"{}"}}"#, letters(rng, PAYLOAD_BYTES))),
    }
}

/// A change of content; what is created first is revised later.
fn content(rng: &mut StdRng, number: usize) -> NewEvent {
    let (item, kind) = if number < STREAMS { (number, "created") } else { (rng.random_range(0..STREAMS), "revised") };
    let data = format!(
        r#"{{"author":"{:08x}","change":"{number:040x}","oid":"{:040x}","mode":"100644","size":{}}}"#,
        rng.random::<u32>(),
        rng.random::<u128>(),
        rng.random_range(1..100_000),
    );
    NewEvent {
        event_type: format!("content.{kind}"),
        stream: StreamName::of("content", &format!("src/module/file-{item}.rs")).expect("a name"),
        data: Data::Json(data),
        extensions: Vec::new(),
        ..order(rng, &number.to_string())
    }
}

/// Appends `count` events, in their order.
async fn fill(log: &PgLog, count: usize, mut make: impl FnMut(&mut StdRng, usize) -> NewEvent) {
    let mut rng = StdRng::seed_from_u64(SEED);
    let requests = (0..count.div_ceil(FILL_EVENTS)).map(|request| {
        let numbers = request * FILL_EVENTS..((request + 1) * FILL_EVENTS).min(count);
        AppendRequest { events: numbers.map(|number| make(&mut rng, number)).collect(), ..AppendRequest::default() }
    });
    let mut answers = futures::stream::iter(requests).map(|request| log.append(request)).buffered(FILL_REQUESTS);
    while answers.next().await.transpose().expect("acknowledged").is_some() {}
}

/// A region of the real binary, and a way into its log beside its server. The server is not started.
async fn region(folder: &std::path::Path) -> (Region, PgLog) {
    let plan = Plan { postgres: for_measurements(), ..plan(folder, None) };
    let region = Region::single(&plan).await.expect("a region");
    let log = open(&region).await;
    (region, log)
}

fn rate(what: &str, events: usize, seconds: f64, ceiling: Option<f64>) -> f64 {
    let rate = events as f64 / seconds;
    let share = ceiling.map_or(String::new(), |ceiling| format!(", {:.2} × the ceiling", rate / ceiling));
    println!("{what:<44} {rate:>10.0} events/s{share}");
    rate
}

/// Reads `GET path` until it has had `count` lines that are records.
async fn read_lines(region: &Region, path: &str, coding: Option<&str>, count: usize) -> f64 {
    let http = reqwest::Client::new();
    let mut request = http.get(format!("{}{path}", region.url)).bearer_auth(&region.tokens.reader);
    if let Some(coding) = coding {
        request = request.header("accept-encoding", coding);
    }
    let watch = Stopwatch::start();
    let answer = request.send().await.expect("an answer").error_for_status().expect("served");
    let coded = answer.headers().contains_key("content-encoding");
    assert_eq!(coded, coding.is_some(), "it is coded where that was asked for");
    let mut pieces = answer.bytes_stream();
    let mut lines = Lines::new(coded);
    while lines.records < count {
        let piece = pieces.try_next().await.expect("it goes on").expect("it has all of them");
        lines.take(&piece);
    }
    assert_eq!(lines.records, count);
    watch.elapsed().as_secs_f64()
}

/// Counts the records of an answer; an empty line is a sign of life.
struct Lines {
    decoder: Option<zstd::stream::write::Decoder<'static, Vec<u8>>>,
    records: usize,
    last: u8,
}

impl Lines {
    fn new(coded: bool) -> Self {
        let decoder = coded.then(|| zstd::stream::write::Decoder::new(Vec::new()).expect("a decoder"));
        Self { decoder, records: 0, last: b'\n' }
    }

    fn take(&mut self, piece: &[u8]) {
        match self.decoder.take() {
            None => self.count(piece),
            Some(mut decoder) => {
                std::io::Write::write_all(&mut decoder, piece).expect("it is zstd");
                std::io::Write::flush(&mut decoder).expect("it is zstd");
                let plain = std::mem::take(decoder.get_mut());
                self.count(&plain);
                self.decoder = Some(decoder);
            }
        }
    }

    fn count(&mut self, plain: &[u8]) {
        let before = |at: usize| at.checked_sub(1).map_or(self.last, |before| plain[before]);
        self.records += memchr::memchr_iter(b'\n', plain).filter(|end| before(*end) != b'\n').count();
        self.last = plain.last().copied().unwrap_or(self.last);
    }
}

/// Reads all rows by one COPY; returns how many bytes they have.
async fn copied(pool: &sqlx::PgPool) -> usize {
    let rows = "COPY (SELECT * FROM coldstream.events ORDER BY position) TO STDOUT (FORMAT binary)";
    let pieces = pool.copy_out_raw(rows).await.expect("a copy");
    pieces.try_fold(0, |bytes, piece| async move { Ok(bytes + piece.len()) }).await.expect("rows")
}

/// The log over HTTP against one COPY of the same rows.
async fn the_log(region: &Region, count: usize) {
    let pool = sqlx::PgPool::connect(&region.superuser_url()).await.expect("connected");
    // The first one of each fills what caches there are.
    copied(&pool).await;
    let watch = Stopwatch::start();
    let bytes = copied(&pool).await;
    println!("\nlog: {count} events, {} MB as rows", bytes / 1_000_000);
    let ceiling = rate("ceiling: one COPY to the same client", count, watch.elapsed().as_secs_f64(), None);
    for (what, path, coding) in [
        ("GET /v1/log", "/v1/log?from=1", None),
        ("GET /v1/log, zstd", "/v1/log?from=1", Some("zstd")),
        ("a tail from the start (follow=true)", "/v1/log?from=1&follow=true", None),
    ] {
        read_lines(region, path, coding, count).await;
        rate(what, count, read_lines(region, path, coding, count).await, Some(ceiling));
    }
    pool.close().await;
}

/// Returns when the server has folded and sealed everything, so that reads have the machine.
async fn settled(region: &Region, count: usize) {
    let http = reqwest::Client::new();
    folded(&http, region, count).await;
    let run = http.post(format!("{}/v1/admin/archive-run", region.url)).bearer_auth(&region.tokens.operator);
    let run = run.json(&serde_json::json!({"everything": true})).send().await.expect("an answer");
    run.error_for_status().expect("sealed");
}

/// Returns when the view has folded the first `count` events.
async fn folded(http: &reqwest::Client, region: &Region, count: usize) {
    let url = format!("{}/v1/content/list?limit=1&at_least={count}", region.url);
    loop {
        let answer = http.get(&url).bearer_auth(&region.tokens.reader).send().await.expect("an answer");
        if answer.status().is_success() {
            return;
        }
    }
}

/// When an event of the steady load was sent, acknowledged and seen.
#[derive(Default, Clone, Copy)]
struct Times {
    sent: Duration,
    acknowledged: Duration,
    seen: Duration,
}

/// Appends at a steady rate, and what a tail sees of it.
async fn a_subscription(region: &Region, head: usize) {
    let watch = Stopwatch::start();
    let total = APPENDS_PER_SECOND * SECONDS;
    let reading = tokio::spawn(follow(region.url.clone(), region.tokens.reader.clone(), head, total, watch));
    let (due, arrivals) = mpsc::channel::<NewEvent>(total);
    let writers = writers(region, arrivals, watch);
    let mut rng = StdRng::seed_from_u64(SEED);
    let mut pace = interval(Duration::from_millis(5));
    pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for number in 0..total {
        if number % (APPENDS_PER_SECOND / 200) == 0 {
            pace.tick().await;
        }
        due.try_send(order(&mut rng, &format!("live-{number}"))).expect("there is room for all");
    }
    drop(due);
    let mut times: HashMap<String, Times> = HashMap::new();
    for writer in writers {
        times.extend(writer.await.expect("a writer ends"));
    }
    for (id, seen) in reading.await.expect("the reader ends") {
        times.get_mut(&id).expect("it was appended").seen = seen;
    }
    println!("\nsubscription: {APPENDS_PER_SECOND} appends a second for {SECONDS} s, {} events", times.len());
    percentiles(
        "commit, as its writer sees it",
        times.values().map(|times| times.acknowledged.saturating_sub(times.sent)),
    );
    percentiles(
        "from the acknowledgement to the tail",
        times.values().map(|times| times.seen.saturating_sub(times.acknowledged)),
    );
    percentiles("from sending to the tail", times.values().map(|times| times.seen.saturating_sub(times.sent)));
}

/// Writers over HTTP that share what is due.
fn writers(region: &Region, due: mpsc::Receiver<NewEvent>, watch: Stopwatch) -> Vec<JoinHandle<Vec<(String, Times)>>> {
    let due = Arc::new(tokio::sync::Mutex::new(due));
    let begin = |_| tokio::spawn(write(region.url.clone(), region.tokens.appender.clone(), Arc::clone(&due), watch));
    (0..WRITERS).map(begin).collect()
}

async fn write(
    url: String,
    token: String,
    arrivals: Arc<tokio::sync::Mutex<mpsc::Receiver<NewEvent>>>,
    watch: Stopwatch,
) -> Vec<(String, Times)> {
    let http = reqwest::Client::new();
    let mut times = Vec::new();
    loop {
        let next = arrivals.lock().await.recv().await;
        let Some(event) = next else { return times };
        let id = event.id.clone();
        let body = AppendRequest { events: vec![event], ..AppendRequest::default() }.to_document();
        let request = http.post(format!("{url}/v1/append")).bearer_auth(&token);
        let request = request.header("content-type", "application/vnd.coldstream.append+json").body(body);
        let sent = watch.elapsed();
        request.send().await.expect("an answer").error_for_status().expect("acknowledged");
        times.push((id, Times { sent, acknowledged: watch.elapsed(), seen: Duration::ZERO }));
    }
}

/// Follows the log after `head` until it has seen `total` records: their ids, and when each was there.
async fn follow(url: String, token: String, head: usize, total: usize, watch: Stopwatch) -> Vec<(String, Duration)> {
    let request = reqwest::Client::new().get(format!("{url}/v1/log?from={}&follow=true", head + 1));
    let answer = request.bearer_auth(token).send().await.expect("an answer").error_for_status().expect("served");
    let (mut pieces, mut pending, mut seen) = (answer.bytes_stream(), Vec::new(), Vec::new());
    while seen.len() < total {
        let piece = pieces.try_next().await.expect("it goes on").expect("a tail has no end");
        let now = watch.elapsed();
        pending.extend_from_slice(&piece);
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            if line.len() > 1 {
                let record: serde_json::Value = serde_json::from_slice(&line).expect("JSON");
                seen.push((record["id"].as_str().expect("an id").to_owned(), now));
            }
        }
    }
    seen
}

fn percentiles(what: &str, delays: impl Iterator<Item = Duration>) {
    let mut delays: Vec<Duration> = delays.collect();
    delays.sort_unstable();
    let at = |thousandth: usize| delays[(delays.len() - 1) * thousandth / 1000].as_secs_f64() * 1000.0;
    let (p50, p99, p999, max) = (at(500), at(990), at(999), at(1000));
    println!("{what:<44} p50 {p50:.2} ms, p99 {p99:.2} ms, p99.9 {p999:.2} ms, max {max:.2} ms");
}

/// How long a rebuild has taken to fold so many events.
struct FoldedAfter {
    events: usize,
    watch: Stopwatch,
    seconds: OnceLock<f64>,
}

impl Watch for FoldedAfter {
    fn reached(&self, _step: &'static str) {}

    fn folded(&self, checkpoint: Head, _live: Head) {
        if checkpoint.get() >= u64::try_from(self.events).expect("few") {
            self.seconds.get_or_init(|| self.watch.elapsed().as_secs_f64());
        }
    }
}

/// A new server's view over a log of content.
async fn a_projection(count: usize) {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut region, log) = region(folder.path()).await;
    fill(&log, count, content).await;
    println!("\nprojection: {count} events of {STREAMS} items");
    let (watch, mut next) = (Stopwatch::start(), Position::FIRST);
    loop {
        let page = log.read_log(next, Direction::Forward, 1000).await.expect("readable");
        let Some(last) = page.last() else { break };
        next = last.position().next();
    }
    let ceiling = rate("ceiling: the log, read and folded into nothing", count, watch.elapsed().as_secs_f64(), None);
    region.serve().await.expect("it serves");
    let watch = Stopwatch::start();
    folded(&reqwest::Client::new(), &region, count).await;
    rate("\"content now\", from its start", count, watch.elapsed().as_secs_f64(), Some(ceiling));
    settled(&region, count).await;
    let log = Arc::new(log);
    let pool = projections::pool(region.database_url().parse().expect("a URL"), 4, &SessionLimits::default());
    let folded = Arc::new(FoldedAfter { events: count, watch: Stopwatch::start(), seconds: OnceLock::new() });
    let rebuild = Rebuild::new(pool, log.clone(), ContentView, folded.clone());
    rebuild.run(Differences::Refused).await.expect("rebuilt");
    let seconds = folded.seconds.get().expect("it was folded");
    rate("the same, rebuilt beside it", count, *seconds, Some(ceiling));
    log.shut_down().await;
    region.end().await.expect("it ends");
}

/// The log, and a subscription to what comes after it.
async fn reading(count: usize) {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut region, log) = region(folder.path()).await;
    fill(&log, count, |rng, number| order(rng, &number.to_string())).await;
    region.serve().await.expect("it serves");
    settled(&region, count).await;
    the_log(&region, count).await;
    a_subscription(&region, count).await;
    log.shut_down().await;
    region.end().await.expect("it ends");
}

/// Appends as many events as fast as its writers can; events a second, and the server's processor for one in microseconds.
async fn appended(region: &Region, pid: u32, count: usize, round: &str) -> [f64; 2] {
    let (due, arrivals) = mpsc::channel(count);
    let mut rng = StdRng::seed_from_u64(SEED);
    for number in 0..count {
        due.try_send(order(&mut rng, &format!("{round}-{number}"))).expect("there is room for all");
    }
    drop(due);
    let (watch, before) = (Stopwatch::start(), used(pid));
    for writer in writers(region, arrivals, watch) {
        writer.await.expect("a writer ends");
    }
    let hundredths = used(pid) - before;
    [count as f64 / watch.elapsed().as_secs_f64(), hundredths as f64 * 10_000.0 / count as f64]
}

/// A tail from the start that takes nothing of its answer once that has begun.
async fn stuck(region: &Region) -> TcpStream {
    let mut stuck = TcpStream::connect(region.url.trim_start_matches("http://")).await.expect("connected");
    let authorization = format!("authorization: Bearer {}", region.tokens.reader);
    let head = format!("GET /v1/log?from=1&follow=true HTTP/1.1\r\nhost: x\r\n{authorization}\r\n\r\n");
    stuck.write_all(head.as_bytes()).await.expect("sent");
    stuck.readable().await.expect("its answer has begun");
    stuck
}

/// Processor that the server has used, in hundredths of a second.
fn used(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
    fields[11..13].iter().map(|ticks| ticks.parse::<u64>().expect("ticks")).sum()
}

/// Returns when the server has done all that its readers need of it.
async fn idle(pid: u32) {
    let mut look = interval(Duration::from_millis(250));
    let mut before = u64::MAX;
    loop {
        look.tick().await;
        let now = used(pid);
        if now.saturating_sub(before) <= 1 && before != u64::MAX {
            return;
        }
        before = now;
    }
}

/// The same appends with stuck readers and without, in turns.
async fn stuck_readers() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut region, log) = region(folder.path()).await;
    // More than the sockets of a reader hold.
    fill(&log, STUCK_BEHIND, |rng, number| order(rng, &number.to_string())).await;
    region.serve().await.expect("it serves");
    let pid = region.server().expect("it runs").pid();
    settled(&region, STUCK_BEHIND).await;
    appended(&region, pid, STUCK_APPENDS, "warm").await;
    println!(
        "\nstuck: {STUCK_APPENDS} appends of one event by {WRITERS} writers over HTTP, {STUCK_READERS} tails that take nothing"
    );
    let mut ratios = [Vec::new(), Vec::new()];
    for pair in 0..STUCK_PAIRS {
        let alone = appended(&region, pid, STUCK_APPENDS, &format!("alone-{pair}")).await;
        let readers = futures::future::join_all((0..STUCK_READERS).map(|_| stuck(&region))).await;
        idle(pid).await;
        let beside = appended(&region, pid, STUCK_APPENDS, &format!("beside-{pair}")).await;
        drop(readers);
        idle(pid).await;
        println!(
            "alone {:>6.0} events/s, {:>4.0} µs of the server each; beside them {:>6.0}, {:>4.0} µs",
            alone[0], alone[1], beside[0], beside[1]
        );
        ratios
            .iter_mut()
            .zip(beside.into_iter().zip(alone))
            .for_each(|(all, (beside, alone))| all.push(beside / alone));
    }
    let [speed, processor] = ratios.map(|mut all| {
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    });
    println!(
        "beside them, medians of {STUCK_PAIRS} pairs: {speed:.2} × as many a second, {processor:.2} × the processor"
    );
    log.shut_down().await;
    region.end().await.expect("it ends");
}

fn main() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let only: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let is_wanted = |part: &str| only.is_empty() || only.iter().any(|only| only == part);
    runtime.block_on(async {
        let count = events();
        if is_wanted("log") {
            reading(count).await;
        }
        if is_wanted("projection") {
            a_projection(count).await;
        }
        if is_wanted("stuck") {
            stuck_readers().await;
        }
    });
}
