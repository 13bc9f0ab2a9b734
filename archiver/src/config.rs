//! How the archiver is set up.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A segment's records are about this long at most, whatever is configured: index offsets and memory are
/// planned for it.
const SEGMENT_BYTES_MAX: u64 = 1 << 30;

/// Settings of the archiver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ArchiverConfig {
    /// A segment is cut when its records reach this many bytes. Larger ones mean fewer objects, and more memory
    /// and work lost when sealing is interrupted: about twice this much memory where nothing compresses.
    pub segment_bytes: u64,
    /// A segment is cut when its oldest record was recorded this many seconds ago, however small it is. A larger
    /// value keeps more events out of the archive for longer; a smaller one makes more and smaller objects.
    pub seal_after_seconds: u32,
    /// Cold reads keep at most this many bytes of indexes and decoded blocks in memory. Less costs requests.
    pub cache_bytes: usize,
}

impl Default for ArchiverConfig {
    fn default() -> Self {
        Self { segment_bytes: 64 << 20, seal_after_seconds: 600, cache_bytes: 64 << 20 }
    }
}

impl ArchiverConfig {
    /// Checks that the settings make sense together.
    ///
    /// # Errors
    /// Which one does not, and why.
    pub fn check(&self) -> Result<(), String> {
        if !(1..=SEGMENT_BYTES_MAX).contains(&self.segment_bytes) {
            return Err(format!("segment_bytes is between 1 and {SEGMENT_BYTES_MAX}"));
        }
        if self.seal_after_seconds == 0 {
            return Err("seal_after_seconds is at least 1: 0 would seal every event alone".into());
        }
        Ok(())
    }
}
