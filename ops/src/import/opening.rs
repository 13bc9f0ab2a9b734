//! The import's name, and the event that it opens with.

use std::fmt::Write as _;

use domain::append::{AppendRequest, Expectation, ExpectedVersion};
use domain::event::{Data, NewEvent};
use domain::{StreamName, Timestamp};
use serde_json::json;

use super::survey::Survey;
use super::{Import, RecordedAt, file_name};

/// Type of the opening event.
const STARTED_TYPE: &str = "coldstream.import.started";
/// Its source.
const SOURCE: &str = "/coldstream/import";

/// The import of a file: name of its checkpoint and of its stream.
pub(super) fn consumer(sha256: &[u8; 32]) -> String {
    format!("import-{}", &hexadecimal(sha256)[..16])
}

pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a String cannot fail");
        text
    })
}

/// The append of the opening event. `now` is the true time: where the source's times are recorded, this is
/// the one event that says when that was really done.
pub(super) fn request(import: &Import, survey: &Survey, now: Timestamp) -> AppendRequest {
    let stream = StreamName::parse(&consumer(&survey.file.sha256)).expect("import- and hexadecimal digits");
    let sha256 = hexadecimal(&survey.file.sha256);
    let data = json!({
        "file": file_name(&import.file),
        "sha256": sha256,
        "bytes": survey.file.bytes,
        "events": survey.events,
        "recordedat": import.recorded_at.as_str(),
        "startedat": now.to_string(),
    });
    let event = NewEvent {
        id: sha256,
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
    // Recorded now, it would raise everything after it to now (LOG-2).
    let recorded_at = match import.recorded_at {
        RecordedAt::Clock => None,
        RecordedAt::Source => survey.first_time,
    };
    AppendRequest {
        events: vec![event],
        expect: vec![Expectation { stream, version: ExpectedVersion::NoStream }],
        recorded_at,
        ..AppendRequest::default()
    }
}
