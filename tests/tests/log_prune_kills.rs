//! ARC-1 inside one prune: head and partition in one transaction, the table in another, its ids in a third, its tags in a
//! fourth. Whoever is killed with SIGKILL between any two of them, or in the middle of the first, and whether it is the
//! server or PostgreSQL: the month is live as a whole or archived as a whole, and the next run finishes the work.

use domain::Timestamp;
use domain::event::{Extension, ExtensionValue, TAGS_EXTENSION};
use event_log::PgLog;
use ops::dev::kill_at::VARIABLE;
use ops::dev::region::Region;
use sqlx::postgres::PgConnection;
use sqlx::{Connection, Executor, Row};
use system_tests::regions::{Api, History, Setting, Truth, append, at, is_whole, number, open, seed, single, until};
use tempfile::TempDir;

const EVENTS_A_MONTH: usize = 200;
const STREAMS: usize = 20;

/// What the database has of a month.
#[derive(Debug, PartialEq, Eq)]
struct Kept {
    pruned: i64,
    /// Whether its partition is noted as detached; `None`: it is not noted any more.
    detached: Option<bool>,
    is_attached: bool,
    has_table: bool,
    has_ids: bool,
    /// Whether a tag of an event of it is there that has a newer one among what is pruned.
    has_tags: bool,
}

/// A region, the month whose time is over, and the positions before it and at its end.
struct Rig {
    region: Region,
    log: PgLog,
    history: History,
    truth: Truth,
    /// The month that was filled last.
    month: Timestamp,
    due: (Timestamp, i64, i64),
    _folder: TempDir,
}

impl Rig {
    async fn start() -> Self {
        let month = at("2025-01-01T00:00:00Z");
        let (region, folder) = single(&Setting { now: month, window_months: 1, settings: Vec::new() }).await;
        let log = open(&region).await;
        let (history, truth) = (History::new(seed(), STREAMS), Truth::default());
        let mut rig = Self { region, log, history, truth, month, due: (month, 0, 0), _folder: folder };
        rig.go_on().await;
        rig
    }

    fn head(&self) -> i64 {
        self.truth.head().get().cast_signed()
    }

    /// Fills the next month; now the time of the one before it is over.
    async fn go_on(&mut self) {
        self.due = (self.month, self.due.2, self.head());
        self.month = self.month.months_after(1).expect("a month");
        self.log.set_simulated_now(self.month.months_after(1).expect("a month")).await.expect("time goes on");
        let mut requests = self.history.month(self.month, EVENTS_A_MONTH);
        for event in requests.iter_mut().flat_map(|request| &mut request.events) {
            event
                .extensions
                .push(Extension { name: TAGS_EXTENSION.into(), value: ExtensionValue::String("all".into()) });
        }
        append(&self.log, requests).await;
        self.truth.learn(&self.log).await;
    }

    fn table(&self) -> String {
        let (year, month) = self.due.0.year_month();
        format!("coldstream.events_{year:04}_{month:02}")
    }

    /// What the database has of the month that is due.
    async fn kept(&self) -> Kept {
        let mut admin = PgConnection::connect(&self.region.superuser_url()).await.expect("connected");
        let query = "SELECT pruned, \
                     (SELECT detached FROM coldstream.partitions WHERE 'coldstream.' || name = $1) AS detached, \
                     EXISTS (SELECT FROM pg_inherits WHERE inhrelid = to_regclass($1)) AS is_attached, \
                     to_regclass($1) IS NOT NULL AS has_table, \
                     EXISTS (SELECT FROM coldstream.event_ids WHERE position <= $2) AS has_ids, \
                     (SELECT count(*) FROM coldstream.event_tags WHERE position BETWEEN $3 + 1 AND $2) > 1 AS has_tags \
                     FROM coldstream.log_head";
        let query = sqlx::query(query).bind(self.table()).bind(self.due.2).bind(self.due.1);
        let row = query.fetch_one(&mut admin).await.expect("readable");
        Kept {
            pruned: row.get("pruned"),
            detached: row.get("detached"),
            is_attached: row.get("is_attached"),
            has_table: row.get("has_table"),
            has_ids: row.get("has_ids"),
            has_tags: row.get("has_tags"),
        }
    }

