//! `POST /v1/append` with requests that are drawn and not damaged: each keeps every rule, or breaks exactly one. So it is
//! known what must come of it: all of it is stored, or it is refused and nothing is.

use axum::http::{HeaderName, HeaderValue, header};
use domain::event::TAGS_MAX;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use super::door::{Message, Rig, UNPACKED_BYTES_MAX};
use super::engine::{Drawn, Verdict};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Single,
    Batch,
    Document,
}

/// The members of a JSON object, in the order in which they are sent.
type Members = Vec<(String, Value)>;

/// A request that keeps every rule, until one is broken.
#[derive(Debug, Clone)]
struct Asked {
    form: Form,
    events: Vec<Members>,
    /// Of a document, beside its events.
    more: Members,
    headers: Vec<(&'static str, String)>,
    body: fn(Vec<u8>) -> Vec<u8>,
    is_packed: bool,
}

/// What breaks a rule, and its name.
type Fault<T> = (&'static str, fn(&mut T));

fn set(members: &mut Members, name: &str, value: Value) {
    members.retain(|(other, _)| other != name);
    members.push((name.to_owned(), value));
}

fn without(members: &mut Members, name: &str) {
    members.retain(|(other, _)| other != name);
}

const OF_AN_EVENT: &[Fault<Members>] = &[
    ("no id", |event| without(event, "id")),
    ("no stream", |event| without(event, "subject")),
    ("an older CloudEvents", |event| set(event, "specversion", json!("0.3"))),
    ("an empty source", |event| set(event, "source", json!(""))),
    ("a type that is no string", |event| set(event, "type", json!(["made"]))),
    ("a type that stands twice", |event| event.push(("type".to_owned(), json!("made")))),
    ("an id that is too long", |event| set(event, "id", json!("i".repeat(513)))),
    ("a source with a control character", |event| set(event, "source", json!("/a\u{7}"))),
    ("a stream without a category", |event| set(event, "subject", json!("thing"))),
    ("a category in capitals", |event| set(event, "subject", json!("Thing-1"))),
    ("a stream without an id", |event| set(event, "subject", json!("thing-"))),
    ("a time without a zone", |event| set(event, "time", json!("2026-05-01T08:00:37"))),
    ("a month that is not", |event| set(event, "time", json!("2026-13-01T08:00:37Z"))),
    ("data in two forms", |event| {
        set(event, "data", json!(1));
        set(event, "data_base64", json!("AAAA"));
    }),
    ("no base64", |event| {
        without(event, "data");
        set(event, "data_base64", json!("A*"));
    }),
    ("a position", |event| set(event, "position", json!("1"))),
    ("an epoch", |event| set(event, "epoch", json!("1"))),
    ("an extension in capitals", |event| set(event, "Trace", json!("1"))),
    ("an extension of many values", |event| set(event, "x", json!([1]))),
    ("an extension that is a fraction", |event| set(event, "x", json!(1.5))),
    ("an extension of more than 32 bits", |event| set(event, "x", json!(1_i64 << 31))),
    ("too many tags", |event| set(event, "tags", json!("t ".repeat(TAGS_MAX + 1)))),
    ("tags that are no string", |event| set(event, "tags", json!(true))),
    ("the service's own extension", |event| set(event, "sealedby", json!("x"))),
];

const OF_A_DOCUMENT: &[Fault<Asked>] = &[
    ("a stream that is not there", |asked| set(&mut asked.more, "expect", expects("thing-absent", "exists"))),
    ("a version that is not there", |asked| set(&mut asked.more, "expect", expects("thing-absent", "7"))),
    ("no version", |asked| set(&mut asked.more, "expect", expects("thing-1", "-1"))),
    ("a stream that is expected twice", |asked| {
        let [one, other] = ["none", "any"].map(|version| json!({"stream": "thing-1", "version": version}));
        set(&mut asked.more, "expect", json!([one, other]));
    }),
    ("a member that is not known", |asked| set(&mut asked.more, "expects", json!([]))),
    ("a condition of nothing", |asked| {
        set(&mut asked.more, "conditions", json!([{"fail_if_events_match": []}]));
    }),
    ("a tag of two words", |asked| {
        set(&mut asked.more, "conditions", json!([{"fail_if_events_match": [{"tags": ["a b"]}]}]));
    }),
    ("a position before the first", |asked| {
        set(&mut asked.more, "conditions", json!([{"fail_if_events_match": [{}], "after": "-1"}]));
    }),
    ("an expectation in a header", |asked| asked.headers.push(("expected-version", "any".to_owned()))),
    ("no events", |asked| asked.events.clear()),
];

const OF_A_REQUEST: &[Fault<Asked>] = &[
    ("another media type", |asked| content_type(asked, "application/json")),
    ("another charset", |asked| content_type(asked, "application/cloudevents+json; charset=latin1")),
    ("another coding", |asked| asked.headers.insert(0, ("content-encoding", "gzip".to_owned()))),
    ("a coding that it has not", |asked| {
        (asked.is_packed, asked.body) = (false, |body| body);
        asked.headers.insert(0, ("content-encoding", "zstd".to_owned()));
    }),
    ("a version from 0", |asked| asked.headers.insert(0, ("expected-version", "0".to_owned()))),
    ("two versions", |asked| {
        asked.headers.retain(|(name, _)| *name != "expected-version");
        asked.headers.extend([("expected-version", "any".to_owned()), ("expected-version", "none".to_owned())]);
    }),
    ("a body that is cut off", |asked| asked.body = |body| body[..body.len() - 1].to_vec()),
    ("a body with more behind it", |asked| asked.body = |body| [&body[..], b"0"].concat()),
    ("no body", |asked| asked.body = |_| Vec::new()),
    ("bytes that are no UTF-8", |asked| asked.body = |body| [b"\xff", &body[..]].concat()),
];

fn content_type(asked: &mut Asked, value: &str) {
    asked.headers.retain(|(name, _)| *name != "content-type");
    asked.headers.push(("content-type", value.to_owned()));
}

fn expects(stream: &str, version: &str) -> Value {
    json!([{"stream": stream, "version": version}])
}

impl Asked {
    fn message(&self) -> Message {
        let events: Vec<String> = self.events.iter().map(object).collect();
        let body = match self.form {
            Form::Single => events[0].clone(),
            Form::Batch => format!("[{}]", events.join(",")),
            Form::Document => {
                let more: String = self.more.iter().map(|member| format!(",{}", spelled(member))).collect();
                format!("{{\"events\":[{}]{more}}}", events.join(",\n "))
            }
        };
        let mut body = (self.body)(body.into_bytes());
        if self.is_packed {
            body = zstd::encode_all(&body[..], 1).expect("compressed");
        }
        let header = |(name, value): &(&'static str, String)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).expect("a header's value"))
        };
        let mut headers: Vec<_> = self.headers.iter().map(header).collect();
        if self.is_packed {
            headers.push((header::CONTENT_ENCODING, HeaderValue::from_static("zstd")));
        }
        Message { headers, body }
    }
}

fn spelled((name, value): &(String, Value)) -> String {
    format!("{}: {value}", json!(name))
}

fn object(members: &Members) -> String {
    format!("{{{}}}", members.iter().map(spelled).collect::<Vec<_>>().join(", "))
}

/// What an attribute can hold.
fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[!-~]{1,40}", "[^\\pC]{1,20}", Just("x".repeat(400)), Just("é\"\\/\u{2028}😀".to_owned())]
}

