//! Types and tags in the database: what conditions are looked up by. Written with the events in the same transaction, by
//! appender and follower alike, so that a region answers the same after a failover. It never decides.

use std::collections::HashMap;

use domain::Position;
use domain::append::{AppendRequest, ConditionItem, LogHead};
use domain::arbiter::Match;
use domain::event::NewEvent;
use sqlx::Row as _;
use sqlx::postgres::{PgConnection, PgRow};

use crate::rows::{self, Content, NewRow};

/// A type's head is written once in so many positions: its newest event is less than this far beyond it. More costs a
/// condition on types alone as many rows at most; less writes heads more often. It may never become less: heads that
/// were written before would be believed too early.
const TYPE_HEAD_LAG: u64 = 4096;
/// Types whose head is kept in memory.
const TYPES_MAX: usize = 10_000;

/// Writes tags and heads of types, and remembers which heads its session has written.
#[derive(Debug, Default)]
pub(crate) struct TypeHeads {
    /// Never above what is stored: a head that another session has moved on is only written too early.
    committed: HashMap<String, Position>,
    /// Of the transaction under way. One that is rolled back leaves them to the next, which forgets them.
    written: Vec<(String, Position)>,
}

impl TypeHeads {
    /// Writes the tags of `rows`, and the heads of their types where they are due. Mostly neither: then the server is not
    /// asked.
    pub(crate) async fn write(
        &mut self,
        connection: &mut PgConnection,
        rows: &[NewRow<'_>],
    ) -> Result<(), sqlx::Error> {
        self.written.clear();
        let events = rows.iter().filter_map(|row| match row.content {
            Content::Event(event) => Some((row.position, event)),
            Content::Removed(_) => None,
        });
        let (mut due, mut tags) = (HashMap::new(), Vec::new());
        for (position, event) in events {
            if self.is_due(&event.event_type, position) {
                due.insert(event.event_type.as_str(), position);
            }
            tags.extend(distinct(event).map(|tag| (tag, event.event_type.as_str(), position.as_i64())));
        }
        if due.is_empty() && tags.is_empty() {
            return Ok(());
        }
        sqlx::query(include_str!("sql/tag_write.sql"))
            .bind(due.keys().copied().collect::<Vec<&str>>())
            .bind(due.values().map(|position| position.as_i64()).collect::<Vec<_>>())
            .bind(tags.iter().map(|(tag, ..)| *tag).collect::<Vec<&str>>())
            .bind(tags.iter().map(|(_, event_type, _)| *event_type).collect::<Vec<&str>>())
            .bind(tags.iter().map(|(.., position)| *position).collect::<Vec<_>>())
            .execute(connection)
            .await?;
        self.written.extend(due.into_iter().map(|(event_type, position)| (event_type.to_owned(), position)));
        Ok(())
    }

    /// Whether [`TypeHeads::write`] would write anything for `rows`.
    pub(crate) fn has_due(&self, rows: &[NewRow<'_>]) -> bool {
        rows.iter().any(|row| match row.content {
            Content::Event(event) => self.is_due(&event.event_type, row.position) || event.tags().next().is_some(),
            Content::Removed(_) => false,
        })
    }

    /// Believes what was written last: the transaction is committed.
    pub(crate) fn committed(&mut self) {
        if self.committed.len() + self.written.len() > TYPES_MAX {
            self.committed.clear();
        }
        self.committed.extend(self.written.drain(..));
    }

    fn is_due(&self, event_type: &str, position: Position) -> bool {
        self.committed.get(event_type).is_none_or(|written| position.get() - written.get() >= TYPE_HEAD_LAG)
    }
}

/// The event's tags, each once.
fn distinct(event: &NewEvent) -> impl Iterator<Item = &str> {
    let seen_before = |index: usize, tag: &str| event.tags().take(index).any(|before| before == tag);
    event.tags().enumerate().filter(move |(index, tag)| !seen_before(*index, tag)).map(|(_, tag)| tag)
}

/// What is found of each item of the requests' conditions, in one round trip; in none where nobody has conditions, or
/// only such as name the head. The caller holds the head.
pub(crate) async fn matches(
    connection: &mut PgConnection,
    requests: &[&AppendRequest],
    log: &LogHead,
) -> Result<Vec<Vec<Match>>, sqlx::Error> {
    if requests.iter().all(|request| request.conditions.is_empty()) {
        return Ok(Vec::new());
    }
    let mut asked = Asked::default();
    let requests = requests.iter().enumerate();
    let mut found: Vec<Vec<Match>> = requests.map(|(index, request)| asked.request(index, request, log)).collect();
    for ((request, item), answer) in asked.answers(connection, log).await? {
        found[request][item] = answer;
    }
    Ok(found)
}

/// Items that the server is asked for, each with its place among the answers: of which request, and which item of it.
#[derive(Default)]
struct Asked {
    tags: Vec<String>,
    types: Vec<String>,
    after: Vec<i64>,
    places: Vec<(usize, usize)>,
}

impl Asked {
    /// What the head alone says of a request's items; the others are asked for, and unsettled until then.
    fn request(&mut self, index: usize, request: &AppendRequest, log: &LogHead) -> Vec<Match> {
        let mut found = Vec::new();
        for condition in &request.conditions {
            let newest = log.head.newest().filter(|newest| !condition.after.includes(*newest));
            for item in &condition.fail_if_events_match {
                let is_any = item.types.is_empty() && item.tags.is_empty();
                found.push(match newest {
                    None => Match::None,
                    Some(newest) if is_any => Match::At(newest),
                    Some(_) => {
                        self.item(item, condition.after.as_i64(), (index, found.len()));
                        Match::Unsettled { up_to: log.head }
                    }
                });
            }
        }
        found
    }

    fn item(&mut self, item: &ConditionItem, after: i64, place: (usize, usize)) {
        self.tags.push(item.tags.join(" "));
        self.types.push(item.types.join("\n"));
        self.after.push(after);
        self.places.push(place);
    }

    async fn answers(
        self,
        connection: &mut PgConnection,
        log: &LogHead,
    ) -> Result<Vec<((usize, usize), Match)>, sqlx::Error> {
        if self.places.is_empty() {
            return Ok(Vec::new());
        }
        let answers = sqlx::query(include_str!("sql/tag_matches.sql"))
            .bind(&self.tags)
            .bind(&self.types)
            .bind(&self.after)
            .bind(log.head.as_i64())
            .bind(log.pruned.as_i64())
            .bind(TYPE_HEAD_LAG.cast_signed())
            .fetch_all(connection)
            .await?;
        answers.iter().map(|row| Ok((self.places[ordinal(row)?], answer(row)?))).collect()
    }
}

/// From 0.
fn ordinal(row: &PgRow) -> Result<usize, sqlx::Error> {
    rows::number(row, "ord", |ord| usize::try_from(ord - 1).ok())
}

fn answer(row: &PgRow) -> Result<Match, sqlx::Error> {
    let matched = row.try_get::<Option<i64>, _>("matched")?.and_then(Position::from_i64);
    let unsettled = row.try_get::<Option<i64>, _>("unsettled")?.and_then(Position::from_i64);
    Ok(match (matched, unsettled) {
        (Some(position), _) => Match::At(position),
        (None, Some(up_to)) => Match::Unsettled { up_to: up_to.as_head() },
        (None, None) => Match::None,
    })
}
