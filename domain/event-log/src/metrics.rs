//! What the log counts. The names are those of the promises they watch over (LOG-1, LOG-4).

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters since the process started, and the queue as it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogMetrics {
    /// Groups committed.
    pub groups: u64,
    /// Events stored.
    pub events: u64,
    /// Requests that were retries: nothing was stored, the first positions were answered (LOG-4).
    pub replayed: u64,
    /// Requests refused.
    pub refused: u64,
    /// Groups tried again: a lost connection, a lock, a missing partition.
    pub retried_groups: u64,
    /// Groups halved because the server refused their data.
    pub halved_groups: u64,
    /// Commits whose reply was lost.
    pub in_doubt: u64,
    /// Frozen holders of the head whose session was ended.
    pub terminated_holders: u64,
    /// Partitions that a group had to wait for: they were not made ahead of time.
    pub late_partitions: u64,
    /// Requests that wait for their group.
    pub queued_requests: u64,
}

macro_rules! counters {
    ($($name:ident),* $(,)?) => {
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: Counter,)*
        }

        impl Counters {
            pub(crate) fn snapshot(&self) -> LogMetrics {
                LogMetrics { $($name: self.$name.get(),)* }
            }
        }
    };
}

counters!(
    groups,
    events,
    replayed,
    refused,
    retried_groups,
    halved_groups,
    in_doubt,
    terminated_holders,
    late_partitions,
    queued_requests,
);

#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, more: usize) {
        // Relaxed: a counter orders nothing.
        self.0.fetch_add(u64::try_from(more).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(crate) fn sub(&self, fewer: usize) {
        self.0.fetch_sub(u64::try_from(fewer).unwrap_or(0), Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
