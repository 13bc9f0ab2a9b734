//! Resume tokens: where a reader of the log stands, in a form that says which branch it saw.

use std::fmt;

use crate::{Epoch, Position};

/// Position and epoch of the last record that a reader saw, as `1024@3`. A log whose record at the position is of
/// another epoch lost, or won, against the reader's: that is Forked, and never resumed silently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResumeToken {
    /// Position of the last record seen.
    pub position: Position,
    /// Its epoch.
    pub epoch: Epoch,
}

impl ResumeToken {
    /// Reads `position@epoch`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (position, epoch) = text.split_once('@')?;
        let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u64>().ok()).flatten();
        Some(Self { position: Position::new(digits(position)?)?, epoch: Epoch::new(digits(epoch)?)? })
    }
}

impl fmt::Display for ResumeToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.position, self.epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_back() {
        let token = ResumeToken::parse("1024@3").expect("a token");
        assert_eq!((token.position.get(), token.epoch.get(), token.to_string().as_str()), (1024, 3, "1024@3"));
        for text in ["", "1024", "@3", "0@1", "1@0", "+1@1", "1@1@1", "1@-1"] {
            assert_eq!(ResumeToken::parse(text), None, "{text:?}");
        }
    }
}
