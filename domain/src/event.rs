//! An event before the log has recorded it: a CloudEvents 1.0 event that keeps our rules.
//!
//! It owns the rules of an event and the ways into one (CloudEvents JSON, cqrs-es metadata). It never knows
//! where an event stands: that is the log's to say ([`crate::record`]).

mod borrowed;
mod cloudevents;
mod extensions;
mod tags;
mod trace;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use thiserror::Error;

use crate::append::EVENT_BYTES_MAX;
use crate::json::{self, Scanner};
use crate::{ErrorKind, StreamName, Timestamp};

pub use borrowed::{DataRef, EventRef};
pub(crate) use cloudevents::{Draft, client_events, string};
pub use extensions::{
    extensions_from_json, extensions_from_metadata, extensions_to_json, metadata_from_extensions, write_extensions,
};
pub(crate) use extensions::{write_member, write_members_of};
pub use tags::{TAGS_EXTENSION, TAGS_MAX};
pub use trace::{TRACEPARENT_EXTENSION, TRACESTATE_EXTENSION, TraceContext};

/// An attribute (and so id, source, type …) is at most this long.
pub use crate::types::stream::ATTRIBUTE_BYTES_MAX;
/// An event has at most this many extensions.
pub const EXTENSIONS_MAX: usize = 64;
/// Names and values of an event's extensions together are at most this long.
pub const EXTENSION_BYTES_MAX: usize = 8 << 10;
/// Data nests at most this deep.
pub const DATA_LEVELS_MAX: usize = json::LEVELS_MAX;

/// Attributes that the log assigns; a client that sends one is refused.
pub const ASSIGNED_ATTRIBUTES: [&str; 5] = ["recordedat", "position", "version", "previous", "epoch"];

/// Attributes with a field of their own, which no extension can be called.
const NAMED_ATTRIBUTES: [&str; 10] =
    ["specversion", "id", "source", "type", "subject", "time", "eventversion", "dataschema", "datacontenttype", "data"];

/// The extension that holds cqrs-es metadata whose keys cannot be attributes: a JSON object, as text.
pub const METADATA_EXTENSION: &str = "metadata";
/// The extension that says by which key the service sealed fields of `data`; a client cannot send it.
pub const SEALED_BY_EXTENSION: &str = "sealedby";
/// Extensions with a meaning of their own; their values are strings.
pub const RESERVED_EXTENSIONS: [&str; 3] = [METADATA_EXTENSION, TAGS_EXTENSION, SEALED_BY_EXTENSION];

/// The type of the event that closes a stream for good.
pub const TOMBSTONE_TYPE: &str = "coldstream.tombstone";

/// The payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// There is none.
    Absent,
    /// JSON text with its tokens as they were appended, less insignificant white space.
    Json(String),
    /// Base64 text of binary data (`data_base64`), as appended.
    Base64(String),
}

/// A value of an extension attribute (CloudEvents 1.0 §3.1, JSON format §2.2), its text owned or borrowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExtensionValue<T = String> {
    /// Text.
    String(T),
    /// Truth.
    Boolean(bool),
    /// A 32-bit number; larger ones are strings.
    Integer(i32),
}

/// An extension attribute. Its name is `[a-z0-9]+`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extension<T = String> {
    /// Its name.
    pub name: T,
    /// Its value.
    pub value: ExtensionValue<T>,
}

/// An event to append. It can only be made by functions that check it ([`NewEvent::check`] among them), so
/// whatever holds one can rely on the rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    /// Unique within `source`.
    pub id: String,
    /// Who says so: a URI reference.
    pub source: String,
    /// What happened, such as `content.revised`.
    pub event_type: String,
    /// The stream: CloudEvents' `subject`.
    pub stream: StreamName,
    /// When it happened, as its source says: RFC 3339, kept as text exactly as given.
    pub time: Option<String>,
    /// Version of the payload's form: cqrs-es's event_version.
    pub event_version: Option<String>,
    /// Where the payload's schema is.
    pub data_schema: Option<String>,
    /// Media type of the payload.
    pub data_content_type: Option<String>,
    /// Sorted by name, no name twice.
    pub extensions: Vec<Extension>,
    /// The payload.
    pub data: Data,
}

