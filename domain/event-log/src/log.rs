//! The log as one object: what its parts share, and the ports that it implements by them.

use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use domain::append::{AppendError, AppendRequest, Appended, LogHead, Role, StreamHead};
use domain::filter::{Filter, Searched};
use domain::log::{ApplyError, Direction, EventLog, FollowerLog, LogReader, ReadError};
use domain::record::{Lines, Record};
use domain::tiered::ArchiveReader;
use domain::{Clock, Epoch, Head, Position, StreamName, StreamVersion, Timestamp};
use futures::FutureExt;
use sqlx::Row as _;

use crate::appender::Appender;
use crate::clock::LogClock;
use crate::durable::Durable;
use crate::error::EventLogError;
use crate::follower::Follower;
use crate::heads::Heads;
use crate::metrics::Counters;
use crate::partitions::Partitions;
use crate::reader::{Reader, read_error};
use crate::session::{self, Purpose};
use crate::sessions::Sessions;
use crate::{PgConfig, migrations};

/// Appends and prunes stop when two clocks differ by more than this.
pub(crate) const CLOCK_DIFFERENCE_MAX_SECONDS: i64 = 60;

/// By how many seconds two clocks differ, if that is too much.
pub(crate) fn clock_difference(own: Timestamp, other: Timestamp) -> Option<i64> {
    let seconds = own.micros_since(other) / 1_000_000;
    (seconds.abs() > CLOCK_DIFFERENCE_MAX_SECONDS).then_some(seconds)
}

/// What readers, appender and follower share.
pub(crate) struct Shared {
    pub(crate) config: PgConfig,
    pub(crate) pool: Sessions,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) system_identifier: i64,
    pub(crate) simulated: bool,
    pub(crate) partitions: Arc<Partitions>,
    pub(crate) reader: Reader,
    pub(crate) counters: Counters,
    heads: Heads,
    pub(crate) durable: Arc<Durable>,
    archive: RwLock<Option<Arc<dyn ArchiveReader>>>,
    steps: OnceLock<Steps>,
    pub(crate) elapsed: OnceLock<Elapsed>,
}

/// How long the process runs.
type Elapsed = Box<dyn Fn() -> Duration + Send + Sync>;

