//! Questions to the view "content now", and recall.

use std::sync::Arc;
use std::time::Duration;

use domain::content::CATEGORY;
use domain::log::{Direction, LogReader};
use domain::{Position, StreamName};
use sqlx::postgres::PgPool;
use tokio::time::timeout;

use super::rows::{self, ItemColumns};
use super::{FOLD, Item, Stub, VIEW, fold};
use crate::ProjectionError;
use crate::mover::{Progress, Version};
use crate::runner::Following;

/// How often a recall starts again because the item changed meanwhile.
const RECALL_ATTEMPTS_MAX: u32 = 8;
/// How long [`ContentNow::at_least`] waits. Longer holds more requests of those who read what they just wrote while the
/// view is behind; the answer to all of them comes at once.
pub const AT_LEAST_WAIT: Duration = Duration::from_secs(5);

/// What the view has of an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// It changed within the live window.
    Live(Item),
    /// It is older, and was recalled.
    Recalled(Item),
    /// It is older: recall it, or read its stream.
    Archived(Stub),
    /// There has never been such content, as far as the view has come.
    Never,
}

/// How many items are where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// In the live window and living.
    pub living: u64,
    /// In the live window: deleted, closed, or unknown.
    pub not_living: u64,
    /// Out of it.
    pub archived: u64,
    /// Out of it and recalled; also counted as archived.
    pub recalled: u64,
}

/// Answers from the view "content now".
#[derive(Clone)]
pub struct ContentNow {
    pool: PgPool,
    reader: Arc<dyn LogReader>,
    following: Option<Following>,
}

impl ContentNow {
    /// Over the database of `pool`; `reader` reads live log and archive, for recall.
    #[must_use]
    pub fn new(pool: PgPool, reader: Arc<dyn LogReader>) -> Self {
        Self { pool, reader, following: None }
    }

    /// The same, told of the view's checkpoint by the runner in this process: who waits does not ask the database.
    #[must_use]
    pub fn following(self, runner: Following) -> Self {
        Self { following: Some(runner), ..self }
    }

    /// What the view is as of.
    ///
    /// # Errors
    /// [`ProjectionError::NotSetUp`] before the migrations; `OtherFold` before a rebuild; `Database`.
    pub async fn progress(&self) -> Result<Progress, ProjectionError> {
        let mut connection = self.pool.acquire().await.map_err(ProjectionError::database("connect"))?;
        Version::Live.progress(&mut connection, VIEW, FOLD).await
    }

    /// What the view is as of, once the event at `position` is in it: what is asked of the view afterwards is at least
    /// so new. Waits [`AT_LEAST_WAIT`] at most; without a runner in this process, not at all.
    ///
    /// # Errors
    /// [`ProjectionError::NotYet`] with the checkpoint; those of [`ContentNow::progress`].
    pub async fn at_least(&self, position: Position) -> Result<Progress, ProjectionError> {
        let progress = self.progress().await?;
        let Some(mut runner) = self.following.clone().filter(|_| !progress.checkpoint.includes(position)) else {
            return progress.reached(VIEW, position);
        };
        // Whichever way it ends, the database has the last word: a runner may be gone, or behind another process.
        drop(timeout(AT_LEAST_WAIT, runner.until(position)).await);
        self.progress().await?.reached(VIEW, position)
    }

    /// What the view has of `id`.
    ///
    /// # Errors
    /// `Database`; `Corrupt` for a row that cannot be.
    pub async fn get(&self, id: &str) -> Result<Lookup, ProjectionError> {
        let row = sqlx::query(include_str!("lookup.sql"))
            .bind(id)
            .fetch_optional(&self.pool)
            .await
            .map_err(ProjectionError::database("look content up"))?;
        let Some(row) = row else { return Ok(Lookup::Never) };
        Ok(match rows::get(&row, "source")? {
            0 => Lookup::Live(rows::item(&row)?),
            1 => Lookup::Recalled(rows::item(&row)?),
            _ => Lookup::Archived(rows::stub(&row)?),
        })
    }

