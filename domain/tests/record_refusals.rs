//! What a client's event, batch and append document are read as, and each refusal that the record's form names.

use std::collections::HashMap;

use domain::append::{AppendRequest, Expectation, ExpectedVersion, InvalidRequest, REQUEST_BYTES_MAX};
use domain::event::{
    Data, EventError, Extension, ExtensionValue, NewEvent, extensions_from_json, extensions_from_metadata,
    extensions_to_json, metadata_from_extensions,
};
use domain::{StreamName, StreamVersion};

/// An event that only just has what it must, with `members` (each with its comma before it) at its end.
fn event_with(members: &str) -> String {
    format!(r#"{{"specversion":"1.0","id":"1","source":"/s","type":"t","subject":"content-1"{members}}}"#)
}

fn read(json: &str) -> Result<NewEvent, EventError> {
    NewEvent::from_cloudevent(json.as_bytes())
}

fn accepted(members: &str) -> NewEvent {
    read(&event_with(members)).unwrap_or_else(|e| panic!("{members}: {e:?}"))
}

/// The reason, with its causes.
fn refusal(json: &str) -> String {
    with_causes(&read(json).expect_err(json))
}

fn with_causes(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", with_causes(source)),
        None => error.to_string(),
    }
}

#[track_caller]
fn assert_refused(members: &str, reason: &str) {
    let refusal = refusal(&event_with(members));
    assert!(refusal.contains(reason), "{members}: {refusal:?} does not say {reason:?}");
}

