//! Who may do what (SEC-1): every request but `/health/*` carries a bearer token with a role, perhaps limited to some
//! categories ([`super::scope`]).
//!
//! A token is 32 random bytes. The database keeps its SHA-256 alone, and a token is looked up by that hash:
//! no secret is ever compared byte by byte, so there is nothing that timing could tell. The token itself is
//! shown once, when it is made, and never logged.

use std::fmt;
use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use domain::ErrorKind;
use futures::stream;
use http_body_util::BodyExt;
use hyper::body::Body as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::problem::Problem;
use super::route::Route;
use super::scope::Scope;
use super::{ApiState, PeerAddress, REQUEST_ID, audit};
use crate::chance;

/// Every token starts so: it can be found by those who look for leaked secrets.
const TOKEN_PREFIX: &str = "cst_";

/// What a token allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
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

    /// Whether a token of it may be limited to categories: what the others open has none.
    #[must_use]
    pub fn can_be_limited(self) -> bool {
        matches!(self, Self::Appender | Self::Reader)
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
    /// Where it allows that.
    pub scope: Scope,
    /// How often.
    pub rates: OwnRates,
}

/// What a token may ask for in a second: where it says nothing of its own, what its role may; 0 is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OwnRates {
    /// Requests.
    pub requests_per_second: Option<u32>,
    /// Bytes of appends, unpacked.
    pub append_bytes_per_second: Option<u32>,
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
    let secret: [u8; 32] = chance::random();
    format!("{TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode(secret))
}

/// What a token that was presented opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presented {
    /// What its role and scope allow.
    Opens(Arc<Caller>),
    /// Nothing any more.
    Spent {
        /// The token's name.
        name: String,
        /// Why, such as "has expired".
        why: &'static str,
    },
    /// Nothing, though it is good: its bearer has nothing here.
    Barred {
        /// The bearer's name.
        name: String,
        /// Why, such as "names no role".
        why: &'static str,
    },
    /// Nothing: it is no token of ours.
    Unknown,
}

/// Where tokens are known.
#[async_trait]
pub trait Tokens: Send + Sync {
    /// What `token` opens.
    ///
    /// # Errors
    /// A [`Problem`] of kind Unavailable if that cannot be found out: nobody is let in then.
    async fn presented(&self, token: &str) -> Result<Presented, Problem>;

    /// Whether `token` has opened something here of late: who shows it does not try one after the other.
    fn is_known(&self, token: &str) -> bool;
}

/// Name of a token that opened nothing, for the audit's line of the request, which is written further out.
#[derive(Clone)]
struct SpentName(String);

/// Name of the token that a request carried; empty where it was none of ours.
pub(super) fn token_name(response: &Response) -> &str {
    let caller = response.extensions().get::<Arc<Caller>>().map(|caller| caller.name.as_str());
    let spent = || response.extensions().get::<SpentName>().map(|spent| spent.0.as_str());
    caller.or_else(spent).unwrap_or_default()
}

/// Lets requests with a token that opens something through, with the [`Caller`] at hand for what follows.
pub(super) async fn authenticate(State(state): State<Arc<ApiState>>, mut request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<PeerAddress>().copied();
    let id = request.headers().get(REQUEST_ID).cloned();
    let token = bearer(request.headers()).map(str::to_owned);
    let known = || token.as_ref().is_some_and(|token| state.tokens.is_known(token));
    // Before the database is asked.
    if let Err(problem) = state.rates.attempt(peer, known) {
        return problem.into_response();
    }
    let refused = |detail: &str| {
        state.rates.failed(peer);
        unauthorized(detail)
    };
    let named = |mut response: Response, name| {
        response.extensions_mut().insert(SpentName(name));
        response
    };
    let Some(token) = token else { return refused("a bearer token is needed") };
    let caller = match state.tokens.presented(&token).await {
        Ok(Presented::Opens(caller)) => caller,
        Ok(Presented::Unknown) => return refused("the token is unknown"),
        Ok(Presented::Spent { name, why }) => {
            return named(refused(&format!("the token {name:?} {why}")), name);
        }
        Ok(Presented::Barred { name, why }) => {
            // Whoever has such a token has no rate of its own: the address has one.
            state.rates.failed(peer);
            let problem = Problem::new(ErrorKind::Denied, format!("the token of {name:?} {why}"));
            return named(problem.into_response(), name);
        }
        Err(problem) => return problem.into_response(),
    };
    let response = match state.rates.request(&caller) {
        Err(problem) => problem.into_response(),
        Ok(()) => {
            request.extensions_mut().insert(caller.clone());
            next.run(request).await
        }
    };
    let mut response = while_it_opens(response, &state, (token, id), &caller);
    // For the log line of the request, which is written further out.
    response.extensions_mut().insert(caller);
    response
}

/// A tail is asked for once and read for days. So before each piece of an answer of unknown length the token is looked at
/// again; one that opens nothing any more breaks it off. Where that cannot be found out, it goes on.
fn while_it_opens(
    response: Response,
    state: &Arc<ApiState>,
    (token, id): (String, Option<HeaderValue>),
    caller: &Arc<Caller>,
) -> Response {
    if response.body().size_hint().exact().is_some() {
        return response;
    }
    let (head, body) = response.into_parts();
    let asks = Arc::new((state.clone(), token, caller.clone(), id));
    let pieces = stream::try_unfold(body, move |mut body| {
        let asks = asks.clone();
        async move {
            let Some(frame) = body.frame().await.transpose()? else { return Ok(None) };
            let (state, token, caller, id) = &*asks;
            let presented = state.tokens.presented(token).await;
            if !matches!(presented, Ok(Presented::Opens(_)) | Err(_)) {
                audit::broken_off(&caller.name, id.as_ref());
                return Err(axum::Error::new(io::Error::from(io::ErrorKind::PermissionDenied)));
            }
            Ok(Some((frame.into_data().unwrap_or_default(), body)))
        }
    });
    Response::from_parts(head, Body::from_stream(pieces))
}

fn unauthorized(detail: &str) -> Response {
    Problem::new(ErrorKind::Denied, detail).with_status(StatusCode::UNAUTHORIZED).into_response()
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

/// Lets callers through whose role is one of the route's, and whose scope is not less than it touches.
pub(super) async fn allow(State(route): State<&'static Route>, request: Request, next: Next) -> Response {
    let Some(caller) = request.extensions().get::<Arc<Caller>>() else {
        // Unreachable behind `authenticate`; a route that is mounted elsewhere by mistake stays shut.
        return unauthorized("a bearer token is needed");
    };
    if !route.roles.contains(&caller.role) {
        let needed: Vec<&str> = route.roles.iter().map(|role| role.as_str()).collect();
        let detail = format!("this needs a token of role {}; yours is {}", needed.join(" or "), caller.role);
        return Problem::new(ErrorKind::Denied, detail).into_response();
    }
    match caller.scope.check_route(route.touches) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
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
