//! The watch over the epoch: asks the peer and both buckets for the highest one, at start and every few
//! seconds, and steps down from an older one (LOG-5, REP-2).
//!
//! [`decide`] is pure. It never makes a region active that was not, except to give back what the watch itself
//! took: a region that went read-only because nobody answered, and now somebody does.
//!
//! What holds until there is a lease: an active region that loses its peer goes on. It learns of a newer epoch
//! at its next start or when the peer or its bucket answers again.

use std::sync::Arc;
use std::time::Duration;

use domain::append::{LogHead, Role};
use domain::archive::epoch_claim::EpochClaim;
use domain::log::{ApplyError, ReadError};
use domain::store::ObjectStore;
use domain::{ClockError, Epoch, ErrorKind, Head};
use thiserror::Error;
use tokio::time::{MissedTickBehavior, interval};

use crate::claim::{self, ClaimError, Reach};
use crate::peer::Standing;
use crate::region::Region;

/// A bucket has this long to answer the watch; the store's own limits are made for whole segments.
const BUCKET_TIMEOUT: Duration = Duration::from_secs(10);
/// Whoever appends without a watch asks so often.
const ASK_EVERY: Duration = Duration::from_secs(5);

/// Why the watch could not look or act. What it could not learn from others is no error but part of its answer.
#[derive(Debug, Error)]
pub enum FenceError {
    /// The own log was not read.
    #[error("the own log was not read")]
    Read(#[from] ReadError),
    /// The own role was not changed.
    #[error("the region's role was not changed")]
    Role(#[from] ApplyError),
    /// The first epoch was not claimed.
    #[error("the first epoch was not claimed")]
    Claim(#[from] ClaimError),
    /// The clock was not read.
    #[error(transparent)]
    Clock(#[from] ClockError),
    /// This region may not append.
    #[error("this region does not append: {reason}")]
    NotInForce {
        /// Why, with what to do.
        reason: String,
    },
}

impl FenceError {
    /// What the caller has to do: the next round comes.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Read(error) => error.kind(),
            Self::Claim(error) => error.kind(),
            Self::Role(_) | Self::Clock(_) => ErrorKind::Unavailable,
            Self::NotInForce { .. } => ErrorKind::Fenced,
        }
    }
}

/// What this region is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Own {
    /// Its name.
    pub region: String,
    /// Its epoch.
    pub epoch: Epoch,
    /// What it is.
    pub role: Role,
    /// Its head.
    pub head: Head,
    /// Whether there is a second region at all.
    pub has_peer: bool,
    /// Whether it has not been decided yet since the process started.
    pub starting: bool,
}

/// What the others said; `None` where there was no answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answers {
    /// The peer.
    pub peer: Option<Standing>,
    /// The highest claim in the own bucket, `Some(None)` if there is none.
    pub own_bucket: Option<Option<EpochClaim>>,
    /// The highest claim in the peer's bucket.
    pub peer_bucket: Option<Option<EpochClaim>>,
    /// Who did not answer, and why.
    pub silent: Vec<String>,
}

impl Answers {
    fn claims(&self) -> impl Iterator<Item = &EpochClaim> {
        [&self.own_bucket, &self.peer_bucket].into_iter().flatten().flatten()
    }

    /// Whether anything on the other side answered. The own bucket alone proves nothing: a promotion that could
    /// not reach it has claimed its epoch elsewhere.
    pub(crate) fn heard_other_side(&self) -> bool {
        self.peer.is_some() || self.peer_bucket.is_some()
    }

    /// The highest epoch that anybody knows of.
    pub(crate) fn highest_epoch(&self) -> Option<Epoch> {
        self.claims().map(|claim| claim.epoch).chain(self.peer.iter().map(|peer| peer.epoch)).max()
    }

    /// The claim of `epoch`.
    pub(crate) fn claim_of(&self, epoch: Epoch) -> Option<&EpochClaim> {
        self.claims().find(|claim| claim.epoch == epoch)
    }

