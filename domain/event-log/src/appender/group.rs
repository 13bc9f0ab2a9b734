//! One group: from the head's lock to its commit, and what is tried again when something fails on the way.

use std::sync::Arc;

use domain::Timestamp;
use domain::append::AppendError;
use domain::arbiter::{self, Facts, Ruling, Verdict};
use tokio::time::timeout;

use super::Ticket;
use super::ahead::{Ahead, Formed, Gathered};
use super::doubt::{self, Doubt, Fate};
use super::optimism::Optimism;
use super::queue::Queue;
use crate::error::{Trouble, chain, trouble};
use crate::holder;
use crate::log::{CLOCK_DIFFERENCE_MAX_SECONDS, Shared};
use crate::partitions::PartitionMap;
use crate::rows::{Content, NewRow};
use crate::session::{self, Purpose, SERVER_LIMIT, silent};
use crate::tags;
use crate::writer::{Found, Group, HeadRow, Ids, NewId, Writer, in_order};

/// How often a group is tried. Each further attempt follows a state that has changed: a lock that was waited for, a
/// holder that was ended, a partition that was made, a new connection.
const ATTEMPTS_MAX: usize = 5;

/// What became of a group.
pub(super) enum Settled {
    /// It is committed, or nothing of it had to be.
    Decided(Vec<Verdict>),
    /// Nothing is answered as stored: an error for each request.
    Failed(Vec<AppendError>),
    /// The server refuses the data of at least one request. Nothing is stored.
    Poisoned(String),
}

/// Why an attempt ended before its commit was sent, or without a reply to it.
enum Fault {
    /// Nothing is stored.
    Database(sqlx::Error),
    /// Nothing is stored, and trying again changes nothing.
    Refused(AppendError),
    /// Nothing is stored: these months have no partition.
    Partitions(Vec<Timestamp>),
    /// Nothing is stored: the map of partitions is of before or after a prune.
    OldMap,
    /// What commits was sent, and its reply was an error or none.
    InDoubt(Box<Doubt>, sqlx::Error),
}

impl From<sqlx::Error> for Fault {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

/// Commits groups, one after the other.
pub(super) struct Committer {
    shared: Arc<Shared>,
    ahead: Ahead,
    /// None where the last one is not known to be good.
    writer: Option<Writer>,
    optimism: Optimism,
}

impl Committer {
    pub(super) fn new(shared: Arc<Shared>, queue: Arc<Queue<Ticket>>) -> Self {
        let ahead = Ahead::new(queue, shared.config.group_events, shared.config.group_bytes);
        Self { shared, ahead, writer: None, optimism: Optimism::default() }
    }

    /// The next group to be settled; `None` once the queue is closed and empty.
    pub(super) async fn next(&mut self) -> Option<Formed> {
        let formed = self.ahead.next().await?;
        self.shared.counters.built_ahead.add(usize::from(formed.is_built()));
        Some(formed)
    }

    pub(super) async fn settle(&mut self, gathered: &Gathered<'_>) -> Settled {
        let mut last = String::new();
        for attempt in 0..ATTEMPTS_MAX {
            if attempt > 0 {
                self.shared.counters.retried_groups.add(1);
            }
            let fault = match self.attempt(gathered).await {
                Ok(ruling) => return Settled::Decided(ruling.verdicts),
                Err(fault) => fault,
            };
            match self.after(fault, gathered.requests.len()).await {
                Ok(reason) => last = reason,
                Err(settled) => return settled,
            }
        }
        failed(gathered.requests.len(), &unavailable(format!("tried {ATTEMPTS_MAX} times: {last}")))
    }

