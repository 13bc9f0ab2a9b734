//! What can go wrong with the database, and what PostgreSQL's answers mean to us.

use domain::ErrorKind;
use sqlx::postgres::{PgDatabaseError, PgSeverity};
use thiserror::Error;

/// Why the log was not opened, created or maintained.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EventLogError {
    /// The database did not answer, or refused.
    #[error("{doing} failed")]
    Database {
        /// What was being done.
        doing: &'static str,
        /// Why.
        #[source]
        source: sqlx::Error,
    },
    /// The URL is none.
    #[error("the database's URL cannot be read")]
    Url(#[source] sqlx::Error),
    /// There is no log in the database.
    #[error("there is no log in this database: run `coldstream db init`")]
    NotInitialised,
    /// The schema is of another release.
    #[error("the schema is at migration {found}, this program needs {needed}: {advice}")]
    WrongSchema {
        /// The newest migration that was applied.
        found: i32,
        /// The newest that this program has.
        needed: i32,
        /// What to do.
        advice: &'static str,
    },
    /// A migration that was applied is not the one that this program has.
    #[error("migration {version} was applied with other text than this program's")]
    MigrationChanged {
        /// Its number.
        version: i32,
    },
    /// The server would not keep what it acknowledges, or the role could change events.
    #[error("the log refuses to run: {reason}")]
    Unsafe {
        /// What is wrong, with what to do.
        reason: String,
    },
    /// Another log is in the database.
    #[error("the database holds the log {found:?} already")]
    OtherLog {
        /// Its name.
        found: String,
    },
    /// It contradicts what is there.
    #[error("the log refuses: {reason}")]
    Refused {
        /// Why.
        reason: String,
    },
}

impl EventLogError {
    /// What the caller has to do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Database { .. } => ErrorKind::Unavailable,
            Self::OtherLog { .. } | Self::Refused { .. } => ErrorKind::Conflict,
            Self::Url(_)
            | Self::NotInitialised
            | Self::WrongSchema { .. }
            | Self::MigrationChanged { .. }
            | Self::Unsafe { .. } => ErrorKind::Invalid,
        }
    }

    pub(crate) fn database(doing: &'static str) -> impl FnOnce(sqlx::Error) -> Self {
        move |source| Self::Database { doing, source }
    }
}

/// What an error of the driver means for a transaction under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The connection is gone, or the server ends it. Before COMMIT nothing is stored; in COMMIT it is in doubt.
    Lost,
    /// A lock was not had in time.
    Busy,
    /// A relation is not there (any more), or no partition takes a row.
    Gone,
    /// The role may not. Who writes meets it at a partition that is detached and not dropped yet.
    Denied,
    /// The server refuses this data: another group may fare better.
    Poison,
    /// What is stored contradicts itself.
    Damage,
    /// The server refuses everybody at the moment: no space, read-only, no memory.
    Server,
}

/// Reads an error of the driver.
pub(crate) fn trouble(error: &sqlx::Error) -> Trouble {
    let sqlx::Error::Database(database) = error else {
        return match error {
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) | sqlx::Error::RowNotFound => Trouble::Damage,
            _ => Trouble::Lost,
        };
    };
    // A server that panics, as on a disk full of WAL, may find the transaction committed when it recovers.
    if database.try_downcast_ref::<PgDatabaseError>().is_some_and(|error| error.severity() == PgSeverity::Panic) {
        return Trouble::Lost;
    }
    let code = database.code().unwrap_or_default();
    match code.as_ref() {
        // lock_not_available.
        "55P03" => Trouble::Busy,
        // undefined_table.
        "42P01" => Trouble::Gone,
        // insufficient_privilege.
        "42501" => Trouble::Denied,
        // check_violation: on our tables only "no partition of relation found for row", unless an operator adds one.
        "23514" if database.message().contains("no partition") => Trouble::Gone,
        // admin_shutdown, crash_shutdown, cannot_connect_now, idle_session_timeout; idle_in_transaction and transaction too.
        "57P01" | "57P02" | "57P03" | "57P05" | "25P03" | "25P04" => Trouble::Lost,
        // data_corrupted, index_corrupted; a second row where our head said that there is none; a guard's refusal.
        "XX001" | "XX002" | "23505" | "23000" => Trouble::Damage,
        other => match &other[..other.len().min(2)] {
            "08" => Trouble::Lost,
            "40" => Trouble::Busy,
            // data exception, integrity constraint, program limit: what a request brings.
            "22" | "23" | "54" => Trouble::Poison,
            // Insufficient resources, read-only, operator intervention, system error; a wrong schema.
            _ => Trouble::Server,
        },
    }
}

/// The error with its whole chain, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