    fn is_contested(&self, epoch: Epoch) -> bool {
        let mut claims = self.claims().filter(|claim| claim.epoch == epoch);
        let first = claims.next();
        claims.any(|claim| Some(&claim.region) != first.map(|first| &first.region))
    }
}

/// What follows for this region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Stay,
    /// A newer epoch is in force and nothing of this log lies beyond its fork: follow it.
    StepDown {
        /// The newer epoch.
        epoch: Epoch,
    },
    /// Take no more appends and apply nothing.
    ReadOnly {
        /// Why, with what to do.
        reason: String,
    },
    /// What made the region read-only is over.
    Resume {
        /// What it is again.
        role: Role,
    },
}

/// Decides from what is known.
#[must_use]
pub fn decide(own: &Own, answers: &Answers) -> Verdict {
    let highest = answers.highest_epoch().map_or(own.epoch, |highest| highest.max(own.epoch));
    if answers.is_contested(highest) {
        return read_only(format!("both regions have claimed epoch {highest}; promote one of them again"));
    }
    if highest > own.epoch {
        return decide_newer(own, answers, highest);
    }
    let peer_leads = answers
        .peer
        .as_ref()
        .is_some_and(|peer| peer.epoch == own.epoch && matches!(peer.role, Role::Active | Role::Draining));
    match own.role {
        Role::Active | Role::Draining if peer_leads => {
            read_only(format!("the other region is active in epoch {} too; promote one of them", own.epoch))
        }
        Role::Active if own.starting && own.has_peer && !answers.heard_other_side() => read_only(
            "neither the other region nor its bucket answers, so a newer epoch may exist; \
             an operator who knows that there is none may confirm this one"
                .into(),
        ),
        Role::ReadOnly => decide_read_only(own, answers, peer_leads),
        Role::Active | Role::Draining | Role::Follower => Verdict::Stay,
    }
}

fn decide_newer(own: &Own, answers: &Answers, newer: Epoch) -> Verdict {
    match answers.claim_of(newer) {
        Some(claim) if claim.region == own.region => {
            read_only(format!("epoch {newer} was claimed here and its promotion is not finished; promote again"))
        }
        Some(claim) if own.head <= claim.fork => Verdict::StepDown { epoch: newer },
        Some(claim) => {
            let extra = own.head.get() - claim.fork.get();
            read_only(format!(
                "epoch {newer} began at {} and {extra} events here lie beyond: they have to be put into quarantine",
                claim.fork
            ))
        }
        None => read_only(format!("the other region is in epoch {newer}, whose claim cannot be read")),
    }
}

/// The region is read-only in the highest epoch. Is it known again whose epoch that is?
fn decide_read_only(own: &Own, answers: &Answers, peer_leads: bool) -> Verdict {
    if !answers.heard_other_side() {
        return Verdict::Stay;
    }
    match answers.claim_of(own.epoch) {
        Some(claim) if claim.region != own.region => Verdict::Resume { role: Role::Follower },
        Some(_) if !peer_leads => Verdict::Resume { role: Role::Active },
        Some(_) => Verdict::Stay,
        None if peer_leads => Verdict::Resume { role: Role::Follower },
        // Without a claim only the peer can say that this region is the one that it follows.
        None => match &answers.peer {
            Some(peer) if peer.role == Role::Follower => Verdict::Resume { role: Role::Active },
            _ => Verdict::Stay,
        },
    }
}

fn read_only(reason: String) -> Verdict {
    Verdict::ReadOnly { reason }
}

/// What a round of the watch found and did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watched {
    /// What was decided, and done.
    pub verdict: Verdict,
    /// What the region is now.
    pub role: Role,
    /// Its epoch now.
    pub epoch: Epoch,
    /// What the other region said of itself, if it answered.
    pub peer: Option<Standing>,
    /// Who did not answer, and why.
    pub silent: Vec<String>,
}

