//! What stands between the API and its log here: appends that wait to be let through, and reads that are told of them.

use std::time::Duration;

use async_trait::async_trait;
use domain::Head;
use domain::append::{AppendError, AppendRequest, Appended};
use domain::log::{EventLog, LogReader, ReadError};
use domain::twin::Between;
use tokio::sync::{Notify, Semaphore};

/// Each append waits here for a permit, and says that it has come; a read that waits is told of appends.
pub(super) struct Gate {
    pub(super) permits: Semaphore,
    pub(super) arrived: Semaphore,
    pub(super) news: Notify,
}

#[async_trait]
impl Between for Gate {
    async fn wait_beyond(&self, log: &dyn LogReader, seen: Head) -> Result<Head, ReadError> {
        let news = self.news.notified();
        if log.wait_beyond(seen).await? <= seen {
            // Either there is news or the time is up: the caller reads again in both cases.
            let _ = tokio::time::timeout(Duration::from_secs(1), news).await;
        }
        log.wait_beyond(seen).await
    }

    async fn append(&self, log: &dyn EventLog, request: AppendRequest) -> Result<Appended, AppendError> {
        self.arrived.add_permits(1);
        self.permits.acquire().await.expect("open").forget();
        let appended = log.append(request).await;
        self.news.notify_waiters();
        appended
    }
}
