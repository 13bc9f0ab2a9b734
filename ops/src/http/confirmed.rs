//! `confirmed=true`: the log as far as the other region has it for certain, so that no failover, forced or not, takes back
//! what was read. Certain is what both have signed: the other region signs a checkpoint only once its own database holds as
//! many events and their tree agrees (EVD-1). A follower needs no signature: what it has came from the other region, and
//! whichever of the two goes on has it. The price is a delay of some rounds of replication.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use domain::append::{LogHead, Role, StreamHead};
use domain::archive::catalog::EvidenceStore;
use domain::filter::{Filter, Searched, SearchedTo};
use domain::log::{Direction, LogReader, ReadError};
use domain::record::{Lines, Record};
use domain::{Head, Position, StreamName, StreamVersion, Timestamp};
use event_log::Looks;
use futures::FutureExt;
use tokio::time::timeout;

/// While somebody waits for the other region's signature, it is looked for so often, for all who wait …
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// … and so long, before whoever waits is told that there is nothing.
const WAIT: Duration = Duration::from_secs(1);

/// The log, up to what is confirmed.
pub(super) struct ConfirmedLog {
    reader: Arc<dyn LogReader>,
    signed: Arc<Signed>,
    looks: Looks<Head>,
}

/// What both regions have signed.
struct Signed {
    evidence: Arc<dyn EvidenceStore>,
    /// What was confirmed when it was last asked for. It never becomes less: a log that is wound back keeps what both have.
    known: AtomicU64,
}

impl Signed {
    fn known(&self) -> Head {
        Head::new(self.known.load(Ordering::Relaxed)).unwrap_or(Head::EMPTY)
    }

    /// What is confirmed of a log with this head.
    async fn of(&self, head: &LogHead) -> Result<Head, ReadError> {
        let confirmed = if head.role == Role::Follower {
            head.head
        } else {
            let newest = self.evidence.newest_checkpoint(true).await;
            let newest = newest.map_err(|error| ReadError::Unavailable { reason: crate::chain::chain(&error) })?;
            newest.map_or(Head::EMPTY, |newest| newest.size).min(head.head)
        };
        let known = self.known.fetch_max(confirmed.get(), Ordering::Relaxed).max(confirmed.get());
        Ok(Head::new(known).unwrap_or(confirmed))
    }
}

impl ConfirmedLog {
    pub(super) fn new(reader: Arc<dyn LogReader>, evidence: Arc<dyn EvidenceStore>) -> Self {
        let signed = Arc::new(Signed { evidence, known: AtomicU64::new(0) });
        let asking = (Arc::clone(&reader), Arc::clone(&signed));
        let looks = Looks::new(LOOK_EVERY, move || {
            let (reader, signed) = asking.clone();
            async move { signed.of(&reader.log_head().await?).await }.boxed()
        });
        Self { reader, signed, looks }
    }

    /// The newest position that may be read; asks only for what is not known yet.
    async fn bound(&self, wanted: Head) -> Result<Head, ReadError> {
        let known = self.signed.known();
        if known >= wanted { Ok(known) } else { self.signed.of(&self.reader.log_head().await?).await }
    }

    /// How many records an answer from `from` on may have.
    async fn limit(&self, from: Position, direction: Direction, limit: usize) -> Result<usize, ReadError> {
        let last = match direction {
            Direction::Forward => from.get().saturating_add(u64::try_from(limit).unwrap_or(u64::MAX)),
            Direction::Backward => from.get(),
        };
        let bound = self.bound(Head::new(last).unwrap_or(from.as_head())).await?;
        let there = (bound.get() + 1).saturating_sub(from.get());
        Ok(match direction {
            Direction::Forward => limit.min(usize::try_from(there).unwrap_or(usize::MAX)),
            Direction::Backward if there == 0 => 0,
            Direction::Backward => limit,
        })
    }
}

#[async_trait]
impl LogReader for ConfirmedLog {
    async fn log_head(&self) -> Result<LogHead, ReadError> {
        let head = self.reader.log_head().await?;
        Ok(LogHead { head: self.signed.of(&head).await?, ..head })
    }

    async fn read_log(&self, from: Position, direction: Direction, limit: usize) -> Result<Vec<Record>, ReadError> {
        match self.limit(from, direction, limit).await? {
            0 => Ok(Vec::new()),
            limit => self.reader.read_log(from, direction, limit).await,
        }
    }

    async fn read_lines(&self, from: Position, limit: usize) -> Result<Lines, ReadError> {
        match self.limit(from, Direction::Forward, limit).await? {
            0 => Ok(Lines::default()),
            limit => self.reader.read_lines(from, limit).await,
        }
    }

    async fn search_log(
        &self,
        from: Position,
        direction: Direction,
        filter: &Filter,
        limit: usize,
    ) -> Result<Searched, ReadError> {
        if self.limit(from, direction, 1).await? == 0 {
            return Ok(Searched { records: Vec::new(), to: None });
        }
        let mut found = self.reader.search_log(from, direction, filter, limit).await?;
        let Some(to) = found.to else { return Ok(found) };
        let bound = self.bound(to.position.as_head()).await?;
        if let (false, Some(position)) = (bound.includes(to.position), bound.newest()) {
            found.records.retain(|record| bound.includes(record.position()));
            found.to = Some(SearchedTo { position, epoch: None });
        }
        Ok(found)
    }

    async fn read_stream(
        &self,
        stream: &StreamName,
        from: StreamVersion,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<Record>, ReadError> {
        self.reader.read_stream(stream, from, direction, limit).await
    }

    async fn stream_head(&self, stream: &StreamName) -> Result<Option<StreamHead>, ReadError> {
        self.reader.stream_head(stream).await
    }

    async fn streams(
        &self,
        category: &str,
        after: Option<&StreamName>,
        limit: usize,
    ) -> Result<Vec<(StreamName, StreamHead)>, ReadError> {
        self.reader.streams(category, after, limit).await
    }

    async fn find_event(&self, source: &str, id: &str) -> Result<Option<Position>, ReadError> {
        self.reader.find_event(source, id).await
    }

    async fn head_as_of(&self, at: Timestamp) -> Result<Head, ReadError> {
        self.reader.head_as_of(at).await
    }

    async fn wait_beyond(&self, seen: Head) -> Result<Head, ReadError> {
        if self.signed.known() > seen || self.reader.wait_beyond(seen).await? <= seen {
            return Ok(self.signed.known());
        }
        // It is there; the other region's word for it comes with some round.
        let waited = timeout(WAIT, async {
            let mut looks = self.looks.listen();
            loop {
                let confirmed = looks.next().await?;
                if confirmed > seen {
                    return Ok(confirmed);
                }
            }
        });
        waited.await.unwrap_or_else(|_| Ok(self.signed.known()))
    }
}
