//! End to end on real clusters: promises, kills, golden bytes.

pub mod radosgw;
pub mod regions;
pub mod two_regions;
pub mod writers;
