//! The background work of a region, each part in rounds. What a round does is its crate's; what is decided here
//! is only the rhythm.

use std::sync::Arc;
use std::time::Duration;

use archiver::ArchiveError;
use archiver::seal::Demand;
use archiver::sweep::Sweeper;
use async_trait::async_trait;
use event_log::PgLog;
use projections::content::ContentView;
use projections::runner::{Runner, Step};
use replication::fence::{EpochWatch, Verdict};
use replication::follow::{self, Follower};
use replication::{Region, cosign, mirror};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Interval, interval};

use super::numbers::Heard;
use crate::archive::ArchiveNode;
use crate::chain::chain;
use crate::config::Config;
use crate::node::Node;
use crate::tls::{PeerTls, ServerTls, TlsError};
use crate::workers::{Done, RoundError, Worker};

/// How often the log's tables are looked after.
const MAINTENANCE_EVERY: Duration = Duration::from_secs(60);
/// How often the files of certificates are looked at.
const CERTIFICATES_EVERY: Duration = Duration::from_secs(10);
/// How often some more objects of the bucket are looked at for orphans: there is no hurry.
const SWEEP_EVERY: Duration = Duration::from_secs(600);
/// After an error a view waits this long.
const VIEW_EVERY: Duration = Duration::from_secs(1);

