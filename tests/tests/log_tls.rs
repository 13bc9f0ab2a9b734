//! SEC-1 on the way to the database: with `verify-full` a server is believed for its authority and its name, and for nothing
//! else.

mod door_common;
mod log_common;

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use domain::log::EventLog;
use door_common::certificates::Authority;
use event_log::{EventLogError, PgConfig, PgLog};
use log_common::{Database, Rig, new_log, places, request};
use ops::clock::SystemClock;

/// Lets the cluster show this certificate to those who ask for TLS.
async fn show(database: &Database, (certificate, key): (String, String)) {
    for (file, text) in [("server.crt", certificate), ("server.key", key)] {
        // By the server itself: it must own its key, and nobody else may read it.
        let text = STANDARD.encode(text);
        let write =
            format!("COPY (SELECT '{text}') TO PROGRAM 'umask 077; base64 -d > {file}.new; mv {file}.new {file}'");
        database.run(&write).await;
    }
    database.run("ALTER SYSTEM SET ssl = on").await;
    database.run("SELECT pg_reload_conf()").await;
    let mut look = tokio::time::interval(std::time::Duration::from_millis(20));
    let mut admin = database.superuser().await;
    while sqlx::query_scalar::<_, String>("SHOW ssl").fetch_one(&mut admin).await.expect("readable") != "on" {
        look.tick().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_speaks_tls_with_a_database_of_a_private_authority_and_with_no_other() {
    let rig = Rig::start().await;
    let database = rig.database(new_log()).await;
    let (authority, stranger) = (Authority::new("ours"), Authority::new("not ours"));
    let folder = tempfile::tempdir().expect("a folder");
    let [ours, theirs] = [("ours", &authority), ("theirs", &stranger)].map(|(name, authority)| {
        let file = folder.path().join(format!("{name}.pem"));
        std::fs::write(&file, &authority.pem).expect("written");
        file
    });
    let open = async |host: &str, mode: &str, ca: &std::path::Path| {
        let url = database.url.replace("127.0.0.1", host).replace("sslmode=disable", &format!("sslmode={mode}"));
        let url = format!("{url}&sslrootcert={}", ca.display());
        PgLog::connect(PgConfig::at(&url), Arc::new(SystemClock)).await
    };
    let refused = |opened: Result<PgLog, EventLogError>| {
        let error = opened.err().expect("refused");
        let mut said = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(error) = source {
            said = format!("{said}: {error}");
            source = error.source();
        }
        said
    };
    let said = refused(open("localhost", "verify-full", &ours).await);
    assert!(said.contains("TLS"), "a server without TLS is not spoken to: {said}");

    show(&database, authority.signs_for(&["localhost"])).await;
    let log = open("localhost", "verify-full", &ours).await.expect("name and authority are right");
    let appended = log.append(request(&[("note-a", "1")], &[])).await.expect("acknowledged");
    assert_eq!(places(&appended), [(1, 1)]);
    let mut admin = database.superuser().await;
    let sessions = "SELECT count(*), count(*) FILTER (WHERE ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
        WHERE application_name LIKE 'coldstream %'";
    let (all, with_tls): (i64, i64) = sqlx::query_as(sessions).fetch_one(&mut admin).await.expect("readable");
    assert!(all > 1 && all == with_tls, "{with_tls} of {all} sessions");
    log.shut_down().await;

    let said = refused(open("127.0.0.1", "verify-full", &ours).await);
    assert!(said.contains("certificate"), "another name: {said}");
    let said = refused(open("localhost", "verify-full", &theirs).await);
    assert!(said.contains("certificate"), "another authority: {said}");
}