fn stream() -> impl Strategy<Value = String> {
    // Few of them: some events of a request are of the same one.
    prop_oneof!["thing-[1-3]", ("[a-z0-9_]{1,10}", text()).prop_map(|(category, id)| format!("{category}-{id}"))]
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map(any::<String>(), inner, 0..5).prop_map(|members| json!(members)),
        ]
    })
}

fn extensions() -> impl Strategy<Value = Members> {
    let value = prop_oneof![
        text().prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        Just(Value::Null),
    ];
    // The x keeps them apart from the attributes that are no extensions.
    prop::collection::btree_map("x[a-z0-9]{0,10}", value, 0..6).prop_map(|all| all.into_iter().collect())
}

/// An event that keeps every rule, its members in any order. Its id becomes another one in each request.
fn event() -> impl Strategy<Value = Members> {
    let optional = |name: &'static str, value: BoxedStrategy<Value>| {
        prop::option::of(value.prop_map(move |value| (name.to_owned(), value)))
    };
    let words = || text().prop_map(Value::from).boxed();
    let time = (1..=12, 1..=28, 0..24, "(\\.[0-9]{1,9})?", "Z|z|[+-]0[0-9]:[0-5][0-9]");
    let time =
        time.prop_map(|(m, d, h, fraction, zone)| json!(format!("2026-{m:02}-{d:02}T{h:02}:00:59{fraction}{zone}")));
    let data = prop_oneof![
        4 => any_json().prop_map(|value| Some(("data".to_owned(), value))),
        1 => "([A-Za-z0-9+/]{4}){0,8}".prop_map(|text| Some(("data_base64".to_owned(), Value::from(text)))),
        1 => Just(None),
    ];
    let tags = "([a-z]{1,3}:[0-9]{1,3} {1,2}){0,8}".prop_map(Value::from).boxed();
    let required = (text(), text(), text(), stream());
    let more = (
        optional("time", prop_oneof![time.boxed(), Just(Value::Null)].boxed()),
        optional("datacontenttype", words()),
        optional("dataschema", words()),
        optional("eventversion", words()),
        optional("tags", tags),
    );
    let members = (required, more, data, extensions());
    let members = members.prop_map(|((id, source, event_type, stream), more, data, extensions)| {
        let required =
            [("specversion", "1.0"), ("id", &id), ("source", &source), ("type", &event_type), ("subject", &stream)];
        let required = required.into_iter().map(|(name, value)| (name.to_owned(), json!(value)));
        let (time, content_type, schema, version, tags) = more;
        let optional = [time, content_type, schema, version, tags, data].into_iter().flatten();
        required.chain(optional).chain(extensions).collect::<Members>()
    });
    members.prop_shuffle()
}

