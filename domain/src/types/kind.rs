//! What a caller has to do about an error: one word, the same in every crate, the API and the CLI.

use std::fmt;

/// Tells the caller what to do next. Every error of Coldstream has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// What the caller believed is not so: read again and decide again.
    Conflict,
    /// This region's epoch has lost: stop.
    Fenced,
    /// It did not happen: retry.
    Unavailable,
    /// It may have happened: retry with the same event ids; the second time changes nothing.
    Indeterminate,
    /// The request is wrong: fix it.
    Invalid,
    /// A legal hold forbids it.
    Held,
    /// The resume token is from a branch that lost: start from the fork.
    Forked,
    /// Stored bytes are not what was stored: never skip, never serve.
    Corrupt,
    /// There is no such thing.
    NotFound,
    /// The token is missing, unknown or has not the role.
    Denied,
}

impl ErrorKind {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Conflict,
        Self::Fenced,
        Self::Unavailable,
        Self::Indeterminate,
        Self::Invalid,
        Self::Held,
        Self::Forked,
        Self::Corrupt,
        Self::NotFound,
        Self::Denied,
    ];

    /// Reads [`ErrorKind::as_str`]'s word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }

    /// The word that stands in API answers and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Conflict => "conflict",
            Self::Fenced => "fenced",
            Self::Unavailable => "unavailable",
            Self::Indeterminate => "indeterminate",
            Self::Invalid => "invalid",
            Self::Held => "held",
            Self::Forked => "forked",
            Self::Corrupt => "corrupt",
            Self::NotFound => "not_found",
            Self::Denied => "denied",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
