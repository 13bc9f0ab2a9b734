//! A store that breaks its word on purpose: the fault-injecting twin, for tests of everything above it. What it
//! does wrong and when follows from a script or a seed alone, so that a run can be repeated. Never used outside
//! of tests and drills.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use domain::store::{Created, Object, ObjectMeta, ObjectStore, StoreError};
use tokio::sync::Semaphore;

/// One way to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is done and nothing is answered.
    LostRequest,
    /// It is done and nothing is answered.
    LostReply,
    /// It is done and answered with an error of the store's.
    ErrorAfterSuccess,
    /// A read answers with less than there is.
    TruncatedBody,
    /// A read answers with one bit changed.
    FlippedByte,
    /// A read answers as before the last write to that key.
    StaleRead,
    /// The call hangs until [`LyingStore::release`] is called.
    Slow,
}

const ALL: [Fault; 6] = [
    Fault::LostRequest,
    Fault::LostReply,
    Fault::ErrorAfterSuccess,
    Fault::TruncatedBody,
    Fault::FlippedByte,
    Fault::StaleRead,
];

#[derive(Debug)]
enum Plan {
    /// What each call does, in order; after the last one nothing goes wrong any more.
    Script(VecDeque<Option<Fault>>),
    /// State of a xorshift generator, and one call in how many goes wrong.
    Seed { state: u64, one_in: u64 },
    /// What a call does follows from its key and from how often that key was asked for before.
    Keyed { seed: u64, one_in: u64, asked: BTreeMap<String, u64> },
}

impl Plan {
    fn next(&mut self, key: &str) -> Option<Fault> {
        match self {
            Self::Script(calls) => calls.pop_front().flatten(),
            Self::Seed { state, one_in } => roll(state, *one_in),
            Self::Keyed { seed, one_in, asked } => {
                let times = asked.entry(key.to_owned()).or_default();
                *times += 1;
                let mut state =
                    key.bytes().fold(*seed ^ scatter(*times), |state, byte| scatter(state ^ u64::from(byte)));
                roll(&mut state, *one_in)
            }
        }
    }
}

/// One call in `one_in` goes wrong; 0: none.
fn roll(state: &mut u64, one_in: u64) -> Option<Fault> {
    let wrong = one_in > 0 && xorshift(state).is_multiple_of(one_in);
    let which = usize::try_from(xorshift(state) % ALL.len() as u64).expect("a handful");
    wrong.then_some(ALL[which])
}

/// A seed's bits, spread; never 0.
fn scatter(seed: u64) -> u64 {
    seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29) | 1
}

