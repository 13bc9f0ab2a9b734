//! Decides a group of append requests: pure, the same for PostgreSQL and the twin in memory.
//!
//! The log locks its one head row, looks up what [`Wanted`] names, and asks [`decide`]. What is placed is
//! written in one transaction; a request that is refused harms no other of the group. Within a group the
//! requests are decided in order, each against the log as the ones before it leave it.
//!
//! Ids come before versions: a retry finds its own events and gets their first positions, whatever it
//! expects of streams that it has moved itself (LOG-4).

mod conditions;

use std::collections::{HashMap, HashSet};

use sha2::{Digest, Sha256};

use crate::append::{
    AppendError, AppendRequest, Appended, AppendedEvent, ExpectedVersion, KeepIds, LogHead, Role, StreamHead,
};
use crate::event::{NewEvent, TOMBSTONE_TYPE};
use crate::record::{Record, RecordedEvent};
use crate::{Epoch, Head, Position, StreamName, StreamVersion, Timestamp};

pub use conditions::Match;

/// What identifies an event: the first 16 bytes of SHA-256(source ‖ 0x00 ‖ id). Neither holds a NUL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventKey(pub [u8; 16]);

impl EventKey {
    /// The key of (source, id).
    #[must_use]
    pub fn of(source: &str, id: &str) -> Self {
        let digest = Sha256::new().chain_update(source).chain_update([0]).chain_update(id).finalize();
        let mut key = [0; 16];
        key.copy_from_slice(&digest[..16]);
        Self(key)
    }

    /// The key of an event.
    #[must_use]
    pub fn of_event(event: &NewEvent) -> Self {
        Self::of(&event.source, &event.id)
    }

    /// The keys of a request's events, in their order. They cost about as much as the decision on it and do not depend on the
    /// log: whoever asks makes them, before it is waited for.
    #[must_use]
    pub fn all_of(request: &AppendRequest) -> Vec<Self> {
        request.events.iter().map(Self::of_event).collect()
    }
}

/// What the log has to look up before a group can be decided.
#[derive(Debug, Default)]
pub struct Wanted<'a> {
    /// Streams that are written or of which something is expected.
    pub streams: HashSet<&'a StreamName>,
    /// The events, request by request in the group's order.
    pub keys: Vec<&'a [EventKey]>,
    /// Consumers whose checkpoint is moved.
    pub consumers: HashSet<&'a str>,
}

impl<'a> Wanted<'a> {
    /// What `requests` need; with each come its keys, as [`EventKey::all_of`] makes them.
    #[must_use]
    pub fn by(requests: impl IntoIterator<Item = (&'a AppendRequest, &'a [EventKey])>) -> Self {
        let mut wanted = Self::default();
        for (request, keys) in requests {
            let streams = request.events.chunk_by(|one, next| one.stream == next.stream).map(|run| &run[0].stream);
            wanted.streams.extend(streams);
            wanted.streams.extend(request.expect.iter().map(|expectation| &expectation.stream));
            wanted.keys.push(keys);
            wanted.consumers.extend(request.checkpoint.iter().map(|checkpoint| checkpoint.consumer.as_str()));
        }
        wanted
    }
}

/// What the log found, under its head lock.
#[derive(Debug)]
pub struct Facts {
    /// The head row.
    pub head: LogHead,
    /// The clock, read under the lock.
    pub now: Timestamp,
    /// Heads of the wanted streams; a stream that is missing has never had an event.
    pub streams: HashMap<StreamName, StreamHead>,
    /// Positions of the wanted keys that are known: of live events, and those that are kept for ever.
    pub known: HashMap<EventKey, Position>,
    /// Checkpoints of the wanted consumers; one that is missing stands at 0.
    pub checkpoints: HashMap<String, u64>,
    /// Request by request in the group's order, what was found of each item of its conditions, in their order. It may be
    /// empty where no request has any.
    pub matches: Vec<Vec<Match>>,
}

/// What becomes of one request.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// It is stored with the group, and answered with this once the group is committed.
    Accepted(Appended),
    /// All of its events are known: it is answered by [`replay`] with the records at these positions. They may be later
    /// than the request, if its ids left the live window and came again: an answer that is not [`is_first`] gives way to
    /// what the history holds at the place named here.
    Known(Vec<Position>, Option<PastRequest>),
    /// It repeats another request of this group: the same answer, marked as replayed.
    Repeats(Appended),
    /// The stream is past the expected version, and its events there may be archived, where most ids are not
    /// looked up. [`PastRequest`] says how to find out whether this is a retry; if it is not, the answer is
    /// the error.
    Past(PastRequest, AppendError),
    /// It is refused.
    Refused(AppendError),
}

