//! One row of postgres-es's `events` and the event that it becomes. Pure.
//!
//! | column | in the event |
//! |---|---|
//! | `aggregate_type`, `aggregate_id` | the stream `category-id`; the category as [`domain::cqrs::category_of`] says |
//! | `sequence` | its version, once it is appended |
//! | `event_type`, `event_version` | `type`, `eventversion` |
//! | `payload` | `data`, with its tokens as they stand, less white space |
//! | `metadata` | extensions, as [`domain::event::extensions_from_metadata`] says |
//! | the column of times, if there is one | `time` |
//! | (all of them) | `id`: `STREAM@SEQUENCE`, so that an import that is run again adds nothing |
//!
//! `TieredEventRepository` with [`domain::cqrs::PayloadForm::AsStored`] gives the same row back. Must never change a
//! value on the way: what has no place in an event is refused by name.

use std::collections::BTreeMap;

use domain::cqrs::category_of;
use domain::event::{self, Data, EventError, NewEvent, TOMBSTONE_TYPE};
use domain::json::{self, Scanner};
use domain::record::RecordedEvent;
use domain::{StreamName, StreamNameError, Timestamp};
use sha2::{Digest, Sha256};
use sqlx::Row as _;
use sqlx::postgres::PgRow;

use crate::chain::chain;

/// A row, as its columns stand there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) aggregate_type: String,
    pub(super) aggregate_id: String,
    pub(super) sequence: i64,
    pub(super) event_type: String,
    pub(super) event_version: String,
    /// JSON text; `None` where it is larger than any event.
    pub(super) payload: Option<String>,
    /// As `payload`.
    pub(super) metadata: Option<String>,
    /// Microseconds since 1970, if the table has a column of times and something stands in it.
    pub(super) time: Option<i64>,
}

/// The stream of an aggregate.
pub(super) fn stream_of(aggregate_type: &str, aggregate_id: &str) -> Result<StreamName, StreamNameError> {
    StreamName::of(&category_of(aggregate_type), aggregate_id)
}

impl Row {
    pub(super) fn of(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            aggregate_type: row.try_get("aggregate_type")?,
            aggregate_id: row.try_get("aggregate_id")?,
            sequence: row.try_get("sequence")?,
            event_type: row.try_get("event_type")?,
            event_version: row.try_get("event_version")?,
            payload: row.try_get("payload")?,
            metadata: row.try_get("metadata")?,
            time: row.try_get("time")?,
        })
    }

    pub(super) fn stream(&self) -> Result<StreamName, StreamNameError> {
        stream_of(&self.aggregate_type, &self.aggregate_id)
    }

    /// The event, of `source`; otherwise the reason why the row cannot be one.
    pub(super) fn event(&self, source: &str) -> Result<NewEvent, String> {
        let stream = self.stream().map_err(|error| error.to_string())?;
        if self.event_type == TOMBSTONE_TYPE {
            return Err(format!(
                "events of the type {TOMBSTONE_TYPE} close a stream: the log keeps that name to itself"
            ));
        }
        let Content { payload, metadata, time } = self.content()?;
        let event = NewEvent {
            id: format!("{stream}@{}", self.sequence),
            source: source.to_owned(),
            event_type: self.event_type.clone(),
            stream,
            time,
            event_version: Some(self.event_version.clone()),
            data_schema: None,
            data_content_type: Some("application/json".to_owned()),
            extensions: event::extensions_from_metadata(metadata).map_err(|error| within("metadata", &error))?,
            data: Data::Json(payload),
        };
        event.check().map_err(|error| chain(&error))?;
        Ok(event)
    }

    /// Adds what the row says to a stream's digest; the reason why not, where it cannot be an event.
    pub(super) fn digest(&self, stream: &mut StreamDigest) -> Result<(), String> {
        let Content { payload, metadata, time } = self.content()?;
        stream.add(&self.event_type, &self.event_version, &payload, &metadata, time.as_deref());
        Ok(())
    }

    fn content(&self) -> Result<Content, String> {
        let too_large = |column| format!("{column}: it is larger than any event");
        let mut payload = String::new();
        let text = self.payload.as_ref().ok_or_else(|| too_large("payload"))?;
        json::compact(text.as_bytes(), &mut payload).map_err(|error| within("payload", &error))?;
        let metadata = self.metadata.as_ref().ok_or_else(|| too_large("metadata"))?;
        let metadata = strings(metadata).map_err(|error| within("metadata", &error))?;
        let time = self.time.map(Timestamp::from_unix_micros).transpose();
        let time = time.map_err(|error| format!("its time: {error}"))?.map(|time| time.to_string());
        Ok(Content { payload, metadata, time })
    }
}

/// What is inside a row.
struct Content {
    payload: String,
    metadata: BTreeMap<String, String>,
    time: Option<String>,
}

fn within(column: &str, error: &(dyn std::error::Error + 'static)) -> String {
    format!("{column}: {}", chain(error))
}

/// cqrs-es's metadata: an object of strings.
fn strings(json: &str) -> Result<BTreeMap<String, String>, EventError> {
    let mut members = BTreeMap::new();
    let mut scanner = Scanner::new(json.as_bytes())?;
    scanner.object(|scanner, name| {
        let Some(value) = scanner.value()?.string() else {
            let reason = "cqrs-es keeps strings there, and this is none".to_owned();
            return Err(EventError::Attribute { name: name.into_owned(), reason });
        };
        members.insert(name.into_owned(), value.into_owned());
        Ok::<(), EventError>(())
    })?;
    scanner.end()?;
    Ok(members)
}

/// The digest of a stream's events, in their order: the same over the rows of the source and over the log's records.
#[derive(Debug, Clone, Default)]
pub(super) struct StreamDigest(Sha256);

impl StreamDigest {
    /// Adds an event of the log; `false` where it is not of the form that the importer writes.
    pub(super) fn add_recorded(&mut self, recorded: &RecordedEvent) -> bool {
        let event = &recorded.event;
        let (Data::Json(payload), Some(version)) = (&event.data, &event.event_version) else { return false };
        let metadata = event::metadata_from_extensions(&event.extensions).into_iter().collect();
        self.add(&event.event_type, version, payload, &metadata, event.time.as_deref());
        true
    }

    fn add(
        &mut self,
        event_type: &str,
        event_version: &str,
        payload: &str,
        metadata: &BTreeMap<String, String>,
        time: Option<&str>,
    ) {
        self.text(event_type);
        self.text(event_version);
        self.text(payload);
        self.0.update(u64::try_from(metadata.len()).expect("a map in memory").to_be_bytes());
        for (key, value) in metadata {
            self.text(key);
            self.text(value);
        }
        self.text(time.unwrap_or_default());
    }

    /// With its length, so that no two sequences of texts are the same bytes.
    fn text(&mut self, text: &str) {
        self.0.update(u64::try_from(text.len()).expect("a text in memory").to_be_bytes());
        self.0.update(text);
    }

    pub(super) fn finish(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}
