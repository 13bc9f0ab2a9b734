//! One writing session: locks the head, looks up what a decision needs, writes a decided group. Appender and follower
//! share it, so an event is written the same way wherever it comes from. It decides nothing. Between [`Writer::lock`] and
//! [`Writer::commit`] everything is one transaction; what stores a small group without a lock is in `optimistic`.

mod optimistic;

use std::collections::{HashMap, HashSet};

use domain::append::{KeepIds, LogHead, StreamHead};
use domain::arbiter::EventKey;
use domain::{Epoch, Head, Position, StreamName, Timestamp};
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Executor as _, Row as _};
use uuid::Uuid;

use crate::durable::COMMIT_SOMETHING;
use crate::instant::{Instant, from_micros};
use crate::partitions::PartitionMap;
use crate::reader::{role, stream_head};
use crate::rows::{self, COLUMNS, CopyBody, NewRow, RowArray, RowTypes, SpelledRows};
use crate::session::Backend;
use crate::tags::TypeHeads;

/// Heads of streams that are kept in memory, some hundred bytes each.
const CACHED_STREAMS_MAX: usize = 100_000;
/// COPY sends pieces of this size: the driver keeps a buffer as large as the largest piece.
const COPY_PIECE_BYTES: usize = 256 << 10;

/// The head row, as it was read.
#[derive(Debug, Clone)]
pub(crate) struct HeadRow {
    pub(crate) head: LogHead,
    pub(crate) incarnation: Uuid,
    /// Now, in a log with simulated time.
    pub(crate) simulated_now: Option<Timestamp>,
    /// The server's clock when the row was read.
    pub(crate) database_now: Timestamp,
}

impl HeadRow {
    /// Whether the streams' heads are the same with both: any other writer, a promotion or a restored database is seen.
    fn is_same_log(&self, other: &Self) -> bool {
        let key = |row: &Self| (row.head.head, row.head.epoch, row.head.role, row.incarnation);
        key(self) == key(other)
    }

    /// The row as a group leaves it.
    fn after(&self, head: Head, recorded_at: Timestamp) -> Self {
        let mut after = self.clone();
        (after.head.head, after.head.recorded_at) = (head, recorded_at);
        after
    }
}

/// What the lookup found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) streams: HashMap<StreamName, StreamHead>,
    pub(crate) known: HashMap<EventKey, Position>,
    pub(crate) checkpoints: HashMap<String, u64>,
}

/// A row of event_ids.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewId {
    pub(crate) key: EventKey,
    pub(crate) position: Position,
    pub(crate) keep: KeepIds,
}

impl NewId {
    /// The column that says so: NULL for what is forgotten with its month.
    fn kept(&self) -> Option<bool> {
        (self.keep == KeepIds::ForEver).then_some(true)
    }
}

/// In the order of their keys: neighbours share pages of the index, which a log of many months does not have in memory.
pub(crate) fn in_order(ids: impl Iterator<Item = NewId>) -> Vec<NewId> {
    let mut ids: Vec<NewId> = ids.collect();
    ids.sort_unstable_by_key(|id| id.key);
    ids
}

/// What is known of a group's ids before they are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ids {
    /// Nothing: one that is there refuses the group.
    New,
    /// None is known. A row that is there is of a pruned position and not kept, and gives way.
    LookedUp,
}

impl Ids {
    /// The server looks each id up once more where a row may give way.
    fn where_one_is_there(self) -> &'static str {
        match self {
            Self::New => "",
            Self::LookedUp => "ON CONFLICT (id_hash) DO UPDATE SET position = EXCLUDED.position, kept = EXCLUDED.kept",
        }
    }
}

/// A decided group.
#[derive(Debug)]
pub(crate) struct Group<'a> {
    /// In position order; not empty.
    pub(crate) rows: Vec<NewRow<'a>>,
    /// Made by [`in_order`].
    pub(crate) ids: Vec<NewId>,
    pub(crate) streams: &'a HashMap<StreamName, StreamHead>,
    pub(crate) checkpoints: &'a HashMap<String, u64>,
    pub(crate) head: Head,
    pub(crate) recorded_at: Timestamp,
}

impl Group<'_> {
    /// The months of its rows with the first position in each. `recorded_at` never goes back, so each is one run.
    pub(crate) fn months(&self) -> Vec<(Timestamp, Position)> {
        let mut months: Vec<(Timestamp, Position)> = Vec::new();
        // A month's start is asked for once an instant, not once a row: a group has few.
        let mut before = None;
        for row in &self.rows {
            if before.replace(row.recorded_at) == Some(row.recorded_at) {
                continue;
            }
            let month = row.recorded_at.month_start();
            if months.last().is_none_or(|(last, _)| *last != month) {
                months.push((month, row.position));
            }
        }
        months
    }

    /// Its rows of event_ids.
    fn ids_array(&self, types: &RowTypes) -> RowArray {
        RowArray::of(types.event_ids, &self.ids, |id, fields| {
            fields.uuid(&id.key.0);
            fields.int8(id.position.as_i64());
            fields.bool(id.kept());
        })
    }

    /// Its rows of streams.
    fn heads_array(&self, types: &RowTypes) -> RowArray {
        let heads: Vec<(&StreamName, &StreamHead)> = self.streams.iter().collect();
        RowArray::of(types.streams, &heads, |(stream, head), fields| {
            fields.text(stream.category());
            fields.text(stream.id());
            fields.int8(head.version.as_i64());
            fields.int8(head.position.as_i64());
            fields.int8(head.first.as_i64());
            fields.bool(Some(head.closed));
        })
    }
}

