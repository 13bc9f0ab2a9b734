//! The views' sessions, none of which can hold up the others for ever: a process that is frozen in the middle of a
//! transaction loses it to the server, and whoever waits for its lock is told and asks again.

use std::time::Duration;

use sqlx::Connection;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use tokio::time::timeout;

use crate::ProjectionError;

/// How long a session that has rested may take to say that it is still there …
const REST_LIMIT: Duration = Duration::from_secs(2);
/// … and one that comes back to the pool, which has to end what was asked of it by somebody who is gone.
const RELEASE_LIMIT: Duration = Duration::from_secs(5);

/// How long a session may keep others waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionLimits {
    /// It waits for a lock that long, then says that the database does not do it now.
    pub lock: Duration,
    /// In a transaction it may be silent that long, then the server ends it. Longer than folding a batch takes, of
    /// which the archive may have to fetch the records: meanwhile a rebuild holds the live version.
    pub idle: Duration,
    /// Rows that it does not take may wait for it that long, then the server ends it. A server that is sending does not
    /// count as silence, so `idle` alone would leave a frozen process its locks for ever. Over a Unix socket the server has
    /// no such limit.
    pub unread: Duration,
}

impl Default for SessionLimits {
    fn default() -> Self {
        // Rows: as long as the keepalives below take, in whose place the kernel puts this limit. A longer one would notice
        // later that a machine is gone.
        Self { lock: Duration::from_secs(10), idle: Duration::from_secs(120), unread: Duration::from_secs(20) }
    }
}

impl SessionLimits {
    /// Those of who only asks a view. Once a month its tables are locked against readers while their space is given back,
    /// for about 10 s a GB (`compact.sql`): a reader waits that out, as long as a request may take (`http.answer_seconds`
    /// unless it is set). Who moves a view gives up earlier: others may be waiting for what it holds.
    #[must_use]
    pub fn of_readers() -> Self {
        Self { lock: Duration::from_secs(60), ..Self::default() }
    }
}

/// A pool of at most `connections` for runners, rebuilds or readers of views; connects when it is used.
#[must_use]
pub fn pool(database: PgConnectOptions, connections: u32, limits: &SessionLimits) -> PgPool {
    let [lock, idle, unread] =
        [limits.lock, limits.idle, limits.unread].map(|limit| format!("{}ms", limit.as_millis()));
    let session = [
        ("lock_timeout", lock.as_str()),
        ("idle_in_transaction_session_timeout", &idle),
        // A month's sweep and the swap of a rebuild take as long as they take, whatever the role has.
        ("statement_timeout", "0"),
        ("tcp_user_timeout", &unread),
        // A client whose machine is gone must not hold its locks until TCP gives up after hours.
        ("tcp_keepalives_idle", "5"),
        ("tcp_keepalives_interval", "5"),
        ("tcp_keepalives_count", "3"),
    ];
    PgPoolOptions::new()
        .max_connections(connections)
        // One whose server is gone without a word would keep its place until TCP gives up.
        .test_before_acquire(false)
        .before_acquire(|connection, _| Box::pin(speaks(connection, REST_LIMIT)))
        .after_release(|connection, _| Box::pin(speaks(connection, RELEASE_LIMIT)))
        .connect_lazy_with(database.options(session))
}

/// Does one thing with the database, for `limit` at most: a server that is gone without a word is an error, where the
/// driver would wait for ever.
pub(crate) async fn within<T, E: From<ProjectionError>>(
    limit: Duration,
    doing: &'static str,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    timeout(limit, work).await.unwrap_or_else(|_| Err(ProjectionError::database(doing)(silent()).into()))
}

/// Whether the server answers in this session; an error closes it without another word.
async fn speaks(connection: &mut PgConnection, limit: Duration) -> Result<bool, sqlx::Error> {
    timeout(limit, connection.ping()).await.unwrap_or_else(|_| Err(silent()))?;
    Ok(true)
}

fn silent() -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, "the server says nothing"))
}
