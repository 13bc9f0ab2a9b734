//! postgres-es as it comes: its own tables, its pool, `CqrsFramework::execute` on an aggregate of almost no state.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;

use async_trait::async_trait;
use cqrs_es::event_sink::EventSink;
use cqrs_es::{Aggregate, AggregateError, DomainEvent};
use postgres_es::{PostgresCqrs, postgres_cqrs};
use serde::{Deserialize, Serialize};
use sqlx::{Executor, PgPool};

use super::{Contender, default_pool};
use crate::error::{BenchError, append, rig};
use crate::events::{CATEGORY, Course, EVENT_TYPE, METADATA_MEMBER, Texts};
use crate::peer::{AFTER_REFUSAL, Answered, Peer, Writer};
use crate::rig::{Database, Rig};

#[derive(Debug, Default, Serialize, Deserialize)]
struct Bench {
    happened: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Happened {
    text: String,
}

impl DomainEvent for Happened {
    fn event_type(&self) -> String {
        EVENT_TYPE.into()
    }

    fn event_version(&self) -> String {
        "1".into()
    }
}

impl Aggregate for Bench {
    const TYPE: &'static str = CATEGORY;
    type Command = Vec<Happened>;
    type Event = Happened;
    type Error = Infallible;
    type Services = ();

    async fn handle(&mut self, command: Vec<Happened>, _: &(), sink: &EventSink<Self>) -> Result<(), Infallible> {
        for event in command {
            sink.write(event, self).await;
        }
        Ok(())
    }

    fn apply(&mut self, _: Happened) {
        self.happened += 1;
    }
}

/// The framework on its own tables.
pub(super) struct PostgresEs {
    rig: Arc<Rig>,
    database: Database,
    pool: PgPool,
    texts: Arc<Texts>,
}

impl PostgresEs {
    pub(super) async fn start(rig: Arc<Rig>, texts: Arc<Texts>) -> Result<Self, BenchError> {
        let database = rig.database().await?;
        let pool = default_pool(&database.url).await?;
        pool.execute(include_str!("../sql/postgres_es.sql")).await.map_err(self::rig("making postgres-es's tables"))?;
        Ok(Self { rig, database, pool, texts })
    }
}

#[async_trait]
impl Peer for PostgresEs {
    fn name(&self) -> &'static str {
        Contender::PostgresEs.name()
    }

    async fn writer(&self) -> Result<Box<dyn Writer>, BenchError> {
        let cqrs = postgres_cqrs::<Bench>(self.pool.clone(), Vec::new(), ());
        Ok(Box::new(PostgresEsWriter { cqrs, texts: Arc::clone(&self.texts), course: Course::new() }))
    }

    fn processes(&self) -> Vec<u32> {
        self.rig.postgres()
    }

    async fn end(self: Box<Self>) -> Result<(), BenchError> {
        self.pool.close().await;
        self.rig.drop_database(&self.database).await
    }
}

struct PostgresEsWriter {
    cqrs: PostgresCqrs<Bench>,
    texts: Arc<Texts>,
    course: Course,
}

#[async_trait]
impl Writer for PostgresEsWriter {
    async fn append(&mut self, events: usize) -> Result<Answered, BenchError> {
        let command = (0..events).map(|index| Happened { text: self.texts.payload(index).to_owned() }).collect();
        // The framework gives all events of a command the same metadata.
        let metadata = HashMap::from([(METADATA_MEMBER.to_owned(), self.texts.metadata(0).to_owned())]);
        match self.cqrs.execute_with_metadata(self.course.stream(), command, metadata).await {
            Ok(()) => {
                self.course.acknowledged(events);
                Ok(Answered::Durable)
            }
            Err(AggregateError::AggregateConflict) => Ok(Answered::Refused(AFTER_REFUSAL)),
            Err(error) => Err(append(Contender::PostgresEs.name())(error)),
        }
    }
}
