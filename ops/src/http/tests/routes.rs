//! SEC-1 over the table that the router is made of: no route is open because somebody forgot to write it into a test.

use std::collections::BTreeSet;

use reqwest::Method;

use super::*;
use crate::config::RatesConfig;
use crate::http::route::{Route, Verb};
use crate::http::{openapi, routes};

use TokenRole::{Appender, Auditor, Operator, Reader, Replicator};

/// Who may, written down apart from the table. A route that no line here is about fails the test, until somebody says it.
fn may(path: &str) -> &'static [TokenRole] {
    match path {
        "/v1/append" => &[Appender],
        "/v1/log" | "/v1/stream" | "/v1/content" | "/v1/content/history" | "/v1/content/list" => {
            &[Appender, Reader, Auditor]
        }
        "/v1/groups" | "/v1/group/status" | "/v1/group/parked" => &[Appender, Reader, Operator, Auditor],
        "/v1/group/create" | "/v1/group/take" | "/v1/group/settle" | "/v1/group/extend" => &[Appender, Reader],
        "/v1/group/replay" | "/v1/group/discard" | "/v1/group/remove" => &[Appender, Reader, Operator],
        "/v1/status" | "/v1/openapi.json" | "/metrics" | "/v1/archive/status" => &ROLES,
        "/v1/replication/epoch" => &[Operator, Replicator],
        path if path.starts_with("/v1/replication/") => &[Replicator],
        path if path.starts_with("/v1/admin/") || path == "/v1/archive/orphans" => &[Operator],
        path => panic!("{path}: nobody has said who may"),
    }
}

const OPEN: [&str; 2] = ["/health/live", "/health/ready"];

fn method(route: &Route) -> Method {
    if route.verb == Verb::Get { Method::GET } else { Method::POST }
}

/// Asked with a parameter that no route knows: those that read a query refuse it, and no database is waited for.
fn url(api: &Api, path: &str) -> String {
    format!("{}{path}?no-such-parameter=1", api.url)
}

async fn unhurried() -> Api {
    let rates = RatesConfig { failures_per_second: 0, ..RatesConfig::default() };
    Api::start_with(HttpConfig { rates, ..HttpConfig::default() }, Semaphore::MAX_PERMITS).await
}

#[tokio::test]
async fn the_document_names_every_route_with_the_roles_that_the_router_asks_for() {
    let document = openapi::document();
    let mut documented = BTreeSet::new();
    for (path, operations) in document["paths"].as_object().expect("paths") {
        for (verb, operation) in operations.as_object().expect("operations") {
            let roles = operation["security"].as_array().expect("alternatives").iter();
            let roles: Vec<&str> = roles.map(|role| role["token"][0].as_str().expect("a role")).collect();
            documented.insert((path.clone(), verb.to_ascii_uppercase(), roles.join(" ")));
        }
    }
    let told = routes().map(|route| {
        let roles: Vec<&str> = route.roles.iter().map(|role| role.as_str()).collect();
        (route.path.to_owned(), method(route).to_string(), roles.join(" "))
    });
    assert_eq!(documented, told.collect());
}

#[tokio::test]
async fn every_route_but_health_asks_for_a_token_whatever_the_method() {
    let api = unhurried().await;
    // What does not exist is no secret worth a difference: it asks for a token as well.
    let closed = routes().map(|route| route.path).filter(|path| !OPEN.contains(path)).chain(["/no/such/route"]);
    for path in closed {
        for verb in ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "ODD"] {
            let request = || api.client.request(verb.parse().expect("a method"), url(&api, path));
            let token = &api.tokens[&Operator];
            let shown = [
                request(),
                request().bearer_auth(new_token()),
                request().bearer_auth(""),
                request().header("authorization", token),
                request().basic_auth("operator", Some(token)),
                request().query(&[("access_token", token)]),
            ];
            for request in shown {
                let (status, problem) = answered(request).await;
                let said = (status, &problem["kind"]);
                assert_eq!(said, (StatusCode::UNAUTHORIZED, &json!("denied")), "{verb} {path}");
            }
        }
        // Its answer has no body that could say a kind.
        let head = api.client.head(url(&api, path)).send().await.expect("an answer");
        assert_eq!(head.status(), StatusCode::UNAUTHORIZED, "HEAD {path}");
    }
    for path in OPEN {
        let answer = api.client.get(format!("{}{path}", api.url)).send().await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
    }
}

#[tokio::test]
async fn every_route_opens_for_its_roles_and_for_no_other() {
    let api = unhurried().await;
    for route in routes() {
        if OPEN.contains(&route.path) {
            assert!(route.roles.is_empty(), "{}", route.path);
            continue;
        }
        for role in ROLES {
            let request = api.client.request(method(route), url(&api, route.path));
            let status = request.bearer_auth(&api.tokens[&role]).send().await.expect("an answer").status();
            assert_ne!(status, StatusCode::UNAUTHORIZED, "{} {role}", route.path);
            let refused = status == StatusCode::FORBIDDEN;
            assert_eq!(refused, !may(route.path).contains(&role), "{} {role} {status}", route.path);
        }
    }
    for role in ROLES {
        let request = api.client.get(url(&api, "/no/such/route")).bearer_auth(&api.tokens[&role]);
        assert_eq!(answered(request).await.0, StatusCode::NOT_FOUND, "{role}");
    }
}
