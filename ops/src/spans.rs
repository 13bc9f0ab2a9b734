//! Spans for OpenTelemetry: what became of a request, and of its events in the views, told to a collector by OTLP over HTTP
//! (OTLP 1, §OTLP/HTTP, JSON). Off unless a collector is configured. Only courses that their caller samples are told, so
//! the caller decides what tracing costs. Nobody waits for it: what the collector does not take is dropped, and counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use domain::Timestamp;
use domain::event::TraceContext;
use domain::record::Record;
use reqwest::Url;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::chain::chain;
use crate::chance;
use crate::clock::SystemClock;

/// Spans that wait; more are dropped.
const WAITING_MAX: usize = 4096;
/// Spans of one request to the collector.
const BATCH_SPANS: usize = 512;
/// How often what waits is sent.
const SEND_EVERY: Duration = Duration::from_secs(2);
/// The collector has this long for a batch.
const SEND_LIMIT: Duration = Duration::from_secs(10);
/// At the end it has this long for all that waits.
const LAST_LIMIT: Duration = Duration::from_secs(5);
/// A view that takes in older events catches up or is rebuilt: of these nobody waits for a span.
const VIEW_SPAN_MICROS_MAX: i64 = 3_600_000_000;

/// What kind of work a span is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanKind {
    /// A request was answered.
    Server,
    /// An event was taken in.
    Consumer,
}

impl SpanKind {
    fn number(self) -> u8 {
        match self {
            Self::Server => 2,
            Self::Consumer => 5,
        }
    }
}

/// A piece of work that is over.
#[derive(Debug, Clone)]
pub struct Span {
    /// In whose course.
    pub context: TraceContext,
    /// Of which kind.
    pub kind: SpanKind,
    /// Its name, of which there are few.
    pub name: String,
    /// Its beginning and its end.
    pub time: (Timestamp, Timestamp),
    /// Whether it failed.
    pub failed: bool,
    /// What else there is to say, as text.
    pub attributes: Vec<(&'static str, String)>,
}

/// Where spans go.
#[derive(Debug, Clone, Default)]
pub struct Spans(Option<Outgoing>);

#[derive(Debug, Clone)]
struct Outgoing {
    queue: mpsc::Sender<Span>,
    dropped: Arc<AtomicU64>,
}

impl Spans {
    /// Whether spans of a course are wanted: of one that its caller samples, while there is a collector.
    #[must_use]
    pub fn wants(&self, context: Option<&TraceContext>) -> bool {
        self.0.is_some() && context.is_some_and(TraceContext::is_sampled)
    }

    /// Tells a span.
    pub fn tell(&self, span: Span) {
        if let Some(Outgoing { queue, dropped }) = &self.0
            && queue.try_send(span).is_err()
        {
            dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Tells of each event that a view has taken in, from its record to now.
    pub fn folded(&self, view: &'static str, records: &[Record]) {
        let (Some(_), Ok(now)) = (&self.0, SystemClock::read()) else { return };
        for record in records {
            let Record::Event(recorded) = record else { continue };
            let began = recorded.recorded_at.min(now);
            let Some(context) = TraceContext::of(&recorded.event) else { continue };
            if self.wants(Some(&context)) && now.micros_since(began) <= VIEW_SPAN_MICROS_MAX {
                let attributes =
                    vec![("coldstream.view", view.to_owned()), ("coldstream.position", recorded.position.to_string())];
                let (kind, name, time) = (SpanKind::Consumer, format!("fold {view}"), (began, now));
                self.tell(Span { context, kind, name, time, failed: false, attributes });
            }
        }
    }

    /// How many were dropped; `None` if none are told.
    #[must_use]
    pub fn dropped(&self) -> Option<u64> {
        self.0.as_ref().map(|outgoing| outgoing.dropped.load(Ordering::Relaxed))
    }
}

/// Sends spans to the collector at `endpoint` until `shutdown`; what waits then is sent once more. Returns where spans go,
/// and the work that has to be run.
pub fn exporter(
    http: reqwest::Client,
    endpoint: &Url,
    region: &str,
    shutdown: CancellationToken,
) -> (Spans, impl Future<Output = ()> + Send + use<>) {
    let (queue, waiting) = mpsc::channel(WAITING_MAX);
    let dropped = Arc::new(AtomicU64::new(0));
    let spans = Spans(Some(Outgoing { queue, dropped: dropped.clone() }));
    let url = format!("{}/v1/traces", endpoint.as_str().trim_end_matches('/'));
    let exporter = Exporter { http, url, region: region.to_owned(), waiting, dropped, failing: false };
    (spans, exporter.run(shutdown))
}

struct Exporter {
    http: reqwest::Client,
    url: String,
    region: String,
    waiting: mpsc::Receiver<Span>,
    dropped: Arc<AtomicU64>,
    failing: bool,
}

impl Exporter {
    async fn run(mut self, shutdown: CancellationToken) {
        let mut pace = interval(SEND_EVERY);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                _ = pace.tick() => {}
            }
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = self.send_waiting() => {}
            }
        }
        // A collector that hangs holds up no shutdown: what it has not taken by then is lost with the process.
        drop(tokio::time::timeout(LAST_LIMIT, self.send_waiting()).await);
    }

    async fn send_waiting(&mut self) {
        let mut batch = Vec::new();
        while let Ok(span) = self.waiting.try_recv() {
            batch.push(span);
            if batch.len() == BATCH_SPANS {
                self.send(std::mem::take(&mut batch)).await;
            }
        }
        self.send(batch).await;
    }

