//! The clocks: the real one, which only this module reads, and the simulated one of a log that has it.
//! Everything else is handed a [`domain::Clock`] or a [`Stopwatch`].

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use domain::{Clock, ClockError, Timestamp};
use event_log::PgLog;

use crate::chain::chain;

/// The machine's clock, in UTC.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl SystemClock {
    /// Now.
    ///
    /// # Errors
    /// [`ClockError`] where the machine's clock is before 1970 or after the year 9999.
    #[expect(clippy::disallowed_methods, reason = "this is the composition root's one clock")]
    pub fn read() -> Result<Timestamp, ClockError> {
        let refused = |reason: &str| ClockError { reason: reason.to_owned() };
        let since = SystemTime::now().duration_since(UNIX_EPOCH).map_err(|_| refused("it is before 1970"))?;
        let micros = i64::try_from(since.as_micros()).map_err(|_| refused("it is after the year 9999"))?;
        Timestamp::from_unix_micros(micros).map_err(|_| refused("it is after the year 9999"))
    }
}

#[async_trait]
impl Clock for SystemClock {
    async fn now(&self) -> Result<Timestamp, ClockError> {
        Self::read()
    }
}

/// The clock of a log that was created with simulated time.
#[async_trait]
pub trait SimulatedClock: Send + Sync {
    /// Moves it to `now`; never back: where it is later already, nothing changes.
    ///
    /// # Errors
    /// [`ClockError`] where its log does not answer.
    async fn move_to(&self, now: Timestamp) -> Result<(), ClockError>;
}

/// The simulated time of a log on PostgreSQL.
pub struct PgSimulatedClock(pub Arc<PgLog>);

#[async_trait]
impl SimulatedClock for PgSimulatedClock {
    async fn move_to(&self, now: Timestamp) -> Result<(), ClockError> {
        if self.0.clock().now().await? >= now {
            return Ok(());
        }
        let moved = self.0.set_simulated_now(now).await;
        moved.map_err(|error| ClockError { reason: chain(&error) })
    }
}

/// Measures how long something takes, for metrics, logs and progress; never for a decision.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts now.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "durations are measured with the monotonic clock, made here only")]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Time since the start.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}
