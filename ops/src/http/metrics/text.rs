//! Prometheus' text format (0.0.4), and what a metric is. A sample is written of a [`Family`] only, so that nothing is
//! scraped which has no HELP, no TYPE and no place in the table of all metrics.

use std::collections::BTreeSet;
use std::fmt::{Display, Write as _};

use serde::Serialize;

/// What kind of number a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// It only grows, from 0 at the start of the process.
    Counter,
    /// It goes up and down.
    Gauge,
    /// How often a value was at most each bound.
    Histogram,
}

impl Kind {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A metric, whatever its labels say.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Family {
    /// Its whole name.
    pub name: &'static str,
    /// What kind of number it is.
    pub kind: Kind,
    /// What it says, in the words of who looks at it.
    pub help: &'static str,
    /// Names of its labels, in the order of the values.
    pub labels: &'static [&'static str],
}

/// A text of samples.
#[derive(Debug, Default)]
pub struct MetricsText {
    text: String,
    described: BTreeSet<&'static str>,
}

impl MetricsText {
    /// One sample; `values` are those of the family's labels, in their order.
    pub fn value(&mut self, family: &'static Family, values: &[&str], value: impl Display) {
        self.describe(family);
        self.sample(family, "", &labels(family, values), value);
    }

    /// A histogram. `counts` has one more entry than there are `bounds`: values up to each bound and above the one
    /// before it, then those above all of them.
    pub fn histogram(
        &mut self,
        family: &'static Family,
        values: &[&str],
        bounds: impl IntoIterator<Item = f64>,
        counts: &[u64],
        sum: f64,
    ) {
        self.describe(family);
        let own = labels(family, values);
        let mut up_to = 0;
        for (bound, count) in bounds.into_iter().map(|bound| bound.to_string()).chain(["+Inf".to_owned()]).zip(counts) {
            up_to += count;
            let labels = [own.as_slice(), &[format!("le=\"{bound}\"")]].concat();
            self.sample(family, "_bucket", &labels, up_to);
        }
        self.sample(family, "_sum", &own, sum);
        self.sample(family, "_count", &own, up_to);
    }

    /// The text.
    #[must_use]
    pub fn finish(self) -> String {
        self.text
    }

    fn describe(&mut self, family: &'static Family) {
        if self.described.insert(family.name) {
            self.line(format_args!("# HELP {} {}", family.name, family.help));
            self.line(format_args!("# TYPE {} {}", family.name, family.kind.as_str()));
        }
    }

    fn sample(&mut self, family: &Family, part: &str, labels: &[String], value: impl Display) {
        match labels {
            [] => self.line(format_args!("{}{part} {value}", family.name)),
            _ => self.line(format_args!("{}{part}{{{}}} {value}", family.name, labels.join(","))),
        }
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.text, "{line}").expect("writing to a String cannot fail");
    }
}

fn labels(family: &Family, values: &[&str]) -> Vec<String> {
    assert_eq!(family.labels.len(), values.len(), "each label of {} has a value", family.name);
    family.labels.iter().zip(values).map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect()
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    static UP: Family = Family { name: "worker_up", kind: Kind::Gauge, help: "Whether", labels: &["worker"] };
    static TOOK: Family = Family { name: "took_seconds", kind: Kind::Histogram, help: "Time", labels: &[] };

    #[test]
    fn a_family_is_described_once_and_labels_are_escaped() {
        let mut text = MetricsText::default();
        text.value(&UP, &["a\"b"], 1);
        text.value(&UP, &["c"], 0);
        let text = text.finish();
        assert_eq!(text.matches("# TYPE worker_up gauge\n").count(), 1);
        assert!(text.contains("worker_up{worker=\"a\\\"b\"} 1\n"), "{text}");
    }

    #[test]
    fn buckets_of_a_histogram_hold_what_is_in_those_before_them() {
        let mut text = MetricsText::default();
        text.histogram(&TOOK, &[], [0.5, 2.0], &[3, 1, 2], 9.5);
        let expected = "# HELP took_seconds Time\n# TYPE took_seconds histogram\n\
            took_seconds_bucket{le=\"0.5\"} 3\ntook_seconds_bucket{le=\"2\"} 4\ntook_seconds_bucket{le=\"+Inf\"} 6\n\
            took_seconds_sum 9.5\ntook_seconds_count 6\n";
        assert_eq!(text.finish(), expected);
    }
}
