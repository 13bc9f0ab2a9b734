//! The twin in memory passes the log's suite.

#![cfg(feature = "conformance")]

use std::sync::Arc;

use domain::append::Role;
use domain::twin::MemoryLog;
use domain::{FixedClock, Timestamp};

#[tokio::test]
async fn the_twin_keeps_the_logs_contract() {
    let created = Timestamp::parse_rfc3339("2026-01-01T00:00:00Z").expect("an instant");
    let clock = FixedClock(Timestamp::parse_rfc3339("2026-06-01T00:00:00Z").expect("an instant"));
    domain::conformance::log::run(|| async move { MemoryLog::new(Arc::new(clock), created, Role::Active) }).await;
}
