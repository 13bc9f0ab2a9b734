//! Moves a view along the log: rows, checkpoint and cutoff in one transaction (PRJ-1).
//!
//! Every step starts from what the database says, so that a runner can be killed between any two
//! instructions, and two runners of one view only slow each other down. It must never skip a record, and
//! never go on from a checkpoint that is not of this log.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use domain::log::{Direction, LogReader};
use domain::merkle::Hash;
use domain::record::Record;
use domain::window::LiveWindow;
use domain::{Clock, ErrorKind, Head, Position, Timestamp};
use sqlx::postgres::{PgPool, PgRow};
use sqlx::{PgConnection, Row};
use tokio::time::{Interval, MissedTickBehavior};

use crate::{ProjectionError, instant};

/// Records folded in memory before one write, while the view is behind. More is faster and costs memory (a
/// record is up to 1 MiB; readers bound the bytes of a page).
pub const BATCH_RECORDS: usize = 2_000;
/// After this many full batches in a row a view gives back the space that it has left behind.
const REBUILD_AFTER_BATCHES: usize = 5;
/// How long [`Runner::run`] waits after a failure before it asks again.
const RETRY_EVERY: Duration = Duration::from_secs(1);

/// What one view makes of records: a pure fold, and the writing of what it gives. The transaction is the
/// runner's: a view neither commits nor keeps anything in memory from one call to the next.
#[async_trait]
pub trait View: Send + Sync {
    /// Name of the view, its version included: its schema, and its name as a consumer of the log.
    fn name(&self) -> &'static str;

    /// Folds `records`, which follow those folded before without a hole, into the rows; what was last changed
    /// before `cutoff` is out of the live window.
    async fn apply(&self, tx: &mut PgConnection, records: &[Record], cutoff: Timestamp) -> Result<(), ProjectionError>;

    /// Takes what was last changed before `cutoff` out of the live window.
    async fn sweep(&self, tx: &mut PgConnection, cutoff: Timestamp) -> Result<(), ProjectionError>;

    /// Takes all rows out.
    async fn clear(&self, tx: &mut PgConnection) -> Result<(), ProjectionError>;

    /// Gives back the space that moved rows have left, after a sweep or a long way behind. Failing costs space until
    /// the next time, nothing else.
    async fn rebuild(&self, connection: &mut PgConnection) -> Result<(), ProjectionError>;
}

/// What a view is as of: fold(events up to the checkpoint, cutoff).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The events that are in it.
    pub checkpoint: Head,
    /// Start of the live window that its rows are divided by.
    pub cutoff: Timestamp,
    /// Leaf of the record at the checkpoint; `None` before the first.
    pub leaf: Option<Hash>,
}

/// What one step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The window moved, and what is older went out.
    Swept {
        /// Where it starts now.
        cutoff: Timestamp,
    },
    /// Records were folded in.
    Applied {
        /// Where the view stands now.
        checkpoint: Head,
        /// How many.
        records: usize,
    },
    /// Another runner moved the view meanwhile; nothing was done.
    Overtaken,
    /// There is nothing to do.
    CaughtUp {
        /// Where the view stands.
        checkpoint: Head,
    },
}

/// Runs one view.
pub struct Runner<V> {
    pool: PgPool,
    reader: Arc<dyn LogReader>,
    clock: Arc<dyn Clock>,
    window: LiveWindow,
    view: V,
    batch_records: usize,
    /// Full batches since the view was last caught up. Only about space: lost with the process, and no harm.
    full_batches: AtomicUsize,
}

impl<V: View> Runner<V> {
    /// A runner of `view` in the database of `pool`, over live log and archive as `reader` gives them.
    #[must_use]
    pub fn new(pool: PgPool, reader: Arc<dyn LogReader>, clock: Arc<dyn Clock>, window: LiveWindow, view: V) -> Self {
        Self { pool, reader, clock, window, view, batch_records: BATCH_RECORDS, full_batches: AtomicUsize::new(0) }
    }

    /// The same runner with batches of at most `records` records (at least 1).
    #[must_use]
    pub fn with_batches_of(self, records: usize) -> Self {
        Self { batch_records: records.max(1), ..self }
    }

    /// What the view is as of.
    ///
    /// # Errors
    /// [`ProjectionError::NotSetUp`] before the migrations; `Database`.
    pub async fn progress(&self) -> Result<Progress, ProjectionError> {
        let mut connection = self.pool.acquire().await.map_err(ProjectionError::database("connect"))?;
        progress(&mut connection, self.view.name()).await
    }

