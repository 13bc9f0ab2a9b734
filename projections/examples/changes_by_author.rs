//! A view of one's own: how many changes each author made in each month of the live window. To copy: a pure fold, the
//! tables, and the writing; checkpoint, transaction, rebuild and status are the runner's. Test: tests/prj_example.rs.

use std::collections::BTreeMap;

use domain::content::{CATEGORY, Change};
use domain::{Timestamp, record::Record};
use projections::{ProjectionError, View};
use sqlx::PgConnection;

/// (author, first day of the UTC month) → changes. Pure; any record gives something storable (PostgreSQL has no NUL).
pub fn fold(records: &[Record], cutoff: Timestamp) -> BTreeMap<(String, String), i64> {
    let mut changes = BTreeMap::new();
    let content = records.iter().filter(|record| record.stream().category() == CATEGORY);
    for record in content.filter(|record| record.recorded_at() >= cutoff) {
        let Record::Event(event) = record else { continue };
        let author = match Change::of(event) {
            Change::Created(form) | Change::Revised(form) => form.author,
            Change::Deleted(deletion) => deletion.author,
            Change::Closed | Change::Unreadable | Change::Other => continue,
        };
        let month = format!("{}-01", &record.recorded_at().to_string()[..7]);
        *changes.entry((author.replace('\0', "\u{fffd}"), month)).or_default() += 1;
    }
    changes
}

/// The view; its rows stand in `view_changes_by_author.changes`.
pub struct ChangesByAuthor;

#[async_trait::async_trait]
impl View for ChangesByAuthor {
    fn name(&self) -> &'static str {
        "view_changes_by_author"
    }

    fn fold(&self) -> i32 {
        1
    }

    fn tables(&self) -> &'static str {
        "CREATE TABLE changes (author text, month date, number bigint NOT NULL, PRIMARY KEY (author, month))"
    }

    async fn apply(&self, tx: &mut PgConnection, records: &[Record], cutoff: Timestamp) -> Result<(), ProjectionError> {
        for ((author, month), number) in fold(records, cutoff) {
            let sql = "INSERT INTO changes AS known VALUES ($1, $2::text::date, $3)
                       ON CONFLICT (author, month) DO UPDATE SET number = known.number + EXCLUDED.number";
            let added = sqlx::query(sql).bind(author).bind(month).bind(number).execute(&mut *tx).await;
            added.map_err(ProjectionError::database("count changes"))?;
        }
        Ok(())
    }

    async fn sweep(&self, tx: &mut PgConnection, cutoff: Timestamp) -> Result<(), ProjectionError> {
        let sql = "DELETE FROM changes WHERE month < ($1::text::timestamptz AT TIME ZONE 'UTC')::date";
        let swept = sqlx::query(sql).bind(cutoff.to_string()).execute(tx).await.map(drop);
        swept.map_err(ProjectionError::database("sweep the changes"))
    }
}
