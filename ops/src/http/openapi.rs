//! The OpenAPI 3.1 document: made from the routes that the router is made of, and from the types that are read and
//! written. Nothing may be said here of one route alone: that belongs to its [`Route`].

mod problems;

use std::sync::{Arc, LazyLock};

use axum::Json;
use axum::routing::get;
use domain::ErrorKind;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::{Schema, json_schema};
use serde_json::{Map, Value, json};

use super::route::{Answer, Body, JSON, Route, Verb};
use super::scope::Touches;
use super::{EVERYONE, routes};

pub(super) static ROUTES: &[Route] = &[Route {
    summary: "This document",
    touches: Touches::Nothing,
    ..Route::get("/v1/openapi.json", EVERYONE, || get(serve), &[Answer::json("The document", &[(JSON, any_object)])])
}];

static DOCUMENT: LazyLock<Arc<Value>> = LazyLock::new(|| Arc::new(make()));

/// Answers as they came once, by operation, status and media type. A test holds each to its schema, and misses none.
static EXAMPLES: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(include_str!("examples.json")).expect("a test reads every example"));

const ABOUT: &str = "An event log that loses nothing: appends, reads, the archive and the other region.\n\n\
    64-bit numbers are strings in JSON. Every error is a problem document (RFC 9457) whose `kind` says what to do, and \
    which further members there may be: the schema `Problem`. \
    What is no route is answered with 404 `not_found`, a method that a route has not with 405 `invalid`; a route for \
    GET answers HEAD too. Once a shutdown has begun, every request but `/health/live` is answered with 503 \
    `unavailable`, with or without a token. Before a request is one, no document is answered: 400 for what is no HTTP/1.1, \
    431 for a header of more than 64 fields or 64 KiB (32 KiB are always taken), and nothing where one does not end in \
    time. Answers in lines, and in JSON of a KiB or more, are compressed for who sends `Accept-Encoding: zstd`; each \
    piece leaves at once, also of a tail.";

/// Headers of answers, with what they mean.
const HEADERS: [(&str, &str); 8] = [
    ("Coldstream-Archive", "`true` where some of the answer is, or may be, out of the live log"),
    ("Coldstream-Checkpoint", "The position up to which the view is the fold of the log"),
    ("Coldstream-Head", "The log's head when the answer began"),
    ("Coldstream-Next", "Of a filtered answer: `from` of the next page. Absent where nothing is left to look at"),
    ("Coldstream-Resume", "Resume token of the last record that was read for the answer: `token` of the next request"),
    ("Retry-After", "Seconds after which to come again; absent with kind fenced"),
    ("WWW-Authenticate", "`Bearer`"),
    ("X-Request-Id", "The client's own, or one made here; it stands in the server's log"),
];

/// The document of this build's API.
#[must_use]
pub fn document() -> Arc<Value> {
    DOCUMENT.clone()
}

/// Whether the document says that `method` of `route` may be answered with `status`.
#[must_use]
pub fn says(method: &str, route: &str, status: &str) -> bool {
    let verb = if method == "HEAD" { "get".to_owned() } else { method.to_ascii_lowercase() };
    match DOCUMENT["paths"].get(route) {
        // What is said of all, in the description: a token and a running server come before the route.
        None => ["401", "403", "404", "429", "503"].contains(&status),
        Some(path) => match path.get(verb) {
            None => ["401", "403", "405", "429", "503"].contains(&status),
            Some(operation) => operation["responses"].get(status).is_some(),
        },
    }
}

/// Whether the document says that a problem may look so.
#[must_use]
pub fn says_problem(problem: &Value) -> bool {
    problems::fits(problem)
}

async fn serve() -> Json<Arc<Value>> {
    Json(document())
}

fn make() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut schemas = settings.into_generator();
    let mut paths = Map::new();
    for route in routes() {
        let verb = if route.verb == Verb::Get { "get" } else { "post" };
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[verb] = operation(route, &mut schemas);
    }
    let mut shapes = schemas.take_definitions(true);
    shapes.extend(problems::schemas());
    let headers: Map<String, Value> = HEADERS
        .into_iter()
        .map(|(name, what)| (name.to_owned(), json!({"description": what, "schema": {"type": "string"}})))
        .collect();
    json!({
        "openapi": "3.1.0",
        "info": {"title": "Coldstream", "version": env!("CARGO_PKG_VERSION"), "description": ABOUT,
                 "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"}},
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": shapes,
            "headers": headers,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer",
                "description": "A token with a role (`coldstream token create`); an operation names the roles that may. \
                    A token that is limited to categories opens only operations on streams of these, or on nothing of \
                    the log"}},
        },
    })
}

