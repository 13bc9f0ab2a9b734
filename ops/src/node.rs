//! One region's process, put together from its configuration: every adapter is made here and handed to those
//! that decide and do. It does nothing by itself.

use std::path::Path;
use std::sync::{Arc, PoisonError};

use archiver::cold::ColdReader;
use archiver::heal::Healer;
use archiver::prune::{PruneIo, Pruner};
use archiver::scrub::Scrubber;
use archiver::seal::{SealIo, Sealer};
use archiver::sweep::SweepIo;
use archiver::{Silent, StepObserver};
use domain::archive::catalog::{Catalog, EvidenceStore, LivePartitions};
use domain::evidence::Evidence;
use domain::keys::{KeyError, KeyRing, SigningKey, VerifyKey};
use domain::log::LogReader;
use domain::store::ObjectStore;
use domain::tiered::TieredLog;
use domain::{Clock, ErrorKind};
use event_log::{EventLogError, PgConfig, PgLog};
use futures::FutureExt;
use projections::SessionLimits;
use projections::content::{ContentNow, ContentView};
use projections::runner::Runner;
use replication::fence::{self, FenceError, Silence};
use replication::{Peer, PeerClient, Region};
use segment_store::{ProbedStore, S3Store, StoreConfig, StoreConfigError};
use sqlx::postgres::{PgConnectOptions, PgPool};
use thiserror::Error;
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::archive::ArchiveNode;
use crate::chain::chain;
use crate::chance;
use crate::clock::SystemClock;
use crate::config::{Config, ReplicationConfig};
use crate::heals::HealRecorder;
use crate::tls::{PeerTls, TlsError};

/// Connections of who moves the views.
pub const VIEW_CONNECTIONS: u32 = 4;
/// Connections of who asks the view "content now": their own, so that readers who wait hold up no view.
pub const READER_CONNECTIONS: u32 = 4;