/// The watch. Its first round has to end before the process takes an append.
pub struct EpochWatch {
    region: Arc<Region>,
    starting: bool,
}

impl EpochWatch {
    /// The watch of a process that has just started.
    #[must_use]
    pub fn new(region: Arc<Region>) -> Self {
        Self { region, starting: true }
    }

    /// Asks all, decides, and changes the own role if that follows.
    ///
    /// # Errors
    /// A [`FenceError`]; nothing was decided then, and at start nothing may be appended.
    pub async fn round(&mut self) -> Result<Watched, FenceError> {
        let watched = look_and_act(&self.region, self.starting).await?;
        self.starting = false;
        Ok(watched)
    }
}

/// One round outside of the watch's own rhythm: after a promotion of the other region.
///
/// # Errors
/// As [`EpochWatch::round`].
pub async fn look_now(region: &Region) -> Result<Watched, FenceError> {
    look_and_act(region, false).await
}

/// What it means that neither the other region nor its bucket answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Silence {
    /// There may be a newer epoch.
    Forbids,
    /// Nothing: there is none, as an operator knows or as was heard before.
    SaysNothing,
}

/// Asks all, as a process that starts does, whether this region's epoch is in force, and changes nothing: for a process
/// that appends without a watch of its own. One that serves beside it steps down by itself.
///
/// # Errors
/// [`FenceError::NotInForce`] if the region is not active, or must not be; the others as for [`EpochWatch::round`].
pub async fn in_force(region: &Region, silence: Silence) -> Result<(), FenceError> {
    ask(region, silence).await
}

/// Asks again and again, as a watch does whose first round went well, and returns once this region's epoch is not in force
/// any more: for whoever appends for longer than a moment after [`in_force`].
pub async fn lost(region: &Region) -> FenceError {
    let mut pace = interval(ASK_EVERY);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        pace.tick().await;
        match ask(region, Silence::SaysNothing).await {
            Ok(()) => {}
            Err(refused @ FenceError::NotInForce { .. }) => return refused,
            // Without its own log it appends nothing either.
            Err(error) => tracing::warn!(error = %chain(&error), "which epoch is in force is not known now"),
        }
    }
}

async fn ask(region: &Region, silence: Silence) -> Result<(), FenceError> {
    let answers = ask_all(region, &region.log.log_head().await?.log_id).await;
    let LogHead { epoch, role, head, .. } = region.log.log_head().await?;
    let has_peer = region.peer.is_some();
    let starting = silence == Silence::Forbids;
    let own = Own { region: region.name().to_owned(), epoch, role, head, has_peer, starting };
    let reason = match decide(&own, &answers) {
        Verdict::ReadOnly { reason } => reason,
        Verdict::StepDown { epoch } => format!("epoch {epoch} is in force, of the other region"),
        Verdict::Stay if role == Role::Active => return Ok(()),
        Verdict::Stay | Verdict::Resume { .. } => format!("it is {}", role.as_str()),
    };
    Err(FenceError::NotInForce { reason })
}

async fn look_and_act(region: &Region, starting: bool) -> Result<Watched, FenceError> {
    let _changing = region.role_change.lock().await;
    let log = region.log.log_head().await?.log_id;
    let answers = ask_all(region, &log).await;
    // The own head after the answers: what it is compared with is never newer than it.
    let own = region.log.log_head().await?;
    claim_first(region, &own, &answers).await?;
    let name = region.name().to_owned();
    let (epoch, role, head, has_peer) = (own.epoch, own.role, own.head, region.peer.is_some());
    let mut own = Own { region: name, epoch, role, head, has_peer, starting };
    let mut verdict = decide(&own, &answers);
    if matches!(verdict, Verdict::StepDown { .. }) && role == Role::Active {
        stop(region, &mut own).await?;
        verdict = decide(&own, &answers);
    }
    let role = own.role;
    let to = match &verdict {
        Verdict::Stay => (epoch, role),
        Verdict::StepDown { epoch } => (*epoch, Role::Follower),
        Verdict::ReadOnly { .. } => (epoch, Role::ReadOnly),
        Verdict::Resume { role } => (epoch, *role),
    };
    if to != (epoch, role) {
        tracing::warn!(
            from = role.as_str(),
            from_epoch = epoch.get(),
            to = to.1.as_str(),
            to_epoch = to.0.get(),
            ?verdict,
            "the region changes its role"
        );
        region.log.change_role((epoch, role), to).await?;
    }
    complete_own_bucket(region, &log, &answers).await;
    Ok(Watched { verdict, role: to.1, epoch: to.0, peer: answers.peer, silent: answers.silent })
}

