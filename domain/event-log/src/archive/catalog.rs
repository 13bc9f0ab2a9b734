//! The catalog: the segments in force, and the end of the chain of manifests.

use async_trait::async_trait;
use domain::archive::catalog::{Catalog, CatalogEntry, CatalogError, CatalogTotals, ManifestRef, Mark, Segment};
use domain::{Epoch, Head, Position, Timestamp};
use sqlx::postgres::{PgArguments, PgConnection, PgRow};
use sqlx::query::Query;
use sqlx::{Executor as _, Postgres, Row as _};

use super::{catalog_error, hash, refused};
use crate::instant::Instant;
use crate::log::PgLog;
use crate::rows::number;
use crate::sessions::answered;

const LAST_MANIFEST: &str = "SELECT epoch, number, sha256 FROM coldstream.last_manifest";

#[async_trait]
impl Catalog for PgLog {
    async fn segments(&self) -> Result<Vec<CatalogEntry>, CatalogError> {
        self.entries(sqlx::query("SELECT * FROM coldstream.segments ORDER BY first_position")).await
    }

    async fn segments_between(&self, first: Position, last: Position) -> Result<Vec<CatalogEntry>, CatalogError> {
        let query = sqlx::query(include_str!("../sql/segments_between.sql"));
        self.entries(query.bind(first.as_i64()).bind(last.as_i64())).await
    }

    async fn last_segment(&self) -> Result<Option<CatalogEntry>, CatalogError> {
        Ok(self.entries(sqlx::query(include_str!("../sql/last_segment.sql"))).await?.pop())
    }

    async fn segment_as_of(&self, at: Timestamp) -> Result<Option<CatalogEntry>, CatalogError> {
        let query = sqlx::query(include_str!("../sql/segment_as_of.sql")).bind(Instant(at));
        Ok(self.entries(query).await?.pop())
    }

    async fn unmarked(&self, mark: Mark, from: Position, limit: usize) -> Result<Vec<CatalogEntry>, CatalogError> {
        let query = sqlx::query(match mark {
            Mark::Verified => include_str!("../sql/unverified.sql"),
            Mark::Confirmed => include_str!("../sql/unconfirmed.sql"),
        });
        self.entries(query.bind(from.as_i64()).bind(i64::try_from(limit).unwrap_or(i64::MAX))).await
    }

    async fn least_recently_verified(&self, bytes: u64) -> Result<Vec<CatalogEntry>, CatalogError> {
        let query = sqlx::query(include_str!("../sql/least_recently_verified.sql"));
        self.entries(query.bind(i64::try_from(bytes).unwrap_or(i64::MAX))).await
    }

    async fn totals(&self) -> Result<CatalogTotals, CatalogError> {
        let query = sqlx::query(include_str!("../sql/catalog_totals.sql"));
        let row = query.fetch_one(&self.shared().pool).await.map_err(catalog_error)?;
        totals(&row).map_err(catalog_error)
    }

    async fn segment_holding(&self, position: Position) -> Result<Option<CatalogEntry>, CatalogError> {
        let query = sqlx::query(include_str!("../sql/segment_holding.sql")).bind(position.as_i64());
        Ok(self.entries(query).await?.pop())
    }

    async fn last_manifest(&self) -> Result<Option<ManifestRef>, CatalogError> {
        let row = sqlx::query(LAST_MANIFEST).fetch_optional(&self.shared().pool).await.map_err(catalog_error)?;
        row.as_ref().map(manifest).transpose().map_err(catalog_error)
    }

    async fn accept(
        &self,
        after: Option<ManifestRef>,
        step: ManifestRef,
        added: &[Segment],
    ) -> Result<(), CatalogError> {
        let mut transaction = self.shared().pool.begin().await.map_err(catalog_error)?;
        // The lock of the table, not of its row: before the first manifest there is none.
        let lock = answered(transaction.execute(include_str!("../sql/lock_manifest.sql"))).await;
        lock.map_err(catalog_error)?;
        let last = answered(transaction.fetch_optional(LAST_MANIFEST)).await.map_err(catalog_error)?;
        let last = last.as_ref().map(manifest).transpose().map_err(catalog_error)?;
        if last == Some(step) {
            return Ok(());
        }
        if last != after {
            return Err(refused("another manifest is the last"));
        }
        let newest = sqlx::query_scalar("SELECT max(last_position) FROM coldstream.segments");
        let newest: Option<i64> = answered(newest.fetch_one(&mut *transaction)).await.map_err(catalog_error)?;
        let mut next = newest.and_then(Position::from_i64).map_or(Position::FIRST, Position::next);
        for segment in added {
            if segment.first != next {
                return Err(refused(format!("the next segment starts at {next}, not at {}", segment.first)));
            }
            next = segment.last.next();
            answered(insert(&mut transaction, segment, &step)).await.map_err(catalog_error)?;
        }
        let set = sqlx::query(include_str!("../sql/set_manifest.sql"))
            .bind(step.epoch.as_i64())
            .bind(i64::try_from(step.number).unwrap_or(i64::MAX))
            .bind(&step.sha256.0[..])
            .execute(&mut *transaction);
        answered(set).await.map_err(catalog_error)?;
        answered(transaction.commit()).await.map_err(catalog_error)
    }