    /// Decides whether a failed attempt is followed by another one: `Ok` with the reason, if so.
    async fn after(&mut self, fault: Fault, requests: usize) -> Result<String, Settled> {
        let error = match fault {
            Fault::Refused(error) => return Err(failed(requests, &error)),
            Fault::Partitions(months) => {
                self.shared.counters.late_partitions.add(months.len());
                let made = self.shared.partitions.make(&months).await;
                made.map_err(|error| failed(requests, &unavailable(chain(&error))))?;
                return Ok("partitions were missing".into());
            }
            Fault::OldMap => return self.load_map(requests).await.map(|()| "the log was pruned meanwhile".into()),
            Fault::InDoubt(doubt, error) => return self.resolve(*doubt, &error).await,
            Fault::Database(error) => error,
        };
        let reason = chain(&error);
        if is_known_id(&error) {
            self.optimism.met_a_retry();
            return Ok(reason);
        }
        match trouble(&error) {
            // The connection may have died long before this group: with a new one it is as good as the first time.
            Trouble::Lost => self.writer = None,
            Trouble::Busy => self.look_at_holder().await,
            // The map knows a partition that is no more, or soon.
            Trouble::Gone | Trouble::Denied => self.load_map(requests).await?,
            Trouble::Poison => return Err(Settled::Poisoned(reason)),
            Trouble::Damage => {
                tracing::error!(reason, "the log contradicts itself");
                return Err(failed(requests, &AppendError::Corrupt { reason }));
            }
            Trouble::Server => return Err(failed(requests, &unavailable(reason))),
        }
        Ok(reason)
    }

    async fn load_map(&self, requests: usize) -> Result<(), Settled> {
        let loaded = self.shared.partitions.load().await;
        loaded.map(drop).map_err(|error| failed(requests, &unavailable(chain(&error))))
    }

    /// The map of partitions, if it is of the same state of pruning as what was decided on. Another one may name a table
    /// that is detached already, and what is written there would be dropped with it.
    fn map_of(&self, row: &HeadRow) -> Option<Arc<PartitionMap>> {
        let map = self.shared.partitions.cached();
        (map.pruned == row.head.pruned).then_some(map)
    }

    /// One try. What it leaves: a committed group, or a session without a transaction, or no session.
    async fn attempt(&mut self, gathered: &Gathered<'_>) -> Result<Ruling, Fault> {
        let mut writer = match self.writer.take() {
            Some(writer) => writer,
            None => self.connect().await?,
        };
        if self.optimism.allows(&gathered.requests, &gathered.wanted) {
            match self.attempt_optimistic(&mut writer, gathered).await {
                Ok(Some(ruling)) => {
                    self.writer = Some(writer);
                    return Ok(ruling);
                }
                Ok(None) => {}
                Err(fault) => {
                    let is_good = match &fault {
                        Fault::Database(error) => trouble(error) != Trouble::Lost,
                        Fault::Refused(_) | Fault::Partitions(_) | Fault::OldMap => true,
                        Fault::InDoubt(..) => false,
                    };
                    self.writer = is_good.then_some(writer);
                    return Err(fault);
                }
            }
        }
        self.attempt_locked(writer, gathered).await
    }

