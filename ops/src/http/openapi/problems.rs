//! What the document says of errors: a schema for each kind of problem with the members that it may have, and the error
//! answers of a route with their examples. It must never say what [`super::super::problem`] does not make.

use axum::http::StatusCode;
use domain::ErrorKind;
use serde_json::{Map, Value, json};

use super::super::problem::{Member, examples, status_of};
use super::super::route::Route;

const REQUEST: &str = "2f7c1f0d5a4e4c0f8c1b6a3d9e8f7a6b";

/// The schemas of problems, by name: one for each kind, and `Problem` for any of them.
pub(super) fn schemas() -> Map<String, Value> {
    let mapping: Map<String, Value> =
        ErrorKind::ALL.into_iter().map(|kind| (kind.as_str().to_owned(), Value::from(place(kind)))).collect();
    let any = json!({
        "description": "RFC 9457 problem details: `kind` says what to do, and which further members there may be.",
        "oneOf": ErrorKind::ALL.map(reference),
        "discriminator": {"propertyName": "kind", "mapping": mapping},
    });
    let mut schemas: Map<String, Value> = ErrorKind::ALL.into_iter().map(|kind| (name(kind), schema(kind))).collect();
    schemas.insert("Problem".to_owned(), any);
    schemas
}

/// The answer with `status` of a route, which may be of these kinds.
pub(super) fn answer(route: &Route, status: StatusCode, kinds: &[ErrorKind]) -> Value {
    let meanings: Vec<String> = kinds.iter().map(|kind| format!("`{}`: {}", kind.as_str(), meaning(*kind))).collect();
    let mut schema = match kinds {
        [kind] => reference(*kind),
        several => json!({"oneOf": several.iter().copied().map(reference).collect::<Vec<_>>()}),
    };
    schema["properties"] = json!({"status": {"const": status.as_u16()}});
    let shown = kinds.iter().flat_map(|kind| examples::of(route.path, *kind, status));
    let shown: Map<String, Value> =
        shown.map(|example| (example.name.to_owned(), json!({"value": example.problem.of_request(REQUEST)}))).collect();
    let headers: &[&str] = match status.as_u16() {
        401 => &["WWW-Authenticate"],
        408 | 429 | 503 => &["Retry-After"],
        _ => &[],
    };
    json!({"description": meanings.join("; "), "headers": super::headers(headers),
           "content": {"application/problem+json": {"schema": schema, "examples": shown}}})
}

/// Whether `problem` is of the schema of its kind, with no member that is not in it.
pub(super) fn fits(problem: &Value) -> bool {
    let kind = problem["kind"].as_str().and_then(ErrorKind::parse);
    let (Some(schema), Some(members)) = (kind.map(schema), problem.as_object()) else { return false };
    let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let holds = |(name, value): (&String, &Value)| match &schema["properties"][name] {
        Value::Null => false,
        of if of["type"] == "string" => {
            let digits =
                value.as_str().is_some_and(|text| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()));
            value.is_string() && (of.get("pattern").is_none() || digits)
        }
        of => of["const"] == *value || of["enum"].as_array().is_some_and(|choices| choices.contains(value)),
    };
    required.into_iter().all(|name| members.contains_key(name)) && members.iter().all(holds)
}

fn name(kind: ErrorKind) -> String {
    format!("{kind:?}Problem")
}

fn place(kind: ErrorKind) -> String {
    format!("#/components/schemas/{}", name(kind))
}

fn reference(kind: ErrorKind) -> Value {
    json!({"$ref": place(kind)})
}

