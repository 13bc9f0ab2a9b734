//! Answers to retries (LOG-4): the first positions, if what stands there is what was sent again. Reads only.

use std::sync::Arc;

use domain::Position;
use domain::append::{AppendError, AppendRequest, Appended};
use domain::arbiter::{self, PastRequest, Verdict};
use domain::log::{Direction, LogReader, ReadError};
use domain::record::Record;

use super::Ticket;
use crate::log::Shared;

/// Answers requests whose events are known, or may be archived.
pub(super) async fn answer_all(shared: Arc<Shared>, lookups: Vec<(Ticket, Verdict)>) {
    let known = |verdict: &Verdict| match verdict {
        Verdict::Known(positions) => positions.clone(),
        _ => Vec::new(),
    };
    // One read for all: a burst of retries is answered as fast as it came.
    let positions: Vec<Position> = lookups.iter().flat_map(|(_, verdict)| known(verdict)).collect();
    let live = shared.reader.at_positions(&positions).await;
    let mut records = live.map(Vec::into_iter);
    for (ticket, verdict) in lookups {
        let result = match verdict {
            Verdict::Known(positions) => match &mut records {
                Ok(records) => {
                    let records: Vec<Record> = records.by_ref().take(positions.len()).collect();
                    arbiter::replay(&ticket.request, &records)
                }
                Err(_) => known_alone(&shared, &ticket.request, &positions).await,
            },
            Verdict::Past(past, error) => past_expected(&shared, &ticket.request, &past, error).await,
            Verdict::Accepted(appended) | Verdict::Repeats(appended) => Ok(appended),
            Verdict::Refused(error) => Err(error),
        };
        match &result {
            Ok(_) => shared.counters.replayed.add(1),
            Err(_) => shared.counters.refused.add(1),
        }
        ticket.answer(result);
    }
}

/// A retry whose events may have been pruned since they were found.
async fn known_alone(shared: &Shared, request: &AppendRequest, at: &[Position]) -> Result<Appended, AppendError> {
    let records = match shared.reader.at_positions(at).await {
        Err(ReadError::Pruned { .. }) => match (shared.history(), at.first()) {
            (Some(history), Some(first)) => read(&*history, *first, at.len()).await,
            _ => Ok(Vec::new()),
        },
        other => other,
    };
    let records = records.map_err(unknown)?;
    if records.len() < at.len() {
        return Err(AppendError::Indeterminate { reason: "the first appearance is being archived".into() });
    }
    arbiter::replay(request, &records)
}

/// A request that is past its expected version: is it what the archive holds there?
async fn past_expected(
    shared: &Shared,
    request: &AppendRequest,
    past: &PastRequest,
    otherwise: AppendError,
) -> Result<Appended, AppendError> {
    let Some(history) = shared.history() else {
        let reason = "only the archive knows whether this is a retry, and it is not attached".into();
        return Err(AppendError::Indeterminate { reason });
    };
    let found = history.read_stream(&past.stream, past.version, Direction::Forward, 1).await.map_err(unknown)?;
    // A request's positions follow each other, so its first one follows from this one.
    let first = found
        .first()
        .filter(|record| record.version() == past.version)
        .and_then(|record| Position::new(record.position().get().checked_sub(past.events_before)?));
    let Some(first) = first else { return Err(otherwise) };
    let records = match request.events.len() {
        1 => found,
        count => read(&*history, first, count).await.map_err(unknown)?,
    };
    arbiter::replay_past(request, &records, otherwise)
}

/// `count` records from `first` on, fewer only at the end of the log.
async fn read(log: &dyn LogReader, first: Position, count: usize) -> Result<Vec<Record>, ReadError> {
    let mut records = Vec::with_capacity(count);
    let mut next = first;
    while records.len() < count {
        let page = log.read_log(next, Direction::Forward, count - records.len()).await?;
        let Some(last) = page.last() else { break };
        next = last.position().next();
        records.extend(page);
    }
    Ok(records)
}

/// The first appearance cannot be read, so it is not known whether this is a retry.
fn unknown(error: ReadError) -> AppendError {
    match error {
        ReadError::Corrupt { reason } => AppendError::Corrupt { reason },
        other => AppendError::Indeterminate { reason: crate::error::chain(&other) },
    }
}
