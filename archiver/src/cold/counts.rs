//! What cold reads have cost since the process started: for the metrics alone.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts of indexes and blocks that readers wanted. What a heal reads is not among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ColdReads {
    /// They were in memory.
    pub cached: u64,
    /// The own bucket was asked for one, whatever it answered.
    pub own: u64,
    /// The other region's bucket was asked for one, because the own one did not answer.
    pub other: u64,
    /// Bytes that the buckets gave for these.
    pub bytes: u64,
}

/// The bucket that was asked.
#[derive(Debug, Clone, Copy)]
pub(super) enum Bucket {
    Own,
    Other,
}

#[derive(Debug, Default)]
pub(super) struct Counts {
    cached: AtomicU64,
    own: AtomicU64,
    other: AtomicU64,
    bytes: AtomicU64,
}

impl Counts {
    pub(super) fn cached(&self) {
        self.cached.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn asked(&self, bucket: Bucket) {
        let count = match bucket {
            Bucket::Own => &self.own,
            Bucket::Other => &self.other,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn given(&self, bytes: usize) {
        self.bytes.fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> ColdReads {
        ColdReads {
            cached: self.cached.load(Ordering::Relaxed),
            own: self.own.load(Ordering::Relaxed),
            other: self.other.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }
}
