//! The steps of a switchover: what comes next, decided from where both regions stand, and who does it. [`plan`]
//! touches nothing, and every step may be repeated.

use std::fmt;

use domain::Head;
use domain::append::Role;
use domain::archive::catalog::ManifestRef;
use domain::merkle::Hash;

use super::{FailoverError, Promote, RegionAdmin, refused};
use crate::peer::Standing;

/// The next step of a switchover.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The active region takes no more appends, and seals nothing more.
    Drain,
    /// The follower has something to fetch; look again shortly.
    CatchUp {
        /// What.
        behind: Behind,
    },
    /// The follower takes over at this head and root.
    Promote {
        /// Head of both.
        head: Head,
        /// Root of both.
        root: Hash,
    },
    /// The old region follows the new epoch.
    StepDown,
}

/// What a follower lacks of what the old region has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behind {
    /// So many events.
    Events(u64),
    /// The end of the archive: the last manifests differ.
    Archive {
        /// The follower's.
        has: Option<ManifestRef>,
        /// The old region's.
        needs: Option<ManifestRef>,
    },
}

impl Behind {
    /// What `has` lacks of the archive of `old`, which drains, if it can fetch it.
    ///
    /// The new epoch's first manifest names the last one that the new region has, so whatever the old one has
    /// beyond is void: its archive would have to be wound back, and done again. A region that does not mirror is
    /// not waited for, since it would never come; its archive goes on where it stands, and the old region's is
    /// wound back to there.
    pub(super) fn archive(old: &Standing, mirrors: bool, has: Option<ManifestRef>) -> Option<Self> {
        let needs = old.manifest;
        (mirrors && has != needs).then_some(Self::Archive { has, needs })
    }
}

impl fmt::Display for Behind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |manifest: &Option<ManifestRef>| match manifest {
            Some(ManifestRef { epoch, number, .. }) => format!("manifest {number} of epoch {epoch}"),
            None => "no manifest".to_owned(),
        };
        match self {
            Self::Events(1) => f.write_str("1 event to fetch"),
            Self::Events(count) => write!(f, "{count} events to fetch"),
            Self::Archive { has, needs } => {
                write!(f, "the archive to mirror: it ends with {} there and with {} here", name(needs), name(has))
            }
        }
    }
}

/// Plans the next step of a switchover from `old` to `new`; `None`: it is done. Touches nothing. Both standings
/// have to be newer than the last step; with their roots once the old one is draining.
///
/// # Errors
/// `Refused` or `Corrupt` if there is no way from here.
pub fn plan(old: &Standing, new: &Standing) -> Result<Option<Step>, FailoverError> {
    if old.log != new.log {
        return Err(refused(format!("{:?} and {:?} are two logs", old.log, new.log)));
    }
    if old.region == new.region {
        return Err(refused(format!("both are region {:?}", old.region)));
    }
    if new.role == Role::Active && new.epoch > old.epoch {
        return Ok(Some(Step::StepDown));
    }
    if new.role == Role::Active && new.epoch == old.epoch && old.role == Role::Follower {
        return Ok(None);
    }
    // A promotion that ended between its claim and its role: the old region has seen the claim and follows. What
    // it has of the archive beyond the new region's was void from the claim on, so nothing is waited for.
    if (old.role, new.role) == (Role::Follower, Role::ReadOnly) && old.epoch > new.epoch {
        return plan_promotion(old, new).map(Some);
    }
    if old.epoch != new.epoch {
        return Err(refused(format!("they are in epochs {} and {}", old.epoch, new.epoch)));
    }
    match (old.role, new.role) {
        (Role::Active, Role::Follower) => Ok(Some(Step::Drain)),
        (Role::Draining, Role::Follower) if new.head < old.head => {
            Ok(Some(Step::CatchUp { behind: Behind::Events(old.head.get() - new.head.get()) }))
        }
        // Read-only too: a promotion that was interrupted.
        (Role::Draining, Role::Follower | Role::ReadOnly) => match Behind::archive(old, new.mirrors, new.manifest) {
            Some(behind) => Ok(Some(Step::CatchUp { behind })),
            None => plan_promotion(old, new).map(Some),
        },
        (old_role, new_role) => Err(refused(format!(
            "{} is {} and {} is {}: an active region and its follower are needed",
            old.region,
            old_role.as_str(),
            new.region,
            new_role.as_str()
        ))),
    }
}

fn plan_promotion(old: &Standing, new: &Standing) -> Result<Step, FailoverError> {
    let (Some(old_root), Some(new_root)) = (old.root, new.root) else {
        return Err(refused("the roots were not asked for".into()));
    };
    if (old.head, old_root) != (new.head, new_root) {
        let (old_head, new_head) = (old.head, new.head);
        return Err(FailoverError::Corrupt(format!(
            "the logs differ: {old_root} at {old_head}, and {new_root} at {new_head}"
        )));
    }
    Ok(Step::Promote { head: new.head, root: new_root })
}

/// Does one step of a switchover; safe to repeat.
///
/// # Errors
/// The region's own; look again and plan anew.
pub async fn execute(step: &Step, old: &impl RegionAdmin, new: &impl RegionAdmin) -> Result<(), FailoverError> {
    match step {
        Step::Drain => old.drain().await.map(|_| ()),
        // The follower does that by itself.
        Step::CatchUp { .. } => Ok(()),
        Step::Promote { head, root } => new.promote(&Promote::Planned { head: *head, root: *root }).await.map(|_| ()),
        Step::StepDown => old.step_down().await.map(|_| ()),
    }
}

/// What a switchover between two regions would find.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outlook {
    /// `from` is active and `to` follows it: one can begin.
    Ready {
        /// The active region.
        from: Standing,
        /// Its follower.
        to: Standing,
    },
    /// One has begun and was not finished: doing it again from `from` to `to` goes on with `next`.
    UnderWay {
        /// The region that stopped appends, or has followed already.
        from: Standing,
        /// The region that takes over, or has done so.
        to: Standing,
        /// What comes next.
        next: Step,
    },
}

/// Finds out which of two regions a switchover would lead from, and whether one is under way. Touches nothing; both
/// standings with their roots.
///
/// # Errors
/// `Refused` or `Corrupt` if there is no way from here.
pub fn outlook(one: &Standing, other: &Standing) -> Result<Outlook, FailoverError> {
    // Who follows is the one to take over, unless a switchover under way has turned that round already: so look both
    // ways, and let the likelier one say why there is none.
    let (from, to) = if one.role == Role::Follower { (other, one) } else { (one, other) };
    match (outlook_from(from, to), outlook_from(to, from)) {
        (Ok(outlook), _) | (Err(_), Ok(outlook)) => Ok(outlook),
        (Err(error), Err(_)) => Err(error),
    }
}

fn outlook_from(from: &Standing, to: &Standing) -> Result<Outlook, FailoverError> {
    let stand =
        |standing: &Standing| format!("{} is {} in epoch {}", standing.region, standing.role.as_str(), standing.epoch);
    match plan(from, to)? {
        Some(Step::Drain) => Ok(Outlook::Ready { from: from.clone(), to: to.clone() }),
        // A region that does not drain was forced out: it has something to follow, and nothing to hand over.
        Some(Step::StepDown) if from.role != Role::Draining => {
            Err(refused(format!("{} and {}", stand(from), stand(to))))
        }
        Some(next) => Ok(Outlook::UnderWay { from: from.clone(), to: to.clone(), next }),
        None => Err(refused(format!("{} and {}: it is done", stand(from), stand(to)))),
    }
}
