//! Rules, types, formats and ports of Coldstream.
//!
//! This crate decides; it never does. It has no IO, no clock of its own and no runtime: time, randomness
//! and ids arrive as arguments, and whatever must be stored goes through a port (a small trait whose
//! documentation is a contract). Every other crate names this one; this one names nobody.
//!
//! The flow, in the order of the modules: an [`event`] is appended in a request ([`append`]), the
//! [`arbiter`] decides where it stands, the [`record`] is its one form everywhere, the [`log`] keeps it,
//! the [`merkle`] tree proves it, [`archive`] holds the formats in which it is kept for ever.

pub mod append;
pub mod arbiter;
pub mod archive;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod content;
pub mod cqrs;
pub mod event;
pub mod evidence;
pub mod filter;
pub mod group;
pub mod json;
pub mod keys;
pub mod log;
pub mod merkle;
pub mod record;
pub mod replication;
pub mod spelling;
pub mod store;
pub mod tiered;
#[cfg(feature = "twin")]
pub mod twin;
mod types;
pub mod window;

pub use types::clock::{Clock, ClockError, FixedClock};
pub use types::kind::ErrorKind;
pub use types::number::{Epoch, Head, Position, StreamVersion};
pub use types::stream::{Category, StreamName, StreamNameError, StreamRef};
pub use types::timestamp::{Timestamp, TimestampError};
pub use types::token::ResumeToken;
