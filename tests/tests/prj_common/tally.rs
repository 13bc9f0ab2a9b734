//! A view for tests: how many events each stream has, times a factor, with an event that it cannot fold if it is told.

use std::collections::BTreeMap;

use async_trait::async_trait;
use domain::Timestamp;
use domain::log::LogReader;
use domain::record::Record;
use projections::runner::Runner;
use projections::{ProjectionError, View, install};
use sqlx::{PgConnection, PgPool};

use super::Rig;

/// What a view does at the event that it cannot fold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It has none.
    None,
    /// Its fold refuses content.deleted.
    Refuses,
    /// Its fold panics at content.deleted.
    Panics,
    /// Its table refuses what the fold gives for content.deleted.
    Overflows,
}

/// The view. Fold n counts n for each event.
#[derive(Debug, Clone, Copy)]
pub struct Tally {
    pub name: &'static str,
    pub fold: i32,
    pub fault: Fault,
}

#[async_trait]
impl View for Tally {
    fn name(&self) -> &'static str {
        self.name
    }

    fn fold(&self) -> i32 {
        self.fold
    }

    fn tables(&self) -> &'static str {
        "CREATE TABLE tally (stream text PRIMARY KEY, events bigint NOT NULL)"
    }

    async fn apply(&self, tx: &mut PgConnection, records: &[Record], _: Timestamp) -> Result<(), ProjectionError> {
        for record in records {
            let odd = matches!(record, Record::Event(event) if event.event.event_type == "content.deleted");
            let by = match self.fault {
                Fault::Refuses if odd => return Err(ProjectionError::Refused { reason: "deleted".to_owned() }),
                Fault::Panics if odd => panic!("as a fault in the program would"),
                Fault::Overflows if odd => i64::MAX,
                _ => i64::from(self.fold),
            };
            let sql = "INSERT INTO tally AS known VALUES ($1, 1), ($2, $3) \
                ON CONFLICT (stream) DO UPDATE SET events = known.events + EXCLUDED.events";
            let done = sqlx::query(sql).bind("all").bind(record.stream().as_str()).bind(by).execute(&mut *tx).await;
            done.map_err(ProjectionError::database("count"))?;
        }
        Ok(())
    }

    async fn sweep(&self, _: &mut PgConnection, _: Timestamp) -> Result<(), ProjectionError> {
        Ok(())
    }
}

impl Tally {
    pub async fn installed(self, rig: &Rig) -> Self {
        install(rig.admin().await.as_owner().await.expect("the owner"), &self).await.expect("installed");
        self
    }

    pub fn runner(self, rig: &Rig) -> Runner<Self> {
        rig.runner_of(self)
    }

    /// Its rows.
    pub async fn rows(self, pool: &PgPool) -> BTreeMap<String, i64> {
        let sql = format!("SELECT stream, events FROM {}.tally", self.name);
        let rows: Vec<(String, i64)> = sqlx::query_as(&sql).fetch_all(pool).await.expect("readable");
        rows.into_iter().collect()
    }

    /// Its rows are those of the first `events` events of the log.
    pub async fn is_the_fold_of(self, rig: &Rig, events: usize) {
        let mut expected = BTreeMap::new();
        let log = rig.log.read_log(domain::Position::FIRST, domain::log::Direction::Forward, events).await;
        for record in log.expect("readable") {
            *expected.entry("all".to_owned()).or_default() += 1;
            *expected.entry(record.stream().as_str().to_owned()).or_default() += i64::from(self.fold);
        }
        assert_eq!(self.rows(&rig.pool).await, expected);
    }
}
