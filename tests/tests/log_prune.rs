//! ARC-2 in the database: rows leave the live log only where the database itself sees no doubt, whatever the caller
//! has proven. And what pruning leaves: reads that say so, and a live database that does not grow with history.

mod log_common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use domain::append::{AppendRequest, Role};
use domain::archive::catalog::{
    Catalog, CatalogError, Copies, EvidenceStore, LivePartitions, Partition, StoredCheckpoint,
};
use domain::log::{Direction, EventLog, FollowerLog, LogReader, ReadError};
use domain::merkle::{Frontier, Hash, leaf_hash};
use domain::replication::{Heard, PeerMemory};
use domain::{Epoch, ErrorKind, Head, Position};
use event_log::{NewLog, PgLog};
use log_common::pruning::{cosign, manifest, prune_as_of, refusal, seal_to, segment, unfounded_proof};
use log_common::{Database, Rig, all, at, event, is_sound, name, new_log, new_simulated, position, request, version};
use sqlx::{Executor, Row};

/// A log with ten events in each of twelve months of 2020, at the end of that year.
async fn a_year(rig: &Rig, log: NewLog) -> (Database, Arc<PgLog>) {
    let database = rig.database(log).await;
    let log = Arc::new(database.open().await);
    for month in 1..=12 {
        log.set_simulated_now(at(&format!("2020-{month:02}-10T00:00:00Z"))).await.expect("moved on");
        for number in 0..5 {
            let ids = [format!("{month}/{number}/own"), format!("{month}/{number}/all")];
            let events = [(&*format!("month-{month}"), &*ids[0]), ("all-1", &*ids[1])];
            log.append(request(&events, &[])).await.expect("acknowledged");
        }
    }
    (database, log)
}

fn january() -> Partition {
    Partition { month: at("2020-01-01T00:00:00Z"), first: position(1), last: position(10), rows: 10 }
}

/// Everything that pruning January asks for.
async fn satisfy(log: &PgLog) {
    let first = seal_to(log, position(10)).await;
    log.mark_verified(first, at("2020-12-10T00:00:00Z")).await.expect("marked");
    log.mark_confirmed(first, at("2020-12-10T00:00:00Z")).await.expect("marked");
    cosign(log, position(10).as_head()).await;
}

/// What is appended into a month that is pruned meanwhile, as an import of old events does, is never dropped with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_appended_into_a_month_while_it_is_pruned_stays() {
    let rig = Rig::start().await;
    for before_the_prune in [false, true] {
        let database = rig.database(new_simulated("2020-01-01T00:00:00Z")).await;
        let log = Arc::new(database.open().await);
        let old =
            |id: &str| AppendRequest { recorded_at: Some(at("2020-01-10T00:00:00Z")), ..request(&[("a-1", id)], &[]) };
        for number in 1..=10 {
            log.append(old(&number.to_string())).await.expect("acknowledged");
        }
        log.set_simulated_now(at("2020-12-10T00:00:00Z")).await.expect("moved on");
        satisfy(&log).await;
        let mut admin = database.superuser().await;
        let detach = "SELECT coldstream.detach_partition('2020-01-01T00:00:00Z', 1, 10)";
        if before_the_prune {
            log.append(old("11")).await.expect("acknowledged");
            let refused = admin.execute(detach).await.expect_err("it holds eleven");
            assert!(refused.to_string().contains("holds 11 rows"), "{refused}");
        } else {
            // By another process, which this one does not hear of.
            admin.execute(detach).await.expect("pruned");
            // Whatever the answer is: acknowledged means there.
            let appended = log.append(old("11")).await;
            log.maintain().await.expect("tidied");
            if let Err(error) = appended {
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
                log.append(old("11")).await.expect("its partition is made anew");
            }
        }
        let newest = log.read_log(position(11), Direction::Forward, 1).await.expect("readable");
        assert_eq!(newest.first().map(domain::record::Record::position), Some(position(11)));
    }
}

