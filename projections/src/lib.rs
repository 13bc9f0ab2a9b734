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
pub mod status;
mod view;

use mover::Version;
use sqlx::postgres::PgPool;

pub use error::ProjectionError;
pub use migrate::{install, migrate};
pub use view::View;

/// Gives back the space that moved rows have left. Failing costs space until the next time, nothing else.
async fn compact(pool: &PgPool, view: &'static str, version: Version) {
    let is_live = version == Version::Live;
    let compacted = sqlx::query(include_str!("mover/compact.sql")).bind(view).bind(is_live).execute(pool).await;
    if let Err(error) = compacted {
        let error = error::chain(&error);
        tracing::warn!(view, error, "space of a view is not given back yet");
    }
}
