//! Group commit. One task a process takes appends from a bounded queue, which is fair between clients, and commits them in
//! groups, without added delay: the next group forms while the last one is being flushed, and is built if it is whole.
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

mod ahead;
mod doubt;
mod group;
mod optimism;
mod queue;
mod replay;

use std::sync::Arc;

use domain::append::{AppendError, AppendRequest, Appended, InvalidRequest};
use domain::arbiter::{EventKey, Verdict};
use domain::event::EventError;
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};
use tokio::task::JoinHandle;

use crate::log::Shared;
use ahead::Formed;
use group::{Committer, Settled};
pub use queue::QUEUE_REQUESTS_MAX;
use queue::{Queue, Refused, Room};
use replay::{LookUpRoom, Lookups, Retries};

/// When a caller may try again that was refused by a full queue.
const QUEUE_RETRY_SECONDS: u32 = 1;

/// A request that waits for its group.
struct Ticket {
    request: AppendRequest,
    keys: Vec<EventKey>,
    answer: oneshot::Sender<Answer>,
    /// Its room in the queue, given back when it is answered or looked up.
    room: Option<Room<Ticket>>,
    /// Its room among the look-ups, if it is a retry.
    look_up: Option<OwnedSemaphorePermit>,
}

/// What a caller gets: with the answer the request, to free what it holds in the caller's time.
type Answer = (Result<Appended, AppendError>, AppendRequest);

impl Ticket {
    fn answer(self, result: Result<Appended, AppendError>) {
        let Self { request, answer, room, look_up, .. } = self;
        drop((room, look_up));
        // A caller that is gone does not want it any more.
        drop(answer.send((result, request)));
    }
}

/// The way in.
pub(crate) struct Appender {
    queue: Arc<Queue<Ticket>>,
    look_ups: LookUpRoom,
    shared: Arc<Shared>,
    task: tokio::sync::Mutex<Option<JoinHandle<()>>>,
    broken: watch::Receiver<bool>,
}

impl Appender {
    pub(crate) fn start(shared: Arc<Shared>) -> Self {
        let queue = Arc::new(Queue::new(shared.config.queue_bytes));
        let look_ups = LookUpRoom::new(shared.config.queue_bytes);
        let retries = Retries::new(Arc::clone(&shared), look_ups.clone());
        let (breaks, broken) = watch::channel(false);
        let task = Task { shared: Arc::clone(&shared), queue: Arc::clone(&queue), retries };
        let task = tokio::sync::Mutex::new(Some(tokio::spawn(task.run(Breaks(breaks)))));
        Self { queue, look_ups, shared, task, broken }
    }

    pub(crate) async fn append(&self, request: AppendRequest) -> Result<Appended, AppendError> {
        request.check_size()?;
        // Room before the rest: what a full queue refuses costs next to nothing, also where it comes again and again.
        let place = self.queue.place_for(&request).map_err(refusal)?;
        // What does not need the log is done here, by every caller for itself, while the groups before are stored.
        check(&request)?;
        let keys = EventKey::all_of(&request);
        self.shared.make_ahead(request.recorded_at);
        let (answer, answered) = oneshot::channel();
        let ticket = |room| Ticket { request, keys, answer, room: Some(room), look_up: None };
        self.queue.push(place, ticket).map_err(refusal)?;
        let lost = |_| AppendError::Indeterminate { reason: "the appender ended before it answered".into() };
        let (result, _request) = answered.await.map_err(lost)?;
        result
    }

    /// The requests that wait, and the bytes of those that wait or are being committed.
    pub(crate) fn queued(&self) -> (usize, usize) {
        self.queue.holds()
    }

    /// Returns when the task has ended by a panic: nothing is appended any more.
    pub(crate) async fn broke(&self) {
        // One that has ended in good order is gone, and does not break.
        if self.broken.clone().wait_for(|broken| *broken).await.is_err() {
            std::future::pending().await
        }
    }

    /// The bytes of the retries that are looked up.
    pub(crate) fn looked_up(&self) -> usize {
        self.look_ups.held()
    }

