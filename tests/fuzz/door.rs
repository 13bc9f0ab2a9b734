//! `POST /v1/append` as a whole: headers and body of a request, damaged, through the router that serves them. Whatever
//! comes, the answer is one that the document names and no failure of the server's; what is refused leaves nothing in the
//! log, what is accepted is stored whole, and stored once.

use std::cell::LazyCell;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderName, HeaderValue, Request, StatusCode, header};
use domain::append::{LogHead, REQUEST_BYTES_MAX, Role};
use domain::event::NewEvent;
use domain::log::LogReader;
use domain::twin::{MemoryGroups, MemoryLog};
use domain::{FixedClock, Timestamp};
use ops::config::HttpConfig;
use ops::groups::Groups;
use ops::http::auth::{Caller, OwnRates, Presented, TokenRole, Tokens};
use ops::http::metrics::{MetricsText, Numbers};
use ops::http::problem::Problem;
use ops::http::scope::Scope;
use ops::http::{ApiState, Parts, openapi, router};
use ops::spans::Spans;
use ops::workers::Workers;
use projections::content::ContentNow;
use serde_json::Value;
use sqlx::PgPool;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use tower_service::Service;

use super::engine::{Target, Verdict};
use super::{golden_events, sent};

/// A packed body, unpacked into a buffer that doubles up to the largest body, and what a door is made of.
pub(super) const UNPACKED_BYTES_MAX: usize = 2 * REQUEST_BYTES_MAX;

/// Everybody is one appender.
struct Anybody;

#[async_trait]
impl Tokens for Anybody {
    async fn presented(&self, _token: &str) -> Result<Presented, Problem> {
        let (name, role, scope, rates) =
            ("fuzz".to_owned(), TokenRole::Appender, Scope::Everything, OwnRates::default());
        Ok(Presented::Opens(Arc::new(Caller { name, role, scope, rates })))
    }

    fn is_known(&self, _token: &str) -> bool {
        true
    }
}

/// There is no region behind this door.
struct NoNumbers;

#[async_trait]
impl Numbers for NoNumbers {
    async fn write(&self, _text: &mut MetricsText, _head: Option<&LogHead>, _limit: Duration) {}
}

/// What all cases share: none of it remembers one of them.
pub(super) struct Rig {
    runtime: Runtime,
    /// The view's, which is never asked.
    nowhere: PgPool,
}

impl Rig {
    pub(super) fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let nowhere = runtime.block_on(async { PgPool::connect_lazy("postgres://127.0.0.1:1/none").expect("a URL") });
        Self { runtime, nowhere }
    }

    /// A door of its own for each case, with an empty log behind it: a case depends on its input alone.
    fn open(&self) -> (axum::Router, Arc<MemoryLog>) {
        let now = Timestamp::from_unix_micros(1_780_000_000_000_000).expect("an instant");
        let log = Arc::new(MemoryLog::new(Arc::new(FixedClock(now)), now, Role::Active));
        let parts = Parts {
            region: "home".to_owned(),
            groups: Groups::new(Arc::new(MemoryGroups::new(log.clone(), Arc::new(FixedClock(now)))), log.clone()),
            content: ContentNow::new(self.nowhere.clone(), log.clone()),
            log: log.clone(),
            reader: log.clone(),
            tokens: Arc::new(Anybody),
            tls: None,
            leaving: CancellationToken::new(),
            workers: Workers::default(),
            warnings: Vec::new(),
            archive: None,
            region_api: None,
            simulated: None,
            spans: Spans::default(),
            numbers: Box::new(NoNumbers),
        };
        (router(Arc::new(ApiState::new(parts, HttpConfig::default(), CancellationToken::new()))), log)
    }

    /// Sends the request twice, and holds both answers to what the door promises.
    pub(super) fn send(&self, request: &Message) -> Verdict {
        let (mut router, log) = self.open();
        self.runtime.block_on(async {
            let (status, answer) = ask(&mut router, request).await;
            let head = log.log_head().await.expect("readable").head.get();
            let (again, repeated) = ask(&mut router, request).await;
            if status.is_client_error() {
                assert_eq!(head, 0, "it was refused with {status} and stored");
                assert_eq!(again, status, "the same is refused in the same way");
                return Verdict::Refused;
            }
            assert_eq!((status, &answer["replayed"]), (StatusCode::CREATED, &Value::Bool(false)));
            let events = answer["events"].as_array().expect("events");
            let stored: Vec<_> = events.iter().map(|event| event["position"].as_str().expect("a position")).collect();
            assert_eq!(stored, (1..=head).map(|position| position.to_string()).collect::<Vec<_>>(), "all of it");
            assert_eq!((again, &repeated["replayed"]), (StatusCode::OK, &Value::Bool(true)), "LOG-4");
            assert_eq!(
                (log.log_head().await.expect("readable").head.get(), &repeated["events"]),
                (head, &answer["events"])
            );
            Verdict::Accepted
        })
    }
}

/// A request: lines of headers, an empty line, a body.
#[derive(Default)]
pub(super) struct Message {
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) body: Vec<u8>,
}

impl Message {
    /// What can be no header does not come as far as the router: HTTP refuses it.
    fn read(input: &[u8]) -> Self {
        let end = input.windows(2).position(|pair| pair == b"\n\n").unwrap_or(input.len());
        let header = |line: &[u8]| {
            let colon = line.iter().position(|byte| *byte == b':')?;
            let value = line[colon + 1..].trim_ascii();
            Some((HeaderName::from_bytes(&line[..colon]).ok()?, HeaderValue::from_bytes(value).ok()?))
        };
        let headers = input[..end].split(|byte| *byte == b'\n').filter_map(header).collect();
        Self { headers, body: input.get(end + 2..).unwrap_or_default().to_vec() }
    }

