//! The load generator: the same for every peer that answers one request at a time.
//!
//! **Closed loop**: N writers, each waits for its durable acknowledgement before it sends again. Gives the peak, and
//! latencies of a peer that nobody overtakes. **Open loop**: requests arrive at fixed instants, whatever the peer does,
//! and a request's latency counts from the instant at which it should have been sent. So a stall shows up in every
//! request that it delayed, not only in the one that it hit (no coordinated omission).
//!
//! It must never count a request that was not acknowledged, nor one acknowledged outside of the window.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use ops::clock::Stopwatch;
use serde::Serialize;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tokio::time::interval;

use crate::cpu;
use crate::error::{BenchError, io};
use crate::peer::{Answered, Peer, Writer};

/// Latencies are kept to three digits, from a microsecond to a minute.
const LATENCY_MICROS_MAX: u64 = 60_000_000;
const DIGITS: u8 = 3;

const WARMING_UP: u8 = 0;
const MEASURED: u8 = 1;
const OVER: u8 = 2;

/// How long a measurement lasts.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Window {
    /// Before anything counts.
    pub(crate) warm_up: Duration,
    /// What counts.
    pub(crate) measured: Duration,
}

/// What a window showed, of one peer at one load.
#[derive(Debug, Clone)]
pub(crate) struct Measured {
    /// Requests that were acknowledged within the window.
    pub(crate) requests: u64,
    /// Refusals that passed.
    pub(crate) refused: u64,
    /// The window's true length.
    pub(crate) lasted: Duration,
    /// From sending (closed loop) or from the intended instant (open loop) to the acknowledgement, in microseconds.
    pub(crate) latency: Histogram<u64>,
    /// CPU time of the load generator's process within the window; of a peer in the same process too.
    pub(crate) own_cpu: Duration,
    /// CPU time of the peer's processes within the window.
    pub(crate) peer_cpu: Duration,
}

/// An empty histogram.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_MICROS_MAX, DIGITS).expect("the bounds and digits are ones that it takes")
}

/// A latency in the histogram's unit; what is longer than it holds counts as its longest.
pub(crate) fn micros(latency: Duration) -> u64 {
    u64::try_from(latency.as_micros()).unwrap_or(u64::MAX)
}

/// What one writer has seen.
struct Seen {
    latency: Histogram<u64>,
    refused: u64,
}

impl Seen {
    fn nothing() -> Self {
        Self { latency: histogram(), refused: 0 }
    }

    fn and(mut self, other: &Self) -> Self {
        self.latency += &other.latency;
        self.refused += other.refused;
        self
    }
}

/// N writers, each with one request under way, for a window.
///
/// # Errors
/// The first writer's error; `Nothing` if no request was acknowledged.
pub(crate) async fn closed(
    peer: &dyn Peer,
    writers: usize,
    events: usize,
    window: Window,
) -> Result<Measured, BenchError> {
    let phase = Arc::new(AtomicU8::new(WARMING_UP));
    let mut tasks = JoinSet::new();
    for _ in 0..writers {
        let (writer, phase) = (peer.writer().await?, Arc::clone(&phase));
        tasks.spawn(async move {
            let seen = one_writer(writer, events, &phase).await;
            // One that cannot go on ends the run for all; the others would measure something else.
            seen.inspect_err(|_| phase.store(OVER, Ordering::Release))
        });
    }
    pass(window.warm_up).await;
    let cpu_before = (cpu::own(), cpu::of(&peer.processes())?);
    let watch = Stopwatch::start();
    // Not over a writer's error: then it stays over.
    let begun = phase.compare_exchange(WARMING_UP, MEASURED, Ordering::AcqRel, Ordering::Acquire);
    if begun.is_ok() {
        pass(window.measured).await;
    }
    phase.store(OVER, Ordering::Release);
    let lasted = watch.elapsed();
    let cpu_after = (cpu::own(), cpu::of(&peer.processes())?);
    let seen = all_of(tasks).await?;
    if seen.latency.is_empty() {
        return Err(BenchError::Nothing { peer: peer.name() });
    }
    Ok(Measured {
        requests: seen.latency.len(),
        refused: seen.refused,
        lasted,
        latency: seen.latency,
        own_cpu: cpu_after.0.saturating_sub(cpu_before.0),
        peer_cpu: cpu_after.1.saturating_sub(cpu_before.1),
    })
}