    /// The month as it is before anything of the prune is committed.
    fn untouched(&self) -> Kept {
        Kept {
            pruned: self.due.1,
            detached: Some(false),
            is_attached: true,
            has_table: true,
            has_ids: true,
            has_tags: true,
        }
    }

    /// Starts the server, which finishes the work; then it is killed.
    async fn finishes(&mut self) {
        self.region.serve().await.expect("it starts again");
        let gone = Kept {
            pruned: self.due.2,
            detached: None,
            is_attached: false,
            has_table: false,
            has_ids: false,
            has_tags: false,
        };
        until("nothing is left of the month", async || (self.kept().await == gone).then_some(())).await;
        let (api, head) = (Api::of(&self.region), self.truth.head().get());
        until("all is archived", async || (number(&api.archive().await.archived_head) == head).then_some(())).await;
        assert_eq!(is_whole(&self.region, self.truth.head()).await.0.cast_signed(), self.due.2);
        self.truth.is_the_log_of(&self.region).await;
        self.region.kill_server().await.expect("killed");
    }

    async fn end(self) {
        self.log.shut_down().await;
        self.region.end().await.expect("it ends");
    }
}

/// Starts the region's server and waits until it has killed itself at `step`.
async fn dies_at(region: &mut Region, step: &str) {
    // It may be dead before it is ready; what it says in its log is the proof either way.
    let ready = region.serve_with(&[(VARIABLE, step)]).await;
    if ready.is_ok() {
        let ended = async || region.server().is_none_or(|server| server.has_ended()).then_some(());
        until(&format!("it dies at {step}"), ended).await;
        region.kill_server().await.expect("it is gone");
    }
    let log = std::fs::read_to_string(region.server_log()).expect("a log");
    assert!(log.lines().any(|line| line.contains(VARIABLE) && line.contains(step)), "it died at {step}: {ready:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_killed_between_the_transactions_of_a_prune_leaves_what_the_next_run_removes() {
    let mut rig = Rig::start().await;
    for (done, step) in
        ["prune.detached", "prune.dropped", "prune.ids_forgotten", "prune.tags_forgotten"].iter().enumerate()
    {
        rig.go_on().await;
        dies_at(&mut rig.region, step).await;
        let left = Kept {
            pruned: rig.due.2,
            detached: (done < 1).then_some(true),
            is_attached: false,
            has_table: done < 1,
            has_ids: done < 2,
            has_tags: done < 3,
        };
        assert_eq!(rig.kept().await, left, "{step}");
        rig.finishes().await;
    }
    rig.end().await;
}

/// Whether somebody waits for a lock on a table.
async fn waits(region: &Region) -> bool {
    let query = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock')";
    let mut admin = PgConnection::connect(&region.superuser_url()).await.expect("connected");
    sqlx::query_scalar(query).fetch_one(&mut admin).await.expect("readable")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_killed_in_the_middle_of_detaching_a_month_the_month_is_live_as_a_whole() {
    let mut rig = Rig::start().await;
    for victim in ["server", "database"] {
        rig.go_on().await;
        // Somebody reads the month: head and list of partitions are changed already when DETACH waits for him.
        let mut reader = PgConnection::connect(&rig.region.superuser_url()).await.expect("connected");
        let lock = format!("BEGIN; LOCK TABLE {} IN ACCESS SHARE MODE", rig.table());
        reader.execute(lock.as_str()).await.expect("locked");
        rig.region.serve().await.expect("it serves");
        until("DETACH waits", async || waits(&rig.region).await.then_some(())).await;
        if victim == "database" {
            rig.region.cluster.kill().await.expect("killed");
            rig.region.kill_server().await.expect("killed");
            rig.region.cluster.start().await.expect("it starts again");
        } else {
            rig.region.kill_server().await.expect("killed");
            // Its session is left alone with its lock_timeout.
            until("nobody waits", async || (!waits(&rig.region).await).then_some(())).await;
        }
        assert_eq!(rig.kept().await, rig.untouched(), "{victim}");
        drop(reader);
        rig.finishes().await;
    }
    rig.end().await;
}