/// Ends appends, and looks at the head once more: what was appended since it was read may lie beyond the fork.
async fn stop(region: &Region, own: &mut Own) -> Result<(), FenceError> {
    let stopped = region.log.change_role((own.epoch, own.role), (own.epoch, Role::ReadOnly)).await?;
    tracing::warn!(epoch = own.epoch.get(), "another region has replaced this one: it takes no appends any more");
    (own.role, own.head) = (stopped.role, stopped.head);
    Ok(())
}

/// Asks the peer and both buckets, all at once.
pub(crate) async fn ask_all(region: &Region, log: &str) -> Answers {
    let bucket = async |store: Option<&Arc<dyn ObjectStore>>, name: &str| match store {
        None => (None, None),
        Some(store) => match limited(claim::highest(region, store.as_ref(), log)).await {
            Some(Ok(claim)) => (Some(claim), None),
            Some(Err(error)) => (None, Some(format!("{name}: {}", chain(&error)))),
            None => (None, Some(format!("{name} does not answer in time"))),
        },
    };
    let peer = async {
        match &region.peer {
            None => (None, None),
            Some(peer) => match peer.standing(false).await {
                Ok(standing) if standing.log == log => (Some(standing), None),
                Ok(standing) => (None, Some(format!("the other region serves another log, {:?}", standing.log))),
                Err(error) => (None, Some(error.to_string())),
            },
        }
    };
    let own_bucket = bucket(Some(&region.store), "the own bucket");
    let peer_bucket = bucket(region.peer_store.as_ref(), "the other region's bucket");
    let ((peer, no_peer), (own_bucket, no_own), (peer_bucket, no_other)) = tokio::join!(peer, own_bucket, peer_bucket);
    Answers { peer, own_bucket, peer_bucket, silent: [no_peer, no_own, no_other].into_iter().flatten().collect() }
}

