//! Any valid event goes through record, line and CloudEvents JSON and comes back the same, and no bytes whatever
//! make a reader panic.

mod damage;
mod events;
mod scanner;
mod spelled;

use domain::append::AppendRequest;
use domain::event::{
    ASSIGNED_ATTRIBUTES, EventRef, NewEvent, extensions_from_json, extensions_from_metadata, extensions_to_json,
    metadata_from_extensions,
};
use domain::json;
use domain::record::{self, Assigned, Lines, Record, RecordedEvent};
use proptest::prelude::*;
use proptest::sample::select;

use crate::damage::{damage, damaged};
use crate::events::{any_record, client_members, event, recorded};
use crate::spelled::{Spelled, spaces};

/// Whatever `bytes` are, each reader answers; what it accepts keeps its promise.
fn read_by_all(bytes: &[u8]) {
    if let Ok(record) = record::read(bytes) {
        assert_eq!(record.to_line(), bytes, "a line that can be read is the record's one spelling");
    }
    if let Ok(event) = NewEvent::from_cloudevent(bytes) {
        assert_eq!(event.check(), Ok(()), "what is read from a client keeps the rules");
    }
    if let Ok(request) = AppendRequest::from_document(bytes) {
        assert!(request.check().is_ok());
    }
    if let Ok(extensions) = extensions_from_json(bytes) {
        assert_eq!(extensions_from_json(extensions_to_json(&extensions).as_bytes()), Ok(extensions));
    }
    let _ = NewEvent::batch_from_cloudevents(bytes);
    let mut compact = String::new();
    if json::compact(bytes, &mut compact).is_ok() {
        let mut again = String::new();
        assert_eq!(json::compact(compact.as_bytes(), &mut again), Ok(()));
        assert_eq!(again, compact, "compact text is as compact as it gets");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_record_is_read_from_the_line_that_it_is_written_as(record in any_record()) {
        let line = record.to_line();
        prop_assert!(!line.contains(&b'\n'));
        let read = record::read(&line);
        prop_assert_eq!(read.as_ref(), Ok(&record));
        prop_assert_eq!(read.map(|r| r.to_line()), Ok(line));
    }

    #[test]
    fn a_line_of_parts_that_belong_to_somebody_else_is_the_records(recorded in recorded()) {
        let RecordedEvent { position, recorded_at, version, previous, epoch, ref event } = recorded;
        let assigned = Assigned { position, recorded_at, version, previous, epoch };
        let extensions = extensions_to_json(&event.extensions);
        let mut lines = Lines::default();
        prop_assert_eq!(lines.push_event(assigned, &EventRef::of(event), &extensions), Ok(()));
        prop_assert_eq!(EventRef::of(event).with(event.extensions.clone()), event.clone());
        prop_assert_eq!(lines, Lines::of(&[Record::Event(Box::new(recorded))]));
    }

    #[test]
    fn an_event_is_the_same_however_a_client_orders_and_spaces_and_escapes_it(
        (event, members) in (event(), prop::collection::vec(any::<u8>(), 1..9))
            .prop_map(|(event, choices)| { let members = client_members(&event, &choices); (event, members) })
            .prop_flat_map(|(event, members)| (Just(event), Just(members).prop_shuffle())),
        spaces in spaces(),
    ) {
        let members = members.into_iter().map(|(name, value)| (name, Spelled::Token(value))).collect();
        let json = Spelled::Object(members).spaced(&spaces);
        prop_assert_eq!(event.check(), Ok(()));
        prop_assert_eq!(NewEvent::from_cloudevent(json.as_bytes()), Ok(event.clone()), "{}", json);
        let batch = NewEvent::batch_from_cloudevents(format!("[{json}]").as_bytes());
        prop_assert_eq!(batch.expect("valid"), vec![event.clone()]);
        let document = AppendRequest::from_document(format!("{{\"events\":[{json}]}}").as_bytes());
        prop_assert_eq!(document.expect("valid").events, vec![event]);
    }

    #[test]
    fn a_record_without_what_the_log_assigned_is_the_event_that_was_sent(recorded in recorded()) {
        let line = Record::Event(Box::new(recorded.clone())).to_line();
        let mut value: serde_json::Map<String, serde_json::Value> = match serde_json::from_slice(&line) {
            Ok(value) => value,
            // A number that it cannot make a number of.
            Err(error) => { prop_assert!(error.to_string().starts_with("number out of range"), "{}", error); return Ok(()) }
        };
        for name in ASSIGNED_ATTRIBUTES {
            prop_assert!(value.remove(name).is_some_and(|v| v.is_string()), "{} is a string", name);
        }
        let sent = NewEvent::from_cloudevent(serde_json::to_string(&value).expect("JSON").as_bytes());
        let mut sent = sent.expect("valid");
        prop_assert_eq!(std::mem::discriminant(&sent.data), std::mem::discriminant(&recorded.event.data));
        // The other implementation spells data in its own way.
        sent.data = recorded.event.data.clone();
        prop_assert_eq!(sent, recorded.event);
    }

    #[test]
    fn the_rough_size_of_an_event_is_at_most_its_lines(recorded in recorded()) {
        let line = Record::Event(Box::new(recorded.clone())).to_line().len();
        prop_assert!(recorded.event.bytes() <= line);
    }

    #[test]
    fn metadata_comes_back_from_extensions(
        metadata in prop::collection::hash_map(prop_oneof!["[a-z]{1,4}", "\\PC{0,6}", select(vec!["id", "tags", "metadata", "data"]).prop_map(str::to_owned)],
            prop_oneof!["[ -~]{0,10}", ".{0,4}", Just("{\"a\":\"b\"}".to_owned())], 0..8),
    ) {
        // What does not fit into an event is refused, not cut.
        if let Ok(extensions) = extensions_from_metadata(&metadata) {
            prop_assert_eq!(metadata_from_extensions(&extensions), metadata);
            prop_assert_eq!(extensions_from_json(extensions_to_json(&extensions).as_bytes()), Ok(extensions));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(768))]

    #[test]
    fn no_bytes_make_a_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        read_by_all(&bytes);
    }

    #[test]
    fn no_damage_to_a_record_makes_a_reader_panic_or_passes_as_another_spelling(record in any_record(), damage in damage()) {
        read_by_all(&damaged(record.to_line(), &damage));
    }

    #[test]
    fn no_damage_to_an_event_makes_a_reader_panic(event in event(), damage in damage(), spaces in spaces()) {
        let members = client_members(&event, &[1]).into_iter().map(|(name, value)| (name, Spelled::Token(value)));
        let json = Spelled::Object(members.collect()).spaced(&spaces);
        let json = damaged(json.into_bytes(), &damage);
        read_by_all(&json);
        read_by_all(&[b"[", &json[..], b"]"].concat());
        read_by_all(&[b"{\"expect\":[],\"events\":[", &json[..], b"]}"].concat());
    }
}
