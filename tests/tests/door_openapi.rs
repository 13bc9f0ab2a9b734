//! The API's document on a real region: what it shows can be sent as it is, and is answered as it says.

mod door_common;

use std::collections::BTreeMap;

use domain::Timestamp;
use door_common::{Rig, text};
use reqwest::{Client, RequestBuilder, StatusCode};
use serde_json::Value;

/// Sends the examples of one operation: one request for each body that it takes.
fn requests(rig: &Rig, path: &str, method: &str, operation: &Value) -> Vec<RequestBuilder> {
    let tokens = &rig.region.tokens;
    let role = operation["security"].get(0).map(|of| of["token"][0].as_str().expect("a role"));
    let token = role.map(|role| match role {
        "appender" => &tokens.appender,
        "reader" => &tokens.reader,
        "operator" => &tokens.operator,
        "replicator" => &tokens.replicator,
        other => panic!("no token of role {other} is needed so far"),
    });
    let request = || {
        let query: Vec<(String, String)> = operation["parameters"]
            .as_array()
            .expect("parameters")
            .iter()
            .filter_map(|parameter| {
                let example = parameter.get("example")?;
                let value = example.as_str().map_or_else(|| example.to_string(), str::to_owned);
                Some((parameter["name"].as_str()?.to_owned(), value))
            })
            .collect();
        let method = method.to_ascii_uppercase().parse().expect("a method");
        let request = Client::new().request(method, format!("{}{path}", rig.region.url)).query(&query);
        token.into_iter().fold(request, RequestBuilder::bearer_auth)
    };
    let Some(bodies) = operation["requestBody"]["content"].as_object() else { return vec![request()] };
    let with =
        |(media, body): (&String, &Value)| request().header("content-type", media).body(body["example"].to_string());
    bodies.iter().map(with).collect()
}

/// Answers in these forms have examples.
const SHOWN: [&str; 2] = ["application/json", "application/x-ndjson"];
const PROBLEM: &str = "application/problem+json";
/// Names the file to which the answers of today are written: `ops/src/http/examples.json` is made so.
const WRITE_TO: &str = "COLDSTREAM_WRITE_EXAMPLES";

/// An answer as an example shows it: JSON as it is, of lines the first two.
fn shown(media: &str, body: &str) -> Value {
    match media {
        "application/json" => serde_json::from_str(body).expect("JSON"),
        _ => Value::from(body.split_inclusive('\n').take(2).collect::<String>()),
    }
}

/// Holds `value` to a schema of the document, as far as our schemas say something: types, members, choices.
fn holds(document: &Value, schema: &Value, value: &Value, path: &str) {
    if let Some(reference) = schema["$ref"].as_str() {
        let found = document.pointer(reference.trim_start_matches('#')).expect("it leads somewhere");
        holds(document, found, value, path);
    }
    let is = |name: &str| match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("{path}: the type {other} is new"),
    };
    let named = schema["type"].as_str().into_iter();
    let named: Vec<&str> =
        named.chain(schema["type"].as_array().into_iter().flatten().filter_map(Value::as_str)).collect();
    assert!(named.is_empty() || named.iter().any(|name| is(name)), "{path}: {value} is none of {named:?}");
    if let Some(choices) = schema["enum"].as_array() {
        assert!(choices.contains(value), "{path}: {value} is none of {choices:?}");
    }
    assert!(schema.get("const").is_none_or(|only| only == value), "{path}: {value} is not {}", schema["const"]);
    for choices in ["anyOf", "oneOf"].iter().filter_map(|name| schema[*name].as_array()) {
        let fits = |choice: &Value| std::panic::catch_unwind(|| holds(document, choice, value, path)).is_ok();
        assert!(choices.iter().any(fits), "{path}: {value} is none of {choices:?}");
    }
    for required in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        assert!(value.get(required).is_some(), "{path}: {required} is missing in {value}");
    }
    for (name, member) in value.as_object().into_iter().flatten() {
        let of = [&schema["properties"][name], &schema["additionalProperties"]];
        match of.into_iter().find(|of| !of.is_null()) {
            Some(Value::Bool(allowed)) => assert!(*allowed, "{path}: {name} is not in the schema"),
            Some(schema) => holds(document, schema, member, &format!("{path}.{name}")),
            // What stands beside a reference adds to it.
            None => {
                let closed = schema["type"] == "object" && !schema["properties"].is_null();
                assert!(!closed, "{path}: {name} is not in the schema");
            }
        }
    }
    for element in value.as_array().into_iter().flatten().filter(|_| schema["items"].is_object()) {
        holds(document, &schema["items"], element, &format!("{path}[]"));
    }
}

