//! The database that postgres-es writes: one connection, one snapshot at a time, rows one by one. It only reads.

use std::str::FromStr;

use domain::append::EVENT_BYTES_MAX;
use domain::event::ATTRIBUTE_BYTES_MAX;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgRow};
use sqlx::{ConnectOptions, Connection, Row as _};

use super::row::Row;
use super::snapshots::SnapshotRow;
use super::survey::{BAD_ROWS_NAMED, BadRow, StreamSummary, Streams};
use super::{Order, PostgresEsError, PostgresEsTables};
use crate::config::SecretUrl;

/// JSON of this length may still be an event, once the white space between its tokens is gone.
const JSON_BYTES_MAX: usize = 2 * EVENT_BYTES_MAX;

/// The rows of a statement, as they come: none is kept here.
pub(super) type Rows<'a> = BoxStream<'a, Result<PgRow, sqlx::Error>>;

/// An open source.
pub(super) struct Source {
    connection: PgConnection,
    by_stream: String,
    in_order: String,
    /// If there is a table of snapshots.
    snapshots: Option<SnapshotStatements>,
}

/// How many snapshots there are, those whose event is not there, and the newest of each aggregate.
struct SnapshotStatements {
    count: String,
    ahead: String,
    newest: String,
}

impl Source {
    /// Connects, and looks whether the tables are there.
    pub(super) async fn open(
        url: &SecretUrl,
        tables: &PostgresEsTables,
        order: &Order,
    ) -> Result<Self, PostgresEsError> {
        let options = PgConnectOptions::from_str(url.reveal()).map_err(failed("reading its URL"))?;
        let options = options.application_name("coldstream import").disable_statement_logging();
        let mut connection = PgConnection::connect_with(&options).await.map_err(failed("connecting to it"))?;
        for table in [Some(&tables.events), tables.snapshots.as_ref()].into_iter().flatten() {
            let there = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL").bind(quoted(table));
            if !there.fetch_one(&mut connection).await.map_err(failed("looking for its tables"))? {
                return Err(PostgresEsError::NoTable { table: table.clone() });
            }
        }
        let in_order = match order {
            Order::Time { .. } => include_str!("by_time.sql"),
            Order::Sequence => include_str!("by_sequence.sql"),
        };
        let filled = |statement| fill(statement, tables, order);
        let snapshots = tables.snapshots.as_ref();
        Ok(Self {
            connection,
            by_stream: filled(include_str!("by_stream.sql")),
            in_order: filled(in_order),
            snapshots: snapshots.map(|_| SnapshotStatements {
                count: filled(include_str!("snapshots.sql")),
                ahead: filled(include_str!("snapshots_ahead.sql")),
                newest: filled(include_str!("snapshots_newest.sql")),
            }),
        })
    }

    /// From here to [`Source::end_snapshot`] everything is read as it is now.
    pub(super) async fn begin_snapshot(&mut self) -> Result<(), PostgresEsError> {
        let begun = sqlx::raw_sql(include_str!("begin.sql")).execute(&mut self.connection).await;
        begun.map(drop).map_err(failed("beginning to read"))
    }

    pub(super) async fn end_snapshot(&mut self) -> Result<(), PostgresEsError> {
        sqlx::raw_sql("COMMIT").execute(&mut self.connection).await.map(drop).map_err(failed("ending to read"))
    }

