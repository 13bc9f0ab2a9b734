//! The connections of the door: how many there are and may be. Who waits to be accepted is not known here: the kernel has it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::metrics::MetricsText;
use super::metrics::families::{HTTP_CONNECTIONS, HTTP_CONNECTIONS_LIMIT};
use crate::config::HttpConfig;

/// All connections of the door.
#[derive(Debug)]
pub struct Connections {
    free: Arc<Semaphore>,
    most: usize,
    open: AtomicUsize,
}

/// One connection, until it is dropped.
pub(super) struct Open {
    all: Arc<Connections>,
    _place: OwnedSemaphorePermit,
}

impl Connections {
    /// Those of a door with these limits.
    #[must_use]
    pub fn of(limits: &HttpConfig) -> Arc<Self> {
        let most = limits.connections_max;
        Arc::new(Self { free: Arc::new(Semaphore::new(most)), most, open: AtomicUsize::new(0) })
    }

    /// Waits for a place, before anybody is accepted who would need one.
    pub(super) async fn place(&self) -> OwnedSemaphorePermit {
        self.free.clone().acquire_owned().await.expect("the semaphore is never closed")
    }

    /// A connection that was accepted takes its place.
    pub(super) fn open(self: &Arc<Self>, place: OwnedSemaphorePermit) -> Open {
        self.open.fetch_add(1, Ordering::Relaxed);
        Open { all: Arc::clone(self), _place: place }
    }

    /// Connections that tails may hold. They hold them without end, so a quarter, and one at least, is left to all others:
    /// appends, health and metrics are answered however many readers follow.
    pub(super) fn of_tails(&self) -> usize {
        self.most - self.most.div_ceil(4)
    }

    pub(super) fn write(&self, text: &mut MetricsText) {
        text.value(&HTTP_CONNECTIONS, &[], self.open.load(Ordering::Relaxed));
        text.value(&HTTP_CONNECTIONS_LIMIT, &[], self.most);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.all.open.fetch_sub(1, Ordering::Relaxed);
    }
}
