//! Golden bytes of the record, form v1: each line of `tests/golden/record-v1` is what one value is written as,
//! and what it is read from. Lines are added, never edited; they were not made by the code that they test.

use std::collections::BTreeSet;
use std::path::PathBuf;

use domain::event::{Data, Extension, ExtensionValue, NewEvent};
use domain::merkle::{Hash, leaf_hash};
use domain::record::{self, Record, RecordedEvent, RemovedBy, RemovedRecord};
use domain::{Epoch, Position, StreamName, StreamVersion, Timestamp};

fn golden(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/record-v1").join(file)
}

/// The line of a golden file, without its LF.
fn line(name: &str) -> Vec<u8> {
    let mut line = std::fs::read(golden(&format!("{name}.json"))).expect("a golden file");
    assert_eq!(line.pop(), Some(b'\n'), "{name}: a line ends with LF");
    line
}

fn stream(name: &str) -> StreamName {
    StreamName::parse(name).expect("a stream's name")
}

fn at(instant: &str) -> Timestamp {
    Timestamp::parse_rfc3339(instant).expect("an instant")
}

fn position(number: u64) -> Position {
    Position::new(number).expect("a position")
}

fn version(number: u64) -> StreamVersion {
    StreamVersion::new(number).expect("a version")
}

/// The smallest event there is, the first of its stream and of the log.
fn smallest() -> RecordedEvent {
    RecordedEvent {
        position: Position::FIRST,
        recorded_at: at("2026-05-01T08:00:00.612345Z"),
        version: StreamVersion::FIRST,
        previous: None,
        epoch: Epoch::FIRST,
        event: NewEvent {
            id: "e-1".into(),
            source: "/golden".into(),
            event_type: "content.created".into(),
            stream: stream("content-4711"),
            time: None,
            event_version: None,
            data_schema: None,
            data_content_type: None,
            extensions: vec![],
            data: Data::Absent,
        },
    }
}

fn later() -> RecordedEvent {
    let mut later =
        RecordedEvent { position: position(1024), version: version(7), previous: Some(position(998)), ..smallest() };
    later.event.event_type = "content.revised".into();
    later
}

fn with(change: impl FnOnce(&mut NewEvent)) -> RecordedEvent {
    let mut recorded = smallest();
    change(&mut recorded.event);
    recorded
}

fn with_data(json: &str) -> RecordedEvent {
    with(|e| e.data = Data::Json(json.into()))
}

fn extension(name: &str, value: ExtensionValue) -> Extension {
    Extension { name: name.into(), value }
}

fn text(name: &str, value: &str) -> Extension {
    extension(name, ExtensionValue::String(value.into()))
}

fn removed(removed: RemovedBy, certificate: &str, name: &str) -> Record {
    Record::Removed(RemovedRecord {
        position: position(1024),
        version: version(7),
        stream: stream(name),
        recorded_at: at("2026-05-01T08:00:00.612345Z"),
        removed,
        certificate: certificate.into(),
        leaf: leaf_hash(&line("later-event")),
    })
}