/// Why a region's process was not put together.
#[derive(Debug, Error)]
pub enum NodeError {
    /// The log was not opened.
    #[error("the log was not opened")]
    Log(#[from] EventLogError),
    /// The views' database is none.
    #[error("the views' database was not opened")]
    Views(#[source] sqlx::Error),
    /// A bucket's configuration is none.
    #[error("{setting}")]
    Store {
        /// Which one.
        setting: &'static str,
        /// Why.
        #[source]
        source: StoreConfigError,
    },
    /// A key is none.
    #[error("{setting}")]
    Key {
        /// Which one.
        setting: &'static str,
        /// Why.
        #[source]
        source: KeyError,
    },
    /// A file cannot be read.
    #[error("{setting}: cannot read {file}")]
    File {
        /// The setting that names it.
        setting: &'static str,
        /// The file.
        file: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Settings do not fit together.
    #[error("{0}")]
    Settings(String),
    /// The files of its TLS are none.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// There is no HTTP client.
    #[error("no HTTP client could be made")]
    Http(#[source] reqwest::Error),
}

impl NodeError {
    /// What the caller has to do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Log(error) => error.kind(),
            Self::Tls(error) => error.kind(),
            Self::Views(_) | Self::Http(_) => ErrorKind::Unavailable,
            Self::Store { .. } | Self::Key { .. } | Self::File { .. } | Self::Settings(_) => ErrorKind::Invalid,
        }
    }
}

/// One region's process.
pub struct Node {
    /// The live log.
    pub log: Arc<PgLog>,
    /// The log's clock: the real one, or the simulated one of a log that has it.
    pub clock: Arc<dyn Clock>,
    /// Live log and archive as one.
    pub reader: Arc<dyn LogReader>,
    /// The view "content now".
    pub content: ContentNow,
    /// Moves it.
    pub content_runner: Arc<Runner<ContentView>>,
    /// The views' database.
    pub views: PgPool,
    /// The same database, for those who only ask.
    pub readers: PgPool,
    /// The archive, if there is a bucket.
    pub archive: Option<Arc<ArchiveNode>>,
    /// What replication works with, if there is a bucket.
    pub region: Option<Arc<Region>>,
    /// What the other region is asked with, if it is asked.
    pub peer_tls: Option<Arc<PeerTls>>,
}

impl Node {
    /// Puts a region's process together that does not watch over the epoch: it asks before it appends by itself that
    /// something was found damaged (LOG-5). Connects to the log; everything else is connected to when it is used.
    ///
    /// # Errors
    /// A [`NodeError`].
    pub async fn open(config: &Config) -> Result<Self, NodeError> {
        let node = Self::open_watched(config, Arc::new(Silent)).await?;
        if let (Some(archive), Some(region)) = (&node.archive, &node.region) {
            // The region reads what the findings are about.
            let region = Arc::downgrade(region);
            archive.heals.ask_first(Box::new(move || {
                let region = region.upgrade();
                async move {
                    let closing = || FenceError::NotInForce { reason: "the process is ending".to_owned() };
                    fence::in_force(&*region.ok_or_else(closing)?, Silence::Forbids).await
                }
                .boxed()
            }));
        }
        Ok(node)
    }

    /// The same for a process that watches over the epoch, from before its first append on. Each step of the archive is
    /// told to `steps`: a place for kill tests.
    ///
    /// # Errors
    /// A [`NodeError`].
    pub async fn open_watched(config: &Config, steps: Arc<dyn StepObserver>) -> Result<Self, NodeError> {
        let log = Arc::new(PgLog::connect(PgConfig::from(&config.log), Arc::new(SystemClock)).await?);
        let watching = steps.clone();
        log.watch_steps(Arc::new(move |step| watching.reached(step)));
        let clock = log.clock();
        let database: PgConnectOptions = config.log.url.reveal().parse().map_err(NodeError::Views)?;
        let views = projections::pool(database.clone(), VIEW_CONNECTIONS, &SessionLimits::default());
        let readers = projections::pool(database, READER_CONNECTIONS, &SessionLimits::of_readers());
        let live: Arc<dyn LogReader> = log.clone();
        let asked = config.replication.peer_url.as_ref().and(config.archive.store.as_ref());
        let peer_tls = asked.map(|_| PeerTls::open(&config.peer)).transpose()?.map(Arc::new);
        let (reader, archive, region) = match &config.archive.store {
            None => (live, None, None),
            Some(store) => {
                let parts = ArchiveParts::of(config, store, &log)?;
                let cold = ColdReader::new(log.clone(), parts.healer(), config.archive.sealing.cache_bytes);
                let cold = Arc::new(cold);
                log.set_archive(cold.clone());
                let reader: Arc<dyn LogReader> = Arc::new(TieredLog::new(live, cold.clone()));
                let peer = peer(config, peer_tls.as_ref())?;
                let region = parts.region(peer, &log, reader.clone(), clock.clone(), steps.clone());
                let archive = parts.archive(config, &log, cold, clock.clone(), steps);
                (reader, Some(Arc::new(archive)), Some(Arc::new(region)))
            }
        };
        let window = config.live_window();
        let content_runner = Runner::new(views.clone(), reader.clone(), clock.clone(), window, ContentView);
        let content = ContentNow::new(readers.clone(), reader.clone()).following(content_runner.following());
        let content_runner = Arc::new(content_runner);
        Ok(Self { log, clock, reader, content, content_runner, views, readers, archive, region, peer_tls })
    }
}

/// What archive and replication share.
struct ArchiveParts {
    store: Arc<ProbedStore<S3Store>>,
    /// Is read, and takes claims of epochs; those wait for no probe (entry 37 of DECISIONS.md).
    peer_store: Option<Arc<S3Store>>,
    key: Arc<SigningKey>,
    keys: KeyRing,
    publishing: Arc<Mutex<()>>,
    heals: Arc<HealRecorder>,
}

impl ArchiveParts {
    fn of(config: &Config, store: &StoreConfig, log: &Arc<PgLog>) -> Result<Self, NodeError> {
        let open = |setting, store: &StoreConfig| {
            S3Store::connect(store).map_err(|source| NodeError::Store { setting, source })
        };
        let nonce = || Uuid::from_bytes(chance::random()).simple().to_string();
        let peer = config.archive.peer_store.as_ref();
        let key = signing_key(config)?;
        let keys = key_ring(&config.region.public_keys, Some(&key))?;
        Ok(Self {
            store: Arc::new(ProbedStore::new(open("archive.store", store)?, nonce)),
            peer_store: peer.map(|peer| open("archive.peer_store", peer).map(Arc::new)).transpose()?,
            heals: Arc::new(HealRecorder::new(log.clone(), &config.region.name)),
            key: Arc::new(key),
            keys,
            publishing: Arc::default(),
        })
    }

    fn healer(&self) -> Healer {
        let other = self.peer_store.clone().map(|store| store as Arc<dyn ObjectStore>);
        Healer { own: self.store.clone(), other, observer: self.heals.clone() }
    }

    fn archive(
        &self,
        config: &Config,
        log: &Arc<PgLog>,
        reader: Arc<ColdReader>,
        clock: Arc<dyn Clock>,
        steps: Arc<dyn StepObserver>,
    ) -> ArchiveNode {
        let seal = SealIo {
            log: log.clone(),
            store: self.store.clone(),
            catalog: log.clone(),
            clock: clock.clone(),
            key: self.key.clone(),
            keys: self.keys.clone(),
            publishing: self.publishing.clone(),
            steps: steps.clone(),
        };
        let prune = PruneIo {
            log: log.clone(),
            partitions: log.clone() as Arc<dyn LivePartitions>,
            catalog: log.clone() as Arc<dyn Catalog>,
            evidence: log.clone() as Arc<dyn EvidenceStore>,
            store: self.store.clone(),
            clock: clock.clone(),
            keys: self.keys.clone(),
            steps: steps.clone(),
        };
        let work = (
            Sealer::new(seal, config.archive.sealing.clone()),
            Pruner::new(prune, config.live_window(), config.archive.copies.into()),
            Scrubber { catalog: log.clone(), healer: self.healer(), clock },
        );
        let sweep = SweepIo { log: log.clone(), store: self.store.clone(), catalog: log.clone(), steps };
        ArchiveNode::new(self.store.clone(), reader, self.heals.clone(), self.keys.clone(), work, sweep)
    }

    fn region(
        &self,
        peer: Option<PeerClient>,
        log: &Arc<PgLog>,
        history: Arc<dyn LogReader>,
        clock: Arc<dyn Clock>,
        steps: Arc<dyn StepObserver>,
    ) -> Region {
        Region {
            log: log.clone(),
            tree: Arc::new(Evidence::new(history.clone(), log.clone())),
            history,
            catalog: log.clone(),
            evidence: log.clone(),
            memory: log.clone(),
            store: self.store.clone(),
            peer_store: self.peer_store.clone().map(|store| store as Arc<dyn ObjectStore>),
            peer: peer.map(|peer| Arc::new(peer) as Arc<dyn Peer>),
            key: self.key.clone(),
            keys: Arc::new(self.keys.clone()),
            clock,
            publishing: self.publishing.clone(),
            steps: Arc::new(move |step| steps.reached(step)),
            role_change: Mutex::new(()),
        }
    }
}

fn signing_key(config: &Config) -> Result<SigningKey, NodeError> {
    let setting = "region.signing_key_file";
    let Some(file) = &config.region.signing_key_file else {
        let advice = "archive.store needs region.signing_key_file: coldstream key generate makes one";
        return Err(NodeError::Settings(advice.to_owned()));
    };
    let key = SigningKey::parse(&read_file(setting, file)?).map_err(|source| NodeError::Key { setting, source })?;
    if key.id().name() == config.region.name {
        return Ok(key);
    }
    let (region, key) = (&config.region.name, key.id().name());
    Err(NodeError::Settings(format!("region.name is {region:?} and its key's name is {key:?}: they are the same")))
}

/// The public keys that a configuration trusts: those that it names, and the own one.
///
/// # Errors
/// `Key` or `File` for what is no key.
pub fn public_keys(config: &Config) -> Result<KeyRing, NodeError> {
    match &config.region.signing_key_file {
        Some(_) => key_ring(&config.region.public_keys, Some(&signing_key(config)?)),
        None => key_ring(&config.region.public_keys, None),
    }
}

fn key_ring(public_keys: &[String], own: Option<&SigningKey>) -> Result<KeyRing, NodeError> {
    let wrong = |source| NodeError::Key { setting: "region.public_keys", source };
    let mut keys: Vec<VerifyKey> = own.iter().map(|own| own.verify_key()).collect();
    for text in public_keys {
        let key = VerifyKey::parse(text).map_err(wrong)?;
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    KeyRing::new(keys).map_err(wrong)
}

fn peer(config: &Config, tls: Option<&Arc<PeerTls>>) -> Result<Option<PeerClient>, NodeError> {
    let ReplicationConfig { peer_url: Some(url), token_file: Some(file), .. } = &config.replication else {
        return Ok(None);
    };
    let Some(tls) = tls.cloned() else { return Ok(None) };
    let token = read_again("replication.token_file", file)?;
    Ok(Some(PeerClient::changing(move || tls.http(), url, token)))
}

/// The token in a file, read again each time, of which there are a few a second: it is replaced without a restart. While
/// it cannot be read, it is the one that was read last.
fn read_again(setting: &'static str, file: &Path) -> Result<impl Fn() -> String + Send + Sync + use<>, NodeError> {
    let (file, last) = (file.to_owned(), std::sync::Mutex::new(read_file(setting, file)?.trim().to_owned()));
    Ok(move || {
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        match read_file(setting, &file) {
            Ok(text) if !text.trim().is_empty() => text.trim().clone_into(&mut last),
            // It is being written.
            Ok(_) => {}
            Err(error) => tracing::warn!(error = %chain(&error), "the token that was read before is used on"),
        }
        last.clone()
    })
}

fn read_file(setting: &'static str, file: &Path) -> Result<String, NodeError> {
    let text = std::fs::read_to_string(file);
    text.map_err(|source| NodeError::File { setting, file: file.display().to_string(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_replaced_in_its_file_without_a_restart() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("token");
        assert!(read_again("replication.token_file", &file).is_err(), "at the start there is one");
        std::fs::write(&file, "one\n").expect("written");
        let token = read_again("replication.token_file", &file).expect("there is one");
        assert_eq!(token(), "one");
        std::fs::write(&file, " two ").expect("written");
        assert_eq!(token(), "two");
        std::fs::write(&file, "").expect("written");
        assert_eq!(token(), "two", "it is being written");
        std::fs::remove_file(&file).expect("removed");
        assert_eq!(token(), "two");
    }
}
