//! `coldstream import FILE`: straight into the log that the configuration names.

use std::path::PathBuf;
use std::sync::Arc;

use domain::log::LogReader;

use super::Context;
use super::output::{CliError, table};
use super::progress::ImportBar;
use crate::clock::{PgSimulatedClock, SimulatedClock, SystemClock};
use crate::import::{Import, ImportReport, RecordedAt};

#[derive(Debug, clap::Args)]
pub(super) struct ImportArgs {
    /// The history: CloudEvents 1.0, one a line, oldest first; plain or zstd
    file: PathBuf,
    /// What stands in recordedat. `source`: the times of the lines, only into a log without content
    #[arg(long, value_enum, default_value_t = RecordedAt::Clock)]
    recorded_at: RecordedAt,
}

pub(super) async fn import(context: &Context, args: ImportArgs) -> Result<(), CliError> {
    let log = Arc::new(context.log().await?);
    let simulated = log.log_head().await.map_err(CliError::failed("reading the log's head"))?.simulated;
    let job = Import {
        log: log.clone(),
        simulated: simulated.then(|| Arc::new(PgSimulatedClock(log.clone())) as Arc<dyn SimulatedClock>),
        clock: Arc::new(SystemClock),
        file: args.file,
        recorded_at: args.recorded_at,
    };
    let bar = ImportBar::new();
    let report = job.run(&bar).await;
    bar.finish();
    log.shut_down().await;
    context.output.data(&report.map_err(CliError::failed("the import"))?, people)
}

fn people(report: &ImportReport) -> String {
    // A rate is for reading; an f64 holds every count that a file can have.
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let rate = (report.events + report.events_replayed) as f64 / report.append_seconds.max(f64::EPSILON);
    let rows = [
        ("sha256", report.sha256.clone()),
        ("lines", format!("{} ({} imported before)", report.lines, report.lines_before)),
        ("events", format!("{} new, {} known already", report.events, report.events_replayed)),
        ("appends", report.appends.to_string()),
        ("checked in", format!("{:.3} s", report.survey_seconds)),
        ("appended in", format!("{:.3} s, {rate:.0} events/s", report.append_seconds)),
    ];
    table(&rows.map(|(name, value)| (name.to_owned(), value)))
}
