//! Switchover and forced failover: which steps, in which order, and what each may do (REP-2, REP-3).
//!
//! A switchover is driven from outside (the CLI) by [`plan`] and [`execute`]: look at both regions, do the next
//! step, look again. Nothing of it is kept anywhere: whoever comes next, after any crash, sees where it stands
//! and goes on. The acts themselves ([`drain`], [`resume`], [`promote`], [`confirm`]) run inside the region that
//! they change, under its own checks, and may be repeated.
//!
//! A region is never promoted behind its own word, and never without having said first what may be lost.

mod loss;
mod steps;

use async_trait::async_trait;
use domain::append::{LogHead, Role};
use domain::archive::catalog::CatalogError;
use domain::archive::epoch_claim::EpochClaim;
use domain::evidence::EvidenceError;
use domain::log::{ApplyError, ReadError};
use domain::merkle::Hash;
use domain::{ClockError, Epoch, ErrorKind, Head};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::claim::{self, ClaimError, Reach};
use crate::fence::{self, Answers, FenceError};
use crate::peer::{HeardAnswer, PeerClient, PeerError, Standing};
use crate::region::Region;
use domain::spelling;

pub use loss::{AcceptLoss, Bound, LossStatement, Shown, Source, state_loss};
pub use steps::{Behind, Outlook, Step, execute, outlook, plan};

/// How often a promotion takes its epoch before it gives up against the watch of another process.
const TAKES_MAX: u32 = 3;

