//! `coldstream.toml`: what it may say, and what holds where it says nothing. One struct per crate.
//!
//! Defaults < file < environment < flag. This module only describes and checks; it opens nothing.

mod changed;
mod door;
mod load;
pub mod reference;
mod secret;
mod warnings;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use archiver::ArchiverConfig;
use domain::ErrorKind;
use domain::append::REQUEST_BYTES_MAX;
use domain::archive::catalog::Copies;
use domain::window::LiveWindow;
use event_log::PgConfig;
use reqwest::Url;
use schemars::JsonSchema;
use segment_store::StoreConfig;
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use changed::{changed, is_changeable};
pub use door::{ClientCertificates, OidcAlgorithm, OidcConfig, PeerConfig, RateConfig, RatesConfig, TlsConfig};
pub use load::{ENVIRONMENT_PREFIX, Overrides};
pub use secret::SecretUrl;
use warnings::is_clear_text_abroad;

/// Why there is no configuration.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is no TOML. The text of the line is not shown: it may be a secret.
    #[error("{}, line {line}: {reason}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where.
        line: usize,
        /// Why.
        reason: String,
    },
    /// A variable or flag does not name a setting, or has a value that is none.
    #[error("{name}: {reason}")]
    Override {
        /// The variable or flag.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// A setting is unknown or of another type. Texts are not shown: they may be secrets.
    #[error("the configuration is not valid: {reason}")]
    Shape {
        /// What is wrong, and where.
        reason: String,
    },
    /// A setting has a value that it cannot have.
    #[error("{setting}: {reason}")]
    Value {
        /// The setting, such as `http.bind`.
        setting: &'static str,
        /// What is wrong and what to do.
        reason: String,
    },
}

impl ConfigError {
    /// What the caller has to do: fix the configuration.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }
}

/// The whole configuration of one region's process.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Who this region is.
    pub region: RegionConfig,
    /// The log on PostgreSQL.
    pub log: LogConfig,
    /// The live window.
    pub window: WindowConfig,
    /// The archive.
    pub archive: ArchiveConfig,
    /// The other region.
    pub replication: ReplicationConfig,
    /// How this process speaks to other servers of ours.
    pub peer: PeerConfig,
    /// The API.
    pub http: HttpConfig,
    /// What is written to stderr, and told to a collector.
    pub telemetry: TelemetryConfig,
}

/// Who this region is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RegionConfig {
    /// Its name, in statuses, alerts and signatures.
    pub name: String,
    /// File with the Ed25519 key that signs manifests, confirmations and checkpoints (`coldstream key generate`).
    /// Without one this region neither seals nor cosigns, and so never prunes.
    pub signing_key_file: Option<PathBuf>,
    /// Public keys of both regions, as `coldstream key generate` prints them. What another key signed is refused.
    pub public_keys: Vec<String>,
}

impl Default for RegionConfig {
    fn default() -> Self {
        Self { name: "home".to_owned(), signing_key_file: None, public_keys: Vec::new() }
    }
}

/// The log on PostgreSQL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// PostgreSQL's URL, for the service's role. It must reach a primary, and directly: the log sets session
    /// parameters, which a pooler between would hand to others. One that drops them is refused.
    pub url: SecretUrl,
    /// Connections for reads and for the catalog. Each costs the server a process of some MiB. Appending and
    /// following take one more each.
    pub connections: u32,
    /// Most events that are committed together. More are faster in bulk, and hold the head for longer.
    pub group_events: usize,
    /// Most bytes that are committed together. Server and this process hold about twice as much for a while, and this process a second group that is built meanwhile.
    pub group_bytes: usize,
    /// Most bytes of requests that wait for their group; more are refused. One source of events may hold half of it and one
    /// token two thirds, less while others hold some. All of it may be in memory.
    pub queue_bytes: usize,
    /// Lets the service run as a superuser, who can switch off what keeps events from being changed (SEC-1).
    pub allow_superuser: bool,
}

impl Default for LogConfig {
    fn default() -> Self {
        let PgConfig { connections, group_events, group_bytes, queue_bytes, allow_superuser, .. } = PgConfig::default();
        let url = SecretUrl::new("postgres:///coldstream");
        Self { url, connections, group_events, group_bytes, queue_bytes, allow_superuser }
    }
}

impl From<&LogConfig> for PgConfig {
    fn from(config: &LogConfig) -> Self {
        let LogConfig { url, connections, group_events, group_bytes, queue_bytes, allow_superuser } = config.clone();
        Self { url: url.reveal().to_owned(), connections, group_events, group_bytes, queue_bytes, allow_superuser }
    }
}

/// The live window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WindowConfig {
    /// Whole calendar months that the live database keeps. A longer window costs disk in proportion.
    pub months: u32,
}

impl Default for WindowConfig {
    fn default() -> Self {
        Self { months: 6 }
    }
}