/// Where the history would hold a request, had it been appended before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastRequest {
    /// A stream of which the request named the version.
    pub stream: StreamName,
    /// The version that its first event of that stream would have got.
    pub version: StreamVersion,
    /// Where that stream ended when this was decided, at that version or above.
    pub newest: Position,
    /// How many of the request's events stand before that one: a request's positions follow each other.
    pub events_before: u64,
}

/// Where one event is placed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placement {
    /// Index of the request in the group.
    pub request: usize,
    /// Index of the event in the request.
    pub event: usize,
    /// The event's key.
    pub key: EventKey,
    /// Its place in the log.
    pub position: Position,
    /// Its place in its stream.
    pub version: StreamVersion,
    /// Position of the stream's event before it.
    pub previous: Option<Position>,
    /// When it is recorded.
    pub recorded_at: Timestamp,
    /// For how long its id is known.
    pub keep: KeepIds,
}

impl Placement {
    /// The record that the placed event is.
    #[must_use]
    pub fn record(&self, event: NewEvent, epoch: Epoch) -> Record {
        Record::Event(Box::new(RecordedEvent {
            position: self.position,
            recorded_at: self.recorded_at,
            version: self.version,
            previous: self.previous,
            epoch,
            event,
        }))
    }
}

/// The decision on a group.
#[derive(Debug)]
pub struct Ruling {
    /// One for each request, in order.
    pub verdicts: Vec<Verdict>,
    /// What is to be written, in position order.
    pub placed: Vec<Placement>,
    /// The heads of the streams that move.
    pub streams: HashMap<StreamName, StreamHead>,
    /// The checkpoints that move.
    pub checkpoints: HashMap<String, u64>,
    /// The log's head afterwards.
    pub head: Head,
    /// `recordedat` of the newest event afterwards.
    pub recorded_at: Timestamp,
}

/// Decides a group. `wanted` is what [`Wanted::by`] made of the same requests.
#[must_use]
pub fn decide(requests: &[&AppendRequest], wanted: &Wanted<'_>, facts: Facts) -> Ruling {
    let mut group = Group::new(facts);
    for (index, (request, keys)) in requests.iter().zip(&wanted.keys).enumerate() {
        let verdict = group.decide(index, request, keys, requests);
        group.verdicts.push(verdict);
    }
    Ruling {
        verdicts: group.verdicts,
        placed: group.placed,
        streams: group.moved,
        checkpoints: group.moved_checkpoints,
        head: group.head,
        recorded_at: group.recorded_at,
    }
}

/// Answers a retry: `records` are what stands at the positions of its events, in order.
///
/// # Errors
/// `IdTaken` for the first event whose content is not that of its record.
pub fn replay(request: &AppendRequest, records: &[Record]) -> Result<Appended, AppendError> {
    let mut events = Vec::with_capacity(records.len());
    for (event, record) in request.events.iter().zip(records) {
        match record {
            Record::Event(recorded) if event.says_the_same(&recorded.event) => events.push(AppendedEvent {
                stream: event.stream.clone(),
                version: recorded.version,
                position: recorded.position,
                epoch: recorded.epoch,
                recorded_at: recorded.recorded_at,
            }),
            Record::Event(_) | Record::Removed(_) => return Err(id_taken(event, record.position())),
        }
    }
    if events.len() != request.events.len() {
        let reason = format!("{} of {} known events could not be read", records.len(), request.events.len());
        return Err(AppendError::Corrupt { reason });
    }
    Ok(Appended { replayed: true, events })
}

/// Whether a retry's answer is where the request's expectations put it when it was stored.
#[must_use]
pub fn is_first(request: &AppendRequest, answer: &Result<Appended, AppendError>) -> bool {
    let Ok(appended) = answer else { return false };
    request.expect.iter().all(|expectation| {
        let first = appended.events.iter().find(|event| event.stream == expectation.stream);
        let version = first_version(expectation.version);
        first.zip(version).is_none_or(|(event, version)| event.version == version)
    })
}

/// The version that the first event of a stream gets of which this is expected, if that is settled.
fn first_version(expected: ExpectedVersion) -> Option<StreamVersion> {
    match expected {
        ExpectedVersion::Exactly(version) => Some(version.next()),
        ExpectedVersion::NoStream => Some(StreamVersion::FIRST),
        ExpectedVersion::Any | ExpectedVersion::StreamExists => None,
    }
}

