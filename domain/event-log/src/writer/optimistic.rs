//! Without a lock: one statement looks at the log, and one stores a group that was decided on what was seen, if the log
//! is still the same. The head is held for as long as that one statement runs, never while this process thinks.

use std::collections::{HashMap, HashSet};

use domain::append::StreamHead;
use domain::arbiter::EventKey;
use domain::{StreamName, Timestamp};
use sqlx::Row as _;
use sqlx::postgres::PgRow;

use super::{Found, Group, HeadRow, Writer, head_row, uuid_of};
use crate::instant::Instant;
use crate::log::CLOCK_DIFFERENCE_MAX_SECONDS;
use crate::reader::with_partition;
use crate::rows::RowArray;

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
        let row_types = self.row_types().await?;
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
            .bind(group.ids_array(&row_types))
            .bind(group.heads_array(&row_types))
            .bind(RowArray::events(row_types.events, &group.rows));
        // To the end: the reply that counts is the one after the commit.
        let answers = query.fetch_all(&mut self.connection).await?;
        let answer = answers.first().ok_or(sqlx::Error::RowNotFound)?;
        Ok(answer.try_get::<i64, _>("moved")? == 1)
    }
}

fn head_of(rows: &[PgRow]) -> Result<HeadRow, sqlx::Error> {
    rows.first().ok_or(sqlx::Error::RowNotFound).and_then(head_row)
}
