//! The sending side: answers a follower's question for the records after its head. It keeps no state of the
//! follower; it remembers the tree where it last stopped, so that the next answer need not read what was sent.

use std::sync::Arc;

use domain::append::LogHead;
use domain::evidence::EvidenceError;
use domain::log::{Direction, ReadError};
use domain::merkle::Frontier;
use domain::record::Record;
use domain::{ErrorKind, Head, Position};
use thiserror::Error;
use tokio::sync::Mutex;

use crate::region::Region;
use crate::wire::{self, BATCH_BYTES_GOAL, BATCH_RECORDS_MAX, Envelope};

/// Why there is no batch.
#[derive(Debug, Error)]
pub enum ShipError {
    /// The follower has more than this log: one of the two has lost its past.
    #[error("this log ends at {head}, before {after}")]
    Ahead {
        /// What was asked for.
        after: Head,
        /// This log's head.
        head: Head,
    },
    /// The log was not read.
    #[error("the log was not read")]
    Read(#[from] ReadError),
    /// The tree is not known.
    #[error("the log's tree is not known")]
    Tree(#[from] EvidenceError),
    /// The clock or the compressor failed.
    #[error("the batch was not made: {0}")]
    Made(String),
}

impl ShipError {
    /// What the caller has to do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Ahead { .. } => ErrorKind::Conflict,
            Self::Read(error) => error.kind(),
            Self::Tree(error) => error.kind(),
            Self::Made(_) => ErrorKind::Unavailable,
        }
    }
}

/// Answers `GET /v1/replication/batch`. One for all requests.
pub struct Shipper {
    region: Arc<Region>,
    sent: Mutex<Frontier>,
}

impl Shipper {
    /// The shipper of a region.
    #[must_use]
    pub fn new(region: Arc<Region>) -> Self {
        Self { region, sent: Mutex::default() }
    }

    /// The batch after `after`: at most `limit` records. With nothing to send it waits about a second for
    /// something, then sends none: that too tells the follower where this region stands.
    ///
    /// # Errors
    /// A [`ShipError`]; it may be repeated.
    pub async fn batch(&self, after: Head, limit: usize) -> Result<Vec<u8>, ShipError> {
        let log = &self.region.history;
        // Head before records: a header may say less than there is, and never more.
        let mut head = log.log_head().await?;
        if head.head == after {
            log.wait_beyond(after).await?;
            head = log.log_head().await?;
        }
        if head.head < after {
            return Err(ShipError::Ahead { after, head: head.head });
        }
        let records = self.records(after, limit.clamp(1, BATCH_RECORDS_MAX), &head).await?;
        // Ids after records: those of an event are stored with it.
        let kept = self.kept(&records).await?;
        let before = self.frontier(after).await?;
        let clock = self.region.clock.now().await.map_err(|error| ShipError::Made(error.to_string()))?;
        let LogHead { head, epoch, role, log_id, .. } = head;
        let envelope = Envelope { log: log_id, epoch, role, head, clock, kept };
        let encoded = tokio::task::spawn_blocking(move || wire::encode(&envelope, &before, &records)).await;
        let (body, sent) = match encoded {
            Ok(Ok(encoded)) => encoded,
            Ok(Err(error)) => return Err(ShipError::Made(error.to_string())),
            Err(error) => return Err(ShipError::Made(error.to_string())),
        };
        *self.sent.lock().await = sent;
        Ok(body)
    }

    async fn records(&self, after: Head, limit: usize, head: &LogHead) -> Result<Vec<Record>, ShipError> {
        if head.head == after {
            return Ok(Vec::new());
        }
        let mut records = self.region.history.read_log(after.next(), Direction::Forward, limit).await?;
        let mut bytes = 0;
        let fitting = records.iter().take_while(|record| {
            let fits = bytes < BATCH_BYTES_GOAL && head.head.includes(record.position());
            bytes += rough_bytes(record);
            fits
        });
        let fitting = fitting.count();
        records.truncate(fitting);
        Ok(records)
    }

    async fn kept(&self, records: &[Record]) -> Result<Vec<Position>, ReadError> {
        let (Some(first), Some(last)) = (records.first(), records.last()) else { return Ok(Vec::new()) };
        self.region.log.kept_ids(first.position(), last.position()).await
    }

    async fn frontier(&self, size: Head) -> Result<Frontier, EvidenceError> {
        let sent = self.sent.lock().await.clone();
        if sent.size() == size { Ok(sent) } else { self.region.tree.frontier_at(size).await }
    }
}

fn rough_bytes(record: &Record) -> usize {
    match record {
        // What the log adds is below 300 bytes.
        Record::Event(event) => event.event.bytes() + 300,
        Record::Removed(_) => 1024,
    }
}
