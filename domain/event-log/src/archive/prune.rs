//! The live log's partitions and their end. The proof says that the archive holds the rows; the database checks what it
//! can see by itself, once more and under its own locks, before it lets go of them.
//!
//! Order: head and partition in one transaction, then the table, then its ids, its tags, and their space, each in a
//! transaction of its own. A crash between any two leaves something that nobody reads and that the next run removes; the
//! other way round, an event of the live log would have no id for a moment, and a retry of it would be stored twice (LOG-4).

use std::time::Duration;

use async_trait::async_trait;
use domain::archive::catalog::{CatalogError, LivePartitions, Partition, PruneProof};
use domain::{Position, Timestamp};
use sqlx::Row as _;
use sqlx::postgres::PgConnection;
use tokio::time::timeout;

use super::catalog_error;
use crate::error::{EventLogError, Trouble, trouble};
use crate::instant::Instant;
use crate::log::{CLOCK_DIFFERENCE_MAX_SECONDS, PgLog, clock_difference};
use crate::session::{self, Purpose};

/// A table is written anew when more than this part of it is waste …
const WASTE_PERCENT: i64 = 10;
/// … and it is small enough to be written in about a second, in which appends wait.
const REBUILD_BYTES_MAX: i64 = 128 << 20;
/// Statements that prune have no limit of their own; a server that takes longer is gone without a word.
const MAINTAIN_LIMIT: Duration = Duration::from_hours(6);
/// Tables that lose rows or move them.
const REBUILT: [&str; 2] = ["event_ids", "streams"];

/// What a run of maintenance found and did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Maintenance {
    /// Pruned partitions whose table was dropped only now.
    pub dropped: u32,
    /// Tables that were written anew.
    pub rebuilt: Vec<&'static str>,
    /// Tables that hold much more space than they need.
    pub space: Vec<Space>,
}

/// The space of a table with its indexes, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Space {
    /// The table.
    pub table: &'static str,
    /// What it takes.
    pub held: i64,
    /// About what its rows need.
    pub needed: i64,
}

impl Space {
    fn is_wasteful(&self) -> bool {
        self.held > self.needed + self.needed * WASTE_PERCENT / 100
    }
}

#[async_trait]
impl LivePartitions for PgLog {
    async fn partitions(&self) -> Result<Vec<Partition>, CatalogError> {
        let map = self.shared().partitions.load().await.map_err(catalog_error)?;
        let cutoff = sqlx::query_scalar("SELECT coldstream.window_cutoff()").fetch_one(&self.shared().pool).await;
        let Instant(cutoff) = cutoff.map_err(catalog_error)?;
        let mut partitions = Vec::with_capacity(map.spans.len());
        for (index, span) in map.spans.iter().enumerate() {
            let Some(last) = map.last(index).newest() else { continue };
            let dense = last.get() - span.first.get() + 1;
            let rows = if span.month < cutoff { self.count(&span.table).await? } else { Some(dense) };
            // None: pruned by another process since the map was loaded.
            let Some(rows) = rows else { continue };
            partitions.push(Partition { month: span.month, first: span.first, last, rows });
        }
        Ok(partitions)
    }

    async fn consumers(&self) -> Result<Vec<(String, u64)>, CatalogError> {
        let query =
            sqlx::query("SELECT name, checkpoint FROM coldstream.consumers WHERE kind = 'projection' ORDER BY name");
        let rows = query.fetch_all(&self.shared().pool).await.map_err(catalog_error)?;
        let read = |row: &sqlx::postgres::PgRow| {
            Ok((row.try_get("name")?, crate::rows::number(row, "checkpoint", |n| u64::try_from(n).ok())?))
        };
        rows.iter().map(read).collect::<Result<_, sqlx::Error>>().map_err(catalog_error)
    }

    async fn prune(&self, proof: PruneProof) -> Result<(), CatalogError> {
        let pruned = timeout(MAINTAIN_LIMIT, self.prune_unbounded(&proof)).await;
        pruned.unwrap_or_else(|_| Err(catalog_error(session::silent())))
    }
}

impl PgLog {
    async fn prune_unbounded(&self, proof: &PruneProof) -> Result<(), CatalogError> {
        let Partition { month, first, last, .. } = *proof.partition();
        let (mut session, _) = session::open(&self.shared().config, Purpose::Maintain)
            .await
            .map_err(|error| CatalogError::Unavailable { reason: crate::error::chain(&error) })?;
        self.clocks_agree(&mut session).await?;
        detach(&mut session, month, first, last).await.map_err(catalog_error)?;
        self.shared().reached("prune.detached");
        let dropped = sqlx::query("SELECT coldstream.drop_detached()").execute(&mut session).await;
        self.shared().partitions.load().await.map_err(catalog_error)?;
        dropped.map_err(catalog_error)?;
        self.shared().reached("prune.dropped");
        self.forget(&mut session).await.map_err(catalog_error)
    }

    /// Counts a partition's rows: a scan, so only what may go is counted.
    async fn count(&self, table: &str) -> Result<Option<u64>, CatalogError> {
        let statement = format!("SELECT count(*) FROM {table}");
        match sqlx::query_scalar::<_, i64>(&statement).fetch_one(&self.shared().pool).await {
            Ok(rows) => Ok(Some(u64::try_from(rows).unwrap_or(0))),
            Err(error) if trouble(&error) == Trouble::Gone => Ok(None),
            Err(error) => Err(catalog_error(error)),
        }
    }

