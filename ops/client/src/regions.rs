//! Which region is asked, and how often: what an error says of the region, and how long is waited after it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use domain::ErrorKind;
use tokio::time::Instant;

use crate::error::ClientError;

/// First pause after a failed attempt; it doubles with each further one.
const PAUSE_FIRST: Duration = Duration::from_millis(25);
/// Longest pause: a service comes back to a region that is active again within about this time.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Where a region is, and what opens it.
#[derive(Clone)]
pub(crate) struct Region {
    pub(crate) url: String,
    pub(crate) token: String,
}

impl Region {
    pub(crate) fn new(url: &str, token: &str) -> Self {
        Self { url: url.trim_end_matches('/').to_owned(), token: token.to_owned() }
    }
}

/// The regions, and the one that is asked first.
pub(crate) struct Regions {
    all: Vec<Region>,
    current: AtomicUsize,
}

impl Regions {
    pub(crate) fn new(all: Vec<Region>) -> Self {
        Self { all, current: AtomicUsize::new(0) }
    }

    pub(crate) fn current(&self) -> usize {
        self.current.load(Ordering::Relaxed)
    }

    pub(crate) fn at(&self, region: usize) -> &Region {
        &self.all[region]
    }

    pub(crate) fn count(&self) -> usize {
        self.all.len()
    }

    /// Turns to the next region if `error` says that `asked` is not the one, and no other call has turned meanwhile. Tokens
    /// belong to a region: one that is refused here says nothing of the next one. Returns which region is asked next.
    pub(crate) fn learn(&self, asked: usize, error: &ClientError) -> usize {
        let elsewhere = matches!(error, ClientError::NoAnswer { .. })
            || matches!(
                error.kind(),
                ErrorKind::Fenced | ErrorKind::Unavailable | ErrorKind::Indeterminate | ErrorKind::Denied
            );
        if elsewhere && !error.is_rate_limited() {
            let next = (asked + 1) % self.all.len();
            // Where somebody else has turned meanwhile, their choice is as good.
            let _ = self.current.compare_exchange(asked, next, Ordering::Relaxed, Ordering::Relaxed);
        }
        self.current()
    }
}

/// What a call does to what is stored.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Effect {
    /// Nothing: an answer that is lost leaves nothing behind.
    None,
    /// Something, also where the answer is lost.
    Some,
}

/// How long one call goes on.
pub(crate) struct Patience {
    limit: Duration,
    /// When it ends. None before the first failure of a read, and after a success: then the limit counts from the next
    /// failure on.
    until: Option<Instant>,
    effect: Effect,
    /// How many regions it may turn to.
    regions: usize,
    pause: Duration,
    attempts: u32,
    may_be_stored: bool,
    /// What the regions said that refused their token.
    denied: BTreeMap<usize, ClientError>,
    /// The last thing that another one said.
    other: Option<ClientError>,
}

/// Between attempts real time passes, and how much is by chance: a service has no reason to give either.
#[expect(clippy::disallowed_methods, reason = "the client is a service's own edge: no rule stands on its pauses")]
impl Patience {
    /// Of a call that stores something, in one of so many regions; the limit counts from now on.
    pub(crate) fn of(limit: Duration, regions: usize) -> Self {
        Self { until: Some(Instant::now() + limit), effect: Effect::Some, ..Self::of_read(limit, regions) }
    }

    /// Of one that stores nothing; the limit counts from its first failure on, however long it went well.
    pub(crate) fn of_read(limit: Duration, regions: usize) -> Self {
        Self {
            limit,
            until: None,
            effect: Effect::None,
            regions,
            pause: PAUSE_FIRST,
            attempts: 0,
            may_be_stored: false,
            denied: BTreeMap::new(),
            other: None,
        }
    }

    /// Waits after `error` of the region that was asked, before the next attempt, at the region that is asked next.
    ///
    /// # Errors
    /// `error` itself where a further attempt would be refused in the same way, as where each region has refused its token;
    /// `GaveUp` when the time is over, and where such an error would hide that an attempt before it may be stored.
    pub(crate) async fn after(&mut self, error: ClientError, asked: usize, next: usize) -> Result<(), ClientError> {
        self.attempts += 1;
        match error.kind() {
            ErrorKind::Indeterminate => self.may_be_stored = self.effect == Effect::Some,
            ErrorKind::Unavailable | ErrorKind::Fenced => {}
            ErrorKind::Conflict => return Err(error),
            ErrorKind::Denied if self.may_be_opened_elsewhere(asked, &error) => {}
            // It says that it stored nothing, and nothing of what an attempt before it has stored.
            _ if self.may_be_stored => return Err(self.give_up(error)),
            _ => {
                self.renew();
                return Err(error);
            }
        }
        let asked_for = match &error {
            ClientError::Refused { retry_after_seconds: Some(seconds), .. } => Duration::from_secs(*seconds),
            _ => Duration::ZERO,
        };
        // What one region asks for keeps nobody from another one for long.
        let asked_for = asked_for.min(if next == asked { self.limit } else { PAUSE_MAX });
        // Up to half more or less: clients that were refused together do not come back together.
        let pause = self.pause.mul_f64(rand::random_range(0.5..1.5)).max(asked_for);
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        let now = Instant::now();
        let then = now + pause;
        if then >= *self.until.get_or_insert(now + self.limit) {
            return Err(self.give_up(error));
        }
        if error.kind() != ErrorKind::Denied {
            self.other = Some(error);
        }
        tokio::time::sleep_until(then).await;
        Ok(())
    }

