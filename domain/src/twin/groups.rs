//! Consumer groups in memory: the model that those on PostgreSQL are compared with. Time is the clock that it is given.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use crate::append::{LogHead, Role};
use crate::group::{
    ConsumerGroups, ConsumerName, Created, Delivered, Extended, GROUPS_MAX, Group, GroupError, GroupId, GroupName,
    GroupSettings, GroupStatus, Idle, LAPSED_REASON, Lease, LeaseNumber, Listed, Listing, NewGroup, Outcome, Parked,
    Reason, Settled, Settlement, Start, Take, Which, check_settlements,
};
use crate::log::LogReader;
use crate::{Clock, Head, Position, StreamName, Timestamp};

/// Groups of a log in memory that keep the port's contract, with no durability at all.
pub struct MemoryGroups {
    log: Arc<dyn LogReader>,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    groups: BTreeMap<GroupName, Kept>,
    made: i64,
    leases: u64,
}

struct Kept {
    group: Group,
    listed_to: Head,
    lapses: u64,
    events: BTreeMap<Position, Event>,
}

struct Event {
    stream: StreamName,
    state: EventState,
    /// Failed attempts.
    attempts: u32,
    replayed: bool,
    reason: Reason,
    consumer: String,
    listed_at: Timestamp,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum EventState {
    Ready,
    Leased { lease: LeaseNumber, deadline: Timestamp },
    Waiting { due_at: Timestamp },
    Parked { at: Timestamp },
}

impl EventState {
    fn due_at(self) -> Option<Timestamp> {
        match self {
            Self::Leased { deadline: due_at, .. } | Self::Waiting { due_at } => Some(due_at),
            Self::Ready | Self::Parked { .. } => None,
        }
    }

    fn is_parked(self) -> bool {
        matches!(self, Self::Parked { .. })
    }
}

impl MemoryGroups {
    /// No groups of `log` yet.
    #[must_use]
    pub fn new(log: Arc<dyn LogReader>, clock: Arc<dyn Clock>) -> Self {
        Self { log, clock, state: Mutex::default() }
    }

    async fn now(&self) -> Result<Timestamp, GroupError> {
        self.clock.now().await.map_err(|error| GroupError::Unavailable { reason: error.to_string() })
    }

