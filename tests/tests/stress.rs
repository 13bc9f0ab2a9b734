//! LOG-1 to LOG-4 and PRJ-1 all at once: 64 writers in every mode, a tail of lines and a subscriber to server-sent events, a
//! service that reads what it has just written, a view that is rebuilt again and again, and SIGKILL for server or
//! PostgreSQL every few seconds. Judged by what was asked and answered, and when; and the view is the fold in the end.
//! STRESS_SECONDS makes it longer; the long form is ten minutes.

mod log_common;
mod prj_common;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use coldstream_client::{Client as Reader, From, Settings};
use domain::append::{AppendRequest, Expectation, ExpectedVersion};
use domain::event::NewEvent;
use domain::record::{self, Record};
use domain::{StreamName, StreamVersion};
use event_log::{PgConfig, PgLog};
use log_common::{Database, is_sound};
use ops::clock::SystemClock;
use ops::dev::region::Region;
use prj_common::Model;
use projections::content::ContentNow;
use projections::status;
use rand::Rng;
use sqlx::PgPool;
use system_tests::torture::{ALONE, Client, Journal, Stored, Writers, plan, served};
use system_tests::two_regions::{event, random, until};
use tokio::process::Command;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};

const WRITERS: usize = 64;
/// Each writer sends a request so often at most: the load is steady, and a test machine has air for the rest.
const EVERY: Duration = Duration::from_millis(50);
const KILL_EVERY: Duration = Duration::from_secs(10);
const REBUILD_EVERY: Duration = Duration::from_secs(1);
/// Of the server, whatever the build: it takes about half of that here, and does not grow with the log.
const PEAK_KIB_MAX: u64 = 200 << 10;
/// Longer than any outage here.
const GIVE_UP: Duration = Duration::from_secs(60);

fn seconds() -> Duration {
    let given = std::env::var("STRESS_SECONDS").ok();
    Duration::from_secs(given.map_or(45, |text| text.parse().expect("STRESS_SECONDS is a number")))
}

fn client(region: &Region) -> Reader {
    let settings = Settings::new(&region.url, &region.tokens.appender).give_up_after(GIVE_UP);
    Reader::new(settings).expect("a client")
}

/// Follows the log from its start until it has read as much as `end` says; gives the id at each position.
async fn follow(reader: Reader, mut end: watch::Receiver<Option<u64>>) -> Vec<String> {
    let mut tail = reader.tail(From::Start);
    let mut ids = Vec::new();
    loop {
        if let Some(end) = *end.borrow_and_update()
            && ids.len() as u64 >= end
        {
            return ids;
        }
        tokio::select! {
            record = tail.next() => match record.expect("it goes on").expect("a tail has no end") {
                Record::Event(event) => {
                    assert_eq!(event.position.get(), ids.len() as u64 + 1, "LOG-2: each position once, in order");
                    ids.push(event.event.id);
                }
                Record::Removed(_) => panic!("nothing is removed here"),
            },
            changed = end.changed() => changed.expect("the test says when it is over"),
        }
    }
}

/// Follows the log as server-sent events, as a browser does: after each break it says which event it has seen last.
async fn subscribe(url: String, token: String, mut end: watch::Receiver<Option<u64>>) -> Vec<String> {
    let http = reqwest::Client::builder().read_timeout(GIVE_UP / 6).build().expect("a client");
    let (mut ids, mut seen, mut asked) = (Vec::new(), None::<String>, 0);
    let mut pace = interval(EVERY);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        if let Some(end) = *end.borrow_and_update()
            && ids.len() as u64 >= end
        {
            println!("the subscriber asked {asked} times");
            return ids;
        }
        pace.tick().await;
        let mut request = http.get(format!("{url}/v1/log?from=1&follow=true")).bearer_auth(&token);
        request = request.header("accept", "text/event-stream");
        if let Some(seen) = &seen {
            request = request.header("last-event-id", seen);
        }
        asked += 1;
        let Ok(mut answer) = request.send().await.and_then(reqwest::Response::error_for_status) else { continue };
        let mut pending = Vec::new();
        loop {
            let chunk = tokio::select! {
                chunk = answer.chunk() => chunk,
                changed = end.changed() => {
                    changed.expect("the test says when it is over");
                    Ok(Some(Default::default()))
                }
            };
            let Ok(Some(chunk)) = chunk else { break };
            pending.extend_from_slice(&chunk);
            take_events(&mut pending, &mut seen, &mut ids);
            if end.borrow().is_some_and(|end| ids.len() as u64 >= end) {
                break;
            }
        }
    }
}

