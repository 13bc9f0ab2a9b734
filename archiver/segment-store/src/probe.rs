//! Finds out whether a store keeps the promises that the archive is built on (DESIGN §6), before it is trusted
//! with a segment. It writes below `probe/` only and removes what it wrote.
//!
//! What each promise is needed for, and so how bad it is when it is broken:
//!
//! - **Conditional creation** is how exactly one of two sealers, or of two regions that claim an epoch, wins.
//!   A store that overwrites instead would let a late writer destroy a sealed segment: not used for sealing.
//! - **Conditional replacement** is how a heal never overwrites a newer version with its own: not used either.
//! - **Read and list after write**: verify reads back what seal wrote, and whoever rebuilds the catalog lists the
//!   manifests. A store that shows the past would make both pass or fail by luck: not used.
//! - **Refusing a wrong checksum** is a second net only, so a store without it (Ceph's gateway ignores the
//!   CRC-32 header) is a warning: the request's signature covers the SHA-256 of the payload, so bytes damaged on
//!   the way are refused all the same; and nothing is pruned before the object was read back whole and matched
//!   (ARC-2), so bytes damaged behind the gateway are found while the live log still has the records.

use async_trait::async_trait;
use domain::store::{Created, ObjectStore, StoreError};
use futures::future::join_all;

/// How many creators race for one key.
const RACERS: u8 = 8;

/// How a store answered a body that does not match its announced checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WrongChecksum {
    /// As it should.
    Refused,
    /// It stored the bytes.
    Accepted,
}

/// A store that can be asked to do wrong.
#[async_trait]
pub trait Probed: ObjectStore {
    /// Creates the object with a checksum that is not that of `bytes`, once.
    ///
    /// # Errors
    /// `Unavailable` if there is no answer.
    async fn put_with_wrong_checksum(&self, key: &str, bytes: &[u8]) -> Result<WrongChecksum, StoreError>;
}

/// What was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// A second creation of a key is refused, one after the other and in a race.
    ConditionalCreate,
    /// A replacement that names a version no longer in force is refused.
    ConditionalReplace,
    /// A body that does not match its checksum is refused.
    WrongChecksum,
    /// What was written is read.
    ReadAfterWrite,
    /// What was written is listed, in order.
    ListAfterWrite,
}

impl Check {
    /// Its name in reports and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ConditionalCreate => "conditional create",
            Self::ConditionalReplace => "conditional replace",
            Self::WrongChecksum => "wrong checksum",
            Self::ReadAfterWrite => "read after write",
            Self::ListAfterWrite => "list after write",
        }
    }

    /// What follows if the store fails it.
    #[must_use]
    pub fn severity(self) -> Severity {
        match self {
            Self::WrongChecksum => Severity::Warning,
            Self::ConditionalCreate | Self::ConditionalReplace | Self::ReadAfterWrite | Self::ListAfterWrite => {
                Severity::NoSealing
            }
        }
    }
}

/// What follows from a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// Said in the log and by `config check`.
    Warning,
    /// The store is not used for sealing.
    NoSealing,
}

/// A promise that the store does not keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which one.
    pub check: Check,
    /// What it did instead.
    pub detail: String,
}

/// What the probe found; nothing is good.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProbeReport {
    /// What is wrong, in the order of the checks.
    pub findings: Vec<Finding>,
}

impl ProbeReport {
    /// Whether segments may be sealed into this store.
    #[must_use]
    pub fn allows_sealing(&self) -> bool {
        self.findings.iter().all(|finding| finding.check.severity() == Severity::Warning)
    }

    fn expect(&mut self, kept: bool, check: Check, detail: &str) {
        if !kept {
            self.findings.push(Finding { check, detail: detail.into() });
        }
    }
}

/// Probes `store` under `probe/<nonce>/`; the nonce has to be a new one each time.
///
/// # Errors
/// The store's error if it does not answer at all: then nothing is known.
pub async fn probe(store: &impl Probed, nonce: &str) -> Result<ProbeReport, StoreError> {
    let keys = Keys::of(nonce);
    let found = look(store, &keys).await;
    // Also after a failure; what cannot be removed now lies below `probe/`, where nothing reads it.
    let removed = join_all(keys.all().map(|key| store.delete(key))).await;
    if let Some(error) = removed.into_iter().find_map(Result::err) {
        tracing::warn!(%error, "the probe's objects were not all removed");
    }
    found
}