/// Why an act did not happen. Unless it says otherwise, nothing was changed.
#[derive(Debug, Error)]
pub enum FailoverError {
    /// What is asked for may not be done as things stand.
    #[error("{0}")]
    Refused(String),
    /// The loss is more than was accepted.
    #[error("{0}; say how much may be lost to go on")]
    Loss(LossStatement),
    /// The logs differ, or this one is shorter than it once said.
    #[error("{0}")]
    Corrupt(String),
    /// The epoch was not claimed.
    #[error("the epoch was not claimed")]
    Claim(#[from] ClaimError),
    /// The role was not changed.
    #[error("the region's role was not changed")]
    Role(#[from] ApplyError),
    /// The log was not read.
    #[error("the log was not read")]
    Read(#[from] ReadError),
    /// The tree is not known.
    #[error("the log's tree is not known")]
    Tree(#[from] EvidenceError),
    /// The stored state was not read.
    #[error("the region's state was not read")]
    State(#[from] CatalogError),
    /// The clock was not read.
    #[error(transparent)]
    Clock(#[from] ClockError),
    /// The watch failed.
    #[error(transparent)]
    Fence(#[from] FenceError),
    /// A region gave no answer.
    #[error(transparent)]
    Peer(#[from] PeerError),
}

impl FailoverError {
    /// What the caller has to do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Refused(_) | Self::Loss(_) => ErrorKind::Conflict,
            Self::Corrupt(_) => ErrorKind::Corrupt,
            Self::Claim(error) => error.kind(),
            Self::Role(_) | Self::Clock(_) => ErrorKind::Unavailable,
            Self::Read(error) => error.kind(),
            Self::Tree(error) => error.kind(),
            Self::State(error) => error.kind(),
            Self::Fence(error) => error.kind(),
            Self::Peer(error) => error.kind(),
        }
    }
}

fn refused(reason: String) -> FailoverError {
    FailoverError::Refused(reason)
}

/// What is asked of a region from outside, by an operator's token.
#[async_trait]
pub trait RegionAdmin: Send + Sync {
    /// Where it stands, with its root.
    async fn standing(&self) -> Result<Standing, FailoverError>;
    /// [`drain`]
    async fn drain(&self) -> Result<Standing, FailoverError>;
    /// [`promote`]
    async fn promote(&self, request: &Promote) -> Result<Promoted, FailoverError>;
    /// [`step_down`]
    async fn step_down(&self) -> Result<Standing, FailoverError>;
    /// [`resume`]
    async fn resume(&self) -> Result<Standing, FailoverError>;
    /// [`confirm`]
    async fn confirm(&self) -> Result<Standing, FailoverError>;
}

/// How a promotion is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "snake_case", deny_unknown_fields)]
pub enum Promote {
    /// With the old region's consent, at this head and root: nothing is lost.
    Planned {
        /// Head of both.
        #[serde(with = "spelling::text")]
        head: Head,
        /// Root of both.
        #[serde(with = "spelling::text")]
        root: Hash,
    },
    /// Without it.
    Forced {
        /// How much may be lost.
        accept: AcceptLoss,
    },
}

/// What a promotion did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Promoted {
    /// The epoch that the region now holds.
    #[serde(with = "spelling::text")]
    pub epoch: Epoch,
    /// Where it begins: the region's head at that moment.
    #[serde(with = "spelling::text")]
    pub fork: Head,
    /// What may be lost; `None` for a planned one, which loses nothing, and for one that was done before.
    pub loss: Option<LossStatement>,
}

/// Where a region stands: the answer to `GET /v1/replication/epoch`.
///
/// # Errors
/// `Read`, `State`, `Clock`; with the root also `Tree`.
pub async fn standing(region: &Region, with_root: bool) -> Result<Standing, FailoverError> {
    let LogHead { log_id: log, epoch, role, head, .. } = region.log.log_head().await?;
    let root = if with_root { Some(region.tree.root_at(head).await?) } else { None };
    if role == Role::Draining {
        // Role, then lock, then manifest. The sealer takes the lock before it looks at the role: one that began before
        // the drain is waited for here, and one that begins later finds the drain. So what is read now is the last
        // manifest that this process writes in its epoch. Another process of the region may still write one, and so
        // may a request of a killed one that is on its way; then the step is void, and the mirror winds it back.
        drop(region.publishing.lock().await);
    }
    let manifest = region.catalog.last_manifest().await?;
    let heard = region.memory.heard().await?.map(HeardAnswer::from);
    let clock = region.clock.now().await?;
    let (name, mirrors) = (region.name().to_owned(), region.peer_store.is_some());
    Ok(Standing { log, region: name, epoch, role, head, root, manifest, mirrors, clock, heard })
}

/// `POST /v1/admin/drain`: stops appends for a switchover. When it returns no append is acknowledged any more.
///
/// # Errors
/// `Refused` unless the region is active (or drains already).
pub async fn drain(region: &Region) -> Result<Standing, FailoverError> {
    change(region, &[Role::Active, Role::Draining], Role::Draining).await
}

/// `POST /v1/admin/resume`: takes a drain back, as long as nobody has claimed a newer epoch.
///
/// The other region may have heard of the drain, and would count on it: a head that is final bounds what a forced
/// promotion can lose. So the region goes on in a new epoch, whose claim stands in the other region's bucket before the
/// first append is taken. After a crash in between the same request finishes what was begun.
///
/// # Errors
/// `Refused` unless the region drains (or is active again already), is still in the newest epoch and reaches the other
/// region's bucket; `Claim` if that did not take the claim.
pub async fn resume(region: &Region) -> Result<Standing, FailoverError> {
    {
        let _changing = region.role_change.lock().await;
        let own = region.log.log_head().await?;
        if own.role != Role::Active {
            take_back(region, &own).await?;
        }
    }
    standing(region, true).await
}

async fn take_back(region: &Region, own: &LogHead) -> Result<(), FailoverError> {
    let answers = fence::ask_all(region, &own.log_id).await;
    let begun = own_claim(region, own, &answers);
    if begun.is_none() {
        newest_epoch_or_refuse(region, own, &answers)?;
    }
    if own.role != Role::Draining && (own.role != Role::ReadOnly || begun.is_none()) {
        return Err(refused(format!("the region is {}, not draining", own.role.as_str())));
    }
    let epoch = match &region.peer_store {
        Some(_) => {
            let (epoch, previous) = begun.map_or((own.epoch.next(), Some(own.epoch)), |c| (c.epoch, c.previous));
            let now = region.clock.now().await?;
            claim::claim(region, Reach::BothBuckets, &own.log_id, epoch, previous, own.head, now).await?;
            epoch
        }
        None if region.peer.is_some() => {
            return Err(refused("the other region's bucket is not configured here, where it looks for epochs".into()));
        }
        None => own.epoch,
    };
    region.log.change_role((own.epoch, own.role), (epoch, Role::Active)).await?;
    Ok(())
}

/// An epoch that this region claimed before, for this very head: its own to finish.
fn own_claim<'a>(region: &Region, own: &LogHead, answers: &'a Answers) -> Option<&'a EpochClaim> {
    let claim = answers.claim_of(answers.highest_epoch()?)?;
    (claim.region == region.name() && claim.fork == own.head && claim.epoch > own.epoch).then_some(claim)
}

/// `POST /v1/admin/confirm-epoch`: an operator says that there is no newer epoch than this region's, which could
/// not be learned. Refused if anybody who answers knows better.
///
/// # Errors
/// `Refused` unless the region is read-only (or active again already) and nobody knows of a newer epoch.
pub async fn confirm(region: &Region) -> Result<Standing, FailoverError> {
    let own = region.log.log_head().await?;
    newest_epoch_or_refuse(region, &own, &fence::ask_all(region, &own.log_id).await)?;
    change(region, &[Role::ReadOnly, Role::Active], Role::Active).await
}

/// `POST /v1/admin/step-down`: looks for a newer epoch at once and follows it.
///
/// # Errors
/// As the watch ([`fence::look_now`]); `Refused` if the region is still active after it.
pub async fn step_down(region: &Region) -> Result<Standing, FailoverError> {
    fence::look_now(region).await?;
    let standing = standing(region, true).await?;
    if standing.role == Role::Follower {
        Ok(standing)
    } else {
        Err(refused(format!("no newer epoch to follow was found; the region is {}", standing.role.as_str())))
    }
}

async fn change(region: &Region, from: &[Role], to: Role) -> Result<Standing, FailoverError> {
    {
        let _changing = region.role_change.lock().await;
        let head = region.log.log_head().await?;
        if !from.contains(&head.role) {
            return Err(refused(format!("the region is {}, not {}", head.role.as_str(), from[0].as_str())));
        }
        if head.role != to {
            region.log.change_role((head.epoch, head.role), (head.epoch, to)).await?;
        }
    }
    standing(region, true).await
}

fn newest_epoch_or_refuse(region: &Region, own: &LogHead, answers: &Answers) -> Result<(), FailoverError> {
    if let Some(newer) = answers.highest_epoch().filter(|highest| *highest > own.epoch) {
        return Err(refused(format!("epoch {newer} is in force, this region is in epoch {}", own.epoch)));
    }
    let leads = |peer: &&Standing| peer.epoch == own.epoch && peer.role == Role::Active;
    if let Some(peer) = answers.peer.as_ref().filter(leads) {
        return Err(refused(format!("{:?} is active in epoch {}", peer.region, own.epoch)));
    }
    if let Some(claim) = answers.claim_of(own.epoch).filter(|claim| claim.region != region.name()) {
        return Err(refused(format!("epoch {} is {:?}'s", own.epoch, claim.region)));
    }
    Ok(())
}

/// `POST /v1/admin/promote`: makes this region the active one of a new epoch.
///
/// The order: stop applying, so that the head stands still; say and check what may be lost; claim the epoch;
/// take appends. A refusal gives the old role back. After a crash between the last two the watch keeps the
/// region read-only and the same request finishes what was begun.
///
/// # Errors
/// `Loss` with the statement if more may be lost than was accepted, `Refused`, `Corrupt`, `Claim`.
pub async fn promote(region: &Region, request: &Promote) -> Result<Promoted, FailoverError> {
    let _changing = region.role_change.lock().await;
    let before = region.log.log_head().await?;
    let answers = fence::ask_all(region, &before.log_id).await;
    if before.role == Role::Active {
        return match answers.claim_of(before.epoch) {
            Some(claim) if claim.region == region.name() && before.epoch > Epoch::FIRST => {
                Ok(Promoted { epoch: claim.epoch, fork: claim.fork, loss: None })
            }
            _ => Err(refused("the region is active already".into())),
        };
    }
    if before.role == Role::Draining {
        return Err(refused("the region drains: resume it, or promote the other one".into()));
    }
    if before.role != Role::ReadOnly {
        region.log.change_role((before.epoch, before.role), (before.epoch, Role::ReadOnly)).await?;
    }
    let own = region.log.log_head().await?;
    match claim_for(region, request, &own, &answers).await {
        Ok((claim, loss)) => {
            take_epoch(region, own.epoch, &claim).await?;
            Ok(Promoted { epoch: claim.epoch, fork: claim.fork, loss })
        }
        Err(error) => {
            if before.role != Role::ReadOnly {
                region.log.change_role((own.epoch, Role::ReadOnly), (own.epoch, before.role)).await?;
            }
            Err(error)
        }
    }
}

/// Makes the read-only region active in the epoch that it has claimed. The watch of another process of the region may
/// have made it a follower again, by what it had asked before the claim. Then it is stopped once more, and goes on
/// as long as nothing was applied meanwhile: the epoch begins at the claim's fork.
async fn take_epoch(region: &Region, from: Epoch, claim: &EpochClaim) -> Result<(), FailoverError> {
    for _ in 0..TAKES_MAX {
        match region.log.change_role((from, Role::ReadOnly), (claim.epoch, Role::Active)).await {
            Err(ApplyError::NotFollowing { role: Role::Follower, epoch }) if epoch == from => {}
            taken => return Ok(taken.map(drop)?),
        }
        tracing::warn!(epoch = from.get(), "another process made the region a follower during its promotion");
        let stopped = region.log.change_role((from, Role::Follower), (from, Role::ReadOnly)).await?;
        if stopped.head != claim.fork {
            let (head, fork) = (stopped.head, claim.fork);
            return Err(refused(format!("the head moved from {fork} to {head} during the promotion; promote again")));
        }
    }
    Err(refused("another process of the region keeps making it a follower; promote again".into()))
}

async fn claim_for(
    region: &Region,
    request: &Promote,
    own: &LogHead,
    answers: &Answers,
) -> Result<(EpochClaim, Option<LossStatement>), FailoverError> {
    let head = own.head;
    check_own_word(region, head).await?;
    let highest = answers.highest_epoch().map_or(own.epoch, |highest| highest.max(own.epoch));
    let mine = own_claim(region, own, answers);
    let loss = match request {
        Promote::Planned { head, root } => {
            check_consent(region, own, (*head, *root), mine).await?;
            None
        }
        Promote::Forced { accept } => Some(check_loss(region, own, answers, *accept).await?),
    };
    let (epoch, previous) = mine.map_or((highest.next(), Some(highest)), |claim| (claim.epoch, claim.previous));
    let now = region.clock.now().await?;
    Ok((claim::claim(region, Reach::OwnBucket, &own.log_id, epoch, previous, head, now).await?, loss))
}

/// Never behind the own word: a head below a checkpoint that this region signed is a log that lost its end.
async fn check_own_word(region: &Region, head: Head) -> Result<(), FailoverError> {
    let signed = region.evidence.newest_checkpoint(false).await?.map_or(Head::EMPTY, |newest| newest.size);
    if head < signed {
        return Err(FailoverError::Corrupt(format!(
            "this log ends at {head}, but the region has signed a checkpoint of {signed} events"
        )));
    }
    Ok(())
}

async fn check_consent(
    region: &Region,
    own: &LogHead,
    (head, root): (Head, Hash),
    mine: Option<&EpochClaim>,
) -> Result<(), FailoverError> {
    let peer = region.peer.as_ref().ok_or_else(|| refused("there is no other region".into()))?;
    let old = peer.standing(true).await?;
    let follows_claim = mine.is_some_and(|mine| (old.role, old.epoch) == (Role::Follower, mine.epoch));
    if (old.role, old.epoch) != (Role::Draining, own.epoch) && !follows_claim {
        let (role, epoch) = (old.role.as_str(), old.epoch);
        return Err(refused(format!("the other region is {role} in epoch {epoch}, it has to drain in {}", own.epoch)));
    }
    if own.head != head || old.head != head {
        return Err(refused(format!("the heads are {} and {}, not both {head}", own.head, old.head)));
    }
    // Once more, for whoever did not plan. After the claim it is too late to wait: this region mirrors no more.
    let has = region.catalog.last_manifest().await?;
    if let Some(behind) = Behind::archive(&old, region.peer_store.is_some(), has).filter(|_| !follows_claim) {
        return Err(refused(format!("{} has {behind}", region.name())));
    }
    let own_root = region.tree.root_at(head).await?;
    if own_root != root || old.root != Some(root) {
        return Err(FailoverError::Corrupt(format!("the logs differ in their first {head} events")));
    }
    Ok(())
}

async fn check_loss(
    region: &Region,
    own: &LogHead,
    answers: &Answers,
    accept: AcceptLoss,
) -> Result<LossStatement, FailoverError> {
    if let Some(peer) = &answers.peer
        && matches!(peer.role, Role::Active | Role::Draining)
    {
        return Err(refused(format!("{:?} answers and is {}: switch over instead", peer.region, peer.role.as_str())));
    }
    let shown = loss::shown(region, &own.log_id, own.epoch, answers).await;
    // Whoever takes a drain back claims a newer epoch in this region's bucket first: as long as that shows none, what
    // was heard of the drain still holds.
    let newest = answers.own_bucket.is_some().then(|| answers.highest_epoch().map_or(own.epoch, |e| e.max(own.epoch)));
    let loss = state_loss(own.head, newest, region.memory.heard().await?, shown);
    if loss.is_accepted(accept) { Ok(loss) } else { Err(FailoverError::Loss(loss)) }
}

#[async_trait]
impl RegionAdmin for PeerClient {
    async fn standing(&self) -> Result<Standing, FailoverError> {
        Ok(self.ask("/v1/replication/epoch?root=true").await?)
    }

    async fn drain(&self) -> Result<Standing, FailoverError> {
        Ok(self.act("/v1/admin/drain", None::<&()>).await?)
    }

    async fn promote(&self, request: &Promote) -> Result<Promoted, FailoverError> {
        Ok(self.act("/v1/admin/promote", Some(request)).await?)
    }

    async fn step_down(&self) -> Result<Standing, FailoverError> {
        Ok(self.act("/v1/admin/step-down", None::<&()>).await?)
    }

    async fn resume(&self) -> Result<Standing, FailoverError> {
        Ok(self.act("/v1/admin/resume", None::<&()>).await?)
    }

    async fn confirm(&self) -> Result<Standing, FailoverError> {
        Ok(self.act("/v1/admin/confirm-epoch", None::<&()>).await?)
    }
}

/// The region in this process, for who drives a switchover from inside of it.
#[async_trait]
impl RegionAdmin for Region {
    async fn standing(&self) -> Result<Standing, FailoverError> {
        standing(self, true).await
    }

    async fn drain(&self) -> Result<Standing, FailoverError> {
        drain(self).await
    }

    async fn promote(&self, request: &Promote) -> Result<Promoted, FailoverError> {
        promote(self, request).await
    }

    async fn step_down(&self) -> Result<Standing, FailoverError> {
        step_down(self).await
    }

    async fn resume(&self) -> Result<Standing, FailoverError> {
        resume(self).await
    }

    async fn confirm(&self) -> Result<Standing, FailoverError> {
        confirm(self).await
    }
}

#[cfg(test)]
mod tests;