#[test]
fn members_stand_in_any_order_with_any_white_space() {
    let json =
        "\r\n{ \"data\" : { \"a\" : [ 1.0 , \" x \" ] } ,\t\"subject\":\"content-1\", \"zz\":true, \"type\":\"t\",
        \"aa\" : -5,\"source\":\"/s\", \"id\":\"\\u0031\", \"specversion\":\"1.0\" } ";
    let expected = accepted(r#","aa":-5,"zz":true,"data":{"a":[1.0," x "]}"#);
    assert_eq!(read(json), Ok(expected.clone()));
    assert_eq!(expected.data, Data::Json(r#"{"a":[1.0," x "]}"#.into()));
}

#[test]
fn a_null_attribute_counts_as_absent_and_null_data_is_data() {
    let nulls =
        r#","time":null,"eventversion":null,"dataschema":null,"datacontenttype":null,"mine":null,"position":null"#;
    assert_eq!(accepted(nulls), accepted(""));
    assert_eq!(accepted(r#","data":null"#).data, Data::Json("null".into()));
    assert_eq!(refusal(&event_with("").replace("\"1\"", "null")), "\"id\" is missing");
    assert_refused(r#","No":null"#, "made of a-z and 0-9");
}

#[test]
fn an_event_without_what_it_must_have_is_refused() {
    for member in ["specversion", "id", "source", "type", "subject"] {
        let json = event_with("").replace(&format!("\"{member}\""), "\"other\"");
        assert_eq!(refusal(&json), format!("\"{member}\" is missing"));
    }
    for (member, value) in [("id", "1"), ("source", "/s"), ("type", "t"), ("subject", "content-1")] {
        let given = format!("\"{member}\":\"{value}\"");
        let json = event_with("").replace(&given, &format!("\"{member}\":\"\""));
        assert!(refusal(&json).starts_with(&format!("\"{member}\": ")), "{json}");
        let json = event_with("").replace(&given, &format!("\"{member}\":7"));
        assert_eq!(refusal(&json), format!("\"{member}\": a string is expected"));
    }
    assert_refused(r#","dataschema":"""#, "it is empty");
    assert_refused(r#","datacontenttype":"""#, "it is empty");
    assert!(refusal(&event_with("").replace("1.0", "1.1")).contains("\"1.0\" is expected"));
}

#[test]
fn what_the_log_assigns_cannot_be_sent() {
    for name in domain::event::ASSIGNED_ATTRIBUTES {
        let error = read(&event_with(&format!(",\"{name}\":\"1\""))).expect_err(name);
        assert_eq!(error, EventError::Assigned(name.into()));
    }
    assert_refused(r#","sealedby":"k""#, "it is the service's own and cannot be sent");
}

#[test]
fn json_with_two_meanings_is_refused() {
    assert_refused(r#","id":"2""#, "a member of the same name");
    assert_refused(r#","\u0069d":"2""#, "a member of the same name");
    assert_refused(r#","data":{"a":1,"a":1}"#, "a member of the same name");
    assert_refused(r#","data":[{"b":{"a":1,"\u0061":2}}]"#, "a member of the same name");
    assert_refused(r#","data":"\ud800""#, "a lone surrogate");
    assert_refused(r#","data":{"\udc00":1}"#, "a lone surrogate");
    assert_refused(r#","mine":"\ud800\u0041""#, "a lone surrogate");
    assert_refused(&format!(r#","data":{}{}"#, "[".repeat(65), "]".repeat(65)), "more than 64 levels");
    accepted(&format!(r#","data":{}{}"#, "[".repeat(64), "]".repeat(64)));
    assert!(refusal(&format!("\u{feff}{}", event_with(""))).contains("a byte order mark"));
    assert!(refusal(&format!("{},", event_with(""))).contains("something follows"));
    let mut not_utf8 = event_with(r#","data":"X""#).into_bytes();
    let at = not_utf8.iter().position(|b| *b == b'X').expect("there");
    not_utf8[at] = 0xff;
    let error = NewEvent::from_cloudevent(&not_utf8).expect_err("refused");
    assert_eq!(with_causes(&error), format!("not acceptable JSON: invalid UTF-8 at byte {at}"));
}

#[test]
fn an_optional_attribute_that_is_empty_is_refused() {
    for name in ["eventversion", "dataschema", "datacontenttype"] {
        assert_refused(&format!(r#","{name}":"""#), "it is empty");
    }
}

#[test]
fn attributes_hold_no_control_characters_and_data_may() {
    for escape in [r"\n", r"\u0000", r"\u001f", r"\u007f", r"\u0080", r"\u009F", "\u{7f}", "\u{85}"] {
        assert_refused(&format!(r#","mine":"{escape}""#), "no control characters");
        assert_refused(&format!(r#","eventversion":"{escape}""#), "no control characters");
        accepted(&format!(r#","data":"{escape}""#));
        for (member, value) in [("id", "1"), ("source", "/s"), ("type", "t"), ("subject", "content-1")] {
            let given = format!("\"{member}\":\"{value}\"");
            let json = event_with("").replace(&given, &format!("\"{member}\":\"{value}{escape}\""));
            assert!(refusal(&json).contains("no control characters"), "{json}");
        }
    }
    assert_refused(",\"data\":\"\n\"", "a control character");
    accepted(",\"mine\":\"\u{a0}ü\u{2028}\"");
}

#[test]
fn limits_are_kept_to_the_byte() {
    let sized = |bytes: usize| format!(r#","mine":"{}{}""#, "é".repeat(bytes / 2), "x".repeat(bytes % 2));
    accepted(&sized(512));
    assert_refused(&sized(513), "at most 512 bytes");

    let many = |n: usize| (0..n).map(|i| format!(r#","e{i}":{i}"#)).collect::<String>();
    assert_eq!(accepted(&many(64)).extensions.len(), 64);
    assert_refused(&many(65), "at most 64 extensions");

    // 16 names of 3 bytes and 16 values, 8 KiB together.
    let long = |last: usize| {
        (10..25).map(|i| format!(r#","e{i}":"{}""#, "v".repeat(509))).collect::<String>()
            + &format!(r#","e25":"{}""#, "v".repeat(last))
    };
    accepted(&long(509));
    assert_refused(&long(510), "8192 bytes together");
    accepted(&format!(r#","{}":"v""#, "n".repeat(512)));
    assert_refused(&format!(r#","{}":"v""#, "n".repeat(513)), "at most 512 bytes");
}

#[test]
fn an_event_over_one_mebibyte_is_refused_wherever_the_log_would_put_it() {
    // The line of the smallest event with four times the largest number that the log could assign.
    let envelope = event_with("").len()
        + r#","recordedat":"2026-05-01T08:00:00.612345Z","position":"","version":"","previous":"","epoch":"""#.len()
        + 4 * 19;
    let room = domain::append::EVENT_BYTES_MAX - envelope - r#","data":"""#.len();
    let json = |bytes: usize| event_with(&format!(r#","data":"{}""#, "x".repeat(bytes)));
    assert!(read(&json(room)).is_ok());
    assert_eq!(read(&json(room + 1)), Err(EventError::TooLarge));
    // White space does not count.
    assert!(read(&json(room).replace(",\"data\":", &format!(",{}\"data\":", " ".repeat(1000)))).is_ok());
}

#[test]
fn time_is_kept_as_given_and_must_be_rfc_3339() {
    for time in
        ["1985-04-12T23:20:50.52Z", "1990-12-31T15:59:60-08:00", "2026-01-01t00:00:00z", "2026-05-01T10:00:00.50+02:00"]
    {
        assert_eq!(accepted(&format!(r#","time":"{time}""#)).time.as_deref(), Some(time));
    }
    for time in [
        "",
        "2026-05-01",
        "2026-05-01T10:00:00",
        "2026-05-01 10:00:00Z",
        "2026-02-30T10:00:00Z",
        "2026-05-01T24:00:00Z",
        "2026-05-01T10:00Z",
        "2026-05-01T10:00:00,5Z",
        "2026-05-01T10:00:00.Z",
        "2026-05-01T10:00:00+0200",
        "2026-05-01T10:00:00\u{2212}02:00",
        "2026-05-01T10:00:00Z ",
        " 2026-05-01T10:00:00Z",
        "0000-01-01T00:00:00Z",
        "2026-5-01T10:00:00Z",
        "+2026-05-01T10:00:00Z",
        "2026-05-01T10:00:00+02",
        "2026-05-01T10:00:00+24:00",
    ] {
        assert_refused(&format!(r#","time":"{time}""#), "not an RFC 3339 instant");
    }
}

#[test]
fn an_extension_is_a_string_a_boolean_or_a_32_bit_integer() {
    let event = accepted(r#","s":"x","b":true,"i":-2147483648"#);
    let values: Vec<_> = event.extensions.into_iter().map(|e| (e.name, e.value)).collect();
    assert_eq!(
        values,
        [
            ("b".into(), ExtensionValue::Boolean(true)),
            ("i".into(), ExtensionValue::Integer(i32::MIN)),
            ("s".into(), ExtensionValue::String("x".into()))
        ]
    );
    for value in ["2147483648", "1.0", "1e3", "[]", "{}", "-2147483649"] {
        assert_refused(&format!(r#","mine":{value}"#), "a string, a boolean or a 32-bit integer");
    }
    for name in ["Mine", "my_own", "my-own", "", "é", "data_base65"] {
        assert_refused(&format!(r#","{name}":"x""#), "made of a-z and 0-9");
    }
    assert_refused(r#","tags":5"#, "a string is expected");
    assert_refused(r#","metadata":true"#, "a string is expected");
}

#[test]
fn data_and_data_base64_exclude_each_other() {
    assert_refused(r#","data":1,"data_base64":"AA==""#, "not both");
    assert_refused(r#","data_base64":"AA==","data":null"#, "not both");
    assert_eq!(accepted(r#","data_base64":"\/\/8=""#).data, Data::Base64("//8=".into()));
    for base64 in
        [r#""AA""#, r#""AA=""#, r#""AAA""#, r#""AB==""#, r#""A-_=""#, r#""AA==\n""#, r#"" AA==""#, "null", "5"]
    {
        assert_refused(&format!(r#","data_base64":{base64}"#), "data_base64");
    }
}

#[test]
fn a_subject_that_is_no_stream_can_be_given_one() {
    let json = event_with("").replace("content-1", "lib/Ä b.ex");
    assert!(refusal(&json).starts_with("\"subject\": "));
    let event = NewEvent::from_cloudevent_with(json.as_bytes(), |subject| StreamName::of("content", subject));
    assert_eq!(event.expect("valid").stream.as_str(), "content-lib/Ä b.ex");
    let refused = NewEvent::from_cloudevent_with(json.as_bytes(), |_| Err(domain::StreamNameError::NoDash));
    assert!(matches!(refused, Err(EventError::Attribute { name, .. }) if name == "subject"));
}

#[test]
fn an_event_made_by_hand_is_checked_by_the_same_rules() {
    let valid = accepted(r#","a":1,"b":2,"data":{"x":1}"#);
    let broken = |change: fn(&mut NewEvent)| {
        let mut event = valid.clone();
        change(&mut event);
        with_causes(&event.check().expect_err("refused"))
    };
    assert_eq!(valid.check(), Ok(()));
    assert_eq!(broken(|e| e.id.clear()), "\"id\": it is empty");
    assert!(broken(|e| e.extensions.swap(0, 1)).contains("sorted by name"));
    assert!(broken(|e| e.extensions[1].name = "a".into()).contains("each stands once"));
    assert!(broken(|e| e.extensions[0].name = "data".into()).contains("no extension"));
    assert!(broken(|e| e.extensions[0].name = "id".into()).contains("no extension"));
    assert!(broken(|e| e.extensions[0].name = "epoch".into()).contains("assigned by the log"));
    assert!(broken(|e| e.data = Data::Json("{\"x\": 1}".into())).contains("white space"));
    assert!(broken(|e| e.data = Data::Json("1 ".into())).contains("white space"));
    assert!(broken(|e| e.data = Data::Json("{".into())).contains("not acceptable JSON"));
    assert!(broken(|e| e.data = Data::Json("1\n2".into())).contains("something follows"));
    assert!(broken(|e| e.data = Data::Base64("?".into())).contains("no base64"));
    // What the service seals it marks itself.
    let mut sealed = valid.clone();
    sealed.extensions.push(Extension { name: "sealedby".into(), value: ExtensionValue::String("key-1".into()) });
    assert_eq!(sealed.check(), Ok(()));
}

#[test]
fn a_batch_names_the_event_that_is_wrong() {
    let good = event_with("");
    let batch = |json: &str| NewEvent::batch_from_cloudevents(json.as_bytes());
    assert_eq!(batch(&format!(" [ {good} , {good} ] ")).expect("valid").len(), 2);
    assert_eq!(batch("[]").expect("valid"), []);
    let wrong = batch(&format!("[{good},{good},{}]", good.replace("1.0", "2.0")));
    assert!(
        matches!(wrong, Err(InvalidRequest::Event { index: 2, source: EventError::Attribute { .. } })),
        "{wrong:?}"
    );
    let cut = batch(&format!("[{good},{}", &good[..20]));
    assert!(matches!(cut, Err(InvalidRequest::Event { index: 1, source: EventError::Json(_) })), "{cut:?}");
    assert!(matches!(batch(&good), Err(InvalidRequest::Json(_))));
    assert!(matches!(batch(&format!("[{good}] x")), Err(InvalidRequest::Json(_))));
    assert!(matches!(batch(&" ".repeat(REQUEST_BYTES_MAX + 1)), Err(InvalidRequest::TooLarge)));
    let many = format!("[{}{good}]", format!("{good},").repeat(domain::append::REQUEST_EVENTS_MAX));
    assert!(matches!(batch(&many), Err(InvalidRequest::TooManyEvents)));
    // Each event's data may have all its levels, however deep the event itself stands.
    let deep = event_with(&format!(r#","data":{}{}"#, "[".repeat(64), "]".repeat(64)));
    assert!(batch(&format!("[{deep}]")).is_ok());
}

#[test]
fn an_append_document_says_what_it_expects_of_each_stream() {
    let json = format!(
        r#"{{"events":[{}],"expect":[{{"stream":"content-1","version":"7"}},{{"version":8,"stream":"content-2"}},
        {{"stream":"content-3","version":"any"}},{{"stream":"content-4","version":"none"}},{{"stream":"content-5","version":"exists"}}]}}"#,
        event_with("")
    );
    let request = AppendRequest::from_document(json.as_bytes()).expect("valid");
    let exactly = |n| ExpectedVersion::Exactly(StreamVersion::new(n).expect("a version"));
    let versions =
        [exactly(7), exactly(8), ExpectedVersion::Any, ExpectedVersion::NoStream, ExpectedVersion::StreamExists];
    let expect: Vec<_> = (1..=5)
        .zip(versions)
        .map(|(n, version)| Expectation { stream: StreamName::of("content", &format!("{n}")).expect("valid"), version })
        .collect();
    assert_eq!(request, AppendRequest { events: vec![accepted("")], expect, ..AppendRequest::default() });
}

#[test]
fn an_append_document_with_anything_else_is_refused() {
    let document = |expect: &str, more: &str| {
        let json = format!(r#"{{"expect":{expect},"events":[{}]{more}}}"#, event_with(""));
        with_causes(&AppendRequest::from_document(json.as_bytes()).expect_err("refused"))
    };
    for version in [
        r#""0""#,
        "0",
        r#""07""#,
        r#""-1""#,
        "7.0",
        "1e1",
        r#""all""#,
        r#""""#,
        "null",
        "true",
        r#""9223372036854775808""#,
        r#""+7""#,
        "{}",
    ] {
        let refusal = document(&format!(r#"[{{"stream":"content-1","version":{version}}}]"#), "");
        assert!(refusal.starts_with("\"version\": a stream version from 1"), "{version}: {refusal}");
    }
    assert_eq!(document(r#"[{"stream":"content-1"}]"#, ""), "\"version\": it is missing");
    assert_eq!(document(r#"[{"version":1}]"#, ""), "\"stream\": it is missing");
    assert!(document(r#"[{"version":1,"stream":"x"}]"#, "").starts_with("\"stream\": "));
    assert!(document(r#"[{"version":1,"stream":"content-1","x":1}]"#, "").starts_with("\"x\": "));
    assert!(document("[]", r#","durability":"replicated""#).starts_with("\"durability\": "));
    assert!(document("[]", r#","expect":[]"#).contains("a member of the same name"));
    assert!(document("{}", "").contains("an array is expected"));
    let twice = r#"[{"stream":"content-1","version":1},{"stream":"content-1","version":1}]"#;
    assert_eq!(document(twice, ""), "content-1 is expected twice");
    for (json, reason) in
        [("{}", "at least one event"), (r#"{"events":[]}"#, "at least one event"), ("[]", "an object is expected")]
    {
        let refusal = with_causes(&AppendRequest::from_document(json.as_bytes()).expect_err(json));
        assert!(refusal.contains(reason), "{json}: {refusal}");
    }
}

#[test]
fn metadata_becomes_extensions_and_comes_back() {
    let metadata: HashMap<String, String> = [
        ("correlation", "42"),
        ("User-Agent", "a \"b\"\n\u{85}"),
        ("time", "now"),
        ("data", "x"),
        ("tags", "x"),
        ("sealedby", "x"),
        ("metadata", "{\"a\":\"b\"}"),
        ("position", "9"),
        ("", "empty"),
        ("lines", "1\n2"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into();
    let extensions = extensions_from_metadata(&metadata).expect("small enough");
    let names: Vec<&str> = extensions.iter().map(|e| e.name.as_str()).collect();
    assert_eq!(names, ["correlation", "metadata"]);
    let text = r#"{"":"empty","User-Agent":"a \"b\"\u000a\u0085","data":"x","lines":"1\u000a2","metadata":"{\"a\":\"b\"}","position":"9","sealedby":"x","tags":"x","time":"now"}"#;
    assert_eq!(extensions[1].value, ExtensionValue::String(text.into()));
    assert_eq!(metadata_from_extensions(&extensions), metadata);
    assert!(extensions_from_metadata([("k", "v".repeat(513))]).is_err());
    assert_eq!(extensions_from_metadata::<&str, &str>([]).expect("empty"), []);
}

#[test]
fn extensions_of_other_clients_are_metadata_too() {
    let event = accepted(r#","b":true,"i":5,"metadata":"plain","tags":"x y""#);
    let metadata = metadata_from_extensions(&event.extensions);
    let expected = [("b", "true"), ("i", "5"), ("metadata", "plain"), ("tags", "x y")];
    assert_eq!(metadata, expected.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
}

#[test]
fn extensions_are_one_json_object_in_the_database() {
    let event = accepted(r#","b":true,"i":-5,"s":"é\"\\""#);
    let json = extensions_to_json(&event.extensions);
    assert_eq!(json, r#"{"b":true,"i":-5,"s":"é\"\\"}"#);
    assert_eq!(extensions_from_json(json.as_bytes()), Ok(event.extensions));
    assert_eq!(extensions_to_json(&[]), "{}");
    for wrong in ["", "[]", "{}x", r#"{"id":"x"}"#, r#"{"A":1}"#, r#"{"a":null}"#, r#"{"a":1,"a":1}"#, r#"{"a":1.5}"#] {
        extensions_from_json(wrong.as_bytes()).expect_err(wrong);
    }
}