/// Every error answer has examples, and they are of its schema.
fn problems_hold(document: &Value, name: &str, form: &Value) {
    let examples = form["examples"].as_object().filter(|examples| !examples.is_empty());
    for (of, example) in examples.unwrap_or_else(|| panic!("{name} has no example")) {
        holds(document, &form["schema"], &example["value"], &format!("{name} {of}"));
    }
}

/// Every answer without an error in JSON or in lines has an example, and that is of its schema.
fn examples_hold(document: &Value) {
    for (path, operations) in document["paths"].as_object().expect("paths") {
        for (method, operation) in operations.as_object().expect("operations") {
            for (status, response) in operation["responses"].as_object().expect("responses") {
                if let Some(form) = response["content"].get(PROBLEM) {
                    problems_hold(document, &format!("{method} {path} {status}"), form);
                }
                let forms = response["content"].as_object().into_iter().flatten();
                for (media, form) in
                    forms.filter(|(media, _)| status.starts_with('2') && SHOWN.contains(&media.as_str()))
                {
                    let name = format!("{method} {path} {status} {media}");
                    let example = form.get("example").unwrap_or_else(|| panic!("{name} has no example"));
                    holds(document, &form["schema"], example, &name);
                    let lines = example.as_str().into_iter().flat_map(str::lines).filter(|line| !line.is_empty());
                    for line in lines {
                        assert!(serde_json::from_str::<Value>(line).expect("JSON").is_object(), "{name}: {line}");
                    }
                }
            }
        }
    }
}

/// Whether both have the same members, of the same types, as far as one says what the other says: an answer of today and the
/// example of it.
fn alike(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            one.iter().all(|(name, value)| other.get(name).is_none_or(|other| alike(value, other)))
        }
        (Value::Null, _) | (_, Value::Null) | (Value::Array(_), Value::Array(_)) => true,
        _ => std::mem::discriminant(one) == std::mem::discriminant(other),
    }
}

/// What a region without a peer cannot do: no example is right for every region.
fn refused_here(path: &str) -> bool {
    matches!(path, "/v1/replication/cosignature" | "/v1/admin/promote" | "/v1/admin/step-down")
}

/// The document as a running server shows it.
async fn shown_by(rig: &Rig) -> Value {
    let request = Client::new().get(format!("{}/v1/openapi.json", rig.region.url));
    let asked = request.bearer_auth(&rig.region.tokens.reader).send().await.expect("an answer");
    asked.json().await.expect("JSON")
}

/// Sends what is refused with one of `expected`, and holds the problem to what the document says of that answer.
async fn refused(document: &Value, operation: &Value, request: RequestBuilder, expected: &[u16]) -> Value {
    let answer = request.send().await.expect("an answer");
    let (status, media) = (answer.status(), answer.headers()["content-type"].clone());
    let problem: Value = answer.json().await.expect("a problem");
    assert!(expected.contains(&status.as_u16()) && media == PROBLEM, "{status} {media:?} {problem}");
    let form = &operation["responses"][status.as_str()]["content"][PROBLEM];
    assert!(form.is_object(), "not documented: {problem}");
    holds(document, &form["schema"], &problem, "");
    problem
}

