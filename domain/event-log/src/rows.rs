//! A record as a row: the only code that knows the columns of `coldstream.events`. Row and record hold the same
//! information, so a record that was read is byte for byte the one that was written (REP-1, ARC-3).

mod array;
mod copy;
mod fields;

use std::borrow::Cow;

use domain::Timestamp;
use domain::event::{Data, DataRef, EventRef, Extension, NewEvent, extensions_from_json};
use domain::merkle::Hash;
use domain::record::{Assigned, Lines, Record, RecordedEvent, RemovedBy, RemovedRecord};
use domain::{Epoch, Position, StreamName, StreamRef, StreamVersion};
use sqlx::Row as _;
use sqlx::postgres::PgRow;

pub(crate) use array::{RowArray, RowTypes};
pub(crate) use copy::{CopiedRows, CopyBody, SpelledRows};

use crate::instant::Instant;

/// The columns, in the order in which COPY sends them and every SELECT of rows names them.
pub(crate) const COLUMNS: &str = "position, recorded_at, sequence, previous, epoch, bytes, data_kind, record_format, \
     aggregate_type, aggregate_id, event_type, event_version, event_id, source, time, data_schema, data_content_type, \
     metadata, payload";

/// `record_format` of rows whose line is written by `domain::record::write` as of v1.
const FORMAT_V1: i16 = 1;

const KIND_ABSENT: i16 = 0;
const KIND_JSON: i16 = 1;
const KIND_BASE64: i16 = 2;
const KIND_REMOVED: i16 = 3;

/// A row to be written: what the log assigns, and what was appended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewRow<'a> {
    pub(crate) position: Position,
    pub(crate) recorded_at: Timestamp,
    pub(crate) version: StreamVersion,
    pub(crate) previous: Option<Position>,
    /// None where the content was removed.
    pub(crate) epoch: Option<Epoch>,
    pub(crate) content: Content<'a>,
    /// Where [`SpelledRows`] has its content.
    pub(crate) index: usize,
}

/// What a row holds that the log does not assign.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Content<'a> {
    Event(&'a NewEvent),
    Removed(&'a RemovedRecord),
}

impl<'a> NewRow<'a> {
    /// `index` is where the content of `record` is spelled.
    pub(crate) fn of(index: usize, record: &'a Record) -> Self {
        let (previous, epoch) = match record {
            Record::Event(recorded) => (recorded.previous, Some(recorded.epoch)),
            Record::Removed(_) => (None, None),
        };
        Self {
            position: record.position(),
            recorded_at: record.recorded_at(),
            version: record.version(),
            previous,
            epoch,
            content: Content::of(record),
            index,
        }
    }
}

impl<'a> Content<'a> {
    pub(crate) fn of(record: &'a Record) -> Self {
        match record {
            Record::Event(recorded) => Self::Event(&recorded.event),
            Record::Removed(removed) => Self::Removed(removed),
        }
    }

    fn stream(self) -> &'a StreamName {
        match self {
            Self::Event(event) => &event.stream,
            Self::Removed(removed) => &removed.stream,
        }
    }
}

/// What the columns of a row hold, in the order of [`COLUMNS`]: first what the log assigns.
pub(crate) struct Values<'a> {
    pub(crate) numbers: Numbers,
    pub(crate) content: ContentValues<'a>,
}

/// The columns that the log assigns. They stand before the others, so those can be spelled before these are known.
pub(crate) struct Numbers {
    pub(crate) position: i64,
    pub(crate) recorded_at: Instant,
    pub(crate) sequence: i64,
    pub(crate) previous: Option<i64>,
    pub(crate) epoch: Option<i64>,
}

/// The columns that the log does not assign.
pub(crate) struct ContentValues<'a> {
    pub(crate) bytes: i32,
    pub(crate) data_kind: i16,
    pub(crate) record_format: i16,
    pub(crate) aggregate_type: &'a str,
    pub(crate) aggregate_id: &'a str,
    pub(crate) event_type: &'a str,
    pub(crate) event_version: &'a str,
    pub(crate) event_id: &'a str,
    pub(crate) source: &'a str,
    pub(crate) time: Option<&'a str>,
    pub(crate) data_schema: Option<&'a str>,
    pub(crate) data_content_type: Option<&'a str>,
    pub(crate) metadata: Metadata<'a>,
    pub(crate) payload: Cow<'a, str>,
}