    /// All rows, stream by stream.
    pub(super) fn by_stream(&mut self) -> Rows<'_> {
        sqlx::query(&self.by_stream).persistent(false).fetch(&mut self.connection).boxed()
    }

    /// All rows but the first `done`, in the order of the import.
    pub(super) fn in_order(&mut self, done: u64) -> Rows<'_> {
        // No table has more rows than this type holds.
        let done = i64::try_from(done).unwrap_or(i64::MAX);
        sqlx::query(&self.in_order).bind(done).persistent(false).fetch(&mut self.connection).boxed()
    }

    /// How many snapshots there are, and the first of those whose event is not there.
    pub(super) async fn snapshots(&mut self) -> Result<(u64, Vec<BadRow>), PostgresEsError> {
        let Some(SnapshotStatements { count, ahead, .. }) = &self.snapshots else { return Ok((0, Vec::new())) };
        let reading = failed("reading its snapshots");
        let read = async {
            let count: i64 = sqlx::query_scalar(count).fetch_one(&mut self.connection).await?;
            let named = i64::try_from(BAD_ROWS_NAMED).unwrap_or(i64::MAX);
            let rows = sqlx::query(ahead).bind(named).fetch_all(&mut self.connection).await?;
            let ahead = rows.iter().map(snapshot_ahead).collect::<Result<_, sqlx::Error>>()?;
            // A count is never negative.
            Ok((u64::try_from(count).unwrap_or(0), ahead))
        };
        read.await.map_err(reading)
    }

    /// The newest snapshot of each aggregate.
    pub(super) fn newest_snapshots(&mut self) -> BoxStream<'_, Result<SnapshotRow, PostgresEsError>> {
        let Some(SnapshotStatements { newest, .. }) = &self.snapshots else { return futures::stream::empty().boxed() };
        let rows = sqlx::query(newest).persistent(false).fetch(&mut self.connection);
        rows.map(|row| row.and_then(|row| snapshot_row(&row)).map_err(failed("reading its snapshots"))).boxed()
    }

    pub(super) async fn close(self) {
        // It only read: whatever goes wrong now has no consequence.
        drop(self.connection.close().await);
    }
}

/// The next streams of rows that come stream by stream, up to `at_most`; empty at the end.
pub(super) async fn next_streams(
    rows: &mut Rows<'_>,
    streams: &mut Streams<'_>,
    at_most: usize,
) -> Result<Vec<StreamSummary>, PostgresEsError> {
    let mut ended = Vec::new();
    while ended.len() < at_most {
        match next_row(rows).await? {
            Some(row) => ended.extend(streams.take(&row.0)),
            None => {
                ended.extend(streams.finish());
                break;
            }
        }
    }
    Ok(ended)
}

/// The next row, and its place in time where the order is one of times.
pub(super) async fn next_row(rows: &mut Rows<'_>) -> Result<Option<(Row, Option<i64>)>, PostgresEsError> {
    let row = rows.try_next().await.map_err(failed("reading its events"))?;
    let read = |row: PgRow| Ok((Row::of(&row)?, row.try_get("place").ok().flatten()));
    row.map(read).transpose().map_err(failed("reading its events"))
}

fn snapshot_row(row: &PgRow) -> Result<SnapshotRow, sqlx::Error> {
    Ok(SnapshotRow {
        aggregate_type: row.try_get("aggregate_type")?,
        aggregate_id: row.try_get("aggregate_id")?,
        last_sequence: row.try_get("last_sequence")?,
        current_snapshot: row.try_get("current_snapshot")?,
        payload: row.try_get("payload")?,
    })
}

fn snapshot_ahead(row: &PgRow) -> Result<BadRow, sqlx::Error> {
    Ok(BadRow {
        aggregate_type: row.try_get("aggregate_type")?,
        aggregate_id: row.try_get("aggregate_id")?,
        sequence: row.try_get("last_sequence")?,
        reason: "a snapshot is of it, and the event is not there: the state is all that is left of some events".into(),
    })
}

fn failed(doing: &'static str) -> impl FnOnce(sqlx::Error) -> PostgresEsError {
    move |source| PostgresEsError::Source { doing, source }
}

fn fill(statement: &str, tables: &PostgresEsTables, order: &Order) -> String {
    let time = match order {
        // A time that is none (infinity) is as good as no time: the row is named. Without a zone, UTC is meant.
        Order::Time { column } => {
            let column = quoted(column);
            format!("(CASE WHEN isfinite({column}) THEN extract(epoch FROM {column}) * 1000000 END)::bigint")
        }
        Order::Sequence => "NULL::bigint".to_owned(),
    };
    statement
        .replace("{columns}", include_str!("columns.sql"))
        .replace("{time}", &time)
        .replace("{events}", &quoted(&tables.events))
        .replace("{snapshots}", &tables.snapshots.as_deref().map(quoted).unwrap_or_default())
        .replace("{attribute_chars}", &(ATTRIBUTE_BYTES_MAX + 1).to_string())
        .replace("{json_bytes}", &JSON_BYTES_MAX.to_string())
}

/// A name as SQL: `events`, or `schema.events`, each part exactly as it is spelled.
fn quoted(name: &str) -> String {
    name.split('.').map(|part| format!("\"{}\"", part.replace('"', "\"\""))).collect::<Vec<_>>().join(".")
}
