//! Simulated time: kept in the head row of a log that was created with it, never in any other.

use async_trait::async_trait;
use domain::{Clock, ClockError, Timestamp};

use crate::error::{EventLogError, chain};
use crate::instant::Instant;
use crate::log::PgLog;
use crate::sessions::Sessions;

/// The clock of a log with simulated time. All processes of the log see the same.
#[derive(Debug, Clone)]
pub(crate) struct LogClock {
    pool: Sessions,
}

impl LogClock {
    pub(crate) fn new(pool: Sessions) -> Self {
        Self { pool }
    }
}

#[async_trait]
impl Clock for LogClock {
    async fn now(&self) -> Result<Timestamp, ClockError> {
        let now = sqlx::query_scalar("SELECT coldstream.log_now()").fetch_one(&self.pool).await;
        now.map(|Instant(now)| now).map_err(|error| ClockError { reason: chain(&error) })
    }
}

impl PgLog {
    /// Moves simulated time on.
    ///
    /// # Errors
    /// `Refused` in a log with real time, and where time would go back.
    pub async fn set_simulated_now(&self, now: Timestamp) -> Result<(), EventLogError> {
        let statement = "UPDATE coldstream.log_head SET simulated_now = $1 WHERE simulated_now <= $1";
        let moved = sqlx::query(statement)
            .bind(Instant(now))
            .execute(&self.shared().pool)
            .await
            .map_err(EventLogError::database("moving the log's clock"))?;
        if moved.rows_affected() == 1 {
            return Ok(());
        }
        let reason = if self.shared().simulated {
            format!("simulated time never goes back, to {now}")
        } else {
            "this log was created with real time".into()
        };
        Err(EventLogError::Refused { reason })
    }
}
