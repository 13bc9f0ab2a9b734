//! How one region asks the other: the port, and the client over HTTP. It repeats nothing by itself and keeps
//! nothing: every caller's round comes again. Every request has a time limit and carries the token.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use domain::append::Role;
use domain::archive::catalog::ManifestRef;
use domain::merkle::Hash;
use domain::replication::Heard;
use domain::{Epoch, ErrorKind, Head, Timestamp};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::wire::BATCH_BYTES_MAX;
use domain::spelling;

/// Limit of a question that is answered from memory or with one row.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);
/// Limit of a batch, the sender's waiting for news included.
const BATCH_TIMEOUT: Duration = Duration::from_secs(60);
/// Limit of an act: a promotion claims epochs in buckets that may not answer.
const ACT_TIMEOUT: Duration = Duration::from_secs(300);

/// Why the other region gave no answer.
#[derive(Debug, Clone, Error)]
pub enum PeerError {
    /// It did not answer, or not with an answer of ours. What was asked for may have happened.
    #[error("the other region does not answer: {reason}")]
    Unavailable {
        /// Why.
        reason: String,
    },
    /// It answered with an error.
    #[error("the other region refuses ({kind}): {detail}")]
    Refused {
        /// What is to be done about it.
        kind: ErrorKind,
        /// What it said.
        detail: String,
    },
}

impl PeerError {
    /// What the caller has to do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Unavailable { .. } => ErrorKind::Unavailable,
            Self::Refused { kind, .. } => *kind,
        }
    }
}

/// Where a region stands: the answer to `GET /v1/replication/epoch`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Standing {
    /// Name of the log.
    pub log: String,
    /// Name of the region.
    pub region: String,
    /// Epoch in force there.
    #[serde(with = "spelling::text")]
    pub epoch: Epoch,
    /// What it is.
    #[serde(with = "spelling::text")]
    pub role: Role,
    /// Its head.
    #[serde(with = "spelling::text")]
    pub head: Head,
    /// Root of its tree at `head`, if that was asked for: it costs reading what was appended since the last time.
    #[serde(default, with = "spelling::text_or_null")]
    pub root: Option<Hash>,
    /// The last manifest that its catalog has accepted; `null` before the first. Of a region that drains it is
    /// the last one there will be: it is told only when nobody writes one any more.
    pub manifest: Option<ManifestRef>,
    /// Whether it copies the other region's archive while it follows: it can reach the other's bucket.
    pub mirrors: bool,
    /// What time it is there.
    #[serde(with = "spelling::text")]
    pub clock: Timestamp,
    /// What it has heard of its own peer.
    pub heard: Option<HeardAnswer>,
}

/// [`Heard`] as it is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeardAnswer {
    /// The epoch in force there.
    #[serde(with = "spelling::text")]
    pub epoch: Epoch,
    /// The newest head.
    #[serde(with = "spelling::text")]
    pub head: Head,
    /// What it was.
    #[serde(with = "spelling::text")]
    pub role: Role,
    /// When that was.
    #[serde(with = "spelling::text")]
    pub at: Timestamp,
}

impl From<Heard> for HeardAnswer {
    fn from(Heard { epoch, head, role, at }: Heard) -> Self {
        Self { epoch, head, role, at }
    }
}

/// A signed checkpoint on its way: the note of `GET /v1/replication/checkpoint` (`null`: none waits) and of
/// `POST /v1/replication/cosignature`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoteMessage {
    /// The signed note (C2SP tlog-checkpoint).
    pub note: Option<String>,
}

/// What one region asks the other for. All of it may be repeated.
#[async_trait]
pub trait Peer: Send + Sync {
    /// Where it stands; with its root if `with_root`.
    async fn standing(&self, with_root: bool) -> Result<Standing, PeerError>;

    /// The batch after `after` ([`crate::wire`]), of at most `limit` records. Waits about a second for news.
    async fn batch(&self, after: Head, limit: usize) -> Result<Vec<u8>, PeerError>;

    /// The checkpoint that it signed and that waits for a cosignature; `None` if none does.
    async fn waiting_checkpoint(&self) -> Result<Option<String>, PeerError>;

    /// Hands over a checkpoint with our cosignature.
    async fn deliver_cosignature(&self, note: &str) -> Result<(), PeerError>;
}