#[tokio::test]
async fn every_refusal_is_a_problem_as_the_document_says() {
    // Without a limit for who tries one token after the other: that would be another refusal.
    let settings = vec![("http.rates.failures_per_second", toml::Value::from(0))];
    let mut rig = Rig::with(None, settings).await;
    rig.region.serve().await.expect("it serves");
    let document = shown_by(&rig).await;
    let tokens = rig.region.tokens.clone();
    let roles = [("appender", &tokens.appender), ("operator", &tokens.operator), ("replicator", &tokens.replicator)];
    for (path, operations) in document["paths"].as_object().expect("paths") {
        for (verb, operation) in operations.as_object().expect("operations") {
            let verb: reqwest::Method = verb.to_ascii_uppercase().parse().expect("a method");
            let request =
                || Client::new().request(verb.clone(), format!("{}{path}?no-such-parameter=1", rig.region.url));
            let alternatives = operation["security"].as_array().expect("alternatives");
            if alternatives.is_empty() {
                continue;
            }
            refused(&document, operation, request(), &[401]).await;
            for (role, token) in roles {
                let request = request().bearer_auth(token);
                let is_listed = alternatives.iter().any(|of| of["token"][0] == role);
                if !is_listed {
                    refused(&document, operation, request, &[403]).await;
                } else if operation["requestBody"].is_object() || !operation["parameters"][0].is_null() {
                    // Neither its query nor its body is one, or the region stands alone.
                    refused(&document, operation, request, &[400, 404, 415]).await;
                }
            }
        }
    }

    let operation = &document["paths"]["/v1/append"]["post"];
    let event = r#"{"specversion": "1.0", "id": "1", "source": "/tests", "type": "t", "subject": "order-1"}"#;
    let append = || {
        let request = Client::new().post(format!("{}/v1/append", rig.region.url)).bearer_auth(&tokens.appender);
        request.header("content-type", "application/cloudevents+json").header("Expected-Version", "none")
    };
    assert!(append().body(event).send().await.expect("an answer").status().is_success());
    let again = event.replace("\"1\"", "\"2\"");
    let problem = refused(&document, operation, append().body(again), &[409]).await;
    assert_eq!((&problem["stream"], &problem["actual"]), (&Value::from("order-1"), &Value::from("1")));
    rig.end().await;
}

#[tokio::test]
async fn every_example_of_the_document_is_answered_as_the_document_says() {
    let now = Timestamp::parse_rfc3339("2026-05-01T08:00:00Z").expect("an instant");
    let mut rig = Rig::with_time(Some(now)).await;
    rig.region.serve().await.expect("it serves");
    let url = format!("{}/v1/openapi.json", rig.region.url);
    let document = shown_by(&rig).await;
    let said = rig.run(&["openapi"]).await;
    assert_eq!(serde_json::from_slice::<Value>(&said.stdout).expect("JSON"), document, "{}", text(&said.stderr));
    assert_eq!(Client::new().get(&url).send().await.expect("an answer").status(), StatusCode::UNAUTHORIZED);

    let paths = document["paths"].as_object().expect("paths");
    let operations = paths.iter().flat_map(|(path, operations)| {
        let operations = operations.as_object().expect("operations").iter();
        operations.map(move |(method, operation)| (path.as_str(), method.as_str(), operation))
    });
    let mut operations: Vec<_> = operations.collect();
    // The other examples look at what the appends have written; what moves the region comes last.
    let mut today: BTreeMap<String, BTreeMap<String, BTreeMap<String, Value>>> = BTreeMap::new();
    operations.sort_by_key(|(path, ..)| (*path != "/v1/append", path.starts_with("/v1/admin/"), *path));
    for (path, method, operation) in operations {
        for request in requests(&rig, path, method, operation) {
            let answer = request.send().await.expect("an answer");
            let (status, media) = (answer.status(), answer.headers().get("content-type").cloned());
            let body = answer.text().await.unwrap_or_default();
            let response = &operation["responses"][status.as_str()];
            let media = media.map(|media| media.to_str().expect("text").split(';').next().expect("one").to_owned());
            let form = media.as_deref().map(|media| &response["content"][media]);
            assert!(form.is_some_and(Value::is_object), "{method} {path}: {status} {media:?} {body}");
            assert_ne!(status, StatusCode::NOT_FOUND, "{method} {path}: {body}");
            assert!(refused_here(path) || status.is_success(), "{method} {path}: {status} {body}");
            let media = media.expect("a form");
            if status.is_success() && SHOWN.contains(&media.as_str()) {
                let answered = shown(&media, &body);
                holds(&document, &form.expect("a form")["schema"], &answered, path);
                if let Some(example) = form.and_then(|form| form.get("example")) {
                    assert!(alike(&answered, example), "{method} {path}: {answered} and {example}");
                }
                let of = today.entry(format!("{method} {path}")).or_default();
                of.entry(status.as_str().to_owned()).or_default().insert(media, answered);
            }
        }
    }
    if let Ok(file) = std::env::var(WRITE_TO) {
        std::fs::write(file, format!("{:#}\n", serde_json::json!(today))).expect("written");
    }
    examples_hold(&document);
    rig.end().await;
}
