//! What was heard of the other region (REP-3).

use async_trait::async_trait;
use domain::archive::catalog::CatalogError;
use domain::replication::{Heard, PeerMemory};
use domain::{Epoch, Head};
use sqlx::Row as _;
use sqlx::postgres::PgRow;

use super::catalog_error;
use crate::instant::Instant;
use crate::log::PgLog;
use crate::reader::role;
use crate::rows::number;

#[async_trait]
impl PeerMemory for PgLog {
    async fn heard(&self) -> Result<Option<Heard>, CatalogError> {
        let query = sqlx::query("SELECT epoch, head, role, heard_at FROM coldstream.peer_state");
        let row = query.fetch_optional(&self.shared().pool).await.map_err(catalog_error)?;
        let read = |row: &PgRow| {
            Ok(Heard {
                epoch: number(row, "epoch", Epoch::from_i64)?,
                head: number(row, "head", Head::from_i64)?,
                role: role(row.try_get("role")?)?,
                at: row.try_get::<Instant, _>("heard_at")?.0,
            })
        };
        row.as_ref().map(read).transpose().map_err(catalog_error)
    }

    async fn hear(&self, heard: Heard) -> Result<(), CatalogError> {
        let query = sqlx::query(include_str!("../sql/hear.sql"))
            .bind(heard.epoch.as_i64())
            .bind(heard.head.as_i64())
            .bind(heard.role.as_str())
            .bind(Instant(heard.at));
        query.execute(&self.shared().pool).await.map(drop).map_err(catalog_error)
    }
}
