//! From postgres-es to Coldstream: the aggregate stays, one constructor changes. To copy; test:
//! tests/import_postgres_es.rs, which also brings the events along with `coldstream import-postgres-es`.

use std::convert::Infallible;
use std::num::NonZeroUsize;
use std::sync::Arc;

use cqrs_es::event_sink::EventSink;
use cqrs_es::{Aggregate, DomainEvent};
use domain::cqrs::snapshot::Snapshots;
use domain::cqrs::{ColdstreamCqrs, PayloadForm, Wiring, coldstream_snapshot_cqrs};
use domain::log::LogReader;
use event_log::PgLog;
use postgres_es::{PostgresCqrs, postgres_snapshot_cqrs};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use uuid::Uuid;

/// Before: postgres-es's own tables, a snapshot at every tenth event.
pub fn before(pool: PgPool) -> PostgresCqrs<Account> {
    postgres_snapshot_cqrs(pool, Vec::new(), 10, ())
}

/// After: the log, and the archive behind it, which `reader` reads as one (`domain::tiered::TieredLog`).
/// `ops::node::Node::open` opens both as the servers' configuration says.
pub fn after(log: Arc<PgLog>, reader: Arc<dyn LogReader>) -> ColdstreamCqrs<Account> {
    let snapshots = Snapshots::new(log.clone(), NonZeroUsize::new(10).expect("not 0"), "1");
    coldstream_snapshot_cqrs(wiring(log, reader), Vec::new(), snapshots, ())
}

/// What the framework stands on, in the place of the pool.
pub fn wiring(log: Arc<PgLog>, reader: Arc<dyn LogReader>) -> Wiring {
    #[expect(clippy::disallowed_methods, reason = "a service makes its own ids")]
    let new_id = || Uuid::now_v7().to_string();
    Wiring {
        log,
        reader,
        new_id: Arc::new(new_id),
        spawn: Arc::new(|task| drop(tokio::spawn(task))),
        source: "/services/accounts".to_owned(),
        payload: PayloadForm::AsStored,
    }
}

/// The aggregate, as postgres-es had it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Account {
    /// Who it belongs to.
    pub owner: String,
    /// What is in it.
    pub cents: i64,
    /// How often something was paid in.
    pub payments: u32,
    /// Whether it is closed.
    pub closed: bool,
}

/// What happened to an account.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum AccountEvent {
    /// It is there.
    Opened {
        /// Whose it is.
        owner: String,
    },
    /// Something was paid in.
    PaidIn {
        /// How much.
        cents: i64,
    },
    /// It is no more.
    Closed,
}

/// What can be asked of an account.
#[derive(Debug, Clone)]
pub enum AccountCommand {
    /// Open it.
    Open {
        /// Whose it is to be.
        owner: String,
    },
    /// Pay these sums in, an event each.
    PayIn {
        /// How much, each.
        cents: Vec<i64>,
    },
    /// Close it.
    Close,
}

impl DomainEvent for AccountEvent {
    fn event_type(&self) -> String {
        let name = match self {
            Self::Opened { .. } => "AccountOpened",
            Self::PaidIn { .. } => "AccountPaidIn",
            Self::Closed => "AccountClosed",
        };
        name.to_owned()
    }

    fn event_version(&self) -> String {
        "1.0".to_owned()
    }
}

impl Aggregate for Account {
    const TYPE: &'static str = "Account";
    type Command = AccountCommand;
    type Event = AccountEvent;
    type Error = Infallible;
    type Services = ();

    async fn handle(&mut self, command: AccountCommand, _: &(), sink: &EventSink<Self>) -> Result<(), Infallible> {
        match command {
            AccountCommand::Open { owner } => sink.write(AccountEvent::Opened { owner }, self).await,
            AccountCommand::PayIn { cents } => {
                for cents in cents {
                    sink.write(AccountEvent::PaidIn { cents }, self).await;
                }
            }
            AccountCommand::Close => sink.write(AccountEvent::Closed, self).await,
        }
        Ok(())
    }

    fn apply(&mut self, event: AccountEvent) {
        match event {
            AccountEvent::Opened { owner } => self.owner = owner,
            AccountEvent::PaidIn { cents } => {
                self.cents += cents;
                self.payments += 1;
            }
            AccountEvent::Closed => self.closed = true,
        }
    }
}
