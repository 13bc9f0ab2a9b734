//! LOG-2 to LOG-4 across a dump and its restore into another cluster: nobody's position, version or id changes. And what
//! else goes on in the same cluster never holds a reader back.

mod log_common;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use coldstream_client::{Client, From, Records, Settings};
use domain::Head;
use domain::append::ExpectedVersion;
use domain::log::{Direction, EventLog, LogReader};
use event_log::{PgConfig, PgLog};
use log_common::pruning::prune_as_of;
use log_common::{Database, Rig, all, at, is_sound, name, new_simulated, places, request, version};
use ops::clock::SystemClock;
use ops::dev::region::Region;
use sqlx::{Connection, Executor, PgConnection};
use system_tests::torture::plan;
use tokio::process::Command;

/// Runs one of PostgreSQL's programs.
async fn run(program: &Path, words: &[&str]) {
    let output = Command::new(program).args(words).output().await.expect("it runs");
    assert!(output.status.success(), "{}: {}", program.display(), String::from_utf8_lossy(&output.stderr));
}

/// Half a year of events, of which the first months are pruned: one stream lives on, one is all archived.
async fn lived_in(log: &PgLog) {
    for (month, number) in (1..=9).zip(0..) {
        log.set_simulated_now(at(&format!("2020-{month:02}-15T12:00:00Z"))).await.expect("moved on");
        let [a, b] = [format!("a:{number}"), format!("b:{number}")];
        let mut events = vec![("note-a", a.as_str())];
        if month < 3 {
            events.push(("note-old", b.as_str()));
        }
        log.append(request(&events, &[])).await.expect("acknowledged");
    }
    prune_as_of(log, "2020-10-15T12:00:00Z").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dump_restored_into_another_cluster_is_the_same_log_and_goes_on() {
    let (old, new) = (Rig::start().await, Rig::start().await);
    let source = old.database(new_simulated("2020-01-01T00:00:00Z")).await;
    let log = source.open().await;
    lived_in(&log).await;
    let (head, records) = (log.log_head().await.expect("readable"), all_live(&log).await);
    assert!(head.pruned.get() > 0, "some of it is pruned");

    let folder = tempfile::tempdir().expect("a folder");
    let dump = folder.path().join("log.dump").display().to_string();
    run(&old.cluster.program("pg_dump"), &["--format=custom", "--file", &dump, "--dbname", &source.admin_url]).await;
    new.cluster.create_database("restored").await.expect("a database");
    let url = new.cluster.superuser_url("restored");
    run(&new.cluster.program("pg_restore"), &["--exit-on-error", "--dbname", &url, &dump]).await;
    let restored =
        Database { name: "restored".into(), url: new.cluster.url(log_common::SERVICE, "restored"), admin_url: url };

    for restarted in [false, true] {
        if restarted {
            new.cluster.stop().await.expect("it stops");
            new.cluster.start().await.expect("it starts");
        }
        let log = restored.open().await;
        assert_eq!(is_sound(&restored).await, log.log_head().await.expect("readable").head);
        let live = all_live(&log).await;
        assert_eq!(live[..records.len()], records, "byte for byte");
        if !restarted {
            assert_eq!(log.log_head().await.expect("readable"), head);
            assert_eq!(live.len(), records.len());
        }
        let again = log.append(request(&[("note-a", "a:8")], &[])).await.expect("a retry");
        assert_eq!((again.replayed, places(&again)), (true, vec![(11, 9)]), "LOG-4");
        let old = log.stream_head(&name("note-old")).await.expect("readable").expect("it has had events");
        assert_eq!(old.version, version(2), "LOG-3: a stream whose events are all archived");
        let stale = log.append(request(&[("note-old", "x")], &[("note-old", ExpectedVersion::NoStream)])).await;
        assert!(stale.is_err(), "LOG-3: it does not start again at 1");
        let next = log.append(request(&[("note-a", &format!("next:{restarted}"))], &[])).await.expect("it goes on");
        let further = u64::from(restarted);
        assert_eq!(places(&next), [(12 + further, 10 + further)], "LOG-2");
        log.shut_down().await;
    }
}

async fn all_live(log: &PgLog) -> Vec<domain::record::Record> {
    let first = log.log_head().await.expect("readable").pruned.next();
    log.read_log(first, Direction::Forward, 1000).await.expect("readable")
}

/// How long it takes until each event is known, from the moment in which it was sent.
struct Delays(Vec<Duration>);

impl Delays {
    fn said(&mut self, who: &str) {
        self.0.sort_unstable();
        let millis = |time: Duration| time.as_secs_f64() * 1e3;
        let (half, most) = (self.0[self.0.len() / 2], *self.0.last().expect("some"));
        println!("{who}: p50 {:.2} ms, max {:.2} ms over {} events", millis(half), millis(most), self.0.len());
    }
}

/// Follows the log by the library, from `seen` on; gives when each position was seen.
async fn follow_library(reader: PgLog, mut seen: Head) -> Vec<Instant> {
    let mut at = Vec::new();
    while at.len() < EVENTS {
        reader.wait_beyond(seen).await.expect("readable");
        for record in reader.read_log(seen.next(), Direction::Forward, 10).await.expect("readable") {
            assert_eq!(record.position(), seen.next());
            seen = record.position().as_head();
            at.push(started());
        }
    }
    at
}

/// The same over HTTP.
async fn follow_http(mut tail: Records, mut seen: Head) -> Vec<Instant> {
    let mut at = Vec::new();
    while at.len() < EVENTS {
        let record = tail.next().await.expect("it goes on").expect("a tail has no end");
        assert_eq!(record.position(), seen.next());
        seen = record.position().as_head();
        at.push(started());
    }
    at
}

const EVENTS: usize = 200;
/// Slower than a commit: what is measured is a delay and not a queue.
const EVERY: Duration = Duration::from_millis(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_transactions_of_others_hold_no_reader_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut region = Region::single(&plan(folder.path(), None)).await.expect("a region");
    let mut admin = PgConnection::connect(&region.superuser_url()).await.expect("connected");
    admin.execute("ALTER SYSTEM SET max_prepared_transactions = 2").await.expect("set");
    region.cluster.stop().await.expect("stopped");
    region.cluster.start().await.expect("started");
    region.serve().await.expect("it serves");
    let open = async || PgLog::connect(PgConfig::at(&region.database_url()), Arc::new(SystemClock)).await;
    let (log, reader) = (open().await.expect("the log opens"), open().await.expect("the log opens"));
    log.append(request(&[("note-a", "before")], &[])).await.expect("acknowledged");

    // Both have a transaction id that is older than all that follows: what orders by it would wait for them.
    let mut foreign = PgConnection::connect(&region.cluster.superuser_url("postgres")).await.expect("connected");
    let work = "BEGIN; CREATE TABLE foreign_work (n int); INSERT INTO foreign_work VALUES (1)";
    foreign.execute(work).await.expect("runs");
    let mut beside = PgConnection::connect(&region.superuser_url()).await.expect("connected");
    beside.execute("CREATE TABLE beside (n int)").await.expect("runs");
    beside.execute("BEGIN; INSERT INTO beside VALUES (1); PREPARE TRANSACTION 'orphan'").await.expect("runs");
    drop(beside);

    let seen = reader.log_head().await.expect("readable").head;
    let client = Client::new(Settings::new(&region.url, &region.tokens.reader)).expect("a client");
    let by_http = tokio::spawn(follow_http(client.tail(From::Position(seen.next())), seen));
    let by_library = tokio::spawn(follow_library(reader, seen));
    let (mut sent, mut acknowledged, mut pace) = (Vec::new(), Vec::new(), tokio::time::interval(EVERY));
    for number in 0..EVENTS {
        pace.tick().await;
        sent.push(started());
        log.append(request(&[("note-a", &format!("after:{number}"))], &[])).await.expect("acknowledged");
        acknowledged.push(started());
    }
    let (by_library, by_http) = (by_library.await.expect("no panic"), by_http.await.expect("no panic"));
    for (who, at) in [("acknowledged", acknowledged), ("seen by the library", by_library), ("seen over HTTP", by_http)]
    {
        Delays(at.iter().zip(&sent).map(|(at, sent)| at.duration_since(*sent)).collect()).said(who);
    }

    // What is prepared outlives a restart; so does every record, byte for byte.
    let before = all(&log).await;
    assert_eq!(before.len(), EVENTS + 1);
    region.cluster.stop().await.expect("stopped");
    region.cluster.start().await.expect("started");
    let log = open().await.expect("the log opens");
    assert_eq!(all(&log).await, before);
    let mut admin = PgConnection::connect(&region.superuser_url()).await.expect("connected");
    let appended = log.append(request(&[("note-a", "after the restart")], &[])).await.expect("acknowledged");
    assert_eq!(places(&appended), [(EVENTS as u64 + 2, EVENTS as u64 + 2)]);
    admin.execute("ROLLBACK PREPARED 'orphan'").await.expect("it is still there");
    region.end().await.expect("it ends");
}

#[expect(clippy::disallowed_methods, reason = "the delay is reported, never asserted")]
fn started() -> Instant {
    Instant::now()
}