fn every_extension() -> Vec<Extension> {
    vec![
        text("0", "a digit is a name"),
        extension("count", ExtensionValue::Integer(0)),
        text("empty", ""),
        extension("max", ExtensionValue::Integer(i32::MAX)),
        text("metadata", r#"{"Correlation-Id":"7"}"#),
        extension("min", ExtensionValue::Integer(i32::MIN)),
        extension("no", ExtensionValue::Boolean(false)),
        text("sealedby", "key-1"),
        text("tags", "a b"),
        extension("yes", ExtensionValue::Boolean(true)),
    ]
}

fn every_attribute() -> RecordedEvent {
    let mut recorded = later();
    recorded.event.time = Some("2026-05-01T10:00:00.5+02:00".into());
    recorded.event.event_version = Some("1.0".into());
    recorded.event.data_schema = Some("https://example.org/content.json".into());
    recorded.event.data_content_type = Some("application/json".into());
    recorded.event.extensions = vec![text("comexampleextension1", "value"), text("tags", "red blue")];
    recorded.event.data = Data::Json(r#"{"owner":"a-1","size":193}"#.into());
    recorded
}

fn with_escaped_attributes() -> RecordedEvent {
    with(|e| {
        e.id = "quote\" back\\slash /é\u{2028}😀".into();
        e.source = "urn:x:ü".into();
        e.stream = stream("content-a-b/ü\"\\.rs");
        e.extensions = vec![text("note", "\\u00e9")];
    })
}

fn with_largest_numbers() -> RecordedEvent {
    RecordedEvent {
        position: position(i64::MAX as u64),
        recorded_at: at("9999-12-31T23:59:59.999999Z"),
        version: version(i64::MAX as u64),
        previous: Some(position(i64::MAX as u64 - 1)),
        epoch: Epoch::new(i64::MAX as u64).expect("an epoch"),
        event: smallest().event,
    }
}

fn events() -> Vec<(&'static str, RecordedEvent)> {
    let mut later_event = later();
    later_event.epoch = Epoch::new(3).expect("an epoch");
    later_event.event.data = Data::Json(r#"{"size":193}"#.into());
    let binary = |base64: &str, media: Option<&str>| {
        with(|e| {
            e.data = Data::Base64(base64.into());
            e.data_content_type = media.map(Into::into);
        })
    };
    vec![
        ("first-and-smallest", smallest()),
        ("later-event", later_event),
        ("every-attribute", every_attribute()),
        (
            "numbers-as-written",
            with_data(
                r#"{"one":1.0,"negative_zero":-0,"beyond_a_double":1e400,"beyond_64_bits":18446744073709551617,"exponent":1E+02,"tiny":-0.0e-0}"#,
            ),
        ),
        (
            "escapes-as-written",
            with_data(&format!(
                r#"{{"escaped":"\u00e9","plain":"é","separator":"{}","escaped_separator":"\u2028","solidus":"\/","pair":"\uD83D\uDE00","astral":"😀","nul":"\u0000","k\u0065y":"\t\"\\"}}"#,
                '\u{2028}'
            )),
        ),
        ("empty-object", with_data("{}")),
        ("data-null", with_data("null")),
        (
            "data-text",
            with(|e| {
                e.data_content_type = Some("text/plain".into());
                e.data = Data::Json(r#""  two  spaces  ""#.into());
            }),
        ),
        ("data-array-of-every-kind", with_data(r#"[null,true,false,0,"",[],{},[{"a":[]}]]"#)),
        ("data-64-levels", with_data(&("[".repeat(64) + &"]".repeat(64)))),
        ("binary", binary("AP+/Pj8=", Some("application/octet-stream"))),
        ("binary-empty", binary("", None)),
        (
            "extensions-of-every-kind",
            with(|e| {
                e.extensions = every_extension();
                e.data = Data::Json("1".into());
            }),
        ),
        ("attributes-in-one-escaping", with_escaped_attributes()),
        ("time-as-given", with(|e| e.time = Some("1990-12-31t15:59:60.123456789123-08:00".into()))),
        ("largest-numbers", with_largest_numbers()),
        ("earliest-instant", RecordedEvent { recorded_at: at("0001-01-01T00:00:00Z"), ..smallest() }),
    ]
}

fn records() -> Vec<(&'static str, Record)> {
    let mut records: Vec<_> =
        events().into_iter().map(|(name, event)| (name, Record::Event(Box::new(event)))).collect();
    records.extend([
        ("removed-by-retention", removed(RemovedBy::Retention, "certificate/2026-11-01/content.json", "content-4711")),
        ("removed-by-redaction", removed(RemovedBy::Redaction, "redaction \"7\"", "content-ü/\\")),
    ]);
    records
}

/// Each limit reached at once: every attribute, the extensions, the line itself.
fn largest() -> RecordedEvent {
    let mut recorded = with_largest_numbers();
    recorded.recorded_at = at("2026-05-01T08:00:00.612345Z");
    recorded.event = NewEvent {
        id: "i".repeat(512),
        source: "s".repeat(512),
        event_type: "t".repeat(512),
        stream: stream(&format!("content-{}", "x".repeat(504))),
        time: Some(format!("2026-05-01T10:00:00.{}+02:00", "5".repeat(486))),
        event_version: Some("v".repeat(512)),
        data_schema: Some("d".repeat(512)),
        data_content_type: Some("c".repeat(512)),
        extensions: (0..64).map(|i| text(&format!("e{i:02}"), &"v".repeat(125))).collect(),
        data: Data::Json(format!("\"{}\"", "p".repeat(1_035_594))),
    };
    recorded
}

#[test]
fn each_golden_line_is_what_its_record_is_written_as() {
    for (name, record) in records() {
        let written = String::from_utf8(record.to_line()).expect("UTF-8");
        assert_eq!(written, String::from_utf8(line(name)).expect("UTF-8"), "{name}");
    }
}

#[test]
fn each_golden_line_is_read_as_its_record() {
    for (name, record) in records() {
        assert_eq!(record::read(&line(name)), Ok(record), "{name}");
    }
}

#[test]
fn each_golden_event_keeps_the_rules() {
    for (name, recorded) in events() {
        assert_eq!(recorded.event.check(), Ok(()), "{name}");
    }
}

#[test]
fn no_golden_line_is_left_untested() {
    let on_disk: BTreeSet<String> = std::fs::read_dir(golden(""))
        .expect("the folder")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
        .collect();
    let mut tested: BTreeSet<String> = records().iter().map(|(name, _)| format!("{name}.json")).collect();
    tested.extend(["largest.sha256", "refused.tsv"].map(String::from));
    assert_eq!(on_disk, tested);
}

#[test]
fn the_largest_of_everything_is_one_line_of_one_mebibyte() {
    let recorded = largest();
    assert_eq!(recorded.event.check(), Ok(()));
    let record = Record::Event(Box::new(recorded));
    let written = record.to_line();
    assert_eq!(written.len(), domain::append::EVENT_BYTES_MAX);
    let digest = std::fs::read_to_string(golden("largest.sha256")).expect("a golden file");
    assert_eq!(Hash::of(&written).to_hex(), digest.trim_end());
    assert!(record::read(&written) == Ok(record), "the largest line is read as its record");
}

#[test]
fn a_removed_record_keeps_the_leaf_of_the_record_that_it_replaces() {
    let before = record::read(&line("later-event")).expect("a record");
    let after = record::read(&line("removed-by-retention")).expect("a record");
    assert_eq!(before.leaf(), after.leaf());
}

#[test]
fn each_golden_refusal_is_refused_for_its_reason() {
    let refused = std::fs::read(golden("refused.tsv")).expect("a golden file");
    let lines: Vec<&[u8]> = refused.split(|b| *b == b'\n').filter(|line| !line.is_empty()).collect();
    assert!(lines.len() > 50, "the file is whole");
    for case in lines {
        let tab = case.iter().position(|b| *b == b'\t').expect("reason, tab, line");
        let (reason, line) = (String::from_utf8_lossy(&case[..tab]), &case[tab + 1..]);
        let error = record::read(line).expect_err(&reason);
        assert_eq!(with_causes(&error), reason, "{}", String::from_utf8_lossy(line));
    }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", with_causes(source)),
        None => error.to_string(),
    }
}
