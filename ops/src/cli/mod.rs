//! `coldstream <noun> <verb>`: what can be said on the command line. Each command is a few lines over the crate
//! that does the work; what it decides is decided there.
//!
//! Data goes to stdout (`--json` is a contract), talk and progress to stderr. An acting command prints its plan
//! and waits for `--yes`. Exit: 0 done, 1 failed, 2 called wrongly, 3 the verdict is "not proven".

mod archive;
mod audit;
mod client;
mod content;
mod db;
mod demo;
mod dev;
mod group;
mod import;
mod key;
pub mod output;
mod progress;
mod projection;
mod regions;
mod serve;
mod settings;
mod status;
mod token;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand};
use event_log::{PgConfig, PgLog};

use crate::clock::SystemClock;
use crate::config::{Config, ConfigError, Overrides, TelemetryConfig};
use crate::http::metrics::families;
use crate::http::openapi;
use crate::telemetry::{self, Telemetry};
use client::{Client, ServerArgs};
use output::{CliError, Output, say};

/// Commands other than the server talk for themselves; of the crates below them only warnings are shown.
const COMMAND_FILTER: &str = "warn";

/// Keeps what people change, as events, for as long as it was promised.
#[derive(Debug, Parser)]
#[command(name = "coldstream", version, arg_required_else_help = true)]
pub struct Cli {
    /// Configuration file; without it, coldstream.toml in this folder if there is one
    #[arg(long, global = true, env = "COLDSTREAM_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// One setting, over file and environment: --set http.bind=127.0.0.1:7401
    #[arg(long = "set", global = true, value_name = "SECTION.SETTING=VALUE")]
    settings: Vec<String>,
    /// Data as JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve one region: API and background work
    Serve,
    /// One region on this machine to try things out: database, object store and server in one process
    Dev(dev::DevArgs),
    /// Both regions on one screen
    Status,
    /// Bring a history into the log: CloudEvents, one a line, plain or zstd
    Import(import::ImportArgs),
    /// Take over the tables of a service that uses cqrs-es with postgres-es
    ImportPostgresEs(import::PostgresEsArgs),
    /// Content: what it is and how it came to be
    #[command(subcommand)]
    Content(content::ContentCommand),
    /// Consumer groups: where they stand, and what to do with what they have parked
    #[command(subcommand)]
    Group(group::GroupCommand),
    /// The views: where they stand, and their rebuild
    #[command(subcommand)]
    Projection(projection::ProjectionCommand),
    /// The archive: what is sealed, verified, confirmed and pruned
    #[command(subcommand)]
    Archive(archive::ArchiveCommand),
    /// The other region
    #[command(subcommand)]
    Replication(regions::ReplicationCommand),
    /// Which region is active
    #[command(subcommand)]
    Failover(regions::FailoverCommand),
    /// Prove an archive from its bucket and public keys alone
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Tokens of the API
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// The database
    #[command(subcommand)]
    Db(db::DbCommand),
    /// Signing keys
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// The configuration
    #[command(subcommand)]
    Config(settings::ConfigCommand),
    /// The OpenAPI document of the API
    Openapi,
    /// All metrics of a server, as a table in Markdown
    Metrics,
    /// One history all the way through two regions on this machine
    Demo(demo::DemoArgs),
}

/// What all commands share.
struct Context {
    config: Config,
    source: Source,
    telemetry: Telemetry,
    output: Output,
    server: ServerArgs,
}

/// Where the configuration comes from, to read it again.
struct Source {
    file: Option<PathBuf>,
    overrides: Overrides,
}

impl Source {
    fn load(&self) -> Result<Config, ConfigError> {
        Config::load(self.file.as_deref(), &self.overrides)
    }
}

impl Context {
    fn client(&self) -> Result<Client, CliError> {
        Client::new(&self.server, &self.config)
    }

    /// The log itself, for what is done beside its database.
    async fn log(&self) -> Result<PgLog, CliError> {
        let log = PgLog::connect(PgConfig::from(&self.config.log), Arc::new(SystemClock)).await;
        log.map_err(CliError::failed("opening the log that log.url names"))
    }
}

impl Cli {
    /// Runs the command; errors are said on stderr, as one line each.
    pub async fn run(self) -> ExitCode {
        match self.try_run().await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error @ (CliError::NobodyReads | CliError::Logged(_))) => error.exit_code(),
            Err(error) => {
                say(format!("coldstream: {}", error.line()));
                error.exit_code()
            }
        }
    }

    async fn try_run(self) -> Result<(), CliError> {
        let overrides = Overrides { environment: environment(), flags: self.settings };
        let source = Source { file: config_file(self.config), overrides };
        let config = source.load()?;
        let telemetry = start_telemetry(&config.telemetry, &self.command)?;
        let context = Context { config, source, telemetry, output: Output { json: self.json }, server: self.server };
        match self.command {
            Command::Serve => serve::serve(&context).await,
            Command::Dev(args) => dev::dev(&context, args).await,
            Command::Group(command) => group::run(&context, command).await,
            Command::Projection(command) => projection::run(&context, command).await,
            Command::Archive(command) => archive::run(&context, command).await,
            Command::Replication(command) => regions::replication(&context, command).await,
            Command::Failover(command) => regions::failover(&context, command).await,
            Command::Audit(command) => audit::run(&context, command).await,
            Command::Token(command) => token::run(&context, command).await,
            Command::Db(command) => db::run(&context, command).await,
            Command::Status => status::status(&context).await,
            Command::Import(args) => import::import(&context, args).await,
            Command::ImportPostgresEs(args) => import::import_postgres_es(&context, args).await,
            Command::Content(command) => content::run(&context, command).await,
            Command::Key(command) => key::run(&context, &command),
            Command::Config(command) => settings::run(&context, &command).await,
            Command::Openapi => context.output.data(&*openapi::document(), |document| format!("{document:#}")),
            Command::Metrics => context.output.data(&families::ALL, |_| families::table()),
            Command::Demo(args) => demo::demo(args).await,
        }
    }
}

/// The variables that can be settings; what is no Unicode is none.
fn environment() -> Vec<(String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

fn config_file(given: Option<PathBuf>) -> Option<PathBuf> {
    let usual = PathBuf::from("coldstream.toml");
    given.or_else(|| usual.exists().then_some(usual))
}

fn start_telemetry(config: &TelemetryConfig, command: &Command) -> Result<Telemetry, CliError> {
    let filter = if matches!(command, Command::Serve | Command::Dev(_)) {
        config.filter.clone()
    } else {
        COMMAND_FILTER.to_owned()
    };
    telemetry::start(&TelemetryConfig { filter, ..config.clone() }).map_err(|error| CliError::Usage(error.to_string()))
}
