//! The claim of an epoch: an object that is created only if it is absent, in every bucket that is reached, so
//! that of two regions that want the same epoch at most one gets it wherever their buckets meet.
//!
//! It reads claims and makes them. It never removes one: an epoch that was claimed in vain is burnt, and the
//! next promotion takes the one after it.

use domain::archive::epoch_claim::EpochClaim;
use domain::archive::layout;
use domain::archive::statement::{self, FORMAT, StatementError};
use domain::store::{ObjectStore, StoreError};
use domain::{Epoch, ErrorKind, Head, Timestamp};
use thiserror::Error;

use crate::fence::limited;
use crate::listing;
use crate::region::Region;

/// Why an epoch was not claimed, or the claims are not known.
#[derive(Debug, Error)]
pub enum ClaimError {
    /// A bucket did not answer.
    #[error("the claims of epochs were not read or written")]
    Store(#[from] StoreError),
    /// A claim is there that nobody trusted made.
    #[error("{key} is no claim of an epoch")]
    Statement {
        /// Its key.
        key: String,
        /// Why.
        #[source]
        source: StatementError,
    },
    /// A claim is there under another's name.
    #[error("{key} claims epoch {found} of log {log:?}")]
    Misplaced {
        /// Its key.
        key: String,
        /// What it claims.
        found: Epoch,
        /// Of which log.
        log: String,
    },
    /// Another claim was first.
    #[error("epoch {epoch} was claimed by {region:?} at {fork}")]
    Lost {
        /// The epoch.
        epoch: Epoch,
        /// Who has it.
        region: String,
        /// From where on.
        fork: Head,
    },
}

impl ClaimError {
    /// What the caller has to do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Store(error) => error.kind(),
            Self::Statement { source, .. } => source.kind(),
            Self::Misplaced { .. } => ErrorKind::Corrupt,
            Self::Lost { .. } => ErrorKind::Fenced,
        }
    }
}

/// The claim of the highest epoch in one bucket; `None` if there is none.
///
/// # Errors
/// A [`ClaimError`]: then nothing is known of this bucket.
pub async fn highest(region: &Region, store: &dyn ObjectStore, log: &str) -> Result<Option<EpochClaim>, ClaimError> {
    let claimed = listing::names(store, layout::EPOCHS, None, layout::parse_epoch_claim).await?;
    match claimed.into_iter().max() {
        Some(epoch) => Ok(Some(read(region, store, log, epoch).await?.0)),
        None => Ok(None),
    }
}

/// A stored claim, checked, and its bytes.
async fn read(
    region: &Region,
    store: &dyn ObjectStore,
    log: &str,
    epoch: Epoch,
) -> Result<(EpochClaim, Vec<u8>), ClaimError> {
    let key = layout::epoch_claim(epoch);
    let bytes = store.get(&key).await?.bytes;
    let claim = match statement::verify::<EpochClaim>(&bytes, &region.keys) {
        Ok(signed) => signed.statement,
        Err(source) => return Err(ClaimError::Statement { key, source }),
    };
    if claim.epoch != epoch || claim.log != log {
        return Err(ClaimError::Misplaced { key, found: claim.epoch, log: claim.log });
    }
    Ok((claim, bytes))
}

/// Where a claim has to stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// In the own bucket; the other region's may be gone with it.
    OwnBucket,
    /// In both: the other region has to find it wherever it looks.
    BothBuckets,
}

/// Claims `epoch` for this region from `fork` on. It is held when it stands where it has to and no bucket that
/// was reached has another's. A claim that this region made before, for the same fork, is taken up again.
///
/// # Errors
/// `Lost` if another claim stands in a bucket, `Store` if one that has to have it does not answer: the own one then
/// has none.
pub async fn claim(
    region: &Region,
    reach: Reach,
    log: &str,
    epoch: Epoch,
    previous: Option<Epoch>,
    fork: Head,
    now: Timestamp,
) -> Result<EpochClaim, ClaimError> {
    let name = region.name().to_owned();
    let mut claim = EpochClaim { format: FORMAT, log: log.to_owned(), epoch, previous, region: name, fork, time: now };
    let key = layout::epoch_claim(epoch);
    let failed = |source| ClaimError::Statement { key: layout::epoch_claim(epoch), source };
    let mut bytes = statement::sign(&claim, &region.key).map_err(failed)?;
    // The peer's bucket first: if the other region has claimed the epoch there, nothing of ours is written.
    // The own one last and without fail: whoever can read this region's bucket must see what it claimed.
    let mut stores: Vec<_> = region.stores().collect();
    let own = stores.pop().expect("the own store is always the last");
    for store in stores {
        match limited(put(region, store.as_ref(), &key, &claim, bytes.clone())).await {
            Some(Ok(there)) => (claim, bytes) = there,
            Some(Err(lost @ ClaimError::Lost { .. })) => return Err(lost),
            Some(Err(error)) if reach == Reach::BothBuckets => return Err(error),
            None if reach == Reach::BothBuckets => {
                return Err(StoreError::Unavailable { key, reason: "no answer in time".into() }.into());
            }
            // A bucket that cannot be reached or judged now does not hold up a promotion.
            Some(Err(error)) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "the epoch was not claimed in the other region's bucket");
            }
            None => tracing::warn!("the epoch was not claimed in the other region's bucket: no answer in time"),
        }
    }
    Ok(put(region, own.as_ref(), &key, &claim, bytes).await?.0)
}

