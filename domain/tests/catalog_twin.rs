//! The twin in memory passes the suite of the catalog.

#![cfg(feature = "conformance")]

use std::sync::Arc;

use domain::append::Role;
use domain::twin::MemoryLog;
use domain::{FixedClock, Head, Timestamp};

fn empty() -> MemoryLog {
    let created = Timestamp::parse_rfc3339("2026-01-01T00:00:00Z").expect("an instant");
    MemoryLog::new(Arc::new(FixedClock(created)), created, Role::Follower)
}

#[tokio::test]
async fn the_twin_answers_what_it_is_asked() {
    domain::conformance::catalog::check_answers(&empty()).await;
}

#[tokio::test]
async fn the_twin_goes_back_to_where_a_branch_parts() {
    let log = empty();
    domain::conformance::catalog::check(&log, async |head: Head| log.prune_to(head)).await;
    domain::conformance::catalog::check_whole(&empty()).await;
}
