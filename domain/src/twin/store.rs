//! Objects in memory.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use crate::merkle::Hash;
use crate::store::{Created, Object, ObjectMeta, ObjectStore, StoreError};

/// A bucket in memory that keeps the port's contract.
#[derive(Debug, Default)]
pub struct MemoryStore {
    objects: Mutex<BTreeMap<String, Vec<u8>>>,
}

impl MemoryStore {
    /// An empty bucket.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Changes the stored bytes behind the store's back, as a failing disk does; `false` if there is no object.
    pub fn damage(&self, key: &str, damage: impl FnOnce(&mut Vec<u8>)) -> bool {
        self.objects().get_mut(key).map(damage).is_some()
    }

    /// All keys, sorted.
    #[must_use]
    pub fn keys(&self) -> Vec<String> {
        self.objects().keys().cloned().collect()
    }

    fn objects(&self) -> MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn meta(key: &str, bytes: &[u8]) -> ObjectMeta {
    ObjectMeta { key: key.into(), bytes: bytes.len() as u64, etag: Hash::of(bytes).to_hex() }
}

#[async_trait]
impl ObjectStore for MemoryStore {
    async fn create(&self, key: &str, bytes: &[u8]) -> Result<Created, StoreError> {
        let mut objects = self.objects();
        match objects.get(key) {
            None => {
                objects.insert(key.into(), bytes.to_vec());
                Ok(Created::New)
            }
            Some(there) if there == bytes => Ok(Created::Same),
            Some(_) => Err(StoreError::Different { key: key.into() }),
        }
    }

    async fn replace(&self, key: &str, etag: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let mut objects = self.objects();
        let there = objects.get_mut(key).ok_or_else(|| StoreError::NotFound { key: key.into() })?;
        if meta(key, there).etag != etag {
            return Err(StoreError::Different { key: key.into() });
        }
        *there = bytes.to_vec();
        Ok(())
    }

    async fn get(&self, key: &str) -> Result<Object, StoreError> {
        let bytes = self.objects().get(key).cloned().ok_or_else(|| StoreError::NotFound { key: key.into() })?;
        Ok(Object { meta: meta(key, &bytes), bytes })
    }

    async fn get_range(&self, key: &str, offset: u64, bytes: u64) -> Result<Vec<u8>, StoreError> {
        let object = self.get(key).await?;
        let end = offset.checked_add(bytes).and_then(|end| usize::try_from(end).ok());
        let start = usize::try_from(offset).ok();
        let range = start.zip(end).and_then(|(start, end)| object.bytes.get(start..end));
        range.map(<[u8]>::to_vec).ok_or_else(|| StoreError::Different { key: key.into() })
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, StoreError> {
        Ok(self.objects().get(key).map(|bytes| meta(key, bytes)))
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<ObjectMeta>, StoreError> {
        let objects = self.objects();
        let matching = objects.iter().filter(|(key, _)| key.starts_with(prefix));
        let matching = matching.filter(|(key, _)| after.is_none_or(|after| key.as_str() > after));
        Ok(matching.take(limit).map(|(key, bytes)| meta(key, bytes)).collect())
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.objects().remove(key);
        Ok(())
    }
}
