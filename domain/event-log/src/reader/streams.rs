//! Reads of one stream, by version, and of the names of streams.

use domain::append::StreamHead;
use domain::log::{Direction, ReadError};
use domain::record::Record;
use domain::{StreamName, StreamVersion};
use sqlx::Row as _;
use sqlx::postgres::PgRow;

use super::page::{Page, after, gap};
use super::{Reader, Restarts, Stop, read_error, stream_head, with_partition};
use crate::rows::Values;

impl Reader {
    pub(crate) async fn read_stream(
        &self,
        stream: &StreamName,
        from: StreamVersion,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<Record>, ReadError> {
        let mut restarts = Restarts::default();
        loop {
            match self.stream_page(stream, from, direction, limit).await {
                Ok(records) => return Ok(records),
                Err(stop) => restarts.allow(stop)?,
            }
        }
    }

    async fn stream_page(
        &self,
        stream: &StreamName,
        from: StreamVersion,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<Record>, Stop> {
        let Some(head) = self.stream_head(stream).await? else { return Ok(Vec::new()) };
        let mut map = self.partitions.cached();
        if !map.head.includes(head.position) {
            map = self.partitions.load().await?;
        }
        let Some(newest) = map.holding(head.position) else { return Ok(Vec::new()) };
        // Where its first events are pruned, the oldest partition there is.
        let oldest = map.holding(head.first).unwrap_or(0);
        let (statement, mut next, indexes) = match direction {
            Direction::Forward => {
                (include_str!("../sql/stream_forward.sql"), Some(from), Vec::from_iter(oldest..=newest))
            }
            Direction::Backward => {
                let indexes = (oldest..=newest).rev().collect();
                (include_str!("../sql/stream_backward.sql"), Some(from.min(head.version)), indexes)
            }
        };
        let mut page: Page = Page::new(limit);
        for index in indexes {
            let Some(at) = next.filter(|_| !page.is_full()) else { break };
            let statement = with_partition(statement, &map.spans[index].table);
            let query = sqlx::query(&statement).bind(at.as_i64()).bind(page.rows_left()).bind(page.bytes_left());
            let read = query.bind(stream.category()).bind(stream.id()).fetch_all(&self.pool).await;
            for row in &self.unless_vanished(read).await? {
                next = after(page.push(&Values::read(row)?)?.version, direction);
            }
        }
        let whole = !map.pruned.includes(head.first);
        match gap(&page, from, direction, &head, whole) {
            Some(at) => Err(ReadError::Corrupt { reason: format!("{stream} has no row of version {at}") }.into()),
            None => Ok(page.gathered),
        }
    }

    pub(crate) async fn stream_head(&self, stream: &StreamName) -> Result<Option<StreamHead>, ReadError> {
        let query = sqlx::query(include_str!("../sql/stream_head.sql")).bind(stream.category()).bind(stream.id());
        let row = query.fetch_optional(&self.pool).await.map_err(read_error)?;
        row.as_ref().map(stream_head).transpose().map_err(read_error)
    }

    pub(crate) async fn streams(
        &self,
        category: &str,
        after: Option<&StreamName>,
        limit: usize,
    ) -> Result<Vec<(StreamName, StreamHead)>, ReadError> {
        let above = match after {
            Some(after) if after.category() == category => after.id(),
            // A name of another category is wholly below or wholly above this one's.
            Some(after) if after.as_str() > &*format!("{category}-") => return Ok(Vec::new()),
            Some(_) | None => "",
        };
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let query = sqlx::query(include_str!("../sql/streams.sql")).bind(category).bind(above).bind(limit);
        let rows = query.fetch_all(&self.pool).await.map_err(read_error)?;
        let named = |row: &PgRow| {
            let name = StreamName::of(category, row.try_get("id")?).map_err(|e| sqlx::Error::Decode(Box::new(e)))?;
            Ok((name, stream_head(row)?))
        };
        rows.iter().map(named).collect::<Result<_, sqlx::Error>>().map_err(read_error)
    }
}
