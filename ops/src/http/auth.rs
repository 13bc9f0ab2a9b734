//! Who may do what (SEC-1): every request but `/health/*` carries a bearer token with a role.
//!
//! A token is 32 random bytes. The database keeps its SHA-256 alone, and a token is looked up by that hash:
//! no secret is ever compared byte by byte, so there is nothing that timing could tell. The token itself is
//! shown once, when it is made, and never logged.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use domain::ErrorKind;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::ApiState;
use super::problem::Problem;

/// Every token starts so: it can be found by those who look for leaked secrets.
const TOKEN_PREFIX: &str = "cst_";

/// What a token allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum TokenRole {
    /// Append events, and read what it appends to.
    Appender,
    /// Read log, streams and views.
    Reader,
    /// Run the archive, switch over and fail over.
    Operator,
    /// Read everything.
    Auditor,
    /// Be the other region.
    Replicator,
}

impl TokenRole {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Appender, Self::Reader, Self::Operator, Self::Auditor, Self::Replicator];

    /// The word in database, API and CLI.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Appender => "appender",
            Self::Reader => "reader",
            Self::Operator => "operator",
            Self::Auditor => "auditor",
            Self::Replicator => "replicator",
        }
    }

    /// Reads [`TokenRole::as_str`]'s word.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == text)
    }
}

impl fmt::Display for TokenRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who sent a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The token's name.
    pub name: String,
    /// What it allows.
    pub role: TokenRole,
}

/// SHA-256 of a token: all that is kept of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenHash(pub [u8; 32]);

impl TokenHash {
    /// The hash of `token`.
    #[must_use]
    pub fn of(token: &str) -> Self {
        Self(Sha256::digest(token).into())
    }
}

/// A token that was just made. Show it once.
#[must_use]
pub fn new_token() -> String {
    let secret: [u8; 32] = rand::random();
    format!("{TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode(secret))
}

/// Where tokens are known.
#[async_trait]
pub trait Tokens: Send + Sync {
    /// Whose token this is; `None` if it is unknown or revoked.
    ///
    /// # Errors
    /// A [`Problem`] of kind Unavailable if that cannot be found out: nobody is let in then.
    async fn caller(&self, hash: TokenHash) -> Result<Option<Caller>, Problem>;
}

/// Lets requests with a known token through, with the [`Caller`] at hand for what follows.
pub(super) async fn authenticate(State(state): State<Arc<ApiState>>, mut request: Request, next: Next) -> Response {
    let Some(token) = bearer(request.headers()) else {
        return unauthorized("a bearer token is needed");
    };
    match state.tokens.caller(TokenHash::of(token)).await {
        Ok(Some(caller)) => {
            request.extensions_mut().insert(caller.clone());
            let mut response = next.run(request).await;
            // For the log line of the request, which is written further out.
            response.extensions_mut().insert(caller);
            response
        }
        Ok(None) => unauthorized("the token is unknown or revoked"),
        Err(problem) => problem.into_response(),
    }
}

fn unauthorized(detail: &str) -> Response {
    Problem::new(ErrorKind::Denied, detail).with_status(StatusCode::UNAUTHORIZED).into_response()
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

/// Lets callers through whose role is one of `roles`.
pub(super) async fn allow(State(roles): State<&'static [TokenRole]>, request: Request, next: Next) -> Response {
    match request.extensions().get::<Caller>() {
        Some(caller) if roles.contains(&caller.role) => next.run(request).await,
        Some(caller) => {
            let needed: Vec<&str> = roles.iter().map(|role| role.as_str()).collect();
            let detail = format!("this needs a token of role {}; yours is {}", needed.join(" or "), caller.role);
            Problem::new(ErrorKind::Denied, detail).into_response()
        }
        // Unreachable behind `authenticate`; a route that is mounted elsewhere by mistake stays shut.
        None => unauthorized("a bearer token is needed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_256_random_bits_and_is_kept_as_its_hash_alone() {
        let (one, two) = (new_token(), new_token());
        assert_ne!(one, two);
        assert_eq!(one.len(), TOKEN_PREFIX.len() + 43);
        assert_ne!(TokenHash::of(&one), TokenHash::of(&two));
    }

    #[test]
    fn every_role_reads_back() {
        for word in ["appender", "reader", "operator", "auditor", "replicator"] {
            assert_eq!(TokenRole::parse(word).map(TokenRole::as_str), Some(word));
        }
        assert_eq!(TokenRole::parse("admin"), None);
    }
}
