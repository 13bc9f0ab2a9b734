//! Which partition holds which positions, and their making. A partition's positions follow each other and so do the
//! partitions, because `recorded_at` never goes back with position. What the map says of a position stays true until
//! the partition is pruned; then the table is gone, and whoever reads it loads the map again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::{Head, Position, Timestamp};
use futures::future::try_join_all;
use sqlx::Row as _;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::instant::Instant;
use crate::session::{SERVER_LIMIT, silent};
use crate::sessions::Sessions;

/// Longer than the statement's own limit in these sessions and the wait for one of them: the server is gone without a word.
const MAKE_LIMIT: Duration = Duration::from_secs(90);
/// How many sessions make partitions at once. Each new partition syncs three index files; the waits overlap.
const MAKERS: usize = 4;

/// A partition that has events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) month: Timestamp,
    /// Name of the table, quoted, with its schema.
    pub(crate) table: Arc<str>,
    pub(crate) first: Position,
}

/// The partitions as they were at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct PartitionMap {
    /// With events, oldest first.
    pub(crate) spans: Vec<Span>,
    /// All that are attached: month and table.
    tables: BTreeMap<Timestamp, Arc<str>>,
    pub(crate) head: Head,
    pub(crate) pruned: Head,
}

impl PartitionMap {
    /// Index of the span that holds `position`: the newest one that does not begin after it.
    pub(crate) fn holding(&self, position: Position) -> Option<usize> {
        self.spans.partition_point(|span| span.first <= position).checked_sub(1)
    }

    /// Whether a span begins at `position`.
    pub(crate) fn begins_at(&self, position: Position) -> bool {
        self.spans.binary_search_by_key(&position, |span| span.first).is_ok()
    }

    /// The last position of the span; of the newest one, the newest position known.
    pub(crate) fn last(&self, index: usize) -> Head {
        self.spans.get(index + 1).map_or(self.head, |next| next.first.head_before())
    }

    /// The table for events of the month that starts at `month`.
    pub(crate) fn table(&self, month: Timestamp) -> Option<&Arc<str>> {
        self.tables.get(&month)
    }

    /// Whether the month's partition is known to have its first event.
    pub(crate) fn has_events(&self, month: Timestamp) -> bool {
        self.spans.binary_search_by_key(&month, |span| span.month).is_ok()
    }
}

/// The map, shared by all readers and writers of the process.
#[derive(Debug)]
pub(crate) struct Partitions {
    pool: Sessions,
    map: Mutex<Arc<PartitionMap>>,
    /// Months whose partition is being made ahead of the group that needs it.
    claimed: Mutex<BTreeSet<Timestamp>>,
    makers: Semaphore,
}

impl Partitions {
    pub(crate) fn new(pool: Sessions) -> Self {
        Self { pool, map: Mutex::default(), claimed: Mutex::default(), makers: Semaphore::new(MAKERS) }
    }

    /// The map as it was last loaded.
    pub(crate) fn cached(&self) -> Arc<PartitionMap> {
        Arc::clone(&self.lock())
    }

    /// The map as it is now.
    pub(crate) async fn load(&self) -> Result<Arc<PartitionMap>, sqlx::Error> {
        let rows = sqlx::query(include_str!("sql/partitions.sql")).fetch_all(&self.pool);
        let rows = timeout(SERVER_LIMIT, rows).await.unwrap_or_else(|_| Err(silent()))?;
        let mut map = PartitionMap::default();
        for row in rows {
            map.head = crate::rows::number(&row, 0, Head::from_i64)?;
            map.pruned = crate::rows::number(&row, 1, Head::from_i64)?;
            let Some(Instant(month)) = row.try_get(2)? else { continue };
            let table: Arc<str> = format!("coldstream.\"{}\"", row.try_get::<&str, _>(3)?.replace('"', "\"\"")).into();
            map.tables.insert(month, Arc::clone(&table));
            if let Some(first) = row.try_get::<Option<i64>, _>(4)?.and_then(Position::from_i64) {
                map.spans.push(Span { month, table, first });
            }
        }
        let map = Arc::new(map);
        *self.lock() = Arc::clone(&map);
        Ok(map)
    }

