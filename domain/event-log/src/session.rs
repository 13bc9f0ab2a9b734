//! Sessions: every connection sets what the promises need by itself, and is refused where the server cannot keep them.
//! No other module but `sessions`, the pool, opens a connection.

use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection, Row};
use tokio::time::timeout;

use crate::PgConfig;
use crate::error::EventLogError;
use crate::instant::Instant;

/// How long a session waits for a lock before it looks who holds it.
pub(crate) const LOCK_WAIT_SECONDS: u32 = 2;
/// Longer than every time-out of a writing session: only a server that is gone without a word takes as long.
pub(crate) const SERVER_LIMIT: Duration = Duration::from_secs(30);
/// The oldest PostgreSQL that has what the schema uses.
const SERVER_VERSION_MIN: i32 = 140_000;

/// The error of a server that took longer than [`SERVER_LIMIT`].
pub(crate) fn silent() -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, "the server says nothing"))
}

/// What a session is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Writes groups under the head lock: whatever stalls must end soon.
    Append,
    /// Reads and small writes.
    Serve,
    /// Prunes and rebuilds: single statements that may take minutes.
    Maintain,
}

/// The connection options for a purpose.
pub(crate) fn options(config: &PgConfig, purpose: Purpose) -> Result<PgConnectOptions, EventLogError> {
    let options = PgConnectOptions::from_str(&config.url).map_err(EventLogError::Url)?;
    let lock_wait = format!("{LOCK_WAIT_SECONDS}s");
    let (name, statement, idle) = match purpose {
        Purpose::Append => ("coldstream append", "20s", "10s"),
        Purpose::Serve => ("coldstream serve", "60s", "60s"),
        Purpose::Maintain => ("coldstream maintain", "0", "60s"),
    };
    // Tables are new, statistics are not: with plans that do not depend on them, a lookup is an index scan from the
    // first row on. jit would answer the disabled scans' prices by compiling.
    let plans = [("plan_cache_mode", "force_generic_plan"), ("enable_seqscan", "off"), ("jit", "off")];
    let joins = [("enable_hashjoin", "off"), ("enable_mergejoin", "off"), ("enable_bitmapscan", "off")];
    let limits = [
        ("synchronous_commit", "on"),
        ("lock_timeout", &lock_wait),
        ("statement_timeout", statement),
        ("idle_in_transaction_session_timeout", idle),
        // A client whose machine is gone must not hold the head until TCP gives up after hours.
        ("tcp_keepalives_idle", "5"),
        ("tcp_keepalives_interval", "5"),
        ("tcp_keepalives_count", "3"),
    ];
    let options = options.application_name(name).options(plans).options(joins).options(limits);
    // Reads name their partition in the statement: a window of months times a handful of statements.
    Ok(options.statement_cache_capacity(256).disable_statement_logging())
}

/// A session as the server knows it. Process numbers are used again, so its start belongs to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Backend {
    pub(crate) pid: i32,
    pub(crate) started: Instant,
}

/// Which server this is, and whether it can keep the promises.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Server {
    /// The session that asked.
    pub(crate) backend: Backend,
    /// Made by initdb; a physical standby has the same.
    pub(crate) system_identifier: i64,
    fsync: bool,
    full_page_writes: bool,
    utf8: bool,
    version: i32,
    in_recovery: bool,
    /// What the role can do that the service must not.
    power: Option<String>,
}

impl Server {
    pub(crate) async fn of(connection: &mut PgConnection) -> Result<Self, sqlx::Error> {
        let row = sqlx::query(include_str!("sql/server.sql")).fetch_one(connection).await?;
        Ok(Self {
            backend: Backend { pid: row.try_get("backend_pid")?, started: row.try_get("backend_start")? },
            system_identifier: row.try_get("system_identifier")?,
            fsync: row.try_get("fsync")?,
            full_page_writes: row.try_get("full_page_writes")?,
            utf8: row.try_get("utf8")?,
            version: row.try_get("version")?,
            in_recovery: row.try_get("in_recovery")?,
            power: row.try_get("power")?,
        })
    }

    /// Why the log must not run here.
    pub(crate) fn danger(&self, allow_superuser: bool) -> Option<String> {
        let server = if !self.fsync {
            Some("the server runs with fsync off: what it acknowledges is lost in a crash; set fsync = on")
        } else if !self.full_page_writes {
            Some("the server runs with full_page_writes off: a crash may tear pages; set it on")
        } else if self.in_recovery {
            Some("the server is a standby: name the primary in the URL")
        } else if !self.utf8 {
            Some("the database is not in UTF-8: create one with ENCODING 'UTF8'")
        } else if self.version < SERVER_VERSION_MIN {
            Some("the server is older than PostgreSQL 14")
        } else {
            None
        };
        let role = || {
            let power = self.power.as_ref().filter(|_| !allow_superuser)?;
            Some(format!(
                "the role {power}, and so may change events (SEC-1): log in as the service's role that `db init` makes; \
                 where that cannot be, set log.allow_superuser"
            ))
        };
        server.map(str::to_owned).or_else(role)
    }
}

/// Opens a session, checked.
pub(crate) async fn open(config: &PgConfig, purpose: Purpose) -> Result<(PgConnection, Server), EventLogError> {
    // Who accepts a connection may say nothing ever after: the driver would wait for it.
    let opened = timeout(SERVER_LIMIT, open_unbounded(config, purpose)).await;
    opened.unwrap_or_else(|_| Err(EventLogError::database("connecting to the database")(silent())))
}

async fn open_unbounded(config: &PgConfig, purpose: Purpose) -> Result<(PgConnection, Server), EventLogError> {
    let options = options(config, purpose)?;
    let mut connection =
        PgConnection::connect_with(&options).await.map_err(EventLogError::database("connecting to the database"))?;
    let server = Server::of(&mut connection).await.map_err(EventLogError::database("looking at the server"))?;
    match server.danger(config.allow_superuser) {
        Some(reason) => Err(EventLogError::Unsafe { reason }),
        None => Ok((connection, server)),
    }
}
