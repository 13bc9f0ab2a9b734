//! From CloudEvents 1.0 in the JSON format, structured mode, to an event; single and batch (JSON format §3, §4).
//!
//! Members may stand in any order and with any white space. A null attribute counts as absent (§2.2).

use std::borrow::Cow;

use super::{Data, EventError, Extension, ExtensionValue, NewEvent, SEALED_BY_EXTENSION};
use crate::append::{InvalidRequest, REQUEST_BYTES_MAX, REQUEST_EVENTS_MAX};
use crate::json::{Kind, Scanner, Value};
use crate::types::stream::{StreamName, StreamNameError};

impl NewEvent {
    /// Reads a client's event; its `subject` is the stream.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn from_cloudevent(json: &[u8]) -> Result<Self, EventError> {
        Self::from_cloudevent_with(json, StreamName::parse)
    }

    /// Reads an event whose `subject` is no stream's name: `subject_to_stream` makes one of it.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn from_cloudevent_with(
        json: &[u8],
        subject_to_stream: impl FnOnce(&str) -> Result<StreamName, StreamNameError>,
    ) -> Result<Self, EventError> {
        let mut scanner = Scanner::new(json)?;
        let event = client_event(&mut scanner, subject_to_stream)?;
        scanner.end()?;
        Ok(event)
    }

    /// Reads a client's batch: a JSON array of events, each with its stream as `subject`.
    ///
    /// # Errors
    /// [`InvalidRequest::Event`] with the index of the first event that breaks a rule, or what is wrong with
    /// the whole (no array, too many, too large). An empty array is read as such.
    pub fn batch_from_cloudevents(json: &[u8]) -> Result<Vec<Self>, InvalidRequest> {
        if json.len() > REQUEST_BYTES_MAX {
            return Err(InvalidRequest::TooLarge);
        }
        let mut scanner = Scanner::new(json)?;
        let events = client_events(&mut scanner)?;
        scanner.end()?;
        Ok(events)
    }
}

/// Reads an array of clients' events.
pub(crate) fn client_events(scanner: &mut Scanner<'_>) -> Result<Vec<NewEvent>, InvalidRequest> {
    let mut events = Vec::new();
    scanner.array(|scanner| {
        let index = events.len();
        if index == REQUEST_EVENTS_MAX {
            return Err(InvalidRequest::TooManyEvents);
        }
        let event = client_event(scanner, StreamName::parse);
        events.push(event.map_err(|source| InvalidRequest::Event { index, source })?);
        Ok(())
    })?;
    Ok(events)
}

fn client_event<'a>(
    scanner: &mut Scanner<'a>,
    subject_to_stream: impl FnOnce(&str) -> Result<StreamName, StreamNameError>,
) -> Result<NewEvent, EventError> {
    let mut draft = Draft::default();
    scanner.object(|scanner, name| draft.member(&name, scanner.value()?))?;
    let event = draft.finish(subject_to_stream)?;
    if event.extensions.iter().any(|e| e.name == SEALED_BY_EXTENSION) {
        return Err(EventError::attribute(SEALED_BY_EXTENSION, "it is the service's own and cannot be sent"));
    }
    Ok(event)
}

/// An event's members as they are met.
#[derive(Debug, Default)]
pub(crate) struct Draft<'a> {
    spec_version: Option<Cow<'a, str>>,
    id: Option<Cow<'a, str>>,
    source: Option<Cow<'a, str>>,
    event_type: Option<Cow<'a, str>>,
    subject: Option<Cow<'a, str>>,
    time: Option<Cow<'a, str>>,
    event_version: Option<Cow<'a, str>>,
    data_schema: Option<Cow<'a, str>>,
    data_content_type: Option<Cow<'a, str>>,
    extensions: Vec<Extension>,
    data: Option<Data>,
}

