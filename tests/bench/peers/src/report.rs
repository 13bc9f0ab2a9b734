//! What the run says: one table in Markdown, the same as JSON, and the goals with what was reached. It never compares
//! figures of two runs, and never rounds one up to its goal.

use std::fmt::Write as _;

use serde::Serialize;

use crate::ceilings::Ceilings;
use crate::contenders::Contender;
use crate::load::{Measured, Window};

/// Everything of one run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// What the machine was doing besides.
    pub(crate) machine: Machine,
    /// How long each measurement took.
    pub(crate) window: Window,
    /// What nothing can beat.
    pub(crate) ceilings: Ceilings,
    /// Closed loop.
    pub(crate) peaks: Vec<Row>,
    /// Open loop at half of the peak.
    pub(crate) steady: Vec<Row>,
    /// Throughput with events behind it.
    pub(crate) prefilled: Option<Prefilled>,
    /// What was to be reached.
    pub(crate) goals: Vec<Goal>,
}

/// Under what circumstances.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    /// How many cores there are.
    pub(crate) cores: usize,
    /// `/proc/loadavg` before anything was started.
    pub(crate) load_before: String,
    /// `/proc/loadavg` at the end.
    pub(crate) load_after: String,
}

/// One peer at one load.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    pub(crate) peer: Contender,
    pub(crate) writers: usize,
    pub(crate) events_a_request: usize,
    /// What arrived, in an open loop.
    pub(crate) offered_requests_per_second: Option<f64>,
    pub(crate) events_per_second: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) p999_ms: f64,
    pub(crate) max_ms: f64,
    /// CPU seconds a second of the load generator, and of the peer's processes.
    pub(crate) own_cpu: f64,
    pub(crate) peer_cpu: f64,
    pub(crate) refused: u64,
}

impl Row {
    /// A row of what was measured.
    pub(crate) fn of(peer: Contender, writers: usize, events: usize, offered: Option<f64>, seen: &Measured) -> Self {
        let seconds = seen.lasted.as_secs_f64();
        let at = |quantile: f64| seen.latency.value_at_quantile(quantile) as f64 / 1000.0;
        Self {
            peer,
            writers,
            events_a_request: events,
            offered_requests_per_second: offered,
            events_per_second: seen.requests as f64 * events as f64 / seconds,
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            max_ms: seen.latency.max() as f64 / 1000.0,
            own_cpu: seen.own_cpu.as_secs_f64() / seconds,
            peer_cpu: seen.peer_cpu.as_secs_f64() / seconds,
            refused: seen.refused,
        }
    }
}

/// The same load on an empty log and on one with events.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Prefilled {
    /// Events before the measurement.
    pub(crate) behind: u64,
    /// What was reached with them.
    pub(crate) row: Row,
}

/// A goal of the log and whether this run reached it.
#[derive(Debug, Serialize)]
pub(crate) struct Goal {
    pub(crate) what: String,
    pub(crate) baseline: &'static str,
    pub(crate) ratio: f64,
    /// At least this, or at most.
    pub(crate) goal: f64,
    pub(crate) at_most: bool,
    pub(crate) reached: bool,
}

impl Report {
    /// Judges what the run has rows for; a goal without its rows does not stand in the list.
    pub(crate) fn judge(&mut self) {
        let peak = |peer, writers, events| {
            self.peaks.iter().find(|r| (r.peer, r.writers, r.events_a_request) == (peer, writers, events))
        };
        let mut goals = Vec::new();
        let mut judge = |what: &str, baseline, own: Option<f64>, other: Option<f64>, goal, at_most| {
            let (Some(own), Some(other)) = (own, other) else { return };
            let ratio = own / other;
            let reached = if at_most { ratio <= goal } else { ratio >= goal };
            goals.push(Goal { what: what.to_owned(), baseline, ratio, goal, at_most, reached });
        };
        let rate = |peer, writers, events| peak(peer, writers, events).map(|row| row.events_per_second);
        let p50 = |peer| peak(peer, 1, 1).map(|row| row.p50_ms);
        let many = [(Contender::Library, 14.0, 2.5), (Contender::Http, 8.0, 1.5)];
        for (own, than_postgres_es, than_umadb) in many {
            let what = format!("{}, 64 writers, events/s", own.name());
            judge(&what, "postgres-es", rate(own, 64, 1), rate(Contender::PostgresEs, 64, 1), than_postgres_es, false);
            judge(&what, "UmaDB", rate(own, 64, 1), rate(Contender::Umadb, 64, 1), than_umadb, false);
        }
        let best = self.peaks.iter().filter(|row| row.peer == Contender::Library && row.events_a_request == 1000);
        let best = best.map(|row| row.events_per_second).reduce(f64::max);
        let copy = Some(self.ceilings.copy_rows_per_second);
        judge("Coldstream, library, requests of 1000, events/s", "one COPY", best, copy, 0.75, false);
        let (own, plain) = (p50(Contender::Library), p50(Contender::PlainInsert));
        judge("Coldstream, library, a single writer's p50", "plain INSERT", own, plain, 1.3, true);
        if let Some(prefilled) = &self.prefilled {
            let (own, empty) = (prefilled.row.events_per_second, rate(Contender::Library, prefilled.row.writers, 1));
            let what = format!("Coldstream, library, {} events behind it", prefilled.behind);
            judge(&what, "the empty log", Some(own), empty, 0.9, false);
        }
        self.goals = goals;
    }

