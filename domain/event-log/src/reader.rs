//! Reads of the live log. A read names the partitions it needs and no other; a partition that vanishes meanwhile was
//! pruned, and the read starts again on a fresh map. Never returns a hole: it says `Corrupt`.

mod copied;
mod page;
mod past;
mod search;
mod streams;

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::sync::Arc;

use domain::append::{LogHead, Role, StreamHead};
use domain::arbiter::EventKey;
use domain::log::{Direction, ReadError};
use domain::record::{Lines, Record};
use domain::{Epoch, Head, Position, StreamVersion, Timestamp};
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use crate::error::{Trouble, chain, trouble};
use crate::instant::Instant;
use crate::partitions::{PartitionMap, Partitions};
use crate::rows::{self, COLUMNS, Values};
use crate::sessions::Sessions;
use copied::RowBytes;
use page::{Answer, Page, middle};
pub(crate) use past::LiveFrom;

/// How often a read starts again because a partition vanished. Each time one month was pruned.
const RESTARTS_MAX: usize = 5;
/// From so many rows on they come by COPY, which the server plans anew each time.
const COPIED_ROWS_MIN: i64 = 256;
const LOG_FORWARD: &str = include_str!("sql/log_forward.sql");

/// The readers of the process.
#[derive(Debug, Clone)]
pub(crate) struct Reader {
    pool: Sessions,
    partitions: Arc<Partitions>,
    row_bytes: Arc<RowBytes>,
}

/// Why a read has to start again, or failed.
enum Stop {
    Vanished,
    Failed(ReadError),
}

impl From<sqlx::Error> for Stop {
    fn from(error: sqlx::Error) -> Self {
        match trouble(&error) {
            Trouble::Gone => Self::Vanished,
            _ => Self::Failed(read_error(error)),
        }
    }
}

impl From<ReadError> for Stop {
    fn from(error: ReadError) -> Self {
        Self::Failed(error)
    }
}

/// What an error of the driver means for a read.
pub(crate) fn read_error(error: sqlx::Error) -> ReadError {
    let reason = chain(&error);
    match trouble(&error) {
        Trouble::Damage => ReadError::Corrupt { reason },
        _ => ReadError::Unavailable { reason },
    }
}

fn hole(at: Position) -> ReadError {
    ReadError::Corrupt { reason: format!("there is no row at position {at}, which the head covers") }
}

/// Counts how often a read has started again.
#[derive(Default)]
struct Restarts(usize);

impl Restarts {
    /// Lets the read start again, or gives the error that ends it.
    fn allow(&mut self, stop: Stop) -> Result<(), ReadError> {
        match stop {
            Stop::Failed(error) => Err(error),
            Stop::Vanished if self.0 == RESTARTS_MAX => {
                Err(ReadError::Unavailable { reason: "partitions are pruned faster than they are read".into() })
            }
            Stop::Vanished => {
                self.0 += 1;
                Ok(())
            }
        }
    }
}

impl Reader {
    pub(crate) fn new(pool: Sessions, partitions: Arc<Partitions>) -> Self {
        Self { pool, partitions, row_bytes: Arc::default() }
    }

    pub(crate) async fn log_head(&self) -> Result<LogHead, ReadError> {
        let row = sqlx::query(include_str!("sql/log_head.sql")).fetch_one(&self.pool).await.map_err(read_error)?;
        log_head(&row).map_err(read_error)
    }