/// A worker with its name and its pace.
pub(super) type Named = (&'static str, Duration, Box<dyn Worker>);

/// All workers that this configuration calls for.
pub(super) fn of(config: &Config, node: &Arc<Node>, watch: Option<EpochWatch>, heard: &Arc<Heard>) -> Vec<Named> {
    let archive_every = Duration::from_secs(config.archive.interval_seconds);
    let region_every = Duration::from_secs(config.replication.interval_seconds);
    let mut all: Vec<Named> = vec![
        ("content view", VIEW_EVERY, Box::new(ViewWorker(node.content_runner.clone()))),
        ("maintenance", MAINTENANCE_EVERY, Box::new(MaintenanceWorker(node.log.clone()))),
    ];
    if let Some(archive) = &node.archive {
        let scrub_every = Duration::from_secs(config.archive.scrub_interval_seconds);
        all.push(("seal", archive_every, Box::new(SealWorker(archive.clone()))));
        all.push(("prune", archive_every, Box::new(PruneWorker(archive.clone()))));
        let scrub = ScrubWorker { archive: archive.clone(), budget_bytes: config.archive.scrub_bytes };
        all.push(("scrub", scrub_every, Box::new(scrub)));
        all.push(("sweep", SWEEP_EVERY, Box::new(SweepWorker(Sweeper::new(archive.sweep.clone())))));
    }
    if let Some(region) = &node.region {
        let watch = watch.map(|watch| WatchWorker(watch, heard.clone()));
        all.extend(watch.map(|watch| -> Named { ("epoch watch", region_every, Box::new(watch)) }));
        all.push(("cosign", region_every, Box::new(CosignWorker(region.clone()))));
        all.push(("mirror", region_every, Box::new(MirrorWorker(region.clone()))));
        if region.peer.is_some() {
            all.push(("follow", region_every, Box::new(FollowWorker(Follower::new(region.clone()), heard.clone()))));
        }
    }
    all
}

/// Looks after the certificates, if there are any.
///
/// # Errors
/// If SIGHUP cannot be listened for.
pub(super) fn certificates(api: Option<Arc<ServerTls>>, peer: Option<Arc<PeerTls>>) -> std::io::Result<Option<Named>> {
    let api = api.map(|tls| Shown::to("clients", move || tls.reload()));
    let peer = peer.map(|tls| Shown::to("the other region", move || tls.reload()));
    let all: Vec<Shown> = api.into_iter().chain(peer).collect();
    if all.is_empty() {
        return Ok(None);
    }
    let (told, pace) = (signal(SignalKind::hangup())?, interval(CERTIFICATES_EVERY));
    Ok(Some(("certificates", CERTIFICATES_EVERY, Box::new(CertificateWorker { all, told, pace }))))
}

/// Shows new certificates to new connections.
struct CertificateWorker {
    all: Vec<Shown>,
    /// SIGHUP.
    told: Signal,
    pace: Interval,
}

/// What somebody is shown, and believed by.
struct Shown {
    to: &'static str,
    reload: Box<dyn Fn() -> Result<bool, TlsError> + Send + Sync>,
    failing: bool,
}

impl Shown {
    fn to(to: &'static str, reload: impl Fn() -> Result<bool, TlsError> + Send + Sync + 'static) -> Self {
        Self { to, reload: Box::new(reload), failing: false }
    }

    /// Reads the files again.
    fn look(&mut self) -> Result<(), TlsError> {
        // Two files are replaced one after the other: between them they may not go together, and the next round is good.
        let (to, reloaded) = (self.to, (self.reload)());
        match &reloaded {
            Ok(true) => tracing::info!(to, "new certificates are shown to new connections"),
            Err(error) if !self.failing => {
                tracing::error!(to, error = %chain(error), "new certificates are refused, those before are shown on");
            }
            Ok(false) | Err(_) => {}
        }
        self.failing = reloaded.is_err();
        reloaded.map(drop)
    }
}

#[async_trait]
impl Worker for CertificateWorker {
    async fn round(&mut self) -> Result<Done, RoundError> {
        tokio::select! {
            _ = self.told.recv() => {}
            _ = self.pace.tick() => {}
        }
        // All are looked at, also beside one that fails.
        let looked: Vec<Result<(), TlsError>> = self.all.iter_mut().map(Shown::look).collect();
        looked.into_iter().collect::<Result<(), TlsError>>()?;
        Ok(Done::partly("the certificates are as their files"))
    }
}

struct ViewWorker(Arc<Runner<ContentView>>);

#[async_trait]
impl Worker for ViewWorker {
    async fn round(&mut self) -> Result<Done, RoundError> {
        Ok(match self.0.step_or_wait().await? {
            Step::Applied { checkpoint, more: true, .. } => Done::partly(format!("at {checkpoint}, behind")),
            Step::Applied { checkpoint, .. } | Step::CaughtUp { checkpoint } => {
                Done::partly(format!("at {checkpoint}"))
            }
            Step::Swept { cutoff } => Done::partly(format!("the window begins at {cutoff}")),
            Step::Overtaken => Done::partly("another process moves it"),
        })
    }
}

struct MaintenanceWorker(Arc<PgLog>);

#[async_trait]
impl Worker for MaintenanceWorker {
    async fn round(&mut self) -> Result<Done, RoundError> {
        let done = self.0.maintain().await?;
        Ok(Done::for_now(format!("{} dropped, {} rebuilt", done.dropped, done.rebuilt.len())))
    }
}

struct SealWorker(Arc<ArchiveNode>);

#[async_trait]
impl Worker for SealWorker {
    async fn round(&mut self) -> Result<Done, RoundError> {
        // Also where nothing is sealed: a bucket that breaks its promises is to be seen before it is needed.
        self.0.store.ready().await?;
        match self.0.sealer.lock().await.run(Demand::ByRules).await {
            Ok(sealed) => Ok(Done::for_now(format!("{} segments in the last round", sealed.len()))),
            Err(ArchiveError::NotActive { role, .. }) => Ok(Done::for_now(format!("the region is {}", role.as_str()))),
            // Another process of this region was faster: look again.
            Err(ArchiveError::Overtaken { .. }) => Ok(Done::partly("another process seals")),
            Err(error) => Err(error.into()),
        }
    }
}

struct PruneWorker(Arc<ArchiveNode>);

#[async_trait]
impl Worker for PruneWorker {
    async fn round(&mut self) -> Result<Done, RoundError> {
        let report = self.0.prune().await?;
        let note = match report.waiting {
            Some(waiting) => waiting.to_string(),
            None => format!("{} months in the last round, cutoff {}", report.pruned.len(), report.cutoff),
        };
        Ok(Done::for_now(note))
    }
}

struct ScrubWorker {
    archive: Arc<ArchiveNode>,
    budget_bytes: u64,
}

#[async_trait]
impl Worker for ScrubWorker {
    async fn round(&mut self) -> Result<Done, RoundError> {
        let report = self.archive.scrub(self.budget_bytes).await?;
        if !report.lost.is_empty() {
            tracing::error!(objects = ?report.lost, "no good copy is left: a person has to look");
        }
        let (segments, bytes, damaged) = (report.segments, report.bytes, report.damaged);
        Ok(Done::for_now(format!("{segments} segments, {bytes} bytes read again, {damaged} damaged")))
    }
}

struct SweepWorker(Sweeper);

#[async_trait]
impl Worker for SweepWorker {
    async fn round(&mut self) -> Result<Done, RoundError> {
        match self.0.round().await {
            Ok(report) => {
                let (seen, removed) = (report.seen, report.removed.len());
                Ok(Done::for_now(format!("{seen} objects looked at in the last round, {removed} orphans removed")))
            }
            Err(ArchiveError::NotActive { role, .. }) => Ok(Done::for_now(format!("the region is {}", role.as_str()))),
            Err(error) => Err(error.into()),
        }
    }
}

struct WatchWorker(EpochWatch, Arc<Heard>);

#[async_trait]
impl Worker for WatchWorker {
    async fn round(&mut self) -> Result<Done, RoundError> {
        let watched = self.0.round().await?;
        self.1.watched(watched.peer.as_ref(), watched.silent.len());
        let mut note = format!("{} in epoch {}", watched.role.as_str(), watched.epoch);
        if let Verdict::ReadOnly { reason } = &watched.verdict {
            note = format!("{note}: {reason}");
        }
        if !watched.silent.is_empty() {
            note = format!("{note}; no answer: {}", watched.silent.join("; "));
        }
        Ok(Done::for_now(note))
    }
}

struct CosignWorker(Arc<Region>);

#[async_trait]
impl Worker for CosignWorker {
    async fn round(&mut self) -> Result<Done, RoundError> {
        Ok(Done::for_now(match cosign::round(&self.0).await? {
            cosign::Round::Idle => "nothing to sign".to_owned(),
            cosign::Round::Signed(size) => format!("signed {size}"),
            cosign::Round::Cosigned(size) => format!("cosigned {size}"),
            cosign::Round::Behind(size) => format!("not at {size} yet"),
        }))
    }
}

struct MirrorWorker(Arc<Region>);

#[async_trait]
impl Worker for MirrorWorker {
    async fn round(&mut self) -> Result<Done, RoundError> {
        Ok(match mirror::round(&self.0).await? {
            mirror::Round::Idle => Done::for_now("nothing to mirror"),
            mirror::Round::CaughtUp => Done::for_now("caught up"),
            mirror::Round::Behind(head) => Done::for_now(format!("waits for events up to {head}")),
            mirror::Round::Mirrored { number, head } => Done::partly(format!("manifest {number}, up to {head}")),
            mirror::Round::WoundBack { number } => Done::partly(format!("wound back to manifest {number}")),
        })
    }
}

struct FollowWorker(Follower, Arc<Heard>);

#[async_trait]
impl Worker for FollowWorker {
    async fn round(&mut self) -> Result<Done, RoundError> {
        Ok(match self.0.round().await? {
            follow::Round::NotFollowing(role) => Done::for_now(format!("the region is {}", role.as_str())),
            // Without news the other region has answered late: the next question may go out at once.
            follow::Round::Followed { head, home, home_clock } => {
                self.1.followed(home, home_clock);
                Done::partly(format!("at {head} of {home}"))
            }
        })
    }
}
