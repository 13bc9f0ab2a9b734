//! Keeps the live version of a view up with log and window, at its own pace.
//!
//! It decides what comes next; what it costs to do it, and that it is done wholly, is the mover's. It must never
//! serve, skip, or hide an event that the view cannot fold: such an event stops the view, by name, and no other view.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use domain::log::LogReader;
use domain::window::LiveWindow;
use domain::{Clock, ErrorKind, Head, Position, Timestamp};
use sqlx::postgres::PgPool;
use tokio::sync::{Notify, watch};
use tokio::time::{Interval, MissedTickBehavior, timeout};

use crate::error::chain;
use crate::mover::{Folded, Mover, Version};
use crate::{ProjectionError, compact};

pub use crate::mover::{Progress, Told};
pub use crate::view::View;

/// Records folded in memory before one write, while the view is behind. More is faster, because an item that changes
/// twice is written once, and costs memory: twice as much, since the next ones are read meanwhile (a record is up to
/// 1 MiB; readers bound the bytes of a page).
pub const BATCH_RECORDS: usize = 16_000;
/// After this many full batches in a row, 40,000 records or more, a view gives back the space that it has left behind.
const COMPACT_AFTER_BATCHES: usize = 40_000_usize.div_ceil(BATCH_RECORDS);
/// How long events gather before a view that is up with the log folds them. A view moves by a commit of its own, which
/// takes as much from the appender as a group of appends; nobody who waits for the view waits for this.
const GATHER: Duration = Duration::from_millis(20);
/// How long [`Runner::run`] waits after a failure before it asks again.
const RETRY_EVERY: Duration = Duration::from_secs(1);

/// What one step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The window moved, and what is older went out.
    Swept {
        /// Where it starts now.
        cutoff: Timestamp,
    },
    /// Records were folded in.
    Applied {
        /// Where the view stands now.
        checkpoint: Head,
        /// How many.
        records: usize,
        /// They fill a batch: it is likely that more are there.
        more: bool,
    },
    /// Another runner moved the view meanwhile; nothing was done.
    Overtaken,
    /// There is nothing to do.
    CaughtUp {
        /// Where the view stands.
        checkpoint: Head,
    },
}

/// What the runner of a view last saw of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// The events that are in the view.
    pub checkpoint: Head,
    /// The event that it cannot fold, if it has stopped at one.
    pub stopped: Option<Position>,
}

/// What readers of a view hold of its runner in this process.
#[derive(Debug, Clone)]
pub struct Following {
    seen: watch::Receiver<Seen>,
    wanted: Arc<Notify>,
}

impl Following {
    /// Returns once `position` is in the view, as far as the runner has seen, or the runner is no more.
    pub(crate) async fn until(&mut self, position: Position) {
        self.wanted.notify_one();
        // A runner that is gone says no more: whoever waits asks the database.
        drop(self.seen.wait_for(|seen| seen.checkpoint.includes(position)).await);
    }
}

/// Runs one view.
pub struct Runner<V> {
    mover: Mover<V>,
    clock: Arc<dyn Clock>,
    window: LiveWindow,
    seen: watch::Sender<Seen>,
    /// Somebody waits for the view.
    wanted: Arc<Notify>,
    /// Full batches since the view was last caught up. Only about space: lost with the process, and no harm.
    full_batches: AtomicUsize,
}

impl<V: View> Runner<V> {
    /// A runner of `view` in the database of `pool`, over live log and archive as `reader` gives them.
    #[must_use]
    pub fn new(pool: PgPool, reader: Arc<dyn LogReader>, clock: Arc<dyn Clock>, window: LiveWindow, view: V) -> Self {
        let mover = Mover::new(pool, reader, view, Version::Live, BATCH_RECORDS);
        let seen = watch::Sender::new(Seen { checkpoint: Head::EMPTY, stopped: None });
        Self { mover, clock, window, seen, wanted: Arc::default(), full_batches: AtomicUsize::new(0) }
    }

    /// The same runner with batches of at most `records` records (at least 1).
    #[must_use]
    pub fn with_batches_of(self, records: usize) -> Self {
        let Mover { pool, reader, view, version, .. } = self.mover;
        Self { mover: Mover::new(pool, reader, view, version, records), ..self }
    }

