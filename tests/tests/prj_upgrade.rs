//! What an upgrade keeps of the views, and what the service may not do with them (SEC-1).

mod prj_common;

use domain::ErrorKind;
use event_log::{Admin, ServiceLogin};
use ops::dev::postgres::{PostgresCluster, PostgresOptions};
use prj_common::{History, Rig, at, is_the_fold, pool};
use projections::content::{ContentNow, ContentView, ItemState, Lookup};
use projections::rebuild::{Differences, Rebuild, Unwatched};
use projections::{ProjectionError, status};
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// The migrations before views could be rebuilt beside, as they were.
const BEFORE: [&str; 2] = [
    include_str!("../../projections/migrations/0001_progress.sql"),
    include_str!("../../projections/migrations/0002_content_1.sql"),
];

#[tokio::test]
async fn an_upgrade_keeps_the_rows_of_the_view_and_where_it_stands() {
    let cluster = PostgresCluster::launch(PostgresOptions::default()).await.expect("a cluster");
    cluster.create_database("views").await.expect("a database");
    let mut admin = Admin::connect(&cluster.superuser_url("views")).await.expect("connected");
    let login = ServiceLogin { name: "service".to_owned(), password: None };
    admin.prepare(&login).await.expect("the log's schema");
    let owner = admin.as_owner().await.expect("the owner");
    let prepare = include_str!("../../projections/src/migrate/prepare.sql");
    sqlx::raw_sql(prepare).execute(&mut *owner).await.expect("prepared");
    for (number, sql) in (1..).zip(BEFORE) {
        sqlx::raw_sql(sql).execute(&mut *owner).await.expect("migrated");
        let claim = sqlx::query(include_str!("../../projections/src/migrate/claim.sql"));
        let sha256: [u8; 32] = Sha256::digest(sql).into();
        claim.bind(number).bind(sha256).execute(&mut *owner).await.expect("claimed");
    }
    let rows = "INSERT INTO view_content_1.stubs VALUES ('a', 'living', NULL, NULL, 3, 4, 5, '2025-01-01T00:00:00Z');
        UPDATE coldstream.consumers SET checkpoint = 7 WHERE name = 'view_content_1';
        UPDATE projections.progress SET cutoff = '2025-02-01T00:00:00Z', leaf = decode(repeat('ab', 32), 'hex')";
    sqlx::raw_sql(rows).execute(&mut *owner).await.expect("folded");

    for _first_and_again in 0..2 {
        projections::migrate(owner).await.expect("upgraded");
    }
    let clock = prj_common::SetClock::at("2025-07-15T00:00:00Z");
    let content = ContentNow::new(pool(&cluster), prj_common::empty_log(&clock));
    let progress = content.progress().await.expect("readable");
    assert_eq!((progress.checkpoint.get(), progress.cutoff), (7, at("2025-02-01T00:00:00Z")));
    assert!(progress.leaf.is_some_and(|leaf| leaf.0 == [0xab; 32]));
    let Lookup::Archived(stub) = content.get("a").await.expect("readable") else { panic!("archived") };
    assert_eq!((stub.state, stub.revisions, stub.version.get()), (ItemState::Living, 3, 4));
}

#[tokio::test]
async fn the_service_rebuilds_what_is_registered_and_registers_nothing() {
    let rig = Rig::start("2024-01-01T00:00:00Z").await;
    History::new(31, "2024-01-01T00:00:00Z", 20, 9).go_on(&rig.log, &rig.clock, 100).await;
    rig.runner().catch_up().await.expect("caught up");
    for forbidden in [
        "SELECT projections.install('view_mine', 1, 'DROP SCHEMA coldstream CASCADE')",
        "SELECT projections.make('mine', 'CREATE TABLE mine (n int PRIMARY KEY)')",
        "INSERT INTO projections.views VALUES ('view_mine', 1, '')",
        "UPDATE projections.views SET tables = 'DROP SCHEMA coldstream CASCADE'",
        "INSERT INTO projections.rebuilds (view, version, fold, cutoff) VALUES ('view_content', 9, 9, now())",
        "UPDATE projections.rebuilds SET swapped = true",
        "UPDATE projections.progress SET version = 9",
        "SELECT projections.begin_rebuild('coldstream', 1)",
        "SELECT projections.begin_rebuild('view_content', 2)",
        "SELECT projections.swap('view_content')",
        "SELECT projections.swap('coldstream')",
        "ALTER SCHEMA view_content RENAME TO mine",
        "DROP SCHEMA view_content CASCADE",
    ] {
        sqlx::raw_sql(forbidden).execute(&rig.pool).await.expect_err(forbidden);
    }
    for vain in ["SELECT projections.end_rebuild('coldstream', true)", "SELECT projections.compact('coldstream', true)"]
    {
        sqlx::raw_sql(vain).execute(&rig.pool).await.expect("it finds nothing to do");
    }
    is_the_fold(&rig).await;
    assert_eq!(rig.schemas().await, ["view_content"]);
}

#[tokio::test]
async fn a_rebuild_that_stands_elsewhere_than_its_log_is_refused_and_dropped_it_begins_anew() {
    let mut rig = Rig::start("2024-01-01T00:00:00Z").await;
    History::new(32, "2024-01-01T00:00:00Z", 20, 9).go_on(&rig.log, &rig.clock, 300).await;
    rig.runner().catch_up().await.expect("caught up");
    rig.tamper("UPDATE view_content.items SET revisions = revisions + 1").await;
    let rebuild = rig.rebuild_of(ContentView, Arc::new(Unwatched));
    assert!(matches!(rebuild.run(Differences::Refused).await, Err(ProjectionError::Differs { .. })));
    // The live one follows another branch now; what is beside it does not.
    rig.log = prj_common::empty_log(&rig.clock);
    History::new(33, "2024-01-01T00:00:00Z", 20, 9).go_on(&rig.log, &rig.clock, 200).await;
    assert!(rig.runner().start_over().await.expect("emptied"));
    rig.runner().catch_up().await.expect("caught up");
    let log = Arc::clone(&rig.log);
    let rebuild = || Rebuild::new(rig.pool.clone(), log.clone(), ContentView, Arc::new(Unwatched));
    let error = rebuild().run(Differences::Refused).await.expect_err("of another branch");
    assert_eq!(error.kind(), ErrorKind::Forked);
    assert!(
        matches!(&error, ProjectionError::AheadOfLive { beside, live, .. } if (beside.get(), live.get()) == (300, 200))
    );
    History::new(34, "2024-06-01T00:00:00Z", 20, 9).go_on(&rig.log, &rig.clock, 200).await;
    rig.runner().catch_up().await.expect("caught up");
    let error = rebuild().run(Differences::AcceptedByOperator).await.expect_err("of another branch");
    assert!(matches!(error, ProjectionError::OtherHistory { position, .. } if position.get() == 300), "{error}");
    assert!(projections::rebuild::drop_rebuild(&rig.pool, "view_content").await.expect("dropped"));
    assert_eq!(rebuild().run(Differences::Refused).await.expect("anew").comparison.differing, 0);
    is_the_fold(&rig).await;
    assert_eq!(status::of_all(&rig.pool).await.expect("readable")[0].version, 2);
}
