//! The log on PostgreSQL: the only code that writes events.
//!
//! One row, `coldstream.log_head`, is the only arbiter: whoever appends, applies, prunes or changes the role locks it
//! first, so commit order is position order (LOG-2) and several processes may write at once. What may follow is decided
//! by `domain::arbiter`; this crate looks up, writes and answers. It never changes an event, and its database role could
//! not (SEC-1).
//!
//! ```text
//! appender ─┐                        ┌─ streams     head of every stream, for ever
//! follower ─┼─▶ writer ─▶ log_head ──┼─ events      one partition a month ◀── reader
//! admin, prune                       ├─ event_ids   live, some for ever   ◀── reader
//!                                    └─ event_tags  live, the newest ones for ever
//! ```

mod admin;
mod appender;
mod archive;
mod clock;
mod config;
mod durable;
mod error;
mod follower;
mod groups;
mod heads;
mod holder;
mod instant;
mod log;
mod looks;
mod metrics;
mod migrations;
mod partitions;
mod reader;
mod rows;
mod session;
mod sessions;
mod settings;
mod snapshots;
mod tags;
mod tokens;
mod writer;

pub use admin::{Admin, Missing, NewLog, ServiceLogin};
pub use appender::QUEUE_REQUESTS_MAX;
pub use archive::{Maintenance, Space};
pub use config::PgConfig;
pub use error::EventLogError;
pub use log::PgLog;
pub use looks::{Listener, Looks};
pub use metrics::{COMMIT_MICROS_BOUNDS, Distribution, Figures, GROUP_EVENTS_BOUNDS, LogMetrics};
pub use settings::Advice;
pub use tokens::{StoredToken, TokenLimits, TokenState};
