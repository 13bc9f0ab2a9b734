//! The one binary: API, CLI, workers, audit, development services.
//!
//! This crate is the composition root: the real clock, randomness and every adapter are made here and
//! handed to the crates that decide and do. It owns no rule of the log, the archive or replication.

pub mod archive;
pub mod chain;
pub mod chance;
pub mod cli;
pub mod clock;
pub mod config;
pub mod demo;
pub mod dev;
pub mod groups;
pub mod heals;
pub mod http;
pub mod import;
pub mod node;
pub mod oidc;
pub mod serve;
pub mod spans;
pub mod subject;
pub mod telemetry;
pub mod tls;
pub mod tokens;
pub mod workers;
