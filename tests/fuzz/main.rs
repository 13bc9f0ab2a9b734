//! What no bytes may do to a reader: make it panic, make it allocate without bound, or be taken for something else than
//! what was written. Valid bytes are damaged in ways that know the formats ([`engine`]), thousands of times.
//!
//! The short form is the same cases every time. `FUZZ_SECONDS=600 cargo test --test fuzz -- --nocapture` runs each
//! target for so long and says how many cases that were; `FUZZ_SEED` names their seed, which is another one each time
//! otherwise. A run that breaks a reader prints seed, case and input. What zstd allocates in C, and a thread of the
//! importer's own, is not counted.

mod archive;
mod door;
mod engine;
mod import;
mod requests;

use std::fs;
use std::path::{Path, PathBuf};

use domain::append::{AppendCondition, AppendRequest, ConditionItem, Expectation, ExpectedVersion, REQUEST_BYTES_MAX};
use domain::archive::layout;
use domain::event::NewEvent;
use domain::keys::{KeyId, SigningKey, VerifyKey};
use domain::record::{self, Record};
use domain::{Epoch, Head, Position, ResumeToken, StreamName, StreamVersion, Timestamp};
use engine::{Target, Verdict};

/// The readers of one line or document hold it, what they make of it, and little else.
const DOCUMENT_BYTES_MAX: usize = 1 << 20;

fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(path)
}

