//! What goes over the wire of groups themselves and of what they have parked. 64-bit numbers are strings, as in the record.
//! What is no position or no setting is refused here or by `domain`; nothing is asked.

use domain::filter::{Filter, FilterError};
use domain::group::{
    Group, GroupName, GroupSettings, GroupStatus, LeaseNumber, NewGroup, Parked, Start, TAKE_EVENTS_MAX, Which,
};
use domain::{ErrorKind, Head, Position};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::http::problem::Problem;

/// A position as text.
pub(super) fn position(text: &str) -> Result<Position, Problem> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let position = digits.then(|| text.parse().ok().and_then(Position::new)).flatten();
    position.ok_or_else(|| Problem::invalid(format!("{text:?} is no position: a number from 1, as text")))
}

/// Positions as texts.
pub(super) fn positions(texts: &[String]) -> Result<Vec<Position>, Problem> {
    if texts.len() > TAKE_EVENTS_MAX {
        return Err(Problem::invalid(format!("at most {TAKE_EVENTS_MAX} positions at a time")));
    }
    texts.iter().map(|text| position(text)).collect()
}

/// A lease's number as text.
pub(super) fn lease_number(text: &str) -> Result<LeaseNumber, Problem> {
    let number = position(text).ok().and_then(|number| LeaseNumber::new(number.get()));
    number.ok_or_else(|| Problem::invalid(format!("{text:?} is no lease: it is what a take has answered")))
}

/// A group that is wanted. What is left out is as its default says.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "GroupCreate")]
pub(super) struct Create {
    /// Its name: `[a-z0-9_-]{1,64}`.
    group: String,
    /// Only events of streams of any of these categories.
    #[serde(default)]
    category: Vec<String>,
    /// Only events of any of these types.
    #[serde(default)]
    r#type: Vec<String>,
    /// Only events of streams whose names begin in any of these ways.
    #[serde(default)]
    stream_prefix: Vec<String>,
    /// The first position that it wants. Without it, it begins with what is appended after its creation.
    from: Option<String>,
    /// How long a lease is: 1 to 3,600, 30 if it is left out.
    lease_seconds: Option<u32>,
    /// After so many failed attempts an event is parked: 1 to 100, or 10.
    attempts_max: Option<u32>,
    /// The wait after the first failed attempt; each further one is twice as long: up to 86,400, or 1.
    retry_first_seconds: Option<u32>,
    /// But never longer than this: up to 86,400, or 300.
    retry_max_seconds: Option<u32>,
    /// Events that are listed and not settled at most: 1 to 10,000, or 1,000.
    unsettled_max: Option<u32>,
}

impl Create {
    pub(super) fn read(self) -> Result<NewGroup, Problem> {
        let default = GroupSettings::default();
        let settings = GroupSettings {
            lease_seconds: self.lease_seconds.unwrap_or(default.lease_seconds),
            attempts_max: self.attempts_max.unwrap_or(default.attempts_max),
            retry_first_seconds: self.retry_first_seconds.unwrap_or(default.retry_first_seconds),
            retry_max_seconds: self.retry_max_seconds.unwrap_or(default.retry_max_seconds),
            unsettled_max: self.unsettled_max.unwrap_or(default.unsettled_max),
        };
        let start = match &self.from {
            None => Start::Head,
            Some(from) => Start::From(position(from)?),
        };
        let filter = self.filter().map_err(|error| Problem::of(ErrorKind::Invalid, &error))?;
        Ok(NewGroup { name: GroupName::parse(&self.group)?, filter, start, settings })
    }

    fn filter(&self) -> Result<Filter, FilterError> {
        let filter = self.category.iter().try_fold(Filter::default(), |filter, value| filter.category(value))?;
        let filter = self.r#type.iter().try_fold(filter, |filter, value| filter.event_type(value))?;
        self.stream_prefix.iter().try_fold(filter, |filter, value| filter.stream_prefix(value))
    }
}

/// A group as it was created.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GroupInfo {
    /// Its name.
    pub group: String,
    /// Categories that it wants; empty: it does not ask.
    pub category: Vec<String>,
    /// Types that it wants; empty: it does not ask.
    pub r#type: Vec<String>,
    /// Beginnings of streams' names that it wants; empty: it does not ask.
    pub stream_prefix: Vec<String>,
    /// The first position that it wants, if it did not begin at the head.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// How long a lease is.
    pub lease_seconds: u32,
    /// After so many failed attempts an event is parked.
    pub attempts_max: u32,
    /// The wait after the first failed attempt.
    pub retry_first_seconds: u32,
    /// The longest wait.
    pub retry_max_seconds: u32,
    /// Events that are listed and not settled at most.
    pub unsettled_max: u32,
    /// When it was created.
    pub created_at: String,
}

