//! What a token opens, through real connections: its categories, its end, and what the audit can tell of a refusal.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard};

use super::*;
use crate::config::{RateConfig, RatesConfig};
use crate::http::auth::{Caller, OwnRates, Presented, Tokens};
use crate::http::problem::Problem;
use crate::http::route::Verb;
use crate::http::scope::{Scope, Touches};

/// Tokens in memory.
pub(super) struct KnownTokens(Mutex<HashMap<String, Presented>>);

impl KnownTokens {
    /// A token for each role, named after it.
    pub(super) fn one_a_role() -> (HashMap<TokenRole, String>, Arc<Self>) {
        let known = Arc::new(Self(Mutex::default()));
        let all = ROLES.into_iter().map(|role| (role, known.create(role.as_str(), role, Scope::Everything)));
        (all.collect(), known.clone())
    }

    pub(super) fn create(&self, name: &str, role: TokenRole, scope: Scope) -> String {
        let token = new_token();
        self.insert(&token, Caller { name: name.to_owned(), role, scope, rates: OwnRates::default() });
        token
    }

    fn insert(&self, token: &str, caller: Caller) {
        self.known().insert(token.to_owned(), Presented::Opens(Arc::new(caller)));
    }

    fn spend(&self, token: &str, name: &str, why: &'static str) {
        self.known().insert(token.to_owned(), Presented::Spent { name: name.to_owned(), why });
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Presented>> {
        self.0.lock().expect("no test panics while it holds it")
    }
}

#[async_trait]
impl Tokens for KnownTokens {
    async fn presented(&self, token: &str) -> Result<Presented, Problem> {
        Ok(self.known().get(token).cloned().unwrap_or(Presented::Unknown))
    }

    fn is_known(&self, token: &str) -> bool {
        matches!(self.known().get(token), Some(Presented::Opens(_)))
    }
}

impl Api {
    fn limited(&self, name: &str, role: TokenRole, categories: &[&str]) -> String {
        let named: BTreeSet<String> = categories.iter().map(|&category| category.to_owned()).collect();
        self.known.create(name, role, Scope::Categories(named))
    }

    fn get_as(&self, token: &str, path: &str) -> RequestBuilder {
        self.client.get(format!("{}{path}", self.url)).bearer_auth(token)
    }

