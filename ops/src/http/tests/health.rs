//! What a load balancer is told without a token, and that the document tells the same.

use std::time::Duration;

use tokio::time::timeout;

use super::*;
use crate::http::openapi;

impl Api {
    async fn health(&self, path: &str) -> Response {
        let response = self.client.get(format!("{}{path}", self.url)).send().await.expect("an answer");
        if response.status() == StatusCode::OK {
            assert_eq!(response.headers()["content-type"], "text/plain; charset=utf-8");
        }
        response
    }

    async fn ready(&self) -> String {
        self.health("/health/ready").await.text().await.expect("a body")
    }
}

/// The bodies that the document names for `path`.
fn documented(path: &str) -> Vec<Value> {
    let document = openapi::document();
    let schema = &document["paths"][path]["get"]["responses"]["200"]["content"]["text/plain"]["schema"];
    schema["enum"].as_array().unwrap_or_else(|| panic!("{path}: no bodies are named: {schema}")).clone()
}

#[tokio::test]
async fn who_is_ready_says_what_its_region_may_do_and_the_document_names_each_of_these_bodies() {
    let api = Api::start().await;
    let (mut epoch, mut before) = (Epoch::FIRST, Role::Active);
    let mut said = Vec::new();
    for (role, expected) in [
        (Role::ReadOnly, "ready read_only\n"),
        (Role::Follower, "ready follower\n"),
        (Role::Draining, "ready draining\n"),
        (Role::Active, "ready active\n"),
    ] {
        api.log.log.change_role((epoch, before), (epoch.next(), role)).await.expect("changed");
        (epoch, before) = (epoch.next(), role);
        // It is a look's word, which is a moment old.
        timeout(Duration::from_secs(20), async { while api.ready().await != expected {} }).await.expect(expected);
        said.push(json!(expected));
    }
    let named = documented("/health/ready");
    assert!(said.iter().all(|body| named.contains(body)) && named.len() == said.len(), "{named:?} {said:?}");

    let live = api.health("/health/live").await.text().await.expect("a body");
    assert_eq!(documented("/health/live"), [json!(live)]);
    assert_eq!(live, "live\n");
}

#[tokio::test]
async fn who_is_about_to_end_says_so_as_a_problem_and_lives() {
    let api = Api::start().await;
    api.leaving.cancel();
    let answer = api.health("/health/ready").await;
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    assert_eq!(answer.headers()["retry-after"], "1");
    let problem: Value = answer.json().await.expect("a problem");
    assert_eq!((&problem["kind"], &problem["status"]), (&json!("unavailable"), &json!(503)));
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("about to end")), "{problem}");
    assert_eq!(api.health("/health/live").await.status(), StatusCode::OK);
}
