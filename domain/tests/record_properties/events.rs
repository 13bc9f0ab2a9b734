//! Any event and any record, and an event as a client may send it.

use domain::event::{Data, Extension, ExtensionValue, NewEvent};
use domain::merkle::Hash;
use domain::record::{Record, RecordedEvent, RemovedBy, RemovedRecord};
use domain::{Epoch, Position, StreamName, StreamVersion, Timestamp};
use proptest::prelude::*;

use crate::spelled::{any_json, spelled_string};

/// What an attribute can hold.
pub(crate) fn attribute() -> impl Strategy<Value = String> {
    prop_oneof!["[ -~]{1,40}", "\\PC{1,20}", Just("é\"\\/\u{2028}😀".to_owned()), Just("x".repeat(512))]
        .prop_map(|text| text.chars().filter(|c| !c.is_control()).collect::<String>())
        .prop_filter("not empty", |text| !text.is_empty())
}

pub(crate) fn extensions() -> impl Strategy<Value = Vec<Extension>> {
    let value = prop_oneof![
        attribute().prop_map(ExtensionValue::String),
        Just(ExtensionValue::String(String::new())),
        any::<bool>().prop_map(ExtensionValue::Boolean),
        any::<i32>().prop_map(ExtensionValue::Integer),
    ];
    // The x keeps them apart from the attributes that are no extensions.
    prop::collection::btree_map("x[a-z0-9]{0,10}", value, 0..12)
        .prop_map(|extensions| extensions.into_iter().map(|(name, value)| Extension { name, value }).collect())
}

pub(crate) fn data() -> impl Strategy<Value = Data> {
    prop_oneof![
        Just(Data::Absent),
        any_json().prop_map(|json| Data::Json(json.compact())),
        "([A-Za-z0-9+/]{4}){0,8}([A-Za-z0-9+/][AQgw]==)?".prop_map(Data::Base64),
    ]
}

pub(crate) fn time() -> impl Strategy<Value = String> {
    (
        1..=9998_u32,
        1..=12_u32,
        1..=28_u32,
        0..24_u32,
        0..60_u32,
        "(\\.[0-9]{1,12})?",
        "Z|z|[+-](0[0-9]|1[0-3]):[0-5][0-9]",
    )
        .prop_map(|(y, m, d, h, min, fraction, zone)| {
            format!("{y:04}-{m:02}-{d:02}T{h:02}:{min:02}:59{fraction}{zone}")
        })
        .prop_filter("within the years", |time| Timestamp::parse_rfc3339(time).is_ok())
}

pub(crate) fn stream() -> impl Strategy<Value = StreamName> {
    ("[a-z0-9_]{1,10}", "[^\\pC]{1,30}").prop_filter_map("a name", |(category, id)| StreamName::of(&category, &id).ok())
}

pub(crate) fn event() -> impl Strategy<Value = NewEvent> {
    let optional = || prop::option::of(attribute());
    let required = (attribute(), attribute(), attribute(), stream());
    (required, prop::option::of(time()), (optional(), optional(), optional()), extensions(), data()).prop_map(
        |(
            (id, source, event_type, stream),
            time,
            (event_version, data_schema, data_content_type),
            extensions,
            data,
        )| {
            let content = (event_version, data_schema, data_content_type, extensions);
            let (event_version, data_schema, data_content_type, extensions) = content;
            NewEvent {
                id,
                source,
                event_type,
                stream,
                time,
                event_version,
                data_schema,
                data_content_type,
                extensions,
                data,
            }
        },
    )
}

pub(crate) fn number() -> impl Strategy<Value = u64> {
    prop_oneof![1..100_u64, 1..=i64::MAX as u64]
}

pub(crate) fn instant() -> impl Strategy<Value = Timestamp> {
    let years_1_to_9999 = -62_135_596_800_000_000..=253_402_300_799_999_999_i64;
    years_1_to_9999.prop_map(|micros| Timestamp::from_unix_micros(micros).expect("within the years"))
}

pub(crate) fn recorded() -> impl Strategy<Value = RecordedEvent> {
    (event(), number(), number(), number(), number(), instant()).prop_map(
        |(event, position, previous, version, epoch, recorded_at)| {
            let previous = Position::new(previous % position);
            let later = StreamVersion::new(version).expect("a version").max(StreamVersion::FIRST.next());
            RecordedEvent {
                position: Position::new(position).expect("a position"),
                recorded_at,
                version: if previous.is_none() { StreamVersion::FIRST } else { later },
                previous,
                epoch: Epoch::new(epoch).expect("an epoch"),
                event,
            }
        },
    )
}

pub(crate) fn removed() -> impl Strategy<Value = RemovedRecord> {
    (stream(), number(), number(), instant(), any::<bool>(), attribute(), any::<[u8; 32]>()).prop_map(
        |(stream, position, version, recorded_at, retention, certificate, leaf)| RemovedRecord {
            position: Position::new(position).expect("a position"),
            version: StreamVersion::new(version).expect("a version"),
            stream,
            recorded_at,
            removed: if retention { RemovedBy::Retention } else { RemovedBy::Redaction },
            certificate,
            leaf: Hash(leaf),
        },
    )
}

pub(crate) fn any_record() -> impl Strategy<Value = Record> {
    prop_oneof![
        3 => recorded().prop_map(|event| Record::Event(Box::new(event))),
        1 => removed().prop_map(Record::Removed),
    ]
}

/// The members of an event as a client may send it, data as it stands.
pub(crate) fn client_members(event: &NewEvent, choices: &[u8]) -> Vec<(String, String)> {
    let string = |text: &str| spelled_string(text, choices);
    let mut members = vec![("specversion", "\"1.0\"".to_owned())];
    members.push(("id", string(&event.id)));
    members.push(("source", string(&event.source)));
    members.push(("type", string(&event.event_type)));
    members.push(("subject", string(event.stream.as_str())));
    let optional = [
        ("time", &event.time),
        ("eventversion", &event.event_version),
        ("dataschema", &event.data_schema),
        ("datacontenttype", &event.data_content_type),
    ];
    members.extend(optional.map(|(name, text)| (name, text.as_deref().map_or_else(|| "null".to_owned(), string))));
    members.extend(event.extensions.iter().map(|e| {
        let value = match &e.value {
            ExtensionValue::String(text) => string(text),
            ExtensionValue::Boolean(value) => value.to_string(),
            ExtensionValue::Integer(value) => value.to_string(),
        };
        (e.name.as_str(), value)
    }));
    match &event.data {
        Data::Absent => {}
        Data::Json(json) => members.push(("data", json.clone())),
        Data::Base64(base64) => members.push(("data_base64", string(base64))),
    }
    members.into_iter().map(|(name, value)| (string(name), value)).collect()
}
