//! The claim of an epoch: a region says that it was promoted, and from where on (FORMAT.md §9).
//!
//! It is created only if absent, in every bucket that the promotion reaches: who comes second has lost.

use serde::{Deserialize, Serialize};

use super::statement::{self, Statement};
use crate::keys::KeyId;
use crate::spelling;
use crate::{Epoch, Head, Timestamp};

/// "From this position on, the log is mine."
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EpochClaim {
    /// [`statement::FORMAT`].
    pub format: u32,
    /// Name of the log.
    pub log: String,
    /// The epoch claimed.
    #[serde(with = "spelling::text")]
    pub epoch: Epoch,
    /// The newest epoch known at the promotion; `None` for the log's first.
    #[serde(with = "spelling::text_or_null")]
    pub previous: Option<Epoch>,
    /// Name of the region, which is the name of its key.
    pub region: String,
    /// The region's head at the promotion: the newest position that it shares with the older epoch.
    #[serde(with = "spelling::text")]
    pub fork: Head,
    /// When.
    #[serde(with = "spelling::text")]
    pub time: Timestamp,
}

impl Statement for EpochClaim {
    const WORD: &'static str = "epoch";

    fn check(&self, signer: &KeyId) -> Result<(), String> {
        statement::check_common(self.format, &self.log)?;
        if self.region != signer.name() {
            return Err(format!("{:?} claims for {:?}", signer.name(), self.region));
        }
        if self.previous.is_some_and(|previous| previous >= self.epoch) {
            return Err("an epoch grows with each promotion".into());
        }
        Ok(())
    }
}