/// The archive: where objects lie and when segments are cut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ArchiveConfig {
    /// This region's bucket. Without one nothing is archived, and so nothing is pruned.
    pub store: Option<StoreConfig>,
    /// The other region's bucket, to mirror and to heal from.
    pub peer_store: Option<StoreConfig>,
    /// How segments are cut, and the memory of cold reads.
    pub sealing: ArchiverConfig,
    /// How often the archiver looks for work.
    pub interval_seconds: u64,
    /// Copies that pruning waits for.
    pub copies: CopiesConfig,
    /// How often stored objects are read again, least recently verified first.
    pub scrub_interval_seconds: u64,
    /// How many bytes are read again each time. More finds rot sooner, and costs requests and bandwidth.
    pub scrub_bytes: u64,
}

impl Default for ArchiveConfig {
    fn default() -> Self {
        Self {
            store: None,
            peer_store: None,
            sealing: ArchiverConfig::default(),
            interval_seconds: 10,
            copies: CopiesConfig::Two,
            scrub_interval_seconds: 3600,
            scrub_bytes: 1 << 30,
        }
    }
}

/// Copies that pruning waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CopiesConfig {
    /// The own one and one that another store has confirmed (ARC-2).
    Two,
    /// The own one alone. A single broken disk then loses history; `status` warns of it for ever.
    OneAcceptedByOperator,
}

impl From<CopiesConfig> for Copies {
    fn from(copies: CopiesConfig) -> Self {
        match copies {
            CopiesConfig::Two => Self::Two,
            CopiesConfig::OneAcceptedByOperator => Self::OneAcceptedByOperator,
        }
    }
}

/// The other region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ReplicationConfig {
    /// URL of the other region's API. Without one there is no second region.
    pub peer_url: Option<String>,
    /// File with the token (role replicator) that the other region gave us.
    pub token_file: Option<PathBuf>,
    /// How often a region asks for the highest epoch, and a follower that has caught up for more.
    pub interval_seconds: u64,
}

impl Default for ReplicationConfig {
    fn default() -> Self {
        Self { peer_url: None, token_file: None, interval_seconds: 2 }
    }
}

/// The API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HttpConfig {
    /// Address to listen on.
    pub bind: SocketAddr,
    /// TLS of this process. It, or a proxy with TLS in front, is needed to listen beyond loopback: tokens would cross the
    /// network in clear text otherwise.
    pub tls: Option<TlsConfig>,
    /// Says that TLS ends in front of this process.
    pub behind_tls_proxy: bool,
    /// An identity provider whose tokens open something here, beside our own.
    pub oidc: Option<OidcConfig>,
    /// How much each caller may ask for.
    pub rates: RatesConfig,
    /// Connections at a time; more wait to be accepted. Tails (`follow=true`) hold three quarters of them at most, one more is
    /// refused as unavailable. What they have not taken of the log is some 64 MiB together, and a page of 16 KiB or
    /// one record for each.
    pub connections_max: usize,
    /// Bytes of request bodies in memory at a time; more wait. At least one request of 16 MiB.
    pub body_bytes_in_flight_max: usize,
    /// A client has this long to send its header, and this long to send its body.
    pub receive_seconds: u64,
    /// A client that takes nothing of its answer for this long is cut off. More lets slow readers of long answers be,
    /// and stuck ones hold their connection.
    pub send_seconds: u64,
    /// A request that is not a tail is answered within this time.
    pub answer_seconds: u64,
    /// Told to end, the process serves on for this long while `/health/ready` refuses: as long as a load balancer takes to
    /// notice. More makes a rolling restart slower; 0: there is none, and clients know another server by themselves.
    pub drain_seconds: u64,
    /// At a shutdown, requests under way have this long.
    pub shutdown_seconds: u64,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            bind: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7400),
            tls: None,
            behind_tls_proxy: false,
            oidc: None,
            rates: RatesConfig::default(),
            connections_max: 1024,
            body_bytes_in_flight_max: 64 << 20,
            receive_seconds: 30,
            send_seconds: 60,
            answer_seconds: 60,
            drain_seconds: 0,
            shutdown_seconds: 30,
        }
    }
}

/// What is written to stderr.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TelemetryConfig {
    /// What to log: `tracing`'s filter, such as `debug` or `info,sqlx=warn`.
    pub filter: String,
    /// Whether lines are JSON.
    pub json: bool,
    /// Where an OpenTelemetry collector takes spans by OTLP over HTTP, such as `http://127.0.0.1:4318`. Told are requests
    /// whose caller samples them (`traceparent`), and what the views take in of their events. Without it nothing is.
    pub otlp_endpoint: Option<String>,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self { filter: "info,sqlx=warn".to_owned(), json: false, otlp_endpoint: None }
    }
}

impl Config {
    /// The live window.
    ///
    /// # Panics
    /// Never for a configuration that passed [`Config::check`].
    #[must_use]
    pub fn live_window(&self) -> LiveWindow {
        LiveWindow::of_months(self.window.months).expect("check() refuses a window of 0 months")
    }