impl Numbers {
    pub(crate) fn of(row: &NewRow<'_>) -> Self {
        Self {
            position: row.position.as_i64(),
            recorded_at: Instant(row.recorded_at),
            sequence: row.version.as_i64(),
            previous: row.previous.map(Position::as_i64),
            epoch: row.epoch.map(Epoch::as_i64),
        }
    }
}

impl<'a> ContentValues<'a> {
    pub(crate) fn of(content: Content<'a>) -> Self {
        match content {
            Content::Event(event) => Self {
                bytes: i32::try_from(event.bytes()).unwrap_or(i32::MAX),
                event_type: &event.event_type,
                event_version: event.event_version.as_deref().unwrap_or_default(),
                event_id: &event.id,
                source: &event.source,
                time: event.time.as_deref(),
                data_schema: event.data_schema.as_deref(),
                data_content_type: event.data_content_type.as_deref(),
                metadata: Metadata::Of(&event.extensions),
                ..match &event.data {
                    Data::Absent => Self::bare(content, KIND_ABSENT, "null".into()),
                    Data::Json(text) => Self::bare(content, KIND_JSON, text.into()),
                    // Base64's alphabet needs no escapes.
                    Data::Base64(text) => Self::bare(content, KIND_BASE64, format!("\"{text}\"").into()),
                }
            },
            Content::Removed(removed) => {
                let by = match removed.removed {
                    RemovedBy::Retention => "retention",
                    RemovedBy::Redaction => "redaction",
                };
                let (certificate, leaf) = (&removed.certificate, removed.leaf.to_hex());
                let payload = serde_json::json!({ "by": by, "certificate": certificate, "leaf": leaf });
                Self::bare(content, KIND_REMOVED, payload.to_string().into())
            }
        }
    }

    /// What every row has, and nothing of an event. What postgres-es wants not to be null is empty.
    fn bare(content: Content<'a>, data_kind: i16, payload: Cow<'a, str>) -> Self {
        let stream = content.stream();
        Self {
            bytes: 0,
            data_kind,
            record_format: FORMAT_V1,
            aggregate_type: stream.category(),
            aggregate_id: stream.id(),
            event_type: "",
            event_version: "",
            event_id: "",
            source: "",
            time: None,
            data_schema: None,
            data_content_type: None,
            metadata: Metadata::Of(&[]),
            payload,
        }
    }
}

impl<'a> Values<'a> {
    /// Reads a row of [`COLUMNS`].
    pub(crate) fn read(row: &'a PgRow) -> Result<Self, sqlx::Error> {
        let numbers = Numbers {
            position: row.try_get(0)?,
            recorded_at: row.try_get(1)?,
            sequence: row.try_get(2)?,
            previous: row.try_get(3)?,
            epoch: row.try_get(4)?,
        };
        let content = ContentValues {
            bytes: row.try_get(5)?,
            data_kind: row.try_get(6)?,
            record_format: row.try_get(7)?,
            aggregate_type: row.try_get(8)?,
            aggregate_id: row.try_get(9)?,
            event_type: row.try_get(10)?,
            event_version: row.try_get(11)?,
            event_id: row.try_get(12)?,
            source: row.try_get(13)?,
            time: row.try_get(14)?,
            data_schema: row.try_get(15)?,
            data_content_type: row.try_get(16)?,
            // `json` is text on the wire; the driver's type check knows it as a value tree only.
            metadata: Metadata::Stored(row.try_get_unchecked(17)?),
            payload: Cow::Borrowed(row.try_get_unchecked(18)?),
        };
        Ok(Self { numbers, content })
    }

    /// The record that the row is.
    ///
    /// # Errors
    /// `Decode` for a row that no record has made.
    pub(crate) fn record(&self) -> Result<Record, sqlx::Error> {
        let Some((assigned, event)) = self.event()? else { return self.removed().map(Record::Removed) };
        let extensions = self.content.metadata.extensions().map_err(|reason| self.damaged(reason))?;
        let Assigned { position, recorded_at, version, previous, epoch } = assigned;
        let event = event.with(extensions);
        Ok(Record::Event(Box::new(RecordedEvent { position, recorded_at, version, previous, epoch, event })))
    }

    /// Writes the record's line, without making the record.
    ///
    /// # Errors
    /// As [`Values::record`].
    pub(crate) fn line(&self, lines: &mut Lines) -> Result<(), sqlx::Error> {
        match (self.event()?, self.content.metadata) {
            (Some((assigned, event)), Metadata::Stored(extensions)) => {
                let pushed = lines.push_event(assigned, &event, extensions);
                pushed.map_err(|error| self.damaged(crate::error::chain(&error)))
            }
            _ => self.record().map(|record| lines.push(&record)),
        }
    }

