//! `coldstream serve`: one region's process from start to end.
//!
//! Order at the start: the log is opened, then the highest epoch is asked for, then the API listens. An append
//! that came before the second step could be acknowledged in an epoch that is over (LOG-5). Order at the end:
//! the API answers what it accepted, the workers stop, and the log lets go last.

mod numbers;
mod reload;
mod rounds;
mod tasks;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use archiver::{Silent, StepObserver};
use domain::log::{LogReader, ReadError};
use domain::{ClockError, ErrorKind};
use event_log::{Advice, PgLog};
use replication::fence::{EpochWatch, FenceError};
use reqwest::Url;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::chain::chain;
use crate::clock::{PgSimulatedClock, SimulatedClock, Stopwatch, SystemClock};
use crate::config::Config;
use crate::groups::Groups;
use crate::http::archive::ArchiveApi;
use crate::http::regions::RegionApi;
use crate::http::{self, ApiState, Door, Parts};
use crate::node::{Node, NodeError, READER_CONNECTIONS, VIEW_CONNECTIONS};
use crate::spans::{self, Spans};
use crate::tls::{ServerTls, TlsError};
use crate::tokens::PgTokens;
use crate::workers::{self, Workers};
use numbers::{Heard, RegionNumbers};
use reload::{Changing, ChangingTokens};
use tasks::Tasks;

