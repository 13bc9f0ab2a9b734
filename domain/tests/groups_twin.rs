//! The consumer groups in memory pass the suite that those on PostgreSQL pass.

#![cfg(feature = "conformance")]

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use async_trait::async_trait;
use domain::append::Role;
use domain::conformance::groups::{Timed, run};
use domain::twin::{MemoryGroups, MemoryLog};
use domain::{Clock, ClockError, Timestamp};

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