    /// Its place in the log and in its stream.
    pub(crate) fn numbers(&self) -> Result<(Position, StreamVersion), sqlx::Error> {
        Ok((known(self.numbers.position, Position::from_i64)?, known(self.numbers.sequence, StreamVersion::from_i64)?))
    }

    /// The event that the row is, but its extensions, with what the log assigned to it; `None` where its content was removed.
    fn event(&self) -> Result<Option<(Assigned, EventRef<'_>)>, sqlx::Error> {
        if self.content.record_format != FORMAT_V1 {
            let reason = format!("record format {} is not known to this release", self.content.record_format);
            return Err(self.damaged(reason));
        }
        let data = match self.content.data_kind {
            KIND_ABSENT => DataRef::Absent,
            KIND_JSON => DataRef::Json(&self.content.payload),
            KIND_BASE64 => DataRef::Base64(self.content.payload.trim_matches('"')),
            KIND_REMOVED => return Ok(None),
            kind => return Err(self.damaged(format!("data kind {kind}"))),
        };
        let (position, version) = self.numbers()?;
        let epoch = self.numbers.epoch.ok_or_else(|| self.damaged("no epoch".into()))?;
        let assigned = Assigned {
            position,
            recorded_at: self.numbers.recorded_at.0,
            version,
            previous: self.numbers.previous.and_then(Position::from_i64),
            epoch: known(epoch, Epoch::from_i64)?,
        };
        let event = EventRef {
            id: self.content.event_id,
            source: self.content.source,
            event_type: self.content.event_type,
            stream: self.stream()?,
            time: self.content.time,
            event_version: Some(self.content.event_version).filter(|version| !version.is_empty()),
            data_schema: self.content.data_schema,
            data_content_type: self.content.data_content_type,
            data,
        };
        Ok(Some((assigned, event)))
    }

    fn stream(&self) -> Result<StreamRef<'_>, sqlx::Error> {
        StreamRef::of(self.content.aggregate_type, self.content.aggregate_id)
            .map_err(|error| self.damaged(error.to_string()))
    }

    fn removed(&self) -> Result<RemovedRecord, sqlx::Error> {
        let (position, version) = self.numbers()?;
        let removed =
            removed(&self.content.payload, position, version, self.stream()?.into(), self.numbers.recorded_at.0);
        removed.ok_or_else(|| self.damaged("not what removal leaves".into()))
    }

    fn damaged(&self, what: String) -> sqlx::Error {
        sqlx::Error::Decode(format!("position {}: {what}", self.numbers.position).into())
    }
}

/// What the column `metadata` holds.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Metadata<'a> {
    /// As it is stored.
    Stored(&'a str),
    /// To be stored: their JSON is written where it goes, and nowhere before.
    Of(&'a [Extension]),
}

impl Metadata<'_> {
    fn extensions(self) -> Result<Vec<Extension>, String> {
        match self {
            Self::Stored(text) => extensions_from_json(text.as_bytes()).map_err(|e| crate::error::chain(&e)),
            Self::Of(extensions) => Ok(extensions.to_vec()),
        }
    }
}

fn removed(
    payload: &str,
    position: Position,
    version: StreamVersion,
    stream: StreamName,
    recorded_at: Timestamp,
) -> Option<RemovedRecord> {
    let payload: serde_json::Value = serde_json::from_str(payload).ok()?;
    let removed = match payload.get("by")?.as_str()? {
        "retention" => RemovedBy::Retention,
        "redaction" => RemovedBy::Redaction,
        _ => return None,
    };
    let certificate = payload.get("certificate")?.as_str()?.to_owned();
    let leaf = Hash::from_hex(payload.get("leaf")?.as_str()?)?;
    Some(RemovedRecord { position, version, stream, recorded_at, removed, certificate, leaf })
}

/// A column that holds one of domain's numbers.
pub(crate) fn number<N, I>(row: &PgRow, column: I, of: impl Fn(i64) -> Option<N>) -> Result<N, sqlx::Error>
where
    I: sqlx::ColumnIndex<PgRow>,
{
    known(row.try_get(column)?, of)
}

fn known<N>(value: i64, of: impl Fn(i64) -> Option<N>) -> Result<N, sqlx::Error> {
    of(value).ok_or_else(|| sqlx::Error::Decode(format!("{value} is not a number that the log writes").into()))
}
