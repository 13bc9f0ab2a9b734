//! Items and stubs as rows, and rows as items and stubs.

use domain::{Position, StreamVersion};
use sqlx::Row;
use sqlx::postgres::{PgArguments, PgRow, Postgres};
use sqlx::query::Query;

use super::{Form, Item, ItemState, Moment, Stub};
use crate::ProjectionError;
use crate::instant::Instant;

/// Stubs, column by column, as `UNNEST` takes them.
#[derive(Default)]
pub(super) struct StubColumns {
    ids: Vec<String>,
    states: Vec<&'static str>,
    created_times: Vec<Option<String>>,
    created_ats: Vec<Option<Instant>>,
    revisions: Vec<i64>,
    versions: Vec<i64>,
    positions: Vec<i64>,
    changed_ats: Vec<Instant>,
}

/// Items, column by column.
#[derive(Default)]
pub(super) struct ItemColumns {
    stubs: StubColumns,
    changed_times: Vec<Option<String>>,
    authors: Vec<Option<String>>,
    changes: Vec<Option<String>>,
    oids: Vec<Option<String>>,
    modes: Vec<Option<String>>,
    sizes: Vec<Option<i64>>,
}

type PgQuery<'q> = Query<'q, Postgres, PgArguments>;

impl StubColumns {
    pub(super) fn push(&mut self, stub: Stub) {
        let (time, at) = stub.created.map_or((None, None), |created| (created.time, Some(created.recorded_at)));
        self.ids.push(stub.id);
        self.states.push(stub.state.as_str());
        self.created_times.push(time);
        self.created_ats.push(at.map(Instant));
        // Not more than there are positions, which are bigints.
        self.revisions.push(i64::try_from(stub.revisions).unwrap_or(i64::MAX));
        self.versions.push(stub.version.as_i64());
        self.positions.push(stub.position.as_i64());
        self.changed_ats.push(Instant(stub.changed_at));
    }

    pub(super) fn ids(&self) -> &[String] {
        &self.ids
    }

    /// Binds $1 to $8.
    pub(super) fn bind<'q>(&'q self, sql: &'q str) -> PgQuery<'q> {
        sqlx::query(sql)
            .bind(&self.ids)
            .bind(&self.states)
            .bind(&self.created_times)
            .bind(&self.created_ats)
            .bind(&self.revisions)
            .bind(&self.versions)
            .bind(&self.positions)
            .bind(&self.changed_ats)
    }
}

impl ItemColumns {
    pub(super) fn push(&mut self, item: Item) {
        self.stubs.push(item.stub);
        self.changed_times.push(item.changed_time);
        self.authors.push(item.author);
        self.changes.push(item.change);
        let (oid, mode, size) =
            item.form.map_or((None, None, None), |form| (Some(form.oid), Some(form.mode), Some(form.size)));
        self.oids.push(oid);
        self.modes.push(mode);
        self.sizes.push(size);
    }

    pub(super) fn ids(&self) -> &[String] {
        self.stubs.ids()
    }

    /// Binds $1 to $14.
    pub(super) fn bind<'q>(&'q self, sql: &'q str) -> PgQuery<'q> {
        self.stubs
            .bind(sql)
            .bind(&self.changed_times)
            .bind(&self.authors)
            .bind(&self.changes)
            .bind(&self.oids)
            .bind(&self.modes)
            .bind(&self.sizes)
    }
}

/// Reads the columns that a stub has.
pub(super) fn stub(row: &PgRow) -> Result<Stub, ProjectionError> {
    let id: String = get(row, "id")?;
    let corrupt = || ProjectionError::Corrupt { what: format!("the row of content {id:?} in the view") };
    let created_at: Option<Instant> = get(row, "created_at")?;
    let created_time = get(row, "created_time")?;
    let created = created_at.map(|Instant(recorded_at)| Moment { time: created_time, recorded_at });
    Ok(Stub {
        state: ItemState::parse(get(row, "state")?).ok_or_else(corrupt)?,
        created,
        revisions: u64::try_from(get::<i64>(row, "revisions")?).map_err(|_| corrupt())?,
        version: StreamVersion::from_i64(get(row, "version")?).ok_or_else(corrupt)?,
        position: Position::from_i64(get(row, "position")?).ok_or_else(corrupt)?,
        changed_at: get::<Instant>(row, "changed_at")?.0,
        id,
    })
}

/// Reads the columns that an item has.
pub(super) fn item(row: &PgRow) -> Result<Item, ProjectionError> {
    let form = match (get(row, "oid")?, get(row, "mode")?, get(row, "size")?) {
        (Some(oid), Some(mode), Some(size)) => Some(Form { oid, mode, size }),
        _ => None,
    };
    Ok(Item {
        stub: stub(row)?,
        changed_time: get(row, "changed_time")?,
        author: get(row, "author")?,
        change: get(row, "change")?,
        form,
    })
}

pub(super) fn get<'r, T>(row: &'r PgRow, column: &str) -> Result<T, ProjectionError>
where
    T: sqlx::Decode<'r, Postgres> + sqlx::Type<Postgres>,
{
    row.try_get(column).map_err(ProjectionError::database("read a row of the view of content"))
}
