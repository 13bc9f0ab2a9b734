//! Which region is asked, and how often: what an error says of the region, and how long is waited after it.

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

    /// Turns to the next region if `error` says that `asked` is not the one, and no other call has turned meanwhile.
    pub(crate) fn learn(&self, asked: usize, error: &ClientError) {
        let elsewhere = matches!(error, ClientError::NoAnswer { .. })
            || matches!(error.kind(), ErrorKind::Fenced | ErrorKind::Unavailable | ErrorKind::Indeterminate);
        if elsewhere && !error.is_rate_limited() {
            let next = (asked + 1) % self.all.len();
            // Where somebody else has turned meanwhile, their choice is as good.
            let _ = self.current.compare_exchange(asked, next, Ordering::Relaxed, Ordering::Relaxed);
        }
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
    pause: Duration,
    attempts: u32,
    may_be_stored: bool,
}

/// Between attempts real time passes, and how much is by chance: a service has no reason to give either.
#[expect(clippy::disallowed_methods, reason = "the client is a service's own edge: no rule stands on its pauses")]
impl Patience {
    /// Of a call that stores something; the limit counts from now on.
    pub(crate) fn of(limit: Duration) -> Self {
        Self { until: Some(Instant::now() + limit), effect: Effect::Some, ..Self::of_read(limit) }
    }

    /// Of one that stores nothing; the limit counts from its first failure on, however long it went well.
    pub(crate) fn of_read(limit: Duration) -> Self {
        Self { limit, until: None, effect: Effect::None, pause: PAUSE_FIRST, attempts: 0, may_be_stored: false }
    }

    /// Waits before the next attempt after `error`.
    ///
    /// # Errors
    /// `error` itself where a further attempt would be refused in the same way; `GaveUp` when the time is over, and where
    /// such an error would hide that an attempt before it may be stored.
    pub(crate) async fn after(&mut self, error: ClientError) -> Result<(), ClientError> {
        self.attempts += 1;
        match error.kind() {
            ErrorKind::Indeterminate => self.may_be_stored = self.effect == Effect::Some,
            ErrorKind::Unavailable | ErrorKind::Fenced => {}
            ErrorKind::Conflict => return Err(error),
            // It says that it stored nothing, and nothing of what an attempt before it has stored.
            _ if self.may_be_stored => return Err(self.give_up(error)),
            _ => return Err(error),
        }
        let asked_for = match &error {
            ClientError::Refused { retry_after_seconds: Some(seconds), .. } => Duration::from_secs(*seconds),
            _ => Duration::ZERO,
        };
        // Up to half more or less: clients that were refused together do not come back together.
        let pause = self.pause.mul_f64(rand::random_range(0.5..1.5)).max(asked_for.min(PAUSE_MAX));
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        let now = Instant::now();
        let next = now + pause;
        if next >= *self.until.get_or_insert(now + self.limit) {
            return Err(self.give_up(error));
        }
        tokio::time::sleep_until(next).await;
        Ok(())
    }

    /// Whoever calls again after this has the whole patience again.
    fn give_up(&mut self, last: ClientError) -> ClientError {
        let (attempts, may_be_stored) = (self.attempts, self.may_be_stored);
        self.renew();
        ClientError::GaveUp { attempts, may_be_stored, last: Box::new(last) }
    }

    /// An attempt succeeded in part: the next failure is met with the whole patience.
    pub(crate) fn renew(&mut self) {
        *self = Self { effect: self.effect, ..Self::of_read(self.limit) };
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
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_retry_cannot_change_is_not_tried_again() {
        let mut patience = Patience::of(Duration::from_secs(1));
        for kind in [ErrorKind::Conflict, ErrorKind::Invalid, ErrorKind::Denied, ErrorKind::Corrupt, ErrorKind::Forked]
        {
            assert_eq!(patience.after(refused(kind)).await.expect_err("the end").kind(), kind);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_after_an_attempt_that_may_be_stored_is_no_refusal_of_both() {
        let mut patience = Patience::of(Duration::from_secs(10));
        patience.after(refused(ErrorKind::Indeterminate)).await.expect("tried again");
        let error = patience.after(refused(ErrorKind::Denied)).await.expect_err("the end");
        assert!(matches!(error, ClientError::GaveUp { attempts: 2, may_be_stored: true, .. }), "{error}");
        assert_eq!(error.kind(), ErrorKind::Indeterminate);
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_has_its_whole_patience_at_its_first_failure_and_again_after_it_gave_up() {
        let mut patience = Patience::of_read(Duration::from_secs(10));
        for _ in 0..2 {
            tokio::time::advance(Duration::from_secs(100)).await;
            patience.after(refused(ErrorKind::Indeterminate)).await.expect("tried again");
            tokio::time::advance(Duration::from_secs(11)).await;
            let error = patience.after(refused(ErrorKind::Unavailable)).await.expect_err("the end");
            assert!(matches!(error, ClientError::GaveUp { attempts: 2, may_be_stored: false, .. }), "{error:?}");
        }
        patience.after(refused(ErrorKind::Indeterminate)).await.expect("tried again");
        assert_eq!(patience.after(refused(ErrorKind::Forked)).await.expect_err("the end").kind(), ErrorKind::Forked);
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_success_the_next_failure_is_met_with_the_whole_patience_however_late() {
        let mut patience = Patience::of(Duration::from_secs(10));
        patience.renew();
        tokio::time::advance(Duration::from_secs(100)).await;
        patience.after(refused(ErrorKind::Unavailable)).await.expect("tried again");
        tokio::time::advance(Duration::from_secs(11)).await;
        let error = patience.after(refused(ErrorKind::Unavailable)).await.expect_err("the end");
        assert!(matches!(error, ClientError::GaveUp { attempts: 2, .. }), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_gives_up_says_whether_anything_may_be_stored() {
        for (kinds, told) in [
            ([ErrorKind::Unavailable, ErrorKind::Fenced], ErrorKind::Unavailable),
            ([ErrorKind::Indeterminate, ErrorKind::Unavailable], ErrorKind::Indeterminate),
        ] {
            let mut patience = Patience::of(Duration::from_secs(10));
            let mut kinds = kinds.into_iter().chain(std::iter::repeat(ErrorKind::Unavailable));
            let error = loop {
                if let Err(error) = patience.after(refused(kinds.next().expect("without end"))).await {
                    break error;
                }
            };
            assert_eq!(error.kind(), told);
            assert!(matches!(error, ClientError::GaveUp { attempts: 9.., .. }), "{error}");
        }
    }
}
