//! The world: two regions, each with what survives a crash (its log with catalog and evidence, its bucket, its key)
//! and what does not (its process), one clock that can jump, and the wire between them.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use archiver::ArchiverConfig;
use archiver::cold::ColdReader;
use archiver::heal::{Healer, LogOnly};
use archiver::prune::{PruneIo, Pruner};
use archiver::scrub::Scrubber;
use archiver::seal::{SealIo, Sealer};
use async_trait::async_trait;
use domain::append::Role;
use domain::archive::catalog::Copies;
use domain::evidence::Evidence;
use domain::keys::{KeyRing, SigningKey};
use domain::store::ObjectStore;
use domain::tiered::TieredLog;
use domain::twin::{MemoryLog, MemoryStore};
use domain::window::LiveWindow;
use domain::{Clock, ClockError, Timestamp};
use replication::Region;
use replication::fence::EpochWatch;
use replication::follow::Follower;
use replication::ship::Shipper;
use segment_store::LyingStore;
use tokio::sync::Mutex as AsyncMutex;

use crate::life::{Dice, Gate, Life};
use crate::link::{SimPeer, Wire};
use crate::ports::{Database, Reach};

/// 2026-01-01T00:00:00Z.
const BEGINNING_MICROS: i64 = 1_767_225_600_000_000;

/// Names of the regions, which are those of their keys.
pub(crate) const NAMES: [&str; 2] = ["home", "dr"];

/// Small segments and a small cache: much archive in a short log.
fn archiver_config() -> ArchiverConfig {
    ArchiverConfig { segment_bytes: 24 << 10, seal_after_seconds: 600, cache_bytes: 96 << 10 }
}

/// Time, the same for all; each region's own clock is off by a little.
#[derive(Default)]
pub(crate) struct Time(AtomicI64);

impl Time {
    pub(crate) fn micros(&self) -> i64 {
        BEGINNING_MICROS + self.0.load(Ordering::SeqCst)
    }

    pub(crate) fn pass(&self, micros: i64) {
        self.0.fetch_add(micros, Ordering::SeqCst);
    }
}

/// One region's clock.
pub(crate) struct RegionClock {
    time: Arc<Time>,
    pub(crate) off_by_micros: AtomicI64,
}

impl RegionClock {
    pub(crate) fn read(&self) -> Timestamp {
        let micros = self.time.micros() + self.off_by_micros.load(Ordering::SeqCst);
        Timestamp::from_unix_micros(micros).expect("before the year 9999")
    }
}

#[async_trait]
impl Clock for RegionClock {
    async fn now(&self) -> Result<Timestamp, ClockError> {
        Ok(self.read())
    }
}

/// What dies in a crash.
pub(crate) struct Process {
    pub(crate) life: Arc<Life>,
    pub(crate) log: Arc<Database>,
    pub(crate) history: Arc<TieredLog>,
    pub(crate) region: Arc<Region>,
    pub(crate) shipper: Shipper,
    pub(crate) pruner: Pruner,
    pub(crate) scrubber: Scrubber,
    pub(crate) sealer: AsyncMutex<Sealer>,
    pub(crate) follower: AsyncMutex<Follower>,
    pub(crate) watch: AsyncMutex<EpochWatch>,
    /// Whether the first look of the watch is over: before it nobody is served.
    pub(crate) serves: AtomicBool,
}

/// One region: what survives, and its process while it runs.
pub(crate) struct Site {
    pub(crate) number: usize,
    pub(crate) clock: Arc<RegionClock>,
    pub(crate) bucket: Arc<LyingStore<MemoryStore>>,
    key: Arc<SigningKey>,
    keys: Arc<KeyRing>,
    gate: Arc<Gate>,
    wire: Arc<Wire>,
    pub(crate) database_faults: Arc<Dice>,
    pub(crate) hangs: Arc<Dice>,
    other: OnceLock<std::sync::Weak<Site>>,
    log: Mutex<Arc<MemoryLog>>,
    process: Mutex<Option<Arc<Process>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Site {
    pub(crate) fn name(&self) -> &'static str {
        NAMES[self.number]
    }