/// Which rule an event breaks. The text names the attribute.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EventError {
    /// It is no JSON, or JSON that has two meanings.
    #[error("not acceptable JSON")]
    Json(#[from] crate::json::JsonError),
    /// A member is missing.
    #[error("{0:?} is missing")]
    Missing(&'static str),
    /// A member has a value that it cannot have.
    #[error("{name:?}: {reason}")]
    Attribute {
        /// The attribute.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// A member that the log assigns.
    #[error("{0:?} is assigned by the log and cannot be sent")]
    Assigned(String),
    /// Not one of ours.
    #[error("the event is over {} bytes", crate::append::EVENT_BYTES_MAX)]
    TooLarge,
    /// Too many extensions.
    #[error("an event has at most {EXTENSIONS_MAX} extensions of {EXTENSION_BYTES_MAX} bytes together")]
    TooManyExtensions,
    /// The record's line is not in its one spelling.
    #[error("not the one spelling of a record, from byte {byte} on")]
    NotCanonical {
        /// First byte that differs.
        byte: usize,
    },
}

impl EventError {
    /// What the caller has to do. A reader of stored bytes, to whom they mean rot, says Corrupt instead.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }

    pub(crate) fn attribute(name: &str, reason: impl Into<String>) -> Self {
        Self::Attribute { name: name.to_owned(), reason: reason.into() }
    }
}

impl NewEvent {
    /// Rough size of the event's line in bytes: never less than what was appended.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let data = match &self.data {
            Data::Absent => 0,
            Data::Json(text) | Data::Base64(text) => text.len(),
        };
        let extensions = self.extensions.iter().map(|e| {
            e.name.len()
                + match &e.value {
                    ExtensionValue::String(text) => text.len(),
                    ExtensionValue::Boolean(_) | ExtensionValue::Integer(_) => 11,
                }
        });
        data + self.id.len()
            + self.source.len()
            + self.event_type.len()
            + self.stream.as_str().len()
            + text(&self.time)
            + text(&self.event_version)
            + text(&self.data_schema)
            + text(&self.data_content_type)
            + extensions.sum::<usize>()
    }
    /// Checks all rules of an event. The log calls it on each event of a request.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn check(&self) -> Result<(), EventError> {
        self.check_all_but_json()?;
        let Data::Json(text) = &self.data else { return Ok(()) };
        let mut scanner = Scanner::new(text.as_bytes())?;
        let compact = scanner.value()?.compact().len() == text.len();
        scanner.end()?;
        if compact { Ok(()) } else { Err(EventError::attribute("data", "white space between tokens")) }
    }

    /// All rules except that [`Data::Json`] holds compact JSON: for events whose data a scanner just gave.
    pub(crate) fn check_all_but_json(&self) -> Result<(), EventError> {
        not_empty("id", &self.id)?;
        not_empty("source", &self.source)?;
        not_empty("type", &self.event_type)?;
        self.time.as_deref().map_or(Ok(()), instant)?;
        // Empty, a column of postgres-es could not tell it from an absent one.
        self.event_version.as_deref().map_or(Ok(()), |text| not_empty("eventversion", text))?;
        self.data_schema.as_deref().map_or(Ok(()), |text| not_empty("dataschema", text))?;
        self.data_content_type.as_deref().map_or(Ok(()), |text| not_empty("datacontenttype", text))?;
        check_extensions(&self.extensions)?;
        if let Data::Base64(text) = &self.data {
            STANDARD.decode(text).map_err(|e| EventError::attribute("data_base64", format!("no base64: {e}")))?;
        }
        self.check_size()
    }

    /// The line is within the limit wherever the log will put it: with the longest numbers it could assign.
    fn check_size(&self) -> Result<(), EventError> {
        let data = match &self.data {
            Data::Absent => 0,
            Data::Json(text) | Data::Base64(text) => text.len(),
        };
        if data <= EVENT_BYTES_MAX - ENVELOPE_BYTES_MAX || crate::record::longest_line_bytes(self) <= EVENT_BYTES_MAX {
            return Ok(());
        }
        Err(EventError::TooLarge)
    }
}

