//! LOG-4: while an event is in the live window its (source, id) is stored once in every mode; where the request named
//! Exactly or NoStream, for ever.

mod log_common;

use std::sync::Arc;

use async_trait::async_trait;
use domain::append::{AppendError, AppendRequest, Appended, ExpectedVersion, KeepIds, Role};
use domain::conformance::log::exactly;
use domain::event::Data;
use domain::log::{Direction, EventLog, FollowerLog, LogReader, ReadError};
use domain::record::Record;
use domain::tiered::ArchiveReader;
use domain::twin::MemoryArchive;
use domain::{Epoch, ErrorKind, Head, Position, StreamName, StreamVersion, Timestamp};
use event_log::{NewLog, PgConfig, PgLog};
use futures::StreamExt;
use log_common::pruning::prune_as_of;
use log_common::{Database, Rig, all, at, is_sound, new_log, new_simulated, places, position, request};
use ops::clock::SystemClock;
use sqlx::Executor;
use tokio::sync::Semaphore;

/// One request in each mode, and over several streams.
fn one_of_each(tag: &str) -> Vec<AppendRequest> {
    let stream = |what: &str| format!("a-{tag}/{what}");
    let id = |what: &str| format!("{tag}/{what}");
    let (any, none, both) = (stream("any"), stream("none"), stream("both"));
    vec![
        request(&[(&any, &id("1"))], &[]),
        request(&[(&none, &id("2")), (&none, &id("3"))], &[(&none, ExpectedVersion::NoStream)]),
        request(&[(&none, &id("4"))], &[(&none, exactly(2))]),
        request(&[(&any, &id("5"))], &[(&any, ExpectedVersion::StreamExists)]),
        // The stream whose version is named comes second: its request begins one position before it.
        request(&[(&any, &id("6")), (&both, &id("7")), (&both, &id("8"))], &[(&both, ExpectedVersion::NoStream)]),
        // Named, but not written.
        request(&[(&any, &id("9"))], &[(&both, exactly(2))]),
    ]
}

/// The streams whose versions are named. With any, a retry is known for ever.
fn named(request: &AppendRequest) -> impl Iterator<Item = &StreamName> {
    let named = |version| matches!(version, ExpectedVersion::NoStream | ExpectedVersion::Exactly(_));
    request.expect.iter().filter(move |expectation| named(expectation.version)).map(|expectation| &expectation.stream)
}

fn is_known_for_ever(request: &AppendRequest) -> bool {
    named(request).next().is_some()
}

async fn append_all(log: &PgLog, requests: Vec<AppendRequest>) -> Vec<(AppendRequest, Appended)> {
    let mut answers = Vec::new();
    for request in requests {
        let appended = log.append(request.clone()).await.expect("acknowledged");
        assert!(!appended.replayed);
        answers.push((request, appended));
    }
    answers
}

