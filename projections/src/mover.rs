//! Moves one version of a view, the live one or the one beside it: rows, checkpoint and cutoff in one transaction
//! (PRJ-1).
//!
//! Every move starts from what the database says, so that a mover can be killed between any two instructions,
//! and two movers of one version only slow each other down. It must never skip a record, and never go on from a
//! checkpoint that is not of this log.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use domain::log::{Direction, LogReader};
use domain::merkle::Hash;
use domain::record::Record;
use domain::{ErrorKind, Head, Position, Timestamp};
use futures::FutureExt;
use futures::future::join;
use sqlx::postgres::{PgPool, PgRow};
use sqlx::{PgConnection, Row};

use crate::instant::Instant;
use crate::session::within;
use crate::view::View;
use crate::{ProjectionError, begin};

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

impl Progress {
    /// Itself, if the event at `position` is in the view.
    pub(crate) fn reached(self, view: &'static str, position: Position) -> Result<Self, ProjectionError> {
        let checkpoint = self.checkpoint;
        let is_in = checkpoint.includes(position);
        if is_in { Ok(self) } else { Err(ProjectionError::NotYet { view, position, checkpoint }) }
    }
}

/// Which version of a view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    /// The one that is served.
    Live,
    /// The next one, which is being built.
    Beside,
}

/// Where a version stands, and the fold that its rows were made by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Standing {
    pub(crate) progress: Progress,
    pub(crate) fold: i32,
}

impl Version {
    /// Where this version of `view` stands; `None` if there is none.
    pub(crate) async fn standing(
        self,
        connection: &mut PgConnection,
        view: &'static str,
    ) -> Result<Option<Standing>, ProjectionError> {
        let sql = match self {
            Self::Live => include_str!("mover/progress_live.sql"),
            Self::Beside => include_str!("mover/progress_beside.sql"),
        };
        let row = sqlx::query(sql).bind(view).fetch_optional(connection).await;
        let row = row.map_err(ProjectionError::database("read a checkpoint"))?;
        row.map(|row| read_standing(&row, view)).transpose()
    }

    /// The same where it has to be there, made by `fold`.
    pub(crate) async fn progress(
        self,
        connection: &mut PgConnection,
        view: &'static str,
        fold: i32,
    ) -> Result<Progress, ProjectionError> {
        match self.standing(connection, view).await? {
            None => Err(ProjectionError::NotSetUp { view }),
            Some(standing) if standing.fold == fold => Ok(standing.progress),
            Some(standing) => Err(ProjectionError::OtherFold { view, rows: standing.fold, program: fold }),
        }
    }

    /// Waits until nobody else moves this version, keeps it so until the transaction ends, and lets bare names mean
    /// its tables.
    pub(crate) async fn lock(self, tx: &mut PgConnection, view: &'static str) -> Result<(), ProjectionError> {
        let sql = match self {
            Self::Live => include_str!("mover/lock_live.sql"),
            Self::Beside => include_str!("mover/lock_beside.sql"),
        };
        let locked = sqlx::query(sql).bind(view).execute(tx).await;
        locked.map(drop).map_err(ProjectionError::database("lock a checkpoint"))
    }

    fn move_sql(self) -> &'static str {
        match self {
            Self::Live => include_str!("mover/move_live.sql"),
            Self::Beside => include_str!("mover/move_beside.sql"),
        }
    }
}

/// A batch with so many bytes of events is full, whatever the number of its records.
const FULL_BYTES: usize = 1 << 20;

/// Within these a server answers, unless it is gone without a word: to a look-up, …
const PROGRESS_LIMIT: Duration = Duration::from_secs(30);
/// … to a batch, whose statements take milliseconds and wait for locks as long as the session may, …
const APPLY_LIMIT: Duration = Duration::from_mins(5);
/// … and to what touches all rows of a view.
const SWEEP_LIMIT: Duration = Duration::from_hours(6);

/// What came of folding the next records.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Folded {
    /// There are none.
    Nothing,
    /// They were folded in. `more`: they fill a batch, so it is likely that more are there.
    Records { to: Progress, records: usize, more: bool },
    /// Somebody else moved the version meanwhile; nothing was done.
    Overtaken,
}

/// Moves one version of `view`.
pub(crate) struct Mover<V> {
    pub(crate) pool: PgPool,
    pub(crate) reader: Arc<dyn LogReader>,
    pub(crate) view: V,
    pub(crate) version: Version,
    pub(crate) batch_records: usize,
    /// Records to be tried at a time: fewer after a failure, so that the event that it is from is found and, while
    /// it cannot be folded, is tried alone. Only about work: lost with the process, and no harm.
    limit: AtomicUsize,
    /// What was read while the records before it were written.
    ahead: Mutex<Option<Ahead>>,
    pub(crate) told: OnceLock<Told>,
}

