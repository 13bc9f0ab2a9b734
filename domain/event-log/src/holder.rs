//! A frozen holder of the head. The server's own time-outs end a session that is idle in a transaction, but not one
//! that waits for the rest of a COPY whose client was stopped. A waiter that has waited long enough ends it.

use sqlx::Row as _;
use sqlx::postgres::PgConnection;
use tokio::time::timeout;

use crate::metrics::Counters;
use crate::session::{LOCK_WAIT_SECONDS, SERVER_LIMIT, silent};

/// Ends the session that holds the head, if it has waited for its client for longer than a waiter waits. The sessions
/// of other roles cannot be seen or ended by the service: then nothing happens, and the waiter answers Unavailable.
pub(crate) async fn end_if_frozen(connection: &mut PgConnection, counters: &Counters) -> Result<bool, sqlx::Error> {
    let query = sqlx::query(include_str!("sql/frozen_holder.sql")).bind(f64::from(LOCK_WAIT_SECONDS));
    let row = timeout(SERVER_LIMIT, query.fetch_optional(connection)).await.unwrap_or_else(|_| Err(silent()))?;
    let Some(row) = row else { return Ok(false) };
    let pid: i32 = row.try_get("pid")?;
    let terminated: bool = row.try_get("terminated")?;
    if terminated {
        counters.terminated_holders.add(1);
        let application: &str = row.try_get("application_name")?;
        tracing::warn!(pid, application, "ended the session of a frozen holder of the log's head");
    }
    Ok(terminated)
}
