//! Answers to retries (LOG-4): the first positions, if what stands there is what was sent again. Reads only, and never
//! much more than was sent: ids are small, and what stands under them may be large.
//!
//! A group's retries are looked up after the group, in a task of their own. So an archive that is slow, or does not
//! answer at all, holds up retries and nobody else: a look-up holds neither the head nor the appender's session, and
//! the room in the queue that its request took is given back before it begins.

use std::collections::HashMap;
use std::sync::Arc;

use domain::Position;
use domain::append::{AppendError, AppendRequest, Appended};
use domain::arbiter::{self, PastRequest};
use domain::event::NewEvent;
use domain::log::{Direction, ReadError};
use domain::record::Record;
use domain::tiered::ArchiveReader;
use futures::future::{join, join_all};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::Ticket;
use crate::log::Shared;
use crate::reader::LiveFrom;

/// An event whose first appearance is longer than twice this event and this much is another event. Far from exact, so
/// that a later release may count an event's bytes in another way.
const SLACK_BYTES: usize = 4096;
/// What the bytes that are looked up are counted in.
const UNIT_BYTES: usize = 1024;
/// How many reads of the archive go on at once, for all groups. More is faster on a far store and costs memory.
const ARCHIVE_READS_MAX: usize = 16;

/// All of its events are known, at these positions; it may be archived at that place as well.
pub(super) type Known = (Ticket, Vec<Position>, Option<PastRequest>);
/// It is archived at that place, or answered with what stands last.
pub(super) type Past = (Ticket, PastRequest, Result<Appended, AppendError>);

/// A group's retries.
#[derive(Default)]
pub(super) struct Lookups {
    pub(super) known: Vec<Known>,
    pub(super) past: Vec<Past>,
}

/// How much may be looked up at once.
#[derive(Clone)]
pub(super) struct LookUpRoom {
    units: Arc<Semaphore>,
    units_max: usize,
}

impl LookUpRoom {
    pub(super) fn new(bytes_max: usize) -> Self {
        let units_max = (bytes_max / UNIT_BYTES).clamp(1, Semaphore::MAX_PERMITS);
        Self { units: Arc::new(Semaphore::new(units_max)), units_max }
    }

    /// Bytes of the requests that are looked up, in whole units.
    pub(super) fn held(&self) -> usize {
        (self.units_max - self.units.available_permits()).saturating_mul(UNIT_BYTES)
    }
}

/// All look-ups of an appender.
pub(super) struct Retries {
    look: Look,
    room: LookUpRoom,
    tasks: JoinSet<()>,
}

impl Retries {
    pub(super) fn new(shared: Arc<Shared>, room: LookUpRoom) -> Self {
        let look = Look { shared, archive_reads: Arc::new(Semaphore::new(ARCHIVE_READS_MAX)) };
        Self { look, room, tasks: JoinSet::new() }
    }

    /// Answers them, in its own time.
    pub(super) fn answer(&mut self, lookups: Lookups) {
        while self.tasks.try_join_next().is_some() {}
        let Lookups { known, past } = lookups;
        let lookups = Lookups {
            known: known.into_iter().filter_map(|(ticket, at, past)| Some((self.admit(ticket)?, at, past))).collect(),
            past: past.into_iter().filter_map(|(ticket, past, no)| Some((self.admit(ticket)?, past, no))).collect(),
        };
        if !(lookups.known.is_empty() && lookups.past.is_empty()) {
            self.tasks.spawn(self.look.clone().answer_all(lookups));
        }
    }

    /// Moves a request out of the queue's room, or answers it if there is no room here.
    fn admit(&self, mut ticket: Ticket) -> Option<Ticket> {
        let units = u32::try_from(ticket.request.bytes() / UNIT_BYTES + 1).unwrap_or(u32::MAX);
        if let Ok(share) = Arc::clone(&self.room.units).try_acquire_many_owned(units) {
            (ticket.room, ticket.look_up) = (None, Some(share));
            return Some(ticket);
        }
        self.look.shared.counters.full_look_ups.add(1);
        let reason = "too many retries wait for what is stored to be read".into();
        self.look.send(ticket, Err(AppendError::Indeterminate { reason }));
        None
    }

