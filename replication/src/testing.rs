//! Two regions in memory that ask each other directly: what the unit tests of this crate run on.

use std::ops::Range;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};

use async_trait::async_trait;
use domain::append::{AppendRequest, LogHead, Role};
use domain::archive::manifest::{Fork, Manifest};
use domain::archive::segment::SegmentWriter;
use domain::archive::statement::FORMAT;
use domain::archive::{layout, statement};
use domain::event::{Data, NewEvent};
use domain::evidence::Evidence;
use domain::keys::{KeyRing, SigningKey};
use domain::log::{ApplyError, Direction, EventLog, FollowerLog, LogReader};
use domain::record::Record;
use domain::twin::{Between, Interposed, MemoryLog, MemoryStore};
use domain::{Epoch, FixedClock, Head, Position, StreamName, Timestamp};
use tokio::sync::Mutex as AsyncMutex;

use crate::peer::{Peer, PeerError, Standing};
use crate::region::Region;
use crate::ship::Shipper;
use crate::{cosign, failover};

pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_unix_micros(1_780_000_000_000_000 + second * 1_000_000).expect("an instant")
}

fn event(number: u64, source: &str) -> NewEvent {
    NewEvent {
        id: format!("e{number}"),
        source: source.into(),
        event_type: "content.revised".into(),
        stream: StreamName::parse(&format!("content-{}", number % 7)).expect("a name"),
        time: None,
        event_version: None,
        data_schema: None,
        data_content_type: Some("application/json".into()),
        extensions: Vec::new(),
        data: Data::Json(format!("{{\"number\":{number}}}")),
    }
}

async fn append_from(log: &MemoryLog, numbers: Range<u64>, source: &str) {
    for number in numbers {
        log.append(request_from(number, source)).await.expect("appended");
    }
}

fn request_from(number: u64, source: &str) -> AppendRequest {
    AppendRequest { events: vec![event(number, source)], ..AppendRequest::default() }
}

/// The request that appends the event of a number.
pub(crate) fn request(number: u64) -> AppendRequest {
    request_from(number, "/test")
}

/// Appends one event for each number.
pub(crate) async fn append(log: &MemoryLog, numbers: Range<u64>) {
    append_from(log, numbers, "/test").await;
}

/// The first `count` records of a log.
pub(crate) async fn records(count: u64) -> Vec<Record> {
    let log = MemoryLog::new(Arc::new(FixedClock(at(0))), at(0), Role::Active);
    append(&log, 0..count).await;
    log.read_log(Position::FIRST, Direction::Forward, usize::MAX).await.expect("readable")
}

/// Seals the positions `first` to `last` of a region's log as its next manifest, as the archiver does; `fork` of the
/// first one of a newer epoch.
pub(crate) async fn seal(region: &Region, fork: Option<Head>, first: u64, last: u64) {
    let epoch = region.log.log_head().await.expect("head").epoch;
    let first = Position::new(first).expect("from 1");
    let count = usize::try_from(last + 1 - first.get()).expect("small");
    let records = region.history.read_log(first, Direction::Forward, count).await.expect("readable");
    let mut writer = SegmentWriter::new(first, epoch).expect("a writer");
    records.iter().for_each(|record| writer.push(record).expect("in order"));
    let sealed = writer.finish().expect("sealed");
    let before = region.catalog.last_manifest().await.expect("read");
    let manifest = Manifest {
        format: FORMAT,
        log: "twin".into(),
        epoch,
        number: before.map_or(1, |before| before.number + 1),
        previous: before.map(|before| before.sha256),
        time: at(0),
        fork: fork.map(|position| Fork { after: before, position }),
        added: vec![sealed.segment.clone()],
        replaced: Vec::new(),
        in_force: None,
    };
    let bytes = statement::sign(&manifest, &region.key).expect("signed");
    let step = statement::verify::<Manifest>(&bytes, &region.keys).expect("good");
    let store = &region.store;
    store.create(&layout::segment(&sealed.segment), &sealed.object).await.expect("created");
    store.create(&layout::index(&sealed.segment), &sealed.index).await.expect("created");
    store.create(&layout::manifest(epoch, manifest.number), &bytes).await.expect("created");
    region.catalog.accept(before, step.reference(), &manifest.added).await.expect("accepted");
    region.catalog.mark_verified(sealed.segment.first, at(0)).await.expect("marked");
}

