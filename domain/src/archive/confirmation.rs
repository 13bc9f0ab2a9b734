//! The confirmation: a region says that it holds a segment and has read it back (FORMAT.md §8).
//!
//! Pruning waits for one by a key that is not the sealing region's own (ARC-2).

use serde::{Deserialize, Serialize};

use super::catalog::Segment;
use super::manifest::check_segment;
use super::statement::{self, Statement};
use crate::Timestamp;
use crate::keys::KeyId;
use crate::spelling;

/// "I hold this segment and its index; I re-read both and found them right."
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Confirmation {
    /// [`statement::FORMAT`].
    pub format: u32,
    /// Name of the log.
    pub log: String,
    /// Name of the region, which is the name of its key.
    pub region: String,
    /// What it holds.
    pub segment: Segment,
    /// When it had read all of it back.
    #[serde(with = "spelling::text")]
    pub verified_at: Timestamp,
}

impl Statement for Confirmation {
    const WORD: &'static str = "confirmation";

    fn check(&self, signer: &KeyId) -> Result<(), String> {
        statement::check_common(self.format, &self.log)?;
        if self.region != signer.name() {
            return Err(format!("{:?} speaks for {:?}", signer.name(), self.region));
        }
        check_segment(&self.segment)
    }
}