/// Answers a request that may be archived with what the history holds where it would stand.
///
/// # Errors
/// `otherwise`, whatever it is, unless the history holds exactly this request there; `IdTaken` where the ids are the
/// same and the content is not.
pub fn replay_past(
    request: &AppendRequest,
    records: &[Record],
    otherwise: Result<Appended, AppendError>,
) -> Result<Appended, AppendError> {
    let same_id = |event: &NewEvent, record: &Record| match record {
        Record::Event(recorded) => recorded.event.id == event.id && recorded.event.source == event.source,
        Record::Removed(_) => false,
    };
    let all = records.len() == request.events.len();
    if all && request.events.iter().zip(records).all(|(event, record)| same_id(event, record)) {
        replay(request, records)
    } else {
        otherwise
    }
}

fn id_taken(event: &NewEvent, position: Position) -> AppendError {
    AppendError::IdTaken { source_uri: event.source.clone(), id: event.id.clone(), position }
}

/// The log as the requests decided so far leave it.
struct Group {
    role: Role,
    epoch: Epoch,
    pruned: Head,
    now: Timestamp,
    head: Head,
    recorded_at: Timestamp,
    streams: HashMap<StreamName, StreamHead>,
    moved: HashMap<StreamName, StreamHead>,
    known: HashMap<EventKey, Position>,
    placed_keys: HashMap<EventKey, usize>,
    checkpoints: HashMap<String, u64>,
    moved_checkpoints: HashMap<String, u64>,
    matches: Vec<Vec<Match>>,
    placed: Vec<Placement>,
    verdicts: Vec<Verdict>,
}

impl Group {
    fn new(facts: Facts) -> Self {
        Self {
            role: facts.head.role,
            epoch: facts.head.epoch,
            pruned: facts.head.pruned,
            now: facts.now,
            head: facts.head.head,
            recorded_at: facts.head.recorded_at,
            streams: facts.streams,
            moved: HashMap::new(),
            known: facts.known,
            placed_keys: HashMap::new(),
            checkpoints: facts.checkpoints,
            moved_checkpoints: HashMap::new(),
            matches: facts.matches,
            placed: Vec::new(),
            verdicts: Vec::new(),
        }
    }

    fn decide(&mut self, index: usize, request: &AppendRequest, keys: &[EventKey], all: &[&AppendRequest]) -> Verdict {
        if self.role != Role::Active {
            let reason = format!("it is {}", self.role.as_str());
            return Verdict::Refused(AppendError::Fenced { epoch: self.epoch, reason });
        }
        if let Err(invalid) = request.check() {
            return Verdict::Refused(invalid.into());
        }
        if let Some(verdict) = self.retry(request, keys, all) {
            return verdict;
        }
        if let Err(error) = self.expectations(request) {
            // Whichever expectation failed: a retry may fail on a stream that it only checks and that has moved on since.
            return self.unless_past(request, error);
        }
        if let Err(error) = self.conditions(index, request, all) {
            return Verdict::Refused(error);
        }
        if let Err(error) = self.open(request).and_then(|()| self.checkpoint(request)) {
            return Verdict::Refused(error);
        }
        Verdict::Accepted(self.place(index, request, keys))
    }

    /// The verdict on a request of which at least one event is known.
    fn retry(&self, request: &AppendRequest, keys: &[EventKey], all: &[&AppendRequest]) -> Option<Verdict> {
        let stored: Vec<Position> = keys.iter().filter_map(|key| self.known.get(key).copied()).collect();
        let placed: Vec<usize> = keys.iter().filter_map(|key| self.placed_keys.get(key).copied()).collect();
        let (known, total) = (stored.len() + placed.len(), keys.len());
        if known == 0 {
            return None;
        }
        if stored.len() == total {
            return Some(Verdict::Known(stored, self.past(request)));
        }
        if placed.len() == total {
            return Some(self.repeats(request, &placed, all));
        }
        let at = |index: &usize| self.placed[*index].position;
        let position = stored.first().copied().or_else(|| placed.first().map(at)).unwrap_or(Position::FIRST);
        // All of it may be archived, and some of its ids have been used again since.
        Some(self.unless_past(request, AppendError::PartlyKnown { known, total, position }))
    }