struct Keys {
    folder: String,
    first: String,
    raced: String,
    damaged: String,
}

impl Keys {
    fn of(nonce: &str) -> Self {
        let key = |name| format!("probe/{nonce}/{name}");
        Self { folder: key(""), first: key("1-first"), raced: key("2-raced"), damaged: key("3-damaged") }
    }

    fn all(&self) -> impl Iterator<Item = &str> {
        [&self.first, &self.raced, &self.damaged].into_iter().map(String::as_str)
    }
}

async fn look(store: &impl Probed, keys: &Keys) -> Result<ProbeReport, StoreError> {
    let mut report = ProbeReport::default();
    store.create(&keys.first, b"first").await?;
    read_after_write(store, keys, &mut report).await?;
    conditional_create(store, keys, &mut report).await?;
    conditional_replace(store, keys, &mut report).await?;
    wrong_checksum(store, keys, &mut report).await?;
    list_after_write(store, keys, &mut report).await?;
    Ok(report)
}

async fn read_after_write(store: &impl Probed, keys: &Keys, report: &mut ProbeReport) -> Result<(), StoreError> {
    let read = match store.get(&keys.first).await {
        Ok(object) => object.bytes == b"first",
        Err(StoreError::NotFound { .. }) => false,
        Err(error) => return Err(error),
    };
    report.expect(read, Check::ReadAfterWrite, "an object just created is not read back");
    Ok(())
}

