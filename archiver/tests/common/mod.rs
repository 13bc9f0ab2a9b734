//! A region in memory, and what the tests of the archive do with it.
#![allow(dead_code, unreachable_pub, reason = "each test uses its own part")]

pub mod counted;

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use archiver::audit::{self, AuditReport};
use archiver::cold::ColdReader;
use archiver::heal::{Finding, HealObserver, Healer};
use archiver::seal::{Demand, SealIo, Sealer};
use archiver::sweep::{self, SweepIo};
use archiver::{ArchiveError, ArchiverConfig, Silent, StepObserver};
use async_trait::async_trait;
use domain::append::Role;
use domain::archive::catalog::{Catalog, Segment};
use domain::event::{Data, NewEvent};
use domain::keys::{KeyRing, SigningKey};
use domain::log::{Direction, FollowerLog, LogReader};
use domain::record::{Record, RecordedEvent};
use domain::store::{Created, Object, ObjectMeta, ObjectStore, StoreError};
use domain::tiered::TieredLog;
use domain::twin::{MemoryLog, MemoryStore};
use domain::{FixedClock, Position, StreamName, StreamVersion, Timestamp};

pub fn at(instant: &str) -> Timestamp {
    Timestamp::parse_rfc3339(instant).expect("an instant")
}

pub fn now() -> Timestamp {
    at("2026-11-15T12:00:00Z")
}

pub fn position(number: u64) -> Position {
    Position::new(number).expect("a position")
}

pub fn stream(number: usize) -> StreamName {
    StreamName::parse(&format!("content-{number}")).expect("a name")
}

/// The instant `number` hours after the start of the year.
pub fn hour(number: u64) -> Timestamp {
    let micros = i64::try_from(number).expect("small") * 3_600_000_000;
    Timestamp::from_unix_micros(at("2026-01-01T00:00:00Z").unix_micros() + micros).expect("an instant")
}

fn event(number: u64, stream: StreamName) -> NewEvent {
    NewEvent {
        id: format!("e-{number}"),
        source: "/test".into(),
        event_type: "content.revised".into(),
        stream,
        time: None,
        event_version: None,
        data_schema: None,
        data_content_type: None,
        extensions: Vec::new(),
        data: Data::Json(format!("{{\"n\":{number}}}")),
    }
}

pub fn key(name: &str) -> SigningKey {
    SigningKey::from_seed(name, &[7; 32]).expect("a name")
}

pub fn keys() -> KeyRing {
    KeyRing::new([key("home").verify_key(), key("dr").verify_key()]).expect("two keys")
}

/// A region: log, catalog, tree and partitions are one twin.
#[derive(Clone)]
pub struct Region {
    pub log: Arc<MemoryLog>,
    pub store: Arc<MemoryStore>,
    pub key: Arc<SigningKey>,
}

impl Region {
    pub fn new(name: &str, role: Role) -> Self {
        let clock = Arc::new(FixedClock(now()));
        let log = Arc::new(MemoryLog::new(clock, at("2026-01-01T00:00:00Z"), role));
        Self { log, store: Arc::new(MemoryStore::new()), key: Arc::new(key(name)) }
    }

    /// A region with `events` events of seven streams, and one that only the first event belongs to, recorded
    /// one an hour from January on.
    pub async fn with_events(events: u64) -> Self {
        let region = Self::new("home", Role::Active);
        region.append(1, events).await;
        region
    }

    /// Adds events `first` to `last`: event n is recorded n hours after the start of the year. They come as a
    /// follower's batch, which is faster than appends of one event each.
    pub async fn append(&self, first: u64, last: u64) {
        let head = self.log.log_head().await.expect("a head");
        let active = (head.epoch, head.role);
        self.log.change_role(active, (head.epoch, Role::Follower)).await.expect("follows");
        let mut newest: HashMap<StreamName, (StreamVersion, Position)> = HashMap::new();
        let mut records = Vec::new();
        for (number, position) in (first..=last).zip(head.head.next().get()..) {
            let name = stream(if number == 1 { 99 } else { usize::try_from(number * number % 11 % 7).expect("small") });
            let stored = self.log.stream_head(&name).await.expect("a head").map(|head| (head.version, head.position));
            let before = newest.get(&name).copied().or(stored);
            let version = before.map_or(StreamVersion::FIRST, |(version, _)| version.next());
            newest.insert(name.clone(), (version, self::position(position)));
            records.push(Record::Event(Box::new(RecordedEvent {
                position: self::position(position),
                recorded_at: hour(number),
                version,
                previous: before.map(|(_, position)| position),
                epoch: head.epoch,
                event: event(number, name),
            })));
        }
        self.log.apply(&records).await.expect("applied");
        self.log.change_role((head.epoch, Role::Follower), active).await.expect("as before");
    }

    pub fn io(&self, steps: Arc<dyn StepObserver>) -> SealIo {
        SealIo {
            log: self.log.clone(),
            store: self.store.clone(),
            catalog: self.log.clone(),
            clock: Arc::new(FixedClock(now())),
            key: self.key.clone(),
            keys: keys(),
            publishing: Arc::default(),
            steps,
        }
    }

