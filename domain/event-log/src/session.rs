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
const SERVER_VERSION_MIN: u32 = 140_000;
/// Waits for the disk at each commit, whatever the server or the role has.
const SYNCHRONOUS_COMMIT: &str = "on";
const TOO_OLD: &str = "the server is older than PostgreSQL 14";

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
        ("synchronous_commit", SYNCHRONOUS_COMMIT),
        ("lock_timeout", &lock_wait),
        ("statement_timeout", statement),
        ("idle_in_transaction_session_timeout", idle),
        // A client whose machine is gone must not hold the head until TCP gives up after hours.
        ("tcp_keepalives_idle", "5"),
        ("tcp_keepalives_interval", "5"),
        ("tcp_keepalives_count", "3"),
        // Nor one that is frozen while rows come its partitions: nothing else counts while the server sends.
        ("tcp_user_timeout", "20s"),
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
    utf8: bool,
    in_recovery: bool,
    /// The session has what [`options`] asked for.
    as_asked: bool,
    /// What the role can do that the service must not.
    power: Option<String>,
}

impl Server {
    async fn of(connection: &mut PgConnection) -> Result<Self, sqlx::Error> {
        let row = sqlx::query(include_str!("sql/server.sql")).fetch_one(connection).await?;
        Ok(Self {
            backend: Backend { pid: row.try_get("backend_pid")?, started: row.try_get("backend_start")? },
            system_identifier: row.try_get("system_identifier")?,
            fsync: row.try_get("fsync")?,
            utf8: row.try_get("utf8")?,
            in_recovery: row.try_get("in_recovery")?,
            as_asked: row.try_get("limited")? && row.try_get::<&str, _>("synchronous_commit")? == SYNCHRONOUS_COMMIT,
            power: row.try_get("power")?,
        })
    }

    /// Why the log must not run here.
    fn danger(&self, allow_superuser: bool) -> Option<String> {
        let server = if !self.fsync {
            Some("the server runs with fsync off: what it acknowledges is lost in a crash; set fsync = on")
        } else if self.in_recovery {
            Some("the server is a standby: name the primary in the URL")
        } else if !self.as_asked {
            Some(
                "the session has not the settings that it asked for, such as synchronous_commit and lock_timeout: a pooler \
                 that drops them (ignore_startup_parameters = options) is in between; name the server itself in the URL",
            )
        } else if !self.utf8 {
            Some("the database is not in UTF-8: create one with ENCODING 'UTF8'")
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

/// Refuses a server that is too old, by what it says of itself as a session begins. To be asked first: all else asks for what
/// older servers do not know, and their answers would be about that.
pub(crate) fn check_version(connection: &PgConnection) -> Result<(), String> {
    match connection.server_version_num() {
        Some(version) if version < SERVER_VERSION_MIN => Err(TOO_OLD.to_owned()),
        _ => Ok(()),
    }
}

/// Looks at the server; the inner error says why the log must not run there.
pub(crate) async fn look_at(
    connection: &mut PgConnection,
    allow_superuser: bool,
) -> Result<Result<Server, String>, sqlx::Error> {
    if let Err(reason) = check_version(connection) {
        return Ok(Err(reason));
    }
    let server = Server::of(connection).await?;
    Ok(server.danger(allow_superuser).map_or(Ok(server), Err))
}

/// Why there is no session. A server before PostgreSQL 12 refuses one in which settings are made that it does not know.
fn not_connected(error: sqlx::Error) -> EventLogError {
    let refused = error.as_database_error().filter(|refused| refused.code().as_deref() == Some("42704"));
    match refused.map(|refused| format!("{TOO_OLD}, or the URL makes a setting that it does not know: {refused}")) {
        Some(reason) => EventLogError::Unsafe { reason },
        None => EventLogError::database("connecting to the database")(error),
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
    let mut connection = PgConnection::connect_with(&options).await.map_err(not_connected)?;
    let looked = look_at(&mut connection, config.allow_superuser).await;
    match looked.map_err(EventLogError::database("looking at the server"))? {
        Ok(server) => Ok((connection, server)),
        Err(reason) => Err(EventLogError::Unsafe { reason }),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::Admin;

    /// A message of PostgreSQL's protocol.
    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).expect("short");
        [&[kind][..], &length.to_be_bytes(), body].concat()
    }

    /// What a server says that refuses something.
    fn error(code: &str, text: &str) -> Vec<u8> {
        message(b'E', format!("SFATAL\0VFATAL\0C{code}\0M{text}\0\0").as_bytes())
    }

    /// A server that begins each session so and does not know a role of PostgreSQL 14; its URL.
    async fn server(greeting: Vec<u8>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let (mut asked, mut answer) = ([0; 4096], greeting.clone());
                while client.read(&mut asked).await.is_ok_and(|bytes| bytes > 0) {
                    let _ = client.write_all(&answer).await;
                    answer = error("42704", "role \"pg_write_all_data\" does not exist");
                }
            }
        });
        format!("postgres://someone@{address}/log?sslmode=disable")
    }

    fn greeting(version: &str) -> Vec<u8> {
        let [welcome, ready] = [message(b'R', &[0; 4]), message(b'Z', b"I")];
        let says = message(b'S', format!("server_version\0{version}\0").as_bytes());
        [welcome, says, ready].concat()
    }

    async fn refusal(url: &str) -> String {
        match open(&PgConfig::at(url), Purpose::Serve).await {
            Err(error @ (EventLogError::Unsafe { .. } | EventLogError::Database { .. })) => crate::error::chain(&error),
            _ => panic!("it is no server at all"),
        }
    }

    #[tokio::test]
    async fn a_server_that_is_too_old_is_told_by_its_version_before_anything_else_is_asked() {
        for version in ["9.6.24", "13.14 (Debian 13.14-1)"] {
            let url = server(greeting(version)).await;
            assert!(refusal(&url).await.ends_with(TOO_OLD), "{version}");
            let refused = Admin::connect(&url).await.err().expect("refused");
            assert!(matches!(&refused, EventLogError::Unsafe { reason } if reason == TOO_OLD), "{refused}");
        }
        let new = refusal(&server(greeting("14.0")).await).await;
        assert!(new.contains("pg_write_all_data"), "it was asked more: {new}");
    }

    #[tokio::test]
    async fn a_server_that_does_not_know_the_settings_of_a_session_is_too_old_too() {
        let unknown = "unrecognized configuration parameter \"plan_cache_mode\"";
        let refused = refusal(&server(error("42704", unknown)).await).await;
        assert!(refused.contains(TOO_OLD) && refused.contains(unknown), "{refused}");
    }
}