impl GroupInfo {
    pub(super) fn of(group: &Group) -> Self {
        let (filter, settings) = (group.filter(), group.settings());
        let from = match group.made.start {
            Start::Head => None,
            Start::From(position) => Some(position.to_string()),
        };
        Self {
            group: group.name().to_string(),
            category: filter.categories().to_vec(),
            r#type: filter.event_types().to_vec(),
            stream_prefix: filter.stream_prefixes().to_vec(),
            from,
            lease_seconds: settings.lease_seconds,
            attempts_max: settings.attempts_max,
            retry_first_seconds: settings.retry_first_seconds,
            retry_max_seconds: settings.retry_max_seconds,
            unsettled_max: settings.unsettled_max,
            created_at: group.created_at.to_string(),
        }
    }
}

/// All groups.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Groups")]
pub(super) struct StatusAnswer {
    /// By name.
    pub(super) groups: Vec<GroupStatusAnswer>,
}

/// A group, and how it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "GroupStatus")]
pub struct GroupStatusAnswer {
    /// As it was created.
    #[serde(flatten)]
    pub made: GroupInfo,
    /// Up to here every event that it wants was done, parked or given up.
    pub checkpoint: String,
    /// Up to here the log was looked through for it.
    pub listed_to: String,
    /// Events between its checkpoint and the log's head, whether it wants them or not.
    pub lag: String,
    /// Events that are ready, handed out, or wait for another attempt.
    pub unsettled: String,
    /// Events that are parked.
    pub parked: String,
    /// Attempts that ended because their lease ran out, since the group was created.
    pub leases_run_out: String,
    /// How long ago the oldest unsettled event was listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_unsettled_seconds: Option<String>,
}

impl GroupStatusAnswer {
    pub(super) fn of(status: &GroupStatus, head: Head) -> Self {
        Self {
            made: GroupInfo::of(&status.group),
            checkpoint: status.checkpoint.to_string(),
            listed_to: status.listed_to.to_string(),
            lag: status.lag(head).to_string(),
            unsettled: status.unsettled.to_string(),
            parked: status.parked.to_string(),
            leases_run_out: status.lapses.to_string(),
            oldest_unsettled_seconds: status.oldest_unsettled_seconds.map(|seconds| seconds.to_string()),
        }
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct StatusQuery {
    /// The group's name.
    pub(super) group: String,
}

/// Which group.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "GroupRemove")]
pub(super) struct Named {
    /// Its name.
    pub(super) group: String,
}

pub(super) type Remove = Named;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ParkedQuery {
    /// The group's name.
    pub(super) group: String,
    /// Only those after this position.
    pub(super) after: Option<u64>,
    /// At most so many: up to 1,000.
    pub(super) limit: Option<u64>,
}

/// Parked events.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "GroupParked")]
pub(super) struct ParkedAnswer {
    /// By position. If there are as many as were asked for, there may be more after the last.
    pub(super) parked: Vec<ParkedEvent>,
}

/// A parked event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "GroupParkedEvent")]
pub struct ParkedEvent {
    /// Its place in the log.
    pub position: String,
    /// Its stream.
    pub stream: String,
    /// Failed attempts.
    pub attempts: u32,
    /// Why the last one failed.
    pub reason: String,
    /// Who had it last.
    pub consumer: String,
    /// Since when.
    pub parked_at: String,
}

impl ParkedEvent {
    pub(super) fn of(parked: &Parked) -> Self {
        Self {
            position: parked.position.to_string(),
            stream: parked.stream.as_str().to_owned(),
            attempts: parked.attempts,
            reason: parked.reason.as_str().to_owned(),
            consumer: parked.consumer.clone(),
            parked_at: parked.parked_at.to_string(),
        }
    }
}

/// Which parked events: those at `positions`, or `all`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "GroupReplay")]
pub(super) struct Replay {
    /// The group's name.
    pub(super) group: String,
    /// At most 1,000.
    positions: Option<Vec<String>>,
    /// All that are parked.
    #[serde(default)]
    all: bool,
}

impl Replay {
    pub(super) fn which(&self) -> Result<Which, Problem> {
        match (&self.positions, self.all) {
            (None, true) => Ok(Which::All),
            (Some(named), false) => positions(named).map(Which::These),
            _ => Err(Problem::invalid("either positions or all says which events")),
        }
    }
}

/// Which parked events; there is no `all`: what is given up is named.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "GroupDiscard")]
pub(super) struct Discard {
    /// The group's name.
    pub(super) group: String,
    /// At most 1,000.
    pub(super) positions: Vec<String>,
}

/// How many events.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "GroupChanged")]
pub(super) struct Replayed {
    /// What was not parked is left as it is.
    pub(super) events: String,
}

/// Whether there was a group.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "GroupRemoved")]
pub(super) struct RemovedAnswer {
    /// Whether there was one of that name.
    pub(super) removed: bool,
}