    fn repeats(&self, request: &AppendRequest, placed: &[usize], all: &[&AppendRequest]) -> Verdict {
        let records: Vec<Record> = placed
            .iter()
            .map(|index| &self.placed[*index])
            .map(|at| at.record(all[at.request].events[at.event].clone(), self.epoch))
            .collect();
        match replay(request, &records) {
            Ok(appended) => Verdict::Repeats(appended),
            Err(error) => Verdict::Refused(error),
        }
    }

    fn expectations(&self, request: &AppendRequest) -> Result<(), AppendError> {
        for expectation in &request.expect {
            let (stream, expected) = (expectation.stream.clone(), expectation.version);
            let actual = self.streams.get(&stream).map(|head| head.version);
            let holds = match expected {
                ExpectedVersion::Any => true,
                ExpectedVersion::NoStream => actual.is_none(),
                ExpectedVersion::StreamExists => actual.is_some(),
                ExpectedVersion::Exactly(version) => actual == Some(version),
            };
            if !holds {
                return Err(AppendError::WrongVersion { stream, expected, actual });
            }
        }
        Ok(())
    }

    fn conditions(&self, index: usize, request: &AppendRequest, all: &[&AppendRequest]) -> Result<(), AppendError> {
        let found = self.matches.get(index).map_or(&[][..], Vec::as_slice);
        let placed = self.placed.iter().map(|place| (place.position, &all[place.request].events[place.event]));
        conditions::hold(request, found, self.head, placed)
    }

    fn unless_past(&self, request: &AppendRequest, error: AppendError) -> Verdict {
        match self.past(request) {
            Some(past) => Verdict::Past(past, error),
            None => Verdict::Refused(error),
        }
    }

    /// Where the archive would hold this request, if a stream that it writes and whose version it names has archived
    /// events beyond that version.
    fn past(&self, request: &AppendRequest) -> Option<PastRequest> {
        request.expect.iter().find_map(|expectation| self.past_of(request, &expectation.stream))
    }

    fn past_of(&self, request: &AppendRequest, stream: &StreamName) -> Option<PastRequest> {
        let head = self.streams.get(stream)?;
        let version = first_version(request.expected(stream))?;
        // A stream that began in the live log has no archived event: its ids were looked up, none was known.
        if version > head.version || !self.pruned.includes(head.first) {
            return None;
        }
        let events_before = request.events.iter().position(|event| event.stream == *stream)?;
        let events_before = u64::try_from(events_before).expect("a request has at most 16,384 events");
        Some(PastRequest { stream: stream.clone(), version, newest: head.position, events_before })
    }

    /// Refuses events of a closed stream, also of one that the request closes itself.
    fn open(&self, request: &AppendRequest) -> Result<(), AppendError> {
        let mut closing = HashSet::new();
        for run in request.events.chunk_by(|one, next| one.stream == next.stream) {
            let stream = &run[0].stream;
            let head = self.streams.get(stream);
            if let Some(head) = head.filter(|head| head.closed) {
                return Err(AppendError::StreamClosed { stream: stream.clone(), version: head.version });
            }
            let tombstone = run.iter().position(|event| event.event_type == TOMBSTONE_TYPE);
            if closing.contains(stream) || tombstone.is_some_and(|at| at + 1 < run.len()) {
                let version = head.map_or(StreamVersion::FIRST, |head| head.version.next());
                return Err(AppendError::StreamClosed { stream: stream.clone(), version });
            }
            if tombstone.is_some() {
                closing.insert(stream);
            }
        }
        Ok(())
    }

    fn checkpoint(&mut self, request: &AppendRequest) -> Result<(), AppendError> {
        let Some(checkpoint) = &request.checkpoint else { return Ok(()) };
        let actual = self.checkpoints.get(&checkpoint.consumer).copied().unwrap_or(0);
        if actual != checkpoint.from {
            let consumer = checkpoint.consumer.clone();
            return Err(AppendError::CheckpointMoved { consumer, expected: checkpoint.from, actual });
        }
        self.checkpoints.insert(checkpoint.consumer.clone(), checkpoint.to);
        self.moved_checkpoints.insert(checkpoint.consumer.clone(), checkpoint.to);
        Ok(())
    }

