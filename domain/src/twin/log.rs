//! The log in memory: the model that the log on PostgreSQL is compared with.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use super::archive::MemoryArchive;
use super::catalog::Archive;
use super::conditions::Stored;
use crate::append::{AppendError, AppendRequest, Appended, KeepIds, LogHead, Role, StreamHead};
use crate::arbiter::{self, EventKey, Facts, Match, PastRequest, Verdict, Wanted};
use crate::log::{ApplyError, Direction, EventLog, FollowerLog, LogReader, ReadError};
use crate::record::{Record, RecordedEvent};
use crate::replication::Heard;
use crate::{Clock, Epoch, Head, Position, StreamName, StreamVersion, Timestamp};

/// A log in memory that keeps all the ports' contracts, with no durability at all.
pub struct MemoryLog {
    clock: Arc<dyn Clock>,
    pub(super) state: Mutex<State>,
}

pub(super) struct State {
    pub(super) head: LogHead,
    /// Live records; the first is at `head.pruned` + 1.
    pub(super) records: Vec<Record>,
    /// What was pruned.
    archived: Arc<MemoryArchive>,
    streams: BTreeMap<StreamName, StreamHead>,
    checkpoints: HashMap<String, u64>,
    /// The ids that are kept for ever, by the positions of their events.
    kept: BTreeMap<Position, EventKey>,
    pub(super) archive: Archive,
    pub(super) heard: Option<Heard>,
}

impl MemoryLog {
    /// An empty log in `role`, epoch 1.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, created_at: Timestamp, role: Role) -> Self {
        let head = LogHead {
            head: Head::EMPTY,
            recorded_at: created_at,
            epoch: Epoch::FIRST,
            role,
            pruned: Head::EMPTY,
            log_id: "twin".into(),
            simulated: false,
        };
        let state = State {
            head,
            records: Vec::new(),
            archived: Arc::default(),
            streams: BTreeMap::new(),
            checkpoints: HashMap::new(),
            kept: BTreeMap::new(),
            archive: Archive::default(),
            heard: None,
        };
        Self { clock, state: Mutex::new(state) }
    }

    /// Takes every position up to `head` out of the live log, as pruning does.
    pub fn prune_to(&self, head: Head) {
        self.state().prune_to(head);
    }

    /// What was pruned, as an archive: it answers retries, and whoever reads beyond the live log.
    #[must_use]
    pub fn archive(&self) -> Arc<MemoryArchive> {
        Arc::clone(&self.state().archived)
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    pub(super) fn prune_to(&mut self, head: Head) {
        let out = usize::try_from(head.get().saturating_sub(self.head.pruned.get())).unwrap_or(usize::MAX);
        self.archived.extend(self.records.drain(..out.min(self.records.len())));
        self.head.pruned = head;
    }

    fn at(&self, position: Position) -> Option<&Record> {
        let index = position.get().checked_sub(self.head.pruned.get() + 1)?;
        self.records.get(usize::try_from(index).ok()?)
    }

    fn known(&self) -> HashMap<EventKey, Position> {
        let event = |record: &Record| match record {
            Record::Event(recorded) => Some((EventKey::of_event(&recorded.event), recorded.position)),
            Record::Removed(_) => None,
        };
        let kept = self.kept.iter().map(|(position, key)| (*key, *position));
        self.records.iter().filter_map(event).chain(kept).collect()
    }

    /// The records at those positions, live or archived.
    fn at_all(&self, positions: &[Position]) -> Vec<Record> {
        let archived = self.archived.records();
        let at = |position: &Position| self.at(*position).or_else(|| archived.get(index(*position))).cloned();
        positions.iter().filter_map(at).collect()
    }

    fn append(&mut self, request: &AppendRequest, now: Timestamp) -> Result<Appended, AppendError> {
        let keys = EventKey::all_of(request);
        let wanted = Wanted::by([(request, &keys[..])]);
        let streams = wanted.streams.iter().filter_map(|name| Some(((*name).clone(), *self.streams.get(*name)?)));
        let facts = Facts {
            head: self.head.clone(),
            now,
            streams: streams.collect(),
            known: self.known(),
            checkpoints: self.checkpoints.clone(),
            matches: vec![self.matches(request)],
        };
        let ruling = arbiter::decide(&[request], &wanted, facts);
        let verdict = ruling.verdicts.into_iter().next().expect("one verdict for one request");
        match verdict {
            Verdict::Known(positions, past) => {
                let answer = arbiter::replay(request, &self.at_all(&positions));
                match past.filter(|_| !arbiter::is_first(request, &answer)) {
                    Some(past) => self.replay_past(request, &past, answer),
                    None => answer,
                }
            }
            Verdict::Past(past, error) => self.replay_past(request, &past, Err(error)),
            Verdict::Refused(error) => Err(error),
            Verdict::Accepted(appended) | Verdict::Repeats(appended) => {
                for place in ruling.placed {
                    if place.keep == KeepIds::ForEver {
                        self.kept.insert(place.position, place.key);
                    }
                    self.records.push(place.record(request.events[place.event].clone(), self.head.epoch));
                }
                self.streams.extend(ruling.streams);
                self.checkpoints.extend(ruling.checkpoints);
                self.head.head = ruling.head;
                self.head.recorded_at = ruling.recorded_at;
                Ok(appended)
            }
        }
    }

    fn matches(&self, request: &AppendRequest) -> Vec<Match> {
        if request.conditions.is_empty() {
            return Vec::new();
        }
        Stored { archived: &self.archived.records(), live: &self.records }.matches(request)
    }

    fn replay_past(
        &self,
        request: &AppendRequest,
        past: &PastRequest,
        otherwise: Result<Appended, AppendError>,
    ) -> Result<Appended, AppendError> {
        let all: Vec<Record> = self.archived.records().into_iter().chain(self.records.iter().cloned()).collect();
        let found = all.iter().find(|record| *record.stream() == past.stream && record.version() == past.version);
        let first = found.and_then(|record| record.position().get().checked_sub(past.events_before));
        let from = first.and_then(|first| usize::try_from(first).ok()).unwrap_or(1).saturating_sub(1);
        let records: Vec<Record> = all.into_iter().skip(from).take(request.events.len()).collect();
        arbiter::replay_past(request, &records, otherwise)
    }

    fn follow(&mut self, record: &Record) -> Result<(), ApplyError> {
        let position = record.position();
        if self.head.head.includes(position) {
            let same = self.at(position).is_none_or(|there| there == record);
            let refused = ApplyError::Refused { position, reason: "another record is there".into() };
            return if same { Ok(()) } else { Err(refused) };
        }
        if position != self.head.head.next() {
            return Err(ApplyError::OutOfOrder { expected: self.head.head.next(), found: position });
        }
        let before = self.streams.get(record.stream()).copied();
        if let Some(reason) = contradiction(record, before, &self.head) {
            return Err(ApplyError::Refused { position, reason });
        }
        let first = before.map_or(position, |head| head.first);
        let closed = matches!(record, Record::Event(e) if e.event.event_type == crate::event::TOMBSTONE_TYPE);
        let head = StreamHead { version: record.version(), position, first, closed };
        self.streams.insert(record.stream().clone(), head);
        self.records.push(record.clone());
        self.head.head = position.as_head();
        self.head.recorded_at = record.recorded_at();
        Ok(())
    }
}