/// Sends until the window is over.
async fn one_writer(mut writer: Box<dyn Writer>, events: usize, phase: &AtomicU8) -> Result<Seen, BenchError> {
    let mut seen = Seen::nothing();
    while phase.load(Ordering::Acquire) != OVER {
        let watch = Stopwatch::start();
        let refused = until_durable(writer.as_mut(), events).await?;
        if phase.load(Ordering::Acquire) == MEASURED {
            seen.latency.saturating_record(micros(watch.elapsed()));
            seen.refused += refused;
        }
    }
    Ok(seen)
}

/// Requests at fixed instants for `window.measured`, `rate` a second in all, taken up by `writers` as they are free.
///
/// # Errors
/// The first writer's error; `Nothing` if no request was acknowledged.
pub(crate) async fn open(peer: &dyn Peer, writers: usize, rate: f64, window: Window) -> Result<Measured, BenchError> {
    let (due, arrivals) = mpsc::unbounded_channel();
    let arrivals = Arc::new(Mutex::new(arrivals));
    let watch = Stopwatch::start();
    let mut tasks = JoinSet::new();
    for _ in 0..writers {
        let (mut writer, arrivals) = (peer.writer().await?, Arc::clone(&arrivals));
        tasks.spawn(async move {
            let mut seen = Seen::nothing();
            while let Some(intended) = next(&arrivals).await {
                let refused = until_durable(writer.as_mut(), 1).await?;
                if intended >= window.warm_up {
                    seen.latency.saturating_record(micros(watch.elapsed().saturating_sub(intended)));
                    seen.refused += refused;
                }
            }
            Ok(seen)
        });
    }
    // The writers hold the only ends of `arrivals`: if all of them fail, `pace` sees it and ends.
    drop(arrivals);
    let starts = watch.elapsed();
    let cpu_before = (cpu::own(), cpu::of(&peer.processes())?);
    // A thread of its own: the runtime's timers are a millisecond coarse, which would be most of the latency.
    let pacer = std::thread::Builder::new().name("pacer".to_owned());
    let pacer = pacer.spawn(move || pace(&due, watch, starts, rate, window)).map_err(io("starting the pacer"))?;
    let seen = all_of(tasks).await?;
    let lasted = watch.elapsed().saturating_sub(starts + window.warm_up);
    let cpu_after = (cpu::own(), cpu::of(&peer.processes())?);
    let paced = tokio::task::spawn_blocking(move || pacer.join()).await;
    paced.expect("a join is not cancelled").expect("the pacer only waits and sends");
    if seen.latency.is_empty() {
        return Err(BenchError::Nothing { peer: peer.name() });
    }
    Ok(Measured {
        requests: seen.latency.len(),
        refused: seen.refused,
        lasted,
        latency: seen.latency,
        own_cpu: cpu_after.0.saturating_sub(cpu_before.0),
        peer_cpu: cpu_after.1.saturating_sub(cpu_before.1),
    })
}

async fn next(arrivals: &Mutex<mpsc::UnboundedReceiver<Duration>>) -> Option<Duration> {
    arrivals.lock().await.recv().await
}

/// Says of each request when it is due, by `watch`, until the window has passed.
fn pace(due: &mpsc::UnboundedSender<Duration>, watch: Stopwatch, starts: Duration, rate: f64, window: Window) {
    let mut number = 0.0;
    loop {
        let after = Duration::from_secs_f64(number / rate);
        if after >= window.warm_up + window.measured {
            return;
        }
        while let Some(left) = (starts + after).checked_sub(watch.elapsed()).filter(|left| !left.is_zero()) {
            std::thread::park_timeout(left);
        }
        if due.send(starts + after).is_err() {
            return;
        }
        number += 1.0;
    }
}

