//! The wire between the regions: requests and answers as bytes, which can be lost, cut, changed, doubled, late or
//! from another time; and the operator's line to a region. It never looks into what it carries.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use domain::{ErrorKind, Head};
use futures::future::BoxFuture;
use replication::failover::{self, FailoverError, Promote, Promoted, RegionAdmin};
use replication::{Peer, PeerError, Standing, cosign};

use crate::life::{Dice, Life};
use crate::world::{Process, Site};

/// A batch as it crosses the wire has at most this many records: many batches in a short log.
const BATCH_RECORDS: usize = 40;
/// How many old messages the wire can bring again.
const KEPT_MESSAGES: usize = 8;

/// What connects the two regions.
pub(crate) struct Wire {
    peers: AtomicBool,
    buckets: AtomicBool,
    faults: Arc<Dice>,
    batches: Mutex<Vec<Vec<u8>>>,
    notes: Mutex<Vec<String>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    LostRequest,
    LostReply,
    Twice,
    /// An answer or a message of another time comes instead or too.
    Old,
    Cut,
    Flip,
}

const FAULTS: [Fault; 6] = [Fault::LostRequest, Fault::LostReply, Fault::Twice, Fault::Old, Fault::Cut, Fault::Flip];

impl Wire {
    pub(crate) fn new(faults: Arc<Dice>) -> Arc<Self> {
        let up = || AtomicBool::new(true);
        Arc::new(Self { peers: up(), buckets: up(), faults, batches: Mutex::default(), notes: Mutex::default() })
    }

    pub(crate) fn set(&self, peers: bool, buckets: bool) {
        self.peers.store(peers, Ordering::SeqCst);
        self.buckets.store(buckets, Ordering::SeqCst);
    }

    pub(crate) fn reaches_peers(&self) -> bool {
        self.peers.load(Ordering::SeqCst)
    }

    pub(crate) fn reaches_buckets(&self) -> bool {
        self.buckets.load(Ordering::SeqCst)
    }

    fn fault(&self) -> Option<Fault> {
        self.faults.is_hit().then(|| FAULTS[self.faults.below(FAULTS.len())])
    }

    /// Keeps a message, and returns one that was kept at some time.
    fn exchange<T: Clone>(&self, kept: &Mutex<Vec<T>>, message: &T) -> T {
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == KEPT_MESSAGES {
            kept.remove(0);
        }
        kept.push(message.clone());
        kept[self.faults.below(kept.len())].clone()
    }
}

fn silent(reason: &str) -> PeerError {
    PeerError::Unavailable { reason: reason.into() }
}

fn refused(error: &dyn std::error::Error, kind: ErrorKind) -> PeerError {
    PeerError::Refused { kind, detail: error.to_string() }
}

/// The other region, as a process asks it.
pub(crate) struct SimPeer {
    pub(crate) life: Arc<Life>,
    pub(crate) site: Arc<Site>,
    pub(crate) wire: Arc<Wire>,
}

impl SimPeer {
    /// One request and its answer.
    async fn ask<T>(
        &self,
        call: impl Fn(Arc<Process>) -> BoxFuture<'static, Result<T, PeerError>>,
    ) -> Result<(T, Option<Fault>), PeerError> {
        self.life.pass().await;
        let fault = self.wire.fault();
        if !self.wire.reaches_peers() || fault == Some(Fault::LostRequest) {
            return Err(silent("the request was lost"));
        }
        let process = self.site.serving().ok_or_else(|| silent("connection refused"))?;
        let died = || silent("the connection was reset");
        let answer = process.life.guard(call(process.clone())).await.ok_or_else(died)?;
        if fault == Some(Fault::Twice) {
            // The second answer is the one that arrives.
            return Ok((process.life.guard(call(process.clone())).await.ok_or_else(died)??, fault));
        }
        // The way back is long: much may happen on it.
        self.life.pass().await;
        if !self.wire.reaches_peers() || fault == Some(Fault::LostReply) {
            return Err(silent("the answer was lost"));
        }
        Ok((answer?, fault))
    }
}

