//! What clients send: fresh requests in all modes, and wrong ones that reuse known ids. It knows the streams'
//! versions only as the ledger has recorded them.

use domain::append::{AppendCondition, AppendRequest, ConditionItem, Expectation, ExpectedVersion};
use domain::event::{Data, Extension, ExtensionValue, NewEvent, TAGS_EXTENSION, TOMBSTONE_TYPE};
use domain::{Head, StreamName, StreamVersion};
use rand::Rng;
use rand::rngs::StdRng;

use crate::ledger::Ledger;

/// Events of one request carry numbers below this, after the request's own: so each event that was ever sent is
/// known by its number alone.
pub(crate) const EVENTS_MAX: u64 = 1000;

const STREAMS: u32 = 14;
/// Tags that events have.
const TAGS: u64 = 6;

fn stream(number: u32) -> StreamName {
    StreamName::parse(&format!("content-{number}")).expect("a name")
}

fn event(id: String, stream: StreamName, number: u64, pad: usize) -> NewEvent {
    NewEvent {
        id,
        source: "/sim".into(),
        event_type: "content.revised".into(),
        stream,
        time: None,
        event_version: None,
        data_schema: None,
        data_content_type: Some("application/json".into()),
        extensions: Vec::new(),
        data: Data::Json(format!("{{\"number\":{number},\"pad\":\"{}\"}}", "x".repeat(pad))),
    }
}

/// A request with ids of its own; mostly one that can be accepted.
pub(crate) fn fresh(ledger: &Ledger, rng: &mut StdRng) -> AppendRequest {
    let request = ledger.next_request();
    let count: u64 = match rng.random_range(0..20) {
        0..=11 => 1,
        12..=17 => rng.random_range(2..6),
        _ => rng.random_range(20..120),
    };
    let first = rng.random_range(0..STREAMS);
    let streams = rng.random_range(1..4);
    let pad = rng.random_range(0..200);
    let mut events = Vec::new();
    for number in 0..count {
        let name = stream((first + rng.random_range(0..streams)) % STREAMS);
        events.push(event(format!("e-{request}-{number}"), name, request * EVENTS_MAX + number, pad));
    }
    if rng.random_ratio(1, 150) {
        let last = events.last_mut().expect("not empty");
        (last.event_type, last.stream) = (TOMBSTONE_TYPE.into(), stream(first));
    }
    let mut expect = Vec::new();
    for number in first..first + streams {
        let name = stream(number % STREAMS);
        if rng.random_bool(0.5) {
            let version = expected(ledger.version(&name), rng);
            expect.push(Expectation { stream: name, version });
        }
    }
    if request.is_multiple_of(2) {
        let value = ExtensionValue::String(format!("all {}", tag(request)));
        events[0].extensions = vec![Extension { name: TAGS_EXTENSION.into(), value }];
    }
    AppendRequest { events, expect, conditions: conditions(request, ledger), ..AppendRequest::default() }
}

fn tag(request: u64) -> String {
    format!("tag:{}", request / 2 % TAGS)
}

/// Every fourth request excludes a tag since a position, one in a while since the beginning. Which ones follows from the
/// number: so no other draw of a seed is moved.
fn conditions(request: u64, ledger: &Ledger) -> Vec<AppendCondition> {
    if !request.is_multiple_of(4) {
        return Vec::new();
    }
    let tags = vec![if request.is_multiple_of(5) { "all".into() } else { tag(request) }];
    let seen = ledger.head().saturating_sub(request * 7 % 30);
    let after = Head::new(if request.is_multiple_of(3) { 0 } else { seen }).expect("small");
    vec![AppendCondition { fail_if_events_match: vec![ConditionItem { types: Vec::new(), tags }], after }]
}

/// A request that has to be accepted.
pub(crate) fn plain(ledger: &Ledger) -> AppendRequest {
    let request = ledger.next_request();
    let name = StreamName::parse("ending-1").expect("a name");
    let events = vec![event(format!("e-{request}-0"), name, request * EVENTS_MAX, 0)];
    AppendRequest { events, ..AppendRequest::default() }
}

/// Something to expect of a stream that is at `version`; mostly what is so.
fn expected(version: Option<u64>, rng: &mut StdRng) -> ExpectedVersion {
    let exactly = |version| ExpectedVersion::Exactly(StreamVersion::new(version).expect("from 1"));
    match (rng.random_range(0..10), version) {
        (0..=1, _) => ExpectedVersion::Any,
        (2, _) => ExpectedVersion::NoStream,
        (3, _) => exactly(version.unwrap_or(0) + 1),
        (4..=5, Some(_)) => ExpectedVersion::StreamExists,
        (_, Some(version)) => exactly(version),
        (_, None) => ExpectedVersion::NoStream,
    }
}

/// A request that uses ids of `known` for other content: all of them, or one beside a new one.
pub(crate) fn contradicting(ledger: &Ledger, known: &AppendRequest, rng: &mut StdRng) -> AppendRequest {
    let request = ledger.next_request();
    let mut wrong = known.clone();
    for (event, number) in wrong.events.iter_mut().zip(request * EVENTS_MAX..) {
        event.data = Data::Json(format!("{{\"number\":{number},\"pad\":\"\"}}"));
    }
    if rng.random_bool(0.5) {
        let number = u64::try_from(wrong.events.len()).expect("few");
        let name = wrong.events[0].stream.clone();
        wrong.events.push(event(format!("e-{request}-new"), name, request * EVENTS_MAX + number, 0));
    }
    wrong
}
