//! The twin in memory passes the suite of the other region's memory.

#![cfg(feature = "conformance")]

use std::sync::Arc;

use domain::append::Role;
use domain::twin::MemoryLog;
use domain::{FixedClock, Timestamp};

#[tokio::test]
async fn the_twin_keeps_what_was_heard_of_the_other_region() {
    let created = Timestamp::parse_rfc3339("2026-01-01T00:00:00Z").expect("an instant");
    let log = MemoryLog::new(Arc::new(FixedClock(created)), created, Role::Follower);
    domain::conformance::peer::check(&log).await;
}