/// What the first column breaks, the last one mends; the middle one is how it is said.
const DOUBTS: [(&str, &str, &str); 11] = [
    ("DELETE FROM coldstream.segments", "in no segment", ""),
    ("", "", "INSERT"),
    (
        "UPDATE coldstream.segments SET verified_at = NULL",
        "not read back",
        "UPDATE coldstream.segments SET verified_at = now()",
    ),
    (
        "UPDATE coldstream.segments SET confirmed_at = NULL",
        "not confirmed",
        "UPDATE coldstream.segments SET confirmed_at = now()",
    ),
    (
        "UPDATE coldstream.segments SET last_position = 9",
        "position 10 is in no segment",
        "UPDATE coldstream.segments SET last_position = 10",
    ),
    (
        "UPDATE coldstream.segments SET first_position = 2",
        "position 1 is in no segment",
        "UPDATE coldstream.segments SET first_position = 1",
    ),
    (
        "UPDATE coldstream.signed_checkpoints SET cosigned = false",
        "no checkpoint that both regions signed",
        "UPDATE coldstream.signed_checkpoints SET cosigned = true",
    ),
    (
        "UPDATE coldstream.signed_checkpoints SET size = 9",
        "no checkpoint that both regions signed",
        "UPDATE coldstream.signed_checkpoints SET size = 10",
    ),
    (
        "INSERT INTO coldstream.consumers (name, kind, checkpoint) VALUES ('a view', 'projection', 9)",
        "a view is at 9",
        "UPDATE coldstream.consumers SET checkpoint = 10",
    ),
    (
        "UPDATE coldstream.log_head SET role = 'read_only'",
        "does not know whether it holds the epoch",
        "UPDATE coldstream.log_head SET role = 'active'",
    ),
    (
        "UPDATE coldstream.log_head SET window_months = 12",
        "inside the live window",
        "UPDATE coldstream.log_head SET window_months = 6",
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_doubt_alone_keeps_the_rows() {
    let rig = Rig::start().await;
    let (database, log) = a_year(&rig, new_simulated("2020-01-01T00:00:00Z")).await;
    let mut admin = database.superuser().await;
    satisfy(&log).await;
    for (break_it, reason, mend) in DOUBTS {
        if mend == "INSERT" {
            // The catalog was emptied: sealed again, without its marks, it is still a doubt.
            admin.execute("DELETE FROM coldstream.last_manifest").await.expect("runs");
            assert!(refusal(log.prune(unfounded_proof(&january())).await).contains("in no segment"));
            satisfy(&log).await;
            continue;
        }
        admin.execute(break_it).await.expect("runs");
        let refused = refusal(log.prune(unfounded_proof(&january())).await);
        assert!(refused.contains(reason), "{break_it}: {refused}");
        assert_eq!(all(&*log).await.len(), 120, "{break_it}");
        if !mend.is_empty() {
            admin.execute(mend).await.expect("runs");
        }
    }
    // Rows that are missing are the worst doubt of all.
    admin
        .execute("ALTER TABLE coldstream.events_2020_01 DISABLE TRIGGER an_event_is_never_changed")
        .await
        .expect("runs");
    admin.execute("DELETE FROM coldstream.events_2020_01 WHERE position = 4").await.expect("runs");
    assert!(refusal(log.prune(unfounded_proof(&january())).await).contains("9 rows"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_go_in_order_and_never_from_inside_the_window() {
    let rig = Rig::start().await;
    let (_database, log) = a_year(&rig, new_simulated("2020-01-01T00:00:00Z")).await;
    satisfy(&log).await;
    let partitions = log.partitions().await.expect("readable");
    assert_eq!(partitions.len(), 12);
    assert_eq!(partitions[0], january());
    assert!(refusal(log.prune(unfounded_proof(&partitions[1])).await).contains("an older partition"));
    assert!(refusal(log.prune(unfounded_proof(&partitions[6])).await).contains("inside the live window"));
    log.prune(unfounded_proof(&partitions[0])).await.expect("pruned");
    log.prune(unfounded_proof(&partitions[0])).await.expect("once more changes nothing");
    assert_eq!(log.log_head().await.expect("readable").pruned.get(), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_importer_holds_nothing_back_and_one_copy_is_enough_only_where_that_was_asked_for() {
    let rig = Rig::start().await;
    let alone = NewLog { copies: Copies::OneAcceptedByOperator, ..new_simulated("2020-01-01T00:00:00Z") };
    let (database, log) = a_year(&rig, alone).await;
    database.run("INSERT INTO coldstream.consumers (name, kind, checkpoint) VALUES ('import', 'importer', 3)").await;
    assert_eq!(log.consumers().await.expect("readable"), []);
    let first = seal_to(&log, position(10)).await;
    assert!(refusal(log.prune(unfounded_proof(&january())).await).contains("not read back"));
    log.mark_verified(first, at("2020-12-10T00:00:00Z")).await.expect("marked");
    log.prune(unfounded_proof(&january())).await.expect("pruned");
    is_sound(&database).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_pruned_is_said_to_be_and_the_rest_reads_on() {
    let rig = Rig::start().await;
    let (database, log) = a_year(&rig, new_simulated("2020-01-01T00:00:00Z")).await;
    let reader = database.open().await;
    assert_eq!(all(&reader).await.len(), 120, "another process has read all of it");
    let pruned = prune_as_of(&log, "2020-12-20T00:00:00Z").await;
    assert_eq!(pruned.len(), 50, "January to May");
    for log in [&*log, &reader] {
        let head = log.log_head().await.expect("readable");
        assert_eq!((head.pruned.get(), head.head.get()), (50, 120));
        for from in [1, 50] {
            for direction in [Direction::Forward, Direction::Backward] {
                let error = log.read_log(position(from), direction, 9).await.expect_err("pruned");
                assert!(matches!(error, ReadError::Pruned { pruned } if pruned.get() == 50), "{error}");
            }
        }
        let live = log.read_log(position(51), Direction::Forward, 999).await.expect("readable");
        assert_eq!((live.len(), live[0].position()), (70, position(51)));
        let back = log.read_log(position(60), Direction::Backward, 999).await.expect("readable");
        assert_eq!((back.len(), back[9].position()), (10, position(51)));
        let stream = log.read_stream(&name("all-1"), version(3), Direction::Forward, 999).await.expect("readable");
        assert_eq!((stream.len(), stream[0].version()), (35, version(26)));
        let back = log.read_stream(&name("all-1"), version(30), Direction::Backward, 999).await.expect("readable");
        assert_eq!((back.len(), back[4].version()), (5, version(26)));
        let gone = log.read_stream(&name("month-2"), version(1), Direction::Forward, 9).await.expect("readable");
        assert_eq!(gone, []);
        assert_eq!(log.find_event("/tests", "2/0/own").await.expect("readable"), None);
        assert_eq!(log.find_event("/tests", "6/0/own").await.expect("readable"), Some(position(51)));
        assert!(matches!(log.head_as_of(at("2020-03-01T00:00:00Z")).await, Err(ReadError::Pruned { .. })));
        assert_eq!(log.head_as_of(at("2020-07-01T00:00:00Z")).await.expect("readable").get(), 60);
    }
    assert_eq!(log.partitions().await.expect("readable").len(), 7);
    let mut admin = database.superuser().await;
    let left = "SELECT (SELECT count(*) FROM pg_class WHERE relname LIKE 'events_2020_0_' AND relkind = 'r'),
        (SELECT count(*) FROM coldstream.event_ids)";
    let left = admin.fetch_one(left).await.expect("counts");
    assert_eq!((left.get::<i64, _>(0), left.get::<i64, _>(1)), (4, 70), "June to September; the live ids");
    assert_eq!(is_sound(&database).await.get(), 120);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prune_that_was_cut_short_is_finished_by_the_next_run() {
    let rig = Rig::start().await;
    let (database, log) = a_year(&rig, new_simulated("2020-01-01T00:00:00Z")).await;
    satisfy(&log).await;
    let mut admin = database.superuser().await;
    // The first step only: as after a crash right behind it.
    admin.execute("SELECT coldstream.detach_partition('2020-01-01Z', 1, 10)").await.expect("detached");
    let error = database.open().await.read_log(position(1), Direction::Forward, 9).await.expect_err("pruned");
    assert!(matches!(error, ReadError::Pruned { .. }), "{error}");
    // Its ids are there still and mean nothing: the id can be used again, and the new one is then known.
    assert_eq!(log.find_event("/tests", "1/0/own").await.expect("readable"), None);
    let again = request(&[("month-1", "1/0/own")], &[]);
    assert!(!log.append(again.clone()).await.expect("a new event").replayed);
    let done = log.maintain().await.expect("maintained");
    assert_eq!(done.dropped, 1);
    assert!(log.append(again).await.expect("known").replayed);
    let ids: i64 =
        sqlx::query_scalar("SELECT count(*) FROM coldstream.event_ids").fetch_one(&mut admin).await.expect("a count");
    assert_eq!(ids, 111);
    is_sound(&database).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_and_writers_go_on_while_partitions_go() {
    let rig = Rig::start().await;
    let (database, log) = a_year(&rig, new_simulated("2020-01-01T00:00:00Z")).await;
    let stop = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..4)
        .map(|reader: u64| {
            let (log, stop) = (Arc::clone(&log), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut reads = 0;
                while !stop.load(Ordering::SeqCst) {
                    reads += 1;
                    let from = position((reads * 7 + reader) % 120 + 1);
                    match log.read_log(from, Direction::Forward, 30).await {
                        Ok(records) => assert_eq!(records[0].position(), from),
                        Err(ReadError::Pruned { pruned }) => assert!(pruned >= Head::EMPTY),
                        Err(error) => panic!("{error}"),
                    }
                    let stream = log.read_stream(&name("all-1"), version(1), Direction::Forward, 99).await;
                    let stream = stream.expect("a stream reads on");
                    assert!(stream.windows(2).all(|two| two[0].version().next() == two[1].version()));
                    assert!(stream.len() >= 35 && stream.last().is_some_and(|last| last.version() >= version(60)));
                }
                reads
            })
        })
        .collect();
    let writer = {
        let (log, stop) = (Arc::clone(&log), Arc::clone(&stop));
        tokio::spawn(async move {
            let mut appended = 0;
            while !stop.load(Ordering::SeqCst) {
                let ids = format!("during/{appended}");
                log.append(request(&[("all-1", &ids)], &[])).await.expect("acknowledged");
                appended += 1;
            }
            appended
        })
    };
    prune_as_of(&log, "2020-12-20T00:00:00Z").await;
    log.maintain().await.expect("maintained");
    stop.store(true, Ordering::SeqCst);
    for reader in readers {
        assert!(reader.await.expect("no panic") > 0);
    }
    let appended = writer.await.expect("no panic");
    assert_eq!(is_sound(&database).await.get(), 120 + appended);
}

/// Bytes of all tables with their indexes, of the log's own schema.
async fn bytes(database: &Database) -> i64 {
    let sum = "SELECT sum(pg_total_relation_size(oid))::bigint FROM pg_class
        WHERE relnamespace = 'coldstream'::regnamespace AND relkind IN ('r', 'p')";
    sqlx::query_scalar(sum).fetch_one(&mut database.superuser().await).await.expect("a sum")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_ten_times_the_archived_events_the_live_database_is_as_large() {
    let rig = Rig::start().await;
    let mut sizes = Vec::new();
    for times in [1_u64, 10] {
        let database = rig.database(new_simulated("2020-01-01T00:00:00Z")).await;
        let log = database.open().await;
        // The same streams and the same window; only what is archived differs.
        for month in 1..=12_u64 {
            log.set_simulated_now(at(&format!("2020-{month:02}-10T00:00:00Z"))).await.expect("moved on");
            let per_stream = if month < 6 { times } else { 1 };
            for number in 0..per_stream {
                let events =
                    (0..1000).map(|s| event(&format!("thing-{s}"), &format!("{month}/{number}/{s}"))).collect();
                log.append(AppendRequest { events, ..AppendRequest::default() }).await.expect("acknowledged");
            }
        }
        let archived = prune_as_of(&log, "2020-12-20T00:00:00Z").await.len();
        assert_eq!(archived, usize::try_from(times * 5000).expect("small"));
        let done = log.maintain().await.expect("maintained");
        assert_eq!(done.space, [], "nothing is left wasteful");
        is_sound(&database).await;
        sizes.push(bytes(&database).await);
    }
    let [one, ten] = sizes[..] else { panic!("two sizes") };
    assert!((ten - one).abs() * 10 <= one, "{one} and {ten} bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_catalog_takes_manifests_in_order_and_segments_without_a_hole() {
    let rig = Rig::start().await;
    let log = rig.log(new_log()).await;
    let two = [segment(position(1), position(10)), segment(position(11), position(20))];
    log.accept(None, manifest(1), &two).await.expect("accepted");
    log.accept(None, manifest(1), &two).await.expect("and again");
    assert_eq!(log.last_manifest().await.expect("readable"), Some(manifest(1)));
    let third = segment(position(21), position(30));
    refusal(log.accept(None, manifest(2), std::slice::from_ref(&third)).await);
    refusal(log.accept(Some(manifest(3)), manifest(2), std::slice::from_ref(&third)).await);
    refusal(log.accept(Some(manifest(1)), manifest(2), &[segment(position(22), position(30))]).await);
    assert_eq!(log.segments().await.expect("readable").len(), 2, "what is refused changes nothing");
    log.accept(Some(manifest(1)), manifest(2), std::slice::from_ref(&third)).await.expect("accepted");
    log.mark_verified(position(11), at("2020-06-01T00:00:00Z")).await.expect("marked");
    log.mark_confirmed(position(11), at("2020-06-02T00:00:00Z")).await.expect("marked");
    assert!(matches!(
        log.mark_verified(position(12), at("2020-06-01T00:00:00Z")).await,
        Err(CatalogError::Refused { .. })
    ));
    let entry = log.segment_holding(position(15)).await.expect("readable").expect("held");
    assert_eq!((&entry.segment, entry.manifest), (&two[1], (Epoch::FIRST, 1)));
    assert_eq!(entry.verified_at, Some(at("2020-06-01T00:00:00Z")));
    assert_eq!(entry.confirmed_at, Some(at("2020-06-02T00:00:00Z")));
    let entries = log.segments().await.expect("readable");
    assert_eq!((entries.len(), entries[2].manifest, entries[2].verified_at), (3, (Epoch::FIRST, 2), None));
    assert_eq!(log.segment_holding(position(31)).await.expect("readable"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frontiers_and_checkpoints_keep_what_is_needed_and_no_more() {
    let rig = Rig::start().await;
    let database = rig.database(new_log()).await;
    let log = database.open().await;
    assert_eq!(log.frontier_at_most(Head::new(9).expect("small")).await.expect("readable"), Frontier::default());
    let mut frontier = Frontier::default();
    let mut frontiers = Vec::new();
    for leaf in 1..=500_u64 {
        frontier.push(leaf_hash(&leaf.to_be_bytes()));
        if leaf % 2 == 0 {
            log.save_frontier(&frontier).await.expect("saved");
            log.save_frontier(&frontier).await.expect("and again");
            frontiers.push(frontier.clone());
        }
    }
    let newest = log.frontier_at_most(Head::new(501).expect("small")).await.expect("readable");
    assert_eq!(Some(&newest), frontiers.last());
    for size in [499, 480, 450, 400, 300, 100] {
        let found = log.frontier_at_most(Head::new(size).expect("small")).await.expect("readable");
        assert!(found.size().get() <= size && (found == Frontier::default() || frontiers.contains(&found)));
        assert!((500 - found.size().get()) <= 4 * (500 - size) + 40, "{size}: {}", found.size());
    }
    let rows = |table: &'static str| {
        let statement = format!("SELECT count(*) FROM coldstream.{table}");
        let database = &database;
        async move {
            let count: i64 =
                sqlx::query_scalar(&statement).fetch_one(&mut database.superuser().await).await.expect("a count");
            count
        }
    };
    assert!(rows("frontiers").await <= 30);

    let checkpoint = |size: u64, cosigned: bool| StoredCheckpoint {
        size: Head::new(size).expect("small"),
        root: Hash::of(&size.to_be_bytes()),
        note: format!("{size} {cosigned}"),
        cosigned,
    };
    assert_eq!(log.newest_checkpoint(false).await.expect("readable"), None);
    log.save_checkpoint(&checkpoint(5, false)).await.expect("saved");
    log.save_checkpoint(&checkpoint(5, true)).await.expect("its cosigned form");
    log.save_checkpoint(&checkpoint(5, false)).await.expect("the older form changes nothing");
    assert_eq!(log.newest_checkpoint(true).await.expect("readable"), Some(checkpoint(5, true)));
    let other = StoredCheckpoint { root: Hash::of(b"other"), ..checkpoint(5, true) };
    assert!(refusal(log.save_checkpoint(&other).await).contains("another root"));
    assert_eq!(log.newest_checkpoint(true).await.expect("readable"), Some(checkpoint(5, true)));
    for size in 6..100 {
        log.save_checkpoint(&checkpoint(size, false)).await.expect("saved");
    }
    assert_eq!(log.newest_checkpoint(false).await.expect("readable"), Some(checkpoint(99, false)));
    assert_eq!(log.newest_checkpoint(true).await.expect("readable"), Some(checkpoint(5, true)), "never thinned out");
    assert!(rows("signed_checkpoints").await <= 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_heard_of_the_other_region_never_becomes_less() {
    let rig = Rig::start().await;
    let database = rig.database(new_log()).await;
    let log = database.open().await;
    assert_eq!(log.heard().await.expect("readable"), None);
    let heard = |epoch: u64, head: u64, role: Role, at_text: &str| Heard {
        epoch: Epoch::new(epoch).expect("from 1"),
        head: Head::new(head).expect("small"),
        role,
        at: at(at_text),
    };
    let newest = heard(2, 10, Role::Active, "2020-01-02T00:00:00Z");
    log.hear(heard(1, 99, Role::Active, "2020-01-01T00:00:00Z")).await.expect("kept");
    log.hear(newest).await.expect("kept");
    for less in [heard(2, 9, Role::Active, "2020-01-03T00:00:00Z"), heard(1, 999, Role::Active, "2020-01-03T00:00:00Z")]
    {
        log.hear(less).await.expect("heard");
        assert_eq!(log.heard().await.expect("readable"), Some(newest));
    }
    let equal = heard(2, 10, Role::Draining, "2020-01-04T00:00:00Z");
    log.hear(equal).await.expect("kept");
    assert_eq!(database.open().await.heard().await.expect("readable"), Some(equal), "also after a restart");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_prunes_under_the_same_rule_and_follows_on() {
    let rig = Rig::start().await;
    let (_home, home) = a_year(&rig, new_simulated("2020-01-01T00:00:00Z")).await;
    let records = all(&*home).await;
    let database = rig.database(NewLog { role: Role::Follower, ..new_simulated("2020-01-01T00:00:00Z") }).await;
    let log = database.open().await;
    log.apply(&records[..100]).await.expect("applied");
    assert_eq!(prune_as_of(&log, "2020-12-20T00:00:00Z").await, records[..50]);
    let head = log.apply(&records).await.expect("what is pruned is known, what is there is compared, the rest is new");
    assert_eq!(head.get(), 120);
    let live = log.read_log(position(51), Direction::Forward, 999).await.expect("readable");
    assert_eq!(live, records[50..]);
    assert!(log.read_log(Position::FIRST, Direction::Forward, 1).await.is_err());
    is_sound(&database).await;
}