fn schema(kind: ErrorKind) -> Value {
    let mut members = json!({
        "type": {"const": "about:blank"},
        "title": {"type": "string"},
        "status": {"type": "integer", "enum": statuses(kind)},
        "kind": {"const": kind.as_str(), "description": "What to do: the contract"},
        "detail": {"type": "string", "description": "What is wrong, with the whole chain of causes"},
        "request": {"type": "string", "description": "The request's id, as in `X-Request-Id`"},
    });
    for member in Member::ALL.into_iter().filter(|member| member.kinds().contains(&kind)) {
        let mut schema = json!({"type": "string", "description": member.meaning()});
        if member.is_number() {
            schema["pattern"] = Value::from("^[0-9]+$");
        }
        members[member.as_str()] = schema;
    }
    json!({
        "type": "object",
        "description": format!("`{}`: {}. A later release may add members.", kind.as_str(), meaning(kind)),
        "required": ["type", "title", "status", "kind", "detail"],
        "properties": members,
    })
}

/// Every status that a problem of this kind may have.
fn statuses(kind: ErrorKind) -> Vec<u16> {
    let further: &[u16] = match kind {
        ErrorKind::Unavailable => &[408, 429],
        ErrorKind::Invalid => &[405, 413, 415, 422],
        ErrorKind::Denied => &[401],
        _ => &[],
    };
    [&[status_of(kind).as_u16()], further].concat()
}

fn meaning(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Conflict => "what the caller believed is not so; read again and decide again",
        ErrorKind::Fenced => "this region's epoch has lost; turn to the other region",
        ErrorKind::Unavailable => "it did not happen; retry",
        ErrorKind::Indeterminate => "it may have happened; an append is sent again with the same event ids",
        ErrorKind::Invalid => "the request is wrong; fix it",
        ErrorKind::Held => "a legal hold forbids it",
        ErrorKind::Forked => "the token is from a branch that lost; start from `fork`",
        ErrorKind::Corrupt => "stored bytes are not what was stored; a person must act",
        ErrorKind::NotFound => "there is no such thing",
        ErrorKind::Denied => "the token is missing, unknown, expired or revoked, or has not the role or the category",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::super::routes;
    use super::*;

    /// Every example of every error answer: route, status, document.
    fn shown() -> Vec<(&'static str, StatusCode, Value)> {
        let answers = routes().flat_map(|route| route.problems().into_iter().map(move |of| (route, of)));
        let shown = answers.flat_map(|(route, (kind, status))| {
            let examples = examples::of(route.path, kind, status);
            assert!(!examples.is_empty(), "{} may be answered with {status}, and no example shows it", route.path);
            examples.into_iter().map(move |example| (route.path, status, example.problem.of_request(REQUEST)))
        });
        shown.collect()
    }

    #[test]
    fn every_error_answer_has_an_example_that_is_of_its_kind_and_status() {
        for (path, status, problem) in shown() {
            assert_eq!(problem["status"], status.as_u16(), "{path}");
            assert!(fits(&problem), "{path}: {problem}");
        }
    }

    #[test]
    fn every_member_is_shown_for_every_kind_that_may_have_it() {
        let members = |(_, _, problem): (_, _, Value)| {
            let names: Vec<String> = problem.as_object().expect("a document").keys().cloned().collect();
            names.into_iter().map(move |name| (problem["kind"].to_string(), name))
        };
        let shown: BTreeSet<(String, String)> = shown().into_iter().flat_map(members).collect();
        for member in Member::ALL {
            for kind in member.kinds() {
                let (kind, name) = (Value::from(kind.as_str()).to_string(), member.as_str().to_owned());
                assert!(shown.contains(&(kind.clone(), name.clone())), "no example of kind {kind} has {name}");
            }
        }
    }

    #[test]
    fn what_is_not_said_of_a_kind_does_not_fit_it() {
        let good = json!({"type": "about:blank", "title": "Conflict", "status": 409, "kind": "forked", "detail": "x",
                          "fork": "7"});
        assert!(fits(&good));
        for (name, value) in [
            ("fork", json!(7)),
            ("fork", json!("-7")),
            ("epoch", json!("7")),
            ("status", json!(404)),
            ("kind", json!("unheard_of")),
            ("detail", Value::Null),
        ] {
            let mut bad = good.clone();
            bad[name] = value;
            assert!(!fits(&bad), "{bad}");
        }
        assert!(!fits(&json!({"kind": "forked"})));
    }
}
