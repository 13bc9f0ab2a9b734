//! `coldstream dev`: one region on this machine, in one process: a private PostgreSQL cluster, an S3 endpoint
//! served from a folder, and the server. For trying things out; never for serving anybody else.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use domain::Timestamp;
use domain::append::Role;
use event_log::{PgConfig, PgLog, ServiceLogin, TokenLimits};
use rand::distr::{Alphanumeric, SampleString};
use segment_store::StoreConfig;
use serde::Serialize;
use toml::Table;

use super::Context;
use super::output::{CliError, say, table};
use super::serve::asked_to_end;
use super::{db, key, token};
use crate::chance;
use crate::config::{Config, CopiesConfig, RegionConfig, ReplicationConfig, SecretUrl};
use crate::dev::region::{self, BUCKET, DATABASE, SERVICE};
use crate::dev::{Credentials, ObjectServer, PostgresCluster, PostgresOptions};
use crate::http::auth::TokenRole;
use crate::serve::Server;

const REGION: &str = "home";
/// Bytes of a folder's or a token's random name.
const NAME_LENGTH: usize = 8;

#[derive(Debug, clap::Args)]
pub(super) struct DevArgs {
    /// Keep everything in this folder, and go on with what is in it; without it all goes away at the end
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Simulate time, beginning with this instant (a new log only)
    #[arg(long, value_name = "INSTANT")]
    simulated_now: Option<String>,
}

/// What was started.
#[derive(Debug, Serialize)]
struct Started {
    url: String,
    config: PathBuf,
    database: String,
    tokens: BTreeMap<&'static str, String>,
}

pub(super) async fn dev(context: &Context, args: DevArgs) -> Result<(), CliError> {
    let asked_to_end = asked_to_end().map_err(CliError::failed("listening for signals"))?;
    let kept = args.keep.is_some();
    let folder = args.keep.unwrap_or_else(|| std::env::temp_dir().join(format!("coldstream-dev-{}", random_name())));
    let served = serve_from(context, &folder, kept, args.simulated_now.as_deref(), asked_to_end).await;
    if !kept
        && folder.exists()
        && let Err(error) = std::fs::remove_dir_all(&folder)
    {
        say(format!("{} was not removed: {error}", folder.display()));
    }
    served
}

async fn serve_from(
    context: &Context,
    folder: &Path,
    kept: bool,
    simulated_now: Option<&str>,
    asked_to_end: impl Future<Output = ()>,
) -> Result<(), CliError> {
    let bind = free_address(context.config.http.bind)?;
    std::fs::create_dir_all(folder).map_err(CliError::failed("making the folder"))?;
    let folder = &folder.canonicalize().map_err(CliError::failed("finding the folder"))?;
    say("starting PostgreSQL");
    let options = PostgresOptions { keep_in: kept.then(|| folder.join("postgres")), ..PostgresOptions::default() };
    let cluster = PostgresCluster::launch(options).await.map_err(CliError::failed("starting PostgreSQL"))?;
    cluster.create_database(DATABASE).await.map_err(CliError::failed("making the database"))?;
    let objects_folder = folder.join("objects");
    std::fs::create_dir_all(objects_folder.join(BUCKET)).map_err(CliError::failed("making the bucket"))?;
    let credentials = Credentials { access_key: "dev".to_owned(), secret_key: random_name() };
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let objects = ObjectServer::start(&objects_folder, credentials.clone(), any).await;
    let objects = objects.map_err(CliError::failed("starting the object store"))?;

    let config_file = folder.join("coldstream.toml");
    let mut config = configuration(context, folder, &cluster, (&objects, &credentials))?;
    config.http.bind = bind;
    let text = with_secrets(&config, &credentials)?.to_string();
    std::fs::write(&config_file, text).map_err(CliError::failed("writing the configuration"))?;
    initialise(&config, &cluster, simulated_now).await?;
    let tokens = make_tokens(&config).await?;
    let mut server = Server::start(&config).await.map_err(CliError::failed("starting"))?;
    let database = cluster.superuser_url(DATABASE);
    let started = Started { url: server.url(), config: config_file, database, tokens };
    context.output.data(&started, people)?;
    say("serving; end it with Ctrl-C. In another shell, to append and read:");
    say(format!("  export COLDSTREAM_SERVER={}", started.url));
    say(format!("  export COLDSTREAM_TOKEN={}", started.tokens[TokenRole::Appender.as_str()]));
    tokio::select! {
        () = asked_to_end => say("ending"),
        () = server.broke() => say("a part of the server broke: ending"),
    }
    let ended = server.stop().await.map_err(CliError::failed("ending in good order"));
    objects.stop().await;
    cluster.end().await.map_err(CliError::failed("ending PostgreSQL"))?;
    ended
}