    /// The durable log, past all ports: what the disk holds.
    pub(crate) fn disk(&self) -> Arc<MemoryLog> {
        Arc::clone(&lock(&self.log))
    }

    pub(crate) fn keys(&self) -> &KeyRing {
        &self.keys
    }

    /// The process, if one runs.
    pub(crate) fn running(&self) -> Option<Arc<Process>> {
        lock(&self.process).clone().filter(|process| !process.life.is_dead())
    }

    /// The process, if it answers requests.
    pub(crate) fn serving(&self) -> Option<Arc<Process>> {
        self.running().filter(|process| process.serves.load(Ordering::SeqCst))
    }

    /// Whether a process died and nobody has noticed yet.
    pub(crate) fn has_died(&self) -> bool {
        lock(&self.process).as_ref().is_some_and(|process| process.life.is_dead())
    }

    /// Ends the process: nothing of it goes on.
    pub(crate) fn crash(&self) {
        if let Some(process) = lock(&self.process).take() {
            process.life.kill();
        }
    }

    /// Ends the process and takes its log away: an empty follower stands in its place. The bucket stays.
    pub(crate) fn replace_log(&self) {
        self.crash();
        *lock(&self.log) = Arc::new(MemoryLog::new(self.clock.clone(), self.clock.read(), Role::Follower));
    }

    /// Starts a process over what survived.
    pub(crate) fn start(&self) {
        let other = self.other.get().and_then(std::sync::Weak::upgrade).expect("two sites");
        let life = Life::new(self.gate.clone(), self.database_faults.clone());
        let log = Arc::new(Database { twin: self.disk(), life: life.clone() });
        let reach = |site: &Site, wire| -> Arc<dyn ObjectStore> {
            let (bucket, life, hangs) = (site.bucket.clone(), life.clone(), self.hangs.clone());
            Arc::new(Reach { bucket, life, wire, hangs })
        };
        let (store, peer_store) = (reach(self, None), reach(&other, Some(self.wire.clone())));
        let healer = Healer { own: store.clone(), other: Some(peer_store.clone()), observer: Arc::new(LogOnly) };
        let config = archiver_config();
        let cold = ColdReader::new(log.clone(), healer.clone(), config.cache_bytes);
        let history = Arc::new(TieredLog::new(log.clone(), Arc::new(cold)));
        let peer = SimPeer { life: life.clone(), site: other, wire: self.wire.clone() };
        let steps = life.clone();
        let publishing = Arc::new(AsyncMutex::new(()));
        let region = Arc::new(Region {
            log: log.clone(),
            history: history.clone(),
            catalog: log.clone(),
            tree: Arc::new(Evidence::new(history.clone(), log.clone())),
            evidence: log.clone(),
            memory: log.clone(),
            store: store.clone(),
            peer_store: Some(peer_store),
            peer: Some(Arc::new(peer)),
            key: self.key.clone(),
            keys: self.keys.clone(),
            clock: self.clock.clone(),
            publishing: publishing.clone(),
            steps: Arc::new(move |step| archiver::StepObserver::reached(&*steps, step)),
            role_change: AsyncMutex::default(),
        });
        let scrubber = Scrubber { catalog: log.clone(), healer, clock: self.clock.clone() };
        let process = Process {
            shipper: Shipper::new(region.clone()),
            pruner: self.pruner(&log, &store, &life),
            scrubber,
            sealer: AsyncMutex::new(Sealer::new(self.seal_io(&log, &store, &life, publishing), config)),
            follower: AsyncMutex::new(Follower::new(region.clone())),
            watch: AsyncMutex::new(EpochWatch::new(region.clone())),
            serves: AtomicBool::new(false),
            life,
            log,
            history,
            region,
        };
        *lock(&self.process) = Some(Arc::new(process));
    }

