//! The audit's lines: who was refused what, from where, under which request id. One line a refusal, with the name of the
//! token where there is one, and never the token. Who is refused again and again is not written down each time.

use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::Response;
use domain::ErrorKind;

use super::PeerAddress;
use super::auth::token_name;
use super::problem::Problem;
use crate::telemetry::AUDIT;

/// What a request was, as its line says it.
pub(super) struct Asked<'a> {
    pub(super) id: &'a str,
    pub(super) peer: Option<PeerAddress>,
    pub(super) method: &'a Method,
    /// The router's own, never what a client wrote.
    pub(super) route: &'a str,
}

/// Writes the line of a request that was refused for what its caller may not, or may not so often: the first of a row
/// then. `false` for every other answer, which is not the audit's.
pub(super) fn refused(asked: &Asked<'_>, response: &Response) -> bool {
    let Some(problem) = response.extensions().get::<Problem>() else { return false };
    if problem.kind() != ErrorKind::Denied && response.status() != StatusCode::TOO_MANY_REQUESTS {
        return false;
    }
    if problem.is_repeated() {
        return true;
    }
    let Asked { id, peer, method, route } = asked;
    let peer = peer.map(|peer| peer.0.to_string()).unwrap_or_default();
    let (kind, status, token) = (problem.kind().as_str(), response.status().as_u16(), token_name(response));
    tracing::warn!(target: AUDIT, kind, status, token, peer, %method, route, id, why = problem.detail(), "refused");
    true
}

/// Writes the line of a client that came to no TLS, because it showed no certificate that is believed.
pub(super) fn not_shaken(peer: PeerAddress, why: &str) {
    tracing::warn!(target: AUDIT, kind = ErrorKind::Denied.as_str(), peer = %peer.0, why, "a TLS handshake is refused");
}

/// Writes the line of an answer that ends early, because its token opens nothing any more.
pub(super) fn broken_off(token: &str, id: Option<&HeaderValue>) {
    let (kind, id) = (ErrorKind::Denied.as_str(), id.and_then(|id| id.to_str().ok()).unwrap_or_default());
    tracing::warn!(target: AUDIT, kind, token, id, why = "its token is spent", "an answer is broken off");
}
