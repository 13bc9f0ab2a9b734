//! The log on PostgreSQL keeps the port's contract: the suite that the log in memory passes.

mod log_common;

use domain::Head;
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
