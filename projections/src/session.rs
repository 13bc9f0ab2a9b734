//! The views' sessions, none of which can hold up the others for ever: a process that is frozen in the middle of a
//! transaction loses it to the server, and whoever waits for its lock is told and asks again.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};

/// How long a session may keep others waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionLimits {
    /// It waits for a lock that long, then says that the database does not do it now.
    pub lock: Duration,
    /// In a transaction it may be silent that long, then the server ends it. Longer than folding a batch takes, of
    /// which the archive may have to fetch the records: meanwhile a rebuild holds the live version.
    pub idle: Duration,
}

impl Default for SessionLimits {
    fn default() -> Self {
        Self { lock: Duration::from_secs(10), idle: Duration::from_secs(120) }
    }
}

/// A pool of at most `connections` for runners, rebuilds and readers of views; connects when it is used.
#[must_use]
pub fn pool(database: PgConnectOptions, connections: u32, limits: &SessionLimits) -> PgPool {
    let [lock, idle] = [limits.lock, limits.idle].map(|limit| format!("{}ms", limit.as_millis()));
    let session = [
        ("lock_timeout", lock.as_str()),
        ("idle_in_transaction_session_timeout", &idle),
        // A client whose machine is gone must not hold its locks until TCP gives up after hours.
        ("tcp_keepalives_idle", "5"),
        ("tcp_keepalives_interval", "5"),
        ("tcp_keepalives_count", "3"),
    ];
    PgPoolOptions::new().max_connections(connections).connect_lazy_with(database.options(session))
}
