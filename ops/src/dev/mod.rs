//! Development services that the demo and the end-to-end tests run on: private PostgreSQL clusters
//! and an S3 endpoint served from a folder. Both are real and durable: what they acknowledge survives
//! a kill. They listen on 127.0.0.1 only and must never be used to serve anybody else.

pub mod postgres;

pub use postgres::{PostgresCluster, PostgresError, PostgresOptions};
