//! `POST /v1/append`: the one way in for events.
//!
//! | content type | body | expected versions |
//! |---|---|---|
//! | `application/cloudevents+json` | one CloudEvent | header `Expected-Version` |
//! | `application/cloudevents-batch+json` | an array of CloudEvents | header `Expected-Version`, for one stream |
//! | `application/vnd.coldstream.append+json` | the append document, with conditions if any | in the document |
//!
//! This module reads and answers; what is valid is decided in `domain`, what is stored in the log.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Extension, Json};
use bytes::Bytes;
use domain::append::{
    AppendError, AppendRequest, Appended, CONDITION_ITEMS_MAX, Expectation, ExpectedVersion, ITEM_TYPES_MAX,
    InvalidRequest, REQUEST_BYTES_MAX,
};
use domain::event::{NewEvent, TAGS_MAX};
use domain::{ErrorKind, StreamName};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use schemars::generate::SchemaGenerator;
use schemars::{JsonSchema, Schema, json_schema};
use serde::Serialize;

use super::auth::Caller;
use super::problem::Problem;
use super::route::{self, JSON, Route, shape};
use super::scope::Touches;
use super::{APPENDERS, ApiState, coding, trace};
use crate::clock::Stopwatch;

/// Header that says what the writer believes of the one stream that it writes.
const EXPECTED_VERSION: &str = "expected-version";

const SINGLE: &str = "application/cloudevents+json";
const BATCH: &str = "application/cloudevents-batch+json";
const DOCUMENT: &str = "application/vnd.coldstream.append+json";

pub(super) static ROUTES: &[Route] = &[Route {
    summary: "Append events: all of them or none. Sent again with the same ids, it changes nothing",
    touches: Touches::WhatItNames,
    headers: &[
        ("Expected-Version", "`any`, `none`, `exists` or the version of the one stream that is written"),
        ("Content-Encoding", "`zstd`, with a window of 16 MiB at most; unpacked, the body has 16 MiB at most too"),
        (trace::TRACEPARENT, "W3C trace context: an extension of each event that has none; no part of its content"),
        (trace::TRACESTATE, "The rest of that context"),
    ],
    bodies: &[
        route::Body {
            media: SINGLE,
            shape: cloudevent,
            example: r#"{"specversion": "1.0", "id": "1", "source": "/guide", "type": "content.created",
                "subject": "content-guide", "data": {"author": "ann", "change": "c1",
                "oid": "ce013625030ba8dba906f756967f9e9ca394464a", "mode": "100644", "size": 6}}"#,
        },
        route::Body {
            media: BATCH,
            shape: cloudevents,
            example: r#"[{"specversion": "1.0", "id": "2", "source": "/guide", "type": "thing.made",
                "subject": "thing-1"}]"#,
        },
        route::Body {
            media: DOCUMENT,
            shape: append_document,
            example: r#"{"expect": [{"stream": "thing-2", "version": "none"}], "events": [{"specversion": "1.0",
                "id": "3", "source": "/guide", "type": "thing.made", "subject": "thing-2", "tags": "owner:ann thing:2"}],
                "conditions": [{"fail_if_events_match": [{"types": ["thing.made"], "tags": ["thing:2"]}], "after": "0"}]}"#,
        },
    ],
    answers: &[
        route::Answer { status: StatusCode::CREATED, what: "The events are stored", forms: ANSWER, headers: &[] },
        route::Answer { status: StatusCode::OK, what: "They had been stored before", forms: ANSWER, headers: &[] },
    ],
    kinds: &[ErrorKind::Conflict, ErrorKind::Fenced, ErrorKind::Corrupt],
    ..Route::post("/v1/append", APPENDERS, || post(append), &[])
}];

const ANSWER: &[(&str, route::Shape)] = &[(JSON, shape::<Answer>)];

/// Body of a 201 or 200.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Appended")]
struct Answer {
    /// Whether they had been appended before.
    replayed: bool,
    /// In the request's order.
    events: Vec<AnswerEvent>,
}

