//! A search of the live log: PostgreSQL looks through a bounded range of positions of one partition, and only what matches
//! comes over the wire. What it does not send it has counted all the same, so a hole is never passed over.

use domain::filter::{Filter, SEARCH_POSITIONS_MAX, Searched, SearchedTo};
use domain::log::{Direction, ReadError};
use domain::{Epoch, Position};
use sqlx::Row as _;
use sqlx::postgres::PgRow;

use super::page::Page;
use super::{Reader, Restarts, Stop, hole, with_partition};
use crate::instant::Instant;
use crate::partitions::PartitionMap;
use crate::rows::{self, Values};

/// Positions that follow each other in one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    /// Where the search begins.
    from: Position,
    /// Where it ends at the latest; below `from` if it goes backward.
    end: Position,
}

impl Reader {
    pub(crate) async fn search_log(
        &self,
        from: Position,
        direction: Direction,
        filter: &Filter,
        limit: usize,
    ) -> Result<Searched, ReadError> {
        let mut restarts = Restarts::default();
        loop {
            match self.search_part(from, direction, filter, limit).await {
                Ok(found) => return Ok(found),
                Err(stop) => restarts.allow(stop)?,
            }
        }
    }

    async fn search_part(
        &self,
        from: Position,
        direction: Direction,
        filter: &Filter,
        limit: usize,
    ) -> Result<Searched, Stop> {
        let mut map = self.partitions.cached();
        if !map.head.includes(from) || map.holding(from).is_none() {
            map = self.partitions.load().await?;
        }
        if map.pruned.includes(from) {
            return Err(ReadError::Pruned { pruned: map.pruned }.into());
        }
        let begins = if direction == Direction::Backward { from.as_head().min(map.head).newest() } else { Some(from) };
        let Some(from) = begins.filter(|from| map.head.includes(*from)) else { return Ok(Searched::default()) };
        let index = map.holding(from).ok_or_else(|| hole(from))?;
        let range = Range::of(from, direction, &map, index);
        let page: Page = Page::new(limit);
        let statement = match direction {
            Direction::Forward => include_str!("../sql/search_forward.sql"),
            Direction::Backward => include_str!("../sql/search_backward.sql"),
        };
        let statement = statement.replace("{matches}", include_str!("../sql/matches.sql"));
        let statement = with_partition(&statement, &map.spans[index].table);
        let named = |values: &[String]| (!values.is_empty()).then(|| values.to_vec());
        let (recorded_from, recorded_before) = filter.recorded();
        let read = sqlx::query(&statement)
            .bind(range.from.min(range.end).as_i64())
            .bind(range.from.max(range.end).as_i64())
            .bind(page.rows_left())
            .bind(page.bytes_left())
            .bind(named(filter.categories()))
            .bind(named(filter.event_types()))
            .bind(named(filter.stream_prefixes()))
            .bind(recorded_from.map(Instant))
            .bind(recorded_before.map(Instant))
            .fetch_all(&self.pool)
            .await;
        found(&self.unless_vanished(read).await?, range, page)
    }
}

impl Range {
    /// From `from` on as far as one search goes, and no farther than the partition or what is known of the log.
    fn of(from: Position, direction: Direction, map: &PartitionMap, index: usize) -> Self {
        let beyond = u64::try_from(SEARCH_POSITIONS_MAX - 1).expect("a few thousand");
        let end = match direction {
            Direction::Forward => map.last(index).get().min(from.get() + beyond),
            Direction::Backward => map.spans[index].first.get().max(from.get().saturating_sub(beyond)),
        };
        Self { from, end: Position::new(end).unwrap_or(from) }
    }
}

/// What the rows of a range are, and that none is missing between those that match or after them.
fn found(rows: &[PgRow], range: Range, mut page: Page) -> Result<Searched, Stop> {
    let mut to = None;
    for row in rows {
        let position = rows::number(row, 0, Position::from_i64)?;
        let looked_at: i64 = row.try_get("looked_at")?;
        if u64::try_from(looked_at) != Ok(position.get().abs_diff(range.from.get()) + 1) {
            return Err(hole(position).into());
        }
        if row.try_get("matches")? {
            page.push(&Values::read(row)?)?;
        }
        let epoch = row.try_get::<Option<i64>, _>(4)?.and_then(Epoch::from_i64);
        to = Some(SearchedTo { position, epoch });
    }
    let last = to.map(|to| to.position);
    if !page.is_full() && last != Some(range.end) {
        return Err(hole(range.end).into());
    }
    Ok(Searched { records: page.gathered, to })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::partitions::Span;
    use domain::{Head, Timestamp};

    fn at(position: u64) -> Position {
        Position::new(position).expect("from 1")
    }

    #[test]
    fn a_search_stays_in_its_partition_and_below_the_head_and_within_its_bound() {
        let month = Timestamp::parse_rfc3339("2026-01-01T00:00:00Z").expect("an instant");
        let spans = [1, 101].map(|first| Span { month, table: "t".into(), first: at(first) });
        let mut map = PartitionMap::default();
        (map.spans, map.head) = (spans.into(), Head::new(20_000).expect("small"));
        let end = |from: u64, direction| {
            let index = map.holding(at(from)).expect("live");
            Range::of(at(from), direction, &map, index).end.get()
        };
        use Direction::{Backward, Forward};
        assert_eq!([1, 100, 101, 15_000].map(|from| end(from, Forward)), [100, 100, 8292, 20_000]);
        assert_eq!([100, 101, 8292, 8293, 20_000].map(|from| end(from, Backward)), [1, 101, 101, 102, 11_809]);
    }
}
