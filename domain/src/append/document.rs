//! The append document (`application/vnd.coldstream.append+json`): events of one stream or many, and what is
//! expected of streams: `{"expect":[{"stream":"…","version":"7"|7|"any"|"none"|"exists"}],"events":[…]}`.

use std::fmt;
use std::io::Write as _;

use super::{AppendRequest, Expectation, ExpectedVersion, InvalidRequest, REQUEST_BYTES_MAX, REQUEST_EVENTS_MAX};
use crate::event::{NewEvent, client_events};
use crate::json::{self, Kind, Scanner, Value};
use crate::record;
use crate::{StreamName, StreamVersion};

impl AppendRequest {
    /// Reads an append document and checks it ([`AppendRequest::check`]). `expect` may be absent.
    ///
    /// # Errors
    /// The first rule that it breaks; [`InvalidRequest::Event`] says which event.
    pub fn from_document(json: &[u8]) -> Result<Self, InvalidRequest> {
        if json.len() > REQUEST_BYTES_MAX {
            return Err(InvalidRequest::TooLarge);
        }
        let mut request = Self::default();
        let mut scanner = Scanner::new(json)?;
        scanner.object(|scanner, name| {
            match &*name {
                "expect" => scanner.array(|scanner| {
                    if request.expect.len() == REQUEST_EVENTS_MAX {
                        return Err(InvalidRequest::document("expect", "it holds too many expectations"));
                    }
                    request.expect.push(expectation(scanner)?);
                    Ok(())
                })?,
                "events" => request.events = client_events(scanner)?,
                other => return Err(InvalidRequest::document(other, "an append document has no such member")),
            }
            Ok::<(), InvalidRequest>(())
        })?;
        scanner.end()?;
        request.check()?;
        Ok(request)
    }
}

impl AppendRequest {
    /// Writes the append document that [`AppendRequest::from_document`] reads. What only an importer may say
    /// (`recorded_at`, `checkpoint`) is no part of it.
    #[must_use]
    pub fn to_document(&self) -> Vec<u8> {
        let bytes: usize = self.events.iter().map(NewEvent::bytes).sum();
        let mut out = Vec::with_capacity(bytes + 256 * (self.events.len() + self.expect.len()));
        out.extend_from_slice(b"{\"expect\":[");
        for (index, expectation) in self.expect.iter().enumerate() {
            out.extend_from_slice(if index == 0 { b"{\"stream\":" } else { b",{\"stream\":" });
            json::write_string(expectation.stream.as_str(), &mut out);
            write!(out, ",\"version\":\"{}\"}}", expectation.version).expect("a Vec takes all that is written");
        }
        out.extend_from_slice(b"],\"events\":[");
        for (index, event) in self.events.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            record::write_new(event, &mut out);
        }
        out.extend_from_slice(b"]}");
        out
    }
}

fn expectation(scanner: &mut Scanner<'_>) -> Result<Expectation, InvalidRequest> {
    let (mut stream, mut version) = (None, None);
    scanner.object(|scanner, name| {
        let value = scanner.value()?;
        match &*name {
            "stream" => stream = Some(stream_name(&value)?),
            "version" => version = Some(expected_version(&value)?),
            other => return Err(InvalidRequest::document(other, "an expectation has no such member")),
        }
        Ok(())
    })?;
    let missing = |member| InvalidRequest::document(member, "it is missing");
    Ok(Expectation {
        stream: stream.ok_or_else(|| missing("stream"))?,
        version: version.ok_or_else(|| missing("version"))?,
    })
}

fn stream_name(value: &Value<'_>) -> Result<StreamName, InvalidRequest> {
    let text = value.string().ok_or_else(|| InvalidRequest::document("stream", "a string is expected"))?;
    StreamName::parse(&text).map_err(|e| InvalidRequest::document("stream", e.to_string()))
}

fn expected_version(value: &Value<'_>) -> Result<ExpectedVersion, InvalidRequest> {
    let text = match value.kind {
        Kind::Number => value.text.into(),
        _ => value.string().unwrap_or_default(),
    };
    ExpectedVersion::parse(&text).ok_or_else(|| {
        InvalidRequest::document("version", "a stream version from 1, \"any\", \"none\" or \"exists\" is expected")
    })
}

impl fmt::Display for ExpectedVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::NoStream => f.write_str("none"),
            Self::StreamExists => f.write_str("exists"),
            Self::Exactly(version) => version.fmt(f),
        }
    }
}

impl ExpectedVersion {
    /// Reads `any`, `none`, `exists` or a stream version: the form in documents and headers.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "any" => Some(Self::Any),
            "none" => Some(Self::NoStream),
            "exists" => Some(Self::StreamExists),
            _ if text.starts_with(|c: char| c.is_ascii_digit() && c != '0') => {
                text.parse().ok().and_then(StreamVersion::new).map(Self::Exactly)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_reads_back() {
        let text = br#"{"expect":[{"stream":"a-1","version":"7"},{"stream":"b-\"","version":"none"},
            {"stream":"c-1","version":"exists"},{"stream":"d-1","version":"any"}],"events":[
            {"specversion":"1.0","id":"1","source":"/s","type":"t","subject":"a-1","time":"2026-01-01T00:00:00Z","x":true,
             "data":{"n":1e400}},
            {"specversion":"1.0","id":"2","source":"/s","type":"t","subject":"b-\"","data_base64":"AA=="}]}"#;
        let request = AppendRequest::from_document(text).expect("a document");
        let written = request.to_document();
        assert_eq!(AppendRequest::from_document(&written).expect("read again"), request);
        assert!(written.starts_with(br#"{"expect":[{"stream":"a-1","version":"7"},"#), "{written:?}");
    }
}
