//! What the log in memory has found of a request's conditions. Of what is pruned it uses no more than a log with tables
//! keeps: per tag and type the newest position. So the twin leaves unsettled what every other log leaves unsettled.

use crate::append::{AppendRequest, ConditionItem};
use crate::arbiter::Match;
use crate::event::NewEvent;
use crate::record::Record;
use crate::{Head, Position};

/// The records of a log, oldest first.
pub(super) struct Stored<'a> {
    /// What was pruned: all up to a position.
    pub(super) archived: &'a [Record],
    /// What follows it.
    pub(super) live: &'a [Record],
}

impl Stored<'_> {
    /// An answer for each item of the request's conditions.
    pub(super) fn matches(&self, request: &AppendRequest) -> Vec<Match> {
        let mut matches = Vec::new();
        for condition in &request.conditions {
            let items = &condition.fail_if_events_match;
            matches.extend(items.iter().map(|item| self.newest(item, condition.after)));
        }
        matches
    }

    fn newest(&self, item: &ConditionItem, after: Head) -> Match {
        let is_meant = |event: &NewEvent| item.matches(event);
        if let Some(position) = newest(self.live, is_meant).filter(|position| !after.includes(*position)) {
            return Match::At(position);
        }
        if item.tags.len() < 2 {
            let position = newest(self.archived, is_meant).filter(|position| !after.includes(*position));
            return position.map_or(Match::None, Match::At);
        }
        self.newest_of_several_tags(item, after)
    }

    /// Of archived events, by the heads of the item's tags in each type.
    fn newest_of_several_tags(&self, item: &ConditionItem, after: Head) -> Match {
        let mut types = item.types.clone();
        if types.is_empty() {
            types.extend(events(self.archived).map(|(_, event)| event.event_type.clone()));
            types.sort_unstable();
            types.dedup();
        }
        let mut found = Match::None;
        for event_type in types {
            let head = |tag: &String| {
                let of_tag = |event: &NewEvent| event.event_type == event_type && event.tags().any(|own| own == tag);
                newest(self.archived, of_tag)
            };
            let Some(heads) = item.tags.iter().map(head).collect::<Option<Vec<Position>>>() else { continue };
            let (Some(lowest), Some(highest)) = (heads.iter().min(), heads.iter().max()) else { continue };
            found = match found {
                _ if after.includes(*lowest) => found,
                _ if lowest == highest => return Match::At(*lowest),
                Match::Unsettled { up_to } => Match::Unsettled { up_to: up_to.max(lowest.as_head()) },
                _ => Match::Unsettled { up_to: lowest.as_head() },
            };
        }
        found
    }
}

fn events(records: &[Record]) -> impl DoubleEndedIterator<Item = (Position, &NewEvent)> {
    records.iter().filter_map(|record| match record {
        Record::Event(recorded) => Some((recorded.position, &recorded.event)),
        Record::Removed(_) => None,
    })
}

fn newest(records: &[Record], is_meant: impl Fn(&NewEvent) -> bool) -> Option<Position> {
    events(records).rev().find(|(_, event)| is_meant(event)).map(|(position, _)| position)
}
