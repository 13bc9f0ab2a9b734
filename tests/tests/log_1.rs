//! LOG-1: an acknowledged append is durable and served exactly once; what is not acknowledged is said to be so, and
//! nothing is ever said to be stored, or not stored, that is not known to be.

mod log_common;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use domain::append::{AppendError, AppendRequest, ConsumerCheckpoint};
use domain::filter::Filter;
use domain::log::{Direction, EventLog, LogReader};
use domain::record::Record;
use domain::{ErrorKind, Head, Position};
use event_log::{PgConfig, PgLog};
use log_common::proxy::{Cut, Proxy};
use log_common::{Database, Rig, all, event, is_sound, new_log, places, position, request};
use ops::clock::SystemClock;
use rand::Rng;
use sqlx::{Connection, Executor, PgConnection};
use system_tests::chance::Moments;

/// Appends one event after the other until told to stop; returns what was acknowledged, by id.
async fn write_until(log: Arc<PgLog>, writer: usize, stop: Arc<AtomicBool>) -> HashMap<String, u64> {
    let mut acknowledged = HashMap::new();
    for number in 0.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let (id, stream) = (format!("{writer}-{number}"), format!("thing-{writer}-{}", number % 3));
        let request = request(&[(&stream, &id)], &[]);
        // What may be stored is sent again with its id, as a client does.
        for _ in 0..200 {
            match log.append(request.clone()).await {
                Ok(appended) => {
                    acknowledged.insert(id, appended.events[0].position.get());
                    break;
                }
                Err(error) => {
                    assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Indeterminate), "{error}");
                    tokio::task::yield_now().await;
                }
            }
        }
    }
    acknowledged
}

