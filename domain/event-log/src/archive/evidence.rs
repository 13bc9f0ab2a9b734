//! The tree's frontier at some sizes, and the signed checkpoints. Both are bounded, so that the live database does not
//! grow with history: what was published is in the bucket.

use async_trait::async_trait;
use domain::Head;
use domain::archive::catalog::{CatalogError, EvidenceStore, StoredCheckpoint};
use domain::merkle::Frontier;
use sqlx::Row as _;
use sqlx::postgres::PgRow;

use super::{catalog_error, hash, refused};
use crate::log::PgLog;
use crate::rows::number;

#[async_trait]
impl EvidenceStore for PgLog {
    async fn frontier_at_most(&self, size: Head) -> Result<Frontier, CatalogError> {
        let query = sqlx::query(include_str!("../sql/frontier_at_most.sql")).bind(size.as_i64());
        let row = query.fetch_optional(&self.shared().pool).await.map_err(catalog_error)?;
        let Some(row) = row else { return Ok(Frontier::default()) };
        let read = |row: &PgRow| {
            let peaks: Vec<u8> = row.try_get("peaks")?;
            let size = number(row, "size", Head::from_i64)?;
            Frontier::from_bytes(size, &peaks).map_err(|error| sqlx::Error::Decode(Box::new(error)))
        };
        read(&row).map_err(catalog_error)
    }

    async fn save_frontier(&self, frontier: &Frontier) -> Result<(), CatalogError> {
        let query = sqlx::query(include_str!("../sql/save_frontier.sql"));
        let query = query.bind(frontier.size().as_i64()).bind(frontier.to_bytes());
        query.execute(&self.shared().pool).await.map(drop).map_err(catalog_error)
    }

    async fn newest_checkpoint(&self, cosigned: bool) -> Result<Option<StoredCheckpoint>, CatalogError> {
        let query = sqlx::query(include_str!("../sql/newest_checkpoint.sql")).bind(cosigned);
        let row = query.fetch_optional(&self.shared().pool).await.map_err(catalog_error)?;
        let read = |row: &PgRow| {
            Ok(StoredCheckpoint {
                size: number(row, "size", Head::from_i64)?,
                root: hash(row.try_get("root")?)?,
                note: row.try_get("note")?,
                cosigned: row.try_get("cosigned")?,
            })
        };
        row.as_ref().map(read).transpose().map_err(catalog_error)
    }

    async fn save_checkpoint(&self, checkpoint: &StoredCheckpoint) -> Result<(), CatalogError> {
        let query = sqlx::query(include_str!("../sql/save_checkpoint.sql"))
            .bind(checkpoint.size.as_i64())
            .bind(&checkpoint.root.0[..])
            .bind(&checkpoint.note)
            .bind(checkpoint.cosigned);
        let same_root: bool =
            query.fetch_one(&self.shared().pool).await.and_then(|row| row.try_get(0)).map_err(catalog_error)?;
        if same_root { Ok(()) } else { Err(refused("a checkpoint of this size with another root is there")) }
    }
}