    /// Checks what can be checked without opening anything.
    ///
    /// # Errors
    /// [`ConfigError::Value`] for the first setting that cannot be.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.window.months == 0 {
            return refuse("window.months", "a window of 0 months would prune what was just appended");
        }
        if self.region.name.is_empty() || self.region.name.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return refuse("region.name", "a region has a name without white space");
        }
        if let Err(reason) = self.archive.sealing.check() {
            return refuse("archive.sealing", &reason);
        }
        self.check_numbers()?;
        self.check_addresses()?;
        self.check_stores()
    }

    fn check_numbers(&self) -> Result<(), ConfigError> {
        let Self { log, archive, replication, http, .. } = self;
        let numbers = [
            ("log.connections", u64::from(log.connections)),
            ("log.group_events", in_u64(log.group_events)),
            ("log.group_bytes", in_u64(log.group_bytes)),
            ("archive.interval_seconds", archive.interval_seconds),
            ("archive.scrub_interval_seconds", archive.scrub_interval_seconds),
            ("replication.interval_seconds", replication.interval_seconds),
            ("http.connections_max", in_u64(http.connections_max)),
            ("http.receive_seconds", http.receive_seconds),
            ("http.send_seconds", http.send_seconds),
            ("http.answer_seconds", http.answer_seconds),
            ("http.shutdown_seconds", http.shutdown_seconds),
        ];
        if let Some((setting, _)) = numbers.into_iter().find(|(_, number)| *number == 0) {
            return refuse(setting, "it is at least 1");
        }
        let rooms =
            [("log.queue_bytes", log.queue_bytes), ("http.body_bytes_in_flight_max", http.body_bytes_in_flight_max)];
        match rooms.into_iter().find(|(_, bytes)| *bytes < REQUEST_BYTES_MAX) {
            Some((setting, _)) => refuse(setting, "it must hold one request of 16 MiB: 16777216 or more"),
            None => Ok(()),
        }
    }

    fn check_addresses(&self) -> Result<(), ConfigError> {
        if !self.http.bind.ip().is_loopback() && self.http.tls.is_none() && !self.http.behind_tls_proxy {
            return refuse(
                "http.bind",
                "beyond loopback, tokens would travel in clear text: give a certificate and its key in http.tls, \
                 or let a TLS proxy stand in front and say so with http.behind_tls_proxy = true",
            );
        }
        if self.peer.certificate.is_some() != self.peer.key.is_some() {
            return refuse("peer.certificate", "a certificate and its key, peer.key, go together");
        }
        if self.telemetry.otlp_endpoint.as_deref().is_some_and(|url| !is_http_url(url)) {
            return refuse("telemetry.otlp_endpoint", "it is no URL: write http://HOST:4318");
        }
        if let Some(oidc) = &self.http.oidc {
            // Whoever can answer in the issuer's place makes tokens of every role.
            if !is_http_url(&oidc.keys_url) || is_clear_text_abroad(&oidc.keys_url) {
                return refuse("http.oidc.keys_url", "it is the https URL of the issuer's keys");
            }
            let needed = [&oidc.issuer, &oidc.audience, &oidc.role_claim].into_iter().chain(&oidc.categories_claim);
            if needed.into_iter().any(String::is_empty) {
                return refuse("http.oidc", "issuer, audience, role_claim and categories_claim are not empty");
            }
        }
        let Some(url) = &self.replication.peer_url else { return Ok(()) };
        if !is_http_url(url) {
            return refuse("replication.peer_url", "it is no URL: write https://HOST, with :PORT if need be");
        }
        if self.replication.token_file.is_none() {
            return refuse("replication.token_file", "the other region asks for a token of role replicator");
        }
        Ok(())
    }

    fn check_stores(&self) -> Result<(), ConfigError> {
        let stores = [("archive.store", &self.archive.store), ("archive.peer_store", &self.archive.peer_store)];
        for (setting, store) in stores {
            if let Some(Err(error)) = store.as_ref().map(StoreConfig::check) {
                return refuse(setting, &error.to_string());
            }
        }
        // Two names for one bucket would count one copy as two (ARC-2).
        let place = |store: &StoreConfig| (store.endpoint.clone(), store.bucket.clone());
        if let (Some(own), Some(peer)) = (&self.archive.store, &self.archive.peer_store)
            && place(own) == place(peer)
        {
            return refuse("archive.peer_store", "it is the same bucket as archive.store: one copy is not two");
        }
        Ok(())
    }

    /// The configuration as TOML with secrets hidden.
    ///
    /// # Panics
    /// Never: the structs of this module have nothing that TOML cannot say.
    #[must_use]
    pub fn shown(&self) -> String {
        toml::to_string_pretty(self).expect("every setting is a TOML value")
    }
}

fn refuse(setting: &'static str, reason: &str) -> Result<(), ConfigError> {
    Err(ConfigError::Value { setting, reason: reason.to_owned() })
}

fn in_u64(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

/// Whether `text` is the URL of an HTTP server.
#[must_use]
pub fn is_http_url(text: &str) -> bool {
    Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
}
