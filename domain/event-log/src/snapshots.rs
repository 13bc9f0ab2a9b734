//! Snapshots of aggregates, in postgres-es's table: a cache beside the log. What goes wrong here is logged and costs
//! its caller a longer read of the log, nothing else.

use async_trait::async_trait;
use domain::cqrs::snapshot::{Snapshot, SnapshotStore};
use domain::{StreamName, StreamVersion};
use serde_json::Value;
use sqlx::Row as _;
use sqlx::postgres::PgRow;

use crate::error::chain;
use crate::log::PgLog;

#[async_trait]
impl SnapshotStore for PgLog {
    async fn load(&self, stream: &StreamName) -> Option<Snapshot> {
        let row = sqlx::query(include_str!("sql/load_snapshot.sql"))
            .bind(stream.category())
            .bind(stream.id())
            .fetch_optional(&self.shared().pool)
            .await;
        match row.and_then(|row| row.map(|row| snapshot(stream, &row)).transpose()) {
            Ok(snapshot) => snapshot.flatten(),
            Err(error) => {
                tracing::warn!(%stream, error = chain(&error), "a snapshot was not read");
                None
            }
        }
    }

    async fn save(&self, snapshot: Snapshot) {
        let saved = sqlx::query(include_str!("sql/save_snapshot.sql"))
            .bind(snapshot.stream.category())
            .bind(snapshot.stream.id())
            .bind(snapshot.version.as_i64())
            .bind(i64::try_from(snapshot.number).unwrap_or(i64::MAX))
            .bind(&snapshot.state)
            .execute(&self.shared().pool)
            .await;
        if let Err(error) = saved {
            tracing::warn!(stream = %snapshot.stream, error = chain(&error), "a snapshot was not kept");
        }
    }

    fn was_wrong(&self, stream: &StreamName, version: StreamVersion) {
        tracing::warn!(%stream, %version, "an imported snapshot is not what the events give: it was built anew");
    }
}

/// `None` for numbers that no snapshot has.
fn snapshot(stream: &StreamName, row: &PgRow) -> Result<Option<Snapshot>, sqlx::Error> {
    let version = StreamVersion::from_i64(row.try_get("last_sequence")?);
    let number = usize::try_from(row.try_get::<i64, _>("current_snapshot")?).ok();
    let state: Value = row.try_get("payload")?;
    let stream = stream.clone();
    Ok(version.zip(number).map(|(version, number)| Snapshot { stream, version, number, state }))
}
