//! What the database says of all views: where each stands, at which event it has stopped, and how its rebuild is.
//! Only for people and reports: nothing is decided on it.

use domain::{Head, Position, Timestamp};
use sqlx::postgres::{PgPool, PgRow, Postgres};
use sqlx::{Decode, Row, Type};

use crate::ProjectionError;
use crate::instant::Instant;
use crate::rebuild::{Comparison, read_comparison};

/// One view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ViewStatus {
    /// Its name.
    pub view: String,
    /// The version that is live: 1, and one more for each rebuild.
    pub version: u64,
    /// The fold that its rows were made by.
    pub fold: i32,
    /// The events that are in it.
    pub checkpoint: Head,
    /// Start of the live window that its rows are divided by.
    pub cutoff: Timestamp,
    /// The event that it cannot fold, if it has stopped.
    pub stopped: Option<Stopped>,
    /// Its rebuild, if there is one.
    pub rebuild: Option<RebuildStatus>,
}

/// The event that a view cannot fold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stopped {
    /// Its place in the log.
    pub position: Position,
    /// Its id; of a removed record, nothing.
    pub id: String,
    /// Its type; of a removed record, `removed`.
    pub event_type: String,
    /// Why, with all causes.
    pub reason: String,
}

/// A rebuild that is under way or was cut off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RebuildStatus {
    /// The version that it makes.
    pub version: u64,
    /// The fold that it makes it by.
    pub fold: i32,
    /// When it was begun.
    pub began_at: Timestamp,
    /// The events that are in it.
    pub checkpoint: Head,
    /// The last comparison with the live version, if there was one.
    pub comparison: Option<Comparison>,
    /// Whether it is live, and only the old version has still to be dropped.
    pub swapped: bool,
}

/// All views of this database, by name.
///
/// # Errors
/// `Database`; `Corrupt` for what cannot be.
pub async fn of_all(pool: &PgPool) -> Result<Vec<ViewStatus>, ProjectionError> {
    let rows = sqlx::query(include_str!("status/views.sql")).fetch_all(pool).await;
    let rows = rows.map_err(ProjectionError::database("list the views"))?;
    rows.iter().map(view).collect()
}

fn view(row: &PgRow) -> Result<ViewStatus, ProjectionError> {
    Ok(ViewStatus {
        view: get(row, "view")?,
        version: get::<i64>(row, "version")?.unsigned_abs(),
        fold: get(row, "fold")?,
        checkpoint: head(row, "checkpoint")?,
        cutoff: get::<Instant>(row, "cutoff")?.0,
        stopped: stopped(row)?,
        rebuild: rebuild(row)?,
    })
}

fn stopped(row: &PgRow) -> Result<Option<Stopped>, ProjectionError> {
    let Some(position) = get::<Option<i64>>(row, "stopped_position")? else { return Ok(None) };
    Ok(Some(Stopped {
        position: Position::from_i64(position).ok_or_else(corrupt)?,
        id: get(row, "stopped_id")?,
        event_type: get(row, "stopped_type")?,
        reason: get(row, "stopped_reason")?,
    }))
}

fn rebuild(row: &PgRow) -> Result<Option<RebuildStatus>, ProjectionError> {
    let Some(version) = get::<Option<i64>>(row, "next_version")? else { return Ok(None) };
    Ok(Some(RebuildStatus {
        version: version.unsigned_abs(),
        fold: get(row, "next_fold")?,
        began_at: get::<Instant>(row, "began_at")?.0,
        checkpoint: head(row, "next_checkpoint")?,
        comparison: read_comparison(row)?,
        swapped: get(row, "swapped")?,
    }))
}

fn head(row: &PgRow, column: &str) -> Result<Head, ProjectionError> {
    Head::from_i64(get(row, column)?).ok_or_else(corrupt)
}

fn corrupt() -> ProjectionError {
    ProjectionError::Corrupt { what: "the progress of a view".to_owned() }
}

fn get<'r, T: Decode<'r, Postgres> + Type<Postgres>>(row: &'r PgRow, column: &str) -> Result<T, ProjectionError> {
    row.try_get(column).map_err(ProjectionError::database("read the progress of a view"))
}