/// A session that writes. Dropped whenever it is not known in which state the server has it.
pub(crate) struct Writer {
    connection: PgConnection,
    cached: HashMap<StreamName, Option<StreamHead>>,
    /// The head row that the cached heads belong to.
    cached_for: Option<HeadRow>,
    types: TypeHeads,
    /// Known after the first group: a session does not see them change.
    row_types: Option<RowTypes>,
    backend: Backend,
}

impl Writer {
    pub(crate) fn new(connection: PgConnection, backend: Backend) -> Self {
        Self {
            connection,
            cached: HashMap::new(),
            cached_for: None,
            types: TypeHeads::default(),
            row_types: None,
            backend,
        }
    }

    /// The session as the server knows it.
    pub(crate) fn backend(&self) -> Backend {
        self.backend
    }

    /// Begins a transaction and takes the head: the log stands still for all writers until it ends.
    pub(crate) async fn lock(&mut self) -> Result<HeadRow, sqlx::Error> {
        let row = self.connection.fetch_one(include_str!("sql/lock_head.sql")).await?;
        let locked = head_row(&row)?;
        self.believe(&locked);
        self.cached_for = None;
        Ok(locked)
    }

    /// Forgets the cached heads, if they are of another state of the log than `row`, or too many.
    fn believe(&mut self, row: &HeadRow) {
        let valid = self.cached_for.as_ref().is_some_and(|of| of.is_same_log(row));
        if !valid || self.cached.len() > CACHED_STREAMS_MAX {
            self.cached.clear();
        }
    }

    /// Looks up streams, ids and consumers under the lock; streams that are cached are not asked for again.
    pub(crate) async fn look_up(
        &mut self,
        streams: &HashSet<&StreamName>,
        keys: &[EventKey],
        consumers: &HashSet<&str>,
        pruned: Head,
    ) -> Result<Found, sqlx::Error> {
        let unknown: Vec<&StreamName> =
            streams.iter().copied().filter(|stream| !self.cached.contains_key(*stream)).collect();
        let consumers: Vec<&str> = consumers.iter().copied().collect();
        let mut found = Found::default();
        if !(unknown.is_empty() && keys.is_empty() && consumers.is_empty()) {
            self.ask(&unknown, keys, &consumers, pruned, &mut found).await?;
        }
        found.streams = self.cached_heads(streams);
        Ok(found)
    }

    /// The heads of those of `streams` that are known to have one.
    fn cached_heads(&self, streams: &HashSet<&StreamName>) -> HashMap<StreamName, StreamHead> {
        let head =
            |stream: &&StreamName| self.cached.get(*stream).copied().flatten().map(|head| ((*stream).clone(), head));
        streams.iter().filter_map(head).collect()
    }

    async fn ask(
        &mut self,
        streams: &[&StreamName],
        keys: &[EventKey],
        consumers: &[&str],
        pruned: Head,
        found: &mut Found,
    ) -> Result<(), sqlx::Error> {
        let rows = sqlx::query(include_str!("sql/lookup.sql"))
            .bind(streams.iter().map(|stream| stream.category()).collect::<Vec<_>>())
            .bind(streams.iter().map(|stream| stream.id()).collect::<Vec<_>>())
            .bind(keys.iter().map(uuid_of).collect::<Vec<_>>())
            .bind(pruned.as_i64())
            .bind(consumers)
            .fetch_all(&mut self.connection)
            .await?;
        self.note(&rows, streams, keys, consumers, found)
    }

    /// Takes over what a look-up found of what it was asked for.
    fn note(
        &mut self,
        rows: &[PgRow],
        streams: &[&StreamName],
        keys: &[EventKey],
        consumers: &[&str],
        found: &mut Found,
    ) -> Result<(), sqlx::Error> {
        self.cached.extend(streams.iter().map(|stream| ((*stream).clone(), None)));
        for row in rows {
            let index = usize::try_from(row.try_get::<i64, _>("ord")? - 1)
                .map_err(|_| sqlx::Error::Decode("WITH ORDINALITY counts from 1".into()))?;
            match row.try_get::<i16, _>("what")? {
                0 => drop(self.cached.insert(streams[index].clone(), Some(stream_head(row)?))),
                1 => drop(found.known.insert(keys[index], rows::number(row, "position", Position::from_i64)?)),
                _ => {
                    let checkpoint = rows::number(row, "position", |n| u64::try_from(n).ok())?;
                    found.checkpoints.insert(consumers[index].to_owned(), checkpoint);
                }
            }
        }
        Ok(())
    }

