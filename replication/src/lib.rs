//! Follow, cosign, mirror, fence, switch over and fail over: two regions that keep one log.
//!
//! Both regions run all of this; what a part does depends on the region's role at that moment, so that the
//! stream turns round by a change of role alone.
//!
//! | module | the active region | the follower |
//! |---|---|---|
//! | [`ship`] / [`follow`] | answers `GET /v1/replication/batch` | pulls, verifies, applies (REP-1) |
//! | [`mirror`], [`confirm`] | reads the other's confirmations (ARC-2) | copies the archive, verifies, confirms |
//! | [`cosign`] | signs the log's root, publishes what comes back | compares, cosigns (EVD-1) |
//! | [`fence`], [`claim`] | steps down for a newer epoch | adopts it (LOG-5, REP-2) |
//! | [`failover`] | stops appends for a switchover | claims the epoch and takes over (REP-3) |
//!
//! Everything pulls: a region asks its peer over [`peer`] and never writes into the peer's database or bucket,
//! but for the claim of an epoch. Every round can be repeated. It never decides where an event stands, and it
//! never applies, confirms or cosigns what it has not compared.

pub mod claim;
pub mod confirm;
pub mod cosign;
pub mod failover;
pub mod fence;
pub mod follow;
mod listing;
pub mod mirror;
pub mod peer;
pub mod region;
pub mod ship;
pub mod wire;

#[cfg(test)]
mod testing;

pub use peer::{Peer, PeerClient, PeerError, Standing};
pub use region::Region;