/// What a document asks of a log in which nothing is: it always holds.
fn asks() -> impl Strategy<Value = Members> {
    let version = select(vec![json!("none"), json!("any")]);
    let expect = prop::collection::btree_map(stream(), version, 0..4);
    let expect =
        expect.prop_map(|all| all.into_iter().map(|(stream, version)| json!({"stream": stream, "version": version})));
    let expect = expect.prop_map(|all| ("expect".to_owned(), Value::from_iter(all)));
    let words = || prop::collection::vec("[a-z]{1,4}:[0-9]{1,3}", 0..4);
    let item = (words(), words()).prop_map(|(types, tags)| json!({"types": types, "tags": tags}));
    let after = select(vec![json!("0"), json!(0)]);
    let condition = (prop::collection::vec(item, 1..4), after)
        .prop_map(|(items, after)| json!({"fail_if_events_match": items, "after": after}));
    let conditions = prop::collection::vec(condition, 0..3).prop_map(|all| ("conditions".to_owned(), Value::from(all)));
    (prop::option::of(expect), prop::option::of(conditions)).prop_map(|(a, b)| [a, b].into_iter().flatten().collect())
}

fn kept() -> impl Strategy<Value = Asked> {
    let form = select(vec![Form::Single, Form::Batch, Form::Document]);
    let traced = prop::option::of(prop_oneof![
        "00-[1-9a-f]{32}-[1-9a-f]{16}-0[01]".prop_map(|parent| ("traceparent", parent)),
        "[!-~]{0,60}".prop_map(|parent| ("traceparent", parent)),
        "[!-~]{0,60}".prop_map(|request| ("x-request-id", request)),
    ]);
    let expected = prop::option::of(select(vec!["none", "any"]));
    let parts = (form, prop::collection::vec(event(), 1..7), asks(), traced, expected, any::<bool>());
    parts.prop_map(|(form, mut events, more, traced, expected, is_packed)| {
        let (media, most) = match form {
            Form::Single => ("application/cloudevents+json", 1),
            Form::Batch => ("application/cloudevents-batch+json; charset=UTF-8", usize::MAX),
            Form::Document => ("application/vnd.coldstream.append+json", usize::MAX),
        };
        events.truncate(most);
        let expected = expected.filter(|_| form != Form::Document);
        let member =
            |event: &Members, name: &str| event.iter().find(|(own, _)| own == name).map(|(_, value)| value.clone());
        let first = member(&events[0], "subject").expect("a stream");
        for (number, event) in events.iter_mut().enumerate() {
            let id = member(event, "id").expect("an id");
            set(event, "id", json!(format!("{number}{}", id.as_str().expect("text"))));
            if expected.is_some() {
                set(event, "subject", first.clone());
            }
        }
        let headers =
            [Some(("content-type", media.to_owned())), traced, expected.map(|v| ("expected-version", v.to_owned()))];
        Asked { form, events, more, headers: headers.into_iter().flatten().collect(), body: |body| body, is_packed }
    })
}

/// A request, and the rule that it breaks if it breaks one.
fn asked() -> impl Strategy<Value = (Asked, Option<&'static str>)> {
    (kept(), any::<bool>(), any::<prop::sample::Index>(), any::<prop::sample::Index>()).prop_map(
        |(mut asked, is_broken, fault, place)| {
            if !is_broken {
                return (asked, None);
            }
            let of_all = OF_AN_EVENT.len() + OF_A_REQUEST.len();
            let of_this = if asked.form == Form::Document { of_all + OF_A_DOCUMENT.len() } else { of_all };
            let index = fault.index(of_this);
            let name = if let Some((name, break_it)) = OF_AN_EVENT.get(index) {
                let event = place.index(asked.events.len());
                break_it(&mut asked.events[event]);
                name
            } else if let Some((name, break_it)) = OF_A_REQUEST.get(index - OF_AN_EVENT.len()) {
                break_it(&mut asked);
                name
            } else {
                let (name, break_it) = OF_A_DOCUMENT[index - of_all];
                break_it(&mut asked);
                name
            };
            (asked, Some(name))
        },
    )
}

#[test]
fn an_append_that_keeps_every_rule_is_stored_and_one_that_breaks_a_rule_is_refused() {
    let rig = Rig::new();
    let drawn = Drawn { name: "drawn append", cases: 1_000, bytes_max: 4 * UNPACKED_BYTES_MAX };
    let accepted = drawn.hold(&asked(), |(asked, broken)| {
        let verdict = rig.send(&asked.message());
        let expected = if broken.is_some() { Verdict::Refused } else { Verdict::Accepted };
        assert_eq!(verdict, expected, "{broken:?}");
        verdict
    });
    assert!((0.3..0.7).contains(&accepted), "half of them break a rule, not {accepted}");
}