/// Where position stands in records that begin at position 1.
fn index(position: Position) -> usize {
    usize::try_from(position.get() - 1).unwrap_or(usize::MAX)
}

/// Why `record` cannot be the next one of a log that ends at `head`, whose stream ends at `before`.
fn contradiction(record: &Record, before: Option<StreamHead>, head: &LogHead) -> Option<String> {
    let version = before.map_or(StreamVersion::FIRST, |head| head.version.next());
    if record.version() != version {
        return Some(format!("its stream's next version is {version}, not {}", record.version()));
    }
    if record.recorded_at() < head.recorded_at && head.head != Head::EMPTY {
        return Some(format!("it was recorded before its predecessor, at {}", record.recorded_at()));
    }
    let Record::Event(event) = record else { return None };
    let RecordedEvent { previous, epoch, .. } = **event;
    if previous != before.map(|head| head.position) {
        return Some("its back link is not the stream's newest event".into());
    }
    (epoch > head.epoch).then(|| format!("it is of epoch {epoch}, this region knows {}", head.epoch))
}

#[async_trait]
impl LogReader for MemoryLog {
    async fn log_head(&self) -> Result<LogHead, ReadError> {
        Ok(self.state().head.clone())
    }

    async fn read_log(&self, from: Position, direction: Direction, limit: usize) -> Result<Vec<Record>, ReadError> {
        let state = self.state();
        if state.head.pruned.includes(from) {
            return Err(ReadError::Pruned { pruned: state.head.pruned });
        }
        let records = state.records.iter();
        Ok(match direction {
            Direction::Forward => records.filter(|r| r.position() >= from).take(limit).cloned().collect(),
            Direction::Backward => records.rev().filter(|r| r.position() <= from).take(limit).cloned().collect(),
        })
    }

