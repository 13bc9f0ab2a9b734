//! Writes what the fold gives: one set of rows a batch.

use std::collections::{HashMap, HashSet};

use async_trait::async_trait;
use domain::Timestamp;
use domain::content::CATEGORY;
use domain::record::Record;
use sqlx::PgConnection;

use super::rows::{self, ItemColumns, StubColumns};
use super::{FOLD, Item, Stub, VIEW, fold};
use crate::instant::Instant;
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
        let Known { stubs, out_of_window } = known(tx, records).await?;
        let (mut live, mut out) = (ItemColumns::default(), StubColumns::default());
        for item in fold_all(&stubs, records) {
            if item.stub.changed_at < cutoff { out.push(item.stub) } else { live.push(item) }
        }
        write(tx, &live, &out, &out_of_window).await
    }

    async fn sweep(&self, tx: &mut PgConnection, cutoff: Timestamp) -> Result<(), ProjectionError> {
        sqlx::query(include_str!("sweep.sql"))
            .bind(Instant(cutoff))
            .execute(tx)
            .await
            .map_err(ProjectionError::database("sweep the view of content"))?;
        Ok(())
    }
}

/// The items that `records` change, as the last of them leaves each, in the order of the tables' keys: neighbours share
/// pages.
fn fold_all(before: &HashMap<String, Stub>, records: &[Record]) -> impl Iterator<Item = Item> {
    let mut items: HashMap<&str, Item> = HashMap::with_capacity(records.len());
    for record in records {
        let id = record.stream().id();
        let known = items.get(id).map(|item| &item.stub).or_else(|| before.get(id));
        if let Some(item) = fold(known, record) {
            items.insert(id, item);
        }
    }
    let mut items: Vec<Item> = items.into_values().collect();
    items.sort_unstable_by(|one, other| one.stub.id.cmp(&other.stub.id));
    items.into_iter()
}

/// What the view knows of the items of some records.
struct Known {
    stubs: HashMap<String, Stub>,
    /// Those that are out of the window, and may have been recalled.
    out_of_window: Vec<String>,
}

async fn known(tx: &mut PgConnection, records: &[Record]) -> Result<Known, ProjectionError> {
    let content = records.iter().filter(|record| record.stream().category() == CATEGORY);
    let mut ids: Vec<&str> = content.map(|record| record.stream().id()).collect();
    ids.sort_unstable();
    ids.dedup();
    let rows = sqlx::query(include_str!("known.sql"))
        .bind(ids)
        .fetch_all(tx)
        .await
        .map_err(ProjectionError::database("read known content"))?;
    let mut known = Known { stubs: HashMap::with_capacity(rows.len()), out_of_window: Vec::new() };
    for row in &rows {
        let stub = rows::stub(row)?;
        if rows::get(row, "is_out")? {
            known.out_of_window.push(stub.id.clone());
        }
        known.stubs.insert(stub.id.clone(), stub);
    }
    Ok(known)
}

/// Only what was out of the window has a stub and may have been recalled: recall needs the stub, and nobody but the one
/// mover of the view makes one.
async fn write(
    tx: &mut PgConnection,
    live: &ItemColumns,
    out: &StubColumns,
    was_out: &[String],
) -> Result<(), ProjectionError> {
    let writing = || ProjectionError::database("write the view of content");
    let is_live: HashSet<&str> = live.ids().iter().map(String::as_str).collect();
    let back: Vec<&str> = was_out.iter().map(String::as_str).filter(|id| is_live.contains(id)).collect();
    if !live.ids().is_empty() {
        live.bind(include_str!("put_items.sql")).execute(&mut *tx).await.map_err(writing())?;
    }
    if !back.is_empty() {
        sqlx::query(include_str!("drop_stubs.sql")).bind(back).execute(&mut *tx).await.map_err(writing())?;
    }
    if !out.ids().is_empty() {
        // Such an item has no row among the items: recordedat never goes back (LOG-2), so its earlier changes
        // were out of the window too.
        out.bind(include_str!("put_stubs.sql")).execute(&mut *tx).await.map_err(writing())?;
    }
    if !was_out.is_empty() {
        // Stubs before recalled items: a recall holds the stub it saw, so whatever it still puts back is seen by this
        // statement.
        sqlx::query(include_str!("drop_recalled.sql")).bind(was_out).execute(tx).await.map_err(writing())?;
    }
    Ok(())
}
