//! The import's name, and the event that it opens with.

use std::fmt::Write as _;

use domain::append::{AppendRequest, Expectation, ExpectedVersion};
use domain::event::{Data, NewEvent};
use domain::log::{Direction, LogReader, ReadError};
use domain::record::Record;
use domain::{Epoch, Position, StreamName, StreamVersion, Timestamp};
use serde_json::{Value, json};

use super::survey::Survey;
use super::{Import, RecordedAt, file_name};

/// Type of the opening event.
const STARTED_TYPE: &str = "coldstream.import.started";
/// Its source.
const SOURCE: &str = "/coldstream/import";

/// The import of what has this digest: name of its checkpoint and of its stream.
pub(super) fn consumer(sha256: &[u8; 32]) -> String {
    format!("import-{}", &hexadecimal(sha256)[..16])
}

pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a String cannot fail");
        text
    })
}

/// How an import was begun, and where.
#[derive(Debug, Clone, Copy)]
pub(super) struct Began {
    pub(super) recorded_at: RecordedAt,
    /// Of the opening event.
    pub(super) position: Position,
    epoch: Epoch,
}

impl Began {
    /// Whether another region may have been active since, whose checkpoints are not known here.
    pub(super) async fn is_of_an_older_epoch(&self, log: &dyn LogReader) -> Result<bool, ReadError> {
        Ok(log.log_head().await?.epoch > self.epoch)
    }
}

/// How the import `name` was begun, as its opening event says; `None` if it was not, or if that is removed.
///
/// # Errors
/// `Unavailable` where the event is archived and `reader` reads no archive.
pub(super) async fn began(reader: &dyn LogReader, name: &str) -> Result<Option<Began>, ReadError> {
    let stream = StreamName::parse(name).expect("import- and hexadecimal digits");
    if reader.stream_head(&stream).await?.is_none() {
        return Ok(None);
    }
    let records = reader.read_stream(&stream, StreamVersion::FIRST, Direction::Forward, 1).await?;
    match records.into_iter().next() {
        Some(Record::Event(event)) if event.version == StreamVersion::FIRST => {
            let Data::Json(data) = &event.event.data else { return Ok(None) };
            let data: Value = serde_json::from_str(data).unwrap_or_default();
            let recorded_at = data["recordedat"].as_str().and_then(RecordedAt::parse);
            let (position, epoch) = (event.position, event.epoch);
            Ok(recorded_at.map(|recorded_at| Began { recorded_at, position, epoch }))
        }
        Some(Record::Removed(_)) => Ok(None),
        _ => Err(ReadError::Unavailable {
            reason: format!("the opening event of {stream} is in the archive, which archive.store does not name"),
        }),
    }
}

/// The append of the opening event of a file's import. `now` is the true time: where the source's times are recorded,
/// this is the one event that says when that was really done.
pub(super) fn request(import: &Import, survey: &Survey, now: Timestamp) -> AppendRequest {
    let sha256 = hexadecimal(&survey.file.sha256);
    let data = json!({
        "file": file_name(&import.file),
        "sha256": sha256,
        "bytes": survey.file.bytes,
        "events": survey.events,
        "recordedat": import.recorded_at.as_str(),
        "startedat": now.to_string(),
    });
    // Recorded now, it would raise everything after it to now (LOG-2).
    let recorded_at = match import.recorded_at {
        RecordedAt::Clock => None,
        RecordedAt::Source => survey.first_time,
    };
    append(&consumer(&survey.file.sha256), &sha256, &data, now, recorded_at)
}

/// The append of the opening event of the import `name`, which is its stream too.
pub(super) fn append(
    name: &str,
    id: &str,
    data: &Value,
    now: Timestamp,
    recorded_at: Option<Timestamp>,
) -> AppendRequest {
    let stream = StreamName::parse(name).expect("import- and hexadecimal digits");
    let event = NewEvent {
        id: id.to_owned(),
        source: SOURCE.to_owned(),
        event_type: STARTED_TYPE.to_owned(),
        stream: stream.clone(),
        time: Some(now.to_string()),
        event_version: Some("1.0".to_owned()),
        data_schema: None,
        data_content_type: Some("application/json".to_owned()),
        extensions: Vec::new(),
        data: Data::Json(data.to_string()),
    };
    AppendRequest {
        events: vec![event],
        expect: vec![Expectation { stream, version: ExpectedVersion::NoStream }],
        recorded_at,
        ..AppendRequest::default()
    }
}