    /// Without a lock: for small groups, of which a log that nobody else writes takes one after the other. `None`:
    /// nothing is stored, and it has to be done under the lock.
    async fn attempt_optimistic(
        &mut self,
        writer: &mut Writer,
        gathered: &Gathered<'_>,
    ) -> Result<Option<Ruling>, Fault> {
        let mut decided = None;
        if self.optimism.trusts()
            && let Some((row, streams)) = writer.last_seen(&gathered.wanted.streams)
        {
            // Compared with the server's clock where it is stored.
            let now = if let Some(simulated) = row.simulated_now { simulated } else { self.clock().await? };
            let ruling = gathered.decide(facts(&row, now, Found { streams, ..Found::default() }));
            // Storing proves what was remembered of streams, and that the stored ids are new.
            decided = is_all_new(&ruling).then_some((row, now, ruling));
        }
        let is_looked_up = decided.is_none();
        let (row, now, ruling) = match decided {
            Some(decided) => decided,
            None => {
                let looked = timeout(SERVER_LIMIT, self.look(writer, gathered)).await;
                looked.unwrap_or_else(|_| Err(silent().into()))?
            }
        };
        if ruling.placed.is_empty() {
            return Ok(Some(ruling));
        }
        let group = group_of(&ruling, gathered, &row);
        let Some(map) = self.map_of(&row) else { return Ok(None) };
        let Some(table) = only_table(&group, &map).filter(|_| writer.takes_at_once(&group)) else { return Ok(None) };
        let sent = self.shared.elapsed();
        let stored = self.ahead.while_flushing(writer.store(&group, table, &row, now));
        let stored = timeout(SERVER_LIMIT, stored).await;
        match stored.unwrap_or_else(|_| Err(silent())) {
            Ok(true) => {
                self.shared.note_flush(sent);
                writer.remember(&row, ruling.head, ruling.recorded_at, &ruling.streams);
                self.committed(&ruling).await;
                Ok(Some(ruling))
            }
            Ok(false) => {
                self.optimism.lost_a_race();
                Ok(None)
            }
            // Not known, and there: a prune that was cut short has not forgotten it yet. Under the lock it gives way.
            Err(error) if is_looked_up && is_known_id(&error) => {
                self.optimism.met_a_retry();
                Ok(None)
            }
            // The session may still run it.
            Err(error) if trouble(&error) == Trouble::Lost => {
                Err(Fault::InDoubt(Box::new(Doubt { ruling, session: writer.backend() }), error))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Decides on the log as it is at one moment.
    async fn look(&self, writer: &mut Writer, gathered: &Gathered<'_>) -> Result<(HeadRow, Timestamp, Ruling), Fault> {
        let keys = gathered.wanted.keys.concat();
        let (row, found) = writer.look(&gathered.wanted.streams, &keys).await?;
        let now = self.now(&row).await?;
        let ruling = gathered.decide(facts(&row, now, found));
        Ok((row, now, ruling))
    }

    /// Under the lock: everything else.
    async fn attempt_locked(&mut self, mut writer: Writer, gathered: &Gathered<'_>) -> Result<Ruling, Fault> {
        // Before the head is held, for which others may wait.
        gathered.spelled();
        // Dropped with its connection if this future is, or if the server says nothing.
        let prepared = timeout(SERVER_LIMIT, self.prepare(&mut writer, gathered));
        let (locked, ruling) = match prepared.await.unwrap_or_else(|_| Err(silent().into())) {
            Ok(prepared) => prepared,
            Err(fault) => {
                if timeout(SERVER_LIMIT, writer.roll_back()).await.is_ok_and(|rolled_back| rolled_back.is_ok()) {
                    self.writer = Some(writer);
                }
                return Err(fault);
            }
        };
        let stored = !ruling.placed.is_empty();
        let sent = self.shared.elapsed();
        let ended = async {
            match stored {
                true => self.ahead.while_flushing(writer.commit()).await,
                false => writer.roll_back().await,
            }
        };
        let ended = timeout(SERVER_LIMIT, ended);
        if let Err(error) = ended.await.unwrap_or_else(|_| Err(silent())) {
            let doubt = || Box::new(Doubt { ruling, session: writer.backend() });
            return Err(if stored { Fault::InDoubt(doubt(), error) } else { error.into() });
        }
        if stored {
            self.shared.note_flush(sent);
            writer.remember(&locked, ruling.head, ruling.recorded_at, &ruling.streams);
            self.committed(&ruling).await;
        }
        self.writer = Some(writer);
        Ok(ruling)
    }

    async fn connect(&self) -> Result<Writer, Fault> {
        let (connection, server) = session::open(&self.shared.config, Purpose::Append)
            .await
            .map_err(|error| Fault::Refused(unavailable(chain(&error))))?;
        if server.system_identifier != self.shared.system_identifier {
            let reason = "the database's URL leads to another server than the one that was opened".into();
            return Err(Fault::Refused(unavailable(reason)));
        }
        Ok(Writer::new(connection, server.backend))
    }

    /// Everything of a group but the commit.
    async fn prepare(&mut self, writer: &mut Writer, gathered: &Gathered<'_>) -> Result<(HeadRow, Ruling), Fault> {
        let locked = writer.lock().await?;
        let (ruling, ids) = self.decide_locked(writer, gathered, &locked).await?;
        if !ruling.placed.is_empty() {
            let group = group_of(&ruling, gathered, &locked);
            let map = self.map_of(&locked).ok_or(Fault::OldMap)?;
            let months = group.months();
            let missing: Vec<Timestamp> =
                months.iter().map(|(month, _)| *month).filter(|month| map.table(*month).is_none()).collect();
            if !missing.is_empty() {
                // Made outside, without the head: it syncs files.
                return Err(Fault::Partitions(missing));
            }
            writer.write(&group, gathered.spelled(), &map, ids).await?;
        }
        Ok((locked, ruling))
    }

    /// Decides as if all ids were new, which storing them proves; where retries are about or a request is refused, which
    /// may be one, the ids are looked up first.
    async fn decide_locked(
        &mut self,
        writer: &mut Writer,
        gathered: &Gathered<'_>,
        locked: &HeadRow,
    ) -> Result<(Ruling, Ids), Fault> {
        let (now, pruned) = (self.now(locked).await?, locked.head.pruned);
        let matches = tags::matches(writer.connection(), &gathered.requests, &locked.head).await?;
        let decide = |found| {
            let facts = Facts { matches: matches.clone(), ..facts(locked, now, found) };
            gathered.decide(facts)
        };
        let wanted = &gathered.wanted;
        if self.optimism.trusts() {
            let ruling = decide(writer.look_up(&wanted.streams, &[], &wanted.consumers, pruned).await?);
            if is_all_new(&ruling) {
                return Ok((ruling, Ids::New));
            }
        }
        let keys = wanted.keys.concat();
        let found = writer.look_up(&wanted.streams, &keys, &wanted.consumers, pruned).await?;
        Ok((decide(found), Ids::LookedUp))
    }

    /// The log's clock. One that differs from the server's by more than a minute is believed by nobody: `recordedat`
    /// would run ahead of every other process and never come back.
    async fn now(&self, row: &HeadRow) -> Result<Timestamp, Fault> {
        if let Some(simulated) = row.simulated_now {
            return Ok(simulated);
        }
        let now = self.clock().await?;
        match crate::log::clock_difference(now, row.database_now) {
            Some(seconds) => Err(Fault::Refused(unavailable(format!(
                "this clock and the database's differ by {seconds} s, at most {CLOCK_DIFFERENCE_MAX_SECONDS} s are allowed"
            )))),
            None => Ok(now),
        }
    }

    async fn clock(&self) -> Result<Timestamp, Fault> {
        self.shared.clock.now().await.map_err(|error| Fault::Refused(unavailable(chain(&error))))
    }

    async fn committed(&self, ruling: &Ruling) {
        self.shared.counters.committed(ruling.placed.len());
        self.shared.note_commit(ruling.head, ruling.placed.iter().map(|place| place.recorded_at)).await;
    }

    /// The head was not had in time. Ends its holder if that is frozen; the next attempt waits again.
    async fn look_at_holder(&mut self) {
        if let Some(writer) = &mut self.writer
            && let Err(error) = holder::end_if_frozen(writer.connection(), &self.shared.counters).await
        {
            tracing::warn!(error = chain(&error), "cannot see who holds the log's head");
            self.writer = None;
        }
    }

    /// Finds out what became of a group: `Ok` with the reason if it is not stored and may be tried again.
    async fn resolve(&mut self, doubt: Doubt, error: &sqlx::Error) -> Result<String, Settled> {
        self.shared.counters.in_doubt.add(1);
        let lost = chain(error);
        tracing::warn!(error = lost, head = doubt.ruling.head.get(), "the reply to a commit was lost");
        let (fate, writer) = doubt::resolve(&self.shared, &doubt).await;
        self.writer = writer;
        let ruling = doubt.ruling;
        match fate {
            Fate::Stored => {
                self.committed(&ruling).await;
                Err(Settled::Decided(ruling.verdicts))
            }
            // The connection died: with a new one it is as good as the first time.
            Fate::NotStored if trouble(error) == Trouble::Lost => Ok(format!("the commit was lost: {lost}")),
            Fate::NotStored => Err(failed(ruling.verdicts.len(), &unavailable(format!("the commit was lost: {lost}")))),
            Fate::Unknown(reason) => {
                Err(Settled::Failed(ruling.verdicts.iter().map(|verdict| in_doubt(verdict, &reason)).collect()))
            }
        }
    }
}

/// The answer to a request of a group whose fate is unknown.
fn in_doubt(verdict: &Verdict, reason: &str) -> AppendError {
    match verdict {
        // Decided against the others of its group, which may not have happened; nothing of it is stored.
        Verdict::Refused(_) => unavailable(reason.to_owned()),
        _ => AppendError::Indeterminate { reason: reason.to_owned() },
    }
}

fn group_of<'a>(ruling: &'a Ruling, gathered: &Gathered<'a>, locked: &HeadRow) -> Group<'a> {
    let starts = gathered.starts();
    let row = |place: &arbiter::Placement| NewRow {
        position: place.position,
        recorded_at: place.recorded_at,
        version: place.version,
        previous: place.previous,
        epoch: Some(locked.head.epoch),
        content: Content::Event(&gathered.requests[place.request].events[place.event]),
        index: starts[place.request] + place.event,
    };
    let id = |place: &arbiter::Placement| NewId { key: place.key, position: place.position, keep: place.keep };
    Group {
        rows: ruling.placed.iter().map(row).collect(),
        ids: in_order(ruling.placed.iter().map(id)),
        streams: &ruling.streams,
        checkpoints: &ruling.checkpoints,
        head: ruling.head,
        recorded_at: ruling.recorded_at,
    }
}

fn facts(row: &HeadRow, now: Timestamp, found: Found) -> Facts {
    let Found { streams, known, checkpoints } = found;
    Facts { head: row.head.clone(), now, streams, known, checkpoints, matches: Vec::new() }
}

/// The partition of a group that is of one month, if that has events already.
fn only_table<'a>(group: &Group<'_>, map: &'a PartitionMap) -> Option<&'a str> {
    match group.months().as_slice() {
        [(month, _)] if map.has_events(*month) => map.table(*month).map(AsRef::as_ref),
        _ => None,
    }
}

/// Whether every request is stored or repeats one that is: a request that is refused may be a retry of one that was
/// stored long ago, and storing the others does not show it.
fn is_all_new(ruling: &Ruling) -> bool {
    let is_new = |verdict: &Verdict| matches!(verdict, Verdict::Accepted(_) | Verdict::Repeats(_));
    ruling.verdicts.iter().all(is_new)
}

/// Whether the server refused an id that is in the log.
fn is_known_id(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| error.constraint() == Some("event_ids_pkey"))
}

fn failed(requests: usize, error: &AppendError) -> Settled {
    Settled::Failed(vec![error.clone(); requests])
}

fn unavailable(reason: String) -> AppendError {
    AppendError::Unavailable { reason, retry_after_seconds: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_doubt_only_what_may_be_stored_is_indeterminate() {
        let refused = Verdict::Refused(unavailable("a reason".into()));
        assert!(matches!(in_doubt(&refused, "r"), AppendError::Unavailable { .. }));
        let accepted = Verdict::Accepted(domain::append::Appended { replayed: false, events: Vec::new() });
        assert!(matches!(in_doubt(&accepted, "r"), AppendError::Indeterminate { .. }));
    }
}
