//! How much one caller may ask for: requests and appended bytes a second by token, and attempts without a good token by
//! address. A bucket is the instant at which it is full again. Memory is bounded, and whoever keeps to its rate is never
//! refused for what another one does.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use axum::http::StatusCode;
use domain::ErrorKind;

use super::PeerAddress;
use super::auth::{Caller, TokenRole};
use super::metrics::MetricsText;
use super::metrics::families::HTTP_LIMITED;
use super::problem::Problem;
use crate::clock::Stopwatch;
use crate::config::{RateConfig, RatesConfig};

/// A caller that was quiet may ask for what so much time brings, at once.
const DEPTH: Duration = Duration::from_secs(1);
/// The same for attempts without a good token: a service that is started with an old one is no attack.
const FAILURES_DEPTH: Duration = Duration::from_secs(10);
/// Of a network whose handshakes are refused, a line is written at most this often.
const LINE_EVERY: Duration = Duration::from_secs(60);
/// A bucket that is empty after one.
const ONE: Duration = Duration::from_nanos(1);
/// Buckets of a kind that are kept. Full ones are forgotten first; whoever comes when all are in use shares one more.
const BUCKETS_MAX: usize = 4096;

/// What was too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Limit {
    Requests,
    Bytes,
    Failures,
}

impl Limit {
    const ALL: [Self; 3] = [Self::Requests, Self::Bytes, Self::Failures];

    fn as_str(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Bytes => "bytes",
            Self::Failures => "failures",
        }
    }
}

/// What callers have left of their rates.
pub(super) struct Rates {
    config: RwLock<RatesConfig>,
    /// Whether the address of a connection is its client's.
    by_address: bool,
    running: Stopwatch,
    requests: Mutex<Buckets<String>>,
    bytes: Mutex<Buckets<String>>,
    failures: Mutex<Buckets<IpAddr>>,
    refused: [AtomicU64; Limit::ALL.len()],
}

impl Rates {
    pub(super) fn new(config: RatesConfig, by_address: bool) -> Self {
        let (requests, bytes, failures) = Default::default();
        let config = RwLock::new(config);
        Self { config, by_address, running: Stopwatch::start(), requests, bytes, failures, refused: Default::default() }
    }

    /// From now on these rates hold. What a caller has left stays as it is: it is counted in time.
    pub(super) fn change(&self, config: RatesConfig) {
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
    }