    pub fn sweep_io(&self, steps: Arc<dyn StepObserver>) -> SweepIo {
        SweepIo { log: self.log.clone(), store: self.store.clone(), catalog: self.log.clone(), steps }
    }

    /// What a sweep would remove.
    pub async fn orphans(&self) -> Vec<String> {
        sweep::find(&self.sweep_io(Arc::new(Silent))).await.expect("found")
    }

    pub fn sealer(&self, config: &ArchiverConfig) -> Sealer {
        Sealer::new(self.io(Arc::new(Silent)), config.clone())
    }

    pub async fn seal(&self, demand: Demand) -> Result<Vec<Segment>, ArchiveError> {
        self.sealer(&ArchiverConfig::default()).run(demand).await
    }

    /// Seals in segments of about `records` records, all of them cut by hand.
    pub async fn seal_up_to(&self, events: u64, records: u64) {
        let mut last = 0;
        while last < events {
            last = (last + records).min(events);
            self.append(self.log.log_head().await.expect("a head").head.get() + 1, last).await;
            self.seal(Demand::Everything).await.expect("sealed");
        }
    }

    pub async fn segments(&self) -> Vec<Segment> {
        let entries = self.log.segments().await.expect("segments");
        entries.into_iter().map(|entry| entry.segment).collect()
    }

    pub async fn audit(&self) -> AuditReport {
        audit::verify(&*self.store, &keys(), None, &|_| ()).await.expect("an answer")
    }

    pub async fn all_records(&self) -> Vec<Record> {
        self.log.read_log(Position::FIRST, Direction::Forward, usize::MAX).await.expect("records")
    }

    pub fn reader(&self, other: Option<Arc<dyn ObjectStore>>, observer: Arc<dyn HealObserver>) -> Arc<ColdReader> {
        self.reader_of(self.store.clone(), other, observer)
    }

    pub fn reader_of(
        &self,
        own: Arc<dyn ObjectStore>,
        other: Option<Arc<dyn ObjectStore>>,
        observer: Arc<dyn HealObserver>,
    ) -> Arc<ColdReader> {
        Arc::new(ColdReader::new(self.log.clone(), Healer { own, other, observer }, 8 << 20))
    }

    pub fn tiered(&self) -> TieredLog {
        TieredLog::new(self.log.clone(), self.reader(None, Arc::new(Findings::default())))
    }
}

/// Copies all objects of a bucket.
pub async fn copy_of(store: &MemoryStore) -> Arc<MemoryStore> {
    let copy = MemoryStore::new();
    for key in store.keys() {
        let object = store.get(&key).await.expect("an object");
        copy.create(&key, &object.bytes).await.expect("created");
    }
    Arc::new(copy)
}

/// Keeps what was found damaged.
#[derive(Default)]
pub struct Findings(pub Mutex<Vec<Finding>>);

#[async_trait]
impl HealObserver for Findings {
    async fn found(&self, finding: Finding) {
        self.0.lock().expect("not poisoned").push(finding);
    }
}

impl Findings {
    pub fn take(&self) -> Vec<Finding> {
        std::mem::take(&mut *self.0.lock().expect("not poisoned"))
    }
}

/// Ends the task that reaches the given step for the nth time, as a kill would.
pub struct KillAt {
    pub step: &'static str,
    pub seen: Mutex<BTreeSet<&'static str>>,
}

impl StepObserver for KillAt {
    fn reached(&self, step: &'static str) {
        self.seen.lock().expect("not poisoned").insert(step);
        assert!(step != self.step, "killed at {step}");
    }
}

/// Counts the requests that a bucket answers.
pub struct Counting {
    pub store: Arc<MemoryStore>,
    pub requests: AtomicU64,
}

impl Counting {
    pub fn of(store: &Arc<MemoryStore>) -> Arc<Self> {
        Arc::new(Self { store: store.clone(), requests: AtomicU64::new(0) })
    }

    pub fn take(&self) -> u64 {
        self.requests.swap(0, Ordering::SeqCst)
    }

    fn count(&self) -> &MemoryStore {
        self.requests.fetch_add(1, Ordering::SeqCst);
        &self.store
    }
}

#[async_trait]
impl ObjectStore for Counting {
    async fn create(&self, key: &str, bytes: &[u8]) -> Result<Created, StoreError> {
        self.count().create(key, bytes).await
    }

    async fn replace(&self, key: &str, etag: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.count().replace(key, etag, bytes).await
    }

    async fn get(&self, key: &str) -> Result<Object, StoreError> {
        self.count().get(key).await
    }

    async fn get_range(&self, key: &str, offset: u64, bytes: u64) -> Result<Vec<u8>, StoreError> {
        self.count().get_range(key, offset, bytes).await
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, StoreError> {
        self.count().head(key).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<ObjectMeta>, StoreError> {
        self.count().list(prefix, after, limit).await
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.count().delete(key).await
    }
}
