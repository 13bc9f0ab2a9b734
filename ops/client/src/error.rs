//! Why a call gave nothing, and what the caller has to do about it.

use domain::{ErrorKind, Head, Position};
use thiserror::Error;

/// Why a call gave nothing.
#[derive(Debug, Clone, Error)]
pub enum ClientError {
    /// The client cannot be made.
    #[error("no client can be made: {reason}")]
    Setup {
        /// Why.
        reason: String,
    },
    /// No server answered, or something in between did.
    #[error("the server at {url} does not answer: {reason}")]
    NoAnswer {
        /// Which one.
        url: String,
        /// Why.
        reason: String,
        /// Whether the request may have arrived.
        may_have_arrived: bool,
    },
    /// The server refuses.
    #[error("refused ({kind}): {detail}")]
    Refused {
        /// What is to be done about it.
        kind: ErrorKind,
        /// What it said.
        detail: String,
        /// Further members of the problem document (RFC 9457), such as `actual`, `position`, `read_to` and `fork`.
        members: Box<serde_json::Map<String, serde_json::Value>>,
        /// When a retry makes sense, if the server said so.
        retry_after_seconds: Option<u64>,
    },
    /// The time for the call is over.
    #[error("given up after {attempts} attempts: {last}{}", beside(.denied))]
    GaveUp {
        /// How often it was tried.
        attempts: u32,
        /// Whether any of the attempts may have been stored.
        may_be_stored: bool,
        /// Why the last one failed that was not refused for its token.
        last: Box<ClientError>,
        /// What a region said, beside that, which refused its token.
        denied: Option<Box<ClientError>>,
    },
    /// An answer has a hole, or holds what no server of ours writes.
    #[error("the answer is not what was stored: {reason}")]
    Corrupt {
        /// What was found.
        reason: String,
    },
}

impl ClientError {
    /// What the caller has to do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Setup { .. } => ErrorKind::Invalid,
            Self::NoAnswer { may_have_arrived: true, .. } | Self::GaveUp { may_be_stored: true, .. } => {
                ErrorKind::Indeterminate
            }
            Self::NoAnswer { .. } | Self::GaveUp { .. } => ErrorKind::Unavailable,
            Self::Refused { kind, .. } => *kind,
            Self::Corrupt { .. } => ErrorKind::Corrupt,
        }
    }

    /// The version that a stream really has, where an expected one was refused; 0: it has never had an event.
    #[must_use]
    pub fn actual_version(&self) -> Option<u64> {
        self.member("actual")
    }

    /// Where the event stands that an append was refused for: one that a condition excludes, or that has the same id.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        self.member("position").and_then(Position::new)
    }

    /// Up to where to read before deciding again, where a condition's position is too old to be told.
    #[must_use]
    pub fn read_to(&self) -> Option<Head> {
        self.member("read_to").and_then(Head::new)
    }

    /// The newest position that both branches share, where a token was refused as Forked; `None` also where they
    /// share none.
    #[must_use]
    pub fn fork(&self) -> Option<Position> {
        self.member("fork").and_then(Position::new)
    }

    /// Whether the server asks for a pause because this token asks too much. Another region would not be asked less.
    #[must_use]
    pub fn is_rate_limited(&self) -> bool {
        let Self::Refused { members, .. } = self else { return false };
        members.get("status").and_then(serde_json::Value::as_u64) == Some(429)
    }

    fn member(&self, name: &str) -> Option<u64> {
        let Self::Refused { members, .. } = self else { return None };
        members.get(name)?.as_str()?.parse().ok()
    }
}

fn beside(denied: &Option<Box<ClientError>>) -> String {
    denied.as_ref().map(|denied| format!("; and of another region: {denied}")).unwrap_or_default()
}

/// An error and what caused it, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