/// Marsaglia's xorshift64; `state` is never 0.
fn xorshift(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// A store over another one that lies as it is told to.
#[derive(Debug)]
pub struct LyingStore<S> {
    inner: S,
    plan: Mutex<Plan>,
    /// What each key held before the last write to it.
    before: Mutex<BTreeMap<String, Option<Object>>>,
    told: Mutex<Vec<(String, Fault)>>,
    gate: Semaphore,
}

impl<S: ObjectStore> LyingStore<S> {
    /// The n-th call meets the n-th fault of `script`; later calls are honest.
    pub fn scripted(inner: S, script: impl IntoIterator<Item = Option<Fault>>) -> Self {
        Self::with(inner, Plan::Script(script.into_iter().collect()))
    }

    /// About one call in `one_in` (at least 1) meets a fault, any but [`Fault::Slow`]; the same seed, the same faults.
    pub fn seeded(inner: S, seed: u64, one_in: u64) -> Self {
        let state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        Self::with(inner, Plan::Seed { state, one_in: one_in.max(1) })
    }

    /// As [`LyingStore::seeded`], but calls that are made at once meet the same faults in whatever order they come:
    /// each key has faults of its own. [`LyingStore::turn_to`] changes how many.
    pub fn keyed(inner: S, seed: u64, one_in: u64) -> Self {
        Self::with(inner, Plan::Keyed { seed, one_in, asked: BTreeMap::new() })
    }

    /// From now on about one call in `rate` meets a fault; 0: none does. A script has no such rate and stays.
    pub fn turn_to(&self, rate: u64) {
        match &mut *lock(&self.plan) {
            Plan::Script(_) => {}
            Plan::Seed { one_in, .. } | Plan::Keyed { one_in, .. } => *one_in = rate,
        }
    }

    fn with(inner: S, plan: Plan) -> Self {
        Self {
            inner,
            plan: Mutex::new(plan),
            before: Mutex::default(),
            told: Mutex::default(),
            gate: Semaphore::new(0),
        }
    }

    /// The honest store below.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    /// The lies told so far: key and fault. A fault that a call cannot have (half a body of a write) is not told.
    pub fn told(&self) -> Vec<(String, Fault)> {
        lock(&self.told).clone()
    }

    /// Lets one [`Fault::Slow`] call go on, now or whenever it comes.
    pub fn release(&self) {
        self.gate.add_permits(1);
    }

    /// Draws the fault of this call. `Slow` is served here.
    async fn draw(&self, key: &str, can: impl Fn(Fault) -> bool) -> Option<Fault> {
        let fault = lock(&self.plan).next(key).filter(|fault| *fault == Fault::Slow || can(*fault))?;
        lock(&self.told).push((key.into(), fault));
        if fault == Fault::Slow {
            self.gate.acquire().await.expect("the gate is never closed").forget();
            return None;
        }
        Some(fault)
    }

    async fn remember(&self, key: &str) {
        let now = self.inner.get(key).await.ok();
        lock(&self.before).insert(key.into(), now);
    }

    fn stale(&self, key: &str) -> Option<Object> {
        lock(&self.before).get(key).cloned().flatten()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn on_write(fault: Fault) -> bool {
    matches!(fault, Fault::LostRequest | Fault::LostReply | Fault::ErrorAfterSuccess)
}

fn unavailable(key: &str, fault: Fault) -> StoreError {
    let reason = match fault {
        Fault::ErrorAfterSuccess => "500 InternalError",
        _ => "the connection was reset",
    };
    StoreError::Unavailable { key: key.into(), reason: reason.into() }
}

fn answer<T>(key: &str, fault: Option<Fault>, done: Result<T, StoreError>) -> Result<T, StoreError> {
    match fault {
        Some(fault) => Err(unavailable(key, fault)),
        None => done,
    }
}

/// Changes one bit in the middle.
fn flip(bytes: &mut [u8]) {
    let middle = bytes.len() / 2;
    if let Some(byte) = bytes.get_mut(middle) {
        *byte ^= 1;
    }
}

fn cut(bytes: &mut Vec<u8>) {
    bytes.truncate(bytes.len() / 2);
}

#[async_trait]
impl<S: ObjectStore> ObjectStore for LyingStore<S> {
    async fn create(&self, key: &str, bytes: &[u8]) -> Result<Created, StoreError> {
        let fault = self.draw(key, on_write).await;
        if fault == Some(Fault::LostRequest) {
            return Err(unavailable(key, Fault::LostRequest));
        }
        self.remember(key).await;
        answer(key, fault, self.inner.create(key, bytes).await)
    }

    async fn replace(&self, key: &str, etag: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let fault = self.draw(key, on_write).await;
        if fault == Some(Fault::LostRequest) {
            return Err(unavailable(key, Fault::LostRequest));
        }
        self.remember(key).await;
        answer(key, fault, self.inner.replace(key, etag, bytes).await)
    }

    async fn get(&self, key: &str) -> Result<Object, StoreError> {
        let fault = self.draw(key, |_| true).await;
        if fault == Some(Fault::StaleRead) {
            return self.stale(key).ok_or_else(|| StoreError::NotFound { key: key.into() });
        }
        let mut object = self.inner.get(key).await?;
        match fault {
            Some(Fault::FlippedByte) => flip(&mut object.bytes),
            Some(Fault::TruncatedBody) => {
                cut(&mut object.bytes);
                object.meta.bytes = object.bytes.len() as u64;
            }
            Some(fault) => return Err(unavailable(key, fault)),
            None => {}
        }
        Ok(object)
    }

    async fn get_range(&self, key: &str, offset: u64, bytes: u64) -> Result<Vec<u8>, StoreError> {
        let fault = self.draw(key, |fault| fault != Fault::StaleRead).await;
        let mut part = self.inner.get_range(key, offset, bytes).await?;
        match fault {
            Some(Fault::FlippedByte) => flip(&mut part),
            // The port promises the length asked for, so a short answer reaches the caller as its error.
            Some(Fault::TruncatedBody) => return Err(StoreError::Different { key: key.into() }),
            Some(fault) => return Err(unavailable(key, fault)),
            None => {}
        }
        Ok(part)
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, StoreError> {
        let can = |fault| on_write(fault) || fault == Fault::StaleRead;
        match self.draw(key, can).await {
            Some(Fault::StaleRead) => Ok(self.stale(key).map(|object| object.meta)),
            fault => answer(key, fault, self.inner.head(key).await),
        }
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<ObjectMeta>, StoreError> {
        let fault = self.draw(prefix, on_write).await;
        answer(prefix, fault, self.inner.list(prefix, after, limit).await)
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        let fault = self.draw(key, on_write).await;
        if fault == Some(Fault::LostRequest) {
            return Err(unavailable(key, Fault::LostRequest));
        }
        self.remember(key).await;
        answer(key, fault, self.inner.delete(key).await)
    }
}

#[cfg(test)]
mod tests {
    use domain::twin::MemoryStore;

    use super::*;

    fn scripted<const N: usize>(script: [Option<Fault>; N]) -> LyingStore<MemoryStore> {
        LyingStore::scripted(MemoryStore::new(), script)
    }

    #[tokio::test]
    async fn after_a_lost_reply_the_object_is_there() {
        for fault in [Fault::LostReply, Fault::ErrorAfterSuccess] {
            let store = scripted([Some(fault)]);
            assert!(matches!(store.create("k", b"v").await, Err(StoreError::Unavailable { .. })));
            assert!(matches!(store.create("k", b"v").await, Ok(Created::Same)));
            assert_eq!(store.told(), [("k".to_owned(), fault)]);
        }
    }

    #[tokio::test]
    async fn after_a_lost_request_it_is_not() {
        let store = scripted([Some(Fault::LostRequest)]);
        assert!(matches!(store.create("k", b"v").await, Err(StoreError::Unavailable { .. })));
        assert!(matches!(store.create("k", b"v").await, Ok(Created::New)));
    }

    #[tokio::test]
    async fn reads_are_cut_flipped_or_stale_once() {
        let script = [None, Some(Fault::TruncatedBody), Some(Fault::FlippedByte), Some(Fault::StaleRead)];
        let store = scripted(script);
        store.create("k", b"abcd").await.expect("honest");
        assert_eq!(store.get("k").await.expect("cut").bytes, b"ab");
        assert_eq!(store.get("k").await.expect("flipped").bytes, b"abbd");
        assert!(matches!(store.get("k").await, Err(StoreError::NotFound { .. })));
        assert_eq!(store.get("k").await.expect("honest").bytes, b"abcd");
    }

    #[tokio::test]
    async fn a_stale_read_shows_the_version_before() {
        let store = scripted([None, None, Some(Fault::StaleRead)]);
        store.create("k", b"one").await.expect("honest");
        let etag = store.inner().head("k").await.expect("there").expect("there").etag;
        store.replace("k", &etag, b"two").await.expect("honest");
        assert_eq!(store.get("k").await.expect("stale").bytes, b"one");
    }

    #[tokio::test]
    async fn a_slow_call_ends_when_it_is_released() {
        let store = scripted([Some(Fault::Slow)]);
        store.release();
        assert_eq!(store.create("k", b"v").await.expect("released"), Created::New);
        assert_eq!(store.told(), [("k".to_owned(), Fault::Slow)]);
    }

    #[tokio::test]
    async fn the_same_seed_tells_the_same_lies() {
        let told = |seed| async move {
            let store = LyingStore::seeded(MemoryStore::new(), seed, 3);
            for number in 0..100 {
                // Lies are what is looked at here, whatever they answer.
                let _ = store.create(&format!("k{number}"), b"v").await;
            }
            store.told()
        };
        let first = told(7).await;
        assert!(!first.is_empty());
        assert_eq!(first, told(7).await);
        assert_ne!(first, told(8).await);
    }

    #[tokio::test]
    async fn lies_of_a_keyed_store_do_not_depend_on_the_order_of_calls() {
        let told = |order: Vec<u32>| async move {
            let store = LyingStore::keyed(MemoryStore::new(), 7, 3);
            for number in order {
                // Lies are what is looked at here, whatever they answer.
                let _ = store.create(&format!("k{number}"), b"v").await;
            }
            let mut told = store.told();
            told.sort_by(|one, two| one.0.cmp(&two.0));
            (told, store)
        };
        let (forward, store) = told((0..100).collect()).await;
        assert!(!forward.is_empty());
        assert_eq!(forward, told((0..100).rev().collect()).await.0);
        store.turn_to(0);
        for number in 0..100 {
            store.create(&format!("k{number}"), b"v").await.expect("honest from now on");
        }
    }
}