/// A bucket that hangs must not hold up the watch or a promotion: `None` when it took too long.
pub(crate) async fn limited<T>(asked: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(BUCKET_TIMEOUT, asked).await.ok()
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

/// The first epoch is claimed by the region that was made active at the log's creation, so that later anybody
/// can tell from a bucket whose it is.
async fn claim_first(region: &Region, own: &LogHead, answers: &Answers) -> Result<(), FenceError> {
    let unclaimed =
        answers.own_bucket == Some(None) && answers.highest_epoch().is_none_or(|highest| highest <= own.epoch);
    if own.epoch == Epoch::FIRST && own.role == Role::Active && unclaimed {
        let now = region.clock.now().await?;
        claim::claim(region, Reach::OwnBucket, &own.log_id, own.epoch, None, Head::EMPTY, now).await?;
    }
    Ok(())
}

/// A bucket that was away when an epoch was claimed gets the claim afterwards: who has this bucket alone, be it an
/// auditor or this region after the loss of all else, then knows of that epoch too. The next round tries again.
async fn complete_own_bucket(region: &Region, log: &str, answers: &Answers) {
    let (Some(own), Some(Some(there))) = (&answers.own_bucket, &answers.peer_bucket) else { return };
    if own.as_ref().is_some_and(|own| own.epoch >= there.epoch) {
        return;
    }
    match limited(claim::copy(region, log, there.epoch)).await {
        Some(Ok(())) => {}
        Some(Err(error)) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "the claim of an epoch was not copied into the own bucket");
        }
        None => tracing::warn!("the claim of an epoch was not copied into the own bucket in time"),
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use domain::log::{FollowerLog, LogReader};
    use tokio::time::timeout;

    use super::*;
    use crate::testing::{Meddled, Pair, append, at, without_lock};

    fn epoch(number: u64) -> Epoch {
        Epoch::new(number).expect("small")
    }

    fn head(events: u64) -> Head {
        Head::new(events).expect("small")
    }

    fn own(role: Role) -> Own {
        Own { region: "home".into(), epoch: epoch(1), role, head: head(10), has_peer: true, starting: false }
    }

    fn peer(at_epoch: u64, role: Role) -> Standing {
        Standing {
            log: "log".into(),
            region: "dr".into(),
            epoch: epoch(at_epoch),
            role,
            head: head(10),
            root: None,
            manifest: None,
            mirrors: true,
            clock: at(0),
            heard: None,
        }
    }

    fn claim_by(region: &str, of: u64, fork: u64) -> EpochClaim {
        let previous = Epoch::new(of - 1);
        EpochClaim {
            format: 1,
            log: "log".into(),
            epoch: epoch(of),
            previous,
            region: region.into(),
            fork: head(fork),
            time: at(0),
        }
    }

    fn is_read_only(own: &Own, answers: &Answers) -> bool {
        matches!(decide(own, answers), Verdict::ReadOnly { .. })
    }

    #[test]
    fn at_start_an_active_region_needs_an_answer_from_the_other_side() {
        let starting = Own { starting: true, ..own(Role::Active) };
        let own_bucket = Answers { own_bucket: Some(Some(claim_by("home", 1, 0))), ..Answers::default() };
        assert!(is_read_only(&starting, &Answers::default()));
        assert!(is_read_only(&starting, &own_bucket), "the own bucket proves nothing");
        let peer_bucket = Answers { peer_bucket: Some(None), ..Answers::default() };
        assert_eq!(decide(&starting, &peer_bucket), Verdict::Stay);
        let answered = Answers { peer: Some(peer(1, Role::Follower)), ..Answers::default() };
        assert_eq!(decide(&starting, &answered), Verdict::Stay);
    }

    #[test]
    fn a_region_without_a_second_one_asks_nobody() {
        let alone = Own { starting: true, has_peer: false, ..own(Role::Active) };
        assert_eq!(decide(&alone, &Answers::default()), Verdict::Stay);
    }

    #[test]
    fn a_running_region_that_loses_its_peer_goes_on() {
        assert_eq!(decide(&own(Role::Active), &Answers::default()), Verdict::Stay);
        assert_eq!(decide(&own(Role::Follower), &Answers::default()), Verdict::Stay);
    }

    #[test]
    fn a_newer_epoch_is_followed_if_nothing_lies_beyond_its_fork() {
        for role in [Role::Active, Role::Draining, Role::Follower, Role::ReadOnly] {
            let answers = Answers { peer_bucket: Some(Some(claim_by("dr", 2, 10))), ..Answers::default() };
            assert_eq!(decide(&own(role), &answers), Verdict::StepDown { epoch: epoch(2) });
            let forked = Answers { peer_bucket: Some(Some(claim_by("dr", 2, 9))), ..Answers::default() };
            assert!(is_read_only(&own(role), &forked), "one event lies beyond the fork");
        }
    }

    #[test]
    fn a_newer_epoch_that_only_the_peer_tells_of_stops_appends() {
        let answers = Answers { peer: Some(peer(2, Role::Active)), ..Answers::default() };
        assert!(is_read_only(&own(Role::Active), &answers));
    }

    #[test]
    fn two_active_regions_in_one_epoch_both_stop() {
        let answers = Answers { peer: Some(peer(1, Role::Active)), ..Answers::default() };
        assert!(is_read_only(&own(Role::Active), &answers));
        let contested = Answers {
            own_bucket: Some(Some(claim_by("home", 2, 10))),
            peer_bucket: Some(Some(claim_by("dr", 2, 10))),
            ..Answers::default()
        };
        assert!(is_read_only(&Own { epoch: epoch(2), ..own(Role::Active) }, &contested));
    }

    #[test]
    fn a_promotion_that_was_not_finished_waits_for_the_operator() {
        let answers = Answers { own_bucket: Some(Some(claim_by("home", 2, 10))), ..Answers::default() };
        assert!(is_read_only(&own(Role::ReadOnly), &answers));
    }

    #[test]
    fn a_read_only_region_resumes_what_it_was_once_somebody_answers() {
        let mine = Some(Some(claim_by("home", 1, 0)));
        let silent = Answers { own_bucket: mine.clone(), ..Answers::default() };
        assert_eq!(decide(&own(Role::ReadOnly), &silent), Verdict::Stay);
        let heard = Answers { own_bucket: mine.clone(), peer: Some(peer(1, Role::Follower)), ..Answers::default() };
        assert_eq!(decide(&own(Role::ReadOnly), &heard), Verdict::Resume { role: Role::Active });
        let leads = Answers { own_bucket: mine, peer: Some(peer(1, Role::Active)), ..Answers::default() };
        assert_eq!(decide(&own(Role::ReadOnly), &leads), Verdict::Stay, "never two at once");
        let theirs = Answers { peer_bucket: Some(Some(claim_by("dr", 1, 0))), ..Answers::default() };
        assert_eq!(decide(&own(Role::ReadOnly), &theirs), Verdict::Resume { role: Role::Follower });
    }

    #[tokio::test]
    async fn a_home_that_comes_back_alone_is_read_only_until_dr_answers() {
        let pair = Pair::new().await;
        EpochWatch::new(Arc::clone(&pair.home)).round().await.expect("the first start claims epoch 1");
        pair.to_dr.set_up(false);
        let alone = Region { peer_store: None, ..without_lock(&pair.home) };
        let mut watch = EpochWatch::new(Arc::new(alone));
        assert_eq!(watch.round().await.expect("decided").role, Role::ReadOnly);
        assert_eq!(watch.round().await.expect("decided").role, Role::ReadOnly);
        pair.to_dr.set_up(true);
        assert_eq!(watch.round().await.expect("decided").role, Role::Active);
    }

    #[tokio::test]
    async fn the_old_home_is_refused_and_follows_when_it_lost_nothing() {
        let pair = Pair::new().await;
        append(&pair.home_log, 0..3).await;
        claim::claim(&pair.dr, Reach::OwnBucket, "twin", epoch(2), Some(epoch(1)), head(3), at(0))
            .await
            .expect("claimed");
        let watched = look_now(&pair.home).await.expect("decided");
        assert_eq!((watched.role, watched.epoch), (Role::Follower, epoch(2)));
    }

    #[tokio::test]
    async fn a_bucket_that_was_away_when_an_epoch_was_claimed_gets_the_same_claim_afterwards() {
        let pair = Pair::new().await;
        claim::claim(&pair.dr, Reach::OwnBucket, "twin", epoch(2), Some(epoch(1)), head(0), at(0))
            .await
            .expect("claimed");
        let key = domain::archive::layout::epoch_claim(epoch(2));
        pair.home_store.delete(&key).await.expect("deleted");
        look_now(&pair.home).await.expect("looked");
        let (home, dr) = (pair.home_store.get(&key).await, pair.dr_store.get(&key).await);
        assert_eq!(home.expect("copied").bytes, dr.expect("claimed").bytes);
    }

    #[tokio::test]
    async fn the_old_home_with_events_beyond_the_fork_is_read_only_in_its_own_epoch() {
        let pair = Pair::new().await;
        append(&pair.home_log, 0..3).await;
        claim::claim(&pair.dr, Reach::OwnBucket, "twin", epoch(2), Some(epoch(1)), head(1), at(0))
            .await
            .expect("claimed");
        let watched = look_now(&pair.home).await.expect("decided");
        assert_eq!((watched.role, watched.epoch), (Role::ReadOnly, epoch(1)));
        assert_eq!(pair.home_log.log_head().await.expect("head").head, head(3), "nothing was thrown away");
    }

    #[tokio::test]
    async fn what_is_appended_while_the_old_home_steps_down_stays_out_of_the_new_epoch() {
        let pair = Pair::new().await;
        append(&pair.home_log, 0..3).await;
        claim::claim(&pair.dr, Reach::OwnBucket, "twin", epoch(2), Some(epoch(1)), head(3), at(0))
            .await
            .expect("claimed");
        let log = pair.home_log.clone();
        let late = Meddled::before(&pair.home_log, Box::pin(async move { append(&log, 3..4).await }));
        let home = Region { log: late, ..without_lock(&pair.home) };
        let watched = look_now(&home).await.expect("decided");
        assert!(matches!(watched.verdict, Verdict::ReadOnly { .. }));
        let now = pair.home_log.log_head().await.expect("head");
        assert_eq!((now.role, now.epoch, now.head), (Role::ReadOnly, epoch(1), head(4)));
    }

    #[tokio::test]
    async fn a_follower_whose_peer_is_down_stays_a_follower() {
        let pair = Pair::new().await;
        pair.to_home.set_up(false);
        let mut watch = EpochWatch::new(Arc::clone(&pair.dr));
        let watched = watch.round().await.expect("decided");
        assert_eq!((watched.role, watched.silent.len()), (Role::Follower, 1));
        pair.dr_log.change_role((epoch(1), Role::Follower), (epoch(1), Role::Follower)).await.expect("unchanged");
    }

    #[tokio::test]
    async fn whoever_appends_without_a_watch_asks_first_and_changes_nothing() {
        let pair = Pair::new().await;
        in_force(&pair.home, Silence::Forbids).await.expect("the first epoch");
        let refused = in_force(&pair.dr, Silence::Forbids).await.expect_err("it follows");
        assert_eq!(refused.kind(), ErrorKind::Fenced);
        let log = pair.dr.log.log_head().await.expect("readable").log_id;
        let own = Reach::OwnBucket;
        claim::claim(&pair.dr, own, &log, epoch(2), Some(epoch(1)), Head::EMPTY, at(0)).await.expect("the next epoch");
        let refused = in_force(&pair.home, Silence::Forbids).await.expect_err("epoch 2 is in force");
        assert!(refused.to_string().contains("epoch 2 is in force"), "{refused}");
        let still = pair.home.log.log_head().await.expect("readable");
        assert_eq!((still.role, still.epoch), (Role::Active, epoch(1)), "the watch of the server acts");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_appends_for_long_without_a_watch_learns_that_its_epoch_has_lost() {
        let pair = Pair::new().await;
        in_force(&pair.home, Silence::Forbids).await.expect("the first epoch");
        let mut losing = pin!(lost(&pair.home));
        // Nobody answers for a while: it goes on, as a server that is active does.
        pair.to_dr.set_up(false);
        timeout(10 * ASK_EVERY, &mut losing).await.expect_err("that is no newer epoch");
        pair.to_dr.set_up(true);
        let log = pair.dr.log.log_head().await.expect("readable").log_id;
        let own = Reach::OwnBucket;
        claim::claim(&pair.dr, own, &log, epoch(2), Some(epoch(1)), Head::EMPTY, at(0)).await.expect("the next epoch");
        let refused = timeout(2 * ASK_EVERY, losing).await.expect("it is told").to_string();
        assert!(refused.contains("epoch 2 is in force"), "{refused}");
    }
}
