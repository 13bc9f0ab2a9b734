//! A frozen holder of the head. The server's own time-outs end a session that is idle in a transaction, but not one
//! that waits for the rest of a COPY whose client was stopped. A waiter that has waited long enough ends it.

use std::time::Duration;

use sqlx::Row as _;
use sqlx::postgres::PgConnection;
use tokio::time::{interval, timeout};

use crate::instant::Instant;
use crate::metrics::Counters;
use crate::session::{LOCK_WAIT_SECONDS, SERVER_LIMIT, silent};

/// Between two looks: a client that sends at all sends something in that time.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// A session that holds the head and waits for its client.
#[derive(PartialEq, Eq)]
struct Holder {
    pid: i32,
    started: Instant,
    application: String,
    /// What its COPY has got.
    bytes: Option<i64>,
}

/// Ends the session that holds the head, if it has waited for its client for longer than a waiter waits and gets nothing
/// from it. The sessions of other roles cannot be seen or ended by the service: then nothing happens, and the waiter
/// answers Unavailable.
pub(crate) async fn end_if_frozen(connection: &mut PgConnection, counters: &Counters) -> Result<bool, sqlx::Error> {
    let Some(holder) = look(connection).await? else { return Ok(false) };
    let mut pace = interval(LOOK_AGAIN);
    pace.tick().await;
    pace.tick().await;
    if look(connection).await?.as_ref() != Some(&holder) {
        return Ok(false);
    }
    let end = sqlx::query_scalar(include_str!("sql/end_session.sql")).bind(holder.pid).bind(holder.started);
    let ended = timeout(SERVER_LIMIT, end.fetch_optional(connection)).await.unwrap_or_else(|_| Err(silent()))?;
    let ended: bool = ended.flatten().unwrap_or(false);
    if ended {
        counters.terminated_holders.add(1);
        let (pid, application) = (holder.pid, holder.application);
        tracing::warn!(pid, application, "ended the session of a frozen holder of the log's head");
    }
    Ok(ended)
}

async fn look(connection: &mut PgConnection) -> Result<Option<Holder>, sqlx::Error> {
    let query = sqlx::query(include_str!("sql/frozen_holder.sql")).bind(f64::from(LOCK_WAIT_SECONDS));
    let row = timeout(SERVER_LIMIT, query.fetch_optional(connection)).await.unwrap_or_else(|_| Err(silent()))?;
    let holder = |row: sqlx::postgres::PgRow| {
        Ok(Holder {
            pid: row.try_get("pid")?,
            started: row.try_get("backend_start")?,
            application: row.try_get("application_name")?,
            bytes: row.try_get("bytes_processed")?,
        })
    };
    row.map(holder).transpose()
}
