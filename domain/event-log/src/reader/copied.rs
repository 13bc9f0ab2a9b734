//! Reading by COPY. The driver leaves a session out of step with its server if a COPY is refused, or dropped half way: the
//! answer to what was asked before is taken for the next one's. So a session goes back to the pool only when its COPY has
//! ended well, and is closed otherwise.

use futures::TryStreamExt;
use sqlx::Postgres;
use sqlx::pool::PoolConnection;

use super::Stop;
use crate::rows::{CopiedRows, Values};
use crate::sessions::{Sessions, answered};

/// Gives `take` the rows that `statement`, a COPY to STDOUT of the columns of events, sends.
pub(super) async fn rows(
    pool: &Sessions,
    statement: &str,
    take: impl FnMut(&Values<'_>) -> Result<(), Stop>,
) -> Result<(), Stop> {
    let mut session = Session(Some(pool.acquire().await?));
    session.copy(statement, take).await?;
    session.give_back();
    Ok(())
}

/// A session that is closed when this is dropped, unless it was given back.
struct Session(Option<PoolConnection<Postgres>>);

impl Session {
    async fn copy(
        &mut self,
        statement: &str,
        mut take: impl FnMut(&Values<'_>) -> Result<(), Stop>,
    ) -> Result<(), Stop> {
        let connection = self.0.as_mut().ok_or(sqlx::Error::PoolClosed)?;
        let mut pieces = answered(connection.copy_out_raw(statement)).await?;
        let mut rows = CopiedRows::default();
        while let Some(piece) = answered(pieces.try_next()).await? {
            rows.feed(&piece, &mut take)?;
        }
        Ok(rows.end()?)
    }

    fn give_back(mut self) {
        drop(self.0.take());
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            // Closed without a farewell: the server would read it in the middle of its answer.
            drop(connection.detach());
        }
    }
}
