//! What a peer is to the load generator: writers that append and return once the append is durable. It must never know
//! how a peer does it.

use std::time::Duration;

use async_trait::async_trait;

use crate::error::BenchError;

/// What became of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answered {
    /// All of it is durable.
    Durable,
    /// The peer refused it for a reason that passes (a conflict that it sees with a writer of another stream, a full
    /// queue): nothing is stored, and the same request follows after this time. Its latency goes on from the first attempt.
    Refused(Duration),
}

/// How long a writer waits after a refusal where the peer does not say for how long.
pub(crate) const AFTER_REFUSAL: Duration = Duration::from_millis(1);

/// One client, with one request under way at a time.
#[async_trait]
pub(crate) trait Writer: Send {
    /// Appends `events` new events in one request. Returns when the peer has said that they are durable.
    ///
    /// # Errors
    /// Whatever does not pass by asking again; it ends the run.
    async fn append(&mut self, events: usize) -> Result<Answered, BenchError>;
}

/// An event store that runs, with nothing stored yet unless it was filled on purpose.
#[async_trait]
pub(crate) trait Peer: Send + Sync {
    /// Its name in tables.
    fn name(&self) -> &'static str;

    /// A new client of it.
    ///
    /// # Errors
    /// If it cannot be reached.
    async fn writer(&self) -> Result<Box<dyn Writer>, BenchError>;

    /// The processes that do its work outside of the load generator, their children included.
    fn processes(&self) -> Vec<u32>;

    /// Ends what it started.
    ///
    /// # Errors
    /// If something of it does not end.
    async fn end(self: Box<Self>) -> Result<(), BenchError>;
}