async fn is_replayed(log: &PgLog, request: &AppendRequest, first: &Appended) {
    let again = log.append(request.clone()).await.expect("a retry is acknowledged");
    assert!(again.replayed, "{request:?}");
    assert_eq!(again.events, first.events);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_gets_the_first_positions_across_processes_and_restarts() {
    let rig = Rig::start().await;
    let database = rig.database(new_log()).await;
    let log = database.open().await;
    let answers = append_all(&log, one_of_each("x")).await;
    let head = log.log_head().await.expect("readable").head;
    let other = database.open().await;
    for (request, first) in &answers {
        is_replayed(&log, request, first).await;
        is_replayed(&other, request, first).await;
    }
    log.shut_down().await;
    rig.cluster.kill().await.expect("killed");
    rig.cluster.start().await.expect("started again");
    let log = database.open().await;
    for (request, first) in &answers {
        is_replayed(&log, request, first).await;
    }
    assert_eq!(is_sound(&database).await, head);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_request_sent_many_times_at_once_is_stored_once() {
    let rig = Rig::start().await;
    let database = rig.database(new_log()).await;
    let logs = [database.open().await, database.open().await];
    for round in 0..10 {
        let ids = [format!("{round}/1"), format!("{round}/2")];
        let same = request(&[("a-1", &ids[0]), ("a-2", &ids[1])], &[]);
        let sent = (0..40).map(|number: usize| logs[number % 2].append(same.clone()));
        let answers = futures::future::join_all(sent).await;
        let answers: Vec<Appended> = answers.into_iter().map(|answer| answer.expect("acknowledged")).collect();
        assert_eq!(answers.iter().filter(|answer| !answer.replayed).count(), 1);
        assert!(answers.iter().all(|answer| answer.events == answers[0].events));
    }
    assert_eq!(is_sound(&database).await.get(), 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_made_of_events_that_were_stored_apart_is_known_as_a_whole() {
    let rig = Rig::start().await;
    let database = rig.database(new_log()).await;
    let log = database.open().await;
    for (stream, id) in [("a-1", "1"), ("a-2", "2"), ("a-1", "3")] {
        log.append(request(&[(stream, id)], &[])).await.expect("acknowledged");
    }
    let apart = log.append(request(&[("a-1", "3"), ("a-1", "1")], &[])).await.expect("known");
    assert_eq!((apart.replayed, places(&apart)), (true, vec![(3, 2), (1, 1)]));
    assert_eq!(is_sound(&database).await.get(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_event_with_the_id_of_a_large_one_is_refused() {
    let rig = Rig::start().await;
    let database = rig.database(new_log()).await;
    let log = database.open().await;
    let mut large = request(&[("a-1", "1"), ("a-1", "2")], &[]);
    large.events[1].data = Data::Json(format!("\"{}\"", "x".repeat(900_000)));
    let first = log.append(large.clone()).await.expect("acknowledged");
    let error = log.append(request(&[("a-1", "1"), ("a-1", "2")], &[])).await.expect_err("other content");
    assert!(matches!(&error, AppendError::IdTaken { id, position, .. } if id == "2" && position.get() == 2), "{error}");
    is_replayed(&log, &large, &first).await;
}

/// A log with old events of every mode that are archived, and the answers that they got.
async fn archived(rig: &Rig) -> (Database, Arc<PgLog>, Vec<(AppendRequest, Appended)>) {
    let database = rig.database(new_simulated("2020-01-10T00:00:00Z")).await;
    let log = Arc::new(database.open().await);
    let mut answers = append_all(&log, one_of_each("january")).await;
    log.set_simulated_now(at("2020-02-10T00:00:00Z")).await.expect("moved on");
    answers.extend(append_all(&log, one_of_each("february")).await);
    log.set_simulated_now(at("2020-12-01T00:00:00Z")).await.expect("moved on");
    append_all(&log, one_of_each("december")).await;
    let archived = prune_as_of(&log, "2020-12-20T00:00:00Z").await;
    assert_eq!(archived.len(), 18);
    log.set_archive(Arc::new(MemoryArchive::of(archived)));
    (database, log, answers)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_that_named_a_version_is_known_for_ever() {
    let rig = Rig::start().await;
    let (database, log, answers) = archived(&rig).await;
    let head = is_sound(&database).await;
    for (request, first) in answers.iter().filter(|(request, _)| is_known_for_ever(request)) {
        is_replayed(&log, request, first).await;
        let mut other = request.clone();
        other.events[0].data = Data::Json("{}".into());
        let error = log.append(other).await.expect_err("other content");
        assert!(matches!(error, AppendError::IdTaken { .. }), "{error}");
        if named(request).any(|stream| request.events.iter().any(|event| event.stream == *stream)) {
            let mut other = request.clone();
            other.events.iter_mut().for_each(|event| event.id.push_str("-new"));
            let error = log.append(other).await.expect_err("another request, too late");
            assert!(matches!(error, AppendError::WrongVersion { .. }), "{error}");
        }
        let mut longer = request.clone();
        longer.events.push(log_common::event("a-more", &format!("{}-more", longer.events[0].id)));
        let error = log.append(longer).await.expect_err("not that request");
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    }
    assert_eq!(is_sound(&database).await, head, "nothing was stored");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_archive_nobody_knows_whether_it_is_a_retry() {
    let rig = Rig::start().await;
    let (database, _, answers) = archived(&rig).await;
    let log = database.open().await;
    let (request, _) = answers.iter().find(|(request, _)| is_known_for_ever(request)).expect("one");
    let error = log.append(request.clone()).await.expect_err("unknown");
    assert_eq!(error.kind(), ErrorKind::Indeterminate, "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_that_left_the_window_may_be_used_again_where_no_version_was_named() {
    let rig = Rig::start().await;
    let (database, log, answers) = archived(&rig).await;
    let (request, first) = &answers[0];
    assert!(request.expect.is_empty());
    let again = log.append(request.clone()).await.expect("a new event");
    assert!(!again.replayed && again.events[0].position > first.events[0].position);
    is_replayed(&log, request, &again).await;
    is_sound(&database).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_that_is_kept_for_ever_is_kept_by_pruning_and_changed_by_nobody() {
    let rig = Rig::start().await;
    let (database, log, answers) = archived(&rig).await;
    let kept: Vec<i64> = answers
        .iter()
        .filter(|(request, _)| request.keep_ids() == KeepIds::ForEver)
        .map(|(_, first)| first.events[0].position.as_i64())
        .collect();
    assert_eq!(kept.len(), 2, "one of January, one of February");
    let pruned = "SELECT position FROM coldstream.event_ids WHERE position <= 18 ORDER BY position";
    let mut admin = database.superuser().await;
    assert_eq!(sqlx::query_scalar::<_, i64>(pruned).fetch_all(&mut admin).await.expect("readable"), kept);
    let all = log.kept_ids(position(1), position(99)).await.expect("readable");
    assert_eq!(all.iter().map(|at| at.as_i64()).collect::<Vec<_>>()[..2], kept, "what is pruned is shipped as well");
    for change in ["SET kept = NULL", "SET position = position + 1000"] {
        let change = format!("UPDATE coldstream.event_ids {change} WHERE kept");
        for mut session in [database.service().await, database.superuser().await] {
            let refused = session.execute(change.as_str()).await.expect_err("never").to_string();
            assert!(refused.contains("never goes back"), "{refused}");
        }
    }
    let found = log.find_event("/tests", &answers[5].0.events[0].id).await.expect("readable");
    assert_eq!(found, None, "it is not in the live log");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_that_named_a_version_is_known_for_ever_by_the_region_that_took_over() {
    let rig = Rig::start().await;
    let home = rig.log(new_simulated("2020-01-10T00:00:00Z")).await;
    let answers = append_all(&home, one_of_each("home")).await;
    let database = rig.database(NewLog { role: Role::Follower, ..new_simulated("2020-01-10T00:00:00Z") }).await;
    let dr = database.open().await;
    let kept = home.kept_ids(position(1), position(9)).await.expect("readable");
    dr.apply_keeping(&all(&home).await, &kept).await.expect("applied");
    let (following, leading) = ((Epoch::FIRST, Role::Follower), (Epoch::FIRST.next(), Role::Active));
    dr.change_role(following, leading).await.expect("promoted");
    for (request, first) in &answers {
        // In every mode, while the events are live.
        is_replayed(&dr, request, first).await;
    }
    dr.set_simulated_now(at("2020-12-01T00:00:00Z")).await.expect("moved on");
    append_all(&dr, one_of_each("dr")).await;
    let archived = prune_as_of(&dr, "2020-12-20T00:00:00Z").await;
    assert_eq!(archived.len(), 9);
    dr.set_archive(Arc::new(MemoryArchive::of(archived)));
    let head = is_sound(&database).await;
    for (request, first) in answers.iter().filter(|(request, _)| is_known_for_ever(request)) {
        is_replayed(&dr, request, first).await;
    }
    assert_eq!(is_sound(&database).await, head);
}

/// An archive that answers nobody until it is given up.
struct Silent {
    reads: Semaphore,
    given_up: Semaphore,
}

impl Silent {
    async fn read<T>(&self) -> Result<T, ReadError> {
        self.reads.add_permits(1);
        let closed = self.given_up.acquire().await.expect_err("it has no permits");
        Err(ReadError::Unavailable { reason: closed.to_string() })
    }
}

#[async_trait]
impl ArchiveReader for Silent {
    async fn read_log(&self, _: Position, _: Direction, _: usize) -> Result<Vec<Record>, ReadError> {
        self.read().await
    }

    async fn read_stream(
        &self,
        _: &StreamName,
        _: Position,
        _: StreamVersion,
        _: Direction,
        _: usize,
    ) -> Result<Vec<Record>, ReadError> {
        self.read().await
    }

    async fn head_as_of(&self, _: Timestamp) -> Result<Head, ReadError> {
        self.read().await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archive_that_does_not_answer_holds_up_retries_and_nobody_else() {
    let rig = Rig::start().await;
    let (_database, log, answers) = archived(&rig).await;
    let silent = Arc::new(Silent { reads: Semaphore::new(0), given_up: Semaphore::new(0) });
    log.set_archive(Arc::<Silent>::clone(&silent));
    let retries: Vec<_> = answers
        .iter()
        .filter(|(request, _)| is_known_for_ever(request))
        .cycle()
        .take(40)
        .map(|(request, _)| {
            let (log, request) = (Arc::clone(&log), request.clone());
            tokio::spawn(async move { log.append(request).await })
        })
        .collect();
    silent.reads.acquire_many(16).await.expect("open").forget();
    for request in one_of_each("meanwhile") {
        assert!(!log.append(request.clone()).await.expect("acknowledged").replayed);
        assert!(log.append(request).await.expect("a live retry needs no archive").replayed);
    }
    assert!(retries.iter().all(|retry| !retry.is_finished()));
    silent.given_up.close();
    for retry in retries {
        let error = retry.await.expect("no panic").expect_err("nobody knows");
        assert_eq!(error.kind(), ErrorKind::Indeterminate, "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_that_finds_no_room_among_those_that_are_looked_up_is_indeterminate_and_counted() {
    let rig = Rig::start().await;
    let (database, archived, answers) = archived(&rig).await;
    archived.shut_down().await;
    let config = PgConfig { queue_bytes: 4096, ..PgConfig::at(&database.url) };
    let log = Arc::new(PgLog::connect(config, Arc::new(SystemClock)).await.expect("the log opens"));
    let silent = Arc::new(Silent { reads: Semaphore::new(0), given_up: Semaphore::new(0) });
    log.set_archive(Arc::<Silent>::clone(&silent));
    let known = |(request, _): &&(AppendRequest, Appended)| is_known_for_ever(request) && request.events.len() == 1;
    let retry = &answers.iter().find(known).expect("one of each").0;
    let mut waiting = Vec::new();
    for taken in 1..=4 {
        let (sender, retry) = (Arc::clone(&log), retry.clone());
        waiting.push(tokio::spawn(async move { sender.append(retry).await }));
        silent.reads.acquire().await.expect("open").forget();
        assert_eq!(log.metrics().look_up_bytes, taken * 1024);
    }
    let error = log.append(retry.clone()).await.expect_err("there is no room");
    assert_eq!((error.kind(), log.metrics().full_look_ups), (ErrorKind::Indeterminate, 1), "{error}");
    silent.given_up.close();
    for retry in waiting {
        retry.await.expect("no panic").expect_err("nobody knows");
    }
    assert_eq!(log.metrics().look_up_bytes, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_retries_store_nothing() {
    let rig = Rig::start().await;
    let database = rig.database(new_simulated("2020-01-10T00:00:00Z")).await;
    let log = Arc::new(database.open().await);
    let mut answers = Vec::new();
    for tag in 0..200 {
        answers.extend(append_all(&log, one_of_each(&tag.to_string())).await);
    }
    retry(&log, &answers, 50_000).await;
    log.set_simulated_now(at("2020-12-01T00:00:00Z")).await.expect("moved on");
    append_all(&log, one_of_each("december")).await;
    let archived = prune_as_of(&log, "2020-12-20T00:00:00Z").await;
    assert_eq!(archived.len(), 1800);
    log.set_archive(Arc::new(MemoryArchive::of(archived)));
    let head = is_sound(&database).await;
    answers.retain(|(request, _)| is_known_for_ever(request));
    retry(&log, &answers, 50_000).await;
    assert_eq!(is_sound(&database).await, head);
    assert_eq!((head, log.metrics().events), (Head::new(1809).expect("small"), 1809));
}

async fn retry(log: &PgLog, answers: &[(AppendRequest, Appended)], count: usize) {
    let retries = answers.iter().cycle().take(count);
    let mut sent = futures::stream::iter(retries)
        .map(|(request, first)| async move { (log.append(request.clone()).await, first) })
        .buffer_unordered(256);
    let mut replayed = 0;
    while let Some((answer, first)) = sent.next().await {
        let answer = answer.expect("a retry is acknowledged");
        assert!(answer.replayed);
        assert_eq!(places(&answer), places(first));
        replayed += 1;
    }
    assert_eq!(replayed, count);
}
