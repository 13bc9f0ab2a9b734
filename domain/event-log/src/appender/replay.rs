//! Answers to retries (LOG-4): the first positions, if what stands there is what was sent again. Reads only, and never
//! much more than was sent: ids are small, and what stands under them may be large.

use std::collections::HashMap;
use std::sync::Arc;

use domain::Position;
use domain::append::{AppendError, AppendRequest, Appended};
use domain::arbiter::{self, PastRequest, Verdict};
use domain::event::NewEvent;
use domain::log::{Direction, LogReader, ReadError};
use domain::record::Record;

use super::Ticket;
use crate::log::Shared;

/// An event whose first appearance is longer than twice this event and this much is another event. Far from exact, so
/// that a later release may count an event's bytes in another way.
const SLACK_BYTES: usize = 4096;

/// Answers requests whose events are known, or may be archived.
pub(super) async fn answer_all(shared: Arc<Shared>, lookups: Vec<(Ticket, Verdict)>) {
    let known = lookups.iter().filter_map(|(ticket, verdict)| match verdict {
        Verdict::Known(positions) => Some((&ticket.request, positions.as_slice())),
        _ => None,
    });
    // One read for all: a burst of retries is answered as fast as it came.
    let live = live(&shared, &known.collect::<Vec<_>>()).await;
    for (ticket, verdict) in lookups {
        let result = match verdict {
            Verdict::Known(positions) => match &live {
                Ok(live) => first_appearance(&shared, &ticket.request, &positions, live).await,
                Err(error) => Err(unknown(error.clone())),
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

/// What the live log has at the positions of events that are known.
#[derive(Default)]
struct Live {
    bytes: HashMap<Position, usize>,
    records: HashMap<Position, Record>,
}

async fn live(shared: &Shared, known: &[(&AppendRequest, &[Position])]) -> Result<Live, ReadError> {
    let all: Vec<Position> = known.iter().flat_map(|(_, positions)| positions.iter().copied()).collect();
    if all.is_empty() {
        return Ok(Live::default());
    }
    let bytes = shared.reader.bytes_at(&all).await?;
    let alike = known.iter().filter(|(request, positions)| outgrown(request, positions, &bytes).is_none());
    let wanted: Vec<Position> = alike.flat_map(|(_, positions)| positions.iter().copied()).collect();
    let records = shared.reader.at_positions(&wanted).await?;
    Ok(Live { bytes, records })
}

/// The first event whose first appearance is too long to be the same.
fn outgrown(request: &AppendRequest, positions: &[Position], bytes: &HashMap<Position, usize>) -> Option<AppendError> {
    let mut events = request.events.iter().zip(positions);
    let (event, position) =
        events.find(|(event, position)| bytes.get(position).is_some_and(|there| *there > bytes_max(event)))?;
    let (source_uri, id) = (event.source.clone(), event.id.clone());
    Some(AppendError::IdTaken { source_uri, id, position: *position })
}

fn bytes_max(event: &NewEvent) -> usize {
    event.bytes() * 2 + SLACK_BYTES
}

async fn first_appearance(
    shared: &Shared,
    request: &AppendRequest,
    positions: &[Position],
    live: &Live,
) -> Result<Appended, AppendError> {
    if let Some(error) = outgrown(request, positions, &live.bytes) {
        return Err(error);
    }
    let mut records = Vec::with_capacity(positions.len());
    for position in positions {
        let record = match live.records.get(position) {
            Some(record) => Some(record.clone()),
            // Pruned since it was found.
            None => archived(shared, *position).await.map_err(unknown)?,
        };
        let Some(record) = record else {
            return Err(AppendError::Indeterminate { reason: "the first appearance is being archived".into() });
        };
        records.push(record);
    }
    arbiter::replay(request, &records)
}

async fn archived(shared: &Shared, position: Position) -> Result<Option<Record>, ReadError> {
    let Some(history) = shared.history() else { return Ok(None) };
    let found = history.read_log(position, Direction::Forward, 1).await?;
    Ok(found.into_iter().find(|record| record.position() == position))
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
        _ => read_like(&*history, first, request).await.map_err(unknown)?,
    };
    arbiter::replay_past(request, &records, otherwise)
}

/// As many records from `first` on as the request has events; fewer at the end of the log, and where the records are too
/// long to be the request's.
async fn read_like(log: &dyn LogReader, first: Position, request: &AppendRequest) -> Result<Vec<Record>, ReadError> {
    let count = request.events.len();
    let mut bytes_left: usize = request.events.iter().map(bytes_max).sum();
    let mut records = Vec::with_capacity(count);
    let mut next = first;
    while records.len() < count {
        let page = log.read_log(next, Direction::Forward, count - records.len()).await?;
        let Some(last) = page.last() else { break };
        next = last.position().next();
        let bytes = page.iter().map(|record| match record {
            Record::Event(recorded) => recorded.event.bytes(),
            Record::Removed(_) => 0,
        });
        let Some(left) = bytes_left.checked_sub(bytes.sum()) else { break };
        bytes_left = left;
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