#[async_trait]
impl Peer for SimPeer {
    async fn standing(&self, with_root: bool) -> Result<Standing, PeerError> {
        let (json, _) = self
            .ask(|process| {
                Box::pin(async move {
                    match failover::standing(&process.region, with_root).await {
                        Ok(standing) => Ok(serde_json::to_vec(&standing).expect("a standing is JSON")),
                        Err(error) => Err(refused(&error, error.kind())),
                    }
                })
            })
            .await?;
        serde_json::from_slice(&json).map_err(|error| silent(&error.to_string()))
    }

    async fn batch(&self, after: Head, limit: usize) -> Result<Vec<u8>, PeerError> {
        let (mut body, fault) = self
            .ask(|process| {
                Box::pin(async move {
                    let batch = process.shipper.batch(after, limit.min(BATCH_RECORDS)).await;
                    batch.map_err(|error| refused(&error, error.kind()))
                })
            })
            .await?;
        let other = self.wire.exchange(&self.wire.batches, &body);
        let middle = body.len() / 2;
        match fault {
            Some(Fault::Old) => return Ok(other),
            Some(Fault::Cut) => body.truncate(middle),
            Some(Fault::Flip) => body[middle] ^= 1,
            _ => {}
        }
        Ok(body)
    }

    async fn waiting_checkpoint(&self) -> Result<Option<String>, PeerError> {
        let (note, _) = self
            .ask(|process| {
                Box::pin(async move {
                    let waiting = cosign::waiting(&process.region).await;
                    waiting.map_err(|error| refused(&error, error.kind()))
                })
            })
            .await?;
        Ok(note)
    }

    async fn deliver_cosignature(&self, note: &str) -> Result<(), PeerError> {
        let other = self.wire.exchange(&self.wire.notes, &note.to_owned());
        let ((), fault) = self.ask(|process| accept(process, note.to_owned())).await?;
        if fault == Some(Fault::Old) {
            // One that was sent before arrives after it; nobody waits for the answer to that.
            drop(self.ask(|process| accept(process, other.clone())).await);
        }
        Ok(())
    }
}

fn accept(process: Arc<Process>, note: String) -> BoxFuture<'static, Result<(), PeerError>> {
    Box::pin(async move {
        let accepted = cosign::accept(&process.region, &note).await;
        accepted.map_err(|error| refused(&error, error.kind()))
    })
}

/// A region as its operator asks it: over a line that loses requests and answers, too.
pub(crate) struct Line {
    pub(crate) site: Arc<Site>,
    pub(crate) faults: Arc<Dice>,
}

impl Line {
    async fn ask<T>(
        &self,
        call: impl FnOnce(Arc<Process>) -> BoxFuture<'static, Result<T, FailoverError>>,
    ) -> Result<T, FailoverError> {
        let process = self.site.serving().ok_or_else(|| silent("connection refused"))?;
        if self.faults.is_hit() {
            return Err(silent("the request was lost").into());
        }
        let answer =
            process.life.guard(call(process.clone())).await.ok_or_else(|| silent("the connection was reset"))?;
        if self.faults.is_hit() {
            return Err(silent("the answer was lost").into());
        }
        answer
    }
}

#[async_trait]
impl RegionAdmin for Line {
    async fn standing(&self) -> Result<Standing, FailoverError> {
        self.ask(|process| Box::pin(async move { failover::standing(&process.region, true).await })).await
    }

    async fn drain(&self) -> Result<Standing, FailoverError> {
        self.ask(|process| Box::pin(async move { failover::drain(&process.region).await })).await
    }

    async fn promote(&self, request: &Promote) -> Result<Promoted, FailoverError> {
        let request = request.clone();
        self.ask(|process| Box::pin(async move { failover::promote(&process.region, &request).await })).await
    }

    async fn step_down(&self) -> Result<Standing, FailoverError> {
        self.ask(|process| Box::pin(async move { failover::step_down(&process.region).await })).await
    }

    async fn resume(&self) -> Result<Standing, FailoverError> {
        self.ask(|process| Box::pin(async move { failover::resume(&process.region).await })).await
    }

    async fn confirm(&self) -> Result<Standing, FailoverError> {
        self.ask(|process| Box::pin(async move { failover::confirm(&process.region).await })).await
    }
}
