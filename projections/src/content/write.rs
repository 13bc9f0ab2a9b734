//! Writes what the fold gives: one set of rows a batch.

use std::collections::HashMap;

use async_trait::async_trait;
use domain::Timestamp;
use domain::content::CATEGORY;
use domain::record::Record;
use sqlx::PgConnection;

use super::rows::{self, ItemColumns, StubColumns};
use super::{FOLD, Item, Stub, VIEW, fold};
use crate::{ProjectionError, View};

/// The view "content now", for a [`crate::runner::Runner`].
#[derive(Debug, Clone, Copy, Default)]
pub struct ContentView;

#[async_trait]
impl View for ContentView {
    fn name(&self) -> &'static str {
        VIEW
    }

    fn fold(&self) -> i32 {
        FOLD
    }

    fn tables(&self) -> &'static str {
        include_str!("tables.sql")
    }

    fn unfolded(&self) -> &'static [&'static str] {
        &["recalled"]
    }

    async fn apply(&self, tx: &mut PgConnection, records: &[Record], cutoff: Timestamp) -> Result<(), ProjectionError> {
        let before = known(tx, records).await?;
        let (mut live, mut out) = (ItemColumns::default(), StubColumns::default());
        for item in fold_all(before, records) {
            if item.stub.changed_at < cutoff { out.push(item.stub) } else { live.push(item) }
        }
        write(tx, &live, &out).await
    }

    async fn sweep(&self, tx: &mut PgConnection, cutoff: Timestamp) -> Result<(), ProjectionError> {
        sqlx::query(include_str!("sweep.sql"))
            .bind(crate::instant::to_sql(cutoff))
            .execute(tx)
            .await
            .map_err(ProjectionError::database("sweep the view of content"))?;
        Ok(())
    }
}

/// The items that `records` change, as the last of them leaves each, in no order.
fn fold_all(mut before: HashMap<String, Stub>, records: &[Record]) -> impl Iterator<Item = Item> {
    let mut items: HashMap<String, Item> = HashMap::new();
    for record in records {
        let id = record.stream().id();
        let known = items.get(id).map(|item| &item.stub).or_else(|| before.get(id));
        if let Some(item) = fold(known, record) {
            before.remove(id);
            items.insert(item.stub.id.clone(), item);
        }
    }
    items.into_values()
}

/// What the view knows of the items of `records`.
async fn known(tx: &mut PgConnection, records: &[Record]) -> Result<HashMap<String, Stub>, ProjectionError> {
    let content = records.iter().filter(|record| record.stream().category() == CATEGORY);
    let mut ids: Vec<&str> = content.map(|record| record.stream().id()).collect();
    ids.sort_unstable();
    ids.dedup();
    let rows = sqlx::query(include_str!("known.sql"))
        .bind(ids)
        .fetch_all(tx)
        .await
        .map_err(ProjectionError::database("read known content"))?;
    rows.iter().map(|row| rows::stub(row).map(|stub| (stub.id.clone(), stub))).collect()
}

async fn write(tx: &mut PgConnection, live: &ItemColumns, out: &StubColumns) -> Result<(), ProjectionError> {
    let writing = || ProjectionError::database("write the view of content");
    if !live.ids().is_empty() {
        live.bind(include_str!("put_items.sql")).execute(&mut *tx).await.map_err(writing())?;
        // Stubs before recalled items: a recall holds the stub it saw, so whatever it still puts back is seen by
        // the second statement.
        for sql in [include_str!("drop_stubs.sql"), include_str!("drop_recalled.sql")] {
            sqlx::query(sql).bind(live.ids()).execute(&mut *tx).await.map_err(writing())?;
        }
    }
    if !out.ids().is_empty() {
        // Such an item has no row among the items: recordedat never goes back (LOG-2), so its earlier changes
        // were out of the window too.
        out.bind(include_str!("put_stubs.sql")).execute(&mut *tx).await.map_err(writing())?;
        sqlx::query(include_str!("drop_recalled.sql")).bind(out.ids()).execute(tx).await.map_err(writing())?;
    }
    Ok(())
}
