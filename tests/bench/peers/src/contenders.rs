//! Who is measured, and what each of them promises with its acknowledgement. It owns no measuring.
//!
//! | peer | an acknowledgement says | checks made for it | what differs |
//! |---|---|---|---|
//! | Coldstream, library | durable, dense position | stream version, (source, id) stored once, epoch | shares a process with the load generator |
//! | Coldstream, HTTP | the same | the same, and the token | its server folds, seals and signs meanwhile; a cluster of its own with the same settings |
//! | postgres-es | durable | stream version | loads the aggregate before each command; no order over the log, no ids |
//! | plain INSERT | durable | none but the unique indexes | its own load generator (pgbench), which sends one payload for all rows; holes in the order |
//! | disintegrate-postgres | durable | nothing that its decision read has changed (SERIALIZABLE) | loads the state before each decision; metadata is part of the payload; its tables by a copy of its SQL, which needs PostgreSQL 16 as it is |
//! | UmaDB | durable, dense position | append condition over the stream's tag | its own storage on the same disk, no PostgreSQL |
//!
//! Every writer has streams of its own, a new one every few requests, so a conflict is the peer's, not the load's.
//! Databases reached through a pool use the pool's default of ten connections, as their users do.

mod coldstream;
mod disintegrate;
mod http;
mod postgres_es;
mod umadb;

use std::sync::Arc;

use clap::ValueEnum;
use serde::Serialize;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

use crate::error::{BenchError, rig};
use crate::events::Texts;
use crate::peer::Peer;
use crate::rig::Rig;

/// Everybody in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Contender {
    /// `event_log::PgLog::append`.
    Library,
    /// `POST /v1/append` of a server in its own process.
    Http,
    /// `CqrsFramework::execute` on a `PostgresEventRepository`.
    PostgresEs,
    /// A multi-row INSERT by pgbench.
    PlainInsert,
    /// `DecisionMaker::make` on a `PgEventStore`.
    Disintegrate,
    /// `append` by gRPC to UmaDB's own server.
    Umadb,
}

impl Contender {
    /// In the table's order.
    pub(crate) const ALL: [Self; 6] =
        [Self::Library, Self::Http, Self::PostgresEs, Self::PlainInsert, Self::Disintegrate, Self::Umadb];

    /// Its name in tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Library => "Coldstream, library",
            Self::Http => "Coldstream, HTTP",
            Self::PostgresEs => "postgres-es",
            Self::PlainInsert => "plain INSERT (pgbench)",
            Self::Disintegrate => "disintegrate-postgres",
            Self::Umadb => "UmaDB",
        }
    }

    /// Starts it with nothing stored; `None` for the one that brings its own load generator ([`crate::pgbench`]).
    ///
    /// # Errors
    /// If it does not start.
    pub(crate) async fn start(self, rig: &Arc<Rig>, texts: &Arc<Texts>) -> Result<Option<Box<dyn Peer>>, BenchError> {
        let (rig, texts) = (Arc::clone(rig), Arc::clone(texts));
        Ok(Some(match self {
            Self::Library => Box::new(coldstream::Library::start(rig, texts).await?),
            Self::Http => Box::new(http::Http::start(&rig, texts).await?),
            Self::PostgresEs => Box::new(postgres_es::PostgresEs::start(rig, texts).await?),
            Self::PlainInsert => return Ok(None),
            Self::Disintegrate => Box::new(disintegrate::Disintegrate::start(rig, texts).await?),
            Self::Umadb => Box::new(umadb::UmaDb::start(&rig, texts).await?),
        }))
    }
}

/// As many connections as sqlx, and so postgres-es and disintegrate, open unless told otherwise.
async fn default_pool(url: &str) -> Result<PgPool, BenchError> {
    PgPoolOptions::new().max_connections(10).connect(url).await.map_err(rig("opening a pool"))
}