fn operation(route: &Route, schemas: &mut SchemaGenerator) -> Value {
    let name = route.path.split(['/', '-', '.']).filter(|part| !part.is_empty() && *part != "v1");
    let mut operation = json!({
        "operationId": name.collect::<Vec<_>>().join("_"),
        "summary": route.summary,
        // One alternative for each role: any of them suffices.
        "security": route.roles.iter().map(|role| json!({"token": [role.as_str()]})).collect::<Vec<_>>(),
        "parameters": parameters(route, schemas),
        "responses": responses(route, schemas),
    });
    if !route.bodies.is_empty() {
        let mut content = Map::new();
        for Body { media, shape, example } in route.bodies {
            let example: Value = serde_json::from_str(example).expect("a test reads every example");
            content.insert((*media).to_owned(), json!({"schema": shape(schemas), "example": example}));
        }
        operation["requestBody"] = json!({"required": true, "content": content});
    }
    operation
}

fn parameters(route: &Route, schemas: &mut SchemaGenerator) -> Vec<Value> {
    let query = route.query.map(|shape| shape(schemas).to_value()).unwrap_or_default();
    let required = query["required"].as_array().cloned().unwrap_or_default();
    let members = query["properties"].as_object().cloned().unwrap_or_default();
    let mut parameters: Vec<Value> = members
        .into_iter()
        .map(|(name, mut schema)| {
            let required = required.contains(&Value::from(name.as_str()));
            let description = schema.as_object_mut().and_then(|schema| schema.remove("description"));
            let schema = never_null(schema);
            let mut parameter = json!({"name": name, "in": "query", "required": required, "schema": schema});
            if let Some(description) = description {
                parameter["description"] = description;
            }
            if let Some((_, example)) = route.example.iter().find(|(of, _)| *of == name) {
                let text = parameter["schema"]["type"] == "string";
                let value = serde_json::from_str(example).ok().filter(|_| !text);
                parameter["example"] = value.unwrap_or_else(|| Value::from(*example));
            }
            parameter
        })
        .collect();
    parameters.extend(route.headers.iter().map(|(name, what)| {
        json!({"name": name, "in": "header", "required": false, "description": what, "schema": {"type": "string"}})
    }));
    parameters
}

/// A parameter that is not given is absent: a URL has no null.
fn never_null(mut schema: Value) -> Value {
    if let Some([kind, Value::String(null)]) = schema["type"].as_array().map(Vec::as_slice)
        && null == "null"
    {
        schema["type"] = kind.clone();
    }
    schema
}

fn responses(route: &Route, schemas: &mut SchemaGenerator) -> Map<String, Value> {
    let mut responses = Map::new();
    let verb = if route.verb == Verb::Get { "get" } else { "post" };
    for answer in route.answers {
        let mut content = Map::new();
        for (media, shape) in answer.forms {
            let mut form = json!({"schema": shape(schemas)});
            let example = &EXAMPLES[format!("{verb} {}", route.path)][answer.status.as_str()][*media];
            if !example.is_null() {
                form["example"] = example.clone();
            }
            content.insert((*media).to_owned(), form);
        }
        let headers = headers(answer.headers);
        let response = json!({"description": answer.what, "content": content, "headers": headers});
        responses.insert(answer.status.as_str().to_owned(), response);
    }
    for kinds in route.problems().chunk_by(|(_, one), (_, other)| one == other) {
        let status = kinds[0].1;
        let kinds: Vec<ErrorKind> = kinds.iter().map(|(kind, _)| *kind).collect();
        responses.insert(status.as_str().to_owned(), problems::answer(route, status, &kinds));
    }
    responses
}

fn headers(names: &[&str]) -> Map<String, Value> {
    let every = names.iter().chain(&["X-Request-Id"]);
    every.map(|name| ((*name).to_owned(), json!({"$ref": format!("#/components/headers/{name}")}))).collect()
}

fn any_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object"})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_in_the_document_leads_somewhere() {
        fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
            match value {
                Value::Object(members) => {
                    found.extend(members.get("$ref").and_then(Value::as_str));
                    members.values().for_each(|value| references(value, found));
                }
                Value::Array(values) => values.iter().for_each(|value| references(value, found)),
                _ => {}
            }
        }
        let document = document();
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.contains(&"#/components/schemas/Appended"), "{found:?}");
        for reference in found {
            let there = document.pointer(reference.trim_start_matches('#'));
            assert!(there.is_some(), "{reference}");
        }
    }

    #[test]
    fn every_operation_has_a_name_of_its_own_a_summary_and_an_answer_without_an_error() {
        let mut names = std::collections::BTreeSet::new();
        for (path, operations) in document()["paths"].as_object().expect("paths") {
            for operation in operations.as_object().expect("operations").values() {
                assert!(names.insert(operation["operationId"].to_string()), "{path}");
                assert_ne!(operation["summary"], "", "{path}");
                assert!(operation["responses"].get("200").is_some(), "{path}");
                let examples = operation["parameters"].as_array().expect("parameters").iter();
                let without = examples.filter(|of| of["required"] == true && of.get("example").is_none()).count();
                assert_eq!(without, 0, "{path}: a required parameter has an example");
            }
        }
        assert_eq!(names.len(), routes().count());
    }

    #[test]
    fn what_is_no_route_is_not_documented_as_one() {
        assert!(says("POST", "/v1/append", "201") && says("HEAD", "/v1/log", "200"));
        assert!(!says("POST", "/v1/append", "418") && !says("PUT", "/v1/log", "200") && !says("GET", "none", "200"));
    }
}
