//! Who waits for the head to move: told at once of what this process commits, and of what other processes commit by one
//! look at the database, which all of them share. However many wait, the database is asked five times a second.

use std::sync::Arc;
use std::time::Duration;

use domain::Head;
use domain::append::{LogHead, Role};
use domain::log::ReadError;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::looks::Looks;

/// How often the head is looked at while somebody waits.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How long a wait lasts at most.
const WAIT: Duration = Duration::from_secs(1);

/// What this process knows of the head.
pub(crate) struct Heads {
    /// The newest that it has committed.
    committed: Arc<watch::Sender<Head>>,
    /// What the database says.
    looks: Looks<Head>,
}

impl Heads {
    /// `ask` asks the database.
    pub(crate) fn new(
        ask: impl Fn() -> BoxFuture<'static, Result<LogHead, ReadError>> + Send + Sync + 'static,
    ) -> Self {
        let committed = Arc::new(watch::channel(Head::EMPTY).0);
        let kept = Arc::clone(&committed);
        let looks = Looks::new(LOOK_EVERY, move || {
            let (asked, committed) = (ask(), Arc::clone(&kept));
            async move {
                let LogHead { head, role, .. } = asked.await?;
                // Only a region that is not active winds back what it has.
                committed.send_if_modified(|newest| {
                    let stale = *newest > head && role != Role::Active;
                    if stale {
                        *newest = head;
                    }
                    stale
                });
                Ok(head)
            }
            .boxed()
        });
        Self { committed, looks }
    }

    /// This process has committed up to `head`.
    pub(crate) fn committed(&self, head: Head) {
        self.committed.send_if_modified(|newest| {
            let newer = head > *newest;
            *newest = head.max(*newest);
            newer
        });
    }