/// What happens to the next batch on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tamper {
    Cut,
    Flip,
    /// The answer to another question.
    Replay,
    Silence,
}

/// A region, asked directly.
pub(crate) struct LocalPeer {
    region: OnceLock<Weak<Region>>,
    shipper: OnceLock<Shipper>,
    up: AtomicBool,
    tamper: Mutex<Option<Tamper>>,
}

impl LocalPeer {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            region: OnceLock::new(),
            shipper: OnceLock::new(),
            up: AtomicBool::new(true),
            tamper: Mutex::default(),
        })
    }

    pub(crate) fn set_up(&self, up: bool) {
        self.up.store(up, Ordering::SeqCst);
    }

    fn region(&self) -> Result<Arc<Region>, PeerError> {
        let up = self.up.load(Ordering::SeqCst);
        let region = self.region.get().and_then(Weak::upgrade).filter(|_| up);
        region.ok_or_else(|| PeerError::Unavailable { reason: "it is down".into() })
    }

    fn refused(error: &dyn std::error::Error, kind: domain::ErrorKind) -> PeerError {
        PeerError::Refused { kind, detail: error.to_string() }
    }
}

#[async_trait]
impl Peer for LocalPeer {
    async fn standing(&self, with_root: bool) -> Result<Standing, PeerError> {
        let standing = failover::standing(self.region()?.as_ref(), with_root).await;
        standing.map_err(|error| Self::refused(&error, error.kind()))
    }

    async fn batch(&self, after: Head, limit: usize) -> Result<Vec<u8>, PeerError> {
        let region = self.region()?;
        let tamper = self.tamper.lock().expect("no panic").take();
        let shipper = self.shipper.get_or_init(|| Shipper::new(Arc::clone(&region)));
        let asked = if tamper == Some(Tamper::Replay) { Head::new(after.get() + 1).expect("small") } else { after };
        let body = shipper.batch(asked, limit).await;
        let mut body = body.map_err(|error| Self::refused(&error, error.kind()))?;
        let middle = body.len() / 2;
        match tamper {
            Some(Tamper::Cut) => body.truncate(middle),
            Some(Tamper::Flip) => body[middle] ^= 1,
            Some(Tamper::Silence) => return Err(PeerError::Unavailable { reason: "silence".into() }),
            Some(Tamper::Replay) | None => {}
        }
        Ok(body)
    }

    async fn waiting_checkpoint(&self) -> Result<Option<String>, PeerError> {
        let waiting = cosign::waiting(self.region()?.as_ref()).await;
        waiting.map_err(|error| Self::refused(&error, error.kind()))
    }

    async fn deliver_cosignature(&self, note: &str) -> Result<(), PeerError> {
        let delivered = cosign::accept(self.region()?.as_ref(), note).await;
        delivered.map_err(|error| Self::refused(&error, error.kind()))
    }
}

/// Home and DR, each with a log, a bucket and a key, each the other's peer.
pub(crate) struct Pair {
    pub(crate) home: Arc<Region>,
    pub(crate) dr: Arc<Region>,
    pub(crate) home_log: Arc<MemoryLog>,
    pub(crate) dr_log: Arc<MemoryLog>,
    pub(crate) home_store: Arc<MemoryStore>,
    pub(crate) dr_store: Arc<MemoryStore>,
    /// Home, as DR asks it.
    pub(crate) to_home: Arc<LocalPeer>,
    /// DR, as home asks it.
    pub(crate) to_dr: Arc<LocalPeer>,
}