/// Records that follow a checkpoint, compared with the record at it.
struct Ahead {
    from: Progress,
    records: Vec<Record>,
}

/// Is told of records that a commit has put into a view. It must not take long.
pub type Told = Box<dyn Fn(&[Record]) + Send + Sync>;

impl<V: View> Mover<V> {
    pub(crate) fn new(
        pool: PgPool,
        reader: Arc<dyn LogReader>,
        view: V,
        version: Version,
        batch_records: usize,
    ) -> Self {
        let batch_records = batch_records.max(1);
        Self {
            pool,
            reader,
            view,
            version,
            batch_records,
            limit: AtomicUsize::new(batch_records),
            ahead: Mutex::default(),
            told: OnceLock::new(),
        }
    }

    pub(crate) async fn progress(&self) -> Result<Progress, ProjectionError> {
        let mut connection = self.pool.acquire().await.map_err(ProjectionError::database("connect"))?;
        let progress = self.version.progress(&mut connection, self.view.name(), self.view.fold());
        within(PROGRESS_LIMIT, "read a checkpoint", progress).await
    }

    /// Moves the window. `false`: somebody else moved the version meanwhile.
    pub(crate) async fn sweep(&self, from: Progress, cutoff: Timestamp) -> Result<bool, ProjectionError> {
        let swept = self.transact(from, Progress { cutoff, ..from }, Work::Sweep).await;
        swept.map_err(Failure::into_error)
    }

    /// Takes all rows out and puts the checkpoint to 0. `false`: somebody else moved the version meanwhile.
    pub(crate) async fn start_over(&self, from: Progress) -> Result<bool, ProjectionError> {
        let to = Progress { checkpoint: Head::EMPTY, leaf: None, ..from };
        self.transact(from, to, Work::StartOver).await.map_err(Failure::into_error)
    }

    /// Folds the next records in, at most `most` (at least 1). Where one of them cannot be folded, those before it are,
    /// in this call or the next ones, and then it is named.
    pub(crate) async fn fold_next(&self, from: Progress, most: usize) -> Result<Folded, ProjectionError> {
        let limit = self.limit.load(Ordering::Relaxed).min(self.batch_records);
        let limit_now = limit.min(most);
        let mut records = match self.take_ahead(from, limit_now) {
            Some(records) => records,
            None => self.next_records(from, limit_now).await?,
        };
        loop {
            let Some(last) = records.last() else { return Ok(Folded::Nothing) };
            let to = Progress { checkpoint: last.position().as_head(), leaf: Some(last.leaf()), ..from };
            // A full batch is followed by another one: the log is read while the database writes.
            let more = self.is_full(&records);
            let (done, ()) = join(self.transact(from, to, Work::Apply(&records)), self.read_ahead(to, more)).await;
            match done {
                Ok(false) => return Ok(Folded::Overtaken),
                Ok(true) => {
                    self.limit.store(limit.saturating_mul(2).min(self.batch_records), Ordering::Relaxed);
                    if let Some(told) = self.told.get() {
                        told(&records);
                    }
                    return Ok(Folded::Records { to, records: records.len(), more });
                }
                Err(Failure::Other(error)) => return Err(error),
                Err(Failure::OfRecords(error)) if records.len() == 1 => {
                    return Err(ProjectionError::of_event(self.view.name(), &records[0], error));
                }
                Err(Failure::OfRecords(_)) => {
                    records.truncate(records.len() / 2);
                    self.limit.store(records.len(), Ordering::Relaxed);
                }
            }
        }
    }

    /// Whether the batch ended because it holds enough, and not where the log does: readers bound a page by bytes too.
    fn is_full(&self, records: &[Record]) -> bool {
        let bytes = |record: &Record| match record {
            Record::Event(event) => event.event.bytes(),
            Record::Removed(_) => 0,
        };
        records.len() >= self.batch_records || records.iter().map(bytes).sum::<usize>() >= FULL_BYTES
    }