/// Takes what is whole: an event is its token (`id`) and its record (`data`), ended by an empty line.
fn take_events(pending: &mut Vec<u8>, seen: &mut Option<String>, ids: &mut Vec<String>) {
    while let Some(end) = pending.windows(2).position(|pair| pair == b"\n\n") {
        let event: Vec<u8> = pending.drain(..end + 2).collect();
        let text = String::from_utf8(event).expect("UTF-8");
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
        let Some(data) = field("data: ") else { continue };
        let Ok(Record::Event(event)) = record::read(data.as_bytes()) else { panic!("no event: {data}") };
        assert_eq!(event.position.get(), ids.len() as u64 + 1, "LOG-2: each position once, in order");
        ids.push(event.event.id);
        *seen = Some(field("id: ").expect("each event has its token").to_owned());
    }
}

/// People at work on content: what the view is the fold of.
async fn edit_content(service: Reader, stop: watch::Receiver<bool>) -> u64 {
    let mut pace = interval(EVERY);
    let mut nth = 0;
    while !*stop.borrow() {
        pace.tick().await;
        let (item, form) = (format!("page/{}", nth * 7 % 40), prj_common::form(&format!("{nth:08x}")));
        let (kind, data) = match nth % 11 {
            0 | 4 | 8 => ("content.created", form.as_str()),
            7 => ("content.deleted", r#"{"author":"85ec80be","change":"d"}"#),
            _ => ("content.revised", form.as_str()),
        };
        let events = vec![prj_common::event(nth, &item, kind, data)];
        service.append(&AppendRequest { events, ..AppendRequest::default() }).await.expect("acknowledged in the end");
        nth += 1;
    }
    nth
}

/// One `coldstream projection rebuild`; gives what it complained of. It may fail when what it works on dies; it may not
/// find a difference.
async fn rebuild(config: &Path) -> Result<(), String> {
    let mut command = Command::new(system_tests::binary());
    command.arg("--config").arg(config).args(["projection", "rebuild", "--yes"]).stdin(Stdio::null());
    let output = command.kill_on_drop(true).output().await.expect("the binary runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_ne!(output.status.code(), Some(3), "PRJ-1: the rebuilt view is another one: {said}");
    if output.status.success() { Ok(()) } else { Err(said.lines().last().unwrap_or_default().to_owned()) }
}

/// Rebuilds the view again and again; gives how many came to their end, and how many did not.
async fn rebuild_again_and_again(config: PathBuf, stop: watch::Receiver<bool>) -> (u32, u32) {
    let (mut ended, mut cut) = (0, 0);
    let mut pace = interval(REBUILD_EVERY);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !*stop.borrow() {
        pace.tick().await;
        match rebuild(&config).await {
            Ok(()) => ended += 1,
            Err(why) => {
                println!("a rebuild did not end: {why}");
                cut += 1;
            }
        }
    }
    (ended, cut)
}

/// PRJ-1: what the view holds is the fold of the whole log.
async fn view_is_the_fold(region: &Region, head: u64) {
    let pool = PgPool::connect(&region.database_url()).await.expect("connected");
    let cutoff = until("the view has come to the log's end", async || {
        let status = status::of_all(&pool).await.map_err(|error| error.to_string())?.remove(0);
        if status.checkpoint.get() == head { Ok(status.cutoff) } else { Err(status.checkpoint.to_string()) }
    })
    .await;
    let log = PgLog::connect(PgConfig::at(&region.database_url()), Arc::new(SystemClock)).await.expect("opened");
    let log = Arc::new(log);
    let events = log_common::all(&*log).await;
    let lines = events.iter().map(|record| serde_json::from_slice(&record.to_line()).expect("JSON"));
    let view = Model::read(&ContentNow::new(pool, log.clone())).await;
    assert!(!view.items.is_empty(), "people have worked on content");
    assert_eq!(view, Model::of_events(lines, cutoff), "PRJ-1");
}

/// The most memory that a server's process has ever had, in KiB, as Linux says (VmHWM).
fn peak_kib(region: &mut Region) -> (u32, u64) {
    let pid = region.server().expect("it runs").pid();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    (pid, peak.trim().trim_end_matches(" kB").parse().expect("a number"))
}

/// A service that reads back, at once, each event that was acknowledged to it.
async fn read_own_writes(service: Reader, stop: watch::Receiver<bool>) -> u64 {
    let stream = StreamName::parse("probe-1").expect("a stream");
    let mut version = 0;
    let mut pace = interval(EVERY);
    while !*stop.borrow() {
        pace.tick().await;
        let new = event(stream.as_str(), &format!("probe:{version}")).to_string();
        let expected = StreamVersion::new(version).map_or(ExpectedVersion::NoStream, ExpectedVersion::Exactly);
        let request = AppendRequest {
            events: vec![NewEvent::from_cloudevent(new.as_bytes()).expect("an event")],
            expect: vec![Expectation { stream: stream.clone(), version: expected }],
            ..AppendRequest::default()
        };
        let appended = service.append(&request).await.expect("acknowledged in the end");
        version = appended.events[0].version.get();
        let mut read = service.stream(&stream, appended.events[0].version);
        let record = read.next().await.expect("served").expect("LOG-1: it was acknowledged, so it is read");
        assert_eq!(record.position(), appended.events[0].position, "LOG-1: where it was said to stand");
    }
    version
}

/// What each of the readers saw is the log.
fn is_the_log(seen: &[String], stored: &Stored) {
    let at: HashMap<u64, &str> = stored.iter().map(|(id, place)| (place.2, id.as_str())).collect();
    assert_eq!(seen.len(), at.len());
    for (id, position) in seen.iter().zip(1_u64..) {
        assert_eq!(at[&position], id, "a reader saw another event at {position}");
    }
}

/// The last look at each process says its peak.
fn memory(peaks: &[(u32, u64)]) -> String {
    let by_process: BTreeMap<u32, u64> = peaks.iter().copied().collect();
    let each: Vec<String> = by_process.values().map(|kib| (kib / 1024).to_string()).collect();
    format!("peak memory of each process of the server in MiB: {}", each.join(", "))
}

#[expect(clippy::disallowed_methods, reason = "how long it goes on is real time")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_writers_and_their_readers_agree_on_one_history_whatever_dies() {
    let (folder, mut rng) = (tempfile::tempdir().expect("a folder"), random());
    let mut region = Region::single(&plan(folder.path(), None)).await.expect("a region");
    region.serve().await.expect("it serves");
    let database =
        Database { name: "coldstream".into(), url: region.database_url(), admin_url: region.superuser_url() };
    let ((over, stop), (say, end)) = (watch::channel(false), watch::channel(None));
    let readers = [
        tokio::spawn(follow(client(&region), end.clone())),
        tokio::spawn(subscribe(region.url.clone(), region.tokens.reader.clone(), end)),
    ];
    let service = tokio::spawn(read_own_writes(client(&region), stop.clone()));
    let people = tokio::spawn(edit_content(client(&region), stop.clone()));
    let rebuilding = tokio::spawn(rebuild_again_and_again(region.config.clone(), stop));
    let (url, token) = (region.url.clone(), region.tokens.appender.clone());
    let mut writers = Writers::start_paced((WRITERS, EVERY), "s", &[&url], &token, &mut rng);

    let until = Instant::now() + seconds();
    let mut kills = interval(KILL_EVERY);
    kills.tick().await;
    // Of each process of the server, in the order in which they ran.
    let mut peaks = Vec::new();
    while Instant::now() < until {
        kills.tick().await;
        peaks.push(peak_kib(&mut region));
        let victim = ALONE[rng.random_range(0..ALONE.len())];
        victim.dies(&mut region, None).await;
        writers.go_on(WRITERS as u64).await;
        println!("{victim:?} died; {} requests are answered so far", writers.answered());
    }
    let calls = writers.calls();
    let journals = writers.stop().await;
    over.send_replace(true);
    let probes = service.await.expect("it read what it wrote");
    let edits = people.await.expect("they were acknowledged");
    let (ended, cut) = rebuilding.await.expect("no rebuild found a difference");
    let stored = served(&Client::new(&token), &url).await;
    say.send_replace(Some(stored.len() as u64));
    for reader in readers {
        is_the_log(&reader.await.expect("a reader found nothing wrong"), &stored);
    }
    let head = stored.len() as u64;
    assert_eq!(is_sound(&database).await.get(), head);
    assert_eq!(rebuild(&region.config).await, Ok(()), "nothing dies any more");
    view_is_the_fold(&region, head).await;
    peaks.push(peak_kib(&mut region));
    println!("{}", memory(&peaks));
    assert!(peaks.iter().all(|(_, kib)| *kib < PEAK_KIB_MAX), "more than {PEAK_KIB_MAX} KiB");
    println!(
        "the view was rebuilt {ended} times while others died, {cut} rebuilds were cut off, and the last one ended"
    );
    let (edited, stored): (Stored, Stored) = stored.into_iter().partition(|(_, place)| place.0.starts_with("content-"));
    assert_eq!(edited.len() as u64, edits, "LOG-1: each edit is there once");
    let (written, probed): (Stored, Stored) = stored.into_iter().partition(|(id, _)| !id.starts_with("probe:"));
    assert_eq!(probed.len() as u64, probes, "LOG-1: each probe is there once");
    Journal::are_all_of(&journals, &written);
    let made = calls.agree_with(&written);
    println!("{made} calls, {} events by writers, {probes} read back at once", written.len());
    region.end().await.expect("it ends");
}
