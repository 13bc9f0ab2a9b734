//! The API over the log in memory, through real connections.

mod coding;
mod documented;
mod events;
mod filters;
mod gate;
mod groups;
mod health;
mod leaving;
mod limits;
mod routes;
mod tls;
mod tokens;
mod trace;

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use axum::http::StatusCode;
use domain::append::Role;
use domain::log::{Direction, FollowerLog, LogReader};
use domain::twin::{Interposed, MemoryGroups, MemoryLog};
use domain::{Epoch, FixedClock, Position, Timestamp};
use futures::StreamExt;
use projections::content::ContentNow;
use reqwest::{Client, RequestBuilder, Response};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::auth::{TokenRole, new_token};
use super::{ApiState, Door, Parts, ServeError, openapi, router, serve};
use crate::config::HttpConfig;
use crate::groups::Groups;
use crate::spans::Spans;
use crate::tls::ServerTls;
use crate::workers::Workers;
use documented::Documented;
use gate::Gate;
use tokens::KnownTokens;

const SINGLE: &str = "application/cloudevents+json";
const BATCH: &str = "application/cloudevents-batch+json";
const DOCUMENT: &str = "application/vnd.coldstream.append+json";

struct Api {
    url: String,
    client: Client,
    tokens: HashMap<TokenRole, String>,
    known: Arc<KnownTokens>,
    log: Arc<Interposed<MemoryLog, Gate>>,
    shutdown: CancellationToken,
    leaving: CancellationToken,
    server: JoinHandle<Result<(), ServeError>>,
    _documented: Documented,
}

const ROLES: [TokenRole; 5] = TokenRole::ALL;

impl Api {
    async fn start() -> Self {
        Self::start_with(HttpConfig::default(), Semaphore::MAX_PERMITS).await
    }

    async fn start_with(limits: HttpConfig, appends: usize) -> Self {
        Self::start_behind(None, limits, appends).await
    }

    async fn start_behind(tls: Option<Arc<ServerTls>>, limits: HttpConfig, appends: usize) -> Self {
        // Another test of this process may have been first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let now = Timestamp::parse_rfc3339("2026-05-01T08:00:00Z").expect("an instant");
        let log = MemoryLog::new(Arc::new(FixedClock(now)), now, Role::Active);
        let between = Gate { permits: Semaphore::new(appends), arrived: Semaphore::new(0), news: Notify::new() };
        let log = Arc::new(Interposed { log: Arc::new(log), between });
        let (tokens, known) = KnownTokens::one_a_role();
        let (shutdown, leaving) = (CancellationToken::new(), CancellationToken::new());
        // The view has no database here; what it answers is shown end to end.
        let nowhere = sqlx::PgPool::connect_lazy("postgres://127.0.0.1:1/none").expect("a URL");
        let parts = Parts {
            region: "home".to_owned(),
            groups: Groups::new(Arc::new(MemoryGroups::new(log.clone(), Arc::new(FixedClock(now)))), log.clone()),
            content: ContentNow::new(nowhere, log.clone()),
            log: log.clone(),
            reader: log.clone(),
            tokens: known.clone(),
            tls: tls.clone(),
            leaving: leaving.clone(),
            workers: Workers::default(),
            warnings: Vec::new(),
            archive: None,
            region_api: None,
            simulated: None,
            spans: Spans::default(),
            numbers: Box::new(documented::NoNumbers),
        };
        let state = Arc::new(ApiState::new(parts, limits.clone(), shutdown.clone()));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{}", listener.local_addr().expect("an address"));
        let (router, ending) = (router(state.clone()), shutdown.clone());
        let door = Door { listener, tls, connections: state.connections() };
        let server = tokio::spawn(async move { serve(door, router, &limits, ending).await });
        Self {
            url,
            client: Client::new(),
            tokens,
            known,
            log,
            shutdown,
            leaving,
            server,
            _documented: Documented(state),
        }
    }

