//! The live window: folds the log into read tables.
//!
//! Owns the runner, which moves rows, checkpoint and cutoff in one transaction (PRJ-1), and the views with
//! their schemas. It must never write an event, and never serve from a view what is not the fold of a prefix
//! of the log: what it cannot prove to continue that log stops it.
//!
//! Everything here can be thrown away and folded again from live log and archive.

pub mod content;
mod error;
mod instant;
mod migrate;
pub mod runner;

pub use error::ProjectionError;
pub use migrate::migrate;
