//! Consumer groups at work: looks through the log for them, hands out with the records, and waits where there is nothing.
//! What may be handed out is decided where groups are kept; here only the order of the steps is.
//!
//! One take of a group at a time looks and waits, the others queue: so however many consumers wait, a process asks its
//! database for one of them. It asks again when the log has grown, when something is due, when an event was settled here,
//! and after about a second, because it may have been settled elsewhere.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::Head;
use domain::group::{
    ConsumerGroups, ConsumerName, Extended, Group, GroupError, GroupId, Idle, Lease, LeaseNumber, Listed, Listing,
    Outcome, Settled, Settlement, Take, Which, look_on, records_at,
};
use domain::log::LogReader;
use domain::record::Record;
use tokio::sync::{Mutex as AsyncMutex, Notify};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::chain::chain;
use crate::clock::Stopwatch;

/// A take that waits asks again after so much time at the earliest, however fast the log grows.
const PACE: Duration = Duration::from_millis(25);
/// And at the latest: another server may have settled something.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// A take that does not want to wait still waits so long for its turn.
const TURN_PATIENCE: Duration = Duration::from_millis(250);
/// So many searches of the log belong to each take, whatever it finds: so a group whose filter wants little comes forward
/// though nobody waits.
const SEARCHES_A_TAKE: usize = 4;
/// That the log was looked through for nothing is stored once in so many positions, and at the end of a take: less often
/// costs a search again after a crash.
const KEPT_EVERY: u64 = 8192;

/// The groups of a region, with the log that they are of.
pub struct Groups {
    /// Where they are kept.
    pub kept: Arc<dyn ConsumerGroups>,
    reader: Arc<dyn LogReader>,
    turns: Mutex<HashMap<GroupId, Arc<Turn>>>,
}

/// What the takes of one group share.
#[derive(Default)]
struct Turn {
    looking: AsyncMutex<Ahead>,
    news: Notify,
}

/// How far the log was looked through for nothing since something was stored.
#[derive(Default)]
struct Ahead {
    listed_to: Head,
    looked_to: Head,
}

/// A lease, with the records of its events in their order.
#[derive(Debug)]
pub struct Handed {
    /// The lease.
    pub lease: Lease,
    /// As many records.
    pub records: Vec<Record>,
}

/// Who takes, how much, and for how long it waits.
pub struct Wanted<'a> {
    /// Who.
    pub consumer: &'a ConsumerName,
    /// Events at most.
    pub max: usize,
    /// How long to wait for the first one.
    pub wait: Duration,
}

impl Groups {
    /// Groups that are `kept` of the log that `reader` reads.
    #[must_use]
    pub fn new(kept: Arc<dyn ConsumerGroups>, reader: Arc<dyn LogReader>) -> Self {
        Self { kept, reader, turns: Mutex::default() }
    }

    /// Hands events out; `None` if there were none for as long as was to be waited, or the process ends.
    ///
    /// # Errors
    /// As [`ConsumerGroups::take`], and of reading the records: nothing is handed out then.
    pub async fn take(
        &self,
        group: &Group,
        wanted: &Wanted<'_>,
        ending: &CancellationToken,
    ) -> Result<Option<Handed>, GroupError> {
        let (turn, watch) = (self.turn(group), Stopwatch::start());
        let Ok(mut ahead) = timeout(wanted.wait.max(TURN_PATIENCE), turn.looking.lock()).await else {
            return Ok(None);
        };
        let taken = self.look(group, wanted, (&turn, &mut ahead), watch, ending).await;
        // The next one may look while this one reads.
        drop(ahead);
        if let Err(GroupError::NotFound { .. }) = &taken {
            // It was removed by another server.
            self.turns().remove(&group.id);
        }
        match taken? {
            Some(lease) => self.read(group, lease).await.map(Some),
            None => Ok(None),
        }
    }

    /// [`ConsumerGroups::settle`]; whoever waits is told.
    ///
    /// # Errors
    /// As there.
    pub async fn settle(
        &self,
        group: &Group,
        lease: LeaseNumber,
        events: &[Settlement],
    ) -> Result<Vec<Settled>, GroupError> {
        let settled = self.kept.settle(group, lease, events).await?;
        self.turn(group).news.notify_waiters();
        Ok(settled)
    }

    /// [`ConsumerGroups::extend`].
    ///
    /// # Errors
    /// As there.
    pub async fn extend(&self, group: &Group, lease: LeaseNumber) -> Result<Extended, GroupError> {
        self.kept.extend(group, lease).await
    }

    /// [`ConsumerGroups::replay`]; whoever waits is told.
    ///
    /// # Errors
    /// As there.
    pub async fn replay(&self, group: &Group, which: &Which) -> Result<u64, GroupError> {
        let replayed = self.kept.replay(group, which).await?;
        self.turn(group).news.notify_waiters();
        Ok(replayed)
    }

