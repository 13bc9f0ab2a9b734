//! Group commit. One task a process takes appends from a bounded queue and commits them in groups, without added delay:
//! the next group forms while the last one is being flushed.
//!
//! ```text
//!                   ┌─ small: decide on what was last seen ▸ store, if the log still is that ─────────┐
//! append ─▶ queue ─▶ group                                   │ (it is another one)                     ├─▶ answers
//!                   └─ else: lock head ▸ look up ▸ decide ◀──┘ ▸ COPY rows ▸ move heads ▸ COMMIT ──────┘
//!                      ▲                                       │
//!                      └── again: lock, lost connection, known id, missing partition; halved: data that is refused
//! ```
//!
//! Nothing is answered as stored before it was committed, and nothing as not stored unless that is known.

mod doubt;
mod group;
mod optimism;
mod replay;

use std::sync::Arc;

use domain::append::{AppendError, AppendRequest, Appended, InvalidRequest};
use domain::arbiter::Verdict;
use domain::event::EventError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::log::Shared;
use group::{Committer, Settled};
use replay::{Lookups, Retries};

/// Most requests that wait. Their bytes have a limit of their own.
pub const QUEUE_REQUESTS_MAX: usize = 8192;
/// What the queue's bytes are counted in.
const QUEUE_UNIT_BYTES: usize = 1024;
/// When a caller may try again that was refused by a full queue.
const QUEUE_RETRY_SECONDS: u32 = 1;

/// A request that waits for its group.
struct Ticket {
    request: AppendRequest,
    answer: oneshot::Sender<Result<Appended, AppendError>>,
    /// Its share of the queue's bytes, given back when it is answered or looked up.
    share: OwnedSemaphorePermit,
}

impl Ticket {
    fn answer(self, result: Result<Appended, AppendError>) {
        // A caller that is gone does not want it any more.
        drop(self.answer.send(result));
    }
}

/// The way in.
pub(crate) struct Appender {
    queue: mpsc::Sender<Ticket>,
    shares: Arc<Semaphore>,
    shared: Arc<Shared>,
    closing: watch::Sender<bool>,
    task: tokio::sync::Mutex<Option<JoinHandle<()>>>,
}

impl Appender {
    pub(crate) fn start(shared: Arc<Shared>) -> Self {
        let (queue, requests) = mpsc::channel(QUEUE_REQUESTS_MAX);
        let (closing, closed) = watch::channel(false);
        let units = (shared.config.queue_bytes / QUEUE_UNIT_BYTES).clamp(1, Semaphore::MAX_PERMITS);
        let retries = Retries::new(Arc::clone(&shared), units);
        let task = Task { shared: Arc::clone(&shared), requests, closed, carried: None, retries };
        let task = tokio::sync::Mutex::new(Some(tokio::spawn(task.run())));
        Self { queue, shares: Arc::new(Semaphore::new(units)), shared, closing, task }
    }

    pub(crate) async fn append(&self, request: AppendRequest) -> Result<Appended, AppendError> {
        check(&request)?;
        // The task closes the queue when it has time for it; from the caller's side it is closed now.
        if *self.closing.borrow() {
            return Err(shutting_down());
        }
        self.shared.make_ahead(request.recorded_at);
        let full = |what| AppendError::Unavailable {
            reason: format!("too many {what} wait to be appended"),
            retry_after_seconds: Some(QUEUE_RETRY_SECONDS),
        };
        let units = u32::try_from(request.bytes() / QUEUE_UNIT_BYTES + 1).unwrap_or(u32::MAX);
        let share = Arc::clone(&self.shares).try_acquire_many_owned(units).map_err(|_| full("bytes"))?;
        let (answer, answered) = oneshot::channel();
        // Counted first: the task may take it before this returns.
        self.shared.counters.queued_requests.add(1);
        if let Err(refused) = self.queue.try_send(Ticket { request, answer, share }) {
            self.shared.counters.queued_requests.sub(1);
            return Err(match refused {
                mpsc::error::TrySendError::Full(_) => full("requests"),
                mpsc::error::TrySendError::Closed(_) => shutting_down(),
            });
        }
        let lost = |_| AppendError::Indeterminate { reason: "the appender ended before it answered".into() };
        answered.await.map_err(lost)?
    }

    /// Bytes of the requests that wait, in whole units.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.shared.config.queue_bytes.saturating_sub(self.shares.available_permits() * QUEUE_UNIT_BYTES)
    }

    /// Refuses what comes from now on, and returns when all that was accepted is answered.
    pub(crate) async fn shut_down(&self) {
        self.closing.send_replace(true);
        if let Some(task) = self.task.lock().await.take()
            && let Err(error) = task.await
        {
            tracing::error!(%error, "the appender ended by a panic");
        }
    }
}

