//! Room for bodies of appends in memory: bounded, counted before a body is read, and never taken up by large ones alone. A
//! body that is declared to be small waits only for small ones; large ones, and those of unknown length, leave an eighth of
//! the room to them and wait for each other outside of it.

use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, header};
use domain::ErrorKind;
use domain::append::REQUEST_BYTES_MAX;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::append::too_large;
use super::problem::Problem;

/// Room is counted in units of this many bytes.
const UNIT_BYTES: usize = 1024;
/// A body up to here is small.
const SMALL_BYTES_MAX: usize = 64 << 10;
/// This part of the room is left to small bodies, if a body of any size still has room beside it.
const SMALL_SHARE: usize = 8;

/// The room of all bodies.
pub(super) struct Bodies {
    all: Arc<Semaphore>,
    large: Arc<Semaphore>,
    bytes_max: usize,
}

/// The room of one body, given back when this is dropped.
pub(super) struct Room {
    all: OwnedSemaphorePermit,
    large: Option<OwnedSemaphorePermit>,
}

impl Bodies {
    pub(super) fn new(bytes_max: usize) -> Self {
        let large = (bytes_max - bytes_max / SMALL_SHARE).max(REQUEST_BYTES_MAX.min(bytes_max));
        let semaphore = |bytes: usize| Arc::new(Semaphore::new((bytes / UNIT_BYTES).min(Semaphore::MAX_PERMITS)));
        Self { all: semaphore(bytes_max), large: semaphore(large), bytes_max }
    }

    /// Waits until the body fits. One of unknown length counts as one of the largest, and so does a compressed one: what is
    /// in it is not known yet.
    pub(super) async fn room_for(&self, headers: &HeaderMap, patience: Duration) -> Result<Room, Problem> {
        let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
        let sent = length.unwrap_or(REQUEST_BYTES_MAX);
        if sent > REQUEST_BYTES_MAX {
            return Err(too_large());
        }
        let bytes = if headers.contains_key(header::CONTENT_ENCODING) { REQUEST_BYTES_MAX } else { sent };
        let full = || Problem::new(ErrorKind::Unavailable, "too many requests are in memory");
        match timeout(patience, self.take(bytes)).await {
            Ok(room) => room.ok_or_else(full),
            Err(_) => Err(full()),
        }
    }

    async fn take(&self, bytes: usize) -> Option<Room> {
        // Large ones wait here for each other, and only one that may go on waits in the row of all.
        let large = match bytes {
            0..=SMALL_BYTES_MAX => None,
            _ => Some(Arc::clone(&self.large).acquire_many_owned(units(bytes)).await.ok()?),
        };
        let all = Arc::clone(&self.all).acquire_many_owned(units(bytes)).await.ok()?;
        Some(Room { all, large })
    }

    /// Bytes that are taken, in whole units.
    pub(super) fn held(&self) -> usize {
        self.bytes_max.saturating_sub(self.all.available_permits().saturating_mul(UNIT_BYTES))
    }

    pub(super) fn bytes_max(&self) -> usize {
        self.bytes_max
    }
}

impl Room {
    /// Gives back what the body has turned out not to need.
    pub(super) fn shrink_to(&mut self, bytes: usize) {
        let needed = usize::try_from(units(bytes)).unwrap_or(usize::MAX);
        for permit in std::iter::once(&mut self.all).chain(&mut self.large) {
            drop(permit.split(permit.num_permits().saturating_sub(needed)));
        }
    }
}

fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT_BYTES)).expect("a request has at most 16 MiB")
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    const MIB: usize = 1 << 20;

    #[tokio::test]
    async fn large_bodies_leave_room_to_small_ones_and_wait_for_each_other() {
        let bodies = Bodies::new(64 * MIB);
        let mut held = Vec::new();
        while let Some(Some(room)) = bodies.take(16 * MIB).now_or_never() {
            held.push(room);
        }
        assert_eq!(held.len(), 3);
        let mut waiting = Box::pin(bodies.take(16 * MIB));
        assert!(waiting.as_mut().now_or_never().is_none());
        for _ in 0..100 {
            held.push(bodies.take(SMALL_BYTES_MAX).now_or_never().flatten().expect("room behind one that waits"));
        }
        held.remove(0);
        assert!(waiting.now_or_never().flatten().is_some(), "and then it is its turn");
    }

    #[tokio::test]
    async fn what_a_body_does_not_need_is_given_back_at_once() {
        let bodies = Bodies::new(16 * MIB);
        let mut room = bodies.take(16 * MIB).now_or_never().flatten().expect("the largest body has room");
        assert!(bodies.take(1).now_or_never().is_none());
        room.shrink_to(3 * UNIT_BYTES - 1);
        assert_eq!(bodies.held(), 3 * UNIT_BYTES);
        let more = bodies.take(12 * MIB).now_or_never().flatten().expect("room for another large one");
        drop((room, more));
        assert_eq!(bodies.held(), 0);
        assert_eq!(bodies.large.available_permits() * UNIT_BYTES, 16 * MIB);
    }
}
