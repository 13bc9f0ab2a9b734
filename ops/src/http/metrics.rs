//! What the API counts, and the text of all metrics of the process. Every number says what is so; none is an estimate.

pub mod families;
mod process;
mod text;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use domain::append::LogHead;

use families::{APPEND_EVENTS, APPEND_SECONDS, APPENDS, HTTP_IN_FLIGHT, HTTP_REQUESTS, HTTP_SECONDS};
pub use text::{Family, Kind, MetricsText};

/// Upper bounds of the histograms of times, in seconds.
const BOUNDS_SECONDS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// Methods that are counted by name. Any other is counted as one: whoever invents methods fills no memory with them.
const METHODS: [&str; 7] = ["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"];
const OTHER_METHOD: &str = "other";

/// The numbers of the region behind the API.
#[async_trait]
pub trait Numbers: Send + Sync {
    /// Writes them; those that take the database only where that has just told the log's head, and within `limit`.
    async fn write(&self, text: &mut MetricsText, head: Option<&LogHead>, limit: Duration);
}

#[derive(Debug, Clone, Default)]
struct Times {
    counts: [u64; BOUNDS_SECONDS.len() + 1],
    sum_seconds: f64,
}

impl Times {
    fn observe(&mut self, time: Duration) {
        let seconds = time.as_secs_f64();
        self.counts[BOUNDS_SECONDS.partition_point(|bound| *bound < seconds)] += 1;
        self.sum_seconds += seconds;
    }

    fn write(&self, text: &mut MetricsText, family: &'static Family, values: &[&str]) {
        text.histogram(family, values, BOUNDS_SECONDS, &self.counts, self.sum_seconds);
    }
}

#[derive(Debug, Default)]
struct Counts {
    /// By method, route and status.
    requests: BTreeMap<(&'static str, String, u16), u64>,
    /// By method and route.
    times: BTreeMap<(&'static str, String), Times>,
    /// By outcome: new, replayed, or the kind of the error.
    appends: BTreeMap<&'static str, u64>,
    append_times: Times,
    events: u64,
}

/// What the API has counted since the process started.
#[derive(Debug, Default)]
pub struct ApiMetrics {
    counts: Mutex<Counts>,
    in_flight: AtomicU64,
}

/// A request that waits for its answer; dropped when it has one, or does not want one any more.
#[must_use]
pub struct InFlight<'a>(&'a AtomicU64);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl ApiMetrics {
    /// A request has come.
    pub fn began(&self) -> InFlight<'_> {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(&self.in_flight)
    }

    /// A request was answered. `route` is one of the router's own, never what a client wrote.
    pub fn answered(&self, method: &str, route: &str, status: u16, time: Duration) {
        let method = METHODS.into_iter().find(|known| *known == method).unwrap_or(OTHER_METHOD);
        let mut counts = self.lock();
        *counts.requests.entry((method, route.to_owned(), status)).or_default() += 1;
        counts.times.entry((method, route.to_owned())).or_default().observe(time);
    }

    /// An append ended as `outcome`: `new`, `replayed` or a kind of error. `events` are those newly stored.
    pub fn appended(&self, outcome: &'static str, events: usize, time: Duration) {
        let mut counts = self.lock();
        *counts.appends.entry(outcome).or_default() += 1;
        counts.append_times.observe(time);
        counts.events += u64::try_from(events).unwrap_or(u64::MAX);
    }

    /// Writes all counts, and what the kernel says of the process.
    pub fn write(&self, text: &mut MetricsText) {
        process::write(text);
        text.value(&HTTP_IN_FLIGHT, &[], self.in_flight.load(Ordering::Relaxed));
        let counts = self.lock();
        for ((method, route, status), count) in &counts.requests {
            text.value(&HTTP_REQUESTS, &[method, route, &status.to_string()], count);
        }
        for ((method, route), times) in &counts.times {
            times.write(text, &HTTP_SECONDS, &[method, route]);
        }
        for (outcome, count) in &counts.appends {
            text.value(&APPENDS, &[outcome], count);
        }
        counts.append_times.write(text, &APPEND_SECONDS, &[]);
        text.value(&APPEND_EVENTS, &[], counts.events);
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(metrics: &ApiMetrics) -> String {
        let mut text = MetricsText::default();
        metrics.write(&mut text);
        text.finish()
    }

    #[test]
    fn invented_methods_are_counted_as_one() {
        let metrics = ApiMetrics::default();
        for method in ["BREW", "BREW2", "GET"] {
            metrics.answered(method, "/v1/log", 401, Duration::ZERO);
        }
        let text = written(&metrics);
        assert!(text.contains("method=\"other\",route=\"/v1/log\",status=\"401\"} 2\n"), "{text}");
        assert!(!text.contains("BREW"), "{text}");
    }

    #[test]
    fn a_histogram_counts_what_is_at_most_its_bound() {
        let metrics = ApiMetrics::default();
        metrics.answered("GET", "/v1/log", 200, Duration::from_millis(30));
        metrics.answered("GET", "/v1/log", 200, Duration::from_secs(11));
        let text = written(&metrics);
        assert!(text.contains("le=\"0.025\"} 0\n") && text.contains("le=\"0.05\"} 1\n"), "{text}");
        assert!(text.contains("le=\"10\"} 1\n") && text.contains("le=\"+Inf\"} 2\n"), "{text}");
    }

    #[test]
    fn who_has_an_answer_or_wants_none_is_in_flight_no_more() {
        let metrics = ApiMetrics::default();
        let (one, two) = (metrics.began(), metrics.began());
        drop(one);
        assert!(written(&metrics).contains("coldstream_http_requests_in_flight 1\n"));
        drop(two);
        assert!(written(&metrics).contains("coldstream_http_requests_in_flight 0\n"));
    }
}