impl<'a> Draft<'a> {
    /// Takes a member. The attributes that the log assigns are refused: a reader of records takes them first.
    pub(crate) fn member(&mut self, name: &str, value: Value<'a>) -> Result<(), EventError> {
        let attribute = match name {
            "specversion" => &mut self.spec_version,
            "id" => &mut self.id,
            "source" => &mut self.source,
            "type" => &mut self.event_type,
            "subject" => &mut self.subject,
            "time" => &mut self.time,
            "eventversion" => &mut self.event_version,
            "dataschema" => &mut self.data_schema,
            "datacontenttype" => &mut self.data_content_type,
            "data" => return self.data(name, Data::Json(value.compact().into_owned())),
            "data_base64" => return self.data(name, Data::Base64(string(name, &value)?.into_owned())),
            _ => return self.extension(name, &value),
        };
        if value.kind != Kind::Null {
            *attribute = Some(string(name, &value)?);
        }
        Ok(())
    }

    fn data(&mut self, name: &str, data: Data) -> Result<(), EventError> {
        match self.data.replace(data) {
            None => Ok(()),
            Some(_) => Err(EventError::attribute(name, "an event has data or data_base64, not both")),
        }
    }

    fn extension(&mut self, name: &str, value: &Value<'a>) -> Result<(), EventError> {
        if value.kind == Kind::Null {
            // Absent, but under a name that an attribute could have.
            return match super::extension_name(name) {
                Err(EventError::Assigned(_)) => Ok(()),
                other => other,
            };
        }
        super::extension_name(name)?;
        self.extensions.push(Extension { name: name.to_owned(), value: extension_value(name, value)?.into() });
        Ok(())
    }

    /// The event, all rules checked.
    pub(crate) fn finish(
        self,
        subject_to_stream: impl FnOnce(&str) -> Result<StreamName, StreamNameError>,
    ) -> Result<NewEvent, EventError> {
        if required("specversion", self.spec_version)? != "1.0" {
            return Err(EventError::attribute("specversion", "\"1.0\" is expected"));
        }
        let subject = required("subject", self.subject)?;
        let stream = subject_to_stream(&subject).map_err(|e| EventError::attribute("subject", e.to_string()))?;
        let mut extensions = self.extensions;
        extensions.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let event = NewEvent {
            id: required("id", self.id)?.into_owned(),
            source: required("source", self.source)?.into_owned(),
            event_type: required("type", self.event_type)?.into_owned(),
            stream,
            time: self.time.map(Cow::into_owned),
            event_version: self.event_version.map(Cow::into_owned),
            data_schema: self.data_schema.map(Cow::into_owned),
            data_content_type: self.data_content_type.map(Cow::into_owned),
            extensions,
            data: self.data.unwrap_or(Data::Absent),
        };
        // The scanner that gave the data has checked it.
        event.check_all_but_json()?;
        Ok(event)
    }
}

/// An extension's value as JSON holds it.
pub(super) fn extension_value<'a>(name: &str, value: &Value<'a>) -> Result<ExtensionValue<Cow<'a, str>>, EventError> {
    let other = || EventError::attribute(name, "an extension is a string, a boolean or a 32-bit integer");
    match value.kind {
        Kind::String => string(name, value).map(ExtensionValue::String),
        Kind::Boolean => Ok(ExtensionValue::Boolean(value.text == "true")),
        Kind::Number => value.text.parse().map(ExtensionValue::Integer).map_err(|_| other()),
        Kind::Null | Kind::Array | Kind::Object => Err(other()),
    }
}

fn required<'a>(name: &'static str, text: Option<Cow<'a, str>>) -> Result<Cow<'a, str>, EventError> {
    text.ok_or(EventError::Missing(name))
}

/// The value as a string.
pub(crate) fn string<'a>(name: &str, value: &Value<'a>) -> Result<Cow<'a, str>, EventError> {
    value.string().ok_or_else(|| EventError::attribute(name, "a string is expected"))
}
