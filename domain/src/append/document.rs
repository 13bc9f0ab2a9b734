//! The append document (`application/vnd.coldstream.append+json`): events of one stream or many, and what is
//! expected of streams: `{"expect":[{"stream":"…","version":"7"|7|"any"|"none"|"exists"}],"events":[…]}`; and conditions:
//! `"conditions":[{"fail_if_events_match":[{"types":["…"],"tags":["…"]}],"after":"7"|7}]`.

use std::fmt;
use std::io::Write as _;

use super::{
    AppendCondition, AppendRequest, CONDITION_ITEMS_MAX, ConditionItem, Expectation, ExpectedVersion, ITEM_TYPES_MAX,
    InvalidRequest, REQUEST_BYTES_MAX, REQUEST_EVENTS_MAX,
};
use crate::event::{NewEvent, TAGS_MAX, client_events};
use crate::json::{self, Kind, Scanner, Value};
use crate::record;
use crate::{Head, StreamName, StreamVersion};

impl AppendRequest {
    /// Reads an append document and checks it ([`AppendRequest::check`]). `expect` and `conditions` may be absent.
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
                "conditions" => {
                    request.conditions = list(scanner, "conditions", CONDITION_ITEMS_MAX, condition)?;
                }
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
    /// (`recorded_at`, `checkpoint`) is no part of it, nor who asks (`client`): a token says that.
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
        out.push(b']');
        write_conditions(&self.conditions, &mut out);
        out.extend_from_slice(b",\"events\":[");
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

/// Reads an array of at most `most` elements.
fn list<T>(
    scanner: &mut Scanner<'_>,
    member: &str,
    most: usize,
    element: impl Fn(&mut Scanner<'_>) -> Result<T, InvalidRequest>,
) -> Result<Vec<T>, InvalidRequest> {
    let mut elements = Vec::new();
    scanner.array(|scanner| {
        if elements.len() == most {
            return Err(InvalidRequest::document(member, format!("it holds more than {most}")));
        }
        elements.push(element(scanner)?);
        Ok(())
    })?;
    Ok(elements)
}

fn condition(scanner: &mut Scanner<'_>) -> Result<AppendCondition, InvalidRequest> {
    let mut condition = AppendCondition::default();
    scanner.object(|scanner, name| {
        match &*name {
            "fail_if_events_match" => {
                condition.fail_if_events_match = list(scanner, &name, CONDITION_ITEMS_MAX, condition_item)?;
            }
            "after" => condition.after = after(&scanner.value()?)?,
            other => return Err(InvalidRequest::document(other, "a condition has no such member")),
        }
        Ok(())
    })?;
    Ok(condition)
}

fn condition_item(scanner: &mut Scanner<'_>) -> Result<ConditionItem, InvalidRequest> {
    let text = |scanner: &mut Scanner<'_>| {
        let value = scanner.value()?;
        let text = value.string().ok_or_else(|| InvalidRequest::document("types and tags", "strings are expected"))?;
        Ok(text.into_owned())
    };
    let mut item = ConditionItem::default();
    scanner.object(|scanner, name| {
        match &*name {
            "types" => item.types = list(scanner, &name, ITEM_TYPES_MAX, text)?,
            "tags" => item.tags = list(scanner, &name, TAGS_MAX, text)?,
            other => return Err(InvalidRequest::document(other, "an item of a condition has no such member")),
        }
        Ok(())
    })?;
    Ok(item)
}

fn after(value: &Value<'_>) -> Result<Head, InvalidRequest> {
    let text = match value.kind {
        Kind::Number => value.text.into(),
        _ => value.string().unwrap_or_default(),
    };
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let head = text.parse().ok().filter(|_| digits).and_then(Head::new);
    head.ok_or_else(|| InvalidRequest::document("after", "a position is expected, or 0 for the whole log"))
}

fn write_conditions(conditions: &[AppendCondition], out: &mut Vec<u8>) {
    // Absent where there are none: a server of an older release takes the document.
    for (index, condition) in conditions.iter().enumerate() {
        out.extend_from_slice(if index == 0 { b",\"conditions\":[" } else { b"," });
        out.extend_from_slice(b"{\"fail_if_events_match\":[");
        for (index, item) in condition.fail_if_events_match.iter().enumerate() {
            out.extend_from_slice(if index == 0 { b"{\"types\":[" } else { b",{\"types\":[" });
            write_strings(&item.types, out);
            out.extend_from_slice(b"],\"tags\":[");
            write_strings(&item.tags, out);
            out.extend_from_slice(b"]}");
        }
        write!(out, "],\"after\":\"{}\"}}", condition.after).expect("a Vec takes all that is written");
    }
    if !conditions.is_empty() {
        out.push(b']');
    }
}

fn write_strings(strings: &[String], out: &mut Vec<u8>) {
    for (index, text) in strings.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        json::write_string(text, out);
    }
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

    #[test]
    fn conditions_read_back_and_are_absent_where_there_are_none() {
        let with = |conditions: &str| {
            let event = r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","subject":"a-1"}"#;
            AppendRequest::from_document(format!(r#"{{{conditions}"events":[{event}]}}"#).as_bytes())
        };
        let request = with(
            r#""conditions":[
            {"after":"7","fail_if_events_match":[{"types":["a b","\"c"],"tags":["x:1","y"]},{"tags":["z"]}]},
            {"fail_if_events_match":[{}]},{"fail_if_events_match":[{"types":["t"]}],"after":9}],"#,
        );
        let request = request.expect("a document");
        let afters: Vec<u64> = request.conditions.iter().map(|condition| condition.after.get()).collect();
        assert_eq!(afters, [7, 0, 9]);
        assert_eq!(request.conditions[0].fail_if_events_match[0].types, ["a b", "\"c"]);
        assert_eq!(AppendRequest::from_document(&request.to_document()).expect("read again"), request);
        let none = with("").expect("a document").to_document();
        assert!(none.starts_with(br#"{"expect":[],"events":["#), "{none:?}");

        for bad in [
            r#""conditions":[{"after":"7"}],"#,
            r#""conditions":[{"fail_if_events_match":[{"types":["t"]}],"after":"-1"}],"#,
            r#""conditions":[{"fail_if_events_match":[{"types":["t"]}],"after":"+1"}],"#,
            r#""conditions":[{"fail_if_events_match":[{"types":["t"]}],"after":""}],"#,
            r#""conditions":[{"fail_if_events_match":[{"types":["t"]}],"after":1e3}],"#,
            r#""conditions":[{"fail_if_events_match":[{"types":["t"]}],"before":"1"}],"#,
            r#""conditions":[{"fail_if_events_match":[{"types":"t"}]}],"#,
            r#""conditions":[{"fail_if_events_match":[{"types":[1]}]}],"#,
            r#""conditions":[{"fail_if_events_match":[{"tags":["two words"]}]}],"#,
            r#""conditions":[{"fail_if_events_match":[{"streams":["a-1"]}]}],"#,
            r#""conditions":{"fail_if_events_match":[{}]},"#,
        ] {
            assert!(with(bad).is_err(), "{bad}");
        }
    }
}