    /// Brings an archived item back until the next sweep (the start of a UTC month, or a window made shorter) or
    /// its next change: its last change is read from live log or archive, which says all of its form. For an item
    /// that is not archived this is [`ContentNow::get`].
    ///
    /// # Errors
    /// `Read` if the archive does not answer; `Corrupt` if it has not what the stub promises; `Database`.
    pub async fn recall(&self, id: &str) -> Result<Lookup, ProjectionError> {
        for _ in 0..RECALL_ATTEMPTS_MAX {
            let Lookup::Archived(stub) = self.get(id).await? else { break };
            let item = self.last_change(stub).await?;
            if self.put_back(item.clone()).await? {
                return Ok(Lookup::Recalled(item));
            }
        }
        self.get(id).await
    }

    /// The item as its last change left it, which is at `stub.version`.
    async fn last_change(&self, stub: Stub) -> Result<Item, ProjectionError> {
        let corrupt =
            || ProjectionError::Corrupt { what: format!("version {} of content {:?}", stub.version, stub.id) };
        let stream = StreamName::of(CATEGORY, &stub.id).map_err(|_| corrupt())?;
        let records = self.reader.read_stream(&stream, stub.version, Direction::Forward, 1).await?;
        let record = records.first().filter(|record| record.version() == stub.version).ok_or_else(corrupt)?;
        let item = fold(None, record).ok_or_else(corrupt)?;
        if item.stub.position != stub.position {
            return Err(corrupt());
        }
        // The state as the record says it now: it may have been removed since the stub was made.
        Ok(Item { stub: Stub { state: item.stub.state, ..stub }, ..item })
    }

    /// `false`: the item changed meanwhile.
    async fn put_back(&self, item: Item) -> Result<bool, ProjectionError> {
        let mut columns = ItemColumns::default();
        columns.push(item);
        let done = columns
            .bind(include_str!("recall.sql"))
            .execute(&self.pool)
            .await
            .map_err(ProjectionError::database("recall content"))?;
        Ok(done.rows_affected() == 1)
    }

    /// Up to `limit` items of the live window, of any state, by id in code-point order, after `after`.
    ///
    /// # Errors
    /// `Database`; `Corrupt` for a row that cannot be.
    pub async fn items(&self, after: Option<&str>, limit: u32) -> Result<Vec<Item>, ProjectionError> {
        let rows = sqlx::query(include_str!("page_items.sql"))
            .bind(after.unwrap_or_default())
            .bind(i64::from(limit))
            .fetch_all(&self.pool)
            .await
            .map_err(ProjectionError::database("list content"))?;
        rows.iter().map(rows::item).collect()
    }

    /// Up to `limit` archived items, recalled or not, by id in code-point order, after `after`.
    ///
    /// # Errors
    /// `Database`; `Corrupt` for a row that cannot be.
    pub async fn archived(&self, after: Option<&str>, limit: u32) -> Result<Vec<Stub>, ProjectionError> {
        let rows = sqlx::query(include_str!("page_stubs.sql"))
            .bind(after.unwrap_or_default())
            .bind(i64::from(limit))
            .fetch_all(&self.pool)
            .await
            .map_err(ProjectionError::database("list archived content"))?;
        rows.iter().map(rows::stub).collect()
    }

    /// How many items are where. Reads the whole view.
    ///
    /// # Errors
    /// `Database`.
    pub async fn counts(&self) -> Result<Counts, ProjectionError> {
        let row = sqlx::query(include_str!("counts.sql"))
            .fetch_one(&self.pool)
            .await
            .map_err(ProjectionError::database("count content"))?;
        let count = |column| rows::get::<i64>(&row, column).map(i64::unsigned_abs);
        Ok(Counts {
            living: count("living")?,
            not_living: count("not_living")?,
            archived: count("archived")?,
            recalled: count("recalled")?,
        })
    }
}
