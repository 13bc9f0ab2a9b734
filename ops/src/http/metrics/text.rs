//! Prometheus' text format (0.0.4), and what a metric is. A sample is written of a [`Family`] only, so that nothing is
//! scraped which has no HELP, no TYPE and no place in the table of all metrics. All samples of a family stand together,
//! whoever wrote them and when: the format asks for one group each.

use std::collections::BTreeMap;
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
    /// Families in the order in which they came.
    groups: Vec<String>,
    /// By a family's name, the place of its group.
    places: BTreeMap<&'static str, usize>,
}

impl MetricsText {
    /// One sample; `values` are those of the family's labels, in their order.
    pub fn value(&mut self, family: &'static Family, values: &[&str], value: impl Display) {
        sample(self.group(family), family, "", &labels(family, values), value);
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
        let (own, group) = (labels(family, values), self.group(family));
        let mut up_to = 0;
        for (bound, count) in bounds.into_iter().map(|bound| bound.to_string()).chain(["+Inf".to_owned()]).zip(counts) {
            up_to += count;
            let labels = [own.as_slice(), &[format!("le=\"{bound}\"")]].concat();
            sample(group, family, "_bucket", &labels, up_to);
        }
        sample(group, family, "_sum", &own, sum);
        sample(group, family, "_count", &own, up_to);
    }

    /// The text.
    #[must_use]
    pub fn finish(self) -> String {
        self.groups.concat()
    }

    /// The group of a family, which begins with what it is.
    fn group(&mut self, family: &'static Family) -> &mut String {
        let place = *self.places.entry(family.name).or_insert_with(|| {
            let Family { name, kind, help, .. } = family;
            self.groups.push(format!("# HELP {name} {help}\n# TYPE {name} {}\n", kind.as_str()));
            self.groups.len() - 1
        });
        &mut self.groups[place]
    }
}

fn sample(group: &mut String, family: &Family, part: &str, labels: &[String], value: impl Display) {
    let written = match labels {
        [] => writeln!(group, "{}{part} {value}", family.name),
        _ => writeln!(group, "{}{part}{{{}}} {value}", family.name, labels.join(",")),
    };
    written.expect("writing to a String cannot fail");
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
    static DONE: Family =
        Family { name: "worker_done_total", kind: Kind::Counter, help: "How often", labels: &["worker"] };
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
    fn samples_of_a_family_stand_together_whatever_is_written_between_them() {
        let mut text = MetricsText::default();
        for worker in ["a", "b"] {
            text.value(&UP, &[worker], 1);
            text.value(&DONE, &[worker], 2);
        }
        let expected = "# HELP worker_up Whether\n# TYPE worker_up gauge\n\
            worker_up{worker=\"a\"} 1\nworker_up{worker=\"b\"} 1\n\
            # HELP worker_done_total How often\n# TYPE worker_done_total counter\n\
            worker_done_total{worker=\"a\"} 2\nworker_done_total{worker=\"b\"} 2\n";
        assert_eq!(text.finish(), expected);
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
