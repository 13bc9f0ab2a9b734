//! Settings of the server that the log can live with, and that it would rather have otherwise. What it cannot live with
//! it refuses at every connection (`session`); nothing here is refused.

use std::fmt;

use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Connection as _, Row as _};

use crate::error::EventLogError;
use crate::log::PgLog;

/// Connections of a process beside its pool: to append, to follow, and now and then to prune.
const OTHER_CONNECTIONS: u32 = 3;
/// Less WAL between checkpoints makes every page be written whole again after a short time.
const MAX_WAL_BYTES_MIN: i64 = 4 << 30;

/// What could be set better.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advice {
    /// The setting.
    pub setting: &'static str,
    /// Its value, as the server says it.
    pub value: String,
    /// What follows from it, and what to do.
    pub advice: String,
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {}: {}", self.setting, self.value, self.advice)
    }
}

/// The server's settings, as a session of the service has them that sets nothing by itself.
#[derive(Debug, Clone)]
struct Settings {
    full_page_writes: bool,
    data_checksums: bool,
    autovacuum: bool,
    wal_level: String,
    max_wal_bytes: i64,
    synchronous_commit: String,
    transaction_timeout: String,
    lock_timeout: String,
    statement_timeout: String,
    idle_in_transaction: String,
    /// For everybody together who is no superuser; less where role or database have limits of their own.
    connections: i32,
}

impl Settings {
    async fn of(connection: &mut PgConnection) -> Result<Self, sqlx::Error> {
        let row: PgRow = sqlx::query(include_str!("sql/settings.sql")).fetch_one(connection).await?;
        Ok(Self {
            full_page_writes: row.try_get("full_page_writes")?,
            data_checksums: row.try_get("data_checksums")?,
            autovacuum: row.try_get("autovacuum")?,
            wal_level: row.try_get("wal_level")?,
            max_wal_bytes: row.try_get("max_wal_bytes")?,
            synchronous_commit: row.try_get("synchronous_commit")?,
            transaction_timeout: row.try_get("transaction_timeout")?,
            lock_timeout: row.try_get("lock_timeout")?,
            statement_timeout: row.try_get("statement_timeout")?,
            idle_in_transaction: row.try_get("idle_in_transaction")?,
            connections: row.try_get("connections")?,
        })
    }

    /// What could be better for a process that takes `needed` connections.
    fn advice(&self, needed: u32) -> Vec<Advice> {
        let on_off = |on: bool| if on { "on" } else { "off" }.to_owned();
        let endless = "it cannot be set for a session of any version: what takes longer, as a rebuild may, is ended: 0";
        let few =
            format!("one process takes up to {needed}; reads wait for what it cannot have: raise it where it is set");
        let all = [
            (
                ("full_page_writes", on_off(self.full_page_writes), !self.full_page_writes),
                "a crash may leave half a page, and acknowledged events with it: on, unless the file system tears no page",
            ),
            (
                ("data_checksums", on_off(self.data_checksums), !self.data_checksums),
                "a page that the disk has changed is read as if it were good: stop the server, pg_checksums --enable",
            ),
            (
                ("autovacuum", on_off(self.autovacuum), !self.autovacuum),
                "tables grow without end, and the server stops when transaction ids run out: on",
            ),
            (
                ("wal_level", self.wal_level.clone(), self.wal_level == "minimal"),
                "neither a standby nor a backup of the running server can be had: replica",
            ),
            (
                ("max_wal_size", format!("{} MB", self.max_wal_bytes >> 20), self.max_wal_bytes < MAX_WAL_BYTES_MIN),
                "under load checkpoints follow each other, and each makes every page be written whole: 4GB or more",
            ),
            (
                ("synchronous_commit", self.synchronous_commit.clone(), self.synchronous_commit == "off"),
                "the log sets its own, so appends are safe; what others write here may be gone after a crash: on",
            ),
            (("transaction_timeout", self.transaction_timeout.clone(), self.transaction_timeout != "0"), endless),
            (
                ("lock_timeout", self.lock_timeout.clone(), self.lock_timeout == "0"),
                "who changes a table by hand waits for its lock without end, and appends wait behind: some seconds",
            ),
            (
                ("statement_timeout", self.statement_timeout.clone(), self.statement_timeout == "0"),
                "a query that somebody forgets runs without end, and keeps vacuum from its work: some minutes",
            ),
            (
                (
                    "idle_in_transaction_session_timeout",
                    self.idle_in_transaction.clone(),
                    self.idle_in_transaction == "0",
                ),
                "a transaction that somebody forgets keeps its locks, and vacuum from its work: some minutes",
            ),
            (
                ("max_connections", self.connections.to_string(), i64::from(self.connections) < i64::from(needed)),
                few.as_str(),
            ),
        ];
        let advised = all.into_iter().filter(|((_, _, could_be_better), _)| *could_be_better);
        advised.map(|((setting, value, _), advice)| Advice { setting, value, advice: advice.to_owned() }).collect()
    }
}

impl PgLog {
    /// What could be set better for this process, which takes `beside` connections for other things than the log.
    ///
    /// # Errors
    /// `Database`, `Url`.
    pub async fn advice(&self, beside: u32) -> Result<Vec<Advice>, EventLogError> {
        let config = &self.shared().config;
        // A session like anybody's: the log's own set what they need.
        let connected = PgConnection::connect(&config.url).await;
        let mut connection = connected.map_err(EventLogError::database("connecting to the database"))?;
        let settings = Settings::of(&mut connection).await;
        let settings = settings.map_err(EventLogError::database("reading the server's settings"))?;
        connection.close().await.map_err(EventLogError::database("closing a connection"))?;
        Ok(settings.advice(config.connections + OTHER_CONNECTIONS + beside))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Settings {
        Settings {
            full_page_writes: true,
            data_checksums: true,
            autovacuum: true,
            wal_level: "replica".into(),
            max_wal_bytes: 8 << 30,
            synchronous_commit: "on".into(),
            transaction_timeout: "0".into(),
            lock_timeout: "5s".into(),
            statement_timeout: "10min".into(),
            idle_in_transaction: "5min".into(),
            connections: 15,
        }
    }

    fn advised(settings: &Settings) -> Vec<&'static str> {
        settings.advice(15).iter().map(|advice| advice.setting).collect()
    }

    #[test]
    fn a_good_server_needs_no_advice() {
        assert_eq!(advised(&good()), [""; 0]);
    }

    #[test]
    fn each_setting_that_could_be_better_is_named_with_its_value() {
        let bad = Settings {
            full_page_writes: false,
            data_checksums: false,
            autovacuum: false,
            wal_level: "minimal".into(),
            max_wal_bytes: 1 << 30,
            synchronous_commit: "off".into(),
            transaction_timeout: "30s".into(),
            lock_timeout: "0".into(),
            statement_timeout: "0".into(),
            idle_in_transaction: "0".into(),
            connections: 14,
        };
        let all = [
            "full_page_writes",
            "data_checksums",
            "autovacuum",
            "wal_level",
            "max_wal_size",
            "synchronous_commit",
            "transaction_timeout",
            "lock_timeout",
            "statement_timeout",
            "idle_in_transaction_session_timeout",
            "max_connections",
        ];
        assert_eq!(advised(&bad), all);
        let values: Vec<String> = bad.advice(15).into_iter().map(|advice| advice.value).collect();
        assert_eq!(values, ["off", "off", "off", "minimal", "1024 MB", "off", "30s", "0", "0", "0", "14"]);
    }
}