async fn conditional_create(store: &impl Probed, keys: &Keys, report: &mut ProbeReport) -> Result<(), StoreError> {
    let second = refused(store.create(&keys.first, b"second").await.map(drop))?;
    report.expect(second, Check::ConditionalCreate, "a second creation of a key was not refused");

    let bodies: Vec<[u8; 1]> = (0..RACERS).map(|racer| [racer]).collect();
    let race = join_all(bodies.iter().map(|body| store.create(&keys.raced, body))).await;
    let mut winners = 0;
    for outcome in race {
        match outcome {
            // Same: the winner's first reply was lost.
            Ok(Created::New | Created::Same) => winners += 1,
            Err(StoreError::Different { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    let detail = format!("of {RACERS} creations of one key at once {winners} were told that they succeeded");
    report.expect(winners == 1, Check::ConditionalCreate, &detail);
    Ok(())
}

async fn conditional_replace(store: &impl Probed, keys: &Keys, report: &mut ProbeReport) -> Result<(), StoreError> {
    let Some(before) = store.head(&keys.first).await? else {
        report.expect(false, Check::ReadAfterWrite, "an object just created is not there");
        return Ok(());
    };
    let replaced = !refused(store.replace(&keys.first, &before.etag, b"third").await)?;
    report.expect(replaced, Check::ConditionalReplace, "a replacement of the version in force was refused");
    let stale = refused(store.replace(&keys.first, &before.etag, b"fourth").await)?;
    report.expect(stale, Check::ConditionalReplace, "a replacement of a version no longer in force was not refused");
    Ok(())
}

async fn wrong_checksum(store: &impl Probed, keys: &Keys, report: &mut ProbeReport) -> Result<(), StoreError> {
    let answer = store.put_with_wrong_checksum(&keys.damaged, b"damaged").await?;
    let stored = store.head(&keys.damaged).await?.is_some();
    let refused = answer == WrongChecksum::Refused && !stored;
    report.expect(refused, Check::WrongChecksum, "a body that does not match its CRC-32 was stored");
    Ok(())
}

async fn list_after_write(store: &impl Probed, keys: &Keys, report: &mut ProbeReport) -> Result<(), StoreError> {
    let listed = store.list(&keys.folder, None, 10).await?;
    let listed: Vec<&str> =
        listed.iter().map(|object| object.key.as_str()).filter(|key| *key != keys.damaged).collect();
    let detail = format!("two objects just created are listed as {listed:?}");
    report.expect(listed == [&keys.first, &keys.raced], Check::ListAfterWrite, &detail);
    Ok(())
}

fn refused(outcome: Result<(), StoreError>) -> Result<bool, StoreError> {
    match outcome {
        Ok(()) => Ok(false),
        Err(StoreError::Different { .. }) => Ok(true),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use domain::store::{Object, ObjectMeta};
    use domain::twin::MemoryStore;

    use super::*;

    /// A store that keeps all promises but one.
    pub(crate) struct Sloppy {
        pub(crate) inner: MemoryStore,
        /// How often it was asked to store a wrong checksum: once a probe.
        pub(crate) probes: AtomicUsize,
        breaks: Option<Check>,
        overwritten: Mutex<BTreeMap<String, Vec<u8>>>,
    }

    impl Sloppy {
        pub(crate) fn new(breaks: Option<Check>) -> Self {
            Self { inner: MemoryStore::new(), probes: AtomicUsize::new(0), breaks, overwritten: Mutex::default() }
        }

        fn breaks(&self, check: Check) -> bool {
            self.breaks == Some(check)
        }
    }

    #[async_trait]
    impl ObjectStore for Sloppy {
        async fn create(&self, key: &str, bytes: &[u8]) -> Result<Created, StoreError> {
            if self.breaks(Check::ConditionalCreate) {
                self.overwritten.lock().expect("no panic").insert(key.into(), bytes.to_vec());
                self.inner.delete(key).await?;
            }
            self.inner.create(key, bytes).await
        }

        async fn replace(&self, key: &str, etag: &str, bytes: &[u8]) -> Result<(), StoreError> {
            let current = self.inner.head(key).await?.map(|meta| meta.etag);
            let etag = if self.breaks(Check::ConditionalReplace) { current.unwrap_or_default() } else { etag.into() };
            self.inner.replace(key, &etag, bytes).await
        }

        async fn get(&self, key: &str) -> Result<Object, StoreError> {
            if self.breaks(Check::ReadAfterWrite) {
                return Err(StoreError::NotFound { key: key.into() });
            }
            self.inner.get(key).await
        }

        async fn get_range(&self, key: &str, offset: u64, bytes: u64) -> Result<Vec<u8>, StoreError> {
            self.inner.get_range(key, offset, bytes).await
        }

        async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, StoreError> {
            self.inner.head(key).await
        }

        async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<ObjectMeta>, StoreError> {
            let listed = self.inner.list(prefix, after, limit).await?;
            Ok(if self.breaks(Check::ListAfterWrite) { listed.into_iter().skip(1).collect() } else { listed })
        }

        async fn delete(&self, key: &str) -> Result<(), StoreError> {
            self.inner.delete(key).await
        }
    }

    #[async_trait]
    impl Probed for Sloppy {
        async fn put_with_wrong_checksum(&self, key: &str, bytes: &[u8]) -> Result<WrongChecksum, StoreError> {
            self.probes.fetch_add(1, Ordering::SeqCst);
            if self.breaks(Check::WrongChecksum) {
                self.inner.create(key, bytes).await?;
                return Ok(WrongChecksum::Accepted);
            }
            Ok(WrongChecksum::Refused)
        }
    }

    async fn found(store: &Sloppy) -> Vec<Check> {
        let report = probe(store, "nonce").await.expect("it answers");
        assert!(store.inner.keys().is_empty(), "the probe cleans up");
        report.findings.into_iter().map(|finding| finding.check).collect()
    }

    #[tokio::test]
    async fn a_good_store_gives_no_finding() {
        assert_eq!(found(&Sloppy::new(None)).await, []);
    }

    #[tokio::test]
    async fn each_broken_promise_is_named() {
        use Check::{ConditionalCreate, ConditionalReplace, ListAfterWrite, ReadAfterWrite, WrongChecksum};
        for check in [ConditionalCreate, ConditionalReplace, WrongChecksum, ReadAfterWrite, ListAfterWrite] {
            let mut found = found(&Sloppy::new(Some(check))).await;
            found.dedup();
            assert_eq!(found, [check]);
        }
    }

    #[tokio::test]
    async fn only_a_wrong_checksum_is_no_reason_not_to_seal() {
        let report = |check| async move { probe(&Sloppy::new(Some(check)), "n").await.expect("it answers") };
        assert!(report(Check::WrongChecksum).await.allows_sealing());
        assert!(!report(Check::ConditionalCreate).await.allows_sealing());
        assert!(!report(Check::ConditionalReplace).await.allows_sealing());
    }
}
