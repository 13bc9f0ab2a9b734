//! Signed checkpoints: the active region signs its root, the follower compares it with its own log's and
//! cosigns. Only a cosigned one is published, so what is public is held by both (EVD-1), and pruning waits
//! for one (ARC-2). A region never signs a root that it has not computed from its own records.

use domain::append::Role;
use domain::archive::catalog::{CatalogError, StoredCheckpoint};
use domain::archive::checkpoint::{self, Checkpoint, CheckpointError};
use domain::archive::layout;
use domain::evidence::{EvidenceError, two_regions};
use domain::log::ReadError;
use domain::store::StoreError;
use domain::{Epoch, ErrorKind, Head};
use thiserror::Error;

use crate::peer::PeerError;
use crate::region::Region;

/// Why nothing was signed.
#[derive(Debug, Error)]
pub enum CosignError {
    /// The own log was not read.
    #[error("the own log was not read")]
    Read(#[from] ReadError),
    /// The own tree is not known, or a signed root is not its own. In the latter case one of the two regions
    /// has lied or lost.
    #[error("a checkpoint does not stand")]
    Evidence(#[from] EvidenceError),
    /// Checkpoints were not read or stored.
    #[error("the checkpoints were not read or stored")]
    Stored(#[from] CatalogError),
    /// It was not published.
    #[error("the checkpoint was not published")]
    Store(#[from] StoreError),
    /// The other region gave no answer.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// It is no checkpoint that we trust.
    #[error("a checkpoint was refused")]
    Checkpoint(#[from] CheckpointError),
    /// It is a checkpoint of something else.
    #[error("the checkpoint is not one to sign here: {0}")]
    NotOurs(String),
}

impl CosignError {
    /// What the caller has to do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Read(error) => error.kind(),
            Self::Evidence(error) => error.kind(),
            Self::Stored(error) => error.kind(),
            Self::Store(error) => error.kind(),
            Self::Peer(error) => error.kind(),
            Self::Checkpoint(error) => error.kind(),
            Self::NotOurs(_) => ErrorKind::Conflict,
        }
    }
}

/// What a round did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Round {
    /// There was nothing to sign.
    Idle,
    /// The active region signed its root at this size; it waits for the other's signature.
    Signed(Head),
    /// The follower cosigned, and the other region took it.
    Cosigned(Head),
    /// The follower has not that many events yet.
    Behind(Head),
}

/// One round, whatever the region is: signs if it is active, cosigns if it follows.
///
/// # Errors
/// A [`CosignError`]; one of kind Corrupt needs a person.
pub async fn round(region: &Region) -> Result<Round, CosignError> {
    let head = region.log.log_head().await?;
    match head.role {
        Role::Active | Role::Draining if head.head > Head::EMPTY => sign(region).await,
        Role::Follower => cosign(region, head.epoch).await,
        Role::Active | Role::Draining | Role::ReadOnly => Ok(Round::Idle),
    }
}

async fn sign(region: &Region) -> Result<Round, CosignError> {
    let before = region.evidence.newest_checkpoint(false).await?;
    // Stored before anybody sees it: a region never forgets what it has signed.
    let signed = region.tree.sign(&region.key).await?;
    region.reached("cosign.sign");
    let grown = before.is_none_or(|before| signed.size > before.size);
    Ok(if grown { Round::Signed(signed.size) } else { Round::Idle })
}

/// The checkpoint that this region signed and that waits for the other's signature: the answer to
/// `GET /v1/replication/checkpoint`.
///
/// # Errors
/// [`CosignError::Stored`], [`CosignError::Read`].
pub async fn waiting(region: &Region) -> Result<Option<String>, CosignError> {
    let role = region.log.log_head().await?.role;
    let newest = region.evidence.newest_checkpoint(false).await?;
    let waiting = newest.filter(|newest| !newest.cosigned && matches!(role, Role::Active | Role::Draining));
    Ok(waiting.map(|newest| newest.note))
}

async fn cosign(region: &Region, epoch: Epoch) -> Result<Round, CosignError> {
    let Some(peer) = &region.peer else { return Ok(Round::Idle) };
    let Some(note) = peer.waiting_checkpoint().await? else { return Ok(Round::Idle) };
    let (checkpoint, signers) = match region.tree.check(&note, &region.keys).await {
        Ok(checked) => checked,
        Err(EvidenceError::Short { size, .. }) => return Ok(Round::Behind(size)),
        Err(error) => return Err(error.into()),
    };
    check_epoch(&checkpoint, epoch)?;
    if signers.iter().all(|signer| signer == region.key.id()) {
        return Err(CosignError::NotOurs("the other region has not signed it".into()));
    }
    let note = checkpoint::cosign(&note, &region.key)?;
    // Own bucket, own database, then home: when home prunes because of it, this region can show it.
    keep(region, &checkpoint, &note).await?;
    peer.deliver_cosignature(&note).await?;
    region.reached("cosign.deliver");
    Ok(Round::Cosigned(checkpoint.size))
}

/// Takes the other region's signature: `POST /v1/replication/cosignature`. Published and stored when it
/// returns; may be repeated.
///
/// # Errors
/// `NotOurs` for a note that not both regions signed, `Evidence` for a root that is not this log's.
pub async fn accept(region: &Region, note: &str) -> Result<(), CosignError> {
    let epoch = region.log.log_head().await?.epoch;
    let (checkpoint, signers) = region.tree.check(note, &region.keys).await?;
    check_epoch(&checkpoint, epoch)?;
    if !two_regions(&signers) || !signers.contains(region.key.id()) {
        return Err(CosignError::NotOurs("it does not have both regions' signatures".into()));
    }
    keep(region, &checkpoint, note).await
}

/// One of an older epoch is as true as ever: its root is this log's. One of a newer epoch is for the watch first.
fn check_epoch(checkpoint: &Checkpoint, epoch: Epoch) -> Result<(), CosignError> {
    if checkpoint.epoch <= epoch {
        return Ok(());
    }
    Err(CosignError::NotOurs(format!("it is of epoch {}, in force here is {epoch}", checkpoint.epoch)))
}

/// Publishes and stores a checkpoint that both signed. The bucket first: once the database says that it is
/// cosigned, pruning relies on it, and an auditor has to find it.
async fn keep(region: &Region, checkpoint: &Checkpoint, note: &str) -> Result<(), CosignError> {
    let Checkpoint { size, root, epoch, .. } = *checkpoint;
    let key = layout::checkpoint(epoch, size);
    match region.store.create(&key, note.as_bytes()).await {
        Ok(_) => {}
        // The two signatures may stand in another order: any published one that says the same is good.
        Err(StoreError::Different { .. }) => check_published(region, &key, checkpoint).await?,
        Err(error) => return Err(error.into()),
    }
    region.reached("cosign.publish");
    let stored = StoredCheckpoint { size, root, note: note.to_owned(), cosigned: true };
    region.evidence.save_checkpoint(&stored).await?;
    region.reached("cosign.store");
    Ok(())
}

async fn check_published(region: &Region, key: &str, wanted: &Checkpoint) -> Result<(), CosignError> {
    let object = region.store.get(key).await?;
    let note = String::from_utf8_lossy(&object.bytes);
    let (published, signers) = checkpoint::verify(&note, &region.keys)?;
    if published != *wanted {
        return Err(CosignError::NotOurs(format!("{key} was published with another root")));
    }
    if !two_regions(&signers) {
        return Err(CosignError::NotOurs(format!("{key} was published with one signature")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use domain::archive::catalog::EvidenceStore;
    use domain::store::ObjectStore;

    use super::*;
    use crate::follow::Follower;
    use crate::testing::{Pair, append};

    async fn follow(pair: &Pair) {
        let mut follower = Follower::new(Arc::clone(&pair.dr));
        while follower.round().await.expect("good").has_more() {}
    }

    fn head(events: u64) -> Head {
        Head::new(events).expect("small")
    }

    #[tokio::test]
    async fn a_checkpoint_is_published_in_both_regions_once_both_signed_it() {
        let pair = Pair::new().await;
        append(&pair.home_log, 0..10).await;
        follow(&pair).await;
        assert_eq!(round(&pair.home).await.expect("signed"), Round::Signed(head(10)));
        assert_eq!(pair.home_log.newest_checkpoint(true).await.expect("read"), None);
        assert_eq!(round(&pair.dr).await.expect("cosigned"), Round::Cosigned(head(10)));
        for (log, store) in [(&pair.home_log, &pair.home_store), (&pair.dr_log, &pair.dr_store)] {
            let stored = log.newest_checkpoint(true).await.expect("read").expect("cosigned");
            let (said, signers) = checkpoint::verify(&stored.note, &pair.dr.keys).expect("signed");
            assert_eq!((said.size, signers.len()), (head(10), 2));
            let object = store.get(&layout::checkpoint(Epoch::FIRST, head(10))).await.expect("published");
            assert_eq!(object.bytes, stored.note.as_bytes());
        }
        assert_eq!(round(&pair.home).await.expect("idle"), Round::Idle);
        assert_eq!(round(&pair.dr).await.expect("idle"), Round::Idle);
    }

    #[tokio::test]
    async fn nothing_is_published_that_the_follower_does_not_hold() {
        let pair = Pair::new().await;
        append(&pair.home_log, 0..10).await;
        round(&pair.home).await.expect("signed");
        assert_eq!(round(&pair.dr).await.expect("behind"), Round::Behind(head(10)));
        assert!(pair.home_store.keys().is_empty());
    }

    #[tokio::test]
    async fn another_root_is_never_cosigned() {
        let pair = Pair::new().await;
        append(&pair.home_log, 0..5).await;
        pair.diverge(5).await;
        round(&pair.home).await.expect("signed");
        let error = round(&pair.dr).await.expect_err("it is refused");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(pair.dr_store.keys().is_empty());
    }

    #[tokio::test]
    async fn a_note_that_one_region_alone_signed_is_not_accepted() {
        let pair = Pair::new().await;
        append(&pair.home_log, 0..5).await;
        round(&pair.home).await.expect("signed");
        let note = waiting(&pair.home).await.expect("read").expect("one waits");
        let error = accept(&pair.home, &note).await.expect_err("it is refused");
        assert!(matches!(error, CosignError::NotOurs(_)), "{error}");
    }

    #[tokio::test]
    async fn a_cosignature_whose_delivery_was_lost_is_delivered_by_the_next_round() {
        let pair = Pair::new().await;
        append(&pair.home_log, 0..5).await;
        follow(&pair).await;
        round(&pair.home).await.expect("signed");
        // The follower stored and published it, and died before it told home.
        let note = waiting(&pair.home).await.expect("read").expect("one waits");
        let note = checkpoint::cosign(&note, &pair.dr.key).expect("cosigned");
        let (checkpoint, _) = checkpoint::verify(&note, &pair.dr.keys).expect("signed");
        keep(&pair.dr, &checkpoint, &note).await.expect("kept");
        assert_eq!(round(&pair.dr).await.expect("again"), Round::Cosigned(head(5)));
        assert!(pair.home_log.newest_checkpoint(true).await.expect("read").is_some());
    }
}