    /// Follows the log until `stop` is ready: batches while behind, group by group when live. What can pass by
    /// itself is tried again every second.
    ///
    /// # Errors
    /// What does not pass by itself, with the reason; the view stands where it stood.
    pub async fn run(&self, stop: impl Future<Output = ()> + Send) -> Result<(), ProjectionError> {
        let mut pace = tokio::time::interval(RETRY_EVERY);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tokio::select! {
            // A step that is dropped in the middle is rolled back.
            () = stop => Ok(()),
            error = self.follow(&mut pace) => Err(error),
        }
    }

    /// Follows the log until something does not pass by itself.
    async fn follow(&self, pace: &mut Interval) -> ProjectionError {
        let mut failing = false;
        loop {
            match self.step_or_wait().await {
                Ok(()) if failing => {
                    failing = false;
                    tracing::info!(view = self.view.name(), "the view moves again");
                }
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::Unavailable => {
                    if !failing {
                        tracing::warn!(view = self.view.name(), error = chain(&error), "the view waits");
                    }
                    failing = true;
                    pace.reset();
                    pace.tick().await;
                }
                Err(error) => return error,
            }
        }
    }

    async fn step_or_wait(&self) -> Result<(), ProjectionError> {
        if let Step::CaughtUp { checkpoint } = self.step().await? {
            self.reader.wait_beyond(checkpoint).await?;
        }
        Ok(())
    }

    /// Steps until there is nothing to do, and says what the view is as of then.
    ///
    /// # Errors
    /// The first error; the steps before it are done.
    pub async fn catch_up(&self) -> Result<Progress, ProjectionError> {
        while !matches!(self.step().await?, Step::CaughtUp { .. }) {}
        self.progress().await
    }

    /// Does the next thing: moves the window if it is time, else folds the next records in.
    ///
    /// # Errors
    /// Why it was not done; nothing was changed then (or, for a connection lost in COMMIT, all of it: the next
    /// step sees which).
    pub async fn step(&self) -> Result<Step, ProjectionError> {
        let from = self.progress().await?;
        let cutoff = self.window.cutoff(self.clock.now().await?)?;
        // Only forward: a clock that went back brings nothing back into the window.
        if cutoff > from.cutoff { self.sweep(from, cutoff).await } else { self.fold_next(from).await }
    }

    /// Empties the view and puts its checkpoint to 0: the way on after [`ErrorKind::Forked`]. The next steps fold
    /// it again from archive and live log; until they have caught up, readers see it grow, and pruning waits.
    /// `false`: another runner moved the view meanwhile, and nothing was done.
    ///
    /// # Errors
    /// Why it was not done; nothing was changed then.
    pub async fn start_over(&self) -> Result<bool, ProjectionError> {
        let from = self.progress().await?;
        let to = Progress { checkpoint: Head::EMPTY, leaf: None, ..from };
        let done = self.transact(from, to, Work::StartOver).await?;
        self.give_back_space().await;
        Ok(done)
    }

    async fn sweep(&self, from: Progress, cutoff: Timestamp) -> Result<Step, ProjectionError> {
        let to = Progress { cutoff, ..from };
        if !self.transact(from, to, Work::Sweep).await? {
            return Ok(Step::Overtaken);
        }
        self.give_back_space().await;
        Ok(Step::Swept { cutoff })
    }

    /// Outside the transaction, and not a failure of it: space that is not given back now is the next time.
    async fn give_back_space(&self) {
        let rebuilt = match self.pool.acquire().await {
            Ok(mut connection) => self.view.rebuild(&mut connection).await,
            Err(error) => Err(ProjectionError::database("connect")(error)),
        };
        if let Err(error) = rebuilt {
            tracing::warn!(view = self.view.name(), error = chain(&error), "space of a view is not given back yet");
        }
    }

    async fn fold_next(&self, from: Progress) -> Result<Step, ProjectionError> {
        let records = self.next_records(from).await?;
        let Some(last) = records.last() else {
            if self.full_batches.swap(0, Ordering::Relaxed) >= REBUILD_AFTER_BATCHES {
                self.give_back_space().await;
            }
            return Ok(Step::CaughtUp { checkpoint: from.checkpoint });
        };
        let to = Progress { checkpoint: last.position().as_head(), leaf: Some(last.leaf()), ..from };
        if self.transact(from, to, Work::Apply(&records)).await? {
            self.full_batches.fetch_add(usize::from(records.len() >= self.batch_records), Ordering::Relaxed);
            Ok(Step::Applied { checkpoint: to.checkpoint, records: records.len() })
        } else {
            Ok(Step::Overtaken)
        }
    }

