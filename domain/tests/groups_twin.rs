//! The consumer groups in memory pass the suite that those on PostgreSQL pass.

#![cfg(feature = "conformance")]

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use async_trait::async_trait;
use domain::append::Role;
use domain::conformance::groups::{Timed, run};
use domain::conformance::log::request;
use domain::group::{ConsumerGroups as _, Delivered, GroupName, NewGroup, records_at};
use domain::log::{Direction, EventLog as _, LogReader, ReadError};
use domain::record::Record;
use domain::twin::{Between, Interposed, MemoryGroups, MemoryLog};
use domain::{Clock, ClockError, Position, Timestamp};

/// A clock that is moved by hand.
#[derive(Default)]
struct Hand(AtomicI64);

#[async_trait]
impl Clock for Hand {
    async fn now(&self) -> Result<Timestamp, ClockError> {
        let seconds = self.0.load(Ordering::Relaxed);
        Timestamp::from_unix_micros(seconds * 1_000_000).map_err(|error| ClockError { reason: error.to_string() })
    }
}

struct InMemory {
    log: Arc<MemoryLog>,
    groups: MemoryGroups,
    hand: Arc<Hand>,
}

#[async_trait]
impl Timed for InMemory {
    type Log = MemoryLog;
    type Groups = MemoryGroups;

    fn log(&self) -> &MemoryLog {
        &self.log
    }

    fn groups(&self) -> &MemoryGroups {
        &self.groups
    }

    async fn pass(&self, seconds: u32) {
        self.hand.0.fetch_add(i64::from(seconds), Ordering::Relaxed);
    }
}

#[tokio::test]
async fn the_groups_in_memory_pass_the_suite() {
    run(async || {
        let hand = Arc::new(Hand::default());
        let created = hand.now().await.expect("an instant");
        let log = Arc::new(MemoryLog::new(hand.clone(), created, Role::Active));
        InMemory { groups: MemoryGroups::new(log.clone(), hand.clone()), log, hand }
    })
    .await;
}

/// Counts reads.
#[derive(Default)]
struct Counted(AtomicI64);

#[async_trait]
impl Between for Counted {
    async fn read_log(
        &self,
        log: &dyn LogReader,
        from: Position,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<Record>, ReadError> {
        self.0.fetch_add(1, Ordering::Relaxed);
        log.read_log(from, direction, limit).await
    }
}

#[tokio::test]
async fn what_stands_near_each_other_is_read_together_and_what_lies_between_is_jumped_over() {
    let hand = Arc::new(Hand::default());
    let log = MemoryLog::new(hand.clone(), hand.now().await.expect("an instant"), Role::Active);
    for id in 1..=1000 {
        log.append(request(&[("a-1", &id.to_string())], &[])).await.expect("acknowledged");
    }
    let log = Arc::new(Interposed { log: Arc::new(log), between: Counted::default() });
    let groups = MemoryGroups::new(log.clone(), hand);
    let new = NewGroup::called(GroupName::parse("g").expect("a name"));
    let group = groups.create(&new).await.expect("created").group().clone();
    let cases = [
        ((1..=200).collect(), 1),
        (vec![1, 500, 1000], 3),
        ((1..=100).chain(900..=1000).collect(), 2),
        (vec![1, 3], 2),
    ];
    for (positions, reads) in cases {
        let at = |number: &u64| Position::new(*number).expect("from 1");
        let events: Vec<Delivered> =
            positions.iter().map(|number| Delivered { position: at(number), attempt: 1, replayed: false }).collect();
        let records = records_at(&*log, &group, &events).await.expect("readable");
        let found: Vec<u64> = records.iter().map(|record| record.position().get()).collect();
        assert_eq!(found, positions);
        assert_eq!(log.between.0.swap(0, Ordering::Relaxed), reads, "{positions:?}");
    }
}
