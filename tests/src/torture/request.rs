//! Requests to append, and how a server answers them.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

const SINGLE: &str = "application/cloudevents+json";
const BATCH: &str = "application/cloudevents-batch+json";
const DOCUMENT: &str = "application/vnd.coldstream.append+json";
/// Longer than any answer of a server that lives: one that is stopped does not hang a test.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// An append that can be sent any number of times.
#[derive(Debug, Clone)]
pub struct Request {
    content_type: &'static str,
    expected_version: Option<String>,
    body: String,
    /// The ids of its events, in order.
    pub ids: Vec<String>,
    /// What it expects: (stream, `none`, `exists` or a version).
    pub expect: Vec<(String, String)>,
    /// The tag that no event in the log may have before it, and that its event has.
    pub claims: Option<String>,
}

/// Where an event was said to stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The event's id.
    pub id: String,
    /// Its stream.
    pub stream: String,
    /// Its version.
    pub version: u64,
    /// Its position.
    pub position: u64,
    /// When it was recorded, as the log spells it.
    pub recordedat: String,
}

/// What a server said.
#[derive(Debug, Clone)]
pub enum Answer {
    /// 201, or 200 if it had been appended before.
    Stored {
        /// Whether it had been appended before.
        replayed: bool,
        /// Where its events stand.
        places: Vec<Place>,
    },
    /// A problem, with its status and its members.
    Problem(u16, Value),
    /// No answer, or a part of one.
    None(String),
}

#[derive(Deserialize)]
struct Body {
    replayed: bool,
    events: Vec<BodyEvent>,
}

#[derive(Deserialize)]
struct BodyEvent {
    stream: String,
    version: String,
    position: String,
    recordedat: String,
}

/// One event of `stream`. `pad` is how many bytes of data it has at least.
fn event(source: &str, stream: &str, id: &str, pad: usize) -> Value {
    json!({
        "specversion": "1.0", "id": id, "source": source, "type": "thing.happened", "subject": stream,
        "datacontenttype": "application/json", "data": { "of": id, "pad": "x".repeat(pad) },
    })
}

impl Request {
    /// One event in mode Any.
    #[must_use]
    pub fn single(source: &str, stream: &str, id: &str) -> Self {
        let body = event(source, stream, id, 20).to_string();
        Self {
            content_type: SINGLE,
            expected_version: None,
            body,
            ids: vec![id.to_owned()],
            expect: Vec::new(),
            claims: None,
        }
    }

    /// Events of one stream, with what is expected of it (`any`, `none`, `exists` or a version).
    #[must_use]
    pub fn batch(source: &str, stream: &str, expected: &str, ids: Vec<String>, pad: usize) -> Self {
        let events: Vec<Value> = ids.iter().map(|id| event(source, stream, id, pad)).collect();
        let body = Value::from(events).to_string();
        let expect = vec![(stream.to_owned(), expected.to_owned())];
        Self { content_type: BATCH, expected_version: Some(expected.to_owned()), body, ids, expect, claims: None }
    }

    /// An append document: (stream, id) of each event, (stream, version) of each expectation.
    #[must_use]
    pub fn document(source: &str, events: &[(&str, String)], expect: &[(&str, String)]) -> Self {
        let ids: Vec<String> = events.iter().map(|(_, id)| id.clone()).collect();
        let events: Vec<Value> = events.iter().map(|(stream, id)| event(source, stream, id, 20)).collect();
        let named: Vec<Value> =
            expect.iter().map(|(stream, version)| json!({ "stream": stream, "version": version })).collect();
        let body = json!({ "expect": named, "events": events }).to_string();
        let expect = expect.iter().map(|(stream, version)| ((*stream).to_owned(), version.clone())).collect();
        Self { content_type: DOCUMENT, expected_version: None, body, ids, expect, claims: None }
    }

    /// One event that has a tag, on the condition that no event has it yet.
    #[must_use]
    pub fn claim(source: &str, stream: &str, id: &str, tag: &str) -> Self {
        let mut event = event(source, stream, id, 20);
        event["tags"] = tag.into();
        let condition = json!({ "fail_if_events_match": [{ "tags": [tag] }], "after": "0" });
        let body = json!({ "events": [event], "conditions": [condition] }).to_string();
        let (ids, claims) = (vec![id.to_owned()], Some(tag.to_owned()));
        Self { content_type: DOCUMENT, expected_version: None, body, ids, expect: Vec::new(), claims }
    }

    /// The same ids with other content: never a retry.
    #[must_use]
    pub fn with_other_content(&self) -> Self {
        Self { body: self.body.replace(r#""pad":"x"#, r#""pad":"y"#), ..self.clone() }
    }
}

/// A client of any of a log's servers.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    token: String,
}

impl Client {
    /// A client with a token.
    #[must_use]
    pub fn new(token: &str) -> Self {
        Self { http: reqwest::Client::new(), token: token.to_owned() }
    }

    /// Sends `request` once.
    pub async fn send(&self, url: &str, request: &Request) -> Answer {
        let mut post = self.http.post(format!("{url}/v1/append")).bearer_auth(&self.token).timeout(ANSWER_WITHIN);
        post = post.header("content-type", request.content_type).body(request.body.clone());
        if let Some(expected) = &request.expected_version {
            post = post.header("expected-version", expected);
        }
        let answered = async {
            let answer = post.send().await?;
            Ok::<_, reqwest::Error>((answer.status().as_u16(), answer.bytes().await?))
        };
        let (status, body) = match answered.await {
            Ok(answer) => answer,
            Err(error) => return Answer::None(format!("{error:?}")),
        };
        match status {
            200 | 201 => stored(request, &body, status == 200),
            _ => Answer::Problem(status, serde_json::from_slice(&body).expect("a problem is JSON")),
        }
    }

    /// The text of a page, such as `/metrics`.
    ///
    /// # Panics
    /// If it is not served.
    pub async fn page(&self, url: &str, path: &str) -> String {
        let answer = self.http.get(format!("{url}{path}")).bearer_auth(&self.token).timeout(ANSWER_WITHIN).send();
        let answer = answer.await.and_then(reqwest::Response::error_for_status).expect("served");
        answer.text().await.expect("served whole")
    }

    /// The value of a metric without labels.
    ///
    /// # Panics
    /// If there is none.
    pub async fn metric(&self, url: &str, name: &str) -> u64 {
        let page = self.page(url, "/metrics").await;
        let line = page.lines().find_map(|line| line.strip_prefix(&format!("coldstream_{name} ")));
        line.and_then(|value| value.parse().ok()).expect("the metric is there")
    }
}

fn stored(request: &Request, body: &[u8], replayed: bool) -> Answer {
    let body: Body = serde_json::from_slice(body).expect("an acknowledgement is JSON");
    assert_eq!(body.replayed, replayed, "status and body say the same");
    assert_eq!(body.events.len(), request.ids.len(), "one place for each event");
    let number = |text: &str| text.parse().expect("a number");
    let place = |(event, id): (BodyEvent, &String)| Place {
        id: id.clone(),
        stream: event.stream,
        version: number(&event.version),
        position: number(&event.position),
        recordedat: event.recordedat,
    };
    Answer::Stored { replayed, places: body.events.into_iter().zip(&request.ids).map(place).collect() }
}
