//! Rows as one parameter: an array of a table's row type. The server unnests it in one step, where an array a column costs it
//! a store of its own each: at 60 events a group that is a third of the statement, and half of it at one event.

use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgConnection, PgTypeInfo};
use sqlx::{Encode, Postgres, Row as _, Type};

use super::NewRow;
use super::fields::FieldWriter;

/// A table's row type and the type of its arrays, in `pg_type` of this database.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RowType {
    element: Oid,
    array: Oid,
}

/// The row types of the tables that a group is written to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RowTypes {
    pub(crate) events: RowType,
    pub(crate) event_ids: RowType,
    pub(crate) streams: RowType,
}

impl RowTypes {
    pub(crate) async fn of(connection: &mut PgConnection) -> Result<Self, sqlx::Error> {
        let rows = sqlx::query(include_str!("../sql/row_types.sql")).fetch_all(connection).await?;
        let row_type = |table: &str| {
            let row = rows.iter().find(|row| row.try_get("table").is_ok_and(|name: &str| name == table));
            let row = row.ok_or(sqlx::Error::RowNotFound)?;
            Ok::<_, sqlx::Error>(RowType { element: row.try_get("element")?, array: row.try_get("array")? })
        };
        Ok(Self { events: row_type("events")?, event_ids: row_type("event_ids")?, streams: row_type("streams")? })
    }
}

/// Rows of one table.
pub(crate) struct RowArray {
    array: Oid,
    bytes: Vec<u8>,
}

impl RowArray {
    /// `write` writes the fields of an item, in the order in which the table has its columns.
    pub(crate) fn of<T>(row_type: RowType, items: &[T], mut write: impl FnMut(&T, &mut FieldWriter<'_>)) -> Self {
        let mut bytes = Vec::with_capacity(20 + items.len() * 128);
        // Dimensions, and that no row is NULL; the type; the dimension, which counts from 1.
        bytes.extend_from_slice(&i32::from(!items.is_empty()).to_be_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&row_type.element.0.to_be_bytes());
        if !items.is_empty() {
            let length = i32::try_from(items.len()).expect("a group is bounded");
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(&1_i32.to_be_bytes());
        }
        for item in items {
            // The row's length and its number of fields, which are known after it.
            let at = bytes.len();
            bytes.extend_from_slice(&[0; 8]);
            let mut fields = FieldWriter::typed(&mut bytes);
            write(item, &mut fields);
            let written = fields.written();
            let length = i32::try_from(bytes.len() - at - 4).expect("an event is at most 1 MiB");
            bytes[at..at + 4].copy_from_slice(&length.to_be_bytes());
            bytes[at + 4..at + 8].copy_from_slice(&written.to_be_bytes());
        }
        Self { array: row_type.array, bytes }
    }

    pub(crate) fn events(row_type: RowType, rows: &[NewRow<'_>]) -> Self {
        Self::of(row_type, rows, |row, fields| fields.event(row))
    }
}

impl Type<Postgres> for RowArray {
    /// Said of each value by [`Encode::produces`]: no type has the same number in every database.
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_name("record[]")
    }
}

impl Encode<'_, Postgres> for RowArray {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buffer.extend_from_slice(&self.bytes);
        Ok(IsNull::No)
    }

    fn produces(&self) -> Option<PgTypeInfo> {
        Some(PgTypeInfo::with_oid(self.array))
    }
}