/// Requests a filling log is given at once, and their size: large ones, because only what is behind counts.
const FILLERS: usize = 8;
const FILL_EVENTS: u64 = 1000;

/// Appends at least `events` events, as fast as it goes.
///
/// # Errors
/// The first writer's error.
pub(crate) async fn fill(peer: &dyn Peer, events: u64) -> Result<(), BenchError> {
    let left = Arc::new(AtomicU64::new(events.div_ceil(FILL_EVENTS)));
    let mut tasks = JoinSet::new();
    for _ in 0..FILLERS {
        let (mut writer, left) = (peer.writer().await?, Arc::clone(&left));
        tasks.spawn(async move {
            while left.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(1)).is_ok() {
                until_durable(writer.as_mut(), usize::try_from(FILL_EVENTS).expect("a thousand")).await?;
            }
            Ok(Seen::nothing())
        });
    }
    all_of(tasks).await.map(drop)
}

/// Sends one request until it is durable; gives how often it was refused before.
async fn until_durable(writer: &mut dyn Writer, events: usize) -> Result<u64, BenchError> {
    let mut refused = 0;
    while let Answered::Refused(wait) = writer.append(events).await? {
        refused += 1;
        pass(wait).await;
    }
    Ok(refused)
}

async fn all_of(mut tasks: JoinSet<Result<Seen, BenchError>>) -> Result<Seen, BenchError> {
    let mut all = Seen::nothing();
    while let Some(ended) = tasks.join_next().await {
        all = all.and(&ended.expect("a writer neither panics nor is cancelled")?);
    }
    Ok(all)
}

/// Lets time pass: here, and only here, time itself is what is waited for.
async fn pass(time: Duration) {
    if time.is_zero() {
        return;
    }
    let mut ticks = interval(time);
    // The first tick comes at once.
    ticks.tick().await;
    ticks.tick().await;
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use tokio::time::timeout;

    use super::*;

    /// Acknowledges at once but for one request, which stalls all of them.
    struct Stalling(Arc<Mutex<u64>>);

    const STALL: Duration = Duration::from_millis(200);

    #[async_trait]
    impl Writer for Stalling {
        async fn append(&mut self, _events: usize) -> Result<Answered, BenchError> {
            let mut asked = self.0.lock().await;
            *asked += 1;
            if *asked == 100 {
                pass(STALL).await;
            }
            Ok(Answered::Durable)
        }
    }

    struct Fake(Arc<Mutex<u64>>);

    #[async_trait]
    impl Peer for Fake {
        fn name(&self) -> &'static str {
            "fake"
        }

        async fn writer(&self) -> Result<Box<dyn Writer>, BenchError> {
            Ok(Box::new(Stalling(Arc::clone(&self.0))))
        }

        fn processes(&self) -> Vec<u32> {
            Vec::new()
        }

        async fn end(self: Box<Self>) -> Result<(), BenchError> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_stall_shows_in_every_request_that_it_delayed() {
        let window = Window { warm_up: Duration::ZERO, measured: Duration::from_millis(500) };
        let peer = Fake(Arc::default());
        let measured = timeout(Duration::from_secs(60), open(&peer, 2, 1000.0, window)).await;
        let measured = measured.expect("it ends").expect("all are acknowledged");
        assert_eq!(measured.requests, 500, "each arrival is counted");
        // 200 arrivals fall into the stall; a loop that waits for its answer would have seen two slow ones.
        let delayed = measured.latency.count_between(micros(STALL / 2), LATENCY_MICROS_MAX);
        assert!(delayed >= 50, "{delayed} requests show the stall");
    }
}