    /// The log's head, if this region hands out.
    async fn active(&self) -> Result<LogHead, GroupError> {
        let head = self.log.log_head().await?;
        match head.role {
            Role::Active => Ok(head),
            role => Err(GroupError::Fenced { role, epoch: head.epoch }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn after(now: Timestamp, seconds: u32) -> Timestamp {
    Timestamp::from_unix_micros(now.unix_micros() + i64::from(seconds) * 1_000_000).unwrap_or(now)
}

impl State {
    fn of(&mut self, group: &Group) -> Result<&mut Kept, GroupError> {
        let missing = || GroupError::NotFound { name: group.name().to_string() };
        self.groups.get_mut(group.name()).filter(|kept| kept.group.id == group.id).ok_or_else(missing)
    }
}

impl Event {
    /// One more attempt has failed.
    fn failed(&mut self, settings: &GroupSettings, now: Timestamp, after_seconds: Option<u32>, reason: Reason) {
        self.attempts += 1;
        self.reason = reason;
        let seconds = after_seconds.unwrap_or_else(|| settings.retry_seconds(self.attempts));
        self.state = match settings.parks_after(self.attempts) {
            true => EventState::Parked { at: now },
            false => EventState::Waiting { due_at: after(now, seconds) },
        };
    }

    /// Whether its last attempt ended with its lease.
    fn has_lapsed(&self) -> bool {
        self.attempts > 0 && self.reason.as_str() == LAPSED_REASON
    }

    /// Ends an attempt that is not done.
    fn end(&mut self, settings: &GroupSettings, now: Timestamp, outcome: Outcome) -> Settled {
        match outcome {
            Outcome::Done => return Settled::Done,
            Outcome::Release => self.state = EventState::Ready,
            Outcome::Retry { after_seconds, reason } => self.failed(settings, now, after_seconds, reason),
            Outcome::Park { reason } => {
                self.attempts += 1;
                self.reason = reason;
                self.state = EventState::Parked { at: now };
            }
        }
        match self.state {
            EventState::Parked { .. } => Settled::Parked,
            EventState::Waiting { .. } => Settled::Waiting,
            EventState::Ready | EventState::Leased { .. } => Settled::Released,
        }
    }
}

impl Kept {
    /// Takes back what is due.
    fn wake(&mut self, now: Timestamp) {
        for event in self.events.values_mut().filter(|event| event.state.due_at().is_some_and(|due| due <= now)) {
            if matches!(event.state, EventState::Leased { .. }) {
                event.failed(self.group.settings(), now, None, Reason::of(LAPSED_REASON));
                self.lapses += 1;
            } else {
                event.state = EventState::Ready;
            }
        }
    }

    fn pick(&self, max: usize) -> Vec<Position> {
        let (mut leased, mut waiting, mut picked) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
        let is_leased = |event: &&Event| matches!(event.state, EventState::Leased { .. });
        leased.extend(self.events.values().filter(is_leased).map(|event| &event.stream));
        for (position, event) in &self.events {
            match event.state {
                EventState::Ready if !leased.contains(&event.stream) && !waiting.contains(&event.stream) => {
                    picked.push(*position);
                }
                EventState::Waiting { .. } => drop(waiting.insert(&event.stream)),
                _ => {}
            }
        }
        let has_lapsed = |position: &Position| self.events[position].has_lapsed();
        picked.truncate(match picked.iter().position(has_lapsed) {
            Some(0) => max.min(1),
            Some(before) => max.min(before),
            None => max,
        });
        picked
    }

    fn count(&self, parked: bool) -> u64 {
        self.events.values().filter(|event| event.state.is_parked() == parked).count() as u64
    }

    fn idle(&self, now: Timestamp) -> Idle {
        let due = self.events.values().filter_map(|event| event.state.due_at()).min();
        let micros = due.map(|due| u64::try_from(due.micros_since(now)).unwrap_or(0));
        Idle {
            listed_to: self.listed_to,
            room: Idle::room(self.group.settings().unsettled_max, self.count(false), self.count(true)),
            due_in: micros.map(Duration::from_micros),
        }
    }

    fn status(&self, now: Timestamp) -> GroupStatus {
        let unsettled = || self.events.iter().filter(|(_, event)| !event.state.is_parked());
        let lowest = unsettled().filter(|(_, event)| !event.replayed).map(|(position, _)| *position).min();
        let oldest = unsettled().map(|(_, event)| event.listed_at).min();
        GroupStatus {
            group: self.group.clone(),
            listed_to: self.listed_to,
            checkpoint: lowest.map_or(self.listed_to, Position::head_before),
            unsettled: self.count(false),
            parked: self.count(true),
            oldest_unsettled_seconds: oldest.map(|at| u64::try_from(now.micros_since(at) / 1_000_000).unwrap_or(0)),
            lapses: self.lapses,
        }
    }

    fn parked(&self, which: &Which) -> Vec<Position> {
        let parked = self.events.iter().filter(|(_, event)| event.state.is_parked()).map(|(position, _)| *position);
        match which {
            Which::All => parked.collect(),
            Which::These(named) => parked.filter(|position| named.contains(position)).collect(),
        }
    }
}

#[async_trait]
impl ConsumerGroups for MemoryGroups {
    async fn create(&self, new: &NewGroup) -> Result<Created, GroupError> {
        new.check()?;
        let (head, now) = (self.active().await?.head, self.now().await?);
        let mut state = self.state();
        if let Some(kept) = state.groups.get(&new.name) {
            return match kept.group.made.difference(new) {
                None => Ok(Created::Same(kept.group.clone())),
                Some(member) => Err(GroupError::Differs { name: new.name.to_string(), member }),
            };
        }
        if state.groups.len() >= GROUPS_MAX {
            return Err(GroupError::TooMany);
        }
        let listed_to = match new.start {
            Start::Head => head,
            Start::From(position) if position <= head.next() => position.head_before(),
            Start::From(_) => return Err(GroupError::Ahead { head }),
        };
        state.made += 1;
        let group = Group { id: GroupId(state.made), made: new.clone(), created_at: now };
        let kept = Kept { group: group.clone(), listed_to, lapses: 0, events: BTreeMap::new() };
        state.groups.insert(new.name.clone(), kept);
        Ok(Created::New(group))
    }

    async fn find(&self, name: &GroupName) -> Result<Group, GroupError> {
        let missing = || GroupError::NotFound { name: name.to_string() };
        self.state().groups.get(name).map(|kept| kept.group.clone()).ok_or_else(missing)
    }

    async fn statuses(&self) -> Result<Vec<GroupStatus>, GroupError> {
        let now = self.now().await?;
        Ok(self.state().groups.values().map(|kept| kept.status(now)).collect())
    }

    async fn list(&self, group: &Group, from: Head, listing: &Listing) -> Result<Listed, GroupError> {
        let now = self.now().await?;
        let mut state = self.state();
        let kept = state.of(group)?;
        if kept.listed_to != from {
            return Ok(Listed::Moved);
        }
        kept.listed_to = listing.to;
        for (position, stream) in listing.events.iter().cloned() {
            let (reason, consumer) = (Reason::default(), String::new());
            let event = Event {
                stream,
                state: EventState::Ready,
                attempts: 0,
                replayed: false,
                reason,
                consumer,
                listed_at: now,
            };
            kept.events.insert(position, event);
        }
        Ok(Listed::Stored)
    }

    async fn take(&self, group: &Group, consumer: &ConsumerName, max: usize) -> Result<Take, GroupError> {
        self.active().await?;
        let now = self.now().await?;
        let mut state = self.state();
        let number = state.leases + 1;
        let kept = state.of(group)?;
        kept.wake(now);
        let picked = kept.pick(max);
        if picked.is_empty() {
            return Ok(Take::Nothing(kept.idle(now)));
        }
        let number = LeaseNumber::new(number).expect("from 1");
        let deadline = after(now, group.settings().lease_seconds);
        let mut events = Vec::new();
        for position in picked {
            let event = kept.events.get_mut(&position).expect("it was picked of these");
            event.state = EventState::Leased { lease: number, deadline };
            consumer.as_str().clone_into(&mut event.consumer);
            events.push(Delivered { position, attempt: event.attempts + 1, replayed: event.replayed });
        }
        state.leases += 1;
        Ok(Take::Lease(Lease { number, deadline, events }))
    }

    async fn settle(
        &self,
        group: &Group,
        lease: LeaseNumber,
        events: &[Settlement],
    ) -> Result<Vec<Settled>, GroupError> {
        check_settlements(events)?;
        let now = self.now().await?;
        let mut state = self.state();
        let kept = state.of(group)?;
        let settings = *group.settings();
        let settle = |Settlement { position, outcome }: &Settlement| {
            let is_held =
                |event: &&mut Event| matches!(event.state, EventState::Leased { lease: of, .. } if of == lease);
            let Some(event) = kept.events.get_mut(position).filter(is_held) else { return Settled::Lapsed };
            let settled = event.end(&settings, now, outcome.clone());
            if settled == Settled::Done {
                kept.events.remove(position);
            }
            settled
        };
        Ok(events.iter().map(settle).collect())
    }

    async fn extend(&self, group: &Group, lease: LeaseNumber) -> Result<Extended, GroupError> {
        let until = after(self.now().await?, group.settings().lease_seconds);
        let mut state = self.state();
        let mut extended = Extended { events: 0, deadline: None };
        for event in state.of(group)?.events.values_mut() {
            if let EventState::Leased { lease: of, deadline } = &mut event.state
                && *of == lease
            {
                *deadline = until;
                extended = Extended { events: extended.events + 1, deadline: Some(until) };
            }
        }
        Ok(extended)
    }

    async fn parked(&self, group: &Group, after: Head, limit: usize) -> Result<Vec<Parked>, GroupError> {
        let mut state = self.state();
        let events = state.of(group)?.events.iter().filter(|(position, _)| !after.includes(**position));
        let parked = events.filter_map(|(position, event)| match event.state {
            EventState::Parked { at } => Some(Parked {
                position: *position,
                stream: event.stream.clone(),
                attempts: event.attempts,
                reason: event.reason.clone(),
                consumer: event.consumer.clone(),
                parked_at: at,
            }),
            _ => None,
        });
        Ok(parked.take(limit).collect())
    }

    async fn replay(&self, group: &Group, which: &Which) -> Result<u64, GroupError> {
        let now = self.now().await?;
        let mut state = self.state();
        let kept = state.of(group)?;
        let replayed = kept.parked(which);
        for position in &replayed {
            let event = kept.events.get_mut(position).expect("it is parked");
            (event.state, event.attempts, event.replayed) = (EventState::Ready, 0, true);
            event.listed_at = now;
        }
        Ok(replayed.len() as u64)
    }

    async fn discard(&self, group: &Group, which: &Which) -> Result<u64, GroupError> {
        let mut state = self.state();
        let kept = state.of(group)?;
        let discarded = kept.parked(which);
        for position in &discarded {
            kept.events.remove(position);
        }
        Ok(discarded.len() as u64)
    }

    async fn remove(&self, group: &Group) -> Result<(), GroupError> {
        let mut state = self.state();
        if state.of(group).is_ok() {
            state.groups.remove(group.name());
        }
        Ok(())
    }
}
