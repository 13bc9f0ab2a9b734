//! What the server says: acknowledgements, and refusals as RFC 9457 problem documents with `kind`.

use domain::append::{Appended, AppendedEvent};
use domain::{Epoch, ErrorKind, Position, StreamName, StreamVersion, Timestamp};
use reqwest::{RequestBuilder, Response, header};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::error::{ClientError, chain};

/// Sends a request; an answer that is no success is an error.
pub(crate) async fn of(request: RequestBuilder) -> Result<Response, ClientError> {
    let response = request.send().await.map_err(|error| no_answer(&error))?;
    if response.status().is_success() {
        return Ok(response);
    }
    let (status, url) = (response.status(), response.url().to_string());
    let retry_after = response.headers().get(header::RETRY_AFTER);
    let retry_after_seconds = retry_after.and_then(|seconds| seconds.to_str().ok()?.parse().ok());
    let body = response.bytes().await.map_err(|error| no_answer(&error))?;
    let mut problem: Map<String, Value> = serde_json::from_slice(&body).unwrap_or_default();
    match problem.remove("kind").and_then(|word| ErrorKind::parse(word.as_str()?)) {
        Some(kind) => {
            let detail = problem.remove("detail").and_then(|text| text.as_str().map(str::to_owned)).unwrap_or_default();
            let members = Box::new(problem);
            Err(ClientError::Refused { kind, detail, members, retry_after_seconds })
        }
        // Not one of ours: a proxy may have passed the request on.
        None => Err(ClientError::NoAnswer { url, reason: format!("status {status}"), may_have_arrived: true }),
    }
}

pub(crate) fn no_answer(error: &reqwest::Error) -> ClientError {
    let url = error.url().map(|url| url.origin().ascii_serialization()).unwrap_or_default();
    ClientError::NoAnswer { url, reason: chain(error), may_have_arrived: !error.is_connect() }
}

#[derive(Deserialize)]
struct Answer {
    replayed: bool,
    events: Vec<AnswerEvent>,
}

#[derive(Deserialize)]
struct AnswerEvent {
    version: String,
    position: String,
    epoch: String,
    recordedat: String,
}

/// Reads an acknowledgement of events of `streams`, in their order.
pub(crate) async fn appended(response: Response, streams: &[&StreamName]) -> Result<Appended, ClientError> {
    let body = response.bytes().await.map_err(|error| no_answer(&error))?;
    let corrupt = |reason: &str| ClientError::Corrupt { reason: format!("no acknowledgement: {reason}") };
    let answer: Answer = serde_json::from_slice(&body).map_err(|error| corrupt(&error.to_string()))?;
    if answer.events.len() != streams.len() {
        return Err(corrupt("it is not of as many events as were sent"));
    }
    let read = |(event, stream): (AnswerEvent, &&StreamName)| {
        Some(AppendedEvent {
            stream: (*stream).clone(),
            version: event.version.parse().ok().and_then(StreamVersion::new)?,
            position: event.position.parse().ok().and_then(Position::new)?,
            epoch: event.epoch.parse().ok().and_then(Epoch::new)?,
            recorded_at: Timestamp::parse_rfc3339(&event.recordedat).ok()?,
        })
    };
    let events: Option<Vec<_>> = answer.events.into_iter().zip(streams).map(read).collect();
    Ok(Appended { replayed: answer.replayed, events: events.ok_or_else(|| corrupt("a number or time is none"))? })
}