    /// The view's name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.mover.view.name()
    }

    /// What this runner last saw of the view, whoever moved it; for those who wait for it.
    #[must_use]
    pub fn seen(&self) -> watch::Receiver<Seen> {
        self.seen.subscribe()
    }

    /// What a reader of the view holds, to wait for it.
    #[must_use]
    pub fn following(&self) -> Following {
        Following { seen: self.seen(), wanted: Arc::clone(&self.wanted) }
    }

    /// What the view is as of, once the event at `position` is in it: what is read of it afterwards is at least so new.
    /// Waits for `within` at most, and for this runner only: one that does not run is not waited for any shorter.
    ///
    /// # Errors
    /// [`ProjectionError::NotYet`] with the checkpoint; those of [`Runner::progress`].
    pub async fn at_least(&self, position: Position, within: Duration) -> Result<Progress, ProjectionError> {
        if !self.progress().await?.checkpoint.includes(position) {
            // Whichever way it ends, the database has the last word: another process may have moved the view.
            drop(timeout(within, self.following().until(position)).await);
        }
        self.progress().await?.reached(self.name(), position)
    }

    /// Who is told of the records that this runner has put into the view, once they are committed. Set once, by the
    /// composition root; nobody is told otherwise.
    pub fn tell(&self, told: Told) {
        // A second one comes too late: there is one root.
        drop(self.mover.told.set(told));
    }

    /// What the view is as of.
    ///
    /// # Errors
    /// [`ProjectionError::NotSetUp`] before the migrations; `OtherFold` before a rebuild; `Database`.
    pub async fn progress(&self) -> Result<Progress, ProjectionError> {
        self.mover.progress().await
    }

    /// Follows the log until `stop` is ready: batches while behind, group by group when live. What can pass by
    /// itself is tried again every second.
    ///
    /// # Errors
    /// What does not pass by itself, with the reason; the view stands where it stood.
    pub async fn run(&self, stop: impl Future<Output = ()> + Send) -> Result<(), ProjectionError> {
        let mut pace = tokio::time::interval(RETRY_EVERY);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tokio::select! {
            // A step that is dropped in the middle is rolled back.
            () = stop => Ok(()),
            error = self.follow(&mut pace) => Err(error),
        }
    }

    /// Follows the log until something does not pass by itself.
    async fn follow(&self, pace: &mut Interval) -> ProjectionError {
        let mut failing = false;
        loop {
            match self.step_or_wait().await {
                Ok(_) if failing => {
                    failing = false;
                    tracing::info!(view = self.name(), "the view moves again");
                }
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Unavailable => {
                    if !failing {
                        tracing::warn!(view = self.name(), error = chain(&error), "the view waits");
                    }
                    failing = true;
                    pace.reset();
                    pace.tick().await;
                }
                Err(error) => return error,
            }
        }
    }

    /// [`Runner::step`]; where the view is up with the log, returns when it is time for the next one.
    ///
    /// # Errors
    /// Those of the step, and of a log that cannot be read.
    pub async fn step_or_wait(&self) -> Result<Step, ProjectionError> {
        let step = self.step().await?;
        match step {
            Step::CaughtUp { checkpoint } => tokio::select! {
                newest = self.mover.reader.wait_beyond(checkpoint) => {
                    if newest? > checkpoint {
                        self.gather().await;
                    }
                }
                // What is waited for may have been appended by another process, which is not heard of at once.
                () = self.wanted.notified() => {}
            },
            Step::Applied { more: false, .. } => self.gather().await,
            Step::Applied { .. } | Step::Swept { .. } | Step::Overtaken => {}
        }
        Ok(step)
    }

    /// Waits while nobody waits for the view, and not for long.
    async fn gather(&self) {
        // Whichever comes first.
        drop(timeout(GATHER, self.wanted.notified()).await);
    }

    /// Steps until there is nothing to do, and says what the view is as of then.
    ///
    /// # Errors
    /// The first error; the steps before it are done.
    pub async fn catch_up(&self) -> Result<Progress, ProjectionError> {
        while !matches!(self.step().await?, Step::CaughtUp { .. }) {}
        self.progress().await
    }

    /// Does the next thing: moves the window if it is time, else folds the next records in. An event that cannot be
    /// folded is noted beside the checkpoint and tried again with the next step: a program that can fold it goes on.
    ///
    /// # Errors
    /// Why it was not done; nothing was changed then (or, for a connection lost in COMMIT, all of it: the next
    /// step sees which). [`ProjectionError::Event`] names the event that stops the view.
    pub async fn step(&self) -> Result<Step, ProjectionError> {
        let step = self.next_step().await;
        if let Err(error @ ProjectionError::Event { position, id, event_type, source, .. }) = &step {
            let known = self.seen.borrow().stopped == Some(*position);
            if !known {
                tracing::error!(view = self.name(), error = chain(error), "a view stops: it cannot fold an event");
            }
            // Each time: a rebuild that was swapped in meanwhile has taken the note away with the old version.
            self.note(*position, (id, event_type), &chain(source.as_ref())).await?;
            self.seen.send_modify(|seen| seen.stopped = Some(*position));
        }
        step
    }

    async fn next_step(&self) -> Result<Step, ProjectionError> {
        let from = self.progress().await?;
        self.see(from.checkpoint);
        let cutoff = self.window.cutoff(self.clock.now().await?)?;
        // Only forward: a clock that went back brings nothing back into the window.
        if cutoff > from.cutoff { self.sweep(from, cutoff).await } else { self.fold_next(from).await }
    }

    /// A view that is elsewhere than it was has not stopped any more.
    fn see(&self, checkpoint: Head) {
        self.seen.send_if_modified(|seen| {
            let moved = seen.checkpoint != checkpoint;
            if moved {
                *seen = Seen { checkpoint, stopped: None };
            }
            moved
        });
    }

    async fn note(
        &self,
        position: Position,
        (id, event_type): (&str, &str),
        reason: &str,
    ) -> Result<(), ProjectionError> {
        let noted = sqlx::query(include_str!("runner/stopped.sql"))
            .bind(self.name())
            .bind(position.as_i64())
            .bind(id)
            .bind(event_type)
            .bind(reason.replace('\0', ""))
            .execute(&self.mover.pool)
            .await;
        noted.map(drop).map_err(ProjectionError::database("note the event that stops a view"))
    }

    /// Empties the view and puts its checkpoint to 0: the way on after [`ErrorKind::Forked`]. The next steps fold
    /// it again from archive and live log; until they have caught up, readers see it grow, and pruning waits.
    /// `false`: another runner moved the view meanwhile, and nothing was done.
    ///
    /// # Errors
    /// Why it was not done; nothing was changed then.
    pub async fn start_over(&self) -> Result<bool, ProjectionError> {
        let from = self.progress().await?;
        let done = self.mover.start_over(from).await?;
        self.give_back_space().await;
        Ok(done)
    }

    async fn sweep(&self, from: Progress, cutoff: Timestamp) -> Result<Step, ProjectionError> {
        if !self.mover.sweep(from, cutoff).await? {
            return Ok(Step::Overtaken);
        }
        self.give_back_space().await;
        Ok(Step::Swept { cutoff })
    }

    /// Outside the transaction, and not a failure of it: space that is not given back now is the next time.
    async fn give_back_space(&self) {
        compact(&self.mover.pool, self.name(), Version::Live).await;
    }

    async fn fold_next(&self, from: Progress) -> Result<Step, ProjectionError> {
        Ok(match self.mover.fold_next(from, usize::MAX).await? {
            Folded::Overtaken => Step::Overtaken,
            Folded::Nothing => {
                self.caught_up().await;
                Step::CaughtUp { checkpoint: from.checkpoint }
            }
            Folded::Records { to, records, more } => {
                self.see(to.checkpoint);
                if more {
                    self.full_batches.fetch_add(1, Ordering::Relaxed);
                } else {
                    self.caught_up().await;
                }
                Step::Applied { checkpoint: to.checkpoint, records, more }
            }
        })
    }

    /// After many full batches, a view that has caught up gives back the space that they have left.
    async fn caught_up(&self) {
        if self.full_batches.swap(0, Ordering::Relaxed) >= COMPACT_AFTER_BATCHES {
            self.give_back_space().await;
        }
    }
}