    fn config(&self) -> RatesConfig {
        *self.config.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a request from a caller's rate.
    ///
    /// # Errors
    /// 429.
    pub(super) fn request(&self, caller: &Caller) -> Result<(), Problem> {
        let rate = caller.rates.requests_per_second.unwrap_or(self.of(caller.role).requests_per_second);
        let Some(cost) = cost(1, rate) else { return Ok(()) };
        let taken = lock(&self.requests).take(&caller.name, cost, DEPTH, self.running.elapsed());
        taken.map_err(|refusal| {
            self.refuse(
                Limit::Requests,
                refusal,
                format!("the token {:?} may send {rate} requests a second", caller.name),
            )
        })
    }

    /// Refuses a caller that has appended more than its rate, before its body is read.
    ///
    /// # Errors
    /// 429.
    pub(super) fn append(&self, caller: &Caller) -> Result<(), Problem> {
        let rate = self.append_rate(caller);
        let Some(nothing) = cost(0, rate) else { return Ok(()) };
        let taken = lock(&self.bytes).take(&caller.name, nothing, DEPTH, self.running.elapsed());
        taken.map_err(|refusal| {
            self.refuse(Limit::Bytes, refusal, format!("the token {:?} may append {rate} bytes a second", caller.name))
        })
    }

    /// Takes what a body has from a caller's rate. It is let through also where it is more than is left: how large it is
    /// was not known before, and the next one waits for it.
    pub(super) fn appended(&self, caller: &Caller, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        if let Some(cost) = cost(bytes, self.append_rate(caller)) {
            lock(&self.bytes).charge(&caller.name, cost, self.running.elapsed());
        }
    }

    /// Refuses an address from which too many have come without a good token. Who is `known` is not locked out by others
    /// there.
    ///
    /// # Errors
    /// 429.
    pub(super) fn attempt(&self, peer: Option<PeerAddress>, known: impl FnOnce() -> bool) -> Result<(), Problem> {
        let Some((network, _)) = self.failing(peer) else { return Ok(()) };
        let taken = lock(&self.failures).take(&network, Duration::ZERO, FAILURES_DEPTH, self.running.elapsed());
        let said = "too many requests without a good token have come from this address";
        taken.or_else(|refusal| match known() {
            true => Ok(()),
            false => Err(self.refuse(Limit::Failures, refusal, said.to_owned())),
        })
    }

    /// Notes that an attempt from this address has failed.
    pub(super) fn failed(&self, peer: Option<PeerAddress>) {
        if let Some((network, cost)) = self.failing(peer) {
            lock(&self.failures).charge(&network, cost, self.running.elapsed());
        }
    }

    pub(super) fn write(&self, text: &mut MetricsText) {
        for limit in Limit::ALL {
            text.value(&HTTP_LIMITED, &[limit.as_str()], self.refused[index(limit)].load(Ordering::Relaxed));
        }
    }

    fn of(&self, role: TokenRole) -> RateConfig {
        let RatesConfig { appender, reader, operator, auditor, replicator, .. } = self.config();
        match role {
            TokenRole::Appender => appender,
            TokenRole::Reader => reader,
            TokenRole::Operator => operator,
            TokenRole::Auditor => auditor,
            TokenRole::Replicator => replicator,
        }
    }

    fn append_rate(&self, caller: &Caller) -> u32 {
        caller.rates.append_bytes_per_second.unwrap_or(self.of(caller.role).append_bytes_per_second)
    }

    /// Whose bucket a failure is taken from, and what it costs.
    fn failing(&self, peer: Option<PeerAddress>) -> Option<(IpAddr, Duration)> {
        let peer = peer.filter(|_| self.by_address)?;
        Some((network(peer.0), cost(1, self.config().failures_per_second)?))
    }

    fn refuse(&self, limit: Limit, refusal: Refusal, detail: String) -> Problem {
        self.refused[index(limit)].fetch_add(1, Ordering::Relaxed);
        let seconds = refusal.wait.as_secs() + u64::from(refusal.wait.subsec_nanos() > 0);
        let problem = Problem::new(ErrorKind::Unavailable, detail).with_status(StatusCode::TOO_MANY_REQUESTS);
        let problem = problem.after(u32::try_from(seconds.max(1)).unwrap_or(u32::MAX));
        if refusal.first { problem } else { problem.repeated() }
    }
}

/// Which of many lines of the audit are written: the first one of a network, and then one a minute.
pub(super) struct Lines {
    running: Stopwatch,
    written: Mutex<Buckets<IpAddr>>,
}

impl Lines {
    pub(super) fn new() -> Self {
        Self { running: Stopwatch::start(), written: Mutex::default() }
    }

