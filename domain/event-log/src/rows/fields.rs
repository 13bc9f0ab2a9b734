//! Writes the fields of a row in PostgreSQL's binary form. A field has its length in front, -1 for NULL; within a value of a
//! row type the type's number stands before that. Text and `json` are their bytes.

use domain::event::write_extensions;
use sqlx::postgres::types::Oid;

use super::{ContentValues, Metadata, NewRow, Numbers};
use crate::instant::TIMESTAMPTZ;

/// Types of columns in `pg_type`, the same in every PostgreSQL.
const BOOL: Oid = Oid(16);
const INT8: Oid = Oid(20);
const INT2: Oid = Oid(21);
const INT4: Oid = Oid(23);
const TEXT: Oid = Oid(25);
const JSON: Oid = Oid(114);
const UUID: Oid = Oid(2950);

/// Writes to the end of some bytes.
pub(crate) struct FieldWriter<'a> {
    bytes: &'a mut Vec<u8>,
    /// Whether each field names its type.
    is_typed: bool,
    written: i32,
}

impl<'a> FieldWriter<'a> {
    /// Fields of a COPY.
    pub(super) fn bare(bytes: &'a mut Vec<u8>) -> Self {
        Self { bytes, is_typed: false, written: 0 }
    }

    /// Fields of a value of a row type.
    pub(super) fn typed(bytes: &'a mut Vec<u8>) -> Self {
        Self { bytes, is_typed: true, written: 0 }
    }

    /// A row of `coldstream.events`.
    pub(super) fn event(&mut self, row: &NewRow<'_>) {
        self.numbers(&Numbers::of(row));
        self.content(&ContentValues::of(row.content));
    }

    /// Its first columns, which the log assigns.
    pub(super) fn numbers(&mut self, numbers: &Numbers) {
        self.int8(numbers.position);
        self.field(TIMESTAMPTZ, &numbers.recorded_at.to_wire().to_be_bytes());
        self.int8(numbers.sequence);
        self.optional(INT8, numbers.previous.map(i64::to_be_bytes));
        self.optional(INT8, numbers.epoch.map(i64::to_be_bytes));
    }

    /// The columns after them.
    pub(super) fn content(&mut self, row: &ContentValues<'_>) {
        self.field(INT4, &row.bytes.to_be_bytes());
        self.field(INT2, &row.data_kind.to_be_bytes());
        self.field(INT2, &row.record_format.to_be_bytes());
        let names = [row.aggregate_type, row.aggregate_id, row.event_type, row.event_version, row.event_id, row.source];
        names.into_iter().for_each(|text| self.text(text));
        [row.time, row.data_schema, row.data_content_type].into_iter().for_each(|text| self.optional(TEXT, text));
        self.written_by(JSON, |bytes| match row.metadata {
            Metadata::Stored(text) => bytes.extend_from_slice(text.as_bytes()),
            Metadata::Of(extensions) => write_extensions(extensions, bytes),
        });
        self.field(JSON, row.payload.as_bytes());
    }

    pub(crate) fn int8(&mut self, value: i64) {
        self.field(INT8, &value.to_be_bytes());
    }

    pub(crate) fn text(&mut self, value: &str) {
        self.field(TEXT, value.as_bytes());
    }

    pub(crate) fn uuid(&mut self, value: &[u8; 16]) {
        self.field(UUID, value);
    }

    pub(crate) fn bool(&mut self, value: Option<bool>) {
        self.optional(BOOL, value.map(|value| [u8::from(value)]));
    }

    fn optional(&mut self, of: Oid, value: Option<impl AsRef<[u8]>>) {
        match value {
            Some(value) => self.field(of, value.as_ref()),
            None => {
                self.begin(of);
                self.bytes.extend_from_slice(&(-1_i32).to_be_bytes());
            }
        }
    }

    fn field(&mut self, of: Oid, value: &[u8]) {
        self.written_by(of, |bytes| bytes.extend_from_slice(value));
    }

    fn written_by(&mut self, of: Oid, write: impl FnOnce(&mut Vec<u8>)) {
        self.begin(of);
        // Its length, which is known after it.
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        write(self.bytes);
        let length = i32::try_from(self.bytes.len() - at - 4).expect("an event is at most 1 MiB");
        self.bytes[at..at + 4].copy_from_slice(&length.to_be_bytes());
    }

    /// How many fields were written.
    pub(super) fn written(&self) -> i32 {
        self.written
    }

    fn begin(&mut self, of: Oid) {
        self.written += 1;
        if self.is_typed {
            self.bytes.extend_from_slice(&of.0.to_be_bytes());
        }
    }
}
