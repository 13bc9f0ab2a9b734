//! The ports in memory: for unit tests and for models that the real adapters are compared with.
//! Never for anything that has to survive: nothing here does.

mod archive;
mod between;
mod catalog;
mod conditions;
mod groups;
mod log;
mod peer;
mod store;

pub use archive::MemoryArchive;
pub use between::{Between, Interposed};
pub use groups::MemoryGroups;
pub use log::MemoryLog;
pub use store::MemoryStore;
