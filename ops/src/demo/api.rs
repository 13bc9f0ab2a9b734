//! What the demo asks a region's API for, with the token of the role that may.

use std::time::Duration;

use bytes::BytesMut;
use reqwest::RequestBuilder;
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::dev::Region;
use crate::http::archive::{ArchiveRun, ArchiveStatus};
use crate::http::status::Status;

const TIMEOUT: Duration = Duration::from_secs(300);

/// Why the API did not do what was asked for.
#[derive(Debug, Error)]
pub enum ApiError {
    /// No answer.
    #[error("no answer from {url}")]
    Http {
        /// What was asked.
        url: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// An answer that is not what it should be.
    #[error("{url} answered with what is no record")]
    NoRecord {
        /// What was asked.
        url: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A number in an answer is none.
    #[error("{0:?} is no number")]
    NoNumber(String),
    /// An answer that says no.
    #[error("{url} answered {status}: {body}")]
    Refused {
        /// What was asked.
        url: String,
        /// The status.
        status: u16,
        /// The problem document.
        body: String,
    },
}

/// A number of an answer, where 64-bit numbers are texts.
///
/// # Errors
/// `NoNumber`.
pub(super) fn number(text: &str) -> Result<u64, ApiError> {
    text.parse().map_err(|_| ApiError::NoNumber(text.to_owned()))
}

/// A region's API.
pub(super) struct Api<'a> {
    region: &'a Region,
    http: reqwest::Client,
}

impl<'a> Api<'a> {
    pub(super) fn of(region: &'a Region) -> Self {
        Self { region, http: reqwest::Client::new() }
    }

    pub(super) async fn status(&self) -> Result<Status, ApiError> {
        self.get("/v1/status").await
    }

    pub(super) async fn archive_status(&self) -> Result<ArchiveStatus, ApiError> {
        self.get("/v1/archive/status").await
    }

    pub(super) async fn archive_run(&self, everything: bool) -> Result<ArchiveRun, ApiError> {
        self.act("/v1/admin/archive-run", &serde_json::json!({ "everything": everything })).await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ApiError> {
        let url = format!("{}{path}", self.region.url);
        json(&url, self.http.get(&url).bearer_auth(&self.region.tokens.operator)).await
    }

    pub(super) async fn act<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ApiError> {
        let url = format!("{}{path}", self.region.url);
        json(&url, self.http.post(&url).bearer_auth(&self.region.tokens.operator).json(body)).await
    }

    /// The records of a stream; none if it has never had an event.
    pub(super) async fn stream(&self, stream: &str) -> Result<Vec<serde_json::Value>, ApiError> {
        let url = format!("{}/v1/stream?stream={stream}", self.region.url);
        let http = |source| ApiError::Http { url: url.clone(), source };
        let request = self.http.get(&url).bearer_auth(&self.region.tokens.auditor).timeout(TIMEOUT);
        let answer = request.send().await.map_err(http)?;
        if answer.status() == reqwest::StatusCode::NOT_FOUND {
            return Ok(Vec::new());
        }
        let text = accepted(&url, answer).await?.text().await.map_err(http)?;
        let record =
            |line| serde_json::from_str(line).map_err(|source| ApiError::NoRecord { url: url.clone(), source });
        text.lines().map(record).collect()
    }

    /// Appends one event; gives the status code.
    pub(super) async fn append(&self, event: &serde_json::Value) -> Result<u16, ApiError> {
        let url = format!("{}/v1/append", self.region.url);
        let request = self.http.post(&url).bearer_auth(&self.region.tokens.appender).timeout(Duration::from_secs(10));
        let request = request.header("content-type", "application/cloudevents+json").body(event.to_string());
        let answer = request.send().await.map_err(|source| ApiError::Http { url, source })?;
        Ok(answer.status().as_u16())
    }

    /// Hands each record's line of the log from `from` on to `take`, `limit` at most.
    pub(super) async fn log<E: From<ApiError>>(
        &self,
        from: u64,
        limit: Option<u64>,
        mut take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<u64, E> {
        let limit = limit.map_or_else(String::new, |limit| format!("&limit={limit}"));
        let url = format!("{}/v1/log?from={from}{limit}", self.region.url);
        let http = |source| ApiError::Http { url: url.clone(), source };
        let request = self.http.get(&url).bearer_auth(&self.region.tokens.auditor).timeout(TIMEOUT);
        let mut answer = accepted(&url, request.send().await.map_err(http)?).await?;
        let (mut pending, mut lines) = (BytesMut::new(), 0);
        while let Some(chunk) = answer.chunk().await.map_err(http)? {
            pending.extend_from_slice(&chunk);
            while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
                let line = pending.split_to(end + 1);
                take(&line[..end])?;
                lines += 1;
            }
        }
        Ok(lines)
    }
}

async fn json<T: DeserializeOwned>(url: &str, request: RequestBuilder) -> Result<T, ApiError> {
    let http = |source| ApiError::Http { url: url.to_owned(), source };
    let answer = accepted(url, request.timeout(TIMEOUT).send().await.map_err(http)?).await?;
    answer.json().await.map_err(http)
}

async fn accepted(url: &str, answer: reqwest::Response) -> Result<reqwest::Response, ApiError> {
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let body = answer.text().await.map_err(|source| ApiError::Http { url: url.to_owned(), source })?;
    Err(ApiError::Refused { url: url.to_owned(), status: status.as_u16(), body })
}
