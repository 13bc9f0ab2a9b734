//! Counts of the API, and the process's numbers in Prometheus' text format (0.0.4).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Upper bounds of the histogram of answer times, in seconds.
const BUCKETS_SECONDS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// Methods that are counted by name. Any other is counted as one: whoever invents methods fills no memory with them.
const METHODS: [&str; 7] = ["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"];
const OTHER_METHOD: &str = "other";

#[derive(Debug, Clone, Default)]
struct Histogram {
    buckets: [u64; BUCKETS_SECONDS.len()],
    count: u64,
    sum_seconds: f64,
}

impl Histogram {
    fn observe(&mut self, seconds: f64) {
        for (bucket, bound) in self.buckets.iter_mut().zip(BUCKETS_SECONDS) {
            *bucket += u64::from(seconds <= bound);
        }
        self.count += 1;
        self.sum_seconds += seconds;
    }
}

#[derive(Debug, Default)]
struct Counts {
    /// By method, route and status.
    requests: BTreeMap<(&'static str, String, u16), u64>,
    /// By method and route.
    seconds: BTreeMap<(&'static str, String), Histogram>,
    /// By outcome: new, replayed, or the kind of the error.
    appends: BTreeMap<&'static str, u64>,
    events: u64,
}

/// What the API has counted since the process started.
#[derive(Debug, Default)]
pub struct ApiMetrics(Mutex<Counts>);

impl ApiMetrics {
    /// A request was answered. `route` is one of the router's own, never what a client wrote.
    pub fn answered(&self, method: &str, route: &str, status: u16, time: Duration) {
        let method = METHODS.into_iter().find(|known| *known == method).unwrap_or(OTHER_METHOD);
        let mut counts = self.lock();
        *counts.requests.entry((method, route.to_owned(), status)).or_default() += 1;
        let key = (method, route.to_owned());
        counts.seconds.entry(key).or_default().observe(time.as_secs_f64());
    }

    /// An append ended as `outcome`: `new`, `replayed` or a kind of error. `events` are those newly stored.
    pub fn appended(&self, outcome: &'static str, events: usize) {
        let mut counts = self.lock();
        *counts.appends.entry(outcome).or_default() += 1;
        counts.events += u64::try_from(events).unwrap_or(u64::MAX);
    }

    /// Writes all counts.
    pub fn write(&self, text: &mut MetricsText) {
        let counts = self.lock();
        for (outcome, count) in &counts.appends {
            text.counter("append_requests_total", "LOG-1: appends by outcome", &[("outcome", outcome)], *count);
        }
        text.counter("append_events_total", "LOG-1: events stored through the API", &[], counts.events);
        for ((method, route, status), count) in &counts.requests {
            let labels = [("method", *method), ("route", route), ("status", &status.to_string())];
            text.counter("http_requests_total", "answered requests", &labels, *count);
        }
        for ((method, route), histogram) in &counts.seconds {
            let labels = [("method", *method), ("route", route.as_str())];
            for (bound, count) in BUCKETS_SECONDS.iter().zip(histogram.buckets) {
                let le = bound.to_string();
                text.sample("http_request_seconds_bucket", &[labels[0], labels[1], ("le", &le)], count);
            }
            text.sample("http_request_seconds_bucket", &[labels[0], labels[1], ("le", "+Inf")], histogram.count);
            text.sample("http_request_seconds_sum", &labels, histogram.sum_seconds);
            text.sample("http_request_seconds_count", &labels, histogram.count);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Prometheus' text format. Names get the prefix `coldstream_`.
#[derive(Debug, Default)]
pub struct MetricsText {
    text: String,
    described: std::collections::BTreeSet<&'static str>,
}

impl MetricsText {
    /// One value that only grows.
    pub fn counter(&mut self, name: &'static str, help: &str, labels: &[(&str, &str)], value: u64) {
        self.describe(name, help, "counter");
        self.sample(name, labels, value);
    }

    /// One value that goes up and down.
    pub fn gauge(&mut self, name: &'static str, help: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        self.describe(name, help, "gauge");
        self.sample(name, labels, value);
    }

    /// The text.
    #[must_use]
    pub fn finish(self) -> String {
        self.text
    }

    fn describe(&mut self, name: &'static str, help: &str, kind: &str) {
        if self.described.insert(name) {
            self.line(format_args!("# HELP coldstream_{name} {help}"));
            self.line(format_args!("# TYPE coldstream_{name} {kind}"));
        }
    }

    fn sample(&mut self, name: &'static str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let family = name.trim_end_matches("_bucket").trim_end_matches("_sum").trim_end_matches("_count");
        if family == "http_request_seconds" {
            self.describe(family, "time until a request is answered", "histogram");
        }
        let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        match labels.as_slice() {
            [] => self.line(format_args!("coldstream_{name} {value}")),
            _ => self.line(format_args!("coldstream_{name}{{{}}} {value}", labels.join(","))),
        }
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.text, "{line}").expect("writing to a String cannot fail");
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_described_once_and_labels_are_escaped() {
        let mut text = MetricsText::default();
        text.gauge("worker_up", "whether", &[("worker", "a\"b")], 1);
        text.gauge("worker_up", "whether", &[("worker", "c")], 0);
        let text = text.finish();
        assert_eq!(text.matches("# TYPE coldstream_worker_up gauge").count(), 1);
        assert!(text.contains("coldstream_worker_up{worker=\"a\\\"b\"} 1\n"), "{text}");
    }

    #[test]
    fn invented_methods_are_counted_as_one() {
        let metrics = ApiMetrics::default();
        for method in ["BREW", "BREW2", "GET"] {
            metrics.answered(method, "/v1/log", 401, Duration::ZERO);
        }
        let mut text = MetricsText::default();
        metrics.write(&mut text);
        let text = text.finish();
        assert!(text.contains("method=\"other\",route=\"/v1/log\",status=\"401\"} 2\n"), "{text}");
        assert!(!text.contains("BREW"), "{text}");
    }

    #[test]
    fn a_histogram_counts_what_is_at_most_its_bound() {
        let metrics = ApiMetrics::default();
        metrics.answered("GET", "/v1/log", 200, Duration::from_millis(30));
        let mut text = MetricsText::default();
        metrics.write(&mut text);
        let text = text.finish();
        assert!(text.contains("le=\"0.025\"} 0\n") && text.contains("le=\"0.05\"} 1\n"), "{text}");
        assert!(text.contains("le=\"+Inf\"} 1\n"), "{text}");
    }
}