    pub(crate) async fn read_log(
        &self,
        from: Position,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<Record>, ReadError> {
        let mut restarts = Restarts::default();
        loop {
            let read = match direction {
                Direction::Forward => self.log_forward(from, limit).await,
                Direction::Backward => self.log_backward(from, limit).await,
            };
            match read {
                Ok(records) => return Ok(records),
                Err(stop) => restarts.allow(stop)?,
            }
        }
    }

    /// As [`Reader::read_log`] forward, spelled as they are read.
    pub(crate) async fn read_lines(&self, from: Position, limit: usize) -> Result<Lines, ReadError> {
        let mut restarts = Restarts::default();
        loop {
            match self.log_forward(from, limit).await {
                Ok(lines) => return Ok(lines),
                Err(stop) => restarts.allow(stop)?,
            }
        }
    }

    async fn log_forward<G: Answer>(&self, from: Position, limit: usize) -> Result<G, Stop> {
        let mut page = Page::new(limit);
        let mut next = from;
        let mut map = self.partitions.cached();
        let mut fresh = false;
        loop {
            let before = next;
            if let Some(index) = map.holding(next) {
                next = self.take_forward(&map, index, next, &mut page).await?;
            }
            if page.is_full() {
                return Ok(page.gathered);
            }
            if next > before && map.begins_at(next) {
                continue;
            }
            if fresh && next == before {
                return Err(hole(next).into());
            }
            // The newest partition known is read to its end: is there a newer one, or more in this one?
            map = self.partitions.load().await?;
            fresh = true;
            if map.pruned.includes(next) {
                return Err(ReadError::Pruned { pruned: map.pruned }.into());
            }
            if !map.head.includes(next) {
                return Ok(page.gathered);
            }
        }
    }

    async fn log_backward(&self, from: Position, limit: usize) -> Result<Vec<Record>, Stop> {
        let mut page: Page = Page::new(limit);
        let mut map = self.partitions.cached();
        if !map.head.includes(from) || map.holding(from).is_none() {
            map = self.partitions.load().await?;
        }
        if map.pruned.includes(from) {
            return Err(ReadError::Pruned { pruned: map.pruned }.into());
        }
        let mut next = from.as_head().min(map.head);
        while let Some(at) = next.newest().filter(|at| !page.is_full() && !map.pruned.includes(*at)) {
            let Some(index) = map.holding(at) else { return Err(hole(at).into()) };
            for row in self.log_rows(include_str!("sql/log_backward.sql"), &map, index, at, &page).await? {
                let position = page.push(&Values::read(&row)?)?.position;
                if position.as_head() != next {
                    return Err(hole(at).into());
                }
                next = position.head_before();
            }
            if next == at.as_head() {
                return Err(hole(at).into());
            }
        }
        Ok(page.gathered)
    }

    /// Takes what one partition has from a position on; returns what comes after it.
    async fn take_forward<G: Answer>(
        &self,
        map: &PartitionMap,
        index: usize,
        from: Position,
        page: &mut Page<G>,
    ) -> Result<Position, Stop> {
        let mut next = from;
        let mut take = |page: &mut Page<G>, row: &Values<'_>| {
            if page.push(row)?.position != next {
                return Err(Stop::from(hole(next)));
            }
            next = next.next();
            Ok(())
        };
        let there = map.last(index).get().saturating_sub(from.get()).saturating_add(1);
        let there = i64::try_from(there).unwrap_or(i64::MAX).min(page.rows_left());
        if there >= COPIED_ROWS_MIN {
            let (rows, bytes) = (page.rows_left(), page.bytes());
            let counted = !self.row_bytes.are_few(rows, page.bytes_left());
            if !counted {
                page.make_room(there, self.row_bytes.of(there));
            }
            let statement = if counted { LOG_FORWARD } else { include_str!("sql/log_forward_uncounted.sql") };
            // COPY takes no parameters. All of them are numbers.
            let statement = with_partition(statement, &map.spans[index].table)
                .replace("$1", &from.to_string())
                .replace("$2", &rows.to_string())
                .replace("$3", &page.bytes_left().to_string());
            let statement = format!("COPY ({statement}) TO STDOUT (FORMAT binary)");
            let read = copied::rows(&self.pool, &statement, |row| {
                if page.is_full() {
                    return Ok(ControlFlow::Break(()));
                }
                take(page, row).map(ControlFlow::Continue)
            });
            let read = read.await;
            self.unless_vanished(read).await?;
            self.row_bytes.note(rows - page.rows_left(), page.bytes() - bytes);
        } else {
            for row in self.log_rows(LOG_FORWARD, map, index, from, page).await? {
                take(page, &Values::read(&row)?)?;
            }
        }
        Ok(next)
    }