impl Pair {
    pub(crate) async fn new() -> Self {
        let clock = Arc::new(FixedClock(at(0)));
        let log = |role| Arc::new(MemoryLog::new(clock.clone(), at(0), role));
        let (home_log, dr_log) = (log(Role::Active), log(Role::Follower));
        let (home_store, dr_store) = (Arc::new(MemoryStore::new()), Arc::new(MemoryStore::new()));
        let (to_home, to_dr) = (LocalPeer::new(), LocalPeer::new());
        let key = |name: &str, seed| Arc::new(SigningKey::from_seed(name, &[seed; 32]).expect("a name"));
        let (home_key, dr_key) = (key("home", 1), key("dr", 2));
        let keys = Arc::new(KeyRing::new([home_key.verify_key(), dr_key.verify_key()]).expect("two keys"));
        let region =
            |log: &Arc<MemoryLog>, own: &Arc<MemoryStore>, other: &Arc<MemoryStore>, peer: &Arc<LocalPeer>, key| {
                Arc::new(Region {
                    log: log.clone(),
                    history: log.clone(),
                    catalog: log.clone(),
                    tree: Arc::new(Evidence::new(log.clone(), log.clone())),
                    evidence: log.clone(),
                    memory: log.clone(),
                    store: own.clone(),
                    peer_store: Some(other.clone()),
                    peer: Some(peer.clone()),
                    key,
                    keys: Arc::clone(&keys),
                    clock: clock.clone(),
                    publishing: Arc::default(),
                    steps: Arc::new(|_| ()),
                    role_change: AsyncMutex::default(),
                })
            };
        let home = region(&home_log, &home_store, &dr_store, &to_dr, home_key);
        let dr = region(&dr_log, &dr_store, &home_store, &to_home, dr_key);
        to_home.region.set(Arc::downgrade(&home)).expect("set once");
        to_dr.region.set(Arc::downgrade(&dr)).expect("set once");
        Self { home, dr, home_log, dr_log, home_store, dr_store, to_home, to_dr }
    }

    /// Spoils the next batch.
    pub(crate) fn tamper(&self, tamper: Tamper) {
        *self.to_home.tamper.lock().expect("no panic") = Some(tamper);
    }

    /// Gives DR a history of its own, of `events` events.
    pub(crate) async fn diverge(&self, events: u64) {
        let other = MemoryLog::new(Arc::new(FixedClock(at(0))), at(0), Role::Active);
        append_from(&other, 0..events, "/elsewhere").await;
        let records = other.read_log(Position::FIRST, Direction::Forward, usize::MAX).await.expect("readable");
        self.dr_log.apply(&records).await.expect("applied");
    }
}

/// What comes in between, once.
pub(crate) type Meddling = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Something that happens just before or just after the next change of role.
#[derive(Default)]
pub(crate) struct Meddled {
    before: Mutex<Option<Meddling>>,
    after: Mutex<Option<Meddling>>,
}

impl Meddled {
    pub(crate) fn before(log: &Arc<MemoryLog>, meddling: Meddling) -> Arc<Interposed<MemoryLog, Self>> {
        let between = Self { before: Mutex::new(Some(meddling)), ..Self::default() };
        Arc::new(Interposed { log: log.clone(), between })
    }

    pub(crate) fn after(log: &Arc<MemoryLog>, meddling: Meddling) -> Arc<Interposed<MemoryLog, Self>> {
        let between = Self { after: Mutex::new(Some(meddling)), ..Self::default() };
        Arc::new(Interposed { log: log.clone(), between })
    }
}

#[async_trait]
impl Between for Meddled {
    async fn change_role(
        &self,
        log: &dyn FollowerLog,
        from: (Epoch, Role),
        to: (Epoch, Role),
    ) -> Result<LogHead, ApplyError> {
        let [before, after] = [&self.before, &self.after].map(|meddling| meddling.lock().expect("no panic").take());
        if let Some(meddling) = before {
            meddling.await;
        }
        let changed = log.change_role(from, to).await;
        if let Some(meddling) = after {
            meddling.await;
        }
        changed
    }
}

/// The same region with locks of its own: another process of it.
pub(crate) fn without_lock(region: &Region) -> Region {
    Region {
        log: region.log.clone(),
        history: region.history.clone(),
        catalog: region.catalog.clone(),
        tree: region.tree.clone(),
        evidence: region.evidence.clone(),
        memory: region.memory.clone(),
        store: region.store.clone(),
        peer_store: region.peer_store.clone(),
        peer: region.peer.clone(),
        key: region.key.clone(),
        keys: region.keys.clone(),
        clock: region.clock.clone(),
        publishing: region.publishing.clone(),
        steps: region.steps.clone(),
        role_change: AsyncMutex::default(),
    }
}
