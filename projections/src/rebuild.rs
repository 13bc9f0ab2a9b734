//! Rebuilds a view beside itself: the next version is folded over archive and live log while the live one is served
//! and moved, both are compared at one checkpoint and cutoff, swapped in one transaction, and the old one is dropped.
//!
//! Every step starts from what the database says and is done wholly or not at all: after a kill at any instruction
//! the next rebuild of the view goes on where this one was. It must never take the place of a version that it was
//! not compared with, nor stop the live one for longer than a batch takes.

mod compare;

use std::sync::Arc;
use std::time::Duration;

use compare::Comparing;
use domain::log::LogReader;
use domain::merkle::Hash;
use domain::{ErrorKind, Head};
use futures::TryStreamExt;
use sqlx::postgres::{PgPool, PgRow};
use sqlx::{PgConnection, Postgres, Row, Transaction};
use tokio::time::{MissedTickBehavior, interval};

use crate::mover::{Folded, Mover, Progress, Standing, Version};
use crate::runner::BATCH_RECORDS;
use crate::{ProjectionError, View, begin, compact};

pub use compare::{Comparison, Rows};

/// How often it is tried to hold the live version, a second apart. Each try waits as long as a session may wait for a
/// lock; the month's sweep of a large view holds it for minutes.
const MEETS_MAX: u32 = 180;
const MEET_EVERY: Duration = Duration::from_secs(1);
/// How often dropping the old version is tried, a second apart, while queries are still at it.
const DROPS_MAX: u32 = 30;
const DROP_EVERY: Duration = Duration::from_secs(1);

/// Whether a rebuilt version may take the place of a live one of the same fold that has other rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Differences {
    /// No: one of the two is wrong, and a person has to look.
    Refused,
    /// Yes: a person has looked, and the live one is wrong.
    AcceptedByOperator,
}

