//! The record: the one line of bytes that an event is, everywhere (live log, segment, DR, API, Merkle leaf).
//!
//! One function writes it ([`write`]), one reads it ([`read`]); golden bytes pin it. Reading is strict: what
//! is not in the one spelling is refused, so `write(read(line)) == line` for every line that can be read.

mod lines;

use std::convert::Infallible;

use crate::event::{self, DataRef, Draft, EventError, EventRef, NewEvent};
use crate::json::{self, Scanner, Value};
use crate::merkle::Hash;
use crate::{Epoch, Head, Position, StreamName, StreamRef, StreamVersion, Timestamp};

pub use lines::Lines;

/// An event as the log recorded it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedEvent {
    /// Its place in the log.
    pub position: Position,
    /// When the log recorded it.
    pub recorded_at: Timestamp,
    /// Its place in its stream.
    pub version: StreamVersion,
    /// Position of the stream's event before this one; `None` (written "0") for the first.
    pub previous: Option<Position>,
    /// The epoch that acknowledged it.
    pub epoch: Epoch,
    /// What was appended.
    pub event: NewEvent,
}

/// Why a record's content is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemovedBy {
    /// Its category's retention ran out.
    Retention,
    /// A redaction asked for it.
    Redaction,
}

impl RemovedBy {
    /// The word in the removed line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Retention => "retention",
            Self::Redaction => "redaction",
        }
    }
}

/// What stands in the place of a record whose content was taken out (form v1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemovedRecord {
    /// Its place in the log.
    pub position: Position,
    /// Its place in its stream.
    pub version: StreamVersion,
    /// Its stream.
    pub stream: StreamName,
    /// When the log had recorded it.
    pub recorded_at: Timestamp,
    /// Why it is gone.
    pub removed: RemovedBy,
    /// Name of the certificate that says so.
    pub certificate: String,
    /// Its leaf: what the Merkle tree still holds.
    pub leaf: Hash,
}

/// A record: an event, or what is left of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// An event.
    Event(Box<RecordedEvent>),
    /// What is left of one.
    Removed(RemovedRecord),
}

impl Record {
    /// Its place in the log.
    #[must_use]
    pub fn position(&self) -> Position {
        match self {
            Self::Event(event) => event.position,
            Self::Removed(removed) => removed.position,
        }
    }

    /// Its place in its stream.
    #[must_use]
    pub fn version(&self) -> StreamVersion {
        match self {
            Self::Event(event) => event.version,
            Self::Removed(removed) => removed.version,
        }
    }

    /// Its stream.
    #[must_use]
    pub fn stream(&self) -> &StreamName {
        match self {
            Self::Event(event) => &event.event.stream,
            Self::Removed(removed) => &removed.stream,
        }
    }

    /// When the log recorded it.
    #[must_use]
    pub fn recorded_at(&self) -> Timestamp {
        match self {
            Self::Event(event) => event.recorded_at,
            Self::Removed(removed) => removed.recorded_at,
        }
    }

    /// Its line, without LF.
    #[must_use]
    pub fn to_line(&self) -> Vec<u8> {
        let mut line = Vec::with_capacity(512);
        write(self, &mut line);
        line
    }

    /// Its leaf in the Merkle tree: of the line, or for a removed record the one that it names.
    #[must_use]
    pub fn leaf(&self) -> Hash {
        match self {
            Self::Event(_) => crate::merkle::leaf_hash(&self.to_line()),
            Self::Removed(removed) => removed.leaf,
        }
    }
}

/// What the log assigns to an event.
#[derive(Debug, Clone, Copy)]
pub struct Assigned {
    /// Its place in the log.
    pub position: Position,
    /// When the log recorded it.
    pub recorded_at: Timestamp,
    /// Its place in its stream.
    pub version: StreamVersion,
    /// Position of the stream's event before this one.
    pub previous: Option<Position>,
    /// The epoch that acknowledged it.
    pub epoch: Epoch,
}

/// Appends the record's line (without LF) to `out`. The event keeps the rules of [`NewEvent::check`].
pub fn write(record: &Record, out: &mut Vec<u8>) {
    match record {
        Record::Event(recorded) => {
            let RecordedEvent { position, recorded_at, version, previous, epoch, ref event } = **recorded;
            write_owned(Some(Assigned { position, recorded_at, version, previous, epoch }), event, out);
        }
        Record::Removed(removed) => write_removed(removed, out),
    }
}

/// Length of the event's line where the log assigns the longest numbers there are.
pub(crate) fn longest_line_bytes(event: &NewEvent) -> usize {
    let longest = u64::MAX >> 1;
    let position = Position::new(longest).expect("2^63 - 1 is a position");
    let assigned = Assigned {
        position,
        recorded_at: Timestamp::from_unix_micros(0).expect("the epoch of Unix is an instant"),
        version: StreamVersion::new(longest).expect("2^63 - 1 is a version"),
        previous: Some(position),
        epoch: Epoch::new(longest).expect("2^63 - 1 is an epoch"),
    };
    let mut line = Vec::with_capacity(event.bytes() + 1024);
    write_owned(Some(assigned), event, &mut line);
    line.len()
}