/// The address to listen on, found out before anything is started; port 0 becomes a free one.
fn free_address(wanted: SocketAddr) -> Result<SocketAddr, CliError> {
    let taken = |error| CliError::Usage(format!("{wanted}: {error}; --set http.bind=127.0.0.1:0 takes a free port"));
    std::net::TcpListener::bind(wanted).and_then(|listener| listener.local_addr()).map_err(taken)
}

/// What the caller's configuration says, with this machine's own places in it and without another region.
fn configuration(
    context: &Context,
    folder: &Path,
    cluster: &PostgresCluster,
    (objects, credentials): (&ObjectServer, &Credentials),
) -> Result<Config, CliError> {
    let key_file = folder.join("home.key");
    if !key_file.exists() {
        key::generate(REGION, &key_file)?;
    }
    let mut config = context.config.clone();
    config.region =
        RegionConfig { name: REGION.to_owned(), signing_key_file: Some(key_file), ..RegionConfig::default() };
    config.log.url = SecretUrl::new(cluster.url(SERVICE, DATABASE));
    let store = StoreConfig::at(&objects.endpoint(), BUCKET, &credentials.access_key, &credentials.secret_key);
    (config.archive.store, config.archive.peer_store) = (Some(store), None);
    config.archive.copies = CopiesConfig::OneAcceptedByOperator;
    config.replication = ReplicationConfig::default();
    config.check()?;
    Ok(config)
}

/// The configuration as a file for other commands: with the secrets that it does not show by itself.
fn with_secrets(config: &Config, credentials: &Credentials) -> Result<Table, CliError> {
    let mut table = Table::try_from(config).map_err(CliError::failed("writing the configuration"))?;
    region::set(&mut table, "log.url", config.log.url.reveal().into());
    region::set(&mut table, "archive.store.secret_access_key", credentials.secret_key.clone().into());
    Ok(table)
}

async fn initialise(config: &Config, cluster: &PostgresCluster, simulated_now: Option<&str>) -> Result<(), CliError> {
    let simulated_now = simulated_now.map(Timestamp::parse_rfc3339).transpose();
    let simulated_now = simulated_now.map_err(|error| CliError::Usage(error.to_string()))?;
    // An import may bring the times of its source.
    let earliest = Timestamp::parse_rfc3339("0001-01-01T00:00:00Z").expect("the first instant there is");
    let login = ServiceLogin { name: SERVICE.to_owned(), password: None };
    let new = db::new_log(config, "dev", Role::Active, (earliest, simulated_now));
    db::initialise(&cluster.superuser_url(DATABASE), &login, &new).await.map(drop)
}

async fn make_tokens(config: &Config) -> Result<BTreeMap<&'static str, String>, CliError> {
    let log = PgLog::connect(PgConfig::from(&config.log), std::sync::Arc::new(crate::clock::SystemClock)).await;
    let log = log.map_err(CliError::failed("opening the log"))?;
    let mut tokens = BTreeMap::new();
    for role in TokenRole::ALL {
        // A kept folder has those of earlier runs, under other names.
        let name = format!("dev-{role}-{}", random_name());
        tokens.insert(role.as_str(), token::create(&log, &name, role, &TokenLimits::default()).await?);
    }
    log.shut_down().await;
    Ok(tokens)
}

fn random_name() -> String {
    Alphanumeric.sample_string(&mut chance::generator(), NAME_LENGTH)
}

fn people(started: &Started) -> String {
    let mut rows = vec![
        ("url".to_owned(), started.url.clone()),
        ("config".to_owned(), started.config.display().to_string()),
        ("database".to_owned(), started.database.clone()),
    ];
    rows.extend(started.tokens.iter().map(|(role, token)| (format!("token {role}"), token.clone())));
    table(&rows)
}
