//! One look for all who wait: what many would ask the database for again and again is asked by one task, one look at a
//! time, for as long as somebody waits; all hear the answer. However many wait and however slow the answer is, the
//! database has one question of theirs to answer. A single look that fails is told to nobody, or one session that was not
//! to be had in time would end all who wait: the next one has the word.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use domain::log::ReadError;
use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

/// A look that takes longer has failed: whoever waits must not go on as if nothing had happened.
const LOOK_LIMIT: Duration = Duration::from_secs(10);

#[derive(Clone)]
struct Answer<T> {
    found: Result<T, ReadError>,
    at: Instant,
}

struct Shared<T> {
    every: Duration,
    ask: Box<dyn Fn() -> BoxFuture<'static, Result<T, ReadError>> + Send + Sync>,
    heard: watch::Sender<Option<Answer<T>>>,
    /// Whether the last look failed.
    failed: AtomicBool,
    /// The task that looks, while there is one.
    looking: Mutex<Option<JoinHandle<()>>>,
}

/// A question that everybody who waits for another answer shares.
pub struct Looks<T>(Arc<Shared<T>>);

/// Somebody who waits.
pub struct Listener<'a, T> {
    looks: &'a Looks<T>,
    heard: watch::Receiver<Option<Answer<T>>>,
}

impl<T: Clone + Send + Sync + 'static> Looks<T> {
    /// Asks with `ask`, and again when `every` has passed since the last answer.
    pub fn new(
        every: Duration,
        ask: impl Fn() -> BoxFuture<'static, Result<T, ReadError>> + Send + Sync + 'static,
    ) -> Self {
        let (heard, _) = watch::channel(None);
        Self(Arc::new(Shared {
            every,
            ask: Box::new(ask),
            heard,
            failed: AtomicBool::new(false),
            looking: Mutex::default(),
        }))
    }

    /// The last answer, if the next look is not due yet.
    ///
    /// # Errors
    /// The last answer, if it was one.
    pub fn fresh(&self) -> Result<Option<T>, ReadError> {
        let heard = self.0.heard.borrow();
        let fresh = heard.as_ref().filter(|answer| answer.at.elapsed() < self.0.every);
        fresh.map(|answer| answer.found.clone()).transpose()
    }

    /// Waits for answers from now on.
    pub fn listen(&self) -> Listener<'_, T> {
        Listener { looks: self, heard: self.0.heard.subscribe() }
    }

    fn look(&self) {
        let mut looking = self.0.looking.lock().unwrap_or_else(PoisonError::into_inner);
        // One that is finished without having said so has panicked.
        if looking.as_ref().is_none_or(JoinHandle::is_finished) {
            *looking = Some(tokio::spawn(Shared::look_while_somebody_waits(Arc::clone(&self.0))));
        }
    }
}

impl<T: Clone + Send + Sync + 'static> Listener<'_, T> {
    /// The next answer. Nothing is lost if it is dropped.
    ///
    /// # Errors
    /// The answer, if it is one.
    pub async fn next(&mut self) -> Result<T, ReadError> {
        loop {
            self.looks.look();
            // The sender lives as long as this.
            let _ = self.heard.changed().await;
            if let Some(answer) = &*self.heard.borrow_and_update() {
                return answer.found.clone();
            }
        }
    }
}

impl<T: Clone> Shared<T> {
    #[expect(clippy::disallowed_methods, reason = "the pace of a question that costs nothing but load")]
    async fn look_while_somebody_waits(shared: Arc<Self>) {
        let mut last = shared.heard.borrow().as_ref().map(|answer| answer.at);
        while shared.somebody_waits() {
            if let Some(at) = last {
                sleep_until(at + shared.every).await;
            }
            let silent = |_| Err(ReadError::Unavailable { reason: "the database says nothing".to_owned() });
            let found = timeout(LOOK_LIMIT, (shared.ask)()).await.unwrap_or_else(silent);
            let at = Instant::now();
            last = Some(at);
            let failed_before = shared.failed.swap(found.is_err(), Ordering::Relaxed);
            if found.is_ok() || failed_before {
                shared.heard.send_replace(Some(Answer { found, at }));
            }
        }
    }