    fn post(&self, content_type: &str, body: impl Into<reqwest::Body>) -> RequestBuilder {
        let request = self.client.post(format!("{}/v1/append", self.url)).header("content-type", content_type);
        request.bearer_auth(&self.tokens[&TokenRole::Appender]).body(body)
    }

    async fn append(&self, content_type: &str, body: &Value) -> (StatusCode, Value) {
        answered(self.post(content_type, body.to_string())).await
    }

    async fn get(&self, path: &str) -> Response {
        let request = self.client.get(format!("{}{path}", self.url));
        request.bearer_auth(&self.tokens[&TokenRole::Reader]).send().await.expect("an answer")
    }

    async fn lines(&self, path: &str) -> Vec<String> {
        let text = self.get(path).await.text().await.expect("a whole answer");
        text.lines().map(str::to_owned).collect()
    }

    async fn appended(&self, ids: std::ops::RangeInclusive<u32>) {
        for id in ids {
            let (status, answer) = self.append(SINGLE, &event(&id.to_string(), "content-a")).await;
            assert_eq!(status, StatusCode::CREATED, "{answer}");
        }
    }
}

async fn answered(request: RequestBuilder) -> (StatusCode, Value) {
    let response = request.send().await.expect("an answer");
    let status = response.status();
    let text = response.text().await.expect("a body");
    let body: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("no JSON: {text}"));
    assert!(status.is_success() || openapi::says_problem(&body), "not documented: {body}");
    (status, body)
}

fn event(id: &str, stream: &str) -> Value {
    json!({"specversion": "1.0", "id": id, "source": "/test", "type": "content.revised", "subject": stream,
           "data": {"n": 1}})
}

#[tokio::test]
async fn a_new_append_is_201_and_its_retry_is_200_with_the_first_positions() {
    let api = Api::start().await;
    let batch = json!([event("1", "content-a"), event("2", "content-b")]);
    let (status, first) = api.append(BATCH, &batch).await;
    assert_eq!((status, &first["replayed"]), (StatusCode::CREATED, &json!(false)));
    let place = json!({"stream": "content-b", "version": "1", "position": "2", "epoch": "1",
                       "recordedat": "2026-05-01T08:00:00.000000Z"});
    assert_eq!(first["events"][1], place);
    let (status, again) = api.append(BATCH, &batch).await;
    assert_eq!((status, &again["replayed"]), (StatusCode::OK, &json!(true)));
    assert_eq!(again["events"], first["events"]);
}

#[tokio::test]
async fn a_wrong_expectation_is_409_with_the_version_that_is_so() {
    let api = Api::start().await;
    api.appended(1..=2).await;
    let document = json!({"expect": [{"stream": "content-a", "version": "1"}], "events": [event("3", "content-b")]});
    let (status, problem) = api.append(DOCUMENT, &document).await;
    assert_eq!((status, &problem["kind"], &problem["actual"]), (StatusCode::CONFLICT, &json!("conflict"), &json!("2")));
    let request = api.post(SINGLE, event("3", "content-a").to_string()).header("Expected-Version", "none");
    assert_eq!(answered(request).await.0, StatusCode::CONFLICT);
    let request = api.post(SINGLE, event("3", "content-a").to_string()).header("Expected-Version", "2");
    assert_eq!(answered(request).await.0, StatusCode::CREATED);
    assert_eq!(api.log.log_head().await.expect("a head").head.get(), 3, "what was refused is not stored");
}

