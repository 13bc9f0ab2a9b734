//! End to end on real clusters: promises, kills, golden bytes.

pub mod radosgw;
pub mod two_regions;
pub mod writers;
