//! Who waits for the head to move: told at once of what this process commits, and of what other processes commit by one
//! look at the database, which all of them share. However many wait, the database is asked five times a second.

use std::time::Duration;

use domain::Head;
use domain::append::{LogHead, Role};
use domain::log::ReadError;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep_until, timeout};

/// How often the head is looked at while somebody waits.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How long a wait lasts at most.
const WAIT: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy)]
struct Looked {
    head: Head,
    at: Instant,
}

impl Looked {
    fn is_fresh(&self) -> bool {
        self.at.elapsed() < LOOK_EVERY
    }
}

/// A look at the database.
pub(crate) trait Look: Future<Output = Result<LogHead, ReadError>> {}

impl<F: Future<Output = Result<LogHead, ReadError>>> Look for F {}

/// What this process knows of the head.
pub(crate) struct Heads {
    /// The newest that it has committed.
    committed: watch::Sender<Head>,
    /// What it last found in the database.
    looked: watch::Sender<Option<Looked>>,
    /// Whoever holds it looks for all.
    turn: Mutex<()>,
}

impl Heads {
    pub(crate) fn new() -> Self {
        Self { committed: watch::channel(Head::EMPTY).0, looked: watch::channel(None).0, turn: Mutex::default() }
    }

    /// This process has committed up to `head`.
    pub(crate) fn committed(&self, head: Head) {
        self.committed.send_if_modified(|newest| {
            let newer = head > *newest;
            *newest = head.max(*newest);
            newer
        });
    }

    /// Returns when the head is above `seen`, or after about a second: with what is known of it. `look` asks the database.
    pub(crate) async fn beyond<L: Look>(&self, seen: Head, look: impl Fn() -> L) -> Result<Head, ReadError> {
        let (mut committed, mut looked) = (self.committed.subscribe(), self.looked.subscribe());
        let known = *looked.borrow_and_update();
        let fresh = known.filter(Looked::is_fresh);
        if let Some(Looked { head, .. }) = fresh.filter(|looked| looked.head > seen) {
            return Ok(head);
        }
        // What was committed here is believed for as long as it is looked at now and then: the branch may have lost.
        if fresh.is_none()
            && *committed.borrow() > seen
            && let Ok(_turn) = self.turn.try_lock()
        {
            self.look(&look).await?;
        }
        let waited = timeout(WAIT, async {
            loop {
                let head = tokio::select! {
                    // The sender lives as long as this.
                    newest = committed.wait_for(|newest| *newest > seen) => newest.map_or(seen, |newest| *newest),
                    _ = looked.changed() => looked.borrow().map_or(seen, |looked| looked.head),
                    found = self.look_in_turn(&look) => found?,
                };
                if head > seen {
                    return Ok(head);
                }
            }
        });
        if let Ok(found) = waited.await {
            return found;
        }
        let lately = self.looked.borrow().filter(|looked| looked.at.elapsed() < WAIT);
        match lately {
            Some(looked) => Ok(looked.head),
            None => self.look(&look).await,
        }
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the pace of all who take turns, which no interval of one of them is"
    )]
    async fn look_in_turn<L: Look>(&self, look: &impl Fn() -> L) -> Result<Head, ReadError> {
        let _turn = self.turn.lock().await;
        let due = self.looked.borrow().map(|looked| looked.at + LOOK_EVERY);
        if let Some(due) = due {
            sleep_until(due).await;
        }
        self.look(look).await
    }

    #[expect(clippy::disallowed_methods, reason = "how old a look is: only the pace depends on it")]
    async fn look<L: Look>(&self, look: &impl Fn() -> L) -> Result<Head, ReadError> {
        let LogHead { head, role, .. } = look().await?;
        self.looked.send_replace(Some(Looked { head, at: Instant::now() }));
        // Only a region that is not active winds back what it has.
        self.committed.send_if_modified(|newest| {
            let stale = *newest > head && role != Role::Active;
            if stale {
                *newest = head;
            }
            stale
        });
        Ok(head)
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "time is simulated here")]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use domain::{Epoch, Timestamp};
    use futures::future::join_all;

    use super::*;

    /// A database whose head can be set, and that counts who looks.
    #[derive(Default)]
    struct Database {
        head: AtomicU64,
        looks: AtomicU64,
    }

    impl Database {
        async fn look(&self, role: Role) -> Result<LogHead, ReadError> {
            self.looks.fetch_add(1, Relaxed);
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
        let (heads, database) = (Heads::new(), Database::default());
        let waiting = (0..300).map(async |_| {
            for _ in 0..10 {
                let found = heads.beyond(Head::EMPTY, || database.look(Role::Active)).await;
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
        let (heads, database) = (Arc::new(Heads::new()), Arc::new(Database::default()));
        // Some wait for what is far away, and hold up nobody.
        let waiting = (0..100).map(|number| {
            let (heads, database) = (heads.clone(), database.clone());
            let seen = head(if number % 2 == 0 { 0 } else { 1_000 });
            tokio::spawn(async move {
                let found = heads.beyond(seen, || database.look(Role::Active)).await.expect("looked");
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
        let (heads, database) = (Heads::new(), Database::default());
        let began = Instant::now();
        let waiting = heads.beyond(Head::EMPTY, || database.look(Role::Active));
        let committing = async { heads.committed(head(3)) };
        let (found, ()) = tokio::join!(waiting, committing);
        assert_eq!((found.expect("known"), began.elapsed()), (head(3), Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn a_branch_that_lost_is_forgotten() {
        let (heads, database) = (Heads::new(), Database::default());
        heads.committed(head(100));
        database.head.store(90, Relaxed);
        let mut rounds = 0;
        let found = loop {
            rounds += 1;
            let found = heads.beyond(head(95), || database.look(Role::Follower)).await.expect("looked");
            if found <= head(95) {
                break found;
            }
        };
        assert_eq!((found, rounds), (head(90), 1), "whoever waits for more than there is does not spin");
    }
}
