//! `coldstream projection status|rebuild|drop|uninstall`: beside the database, so that a new program rebuilds a view while the
//! servers of the old one still serve it.

use std::sync::Arc;

use archiver::StepObserver;
use clap::Subcommand;
use domain::Head;
use event_log::Admin;
use projections::content::ContentView;
use projections::rebuild::{self, Comparison, Differences, Rebuild, Rebuilt, Watch};
use projections::status::{self, RebuildStatus, Stopped, ViewStatus};
use projections::{ProjectionError, View};
use serde::Serialize;

use super::Context;
use super::output::{CliError, confirm, table};
use super::progress::RebuildBar;
use crate::dev::kill_at;
use crate::node::Node;

#[derive(Debug, Subcommand)]
pub(super) enum ProjectionCommand {
    /// Where each view stands, at which event it has stopped, and how its rebuild is
    Status,
    /// Build the next version beside the live one, compare both, swap them, and drop the old one; goes on where an
    /// earlier run was cut off
    Rebuild {
        /// The view
        #[arg(default_value = projections::content::VIEW)]
        view: String,
        /// Swap although both were made by one fold and differ: you have looked, and the live one is wrong
        #[arg(long)]
        accept_differences: bool,
        /// Do it
        #[arg(long)]
        yes: bool,
    },
    /// Give up a rebuild: drop what it has built, or, once it is live, what is left of the old version
    Drop {
        /// The view
        #[arg(default_value = projections::content::VIEW)]
        view: String,
        /// Do it
        #[arg(long)]
        yes: bool,
    },
    /// Take a view of your own out of the database, with its rows, when no program moves it any more: until then pruning
    /// waits for it
    Uninstall {
        /// The view
        view: String,
        /// URL for an administrator, as for `db init`; better in the environment than on the command line
        #[arg(long, env = "COLDSTREAM_ADMIN_URL", hide_env_values = true, value_name = "URL")]
        admin_url: String,
        /// Do it
        #[arg(long)]
        yes: bool,
    },
}

pub(super) async fn run(context: &Context, command: ProjectionCommand) -> Result<(), CliError> {
    match command {
        ProjectionCommand::Status => {
            let node = open(context).await?;
            let views = status::of_all(&node.views).await.map_err(CliError::failed("reading the views"))?;
            let reports: Vec<ViewReport> = views.into_iter().map(ViewReport::from).collect();
            context.output.data(&reports, |reports| reports.iter().map(ViewReport::for_people).collect())
        }
        ProjectionCommand::Rebuild { view, accept_differences, yes } => {
            let view = known(&view)?;
            let mut plan = vec![
                format!("fold {} into a new version beside the live one, from archive and live log", view.name()),
                "compare both at one checkpoint, row by row".to_owned(),
            ];
            let swap = if accept_differences { "swap them, whatever differs" } else { "swap them if nothing differs" };
            plan.extend([swap.to_owned(), "drop the old version".to_owned()]);
            confirm(&plan, yes)?;
            rebuild_view(context, view, accept_differences).await
        }
        ProjectionCommand::Drop { view, yes } => {
            confirm(&[format!("drop what the rebuild of {view} has built or left")], yes)?;
            let node = open(context).await?;
            let dropped = rebuild::drop_rebuild(&node.views, known(&view)?.name()).await;
            let dropped = Dropped { dropped: dropped.map_err(CliError::failed("dropping a rebuild"))? };
            let words = |done: &Dropped| if done.dropped { "dropped" } else { "there is no rebuild" }.to_owned();
            context.output.data(&dropped, words)
        }
        ProjectionCommand::Uninstall { view, admin_url, yes } => {
            if view == ContentView.name() {
                return Err(CliError::Usage(format!("{view} is the servers' own view")));
            }
            confirm(&[format!("drop {view} with all of its rows, and no longer wait for it before pruning")], yes)?;
            let mut admin = Admin::connect(&admin_url).await.map_err(CliError::failed("connecting"))?;
            let owner = admin.as_owner().await.map_err(CliError::failed("acting as the owner"))?;
            let dropped = projections::uninstall(owner, &view).await.map_err(CliError::failed("taking a view out"))?;
            let words = |done: &Dropped| if done.dropped { "dropped" } else { "there is no such view" }.to_owned();
            context.output.data(&Dropped { dropped }, words)
        }
    }
}

/// The views of this program, by name.
fn known(name: &str) -> Result<ContentView, CliError> {
    let known = ContentView.name() == name;
    let unknown = || CliError::Usage(format!("there is no view {name:?}; there is {}", ContentView.name()));
    known.then_some(ContentView).ok_or_else(unknown)
}

async fn open(context: &Context) -> Result<Node, CliError> {
    Node::open(&context.config).await.map_err(CliError::failed("opening database and archive"))
}

async fn rebuild_view(context: &Context, view: ContentView, accept_differences: bool) -> Result<(), CliError> {
    let steps = kill_at::observer(std::env::var(kill_at::VARIABLE).ok().as_deref()).map_err(CliError::Usage)?;
    let node = open(context).await?;
    let differences = if accept_differences { Differences::AcceptedByOperator } else { Differences::Refused };
    let shown = Arc::new(Shown { bar: RebuildBar::new(), steps });
    let rebuild = Rebuild::new(node.views.clone(), node.reader.clone(), view, shown.clone());
    let rebuilt = rebuild.run(differences).await;
    shown.bar.finish();
    match rebuilt {
        Ok(rebuilt) => context.output.data(&RebuiltReport::from(rebuilt), RebuiltReport::for_people),
        Err(error @ ProjectionError::Differs { .. }) => Err(CliError::NotProven(error.to_string())),
        Err(error) => Err(CliError::failed("rebuilding a view, which goes on when it is asked for again")(error)),
    }
}

