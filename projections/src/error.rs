//! Why a view did not move or answer, and what to do about it.

use domain::log::ReadError;
use domain::record::Record;
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
    /// The rows were made by another fold than this program has.
    #[error(
        "the rows of {view} are of fold {rows}, this program has {program}: rebuild the view, and before that drop a \
         rebuild by another program"
    )]
    OtherFold {
        /// The view.
        view: &'static str,
        /// What the rows were made by.
        rows: i32,
        /// What the program has.
        program: i32,
    },
    /// The view cannot fold this event. It stands before it, and goes on once a program can.
    #[error("the view {view} stops at position {position}, the event {id:?} of type {event_type:?}")]
    Event {
        /// The view.
        view: &'static str,
        /// The event's place in the log.
        position: Position,
        /// Its id; of a removed record, nothing.
        id: String,
        /// Its type; of a removed record, `removed`.
        event_type: String,
        /// Why.
        #[source]
        source: Box<ProjectionError>,
    },
    /// The fold of a view does not take what it was given.
    #[error("the fold refuses it: {reason}")]
    Refused {
        /// Why.
        reason: String,
    },
    /// The fold of a view panicked.
    #[error("the fold panicked: {message}")]
    Panicked {
        /// What it said.
        message: String,
    },
    /// The view has not come to a position in time.
    #[error("the view {view} is at {checkpoint} and has not come to position {position} in time: ask again")]
    NotYet {
        /// The view.
        view: &'static str,
        /// What was waited for.
        position: Position,
        /// Where the view stands.
        checkpoint: Head,
    },
    /// Another process rebuilds the view, or drops what a rebuild has left.
    #[error("another process is at the rebuild of {view}: wait for it, or end it; this one has changed nothing")]
    RebuildRuns {
        /// The view.
        view: String,
    },
    /// The version beside was folded further than the live one stands.
    #[error("the version beside {view} is at {beside}, the live one at {live}: drop the rebuild and begin again")]
    AheadOfLive {
        /// The view.
        view: &'static str,
        /// Where the version beside stands.
        beside: Head,
        /// Where the live one stands.
        live: Head,
    },
    /// The rebuilt version is another one than the live one, though both were made by one fold from one history.
    /// It was not put in its place.
    #[error("the rebuilt {view} and the live one differ in {differing} rows at {checkpoint}, the first is {first}")]
    Differs {
        /// The view.
        view: &'static str,
        /// Where both were compared.
        checkpoint: Head,
        /// How many rows differ.
        differing: u64,
        /// Table and key of the first.
        first: String,
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
            // Another fold: until the view is rebuilt, whoever does it.
            Self::Clock(_) | Self::OtherFold { .. } | Self::NotYet { .. } => ErrorKind::Unavailable,
            Self::Window(_)
            | Self::NotSetUp { .. }
            | Self::MigrationChanged { .. }
            | Self::Event { .. }
            | Self::Refused { .. }
            | Self::Panicked { .. } => ErrorKind::Invalid,
            Self::RebuildRuns { .. } => ErrorKind::Conflict,
            Self::AheadOfLog { .. } | Self::OtherHistory { .. } | Self::AheadOfLive { .. } => ErrorKind::Forked,
            Self::Differs { .. } | Self::Corrupt { .. } => ErrorKind::Corrupt,
        }
    }

    /// An error of the database, for `map_err`; `doing` is what was asked of it, such as `"count changes"`.
    pub fn database(doing: &'static str) -> impl FnOnce(sqlx::Error) -> Self {
        move |source| Self::Database { doing, source }
    }

    /// The event that `view` cannot fold, and why.
    pub(crate) fn of_event(view: &'static str, record: &Record, why: Self) -> Self {
        let (id, event_type) = match record {
            Record::Event(event) => (event.event.id.clone(), event.event.event_type.clone()),
            Record::Removed(_) => (String::new(), "removed".to_owned()),
        };
        Self::Event { view, position: record.position(), id, event_type, source: Box::new(why) }
    }
}

/// An error with all its causes, for the log.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
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
    // PostgreSQL's classes: connection, rolled back, resources, intervention, system; a lock not to be had, a session
    // or transaction that took too long, and a server that is a standby just now.
    let again = ["08", "40", "53", "57", "58", "55P03", "25P03", "25P04", "25006"];
    let code = refusal.code().unwrap_or_default();
    if again.iter().any(|class| code.starts_with(class)) { ErrorKind::Unavailable } else { ErrorKind::Invalid }
}
