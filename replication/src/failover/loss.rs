//! What a forced promotion may lose: said first, compared with what the operator accepts, and never made
//! smaller than what is known: by the other region's own word, or by what either bucket shows.

use std::sync::Arc;

use domain::append::Role;
use domain::archive::{checkpoint, layout};
use domain::replication::Heard;
use domain::spelling;
use domain::store::ObjectStore;
use domain::{Epoch, Head, Timestamp};
use serde::{Deserialize, Serialize};

use crate::cosign::CosignError;
use crate::fence::{Answers, limited};
use crate::listing;
use crate::mirror::{self, MirrorError};
use crate::peer::HeardAnswer;
use crate::region::Region;

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

/// What showed how far the log has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The other region said so itself.
    OtherRegion,
    /// The object with this key in the other region's bucket.
    OtherBucket(String),
    /// The object with this key in the own bucket.
    OwnBucket(String),
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::OtherRegion => f.write_str("the other region"),
            Self::OtherBucket(key) => write!(f, "{key} in the other region's bucket"),
            Self::OwnBucket(key) => write!(f, "{key} in the own bucket"),
        }
    }
}

/// A head of the log, and what shows that it was reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shown {
    /// The head.
    #[serde(with = "spelling::text")]
    pub head: Head,
    /// What shows it.
    pub source: Source,
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
    /// The highest head that anything shows; `null` if nothing shows one.
    pub newest: Option<Shown>,
    /// Events that are known to be missing: from `own_head` to the newest head.
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
        if let Some(Shown { head, source }) = self.newest.as_ref().filter(|newest| newest.source != Source::OtherRegion)
        {
            write!(f, "{source} shows {head} events; ")?;
        }
        write!(f, "{} events are known to be missing, ", self.known_missing)?;
        match self.bound {
            Bound::Events(most) => write!(f, "{most} at most"),
            Bound::UnknownSince(Some(since)) => write!(f, "how many more since {since} is unknown"),
            Bound::UnknownSince(None) => f.write_str("how many more is unknown"),
        }
    }
}

/// States what a promotion may lose. `epoch` is the newest that this region or its bucket knows of, `None` if that did not
/// answer: what was heard of an older one bounds nothing. `shown` is what else shows a head.
#[must_use]
pub fn state_loss(own_head: Head, epoch: Option<Epoch>, heard: Option<Heard>, shown: Vec<Shown>) -> LossStatement {
    let said = heard.map(|heard| Shown { head: heard.head, source: Source::OtherRegion });
    // Of two that show the same, the first: the other region's own word before that of an object.
    let newest =
        said.into_iter().chain(shown).reduce(|newest, next| if next.head > newest.head { next } else { newest });
    let newest_head = newest.as_ref().map_or(Head::EMPTY, |newest| newest.head);
    let known_missing = newest_head.get().saturating_sub(own_head.get());
    let bound = match heard {
        // It drains, and has not taken that back. A head that grew all the same is believed more than its word.
        Some(heard) if heard.role == Role::Draining && Some(heard.epoch) == epoch && heard.head >= newest_head => {
            Bound::Events(known_missing)
        }
        heard => Bound::UnknownSince(heard.map(|heard| heard.at)),
    };
    LossStatement { own_head, heard: heard.map(HeardAnswer::from), newest, known_missing, bound }
}

/// Asks both buckets for heads of the log in `epoch` or a newer one: where its epochs fork, and the last manifest and
/// checkpoint. Older epochs' objects show nothing: what they hold beyond a fork is void. A bucket that does not answer
/// shows nothing either; a statement must not wait for one that is gone.
pub(super) async fn shown(region: &Region, log: &str, epoch: Epoch, answers: &Answers) -> Vec<Shown> {
    let forks =
        [(&answers.peer_bucket, true), (&answers.own_bucket, false)].into_iter().filter_map(|(claim, other)| {
            let claim = claim.as_ref()?.as_ref().filter(|claim| claim.epoch >= epoch)?;
            Some(Shown { head: claim.fork, source: source(other, layout::epoch_claim(claim.epoch)) })
        });
    let mut shown: Vec<Shown> = forks.collect();
    // Whoever was silent a moment ago is not asked again: that would only prolong the outage.
    let peer_store = region.peer_store.as_ref().filter(|_| answers.peer_bucket.is_some());
    let asked = async |store: Option<&Arc<dyn ObjectStore>>, other: bool| match store {
        Some(store) => tokio::join!(
            answered(newest_manifest(region, store.as_ref(), log, epoch), other),
            answered(newest_checkpoint(region, store.as_ref(), log, epoch), other)
        ),
        None => (None, None),
    };
    let ((manifest, note), (own_manifest, own_note)) =
        tokio::join!(asked(peer_store, true), asked(Some(&region.store), false));
    shown.extend([manifest, note, own_manifest, own_note].into_iter().flatten());
    shown
}

fn source(other: bool, key: String) -> Source {
    if other { Source::OtherBucket(key) } else { Source::OwnBucket(key) }
}

/// What one question showed, if it was answered in time; else it is said in the log.
async fn answered<E: std::error::Error + 'static>(
    asked: impl Future<Output = Result<Option<(Head, String)>, E>>,
    other: bool,
) -> Option<Shown> {
    let bucket = if other { "the other region's bucket" } else { "the own bucket" };
    match limited(asked).await {
        Some(Ok(found)) => found.map(|(head, key)| Shown { head, source: source(other, key) }),
        Some(Err(error)) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, bucket, "a head that may stand there is not counted in the loss statement");
            None
        }
        None => {
            tracing::warn!(
                bucket,
                "no answer in time: a head that may stand there is not counted in the loss statement"
            );
            None
        }
    }
}

/// The archive's head after the last manifest of `from` or a newer epoch.
async fn newest_manifest(
    region: &Region,
    store: &dyn ObjectStore,
    log: &str,
    from: Epoch,
) -> Result<Option<(Head, String)>, MirrorError> {
    let before = layout::manifest(from, 0);
    let names = listing::names(store, layout::MANIFESTS, Some(before), layout::parse_manifest).await?;
    let Some((epoch, number)) = names.into_iter().max() else { return Ok(None) };
    let manifest = mirror::read_manifest(region, store, epoch, number).await?.1.statement;
    let head = manifest.added.iter().map(|segment| segment.last.as_head()).max();
    Ok(head.filter(|_| manifest.log == log).map(|head| (head, layout::manifest(epoch, number))))
}

/// The size of the last checkpoint of `from` or a newer epoch.
async fn newest_checkpoint(
    region: &Region,
    store: &dyn ObjectStore,
    log: &str,
    from: Epoch,
) -> Result<Option<(Head, String)>, CosignError> {
    let before = layout::checkpoint(from, Head::EMPTY);
    let names = listing::names(store, layout::CHECKPOINTS, Some(before), layout::parse_checkpoint).await?;
    let Some((epoch, size)) = names.into_iter().max() else { return Ok(None) };
    let key = layout::checkpoint(epoch, size);
    let bytes = store.get(&key).await?.bytes;
    let (stated, _) = checkpoint::verify(&String::from_utf8_lossy(&bytes), &region.keys)?;
    Ok((stated.log == log).then_some((stated.size, key)))
}
