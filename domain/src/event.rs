//! An event before the log has recorded it: a CloudEvents 1.0 event that keeps our rules (record form §3).

use thiserror::Error;

use crate::StreamName;

/// An attribute (and so id, source, type …) is at most this long.
pub use crate::types::stream::ATTRIBUTE_BYTES_MAX;
/// An event has at most this many extensions.
pub const EXTENSIONS_MAX: usize = 64;
/// Names and values of an event's extensions together are at most this long.
pub const EXTENSION_BYTES_MAX: usize = 8 << 10;
/// Data nests at most this deep.
pub const DATA_LEVELS_MAX: usize = 64;

/// Attributes that the log assigns; a client that sends one is refused.
pub const ASSIGNED_ATTRIBUTES: [&str; 5] = ["recordedat", "position", "version", "previous", "epoch"];

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

/// A value of an extension attribute (CloudEvents 1.0 §3.1, JSON format §2.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExtensionValue {
    /// Text.
    String(String),
    /// Truth.
    Boolean(bool),
    /// A 32-bit number; larger ones are strings.
    Integer(i32),
}

/// An extension attribute. Its name is `[a-z0-9]+`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extension {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: ExtensionValue,
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
}