    /// Makes the coming month's partition, drops what earlier runs have left, and gives back space that pruning has
    /// freed. Meant to be run every few minutes, and after pruning.
    ///
    /// # Errors
    /// `Database`; what was done stays done, and nothing is left undone because the partition could not be made.
    pub async fn maintain(&self) -> Result<Maintenance, EventLogError> {
        let made = self.make_coming().await;
        let done = self.tidy().await;
        made.and(done)
    }

    /// Drops what earlier runs have left, and gives back space.
    async fn tidy(&self) -> Result<Maintenance, EventLogError> {
        let silent = |_| Err(EventLogError::database("removing what pruning has left")(session::silent()));
        timeout(MAINTAIN_LIMIT, self.tidy_unbounded()).await.unwrap_or_else(silent)
    }

    async fn tidy_unbounded(&self) -> Result<Maintenance, EventLogError> {
        let (mut session, _) = session::open(&self.shared().config, Purpose::Maintain).await?;
        let mut done = Maintenance::default();
        let failed = EventLogError::database("removing what pruning has left");
        let dropped: i32 = sqlx::query_scalar("SELECT coldstream.drop_detached() + coldstream.drop_unused()")
            .fetch_one(&mut session)
            .await
            .map_err(failed)?;
        done.dropped = u32::try_from(dropped).unwrap_or(0);
        self.forget(&mut session).await.map_err(EventLogError::database("removing ids and tags of what is pruned"))?;
        for table in REBUILT {
            let space = space(&mut session, table).await.map_err(EventLogError::database("measuring tables"))?;
            if space.is_wasteful() && space.needed <= REBUILD_BYTES_MAX {
                match sqlx::query("SELECT coldstream.rebuild($1)").bind(table).execute(&mut session).await {
                    Ok(_) => done.rebuilt.push(table),
                    // Somebody reads it for long: the next run tries again.
                    Err(error) if trouble(&error) == Trouble::Busy => done.space.push(space),
                    Err(source) => return Err(EventLogError::Database { doing: "writing a table anew", source }),
                }
            } else if space.is_wasteful() {
                done.space.push(space);
            }
        }
        Ok(done)
    }

    /// Removes ids and tags of what is pruned. Each asks for itself what is left to do, so a crash between leaves nothing
    /// that the next run does not find.
    async fn forget(&self, session: &mut PgConnection) -> Result<(), sqlx::Error> {
        for (forget, step) in [
            ("SELECT coldstream.forget_pruned_ids()::bigint", "prune.ids_forgotten"),
            ("SELECT coldstream.forget_pruned_tags()::bigint", "prune.tags_forgotten"),
        ] {
            let forgotten: i64 = sqlx::query_scalar(forget).fetch_one(&mut *session).await?;
            // Maintenance comes here as well, and mostly finds nothing: that is no step of a prune.
            if forgotten > 0 {
                self.shared().reached(step);
            }
        }
        Ok(())
    }

    /// Makes the partitions of this month and the next, in real time. Simulated time jumps over months that then
    /// never have an event; there they are made when they are needed.
    async fn make_coming(&self) -> Result<(), EventLogError> {
        if self.shared().simulated {
            return Ok(());
        }
        // Whoever watches asks the database whether it is there (`figures`).
        let Ok(now) = self.shared().clock.now().await else { return Ok(()) };
        let Ok(next) = now.month_start().months_after(1) else { return Ok(()) };
        let made = self.shared().partitions.make(&[now.month_start(), next]).await;
        made.map_err(EventLogError::database("making the coming partition"))
    }

    /// Pruning goes by the database's clock; if that or ours is wrong, nothing is pruned.
    async fn clocks_agree(&self, session: &mut PgConnection) -> Result<(), CatalogError> {
        if self.shared().simulated {
            return Ok(());
        }
        let own = self.shared().clock.now().await;
        let own = own.map_err(|error| CatalogError::Unavailable { reason: error.to_string() })?;
        let query = sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(session).await;
        let Instant(database) = query.map_err(catalog_error)?;
        match clock_difference(own, database) {
            None => Ok(()),
            Some(seconds) => Err(CatalogError::Unavailable {
                reason: format!(
                    "this clock and the database's differ by {seconds} s, at most {CLOCK_DIFFERENCE_MAX_SECONDS} s are \
                     allowed"
                ),
            }),
        }
    }
}

async fn detach(
    session: &mut PgConnection,
    month: Timestamp,
    first: Position,
    last: Position,
) -> Result<(), sqlx::Error> {
    let query = sqlx::query("SELECT coldstream.detach_partition($1, $2, $3)").bind(Instant(month));
    query.bind(first.as_i64()).bind(last.as_i64()).execute(session).await.map(drop)
}

async fn space(session: &mut PgConnection, table: &'static str) -> Result<Space, sqlx::Error> {
    let row = sqlx::query("SELECT held, needed FROM coldstream.space_of($1)").bind(table).fetch_one(session).await?;
    Ok(Space { table, held: row.try_get("held")?, needed: row.try_get("needed")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_of_waste_is_left_alone() {
        let space = |held| Space { table: "streams", held, needed: 1000 };
        assert!(!space(1100).is_wasteful());
        assert!(space(1101).is_wasteful());
    }
}