    /// [`ConsumerGroups::remove`].
    ///
    /// # Errors
    /// As there.
    pub async fn remove(&self, group: &Group) -> Result<(), GroupError> {
        self.kept.remove(group).await?;
        self.turns().remove(&group.id);
        Ok(())
    }

    fn turns(&self) -> MutexGuard<'_, HashMap<GroupId, Arc<Turn>>> {
        // An entry is whole or not there: a panic elsewhere leaves nothing half made.
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(&self, group: &Group) -> Arc<Turn> {
        self.turns().entry(group.id).or_default().clone()
    }

    /// Takes, lists and waits, until there is a lease or the time is over.
    async fn look(
        &self,
        group: &Group,
        wanted: &Wanted<'_>,
        (turn, ahead): (&Turn, &mut Ahead),
        watch: Stopwatch,
        ending: &CancellationToken,
    ) -> Result<Option<Lease>, GroupError> {
        let mut pace = interval(PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // The first tick comes at once.
            pace.tick().await;
            // Before the take: what is settled after it is news.
            let news = turn.news.notified();
            let idle = match self.kept.take(group, wanted.consumer, wanted.max).await? {
                Take::Lease(lease) => return Ok(Some(lease)),
                Take::Nothing(idle) => idle,
            };
            let is_late = || watch.elapsed() >= wanted.wait || ending.is_cancelled();
            if self.list_on(group, &idle, ahead, is_late).await? {
                pace.reset_immediately();
                continue;
            }
            if is_late() {
                self.keep(group, ahead).await?;
                return Ok(None);
            }
            let left = wanted.wait.saturating_sub(watch.elapsed()).min(LOOK_AGAIN);
            let until = idle.due_in.map_or(left, |due_in| due_in.min(left));
            let grown = async {
                match idle.room {
                    // More of the log is of no use.
                    0 => std::future::pending().await,
                    _ => self.reader.wait_beyond(ahead.looked_to).await,
                }
            };
            tokio::select! {
                grown = grown => drop(grown?),
                () = news => {}
                () = ending.cancelled() => {}
                _ = timeout(until, std::future::pending::<()>()) => {}
            }
        }
    }

    /// Looks through the log for what there is room for. Returns whether a take may find something now.
    async fn list_on(
        &self,
        group: &Group,
        idle: &Idle,
        ahead: &mut Ahead,
        is_late: impl Fn() -> bool,
    ) -> Result<bool, GroupError> {
        if ahead.listed_to != idle.listed_to {
            *ahead = Ahead { listed_to: idle.listed_to, looked_to: idle.listed_to };
        }
        let mut searches = 0;
        while idle.room > 0 && (searches < SEARCHES_A_TAKE || !is_late()) {
            searches += 1;
            let Some(listing) = look_on(&*self.reader, group, ahead.looked_to, idle.room).await? else { break };
            if !listing.events.is_empty() {
                // Whether it was stored or somebody else was faster: something is there. If it fails, or nobody waits for
                // it any more, what was found is looked for again: `ahead` stays where nothing was.
                self.kept.list(group, ahead.listed_to, &listing).await?;
                return Ok(true);
            }
            ahead.looked_to = listing.to;
            if ahead.looked_to.get() - ahead.listed_to.get() >= KEPT_EVERY
                && self.keep(group, ahead).await? == Listed::Moved
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Stores how far the log was looked through for nothing.
    async fn keep(&self, group: &Group, ahead: &mut Ahead) -> Result<Listed, GroupError> {
        if ahead.looked_to == ahead.listed_to {
            return Ok(Listed::Stored);
        }
        let listing = Listing { to: ahead.looked_to, events: Vec::new() };
        let listed = self.kept.list(group, ahead.listed_to, &listing).await?;
        ahead.listed_to = ahead.looked_to;
        Ok(listed)
    }

    /// Reads the records of a lease. What is too much for one answer, and all if they cannot be read, is given back.
    async fn read(&self, group: &Group, mut lease: Lease) -> Result<Handed, GroupError> {
        let read = records_at(&*self.reader, group, &lease.events).await;
        let whole = read.as_ref().map_or(0, Vec::len);
        let rest = lease.events.split_off(whole);
        if !rest.is_empty() {
            let release = |position| Settlement { position, outcome: Outcome::Release };
            let rest: Vec<Settlement> = rest.iter().map(|event| release(event.position)).collect();
            if let Err(error) = self.settle(group, lease.number, &rest).await {
                // Its lease will run out.
                tracing::warn!(group = %group.name(), error = %chain(&error), "events were not given back");
            }
        }
        Ok(Handed { records: read?, lease })
    }
}