/// Where one event stands; 64-bit numbers are strings, as in the record.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "AppendedEvent")]
struct AnswerEvent {
    stream: String,
    version: String,
    position: String,
    epoch: String,
    recordedat: String,
}

impl From<Appended> for Answer {
    fn from(appended: Appended) -> Self {
        let event = |event: domain::append::AppendedEvent| AnswerEvent {
            stream: event.stream.as_str().to_owned(),
            version: event.version.to_string(),
            position: event.position.to_string(),
            epoch: event.epoch.to_string(),
            recordedat: event.recorded_at.to_string(),
        };
        Self { replayed: appended.replayed, events: appended.events.into_iter().map(event).collect() }
    }
}

/// A CloudEvent (CloudEvents 1.0 §3.1) as a client may send it. `domain` decides; this says the same to readers.
fn cloudevent(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "description": "A CloudEvent. What the log assigns (position, version, epoch, recordedat) is not sent.",
        "required": ["specversion", "id", "source", "type", "subject"],
        "properties": {
            "specversion": {"const": "1.0"},
            "id": {"type": "string", "minLength": 1, "description": "Unique within its source: a retry sends it again"},
            "source": {"type": "string", "minLength": 1},
            "type": {"type": "string", "minLength": 1},
            "subject": {"type": "string", "minLength": 1, "description": "The stream: category-id"},
            "time": {"type": "string", "format": "date-time"},
            "tags": {"type": "string", "description": "What it is about: words separated by spaces, at most 32"},
        },
    })
}

fn cloudevents(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "array", "minItems": 1, "items": cloudevent(generator)})
}

fn append_document(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "required": ["events"],
        "additionalProperties": false,
        "properties": {
            "events": cloudevents(generator),
            "expect": {"type": "array", "items": {
                "type": "object",
                "required": ["stream", "version"],
                "additionalProperties": false,
                "properties": {
                    "stream": {"type": "string"},
                    "version": {"type": "string", "description": "`any`, `none`, `exists` or a stream version"},
                },
            }},
            "conditions": {"type": "array", "items": condition()},
        },
    })
}

fn condition() -> Schema {
    let word = json_schema!({"type": "string", "minLength": 1});
    let words = |most: usize| json_schema!({"type": "array", "maxItems": most, "items": word});
    json_schema!({
        "type": "object",
        "description": "Refused as a conflict if an event after the position matches any of the items",
        "required": ["fail_if_events_match"],
        "additionalProperties": false,
        "properties": {
            "fail_if_events_match": {
                "type": "array",
                "minItems": 1,
                "maxItems": CONDITION_ITEMS_MAX,
                "items": {
                    "type": "object",
                    "description": "An event of any of the types that has all of the tags; what is empty or absent is \
                                    not asked about",
                    "additionalProperties": false,
                    "properties": {"types": words(ITEM_TYPES_MAX), "tags": words(TAGS_MAX)},
                },
            },
            "after": {"type": "string", "description": "The position up to which the writer has read; 0 if absent"},
        },
    })
}

/// Takes an append: 201 if it is new, 200 if it had been appended before.
pub(super) async fn append(
    State(state): State<Arc<ApiState>>,
    Extension(caller): Extension<Arc<Caller>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let form = Form::of(&headers)?;
    let packed = coding::is_zstd(&headers)?;
    let expected = expected_version(&headers)?;
    state.rates.append(&caller)?;
    // Bytes are counted before they are read: what waits here costs no memory.
    let receive = Duration::from_secs(state.limits.receive_seconds);
    let mut room = state.bodies.room_for(&headers, receive).await?;
    let body = tokio::time::timeout(receive, collect(body)).await.map_err(|_| too_slow())??;
    let body = if packed { coding::unpacked(&body)? } else { body };
    room.shrink_to(body.len());
    state.rates.appended(&caller, body.len());
    let mut request = form.read(&body, expected).map_err(AppendError::Invalid)?;
    caller.scope.check_append(&request)?;
    drop(body);
    if let Some(context) = trace::context(&headers) {
        request.carry(&context);
    }
    request.client = Some(caller.name.clone());
    let watch = Stopwatch::start();
    let result = state.log.append(request).await;
    let took = watch.elapsed();
    drop(room);
    let outcome = match &result {
        Ok(appended) if appended.replayed => "replayed",
        Ok(_) => "new",
        Err(error) => error.kind().as_str(),
    };
    let stored = result.as_ref().map_or(0, |appended| if appended.replayed { 0 } else { appended.events.len() });
    state.metrics.appended(outcome, stored, took);
    let appended = result?;
    let status = if appended.replayed { StatusCode::OK } else { StatusCode::CREATED };
    Ok((status, Json(Answer::from(appended))).into_response())
}

