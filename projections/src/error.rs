//! Why a view did not move or answer, and what to do about it.

use domain::log::ReadError;
use domain::{ClockError, ErrorKind, Head, Position, TimestampError};
use thiserror::Error;

/// Why a view did not move or answer. Its rows, checkpoint and cutoff are then as they were.
#[derive(Debug, Error)]
pub enum ProjectionError {
    /// The database did not do it.
    #[error("the database failed to {doing}")]
    Database {
        /// What was asked of it.
        doing: &'static str,
        /// What it said.
        #[source]
        source: sqlx::Error,
    },
    /// Live log and archive were not read.
    #[error("the log was not read")]
    Read(#[from] ReadError),
    /// The clock did not say where the live window starts.
    #[error("the start of the live window is unknown")]
    Clock(#[from] ClockError),
    /// The live window would start before the year 1.
    #[error("the live window starts before the year 1")]
    Window(#[from] TimestampError),
    /// The view is unknown to the database: its migrations have not run.
    #[error("the view {view} is not set up in this database: run the migrations")]
    NotSetUp {
        /// The view.
        view: &'static str,
    },
    /// A step of the views' schema was done in another text: this database was set up by another program.
    #[error("migration {number} of the views was applied with another text")]
    MigrationChanged {
        /// Which one.
        number: i32,
    },
    /// The view was folded from more than the log has: this is an older log than the one it followed.
    #[error("the view {view} is at {checkpoint}, the log ends at {head}: start the view over")]
    AheadOfLog {
        /// The view.
        view: &'static str,
        /// Where it stands.
        checkpoint: Head,
        /// Where the log ends.
        head: Head,
    },
    /// The view was folded from another history than the log has: it followed a branch that lost.
    #[error("the view {view} was folded from another record at {position} than the log has: start the view over")]
    OtherHistory {
        /// The view.
        view: &'static str,
        /// Its checkpoint.
        position: Position,
    },
    /// What was read is not what can be there.
    #[error("{what} is not what was stored")]
    Corrupt {
        /// What.
        what: String,
    },
}

impl ProjectionError {
    /// What the caller has to do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Database { source, .. } => of_database(source),
            Self::Read(error) => error.kind(),
            Self::Clock(_) => ErrorKind::Unavailable,
            Self::Window(_) | Self::NotSetUp { .. } | Self::MigrationChanged { .. } => ErrorKind::Invalid,
            Self::AheadOfLog { .. } | Self::OtherHistory { .. } => ErrorKind::Forked,
            Self::Corrupt { .. } => ErrorKind::Corrupt,
        }
    }

    pub(crate) fn database(doing: &'static str) -> impl FnOnce(sqlx::Error) -> Self {
        move |source| Self::Database { doing, source }
    }
}

/// A database that is away, restarting, full, or in a race is asked again; one that refuses is not.
fn of_database(error: &sqlx::Error) -> ErrorKind {
    let Some(refusal) = error.as_database_error() else {
        return match error {
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) | sqlx::Error::ColumnNotFound(_) => {
                ErrorKind::Corrupt
            }
            sqlx::Error::Encode(_) | sqlx::Error::Configuration(_) => ErrorKind::Invalid,
            _ => ErrorKind::Unavailable,
        };
    };
    // PostgreSQL's classes: connection, rolled back, resources, intervention, system; and a lock not to be had.
    let again = ["08", "40", "53", "57", "58", "55P03"];
    let code = refusal.code().unwrap_or_default();
    if again.iter().any(|class| code.starts_with(class)) { ErrorKind::Unavailable } else { ErrorKind::Invalid }
}
