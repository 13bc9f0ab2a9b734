//! Errors as the API answers them: RFC 9457 problem details with `kind` and the whole chain in `detail`.
//!
//! `kind` is the contract, it says what to do; the status is for what stands between us and the client:
//!
//! | kind | status | why |
//! |---|---|---|
//! | conflict | 409 | what the writer believed is not so |
//! | fenced | 503, no Retry-After | this server cannot, another one can: a load balancer turns away from it |
//! | unavailable | 503, Retry-After | it did not happen; 408 where the client was too slow, 429 where it asks too much |
//! | indeterminate | 504 | it may have happened: same ids again |
//! | invalid | 400 | also 413 and 415 |
//! | held | 423 | a hold forbids it |
//! | forked | 409 | with `fork`, the newest position that both branches share |
//! | corrupt | 500 | never skipped, never served |
//! | not_found | 404 | |
//! | denied | 401 without a token that opens something, 403 without the role or the category | |

pub(super) mod examples;
mod members;

use std::error::Error;

use axum::Json;
use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use domain::ErrorKind;
use domain::append::AppendError;
use domain::log::ReadError;
use serde_json::{Map, Value};

use super::openapi;
use crate::chain::chain;

pub use members::Member;

/// A client that is told to come back is told to wait this long, unless something better is known.
const RETRY_AFTER_SECONDS: u32 = 1;

/// An error on its way to the client.
#[derive(Debug, Clone)]
pub struct Problem {
    status: StatusCode,
    kind: ErrorKind,
    detail: String,
    retry_after_seconds: Option<u32>,
    repeated: bool,
    /// Further members.
    members: Vec<(Member, String)>,
}

/// The status that belongs to `kind`.
pub(super) fn status_of(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::Conflict | ErrorKind::Forked => StatusCode::CONFLICT,
        ErrorKind::Fenced | ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::Indeterminate => StatusCode::GATEWAY_TIMEOUT,
        ErrorKind::Invalid => StatusCode::BAD_REQUEST,
        ErrorKind::Held => StatusCode::LOCKED,
        ErrorKind::Corrupt => StatusCode::INTERNAL_SERVER_ERROR,
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::Denied => StatusCode::FORBIDDEN,
    }
}

impl Problem {
    /// A problem of `kind`, with the status that belongs to it.
    #[must_use]
    pub fn new(kind: ErrorKind, detail: impl Into<String>) -> Self {
        let retry_after_seconds = (kind == ErrorKind::Unavailable).then_some(RETRY_AFTER_SECONDS);
        let (detail, members) = (detail.into(), Vec::new());
        Self { status: status_of(kind), kind, detail, retry_after_seconds, repeated: false, members }
    }

    /// A problem that says all of `error`.
    #[must_use]
    pub fn of(kind: ErrorKind, error: &(dyn Error + 'static)) -> Self {
        Self::new(kind, chain(error))
    }

    /// The request is wrong.
    #[must_use]
    pub fn invalid(detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, detail)
    }

    /// The same with another status.
    #[must_use]
    pub fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// The same for a client that is to come back after so many seconds.
    #[must_use]
    pub fn after(mut self, seconds: u32) -> Self {
        self.retry_after_seconds = Some(seconds);
        self
    }

    /// The same as its caller was told just before: it is answered and counted, and not logged again.
    #[must_use]
    pub fn repeated(mut self) -> Self {
        self.repeated = true;
        self
    }

    /// The same with one more member, which is one of its kind's ([`Member::kinds`]).
    #[must_use]
    pub fn with(mut self, member: Member, value: impl ToString) -> Self {
        self.members.push((member, value.to_string()));
        self
    }

    /// What the client has to do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Whether its caller was told the same just before.
    #[must_use]
    pub fn is_repeated(&self) -> bool {
        self.repeated
    }

    /// What is wrong.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.detail
    }

    fn document(&self) -> Map<String, Value> {
        let mut document = Map::new();
        document.insert("type".into(), Value::from("about:blank"));
        document.insert("title".into(), Value::from(self.status.canonical_reason().unwrap_or_default()));
        document.insert("status".into(), Value::from(self.status.as_u16()));
        document.insert("kind".into(), Value::from(self.kind.as_str()));
        document.insert("detail".into(), Value::from(self.detail.clone()));
        for (member, value) in &self.members {
            document.insert(member.as_str().into(), Value::from(value.clone()));
        }
        document
    }

    /// The document with its request's id.
    pub(super) fn of_request(&self, id: &str) -> Value {
        let mut document = self.document();
        document.insert("request".into(), Value::from(id));
        Value::Object(document)
    }
}

/// Writes the request's id into an answer that is a problem: who keeps the document alone can still name the request.
pub(super) fn identify(response: &mut Response, id: &str) {
    let Some(problem) = response.extensions().get::<Problem>() else { return };
    let document = problem.of_request(id);
    debug_assert!(openapi::says_problem(&document), "the API's document does not tell of {document}");
    *response.body_mut() = Body::from(document.to_string());
    // That of the document without it.
    response.headers_mut().remove(header::CONTENT_LENGTH);
}

impl From<AppendError> for Problem {
    fn from(error: AppendError) -> Self {
        let problem = Self::of(error.kind(), &error);
        match error {
            AppendError::WrongVersion { stream, actual, .. } => {
                problem.with(Member::Stream, stream).with(Member::Actual, actual.map_or(0, domain::StreamVersion::get))
            }
            AppendError::IdTaken { position, .. } | AppendError::PartlyKnown { position, .. } => {
                problem.with(Member::Position, position)
            }
            AppendError::ConditionFailed { position, .. } => problem.with(Member::Position, position),
            AppendError::ConditionUnsettled { up_to, .. } => problem.with(Member::ReadTo, up_to),
            AppendError::ConditionAhead { head, .. } => problem.with(Member::Head, head),
            AppendError::Fenced { epoch, .. } => problem.with(Member::Epoch, epoch),
            AppendError::Unavailable { retry_after_seconds: Some(seconds), .. } => problem.after(seconds),
            AppendError::Invalid(domain::append::InvalidRequest::TooLarge) => {
                problem.with_status(StatusCode::PAYLOAD_TOO_LARGE)
            }
            _ => problem,
        }
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        let problem = Self::of(error.kind(), &error);
        match error {
            ReadError::Forked { fork, .. } => problem.with(Member::Fork, fork),
            ReadError::Pruned { pruned } => problem.with(Member::Pruned, pruned),
            ReadError::Unavailable { .. } | ReadError::Corrupt { .. } => problem,
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        if self.kind == ErrorKind::Corrupt {
            tracing::error!(error = %self.detail, "stored bytes are not what was stored");
        }
        let mut response = (self.status, Json(self.document())).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.retry_after_seconds {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        // The problem itself travels along, for the log and the metrics.
        response.extensions_mut().insert(self);
        response
    }
}
