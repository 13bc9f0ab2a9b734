//! Rows of groups as what they mean, and settlements as the arrays that a statement takes. It asks nothing.

use std::collections::HashMap;
use std::time::Duration;

use domain::filter::Filter;
use domain::group::{
    Delivered, Group, GroupId, GroupName, GroupSettings, GroupStatus, Idle, Lease, LeaseNumber, NewGroup, Outcome,
    Parked, Reason, Settled, Settlement, Start,
};
use domain::{Head, Position, StreamName};
use sqlx::Row as _;
use sqlx::postgres::PgRow;

use crate::instant::Instant;

/// A setting as an integer column.
pub(super) fn integer(setting: u32) -> i32 {
    i32::try_from(setting).unwrap_or(i32::MAX)
}

/// An error of a value that the column's CHECK refuses.
fn odd(what: &'static str) -> sqlx::Error {
    sqlx::Error::Decode(format!("{what} of a group is none").into())
}

fn number(row: &PgRow, column: &'static str) -> Result<u64, sqlx::Error> {
    u64::try_from(row.try_get::<i64, _>(column)?).map_err(|_| odd(column))
}

fn small(row: &PgRow, column: &'static str) -> Result<u32, sqlx::Error> {
    u32::try_from(row.try_get::<i32, _>(column)?).map_err(|_| odd(column))
}

fn position(row: &PgRow) -> Result<Position, sqlx::Error> {
    Position::from_i64(row.try_get("position")?).ok_or_else(|| odd("position"))
}

fn head(row: &PgRow, column: &'static str) -> Result<Head, sqlx::Error> {
    Head::from_i64(row.try_get(column)?).ok_or_else(|| odd(column))
}

fn filter(row: &PgRow) -> Result<Filter, sqlx::Error> {
    let (categories, types, prefixes): (Vec<String>, Vec<String>, Vec<String>) =
        (row.try_get("categories")?, row.try_get("event_types")?, row.try_get("stream_prefixes")?);
    let filter = categories.iter().try_fold(Filter::default(), |filter, value| filter.category(value));
    let filter =
        types.iter().try_fold(filter.map_err(|_| odd("a category"))?, |filter, value| filter.event_type(value));
    let filter =
        prefixes.iter().try_fold(filter.map_err(|_| odd("a type"))?, |filter, value| filter.stream_prefix(value));
    filter.map_err(|_| odd("a prefix"))
}

/// A row of `group_find.sql`.
pub(super) fn group(row: &PgRow) -> Result<Group, sqlx::Error> {
    let start = match row.try_get::<Option<i64>, _>("from_position")? {
        None => Start::Head,
        Some(from) => Start::From(Position::from_i64(from).ok_or_else(|| odd("from_position"))?),
    };
    let settings = GroupSettings {
        lease_seconds: small(row, "lease_seconds")?,
        attempts_max: small(row, "attempts_max")?,
        retry_first_seconds: small(row, "retry_first_seconds")?,
        retry_max_seconds: small(row, "retry_max_seconds")?,
        unsettled_max: small(row, "unsettled_max")?,
    };
    let name = GroupName::parse(row.try_get("name")?).map_err(|_| odd("name"))?;
    let made = NewGroup { name, filter: filter(row)?, start, settings };
    Ok(Group { id: GroupId(row.try_get("id")?), made, created_at: row.try_get::<Instant, _>("created_at")?.0 })
}

/// A row of `group_statuses.sql`.
pub(super) fn status(row: &PgRow) -> Result<GroupStatus, sqlx::Error> {
    let (group, listed_to) = (group(row)?, head(row, "listed_to")?);
    let lowest: Option<i64> = row.try_get("lowest")?;
    let lowest = lowest.map(|lowest| Position::from_i64(lowest).ok_or_else(|| odd("position"))).transpose()?;
    let oldest: Option<i64> = row.try_get("oldest_seconds")?;
    Ok(GroupStatus {
        group,
        listed_to,
        checkpoint: lowest.map_or(listed_to, Position::head_before),
        unsettled: number(row, "unsettled")?,
        parked: number(row, "parked")?,
        oldest_unsettled_seconds: oldest.map(|seconds| u64::try_from(seconds).unwrap_or(0)),
        lapses: number(row, "lapses")?,
    })
}

