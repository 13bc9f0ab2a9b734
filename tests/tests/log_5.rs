//! LOG-5: only the region that holds the current epoch acknowledges; and the log of a region that follows.

mod log_common;

use std::sync::Arc;

use domain::append::{AppendError, Role};
use domain::log::{ApplyError, Direction, EventLog, FollowerLog, LogReader};
use domain::record::Record;
use domain::{Epoch, ErrorKind, Head};
use event_log::NewLog;
use log_common::{Rig, all, is_sound, new_log, places, position, recorded, request};
use sqlx::Executor;

fn epoch(number: u64) -> Epoch {
    Epoch::new(number).expect("from 1")
}

fn follower() -> NewLog {
    NewLog { role: Role::Follower, ..new_log() }
}

/// Records of a log with several streams and months.
async fn history(rig: &Rig) -> Vec<Record> {
    let log = rig.log(new_log()).await;
    for number in 0..40_u32 {
        let (stream, id) = (format!("thing-{}", number % 7), number.to_string());
        let instant = format!("2020-{:02}-01T00:00:00Z", number / 10 + 1);
        log.append(recorded(&instant, request(&[(&stream, &id)], &[]))).await.expect("acknowledged");
    }
    all(&log).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_an_active_region_acknowledges() {
    let rig = Rig::start().await;
    for role in [Role::Follower, Role::Draining, Role::ReadOnly] {
        let database = rig.database(NewLog { role, ..new_log() }).await;
        let log = database.open().await;
        let error = log.append(request(&[("a-1", "1")], &[])).await.expect_err("fenced");
        assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
        assert_eq!(is_sound(&database).await, Head::EMPTY);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_change_of_role_no_append_of_the_old_one_is_acknowledged() {
    let rig = Rig::start().await;
    let database = rig.database(new_log()).await;
    let (writer, operator) = (Arc::new(database.open().await), database.open().await);
    let appends: Vec<_> = (0..8)
        .map(|task| {
            let log = Arc::clone(&writer);
            tokio::spawn(async move {
                let mut newest = 0;
                for number in 0.. {
                    match log.append(request(&[("a-1", &format!("{task}-{number}"))], &[])).await {
                        Ok(appended) => newest = appended.events[0].position.get(),
                        Err(AppendError::Fenced { epoch: fenced, .. }) => return (newest, fenced),
                        Err(error) => panic!("{error}"),
                    }
                }
                unreachable!("appends go on until they are fenced")
            })
        })
        .collect();
    let mut head = Head::EMPTY;
    while head.get() < 100 {
        head = operator.wait_beyond(head).await.expect("readable");
    }
    let changed = operator.change_role((epoch(1), Role::Active), (epoch(1), Role::Draining)).await.expect("changed");
    assert_eq!(changed.role, Role::Draining);
    for append in appends {
        let (newest, fenced) = append.await.expect("no panic");
        assert_eq!(fenced, epoch(1));
        assert!(newest <= changed.head.get(), "acknowledged after the change: {newest}");
    }
    assert_eq!(is_sound(&database).await, changed.head, "and nothing came after it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_is_changed_from_what_is_in_force_and_the_epoch_never_falls() {
    let rig = Rig::start().await;
    let database = rig.database(NewLog { epoch: epoch(3), ..new_log() }).await;
    let log = database.open().await;
    for (from, to) in [
        ((epoch(2), Role::Active), (epoch(4), Role::Active)),
        ((epoch(3), Role::Follower), (epoch(4), Role::Active)),
        ((epoch(3), Role::Active), (epoch(2), Role::Active)),
    ] {
        let error = log.change_role(from, to).await.expect_err("not in force");
        assert!(matches!(error, ApplyError::NotFollowing { role: Role::Active, epoch: e } if e == epoch(3)), "{error}");
    }
    let head = log.change_role((epoch(3), Role::Active), (epoch(4), Role::Follower)).await.expect("changed");
    assert_eq!((head.epoch, head.role), (epoch(4), Role::Follower));
    let lowered = database.superuser().await.execute("UPDATE coldstream.log_head SET epoch = 3").await.map(drop);
    assert!(lowered.is_err(), "whoever tries");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_append_does_not_hold_a_change_of_role_up() {
    let rig = Rig::start().await;
    let database = rig.database(new_log()).await;
    let log = database.open().await;
    let mut frozen = database.service().await;
    frozen.execute("BEGIN; SELECT FROM coldstream.log_head FOR UPDATE").await.expect("held");
    let head = log.change_role((epoch(1), Role::Active), (epoch(2), Role::Follower)).await.expect("changed");
    assert_eq!((head.epoch, log.metrics().terminated_holders), (epoch(2), 1));
    assert!(frozen.execute("COMMIT").await.is_err(), "its session is gone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_is_a_byte_equal_prefix_and_a_batch_applied_twice_changes_nothing() {
    let rig = Rig::start().await;
    let records = history(&rig).await;
    let database = rig.database(follower()).await;
    let log = database.open().await;
    for batch in [&records[..13], &records[..13], &records[5..20], &records[20..21], &records[..40]] {
        let head = log.apply(batch).await.expect("applied");
        assert_eq!(head.newest(), batch.last().map(Record::position).max(head.newest()));
    }
    assert_eq!(is_sound(&database).await.get(), 40);
    let lines = |records: &[Record]| records.iter().map(Record::to_line).collect::<Vec<_>>();
    assert_eq!(lines(&all(&log).await), lines(&records));
    // Promoted, it goes on where the other one ended, and knows the other one's requests.
    log.change_role((epoch(1), Role::Follower), (epoch(2), Role::Active)).await.expect("promoted");
    let retry = log.append(recorded("2020-01-01T00:00:00Z", request(&[("thing-3", "3")], &[]))).await.expect("known");
    assert_eq!((places(&retry), retry.replayed, retry.events[0].epoch), (vec![(4, 1)], true, epoch(1)));
    let new = log.append(request(&[("thing-3", "new")], &[])).await.expect("acknowledged");
    assert_eq!((places(&new), new.events[0].epoch), (vec![(41, 7)], epoch(2)));
    assert_eq!(is_sound(&database).await.get(), 41);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_cannot_follow_is_refused_whole() {
    let rig = Rig::start().await;
    let records = history(&rig).await;
    let database = rig.database(follower()).await;
    let log = database.open().await;
    log.apply(&records[..10]).await.expect("applied");
    let out_of_order = log.apply(&records[11..15]).await.expect_err("a gap");
    assert!(
        matches!(out_of_order, ApplyError::OutOfOrder { expected, found }
        if (expected, found) == (position(11), position(12))),
        "{out_of_order}"
    );
    let gap_within = [&records[10..12], &records[13..14]].concat();
    assert!(matches!(log.apply(&gap_within).await, Err(ApplyError::OutOfOrder { .. })));
    let damaged = |index: usize, damage: fn(&mut domain::record::RecordedEvent)| {
        let mut batch = records[10..14].to_vec();
        let Record::Event(event) = &mut batch[index] else { panic!("an event") };
        damage(event);
        batch
    };
    for batch in [
        damaged(2, |event| event.version = event.version.next()),
        damaged(2, |event| event.previous = event.previous.map(domain::Position::next)),
        damaged(2, |event| event.epoch = epoch(2)),
        damaged(2, |event| event.recorded_at = log_common::at("2019-01-01T00:00:00Z")),
    ] {
        let error = log.apply(&batch).await.expect_err("it contradicts this log");
        assert!(matches!(error, ApplyError::Refused { position: at, .. } if at == position(13)), "{error}");
    }
    let mut other = records[..10].to_vec();
    let Record::Event(event) = &mut other[4] else { panic!("an event") };
    event.event.id = "another".into();
    assert!(matches!(log.apply(&other).await, Err(ApplyError::Refused { position: at, .. }) if at == position(5)));
    assert_eq!(is_sound(&database).await.get(), 10, "all or none");
    log.apply(&records[10..]).await.expect("the right one is applied");
    assert_eq!(is_sound(&database).await.get(), 40);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_active_region_applies_nothing() {
    let rig = Rig::start().await;
    let records = history(&rig).await;
    let log = rig.log(new_log()).await;
    assert!(matches!(log.apply(&records).await, Err(ApplyError::NotFollowing { role: Role::Active, .. })));
    assert_eq!(log.log_head().await.expect("readable").head, Head::EMPTY);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_record_is_followed_and_read_as_it_is() {
    use domain::record::{RemovedBy, RemovedRecord};
    let rig = Rig::start().await;
    let mut records = history(&rig).await;
    let Record::Event(event) = &records[3] else { panic!("an event") };
    records[3] = Record::Removed(RemovedRecord {
        position: event.position,
        version: event.version,
        stream: event.event.stream.clone(),
        recorded_at: event.recorded_at,
        removed: RemovedBy::Redaction,
        certificate: "certificate \"1\"".into(),
        leaf: Record::Event(event.clone()).leaf(),
    });
    let database = rig.database(follower()).await;
    let log = database.open().await;
    log.apply(&records).await.expect("applied");
    assert_eq!(all(&log).await, records);
    let back = log.read_log(position(5), Direction::Backward, 3).await.expect("readable");
    assert_eq!(back[1], records[3]);
}
