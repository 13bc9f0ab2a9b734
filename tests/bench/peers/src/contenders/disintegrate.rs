//! disintegrate-postgres as its users call it: a decision over a state of one stream, validated by the query that it
//! read, SERIALIZABLE. A decision that fails its validation or PostgreSQL's is made again, and counted. Its tables are
//! made by a copy of its own SQL, because its own needs PostgreSQL 16.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::sync::Arc;

use async_trait::async_trait;
use disintegrate::serde::json::Json;
use disintegrate::{Decision, Event, NoSnapshot, StateMutate, StateQuery};
use disintegrate_postgres::{PgDecisionMaker, PgEventStore, decision_maker};
use serde::{Deserialize, Serialize};
use sqlx::{Executor, PgPool};

use super::{Contender, default_pool};
use crate::error::{BenchError, append, rig};
use crate::events::{Course, METADATA_MEMBER, Texts, object};
use crate::peer::{AFTER_REFUSAL, Answered, Peer, Writer};
use crate::rig::{Database, Rig};

/// serialization_failure: two transactions that PostgreSQL cannot put into an order.
const SERIALIZATION_FAILURE: &str = "40001";

#[derive(Debug, Clone, PartialEq, Eq, Event, Serialize, Deserialize)]
enum BenchEvent {
    Happened {
        #[id]
        stream: String,
        text: String,
        metadata: String,
    },
}

#[derive(Debug, Default, Clone, StateQuery, Serialize, Deserialize)]
#[state_query(BenchEvent)]
struct Bench {
    #[id]
    stream: String,
    happened: u64,
}

impl StateMutate for Bench {
    fn mutate(&mut self, _: BenchEvent) {
        self.happened += 1;
    }
}

struct Happen {
    stream: String,
    events: Vec<BenchEvent>,
}

impl Decision for Happen {
    type Event = BenchEvent;
    type StateQuery = Bench;
    type Error = Infallible;

    fn state_query(&self) -> Bench {
        Bench { stream: self.stream.clone(), happened: 0 }
    }

    fn process(&self, _: &Bench) -> Result<Vec<BenchEvent>, Infallible> {
        Ok(self.events.clone())
    }
}

type Maker = PgDecisionMaker<BenchEvent, Json<BenchEvent>, NoSnapshot>;

/// The decision maker on its own tables.
pub(super) struct Disintegrate {
    rig: Arc<Rig>,
    database: Database,
    pool: PgPool,
    maker: Maker,
    texts: Arc<Texts>,
}

impl Disintegrate {
    pub(super) async fn start(rig: Arc<Rig>, texts: Arc<Texts>) -> Result<Self, BenchError> {
        let database = rig.database().await?;
        let pool = default_pool(&database.url).await?;
        let made = pool.execute(include_str!("../sql/disintegrate.sql")).await;
        made.map_err(self::rig("making disintegrate's tables"))?;
        let store = PgEventStore::new_uninitialized(pool.clone(), Json::default());
        let maker = decision_maker(store, NoSnapshot);
        Ok(Self { rig, database, pool, maker, texts })
    }
}

#[async_trait]
impl Peer for Disintegrate {
    fn name(&self) -> &'static str {
        Contender::Disintegrate.name()
    }

    async fn writer(&self) -> Result<Box<dyn Writer>, BenchError> {
        let (maker, texts) = (self.maker.clone(), Arc::clone(&self.texts));
        Ok(Box::new(DisintegrateWriter { maker, texts, course: Course::new() }))
    }

    fn processes(&self) -> Vec<u32> {
        self.rig.postgres()
    }

    async fn end(self: Box<Self>) -> Result<(), BenchError> {
        self.pool.close().await;
        self.rig.drop_database(&self.database).await
    }
}

struct DisintegrateWriter {
    maker: Maker,
    texts: Arc<Texts>,
    course: Course,
}

#[async_trait]
impl Writer for DisintegrateWriter {
    async fn append(&mut self, events: usize) -> Result<Answered, BenchError> {
        let stream = self.course.stream().to_owned();
        let event = |index| BenchEvent::Happened {
            stream: stream.clone(),
            text: self.texts.payload(index).to_owned(),
            metadata: object(METADATA_MEMBER, self.texts.metadata(index)),
        };
        let events_made = (0..events).map(event).collect();
        match self.maker.make(Happen { stream, events: events_made }).await {
            Ok(_) => {
                self.course.acknowledged(events);
                Ok(Answered::Durable)
            }
            Err(error) if passes(&error) => Ok(Answered::Refused(AFTER_REFUSAL)),
            Err(error) => Err(append(Contender::Disintegrate.name())(error)),
        }
    }
}

/// Whether deciding again is the answer that the crate's documentation gives.
fn passes(error: &(dyn StdError + 'static)) -> bool {
    let mut chain = std::iter::successors(Some(error), |error: &&(dyn StdError + 'static)| (*error).source());
    chain.any(|error| {
        if let Some(disintegrate_postgres::Error::Concurrency) = error.downcast_ref() {
            return true;
        }
        let transparent = error.downcast_ref().and_then(|error| match error {
            disintegrate_postgres::Error::Database(database) => Some(database),
            _ => None,
        });
        let database = transparent.or_else(|| error.downcast_ref::<sqlx::Error>());
        let code = database.and_then(|error| error.as_database_error()).and_then(|error| error.code());
        code.as_deref() == Some(SERIALIZATION_FAILURE)
    })
}