    async fn read_stream(
        &self,
        stream: &StreamName,
        from: StreamVersion,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<Record>, ReadError> {
        let state = self.state();
        let records = state.records.iter().filter(|record| record.stream() == stream);
        Ok(match direction {
            Direction::Forward => records.filter(|r| r.version() >= from).take(limit).cloned().collect(),
            Direction::Backward => records.rev().filter(|r| r.version() <= from).take(limit).cloned().collect(),
        })
    }

    async fn stream_head(&self, stream: &StreamName) -> Result<Option<StreamHead>, ReadError> {
        Ok(self.state().streams.get(stream).copied())
    }

    async fn streams(
        &self,
        category: &str,
        after: Option<&StreamName>,
        limit: usize,
    ) -> Result<Vec<(StreamName, StreamHead)>, ReadError> {
        let state = self.state();
        let streams = state.streams.iter().filter(|(name, _)| name.category() == category);
        let streams = streams.filter(|(name, _)| after.is_none_or(|after| *name > after));
        Ok(streams.take(limit).map(|(name, head)| (name.clone(), *head)).collect())
    }

    async fn find_event(&self, source: &str, id: &str) -> Result<Option<Position>, ReadError> {
        let state = self.state();
        let position = state.known().get(&EventKey::of(source, id)).copied();
        Ok(position.filter(|position| !state.head.pruned.includes(*position)))
    }

    async fn head_as_of(&self, at: Timestamp) -> Result<Head, ReadError> {
        let state = self.state();
        let live = state.records.iter().take_while(|record| record.recorded_at() <= at).last();
        match live {
            Some(record) => Ok(record.position().as_head()),
            None if state.head.pruned == Head::EMPTY => Ok(Head::EMPTY),
            None => Err(ReadError::Pruned { pruned: state.head.pruned }),
        }
    }

    async fn wait_beyond(&self, _seen: Head) -> Result<Head, ReadError> {
        Ok(self.state().head.head)
    }
}

#[async_trait]
impl EventLog for MemoryLog {
    async fn append(&self, request: AppendRequest) -> Result<Appended, AppendError> {
        let unavailable =
            |e: crate::ClockError| AppendError::Unavailable { reason: e.to_string(), retry_after_seconds: None };
        let now = self.clock.now().await.map_err(unavailable)?;
        self.state().append(&request, now)
    }

    async fn consumer_checkpoint(&self, consumer: &str) -> Result<u64, ReadError> {
        Ok(self.state().checkpoints.get(consumer).copied().unwrap_or(0))
    }
}

#[async_trait]
impl FollowerLog for MemoryLog {
    async fn apply_keeping(&self, records: &[Record], kept: &[Position]) -> Result<Head, ApplyError> {
        let mut state = self.state();
        if state.head.role != Role::Follower {
            return Err(ApplyError::NotFollowing { role: state.head.role, epoch: state.head.epoch });
        }
        // All or none: what was applied before a refusal is taken back.
        let before = (state.head.clone(), state.records.len(), state.streams.clone());
        for record in records {
            if let Err(error) = state.follow(record) {
                (state.head, state.streams) = (before.0, before.2);
                state.records.truncate(before.1);
                return Err(error);
            }
        }
        // Of the records that were there already this changes nothing: they came with the same.
        for record in records.iter().filter(|record| kept.contains(&record.position())) {
            if let Record::Event(recorded) = record {
                state.kept.insert(recorded.position, EventKey::of_event(&recorded.event));
            }
        }
        Ok(state.head.head)
    }

    async fn kept_ids(&self, first: Position, last: Position) -> Result<Vec<Position>, ReadError> {
        Ok(self.state().kept.range(first..=last).map(|(position, _)| *position).collect())
    }

    async fn change_role(&self, from: (Epoch, Role), to: (Epoch, Role)) -> Result<LogHead, ApplyError> {
        let mut state = self.state();
        let (epoch, role) = (state.head.epoch, state.head.role);
        if (epoch, role) != from || to.0 < from.0 {
            return Err(ApplyError::NotFollowing { role, epoch });
        }
        (state.head.epoch, state.head.role) = to;
        Ok(state.head.clone())
    }
}