/// Copies the claim of `epoch` from the other region's bucket into the own one, byte for byte, unless one is there.
///
/// # Errors
/// `Store` if a bucket does not answer or another claim stands in the own one.
pub(crate) async fn copy(region: &Region, log: &str, epoch: Epoch) -> Result<(), ClaimError> {
    let Some(peer_store) = &region.peer_store else { return Ok(()) };
    let (_, bytes) = read(region, peer_store.as_ref(), log, epoch).await?;
    region.store.create(&layout::epoch_claim(epoch), &bytes).await?;
    Ok(())
}

/// Creates the claim in one bucket and returns what stands there: our own claim, maybe an earlier one.
async fn put(
    region: &Region,
    store: &dyn ObjectStore,
    key: &str,
    claim: &EpochClaim,
    bytes: Vec<u8>,
) -> Result<(EpochClaim, Vec<u8>), ClaimError> {
    match store.create(key, &bytes).await {
        Ok(_) => return Ok((claim.clone(), bytes)),
        Err(StoreError::Different { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let (there, bytes) = read(region, store, &claim.log, claim.epoch).await?;
    if there.region == claim.region && there.fork == claim.fork {
        return Ok((there, bytes));
    }
    Err(ClaimError::Lost { epoch: there.epoch, region: there.region, fork: there.fork })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Pair, at};

    fn head(events: u64) -> Head {
        Head::new(events).expect("small")
    }

    async fn claimed(region: &Region, epoch: u64, fork: u64, second: i64) -> Result<EpochClaim, ClaimError> {
        claim(
            region,
            Reach::OwnBucket,
            "twin",
            Epoch::new(epoch).expect("small"),
            Epoch::new(epoch - 1),
            head(fork),
            at(second),
        )
        .await
    }

    #[tokio::test]
    async fn of_two_regions_that_claim_an_epoch_one_gets_it() {
        let pair = Pair::new().await;
        claimed(&pair.dr, 2, 10, 0).await.expect("first");
        let lost = claimed(&pair.home, 2, 12, 0).await.expect_err("second");
        assert!(matches!(lost, ClaimError::Lost { region, .. } if region == "dr"));
        for store in [&pair.home_store, &pair.dr_store] {
            let highest = highest(&pair.home, store.as_ref(), "twin").await.expect("read").expect("claimed");
            assert_eq!((highest.region.as_str(), highest.fork), ("dr", head(10)));
        }
    }

    #[tokio::test]
    async fn a_claim_made_before_a_crash_is_taken_up_again() {
        let pair = Pair::new().await;
        let first = claimed(&pair.dr, 2, 10, 0).await.expect("first");
        assert_eq!(claimed(&pair.dr, 2, 10, 60).await.expect("again"), first);
        let moved = claimed(&pair.dr, 2, 11, 60).await.expect_err("the log went on in between");
        assert!(matches!(moved, ClaimError::Lost { .. }));
    }

    #[tokio::test]
    async fn a_claim_that_reached_one_bucket_only_is_completed_with_the_same_bytes() {
        let pair = Pair::new().await;
        claimed(&pair.dr, 2, 10, 0).await.expect("first");
        pair.dr_store.delete(&layout::epoch_claim(Epoch::new(2).expect("small"))).await.expect("deleted");
        claimed(&pair.dr, 2, 10, 60).await.expect("again");
        let key = layout::epoch_claim(Epoch::new(2).expect("small"));
        let (one, two) = (pair.home_store.get(&key).await, pair.dr_store.get(&key).await);
        assert_eq!(one.expect("there").bytes, two.expect("there").bytes);
    }

    #[tokio::test]
    async fn a_claim_that_nobody_trusted_made_is_not_believed() {
        let pair = Pair::new().await;
        let key = layout::epoch_claim(Epoch::new(9).expect("small"));
        pair.dr_store.create(&key, b"{}").await.expect("created");
        let error = highest(&pair.dr, pair.dr_store.as_ref(), "twin").await.expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }
}