    /// Returns when the head is above `seen`, or after about a second: with what is known of it.
    pub(crate) async fn beyond(&self, seen: Head) -> Result<Head, ReadError> {
        let mut committed = self.committed.subscribe();
        let fresh = self.looks.fresh()?;
        if let Some(head) = fresh.filter(|head| *head > seen) {
            return Ok(head);
        }
        // What was committed here is believed for as long as it is looked at now and then: the branch may have lost.
        let (mut believed, mut last) = (fresh.is_some(), seen);
        let waited = timeout(WAIT, async {
            let mut looks = self.looks.listen();
            loop {
                let head = tokio::select! {
                    // The sender lives as long as this.
                    newest = committed.wait_for(|newest| *newest > seen), if believed => newest.map_or(seen, |newest| *newest),
                    found = looks.next() => found?,
                };
                if head > seen {
                    return Ok(head);
                }
                (believed, last) = (true, head);
            }
        });
        // Where no look ends in time, what was committed is the best that is known.
        waited.await.unwrap_or_else(|_| Ok(if believed { last } else { seen.max(*self.committed.borrow()) }))
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "time is simulated here")]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

    use domain::{Epoch, Timestamp};
    use futures::future::join_all;
    use tokio::time::Instant;

    use super::*;

    /// A database whose head can be set, and that counts who looks.
    #[derive(Default)]
    struct Database {
        head: AtomicU64,
        looks: AtomicU64,
        /// How long a look takes.
        slow_millis: AtomicU64,
        down: AtomicBool,
    }

    impl Database {
        fn heads(self: &Arc<Self>, role: Role) -> Heads {
            let database = Arc::clone(self);
            Heads::new(move || {
                let database = Arc::clone(&database);
                async move { database.look(role).await }.boxed()
            })
        }

        async fn look(&self, role: Role) -> Result<LogHead, ReadError> {
            self.looks.fetch_add(1, Relaxed);
            let slow = Duration::from_millis(self.slow_millis.load(Relaxed));
            if !slow.is_zero() {
                tokio::time::sleep(slow).await;
            }
            if self.down.load(Relaxed) {
                return Err(ReadError::Unavailable { reason: "down".into() });
            }
            Ok(LogHead {
                head: head(self.head.load(Relaxed)),
                recorded_at: Timestamp::parse_rfc3339("2026-05-01T08:00:00Z").expect("an instant"),
                epoch: Epoch::FIRST,
                role,
                pruned: Head::EMPTY,
                log_id: "log".to_owned(),
                simulated: false,
            })
        }
    }

    fn head(events: u64) -> Head {
        Head::new(events).expect("small")
    }

    #[tokio::test(start_paused = true)]
    async fn however_many_wait_the_database_is_asked_five_times_a_second() {
        let database = Arc::new(Database::default());
        let heads = database.heads(Role::Active);
        let waiting = (0..300).map(async |_| {
            for _ in 0..10 {
                let found = heads.beyond(Head::EMPTY).await;
                assert_eq!(found.expect("looked"), Head::EMPTY);
            }
        });
        let began = Instant::now();
        join_all(waiting).await;
        let (looks, seconds) = (database.looks.load(Relaxed), began.elapsed().as_secs());
        assert!((9..12).contains(&seconds) && (40..=56).contains(&looks), "{looks} looks in {seconds} s");
    }

    #[tokio::test(start_paused = true)]
    async fn what_another_process_commits_is_seen_by_all_within_one_look() {
        let database = Arc::new(Database::default());
        let heads = Arc::new(database.heads(Role::Active));
        // Some wait for what is far away, and hold up nobody.
        let waiting = (0..100).map(|number| {
            let heads = heads.clone();
            let seen = head(if number % 2 == 0 { 0 } else { 1_000 });
            tokio::spawn(async move {
                let found = heads.beyond(seen).await.expect("looked");
                (found, Instant::now())
            })
        });
        let waiting: Vec<_> = waiting.collect();
        tokio::task::yield_now().await;
        let moved = Instant::now();
        database.head.store(7, Relaxed);
        for (number, task) in waiting.into_iter().enumerate() {
            let (found, at) = task.await.expect("no panic");
            assert_eq!(found, head(7));
            assert!(number % 2 == 1 || at - moved <= LOOK_EVERY, "{number} after {:?}", at - moved);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_committed_here_is_known_at_once() {
        let database = Arc::new(Database::default());
        let heads = database.heads(Role::Active);
        let began = Instant::now();
        let waiting = heads.beyond(Head::EMPTY);
        let committing = async { heads.committed(head(3)) };
        let (found, ()) = tokio::join!(waiting, committing);
        assert_eq!((found.expect("known"), began.elapsed()), (head(3), Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn a_branch_that_lost_is_forgotten() {
        let database = Arc::new(Database::default());
        let heads = database.heads(Role::Follower);
        heads.committed(head(100));
        database.head.store(90, Relaxed);
        let mut rounds = 0;
        let found = loop {
            rounds += 1;
            let found = heads.beyond(head(95)).await.expect("looked");
            if found <= head(95) {
                break found;
            }
        };
        assert_eq!((found, rounds), (head(90), 1), "whoever waits for more than there is does not spin");
    }

    #[tokio::test(start_paused = true)]
    async fn however_slow_the_database_is_it_has_one_question_to_answer() {
        let database = Arc::new(Database::default());
        let heads = database.heads(Role::Active);
        database.slow_millis.store(3_000, Relaxed);
        let began = Instant::now();
        join_all((0..300).map(async |_| {
            for _ in 0..9 {
                assert_eq!(heads.beyond(Head::EMPTY).await.expect("nothing new"), Head::EMPTY);
            }
        }))
        .await;
        assert_eq!(began.elapsed(), 9 * WAIT, "a wait does not last longer");
        assert_eq!(database.looks.load(Relaxed), 3);
        let committing = async { heads.committed(head(3)) };
        let (found, ()) = tokio::join!(heads.beyond(Head::EMPTY), committing);
        assert_eq!(found.expect("known"), head(3));
    }

    #[tokio::test(start_paused = true)]
    async fn that_the_database_is_away_is_told_to_all() {
        let database = Arc::new(Database::default());
        let heads = database.heads(Role::Active);
        database.down.store(true, Relaxed);
        let found = join_all((0..300).map(|_| heads.beyond(Head::EMPTY))).await;
        assert!(found.iter().all(Result::is_err));
        assert_eq!(database.looks.load(Relaxed), 2);
        heads.beyond(Head::EMPTY).await.expect_err("it is known");
        assert_eq!(database.looks.load(Relaxed), 2);
        database.down.store(false, Relaxed);
        database.head.store(7, Relaxed);
        tokio::time::advance(LOOK_EVERY).await;
        assert_eq!(heads.beyond(Head::EMPTY).await.expect("it is back"), head(7));
    }
}
