//! The ports in memory: for unit tests and for models that the real adapters are compared with.
//! Never for anything that has to survive: nothing here does.

mod catalog;
mod log;
mod peer;
mod store;

pub use log::MemoryLog;
pub use store::MemoryStore;