    fn seal_io(
        &self,
        log: &Arc<Database>,
        store: &Arc<dyn ObjectStore>,
        life: &Arc<Life>,
        publishing: Arc<AsyncMutex<()>>,
    ) -> SealIo {
        SealIo {
            log: log.clone(),
            store: store.clone(),
            catalog: log.clone(),
            clock: self.clock.clone(),
            key: self.key.clone(),
            keys: KeyRing::clone(&self.keys),
            publishing,
            steps: life.clone(),
        }
    }

    fn pruner(&self, log: &Arc<Database>, store: &Arc<dyn ObjectStore>, life: &Arc<Life>) -> Pruner {
        let io = PruneIo {
            log: log.clone(),
            partitions: log.clone(),
            catalog: log.clone(),
            evidence: log.clone(),
            store: store.clone(),
            clock: self.clock.clone(),
            keys: KeyRing::clone(&self.keys),
            steps: life.clone(),
        };
        Pruner::new(io, LiveWindow::default(), Copies::Two)
    }
}

/// How often what goes wrong: one call in so many; 0: never.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dials {
    pub(crate) store: u64,
    pub(crate) database: u32,
    pub(crate) wire: u32,
    pub(crate) hang: u32,
    pub(crate) line: u32,
}

impl Dials {
    pub(crate) const QUIET: Self = Self { store: 0, database: 0, wire: 0, hang: 0, line: 0 };
}

/// Everything there is.
pub(crate) struct World {
    pub(crate) time: Arc<Time>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) wire: Arc<Wire>,
    pub(crate) sites: [Arc<Site>; 2],
    pub(crate) line_faults: Arc<Dice>,
    wire_faults: Arc<Dice>,
}

impl World {
    /// Two empty regions whose processes do not run yet.
    pub(crate) fn new(seed: u64) -> Self {
        let (time, gate) = (Arc::new(Time::default()), Arc::new(Gate::default()));
        let dice = |salt: u64| Dice::new(seed ^ (salt << 56), 0);
        let (wire_faults, line_faults) = (dice(1), dice(2));
        let wire = Wire::new(wire_faults.clone());
        let key = |number: usize| {
            let byte = u8::try_from(number + 1).expect("two regions");
            Arc::new(SigningKey::from_seed(NAMES[number], &[byte; 32]).expect("a name"))
        };
        let keys = Arc::new(KeyRing::new([key(0).verify_key(), key(1).verify_key()]).expect("two keys"));
        let site = |number: usize| {
            let clock = Arc::new(RegionClock { time: time.clone(), off_by_micros: AtomicI64::new(0) });
            let role = if number == 0 { Role::Active } else { Role::Follower };
            let salt = u64::try_from(number).expect("two regions") + 3;
            Arc::new(Site {
                number,
                bucket: Arc::new(LyingStore::keyed(MemoryStore::new(), seed ^ (salt << 56), 0)),
                key: key(number),
                keys: keys.clone(),
                gate: gate.clone(),
                wire: wire.clone(),
                database_faults: dice(salt + 2),
                hangs: dice(salt + 4),
                other: OnceLock::new(),
                log: Mutex::new(Arc::new(MemoryLog::new(clock.clone(), clock.read(), role))),
                clock,
                process: Mutex::default(),
            })
        };
        let sites = [site(0), site(1)];
        for number in 0..2 {
            let other = Arc::downgrade(&sites[1 - number]);
            sites[number].other.set(other).expect("set once");
        }
        Self { time, gate, wire, sites, line_faults, wire_faults }
    }

    /// How often things go wrong from now on.
    pub(crate) fn turn(&self, dials: Dials) {
        self.wire_faults.turn_to(dials.wire);
        self.line_faults.turn_to(dials.line);
        for site in &self.sites {
            site.bucket.turn_to(dials.store);
            site.database_faults.turn_to(dials.database);
            site.hangs.turn_to(dials.hang);
        }
    }
}
