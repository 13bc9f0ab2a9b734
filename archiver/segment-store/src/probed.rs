//! A store in which nothing is created or replaced before it has shown, in this process, that it keeps its promises
//! (DESIGN §6). Whoever writes, and whatever asked for it, goes through here.
//!
//! Reads and deletions go through as they are: neither stands on what is probed.

use async_trait::async_trait;
use domain::store::{Created, Object, ObjectMeta, ObjectStore, StoreError};
use tokio::sync::OnceCell;

use crate::probe::{Probed, probe};

/// A store and whether it has passed its probe.
pub struct ProbedStore<S> {
    inner: S,
    nonce: fn() -> String,
    passed: OnceCell<()>,
}

impl<S: Probed> ProbedStore<S> {
    /// A store that was not probed yet. `nonce` is a new one each time.
    pub fn new(inner: S, nonce: fn() -> String) -> Self {
        Self { inner, nonce, passed: OnceCell::new() }
    }

    /// Probes the store unless it has passed. Of several who ask at once one probes and the others wait for it; a store
    /// that did not pass is probed again by the next one who asks.
    ///
    /// # Errors
    /// `Refused` if it breaks a promise that sealing stands on, the store's own error if it does not answer.
    pub async fn ready(&self) -> Result<(), StoreError> {
        self.passed.get_or_try_init(|| self.look()).await.copied()
    }

    async fn look(&self) -> Result<(), StoreError> {
        let report = probe(&self.inner, &(self.nonce)()).await?;
        for finding in &report.findings {
            tracing::warn!(check = finding.check.as_str(), detail = finding.detail, "the store breaks a promise");
        }
        if report.allows_sealing() {
            return Ok(());
        }
        let broken: Vec<&str> = report.findings.iter().map(|finding| finding.check.as_str()).collect();
        let reason =
            format!("it does not keep the promises that sealing stands on: {}; see config check", broken.join(", "));
        Err(StoreError::Refused { key: "probe/".into(), reason })
    }
}

#[async_trait]
impl<S: Probed> ObjectStore for ProbedStore<S> {
    async fn create(&self, key: &str, bytes: &[u8]) -> Result<Created, StoreError> {
        self.ready().await?;
        self.inner.create(key, bytes).await
    }

    async fn replace(&self, key: &str, etag: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.ready().await?;
        self.inner.replace(key, etag, bytes).await
    }

    async fn get(&self, key: &str) -> Result<Object, StoreError> {
        self.inner.get(key).await
    }

    async fn get_range(&self, key: &str, offset: u64, bytes: u64) -> Result<Vec<u8>, StoreError> {
        self.inner.get_range(key, offset, bytes).await
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, StoreError> {
        self.inner.head(key).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<ObjectMeta>, StoreError> {
        self.inner.list(prefix, after, limit).await
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.inner.delete(key).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use domain::ErrorKind;

    use super::*;
    use crate::probe::Check;
    use crate::probe::tests::Sloppy;

    static NONCES: AtomicUsize = AtomicUsize::new(0);

    fn probed(breaks: Option<Check>) -> ProbedStore<Sloppy> {
        ProbedStore::new(Sloppy::new(breaks), || format!("n{}", NONCES.fetch_add(1, Ordering::SeqCst)))
    }

    #[tokio::test]
    async fn nothing_is_written_to_a_store_that_breaks_a_promise() {
        for check in [Check::ConditionalCreate, Check::ConditionalReplace, Check::ReadAfterWrite, Check::ListAfterWrite]
        {
            let store = probed(Some(check));
            let refused = store.create("seg/1", b"records").await.expect_err("it is not used");
            assert_eq!(refused.kind(), ErrorKind::Invalid, "{refused}");
            assert!(refused.to_string().contains(check.as_str()), "{refused}");
            assert!(store.replace("seg/1", "etag", b"records").await.is_err());
            assert!(store.inner.inner.keys().is_empty(), "{check:?}: and nothing is left of the probe");
        }
    }

    #[tokio::test]
    async fn a_store_that_keeps_its_promises_is_probed_once_before_the_first_object() {
        let store = probed(None);
        let (one, two) = tokio::join!(store.create("seg/1", b"one"), store.create("seg/2", b"two"));
        assert_eq!((one.expect("created"), two.expect("created")), (Created::New, Created::New));
        store.create("seg/3", b"three").await.expect("created");
        assert_eq!(store.inner.inner.keys(), ["seg/1", "seg/2", "seg/3"]);
        assert_eq!(store.inner.probes.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn what_is_only_a_warning_holds_nothing_up() {
        probed(Some(Check::WrongChecksum)).create("seg/1", b"one").await.expect("created");
    }
}
