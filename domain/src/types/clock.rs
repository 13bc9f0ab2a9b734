//! The clock, as an argument.

use async_trait::async_trait;
use thiserror::Error;

use crate::Timestamp;

/// The clock did not answer.
#[derive(Debug, Error)]
#[error("the clock cannot be read: {reason}")]
pub struct ClockError {
    /// What it said.
    pub reason: String,
}

/// Says what time it is. Real time comes from the composition root; simulated time from a log that was
/// created with it.
#[async_trait]
pub trait Clock: Send + Sync {
    /// Now, in UTC. May be called as often as needed; may go back, as clocks do: the log raises
    /// `recordedat` itself (LOG-2).
    ///
    /// # Errors
    /// [`ClockError`] where a simulated clock's log does not answer.
    async fn now(&self) -> Result<Timestamp, ClockError>;
}

/// A clock that stands still, for tests and for work "as of" an instant.
#[derive(Debug, Clone, Copy)]
pub struct FixedClock(pub Timestamp);

#[async_trait]
impl Clock for FixedClock {
    async fn now(&self) -> Result<Timestamp, ClockError> {
        Ok(self.0)
    }
}