/// Is told of each step of a prune that is committed, by a name such as `prune.detached`.
type Steps = Arc<dyn Fn(&'static str) + Send + Sync>;

impl Shared {
    pub(crate) fn archive(&self) -> Option<Arc<dyn ArchiveReader>> {
        self.archive.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn reached(&self, step: &'static str) {
        if let Some(steps) = self.steps.get() {
            steps(step);
        }
    }

    /// How long the process runs, if anybody measures.
    pub(crate) fn elapsed(&self) -> Option<Duration> {
        self.elapsed.get().map(|elapsed| elapsed())
    }

    /// After a commit whose COMMIT was sent at `sent`.
    pub(crate) fn note_flush(&self, sent: Option<Duration>) {
        if let (Some(sent), Some(answered)) = (sent, self.elapsed()) {
            self.counters.flushed(answered.saturating_sub(sent));
        }
    }

    /// After a commit: readers learn of the head, and of partitions that have their first events.
    pub(crate) async fn note_commit(&self, head: Head, recorded: impl Iterator<Item = Timestamp>) {
        if !self.partitions.advanced(head, recorded.map(Timestamp::month_start))
            && let Err(error) = self.partitions.load().await
        {
            // The old map is still true of what it knows; a reader that finds it short loads it.
            tracing::debug!(%error, "the list of partitions was not loaded after a commit");
        }
        self.durable.up_to(head);
        self.heads.committed(head);
    }

    /// Starts making the partition of an instant that was given, while the requests before it are being committed.
    pub(crate) fn make_ahead(self: &Arc<Self>, recorded_at: Option<Timestamp>) {
        let Some(month) = recorded_at.map(Timestamp::month_start) else { return };
        if self.partitions.claim(month) {
            let shared = Arc::clone(self);
            tokio::spawn(async move { shared.partitions.make_claimed(month).await });
        }
    }
}

/// The log on PostgreSQL. Cheap to share by `Arc`; made by [`PgLog::connect`], ended by [`PgLog::shut_down`].
pub struct PgLog {
    shared: Arc<Shared>,
    appender: Appender,
    follower: Follower,
}

impl PgLog {
    /// Opens the log of a database that `db init` has prepared. `clock` is the real one; a log with simulated time
    /// does not use it.
    ///
    /// # Errors
    /// `Unsafe` where the server or the role cannot keep the promises, `NotInitialised`, `WrongSchema`, `Database`.
    pub async fn connect(config: PgConfig, clock: Arc<dyn Clock>) -> Result<Self, EventLogError> {
        let (mut connection, server) = session::open(&config, Purpose::Serve).await?;
        migrations::check(&mut connection).await?;
        let row = sqlx::query(include_str!("sql/log_head.sql"))
            .fetch_optional(&mut connection)
            .await
            .map_err(EventLogError::database("reading the log's head"))?
            .ok_or(EventLogError::NotInitialised)?;
        let simulated = row.try_get("simulated").map_err(EventLogError::database("reading the log's head"))?;
        let pool = Sessions::of(&config)?;
        let partitions = Arc::new(Partitions::new(pool.clone()));
        partitions.load().await.map_err(EventLogError::database("reading the list of partitions"))?;
        let reader = Reader::new(pool.clone(), Arc::clone(&partitions));
        let looking = reader.clone();
        let shared = Arc::new(Shared {
            reader,
            config,
            durable: Arc::new(Durable::new(pool.clone())),
            pool,
            clock,
            system_identifier: server.system_identifier,
            simulated,
            partitions,
            counters: Counters::default(),
            heads: Heads::new(move || {
                let reader = looking.clone();
                async move { reader.log_head().await }.boxed()
            }),
            archive: RwLock::default(),
            steps: OnceLock::new(),
            elapsed: OnceLock::new(),
        });
        Ok(Self {
            appender: Appender::start(Arc::clone(&shared)),
            follower: Follower::new(Arc::clone(&shared)),
            shared,
        })
    }

    /// Where retries of archived requests are looked up (LOG-4). It may hold this log; [`PgLog::shut_down`] lets go of it.
    pub fn set_archive(&self, archive: Arc<dyn ArchiveReader>) {
        *self.shared.archive.write().unwrap_or_else(PoisonError::into_inner) = Some(archive);
    }

    /// Who is told of each transaction of a prune that is committed: a place at which a test can kill the process. Set
    /// once, by the composition root; nobody looks otherwise.
    pub fn watch_steps(&self, steps: Arc<dyn Fn(&'static str) + Send + Sync>) {
        // A second one comes too late: there is one root.
        drop(self.shared.steps.set(steps));
    }

    /// The log's clock: the real one, or the simulated time of a log that was created with it.
    #[must_use]
    pub fn clock(&self) -> Arc<dyn Clock> {
        if self.shared.simulated {
            Arc::new(LogClock::new(self.shared.pool.clone()))
        } else {
            Arc::clone(&self.shared.clock)
        }
    }

    /// Returns when a fault of the program has ended the appender: every append is refused from then on, and only a new
    /// process takes them.
    pub async fn broke(&self) {
        self.appender.broke().await;
    }

    /// Refuses appends from now on and returns when all that were accepted are answered.
    pub async fn shut_down(&self) {
        self.appender.shut_down().await;
        *self.shared.archive.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn appender(&self) -> &Appender {
        &self.appender
    }
}

#[async_trait]
impl LogReader for PgLog {
    async fn log_head(&self) -> Result<LogHead, ReadError> {
        self.shared.reader.log_head().await
    }

    async fn read_log(&self, from: Position, direction: Direction, limit: usize) -> Result<Vec<Record>, ReadError> {
        self.shared.reader.read_log(from, direction, limit).await
    }

    async fn read_lines(&self, from: Position, limit: usize) -> Result<Lines, ReadError> {
        self.shared.reader.read_lines(from, limit).await
    }

    async fn search_log(
        &self,
        from: Position,
        direction: Direction,
        filter: &Filter,
        limit: usize,
    ) -> Result<Searched, ReadError> {
        self.shared.reader.search_log(from, direction, filter, limit).await
    }

    async fn read_stream(
        &self,
        stream: &StreamName,
        from: StreamVersion,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<Record>, ReadError> {
        self.shared.reader.read_stream(stream, from, direction, limit).await
    }

    async fn stream_head(&self, stream: &StreamName) -> Result<Option<StreamHead>, ReadError> {
        self.shared.reader.stream_head(stream).await
    }

    async fn streams(
        &self,
        category: &str,
        after: Option<&StreamName>,
        limit: usize,
    ) -> Result<Vec<(StreamName, StreamHead)>, ReadError> {
        self.shared.reader.streams(category, after, limit).await
    }

    async fn find_event(&self, source: &str, id: &str) -> Result<Option<Position>, ReadError> {
        self.shared.reader.find_event(source, id).await
    }

    async fn head_as_of(&self, at: Timestamp) -> Result<Head, ReadError> {
        self.shared.reader.head_as_of(at).await
    }

    async fn wait_beyond(&self, seen: Head) -> Result<Head, ReadError> {
        self.shared.heads.beyond(seen).await
    }
}

#[async_trait]
impl EventLog for PgLog {
    async fn append(&self, request: AppendRequest) -> Result<Appended, AppendError> {
        self.appender.append(request).await
    }

    async fn consumer_checkpoint(&self, consumer: &str) -> Result<u64, ReadError> {
        let query = sqlx::query_scalar("SELECT checkpoint FROM coldstream.consumers WHERE name = $1").bind(consumer);
        let checkpoint: Option<i64> = query.fetch_optional(&self.shared.pool).await.map_err(read_error)?;
        // The column's CHECK keeps it from being negative.
        Ok(checkpoint.and_then(|at| u64::try_from(at).ok()).unwrap_or(0))
    }
}

#[async_trait]
impl FollowerLog for PgLog {
    async fn apply_keeping(&self, records: &[Record], kept: &[Position]) -> Result<Head, ApplyError> {
        self.follower.apply(records, kept).await
    }

    async fn kept_ids(&self, first: Position, last: Position) -> Result<Vec<Position>, ReadError> {
        self.shared.reader.kept_ids(first, last).await
    }

    async fn change_role(&self, from: (Epoch, Role), to: (Epoch, Role)) -> Result<LogHead, ApplyError> {
        self.follower.change_role(from, to).await
    }
}
