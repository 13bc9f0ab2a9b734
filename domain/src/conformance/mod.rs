//! One suite a port, passed by the twin in memory and by every real adapter.

pub mod catalog;
pub mod conditions;
pub mod groups;
pub mod log;
pub mod peer;
pub mod persistence;
pub mod search;
