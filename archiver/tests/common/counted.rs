//! A catalog that counts what it is asked and how many segments it answers with.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use domain::archive::catalog::{Catalog, CatalogEntry, CatalogError, CatalogTotals, ManifestRef, Mark, Segment};
use domain::twin::MemoryLog;
use domain::{Position, Timestamp};

pub struct Counted {
    log: Arc<MemoryLog>,
    questions: AtomicU64,
    segments: AtomicU64,
}

impl Counted {
    pub fn of(log: &Arc<MemoryLog>) -> Self {
        Self { log: log.clone(), questions: AtomicU64::new(0), segments: AtomicU64::new(0) }
    }

    /// Questions, and segments in the answers, since it was asked last.
    pub fn take(&self) -> (u64, u64) {
        (self.questions.swap(0, Ordering::SeqCst), self.segments.swap(0, Ordering::SeqCst))
    }

    fn asked(&self) -> &MemoryLog {
        self.questions.fetch_add(1, Ordering::SeqCst);
        &self.log
    }

    fn all(&self, answer: Result<Vec<CatalogEntry>, CatalogError>) -> Result<Vec<CatalogEntry>, CatalogError> {
        self.segments.fetch_add(answer.as_ref().map_or(0, Vec::len) as u64, Ordering::SeqCst);
        answer
    }

    fn one(&self, answer: Result<Option<CatalogEntry>, CatalogError>) -> Result<Option<CatalogEntry>, CatalogError> {
        self.segments.fetch_add(u64::from(matches!(answer, Ok(Some(_)))), Ordering::SeqCst);
        answer
    }
}

#[async_trait]
impl Catalog for Counted {
    async fn segments(&self) -> Result<Vec<CatalogEntry>, CatalogError> {
        self.all(self.asked().segments().await)
    }

    async fn segments_between(&self, first: Position, last: Position) -> Result<Vec<CatalogEntry>, CatalogError> {
        self.all(self.asked().segments_between(first, last).await)
    }

    async fn last_segment(&self) -> Result<Option<CatalogEntry>, CatalogError> {
        self.one(self.asked().last_segment().await)
    }

    async fn segment_as_of(&self, at: Timestamp) -> Result<Option<CatalogEntry>, CatalogError> {
        self.one(self.asked().segment_as_of(at).await)
    }

    async fn unmarked(&self, mark: Mark, from: Position, limit: usize) -> Result<Vec<CatalogEntry>, CatalogError> {
        self.all(self.asked().unmarked(mark, from, limit).await)
    }

    async fn least_recently_verified(&self, bytes: u64) -> Result<Vec<CatalogEntry>, CatalogError> {
        self.all(self.asked().least_recently_verified(bytes).await)
    }

    async fn totals(&self) -> Result<CatalogTotals, CatalogError> {
        self.asked().totals().await
    }

    async fn segment_holding(&self, position: Position) -> Result<Option<CatalogEntry>, CatalogError> {
        self.one(self.asked().segment_holding(position).await)
    }

    async fn last_manifest(&self) -> Result<Option<ManifestRef>, CatalogError> {
        self.asked().last_manifest().await
    }

    async fn accept(&self, after: Option<ManifestRef>, step: ManifestRef, add: &[Segment]) -> Result<(), CatalogError> {
        self.asked().accept(after, step, add).await
    }

    async fn wind_back(&self, last: ManifestRef, to: Option<ManifestRef>) -> Result<(), CatalogError> {
        self.asked().wind_back(last, to).await
    }

    async fn mark_verified(&self, first: Position, at: Timestamp) -> Result<(), CatalogError> {
        self.asked().mark_verified(first, at).await
    }

    async fn mark_confirmed(&self, first: Position, at: Timestamp) -> Result<(), CatalogError> {
        self.asked().mark_confirmed(first, at).await
    }
}
