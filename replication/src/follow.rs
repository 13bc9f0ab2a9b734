//! The receiving side: pulls what comes after the own head, checks it, applies it. The head is the cursor, so a
//! kill at any point loses nothing and doubles nothing (REP-1). One round at a time and one batch ahead: the
//! sender is never asked for more than this side can apply.

use std::sync::Arc;

use domain::append::{LogHead, Role};
use domain::archive::catalog::CatalogError;
use domain::evidence::{EvidenceError, FRONTIER_EVERY};
use domain::log::{ApplyError, ReadError};
use domain::merkle::Frontier;
use domain::replication::Heard;
use domain::{ClockError, ErrorKind, Head, Timestamp};
use thiserror::Error;
use tokio::task::JoinHandle;

use crate::peer::PeerError;
use crate::region::Region;
use crate::wire::{self, BATCH_RECORDS_MAX, Batch, BatchError};

/// Why a round moved nothing.
#[derive(Debug, Error)]
pub enum FollowError {
    /// There is no other region to follow.
    #[error("no other region is configured")]
    NoPeer,
    /// The other region gave no batch.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// It gave one that does not continue this log.
    #[error("a batch was refused")]
    Batch(#[from] BatchError),
    /// The log did not take it.
    #[error("a batch was not applied")]
    Apply(#[from] ApplyError),
    /// The own log was not read.
    #[error("the own log was not read")]
    Read(#[from] ReadError),
    /// The own tree is not known.
    #[error("the own log's tree is not known")]
    Tree(#[from] EvidenceError),
    /// What was heard, or the tree, was not stored.
    #[error("the follower's state was not stored")]
    State(#[from] CatalogError),
    /// The clock was not read.
    #[error(transparent)]
    Clock(#[from] ClockError),
    /// The checking task ended with a panic.
    #[error("a batch was not checked: {0}")]
    Check(String),
}

impl FollowError {
    /// What the caller has to do: mostly nothing, the next round comes. Forked and Corrupt need a person.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoPeer => ErrorKind::Invalid,
            Self::Peer(error) => error.kind(),
            Self::Batch(error) => error.kind(),
            Self::Apply(ApplyError::Refused { .. }) => ErrorKind::Corrupt,
            Self::Apply(ApplyError::NotFollowing { .. }) => ErrorKind::Fenced,
            Self::Apply(ApplyError::OutOfOrder { .. } | ApplyError::Unavailable { .. }) => ErrorKind::Unavailable,
            Self::Read(error) => error.kind(),
            Self::Tree(error) => error.kind(),
            Self::State(error) => error.kind(),
            Self::Clock(_) | Self::Check(_) => ErrorKind::Unavailable,
        }
    }
}

/// What a round did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Round {
    /// Nothing: this region does not follow.
    NotFollowing(Role),
    /// It asked; the other region told where it stands.
    Followed {
        /// The own head now.
        head: Head,
        /// The other region's head when it answered. Above `head`: there is more, go on at once.
        home: Head,
        /// What time it was there.
        home_clock: Timestamp,
    },
}

impl Round {
    /// Whether the next round has something to apply already.
    #[must_use]
    pub fn has_more(&self) -> bool {
        matches!(self, Self::Followed { head, home, .. } if home > head)
    }
}

/// Follows the other region. One a process; two at once are harmless, as the log applies a position once.
pub struct Follower {
    region: Arc<Region>,
    /// The tree at the own head, once it is known.
    frontier: Option<Frontier>,
    ahead: Option<Ahead>,
}

/// The batch after the one that is being applied, on its way.
struct Ahead {
    after: Head,
    asked_at: Timestamp,
    body: JoinHandle<Result<Vec<u8>, PeerError>>,
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.body.abort();
    }
}

impl Follower {
    /// The follower of a region.
    #[must_use]
    pub fn new(region: Arc<Region>) -> Self {
        Self { region, frontier: None, ahead: None }
    }

    /// One round: pulls one batch and applies it. Without news it takes as long as the other region waits for
    /// some, about a second.
    ///
    /// # Errors
    /// A [`FollowError`]; the next round starts over from the log's own head.
    pub async fn round(&mut self) -> Result<Round, FollowError> {
        let head = self.region.log.log_head().await?;
        if head.role != Role::Follower {
            self.forget();
            return Ok(Round::NotFollowing(head.role));
        }
        let outcome = self.pull_and_apply(&head).await;
        if outcome.is_err() {
            // Whatever was wrong, what is known of the log's end may be wrong too.
            self.forget();
        }
        outcome
    }

    fn forget(&mut self) {
        self.frontier = None;
        self.ahead = None;
    }

    async fn pull_and_apply(&mut self, own: &LogHead) -> Result<Round, FollowError> {
        let before = self.tree_at(own.head).await?;
        let (asked_at, body) = self.body_after(own.head).await?;
        let log = own.log_id.clone();
        let epoch = own.epoch;
        let checked = tokio::task::spawn_blocking(move || wire::decode(&body, &log, epoch, &before)).await;
        let Batch { header, records, frontier } = checked.map_err(|error| FollowError::Check(error.to_string()))??;

        // Heard before applied: after a crash in between, the loss statement knows of what was not applied.
        // When it was asked, not when the answer was read: what was acknowledged in between is not in it.
        let heard = Heard { epoch: header.epoch, head: header.head, role: header.role, at: asked_at };
        self.region.memory.hear(heard).await?;
        if header.last < header.head {
            self.fetch_ahead(header.last).await?;
        }
        if !records.is_empty() {
            self.region.log.apply_keeping(&records, &header.kept).await?;
        }
        self.save_tree(header.after, &frontier).await?;
        self.frontier = Some(frontier);
        Ok(Round::Followed { head: header.last, home: header.head, home_clock: header.clock })
    }

    async fn tree_at(&mut self, head: Head) -> Result<Frontier, FollowError> {
        match self.frontier.take().filter(|frontier| frontier.size() == head) {
            Some(known) => Ok(known),
            None => Ok(self.region.tree.frontier_at(head).await?),
        }
    }

    /// The batch after `after`, and when it was asked for.
    async fn body_after(&mut self, after: Head) -> Result<(Timestamp, Vec<u8>), FollowError> {
        match self.ahead.take().filter(|ahead| ahead.after == after) {
            Some(mut ahead) => {
                let body = (&mut ahead.body).await.map_err(|error| FollowError::Check(error.to_string()))?;
                Ok((ahead.asked_at, body?))
            }
            None => {
                let peer = self.region.peer.as_ref().ok_or(FollowError::NoPeer)?;
                let asked_at = self.region.clock.now().await?;
                Ok((asked_at, peer.batch(after, BATCH_RECORDS_MAX).await?))
            }
        }
    }

    async fn fetch_ahead(&mut self, after: Head) -> Result<(), FollowError> {
        let peer = Arc::clone(self.region.peer.as_ref().ok_or(FollowError::NoPeer)?);
        let asked_at = self.region.clock.now().await?;
        let body = tokio::spawn(async move { peer.batch(after, BATCH_RECORDS_MAX).await });
        self.ahead = Some(Ahead { after, asked_at, body });
        Ok(())
    }

    /// Stores the tree as often as tailing the log would. After applying, never before: a stored tree is never
    /// larger than the log.
    async fn save_tree(&self, before: Head, frontier: &Frontier) -> Result<(), FollowError> {
        if frontier.size().get() / FRONTIER_EVERY > before.get() / FRONTIER_EVERY {
            self.region.evidence.save_frontier(frontier).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use async_trait::async_trait;
    use domain::append::{AppendRequest, Expectation, ExpectedVersion};
    use domain::log::{Direction, EventLog, FollowerLog, LogReader};
    use domain::replication::PeerMemory;
    use domain::{Clock, Epoch, Position, StreamName};

    use super::*;
    use crate::peer::{Peer, Standing};
    use crate::testing::{Pair, Tamper, append, at, request, without_lock};

    async fn lines(log: &dyn LogReader) -> Vec<Vec<u8>> {
        let all = log.read_log(domain::Position::FIRST, Direction::Forward, usize::MAX).await.expect("readable");
        all.iter().map(domain::record::Record::to_line).collect()
    }

    async fn catch_up(follower: &mut Follower) {
        while follower.round().await.expect("a good round").has_more() {}
    }

    #[tokio::test]
    async fn the_followers_log_is_byte_equal() {
        let pair = Pair::new().await;
        append(&pair.home_log, 0..100).await;
        let mut follower = Follower::new(Arc::clone(&pair.dr));
        catch_up(&mut follower).await;
        append(&pair.home_log, 100..140).await;
        catch_up(&mut follower).await;
        assert_eq!(lines(pair.home_log.as_ref()).await, lines(pair.dr_log.as_ref()).await);
        assert_eq!(pair.dr_log.log_head().await.expect("head").head.get(), 140);
    }

    /// One event, whose request names a version only of a stream that it does not write.
    fn checked(number: u64) -> AppendRequest {
        let stream = StreamName::parse("content-elsewhere").expect("a name");
        let expect = vec![Expectation { stream, version: ExpectedVersion::NoStream }];
        AppendRequest { expect, ..request(number) }
    }

    #[tokio::test]
    async fn an_id_that_home_keeps_for_ever_is_kept_by_who_follows_and_takes_over() {
        let pair = Pair::new().await;
        append(&pair.home_log, 0..3).await;
        let first = pair.home_log.append(checked(3)).await.expect("acknowledged");
        append(&pair.home_log, 4..6).await;
        catch_up(&mut Follower::new(Arc::clone(&pair.dr))).await;
        let kept = pair.dr_log.kept_ids(Position::FIRST, Position::new(99).expect("from 1")).await.expect("readable");
        assert_eq!(kept, [first.events[0].position]);
        pair.dr_log.prune_to(Head::new(6).expect("small"));
        let (following, leading) = ((Epoch::FIRST, Role::Follower), (Epoch::FIRST.next(), Role::Active));
        pair.dr_log.change_role(following, leading).await.expect("promoted");
        let again = pair.dr_log.append(checked(3)).await.expect("known");
        assert_eq!((again.replayed, again.events), (true, first.events));
        let head = pair.dr_log.append(request(2)).await.expect("named no version: a new event").events[0].position;
        assert_eq!(head.get(), 7);
    }

    #[tokio::test]
    async fn a_new_follower_goes_on_where_the_last_one_stopped() {
        let pair = Pair::new().await;
        append(&pair.home_log, 0..10).await;
        catch_up(&mut Follower::new(Arc::clone(&pair.dr))).await;
        append(&pair.home_log, 10..20).await;
        catch_up(&mut Follower::new(Arc::clone(&pair.dr))).await;
        assert_eq!(lines(pair.home_log.as_ref()).await, lines(pair.dr_log.as_ref()).await);
    }

    #[tokio::test]
    async fn what_was_heard_is_kept_even_when_nothing_can_be_applied() {
        let pair = Pair::new().await;
        append(&pair.home_log, 0..10).await;
        catch_up(&mut Follower::new(Arc::clone(&pair.dr))).await;
        let heard = pair.dr_log.heard().await.expect("kept").expect("something");
        assert_eq!((heard.epoch, heard.head.get(), heard.role), (Epoch::FIRST, 10, Role::Active));
    }

    /// A peer that is asked for a batch at one instant and has answered a minute later, by the follower's clock.
    struct Slow(Arc<dyn Peer>, Arc<AtomicI64>);

    #[async_trait]
    impl Peer for Slow {
        async fn standing(&self, with_root: bool) -> Result<Standing, PeerError> {
            self.0.standing(with_root).await
        }

        async fn batch(&self, after: Head, _limit: usize) -> Result<Vec<u8>, PeerError> {
            let body = self.0.batch(after, 6).await;
            self.1.fetch_add(60, Ordering::SeqCst);
            body
        }

        async fn waiting_checkpoint(&self) -> Result<Option<String>, PeerError> {
            self.0.waiting_checkpoint().await
        }

        async fn deliver_cosignature(&self, note: &str) -> Result<(), PeerError> {
            self.0.deliver_cosignature(note).await
        }
    }

    struct Seconds(Arc<AtomicI64>);

    #[async_trait]
    impl Clock for Seconds {
        async fn now(&self) -> Result<Timestamp, ClockError> {
            Ok(at(self.0.load(Ordering::SeqCst)))
        }
    }

    #[tokio::test]
    async fn what_was_heard_is_as_old_as_the_question() {
        let pair = Pair::new().await;
        append(&pair.home_log, 0..10).await;
        let seconds = Arc::new(AtomicI64::new(0));
        let peer: Arc<dyn Peer> = pair.to_home.clone();
        let slow: Arc<dyn Peer> = Arc::new(Slow(peer, Arc::clone(&seconds)));
        let clock = Arc::new(Seconds(Arc::clone(&seconds)));
        let region = Region { peer: Some(slow), clock, ..without_lock(&pair.dr) };
        let mut follower = Follower::new(Arc::new(region));
        follower.round().await.expect("good");
        // At second 60, the first answer was there and the second question was asked.
        let first = pair.dr_log.heard().await.expect("kept").expect("something");
        assert_eq!((first.head.get(), first.at), (10, at(0)));
        append(&pair.home_log, 10..11).await;
        follower.round().await.expect("good");
        let second = pair.dr_log.heard().await.expect("kept").expect("something");
        assert_eq!(second.at, at(60), "not the instant at which it was read");
    }

    #[tokio::test]
    async fn a_bad_batch_changes_nothing_and_the_next_good_one_is_applied() {
        let pair = Pair::new().await;
        append(&pair.home_log, 0..10).await;
        let mut follower = Follower::new(Arc::clone(&pair.dr));
        for tamper in [Tamper::Cut, Tamper::Flip, Tamper::Replay, Tamper::Silence] {
            pair.tamper(tamper);
            follower.round().await.expect_err("it is refused");
            assert_eq!(pair.dr_log.log_head().await.expect("head").head, Head::EMPTY, "{tamper:?}");
        }
        catch_up(&mut follower).await;
        assert_eq!(lines(pair.home_log.as_ref()).await, lines(pair.dr_log.as_ref()).await);
    }

    #[tokio::test]
    async fn a_follower_with_another_history_is_told_so() {
        let pair = Pair::new().await;
        append(&pair.home_log, 0..5).await;
        pair.diverge(5).await;
        append(&pair.home_log, 5..6).await;
        let error = Follower::new(Arc::clone(&pair.dr)).round().await.expect_err("it is refused");
        assert_eq!(error.kind(), ErrorKind::Forked);
        assert_eq!(pair.dr_log.log_head().await.expect("head").head.get(), 5);
    }

    #[tokio::test]
    async fn the_active_region_does_not_follow() {
        let pair = Pair::new().await;
        let round = Follower::new(Arc::clone(&pair.home)).round().await.expect("nothing to do");
        assert_eq!(round, Round::NotFollowing(Role::Active));
    }

    #[tokio::test]
    async fn a_home_that_lost_its_past_is_a_conflict() {
        let pair = Pair::new().await;
        append(&pair.home_log, 0..5).await;
        pair.diverge(7).await;
        let error = Follower::new(Arc::clone(&pair.dr)).round().await.expect_err("it is refused");
        assert_eq!(error.kind(), ErrorKind::Conflict);
    }
}