/// The other region over HTTP. The bearer token decides what is allowed: the role replicator for [`Peer`], the
/// role operator for [`crate::failover::RegionAdmin`]. Cheap to clone.
#[derive(Clone)]
pub struct PeerClient {
    http: Arc<dyn Fn() -> reqwest::Client + Send + Sync>,
    url: Arc<str>,
    token: Arc<dyn Fn() -> String + Send + Sync>,
}

impl PeerClient {
    /// A client of the region whose API is at `url`. `http` comes from the composition root, with its TLS.
    #[must_use]
    pub fn new(http: reqwest::Client, url: &str, token: &str) -> Self {
        let token = token.to_owned();
        Self::changing(move || http.clone(), url, move || token.clone())
    }

    /// The same with a client and a token that are asked for before each request, since both may be replaced meanwhile.
    #[must_use]
    pub fn changing(
        http: impl Fn() -> reqwest::Client + Send + Sync + 'static,
        url: &str,
        token: impl Fn() -> String + Send + Sync + 'static,
    ) -> Self {
        Self { http: Arc::new(http), url: url.trim_end_matches('/').into(), token: Arc::new(token) }
    }

    fn request(&self, method: Method, path: &str, timeout: Duration) -> RequestBuilder {
        (self.http)().request(method, format!("{}{path}", self.url)).bearer_auth((self.token)()).timeout(timeout)
    }

    async fn send(request: RequestBuilder) -> Result<reqwest::Response, PeerError> {
        let response = request.send().await.map_err(unavailable)?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = response.text().await.map_err(unavailable)?;
        Err(refused(status, &body))
    }

    async fn json<T: DeserializeOwned>(request: RequestBuilder) -> Result<T, PeerError> {
        Self::send(request).await?.json().await.map_err(unavailable)
    }

    pub(crate) async fn ask<T: DeserializeOwned>(&self, path: &str) -> Result<T, PeerError> {
        Self::json(self.request(Method::GET, path, ASK_TIMEOUT)).await
    }

    pub(crate) async fn act<T: DeserializeOwned>(
        &self,
        path: &str,
        body: Option<&(impl Serialize + Sync)>,
    ) -> Result<T, PeerError> {
        let request = self.request(Method::POST, path, ACT_TIMEOUT);
        Self::json(match body {
            Some(body) => request.json(body),
            None => request,
        })
        .await
    }
}

fn unavailable(error: reqwest::Error) -> PeerError {
    let mut reason = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        reason = format!("{reason}: {cause}");
        source = cause.source();
    }
    PeerError::Unavailable { reason }
}

/// The members of a problem document (RFC 9457) that matter here.
#[derive(Deserialize)]
struct Problem {
    kind: String,
    #[serde(default)]
    detail: String,
}

fn refused(status: StatusCode, body: &str) -> PeerError {
    let problem = serde_json::from_str::<Problem>(body).ok();
    match problem.and_then(|problem| Some((ErrorKind::parse(&problem.kind)?, problem.detail))) {
        Some((kind, detail)) => PeerError::Refused { kind, detail },
        // Not one of our answers: something in between spoke.
        None => PeerError::Unavailable { reason: format!("status {status}") },
    }
}

#[async_trait]
impl Peer for PeerClient {
    async fn standing(&self, with_root: bool) -> Result<Standing, PeerError> {
        self.ask(if with_root { "/v1/replication/epoch?root=true" } else { "/v1/replication/epoch" }).await
    }