    async fn send(&mut self, batch: Vec<Span>) {
        if batch.is_empty() {
            return;
        }
        let body = document(&self.region, &batch);
        let sent = self.http.post(&self.url).timeout(SEND_LIMIT).json(&body).send().await;
        let taken = sent.and_then(reqwest::Response::error_for_status);
        if let Err(error) = &taken {
            self.dropped.fetch_add(u64::try_from(batch.len()).unwrap_or(u64::MAX), Ordering::Relaxed);
            if !self.failing {
                tracing::warn!(error = %chain(error), "the collector takes no spans, they are dropped");
            }
        }
        self.failing = taken.is_err();
    }
}

/// `ExportTraceServiceRequest` in proto3's JSON.
fn document(region: &str, spans: &[Span]) -> Value {
    let service = [
        text("service.name", "coldstream"),
        text("service.version", env!("CARGO_PKG_VERSION")),
        text("coldstream.region", region),
    ];
    let spans: Vec<Value> = spans.iter().map(one).collect();
    json!({"resourceSpans": [{
        "resource": {"attributes": service},
        "scopeSpans": [{"scope": {"name": "coldstream"}, "spans": spans}],
    }]})
}

fn one(span: &Span) -> Value {
    use rand::Rng as _;
    let nanos = |at: Timestamp| format!("{}000", at.unix_micros());
    let attributes: Vec<Value> = span.attributes.iter().map(|(name, value)| text(name, value)).collect();
    json!({
        "traceId": span.context.trace_id(),
        "spanId": format!("{:016x}", chance::generator().random_range(1..=u64::MAX)),
        "parentSpanId": span.context.span_id(),
        "name": span.name,
        "kind": span.kind.number(),
        "startTimeUnixNano": nanos(span.time.0),
        "endTimeUnixNano": nanos(span.time.1),
        "attributes": attributes,
        "status": if span.failed { json!({"code": 2}) } else { json!({}) },
    })
}

fn text(name: &str, value: &str) -> Value {
    json!({"key": name, "value": {"stringValue": value}})
}

#[cfg(test)]
mod tests {
    use axum::Json;
    use axum::routing::post;
    use tokio::net::TcpListener;

    use super::*;

    const SAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn at(second: i64) -> Timestamp {
        Timestamp::from_unix_micros(second * 1_000_000).expect("an instant")
    }

    fn span(name: &str, failed: bool) -> Span {
        let context = TraceContext::parse(SAMPLED, None).expect("a context");
        let (kind, attributes) = (SpanKind::Server, vec![("http.route", "/v1/append".to_owned())]);
        Span { context, kind, name: name.to_owned(), time: (at(1), at(2)), failed, attributes }
    }

    #[tokio::test]
    async fn what_waits_is_told_to_the_collector_before_the_end() {
        // Another test of this process may have been first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (told, mut heard) = mpsc::unbounded_channel();
        let collect = async move |Json(body): Json<Value>| {
            told.send(body).expect("the test listens");
            Json(json!({}))
        };
        let collector = axum::Router::new().route("/v1/traces", post(collect));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/", listener.local_addr().expect("an address"));
        tokio::spawn(async move { axum::serve(listener, collector).await });
        let shutdown = CancellationToken::new();
        let url = Url::parse(&url).expect("a URL");
        let (spans, running) = exporter(reqwest::Client::new(), &url, "home", shutdown.clone());
        spans.tell(span("POST /v1/append", true));
        shutdown.cancel();
        running.await;
        let body = heard.recv().await.expect("told");
        let told = &body["resourceSpans"][0]["scopeSpans"][0]["spans"][0];
        let ids = (&told["traceId"], &told["parentSpanId"], told["spanId"].as_str().map(str::len));
        assert_eq!(ids, (&json!("4bf92f3577b34da6a3ce929d0e0e4736"), &json!("00f067aa0ba902b7"), Some(16)));
        let said = (&told["kind"], &told["startTimeUnixNano"], &told["endTimeUnixNano"], &told["status"]["code"]);
        assert_eq!(said, (&json!(2), &json!("1000000000"), &json!("2000000000"), &json!(2)));
        assert_eq!(spans.dropped(), Some(0));
    }

    #[tokio::test]
    async fn spans_that_nobody_takes_are_counted_and_nobody_waits_for_them() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let shutdown = CancellationToken::new();
        let nobody = Url::parse("http://127.0.0.1:1/").expect("a URL");
        let (spans, running) = exporter(reqwest::Client::new(), &nobody, "home", shutdown.clone());
        spans.tell(span("GET /v1/log", false));
        shutdown.cancel();
        running.await;
        assert_eq!(spans.dropped(), Some(1));
        spans.tell(span("GET /v1/log", false));
        assert_eq!(spans.dropped(), Some(2), "nothing is sent any more");
    }

    #[test]
    fn only_courses_that_their_caller_samples_are_told_and_none_where_there_is_no_collector() {
        let context = |text| TraceContext::parse(text, None);
        assert!(!Spans::default().wants(context(SAMPLED).as_ref()));
        let (queue, _waiting) = mpsc::channel(1);
        let spans = Spans(Some(Outgoing { queue, dropped: Arc::default() }));
        assert!(spans.wants(context(SAMPLED).as_ref()) && !spans.wants(None));
        assert!(!spans.wants(context("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00").as_ref()));
    }
}
