//! LOG-2 to LOG-4 across a dump and its restore into another cluster: nobody's position, version or id changes. And what
//! else goes on in the same cluster never holds a reader back.

mod log_common;

use std::path::Path;
use std::time::Instant;

use domain::append::ExpectedVersion;
use domain::log::{Direction, EventLog, LogReader};
use event_log::PgLog;
use log_common::pruning::prune_as_of;
use log_common::{Database, Rig, all, at, is_sound, name, new_log, new_simulated, places, position, request, version};
use sqlx::{Connection, Executor, PgConnection};
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
        if !restarted {
            assert_eq!(log.log_head().await.expect("readable"), head);
            assert_eq!(all_live(&log).await, records, "byte for byte");
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_transactions_of_others_hold_no_reader_back() {
    let rig = Rig::start_with(&[("max_prepared_transactions", "2")]).await;
    let database = rig.database(new_log()).await;
    let (log, reader) = (database.open().await, database.open().await);
    log.append(request(&[("note-a", "before")], &[])).await.expect("acknowledged");

    // Both have a transaction id that is older than all that follows: what orders by it would wait for them.
    let mut foreign = PgConnection::connect(&rig.cluster.superuser_url("postgres")).await.expect("connected");
    foreign
        .execute("BEGIN; CREATE TABLE foreign_work (n int); INSERT INTO foreign_work VALUES (1)")
        .await
        .expect("runs");
    let mut beside = database.superuser().await;
    beside.execute("CREATE TABLE beside (n int)").await.expect("runs");
    beside.execute("BEGIN; INSERT INTO beside VALUES (1); PREPARE TRANSACTION 'orphan'").await.expect("runs");
    drop(beside);

    let mut seen = reader.log_head().await.expect("readable").head;
    let begun = started();
    for number in 0..50 {
        let appended = log.append(request(&[("note-a", &format!("after:{number}"))], &[])).await.expect("acknowledged");
        while !seen.includes(appended.events[0].position) {
            reader.wait_beyond(seen).await.expect("readable");
            for record in reader.read_log(seen.next(), Direction::Forward, 10).await.expect("readable") {
                assert_eq!(record.position(), seen.next());
                seen = record.position().as_head();
            }
        }
    }
    println!("50 events appended and read by another process in {} ms", begun.elapsed().as_millis());
    assert_eq!(all(&reader).await.len(), 51);
    assert_eq!(seen.newest(), Some(position(51)));
    foreign.execute("ROLLBACK").await.expect("runs");
    database.run("ROLLBACK PREPARED 'orphan'").await;
}

#[expect(clippy::disallowed_methods, reason = "the delay is reported, never asserted")]
fn started() -> Instant {
    Instant::now()
}