    /// Writes a group into the transaction. `spelled` has the content of its rows, `map` the tables of all its months.
    pub(crate) async fn write(
        &mut self,
        group: &Group<'_>,
        spelled: &SpelledRows,
        map: &PartitionMap,
        ids: Ids,
    ) -> Result<(), sqlx::Error> {
        let months = group.months();
        let table = match months.as_slice() {
            // Straight into the partition: no routing, and a lock on one table.
            [(month, _)] => map.table(*month).map_or("coldstream.events", |table| table),
            _ => "coldstream.events",
        };
        // Rows before heads: a refusal of data comes before anything else is touched, and costs the least.
        let statement = format!("COPY {table} ({COLUMNS}) FROM STDIN (FORMAT binary)");
        let mut copy = self.connection.copy_in_raw(&statement).await?;
        let mut body = CopyBody::of(&group.rows, spelled);
        while let Some(piece) = body.next(COPY_PIECE_BYTES) {
            for piece in piece.chunks(COPY_PIECE_BYTES) {
                copy.send(piece).await?;
            }
        }
        copy.finish().await?;
        self.types.write(&mut self.connection, &group.rows).await?;

        let begun: Vec<&(Timestamp, Position)> = months.iter().filter(|(month, _)| !map.has_events(*month)).collect();
        let row_types = self.row_types().await?;
        let statement = include_str!("sql/write_heads.sql").replace("{where_an_id_is_there}", ids.where_one_is_there());
        let written = sqlx::query(&statement)
            .bind(group.ids_array(&row_types))
            .bind(group.heads_array(&row_types))
            .bind(group.checkpoints.keys().map(String::as_str).collect::<Vec<_>>())
            .bind(group.checkpoints.values().map(|at| i64::try_from(*at).unwrap_or(i64::MAX)).collect::<Vec<_>>())
            .bind(begun.iter().map(|(month, _)| Instant(*month)).collect::<Vec<_>>())
            .bind(begun.iter().map(|(_, first)| first.as_i64()).collect::<Vec<_>>())
            .bind(group.head.as_i64())
            .bind(Instant(group.recorded_at))
            .execute(&mut self.connection)
            .await?;
        if written.rows_affected() == 1 { Ok(()) } else { Err(sqlx::Error::RowNotFound) }
    }

    async fn row_types(&mut self) -> Result<RowTypes, sqlx::Error> {
        if let Some(known) = self.row_types {
            return Ok(known);
        }
        RowTypes::of(&mut self.connection).await.inspect(|types| self.row_types = Some(*types))
    }

    /// Commits. From an error on, it is in doubt.
    pub(crate) async fn commit(&mut self) -> Result<(), sqlx::Error> {
        self.connection.execute("COMMIT").await.map(drop)?;
        self.types.committed();
        Ok(())
    }

    /// Ends the transaction without its changes and lets go of the head.
    pub(crate) async fn roll_back(&mut self) -> Result<(), sqlx::Error> {
        self.connection.execute("ROLLBACK").await.map(drop)
    }

    /// Keeps the streams' heads for the next group, which finds them valid if nobody else has moved the log.
    pub(crate) fn remember(
        &mut self,
        before: &HeadRow,
        head: Head,
        recorded_at: Timestamp,
        moved: &HashMap<StreamName, StreamHead>,
    ) {
        self.cached.extend(moved.iter().map(|(stream, head)| (stream.clone(), Some(*head))));
        self.cached_for = Some(before.after(head, recorded_at));
    }

    /// Commits something that changes nothing: whatever was committed before it is as durable then, with the standbys that
    /// a commit waits for too.
    pub(crate) async fn commit_something(&mut self) -> Result<(), sqlx::Error> {
        self.connection.execute(COMMIT_SOMETHING).await.map(drop)
    }

    /// Ends another session of this role's; `false` if it is gone. One that waits for a synchronous standby is let alone: its
    /// commit would be seen at once, and lost with this server.
    pub(crate) async fn end_session(&mut self, session: Backend) -> Result<bool, sqlx::Error> {
        let query = sqlx::query(include_str!("sql/end_session.sql")).bind(session.pid).bind(session.started);
        query.fetch_optional(&mut self.connection).await.map(|row| row.is_some())
    }

    pub(crate) fn connection(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}

pub(crate) fn uuid_of(key: &EventKey) -> Uuid {
    Uuid::from_bytes(key.0)
}

/// A row of lock_head.sql or look.sql.
fn head_row(row: &PgRow) -> Result<HeadRow, sqlx::Error> {
    let simulated_now = row.try_get::<Option<i64>, _>("simulated_micros")?.map(from_micros).transpose()?;
    Ok(HeadRow {
        head: LogHead {
            head: rows::number(row, "head", Head::from_i64)?,
            recorded_at: from_micros(row.try_get("recorded_micros")?)?,
            epoch: rows::number(row, "epoch", Epoch::from_i64)?,
            role: role(row.try_get("role")?)?,
            pruned: rows::number(row, "pruned", Head::from_i64)?,
            log_id: row.try_get("log_id")?,
            simulated: simulated_now.is_some(),
        },
        incarnation: row.try_get("incarnation")?,
        simulated_now,
        database_now: from_micros(row.try_get("database_micros")?)?,
    })
}