/// Every acknowledged event stands where it was said to, and nothing stands twice.
async fn holds(log: &PgLog, acknowledged: &HashMap<String, u64>) {
    let mut stored = HashMap::new();
    for record in all(log).await {
        let Record::Event(recorded) = record else { panic!("an event") };
        assert!(stored.insert(recorded.event.id.clone(), recorded.position.get()).is_none(), "stored twice");
    }
    for (id, position) in acknowledged {
        assert_eq!(stored.get(id), Some(position), "{id} was acknowledged");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_crashes_of_the_server_under_eight_writers() {
    let rig = Rig::start().await;
    let database = rig.database(new_log()).await;
    let log = Arc::new(database.open().await);
    let mut acknowledged = HashMap::new();
    for round in 0..3 {
        let stop = Arc::new(AtomicBool::new(false));
        let writers: Vec<_> = (0..8)
            .map(|writer| tokio::spawn(write_until(Arc::clone(&log), round * 8 + writer, Arc::clone(&stop))))
            .collect();
        let before = log.log_head().await.expect("readable").head;
        let mut head = before;
        while head.get() < before.get() + 300 {
            head = log.wait_beyond(head).await.expect("readable");
        }
        rig.cluster.kill().await.expect("killed");
        rig.cluster.start().await.expect("started again");
        // The writers go on by themselves with the process that they have.
        let mut seen = Err(());
        while seen.is_err() {
            seen = log.log_head().await.map_err(drop);
        }
        let mut head = seen.expect("readable").head;
        let recovered = head;
        while head.get() < recovered.get() + 100 {
            head = log.wait_beyond(head).await.unwrap_or(head);
        }
        stop.store(true, Ordering::SeqCst);
        for writer in writers {
            acknowledged.extend(writer.await.expect("no panic"));
        }
        is_sound(&database).await;
        holds(&log, &acknowledged).await;
    }
    assert!(acknowledged.len() > 900, "{}", acknowledged.len());
    log.shut_down().await;
}

/// The same request as a group that one statement stores, and as one that is stored under the head's lock.
fn both_ways(request: AppendRequest) -> [AppendRequest; 2] {
    let checkpoint = Some(ConsumerCheckpoint { consumer: "an-importer".into(), from: 0, to: 1 });
    [request.clone(), AppendRequest { checkpoint, ..request }]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_reply_was_lost_is_found_and_acknowledged() {
    let rig = Rig::start().await;
    for lost in both_ways(request(&[("a-1", "2"), ("a-2", "3")], &[])) {
        let database = rig.database(new_log()).await;
        let proxy = Proxy::start(rig.cluster.port()).await;
        let log = database.open_at(&proxy.url(&database.url)).await;
        log.append(request(&[("a-1", "1")], &[])).await.expect("acknowledged");
        proxy.cut(Cut::After);
        let appended = log.append(lost).await.expect("found and acknowledged");
        assert_eq!((places(&appended), appended.replayed), (vec![(2, 2), (3, 1)], false));
        assert_eq!((proxy.cuts(), log.metrics().in_doubt), (1, 1));
        // The heads that were cached before the doubt are not believed.
        let next = log.append(request(&[("a-1", "4")], &[])).await.expect("acknowledged");
        assert_eq!(places(&next), [(4, 3)]);
        assert_eq!(is_sound(&database).await.get(), 4);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_never_arrived_is_known_not_to_be_stored_and_made_again() {
    let rig = Rig::start().await;
    for lost in both_ways(request(&[("a-1", "2")], &[])) {
        let database = rig.database(new_log()).await;
        let proxy = Proxy::start(rig.cluster.port()).await;
        let log = database.open_at(&proxy.url(&database.url)).await;
        log.append(request(&[("a-1", "1")], &[])).await.expect("acknowledged");
        proxy.cut(Cut::Before);
        let appended = log.append(lost).await.expect("made again with a new session");
        assert_eq!((places(&appended), appended.replayed), (vec![(2, 2)], false));
        assert_eq!((proxy.cuts(), log.metrics().in_doubt), (1, 1));
        assert_eq!(is_sound(&database).await.get(), 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_never_arrived_is_not_taken_for_stored_because_one_of_its_events_came_another_way() {
    let rig = Rig::start().await;
    for lost in both_ways(request(&[("a-1", "lost"), ("b-1", "retried")], &[])) {
        let database = rig.database(new_log()).await;
        let proxy = Proxy::start(rig.cluster.port()).await;
        let (log, other) = (Arc::new(database.open_at(&proxy.url(&database.url)).await), database.open().await);
        log.append(request(&[("a-1", "1")], &[])).await.expect("acknowledged");
        let shut = proxy.shut().await;
        proxy.cut(Cut::Before);
        let appended = tokio::spawn({
            let log = Arc::clone(&log);
            async move { log.append(lost).await }
        });
        while proxy.cuts() == 0 {
            tokio::task::yield_now().await;
        }
        // Through another process: at the very position that it had in the lost group.
        other.append(request(&[("c-1", "other")], &[])).await.expect("acknowledged");
        let retried = other.append(request(&[("b-1", "retried")], &[])).await.expect("acknowledged");
        assert_eq!(places(&retried), [(3, 1)]);
        drop(shut);
        // Two requests share an id and differ: that is said, and nothing is acknowledged that is not there.
        let error = appended.await.expect("no panic").expect_err("half of it is another request's");
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
        assert_eq!(is_sound(&database).await.get(), 3);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_in_doubt_is_indeterminate_when_another_server_answers() {
    let rig = Rig::start().await;
    let other = Rig::start().await;
    let (database, elsewhere) = (rig.database(new_log()).await, other.database(new_log()).await);
    assert_eq!(database.name, elsewhere.name, "the other one looks the same");
    let proxy = Proxy::start(rig.cluster.port()).await;
    let log = database.open_at(&proxy.url(&database.url)).await;
    proxy.cut(Cut::AfterThenTo(other.cluster.port()));
    let error = log.append(request(&[("a-1", "1")], &[])).await.expect_err("nobody knows");
    assert_eq!(error.kind(), ErrorKind::Indeterminate, "{error}");
    // It was stored, where nobody can ask; the other server got nothing and gets nothing.
    assert_eq!(is_sound(&database).await.get(), 1);
    let error = log.append(request(&[("a-1", "2")], &[])).await.expect_err("the wrong server");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert_eq!(is_sound(&elsewhere).await, Head::EMPTY);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_that_the_server_refuses_is_refused_alone() {
    let rig = Rig::start().await;
    let database = rig.database(new_log()).await;
    database.run("ALTER TABLE coldstream.events ADD CHECK (payload::text NOT LIKE '%poison%')").await;
    let log = Arc::new(database.open().await);
    // One group waits for the head, the others queue up behind it and are the next one.
    let mut holder = hold_head(&database).await;
    let append = |number: usize| {
        let log = Arc::clone(&log);
        let id = if number == 20 { "poison".to_owned() } else { number.to_string() };
        tokio::spawn(async move { (number, log.append(request(&[("a-1", &id)], &[])).await) })
    };
    let mut appends = vec![append(0)];
    waits_for_the_head(&database).await;
    appends.extend((1..33).map(append));
    while log.metrics().queued_requests < 32 {
        tokio::task::yield_now().await;
    }
    holder.execute("ROLLBACK").await.expect("let go");
    for append in appends {
        let (number, answer) = append.await.expect("no panic");
        match answer {
            Ok(_) => assert_ne!(number, 20),
            Err(error) => assert_eq!((number, error.kind()), (20, ErrorKind::Invalid), "{error}"),
        }
    }
    assert_eq!(is_sound(&database).await.get(), 32);
    assert!(log.metrics().halved_groups >= 4, "{:?}", log.metrics());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_that_stalls_in_copy_is_ended_and_the_others_go_on() {
    let rig = Rig::start().await;
    let database = rig.database(new_log()).await;
    let log = database.open().await;
    log.append(request(&[("a-1", "1")], &[])).await.expect("acknowledged");
    let mut frozen = database.service().await;
    frozen.execute("BEGIN; SELECT FROM coldstream.log_head FOR UPDATE").await.expect("held");
    let copy = frozen.copy_in_raw("COPY coldstream.events FROM STDIN").await.expect("copying");
    let appended = log.append(request(&[("a-1", "2")], &[])).await.expect("acknowledged");
    assert_eq!(places(&appended), [(2, 2)]);
    assert_eq!(log.metrics().terminated_holders, 1);
    assert!(copy.finish().await.is_err(), "the frozen one wakes up without its session");
    assert_eq!(is_sound(&database).await.get(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_that_works_is_left_alone_and_the_waiter_says_unavailable() {
    let rig = Rig::start().await;
    let database = rig.database(new_log()).await;
    let log = database.open().await;
    log.append(request(&[("a-1", "1")], &[])).await.expect("acknowledged");
    let mut busy = database.service().await;
    busy.execute("BEGIN; SELECT FROM coldstream.log_head FOR UPDATE").await.expect("held");
    let working = tokio::spawn(async move { busy.execute("SELECT pg_sleep(60)").await.map(drop) });
    let error = log.append(request(&[("a-1", "2")], &[])).await.expect_err("the head is not to be had");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert_eq!((log.metrics().terminated_holders, working.is_finished()), (0, false));
    working.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_accepted_before_a_shutdown_is_answered_and_the_rest_is_refused() {
    let rig = Rig::start().await;
    let database = rig.database(new_log()).await;
    let log = Arc::new(database.open().await);
    let mut holder = hold_head(&database).await;
    let append = |number: usize| {
        let log = Arc::clone(&log);
        tokio::spawn(async move { log.append(request(&[("a-1", &number.to_string())], &[])).await })
    };
    let mut appends = vec![append(0)];
    waits_for_the_head(&database).await;
    appends.extend((1..20).map(append));
    while log.metrics().queued_requests < 19 {
        tokio::task::yield_now().await;
    }
    let mut closed = std::pin::pin!(log.shut_down());
    assert!(futures::poll!(closed.as_mut()).is_pending(), "accepted appends wait for the head");
    let late = log.append(request(&[("a-1", "late")], &[])).await.expect_err("refused");
    assert_eq!(late.kind(), ErrorKind::Unavailable, "{late}");
    holder.execute("ROLLBACK").await.expect("let go");
    closed.await;
    for append in appends {
        append.await.expect("no panic").expect("what was accepted is stored");
    }
    assert_eq!(is_sound(&database).await.get(), 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_refuses_with_a_time_to_come_back() {
    let rig = Rig::start().await;
    let database = rig.database(new_log()).await;
    let config = PgConfig { queue_bytes: 4096, ..PgConfig::at(&database.url) };
    let log = PgLog::connect(config, Arc::new(SystemClock)).await.expect("the log opens");
    let log = Arc::new(log);
    let mut holder = hold_head(&database).await;
    let first: Vec<_> = (0..4)
        .map(|number| {
            let log = Arc::clone(&log);
            tokio::spawn(async move { log.append(request(&[("a-1", &number.to_string())], &[])).await })
        })
        .collect();
    let error = loop {
        let waiting = tokio::time::timeout(Duration::from_millis(50), log.append(request(&[("a-2", "x")], &[])));
        if let Ok(answer) = waiting.await {
            break answer.expect_err("the head is held");
        }
    };
    assert!(matches!(error, AppendError::Unavailable { retry_after_seconds: Some(_), .. }), "{error}");
    holder.execute("ROLLBACK").await.expect("let go");
    for append in first {
        drop(append.await.expect("no panic"));
    }
    is_sound(&database).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_takes_no_writes_makes_appends_unavailable_and_reads_go_on() {
    let rig = Rig::start().await;
    let database = rig.database(new_log()).await;
    let log = database.open().await;
    log.append(request(&[("a-1", "1")], &[])).await.expect("acknowledged");
    database.run(&format!("ALTER DATABASE {} SET default_transaction_read_only = on", database.name)).await;
    end_sessions(&database).await;
    let error = log.append(request(&[("a-1", "2")], &[])).await.expect_err("read-only");
    assert!(error.to_string().contains("read-only"), "{error}");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(all(&log).await.len(), 1);
}

/// A session that holds the head and that the service can neither see nor end.
async fn hold_head(database: &Database) -> PgConnection {
    let mut holder = database.superuser().await;
    holder.execute("BEGIN; SELECT FROM coldstream.log_head FOR UPDATE").await.expect("held");
    holder
}

/// Returns when the appender has taken a group and waits for the head.
async fn waits_for_the_head(database: &Database) {
    let mut admin = database.superuser().await;
    let waiting = "SELECT EXISTS (SELECT FROM pg_stat_activity
        WHERE application_name = 'coldstream append' AND wait_event_type = 'Lock' AND datname = current_database())";
    while !sqlx::query_scalar::<_, bool>(waiting).fetch_one(&mut admin).await.expect("readable") {}
}

/// Ends the sessions of the service, as a restart of the server would.
async fn end_sessions(database: &Database) {
    let mut admin = database.superuser().await;
    let end = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = 'coldstream_app'";
    admin.execute(end).await.expect("ended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_that_died_while_idle_cost_no_append() {
    let rig = Rig::start().await;
    let database = rig.database(new_log()).await;
    let log = database.open().await;
    for number in 1..=3 {
        let appended = log.append(request(&[("a-1", &number.to_string())], &[])).await.expect("acknowledged");
        assert_eq!(places(&appended), [(number, number)]);
        end_sessions(&database).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_ends_at_its_bytes_and_the_next_one_goes_on() {
    let rig = Rig::start().await;
    let database = rig.database(new_log()).await;
    let log = database.open().await;
    let big = |id: &str| {
        let mut event = event("a-big", id);
        event.data = domain::event::Data::Json(format!("\"{}\"", "x".repeat(900_000)));
        domain::append::AppendRequest { events: vec![event], ..Default::default() }
    };
    for number in 0..24 {
        log.append(big(&number.to_string())).await.expect("acknowledged");
    }
    let page = log.read_log(Position::FIRST, Direction::Forward, 1000).await.expect("readable");
    assert!((2..24).contains(&page.len()), "{} records", page.len());
    assert_eq!(all(&log).await.len(), 24);
    let stream = log_common::name("a-big");
    let back = log.read_stream(&stream, log_common::version(24), Direction::Backward, 1000).await.expect("readable");
    assert!((2..24).contains(&back.len()), "{} records", back.len());
    assert_eq!(back[0].position(), position(24));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_that_is_dropped_half_way_or_loses_its_session_leaves_nothing_to_the_next_one() {
    let rig = Rig::start().await;
    let database = rig.database(new_log()).await;
    let log = database.open().await;
    for number in 0..20 {
        let ids: Vec<String> = (0..100).map(|event| format!("{number}-{event}")).collect();
        let events: Vec<(&str, &str)> = ids.iter().map(|id| ("a-1", id.as_str())).collect();
        log.append(request(&events, &[])).await.expect("acknowledged");
    }
    let whole = all(&log).await;
    assert_eq!(whole.len(), 2000);
    let mut rng = system_tests::chance::generator();
    let mut moments = Moments::within(Duration::from_millis(5));
    while moments.counts().0 < 40 {
        let from = rng.random_range(1..=1000_u64);
        let read = log.read_log(position(from), Direction::Forward, 1000);
        let read = tokio::time::timeout(moments.draw(&mut rng), read).await;
        moments.was_cut(read.is_err());
        if let Ok(page) = read {
            let first = usize::try_from(from).expect("small") - 1;
            assert_eq!(page.expect("readable"), whole[first..first + 1000]);
        }
        // More than the pool has sessions, at once: whichever was dropped is among them.
        let after =
            futures::future::join_all((1..=12).map(|from| log.read_log(position(from), Direction::Forward, 1000)));
        for (index, page) in after.await.into_iter().enumerate() {
            assert_eq!(page.expect("readable"), whole[index..index + 1000], "after a drop");
        }
    }
    println!("{moments:?}");
    for _ in 0..10 {
        end_sessions(&database).await;
        let pages = (1..=12).map(|from| log.read_log(position(from), Direction::Forward, 1000));
        for (index, page) in futures::future::join_all(pages).await.into_iter().enumerate() {
            // A session that was ended says so, or another one is taken; neither is a page of something else.
            match page {
                Ok(page) => assert_eq!(page, whole[index..index + 1000]),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}"),
            }
        }
    }
    assert_eq!(all(&log).await, whole);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hole_in_the_log_is_reported_and_not_stepped_over() {
    let rig = Rig::start().await;
    let database = rig.database(new_log()).await;
    let log = database.open().await;
    for number in 1..=9 {
        log.append(request(&[("a-1", &number.to_string())], &[])).await.expect("acknowledged");
    }
    let mut admin = PgConnection::connect(&database.admin_url).await.expect("connected");
    for statement in [
        "ALTER TABLE coldstream.events DISABLE TRIGGER an_event_is_never_changed",
        "DELETE FROM coldstream.events WHERE position = 5",
    ] {
        admin.execute(statement).await.expect("a superuser can do damage");
    }
    let stream = log_common::name("a-1");
    for direction in [Direction::Forward, Direction::Backward] {
        let (from, version) = match direction {
            Direction::Forward => (position(3), log_common::version(3)),
            Direction::Backward => (position(7), log_common::version(7)),
        };
        let error = log.read_log(from, direction, 9).await.expect_err("a hole");
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        let error = log.read_stream(&stream, version, direction, 9).await.expect_err("a hole");
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        // Nothing matches on either side of it.
        let filter = Filter::default().category("other").expect("a filter");
        let error = log.search_log(from, direction, &filter, 9).await.expect_err("a hole");
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    }
    let error = log.read_log(position(5), Direction::Forward, 9).await.expect_err("a hole");
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
}
