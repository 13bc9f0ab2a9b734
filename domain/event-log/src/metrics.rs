//! What the log counts, and what the database says for whoever watches it. The names are those of the promises they
//! watch over (LOG-1, LOG-4, ARC-1, EVD-1). Nothing is decided on any of it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use domain::{Head, Timestamp};
use sqlx::Row as _;
use sqlx::postgres::PgRow;

use crate::error::EventLogError;
use crate::instant::Instant;
use crate::log::PgLog;
use crate::rows::number;

/// How many bounds a [`Distribution`] has.
const BOUNDS: usize = 13;
/// Bounds of [`LogMetrics::group_events`], in events.
pub const GROUP_EVENTS_BOUNDS: [u64; BOUNDS] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096];
/// Bounds of [`LogMetrics::commit_micros`], in microseconds.
pub const COMMIT_MICROS_BOUNDS: [u64; BOUNDS] =
    [100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 5_000_000];

/// How often a value was how large.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Distribution {
    /// Values up to each bound and above the one before it, then those above all bounds.
    pub counts: [u64; BOUNDS + 1],
    /// Sum of all values.
    pub sum: u64,
}

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
    /// Groups that were built while the one in front of them was flushed: a whole group waited.
    pub built_ahead: u64,
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
    /// Retries that were not looked up, because too many were already.
    pub full_look_ups: u64,
    /// Bytes of the retries whose first appearance is looked up; [`crate::PgConfig::queue_bytes`] is the limit here too.
    pub look_up_bytes: u64,
    /// Requests that wait for their group.
    pub queued_requests: u64,
    /// Bytes of these and of the group that is being committed; [`crate::PgConfig::queue_bytes`] is the limit.
    pub queued_bytes: u64,
    /// Events of each group committed, by [`GROUP_EVENTS_BOUNDS`].
    pub group_events: Distribution,
    /// Time from each COMMIT to its answer, by [`COMMIT_MICROS_BOUNDS`]; empty unless [`PgLog::measure_by`] was called.
    pub commit_micros: Distribution,
}

macro_rules! counters {
    ($($name:ident),* $(,)?) => {
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: Counter,)*
            pub(crate) group_events: Histogram,
            pub(crate) commit_micros: Histogram,
        }

        impl Counters {
            pub(crate) fn snapshot(&self) -> LogMetrics {
                LogMetrics {
                    $($name: self.$name.get(),)*
                    group_events: self.group_events.get(),
                    commit_micros: self.commit_micros.get(),
                    look_up_bytes: 0,
                    queued_requests: 0,
                    queued_bytes: 0,
                }
            }
        }
    };
}

counters!(
    groups,
    events,
    replayed,
    refused,
    built_ahead,
    retried_groups,
    halved_groups,
    in_doubt,
    terminated_holders,
    late_partitions,
    full_look_ups,
);

#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, more: usize) {
        // Relaxed: a counter orders nothing.
        self.0.fetch_add(u64::try_from(more).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Histogram {
    counts: [Counter; BOUNDS + 1],
    sum: Counter,
}

impl Histogram {
    pub(crate) fn observe(&self, value: u64, bounds: &[u64; BOUNDS]) {
        self.counts[bounds.partition_point(|bound| *bound < value)].add(1);
        self.sum.0.fetch_add(value, Ordering::Relaxed);
    }

    fn get(&self) -> Distribution {
        Distribution { counts: std::array::from_fn(|bucket| self.counts[bucket].get()), sum: self.sum.get() }
    }
}

impl Counters {
    /// A group was committed.
    pub(crate) fn committed(&self, events: usize) {
        self.groups.add(1);
        self.events.add(events);
        self.group_events.observe(u64::try_from(events).unwrap_or(u64::MAX), &GROUP_EVENTS_BOUNDS);
    }

    /// A COMMIT was answered after this time.
    pub(crate) fn flushed(&self, time: Duration) {
        self.commit_micros.observe(u64::try_from(time.as_micros()).unwrap_or(u64::MAX), &COMMIT_MICROS_BOUNDS);
    }
}

/// What the database says of archive, evidence and the other region, at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Figures {
    /// The database's clock.
    pub database_now: Timestamp,
    /// Whether the coming month has its partition. `false` is an alarm: the next month's first append waits for it.
    pub coming_partition: bool,
    /// Segments in force.
    pub segments: u64,
    /// Bytes of their objects, indexes included.
    pub stored_bytes: u64,
    /// Bytes of the records in them.
    pub record_bytes: u64,
    /// Up to here every event is in a segment (ARC-1).
    pub sealed: Head,
    /// Up to here every segment was read back here (ARC-2).
    pub verified: Head,
    /// Up to here the other store has confirmed every segment (ARC-2).
    pub confirmed: Head,
    /// Segments that the other store has not confirmed.
    pub unconfirmed_segments: u64,
    /// When the newest archived event was recorded.
    pub newest_at: Option<Timestamp>,
    /// When the segment was read that has not been read again for the longest time (ARC-4).
    pub oldest_verified_at: Option<Timestamp>,
    /// Number of the last manifest, 0 before the first.
    pub manifest: u64,
    /// Size of the newest checkpoint that this region has signed.
    pub signed: Head,
    /// Size of the newest one that both have (EVD-1).
    pub cosigned: Head,
}