    fn append_as(&self, token: &str, content_type: &str, body: &Value) -> RequestBuilder {
        let request = self.client.post(format!("{}/v1/append", self.url)).header("content-type", content_type);
        request.bearer_auth(token).body(body.to_string())
    }
}

#[tokio::test]
async fn a_limited_token_appends_to_its_categories_alone_and_asks_about_no_other() {
    let api = Api::start().await;
    api.appended(1..=1).await;
    let token = api.limited("shop", TokenRole::Appender, &["order", "bill"]);
    let both = json!([event("2", "order-1"), event("3", "bill-1")]);
    assert_eq!(answered(api.append_as(&token, BATCH, &both)).await.0, StatusCode::CREATED);
    let refused = [
        (SINGLE, event("4", "content-a")),
        (SINGLE, event("4", "orders-1")),
        (BATCH, json!([event("4", "order-1"), event("5", "content-a")])),
        // A conflict would tell the version of a stream that it may not see.
        (DOCUMENT, json!({"expect": [{"stream": "content-a", "version": "none"}], "events": [event("4", "order-1")]})),
    ];
    for (content_type, body) in refused {
        let (status, problem) = answered(api.append_as(&token, content_type, &body)).await;
        assert_eq!((status, &problem["kind"]), (StatusCode::FORBIDDEN, &json!("denied")), "{body}");
        assert!(problem["detail"].as_str().is_some_and(|said| said.contains("bill, order")), "{problem}");
    }
    assert_eq!(api.log.log_head().await.expect("a head").head.get(), 3, "what was refused is not stored");
}

#[tokio::test]
async fn a_limited_token_reads_streams_of_its_categories_and_nothing_made_of_others() {
    let api = Api::start().await;
    api.appended(1..=1).await;
    assert_eq!(api.append(SINGLE, &event("2", "order-1")).await.0, StatusCode::CREATED);
    for role in [TokenRole::Appender, TokenRole::Reader] {
        let token = api.limited("shop", role, &["order"]);
        let cases = [
            ("/v1/stream?stream=order-1", StatusCode::OK),
            ("/v1/stream?stream=order-2", StatusCode::NOT_FOUND),
            ("/v1/stream?stream=content-a", StatusCode::FORBIDDEN),
            // Whether there is such a stream is no less a secret than what is in it.
            ("/v1/stream?stream=content-z", StatusCode::FORBIDDEN),
            ("/v1/content/history?id=a", StatusCode::FORBIDDEN),
            ("/v1/content?id=a", StatusCode::FORBIDDEN),
            ("/v1/content/list", StatusCode::FORBIDDEN),
            ("/v1/log", StatusCode::FORBIDDEN),
            ("/v1/log?follow=true", StatusCode::FORBIDDEN),
            ("/v1/log?category=order", StatusCode::OK),
            ("/v1/log?category=order&category=content", StatusCode::FORBIDDEN),
            ("/v1/log?stream_prefix=order-", StatusCode::FORBIDDEN),
            ("/v1/log?type=content.revised", StatusCode::FORBIDDEN),
            ("/v1/status", StatusCode::OK),
            ("/metrics", StatusCode::OK),
            ("/v1/openapi.json", StatusCode::OK),
        ];
        for (path, expected) in cases {
            assert_eq!(api.get_as(&token, path).send().await.expect("an answer").status(), expected, "{path} {role}");
        }
    }
    let token = api.limited("site", TokenRole::Reader, &["content"]);
    let history = api.get_as(&token, "/v1/content/history?id=a").send().await.expect("an answer");
    assert_eq!(history.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_limited_token_opens_no_route_but_those_that_say_what_they_touch() {
    let api = Api::start().await;
    // No token of these roles can be limited; were there one, it would open nothing of the log.
    for role in [TokenRole::Operator, TokenRole::Auditor, TokenRole::Replicator] {
        let token = api.limited("odd", role, &["order"]);
        for route in crate::http::routes().filter(|route| route.roles.contains(&role)) {
            let open = route.touches != Touches::Everything;
            let method = if route.verb == Verb::Get { reqwest::Method::GET } else { reqwest::Method::POST };
            let request = api.client.request(method, format!("{}{}", api.url, route.path)).bearer_auth(&token);
            let status = request.send().await.expect("an answer").status();
            assert!(open || status == StatusCode::FORBIDDEN, "{} {role} {status}", route.path);
        }
    }
}

#[tokio::test]
async fn a_token_that_is_spent_opens_nothing_and_breaks_off_the_tail_that_it_had_opened() {
    let api = Api::start().await;
    api.appended(1..=1).await;
    let token = api.known.create("curious", TokenRole::Reader, Scope::Everything);
    let answer = api.get_as(&token, "/v1/log?follow=true").send().await.expect("an answer");
    let mut tail = answer.bytes_stream();
    assert!(tail.next().await.expect("a record").expect("whole").ends_with(b"}\n"));
    api.known.spend(&token, "curious", "is revoked");
    let (status, problem) = answered(api.get_as(&token, "/v1/log")).await;
    assert_eq!((status, &problem["detail"]), (StatusCode::UNAUTHORIZED, &json!("the token \"curious\" is revoked")));
    // A sign of life may have been on its way; after it nothing comes, and not as an end in good order.
    while let Ok(piece) = tail.next().await.expect("no end in good order") {
        assert_eq!(piece, "\n", "no record");
    }
}

#[tokio::test]
async fn a_problem_names_its_request() {
    let api = Api::start().await;
    for (path, token) in [("/v1/log?from=0", Some(TokenRole::Reader)), ("/v1/log", None), ("/nothing", None)] {
        let request = api.client.get(format!("{}{path}", api.url)).header("x-request-id", "abc-1");
        let request = token.into_iter().fold(request, |request, role| request.bearer_auth(&api.tokens[&role]));
        let (status, problem) = answered(request).await;
        assert!(status.is_client_error());
        assert_eq!(problem["request"], "abc-1", "{path}");
    }
}

/// Sends until it is refused for its rate. Each of them is answered sooner than the rate brings another one.
async fn until_limited(request: impl Fn() -> RequestBuilder) -> Response {
    for _ in 0..1000 {
        let answer = request().send().await.expect("an answer");
        if answer.status() == StatusCode::TOO_MANY_REQUESTS {
            return answer;
        }
    }
    panic!("a thousand requests were let through");
}

#[tokio::test]
async fn a_token_that_asks_too_often_is_told_to_wait_and_others_are_not() {
    let slow = RateConfig { requests_per_second: 1, append_bytes_per_second: 0 };
    let rates = RatesConfig { reader: slow, ..RatesConfig::default() };
    let api = Api::start_with(HttpConfig { rates, ..HttpConfig::default() }, Semaphore::MAX_PERMITS).await;
    let reader = &api.tokens[&TokenRole::Reader];
    let answer = until_limited(|| api.get_as(reader, "/v1/status")).await;
    assert_eq!(answer.headers()["retry-after"], "1");
    let problem: Value = answer.json().await.expect("a problem");
    assert_eq!((&problem["kind"], &problem["status"]), (&json!("unavailable"), &json!(429)));
    let other = api.known.create("other", TokenRole::Auditor, Scope::Everything);
    assert_eq!(api.get_as(&other, "/v1/status").send().await.expect("an answer").status(), StatusCode::OK);
    let quick = new_token();
    let rates = OwnRates { requests_per_second: Some(0), append_bytes_per_second: None };
    let role = TokenRole::Reader;
    api.known.insert(&quick, Caller { name: "quick".to_owned(), role, scope: Scope::Everything, rates });
    for _ in 0..20 {
        let answer = api.get_as(&quick, "/v1/status").send().await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::OK, "its own rate says that there is no limit");
    }
    let metrics = api.get_as(&other, "/metrics").send().await.expect("an answer").text().await.expect("text");
    assert!(metrics.contains("coldstream_http_limited_total{limit=\"requests\"} 1\n"), "{metrics}");
}

#[tokio::test]
async fn a_token_that_has_appended_more_than_its_rate_waits_for_it() {
    let api = Api::start().await;
    let token = new_token();
    let rates = OwnRates { requests_per_second: None, append_bytes_per_second: Some(1) };
    let role = TokenRole::Appender;
    api.known.insert(&token, Caller { name: "bulk".to_owned(), role, scope: Scope::Everything, rates });
    let append = |id: &str| api.append_as(&token, SINGLE, &event(id, "content-a"));
    assert_eq!(answered(append("1")).await.0, StatusCode::CREATED, "however large it is");
    let answer = append("2").send().await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
    let wait: u64 = answer.headers()["retry-after"].to_str().expect("text").parse().expect("seconds");
    assert!((60..600).contains(&wait), "a second for each byte of the one before: {wait}");
    assert_eq!(api.get_as(&token, "/v1/log").send().await.expect("an answer").status(), StatusCode::OK, "it may read");
    api.appended(3..=3).await;
    assert_eq!(api.lines("/v1/log").await.len(), 2, "what was refused is not stored");
}

#[tokio::test]
async fn who_tries_one_token_after_the_other_is_refused_and_who_is_known_is_not() {
    let rates = RatesConfig { failures_per_second: 1, ..RatesConfig::default() };
    let limits = HttpConfig { rates, ..HttpConfig::default() };
    let api = Api::start_with(limits.clone(), Semaphore::MAX_PERMITS).await;
    until_limited(|| api.get_as(&new_token(), "/v1/log")).await;
    until_limited(|| api.client.get(format!("{}/nothing", api.url))).await;
    assert_eq!(api.get("/v1/log").await.status(), StatusCode::OK, "at the same address");
    // Behind a proxy everybody has its address.
    let limits = HttpConfig { behind_tls_proxy: true, ..limits };
    let behind = Api::start_with(limits, Semaphore::MAX_PERMITS).await;
    for _ in 0..50 {
        let answer = behind.get_as(&new_token(), "/v1/log").send().await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    }
}
