//! Where retries of long ago would stand: all of a group's, in one query a partition.

use domain::arbiter::PastRequest;
use domain::log::ReadError;
use domain::{Position, StreamVersion};
use sqlx::Row as _;

use super::{Reader, Restarts, Stop};
use crate::rows;

/// The oldest live event of a stream that has the wanted version or a later one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LiveFrom {
    pub(crate) version: StreamVersion,
    /// Where the stream's event before it stands at most.
    pub(crate) before: Option<Position>,
}

impl Reader {
    /// For each place the oldest live event of its stream from there on; `None` if all of them are pruned.
    pub(crate) async fn live_from(&self, places: &[&PastRequest]) -> Result<Vec<Option<LiveFrom>>, ReadError> {
        let mut restarts = Restarts::default();
        loop {
            match self.look_from(places).await {
                Ok(found) => return Ok(found),
                Err(stop) => restarts.allow(stop)?,
            }
        }
    }

    async fn look_from(&self, places: &[&PastRequest]) -> Result<Vec<Option<LiveFrom>>, Stop> {
        let mut map = self.partitions.cached();
        if places.iter().any(|place| !map.head.includes(place.newest)) {
            map = self.partitions.load().await?;
        }
        let mut found = vec![None; places.len()];
        // Oldest first: what a partition has of a stream comes before all that the later ones have of it.
        for span in &map.spans {
            let open = |index: &usize| found[*index].is_none() && span.first <= places[*index].newest;
            let open: Vec<usize> = (0..places.len()).filter(open).collect();
            if open.is_empty() {
                continue;
            }
            let statement = include_str!("../sql/streams_from.sql").replace("{partition}", &span.table);
            let read = sqlx::query(&statement)
                .bind(open.iter().map(|index| places[*index].stream.category()).collect::<Vec<_>>())
                .bind(open.iter().map(|index| places[*index].stream.id()).collect::<Vec<_>>())
                .bind(open.iter().map(|index| places[*index].version.as_i64()).collect::<Vec<_>>())
                .fetch_all(&self.pool)
                .await;
            for row in &self.unless_vanished(read).await? {
                let ordinal = rows::number(row, "ord", |n| usize::try_from(n - 1).ok())?;
                let position = rows::number(row, "position", Position::from_i64)?;
                let previous: Option<i64> = row.try_get("previous")?;
                // What was removed has no back link.
                let before = previous.and_then(Position::from_i64).or(position.head_before().newest());
                let version = rows::number(row, "sequence", StreamVersion::from_i64)?;
                found[open[ordinal]] = Some(LiveFrom { version, before });
            }
        }
        Ok(found)
    }
}