    /// Whether one of this address may be written now.
    pub(super) fn may(&self, peer: PeerAddress) -> bool {
        lock(&self.written).take(&network(peer.0), LINE_EVERY, ONE, self.running.elapsed()).is_ok()
    }
}

fn index(limit: Limit) -> usize {
    Limit::ALL.into_iter().position(|each| each == limit).expect("they are all")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The time that brings `count` at `rate` a second; `None` without limit.
fn cost(count: u64, rate: u32) -> Option<Duration> {
    (rate > 0).then(|| Duration::from_nanos(count.saturating_mul(1_000_000_000).div_ceil(u64::from(rate))))
}

/// What one client can choose its addresses from: with IPv6, a network of 64 bits.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    /// When it is full again, in time since the start.
    full_at: Duration,
    /// Whether the last one who asked was refused.
    refusing: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Refusal {
    /// Until something is in the bucket again.
    wait: Duration,
    /// Whether it is the first one in a row.
    first: bool,
}

#[derive(Debug)]
struct Buckets<K> {
    by: HashMap<K, Bucket>,
    shared: Bucket,
}

impl<K> Default for Buckets<K> {
    fn default() -> Self {
        Self { by: HashMap::new(), shared: Bucket::default() }
    }
}

impl<K: Hash + Eq + Clone> Buckets<K> {
    /// Takes `cost` unless the bucket is empty; it may be empty and more afterwards.
    fn take(&mut self, key: &K, cost: Duration, depth: Duration, now: Duration) -> Result<(), Refusal> {
        let bucket = self.bucket(key, now);
        let full_at = bucket.full_at.max(now);
        if full_at >= now + depth {
            let first = !std::mem::replace(&mut bucket.refusing, true);
            return Err(Refusal { wait: full_at - depth - now, first });
        }
        *bucket = Bucket { full_at: full_at + cost, refusing: false };
        Ok(())
    }

    /// Takes `cost`, whatever is in the bucket.
    fn charge(&mut self, key: &K, cost: Duration, now: Duration) {
        let bucket = self.bucket(key, now);
        bucket.full_at = bucket.full_at.max(now).saturating_add(cost);
    }

    fn bucket(&mut self, key: &K, now: Duration) -> &mut Bucket {
        if !self.by.contains_key(key) {
            if self.by.len() >= BUCKETS_MAX {
                self.by.retain(|_, bucket| bucket.full_at > now);
            }
            if self.by.len() >= BUCKETS_MAX {
                return &mut self.shared;
            }
        }
        self.by.entry(key.clone()).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn a_second_brings_what_the_rate_says_and_no_more() {
        for rate in [1, 3, 10, 1000] {
            let (mut buckets, cost) = (Buckets::default(), cost(1, rate).expect("a rate"));
            let mut taken = |now| (0..5000).take_while(|_| buckets.take(&"a", cost, DEPTH, now).is_ok()).count();
            assert_eq!(taken(millis(0)), usize::try_from(rate).expect("small"), "{rate}");
            let later = taken(millis(60_000));
            assert_eq!(later, usize::try_from(rate).expect("small"), "a bucket holds no more, however long it fills");
        }
        assert_eq!(cost(1, 0), None, "0 is no limit");
    }

    #[test]
    fn who_is_refused_is_told_when_to_come_again_and_only_the_first_of_a_row_is_new() {
        let mut buckets = Buckets::default();
        let second = cost(1, 1).expect("a rate");
        let refused = |wait, first| Err(Refusal { wait: millis(wait), first });
        for (now, expected) in [
            (0, Ok(())),
            (0, refused(0, true)),
            (0, refused(0, false)),
            (400, Ok(())),
            (500, refused(500, true)),
            (900, refused(100, false)),
        ] {
            assert_eq!(buckets.take(&"a", second, DEPTH, millis(now)), expected, "at {now}");
        }
        assert_eq!(buckets.take(&"b", second, DEPTH, millis(900)), Ok(()), "another caller");
    }

    #[test]
    fn a_body_may_be_more_than_is_left_and_the_next_one_waits_for_it() {
        let mut buckets = Buckets::default();
        let (nothing, ten_seconds) = (Duration::ZERO, cost(10_000, 1000).expect("a rate"));
        assert_eq!(buckets.take(&"a", nothing, DEPTH, millis(0)), Ok(()));
        buckets.charge(&"a", ten_seconds, millis(0));
        for (now, wait, first) in [(0, 9000, true), (5000, 4000, false)] {
            let refused = Err(Refusal { wait: millis(wait), first });
            assert_eq!(buckets.take(&"a", nothing, DEPTH, millis(now)), refused);
        }
        assert_eq!(buckets.take(&"a", nothing, DEPTH, millis(9001)), Ok(()));
    }

    #[test]
    fn memory_is_bounded_and_who_comes_too_late_shares_a_bucket() {
        let (mut buckets, second) = (Buckets::default(), cost(1, 1).expect("a rate"));
        for caller in 0..BUCKETS_MAX + 10 {
            buckets.charge(&caller, second, millis(0));
        }
        assert_eq!(buckets.by.len(), BUCKETS_MAX);
        assert!(buckets.take(&(BUCKETS_MAX + 20), second, DEPTH, millis(0)).is_err(), "the shared one is empty");
        assert_eq!(buckets.take(&(BUCKETS_MAX + 20), second, DEPTH, millis(2000)), Ok(()));
        assert_eq!(buckets.by.len(), 1, "full ones are forgotten");
    }

    #[test]
    fn the_first_line_of_a_network_is_written_and_those_that_follow_at_once_are_not() {
        let (lines, of) = (Lines::new(), |text: &str| PeerAddress(text.parse().expect("an address")));
        let written =
            ["192.0.2.1", "192.0.2.1", "2001:db8::1", "2001:db8::2", "192.0.2.2"].map(|peer| lines.may(of(peer)));
        assert_eq!(written, [true, false, true, false, true]);
        let mut buckets = Buckets::default();
        let written = [0, 59, 60, 61, 119, 120]
            .map(|second| buckets.take(&"a", LINE_EVERY, ONE, Duration::from_secs(second)).is_ok());
        assert_eq!(written, [true, false, true, false, false, true]);
    }

    #[test]
    fn a_client_with_many_addresses_of_its_network_is_one_client() {
        let of = |text: &str| network(text.parse().expect("an address"));
        assert_eq!(of("2001:db8:1:2:3::1"), of("2001:db8:1:2:ffff::2"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
    }
}
