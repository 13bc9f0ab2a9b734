//! The log on PostgreSQL keeps the port's contract: the suite that the log in memory passes.

mod log_common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use domain::Head;
use domain::conformance::log::{Prunable, run_pruned};
use domain::twin::MemoryArchive;
use event_log::PgLog;
use log_common::pruning::prune_as_of;
use log_common::{Rig, new_log, new_simulated};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_on_postgresql_passes_the_suite() {
    let rig = Rig::start().await;
    domain::conformance::log::run(|| rig.log(new_log())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_with_simulated_time_passes_the_suite() {
    let rig = Rig::start().await;
    domain::conformance::log::run(|| rig.log(new_simulated("2026-05-01T00:00:00Z"))).await;
}

/// A log whose simulated year ends with each pruning.
struct Archived {
    log: PgLog,
    archive: Arc<MemoryArchive>,
    year: AtomicU32,
}

#[async_trait]
impl Prunable for Archived {
    type Log = PgLog;

    fn log(&self) -> &PgLog {
        &self.log
    }

    async fn prune(&self) {
        let year = self.year.fetch_add(1, Ordering::Relaxed);
        self.archive.extend(prune_as_of(&self.log, &format!("{year}-12-20T00:00:00Z")).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_on_postgresql_with_an_archive_passes_the_suite() {
    let rig = Rig::start().await;
    run_pruned(async || {
        let log = rig.log(new_simulated("2020-01-10T00:00:00Z")).await;
        let archive = Arc::new(MemoryArchive::default());
        log.set_archive(Arc::<MemoryArchive>::clone(&archive));
        Archived { log, archive, year: AtomicU32::new(2020) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_catalog_on_postgresql_passes_the_suite() {
    let rig = Rig::start().await;
    let database = rig.database(new_log()).await;
    let prune_to = async |head: Head| {
        database.run(&format!("UPDATE coldstream.log_head SET position = {head}, pruned = {head}")).await;
    };
    domain::conformance::catalog::check(&database.open().await, prune_to).await;
    domain::conformance::catalog::check_whole(&rig.log(new_log()).await).await;
}