/// Told how a rebuild goes. Nothing depends on it.
pub trait Watch: Send + Sync {
    /// A step is done: `rebuild.begun`, `rebuild.folded`, `rebuild.met`, `rebuild.compared`, `rebuild.swapped`,
    /// `rebuild.dropped`.
    fn reached(&self, step: &'static str);
    /// The version beside stands at `checkpoint`, the live one at `live`.
    fn folded(&self, checkpoint: Head, live: Head);
}

/// Nobody is told.
pub struct Unwatched;

impl Watch for Unwatched {
    fn reached(&self, _step: &'static str) {}
    fn folded(&self, _checkpoint: Head, _live: Head) {}
}

/// What a rebuild came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rebuilt {
    /// Version that is live now.
    pub version: u64,
    /// Fold of the version before, and of this one; if the swap was an earlier run's, of this one twice.
    pub folds: [i32; 2],
    /// Both, as they were compared.
    pub comparison: Comparison,
}

/// One view's rebuild.
pub struct Rebuild<V> {
    beside: Mover<V>,
    watch: Arc<dyn Watch>,
}

/// A transaction that holds both versions, and where they stand.
type Met = (Transaction<'static, Postgres>, Progress);

/// What stands in the database of a rebuild.
struct State {
    version: u64,
    /// Of the live version, and of the one that the rebuild makes: after the swap that is the live one.
    folds: [i32; 2],
    comparison: Option<Comparison>,
    swapped: bool,
}

impl<V: View> Rebuild<V> {
    /// A rebuild of `view` in the database of `pool`, over live log and archive as `reader` gives them. At least three
    /// connections of `pool` are used at a time.
    #[must_use]
    pub fn new(pool: PgPool, reader: Arc<dyn LogReader>, view: V, watch: Arc<dyn Watch>) -> Self {
        Self { beside: Mover::new(pool, reader, view, Version::Beside, BATCH_RECORDS), watch }
    }

    /// The same rebuild with batches of at most `records` records (at least 1).
    #[must_use]
    pub fn with_batches_of(self, records: usize) -> Self {
        let Mover { pool, reader, view, version, .. } = self.beside;
        Self { beside: Mover::new(pool, reader, view, version, records), ..self }
    }

    /// Begins a rebuild, or goes on with the one that is there, until the new version is live and the old one gone.
    ///
    /// # Errors
    /// [`ProjectionError::RebuildRuns`] if another process is at it. `Differs`, once compared: nothing was swapped;
    /// call again to compare again, or with [`Differences::AcceptedByOperator`]. `Event` if the new fold cannot fold
    /// one. After any error the live version is served and moved as before, and calling again goes on.
    pub async fn run(&self, differences: Differences) -> Result<Rebuilt, ProjectionError> {
        let alone = alone(&self.beside.pool, self.name()).await?;
        let rebuilt = self.run_alone(differences).await;
        release(alone).await;
        rebuilt
    }

    async fn run_alone(&self, differences: Differences) -> Result<Rebuilt, ProjectionError> {
        let mut state = self.begun().await?;
        if state.swapped && state.folds[1] != self.beside.view.fold() {
            // What another program has left undropped is not the rebuild that was asked for.
            drop_soon(&self.beside.pool, self.name(), true).await?;
            state = self.begun().await?;
        }
        if !state.swapped {
            state = self.compared_and_swapped(state, differences).await?;
        }
        drop_soon(&self.beside.pool, self.name(), true).await?;
        self.watch.reached("rebuild.dropped");
        let what = || ProjectionError::Corrupt { what: format!("the comparison of {}", self.name()) };
        Ok(Rebuilt { version: state.version, folds: state.folds, comparison: state.comparison.ok_or_else(what)? })
    }

    fn name(&self) -> &'static str {
        self.beside.view.name()
    }

    async fn begun(&self) -> Result<State, ProjectionError> {
        if let Some(state) = self.state().await? {
            return Ok(state);
        }
        let begun = sqlx::query(include_str!("rebuild/begin.sql"))
            .bind(self.name())
            .bind(self.beside.view.fold())
            .execute(&self.beside.pool)
            .await;
        begun.map_err(ProjectionError::database("begin a rebuild"))?;
        self.watch.reached("rebuild.begun");
        self.state().await?.ok_or(ProjectionError::NotSetUp { view: self.name() })
    }

    async fn compared_and_swapped(&self, state: State, differences: Differences) -> Result<State, ProjectionError> {
        let [live_fold, fold] = state.folds;
        let acceptable = |comparison: &Comparison| {
            comparison.differing == 0 || live_fold != fold || differences == Differences::AcceptedByOperator
        };
        // What was found acceptable before a kill still is: from there on both versions took the same records.
        let comparison = match state.comparison.filter(|known| acceptable(known)) {
            Some(known) => known,
            None => {
                self.come_close().await?;
                compact(&self.beside.pool, self.name(), Version::Beside).await;
                self.compare().await?
            }
        };
        if !acceptable(&comparison) {
            let Comparison { checkpoint, differing, first, .. } = comparison;
            let first = first.unwrap_or_default();
            let view = self.name();
            tracing::error!(view, %checkpoint, differing, first, "PRJ-1: a view is not what its fold gives");
            return Err(ProjectionError::Differs { view, checkpoint, differing, first });
        }
        let (mut hold, _) = self.meet().await?;
        let swapped = sqlx::query(include_str!("rebuild/swap.sql")).bind(self.name()).execute(&mut *hold).await;
        swapped.map_err(ProjectionError::database("swap two versions of a view"))?;
        hold.commit().await.map_err(ProjectionError::database("commit the swap of a view"))?;
        self.watch.reached("rebuild.swapped");
        Ok(State { comparison: Some(comparison), swapped: true, ..state })
    }

    /// Folds until at most a batch is between both versions. The live one goes on meanwhile.
    async fn come_close(&self) -> Result<(), ProjectionError> {
        loop {
            let live = self.live(&mut *self.connection().await?).await?.progress;
            let from = self.beside.progress().await?;
            self.watch.folded(from.checkpoint, live.checkpoint);
            let behind = self.behind(from.checkpoint, live.checkpoint)?;
            if from.cutoff != live.cutoff {
                self.beside.sweep(from, live.cutoff).await?;
            } else if behind > self.beside.batch_records {
                self.fold(from, behind).await?;
            } else {
                return Ok(());
            }
        }
    }

    /// Holds the live version where it is, and brings the other one there. While the transaction is open, both stay.
    async fn meet(&self) -> Result<Met, ProjectionError> {
        let mut pace = interval(MEET_EVERY);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut tries = 0;
        loop {
            pace.tick().await;
            tries += 1;
            // What is left to be done while the live version is held is little.
            self.come_close().await?;
            match self.try_to_meet().await {
                Ok(Some(met)) => return Ok(met),
                Ok(None) => {}
                Err(error) if error.kind() == ErrorKind::Unavailable && tries < MEETS_MAX => {
                    tracing::info!(view = self.name(), tries, %error, "the live version is not to be had yet");
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// `None`: the live version's window has moved meanwhile, and sweeping takes too long to hold it.
    async fn try_to_meet(&self) -> Result<Option<Met>, ProjectionError> {
        let mut hold = begin(&self.beside.pool, "BEGIN").await.map_err(ProjectionError::database("begin"))?;
        Version::Live.lock(&mut hold, self.name()).await?;
        let live = self.live(&mut hold).await?.progress;
        loop {
            let from = self.beside.progress().await?;
            let behind = self.behind(from.checkpoint, live.checkpoint)?;
            if from.cutoff != live.cutoff {
                return Ok(None);
            } else if behind > 0 {
                self.fold(from, behind).await?;
            } else if from == live {
                self.watch.reached("rebuild.met");
                return Ok(Some((hold, live)));
            } else {
                let at = from.checkpoint.newest().ok_or(ProjectionError::NotSetUp { view: self.name() })?;
                return Err(ProjectionError::OtherHistory { view: self.name(), position: at });
            }
        }
    }

    fn behind(&self, beside: Head, live: Head) -> Result<usize, ProjectionError> {
        let behind = live.get().checked_sub(beside.get());
        let behind = behind.ok_or(ProjectionError::AheadOfLive { view: self.name(), beside, live })?;
        Ok(usize::try_from(behind).unwrap_or(usize::MAX))
    }

    async fn fold(&self, from: Progress, most: usize) -> Result<(), ProjectionError> {
        if let Folded::Nothing = self.beside.fold_next(from, most).await? {
            let head = self.beside.reader.log_head().await?.head;
            return Err(ProjectionError::AheadOfLog { view: self.name(), checkpoint: from.checkpoint, head });
        }
        self.watch.reached("rebuild.folded");
        Ok(())
    }

    /// Compares both at one checkpoint and cutoff, and notes what was found. Neither is stopped by it: it reads a
    /// snapshot.
    async fn compare(&self) -> Result<Comparison, ProjectionError> {
        let comparing = || ProjectionError::database("compare two versions of a view");
        let (hold, met) = self.meet().await?;
        let snapshot = begin(&self.beside.pool, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await;
        let mut tx = snapshot.map_err(comparing())?;
        // The first read, which makes the snapshot, and then the release of the live version: it may move from here on.
        self.live(&mut tx).await?;
        hold.rollback().await.map_err(comparing())?;
        let mut found = Comparing::default();
        for table in self.tables(&mut tx).await? {
            let rows = sqlx::query(include_str!("rebuild/rows.sql")).bind(self.name()).bind(&table);
            let mut rows = rows.fetch(&mut *tx);
            while let Some(row) = rows.try_next().await.map_err(comparing())? {
                let [key, live, beside] =
                    ["key", "live", "beside"].map(|column| row.try_get::<Option<&str>, _>(column));
                let key = key.map_err(comparing())?.unwrap_or_default();
                found.take(&table, key, live.map_err(comparing())?, beside.map_err(comparing())?);
            }
        }
        let comparison = found.at(met.checkpoint);
        self.note(&comparison).await?;
        self.watch.reached("rebuild.compared");
        Ok(comparison)
    }

    /// The tables of both versions that are part of the fold, by name.
    async fn tables(&self, connection: &mut PgConnection) -> Result<Vec<String>, ProjectionError> {
        let tables = sqlx::query_scalar(include_str!("rebuild/tables.sql"))
            .bind(self.name())
            .bind(self.beside.view.unfolded())
            .fetch_all(connection)
            .await;
        tables.map_err(ProjectionError::database("list the tables of a view"))
    }

    async fn note(&self, comparison: &Comparison) -> Result<(), ProjectionError> {
        let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let noted = sqlx::query(include_str!("rebuild/note.sql"))
            .bind(self.name())
            .bind(comparison.checkpoint.as_i64())
            .bind(count(comparison.live.count))
            .bind(comparison.live.sha256.0)
            .bind(count(comparison.beside.count))
            .bind(comparison.beside.sha256.0)
            .bind(count(comparison.differing))
            .bind(&comparison.first)
            .execute(&self.beside.pool)
            .await;
        noted.map(drop).map_err(ProjectionError::database("note a comparison"))
    }

    async fn live(&self, connection: &mut PgConnection) -> Result<Standing, ProjectionError> {
        let live = Version::Live.standing(connection, self.name()).await?;
        live.ok_or(ProjectionError::NotSetUp { view: self.name() })
    }

    async fn connection(&self) -> Result<sqlx::pool::PoolConnection<Postgres>, ProjectionError> {
        self.beside.pool.acquire().await.map_err(ProjectionError::database("connect"))
    }

    async fn state(&self) -> Result<Option<State>, ProjectionError> {
        let row = sqlx::query(include_str!("rebuild/state.sql"))
            .bind(self.name())
            .fetch_optional(&self.beside.pool)
            .await
            .map_err(ProjectionError::database("read a rebuild"))?;
        row.map(|row| read_state(&row)).transpose()
    }
}

/// Ends a rebuild without its swap: what was built beside is dropped. After the swap there is nothing to give up, and
/// what is left of the old version is dropped instead. `false`: there was none.
///
/// # Errors
/// [`ProjectionError::RebuildRuns`] if another process is at it; `Database`.
pub async fn drop_rebuild(pool: &PgPool, view: &str) -> Result<bool, ProjectionError> {
    let alone = alone(pool, view).await?;
    let dropped = drop_whatever_is_left(pool, view).await;
    release(alone).await;
    dropped
}

async fn drop_whatever_is_left(pool: &PgPool, view: &str) -> Result<bool, ProjectionError> {
    let swapped = sqlx::query_scalar(include_str!("rebuild/swapped.sql")).bind(view).fetch_optional(pool).await;
    match swapped.map_err(ProjectionError::database("read a rebuild"))? {
        None => Ok(false),
        Some(swapped) => drop_soon(pool, view, swapped).await.map(|()| true),
    }
}

/// A session that is alone at the rebuild of `view`, until it ends: with its process at the latest. Nothing but the
/// clear refusal depends on it; what two rebuilds at once would do, they would do one after the other.
async fn alone(pool: &PgPool, view: &str) -> Result<PgConnection, ProjectionError> {
    let mut session = pool.acquire().await.map_err(ProjectionError::database("connect"))?.detach();
    let alone: bool = sqlx::query_scalar(include_str!("rebuild/alone.sql"))
        .bind(view)
        .fetch_one(&mut session)
        .await
        .map_err(ProjectionError::database("be alone at a rebuild"))?;
    if alone { Ok(session) } else { Err(ProjectionError::RebuildRuns { view: view.to_owned() }) }
}

/// Lets the next one be alone. If that fails, the session ends with its connection, which is closed all the same.
async fn release(mut alone: PgConnection) {
    if let Err(error) = sqlx::query(include_str!("rebuild/release.sql")).execute(&mut alone).await {
        tracing::debug!(%error, "a session did not end in good order");
    }
}

async fn drop_soon(pool: &PgPool, view: &str, swapped: bool) -> Result<(), ProjectionError> {
    let mut pace = interval(DROP_EVERY);
    let mut tries = 0;
    loop {
        pace.tick().await;
        tries += 1;
        let ended = sqlx::query(include_str!("rebuild/end.sql")).bind(view).bind(swapped).execute(pool).await;
        match ended.map_err(ProjectionError::database("drop a version of a view")) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::Unavailable && tries < DROPS_MAX => {}
            Err(error) => return Err(error),
        }
    }
}

fn read_state(row: &PgRow) -> Result<State, ProjectionError> {
    let reading = || ProjectionError::database("read a rebuild");
    let corrupt = || ProjectionError::Corrupt { what: "the state of a rebuild".to_owned() };
    let version: i64 = row.try_get("version").map_err(reading())?;
    Ok(State {
        version: u64::try_from(version).map_err(|_| corrupt())?,
        folds: [row.try_get("live_fold").map_err(reading())?, row.try_get("fold").map_err(reading())?],
        comparison: read_comparison(row)?,
        swapped: row.try_get("swapped").map_err(reading())?,
    })
}

/// The comparison that stands in a row of `projections.rebuilds`, if there was one.
pub(crate) fn read_comparison(row: &PgRow) -> Result<Option<Comparison>, ProjectionError> {
    let reading = || ProjectionError::database("read a comparison");
    let corrupt = || ProjectionError::Corrupt { what: "the comparison of a rebuild".to_owned() };
    let Some(at) = row.try_get::<Option<i64>, _>("compared_at").map_err(reading())? else { return Ok(None) };
    let count = |column| {
        let count: i64 = row.try_get(column).map_err(reading())?;
        u64::try_from(count).map_err(|_| corrupt())
    };
    let rows = |counted, sha256| {
        let sha256: [u8; 32] = row.try_get(sha256).map_err(reading())?;
        Ok::<_, ProjectionError>(Rows { count: count(counted)?, sha256: Hash(sha256) })
    };
    Ok(Some(Comparison {
        checkpoint: Head::from_i64(at).ok_or_else(corrupt)?,
        live: rows("live_rows", "live_sha256")?,
        beside: rows("beside_rows", "beside_sha256")?,
        differing: count("differing")?,
        first: row.try_get("first_difference").map_err(reading())?,
    }))
}
