//! Progress bars on stderr; nothing at all where nobody watches.

use std::time::Duration;

use archiver::audit::AuditReport;
use indicatif::{ProgressBar, ProgressStyle};

use crate::import::Progress;

const REDRAW: Duration = Duration::from_millis(200);

/// The bar of an import: how much is done, rate and remaining time.
pub(super) struct ImportBar {
    bar: ProgressBar,
    /// What is counted.
    unit: &'static str,
}

impl ImportBar {
    /// A bar that says that the source is being checked.
    #[must_use]
    pub(super) fn new(unit: &'static str) -> Self {
        let bar = ProgressBar::new_spinner().with_message("checking the source");
        bar.enable_steady_tick(REDRAW);
        Self { bar, unit }
    }

    /// Takes the bar away.
    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl Progress for ImportBar {
    fn surveyed(&self, all: u64, done: u64) {
        let template = "{bar:40} {pos}/{len} {msg}  {per_sec}  {eta} left";
        self.bar.set_style(ProgressStyle::with_template(template).expect("the template is a constant"));
        self.bar.set_message(self.unit);
        self.bar.set_length(all);
        self.bar.set_position(done);
        // What an earlier run did says nothing about this one's rate.
        self.bar.reset_eta();
    }

    fn done(&self, done: u64) {
        self.bar.set_position(done);
    }
}

/// How far an audit is: it learns how much there is only as it goes.
pub(super) struct AuditBar(ProgressBar);

impl AuditBar {
    /// A bar that says that the audit has begun.
    #[must_use]
    pub(super) fn new() -> Self {
        let bar = ProgressBar::new_spinner().with_message("reading manifests and checkpoints");
        bar.enable_steady_tick(REDRAW);
        Self(bar)
    }

    /// Says what was verified so far.
    pub(super) fn show(&self, report: &AuditReport) {
        let (verified, findings) = (report.verified_head, report.findings.len());
        self.0.set_message(format!("verified up to {verified}, findings: {findings}"));
    }

    /// Takes the bar away.
    pub(super) fn finish(&self) {
        self.0.finish_and_clear();
    }
}

/// How far a rebuild is: events in the version beside, of those in the live one.
pub(super) struct RebuildBar(ProgressBar);

impl RebuildBar {
    /// A bar that has not heard how much there is.
    #[must_use]
    pub(super) fn new() -> Self {
        let template = "{bar:40} {pos}/{len} events  {per_sec}  {eta} left  {msg}";
        let style = ProgressStyle::with_template(template).expect("the template is a constant");
        let bar = ProgressBar::new(0).with_style(style);
        bar.enable_steady_tick(REDRAW);
        Self(bar)
    }

    /// Says which step is done.
    pub(super) fn step(&self, step: &'static str) {
        self.0.set_message(step);
    }

    /// Says where both versions stand.
    pub(super) fn folded(&self, done: u64, of: u64) {
        self.0.set_length(of);
        self.0.set_position(done);
    }

    /// Takes the bar away.
    pub(super) fn finish(&self) {
        self.0.finish_and_clear();
    }
}
