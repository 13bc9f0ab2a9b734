//! Heals whose reader goes away.

mod common;

use std::sync::Arc;

use archiver::heal::{Finding, HealObserver, Healer, Outcome, Part};
use async_trait::async_trait;
use common::{Region, copy_of};
use domain::archive::layout;
use domain::store::{Created, Object, ObjectMeta, ObjectStore, StoreError};
use domain::twin::MemoryStore;
use tokio::sync::{Semaphore, mpsc};

/// A bucket that answers no `get` after a `replace` until it is let.
struct Slow {
    inner: Arc<MemoryStore>,
    replaced: Semaphore,
    gets: Semaphore,
}

#[async_trait]
impl ObjectStore for Slow {
    async fn create(&self, key: &str, bytes: &[u8]) -> Result<Created, StoreError> {
        self.inner.create(key, bytes).await
    }

    async fn replace(&self, key: &str, etag: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.inner.replace(key, etag, bytes).await?;
        self.replaced.add_permits(1);
        Ok(())
    }

    async fn get(&self, key: &str) -> Result<Object, StoreError> {
        self.gets.acquire().await.expect("never closed").forget();
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

/// Hands on what it is told.
struct Told(mpsc::UnboundedSender<Finding>);

#[async_trait]
impl HealObserver for Told {
    async fn found(&self, finding: Finding) {
        self.0.send(finding).expect("the test listens");
    }
}

#[tokio::test]
async fn what_is_healed_is_told_though_the_reader_has_gone() {
    let region = Region::with_events(10).await;
    region.seal(archiver::seal::Demand::Everything).await.expect("sealed");
    let segment = region.segments().await.remove(0);
    let (key, good) = (layout::segment(&segment), copy_of(&region.store).await);
    assert!(region.store.damage(&key, |bytes| bytes[9] ^= 1));
    let (told, mut findings) = mpsc::unbounded_channel();
    // One `get` is answered: the one that finds the damage.
    let slow = Slow { inner: region.store.clone(), replaced: Semaphore::new(0), gets: Semaphore::new(1) };
    let slow = Arc::new(slow);
    let healer = Healer { own: slow.clone(), other: Some(good), observer: Arc::new(Told(told)) };
    tokio::select! {
        biased;
        replaced = slow.replaced.acquire() => replaced.expect("never closed").forget(),
        _ = healer.heal(&segment, Part::Segment, "a test") => panic!("it waits for what was rewritten"),
    }
    drop(healer);
    slow.gets.add_permits(1);
    let finding = findings.recv().await.expect("it is told");
    assert_eq!((finding.key, finding.cause.as_str()), (key, "a test"));
    assert!(matches!(finding.outcome, Outcome::Healed { .. }), "{:?}", finding.outcome);
}