    async fn wind_back(&self, last: ManifestRef, to: Option<ManifestRef>) -> Result<(), CatalogError> {
        let number = |manifest: &ManifestRef| i64::try_from(manifest.number).unwrap_or(i64::MAX);
        sqlx::query(include_str!("../sql/wind_back.sql"))
            .bind(last.epoch.as_i64())
            .bind(number(&last))
            .bind(&last.sha256.0[..])
            .bind(to.map(|to| to.epoch.as_i64()))
            .bind(to.as_ref().map(number))
            .bind(to.as_ref().map(|to| &to.sha256.0[..]))
            .execute(&self.shared().pool)
            .await
            .map(drop)
            .map_err(catalog_error)
    }

    async fn mark_verified(&self, first: Position, at: Timestamp) -> Result<(), CatalogError> {
        self.mark("UPDATE coldstream.segments SET verified_at = $2 WHERE first_position = $1", first, at).await
    }

    async fn mark_confirmed(&self, first: Position, at: Timestamp) -> Result<(), CatalogError> {
        self.mark("UPDATE coldstream.segments SET confirmed_at = $2 WHERE first_position = $1", first, at).await
    }
}

impl PgLog {
    async fn entries(&self, query: Query<'_, Postgres, PgArguments>) -> Result<Vec<CatalogEntry>, CatalogError> {
        let rows = query.fetch_all(&self.shared().pool).await.map_err(catalog_error)?;
        rows.iter().map(entry).collect::<Result<_, _>>().map_err(catalog_error)
    }

    async fn mark(&self, statement: &str, first: Position, at: Timestamp) -> Result<(), CatalogError> {
        let query = sqlx::query(statement).bind(first.as_i64()).bind(Instant(at));
        let marked = query.execute(&self.shared().pool).await.map_err(catalog_error)?;
        if marked.rows_affected() == 1 { Ok(()) } else { Err(refused(format!("no segment starts at {first}"))) }
    }
}

fn manifest(row: &PgRow) -> Result<ManifestRef, sqlx::Error> {
    // Without parameters the row comes in text form, which reads the same.
    Ok(ManifestRef {
        epoch: number(row, "epoch", Epoch::from_i64)?,
        number: number(row, "number", |n| u64::try_from(n).ok())?,
        sha256: hash(row.try_get("sha256")?)?,
    })
}

async fn insert(connection: &mut PgConnection, segment: &Segment, step: &ManifestRef) -> Result<(), sqlx::Error> {
    let length = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    sqlx::query(include_str!("../sql/insert_segment.sql"))
        .bind(segment.first.as_i64())
        .bind(segment.last.as_i64())
        .bind(segment.epoch.as_i64())
        .bind(&segment.sha256.0[..])
        .bind(i64::from(segment.crc32))
        .bind(length(segment.bytes))
        .bind(length(segment.record_bytes))
        .bind(&segment.index_sha256.0[..])
        .bind(i64::from(segment.index_crc32))
        .bind(length(segment.index_bytes))
        .bind(&segment.root.0[..])
        .bind(Instant(segment.first_at))
        .bind(Instant(segment.last_at))
        .bind(step.epoch.as_i64())
        .bind(length(step.number))
        .execute(connection)
        .await
        .map(drop)
}

fn totals(row: &PgRow) -> Result<CatalogTotals, sqlx::Error> {
    let unsigned = |column: &str| number(row, column, |n| u64::try_from(n).ok());
    Ok(CatalogTotals {
        segments: unsigned("segments")?,
        archived: number(row, "archived", Head::from_i64)?,
        verified: unsigned("verified")?,
        confirmed: unsigned("confirmed")?,
        stored_bytes: unsigned("stored_bytes")?,
        record_bytes: unsigned("record_bytes")?,
        oldest_verified_at: row.try_get::<Option<Instant>, _>("oldest_verified_at")?.map(|at| at.0),
    })
}

fn entry(row: &PgRow) -> Result<CatalogEntry, sqlx::Error> {
    let unsigned = |column: &str| number(row, column, |n| u64::try_from(n).ok());
    let crc32 = |column: &str| number(row, column, |n| u32::try_from(n).ok());
    let instant = |column: &str| Ok::<_, sqlx::Error>(row.try_get::<Option<Instant>, _>(column)?.map(|at| at.0));
    Ok(CatalogEntry {
        segment: Segment {
            first: number(row, "first_position", Position::from_i64)?,
            last: number(row, "last_position", Position::from_i64)?,
            epoch: number(row, "epoch", Epoch::from_i64)?,
            sha256: hash(row.try_get("sha256")?)?,
            crc32: crc32("crc32")?,
            bytes: unsigned("bytes")?,
            record_bytes: unsigned("record_bytes")?,
            index_sha256: hash(row.try_get("index_sha256")?)?,
            index_crc32: crc32("index_crc32")?,
            index_bytes: unsigned("index_bytes")?,
            root: hash(row.try_get("root")?)?,
            first_at: row.try_get::<Instant, _>("first_at")?.0,
            last_at: row.try_get::<Instant, _>("last_at")?.0,
        },
        manifest: (number(row, "manifest_epoch", Epoch::from_i64)?, unsigned("manifest_number")?),
        verified_at: instant("verified_at")?,
        confirmed_at: instant("confirmed_at")?,
    })
}
