//! `coldstream dev`: one region on this machine, in one process: a private PostgreSQL cluster, an S3 endpoint
//! served from a folder, and the server. For trying things out; never for serving anybody else.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use domain::Timestamp;
use domain::append::Role;
use event_log::{PgConfig, PgLog, ServiceLogin};
use rand::distr::{Alphanumeric, SampleString};
use serde::Serialize;
use toml::{Table, Value};

use super::Context;
use super::output::{CliError, say, table};
use super::serve::asked_to_end;
use super::{db, key, token};
use crate::config::{Config, Overrides};
use crate::dev::{Credentials, ObjectServer, PostgresCluster, PostgresOptions};
use crate::http::auth::TokenRole;
use crate::serve::Server;

const DATABASE: &str = "coldstream";
const SERVICE: &str = "coldstream";
const BUCKET: &str = "archive";
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
    if !kept && let Err(error) = std::fs::remove_dir_all(&folder) {
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
    let text = configuration(context, folder, &cluster, (&objects, &credentials))?.to_string();
    std::fs::write(&config_file, text).map_err(CliError::failed("writing the configuration"))?;
    let config = Config::load(Some(&config_file), &Overrides::default())?;
    initialise(&config, &cluster, simulated_now).await?;
    let tokens = make_tokens(&config).await?;
    let server = Server::start(&config).await.map_err(CliError::failed("starting"))?;
    let database = cluster.superuser_url(DATABASE);
    let started = Started { url: server.url(), config: config_file, database, tokens };
    context.output.data(&started, people)?;
    say("serving; end it with Ctrl-C");
    asked_to_end.await;
    say("ending");
    let ended = server.stop().await.map_err(CliError::failed("ending in good order"));
    objects.stop().await;
    cluster.end().await.map_err(CliError::failed("ending PostgreSQL"))?;
    ended
}

/// What holds for this region, over what the caller's configuration says.
fn configuration(
    context: &Context,
    folder: &Path,
    cluster: &PostgresCluster,
    (objects, credentials): (&ObjectServer, &Credentials),
) -> Result<Table, CliError> {
    let key_file = folder.join("home.key");
    if !key_file.exists() {
        key::generate(REGION, &key_file)?;
    }
    let text = |value: &Path| Value::from(value.display().to_string());
    let section = |settings: Vec<(&str, Value)>| {
        Value::Table(settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    };
    let store = section(vec![
        ("endpoint", objects.endpoint().into()),
        ("bucket", BUCKET.into()),
        ("path_style", true.into()),
        ("access_key_id", credentials.access_key.clone().into()),
        ("secret_access_key", credentials.secret_key.clone().into()),
    ]);
    let archive = section(vec![("store", store), ("copies", "one-accepted-by-operator".into())]);
    let region = vec![("name", REGION.into()), ("data", text(folder)), ("signing_key_file", text(&key_file))];
    let window = section(vec![("months", i64::from(context.config.window.months).into())]);
    Ok(Table::from_iter([
        ("region".to_owned(), section(region)),
        ("log".to_owned(), section(vec![("url", cluster.url(SERVICE, DATABASE).into())])),
        ("window".to_owned(), window),
        ("archive".to_owned(), archive),
        ("http".to_owned(), section(vec![("bind", context.config.http.bind.to_string().into())])),
    ]))
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
        tokens.insert(role.as_str(), token::create(&log, &name, role).await?);
    }
    log.shut_down().await;
    Ok(tokens)
}

fn random_name() -> String {
    Alphanumeric.sample_string(&mut rand::rng(), NAME_LENGTH)
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
