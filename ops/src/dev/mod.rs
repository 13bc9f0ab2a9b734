//! Development services that the demo and the end-to-end tests run on: private PostgreSQL clusters
//! and an S3 endpoint served from a folder. Both are real and durable: what they acknowledge survives
//! a kill. They listen on 127.0.0.1 only and must never be used to serve anybody else.

pub mod kill_at;
pub mod object_server;
pub mod postgres;
pub mod process;
pub mod region;

pub use object_server::{Credentials, ObjectServer, ObjectServerError};
pub use postgres::{PostgresCluster, PostgresError, PostgresOptions};
pub use process::{Guardian, Server};
pub use region::Region;