/// Appends a client's event to `out`, as it sends it: the record's line without what the log assigns.
pub(crate) fn write_new(event: &NewEvent, out: &mut Vec<u8>) {
    write_owned(None, event, out);
}

fn write_owned(assigned: Option<Assigned>, event: &NewEvent, out: &mut Vec<u8>) {
    let members = |out: &mut Vec<u8>| {
        for extension in &event.extensions {
            out.push(b',');
            event::write_member(extension, out);
        }
        Ok::<(), Infallible>(())
    };
    let Ok(()) = write_event(assigned, &EventRef::of(event), members, out);
}

/// `members` writes the extensions, each behind a comma.
fn write_event<E>(
    assigned: Option<Assigned>,
    event: &EventRef<'_>,
    members: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    out: &mut Vec<u8>,
) -> Result<(), E> {
    out.extend_from_slice(b"{\"specversion\":\"1.0\"");
    write_text("id", event.id, out);
    write_text("source", event.source, out);
    write_text("type", event.event_type, out);
    write_subject(event.stream, out);
    write_optional("time", event.time, out);
    if let Some(assigned) = assigned {
        write_instant("recordedat", assigned.recorded_at, out);
        write_number("position", assigned.position.get(), out);
        write_number("version", assigned.version.get(), out);
        write_number("previous", assigned.previous.map_or(0, Position::get), out);
        write_number("epoch", assigned.epoch.get(), out);
    }
    write_optional("eventversion", event.event_version, out);
    write_optional("dataschema", event.data_schema, out);
    write_optional("datacontenttype", event.data_content_type, out);
    members(out)?;
    match event.data {
        DataRef::Absent => {}
        DataRef::Json(json) => {
            out.extend_from_slice(b",\"data\":");
            out.extend_from_slice(json.as_bytes());
        }
        DataRef::Base64(base64) => write_text("data_base64", base64, out),
    }
    out.push(b'}');
    Ok(())
}

fn write_removed(removed: &RemovedRecord, out: &mut Vec<u8>) {
    out.push(b'{');
    write_number("position", removed.position.get(), out);
    write_number("version", removed.version.get(), out);
    write_subject((&removed.stream).into(), out);
    write_instant("recordedat", removed.recorded_at, out);
    write_text("removed", removed.removed.as_str(), out);
    write_text("certificate", &removed.certificate, out);
    write_text("leaf", &removed.leaf.to_hex(), out);
    out.push(b'}');
}

