//! What a forced promotion may lose: said first, compared with what the operator accepts, and never made
//! smaller than what is known.

use domain::append::Role;
use domain::replication::Heard;
use domain::{Epoch, Head, Timestamp};
use serde::{Deserialize, Serialize};

use crate::peer::HeardAnswer;
use domain::spelling;

/// How much an operator accepts to lose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AcceptLoss {
    /// At most this many events, and only if that is certain. 0: nothing.
    Events(u64),
    /// What was acknowledged since the old region was last heard of, however much that is.
    Unknown,
}

/// What bounds the loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// No more than this many events: the old region had stopped appends when its head was heard.
    Events(u64),
    /// The old region may have acknowledged more since this instant; `null`: it was never heard of.
    UnknownSince(#[serde(with = "spelling::text_or_null")] Option<Timestamp>),
}

/// What a forced promotion may lose, said before it happens (REP-3).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LossStatement {
    /// The head of the region to be promoted.
    #[serde(with = "spelling::text")]
    pub own_head: Head,
    /// The newest that it heard of the old region.
    pub heard: Option<HeardAnswer>,
    /// Events that are known to be missing: from `own_head` to the head heard of.
    #[serde(with = "spelling::text")]
    pub known_missing: u64,
    /// What bounds the loss.
    pub bound: Bound,
}

impl LossStatement {
    /// Whether an operator who accepts that much accepts this.
    #[must_use]
    pub fn is_accepted(&self, accept: AcceptLoss) -> bool {
        match (self.bound, accept) {
            (_, AcceptLoss::Unknown) => true,
            (Bound::Events(most), AcceptLoss::Events(accepted)) => most <= accepted,
            (Bound::UnknownSince(_), AcceptLoss::Events(_)) => false,
        }
    }
}

impl std::fmt::Display for LossStatement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "this region's head is {}; ", self.own_head)?;
        match &self.heard {
            Some(heard) => write!(f, "the newest head heard of the other region is {} at {}; ", heard.head, heard.at)?,
            None => f.write_str("it never heard of the other region; ")?,
        }
        write!(f, "{} events are known to be missing, ", self.known_missing)?;
        match self.bound {
            Bound::Events(most) => write!(f, "{most} at most"),
            Bound::UnknownSince(Some(since)) => write!(f, "how many more since {since} is unknown"),
            Bound::UnknownSince(None) => f.write_str("how many more is unknown"),
        }
    }
}

/// States what a promotion may lose. `epoch` is the one in force: what was heard of an older one bounds nothing.
#[must_use]
pub fn state_loss(own_head: Head, epoch: Epoch, heard: Option<Heard>) -> LossStatement {
    let newest = heard.map_or(Head::EMPTY, |heard| heard.head);
    let known_missing = newest.get().saturating_sub(own_head.get());
    let bound = match heard {
        Some(heard) if heard.role == Role::Draining && heard.epoch == epoch => Bound::Events(known_missing),
        heard => Bound::UnknownSince(heard.map(|heard| heard.at)),
    };
    LossStatement { own_head, heard: heard.map(HeardAnswer::from), known_missing, bound }
}