    /// Returns when all are answered.
    pub(super) async fn finish(mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

/// What a look-up reads with.
#[derive(Clone)]
struct Look {
    shared: Arc<Shared>,
    archive_reads: Arc<Semaphore>,
}

/// What the live log has at the positions of events that are known.
#[derive(Default)]
struct Live {
    bytes: HashMap<Position, usize>,
    records: HashMap<Position, Record>,
}

impl Look {
    /// Each is answered as soon as it can be: a live one waits for no archived one.
    async fn answer_all(self, lookups: Lookups) {
        let (again, ()) = join(self.answer_known(lookups.known), self.answer_past(lookups.past)).await;
        self.answer_past(again).await;
    }

    /// Returns those that may have been stored before what is known of them.
    async fn answer_known(&self, known: Vec<Known>) -> Vec<Past> {
        let wanted: Vec<_> = known.iter().map(|(ticket, positions, _)| (&ticket.request, &positions[..])).collect();
        // One read for all: a burst of retries is answered as fast as it came.
        let live = self.live(&wanted).await.map_err(unknown);
        let answers = known.into_iter().map(async |(ticket, positions, place)| {
            let found = match &live {
                Ok(live) => self.first_appearance(&ticket.request, &positions, live).await,
                Err(error) => Err(error.clone()),
            };
            let answer = found.and_then(|records| arbiter::replay(&ticket.request, &records));
            let answer = self.once_durable(answer, &positions).await;
            match place.filter(|_| !arbiter::is_first(&ticket.request, &answer)) {
                Some(place) => Some((ticket, place, answer)),
                None => {
                    self.send(ticket, answer);
                    None
                }
            }
        });
        join_all(answers).await.into_iter().flatten().collect()
    }

    /// What was found is acknowledged as an append is: nothing takes it back.
    async fn once_durable(
        &self,
        answer: Result<Appended, AppendError>,
        positions: &[Position],
    ) -> Result<Appended, AppendError> {
        if let (Ok(_), Some(newest)) = (&answer, positions.iter().max()) {
            let unknown = |reason| AppendError::Indeterminate { reason };
            self.shared.durable.has(*newest).await.map_err(unknown)?;
        }
        answer
    }

    async fn answer_past(&self, past: Vec<Past>) {
        let places: Vec<&PastRequest> = past.iter().map(|(_, place, _)| place).collect();
        // The live log first: what is pruned in between is in the archive already (ARC-1).
        let live = match self.shared.reader.live_from(&places).await {
            Ok(live) => live.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(unknown(error)); past.len()],
        };
        let answers = past.into_iter().zip(live).map(async |((ticket, place, otherwise), live)| {
            let found = match live {
                Ok(live) => self.at_place(&ticket.request, &place, live).await,
                Err(error) => Err(error),
            };
            let answer = found.and_then(|records| arbiter::replay_past(&ticket.request, &records, otherwise));
            self.send(ticket, answer);
        });
        join_all(answers).await;
    }

    fn send(&self, ticket: Ticket, answer: Result<Appended, AppendError>) {
        match &answer {
            Ok(_) => self.shared.counters.replayed.add(1),
            Err(_) => self.shared.counters.refused.add(1),
        }
        ticket.answer(answer);
    }

    async fn live(&self, known: &[(&AppendRequest, &[Position])]) -> Result<Live, ReadError> {
        let all: Vec<Position> = known.iter().flat_map(|(_, positions)| positions.iter().copied()).collect();
        if all.is_empty() {
            return Ok(Live::default());
        }
        let bytes = self.shared.reader.bytes_at(&all).await?;
        let alike = known.iter().filter(|(request, positions)| outgrown(request, positions, &bytes).is_none());
        let wanted: Vec<Position> = alike.flat_map(|(_, positions)| positions.iter().copied()).collect();
        let records = self.shared.reader.at_positions(&wanted).await?;
        Ok(Live { bytes, records })
    }

    /// The records at the positions of a request's events, in their order.
    async fn first_appearance(
        &self,
        request: &AppendRequest,
        positions: &[Position],
        live: &Live,
    ) -> Result<Vec<Record>, AppendError> {
        if let Some(error) = outgrown(request, positions, &live.bytes) {
            return Err(error);
        }
        let mut records: Vec<Record> = Vec::with_capacity(positions.len());
        while let Some(position) = positions.get(records.len()) {
            if let Some(record) = live.records.get(position) {
                records.push(record.clone());
                continue;
            }
            // Its id is kept for ever, or it was pruned since it was found. What follows it is mostly wanted too.
            let left = &positions[records.len()..];
            let run = left.iter().zip(std::iter::successors(Some(*position), |at| Some(at.next())));
            let run = run.take_while(|(wanted, follows)| *wanted == follows).count();
            let page = self.archived(*position, run).await?;
            if page.first().is_none_or(|record| record.position() != *position) {
                return Err(AppendError::Indeterminate { reason: "the first appearance is being archived".into() });
            }
            for record in page {
                let event = &request.events[records.len()];
                if bytes_of(&record) > bytes_max(event) {
                    return Err(id_taken(event, record.position()));
                }
                records.push(record);
            }
        }
        Ok(records)
    }

    async fn archived(&self, from: Position, count: usize) -> Result<Vec<Record>, AppendError> {
        let Some(archive) = self.shared.archive() else { return Ok(Vec::new()) };
        let _reading = self.archive_reads.acquire().await;
        archive.read_log(from, Direction::Forward, count).await.map_err(unknown)
    }

    /// What the archive has of a request at its place; not all of it, or nothing, where it is another one's.
    async fn at_place(
        &self,
        request: &AppendRequest,
        place: &PastRequest,
        live: Option<LiveFrom>,
    ) -> Result<Vec<Record>, AppendError> {
        let newest = match live {
            // Live, so its id was looked up with the group: what stands there is another request's.
            Some(event) if event.version == place.version => return Ok(Vec::new()),
            Some(event) => event.before,
            None => Some(place.newest),
        };
        let Some(archive) = self.shared.archive() else {
            let reason = "only the archive knows whether this is a retry, and it is not attached".into();
            return Err(AppendError::Indeterminate { reason });
        };
        let nowhere = || {
            let reason = format!("version {} of {} is neither live nor archived", place.version, place.stream);
            AppendError::Corrupt { reason }
        };
        let _reading = self.archive_reads.acquire().await;
        let (newest, forward) = (newest.ok_or_else(nowhere)?, Direction::Forward);
        let found = archive.read_stream(&place.stream, newest, place.version, forward, 1).await.map_err(unknown)?;
        let found = found.into_iter().find(|record| record.version() == place.version).ok_or_else(nowhere)?;
        if request.events.len() == 1 {
            return Ok(vec![found]);
        }
        // A request's positions follow each other, so its first one follows from this one.
        match found.position().get().checked_sub(place.events_before).and_then(Position::new) {
            Some(first) => read_like(&*archive, first, request).await.map_err(unknown),
            None => Ok(Vec::new()),
        }
    }
}

/// The first event whose first appearance is too long to be the same.
fn outgrown(request: &AppendRequest, positions: &[Position], bytes: &HashMap<Position, usize>) -> Option<AppendError> {
    let mut events = request.events.iter().zip(positions);
    let (event, position) =
        events.find(|(event, position)| bytes.get(position).is_some_and(|there| *there > bytes_max(event)))?;
    Some(id_taken(event, *position))
}

fn id_taken(event: &NewEvent, position: Position) -> AppendError {
    AppendError::IdTaken { source_uri: event.source.clone(), id: event.id.clone(), position }
}

fn bytes_max(event: &NewEvent) -> usize {
    event.bytes() * 2 + SLACK_BYTES
}

fn bytes_of(record: &Record) -> usize {
    match record {
        Record::Event(recorded) => recorded.event.bytes(),
        Record::Removed(_) => 0,
    }
}

/// As many records from `first` on as the request has events; fewer at the end of the archive, where a request cannot
/// go on in the live log (its month is pruned as a whole), and where the records are too long to be the request's.
async fn read_like(
    archive: &dyn ArchiveReader,
    first: Position,
    request: &AppendRequest,
) -> Result<Vec<Record>, ReadError> {
    let count = request.events.len();
    let mut bytes_left: usize = request.events.iter().map(bytes_max).sum();
    let mut records = Vec::with_capacity(count);
    let mut next = first;
    while records.len() < count {
        let page = archive.read_log(next, Direction::Forward, count - records.len()).await?;
        let Some(last) = page.last() else { break };
        next = last.position().next();
        let Some(left) = bytes_left.checked_sub(page.iter().map(bytes_of).sum()) else { break };
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