    /// Notes that a group of these months has moved the head, if all of them are known to have events: then the newest span
    /// is the newest still. `false` if not: the map has to be loaded.
    pub(crate) fn advanced(&self, head: Head, mut months: impl Iterator<Item = Timestamp>) -> bool {
        let mut map = self.lock();
        if !months.all(|month| map.has_events(month)) {
            return false;
        }
        let map = Arc::make_mut(&mut map);
        map.head = map.head.max(head);
        true
    }

    /// Makes the partitions of `months` (starts of UTC months) that are missing; some sessions at once.
    pub(crate) async fn make(&self, months: &[Timestamp]) -> Result<(), sqlx::Error> {
        let map = self.cached();
        let missing: Vec<Instant> =
            months.iter().filter(|month| map.table(**month).is_none()).map(|month| Instant(*month)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let share = missing.len().div_ceil(MAKERS);
        let statement = "SELECT coldstream.make_partitions($1)";
        let made =
            try_join_all(missing.chunks(share).map(|months| sqlx::query(statement).bind(months).execute(&self.pool)));
        timeout(MAKE_LIMIT, made).await.unwrap_or_else(|_| Err(silent()))?;
        self.load().await.map(drop)
    }

    /// Whether the month is to come, its partition is missing and nobody makes it: the caller then has to, by
    /// `make_claimed`.
    pub(crate) fn claim(&self, month: Timestamp) -> bool {
        let map = self.cached();
        map.table(month).is_none()
            && map.spans.last().is_none_or(|newest| newest.month < month)
            && self.claimed.lock().unwrap_or_else(PoisonError::into_inner).insert(month)
    }

    /// Makes the partition of a claimed month. If it fails, the group that needs it tries again and says why.
    pub(crate) async fn make_claimed(&self, month: Timestamp) {
        if let Ok(_turn) = self.makers.acquire().await
            && let Err(error) = self.make(&[month]).await
        {
            tracing::debug!(%error, %month, "a partition was not made ahead of its group");
        }
        self.claimed.lock().unwrap_or_else(PoisonError::into_inner).remove(&month);
    }

    fn lock(&self) -> MutexGuard<'_, Arc<PartitionMap>> {
        // The map is replaced whole: a panic elsewhere cannot leave half of one.
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn month(text: &str) -> Timestamp {
        Timestamp::parse_rfc3339(&format!("{text}-01T00:00:00Z")).expect("an instant")
    }

    fn at(position: u64) -> Position {
        Position::new(position).expect("from 1")
    }

    fn map() -> PartitionMap {
        let mut map = PartitionMap { head: Head::new(20).expect("small"), ..PartitionMap::default() };
        for (text, first) in [("2026-01", 4), ("2026-03", 9), ("2026-04", 0)] {
            let table: Arc<str> = text.into();
            map.tables.insert(month(text), Arc::clone(&table));
            if let Some(first) = Position::new(first) {
                map.spans.push(Span { month: month(text), table, first });
            }
        }
        map
    }

    #[test]
    fn a_position_is_in_the_newest_span_that_begins_at_or_before_it() {
        let map = map();
        assert_eq!([3, 4, 8, 9, 99].map(|p| map.holding(at(p))), [None, Some(0), Some(0), Some(1), Some(1)]);
        assert!(map.begins_at(at(9)) && !map.begins_at(at(8)));
        assert_eq!((map.last(0).get(), map.last(1).get()), (8, 20));
    }

    #[tokio::test]
    async fn a_group_that_begins_a_month_does_not_move_the_head_of_a_map_without_it() {
        let nowhere = crate::PgConfig { url: "postgres://127.0.0.1:1/none".into(), ..crate::PgConfig::default() };
        let partitions = Partitions::new(Sessions::of(&nowhere).expect("a url"));
        *partitions.lock() = Arc::new(map());
        let head = |n: i64| Head::from_i64(n).expect("a head");
        assert!(!partitions.advanced(head(30), [month("2026-03"), month("2026-04")].into_iter()));
        assert_eq!(partitions.cached().head, map().head);
        assert!(partitions.advanced(head(30), std::iter::once(month("2026-03"))));
        assert_eq!(partitions.cached().head, head(30));
    }

    #[test]
    fn a_partition_made_ahead_of_time_has_a_table_and_no_events() {
        let map = map();
        assert!(map.table(month("2026-04")).is_some() && !map.has_events(month("2026-04")));
        assert!(map.table(month("2026-05")).is_none());
    }
}
