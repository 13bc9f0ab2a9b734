//! `coldstream db init`: roles, schema and the log itself, by an administrator, once a region.

use clap::{Subcommand, ValueEnum};
use domain::append::Role;
use domain::{Epoch, Timestamp};
use event_log::{Admin, EventLogError, Missing, NewLog, ServiceLogin};
use serde::Serialize;
use uuid::Uuid;

use super::Context;
use super::output::{CliError, confirm, say};
use crate::chance;
use crate::clock::SystemClock;
use crate::config::Config;

#[derive(Debug, Subcommand)]
pub(super) enum DbCommand {
    /// Create roles, schema and log where they are missing, and apply new migrations
    Init(InitArgs),
}

#[derive(Debug, clap::Args)]
pub(super) struct InitArgs {
    /// URL for an administrator, who may create roles; better in the environment than on the command line
    #[arg(long, env = "COLDSTREAM_ADMIN_URL", hide_env_values = true, value_name = "URL")]
    admin_url: String,
    /// Name of the log, the same in all regions
    #[arg(long)]
    log_id: String,
    /// What this region is at first
    #[arg(long, value_enum, default_value_t = FirstRole::Active)]
    role: FirstRole,
    /// Name of the role that the service logs in as
    #[arg(long, default_value = "coldstream")]
    service_role: String,
    /// Its password; without one the server's own rules decide
    #[arg(long, env = "COLDSTREAM_SERVICE_PASSWORD", hide_env_values = true)]
    service_password: Option<String>,
    /// The earliest instant that recordedat may have, for a migration that brings its own times; otherwise now
    #[arg(long, value_name = "INSTANT")]
    earliest: Option<String>,
    /// Simulate time in this log, for ever, beginning with this instant; for development only
    #[arg(long, value_name = "INSTANT")]
    simulated_now: Option<String>,
    /// Say what is missing, and change nothing
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
    /// Do it
    #[arg(long)]
    yes: bool,
}

/// What a region is when its log is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum FirstRole {
    /// Takes appends.
    Active,
    /// Follows the other region.
    Follower,
}

/// What a dry run has found: what would be created and applied, and which log is there already.
#[derive(Debug, Serialize)]
struct Looked {
    roles: Vec<String>,
    migrations: Vec<&'static str>,
    view_migrations: Vec<&'static str>,
    log: Option<String>,
}

#[derive(Debug, Serialize)]
struct Initialised {
    log_id: String,
    created: bool,
    migrations: Vec<&'static str>,
}

pub(super) async fn run(context: &Context, command: DbCommand) -> Result<(), CliError> {
    let DbCommand::Init(args) = command;
    if args.dry_run {
        return look(context, &args).await;
    }
    let instant = |text: &Option<String>| {
        let read = text.as_deref().map(Timestamp::parse_rfc3339).transpose();
        read.map_err(|error| CliError::Usage(error.to_string()))
    };
    let now = SystemClock::read().map_err(CliError::failed("reading the clock"))?;
    let simulated_now = instant(&args.simulated_now)?;
    let earliest = instant(&args.earliest)?.or(simulated_now).unwrap_or(now);
    let role = match args.role {
        FirstRole::Active => Role::Active,
        FirstRole::Follower => Role::Follower,
    };
    let plan = [
        "create the roles coldstream_owner and coldstream_service, and the schema coldstream, where they are missing"
            .to_owned(),
        format!("let {:?} log in as the service", args.service_role),
        "apply the migrations of log and views that are missing".to_owned(),
        format!("create the log {:?} as {}, if there is none", args.log_id, role.as_str()),
    ];
    confirm(&plan, args.yes)?;
    let login = ServiceLogin { name: args.service_role, password: args.service_password };
    let new = new_log(&context.config, &args.log_id, role, (earliest, simulated_now));
    let (created, migrations) = initialise(&args.admin_url, &login, &new).await?;
    if !created {
        say("the log was there already; it was left as it is");
    }
    let done = Initialised { log_id: args.log_id, created, migrations };
    context.output.data(&done, |done| format!("{} migrations applied", done.migrations.len()))
}

/// Looks what is missing. Another log than the one that is asked for is an error, as it will be then.
async fn look(context: &Context, args: &InitArgs) -> Result<(), CliError> {
    let mut admin = Admin::connect(&args.admin_url).await.map_err(CliError::failed("connecting"))?;
    let missing = admin.missing(&args.service_role).await.map_err(CliError::failed("looking"))?;
    let Missing { roles, migrations, log } = missing;
    if let Some(found) = log.clone().filter(|found| *found != args.log_id) {
        return Err(CliError::failed("looking")(EventLogError::OtherLog { found }));
    }
    let views = projections::missing(admin.session()).await;
    let view_migrations = views.map_err(CliError::failed("looking at the views"))?;
    say("nothing was changed");
    context.output.data(&Looked { roles, migrations, view_migrations, log }, |looked| {
        let listed = |what: &str, names: &[&str]| match names {
            [] => format!("no {what} is missing"),
            _ => format!("missing {what}s: {}", names.join(", ")),
        };
        let roles: Vec<&str> = looked.roles.iter().map(String::as_str).collect();
        let log =
            looked.log.as_ref().map_or("there is no log yet".to_owned(), |log| format!("the log {log:?} is there"));
        let [of_log, of_views] =
            [("migration", &looked.migrations), ("migration of the view", &looked.view_migrations)];
        [listed("role", &roles), listed(of_log.0, of_log.1), listed(of_views.0, of_views.1), log].join("\n")
    })
}

/// A log as the configuration calls for, in its first epoch.
pub(super) fn new_log(
    config: &Config,
    log_id: &str,
    role: Role,
    (earliest, simulated_now): (Timestamp, Option<Timestamp>),
) -> NewLog {
    NewLog {
        log_id: log_id.to_owned(),
        incarnation: Uuid::from_bytes(chance::random()),
        role,
        epoch: Epoch::FIRST,
        earliest,
        window: config.live_window(),
        copies: config.archive.copies.into(),
        simulated_now,
    }
}

/// Roles, schemas, log. Returns whether the log was created now, and which migrations of the log were applied.
///
/// # Errors
/// `Failed` with what the database said.
pub(super) async fn initialise(
    admin_url: &str,
    login: &ServiceLogin,
    new: &NewLog,
) -> Result<(bool, Vec<&'static str>), CliError> {
    let mut admin = Admin::connect(admin_url).await.map_err(CliError::failed("connecting"))?;
    let migrations = admin.prepare(login).await.map_err(CliError::failed("preparing the database"))?;
    let owner = admin.as_owner().await.map_err(CliError::failed("preparing the views"))?;
    projections::migrate(owner).await.map_err(CliError::failed("preparing the views"))?;
    let created = admin.create_log(new).await.map_err(CliError::failed("creating the log"))?;
    Ok((created, migrations))
}