/// A line without its data is shorter than this, whatever the event: eight attributes and the extensions with
/// each character escaped, all names and punctuation, and what the log assigns.
const ENVELOPE_BYTES_MAX: usize = 64 << 10;
const _: () = assert!(
    8 * ATTRIBUTE_BYTES_MAX * 2 + EXTENSION_BYTES_MAX * 2 + EXTENSIONS_MAX * 6 + 1024 <= ENVELOPE_BYTES_MAX,
    "an event whose data leaves room for the longest envelope is never too large"
);

impl<T: AsRef<str>> Extension<T> {
    fn check(&self) -> Result<(), EventError> {
        let name = self.name.as_ref();
        extension_name(name)?;
        match &self.value {
            ExtensionValue::String(text) => attribute_text(name, text.as_ref()),
            _ if RESERVED_EXTENSIONS.contains(&name) => Err(EventError::attribute(name, "a string is expected")),
            ExtensionValue::Boolean(_) | ExtensionValue::Integer(_) => Ok(()),
        }
    }

    /// Length of name and value as text.
    fn bytes(&self) -> usize {
        self.name.as_ref().len()
            + match &self.value {
                ExtensionValue::String(text) => text.as_ref().len(),
                ExtensionValue::Boolean(value) => value.to_string().len(),
                ExtensionValue::Integer(value) => value.to_string().len(),
            }
    }
}

/// Each extension, their order, their number and their size.
fn check_extensions<T: AsRef<str>>(extensions: &[Extension<T>]) -> Result<(), EventError> {
    if extensions.len() > EXTENSIONS_MAX {
        return Err(EventError::TooManyExtensions);
    }
    let mut bytes = 0;
    let mut before = "";
    for extension in extensions {
        extension.check()?;
        let name = extension.name.as_ref();
        if before >= name {
            return Err(EventError::attribute(name, "extensions are sorted by name, each stands once"));
        }
        before = name;
        bytes += extension.bytes();
    }
    if bytes > EXTENSION_BYTES_MAX { Err(EventError::TooManyExtensions) } else { Ok(()) }
}

/// Whether an extension can be called that.
fn extension_name(name: &str) -> Result<(), EventError> {
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()) {
        return Err(EventError::attribute(name, "an extension's name is made of a-z and 0-9"));
    }
    if name.len() > ATTRIBUTE_BYTES_MAX {
        return Err(EventError::attribute(name, "an extension's name is at most 512 bytes"));
    }
    if ASSIGNED_ATTRIBUTES.contains(&name) {
        return Err(EventError::Assigned(name.to_owned()));
    }
    if NAMED_ATTRIBUTES.contains(&name) {
        return Err(EventError::attribute(name, "this attribute is no extension"));
    }
    Ok(())
}

/// Whether an attribute can have that value.
pub(crate) fn attribute_text(name: &str, text: &str) -> Result<(), EventError> {
    if text.len() > ATTRIBUTE_BYTES_MAX {
        return Err(EventError::attribute(name, "an attribute is at most 512 bytes"));
    }
    if json::holds_control(text) {
        return Err(EventError::attribute(name, "an attribute holds no control characters"));
    }
    Ok(())
}

pub(crate) fn not_empty(name: &str, text: &str) -> Result<(), EventError> {
    if text.is_empty() { Err(EventError::attribute(name, "it is empty")) } else { attribute_text(name, text) }
}

fn instant(text: &str) -> Result<(), EventError> {
    attribute_text("time", text)?;
    // The parser takes a space for the T and U+2212 for the minus as well; RFC 3339's grammar does not.
    let strict = text.is_ascii() && matches!(text.as_bytes().get(10), Some(b'T' | b't'));
    match Timestamp::parse_rfc3339(text) {
        Ok(_) if strict => Ok(()),
        _ => Err(EventError::attribute("time", "not an RFC 3339 instant between the years 1 and 9999")),
    }
}
