//! The log of a region that follows: takes the other region's records as they are, in order, and nothing else.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use domain::append::{KeepIds, LogHead, Role, StreamHead};
use domain::arbiter::EventKey;
use domain::event::TOMBSTONE_TYPE;
use domain::log::ApplyError;
use domain::record::Record;
use domain::{Epoch, Head, Position, StreamName, StreamVersion, Timestamp};
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::error::{Trouble, chain, trouble};
use crate::holder;
use crate::log::Shared;
use crate::rows::{Content, NewRow, SpelledRows};
use crate::session::{self, Purpose, SERVER_LIMIT, silent};
use crate::sessions::answered;
use crate::writer::{Group, HeadRow, Ids, NewId, Writer, in_order};

/// How often the head is waited for: each time its holder is looked at, and ended if it is frozen.
const LOCK_TRIES: usize = 5;

/// Applies batches and changes the role, one at a time.
pub(crate) struct Follower {
    shared: Arc<Shared>,
    /// None while it is in use, and where the last one is not known to be good: a call that is cancelled takes its
    /// session with it.
    writer: Mutex<Option<Writer>>,
}

/// Why an attempt did not apply the batch.
enum Fault {
    Refused(ApplyError),
    Database(sqlx::Error),
    Partitions(Vec<Timestamp>),
    /// The map of partitions is of before or after a prune.
    OldMap,
}

impl Fault {
    fn is_lost(&self) -> bool {
        matches!(self, Self::Database(error) if trouble(error) == Trouble::Lost)
    }

    fn reason(&self) -> String {
        match self {
            Self::Refused(error) => chain(error),
            Self::Database(error) => chain(error),
            Self::Partitions(_) => "partitions were missing".into(),
            Self::OldMap => "the log was pruned meanwhile".into(),
        }
    }
}

impl From<sqlx::Error> for Fault {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

impl From<ApplyError> for Fault {
    fn from(error: ApplyError) -> Self {
        Self::Refused(error)
    }
}

fn unavailable(error: &dyn std::error::Error) -> ApplyError {
    ApplyError::Unavailable { reason: chain(error) }
}

impl Follower {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, writer: Mutex::new(None) }
    }

    pub(crate) async fn apply(&self, records: &[Record], kept: &[Position]) -> Result<Head, ApplyError> {
        let mut slot = self.writer.lock().await;
        let mut last = String::new();
        for _ in 0..LOCK_TRIES {
            let mut writer = match slot.take() {
                Some(writer) => writer,
                None => self.connect().await?,
            };
            let attempt = timeout(SERVER_LIMIT, self.attempt(&mut writer, records, kept)).await;
            let fault = match attempt.unwrap_or_else(|_| Err(silent().into())) {
                Ok(head) => {
                    *slot = Some(writer);
                    return Ok(head);
                }
                Err(fault) => fault,
            };
            // Of a session that was left in the middle of an answer nobody knows which answer comes next.
            if !fault.is_lost()
                && timeout(SERVER_LIMIT, writer.roll_back()).await.is_ok_and(|rolled_back| rolled_back.is_ok())
            {
                *slot = Some(writer);
            }
            last = fault.reason();
            match fault {
                Fault::Refused(error) => return Err(error),
                Fault::Partitions(months) => {
                    self.shared.partitions.make(&months).await.map_err(|error| unavailable(&error))?;
                }
                Fault::OldMap => self.load_map().await?,
                Fault::Database(error) if matches!(trouble(&error), Trouble::Gone | Trouble::Denied) => {
                    self.load_map().await?;
                }
                Fault::Database(error) if trouble(&error) == Trouble::Busy => {
                    if let Some(writer) = slot.as_mut() {
                        let looked = holder::end_if_frozen(writer.connection(), &self.shared.counters).await;
                        looked.map_err(|error| unavailable(&error))?;
                    }
                }
                Fault::Database(error) => return Err(unavailable(&error)),
            }
        }
        Err(ApplyError::Unavailable { reason: format!("tried {LOCK_TRIES} times: {last}") })
    }

    async fn load_map(&self) -> Result<(), ApplyError> {
        self.shared.partitions.load().await.map(drop).map_err(|error| unavailable(&error))
    }

    async fn connect(&self) -> Result<Writer, ApplyError> {
        let (connection, server) =
            session::open(&self.shared.config, Purpose::Append).await.map_err(|error| unavailable(&error))?;
        if server.system_identifier != self.shared.system_identifier {
            return Err(ApplyError::Unavailable { reason: "the database's URL leads to another server now".into() });
        }
        Ok(Writer::new(connection, server.backend))
    }

    async fn attempt(&self, writer: &mut Writer, records: &[Record], kept: &[Position]) -> Result<Head, Fault> {
        let locked = writer.lock().await?;
        let LogHead { head, role, epoch, .. } = locked.head;
        if role != Role::Follower {
            return Err(ApplyError::NotFollowing { role, epoch }.into());
        }
        let known = records.iter().take_while(|record| head.includes(record.position())).count();
        let (known, new) = records.split_at(known);
        self.compare(known, &locked).await?;
        if new.is_empty() {
            writer.roll_back().await?;
            return Ok(head);
        }
        let streams: HashSet<&StreamName> = new.iter().map(Record::stream).collect();
        let found = writer.look_up(&streams, &[], &HashSet::new(), locked.head.pruned).await?;
        let followed = follow(new, found.streams, &locked.head)?;
        let kept: HashSet<&Position> = kept.iter().collect();
        let group = Group {
            rows: new.iter().enumerate().map(|(index, record)| NewRow::of(index, record)).collect(),
            ids: in_order(new.iter().filter_map(|record| id(record, &kept))),
            streams: &followed.streams,
            checkpoints: &HashMap::new(),
            head: followed.head,
            recorded_at: followed.recorded_at,
        };
        let map = self.shared.partitions.cached();
        if map.pruned != locked.head.pruned {
            return Err(Fault::OldMap);
        }
        let months = group.months().into_iter().map(|(month, _)| month);
        let missing: Vec<Timestamp> = months.filter(|month| map.table(*month).is_none()).collect();
        if !missing.is_empty() {
            return Err(Fault::Partitions(missing));
        }
        // Positions that are new have new ids, unless an older one was used again after its month was pruned.
        let spelled = SpelledRows::of(new.iter().map(Content::of));
        writer.write(&group, &spelled, &map, Ids::LookedUp).await?;
        writer.commit().await?;
        writer.remember(&locked, followed.head, followed.recorded_at, &followed.streams);
        self.shared.note_commit(followed.head, new.iter().map(Record::recorded_at)).await;
        Ok(followed.head)
    }

    /// Records that are here already must be here byte for byte. What is pruned was compared when it was archived.
    async fn compare(&self, known: &[Record], locked: &HeadRow) -> Result<(), Fault> {
        let live: Vec<&Record> = known.iter().filter(|r| !locked.head.pruned.includes(r.position())).collect();
        let positions: Vec<_> = live.iter().map(|record| record.position()).collect();
        let here = self.shared.reader.at_positions(&positions).await.map_err(|error| unavailable(&error))?;
        let differs = |record: &&&Record| here.get(&record.position()).is_some_and(|here| here != **record);
        match live.iter().find(differs) {
            Some(record) => {
                let reason = "another record is there".into();
                Err(ApplyError::Refused { position: record.position(), reason }.into())
            }
            None => Ok(()),
        }
    }

    pub(crate) async fn change_role(&self, from: (Epoch, Role), to: (Epoch, Role)) -> Result<LogHead, ApplyError> {
        let mut session = self.shared.pool.acquire().await.map_err(|error| unavailable(&error))?;
        for _ in 0..LOCK_TRIES {
            // One statement: it waits for the append under way, and sees the row as that leaves it.
            let changed = sqlx::query(include_str!("sql/change_role.sql"))
                .bind(from.0.as_i64())
                .bind(from.1.as_str())
                .bind(to.0.as_i64())
                .bind(to.1.as_str())
                .execute(&mut *session);
            match answered(changed).await {
                Ok(changed) => {
                    let head = self.shared.reader.log_head().await.map_err(|error| unavailable(&error))?;
                    let done = changed.rows_affected() == 1;
                    let (role, epoch) = (head.role, head.epoch);
                    return if done { Ok(head) } else { Err(ApplyError::NotFollowing { role, epoch }) };
                }
                Err(error) if trouble(&error) == Trouble::Busy => {
                    let looked = holder::end_if_frozen(&mut session, &self.shared.counters).await;
                    looked.map_err(|error| unavailable(&error))?;
                }
                Err(error) => return Err(unavailable(&error)),
            }
        }
        Err(ApplyError::Unavailable { reason: "the log's head is held by others".into() })
    }
}