    async fn log_rows<G: Answer>(
        &self,
        statement: &str,
        map: &PartitionMap,
        index: usize,
        from: Position,
        page: &Page<G>,
    ) -> Result<Vec<PgRow>, Stop> {
        let statement = with_partition(statement, &map.spans[index].table);
        let query = sqlx::query(&statement).bind(from.as_i64()).bind(page.rows_left()).bind(page.bytes_left());
        let read = query.fetch_all(&self.pool).await;
        self.unless_vanished(read).await
    }

    /// A partition that vanished makes the cached map useless: it is loaded before the read starts again.
    async fn unless_vanished<T>(&self, read: Result<T, impl Into<Stop>>) -> Result<T, Stop> {
        let stop = match read {
            Ok(answer) => return Ok(answer),
            Err(error) => error.into(),
        };
        if matches!(stop, Stop::Vanished) {
            self.partitions.load().await?;
        }
        Err(stop)
    }

    pub(crate) async fn find_event(&self, source: &str, id: &str) -> Result<Option<Position>, ReadError> {
        let key = Uuid::from_bytes(EventKey::of(source, id).0);
        let query = sqlx::query(include_str!("sql/find_event.sql")).bind(key);
        let row = query.fetch_optional(&self.pool).await.map_err(read_error)?;
        row.as_ref().map(|row| rows::number(row, 0, Position::from_i64)).transpose().map_err(read_error)
    }

    pub(crate) async fn head_as_of(&self, at: Timestamp) -> Result<Head, ReadError> {
        let mut restarts = Restarts::default();
        loop {
            match self.count_until(at).await {
                Ok(head) => return Ok(head),
                Err(stop) => restarts.allow(stop)?,
            }
        }
    }

    async fn count_until(&self, at: Timestamp) -> Result<Head, Stop> {
        let map = self.partitions.load().await?;
        let index = map.spans.partition_point(|span| span.month <= at).checked_sub(1);
        let counted = match index {
            None => map.spans.first().map_or(map.head, |span| span.first.head_before()),
            Some(index) => self.search(&map, index, at).await?,
        };
        // What was recorded up to the pruned head is not here to be asked.
        if counted == map.pruned && map.pruned != Head::EMPTY {
            return Err(ReadError::Pruned { pruned: map.pruned }.into());
        }
        Ok(counted)
    }

    /// Binary search in one partition: `recorded_at` never goes back with position, so it needs no index of its own.
    async fn search(&self, map: &PartitionMap, index: usize, at: Timestamp) -> Result<Head, Stop> {
        let statement =
            with_partition("SELECT recorded_at FROM {partition} WHERE position = $1", &map.spans[index].table);
        let mut known = map.spans[index].first.head_before();
        let mut beyond = map.last(index).next();
        while let Some(probe) = middle(known, beyond) {
            let row = sqlx::query(&statement).bind(probe.as_i64()).fetch_optional(&self.pool).await;
            let Some(row) = self.unless_vanished(row).await? else { return Err(hole(probe).into()) };
            let Instant(recorded_at) = row.try_get(0)?;
            if recorded_at <= at {
                known = probe.as_head();
            } else {
                beyond = probe;
            }
        }
        Ok(known)
    }

    /// Length of what was appended, by position. Positions that are not live any more are left out.
    pub(crate) async fn bytes_at(&self, positions: &[Position]) -> Result<HashMap<Position, usize>, ReadError> {
        let mut restarts = Restarts::default();
        loop {
            match self.measure(positions).await {
                Ok(bytes) => return Ok(bytes),
                Err(stop) => restarts.allow(stop)?,
            }
        }
    }

    async fn measure(&self, positions: &[Position]) -> Result<HashMap<Position, usize>, Stop> {
        let (map, wanted) = self.spread(positions).await?;
        let mut found = HashMap::new();
        for (index, positions) in wanted {
            let statement = "SELECT position, bytes FROM {partition} WHERE position = ANY ($1)";
            let statement = with_partition(statement, &map.spans[index].table);
            let read = sqlx::query(&statement).bind(positions).fetch_all(&self.pool).await;
            for row in &self.unless_vanished(read).await? {
                let bytes: i32 = row.try_get(1)?;
                found.insert(rows::number(row, 0, Position::from_i64)?, usize::try_from(bytes).unwrap_or(0));
            }
        }
        Ok(found)
    }