/// Every rule that can be checked without the log, here in the caller's time: the task has none to spare.
fn check(request: &AppendRequest) -> Result<(), InvalidRequest> {
    request.check()?;
    for (index, event) in request.events.iter().enumerate() {
        event.check().map_err(|source| InvalidRequest::Event { index, source })?;
    }
    Ok(())
}

fn shutting_down() -> AppendError {
    AppendError::Unavailable { reason: "the service is shutting down".into(), retry_after_seconds: None }
}

/// The task.
struct Task {
    shared: Arc<Shared>,
    requests: mpsc::Receiver<Ticket>,
    closed: watch::Receiver<bool>,
    /// Received already, too large for the last group.
    carried: Option<Ticket>,
    retries: Retries,
}

impl Task {
    async fn run(mut self) {
        let mut committer = Committer::new(Arc::clone(&self.shared));
        while let Some(group) = self.next_group().await {
            self.shared.counters.queued_requests.sub(group.len());
            self.settle(&mut committer, group).await;
        }
        self.retries.finish().await;
    }

    /// What waits, up to the limits of a group; `None` when the queue is closed and empty.
    async fn next_group(&mut self) -> Option<Vec<Ticket>> {
        let first = match self.carried.take() {
            Some(ticket) => ticket,
            None => self.receive().await?,
        };
        let size = |ticket: &Ticket| {
            // An item of a condition holds the head about as long as an event does.
            let events = ticket.request.events.len() + ticket.request.condition_items().count();
            (events, ticket.request.bytes())
        };
        let (mut events, mut bytes) = size(&first);
        let mut group = vec![first];
        while let Ok(ticket) = self.requests.try_recv() {
            let (more_events, more_bytes) = size(&ticket);
            events += more_events;
            bytes += more_bytes;
            if events > self.shared.config.group_events || bytes > self.shared.config.group_bytes {
                self.carried = Some(ticket);
                break;
            }
            group.push(ticket);
        }
        Some(group)
    }

    async fn receive(&mut self) -> Option<Ticket> {
        loop {
            tokio::select! {
                ticket = self.requests.recv() => return ticket,
                // What was accepted before the queue closed is still received.
                changed = self.closed.changed(), if !self.requests.is_closed() => {
                    if changed.is_err() || *self.closed.borrow() {
                        self.requests.close();
                    }
                }
            }
        }
    }

    /// Answers all of a group. One that the server refuses is halved until the guilty request is alone.
    async fn settle(&mut self, committer: &mut Committer, group: Vec<Ticket>) {
        let mut work = vec![group];
        while let Some(mut group) = work.pop() {
            let requests: Vec<&AppendRequest> = group.iter().map(|ticket| &ticket.request).collect();
            match committer.settle(&requests).await {
                Settled::Decided(verdicts) => self.answer(group, verdicts),
                Settled::Failed(errors) => {
                    for (ticket, error) in group.into_iter().zip(errors) {
                        ticket.answer(Err(error));
                    }
                }
                Settled::Poisoned(reason) if group.len() == 1 => {
                    let reason = format!("the database refuses it: {reason}");
                    let source = EventError::Attribute { name: "data".into(), reason };
                    let invalid = InvalidRequest::Event { index: 0, source };
                    group.into_iter().for_each(|ticket| ticket.answer(Err(invalid.clone().into())));
                }
                Settled::Poisoned(_) => {
                    self.shared.counters.halved_groups.add(1);
                    let second = group.split_off(group.len() / 2);
                    work.push(second);
                    work.push(group);
                }
            }
        }
    }

    fn answer(&mut self, group: Vec<Ticket>, verdicts: Vec<Verdict>) {
        let mut lookups = Lookups::default();
        for (ticket, verdict) in group.into_iter().zip(verdicts) {
            match verdict {
                Verdict::Accepted(appended) => ticket.answer(Ok(appended)),
                Verdict::Repeats(appended) => {
                    self.shared.counters.replayed.add(1);
                    ticket.answer(Ok(appended));
                }
                Verdict::Refused(error) => {
                    self.shared.counters.refused.add(1);
                    ticket.answer(Err(error));
                }
                Verdict::Known(positions, past) => lookups.known.push((ticket, positions, past)),
                Verdict::Past(past, error) => lookups.past.push((ticket, past, Err(error))),
            }
        }
        // Outside of the group: what is stored does not change, and the next group need not wait for reads.
        self.retries.answer(lookups);
    }
}
