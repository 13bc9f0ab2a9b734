//! The one binary: API, CLI, workers, audit, development services.

pub mod dev;
