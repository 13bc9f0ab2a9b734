//! What each background worker last did: the source of `status` and of the workers' metrics.
//!
//! A worker never hides an error: it notes it here, where an operator sees it, and goes on.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use domain::Timestamp;

use crate::chain::chain;

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
