//! An event whose parts belong to somebody else, such as the columns of a row: it can be written without being made.

use super::{Data, Extension, NewEvent};
use crate::StreamRef;

/// All of an event but its extensions. It keeps the rules of [`NewEvent::check`].
#[derive(Debug, Clone, Copy)]
pub struct EventRef<'a> {
    /// Unique within `source`.
    pub id: &'a str,
    /// Who says so.
    pub source: &'a str,
    /// What happened.
    pub event_type: &'a str,
    /// The stream.
    pub stream: StreamRef<'a>,
    /// When it happened, as its source says.
    pub time: Option<&'a str>,
    /// Version of the payload's form.
    pub event_version: Option<&'a str>,
    /// Where the payload's schema is.
    pub data_schema: Option<&'a str>,
    /// Media type of the payload.
    pub data_content_type: Option<&'a str>,
    /// The payload.
    pub data: DataRef<'a>,
}

/// A payload that belongs to somebody else.
#[derive(Debug, Clone, Copy)]
pub enum DataRef<'a> {
    /// There is none.
    Absent,
    /// JSON text.
    Json(&'a str),
    /// Base64 text.
    Base64(&'a str),
}

impl<'a> EventRef<'a> {
    /// What `event` owns.
    #[must_use]
    pub fn of(event: &'a NewEvent) -> Self {
        Self {
            id: &event.id,
            source: &event.source,
            event_type: &event.event_type,
            stream: (&event.stream).into(),
            time: event.time.as_deref(),
            event_version: event.event_version.as_deref(),
            data_schema: event.data_schema.as_deref(),
            data_content_type: event.data_content_type.as_deref(),
            data: match &event.data {
                Data::Absent => DataRef::Absent,
                Data::Json(text) => DataRef::Json(text),
                Data::Base64(text) => DataRef::Base64(text),
            },
        }
    }

    /// The event that this is with `extensions`.
    #[must_use]
    pub fn with(self, extensions: Vec<Extension>) -> NewEvent {
        NewEvent {
            id: self.id.to_owned(),
            source: self.source.to_owned(),
            event_type: self.event_type.to_owned(),
            stream: self.stream.into(),
            time: self.time.map(str::to_owned),
            event_version: self.event_version.map(str::to_owned),
            data_schema: self.data_schema.map(str::to_owned),
            data_content_type: self.data_content_type.map(str::to_owned),
            extensions,
            data: match self.data {
                DataRef::Absent => Data::Absent,
                DataRef::Json(text) => Data::Json(text.to_owned()),
                DataRef::Base64(text) => Data::Base64(text.to_owned()),
            },
        }
    }
}
