//! LOG-5 on two real regions: only the one that holds the current epoch acknowledges; an old one that comes back, or
//! one that can ask nobody, serves reads and nothing else.

use ops::dev::Region;
use serde_json::json;
use sqlx::postgres::PgPool;
use system_tests::two_regions::{
    Said, TwoRegions, append, append_run, becomes, event, head_beyond, is_fenced, lines, role, seal_all, standing,
    status, until,
};

/// The command ended with `code`, and said `word` on stderr.
fn said(said: &Said, code: i32, word: &str) {
    assert!(said.code == Some(code) && said.talk.contains(word), "{code} and {word:?} are awaited: {said:?}");
}

/// What the watch over the epoch says of itself.
async fn watch_says(region: &Region, word: &str) {
    until(&format!("{}'s watch says {word:?}", region.name), async || {
        let note = status(region).await?.workers["epoch watch"].note.clone();
        if note.contains(word) { Ok(()) } else { Err(note) }
    })
    .await;
}

async fn promote(regions: &TwoRegions) {
    let words = ["failover", "promote", "--force", "--accept-unknown-loss", "--yes"];
    said(&regions.command(&regions.dr, &words).await, 0, "");
    assert_eq!(role(&regions.dr).await, ("active".into(), 2));
}

/// SIGKILL to the server, and up again: nothing that a process remembers can help it.
async fn restart(region: &mut Region) {
    region.kill_server().await.expect("killed");
    region.serve().await.expect("it serves again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_refuses_appends_also_after_a_restart_and_when_home_is_away() {
    let mut regions = TwoRegions::start().await;
    append_run(&regions.home, "one", 5).await;
    head_beyond(&regions.dr, 5).await;
    is_fenced(&regions.dr, "to-the-follower").await;
    // Also a retry of what it holds: whether it was acknowledged is the other region's to say.
    let known = append(&regions.dr, &[event("note-one", "one:0")]).await;
    assert_eq!((known.status, known.kind()), (503, "fenced"), "{}", known.body);
    restart(&mut regions.dr).await;
    is_fenced(&regions.dr, "after-a-restart").await;
    regions.home.kill().await.expect("killed");
    restart(&mut regions.dr).await;
    is_fenced(&regions.dr, "home-is-away").await;
    said(&regions.command(&regions.dr, &["failover", "confirm-epoch", "--yes"]).await, 1, "");
    assert_eq!(role(&regions.dr).await, ("follower".into(), 1), "a follower becomes active by a promotion only");
    assert_eq!(lines(&regions.dr).await.len(), 5);
    regions.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_home_with_events_beyond_the_fork_serves_reads_only_whatever_it_can_reach() {
    let mut regions = TwoRegions::start().await;
    append_run(&regions.home, "both", 10).await;
    head_beyond(&regions.dr, 10).await;
    regions.dr.kill_server().await.expect("killed");
    append_run(&regions.home, "alone", 7).await;
    regions.home.kill().await.expect("killed");
    regions.dr.serve().await.expect("it serves again");
    promote(&regions).await;
    append_run(&regions.dr, "new", 3).await;

    // The newer epoch was claimed while home's bucket was away: only dr and its bucket know of it.
    regions.home.revive().await.expect("revived");
    let folder = tempfile::tempdir().expect("a folder");
    let history = folder.path().join("history.ndjson");
    std::fs::write(&history, event("imported", "imported:0").to_string()).expect("written");
    let import = ["import", history.to_str().expect("UTF-8")];
    said(&regions.command(&regions.home, &import).await, 1, "7 events here lie beyond");
    regions.home.serve().await.expect("it serves");
    assert_eq!(role(&regions.home).await, ("read_only".into(), 1), "it knew before it served");
    watch_says(&regions.home, "7 events here lie beyond").await;
    is_fenced(&regions.home, "from-the-dead").await;
    assert_eq!(lines(&regions.home).await.len(), 17, "it serves what it has");
    said(&regions.command(&regions.home, &["failover", "confirm-epoch"]).await, 2, "--yes");
    said(&regions.command(&regions.home, &["failover", "confirm-epoch", "--yes"]).await, 1, "epoch 2 is in force");
    said(&regions.command(&regions.home, &["failover", "resume", "--yes"]).await, 1, "epoch 2 is in force");
    let check = regions.command(&regions.home, &["failover", "check"]).await;
    said(&check, 3, "");
    assert_eq!((&check.data["own"]["role"], &check.data["other"]["epoch"]), (&json!("read_only"), &json!("2")));
    said(&regions.command(&regions.home, &["status"]).await, 0, "");
    said(&regions.command(&regions.home, &["replication", "status"]).await, 0, "");

    restart(&mut regions.home).await;
    assert_eq!(role(&regions.home).await, ("read_only".into(), 1));
    is_fenced(&regions.home, "after-a-restart").await;
    // And when nobody is left who knows of the newer epoch.
    regions.dr.kill().await.expect("killed");
    restart(&mut regions.home).await;
    assert_eq!(role(&regions.home).await, ("read_only".into(), 1));
    is_fenced(&regions.home, "all-alone").await;
    regions.dr.revive().await.expect("revived");
    regions.dr.serve().await.expect("it serves again");
    append_run(&regions.dr, "newer", 3).await;
    assert_eq!((lines(&regions.dr).await.len(), lines(&regions.home).await.len()), (16, 17));
    regions.end().await;
}

/// It asks when it starts, and runs for hours.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_that_is_under_way_ends_once_the_other_region_has_taken_over() {
    let mut regions = TwoRegions::start().await;
    append_run(&regions.home, "both", 10).await;
    head_beyond(&regions.dr, 10).await;
    regions.home.kill_server().await.expect("killed");
    let folder = tempfile::tempdir().expect("a folder");
    let history = folder.path().join("history.ndjson");
    std::fs::write(&history, event("imported", "imported:0").to_string()).expect("written");
    // No append ends while this is open.
    let database = PgPool::connect(&regions.home.superuser_url()).await.expect("a session");
    let mut holding = database.begin().await.expect("begun");
    sqlx::query("LOCK TABLE coldstream.streams IN SHARE MODE").execute(&mut *holding).await.expect("held");
    let importing = regions.begin(&regions.home, &["import", history.to_str().expect("UTF-8")]);
    until("it appends", async || {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
        let waiting: i64 = sqlx::query_scalar(waiting).fetch_one(&database).await.map_err(|error| error.to_string())?;
        if waiting > 0 { Ok(()) } else { Err("it does not".to_owned()) }
    })
    .await;
    promote(&regions).await;
    said(&importing.ends().await, 1, "epoch 2 is in force");
    holding.rollback().await.expect("ended");
    let heads = "SELECT position FROM coldstream.log_head";
    let head: i64 = sqlx::query_scalar(heads).fetch_one(&database).await.expect("readable");
    assert_eq!(head, 10, "nothing was appended in an epoch that has lost");
    regions.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_home_with_nothing_of_its_own_follows_and_can_be_switched_back_to() {
    let mut regions = TwoRegions::start().await;
    append_run(&regions.home, "both", 10).await;
    seal_all(&regions.home).await;
    regions.same_lines().await;
    regions.is_proven(10, 1).await;
    regions.home.kill().await.expect("killed");
    promote(&regions).await;
    append_run(&regions.dr, "new", 10).await;
    seal_all(&regions.dr).await;
    regions.home.revive().await.expect("revived");
    regions.home.serve().await.expect("it serves");
    becomes(&regions.home, "follower", 2).await;
    is_fenced(&regions.home, "from-the-dead").await;
    assert_eq!(regions.same_lines().await.len(), 20);
    restart(&mut regions.home).await;
    assert_eq!(role(&regions.home).await, ("follower".into(), 2));
    is_fenced(&regions.home, "after-a-restart").await;
    // The archive of the new epoch is mirrored into the bucket that was away when the epoch was claimed.
    regions.is_proven(20, 2).await;
    said(&regions.command(&regions.dr, &["failover", "check"]).await, 0, "");
    said(&regions.command(&regions.dr, &["failover", "switchover", "--yes"]).await, 0, "the old region follows");
    append_run(&regions.home, "home", 10).await;
    is_fenced(&regions.dr, "to-the-one-that-had-it").await;
    assert_eq!(regions.same_lines().await.len(), 30);
    seal_all(&regions.home).await;
    regions.is_proven(30, 3).await;
    regions.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_that_can_ask_nobody_at_start_serves_reads_only_until_an_operator_confirms() {
    let mut regions = TwoRegions::start().await;
    append_run(&regions.home, "one", 10).await;
    head_beyond(&regions.dr, 10).await;
    // While it runs, a region that loses all others goes on; it is at its start that it has to ask.
    regions.dr.kill().await.expect("killed");
    append_run(&regions.home, "two", 5).await;
    regions.home.kill().await.expect("killed");
    regions.home.cluster.start().await.expect("its database, and neither bucket");
    regions.home.serve().await.expect("it serves");
    assert_eq!(role(&regions.home).await, ("read_only".into(), 1));
    watch_says(&regions.home, "no answer").await;
    is_fenced(&regions.home, "nobody-to-ask").await;
    assert_eq!(lines(&regions.home).await.len(), 15, "it serves reads");
    // Its own bucket alone does not tell it either.
    regions.home.kill().await.expect("killed");
    regions.home.revive().await.expect("its bucket too");
    regions.home.serve().await.expect("it serves");
    assert_eq!(role(&regions.home).await, ("read_only".into(), 1));
    is_fenced(&regions.home, "own-bucket-only").await;

    said(&regions.command(&regions.home, &["failover", "confirm-epoch"]).await, 2, "--yes");
    assert_eq!(role(&regions.home).await, ("read_only".into(), 1), "without --yes nothing was done");
    let confirmed = regions.command(&regions.home, &["failover", "confirm-epoch", "--yes"]).await;
    said(&confirmed, 0, "");
    assert_eq!((&confirmed.data["role"], &confirmed.data["epoch"]), (&json!("active"), &json!("1")));
    append_run(&regions.home, "three", 5).await;
    // The word holds for that process: the next one asks again.
    restart(&mut regions.home).await;
    assert_eq!(role(&regions.home).await, ("read_only".into(), 1));
    is_fenced(&regions.home, "asked-again").await;
    // Once somebody answers, it takes appends by itself, and dr follows.
    regions.dr.revive().await.expect("revived");
    regions.dr.serve().await.expect("it serves again");
    becomes(&regions.home, "active", 1).await;
    append_run(&regions.home, "four", 5).await;
    assert_eq!(regions.same_lines().await.len(), 25);
    assert_eq!(standing(&regions.dr).await.expect("it answers").epoch.get(), 1);
    regions.end().await;
}
