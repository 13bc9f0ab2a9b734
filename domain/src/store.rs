//! The port to object storage: a handful of verbs of S3, with what each one promises.

use async_trait::async_trait;
use thiserror::Error;

use crate::ErrorKind;

/// What is known of an object without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Its key.
    pub key: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// The store's name for this version of the bytes; only good for [`ObjectStore::replace`].
    pub etag: String,
}

/// An object and what is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// What is known of it.
    pub meta: ObjectMeta,
    /// All of its bytes.
    pub bytes: Vec<u8>,
}

/// How a conditional creation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// The object was not there and is now.
    New,
    /// The object was there with exactly these bytes: a reply had been lost.
    Same,
}

/// Why an object was not read or written.
#[derive(Debug, Clone, Error)]
pub enum StoreError {
    /// There is no such object.
    #[error("no object {key:?}")]
    NotFound {
        /// Its key.
        key: String,
    },
    /// The object is there with other bytes, or was replaced in between.
    #[error("object {key:?} is there with other bytes")]
    Different {
        /// Its key.
        key: String,
    },
    /// The store did not answer, or with an error of its own. A write may have happened: repeat it, it can be.
    #[error("object storage is unavailable for {key:?}: {reason}")]
    Unavailable {
        /// What was asked for.
        key: String,
        /// What it said.
        reason: String,
    },
    /// The store refuses us: credentials, a missing bucket, a request it does not know.
    #[error("object storage refuses {key:?}: {reason}")]
    Refused {
        /// What was asked for.
        key: String,
        /// What it said.
        reason: String,
    },
}

impl StoreError {
    /// What the caller has to do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::Different { .. } => ErrorKind::Conflict,
            Self::Unavailable { .. } => ErrorKind::Unavailable,
            Self::Refused { .. } => ErrorKind::Invalid,
        }
    }
}

/// Objects in one bucket. All verbs may be repeated; none is retried without end; each has a time limit.
///
/// The adapter never trusts a reply more than it must, but it does not judge content either: whoever reads
/// an object compares its digests (ARC-4).
#[async_trait]
pub trait ObjectStore: Send + Sync {
    /// Creates the object if it is absent (`If-None-Match: *`), with its checksum sent along.
    /// If it is there already the stored bytes are read and compared: equal is [`Created::Same`].
    /// After `Unavailable` it may be there: call again.
    ///
    /// # Errors
    /// `Different` if it is there with other bytes; nothing was changed then.
    async fn create(&self, key: &str, bytes: &[u8]) -> Result<Created, StoreError>;

    /// Replaces the version `etag` of an object (`If-Match`); for healing only.
    ///
    /// # Errors
    /// `Different` if another version is in force, `NotFound` if there is none.
    async fn replace(&self, key: &str, etag: &str, bytes: &[u8]) -> Result<(), StoreError>;

    /// All bytes of an object, with a length that was checked against the reply's.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable` (also for a reply that ends early), `Refused`.
    async fn get(&self, key: &str) -> Result<Object, StoreError>;

    /// `bytes` bytes from `offset` on; an answer of another length is an error.
    ///
    /// # Errors
    /// As [`ObjectStore::get`]; a range past the end is `Different`: the object is shorter than it was.
    async fn get_range(&self, key: &str, offset: u64, bytes: u64) -> Result<Vec<u8>, StoreError>;

    /// What is known of the object; `None` if there is none.
    ///
    /// # Errors
    /// `Unavailable`, `Refused`.
    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, StoreError>;

    /// Up to `limit` objects whose key starts with `prefix` and is above `after`, sorted by key (bytewise).
    ///
    /// # Errors
    /// `Unavailable`, `Refused`.
    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<ObjectMeta>, StoreError>;

    /// Removes an object; one that is not there is fine. For orphans only, never for what a manifest names.
    ///
    /// # Errors
    /// `Unavailable`, `Refused`.
    async fn delete(&self, key: &str) -> Result<(), StoreError>;
}
