//! A course that begins in a client goes on through the door, into the record, and into the view: each tells a collector.

use std::time::Duration;

use axum::Json;
use axum::routing::post;
use domain::window::LiveWindow;
use ops::dev::Region;
use ops::dev::region::Plan;
use serde_json::{Value, json};
use system_tests::binary;
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";
/// No state that the test waits for takes longer than this.
const PATIENCE: Duration = Duration::from_secs(60);

/// A collector for OTLP over HTTP: its address, and the spans that it is told.
async fn collector() -> (String, UnboundedReceiver<Value>) {
    let (told, heard) = unbounded_channel();
    let collect = async move |Json(body): Json<Value>| {
        assert_eq!(body["resourceSpans"][0]["resource"]["attributes"][0]["value"]["stringValue"], "coldstream");
        for span in body["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().expect("spans") {
            // The test may have heard enough.
            let _ = told.send(span.clone());
        }
        Json(json!({}))
    };
    let router = axum::Router::new().route("/v1/traces", post(collect));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move { axum::serve(listener, router).await });
    (address, heard)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sampled_course_is_told_from_the_door_to_the_view_and_another_is_not() {
    // A client for HTTP asks for a provider of TLS, also where it needs none.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (address, mut heard) = collector().await;
    let folder = tempfile::tempdir().expect("a folder");
    let plan = Plan {
        binary: binary(),
        folder: folder.path().to_owned(),
        simulated_now: None,
        window: LiveWindow::default(),
        settings: vec![("telemetry.otlp_endpoint", address.into())],
        postgres: Vec::new(),
    };
    let mut region = Region::single(&plan).await.expect("a region");
    region.serve().await.expect("it serves");
    let append = async |id: &str, flags: &str| {
        let event =
            json!({"specversion": "1.0", "id": id, "source": "/tests", "type": "note.written", "subject": "note-1"});
        let request = reqwest::Client::new().post(format!("{}/v1/append", region.url)).body(event.to_string());
        let request =
            request.bearer_auth(&region.tokens.appender).header("content-type", "application/cloudevents+json");
        let answer =
            request.header("traceparent", format!("00-{TRACE}-{SPAN}-{flags}")).send().await.expect("an answer");
        assert_eq!(answer.status().as_u16(), 201);
    };
    append("unsampled", "00").await;
    append("sampled", "01").await;
    let two = async { [heard.recv().await, heard.recv().await].map(|span| span.expect("the collector stands")) };
    let mut told = tokio::time::timeout(PATIENCE, two).await.expect("two spans are told");
    told.sort_by_key(|span| span["name"].to_string());
    let names: Vec<&Value> = told.iter().map(|span| &span["name"]).collect();
    assert_eq!(names, ["POST /v1/append", "fold view_content"], "nothing of the course that nobody samples");
    for span in &told {
        assert_eq!((&span["traceId"], &span["parentSpanId"]), (&json!(TRACE), &json!(SPAN)));
    }
    let position =
        told[1]["attributes"].as_array().expect("attributes").iter().find(|one| one["key"] == "coldstream.position");
    assert_eq!(position.expect("it says where")["value"]["stringValue"], "2");
    region.end().await.expect("it ends");
}