    fn request(&self) -> Request<Body> {
        let request = Request::post("/v1/append").header(header::AUTHORIZATION, "Bearer anybody");
        // As HTTP counts it, before anything that the case says of it.
        let mut request = request.header(header::CONTENT_LENGTH, self.body.len());
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        request.body(Body::from(self.body.clone())).expect("every part of it was read")
    }
}

async fn ask(router: &mut axum::Router, message: &Message) -> (StatusCode, Value) {
    let answer = router.call(message.request()).await.unwrap_or_else(|never| match never {});
    let (status, media) = (answer.status(), answer.headers().get(header::CONTENT_TYPE).cloned());
    let body = to_bytes(answer.into_body(), usize::MAX).await.expect("whole");
    let said = String::from_utf8_lossy(&body);
    assert!(openapi::says("POST", "/v1/append", status.as_str()), "{status} is not documented: {said}");
    // Nothing here is away, full or slow: not one of those that the document allows is due.
    assert!(!status.is_server_error(), "{status}: {said}");
    let answer: Value = serde_json::from_slice(&body).unwrap_or_else(|_| panic!("no JSON: {said}"));
    if status.is_client_error() {
        assert_eq!(media.expect("a type"), "application/problem+json");
        assert_eq!(answer["status"], status.as_u16());
        assert!(answer["kind"].is_string() && answer["detail"].is_string(), "{said}");
    }
    (status, answer)
}

/// Requests that are accepted, in every form that the door takes.
fn corpus(packed: bool) -> Vec<Vec<u8>> {
    let events: Vec<Vec<u8>> = golden_events().iter().map(sent).collect();
    let message = |headers: &str, body: &[u8]| [headers.as_bytes(), b"\n\n", body].concat();
    let batch = |events: &[Vec<u8>]| [b"[".as_slice(), &events.join(&b","[..]), b"]"].concat();
    let mut all = Vec::new();
    for event in &events {
        all.push(message("content-type: application/cloudevents+json\nexpected-version: none", event));
        all.push(message("Content-Type: application/cloudevents+json; charset=utf-8\nExpected-Version: any", event));
    }
    let traced = "content-type: application/cloudevents-batch+json\n\
        traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\ntracestate: vendor=value";
    // The golden records are of several logs: some have the same id.
    let named = |(number, event): (usize, NewEvent)| sent(&NewEvent { id: format!("e-{number}"), ..event });
    let named: Vec<Vec<u8>> = golden_events().into_iter().enumerate().map(named).collect();
    all.extend(named.chunks(3).map(|events| message(traced, &batch(events))));
    let document = br#"{"expect":[{"stream":"thing-2","version":"none"},{"stream":"thing-9","version":"any"}],"events":[
        {"specversion":"1.0","id":"3","source":"/fuzz","type":"thing.made","subject":"thing-2","tags":"owner:ann thing:2",
        "data":{"n":1}}],"conditions":[{"fail_if_events_match":[{"types":["thing.made"],"tags":["thing:2"]}],"after":"0"}]}"#;
    all.push(message("content-type: application/vnd.coldstream.append+json\nx-request-id: fuzz-1", document));
    if packed {
        let frames = events.iter().map(|event| zstd::encode_all(&event[..], 3).expect("compressed"));
        let headers = "content-type: application/cloudevents+json\ncontent-encoding: zstd";
        all.extend(frames.map(|frame| message(headers, &frame)));
    }
    all
}

#[test]
fn an_append_is_answered_as_the_document_says_whatever_its_headers_and_its_body_are() {
    let rig = Rig::new();
    let target = Target { name: "append", corpus: &corpus(true), cases: 4_000, bytes_max: UNPACKED_BYTES_MAX };
    target.run(|input| rig.send(&Message::read(input)));
}

/// A frame of spaces, which JSON takes behind a document.
fn spaces(bytes: usize) -> Vec<u8> {
    zstd::encode_all(&vec![b' '; bytes][..], 1).expect("compressed")
}

/// One case in so many has a frame of spaces behind it, and another one a bomb.
const ONE_IN: usize = 64;

#[test]
fn a_packed_append_is_what_is_in_it_and_a_bomb_is_refused() {
    let rig = Rig::new();
    let (half, bomb) =
        (LazyCell::new(|| spaces(REQUEST_BYTES_MAX / 2)), LazyCell::new(|| spaces(REQUEST_BYTES_MAX + 1)));
    let target = Target { name: "packed append", corpus: &corpus(false), cases: 2_000, bytes_max: UNPACKED_BYTES_MAX };
    target.run(|input| {
        let plain = Message::read(input);
        let expected = rig.send(&plain);
        let mut body = zstd::encode_all(&plain.body[..], 1).expect("compressed");
        let is_bomb = input.len() % ONE_IN == 1;
        match input.len() % ONE_IN {
            0 => body.extend_from_slice(&half),
            1 => body.extend_from_slice(&bomb),
            _ => {}
        }
        // In front: of a header that stands twice the first one counts.
        let coding = (header::CONTENT_ENCODING, HeaderValue::from_static("zstd"));
        let headers = std::iter::once(coding).chain(plain.headers).collect();
        let verdict = rig.send(&Message { headers, body });
        if is_bomb {
            assert_eq!(verdict, Verdict::Refused, "a bomb");
            // What it is made of was accepted, or the corpus would not be.
            return expected;
        }
        assert_eq!(verdict, expected, "packed and not");
        verdict
    });
}