    /// Whether there is a region that has not refused its token yet.
    fn may_be_opened_elsewhere(&mut self, asked: usize, error: &ClientError) -> bool {
        self.denied.insert(asked, error.clone());
        self.denied.len() < self.regions
    }

    /// What a region said that took its token says more than a refusal, which is told beside it. Whoever calls again after
    /// this has the whole patience again.
    fn give_up(&mut self, last: ClientError) -> ClientError {
        let (attempts, may_be_stored) = (self.attempts, self.may_be_stored);
        let last = match self.other.take() {
            Some(other) if last.kind() == ErrorKind::Denied => other,
            _ => last,
        };
        let denied = self.denied.pop_first().filter(|_| last.kind() != ErrorKind::Denied);
        let denied = denied.map(|(_, denied)| Box::new(denied));
        self.renew();
        ClientError::GaveUp { attempts, may_be_stored, last: Box::new(last), denied }
    }

    /// An attempt succeeded in part: the next failure is met with the whole patience.
    pub(crate) fn renew(&mut self) {
        *self = Self { effect: self.effect, ..Self::of_read(self.limit, self.regions) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(kind: ErrorKind) -> ClientError {
        ClientError::Refused { kind, detail: String::new(), members: Box::default(), retry_after_seconds: None }
    }

    #[test]
    fn one_error_turns_all_calls_to_the_next_region_once() {
        let regions = Regions::new(["a", "b"].map(|url| Region::new(url, "token")).to_vec());
        regions.learn(0, &refused(ErrorKind::Conflict));
        assert_eq!(regions.current(), 0);
        regions.learn(0, &refused(ErrorKind::Fenced));
        regions.learn(0, &refused(ErrorKind::Fenced));
        assert_eq!(regions.at(regions.current()).url, "b");
        let members = serde_json::json!({"status": 429}).as_object().cloned().map(Box::new).expect("an object");
        let (kind, detail) = (ErrorKind::Unavailable, String::new());
        regions.learn(1, &ClientError::Refused { kind, detail, members, retry_after_seconds: Some(1) });
        assert_eq!(regions.at(regions.current()).url, "b", "a token that asks too much asks no less elsewhere");
        assert_eq!(
            regions.learn(1, &refused(ErrorKind::Denied)),
            0,
            "a token that opens nothing here is of here alone"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_retry_cannot_change_is_not_tried_again() {
        let mut patience = Patience::of(Duration::from_secs(1), 1);
        for kind in [ErrorKind::Conflict, ErrorKind::Invalid, ErrorKind::Denied, ErrorKind::Corrupt, ErrorKind::Forked]
        {
            assert_eq!(patience.after(refused(kind), 0, 0).await.expect_err("the end").kind(), kind);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_after_an_attempt_that_may_be_stored_is_no_refusal_of_both() {
        let mut patience = Patience::of(Duration::from_secs(10), 1);
        patience.after(refused(ErrorKind::Indeterminate), 0, 0).await.expect("tried again");
        let error = patience.after(refused(ErrorKind::Denied), 0, 0).await.expect_err("the end");
        assert!(matches!(error, ClientError::GaveUp { attempts: 2, may_be_stored: true, .. }), "{error}");
        assert_eq!(error.kind(), ErrorKind::Indeterminate);
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_has_its_whole_patience_at_its_first_failure_and_again_after_it_gave_up() {
        let mut patience = Patience::of_read(Duration::from_secs(10), 1);
        for _ in 0..2 {
            tokio::time::advance(Duration::from_secs(100)).await;
            patience.after(refused(ErrorKind::Indeterminate), 0, 0).await.expect("tried again");
            tokio::time::advance(Duration::from_secs(11)).await;
            let error = patience.after(refused(ErrorKind::Unavailable), 0, 0).await.expect_err("the end");
            assert!(matches!(error, ClientError::GaveUp { attempts: 2, may_be_stored: false, .. }), "{error:?}");
        }
        patience.after(refused(ErrorKind::Indeterminate), 0, 0).await.expect("tried again");
        assert_eq!(
            patience.after(refused(ErrorKind::Forked), 0, 0).await.expect_err("the end").kind(),
            ErrorKind::Forked
        );
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_success_the_next_failure_is_met_with_the_whole_patience_however_late() {
        let mut patience = Patience::of(Duration::from_secs(10), 1);
        patience.renew();
        tokio::time::advance(Duration::from_secs(100)).await;
        patience.after(refused(ErrorKind::Unavailable), 0, 0).await.expect("tried again");
        tokio::time::advance(Duration::from_secs(11)).await;
        let error = patience.after(refused(ErrorKind::Unavailable), 0, 0).await.expect_err("the end");
        assert!(matches!(error, ClientError::GaveUp { attempts: 2, .. }), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_gives_up_says_whether_anything_may_be_stored() {
        for (kinds, told) in [
            ([ErrorKind::Unavailable, ErrorKind::Fenced], ErrorKind::Unavailable),
            ([ErrorKind::Indeterminate, ErrorKind::Unavailable], ErrorKind::Indeterminate),
        ] {
            let mut patience = Patience::of(Duration::from_secs(10), 1);
            let mut kinds = kinds.into_iter().chain(std::iter::repeat(ErrorKind::Unavailable));
            let error = loop {
                if let Err(error) = patience.after(refused(kinds.next().expect("without end")), 0, 0).await {
                    break error;
                }
            };
            assert_eq!(error.kind(), told);
            assert!(matches!(error, ClientError::GaveUp { attempts: 9.., .. }), "{error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_refused_once_each_region_has_refused_its_own() {
        let mut patience = Patience::of(Duration::from_secs(10), 2);
        for (kind, asked) in [(ErrorKind::Denied, 0), (ErrorKind::Unavailable, 1), (ErrorKind::Denied, 0)] {
            patience.after(refused(kind), asked, 1 - asked).await.expect("the other one may take its token");
        }
        let error = patience.after(refused(ErrorKind::Denied), 1, 0).await.expect_err("both have");
        assert_eq!(error.kind(), ErrorKind::Denied);
        assert!(matches!(error, ClientError::Refused { .. }), "{error}");
        patience.after(refused(ErrorKind::Denied), 1, 0).await.expect("whoever calls again asks both again");
    }

    #[tokio::test(start_paused = true)]
    async fn of_a_region_that_is_away_and_one_that_refuses_both_are_told() {
        let mut patience = Patience::of(Duration::from_secs(10), 2);
        let mut answers = [(ErrorKind::Unavailable, 0), (ErrorKind::Denied, 1)].into_iter().cycle();
        let error = loop {
            let (kind, asked) = answers.next().expect("without end");
            if let Err(error) = patience.after(refused(kind), asked, 1 - asked).await {
                break error;
            }
        };
        let ClientError::GaveUp { attempts: 9.., ref last, denied: Some(ref denied), .. } = error else {
            panic!("{error:?}")
        };
        assert_eq!((last.kind(), denied.kind()), (ErrorKind::Unavailable, ErrorKind::Denied));
        assert!(error.to_string().contains("refused (denied)"), "{error}");
    }

    fn asks_for(seconds: u64) -> ClientError {
        let (kind, detail, members) = (ErrorKind::Unavailable, String::new(), Box::default());
        ClientError::Refused { kind, detail, members, retry_after_seconds: Some(seconds) }
    }

    #[tokio::test(start_paused = true)]
    #[expect(clippy::disallowed_methods, reason = "this clock is the test's own: it stands unless somebody waits")]
    async fn the_pause_that_a_server_asks_for_is_kept_unless_another_one_is_asked_or_the_time_is_over() {
        for (seconds, next, paused) in [(5, 0, 5), (5, 1, 1), (0, 0, 0)] {
            let (mut patience, begun) = (Patience::of(Duration::from_secs(10), 2), Instant::now());
            patience.after(asks_for(seconds), 0, next).await.expect("tried again");
            assert_eq!(begun.elapsed().as_secs(), paused, "{seconds} s, and then region {next}");
        }
        for seconds in [11, u64::MAX] {
            let (mut patience, begun) = (Patience::of(Duration::from_secs(10), 1), Instant::now());
            let error = patience.after(asks_for(seconds), 0, 0).await.expect_err("it would be too late");
            assert!(matches!(error, ClientError::GaveUp { attempts: 1, .. }), "{error}");
            assert!(begun.elapsed().is_zero(), "nobody waits for nothing");
        }
    }
}
