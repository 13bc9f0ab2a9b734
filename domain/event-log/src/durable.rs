//! What can be seen is not yet durable where commits wait for a synchronous standby: a session that ends while it waits for
//! that one lets its commit be seen. So what was found in the log is acknowledged once something that was committed after
//! it has been. That is nearly always known: any commit of this process behind it says so.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use domain::{Head, Position};
use sqlx::Executor as _;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::error::chain;
use crate::session::silent;
use crate::sessions::Sessions;

/// Changes nothing, and is a commit all the same.
pub(crate) const COMMIT_SOMETHING: &str =
    "SELECT pg_logical_emit_message(true, 'coldstream', 'whether what was found is durable')";
/// Whoever asks is answered within this time.
const ASK_LIMIT: Duration = Duration::from_secs(10);
/// A session that waits for a standby does not see that its client is gone: it is waited for by one task for so long, so
/// that there are few of them.
const COMMIT_LIMIT: Duration = Duration::from_mins(10);

#[derive(Default)]
struct Known {
    up_to: Head,
    /// Why the last commit that was made to know more has failed.
    failed: Option<String>,
}

/// Up to where the log is durable for certain.
pub(crate) struct Durable {
    pool: Sessions,
    known: watch::Sender<Known>,
    /// The task that commits to know more, while there is one.
    asking: Mutex<Option<JoinHandle<()>>>,
}

impl Durable {
    pub(crate) fn new(pool: Sessions) -> Self {
        Self { pool, known: watch::Sender::default(), asking: Mutex::default() }
    }

    /// A commit was acknowledged that left the log at `head`, or came after it.
    pub(crate) fn up_to(&self, head: Head) {
        self.known.send_if_modified(|known| {
            let newer = head > known.up_to;
            if newer {
                *known = Known { up_to: head, failed: None };
            }
            newer
        });
    }

    /// Returns once what was seen at `position` is durable.
    ///
    /// # Errors
    /// Why that is not known.
    pub(crate) async fn has(self: &Arc<Self>, position: Position) -> Result<(), String> {
        let mut known = self.known.subscribe();
        let asked = timeout(ASK_LIMIT, async {
            loop {
                if known.borrow_and_update().up_to.includes(position) {
                    return Ok(());
                }
                self.ask(position.as_head());
                // The sender lives as long as this.
                let _ = known.changed().await;
                let now = known.borrow();
                if let Some(reason) = now.failed.as_ref().filter(|_| !now.up_to.includes(position)) {
                    return Err(reason.clone());
                }
            }
        });
        let waits =
            |_| Err("it is there, and no commit after it is acknowledged: a standby may not have it".to_owned());
        asked.await.unwrap_or_else(waits)
    }

    fn ask(self: &Arc<Self>, seen: Head) {
        let mut asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        // One that is finished without having said so has panicked.
        if asking.as_ref().is_none_or(JoinHandle::is_finished) {
            *asking = Some(tokio::spawn(Arc::clone(self).commit(seen)));
        }
    }

    async fn commit(self: Arc<Self>, seen: Head) {
        let committed = timeout(COMMIT_LIMIT, async { self.pool.acquire().await?.execute(COMMIT_SOMETHING).await });
        let committed = committed.await.unwrap_or_else(|_| Err(silent()));
        // Whoever is told and wants to know still more begins a task of its own.
        *self.asking.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.known.send_modify(|known| {
            known.failed = committed.as_ref().err().map(|error| chain(error));
            known.up_to = if committed.is_ok() { seen.max(known.up_to) } else { known.up_to };
        });
    }
}
