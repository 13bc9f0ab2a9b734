//! What was heard of the other region, in memory.

use async_trait::async_trait;

use super::log::MemoryLog;
use crate::archive::catalog::CatalogError;
use crate::replication::{Heard, PeerMemory};

#[async_trait]
impl PeerMemory for MemoryLog {
    async fn heard(&self) -> Result<Option<Heard>, CatalogError> {
        Ok(self.state().heard)
    }

    async fn hear(&self, heard: Heard) -> Result<(), CatalogError> {
        let mut state = self.state();
        if state.heard.is_none_or(|kept| (kept.epoch, kept.head) <= (heard.epoch, heard.head)) {
            state.heard = Some(heard);
        }
        Ok(())
    }
}
