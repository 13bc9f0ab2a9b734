//! What a view is: a pure fold, its tables, and the writing of what the fold gives.
//!
//! A view never commits, names no schema, and keeps nothing in memory from one call to the next: so the same
//! code moves the live rows and builds the next version beside them. `examples/changes_by_author.rs` is one to copy.

use std::sync::Arc;

use async_trait::async_trait;
use domain::Timestamp;
use domain::record::Record;
use sqlx::PgConnection;

use crate::ProjectionError;

/// What one view makes of records: rows = fold(records, cutoff), and nothing else (PRJ-1). However the records
/// are cut into batches, and whenever the window is swept between them, the rows are the same in the end.
#[async_trait]
pub trait View: Send + Sync {
    /// `view_` and the view's own name of `[a-z0-9_]`: its schema, and its name as a consumer of the log.
    fn name(&self) -> &'static str;

    /// Number of the fold, from 1. It grows with every change of what `apply` and `sweep` write or of `tables`: rows of
    /// another fold are neither moved nor served, they are rebuilt beside.
    fn fold(&self) -> i32;

    /// Statements that create the view's tables, each with a primary key, without a schema. No constraint is deferred:
    /// what is refused only with the commit stops the view without the name of the event.
    fn tables(&self) -> &'static str;

    /// Tables that are no part of the fold, such as a cache: versions are compared, and swapped, without them.
    fn unfolded(&self) -> &'static [&'static str] {
        &[]
    }

    /// Folds `records`, which follow those folded before without a hole, into the rows; what was last changed
    /// before `cutoff`, the start of a UTC month, is out of the live window. SQL finds the view's own tables by
    /// their bare names. An error, or a panic, leaves all as it was and stops the view at the event that it is from.
    async fn apply(&self, tx: &mut PgConnection, records: &[Record], cutoff: Timestamp) -> Result<(), ProjectionError>;

    /// Takes what was last changed before `cutoff` out of the live window.
    async fn sweep(&self, tx: &mut PgConnection, cutoff: Timestamp) -> Result<(), ProjectionError>;
}

#[async_trait]
impl<V: View + ?Sized> View for Arc<V> {
    fn name(&self) -> &'static str {
        self.as_ref().name()
    }

    fn fold(&self) -> i32 {
        self.as_ref().fold()
    }

    fn tables(&self) -> &'static str {
        self.as_ref().tables()
    }

    fn unfolded(&self) -> &'static [&'static str] {
        self.as_ref().unfolded()
    }

    async fn apply(&self, tx: &mut PgConnection, records: &[Record], cutoff: Timestamp) -> Result<(), ProjectionError> {
        self.as_ref().apply(tx, records, cutoff).await
    }

    async fn sweep(&self, tx: &mut PgConnection, cutoff: Timestamp) -> Result<(), ProjectionError> {
        self.as_ref().sweep(tx, cutoff).await
    }
}
