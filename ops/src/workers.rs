//! What each background worker last did: the source of `status` and of the workers' metrics.
//!
//! A worker never hides an error: it is noted here, where an operator sees it, and the worker goes on.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use domain::Timestamp;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::chain::chain;
use crate::clock::SystemClock;

/// What a round came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// What the worker says of itself now.
    pub note: String,
    /// Whether there is more to do at once.
    pub again: bool,
}

impl Done {
    /// There is nothing more to do for now.
    pub fn for_now(note: impl Into<String>) -> Self {
        Self { note: note.into(), again: false }
    }

    /// There is more to do at once.
    pub fn partly(note: impl Into<String>) -> Self {
        Self { note: note.into(), again: true }
    }
}

/// Any error of a round.
pub type RoundError = Box<dyn Error + Send + Sync>;

/// Work that is done in rounds, each of which may be repeated and may be dropped at any await.
#[async_trait]
pub trait Worker: Send {
    /// One round.
    async fn round(&mut self) -> Result<Done, RoundError>;
}

/// Lets `worker` work until `shutdown`: at once while it has more to do, else every `every`. An error ends a
/// round and never the worker.
pub async fn run(log: WorkerLog, every: Duration, shutdown: CancellationToken, mut worker: Box<dyn Worker>) {
    // Also a panic is the end of a worker, and is seen as one.
    let log = NotesEnd(log);
    let mut pace = interval(every);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut again = false;
    loop {
        if !again {
            tokio::select! {
                () = shutdown.cancelled() => break,
                _ = pace.tick() => {}
            }
        }
        let round = tokio::select! {
            // A round under way is dropped: whatever it was at is as a crash would have left it.
            () = shutdown.cancelled() => break,
            round = worker.round() => round,
        };
        again = round.as_ref().is_ok_and(|done| done.again);
        match (SystemClock::read(), round) {
            (Ok(at), Ok(done)) => log.0.succeeded(at, done.note),
            (Ok(at), Err(error)) => log.0.failed(at, error.as_ref()),
            (Err(error), _) => tracing::error!(worker = log.0.name, %error, "the machine's clock cannot be read"),
        }
    }
}

/// Notes that its worker has ended, however that comes.
struct NotesEnd(WorkerLog);

impl Drop for NotesEnd {
    fn drop(&mut self) {
        self.0.ended();
    }
}

/// What a worker last did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WorkerStatus {
    /// Rounds without an error.
    pub rounds: u64,
    /// Rounds with an error.
    pub failures: u64,
    /// When a round last ended without an error.
    pub succeeded_at: Option<Timestamp>,
    /// When a round last ended with an error, and the error with its whole chain.
    pub failed: Option<(Timestamp, String)>,
    /// What the worker says of itself, such as how far it is behind.
    pub note: String,
    /// Whether it has ended.
    pub ended: bool,
}

impl WorkerStatus {
    /// Whether its last round was an error, or it has ended.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        let failed_at = self.failed.as_ref().map(|(at, _)| *at);
        self.ended || failed_at > self.succeeded_at
    }
}

/// All workers of the process, by name.
#[derive(Debug, Clone, Default)]
pub struct Workers(Arc<Mutex<BTreeMap<&'static str, WorkerStatus>>>);

impl Workers {
    /// Announces a worker, so that it is seen before its first round.
    #[must_use]
    pub fn register(&self, name: &'static str) -> WorkerLog {
        self.lock().entry(name).or_default();
        WorkerLog { name, workers: self.clone() }
    }

    /// What every worker last did.
    #[must_use]
    pub fn statuses(&self) -> BTreeMap<&'static str, WorkerStatus> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, WorkerStatus>> {
        // Statuses stay readable after a panic elsewhere: that is when they are needed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where one worker notes what it did.
#[derive(Debug, Clone)]
pub struct WorkerLog {
    name: &'static str,
    workers: Workers,
}

impl WorkerLog {
    /// A round ended well. `note` says what came of it.
    pub fn succeeded(&self, at: Timestamp, note: impl Into<String>) {
        self.update(|status| {
            status.rounds += 1;
            status.succeeded_at = Some(at);
            status.note = note.into();
        });
    }

    /// A round ended with `error`. It is logged once: when it is another one than before.
    pub fn failed(&self, at: Timestamp, error: &(dyn Error + 'static)) {
        let text = chain(error);
        let name = self.name;
        self.update(|status| {
            let known = status.is_failing() && status.failed.as_ref().is_some_and(|(_, before)| *before == text);
            if !known {
                tracing::warn!(worker = name, error = %text, "a round failed, it will be repeated");
            }
            status.failures += 1;
            status.failed = Some((at, text));
        });
    }

    /// The worker has ended and will not come back by itself.
    pub fn ended(&self) {
        self.update(|status| status.ended = true);
    }

    fn update(&self, change: impl FnOnce(&mut WorkerStatus)) {
        change(self.workers.lock().entry(self.name).or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails in its second round, wants to go on at once after its first.
    struct Unsteady(u32, CancellationToken);

    #[async_trait]
    impl Worker for Unsteady {
        async fn round(&mut self) -> Result<Done, RoundError> {
            self.0 += 1;
            match self.0 {
                1 => Ok(Done::partly("one")),
                2 => Err("two".into()),
                _ => {
                    self.1.cancel();
                    Ok(Done::for_now("three"))
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_ends_a_round_and_never_the_worker() {
        let workers = Workers::default();
        let shutdown = CancellationToken::new();
        let worker = Box::new(Unsteady(0, shutdown.clone()));
        run(workers.register("unsteady"), Duration::from_secs(1), shutdown, worker).await;
        let status = workers.statuses()["unsteady"].clone();
        assert_eq!((status.rounds, status.failures, status.note.as_str()), (2, 1, "three"));
        assert!(status.ended);
    }

    struct Breaking;

    #[async_trait]
    impl Worker for Breaking {
        async fn round(&mut self) -> Result<Done, RoundError> {
            panic!("as a fault in the program would")
        }
    }

    #[tokio::test]
    async fn a_worker_that_panics_is_seen_to_have_ended() {
        let workers = Workers::default();
        let worker =
            run(workers.register("broken"), Duration::from_millis(1), CancellationToken::new(), Box::new(Breaking));
        assert!(tokio::spawn(worker).await.expect_err("it panics").is_panic());
        assert!(workers.statuses()["broken"].is_failing());
    }

    #[test]
    fn a_worker_is_failing_until_a_later_round_succeeds() {
        let at = |second: i64| Timestamp::from_unix_micros(second * 1_000_000).expect("an instant");
        let workers = Workers::default();
        let log = workers.register("archiver");
        log.failed(at(1), &std::io::Error::other("no disk"));
        assert!(workers.statuses()["archiver"].is_failing());
        log.succeeded(at(2), "sealed 1");
        let status = workers.statuses()["archiver"].clone();
        assert!(!status.is_failing());
        assert_eq!((status.rounds, status.failures), (1, 1));
        assert_eq!(status.failed, Some((at(1), "no disk".to_owned())));
    }
}