impl PgLog {
    /// What it has counted.
    #[must_use]
    pub fn metrics(&self) -> LogMetrics {
        let (requests, bytes) = self.appender().queued();
        let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let (queued_requests, queued_bytes) = (number(requests), number(bytes));
        let look_up_bytes = number(self.appender().looked_up());
        LogMetrics { look_up_bytes, queued_requests, queued_bytes, ..self.shared().counters.snapshot() }
    }

    /// How commits are measured: `elapsed` says how long the process runs, by a clock that never goes back. Set once,
    /// by the composition root; nothing is measured otherwise.
    pub fn measure_by(&self, elapsed: impl Fn() -> Duration + Send + Sync + 'static) {
        // A second one comes too late: there is one root.
        drop(self.shared().elapsed.set(Box::new(elapsed)));
    }

    /// Connections for reads and for the catalog: how many are open, and how many of these nobody uses.
    #[must_use]
    pub fn connections(&self) -> (u32, u32) {
        self.shared().pool.count()
    }

    /// What the database says, in one round trip.
    ///
    /// # Errors
    /// `Database`.
    pub async fn figures(&self) -> Result<Figures, EventLogError> {
        let row = sqlx::query(include_str!("sql/figures.sql")).fetch_one(&self.shared().pool).await;
        row.and_then(|row| figures(&row)).map_err(EventLogError::database("reading the figures"))
    }
}

fn figures(row: &PgRow) -> Result<Figures, sqlx::Error> {
    let count = |column: &str| number(row, column, |n| u64::try_from(n).ok());
    let head = |column: &str| number(row, column, Head::from_i64);
    let instant = |column: &str| Ok::<_, sqlx::Error>(row.try_get::<Option<Instant>, _>(column)?.map(|at| at.0));
    Ok(Figures {
        database_now: row.try_get::<Instant, _>("database_now")?.0,
        coming_partition: row.try_get("coming_partition")?,
        segments: count("segments")?,
        stored_bytes: count("stored_bytes")?,
        record_bytes: count("record_bytes")?,
        sealed: head("sealed")?,
        verified: head("verified")?,
        confirmed: head("confirmed")?,
        unconfirmed_segments: count("unconfirmed")?,
        newest_at: instant("newest_at")?,
        oldest_verified_at: instant("oldest_verified_at")?,
        manifest: count("manifest")?,
        signed: head("signed")?,
        cosigned: head("cosigned")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_counted_under_the_first_bound_that_is_not_below_it() {
        let counters = Counters::default();
        for events in [1, 2, 3, 4096, 4097] {
            counters.committed(events);
        }
        let seen = counters.snapshot();
        assert_eq!((seen.groups, seen.events, seen.group_events.sum), (5, 8199, 8199));
        assert_eq!(seen.group_events.counts, [1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
        counters.flushed(Duration::from_micros(101));
        assert_eq!(counters.snapshot().commit_micros.counts[1], 1);
    }
}
