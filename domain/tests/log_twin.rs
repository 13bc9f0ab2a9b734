//! The twin in memory passes the log's suite.

#![cfg(feature = "conformance")]

use std::sync::Arc;

use async_trait::async_trait;
use domain::append::Role;
use domain::conformance::conditions;
use domain::conformance::log::{Prunable, run, run_pruned};
use domain::log::LogReader;
use domain::twin::MemoryLog;
use domain::{FixedClock, Timestamp};

fn log() -> MemoryLog {
    let created = Timestamp::parse_rfc3339("2026-01-01T00:00:00Z").expect("an instant");
    let clock = FixedClock(Timestamp::parse_rfc3339("2026-06-01T00:00:00Z").expect("an instant"));
    MemoryLog::new(Arc::new(clock), created, Role::Active)
}

struct Archived(MemoryLog);

#[async_trait]
impl Prunable for Archived {
    type Log = MemoryLog;

    fn log(&self) -> &MemoryLog {
        &self.0
    }

    async fn prune(&self) {
        self.0.prune_to(self.0.log_head().await.expect("readable").head);
    }
}

#[tokio::test]
async fn the_twin_keeps_the_logs_contract() {
    run(|| async { log() }).await;
    run_pruned(|| async { Archived(log()) }).await;
    conditions::run(|| async { log() }).await;
    conditions::run_pruned(|| async { Archived(log()) }).await;
}