    /// The tables.
    pub(crate) fn to_markdown(&self) -> String {
        let mut out = String::new();
        let written = self.write(&mut out);
        written.expect("a String takes all that is written");
        out
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let machine = &self.machine;
        writeln!(
            out,
            "{} cores; load before: {}; after: {}. {:.0} s warm-up, {:.0} s measured, events of 300 + 100 bytes.\n",
            machine.cores,
            machine.load_before,
            machine.load_after,
            self.window.warm_up.as_secs_f64(),
            self.window.measured.as_secs_f64()
        )?;
        writeln!(
            out,
            "Ceilings: one COPY of 300,000 rows {:.0} rows/s; fdatasync of 8 KiB appends {:.0}/s.\n",
            self.ceilings.copy_rows_per_second, self.ceilings.fdatasyncs_per_second
        )?;
        self.write_peaks(out)?;
        self.write_steady(out)?;
        if let Some(Prefilled { behind, row }) = &self.prefilled {
            writeln!(
                out,
                "With {behind} events behind it: {:.0} events/s, {} writers.\n",
                row.events_per_second, row.writers
            )?;
        }
        self.write_goals(out)
    }

    fn write_peaks(&self, out: &mut String) -> std::fmt::Result {
        writeln!(
            out,
            "| peer | writers | events a request | events/s | × postgres-es | × plain INSERT | × UmaDB | × COPY \
             | p50 ms | p99 ms | max ms | CPU of the load generator | CPU of the peer | refused |\n\
             |---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
        )?;
        for row in &self.peaks {
            let against = |baseline| {
                let same =
                    |r: &&Row| (r.peer, r.writers, r.events_a_request) == (baseline, row.writers, row.events_a_request);
                self.peaks
                    .iter()
                    .find(same)
                    .map_or("–".to_owned(), |r| ratio(row.events_per_second, r.events_per_second))
            };
            writeln!(
                out,
                "| {} | {} | {} | {:.0} | {} | {} | {} | {} | {:.2} | {:.2} | {:.1} | {:.2} | {:.2} | {} |",
                row.peer.name(),
                row.writers,
                row.events_a_request,
                row.events_per_second,
                against(Contender::PostgresEs),
                against(Contender::PlainInsert),
                against(Contender::Umadb),
                ratio(row.events_per_second, self.ceilings.copy_rows_per_second),
                row.p50_ms,
                row.p99_ms,
                row.max_ms,
                row.own_cpu,
                row.peer_cpu,
                row.refused
            )?;
        }
        writeln!(out, "\nCPU is seconds a second; the library's share of it is in the load generator's.\n")
    }

    fn write_steady(&self, out: &mut String) -> std::fmt::Result {
        if self.steady.is_empty() {
            return Ok(());
        }
        writeln!(
            out,
            "Open loop at half of each peer's own peak, latency from the intended instant:\n\n\
             | peer | writers | offered/s | answered/s | p50 ms | p99 ms | p99.9 ms | max ms |\n\
             |---|--:|--:|--:|--:|--:|--:|--:|"
        )?;
        for row in &self.steady {
            writeln!(
                out,
                "| {} | {} | {:.0} | {:.0} | {:.2} | {:.2} | {:.2} | {:.1} |",
                row.peer.name(),
                row.writers,
                row.offered_requests_per_second.unwrap_or_default(),
                row.events_per_second,
                row.p50_ms,
                row.p99_ms,
                row.p999_ms,
                row.max_ms
            )?;
        }
        writeln!(out)
    }

    fn write_goals(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "| what | against | ratio | goal | reached |\n|---|---|--:|--:|---|")?;
        for goal in &self.goals {
            let (bound, reached) = (if goal.at_most { "≤" } else { "≥" }, if goal.reached { "yes" } else { "no" });
            writeln!(
                out,
                "| {} | {} | {:.2} | {bound} {} | {reached} |",
                goal.what, goal.baseline, goal.ratio, goal.goal
            )?;
        }
        Ok(())
    }
}

fn ratio(own: f64, other: f64) -> String {
    format!("{:.2}", own / other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::histogram;
    use std::time::Duration;

    fn row(peer: Contender, events_per_second: f64) -> Row {
        let mut latency = histogram();
        latency.record(1000).expect("within the bounds");
        let zero = Duration::ZERO;
        let lasted = Duration::from_secs(1);
        let seen = Measured { requests: 1, refused: 0, lasted, latency, own_cpu: zero, peer_cpu: zero };
        Row { events_per_second, ..Row::of(peer, 64, 1, None, &seen) }
    }

    #[test]
    fn a_goal_that_is_nearly_reached_is_not_reached() {
        let second = Duration::from_secs(1);
        let mut report = Report {
            machine: Machine { cores: 2, load_before: String::new(), load_after: String::new() },
            window: Window { warm_up: second, measured: second },
            ceilings: Ceilings { copy_rows_per_second: 1.0, fdatasyncs_per_second: 1.0 },
            peaks: vec![
                row(Contender::Library, 1399.9),
                row(Contender::PostgresEs, 100.0),
                row(Contender::Umadb, 500.0),
            ],
            steady: Vec::new(),
            prefilled: None,
            goals: Vec::new(),
        };
        report.judge();
        let reached: Vec<(&str, bool)> = report.goals.iter().map(|goal| (goal.baseline, goal.reached)).collect();
        assert_eq!(reached, [("postgres-es", false), ("UmaDB", true)], "a goal without its rows is not judged");
    }
}
