//! Judges answers: to appends, by what the log held when they were sent (LOG-1, LOG-3 to LOG-5, REP-2), and to reads
//! (ARC-3, ARC-4, LOG-1).

use domain::append::{AppendCondition, AppendError, Appended, ExpectedVersion, LogHead, Role};
use domain::record::Record;
use domain::{ErrorKind, StreamName};

use super::{Ack, Kept, Ledger, Line, Violation, broken, check, index};
use crate::world::{NAMES, World};

/// What an append must be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expected {
    /// As a retry, with these first positions.
    Replay(u64),
    /// As new.
    Fresh,
    /// Not at all.
    Conflict,
}

impl Ledger {
    /// What a request must be answered by a region that is active and has pruned so far.
    pub(crate) fn expect(&self, number: usize, pruned: u64) -> Expected {
        let sent = &self.sent[number];
        if let Some(first) = sent.places.first().filter(|_| sent.is_kept) {
            return Expected::Replay(*first);
        }
        let live = &self.lines[index(pruned.min(self.head()))..];
        let known = |id: &str| self.kept_ids.contains(id) || live.iter().any(|line| line.id == id);
        if sent.request.events.iter().any(|event| known(&event.id)) {
            let place = sent.places.last().filter(|first| **first > pruned);
            return place.map_or(Expected::Conflict, |first| Expected::Replay(*first));
        }
        let holds = sent.request.expect.iter().all(|e| self.holds(&e.stream, e.version))
            && sent.request.conditions.iter().all(|condition| self.excludes_nothing(condition));
        if !holds || self.meets_closed(number) { Expected::Conflict } else { Expected::Fresh }
    }

    fn holds(&self, stream: &StreamName, expected: ExpectedVersion) -> bool {
        let version = self.version(stream);
        match expected {
            ExpectedVersion::Any => true,
            ExpectedVersion::NoStream => version.is_none(),
            ExpectedVersion::StreamExists => version.is_some(),
            ExpectedVersion::Exactly(wanted) => version == Some(wanted.get()),
        }
    }

    /// Whether no line after the condition's position has the tags of any item. No item names types.
    fn excludes_nothing(&self, condition: &AppendCondition) -> bool {
        let after = condition.after.get();
        let has = |line: &Line, tag: &String| line.tags.split(' ').any(|own| own == tag);
        after <= self.head()
            && !self.lines[index(after)..].iter().any(|line| {
                condition.fail_if_events_match.iter().any(|item| item.tags.iter().all(|tag| has(line, tag)))
            })
    }

    /// Whether an event of it comes to a stream that is closed before it.
    fn meets_closed(&self, number: usize) -> bool {
        let mut closed: Vec<&str> = Vec::new();
        self.sent[number].request.events.iter().any(|event| {
            let name = event.stream.as_str();
            let meets = closed.contains(&name) || self.streams.get(name).is_some_and(|stream| stream.closed);
            if event.event_type == domain::event::TOMBSTONE_TYPE {
                closed.push(name);
            }
            meets
        })
    }

    /// Judges the answer of `site` to a request. `before`: its head row before it was sent, and what the answer had
    /// to be then; nothing is known of that if the operation was held up.
    pub(crate) fn judge(
        &mut self,
        (site, number): (usize, usize),
        before: Option<(&LogHead, Expected)>,
        answer: &Result<Appended, AppendError>,
        world: &World,
    ) -> Kept {
        let said = || format!("request {number} to {}, which had to be {before:?}: {answer:?}", NAMES[site]);
        let active = before.is_none_or(|(head, _)| head.role == Role::Active);
        let expected = before.map(|(_, expected)| expected);
        match answer {
            Ok(appended) => self.acknowledged((site, number), expected, appended, world),
            Err(AppendError::Unavailable { .. } | AppendError::Indeterminate { .. }) => Ok(()),
            Err(AppendError::Fenced { .. }) => {
                check("LOG-5", before.is_none() || !active, || format!("fenced while active: {}", said()))
            }
            Err(error) if error.kind() == ErrorKind::Conflict => {
                // A region that was passed over decides by a log that is not the log any more.
                let own = self.branched[site].is_some() || site != self.holder;
                let fits = matches!(expected, None | Some(Expected::Conflict));
                let promise = if matches!(expected, Some(Expected::Replay(_))) { "LOG-4" } else { "LOG-3" };
                check(promise, own || fits, said)
            }
            Err(_) => broken("LOG-1", said()),
        }
    }

    fn acknowledged(
        &mut self,
        (site, number): (usize, usize),
        expected: Option<Expected>,
        appended: &Appended,
        world: &World,
    ) -> Kept {
        let events = &appended.events;
        let (Some(first), Some(last)) = (events.first(), events.last()) else {
            return broken("LOG-1", format!("request {number} was acknowledged with no event"));
        };
        let (first, last) = (first.position.get(), last.position.get());
        if self.branched[site].is_some_and(|fork| last > fork) {
            // A region that cannot know of the newer epoch goes on (stated limit); what it says is lost.
            return Ok(());
        }
        for (event, position) in events.iter().zip(first..) {
            let line = self.lines.get(index(event.position.get() - 1));
            let same = line.is_some_and(|line| {
                let said = (event.stream.as_str(), event.version.get(), event.epoch.get());
                let stands = (line.stream.as_str(), line.version, line.epoch);
                let (place, request) = (position - first, u64::try_from(number).expect("few"));
                (said, (request, place)) == (stands, (line.request, line.place))
                    && event.recorded_at.to_string() == line.recordedat
            });
            let dense = event.position.get() == position;
            check("LOG-1", same && dense, || format!("request {number}: {event:?} is not what stands there"))?;
        }
        let fits = match expected {
            None => true,
            Some(Expected::Fresh) => !appended.replayed,
            Some(Expected::Replay(at)) => appended.replayed && at == first,
            Some(Expected::Conflict) => false,
        };
        let promise = if expected == Some(Expected::Conflict) { "LOG-3" } else { "LOG-4" };
        check(promise, fits, || format!("request {number} had to be {expected:?} and was {appended:?}"))?;
        let clocks = [0, 1].map(|site: usize| world.sites[site].clock.read().unix_micros());
        let request = u64::try_from(number).expect("few");
        if !self.acks.iter().any(|ack| (ack.request, ack.first) == (request, first)) {
            self.acks.push(Ack { request, first, last, clocks });
        }
        Ok(())
    }

    /// Whether records that were served are what the log has.
    ///
    /// # Errors
    /// ARC-3 where a line differs, LOG-1 where one is missing or too much.
    pub(crate) fn served(&self, what: &str, found: &[Record], wanted: &[u64], whole: bool) -> Result<(), Violation> {
        for (record, position) in found.iter().zip(wanted) {
            check("LOG-1", record.position().get() == *position, || {
                format!("{what}: position {} instead of {position}", record.position())
            })?;
            let same = record.to_line() == self.lines[index(position - 1)].bytes;
            check("ARC-3", same, || format!("{what}: another line at position {position}"))?;
        }
        let fits = found.len() == wanted.len() || (!whole && found.len() < wanted.len());
        check("LOG-1", fits, || format!("{what}: {} records, not {}", found.len(), wanted.len()))
    }
}
