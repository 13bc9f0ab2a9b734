//! Resume tokens: position and epoch of the last record that a reader saw, as `1024@3`.
//!
//! A token from a branch that lost is found out here and never resumed silently: at its position this log
//! has a record of another epoch.

use std::fmt;

use domain::append::LogHead;
use domain::log::{Direction, LogReader, ReadError};
use domain::record::Record;
use domain::{Epoch, Head, Position};

use super::problem::Problem;

/// Where a reader stands.
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

    /// Checks that this log has what the reader saw.
    ///
    /// # Errors
    /// `Forked` with the newest position that both branches share; `Unavailable` where this region has not
    /// got as far as the reader; Invalid for a token that no log can have given.
    pub async fn check(self, reader: &dyn LogReader, head: &LogHead) -> Result<(), Problem> {
        if self.epoch > head.epoch {
            let reason = format!("this region has not heard of epoch {} yet", self.epoch);
            return Err(ReadError::Unavailable { reason }.into());
        }
        if !head.head.includes(self.position) {
            if self.epoch == head.epoch {
                let reason = format!("this region ends at {}, before the token's position", head.head);
                return Err(ReadError::Unavailable { reason }.into());
            }
            return Err(self.forked(reader, head, head.epoch).await?);
        }
        let recorded = epoch_at(reader, self.position).await?;
        match recorded {
            None => Ok(()),
            Some(epoch) if epoch == self.epoch => Ok(()),
            // Epochs never fall along the log, and one epoch has one holder.
            Some(epoch) if epoch < self.epoch => Err(Problem::invalid("no log has given this resume token")),
            Some(epoch) => Err(self.forked(reader, head, epoch).await?),
        }
    }

    /// The fork: the newest record of the token's epoch or an older one. Later ones of the token's branch lost.
    async fn forked(self, reader: &dyn LogReader, head: &LogHead, recorded: Epoch) -> Result<Problem, ReadError> {
        let (mut shared, mut beyond) = (0, self.position.get().min(head.head.get() + 1));
        while beyond - shared > 1 {
            let middle = shared + (beyond - shared) / 2;
            let position = Position::new(middle).expect("it is above `shared`, which is at least 0");
            // A removed record does not say its epoch; taking it as newer only puts the fork earlier.
            match epoch_at(reader, position).await? {
                Some(epoch) if epoch <= self.epoch => shared = middle,
                _ => beyond = middle,
            }
        }
        let fork = Head::new(shared).unwrap_or(Head::EMPTY);
        Ok(ReadError::Forked { position: self.position, token: self.epoch, recorded, fork }.into())
    }
}

impl fmt::Display for ResumeToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.position, self.epoch)
    }
}

/// The epoch of the record at `position`; `None` for a removed one, which does not say it.
pub(super) async fn epoch_at(reader: &dyn LogReader, position: Position) -> Result<Option<Epoch>, ReadError> {
    let records = reader.read_log(position, Direction::Forward, 1).await?;
    match records.first() {
        Some(Record::Event(event)) => Ok(Some(event.epoch)),
        Some(Record::Removed(_)) => Ok(None),
        None => Err(ReadError::Corrupt { reason: format!("position {position} is below the head and not there") }),
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
