//! A worker: takes, has each event handled, settles, extends while it works, and gives back what it has not begun.

use std::collections::HashSet;
use std::future::ready;
use std::pin::{Pin, pin};
use std::time::Duration;

use domain::group::{ConsumerName, Outcome, Settlement};
use domain::{ErrorKind, StreamName};
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::{Delivery, Group, Lease, wire};
use crate::error::ClientError;

/// How a worker works.
#[derive(Debug, Clone)]
pub struct Work {
    /// Who it is, for people who look where one hangs.
    pub consumer: ConsumerName,
    /// Events of a lease at most. More make fewer requests, and leave less to other workers.
    pub max: usize,
    /// How long one request waits for events. A worker that is told to stop ends within about this time.
    pub wait: Duration,
}

impl Work {
    /// As `consumer`, 20 events at a time.
    #[must_use]
    pub fn of(consumer: ConsumerName) -> Self {
        Self { consumer, max: 20, wait: Duration::from_secs(5) }
    }
}

/// What a worker has of a lease.
struct Held<'a> {
    group: &'a Group,
    lease: &'a Lease,
    /// What is not said to the server yet.
    outcomes: Vec<Settlement>,
    /// Streams of which an event failed: what comes after it is not begun.
    failed: HashSet<StreamName>,
}

impl Group {
    /// Works on events one after another, until `stop`: `handle` says how each attempt ended. While it runs, the lease is
    /// extended. After an event that is to be retried, the others of its stream are given back, so that they come after it.
    /// Once told to stop, it finishes the event that it is at and gives the rest back.
    ///
    /// Each event comes at least once: `handle` sees one again whose outcome did not arrive.
    ///
    /// # Errors
    /// What the server refuses for good, such as NotFound; `GaveUp` if no server answers for too long.
    pub async fn work<F: Future<Output = Outcome>>(
        &self,
        work: &Work,
        stop: impl Future<Output = ()>,
        handle: impl Fn(Delivery) -> F,
    ) -> Result<(), ClientError> {
        let (mut stop, mut stopped) = (pin!(stop), false);
        let mut tick = interval(self.lease_time().await? / 3);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !stopped {
            let mut taking = pin!(self.take(&work.consumer, work.max, work.wait));
            let taken = tokio::select! {
                taken = &mut taking => taken?,
                // What it is being given is not left to run out.
                () = &mut stop => { stopped = true; taking.await? }
            };
            let Some(lease) = taken else { continue };
            tick.reset();
            let mut held = Held { group: self, lease: &lease, outcomes: Vec::new(), failed: HashSet::new() };
            let worked = held.work(&mut tick, (stop.as_mut(), &mut stopped), &handle).await;
            match worked {
                Ok(()) => {}
                // Where the lease was taken nobody answers any more: it runs out, and its events come again.
                Err(error) if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Indeterminate) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Held<'_> {
    async fn work<F: Future<Output = Outcome>>(
        &mut self,
        tick: &mut Interval,
        (mut stop, stopped): (Pin<&mut impl Future<Output = ()>>, &mut bool),
        handle: &impl Fn(Delivery) -> F,
    ) -> Result<(), ClientError> {
        for delivery in &self.lease.deliveries {
            let stream = delivery.record.stream();
            let mut outcome = Outcome::Release;
            // Whoever is told to stop while an event ends begins no other.
            tokio::select! {
                biased;
                () = &mut stop, if !*stopped => *stopped = true,
                () = ready(()) => {}
            }
            if !*stopped && !self.failed.contains(stream) {
                let mut handling = pin!(handle(delivery.clone()));
                outcome = loop {
                    tokio::select! {
                        outcome = &mut handling => break outcome,
                        () = &mut stop, if !*stopped => *stopped = true,
                        _ = tick.tick() => if !self.extend().await? {
                            // Somebody else has it: to go on would be work done twice.
                            return Ok(());
                        },
                    }
                };
            }
            if matches!(outcome, Outcome::Retry { .. } | Outcome::Release) {
                self.failed.insert(stream.clone());
            }
            self.outcomes.push(Settlement { position: wire::position(delivery), outcome });
        }
        self.settle().await
    }

    /// Says what is known so far, and asks for more time. `false`: nothing is under the lease any more.
    async fn extend(&mut self) -> Result<bool, ClientError> {
        self.settle().await?;
        Ok(self.group.extend(self.lease).await?.events > 0)
    }

    async fn settle(&mut self) -> Result<(), ClientError> {
        self.group.settle(self.lease, &self.outcomes).await?;
        self.outcomes.clear();
        Ok(())
    }
}
