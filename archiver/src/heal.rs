//! Heal: fetches the good copy of a damaged object from the other bucket, serves from it, and rewrites the bad
//! one (ARC-4).
//!
//! What is served was compared with the digests in the catalog; what is rewritten is read again. If no good copy
//! is left the answer is `Corrupt`, never the bytes that are there.

use std::sync::Arc;

use async_trait::async_trait;
use domain::archive::catalog::Segment;
use domain::archive::layout;
use domain::log::ReadError;
use domain::merkle::Hash;
use domain::store::{Object, ObjectStore, StoreError};
use tracing::{error, warn};

/// Which of a segment's two objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// The records.
    Segment,
    /// The index.
    Index,
}

impl Part {
    fn key(self, segment: &Segment) -> String {
        match self {
            Self::Segment => layout::segment(segment),
            Self::Index => layout::index(segment),
        }
    }

    pub(crate) fn is_good(self, segment: &Segment, bytes: &[u8]) -> bool {
        let (length, sha256) = match self {
            Self::Segment => (segment.bytes, segment.sha256),
            Self::Index => (segment.index_bytes, segment.index_sha256),
        };
        bytes.len() as u64 == length && Hash::of(bytes) == sha256
    }
}

/// What was found and done about one damaged object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The object's key.
    pub key: String,
    /// The segment that it belongs to.
    pub segment: Segment,
    /// What gave it away.
    pub cause: String,
    /// The version that was bad; `None` if the object was missing.
    pub bad_etag: Option<String>,
    /// What came of it.
    pub outcome: Outcome,
}

/// A [`Finding`] before anything came of it.
struct Damage {
    key: String,
    segment: Segment,
    cause: String,
    bad_etag: Option<String>,
}

/// What came of a damaged object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was rewritten from the other copy and read again: `segment.healed`.
    Healed {
        /// The version that is good now.
        etag: String,
    },
    /// The other copy is good and was served; rewriting this one failed.
    NotRewritten {
        /// Why.
        reason: String,
    },
    /// No good copy was to be had: a person has to look.
    Lost {
        /// Why.
        reason: String,
    },
}

/// Is told of every damaged object, for the event `segment.healed` and the metrics.
#[async_trait]
pub trait HealObserver: Send + Sync {
    /// An object was found damaged.
    async fn found(&self, finding: Finding);
}

/// Findings go to the log only.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogOnly;

#[async_trait]
impl HealObserver for LogOnly {
    async fn found(&self, _finding: Finding) {}
}

/// This region's bucket and the one that it heals from.
#[derive(Clone)]
pub struct Healer {
    /// This region's bucket.
    pub own: Arc<dyn ObjectStore>,
    /// The other region's; `None`: nothing can be healed.
    pub other: Option<Arc<dyn ObjectStore>>,
    /// Is told what was found.
    pub observer: Arc<dyn HealObserver>,
}

impl Healer {
    /// Returns the good bytes of an object that looked bad because of `cause`, and rewrites the own copy if it
    /// really is. Dropping it once the good copy is there does not end the rewriting, nor keep it from being told.
    ///
    /// # Errors
    /// `Corrupt` if no good copy is left; `Unavailable` if a store did not answer.
    pub async fn heal(&self, segment: &Segment, part: Part, cause: &str) -> Result<Vec<u8>, ReadError> {
        let key = part.key(segment);
        let bad_etag = match self.own.get(&key).await {
            // The whole object is good: a single reply was not. Nothing is rewritten for that.
            Ok(object) if part.is_good(segment, &object.bytes) => return Ok(object.bytes),
            Ok(object) => Some(object.meta.etag),
            Err(StoreError::NotFound { .. }) => None,
            Err(error) => return Err(ReadError::Unavailable { reason: error.to_string() }),
        };
        let good = self.good_copy(segment, part, &key).await;
        let damage = Damage { key, segment: segment.clone(), cause: cause.to_owned(), bad_etag };
        // In a task of its own: whoever reads may hang up, and what was rewritten would then be told to nobody.
        let mended = tokio::spawn(self.clone().mend(damage, good)).await;
        mended.unwrap_or_else(|broke| Err(ReadError::Unavailable { reason: format!("the heal broke: {broke}") }))
    }

    /// Rewrites the own copy from the good one, if there is one, tells of it, and gives the good one back.
    async fn mend(self, damage: Damage, good: Result<Vec<u8>, ReadError>) -> Result<Vec<u8>, ReadError> {
        let outcome = match &good {
            Ok(good) => self.rewrite(&damage.key, damage.bad_etag.as_deref(), good).await,
            Err(error) => Outcome::Lost { reason: error.to_string() },
        };
        let Damage { key, segment, cause, bad_etag } = damage;
        self.report(Finding { key, segment, cause, bad_etag, outcome }).await;
        good
    }

    async fn good_copy(&self, segment: &Segment, part: Part, key: &str) -> Result<Vec<u8>, ReadError> {
        let corrupt = |reason: &str| ReadError::Corrupt { reason: format!("{key}: {reason}") };
        let other = self.other.as_ref().ok_or_else(|| corrupt("damaged, and there is no other bucket"))?;
        match other.get(key).await {
            Ok(Object { bytes, .. }) if part.is_good(segment, &bytes) => Ok(bytes),
            Ok(_) => Err(corrupt("damaged in both buckets")),
            Err(StoreError::NotFound { .. }) => Err(corrupt("damaged, and missing in the other bucket")),
            Err(error) => {
                Err(ReadError::Unavailable { reason: format!("{key} is damaged here, and the other bucket: {error}") })
            }
        }
    }

    /// Puts the good bytes in the place of the bad ones and reads them again.
    async fn rewrite(&self, key: &str, bad_etag: Option<&str>, good: &[u8]) -> Outcome {
        let written = match bad_etag {
            Some(etag) => self.own.replace(key, etag, good).await,
            None => self.own.create(key, good).await.map(|_created| ()),
        };
        let not_rewritten = |reason: String| Outcome::NotRewritten { reason };
        match written {
            // Somebody else was faster; whether they healed it is seen below.
            Ok(()) | Err(StoreError::Different { .. }) => {}
            Err(error) => return not_rewritten(error.to_string()),
        }
        match self.own.get(key).await {
            Ok(object) if object.bytes == good => Outcome::Healed { etag: object.meta.etag },
            Ok(_) => not_rewritten("it was rewritten and does not read back".into()),
            Err(error) => not_rewritten(error.to_string()),
        }
    }

    async fn report(&self, finding: Finding) {
        let Finding { key, cause, outcome, .. } = &finding;
        match outcome {
            Outcome::Healed { .. } => warn!(key, cause, "damaged object healed from the other bucket"),
            Outcome::NotRewritten { reason } => {
                error!(key, cause, reason, "damaged object served from the other bucket")
            }
            Outcome::Lost { reason } => error!(key, cause, reason, "damaged object without a good copy"),
        }
        self.observer.found(finding).await;
    }
}
