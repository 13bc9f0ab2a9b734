//! One group: from the head's lock to its commit, and what is tried again when something fails on the way.

use std::sync::Arc;

use domain::Timestamp;
use domain::append::{AppendError, AppendRequest};
use domain::arbiter::{self, Facts, Ruling, Verdict, Wanted};
use tokio::time::timeout;

use super::doubt::{self, Fate};
use crate::error::{Trouble, chain, trouble};
use crate::holder;
use crate::log::{CLOCK_DIFFERENCE_MAX_SECONDS, Shared};
use crate::rows::{Content, NewRow};
use crate::session::{self, Purpose, SERVER_LIMIT, silent};
use crate::tags;
use crate::writer::{Group, LockedHead, NewId, Writer};

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
    /// COMMIT was sent, and its reply was an error or none.
    InDoubt(Box<Ruling>, sqlx::Error),
}

impl From<sqlx::Error> for Fault {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

/// Commits groups, one after the other.
pub(super) struct Committer {
    shared: Arc<Shared>,
    /// None where the last one is not known to be good.
    writer: Option<Writer>,
}

impl Committer {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, writer: None }
    }

    pub(super) async fn settle(&mut self, requests: &[&AppendRequest]) -> Settled {
        let wanted = Wanted::by(requests);
        let mut last = String::new();
        for attempt in 0..ATTEMPTS_MAX {
            if attempt > 0 {
                self.shared.counters.retried_groups.add(1);
            }
            let fault = match self.attempt(requests, &wanted).await {
                Ok(ruling) => return Settled::Decided(ruling.verdicts),
                Err(fault) => fault,
            };
            match self.after(fault, requests.len()).await {
                Ok(reason) => last = reason,
                Err(settled) => return settled,
            }
        }
        failed(requests.len(), &unavailable(format!("tried {ATTEMPTS_MAX} times: {last}")))
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
            Fault::InDoubt(ruling, error) => return Err(self.resolve(*ruling, &error).await),
            Fault::Database(error) => error,
        };
        let reason = chain(&error);
        match trouble(&error) {
            // The connection may have died long before this group: with a new one it is as good as the first time.
            Trouble::Lost => self.writer = None,
            Trouble::Busy => self.look_at_holder().await,
            Trouble::Gone => {
                // The map knows a partition that is no more.
                let loaded = self.shared.partitions.load().await;
                loaded.map_err(|error| failed(requests, &unavailable(chain(&error))))?;
            }
            Trouble::Poison => return Err(Settled::Poisoned(reason)),
            Trouble::Damage => {
                tracing::error!(reason, "the log contradicts itself");
                return Err(failed(requests, &AppendError::Corrupt { reason }));
            }
            Trouble::Server => return Err(failed(requests, &unavailable(reason))),
        }
        Ok(reason)
    }

    /// One try. What it leaves: a committed group, or a session without a transaction, or no session.
    async fn attempt(&mut self, requests: &[&AppendRequest], wanted: &Wanted<'_>) -> Result<Ruling, Fault> {
        let mut writer = match self.writer.take() {
            Some(writer) => writer,
            None => self.connect().await?,
        };
        // Dropped with its connection if this future is, or if the server says nothing.
        let prepared = timeout(SERVER_LIMIT, self.prepare(&mut writer, requests, wanted));
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
        let ended =
            timeout(SERVER_LIMIT, async { if stored { writer.commit().await } else { writer.roll_back().await } });
        if let Err(error) = ended.await.unwrap_or_else(|_| Err(silent())) {
            return Err(if stored { Fault::InDoubt(Box::new(ruling), error) } else { error.into() });
        }
        if stored {
            self.shared.note_flush(sent);
            writer.remember(&locked, ruling.head, &ruling.streams);
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
        Ok(Writer::new(connection))
    }

    /// Everything of a group but the commit.
    async fn prepare(
        &self,
        writer: &mut Writer,
        requests: &[&AppendRequest],
        wanted: &Wanted<'_>,
    ) -> Result<(LockedHead, Ruling), Fault> {
        let locked = writer.lock().await?;
        let now = self.now(&locked).await?;
        let keys: Vec<_> = wanted.keys.iter().flatten().copied().collect();
        let found = writer.look_up(&wanted.streams, &keys, &wanted.consumers, locked.head.pruned).await?;
        let facts = Facts {
            head: locked.head.clone(),
            now,
            streams: found.streams,
            known: found.known,
            checkpoints: found.checkpoints,
            matches: tags::matches(writer.connection(), requests, &locked.head).await?,
        };
        let ruling = arbiter::decide(requests, wanted, facts);
        if !ruling.placed.is_empty() {
            let group = group_of(&ruling, requests, &locked);
            let map = self.shared.partitions.cached();
            let months = group.months();
            let missing: Vec<Timestamp> =
                months.iter().map(|(month, _)| *month).filter(|month| map.table(*month).is_none()).collect();
            if !missing.is_empty() {
                // Made outside, without the head: it syncs files.
                return Err(Fault::Partitions(missing));
            }
            writer.write(&group, &map).await?;
        }
        Ok((locked, ruling))
    }

    /// The log's clock, under the lock. A clock that differs from the server's by more than a minute is believed by
    /// nobody: `recordedat` would run ahead of every other process and never come back.
    async fn now(&self, locked: &LockedHead) -> Result<Timestamp, Fault> {
        if let Some(simulated) = locked.simulated_now {
            return Ok(simulated);
        }
        let now = self.shared.clock.now().await.map_err(|error| Fault::Refused(unavailable(chain(&error))))?;
        match crate::log::clock_difference(now, locked.database_now) {
            Some(seconds) => Err(Fault::Refused(unavailable(format!(
                "this clock and the database's differ by {seconds} s, at most {CLOCK_DIFFERENCE_MAX_SECONDS} s are allowed"
            )))),
            None => Ok(now),
        }
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

    async fn resolve(&mut self, ruling: Ruling, error: &sqlx::Error) -> Settled {
        self.shared.counters.in_doubt.add(1);
        let lost = chain(error);
        tracing::warn!(error = lost, head = ruling.head.get(), "the reply to a commit was lost");
        let (fate, writer) = doubt::resolve(&self.shared, &ruling).await;
        self.writer = writer;
        match fate {
            Fate::Stored => {
                self.committed(&ruling).await;
                Settled::Decided(ruling.verdicts)
            }
            Fate::NotStored => failed(ruling.verdicts.len(), &unavailable(format!("the commit was lost: {lost}"))),
            Fate::Unknown(reason) => Settled::Failed(ruling.verdicts.iter().map(|v| in_doubt(v, &reason)).collect()),
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

fn group_of<'a>(ruling: &'a Ruling, requests: &[&'a AppendRequest], locked: &LockedHead) -> Group<'a> {
    let row = |place: &arbiter::Placement| {
        let event = &requests[place.request].events[place.event];
        NewRow {
            position: place.position,
            recorded_at: place.recorded_at,
            version: place.version,
            stream: &event.stream,
            content: Content::Event { event, previous: place.previous, epoch: locked.head.epoch },
        }
    };
    let id = |place: &arbiter::Placement| NewId { key: place.key, position: place.position, keep: place.keep };
    Group {
        rows: ruling.placed.iter().map(row).collect(),
        ids: ruling.placed.iter().map(id).collect(),
        streams: &ruling.streams,
        checkpoints: &ruling.checkpoints,
        head: ruling.head,
        recorded_at: ruling.recorded_at,
    }
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