    /// The records after the checkpoint, read together with the one at it: that must still be the one that was
    /// folded, or the view is of another history.
    async fn next_records(&self, from: Progress) -> Result<Vec<Record>, ProjectionError> {
        let (Some(at), Some(leaf)) = (from.checkpoint.newest(), from.leaf) else {
            return self.read(Position::FIRST, self.batch_records).await;
        };
        let mut records = self.read(at, self.batch_records.saturating_add(1)).await?;
        let view = self.view.name();
        if records.is_empty() {
            let head = self.reader.log_head().await?.head;
            return Err(ProjectionError::AheadOfLog { view, checkpoint: from.checkpoint, head });
        }
        if records.remove(0).leaf() != leaf {
            return Err(ProjectionError::OtherHistory { view, position: at });
        }
        Ok(records)
    }

    async fn read(&self, from: Position, limit: usize) -> Result<Vec<Record>, ProjectionError> {
        let records = self.reader.read_log(from, Direction::Forward, limit).await?;
        let mut expected = from;
        for record in &records {
            if record.position() != expected {
                return Err(ProjectionError::Corrupt { what: format!("position {expected} of the log") });
            }
            expected = expected.next();
        }
        Ok(records)
    }

    /// Does the work and moves from `from` to `to`, all or nothing. `false`: the view is not at `from` any more.
    async fn transact(&self, from: Progress, to: Progress, work: Work<'_>) -> Result<bool, ProjectionError> {
        let mut tx = self.pool.begin().await.map_err(ProjectionError::database("begin"))?;
        // The lock first, then the comparison: what is compared stays so until the commit.
        sqlx::query(include_str!("runner/lock.sql"))
            .bind(self.view.name())
            .execute(&mut *tx)
            .await
            .map_err(ProjectionError::database("lock a checkpoint"))?;
        if progress(&mut tx, self.view.name()).await? != from {
            return Ok(false);
        }
        match work {
            Work::Apply(records) => self.view.apply(&mut tx, records, to.cutoff).await?,
            Work::Sweep => self.view.sweep(&mut tx, to.cutoff).await?,
            Work::StartOver => self.view.clear(&mut tx).await?,
        }
        sqlx::query(include_str!("runner/move.sql"))
            .bind(self.view.name())
            .bind(to.checkpoint.as_i64())
            .bind(instant::to_sql(to.cutoff))
            .bind(to.leaf.map(|leaf| leaf.0))
            .execute(&mut *tx)
            .await
            .map_err(ProjectionError::database("move a checkpoint"))?;
        tx.commit().await.map_err(ProjectionError::database("commit a step of a view"))?;
        Ok(true)
    }
}

enum Work<'a> {
    Apply(&'a [Record]),
    Sweep,
    StartOver,
}

pub(crate) async fn progress(connection: &mut PgConnection, view: &'static str) -> Result<Progress, ProjectionError> {
    let row = sqlx::query(include_str!("runner/progress.sql"))
        .bind(view)
        .fetch_optional(connection)
        .await
        .map_err(ProjectionError::database("read a checkpoint"))?
        .ok_or(ProjectionError::NotSetUp { view })?;
    read_progress(&row, view)
}

fn read_progress(row: &PgRow, view: &'static str) -> Result<Progress, ProjectionError> {
    let reading = || ProjectionError::database("read a checkpoint");
    let checkpoint: i64 = row.try_get("checkpoint").map_err(reading())?;
    let cutoff: i64 = row.try_get("cutoff").map_err(reading())?;
    let leaf: Option<[u8; 32]> = row.try_get("leaf").map_err(reading())?;
    let corrupt = || ProjectionError::Corrupt { what: format!("the checkpoint of {view}") };
    let checkpoint = Head::from_i64(checkpoint).ok_or_else(corrupt)?;
    if leaf.is_some() != checkpoint.newest().is_some() {
        return Err(corrupt());
    }
    Ok(Progress { checkpoint, cutoff: instant::from_sql(cutoff)?, leaf: leaf.map(Hash) })
}

/// An error with all its causes, for the log.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
