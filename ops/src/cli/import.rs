//! `coldstream import FILE` and `coldstream import-postgres-es`: straight into the log that the configuration names.

use std::path::PathBuf;
use std::sync::Arc;

use domain::log::LogReader;
use replication::fence::{self, Silence};

use super::Context;
use super::output::{CliError, table};
use super::progress::ImportBar;
use crate::clock::{PgSimulatedClock, SimulatedClock, SystemClock};
use crate::config::SecretUrl;
use crate::import::postgres_es::{
    Order, PostgresEsError, PostgresEsImport, PostgresEsReport, PostgresEsTables, SnapshotsReport, TypeReport,
};
use crate::import::{Import, ImportReport, RecordedAt};
use crate::node::Node;

#[derive(Debug, clap::Args)]
pub(super) struct ImportArgs {
    /// The history: CloudEvents 1.0, one a line, oldest first; plain or zstd
    file: PathBuf,
    /// What stands in recordedat. `source`: the times of the lines, only into a log without content; while it runs, let
    /// nobody else append. A run that is resumed goes on as it began
    #[arg(long, value_enum, default_value_t = RecordedAt::Clock)]
    recorded_at: RecordedAt,
    #[command(flatten)]
    epoch: EpochArgs,
}

#[derive(Debug, clap::Args)]
struct EpochArgs {
    /// Goes on though neither the other region nor its bucket answers: you know that no other region has taken over
    #[arg(long)]
    epoch_confirmed: bool,
}

/// A node that may append: the region's epoch is in force (LOG-5). Without a bucket there is nobody to ask.
async fn open(context: &Context, epoch: &EpochArgs) -> Result<Node, CliError> {
    let node = Node::open(&context.config).await.map_err(CliError::failed("opening database and archive"))?;
    if let Some(region) = &node.region {
        let silence = if epoch.epoch_confirmed { Silence::SaysNothing } else { Silence::Forbids };
        fence::in_force(region, silence).await.map_err(CliError::failed("asking for the epoch in force"))?;
    }
    Ok(node)
}

/// Lets `appending` go on for as long as the region's epoch is in force, which is asked beside it. What it has appended by
/// then stands, and it goes on from there when it is run again.
async fn while_in_force<T>(node: &Node, appending: impl Future<Output = T>) -> Result<T, CliError> {
    let Some(region) = &node.region else { return Ok(appending.await) };
    tokio::select! {
        done = appending => Ok(done),
        lost = fence::lost(region) => Err(CliError::failed("going on with the import")(lost)),
    }
}

pub(super) async fn import(context: &Context, args: ImportArgs) -> Result<(), CliError> {
    let node = open(context, &args.epoch).await?;
    let log = node.log.clone();
    let simulated = log.log_head().await.map_err(CliError::failed("reading the log's head"))?.simulated;
    let job = Import {
        log: log.clone(),
        reader: node.reader.clone(),
        simulated: simulated.then(|| Arc::new(PgSimulatedClock(log.clone())) as Arc<dyn SimulatedClock>),
        clock: Arc::new(SystemClock),
        file: args.file,
        recorded_at: args.recorded_at,
    };
    let bar = ImportBar::new("lines");
    let report = while_in_force(&node, job.run(&bar)).await;
    bar.finish();
    log.shut_down().await;
    context.output.data(&report?.map_err(CliError::failed("the import"))?, people)
}

fn rate(events: u64, seconds: f64) -> f64 {
    // A rate is for reading; an f64 holds every count that a source can have.
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let events = events as f64;
    events / seconds.max(f64::EPSILON)
}

fn people(report: &ImportReport) -> String {
    let rate = rate(report.events + report.events_replayed, report.append_seconds);
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

/// What stands for "there is none" on the command line.
const NONE: &str = "none";

#[derive(Debug, clap::Args)]
pub(super) struct PostgresEsArgs {
    /// URL of the database that the service writes; it is only read. Better in the environment than on the command line
    #[arg(long, env = "COLDSTREAM_IMPORT_URL", hide_env_values = true, value_name = "URL")]
    from: String,
    /// The events' `source` from now on: the service's URI reference, as it will name itself when it appends
    #[arg(long, value_name = "URI")]
    source: String,
    /// The table of events: NAME or SCHEMA.NAME
    #[arg(long, default_value = "events", value_name = "TABLE")]
    events_table: String,
    /// The table of snapshots, or none
    #[arg(long, default_value = "snapshots", value_name = "TABLE")]
    snapshots_table: String,
    /// The column that says when an event was written, or none: then the streams are interleaved by sequence
    #[arg(long, default_value = NONE, value_name = "COLUMN")]
    timestamps: String,
    /// What stands in recordedat. `source`: the times of the rows, only into an empty log
    #[arg(long, value_enum, default_value_t = RecordedAt::Clock)]
    recorded_at: RecordedAt,
    #[command(flatten)]
    epoch: EpochArgs,
}

pub(super) async fn import_postgres_es(context: &Context, args: PostgresEsArgs) -> Result<(), CliError> {
    let named = |name: String| Some(name).filter(|name| name != NONE);
    let node = open(context, &args.epoch).await?;
    let job = PostgresEsImport {
        log: node.log.clone(),
        reader: node.reader.clone(),
        snapshots: node.log.clone(),
        clock: Arc::new(SystemClock),
        from: SecretUrl::new(args.from),
        tables: PostgresEsTables { events: args.events_table, snapshots: named(args.snapshots_table) },
        order: named(args.timestamps).map_or(Order::Sequence, |column| Order::Time { column }),
        source: args.source,
        recorded_at: args.recorded_at,
    };
    let bar = ImportBar::new("events");
    let report = while_in_force(&node, job.run(&bar)).await;
    bar.finish();
    node.log.shut_down().await;
    match report? {
        Ok(report) => context.output.data(&report, postgres_es_people),
        Err(error @ PostgresEsError::Differs { .. }) => Err(CliError::NotProven(error.to_string())),
        Err(error) => Err(CliError::failed("the import")(error)),
    }
}

fn postgres_es_people(report: &PostgresEsReport) -> String {
    let rate = rate(report.events - report.events_before, report.append_seconds);
    let of_type = |of_type: &TypeReport| {
        let TypeReport { aggregate_type, category, streams, events } = of_type;
        (aggregate_type.clone(), format!("{events} events in {streams} streams, as the category {category}"))
    };
    let SnapshotsReport { taken_over, made_since, left_out, sha256 } = &report.snapshots;
    let snapshots = format!(
        "{taken_over} taken over, which the first load holds against their events; {made_since} made or proven by the \
         service since, {left_out} older or of no event"
    );
    let rows = [
        ("events", format!("{} ({} imported before)", report.events, report.events_before)),
        ("order", report.order.clone()),
        ("snapshots", snapshots),
        ("their sha256", sha256.clone()),
        ("checked in", format!("{:.3} s", report.survey_seconds)),
        ("appended in", format!("{:.3} s, {} appends, {rate:.0} events/s", report.append_seconds, report.appends)),
        ("verified in", format!("{:.3} s: source and log are the same", report.verify_seconds)),
        ("sha256", report.sha256.clone()),
    ];
    let rows = rows.map(|(name, value)| (name.to_owned(), value));
    table(&report.types.iter().map(of_type).chain(rows).collect::<Vec<_>>())
}
