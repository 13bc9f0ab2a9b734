//! The live window: folds the log into read tables.
//!
//! Owns the runner, which moves rows, checkpoint and cutoff in one transaction (PRJ-1), the rebuild of a view
//! beside itself, and the views with their schemas. It must never write an event, and never serve from a view what
//! is not the fold of a prefix of the log: what it cannot prove to continue that log stops it.
//!
//! Everything here can be thrown away and folded again from live log and archive. A view of your own is a
//! [`View`], as in `examples/changes_by_author.rs`, with [`install`] and a [`runner::Runner`].

pub mod content;
mod error;
mod instant;
mod migrate;
mod mover;
pub mod rebuild;
pub mod runner;
mod session;
pub mod status;
mod view;

use mover::Version;
use sqlx::Transaction;
use sqlx::postgres::{PgPool, Postgres};

pub use error::ProjectionError;
pub use migrate::{install, migrate, missing, uninstall};
pub use session::{SessionLimits, pool};
pub use view::View;

/// Begins a transaction, also if whoever asked for it is gone before it has begun: the driver would put its session back into
/// the pool with a transaction open, and what comes next in that session would never be committed. A task that nobody
/// waits for ends, and what it has begun is rolled back.
async fn begin(pool: &PgPool, statement: &'static str) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
    let pool = pool.clone();
    let begun = tokio::spawn(async move { pool.begin_with(statement).await }).await;
    begun.unwrap_or_else(|ended| Err(sqlx::Error::Io(std::io::Error::other(ended))))
}

/// Gives back the space that moved rows have left. Failing costs space until the next time, nothing else.
async fn compact(pool: &PgPool, view: &'static str, version: Version) {
    let is_live = version == Version::Live;
    let compacted = sqlx::query(include_str!("mover/compact.sql")).bind(view).bind(is_live).execute(pool).await;
    if let Err(error) = compacted {
        let error = error::chain(&error);
        tracing::warn!(view, error, "space of a view is not given back yet");
    }
}
