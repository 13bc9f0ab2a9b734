//! `coldstream config show|check`: what holds, with secrets hidden, and whether it works.

use std::sync::Arc;

use clap::{CommandFactory, Subcommand};
use domain::log::LogReader;
use event_log::{PgConfig, PgLog};
use segment_store::{S3Store, Severity, StoreConfig};
use serde::Serialize;
use uuid::Uuid;

use super::output::{CliError, table};
use super::{Cli, Context};
use crate::chain::chain;
use crate::chance;
use crate::clock::SystemClock;
use crate::config::reference::{self, SECTIONS};
use crate::config::{Config, OidcConfig, PeerConfig};
use crate::node::{READER_CONNECTIONS, VIEW_CONNECTIONS};
use crate::oidc;
use crate::tls::{self, ServerTls, TlsError};

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// What holds: defaults < file < environment < flag; secrets hidden
    Show,
    /// What holds, and whether database and buckets keep what is needed of them. Exit 3: they do not
    Check,
    /// All settings and variables, as tables in Markdown
    Reference,
}

/// What was tried.
#[derive(Debug, Serialize)]
struct Tried {
    what: &'static str,
    good: bool,
    said: String,
}

impl Tried {
    fn of(what: &'static str, tried: Result<&str, TlsError>) -> Self {
        let good = tried.is_ok();
        Self { what, good, said: tried.map_or_else(|error| chain(&error), str::to_owned) }
    }
}

#[derive(Debug, Serialize)]
struct Checked {
    config: Config,
    /// What costs safety and was asked for by name.
    warnings: Vec<String>,
    tried: Vec<Tried>,
    /// What could be set better in the database.
    advice: Vec<String>,
}

pub(super) async fn run(context: &Context, command: &ConfigCommand) -> Result<(), CliError> {
    match command {
        ConfigCommand::Show => context.output.data(&context.config, Config::shown),
        ConfigCommand::Check => check(context).await,
        ConfigCommand::Reference => context.output.data(&*SECTIONS, |_| reference::table(&Cli::command())),
    }
}

async fn check(context: &Context) -> Result<(), CliError> {
    let config = &context.config;
    let (log, advice) = try_log(config).await;
    let mut tried = vec![log];
    if let Some(tls) = &config.http.tls {
        tried.push(Tried::of("http.tls", ServerTls::open(tls).map(|_| "certificate and key go together")));
    }
    if let Some(oidc) = &config.http.oidc {
        tried.push(try_issuer(oidc).await);
    }
    if config.peer != PeerConfig::default() {
        tried.push(Tried::of("peer", tls::client(&config.peer).map(|_| "its certificates can be used")));
    }
    let stores = [("archive.store", &config.archive.store), ("archive.peer_store", &config.archive.peer_store)];
    for (what, store) in stores {
        if let Some(store) = store {
            tried.push(try_store(what, store).await);
        }
    }
    let checked = Checked { config: config.clone(), warnings: config.warnings(), tried, advice };
    context.output.data(&checked, people)?;
    let bad: Vec<&str> = checked.tried.iter().filter(|tried| !tried.good).map(|tried| tried.what).collect();
    if bad.is_empty() { Ok(()) } else { Err(CliError::NotProven(bad.join(", "))) }
}

/// Opens the log and asks for its head; and says what could be set better in its database, which is no failure.
async fn try_log(config: &Config) -> (Tried, Vec<String>) {
    let bad = |said: String| Tried { what: "log", good: false, said };
    let log = match PgLog::connect(PgConfig::from(&config.log), Arc::new(SystemClock)).await {
        Ok(log) => log,
        Err(error) => return (bad(chain(&error)), Vec::new()),
    };
    let (head, advice) = tokio::join!(log.log_head(), log.advice(VIEW_CONNECTIONS + READER_CONNECTIONS));
    log.shut_down().await;
    let tried = match head {
        Ok(head) => {
            let said = format!("{:?} is {} in epoch {} at {}", head.log_id, head.role.as_str(), head.epoch, head.head);
            Tried { what: "log", good: true, said }
        }
        Err(error) => bad(chain(&error)),
    };
    let advice = advice.map(|advice| advice.iter().map(|advice| advice.to_string()).collect());
    (tried, advice.unwrap_or_else(|error| vec![chain(&error)]))
}

async fn try_issuer(config: &OidcConfig) -> Tried {
    let what = "http.oidc";
    match oidc::probe(config).await {
        Ok(usable) => Tried { what, good: true, said: format!("its issuer shows {usable} keys") },
        Err(said) => Tried { what, good: false, said },
    }
}

async fn try_store(what: &'static str, config: &StoreConfig) -> Tried {
    let bad = |said: String| Tried { what, good: false, said };
    let store = match S3Store::connect(config) {
        Ok(store) => store,
        Err(error) => return bad(chain(&error)),
    };
    let nonce = Uuid::from_bytes(chance::random()).simple().to_string();
    match segment_store::probe(&store, &nonce).await {
        Err(error) => bad(chain(&error)),
        Ok(report) => {
            let finding = |finding: &segment_store::Finding| {
                let grave = if finding.check.severity() == Severity::NoSealing { "not used" } else { "warning" };
                format!("{grave}: {}: {}", finding.check.as_str(), finding.detail)
            };
            let findings: Vec<String> = report.findings.iter().map(finding).collect();
            let said = if findings.is_empty() { "it keeps its promises".to_owned() } else { findings.join("; ") };
            Tried { what, good: report.allows_sealing(), said }
        }
    }
}

fn people(checked: &Checked) -> String {
    let tried =
        |tried: &Tried| (tried.what.to_owned(), format!("{}: {}", if tried.good { "good" } else { "BAD" }, tried.said));
    let mut rows: Vec<(String, String)> = checked.tried.iter().map(tried).collect();
    rows.extend(checked.warnings.iter().map(|warning| ("warning".to_owned(), warning.clone())));
    rows.extend(checked.advice.iter().map(|advice| ("advice".to_owned(), advice.clone())));
    format!("{}\n{}", checked.config.shown(), table(&rows))
}
