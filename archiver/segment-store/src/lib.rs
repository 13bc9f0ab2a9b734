//! The objects on S3, and a store that lies, for tests.
//!
//! [`S3Store`] is domain's port [`domain::store::ObjectStore`] over any endpoint that speaks S3: conditional
//! writes, bounded retries, a time limit on every request, every length checked. It judges no content: whoever
//! reads an object compares its digests (ARC-4). [`probe`] finds out whether an endpoint keeps the promises that
//! the archive is built on, and nothing is written through [`ProbedStore`] before it has; [`lying`] is a store that breaks them on purpose, by a script or a seed.
//!
//! It never overwrites an object without naming the version it replaces, and never asks without a limit.

mod attempt;
pub mod config;
#[cfg(feature = "conformance")]
pub mod conformance;
mod credentials;
pub mod lying;
pub mod probe;
mod probed;
mod s3;

pub use config::{Secret, StoreConfig, StoreConfigError};
pub use lying::{Fault, LyingStore};
pub use probe::{Check, Finding, ProbeReport, Severity, probe};
pub use probed::ProbedStore;
pub use s3::S3Store;