    /// Which of these positions have ids that are kept for ever.
    pub(crate) async fn kept_ids(&self, first: Position, last: Position) -> Result<Vec<Position>, ReadError> {
        let query = sqlx::query(include_str!("sql/kept_ids.sql")).bind(first.as_i64()).bind(last.as_i64());
        let rows = query.fetch_all(&self.pool).await.map_err(read_error)?;
        let positions = rows.iter().map(|row| rows::number(row, 0, Position::from_i64));
        positions.collect::<Result<_, sqlx::Error>>().map_err(read_error)
    }

    /// Which positions are in which partition.
    async fn spread(&self, positions: &[Position]) -> Result<(Arc<PartitionMap>, BTreeMap<usize, Vec<i64>>), Stop> {
        let mut map = self.partitions.cached();
        if positions.iter().any(|position| !map.head.includes(*position)) {
            map = self.partitions.load().await?;
        }
        let mut wanted: BTreeMap<usize, Vec<i64>> = BTreeMap::new();
        for position in positions {
            if let Some(index) = map.holding(*position) {
                wanted.entry(index).or_default().push(position.as_i64());
            }
        }
        Ok((map, wanted))
    }

    /// The records at `positions`. Those that are not live any more are left out.
    pub(crate) async fn at_positions(&self, positions: &[Position]) -> Result<HashMap<Position, Record>, ReadError> {
        let mut restarts = Restarts::default();
        loop {
            match self.pick(positions).await {
                Ok(records) => return Ok(records),
                Err(stop) => restarts.allow(stop)?,
            }
        }
    }

    async fn pick(&self, positions: &[Position]) -> Result<HashMap<Position, Record>, Stop> {
        let (map, wanted) = self.spread(positions).await?;
        let mut found = HashMap::new();
        for (index, positions) in wanted {
            let statement = with_partition(include_str!("sql/at_positions.sql"), &map.spans[index].table);
            let read = sqlx::query(&statement).bind(positions).fetch_all(&self.pool).await;
            for row in &self.unless_vanished(read).await? {
                let record = Values::read(row)?.record()?;
                found.insert(record.position(), record);
            }
        }
        // What the map knows of is there, or its table is gone: anything else is a hole.
        let mut live = positions.iter().filter(|at| map.holding(**at).is_some());
        match live.find(|at| !found.contains_key(*at)) {
            Some(at) => Err(hole(*at).into()),
            None => Ok(found),
        }
    }
}

pub(crate) fn with_partition(statement: &str, table: &str) -> String {
    statement.replace("{columns}", COLUMNS).replace("{partition}", table)
}

/// A row of log_head.sql.
fn log_head(row: &PgRow) -> Result<LogHead, sqlx::Error> {
    Ok(LogHead {
        head: rows::number(row, "position", Head::from_i64)?,
        recorded_at: row.try_get::<Instant, _>("recorded_at")?.0,
        epoch: rows::number(row, "epoch", Epoch::from_i64)?,
        role: role(row.try_get("role")?)?,
        pruned: rows::number(row, "pruned", Head::from_i64)?,
        log_id: row.try_get("log_id")?,
        simulated: row.try_get("simulated")?,
    })
}

pub(crate) fn role(word: &str) -> Result<Role, sqlx::Error> {
    Role::parse(word).ok_or_else(|| sqlx::Error::Decode(format!("{word:?} is no role").into()))
}

pub(crate) fn stream_head(row: &PgRow) -> Result<StreamHead, sqlx::Error> {
    Ok(StreamHead {
        version: rows::number(row, "version", StreamVersion::from_i64)?,
        position: rows::number(row, "position", Position::from_i64)?,
        first: rows::number(row, "first_position", Position::from_i64)?,
        closed: row.try_get("closed")?,
    })
}
