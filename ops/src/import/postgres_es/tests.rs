//! Rows and streams without a database: what becomes of them, and what is refused.

use std::collections::HashMap;

use domain::event::{Data, metadata_from_extensions};
use domain::record::RecordedEvent;
use domain::{Epoch, Position, StreamVersion};

use super::row::{Row, StreamDigest};
use super::*;

fn row(aggregate_id: &str, sequence: i64) -> Row {
    Row {
        aggregate_type: "Customer".to_owned(),
        aggregate_id: aggregate_id.to_owned(),
        sequence,
        event_type: "NameAdded".to_owned(),
        event_version: "1.0".to_owned(),
        payload: Some(r#"{ "NameAdded": {"name": "ann", "n": 1.0} }"#.to_owned()),
        metadata: Some(r#"{"traceid": "4bf9", "Not An Attribute": "ü\n", "tags": "a", "metadata": "{}"}"#.to_owned()),
        time: Some(1_700_000_000_000_001),
    }
}

fn digest_of(row: &Row) -> [u8; 32] {
    let mut digest = StreamDigest::default();
    row.digest(&mut digest).expect("an event");
    digest.finish()
}

#[test]
fn a_row_becomes_an_event_that_says_the_same() {
    let row = row("a-1", 7);
    let event = row.event("/customers").expect("an event");
    assert_eq!((event.stream.as_str(), event.id.as_str()), ("customer-a-1", "customer-a-1@7"));
    assert_eq!((event.event_type.as_str(), event.event_version.as_deref()), ("NameAdded", Some("1.0")));
    assert_eq!(event.data, Data::Json(r#"{"NameAdded":{"name":"ann","n":1.0}}"#.to_owned()));
    assert_eq!(event.time.as_deref(), Some("2023-11-14T22:13:20.000001Z"));
    let metadata: HashMap<String, String> =
        serde_json::from_str(row.metadata.as_deref().expect("there")).expect("strings");
    assert_eq!(metadata_from_extensions(&event.extensions), metadata);

    let mut recorded = StreamDigest::default();
    assert!(recorded.add_recorded(&RecordedEvent {
        position: Position::FIRST,
        recorded_at: Timestamp::from_unix_micros(0).expect("an instant"),
        version: StreamVersion::new(7).expect("from 1"),
        previous: None,
        epoch: Epoch::FIRST,
        event,
    }));
    assert_eq!(recorded.finish(), digest_of(&row), "source and log have one digest");
}

#[test]
fn whatever_changes_in_a_row_changes_its_digest() {
    let one = row("a", 1);
    let text = |text: &str| Some(text.to_owned());
    let others = [
        Row { event_type: "NameAdde".to_owned(), event_version: "d1.0".to_owned(), ..one.clone() },
        Row { event_version: "1.1".to_owned(), ..one.clone() },
        Row { payload: text(r#"{"NameAdded":{"name":"ann","n":1}}"#), ..one.clone() },
        Row { metadata: text("{}"), ..one.clone() },
        Row { time: None, ..one.clone() },
        Row { time: Some(1_700_000_000_000_002), ..one.clone() },
    ];
    for other in others {
        assert_ne!(digest_of(&other), digest_of(&one), "{other:?}");
    }
    let respelled = r#"{"metadata":"{}","tags":"a","traceid":"4bf9","Not An Attribute":"\u00fc\u000a"}"#;
    assert_eq!(digest_of(&Row { metadata: text(respelled), ..one.clone() }), digest_of(&one), "a map has no order");
}

/// The reasons for which these rows are refused.
fn refused(rows: &[Row], times_needed: bool) -> Vec<(i64, String)> {
    let mut streams = Streams::new("/customers", times_needed);
    rows.iter().for_each(|row| drop(streams.take(row)));
    streams.finish();
    streams.bad.first.into_iter().map(|bad| (bad.sequence, bad.reason)).collect()
}

#[test]
fn what_cannot_be_an_event_is_named_with_its_reason() {
    let one = row("a", 1);
    let text = |text: &str| Some(text.to_owned());
    let cases = [
        (Row { sequence: 0, ..one.clone() }, "the sequence 1 should stand there"),
        (Row { sequence: 4, ..one.clone() }, "the sequences from 1 to 3 are missing"),
        (Row { aggregate_id: String::new(), ..one.clone() }, "id is not empty"),
        (Row { aggregate_id: "a\n".to_owned(), ..one.clone() }, "no control characters"),
        (Row { aggregate_id: "a".repeat(510), ..one.clone() }, "at most 512 bytes"),
        (Row { event_type: String::new(), ..one.clone() }, "\"type\": it is empty"),
        (Row { event_type: "coldstream.tombstone".to_owned(), ..one.clone() }, "close a stream"),
        (Row { event_version: String::new(), ..one.clone() }, "\"eventversion\": it is empty"),
        (Row { payload: None, ..one.clone() }, "payload: it is larger than any event"),
        (Row { payload: Some(format!("\"{}\"", "x".repeat(1 << 20))), ..one.clone() }, "over 1048576 bytes"),
        (Row { payload: text(r#"{"a":1,"a":2}"#), ..one.clone() }, "payload: "),
        (Row { metadata: text("[]"), ..one.clone() }, "metadata: "),
        (Row { metadata: text(r#"{"n":1}"#), ..one.clone() }, "\"n\": cqrs-es keeps strings there"),
        (Row { metadata: Some(format!("{{\"k\":\"{}\"}}", "v".repeat(513))), ..one.clone() }, "metadata: "),
        (Row { time: None, ..one.clone() }, "it has no time"),
        (Row { time: Some(i64::MAX), ..one.clone() }, "its time: "),
    ];
    for (row, reason) in cases {
        let sequence = row.sequence;
        let refused = refused(&[row], true);
        let [(at, found)] = refused.as_slice() else { panic!("one reason for {reason:?}: {refused:?}") };
        assert!(*at == sequence && found.contains(reason), "{found:?} does not say {reason:?}");
    }
}

#[test]
fn a_gap_is_named_once_and_the_rows_after_it_are_checked_on() {
    let rows = [row("a", 1), row("a", 2), row("a", 5), row("a", 6), row("a", 6), row("b", 1)];
    let sequences: Vec<i64> = refused(&rows, true).into_iter().map(|(sequence, _)| sequence).collect();
    assert_eq!(sequences, [5, 6]);
    assert_eq!(refused(&[Row { time: None, ..row("a", 1) }], false), []);
}

#[test]
fn the_first_bad_rows_are_named_and_all_are_counted() {
    let mut streams = Streams::new("/customers", true);
    for sequence in 1..=30 {
        drop(streams.take(&Row { event_type: String::new(), ..row("a", sequence) }));
    }
    let said = streams.bad.to_string();
    assert!(said.starts_with("30 rows cannot be imported, nothing was stored:\n  \"Customer\" \"a\" 1: "), "{said}");
    assert!(said.ends_with("and 10 more"), "{said}");
}

/// The survey of the first events of these (type, id).
fn survey(streams: &[(&str, &str)]) -> Survey {
    let mut taken = Streams::new("/customers", true);
    let mut survey = Survey::default();
    for (aggregate_type, id) in streams {
        let ended = taken.take(&Row { aggregate_type: (*aggregate_type).to_owned(), ..row(id, 1) });
        ended.iter().for_each(|stream| survey.add(stream));
    }
    taken.finish().iter().for_each(|stream| survey.add(stream));
    assert_eq!(taken.bad, BadRows::default());
    survey
}

#[test]
fn a_survey_counts_by_type_and_tells_sources_apart() {
    let one = survey(&[("Customer", "a"), ("Customer", "b"), ("bank-account", "a")]);
    let types: Vec<_> = one.types().map(|t| (t.category.as_str(), t.streams, t.events)).collect();
    assert_eq!(types, [("customer", 2, 2), ("bank_account", 1, 1)]);
    assert_eq!((one.streams, one.events), (3, 3));
    let other = survey(&[("Customer", "a"), ("Customer", "c"), ("bank-account", "a")]);
    assert_ne!(one.sha256(), other.sha256());
}

#[test]
fn types_that_would_be_one_category_are_refused() {
    survey(&[("Customer", "a"), ("customers", "a")]).check_categories().expect("two categories");
    for types in [["Customer", "customer"], ["a-b", "a_b"], ["Import", "other"]] {
        let refused = survey(&types.map(|t| (t, "a"))).check_categories().expect_err("refused");
        assert!(matches!(refused, PostgresEsError::SameCategory { .. }), "{refused}");
    }
}