/// The rows of `group_pick.sql`, which come in any order.
pub(super) fn lease(rows: &[PgRow]) -> Result<Option<Lease>, sqlx::Error> {
    let Some(first) = rows.first() else { return Ok(None) };
    let lease: i64 = first.try_get("lease")?;
    let lease = u64::try_from(lease).ok().and_then(LeaseNumber::new).ok_or_else(|| odd("lease"))?;
    let delivered = |row: &PgRow| {
        let (position, attempt) = (position(row)?, small(row, "attempts")? + 1);
        Ok(Delivered { position, attempt, replayed: row.try_get("replayed")? })
    };
    let mut events: Vec<Delivered> = rows.iter().map(delivered).collect::<Result<_, sqlx::Error>>()?;
    events.sort_unstable_by_key(|event| event.position);
    Ok(Some(Lease { number: lease, deadline: first.try_get::<Instant, _>("due_at")?.0, events }))
}

/// The row of `group_idle.sql`.
pub(super) fn idle(of: &Group, row: &PgRow) -> Result<Idle, sqlx::Error> {
    let due_in: Option<i64> = row.try_get("due_in_micros")?;
    let (unsettled, parked) = (number(row, "unsettled")?, number(row, "parked")?);
    Ok(Idle {
        listed_to: head(row, "listed_to")?,
        room: Idle::room(of.settings().unsettled_max, unsettled, parked),
        due_in: due_in.map(|micros| Duration::from_micros(u64::try_from(micros).unwrap_or(0))),
    })
}

/// A row of `group_parked.sql`.
pub(super) fn parked(row: &PgRow) -> Result<Parked, sqlx::Error> {
    let stream = StreamName::of(row.try_get("category")?, row.try_get("stream_id")?);
    Ok(Parked {
        position: position(row)?,
        stream: stream.map_err(|_| odd("a stream"))?,
        attempts: small(row, "attempts")?,
        reason: Reason::of(row.try_get("reason")?),
        consumer: row.try_get("consumer")?,
        parked_at: row.try_get::<Instant, _>("parked_at")?.0,
    })
}

/// Settlements, one array a column.
pub(super) struct Outcomes {
    pub(super) positions: Vec<i64>,
    pub(super) words: Vec<&'static str>,
    pub(super) after_seconds: Vec<Option<i64>>,
    pub(super) reasons: Vec<String>,
}

impl Outcomes {
    pub(super) fn of(events: &[Settlement]) -> Self {
        let mut all = Self { positions: vec![], words: vec![], after_seconds: vec![], reasons: vec![] };
        // By position, as everybody locks them.
        let mut events: Vec<&Settlement> = events.iter().collect();
        events.sort_unstable_by_key(|event| event.position);
        for Settlement { position, outcome } in events {
            let (word, after, reason) = match outcome {
                Outcome::Done => ("done", None, ""),
                Outcome::Release => ("release", None, ""),
                Outcome::Park { reason } => ("park", None, reason.as_str()),
                Outcome::Retry { after_seconds, reason } => ("retry", *after_seconds, reason.as_str()),
            };
            all.positions.push(position.as_i64());
            all.words.push(word);
            all.after_seconds.push(after.map(i64::from));
            all.reasons.push(reason.to_owned());
        }
        all
    }
}

/// What became of `events`, in their order; of those without a row nothing has changed.
pub(super) fn settled(events: &[Settlement], rows: &[PgRow]) -> Result<Vec<Settled>, sqlx::Error> {
    let mut became: HashMap<Position, Settled> = HashMap::new();
    for row in rows {
        let word: &str = row.try_get("settled")?;
        became.insert(position(row)?, Settled::parse(word).ok_or_else(|| odd("an outcome"))?);
    }
    Ok(events.iter().map(|event| became.get(&event.position).copied().unwrap_or(Settled::Lapsed)).collect())
}
