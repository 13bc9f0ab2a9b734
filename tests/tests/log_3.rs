//! LOG-3: stream versions are dense from 1; an expected version is honoured for ever, also for a stream whose events
//! are all archived.

mod log_common;

use std::sync::Arc;

use domain::append::{AppendError, ExpectedVersion};
use domain::conformance::log::exactly;
use domain::event::TOMBSTONE_TYPE;
use domain::log::{Direction, EventLog, LogReader};
use domain::twin::MemoryArchive;
use domain::{ErrorKind, Head};
use log_common::pruning::prune_as_of;
use log_common::{Rig, is_sound, name, new_log, new_simulated, places, request, version};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_writers_that_expect_one_version_one_succeeds() {
    let rig = Rig::start().await;
    let database = rig.database(new_log()).await;
    let logs = [Arc::new(database.open().await), Arc::new(database.open().await)];
    let writers: Vec<_> = (0..8)
        .map(|writer: usize| {
            let log = Arc::clone(&logs[writer % 2]);
            tokio::spawn(async move {
                let mut won = Vec::new();
                while won.len() < 20 {
                    let head = log.stream_head(&name("a-1")).await.expect("readable");
                    let expected =
                        head.map_or(ExpectedVersion::NoStream, |head| ExpectedVersion::Exactly(head.version));
                    let id = format!("{writer}-{}-{}", won.len(), head.map_or(0, |head| head.version.get()));
                    match log.append(request(&[("a-1", &id)], &[("a-1", expected)])).await {
                        Ok(appended) => won.push(appended.events[0].version.get()),
                        Err(AppendError::WrongVersion { actual, .. }) => assert!(actual > head.map(|h| h.version)),
                        Err(error) => panic!("{error}"),
                    }
                }
                won
            })
        })
        .collect();
    let mut won = Vec::new();
    for writer in writers {
        won.extend(writer.await.expect("no panic"));
    }
    won.sort_unstable();
    assert_eq!(won, (1..=160).collect::<Vec<u64>>());
    assert_eq!(is_sound(&database).await.get(), 160);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_that_another_process_has_moved_are_not_believed() {
    let rig = Rig::start().await;
    let database = rig.database(new_log()).await;
    let logs = [database.open().await, database.open().await];
    for round in 0..10_u64 {
        for (index, log) in logs.iter().enumerate() {
            let expected = if round == 0 && index == 0 {
                ExpectedVersion::NoStream
            } else {
                exactly(round * 2 + u64::try_from(index).expect("small"))
            };
            let id = format!("{round}-{index}");
            log.append(request(&[("a-1", &id)], &[("a-1", expected)])).await.expect("acknowledged");
        }
    }
    assert_eq!(is_sound(&database).await.get(), 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_whose_events_are_all_pruned_goes_on_at_its_next_version() {
    let rig = Rig::start().await;
    let database = rig.database(new_simulated("2020-01-10T00:00:00Z")).await;
    let log = Arc::new(database.open().await);
    log.append(request(&[("a-old", "1"), ("a-old", "2"), ("a-closed", "3")], &[])).await.expect("acknowledged");
    let mut tombstone = request(&[("a-closed", "4")], &[]);
    tombstone.events[0].event_type = TOMBSTONE_TYPE.into();
    log.append(tombstone).await.expect("acknowledged");
    log.set_simulated_now(log_common::at("2020-12-01T00:00:00Z")).await.expect("moved on");
    log.append(request(&[("a-new", "5")], &[])).await.expect("acknowledged");
    let archived = prune_as_of(&log, "2020-12-20T00:00:00Z").await;
    assert_eq!(archived.len(), 4);
    let archive = Arc::new(MemoryArchive::of(archived));

    // In this process and in one that has cached nothing.
    for (log, next) in [(Arc::clone(&log), 3), (Arc::new(database.open().await), 4)] {
        log.set_archive(Arc::<MemoryArchive>::clone(&archive));
        let head = log.stream_head(&name("a-old")).await.expect("readable").expect("known for ever");
        assert_eq!(head.version, version(next - 1));
        let id = format!("new-{next}");
        for wrong in [exactly(next), exactly(next - 2), ExpectedVersion::NoStream] {
            let error = log.append(request(&[("a-old", &id)], &[("a-old", wrong)])).await.expect_err("refused");
            assert_eq!(error.kind(), ErrorKind::Conflict, "{wrong:?}: {error}");
        }
        let appended = log.append(request(&[("a-old", &id)], &[("a-old", exactly(next - 1))])).await;
        assert_eq!(places(&appended.expect("acknowledged")), [(next + 3, next)]);
        let live = log.read_stream(&name("a-old"), version(1), Direction::Forward, 9).await.expect("readable");
        assert_eq!(live[0].version(), version(3), "the live log has what is live");
        let closed = log.append(request(&[("a-closed", &format!("late-{next}"))], &[])).await.expect_err("closed");
        assert!(matches!(closed, AppendError::StreamClosed { .. }), "{closed}");
    }
    assert_eq!(is_sound(&database).await, Head::new(7).expect("small"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_are_listed_by_name_byte_by_byte_also_when_pruned() {
    let rig = Rig::start().await;
    let log = rig.log(new_simulated("2020-01-10T00:00:00Z")).await;
    let mut names = ["a-B", "a-a", "a-Ä", "a-a/b", "a-a b", "a-é", "a-10", "a-9", "b-x", "aa-x"];
    for (number, stream) in names.iter().enumerate() {
        log.append(request(&[(*stream, &number.to_string())], &[])).await.expect("acknowledged");
    }
    log.set_simulated_now(log_common::at("2020-12-01T00:00:00Z")).await.expect("moved on");
    log.append(request(&[("c-1", "last")], &[])).await.expect("acknowledged");
    prune_as_of(&log, "2020-12-20T00:00:00Z").await;
    names.sort_unstable();
    let expected: Vec<&str> = names.iter().copied().filter(|stream| stream.starts_with("a-")).collect();
    let mut listed: Vec<String> = Vec::new();
    let mut after = None;
    loop {
        let page = log.streams("a", after.as_ref(), 3).await.expect("readable");
        let Some((last, _)) = page.last() else { break };
        after = Some(last.clone());
        listed.extend(page.iter().map(|(stream, _)| stream.to_string()));
    }
    assert_eq!(listed, expected);
    assert_eq!(log.streams("a", Some(&name("b-0")), 3).await.expect("readable"), []);
    assert_eq!(log.streams("b", Some(&name("a-zzz")), 3).await.expect("readable").len(), 1);
}
