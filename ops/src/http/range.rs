//! What of the log `GET /v1/log` is asked for: where to begin, which way, how much. It reads nothing but an epoch.

use domain::filter::Filter;
use domain::log::{Direction, LogReader, ReadError};
use domain::{Head, Position, ResumeToken, Timestamp};
use schemars::JsonSchema;
use serde::Deserialize;

use super::problem::Problem;
use super::resume::epoch_at;

#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Way {
    #[default]
    Forward,
    Backward,
}

impl From<Way> for Direction {
    fn from(way: Way) -> Self {
        match way {
            Way::Forward => Self::Forward,
            Way::Backward => Self::Backward,
        }
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LogQuery {
    /// The first position; excludes `after` and `token`.
    pub(super) from: Option<u64>,
    /// The position before the first.
    pub(super) after: Option<u64>,
    /// A resume token, as `Coldstream-Resume` gave it: `position@epoch`.
    pub(super) token: Option<String>,
    /// Which way.
    #[serde(default)]
    direction: Way,
    /// Records at most; of a filtered answer 512.
    limit: Option<u64>,
    /// Only records with a `recordedat` at or after this instant (RFC 3339).
    recorded_from: Option<String>,
    /// Only records with a `recordedat` before this instant.
    recorded_before: Option<String>,
    /// Whether to go on with what is appended, for as long as the client listens.
    #[serde(default)]
    pub(super) follow: bool,
    /// Only what the other region has too, for certain: no failover takes it back. It comes some seconds later.
    #[serde(default)]
    pub(super) confirmed: bool,
}

impl LogQuery {
    pub(super) fn token(&self) -> Result<Option<ResumeToken>, Problem> {
        let read = |text: &String| ResumeToken::parse(text).ok_or_else(|| Problem::invalid("token is position@epoch"));
        self.token.as_ref().map(read).transpose()
    }

    /// `filter`, and the times.
    pub(super) fn times(&self, filter: Filter) -> Result<Filter, Problem> {
        let instant = |text: &String| {
            Timestamp::parse_rfc3339(text).map_err(|error| Problem::invalid(format!("{text:?}: {error}")))
        };
        let from = self.recorded_from.as_ref().map(instant).transpose()?;
        let before = self.recorded_before.as_ref().map(instant).transpose()?;
        let filter = from.into_iter().fold(filter, Filter::recorded_from);
        Ok(before.into_iter().fold(filter, Filter::recorded_before))
    }
}

pub(super) fn limit(limit: Option<u64>) -> Result<u64, Problem> {
    match limit {
        Some(0) => Err(Problem::invalid("limit is at least 1")),
        other => Ok(other.unwrap_or(u64::MAX)),
    }
}

/// Positions that an answer holds: `next` first, `left` of them, none above `newest`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LogRange {
    pub(super) next: Option<Position>,
    pub(super) newest: Head,
    pub(super) left: u64,
    pub(super) direction: Direction,
}

impl LogRange {
    pub(super) fn plan(query: &LogQuery, token: Option<ResumeToken>, head: Head) -> Result<Self, Problem> {
        let direction = Direction::from(query.direction);
        let starts = [query.from.is_some(), query.after.is_some(), token.is_some()];
        if starts.into_iter().filter(|given| *given).count() > 1 {
            return Err(Problem::invalid("from, after and token exclude each other"));
        }
        if direction == Direction::Backward && (query.follow || query.after.is_some() || token.is_some()) {
            return Err(Problem::invalid("follow, after and token are for reading forward"));
        }
        if query.follow && query.limit.is_some() {
            return Err(Problem::invalid("a tail has no limit"));
        }
        if query.follow && query.recorded_before.is_some() {
            return Err(Problem::invalid("a tail has no end: recorded_before is for an answer that has one"));
        }
        let from = match (query.from, query.after, token) {
            (Some(from), ..) => {
                Some(Position::new(from).ok_or_else(|| Problem::invalid("positions are counted from 1"))?)
            }
            (_, Some(after), _) => Some(Head::new(after).ok_or_else(|| Problem::invalid("no such position"))?.next()),
            (_, _, Some(token)) => Some(token.position.next()),
            (None, None, None) if direction == Direction::Backward => head.newest(),
            (None, None, None) => Some(Position::FIRST),
        };
        let next = match direction {
            Direction::Forward => from,
            // The head may have been asked for from above: an answer starts at the newest record then.
            Direction::Backward => from.min(head.newest()),
        };
        Ok(Self { next, newest: head, left: limit(query.limit)?, direction })
    }

    /// The position of the answer's last record.
    pub(super) fn last(&self) -> Option<Position> {
        let next = self.next?;
        match self.direction {
            Direction::Forward if !self.newest.includes(next) => None,
            Direction::Forward => Position::new(self.newest.get().min(next.get().saturating_add(self.left - 1))),
            Direction::Backward => Position::new(next.get().saturating_sub(self.left - 1).max(1)),
        }
    }

    /// What is left of it after `count` records, behind the last of which stands `end` (0: nothing).
    pub(super) fn after(self, count: usize, end: u64) -> Option<Self> {
        let left = self.left.saturating_sub(u64::try_from(count).unwrap_or(u64::MAX));
        let next = Position::new(end).filter(|end| left > 0 && self.newest.includes(*end))?;
        Some(Self { next: Some(next), left, ..self })
    }

    pub(super) fn oldest(&self) -> Option<Position> {
        match self.direction {
            Direction::Forward => self.last().and(self.next),
            Direction::Backward => self.last(),
        }
    }

    /// Where a tail goes on after the range.
    pub(super) fn next_after(&self) -> Position {
        self.last().map_or(self.next.unwrap_or(Position::FIRST), Position::next)
    }

    /// The token of the last record; of the token that was sent, where the answer is empty.
    pub(super) async fn resume(
        &self,
        reader: &dyn LogReader,
        token: Option<ResumeToken>,
    ) -> Result<Option<ResumeToken>, ReadError> {
        if self.direction == Direction::Backward {
            return Ok(None);
        }
        let Some(position) = self.last() else { return Ok(token) };
        let epoch = epoch_at(reader, position).await?;
        Ok(epoch.map(|epoch| ResumeToken { position, epoch }))
    }
}
