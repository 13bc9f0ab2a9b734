//! Whether this log has what the holder of a resume token saw.
//!
//! A token from a branch that lost is found out here and never resumed silently: at its position this log
//! has a record of another epoch.

use domain::append::LogHead;
use domain::log::{Direction, LogReader, ReadError};
use domain::record::Record;
use domain::{Epoch, Head, Position, ResumeToken};

use super::problem::Problem;

/// Checks that this log has what the reader saw.
///
/// # Errors
/// `Forked` with the newest position that both branches share; `Unavailable` where this region has not
/// got as far as the reader; Invalid for a token that no log can have given.
pub(super) async fn check(token: ResumeToken, reader: &dyn LogReader, head: &LogHead) -> Result<(), Problem> {
    if token.epoch > head.epoch {
        let reason = format!("this region has not heard of epoch {} yet", token.epoch);
        return Err(ReadError::Unavailable { reason }.into());
    }
    if !head.head.includes(token.position) {
        if token.epoch == head.epoch {
            let reason = format!("this region ends at {}, before the token's position", head.head);
            return Err(ReadError::Unavailable { reason }.into());
        }
        return Err(forked(token, reader, head, head.epoch).await?);
    }
    let recorded = epoch_at(reader, token.position).await?;
    match recorded {
        None => Ok(()),
        Some(epoch) if epoch == token.epoch => Ok(()),
        // Epochs never fall along the log, and one epoch has one holder.
        Some(epoch) if epoch < token.epoch => Err(Problem::invalid("no log has given this resume token")),
        Some(epoch) => Err(forked(token, reader, head, epoch).await?),
    }
}

/// The fork: the newest record of the token's epoch or an older one. Later ones of the token's branch lost.
async fn forked(
    token: ResumeToken,
    reader: &dyn LogReader,
    head: &LogHead,
    recorded: Epoch,
) -> Result<Problem, ReadError> {
    let (mut shared, mut beyond) = (0, token.position.get().min(head.head.get() + 1));
    while beyond - shared > 1 {
        let middle = shared + (beyond - shared) / 2;
        let position = Position::new(middle).expect("it is above `shared`, which is at least 0");
        // A removed record does not say its epoch; taking it as newer only puts the fork earlier.
        match epoch_at(reader, position).await? {
            Some(epoch) if epoch <= token.epoch => shared = middle,
            _ => beyond = middle,
        }
    }
    let fork = Head::new(shared).unwrap_or(Head::EMPTY);
    Ok(ReadError::Forked { position: token.position, token: token.epoch, recorded, fork }.into())
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