    async fn batch(&self, after: Head, limit: usize) -> Result<Vec<u8>, PeerError> {
        let path = format!("/v1/replication/batch?after={after}&limit={limit}");
        let mut response = Self::send(self.request(Method::GET, &path, BATCH_TIMEOUT)).await?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unavailable)? {
            // Compressed it is smaller than the limit for what comes out of it.
            if body.len() + chunk.len() > BATCH_BYTES_MAX {
                return Err(PeerError::Unavailable { reason: format!("a batch of over {BATCH_BYTES_MAX} bytes") });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    async fn waiting_checkpoint(&self) -> Result<Option<String>, PeerError> {
        let message: NoteMessage = self.ask("/v1/replication/checkpoint").await?;
        Ok(message.note)
    }

    async fn deliver_cosignature(&self, note: &str) -> Result<(), PeerError> {
        let message = NoteMessage { note: Some(note.to_owned()) };
        let NoteMessage { .. } = self.act("/v1/replication/cosignature", Some(&message)).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// A region that answers one request with `reply`, or hangs up without one; and what it was asked.
    async fn region(reply: Option<String>) -> (PeerClient, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}/", listener.local_addr().expect("bound"));
        let asked = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut head = Vec::new();
            while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                stream.read_buf(&mut head).await.expect("a request");
            }
            if let Some(reply) = reply {
                stream.write_all(reply.as_bytes()).await.expect("written");
            }
            String::from_utf8(head).expect("text")
        });
        // Another test may have installed it before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        (PeerClient::new(reqwest::Client::new(), &url, "token-1"), asked)
    }

    fn reply(status: &str, body: &str) -> Option<String> {
        Some(format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len()))
    }

    #[tokio::test]
    async fn a_question_carries_the_token_and_its_answer_is_read() {
        let (peer, asked) = region(reply("200 OK", r#"{"note":"text"}"#)).await;
        assert_eq!(peer.waiting_checkpoint().await.expect("answered"), Some("text".into()));
        let asked = asked.await.expect("asked");
        assert!(asked.starts_with("GET /v1/replication/checkpoint HTTP/1.1\r\n"), "{asked}");
        assert!(asked.contains("authorization: Bearer token-1\r\n"), "{asked}");

        let (peer, asked) = region(reply("200 OK", "bytes")).await;
        assert_eq!(peer.batch(Head::new(7).expect("small"), 9).await.expect("answered"), b"bytes");
        assert!(asked.await.expect("asked").starts_with("GET /v1/replication/batch?after=7&limit=9 "));
    }

    #[tokio::test]
    async fn a_refusal_keeps_its_kind_and_silence_is_unavailable() {
        let (peer, _) = region(reply("409 Conflict", r#"{"kind":"conflict","detail":"ahead"}"#)).await;
        let refused = peer.batch(Head::EMPTY, 1).await.expect_err("refused");
        assert_eq!(refused.kind(), ErrorKind::Conflict);
        let (peer, _) = region(None).await;
        assert_eq!(peer.standing(false).await.expect_err("silence").kind(), ErrorKind::Unavailable);
        let (peer, _) = region(reply("200 OK", "no json")).await;
        assert_eq!(peer.standing(true).await.expect_err("not ours").kind(), ErrorKind::Unavailable);
    }

    #[test]
    fn a_problem_keeps_its_kind_and_anything_else_is_unavailable() {
        let problem = refused(StatusCode::CONFLICT, r#"{"type":"x","kind":"conflict","detail":"why"}"#);
        assert!(matches!(problem, PeerError::Refused { kind: ErrorKind::Conflict, detail } if detail == "why"));
        assert!(matches!(refused(StatusCode::BAD_GATEWAY, "<html>"), PeerError::Unavailable { .. }));
        assert!(matches!(refused(StatusCode::OK, r#"{"kind":"odd"}"#), PeerError::Unavailable { .. }));
    }

    #[test]
    fn a_standing_has_strings_for_numbers() {
        let standing = Standing {
            log: "log".into(),
            region: "home".into(),
            epoch: Epoch::FIRST,
            role: Role::Draining,
            head: Head::new(7).expect("small"),
            root: None,
            manifest: Some(ManifestRef { epoch: Epoch::FIRST, number: 3, sha256: Hash([0xab; 32]) }),
            mirrors: true,
            clock: Timestamp::from_unix_micros(0).expect("an instant"),
            heard: None,
        };
        let json = serde_json::to_string(&standing).expect("json");
        let sha256 = "ab".repeat(32);
        let manifest = format!(r#"{{"epoch":"1","number":"3","sha256":"{sha256}"}}"#);
        assert_eq!(
            json,
            format!(
                r#"{{"log":"log","region":"home","epoch":"1","role":"draining","head":"7","root":null,"manifest":{manifest},"mirrors":true,"clock":"1970-01-01T00:00:00.000000Z","heard":null}}"#
            )
        );
        assert_eq!(serde_json::from_str::<Standing>(&json).expect("read"), standing);
    }
}
