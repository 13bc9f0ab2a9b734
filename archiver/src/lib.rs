//! Seal, verify, prune, cold reads and heal: how the log leaves the live database and is never lost.
//!
//! It works over domain's ports alone: a log, a catalog, a bucket. It never prunes without a proof, never
//! serves a byte that was not compared with what was stored, and never overwrites an object but to heal it.
//! A step can be repeated after any crash; a crash between any two leaves at most an orphan object.

pub mod audit;
pub mod catch_up;
pub mod cold;
mod config;
mod error;
pub mod heal;
pub mod prune;
pub mod scrub;
pub mod seal;
mod steps;
pub mod sweep;
pub mod verify;

pub use config::ArchiverConfig;
pub use error::ArchiveError;
pub use steps::{Silent, StepObserver};