fn write_name(name: &str, out: &mut Vec<u8>) {
    if out.last() != Some(&b'{') {
        out.push(b',');
    }
    out.push(b'"');
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

fn write_text(name: &str, text: &str, out: &mut Vec<u8>) {
    write_name(name, out);
    json::write_string(text, out);
}

fn write_subject(stream: StreamRef<'_>, out: &mut Vec<u8>) {
    write_name("subject", out);
    out.push(b'"');
    // Nothing of a category is escaped.
    out.extend_from_slice(stream.category().as_bytes());
    out.push(b'-');
    json::write_characters(stream.id(), out);
    out.push(b'"');
}

fn write_optional(name: &str, text: Option<&str>, out: &mut Vec<u8>) {
    if let Some(text) = text {
        write_text(name, text, out);
    }
}

/// As a string: CloudEvents has no numbers of 64 bits.
fn write_number(name: &str, number: u64, out: &mut Vec<u8>) {
    write_name(name, out);
    out.push(b'"');
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    out.push(b'"');
}

fn write_instant(name: &str, instant: Timestamp, out: &mut Vec<u8>) {
    write_name(name, out);
    out.push(b'"');
    instant.write(out);
    out.push(b'"');
}

/// Reads a record's line (without LF).
///
/// # Errors
/// [`EventError::NotCanonical`] for any line that [`write`] would spell otherwise, and whatever rule an event breaks.
pub fn read(line: &[u8]) -> Result<Record, EventError> {
    // No event's line begins with its position, and a removed record's always does.
    let record = if line.starts_with(b"{\"position\"") { read_removed(line)? } else { read_event(line)? };
    // Written again rather than compared on the way: so there is one place that knows the spelling.
    let spelled = record.to_line();
    if spelled == line {
        return Ok(record);
    }
    let same = spelled.iter().zip(line).take_while(|(a, b)| a == b).count();
    Err(EventError::NotCanonical { byte: same })
}

fn read_event(line: &[u8]) -> Result<Record, EventError> {
    let mut draft = Draft::default();
    let (mut position, mut recorded_at, mut version, mut previous, mut epoch) = (None, None, None, None, None);
    let mut scanner = Scanner::new(line)?;
    scanner.object(|scanner, name| {
        let value = scanner.value()?;
        match &*name {
            "position" => position = Some(read_number("position", &value, Position::new)?),
            "recordedat" => recorded_at = Some(read_instant(&value)?),
            "version" => version = Some(read_number("version", &value, StreamVersion::new)?),
            "previous" => previous = Some(read_number("previous", &value, Head::new)?),
            "epoch" => epoch = Some(read_number("epoch", &value, Epoch::new)?),
            other => draft.member(other, value)?,
        }
        Ok::<(), EventError>(())
    })?;
    scanner.end()?;
    let recorded = RecordedEvent {
        event: draft.finish(StreamName::parse)?,
        position: position.ok_or(EventError::Missing("position"))?,
        recorded_at: recorded_at.ok_or(EventError::Missing("recordedat"))?,
        version: version.ok_or(EventError::Missing("version"))?,
        previous: previous.ok_or(EventError::Missing("previous"))?.newest(),
        epoch: epoch.ok_or(EventError::Missing("epoch"))?,
    };
    recorded.check_place()?;
    Ok(Record::Event(Box::new(recorded)))
}

impl RecordedEvent {
    /// The first event of a stream has no previous one, every other has one that stands before it.
    fn check_place(&self) -> Result<(), EventError> {
        let first = self.version == StreamVersion::FIRST;
        if self.previous.is_none() == first && self.previous < Some(self.position) {
            return Ok(());
        }
        Err(EventError::attribute("previous", "it is \"0\" for a stream's first event, else less than position"))
    }
}

fn read_removed(line: &[u8]) -> Result<Record, EventError> {
    let (mut position, mut version, mut stream, mut recorded_at) = (None, None, None, None);
    let (mut removed, mut certificate, mut leaf) = (None, None, None);
    let mut scanner = Scanner::new(line)?;
    scanner.object(|scanner, name| {
        let value = scanner.value()?;
        match &*name {
            "position" => position = Some(read_number("position", &value, Position::new)?),
            "version" => version = Some(read_number("version", &value, StreamVersion::new)?),
            "subject" => stream = Some(read_stream(&value)?),
            "recordedat" => recorded_at = Some(read_instant(&value)?),
            "removed" => removed = Some(read_removed_by(&value)?),
            "certificate" => certificate = Some(event::string("certificate", &value)?.into_owned()),
            "leaf" => leaf = Some(read_leaf(&value)?),
            other => return Err(EventError::attribute(other, "a removed record has no such member")),
        }
        Ok(())
    })?;
    scanner.end()?;
    let certificate = certificate.ok_or(EventError::Missing("certificate"))?;
    event::not_empty("certificate", &certificate)?;
    Ok(Record::Removed(RemovedRecord {
        position: position.ok_or(EventError::Missing("position"))?,
        version: version.ok_or(EventError::Missing("version"))?,
        stream: stream.ok_or(EventError::Missing("subject"))?,
        recorded_at: recorded_at.ok_or(EventError::Missing("recordedat"))?,
        removed: removed.ok_or(EventError::Missing("removed"))?,
        certificate,
        leaf: leaf.ok_or(EventError::Missing("leaf"))?,
    }))
}

fn read_number<N>(name: &str, value: &Value<'_>, number: impl Fn(u64) -> Option<N>) -> Result<N, EventError> {
    let text = event::string(name, value)?;
    text.parse().ok().and_then(number).ok_or_else(|| EventError::attribute(name, "no number that it can be"))
}

fn read_instant(value: &Value<'_>) -> Result<Timestamp, EventError> {
    let text = event::string("recordedat", value)?;
    Timestamp::parse_rfc3339(&text).map_err(|e| EventError::attribute("recordedat", e.to_string()))
}

fn read_stream(value: &Value<'_>) -> Result<StreamName, EventError> {
    let text = event::string("subject", value)?;
    StreamName::parse(&text).map_err(|e| EventError::attribute("subject", e.to_string()))
}

fn read_removed_by(value: &Value<'_>) -> Result<RemovedBy, EventError> {
    let text = event::string("removed", value)?;
    let by = [RemovedBy::Retention, RemovedBy::Redaction].into_iter().find(|by| by.as_str() == text);
    by.ok_or_else(|| EventError::attribute("removed", "\"retention\" or \"redaction\" is expected"))
}

fn read_leaf(value: &Value<'_>) -> Result<Hash, EventError> {
    let text = event::string("leaf", value)?;
    Hash::from_hex(&text).ok_or_else(|| EventError::attribute("leaf", "64 lower-case hexadecimal digits are expected"))
}