fn golden_bytes(path: &str) -> Vec<u8> {
    fs::read(golden(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The golden lines of the record, without their LFs.
fn golden_lines() -> Vec<Vec<u8>> {
    let files = fs::read_dir(golden("record-v1")).expect("golden records");
    let mut files: Vec<PathBuf> = files.map(|file| file.expect("a file").path()).collect();
    // A folder has no order of its own, and a case depends on it.
    files.sort();
    let lines = files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "json"));
    lines.map(|file| fs::read(file).expect("a golden file").trim_ascii_end().to_vec()).collect()
}

/// What clients would have appended to get the golden records.
fn golden_events() -> Vec<NewEvent> {
    let records = golden_lines().into_iter().map(|line| record::read(&line).expect("a golden line"));
    let events = records.filter_map(|record| match record {
        Record::Event(recorded) => Some(recorded.event),
        Record::Removed(_) => None,
    });
    events.filter(|event| NewEvent::from_cloudevent(&sent(event)).is_ok()).collect()
}

/// An event as a client sends it.
fn sent(event: &NewEvent) -> Vec<u8> {
    let document = AppendRequest { events: vec![event.clone()], ..AppendRequest::default() }.to_document();
    let text = String::from_utf8(document).expect("JSON");
    let begin = text.find("\"events\":[").expect("events") + "\"events\":[".len();
    text.as_bytes()[begin..text.len() - "]}".len()].to_vec()
}

fn of(accepted: bool) -> Verdict {
    if accepted { Verdict::Accepted } else { Verdict::Refused }
}

/// A line that can be read is the record's one spelling.
fn read_record(line: &[u8]) -> Verdict {
    let Ok(record) = record::read(line) else { return Verdict::Refused };
    assert_eq!(record.to_line(), line, "another spelling of a record was read");
    Verdict::Accepted
}

#[test]
fn a_record_is_read_from_its_one_spelling_or_not_at_all() {
    let target = Target { name: "record", corpus: &golden_lines(), cases: 40_000, bytes_max: DOCUMENT_BYTES_MAX };
    target.run(read_record);
}

/// What is read from a client keeps the rules, and is read again from what is written of it.
fn read_event(json: &[u8]) -> Verdict {
    let Ok(event) = NewEvent::from_cloudevent(json) else { return Verdict::Refused };
    assert_eq!(event.check(), Ok(()), "an event was read that breaks a rule");
    assert_eq!(NewEvent::from_cloudevent(&sent(&event)), Ok(event));
    Verdict::Accepted
}

fn read_batch(json: &[u8]) -> Verdict {
    let Ok(events) = NewEvent::batch_from_cloudevents(json) else { return Verdict::Refused };
    events.iter().for_each(|event| assert_eq!(event.check(), Ok(())));
    Verdict::Accepted
}

fn read_document(json: &[u8]) -> Verdict {
    let Ok(request) = AppendRequest::from_document(json) else { return Verdict::Refused };
    assert!(request.check().is_ok(), "a request was read that breaks a rule");
    let again = AppendRequest::from_document(&request.to_document());
    assert_eq!(again.expect("what was written is read"), request);
    Verdict::Accepted
}

#[test]
fn an_event_of_a_client_keeps_the_rules_or_is_refused() {
    let corpus: Vec<_> = golden_events().iter().map(sent).collect();
    Target { name: "event", corpus: &corpus, cases: 25_000, bytes_max: DOCUMENT_BYTES_MAX }.run(read_event);
}

#[test]
fn a_batch_of_a_client_keeps_the_rules_or_is_refused() {
    let events: Vec<_> = golden_events().iter().map(sent).collect();
    let batch = |events: &[Vec<u8>]| [b"[".as_slice(), &events.join(&b","[..]), b"]"].concat();
    let corpus: Vec<_> = events.chunks(3).map(batch).collect();
    Target { name: "batch", corpus: &corpus, cases: 12_000, bytes_max: DOCUMENT_BYTES_MAX }.run(read_batch);
}

#[test]
fn an_append_document_keeps_the_rules_or_is_refused() {
    let stream = |name: &str| StreamName::parse(name).expect("a name");
    let version = |number| ExpectedVersion::Exactly(StreamVersion::new(number).expect("from 1"));
    let versions = [ExpectedVersion::Any, ExpectedVersion::NoStream, ExpectedVersion::StreamExists, version(7)];
    let expectation = |(index, version)| Expectation { stream: stream(&format!("order-{index}")), version };
    let expect: Vec<_> = versions.into_iter().enumerate().map(expectation).collect();
    let item = ConditionItem { types: vec!["order.placed".to_owned()], tags: vec!["account:1".to_owned()] };
    let condition = AppendCondition { fail_if_events_match: vec![item], after: Head::new(7).expect("a head") };
    // Its ids may be those of others in the corpus: one event a document.
    let document = |(index, event): (usize, NewEvent)| {
        let (expect, conditions) =
            if index % 2 == 0 { (expect.clone(), Vec::new()) } else { (Vec::new(), vec![condition.clone()]) };
        AppendRequest { events: vec![event], expect, conditions, ..AppendRequest::default() }.to_document()
    };
    let corpus: Vec<_> = golden_events().into_iter().enumerate().map(document).collect();
    Target { name: "document", corpus: &corpus, cases: 15_000, bytes_max: DOCUMENT_BYTES_MAX }.run(read_document);
}

/// What is read from a text and written again is read as the same.
fn read_text(bytes: &[u8]) -> Verdict {
    let Ok(text) = std::str::from_utf8(bytes) else { return Verdict::Refused };
    let mut accepted = false;
    if let Some(token) = ResumeToken::parse(text) {
        assert_eq!(ResumeToken::parse(&token.to_string()), Some(token));
        accepted = true;
    }
    if let Some(version) = ExpectedVersion::parse(text) {
        assert_eq!(ExpectedVersion::parse(&version.to_string()), Some(version));
        accepted = true;
    }
    if let Ok(stream) = StreamName::parse(text) {
        assert_eq!(stream.as_str(), text);
        assert_eq!(StreamName::of(stream.category(), stream.id()), Ok(stream));
        accepted = true;
    }
    if let Ok(instant) = Timestamp::parse_rfc3339(text) {
        assert_eq!(Timestamp::parse_rfc3339(&instant.to_string()), Ok(instant));
        accepted = true;
    }
    if let Ok(id) = KeyId::parse(text) {
        assert_eq!(KeyId::parse(&id.to_string()), Ok(id));
        accepted = true;
    }
    if let Ok(key) = VerifyKey::parse(text) {
        assert_eq!(VerifyKey::parse(&key.to_string()), Ok(key));
        accepted = true;
    }
    if let Ok(key) = SigningKey::parse(text) {
        assert_eq!(SigningKey::parse(&key.to_secret_text()).map(|key| key.verify_key()), Ok(key.verify_key()));
        accepted = true;
    }
    of(accepted | read_key(text))
}

/// The name of an object in a bucket: one that can be read is the one that would be written.
fn read_key(key: &str) -> bool {
    if let Some((epoch, number)) = layout::parse_manifest(key) {
        assert_eq!(layout::manifest(epoch, number), key);
    }
    if let Some((epoch, size)) = layout::parse_checkpoint(key) {
        assert_eq!(layout::checkpoint(epoch, size), key);
    }
    if let Some(epoch) = layout::parse_epoch_claim(key) {
        assert_eq!(layout::epoch_claim(epoch), key);
    }
    layout::parse_manifest(key).is_some()
        || layout::parse_checkpoint(key).is_some()
        || layout::parse_epoch_claim(key).is_some()
        || layout::parse_range(key).is_some()
}

#[test]
fn tokens_versions_names_instants_keys_and_object_names_read_back_or_are_refused() {
    let (epoch, head) = (Epoch::FIRST, Head::new(1030).expect("a head"));
    let token = ResumeToken { position: Position::new(1024).expect("from 1"), epoch };
    let texts = [
        token.to_string(),
        "none".to_owned(),
        "18".to_owned(),
        "content-lib/a-b.rs".to_owned(),
        "2026-05-01T08:00:37.000001Z".to_owned(),
        "2026-05-01t08:00:37+02:00".to_owned(),
        layout::manifest(epoch, 7),
        layout::checkpoint(epoch, head),
        layout::epoch_claim(epoch),
        "seg/00000000000000000001-00000000000000001030-1-0645d304cb84f557.ndjson.zst".to_owned(),
        "idx/00000000000000000001-00000000000000001030-1-0645d304cb84f557.idx".to_owned(),
        "home+4ce94656".to_owned(),
    ];
    let keys = ["archive-v1/home.vkey", "archive-v1/home.skey"];
    let keys = keys.map(|key| golden_bytes(key).trim_ascii_end().to_vec());
    let corpus: Vec<_> = texts.into_iter().map(String::into_bytes).chain(keys).collect();
    Target { name: "text", corpus: &corpus, cases: 60_000, bytes_max: 64 << 10 }.run(read_text);
}

#[test]
fn a_document_that_is_too_long_is_refused_before_it_is_looked_at() {
    let long = vec![b' '; REQUEST_BYTES_MAX + 1];
    assert_eq!([read_batch(&long), read_document(&long)], [Verdict::Refused; 2]);
}