    /// Refuses what comes from now on, and returns when all that was accepted is answered.
    pub(crate) async fn shut_down(&self) {
        self.queue.close();
        if let Some(task) = self.task.lock().await.take()
            && let Err(error) = task.await
        {
            tracing::error!(%error, "the appender ended by a panic");
        }
    }
}

/// Every rule that can be checked without the log.
fn check(request: &AppendRequest) -> Result<(), InvalidRequest> {
    request.check()?;
    for (index, event) in request.events.iter().enumerate() {
        event.check().map_err(|source| InvalidRequest::Event { index, source })?;
    }
    Ok(())
}

fn refusal(refused: Refused) -> AppendError {
    let (reason, retry_after_seconds) = match refused {
        Refused::Full(what) => (format!("too many {what} wait to be appended"), Some(QUEUE_RETRY_SECONDS)),
        Refused::Share(whose, what) => {
            (format!("too many {what} of this {whose} wait to be appended"), Some(QUEUE_RETRY_SECONDS))
        }
        Refused::Closed => ("the service is shutting down".to_owned(), None),
    };
    AppendError::Unavailable { reason, retry_after_seconds }
}

/// The task.
struct Task {
    shared: Arc<Shared>,
    queue: Arc<Queue<Ticket>>,
    retries: Retries,
}

/// Tells of a panic in whose course it is dropped.
struct Breaks(watch::Sender<bool>);

impl Drop for Breaks {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.send_replace(true);
        }
    }
}

impl Task {
    async fn run(mut self, _breaks: Breaks) {
        // If this task should end by a panic, nobody waits for an answer that never comes.
        let _closed = self.queue.closed_in_the_end();
        let mut committer = Committer::new(Arc::clone(&self.shared), Arc::clone(&self.queue));
        while let Some(group) = committer.next().await {
            self.settle(&mut committer, group).await;
        }
        self.retries.finish().await;
    }

    /// Answers all of a group. One that the server refuses is halved until the guilty request is alone.
    async fn settle(&mut self, committer: &mut Committer, group: Formed) {
        let mut work = vec![group];
        while let Some(mut group) = work.pop() {
            let settled = committer.settle(&group.gathered()).await;
            match settled {
                Settled::Decided(verdicts) => self.answer(group.tickets, verdicts),
                Settled::Failed(errors) => {
                    for (ticket, error) in group.tickets.into_iter().zip(errors) {
                        ticket.answer(Err(error));
                    }
                }
                Settled::Poisoned(reason) if group.tickets.len() == 1 => {
                    let reason = format!("the database refuses it: {reason}");
                    let source = EventError::Attribute { name: "data".into(), reason };
                    let invalid = InvalidRequest::Event { index: 0, source };
                    group.tickets.into_iter().for_each(|ticket| ticket.answer(Err(invalid.clone().into())));
                }
                Settled::Poisoned(_) => {
                    self.shared.counters.halved_groups.add(1);
                    let second = group.split_off();
                    work.push(second);
                    work.push(group);
                }
            }
        }
    }

    fn answer(&mut self, group: Vec<Ticket>, verdicts: Vec<Verdict>) {
        let (mut answers, mut lookups) = (Vec::with_capacity(group.len()), Lookups::default());
        for (ticket, verdict) in group.into_iter().zip(verdicts) {
            match verdict {
                Verdict::Accepted(appended) => answers.push((ticket, Ok(appended))),
                Verdict::Repeats(appended) => {
                    self.shared.counters.replayed.add(1);
                    answers.push((ticket, Ok(appended)));
                }
                Verdict::Refused(error) => {
                    self.shared.counters.refused.add(1);
                    answers.push((ticket, Err(error)));
                }
                Verdict::Known(positions, past) => lookups.known.push((ticket, positions, past)),
                Verdict::Past(past, error) => lookups.past.push((ticket, past, Err(error))),
            }
        }
        // Nothing else between one and the next: whoever is answered comes again at once, on another core.
        self.queue.take_back(answers.iter_mut().filter_map(|(ticket, _)| ticket.room.take()).collect());
        answers.into_iter().for_each(|(ticket, answer)| ticket.answer(answer));
        // Outside of the group: what is stored does not change, and the next group need not wait for reads.
        self.retries.answer(lookups);
    }
}