    /// Gives the events their places. Nothing can fail any more.
    fn place(&mut self, request_index: usize, request: &AppendRequest, keys: &[EventKey]) -> Appended {
        let keep = request.keep_ids();
        let latest = self.now.max(self.recorded_at);
        self.recorded_at = request.recorded_at.unwrap_or(latest).clamp(self.recorded_at, latest);
        let mut events = Vec::with_capacity(request.events.len());
        self.placed.reserve(request.events.len());
        self.placed_keys.reserve(request.events.len());
        for (event_index, (event, key)) in request.events.iter().zip(keys).enumerate() {
            let position = self.head.next();
            let known = self.streams.get_mut(&event.stream);
            let before = known.as_deref().copied();
            let head = StreamHead {
                version: before.map_or(StreamVersion::FIRST, |head| head.version.next()),
                position,
                first: before.map_or(position, |head| head.first),
                closed: event.event_type == TOMBSTONE_TYPE,
            };
            self.placed_keys.insert(*key, self.placed.len());
            self.placed.push(Placement {
                request: request_index,
                event: event_index,
                key: *key,
                position,
                version: head.version,
                previous: before.map(|head| head.position),
                recorded_at: self.recorded_at,
                keep,
            });
            match known {
                Some(known) => *known = head,
                None => drop(self.streams.insert(event.stream.clone(), head)),
            }
            match self.moved.get_mut(&event.stream) {
                Some(moved) => *moved = head,
                None => drop(self.moved.insert(event.stream.clone(), head)),
            }
            self.head = position.as_head();
            events.push(AppendedEvent {
                stream: event.stream.clone(),
                version: head.version,
                position,
                epoch: self.epoch,
                recorded_at: self.recorded_at,
            });
        }
        Appended { replayed: false, events }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::append::Expectation;
    use crate::event::Data;

    fn event(stream: &str, id: &str) -> NewEvent {
        NewEvent {
            id: id.into(),
            source: "/test".into(),
            event_type: "thing.happened".into(),
            stream: StreamName::parse(stream).expect("a name"),
            time: None,
            event_version: None,
            data_schema: None,
            data_content_type: None,
            extensions: Vec::new(),
            data: Data::Absent,
        }
    }

    fn request(events: &[(&str, &str)], expect: &[(&str, ExpectedVersion)]) -> AppendRequest {
        let expectation = |(stream, version): &(&str, ExpectedVersion)| Expectation {
            stream: StreamName::parse(stream).expect("a name"),
            version: *version,
        };
        AppendRequest {
            events: events.iter().map(|(stream, id)| event(stream, id)).collect(),
            expect: expect.iter().map(expectation).collect(),
            ..AppendRequest::default()
        }
    }

    fn facts() -> Facts {
        let at = Timestamp::parse_rfc3339("2026-05-01T00:00:00Z").expect("an instant");
        let head = LogHead {
            head: Head::new(10).expect("small"),
            recorded_at: at,
            epoch: Epoch::FIRST,
            role: Role::Active,
            pruned: Head::new(5).expect("small"),
            log_id: "test".into(),
            simulated: false,
        };
        let (streams, known, checkpoints) = (HashMap::new(), HashMap::new(), HashMap::new());
        Facts { head, now: at, streams, known, checkpoints, matches: Vec::new() }
    }

    fn rule(requests: &[&AppendRequest], facts: Facts) -> Ruling {
        let keys: Vec<_> = requests.iter().map(|request| EventKey::all_of(request)).collect();
        let wanted = Wanted::by(requests.iter().copied().zip(keys.iter().map(Vec::as_slice)));
        decide(requests, &wanted, facts)
    }

    fn stream_head(version: u64, position: u64, first: u64) -> StreamHead {
        StreamHead {
            version: StreamVersion::new(version).expect("from 1"),
            position: Position::new(position).expect("from 1"),
            first: Position::new(first).expect("from 1"),
            closed: false,
        }
    }

    #[test]
    fn a_refused_request_harms_no_other_of_the_group() {
        let wrong = request(&[("a-1", "1")], &[("a-1", ExpectedVersion::StreamExists)]);
        let (before, after) = (request(&[("a-2", "2")], &[]), request(&[("a-2", "3")], &[]));
        let ruling = rule(&[&before, &wrong, &after], facts());
        assert!(matches!(ruling.verdicts[1], Verdict::Refused(AppendError::WrongVersion { .. })));
        let placed: Vec<(u64, u64)> = ruling.placed.iter().map(|p| (p.position.get(), p.version.get())).collect();
        assert_eq!(placed, [(11, 1), (12, 2)]);
        assert_eq!(ruling.head.get(), 12);
    }

    #[test]
    fn a_later_request_of_a_group_sees_the_earlier_ones() {
        let first = request(&[("a-1", "1")], &[("a-1", ExpectedVersion::NoStream)]);
        let second = request(&[("a-1", "2")], &[("a-1", ExpectedVersion::NoStream)]);
        let ruling = rule(&[&first, &second], facts());
        assert!(matches!(ruling.verdicts[1], Verdict::Refused(AppendError::WrongVersion { .. })));
    }

    #[test]
    fn a_retry_in_the_same_group_repeats_the_first() {
        let first = request(&[("a-1", "1"), ("a-2", "2")], &[]);
        let mut other = first.clone();
        other.events[1].data = Data::Json("1".into());
        let ruling = rule(&[&first, &first, &other], facts());
        let Verdict::Repeats(again) = &ruling.verdicts[1] else { panic!("{:?}", ruling.verdicts[1]) };
        assert!(again.replayed);
        assert_eq!(again.events[1].position.get(), 12);
        assert!(matches!(ruling.verdicts[2], Verdict::Refused(AppendError::IdTaken { .. })));
        assert_eq!(ruling.placed.len(), 2);
    }

    #[test]
    fn a_request_beyond_its_expected_version_may_be_an_archived_retry() {
        let expect = ExpectedVersion::Exactly(StreamVersion::new(1).expect("from 1"));
        let retry = request(&[("b-1", "0"), ("a-1", "1")], &[("a-1", expect)]);
        let mut archived = facts();
        archived.streams.insert(retry.events[1].stream.clone(), stream_head(3, 9, 2));
        let ruling = rule(&[&retry], archived);
        let Verdict::Past(past, _) = &ruling.verdicts[0] else { panic!("{:?}", ruling.verdicts[0]) };
        assert_eq!((past.version.get(), past.events_before), (2, 1));

        let mut live = facts();
        live.streams.insert(retry.events[1].stream.clone(), stream_head(3, 9, 6));
        let ruling = rule(&[&retry], live);
        assert!(matches!(ruling.verdicts[0], Verdict::Refused(_)), "all of its events are live: ids decide");
    }

    #[test]
    fn a_stream_that_is_only_checked_hides_no_archived_retry() {
        let version = |number| StreamVersion::new(number).expect("from 1");
        let expect = [("z-1", ExpectedVersion::Exactly(version(1))), ("a-1", ExpectedVersion::Exactly(version(1)))];
        let retry = request(&[("a-1", "1")], &expect);
        let checked = retry.expect[0].stream.clone();
        let mut archived = facts();
        archived.streams.insert(checked.clone(), stream_head(2, 4, 1));
        archived.streams.insert(retry.events[0].stream.clone(), stream_head(2, 3, 2));
        let ruling = rule(&[&retry], archived);
        let Verdict::Past(past, _) = &ruling.verdicts[0] else { panic!("{:?}", ruling.verdicts[0]) };
        assert_eq!((past.version, past.events_before), (version(2), 0));

        // What it writes is where it was believed to be: this was never stored.
        let mut new = facts();
        new.streams.insert(checked, stream_head(2, 4, 1));
        new.streams.insert(retry.events[0].stream.clone(), stream_head(1, 2, 2));
        let ruling = rule(&[&retry], new);
        assert!(matches!(ruling.verdicts[0], Verdict::Refused(AppendError::WrongVersion { .. })));
    }

    #[test]
    fn only_the_active_region_places_events() {
        for role in [Role::Follower, Role::Draining, Role::ReadOnly] {
            let mut facts = facts();
            facts.head.role = role;
            let ruling = rule(&[&request(&[("a-1", "1")], &[])], facts);
            assert!(matches!(ruling.verdicts[0], Verdict::Refused(AppendError::Fenced { .. })));
            assert!(ruling.placed.is_empty());
        }
    }

    #[test]
    fn a_partly_known_request_is_refused_whether_stored_or_in_the_group() {
        let half = request(&[("a-1", "1"), ("a-1", "2")], &[]);
        let mut stored = facts();
        stored.known.insert(EventKey::of("/test", "2"), Position::new(7).expect("from 1"));
        let ruling = rule(&[&half], stored);
        assert!(matches!(ruling.verdicts[0], Verdict::Refused(AppendError::PartlyKnown { known: 1, total: 2, .. })));
        let first = request(&[("a-1", "1")], &[]);
        let ruling = rule(&[&first, &half], facts());
        assert!(matches!(ruling.verdicts[1], Verdict::Refused(AppendError::PartlyKnown { .. })));
    }
}
