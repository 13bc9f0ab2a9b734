//! The API's document on a real region: what it shows can be sent as it is, and is answered as it says.

mod door_common;

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

/// What a region without a peer cannot do: no example is right for every region.
fn refused_here(path: &str) -> bool {
    matches!(path, "/v1/replication/cosignature" | "/v1/admin/promote" | "/v1/admin/step-down")
}

#[tokio::test]
async fn every_example_of_the_document_is_answered_as_the_document_says() {
    let now = Timestamp::parse_rfc3339("2026-05-01T08:00:00Z").expect("an instant");
    let mut rig = Rig::with_time(Some(now)).await;
    rig.region.serve().await.expect("it serves");
    let url = format!("{}/v1/openapi.json", rig.region.url);
    let asked = Client::new().get(&url).bearer_auth(&rig.region.tokens.reader).send().await.expect("an answer");
    let document: Value = asked.json().await.expect("JSON");
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
        }
    }
    rig.end().await;
}