#[tokio::test]
async fn an_expected_version_in_the_header_is_for_one_stream() {
    let api = Api::start().await;
    let batch = json!([event("1", "content-a"), event("2", "content-b")]).to_string();
    for value in ["1", "none"] {
        let (status, problem) = answered(api.post(BATCH, batch.clone()).header("Expected-Version", value)).await;
        assert_eq!((status, &problem["kind"]), (StatusCode::BAD_REQUEST, &json!("invalid")));
    }
    let request = api.post(SINGLE, event("1", "content-a").to_string());
    assert_eq!(answered(request.header("Expected-Version", "0")).await.0, StatusCode::BAD_REQUEST);
    let document = json!({"events": [event("1", "content-a")]}).to_string();
    let request = api.post(DOCUMENT, document).header("Expected-Version", "any");
    assert_eq!(answered(request).await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn what_is_too_large_is_413_and_what_is_no_event_is_415_or_400() {
    let api = Api::start().await;
    let (status, problem) = answered(api.post(BATCH, vec![b' '; (16 << 20) + 1])).await;
    assert_eq!((status, &problem["kind"]), (StatusCode::PAYLOAD_TOO_LARGE, &json!("invalid")));
    for content_type in ["application/json", "application/cloudevents+json; charset=latin1", "text/plain"] {
        let (status, _) = api.append(content_type, &event("1", "content-a")).await;
        assert_eq!(status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{content_type}");
    }
    let mut assigned = event("1", "content-a");
    assigned["position"] = json!("7");
    let (status, problem) = api.append(SINGLE, &assigned).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("position")), "{problem}");
    assert_eq!(api.append(BATCH, &json!([])).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(api.append("Application/CloudEvents+JSON; charset=UTF-8", &event("1", "content-a")).await.0, 201);
}

#[tokio::test]
async fn the_log_reads_as_the_lines_of_its_records() {
    let api = Api::start().await;
    api.appended(1..=3).await;
    let records = api.log.read_log(Position::FIRST, Direction::Forward, 9).await.expect("records");
    let expected: Vec<String> = records.iter().map(|r| String::from_utf8(r.to_line()).expect("UTF-8")).collect();
    assert_eq!(api.lines("/v1/log").await, expected);
    assert_eq!(api.lines("/v1/log?from=2&limit=1").await, expected[1..2]);
    assert_eq!(api.lines("/v1/log?after=2").await, expected[2..]);
    assert_eq!(api.lines("/v1/log?from=9").await, expected[..0]);
    let reversed: Vec<String> = expected.iter().rev().cloned().collect();
    assert_eq!(api.lines("/v1/log?direction=backward").await, reversed);
    assert_eq!(api.lines("/v1/log?direction=backward&from=99&limit=2").await, reversed[..2]);
    assert_eq!(api.lines("/v1/stream?stream=content-a&from=2").await, expected[1..]);
    assert_eq!(api.lines("/v1/stream?stream=content-a&direction=backward&limit=2").await, reversed[..2]);
    assert_eq!(api.get("/v1/stream?stream=content-z").await.status(), StatusCode::NOT_FOUND);
    for wrong in ["from=0", "from=1&after=1", "limit=0", "form=1", "direction=up", "follow=true&limit=1", "token=7"] {
        assert_eq!(api.get(&format!("/v1/log?{wrong}")).await.status(), StatusCode::BAD_REQUEST, "{wrong}");
    }
}

#[tokio::test]
async fn the_history_of_content_has_the_subjects_that_its_source_gave() {
    let api = Api::start().await;
    let mut odd = event("1", "content-content-a");
    odd["source"] = json!("/x,\"subject\":\"content-\"");
    assert_eq!(api.append(SINGLE, &odd).await.0, StatusCode::CREATED);
    let record = api.lines("/v1/log").await.remove(0);
    let lines = api.lines("/v1/content/history?id=content-a").await;
    assert_eq!(lines, [record.replace(",\"subject\":\"content-content-a\"", ",\"subject\":\"content-a\"")]);
    let history: Value = serde_json::from_str(&lines[0]).expect("JSON");
    assert_eq!((&history["subject"], &history["source"]), (&json!("content-a"), &odd["source"]));
}

#[tokio::test]
async fn a_long_log_reads_without_a_hole_across_pages() {
    let api = Api::start().await;
    let batch: Vec<Value> = (1..=1500).map(|id| event(&id.to_string(), "content-a")).collect();
    assert_eq!(api.append(BATCH, &Value::from(batch)).await.0, StatusCode::CREATED);
    for path in ["/v1/log?x", "/v1/stream?stream=content-a"] {
        let path = path.trim_end_matches("?x");
        let lines = api.lines(path).await;
        let positions: Vec<u64> = lines.iter().map(|line| position_of(line)).collect();
        assert_eq!(positions, (1..=1500).collect::<Vec<_>>(), "{path}");
    }
    assert_eq!(api.lines("/v1/log?from=100&limit=700").await.len(), 700);
    assert_eq!(api.lines("/v1/log?direction=backward&limit=1100").await.len(), 1100);
}

fn position_of(line: &str) -> u64 {
    let record: Value = serde_json::from_str(line).expect("a record");
    record["position"].as_str().and_then(|text| text.parse().ok()).expect("a position")
}

#[tokio::test]
async fn a_resume_token_goes_on_where_it_was_given_and_is_refused_on_another_branch() {
    let api = Api::start().await;
    api.appended(1..=2).await;
    let first = api.get("/v1/log?limit=1").await;
    assert_eq!(first.headers()["coldstream-resume"], "1@1");
    let rest = api.get("/v1/log?token=1@1").await;
    assert_eq!(rest.headers()["coldstream-resume"], "2@1");
    assert_eq!(rest.headers()["coldstream-head"], "2");
    assert_eq!(api.get("/v1/log?token=2@1").await.headers()["coldstream-resume"], "2@1", "nothing new");

    let (one, two) = (Epoch::FIRST, Epoch::FIRST.next());
    api.log.log.change_role((one, Role::Active), (two, Role::Active)).await.expect("promoted");
    api.appended(3..=4).await;
    assert_eq!(api.lines("/v1/log?token=2@1").await.len(), 2, "the shared part goes on");
    for lost in ["3@1", "4@1", "9@1"] {
        let response = api.get(&format!("/v1/log?token={lost}")).await;
        assert_eq!(response.status(), StatusCode::CONFLICT);
        let problem: Value = response.json().await.expect("a problem");
        assert_eq!((&problem["kind"], &problem["fork"]), (&json!("forked"), &json!("2")), "{lost}");
    }
    let ahead = api.get("/v1/log?token=9@2").await;
    assert_eq!(ahead.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(ahead.headers().contains_key("retry-after"));
    assert_eq!(api.get("/v1/log?token=1@2").await.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_tail_never_misses_and_never_doubles() {
    let api = Arc::new(Api::start().await);
    api.appended(1..=3).await;
    let response = api.get("/v1/log?follow=true&after=1").await;
    let appending = {
        let api = api.clone();
        tokio::spawn(async move { api.appended(4..=60).await })
    };
    let mut body = response.bytes_stream();
    let mut text = String::new();
    let mut seen = Vec::new();
    while seen.last() != Some(&60) {
        let chunk = body.next().await.expect("it goes on").expect("whole");
        text.push_str(std::str::from_utf8(&chunk).expect("UTF-8"));
        while let Some((line, rest)) = text.split_once('\n') {
            seen.extend((!line.is_empty()).then(|| position_of(line)));
            text = rest.to_owned();
        }
    }
    appending.await.expect("appended");
    assert_eq!(seen, (2..=60).collect::<Vec<_>>());
    api.shutdown.cancel();
    while let Some(chunk) = body.next().await {
        assert_eq!(chunk.expect("a shutdown ends a tail in good order"), "\n");
    }
}

#[tokio::test]
async fn an_append_without_an_answer_in_time_may_have_happened() {
    let limits = HttpConfig { answer_seconds: 1, ..HttpConfig::default() };
    let (status, problem) = Api::start_with(limits, 0).await.append(SINGLE, &event("1", "content-a")).await;
    assert_eq!((status, &problem["kind"]), (StatusCode::GATEWAY_TIMEOUT, &json!("indeterminate")));
}

#[tokio::test]
async fn a_client_that_says_nothing_or_takes_nothing_gives_its_connection_back() {
    // One connection at a time: who comes next is served only when the one before is gone.
    let limits = HttpConfig { connections_max: 1, receive_seconds: 1, send_seconds: 1, ..HttpConfig::default() };
    let api = Api::start_with(limits, Semaphore::MAX_PERMITS).await;
    let large = "x".repeat(1_000_000);
    for batch in 0..3 {
        let events: Vec<Value> = (0..15)
            .map(|number| {
                let mut event = event(&format!("{batch}-{number}"), "content-a");
                event["data"] = json!(large);
                event
            })
            .collect();
        assert_eq!(api.append(BATCH, &Value::from(events)).await.0, StatusCode::CREATED);
    }
    let address = api.url.trim_start_matches("http://");
    let token = &api.tokens[&TokenRole::Reader];
    let whole_log = format!("GET /v1/log HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n");
    for said in
        ["", "P", "GET /health/live HTTP/1.1\r\nhost:", "GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n", &whole_log]
    {
        let mut stuck = TcpStream::connect(address).await.expect("connected");
        stuck.write_all(said.as_bytes()).await.expect("sent");
        let live = reqwest::get(format!("{}/health/live", api.url)).await.expect("an answer in the end");
        assert_eq!(live.status(), StatusCode::OK, "after {said:?}");
    }
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_ever() {
    let limits = HttpConfig { shutdown_seconds: 1, ..HttpConfig::default() };
    let api = Api::start_with(limits, 0).await;
    let accepted = tokio::spawn(api.post(SINGLE, event("1", "content-a").to_string()).send());
    api.log.between.arrived.acquire().await.expect("open").forget();
    api.shutdown.cancel();
    assert!(matches!(api.server.await.expect("no panic"), Err(ServeError::CutOff { seconds: 1 })));
    accepted.abort();
}

#[tokio::test]
async fn an_act_whose_body_is_none_is_refused_as_a_problem() {
    let api = Api::start().await;
    let act = |content_type: &str, body: String| {
        let request = api.client.post(format!("{}/v1/admin/archive-run", api.url)).header("content-type", content_type);
        answered(request.bearer_auth(&api.tokens[&TokenRole::Operator]).body(body))
    };
    let cases = [
        ("text/plain", "{}".to_owned(), StatusCode::UNSUPPORTED_MEDIA_TYPE),
        ("application/json", "{".to_owned(), StatusCode::BAD_REQUEST),
        ("application/json", r#"{"all":true}"#.to_owned(), StatusCode::UNPROCESSABLE_ENTITY),
        ("application/json", format!("{}{{}}", " ".repeat(64 << 10)), StatusCode::PAYLOAD_TOO_LARGE),
    ];
    for (content_type, body, expected) in cases {
        let (status, problem) = act(content_type, body).await;
        assert_eq!((status, &problem["kind"]), (expected, &json!("invalid")), "{problem}");
    }
}

#[tokio::test]
async fn an_id_that_no_content_can_have_is_refused_before_the_database_is_asked() {
    let api = Api::start().await;
    for path in ["/v1/content?id=%00", "/v1/content?id=", "/v1/content/list?after=%00", "/v1/content/history?id=%00"] {
        let response = api.get(path).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{path}");
    }
}

#[tokio::test]
async fn a_reader_beyond_the_last_possible_position_gets_nothing() {
    let api = Api::start().await;
    api.appended(1..=2).await;
    for from in ["after=9223372036854775807", "from=9223372036854775807"] {
        assert_eq!(api.lines(&format!("/v1/log?{from}")).await, [""; 0], "{from}");
    }
}

#[tokio::test]
async fn status_and_metrics_say_where_the_log_ends() {
    let api = Api::start().await;
    api.appended(1..=2).await;
    let status: super::status::Status = api.get("/v1/status").await.json().await.expect("a status");
    assert_eq!((status.head.as_str(), status.role.as_str(), status.epoch.as_str()), ("2", "active", "1"));
    let metrics = api.get("/metrics").await.text().await.expect("text");
    assert!(metrics.contains("coldstream_log_head 2\n"), "{metrics}");
}