fn id(record: &Record, kept: &HashSet<&Position>) -> Option<NewId> {
    // What was removed has no id any more.
    let Record::Event(recorded) = record else { return None };
    let keep = if kept.contains(&recorded.position) { KeepIds::ForEver } else { KeepIds::WhileLive };
    Some(NewId { key: EventKey::of_event(&recorded.event), position: recorded.position, keep })
}

/// The log after the records.
#[derive(Debug)]
struct Followed {
    head: Head,
    recorded_at: Timestamp,
    /// Heads of the streams that move.
    streams: HashMap<StreamName, StreamHead>,
}

/// Lets `records` follow a log that ends at `head`, with `streams` as they are there.
fn follow(
    records: &[Record],
    mut streams: HashMap<StreamName, StreamHead>,
    head: &LogHead,
) -> Result<Followed, ApplyError> {
    let mut followed = Followed { head: head.head, recorded_at: head.recorded_at, streams: HashMap::new() };
    for record in records {
        let position = record.position();
        if position != followed.head.next() {
            return Err(ApplyError::OutOfOrder { expected: followed.head.next(), found: position });
        }
        let before = streams.get(record.stream()).copied();
        if let Some(reason) = contradiction(record, before, &followed, head.epoch) {
            return Err(ApplyError::Refused { position, reason });
        }
        let moved = StreamHead {
            version: record.version(),
            position,
            first: before.map_or(position, |head| head.first),
            closed: matches!(record, Record::Event(e) if e.event.event_type == TOMBSTONE_TYPE),
        };
        streams.insert(record.stream().clone(), moved);
        followed.streams.insert(record.stream().clone(), moved);
        followed.head = position.as_head();
        followed.recorded_at = record.recorded_at();
    }
    Ok(followed)
}

/// Why `record` cannot be the next one.
fn contradiction(record: &Record, before: Option<StreamHead>, log: &Followed, epoch: Epoch) -> Option<String> {
    let version = before.map_or(StreamVersion::FIRST, |head| head.version.next());
    if record.version() != version {
        return Some(format!("its stream's next version is {version}, not {}", record.version()));
    }
    if record.recorded_at() < log.recorded_at && log.head != Head::EMPTY {
        return Some(format!("it was recorded before its predecessor, at {}", record.recorded_at()));
    }
    let Record::Event(event) = record else { return None };
    if event.previous != before.map(|head| head.position) {
        return Some("its back link is not the stream's newest event".into());
    }
    (event.epoch > epoch).then(|| format!("it is of epoch {}, this region knows {epoch}", event.epoch))
}
