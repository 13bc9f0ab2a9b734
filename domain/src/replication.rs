//! What a region knows of the other one and must still know after a restart: how much it may be missing.
//!
//! A forced failover states the newest head that it heard of, and when (REP-3). That is only worth something
//! if it survives the restart of the region that is to be promoted.

use async_trait::async_trait;

use crate::append::Role;
use crate::archive::catalog::CatalogError;
use crate::{Epoch, Head, Timestamp};

/// What the other region said of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// The epoch in force there.
    pub epoch: Epoch,
    /// Its head.
    pub head: Head,
    /// What it was. A draining region acknowledges nothing any more, so its head is final.
    pub role: Role,
    /// When that was, by this region's clock.
    pub at: Timestamp,
}

/// Keeps the newest that was heard of the other region.
#[async_trait]
pub trait PeerMemory: Send + Sync {
    /// The newest that was heard; `None` if nothing ever was.
    async fn heard(&self) -> Result<Option<Heard>, CatalogError>;

    /// Keeps `heard`, durably, unless its (epoch, head) is lower than the one kept: what the other region once
    /// acknowledged does not become less because it now says so. An equal one moves role and instant.
    async fn hear(&self, heard: Heard) -> Result<(), CatalogError>;
}