/// What the body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Single,
    Batch,
    Document,
}

impl Form {
    fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let unsupported = || {
            let detail = "content type application/cloudevents+json, application/cloudevents-batch+json or \
                          application/vnd.coldstream.append+json, in UTF-8, is expected";
            Problem::invalid(detail).with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE)
        };
        let text = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).ok_or_else(unsupported)?;
        let mut parts = text.split(';').map(|part| part.trim().to_ascii_lowercase());
        let media_type = parts.next().unwrap_or_default();
        // JSON is UTF-8; a client that means something else would be misread.
        if !parts.all(|part| matches!(part.as_str(), "charset=utf-8" | "charset=\"utf-8\"" | "")) {
            return Err(unsupported());
        }
        match media_type.as_str() {
            SINGLE => Ok(Self::Single),
            BATCH => Ok(Self::Batch),
            DOCUMENT => Ok(Self::Document),
            _ => Err(unsupported()),
        }
    }

    fn read(self, body: &[u8], expected: Option<ExpectedVersion>) -> Result<AppendRequest, InvalidRequest> {
        let events = match self {
            Self::Single => {
                vec![NewEvent::from_cloudevent(body).map_err(|source| InvalidRequest::Event { index: 0, source })?]
            }
            Self::Batch => NewEvent::batch_from_cloudevents(body)?,
            Self::Document if expected.is_some() => {
                return Err(header_problem("an append document says itself what it expects"));
            }
            Self::Document => return AppendRequest::from_document(body),
        };
        let expect = match expected {
            None => Vec::new(),
            Some(version) => vec![Expectation { stream: only_stream(&events)?, version }],
        };
        Ok(AppendRequest { events, expect, ..AppendRequest::default() })
    }
}

fn only_stream(events: &[NewEvent]) -> Result<StreamName, InvalidRequest> {
    let first = events.first().ok_or(InvalidRequest::Empty)?;
    if events.iter().all(|event| event.stream == first.stream) {
        return Ok(first.stream.clone());
    }
    Err(header_problem("it is for events of one stream; use an append document for several"))
}

fn header_problem(reason: &str) -> InvalidRequest {
    InvalidRequest::Document { member: "Expected-Version".to_owned(), reason: reason.to_owned() }
}

fn expected_version(headers: &HeaderMap) -> Result<Option<ExpectedVersion>, Problem> {
    let refused = || Problem::invalid("Expected-Version is any, none, exists or a stream version, and stands once");
    let mut values = headers.get_all(EXPECTED_VERSION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(refused());
    }
    let text = value.to_str().map_err(|_| refused())?;
    ExpectedVersion::parse(text.trim()).map(Some).ok_or_else(refused)
}

async fn collect(body: Body) -> Result<Bytes, Problem> {
    let collected = Limited::new(body, REQUEST_BYTES_MAX).collect().await;
    collected.map(http_body_util::Collected::to_bytes).map_err(|error| match error.downcast::<LengthLimitError>() {
        Ok(_) => too_large(),
        Err(error) => Problem::invalid(format!("the body did not arrive whole: {error}")),
    })
}

pub(super) fn too_large() -> Problem {
    Problem::of(ErrorKind::Invalid, &InvalidRequest::TooLarge).with_status(StatusCode::PAYLOAD_TOO_LARGE)
}

pub(super) fn too_slow() -> Problem {
    Problem::new(ErrorKind::Unavailable, "the body did not arrive in time, nothing was done")
        .with_status(StatusCode::REQUEST_TIMEOUT)
}