/// Why a region's process did not start, or not end in good order.
#[derive(Debug, Error)]
pub enum StartError {
    /// Its parts were not put together.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The log's head was not read.
    #[error("the log was not read")]
    Read(#[from] ReadError),
    /// The machine's clock was not read.
    #[error(transparent)]
    Clock(#[from] ClockError),
    /// The highest epoch was not asked for.
    #[error("the highest epoch was not asked for")]
    Fence(#[from] FenceError),
    /// The files of its TLS are none.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Signals cannot be listened for.
    #[error("listening for SIGHUP failed")]
    Signal(#[source] std::io::Error),
    /// The API does not listen, or was cut off.
    #[error(transparent)]
    Http(#[from] http::ServeError),
    /// A part of the process ended by a panic.
    #[error("a part of the process broke")]
    Broken(#[from] tokio::task::JoinError),
}

impl StartError {
    /// What the caller has to do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Node(error) => error.kind(),
            Self::Read(error) => error.kind(),
            Self::Fence(error) => error.kind(),
            Self::Tls(error) => error.kind(),
            Self::Http(error) => error.kind(),
            Self::Clock(_) | Self::Signal(_) | Self::Broken(_) => ErrorKind::Unavailable,
        }
    }
}

/// A region that serves.
pub struct Server {
    address: SocketAddr,
    tls: bool,
    node: Arc<Node>,
    workers: Workers,
    leaving: CancellationToken,
    shutdown: CancellationToken,
    tasks: Tasks,
    changing: Changing,
}

impl Server {
    /// Starts a region; returns once it listens.
    ///
    /// # Errors
    /// A [`StartError`]; nothing is left running then.
    pub async fn start(config: &Config) -> Result<Self, StartError> {
        Self::start_watched(config, Arc::new(Silent)).await
    }

    /// The same, where each step of the archive is told to `steps`: a place for kill tests.
    ///
    /// # Errors
    /// A [`StartError`]; nothing is left running then.
    pub async fn start_watched(config: &Config, steps: Arc<dyn StepObserver>) -> Result<Self, StartError> {
        let tls = config.http.tls.as_ref().map(ServerTls::open).transpose()?.map(Arc::new);
        let node = Arc::new(Node::open_watched(config, steps).await?);
        let watch = match &node.region {
            None => None,
            Some(region) => {
                let mut watch = EpochWatch::new(region.clone());
                let watched = watch.round().await?;
                tracing::info!(role = watched.role.as_str(), epoch = watched.epoch.get(), "the epoch was asked for");
                Some(watch)
            }
        };
        let bind = config.http.bind;
        let bound = |source| http::ServeError::Bind { address: bind, source };
        let listener = TcpListener::bind(bind).await.map_err(bound)?;
        let address = listener.local_addr().map_err(bound)?;
        let (workers, shutdown) = (Workers::default(), CancellationToken::new());
        let heard = Arc::new(Heard::default());
        let mut tasks = Tasks::default();
        let spans = tell_spans(config, &node, &shutdown, &mut tasks)?;
        let tokens = Arc::new(ChangingTokens::new(config, Arc::new(PgTokens::new(node.log.clone())))?);
        let mut parts = parts(config, &node, tokens.clone(), (workers.clone(), heard.clone()), spans.clone()).await?;
        parts.tls = tls.clone();
        let leaving = parts.leaving.clone();
        let state = Arc::new(ApiState::new(parts, config.http.clone(), shutdown.clone()));
        let (router, connections) = (http::router(state.clone()), state.connections());
        let changing = Changing { config: config.clone(), state, tokens };
        let (limits, ending) = (config.http.clone(), shutdown.clone());
        let door = Door { listener, tls: tls.clone(), connections };
        tasks.start(async move { Ok(http::serve(door, router, &limits, ending).await?) });
        tasks.start(unless_the_appender_breaks(node.log.clone(), shutdown.clone()));
        let certificates = rounds::certificates(tls.clone(), node.peer_tls.clone()).map_err(StartError::Signal)?;
        for (name, every, worker) in rounds::of(config, &node, watch, &heard).into_iter().chain(certificates) {
            let working = workers::run(workers.register(name), every, shutdown.clone(), worker);
            tasks.start(async move {
                working.await;
                Ok(())
            });
        }
        advise(&node).await;
        for warning in config.warnings() {
            tracing::warn!(warning, "this configuration costs safety");
        }
        tracing::info!(%address, region = config.region.name, "serving");
        Ok(Self { address, tls: tls.is_some(), node, workers, leaving, shutdown, tasks, changing })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL on this machine.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}://{}", if self.tls { "https" } else { "http" }, self.address)
    }

    /// The parts that it is made of.
    #[must_use]
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// What the background workers last did.
    #[must_use]
    pub fn workers(&self) -> &Workers {
        &self.workers
    }

    /// Cancelling it begins the end; [`Server::stop`] waits for it.
    #[must_use]
    pub fn shutdown(&self) -> CancellationToken {
        self.shutdown.clone()
    }

    /// Ready once a part of the process has ended though nobody asked it to. What is left should not go on alone:
    /// stop it, which says why, so that whoever supervises this process starts it again.
    pub async fn broke(&mut self) {
        self.tasks.broke().await;
    }

    /// Lets all of a new configuration hold that can change while a region serves, and gives the names of the settings
    /// that cannot.
    ///
    /// # Errors
    /// `Tls`; nothing has changed then.
    pub fn reload(&mut self, new: Config) -> Result<Vec<String>, StartError> {
        self.changing.reload(new)
    }

    /// Tells load balancers to go elsewhere and serves on, for `http.drain_seconds`, until `hurry` or until a part breaks.
    pub async fn leave(&mut self, hurry: impl Future<Output = ()>) {
        let limit = Duration::from_secs(self.changing.config.http.drain_seconds);
        if limit.is_zero() {
            return;
        }
        self.leaving.cancel();
        tracing::info!(seconds = limit.as_secs(), "not ready any more, and serving on for a while");
        tokio::select! {
            _ = tokio::time::timeout(limit, hurry) => {}
            () = self.broke() => {}
        }
    }

    /// Ends in good order: what was accepted is answered.
    ///
    /// # Errors
    /// `CutOff` if requests took too long, `Broken` if a part broke; everything is stopped all the same.
    pub async fn stop(self) -> Result<(), StartError> {
        self.shutdown.cancel();
        let ended = self.tasks.ended().await;
        // Last: an append under way was answered above.
        self.node.log.shut_down().await;
        ended
    }
}

/// Ends early, which is a fault, once the appender has.
async fn unless_the_appender_breaks(log: Arc<PgLog>, shutdown: CancellationToken) -> Result<(), StartError> {
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = log.broke() => tracing::error!("a fault has ended the appender: this process ends, for a new one"),
    }
    Ok(())
}

/// Says what could be set better in the database. Not to know it keeps nobody from serving.
async fn advise(node: &Node) {
    match node.log.advice(VIEW_CONNECTIONS + READER_CONNECTIONS).await {
        Ok(all) => {
            for Advice { setting, value, advice } in all {
                tracing::warn!(setting, value, advice, "the database could be set better");
            }
        }
        Err(error) => tracing::warn!(error = %chain(&error), "the database's settings were not looked at"),
    }
}

/// Tells a collector of requests and of what the views take in, if one is configured.
fn tell_spans(
    config: &Config,
    node: &Node,
    shutdown: &CancellationToken,
    tasks: &mut Tasks,
) -> Result<Spans, StartError> {
    let Some(endpoint) = &config.telemetry.otlp_endpoint else { return Ok(Spans::default()) };
    let endpoint = Url::parse(endpoint).expect("check() refuses what is no URL");
    let http = reqwest::Client::builder().build().map_err(NodeError::Http)?;
    let (spans, telling) = spans::exporter(http, &endpoint, &config.region.name, shutdown.clone());
    tasks.start(async move {
        telling.await;
        Ok(())
    });
    let (folded, view) = (spans.clone(), node.content_runner.name());
    node.content_runner.tell(Box::new(move |records| folded.folded(view, records)));
    Ok(spans)
}

async fn parts(
    config: &Config,
    node: &Arc<Node>,
    tokens: Arc<ChangingTokens>,
    (workers, heard): (Workers, Arc<Heard>),
    spans: Spans,
) -> Result<Parts, StartError> {
    let simulated = node.log.log_head().await?.simulated;
    let archive = node.archive.clone().map(|archive| ArchiveApi {
        node: archive,
        catalog: node.log.clone(),
        evidence: node.log.clone(),
        partitions: node.log.clone(),
    });
    let process = Stopwatch::start();
    node.log.measure_by(move || process.elapsed());
    let started = SystemClock::read()?;
    Ok(Parts {
        region: config.region.name.clone(),
        log: node.log.clone(),
        reader: node.reader.clone(),
        groups: Groups::new(node.log.clone(), node.reader.clone()),
        content: node.content.clone(),
        tokens,
        tls: None,
        leaving: CancellationToken::new(),
        workers,
        warnings: config.warnings(),
        archive,
        region_api: node.region.clone().map(RegionApi::new),
        simulated: simulated.then(|| Arc::new(PgSimulatedClock(node.log.clone())) as Arc<dyn SimulatedClock>),
        numbers: Box::new(RegionNumbers {
            node: node.clone(),
            heard,
            spans: spans.clone(),
            log: config.log.clone(),
            started,
        }),
        spans,
    })
}