struct Shown {
    bar: RebuildBar,
    steps: Arc<dyn StepObserver>,
}

impl Watch for Shown {
    fn reached(&self, step: &'static str) {
        self.bar.step(step);
        self.steps.reached(step);
    }

    fn folded(&self, checkpoint: Head, live: Head) {
        self.bar.folded(checkpoint.get(), live.get());
    }
}

/// One view in `projection status`. 64-bit numbers are strings, as in the record.
#[derive(Debug, Serialize)]
struct ViewReport {
    view: String,
    version: String,
    fold: i32,
    checkpoint: String,
    cutoff: String,
    stopped: Option<StoppedReport>,
    rebuild: Option<RebuildReport>,
}

#[derive(Debug, Serialize)]
struct StoppedReport {
    position: String,
    id: String,
    r#type: String,
    reason: String,
}

#[derive(Debug, Serialize)]
struct RebuildReport {
    version: String,
    fold: i32,
    began_at: String,
    checkpoint: String,
    swapped: bool,
    comparison: Option<ComparisonReport>,
}

#[derive(Debug, Serialize)]
struct ComparisonReport {
    checkpoint: String,
    live_rows: String,
    live_sha256: String,
    beside_rows: String,
    beside_sha256: String,
    differing: String,
    first_difference: Option<String>,
}

#[derive(Debug, Serialize)]
struct RebuiltReport {
    version: String,
    fold: i32,
    comparison: ComparisonReport,
}

#[derive(Debug, Serialize)]
struct Dropped {
    dropped: bool,
}

impl From<ViewStatus> for ViewReport {
    fn from(status: ViewStatus) -> Self {
        Self {
            view: status.view,
            version: status.version.to_string(),
            fold: status.fold,
            checkpoint: status.checkpoint.to_string(),
            cutoff: status.cutoff.to_string(),
            stopped: status.stopped.map(StoppedReport::from),
            rebuild: status.rebuild.map(RebuildReport::from),
        }
    }
}

impl From<Stopped> for StoppedReport {
    fn from(stopped: Stopped) -> Self {
        let Stopped { position, id, event_type, reason } = stopped;
        Self { position: position.to_string(), id, r#type: event_type, reason }
    }
}

impl From<RebuildStatus> for RebuildReport {
    fn from(rebuild: RebuildStatus) -> Self {
        Self {
            version: rebuild.version.to_string(),
            fold: rebuild.fold,
            began_at: rebuild.began_at.to_string(),
            checkpoint: rebuild.checkpoint.to_string(),
            swapped: rebuild.swapped,
            comparison: rebuild.comparison.map(ComparisonReport::from),
        }
    }
}

impl From<Comparison> for ComparisonReport {
    fn from(comparison: Comparison) -> Self {
        Self {
            checkpoint: comparison.checkpoint.to_string(),
            live_rows: comparison.live.count.to_string(),
            live_sha256: comparison.live.sha256.to_string(),
            beside_rows: comparison.beside.count.to_string(),
            beside_sha256: comparison.beside.sha256.to_string(),
            differing: comparison.differing.to_string(),
            first_difference: comparison.first,
        }
    }
}

impl From<Rebuilt> for RebuiltReport {
    fn from(rebuilt: Rebuilt) -> Self {
        Self { version: rebuilt.version.to_string(), fold: rebuilt.folds[1], comparison: rebuilt.comparison.into() }
    }
}

impl ViewReport {
    fn for_people(&self) -> String {
        let mut rows = vec![
            ("view", format!("{}, version {} by fold {}", self.view, self.version, self.fold)),
            ("as of", format!("position {}, the window begins at {}", self.checkpoint, self.cutoff)),
        ];
        if let Some(StoppedReport { position, id, r#type, reason }) = &self.stopped {
            rows.push(("stopped", format!("at position {position}, the event {id:?} of type {type:?}: {reason}")));
        }
        if let Some(rebuild) = &self.rebuild {
            let what = if rebuild.swapped { "live, the old one is not dropped yet" } else { "beside" };
            rows.push(("rebuild", format!("version {} at {}, {what}", rebuild.version, rebuild.checkpoint)));
            rows.extend(rebuild.comparison.as_ref().map(|comparison| ("compared", comparison.for_people())));
        }
        table(&rows.into_iter().map(|(name, value)| (name.to_owned(), value)).collect::<Vec<_>>())
    }
}

impl ComparisonReport {
    fn for_people(&self) -> String {
        let first = self.first_difference.as_ref().map(|first| format!(", the first is {first}")).unwrap_or_default();
        let (live, beside, at) = (&self.live_rows, &self.beside_rows, &self.checkpoint);
        format!("{live} rows and {beside} at {at}: {} differ{first}", self.differing)
    }
}

impl RebuiltReport {
    fn for_people(&self) -> String {
        format!("version {} by fold {} is live; {}", self.version, self.fold, self.comparison.for_people())
    }
}
