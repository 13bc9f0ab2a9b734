//! Without a lock: one statement looks at the log, and one stores a group that was decided on what was seen, if the log
//! is still the same. The head is held for as long as that one statement runs, never while this process thinks.

use std::collections::{HashMap, HashSet};

use domain::append::StreamHead;
use domain::arbiter::EventKey;
use domain::{StreamName, Timestamp};
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{Postgres, Row as _};

use super::{Found, Group, HeadRow, NewId, Writer, head_row, uuid_of};
use crate::instant::Instant;
use crate::log::CLOCK_DIFFERENCE_MAX_SECONDS;
use crate::reader::with_partition;
use crate::rows::Values;

impl Writer {
    /// The head row as this session left it, and the heads of `streams`, if all of them are cached. Whether the log is
    /// still there is seen when something is stored.
    pub(crate) fn last_seen(
        &self,
        streams: &HashSet<&StreamName>,
    ) -> Option<(HeadRow, HashMap<StreamName, StreamHead>)> {
        let row = self.cached_for.as_ref()?;
        let all = streams.iter().all(|stream| self.cached.contains_key(*stream));
        all.then(|| (row.clone(), self.cached_heads(streams)))
    }

    /// Looks at the head, streams and ids, all as of one moment.
    pub(crate) async fn look(
        &mut self,
        streams: &HashSet<&StreamName>,
        keys: &[EventKey],
    ) -> Result<(HeadRow, Found), sqlx::Error> {
        let mut unknown: Vec<&StreamName> =
            streams.iter().copied().filter(|stream| !self.cached.contains_key(*stream)).collect();
        let mut rows = self.ask_all(&unknown, keys).await?;
        let mut row = head_of(&rows)?;
        self.believe(&row);
        if unknown.len() < streams.len() && self.cached.is_empty() {
            // What was cached is of another state of the log.
            unknown = streams.iter().copied().collect();
            rows = self.ask_all(&unknown, keys).await?;
            row = head_of(&rows)?;
        }
        self.cached_for = Some(row.clone());
        let mut found = Found::default();
        // The head comes with every row, and alone if nothing was found.
        rows.retain(|row| row.try_get::<Option<i16>, _>("what").is_ok_and(|what| what.is_some()));
        self.note(&rows, &unknown, keys, &[], &mut found)?;
        found.streams = self.cached_heads(streams);
        Ok((row, found))
    }

    async fn ask_all(&mut self, streams: &[&StreamName], keys: &[EventKey]) -> Result<Vec<PgRow>, sqlx::Error> {
        sqlx::query(include_str!("../sql/look.sql"))
            .bind(streams.iter().map(|stream| stream.category()).collect::<Vec<_>>())
            .bind(streams.iter().map(|stream| stream.id()).collect::<Vec<_>>())
            .bind(keys.iter().map(uuid_of).collect::<Vec<_>>())
            .fetch_all(&mut self.connection)
            .await
    }

    /// Whether [`Writer::store`] writes all that the group has to leave: it writes no tags and no heads of types.
    pub(crate) fn takes_at_once(&self, group: &Group<'_>) -> bool {
        !self.types.has_due(&group.rows)
    }

    /// Stores a group of one month that was decided on `seen` and at `now`, and commits it; `false`, and nothing is
    /// stored, if the log is another one by now or the clocks differ. `partition` has events already.
    ///
    /// # Errors
    /// An error of the server's: nothing is stored. Any other: it is in doubt, for as long as the session lives.
    pub(crate) async fn store(
        &mut self,
        group: &Group<'_>,
        partition: &str,
        seen: &HeadRow,
        now: Timestamp,
    ) -> Result<bool, sqlx::Error> {
        // Known again when it is stored.
        self.cached_for = None;
        let statement = with_partition(include_str!("../sql/store.sql"), partition);
        let streams: Vec<(&StreamName, &StreamHead)> = group.streams.iter().collect();
        let heads = |of: fn(&StreamHead) -> i64| streams.iter().map(|(_, head)| of(head)).collect::<Vec<_>>();
        let query = sqlx::query(&statement)
            .bind(group.head.as_i64())
            .bind(Instant(group.recorded_at))
            .bind(seen.head.head.as_i64())
            .bind(seen.head.epoch.as_i64())
            .bind(seen.incarnation)
            .bind(seen.head.pruned.as_i64())
            .bind(seen.simulated_now.map(Instant))
            .bind(Instant(now))
            .bind(CLOCK_DIFFERENCE_MAX_SECONDS)
            .bind(group.ids.iter().map(|id| uuid_of(&id.key)).collect::<Vec<_>>())
            .bind(group.ids.iter().map(|id| id.position.as_i64()).collect::<Vec<_>>())
            .bind(group.ids.iter().map(NewId::kept).collect::<Vec<_>>())
            .bind(streams.iter().map(|(stream, _)| stream.category()).collect::<Vec<_>>())
            .bind(streams.iter().map(|(stream, _)| stream.id()).collect::<Vec<_>>())
            .bind(heads(|head| head.version.as_i64()))
            .bind(heads(|head| head.position.as_i64()))
            .bind(heads(|head| head.first.as_i64()))
            .bind(streams.iter().map(|(_, head)| head.closed).collect::<Vec<_>>());
        let rows: Vec<Values<'_>> = group.rows.iter().map(Values::of).collect();
        // To the end: the reply that counts is the one after the commit.
        let answers = bind_rows(query, &rows).fetch_all(&mut self.connection).await?;
        let answer = answers.first().ok_or(sqlx::Error::RowNotFound)?;
        Ok(answer.try_get::<i64, _>("moved")? == 1)
    }
}

/// One array a column, in the order of `COLUMNS`.
fn bind_rows<'q>(query: Query<'q, Postgres, PgArguments>, rows: &'q [Values<'q>]) -> Query<'q, Postgres, PgArguments> {
    macro_rules! column {
        ($of:expr) => {
            rows.iter().map($of).collect::<Vec<_>>()
        };
    }
    query
        .bind(column!(|row| row.position))
        .bind(column!(|row| row.recorded_at))
        .bind(column!(|row| row.sequence))
        .bind(column!(|row| row.previous))
        .bind(column!(|row| row.epoch))
        .bind(column!(|row| row.bytes))
        .bind(column!(|row| row.data_kind))
        .bind(column!(|row| row.record_format))
        .bind(column!(|row| row.aggregate_type))
        .bind(column!(|row| row.aggregate_id))
        .bind(column!(|row| row.event_type))
        .bind(column!(|row| row.event_version))
        .bind(column!(|row| row.event_id))
        .bind(column!(|row| row.source))
        .bind(column!(|row| row.time))
        .bind(column!(|row| row.data_schema))
        .bind(column!(|row| row.data_content_type))
        .bind(column!(|row| row.metadata.as_ref()))
        .bind(column!(|row| row.payload.as_ref()))
}

fn head_of(rows: &[PgRow]) -> Result<HeadRow, sqlx::Error> {
    rows.first().ok_or(sqlx::Error::RowNotFound).and_then(head_row)
}
