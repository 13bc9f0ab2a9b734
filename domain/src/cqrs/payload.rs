//! One event between its two forms: cqrs-es's serialized event and the log's.
//!
//! Only here do payloads pass through a JSON value tree, because that is what cqrs-es gives and wants: a
//! number beyond 64 bits or a double is an error on load, never another number.

use std::collections::HashMap;

use cqrs_es::persist::SerializedEvent;
use serde_json::Value;

use super::{PayloadForm, RepositoryError, Wiring, sequence};
use crate::StreamName;
use crate::event::{self, Data, EventError, NewEvent};
use crate::record::Record;

/// An event that says no version of its payload's form has the first one there is.
const EVENT_VERSION_DEFAULT: &str = "1.0";

pub(super) fn to_new_event(
    wiring: &Wiring,
    stream: &StreamName,
    event: &SerializedEvent,
) -> Result<NewEvent, RepositoryError> {
    let refused = |source: EventError| RepositoryError::Event { event_type: event.event_type.clone(), source };
    let data = to_data(wiring.payload, event)?;
    let metadata: HashMap<String, String> = serde_json::from_value(event.metadata.clone())
        .map_err(|error| refused(EventError::Attribute { name: "metadata".to_owned(), reason: error.to_string() }))?;
    let json = matches!(data, Data::Json(_));
    let new = NewEvent {
        id: (wiring.new_id)(),
        source: wiring.source.clone(),
        event_type: event.event_type.clone(),
        stream: stream.clone(),
        time: None,
        event_version: Some(event.event_version.clone()),
        data_schema: None,
        data_content_type: json.then(|| "application/json".to_owned()),
        extensions: event::extensions_from_metadata(metadata).map_err(refused)?,
        data,
    };
    new.check().map_err(refused)?;
    Ok(new)
}

/// `aggregate_type` is the type as the aggregate spells it: its category does not tell it.
pub(super) fn to_serialized(
    aggregate_type: &str,
    form: PayloadForm,
    record: &Record,
) -> Result<SerializedEvent, RepositoryError> {
    let recorded = match record {
        Record::Event(recorded) => recorded,
        Record::Removed(removed) => {
            return Err(RepositoryError::Removed {
                stream: removed.stream.clone(),
                version: removed.version,
                certificate: removed.certificate.clone(),
            });
        }
    };
    let event = &recorded.event;
    let metadata = event::metadata_from_extensions(&event.extensions);
    Ok(SerializedEvent {
        aggregate_id: event.stream.id().to_owned(),
        sequence: sequence(recorded.version),
        aggregate_type: aggregate_type.to_owned(),
        event_type: event.event_type.clone(),
        event_version: event.event_version.clone().unwrap_or_else(|| EVENT_VERSION_DEFAULT.to_owned()),
        payload: to_payload(form, &event.event_type, &event.data)?,
        metadata: metadata.into_iter().map(|(key, value)| (key, Value::String(value))).collect(),
    })
}

fn to_data(form: PayloadForm, event: &SerializedEvent) -> Result<Data, RepositoryError> {
    match form {
        PayloadForm::AsStored => Ok(Data::Json(event.payload.to_string())),
        PayloadForm::TaggedByType => match &event.payload {
            Value::String(tag) if *tag == event.event_type => Ok(Data::Absent),
            Value::Object(tagged) if tagged.len() == 1 => match tagged.get(&event.event_type) {
                Some(inner) => Ok(Data::Json(inner.to_string())),
                None => Err(not_tagged(event)),
            },
            _ => Err(not_tagged(event)),
        },
    }
}

fn not_tagged(event: &SerializedEvent) -> RepositoryError {
    RepositoryError::Payload {
        event_type: event.event_type.clone(),
        form: PayloadForm::TaggedByType,
        reason: "it is no object with the event's type as its only member".to_owned(),
    }
}

fn to_payload(form: PayloadForm, event_type: &str, data: &Data) -> Result<Value, RepositoryError> {
    let refused = |reason| RepositoryError::Payload { event_type: event_type.to_owned(), form, reason };
    let inner = match data {
        Data::Json(text) => serde_json::from_str(text).map_err(|error| refused(error.to_string()))?,
        // serde reads a variant without fields from `{"TYPE":null}` as well as from `"TYPE"`.
        Data::Absent => Value::Null,
        Data::Base64(_) => return Err(refused("the data is binary".to_owned())),
    };
    Ok(match form {
        PayloadForm::AsStored => inner,
        PayloadForm::TaggedByType => Value::Object([(event_type.to_owned(), inner)].into_iter().collect()),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(event_type: &str, payload: Value) -> SerializedEvent {
        SerializedEvent {
            aggregate_id: "1".to_owned(),
            sequence: 1,
            aggregate_type: "thing".to_owned(),
            event_type: event_type.to_owned(),
            event_version: "1.0".to_owned(),
            payload,
            metadata: json!({}),
        }
    }

    fn there_and_back(form: PayloadForm, payload: &Value) -> (Data, Value) {
        let data = to_data(form, &event("thing.made", payload.clone())).expect("in the form");
        let back = to_payload(form, "thing.made", &data).expect("in the form");
        (data, back)
    }

    #[test]
    fn a_tagged_payload_is_stored_without_its_tag() {
        let payload = json!({"thing.made":{"by":"x"}});
        let (data, back) = there_and_back(PayloadForm::TaggedByType, &payload);
        assert_eq!((data, back), (Data::Json(r#"{"by":"x"}"#.to_owned()), payload));
    }

    #[test]
    fn a_variant_without_fields_has_no_data() {
        #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
        enum Event {
            #[serde(rename = "thing.made")]
            Made,
        }
        let payload = serde_json::to_value(Event::Made).expect("JSON");
        let (data, back) = there_and_back(PayloadForm::TaggedByType, &payload);
        assert_eq!(data, Data::Absent);
        assert_eq!(serde_json::from_value::<Event>(back).expect("a variant"), Event::Made);
    }

    #[test]
    fn a_payload_as_stored_keeps_its_tag() {
        for payload in [json!({"Made":{"by":"x"}}), json!("Made"), json!(null)] {
            let (data, back) = there_and_back(PayloadForm::AsStored, &payload);
            assert_eq!((data, back), (Data::Json(payload.to_string()), payload));
        }
    }

    #[test]
    fn a_payload_in_another_form_is_refused_and_never_reshaped() {
        let tagged_otherwise = [json!({"Made":{}}), json!({"thing.made":1,"more":2}), json!("Made"), json!([])];
        for payload in tagged_otherwise {
            to_data(PayloadForm::TaggedByType, &event("thing.made", payload)).expect_err("refused");
        }
        let too_large_a_number = Data::Json("1e400".to_owned());
        to_payload(PayloadForm::AsStored, "t", &too_large_a_number).expect_err("refused");
        to_payload(PayloadForm::AsStored, "t", &Data::Base64("AA==".to_owned())).expect_err("refused");
    }
}