    /// Whoever comes after it has said no begins a task of its own: both happen under the lock.
    fn somebody_waits(&self) -> bool {
        let mut looking = self.looking.lock().unwrap_or_else(PoisonError::into_inner);
        let waits = self.heard.receiver_count() > 0;
        if !waits {
            *looking = None;
        }
        waits
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

    use futures::FutureExt;
    use futures::future::join_all;
    use tokio::time::sleep;

    use super::*;

    const EVERY: Duration = Duration::from_millis(200);

    /// Answers with how often it was asked, after `takes`; and how many it was asked at once.
    fn counted(takes: Duration) -> (Looks<u64>, Arc<[AtomicU64; 3]>) {
        let [asked, now, most] = [0; 3].map(AtomicU64::new);
        let counts = Arc::new([asked, now, most]);
        let kept = counts.clone();
        let looks = Looks::new(EVERY, move || {
            let counts = kept.clone();
            async move {
                let [asked, now, most] = &*counts;
                most.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
                #[expect(clippy::disallowed_methods, reason = "time is simulated")]
                sleep(takes).await;
                now.fetch_sub(1, SeqCst);
                Ok(asked.fetch_add(1, SeqCst) + 1)
            }
            .boxed()
        });
        (looks, counts)
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_answer_is_waited_for_by_all_and_asked_for_once_at_a_time() {
        let (looks, counts) = counted(Duration::from_secs(3));
        let answers = join_all((0..300).map(async |_| {
            let mut listener = looks.listen();
            [listener.next().await.expect("an answer"), listener.next().await.expect("an answer")]
        }));
        let answers = answers.await;
        assert!(answers.iter().all(|answers| *answers == [1, 2]));
        assert_eq!(counts[2].load(SeqCst), 1, "never two at once");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_gives_up_and_comes_again_hears_the_look_that_is_under_way() {
        let (looks, counts) = counted(Duration::from_millis(2500));
        let mut rounds = 0;
        let found = loop {
            rounds += 1;
            if let Ok(found) = tokio::time::timeout(Duration::from_secs(1), looks.listen().next()).await {
                break found.expect("an answer");
            }
        };
        assert_eq!((rounds, found, counts[2].load(SeqCst)), (3, 1, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_looks_where_nobody_waits() {
        let (looks, counts) = counted(Duration::ZERO);
        looks.listen().next().await.expect("an answer");
        tokio::time::advance(Duration::from_mins(10)).await;
        assert!(counts[0].load(SeqCst) <= 2, "the one that was due when the last one left, at most");
        assert_eq!(looks.fresh().expect("no error"), None);
        looks.listen().next().await.expect("it begins again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_error_is_an_answer_for_all_until_the_next_look_is_due() {
        let asked = Arc::new(AtomicU64::new(0));
        let counted = asked.clone();
        let looks = Looks::<()>::new(EVERY, move || {
            counted.fetch_add(1, SeqCst);
            async move { Err(ReadError::Unavailable { reason: "down".into() }) }.boxed()
        });
        let heard = join_all((0..3).map(async |_| looks.listen().next().await)).await;
        assert!(heard.iter().all(Result::is_err));
        assert_eq!(asked.load(SeqCst), 2);
        looks.fresh().expect_err("it is known");
        tokio::time::advance(EVERY).await;
        looks.fresh().expect("it is old");
    }

    #[tokio::test(start_paused = true)]
    async fn a_database_that_says_nothing_is_an_error_and_asked_again() {
        let asked = AtomicU64::new(0);
        let looks = Looks::new(EVERY, move || {
            let silent = asked.fetch_add(1, SeqCst) < 2;
            async move { if silent { std::future::pending().await } else { Ok(7) } }.boxed()
        });
        let mut listener = looks.listen();
        assert!(matches!(listener.next().await, Err(ReadError::Unavailable { .. })));
        assert_eq!(listener.next().await.expect("it is back"), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn one_look_that_fails_is_told_to_nobody() {
        let asked = AtomicU64::new(0);
        let looks = Looks::new(EVERY, move || {
            let number = asked.fetch_add(1, SeqCst);
            let failed = || Err(ReadError::Unavailable { reason: "no session was to be had".into() });
            async move { if number.is_multiple_of(2) { failed() } else { Ok(number) } }.boxed()
        });
        let mut listener = looks.listen();
        for number in [1, 3, 5] {
            assert_eq!(listener.next().await.expect("the next one has the word"), number);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_that_panics_is_followed_by_another() {
        let panics = AtomicU64::new(1);
        let looks = Looks::new(EVERY, move || {
            let first = panics.swap(0, SeqCst) == 1;
            async move { if first { panic!("a bug") } else { Ok(7) } }.boxed()
        });
        let found = loop {
            if let Ok(found) = tokio::time::timeout(Duration::from_secs(1), looks.listen().next()).await {
                break found.expect("an answer");
            }
        };
        assert_eq!(found, 7);
    }
}
