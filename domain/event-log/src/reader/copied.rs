//! Reading by COPY. The driver leaves a session out of step with its server if a COPY is refused, or dropped half way: the
//! answer to what was asked before is taken for the next one's. So a session goes back to the pool only when its COPY has
//! ended well, and is closed otherwise.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicI64, Ordering};

use futures::TryStreamExt;
use sqlx::Postgres;
use sqlx::pool::PoolConnection;

use super::Stop;
use crate::rows::{CopiedRows, Values};
use crate::sessions::{Sessions, answered};

/// Gives `take` the rows that `statement`, a COPY to STDOUT of the columns of events, sends, until it breaks off.
pub(super) async fn rows(
    pool: &Sessions,
    statement: &str,
    take: impl FnMut(&Values<'_>) -> Result<ControlFlow<()>, Stop>,
) -> Result<(), Stop> {
    let mut session = Session(Some(pool.acquire().await?));
    if session.copy(statement, take).await?.is_continue() {
        session.give_back();
    }
    Ok(())
}

/// About how many bytes a row has, of those that were read last. That a page has no more bytes than it may have, the server
/// sees to by a sum over its rows, which costs it a third of all that reading them does. Where a page is far from that many, it
/// is read without, and broken off by whoever takes it should it turn out otherwise.
#[derive(Debug, Default)]
pub(super) struct RowBytes(AtomicI64);

impl RowBytes {
    /// How many times as many bytes as are expected must have room.
    const MARGIN: i64 = 4;

    /// Whether so many rows are far from having so many bytes; not before any were read.
    pub(super) fn are_few(&self, rows: i64, bytes: i64) -> bool {
        let each = self.0.load(Ordering::Relaxed);
        each > 0 && rows.saturating_mul(each).saturating_mul(Self::MARGIN) <= bytes
    }

    /// About how many bytes so many rows have together; 0 before any were read.
    pub(super) fn of(&self, rows: i64) -> i64 {
        rows.saturating_mul(self.0.load(Ordering::Relaxed))
    }

    /// After a read. Large rows are remembered for some reads: who reads them may be one of many readers.
    pub(super) fn note(&self, rows: i64, bytes: i64) {
        if rows > 0 {
            let before = self.0.load(Ordering::Relaxed);
            self.0.store((bytes / rows + 1).max(before - before / 16), Ordering::Relaxed);
        }
    }
}

/// A session that is closed when this is dropped, unless it was given back.
struct Session(Option<PoolConnection<Postgres>>);

impl Session {
    async fn copy(
        &mut self,
        statement: &str,
        mut take: impl FnMut(&Values<'_>) -> Result<ControlFlow<()>, Stop>,
    ) -> Result<ControlFlow<()>, Stop> {
        let connection = self.0.as_mut().ok_or(sqlx::Error::PoolClosed)?;
        let mut pieces = answered(connection.copy_out_raw(statement)).await?;
        let mut rows = CopiedRows::default();
        while let Some(piece) = answered(pieces.try_next()).await? {
            if rows.feed(&piece, &mut take)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        rows.end()?;
        Ok(ControlFlow::Continue(()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_far_from_its_bytes_is_read_without_counting_them() {
        let row_bytes = RowBytes::default();
        assert!(!row_bytes.are_few(1, i64::MAX), "nothing was read");
        row_bytes.note(1000, 500_000);
        assert!(row_bytes.are_few(1000, 4 * 501 * 1000));
        assert!(!row_bytes.are_few(1001, 4 * 501 * 1000));
        row_bytes.note(10, 200_000);
        assert!(!row_bytes.are_few(1000, 8 << 20));
        let small = (0..100).take_while(|_| {
            row_bytes.note(1000, 500_000);
            !row_bytes.are_few(1000, 8 << 20)
        });
        let reads = small.count();
        assert!((8..64).contains(&reads), "large rows were remembered for {reads} reads");
    }
}