    /// What was read ahead for this checkpoint, if it is not more than is wanted now.
    fn take_ahead(&self, from: Progress, limit: usize) -> Option<Vec<Record>> {
        let ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner).take();
        ahead.filter(|ahead| ahead.from == from && ahead.records.len() <= limit).map(|ahead| ahead.records)
    }

    /// Reads what follows `to`, if there is more. What goes wrong here goes wrong again where it is said.
    async fn read_ahead(&self, to: Progress, more: bool) {
        if more && let Ok(records) = self.next_records(to, self.batch_records).await {
            *self.ahead.lock().unwrap_or_else(PoisonError::into_inner) = Some(Ahead { from: to, records });
        }
    }

    /// The records after the checkpoint, read together with the one at it: that must still be the one that was
    /// folded, or the view is of another history.
    async fn next_records(&self, from: Progress, limit: usize) -> Result<Vec<Record>, ProjectionError> {
        let (Some(at), Some(leaf)) = (from.checkpoint.newest(), from.leaf) else {
            return self.read(Position::FIRST, limit).await;
        };
        let mut records = self.read(at, limit.saturating_add(1)).await?;
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

    /// Does the work and moves from `from` to `to`, all or nothing. `false`: the version is not at `from` any more.
    async fn transact(&self, from: Progress, to: Progress, work: Work<'_>) -> Result<bool, Failure> {
        let limit = if matches!(work, Work::Apply(_)) { APPLY_LIMIT } else { SWEEP_LIMIT };
        within(limit, "move a view", self.transact_unbounded(from, to, work)).await
    }

    async fn transact_unbounded(&self, from: Progress, to: Progress, work: Work<'_>) -> Result<bool, Failure> {
        let name = self.view.name();
        let mut tx = begin(&self.pool, "BEGIN").await.map_err(ProjectionError::database("begin"))?;
        // The lock first, then the comparison: what is compared stays so until the commit.
        self.version.lock(&mut tx, name).await?;
        if self.version.progress(&mut tx, name, self.view.fold()).await? != from {
            return Ok(false);
        }
        match work {
            Work::Apply(records) => self.apply(&mut tx, records, to.cutoff).await?,
            Work::Sweep => self.view.sweep(&mut tx, to.cutoff).await?,
            Work::StartOver => clear(&mut tx, name).await?,
        }
        sqlx::query(self.version.move_sql())
            .bind(name)
            .bind(to.checkpoint.as_i64())
            .bind(Instant(to.cutoff))
            .bind(to.leaf.map(|leaf| leaf.0))
            .execute(&mut *tx)
            .await
            .map_err(ProjectionError::database("move a checkpoint"))?;
        tx.commit().await.map_err(ProjectionError::database("commit a step of a view"))?;
        Ok(true)
    }

    /// A panic of the fold is an error of the records like any other: the other views go on.
    async fn apply(&self, tx: &mut PgConnection, records: &[Record], cutoff: Timestamp) -> Result<(), Failure> {
        let applied = AssertUnwindSafe(self.view.apply(tx, records, cutoff)).catch_unwind().await;
        match applied.unwrap_or_else(|panic| Err(ProjectionError::Panicked { message: message(&*panic) })) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::Unavailable => Err(Failure::Other(error)),
            Err(error) => Err(Failure::OfRecords(error)),
        }
    }
}

enum Work<'a> {
    Apply(&'a [Record]),
    Sweep,
    StartOver,
}

/// Why a transaction did not do its work.
enum Failure {
    /// The view cannot fold the records.
    OfRecords(ProjectionError),
    /// Anything else.
    Other(ProjectionError),
}

impl From<ProjectionError> for Failure {
    fn from(error: ProjectionError) -> Self {
        Self::Other(error)
    }
}

impl Failure {
    fn into_error(self) -> ProjectionError {
        let (Self::OfRecords(error) | Self::Other(error)) = self;
        error
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "it does not say why".to_owned())
}

async fn clear(tx: &mut PgConnection, view: &'static str) -> Result<(), ProjectionError> {
    let cleared = sqlx::query(include_str!("mover/clear.sql")).bind(view).execute(tx).await;
    cleared.map(drop).map_err(ProjectionError::database("take all rows out of a view"))
}

fn read_standing(row: &PgRow, view: &'static str) -> Result<Standing, ProjectionError> {
    let reading = || ProjectionError::database("read a checkpoint");
    let checkpoint: i64 = row.try_get("checkpoint").map_err(reading())?;
    let Instant(cutoff) = row.try_get("cutoff").map_err(reading())?;
    let leaf: Option<[u8; 32]> = row.try_get("leaf").map_err(reading())?;
    let corrupt = || ProjectionError::Corrupt { what: format!("the checkpoint of {view}") };
    let checkpoint = Head::from_i64(checkpoint).ok_or_else(corrupt)?;
    if leaf.is_some() != checkpoint.newest().is_some() {
        return Err(corrupt());
    }
    let progress = Progress { checkpoint, cutoff, leaf: leaf.map(Hash) };
    Ok(Standing { progress, fold: row.try_get("fold").map_err(reading())? })
}
