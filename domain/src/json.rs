//! Strict JSON without a value tree: checks a text and copies its tokens.

use thiserror::Error;

/// Why a text is not acceptable JSON.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{reason} at byte {byte}")]
pub struct JsonError {
    /// Where.
    pub byte: usize,
    /// What is wrong.
    pub reason: &'static str,
}
