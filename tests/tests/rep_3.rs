//! REP-3: a switchover loses nothing; a forced failover says first what may be lost, and loses no more where it
//! states a bound. Driven by the real command line, as an operator does.

use domain::Epoch;
use domain::archive::layout;
use domain::store::ObjectStore;
use ops::dev::Region;
use serde_json::{Value, json};
use sqlx::{Connection, Executor, PgConnection};
use system_tests::two_regions::{
    Said, TwoRegions, act, append, append_run, becomes, bucket, event, head_beyond, is_fenced, lines, role, seal_all,
    standing, status, until,
};
use system_tests::writers::{Belief, Writers, events, lost};

/// The command ended with `code`, and said `word` on stderr.
fn said(said: &Said, code: i32, word: &str) {
    assert!(said.code == Some(code) && said.talk.contains(word), "{code} and {word:?} are awaited: {said:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switchover_there_and_back_under_load_loses_nothing() {
    let regions = TwoRegions::start().await;
    let writers = Writers::start([&regions.home, &regions.dr], "load", Belief::Exact);
    writers.more(150).await;
    seal_all(&regions.home).await;
    said(&regions.command(&regions.home, &["failover", "switchover"]).await, 2, "--yes");
    assert_eq!(role(&regions.home).await, ("active".into(), 1), "without --yes nothing was done");

    let there = regions.command(&regions.home, &["failover", "switchover", "--yes"]).await;
    said(&there, 0, "the old region follows");
    assert_eq!(
        (&there.data["region"], &there.data["role"], &there.data["epoch"]),
        (&json!("dr"), &json!("active"), &json!("2"))
    );
    assert_eq!((role(&regions.dr).await, role(&regions.home).await), (("active".into(), 2), ("follower".into(), 2)));
    is_fenced(&regions.home, "to-the-old-one").await;
    writers.more(150).await;
    seal_all(&regions.dr).await;
    // Again: it is done, and says so.
    said(&regions.command(&regions.home, &["failover", "switchover", "--yes"]).await, 0, "");

    said(&regions.command(&regions.dr, &["failover", "switchover", "--yes"]).await, 0, "the old region follows");
    assert_eq!((role(&regions.home).await, role(&regions.dr).await), (("active".into(), 3), ("follower".into(), 3)));
    writers.more(150).await;
    let journal = writers.stop().await;
    seal_all(&regions.home).await;

    let lines = regions.same_lines().await;
    assert_eq!(lost(&lines, &journal), [], "nothing acknowledged is lost");
    assert!(journal.retried > 0, "the writers had to find the active region");
    let epochs: Vec<u64> = events(&lines).iter().map(|event| event.epoch.get()).collect();
    assert!(epochs.is_sorted(), "an epoch never falls");
    for epoch in 1..=3 {
        assert!(epochs.contains(&epoch), "something was acknowledged in epoch {epoch}");
    }
    seal_all(&regions.home).await;
    regions.is_proven(lines.len(), 3).await;
    regions.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_that_went_no_further_is_taken_back_and_the_check_says_go_or_no_go() {
    let mut regions = TwoRegions::start().await;
    append_run(&regions.home, "one", 10).await;
    head_beyond(&regions.dr, 10).await;
    let go = regions.command(&regions.home, &["failover", "check"]).await;
    said(&go, 0, "");
    assert_eq!((&go.data["doubts"], &go.data["other"]["head"]), (&json!([]), &json!("10")), "{go:?}");
    assert!(go.data["under_way"].is_null(), "{go:?}");
    said(&regions.command(&regions.dr, &["failover", "check"]).await, 0, "");
    let status = regions.command(&regions.home, &["status"]).await;
    assert_eq!((&status.data["own"]["role"], &status.data["peer"]["role"]), (&json!("active"), &json!("follower")));
    said(&status, 0, "");

    // Dr's server is away, its bucket is not.
    regions.dr.kill_server().await.expect("killed");
    let no_go = regions.command(&regions.home, &["failover", "check"]).await;
    said(&no_go, 3, "the other region");
    let looked = regions.command(&regions.home, &["replication", "status"]).await;
    said(&looked, 0, "");
    assert!(looked.data["other"].is_null() && looked.data["own"]["head"] == "10", "{looked:?}");
    let status = regions.command(&regions.home, &["status"]).await;
    said(&status, 0, "");
    assert!(status.data["peer"].is_null() && status.data["peer_error"].is_string(), "{status:?}");
    said(&regions.command(&regions.home, &["failover", "switchover", "--yes"]).await, 1, "the region that takes over");
    assert_eq!(role(&regions.home).await, ("active".into(), 1), "a switchover to nobody changes nothing");

    assert_eq!(act(&regions.home, "/v1/admin/drain", Value::Null).await.status, 200);
    is_fenced(&regions.home, "while-draining").await;
    said(&regions.command(&regions.home, &["failover", "resume"]).await, 2, "--yes");
    said(&regions.command(&regions.home, &["failover", "resume", "--yes"]).await, 0, "");
    assert_eq!(role(&regions.home).await, ("active".into(), 2), "whoever heard of the drain counts on it no more");
    append_run(&regions.home, "two", 10).await;
    regions.dr.serve().await.expect("it serves again");
    assert_eq!(regions.same_lines().await.len(), 20);
    // A switchover that somebody else has begun is gone on with, and the check says so, whoever is asked.
    assert_eq!(act(&regions.home, "/v1/admin/drain", Value::Null).await.status, 200);
    for region in [&regions.home, &regions.dr] {
        let check = regions.command(region, &["failover", "check"]).await;
        said(&check, 0, "");
        let state = check.data["under_way"].as_str().unwrap_or_default();
        assert!(state.starts_with("a switchover from home to dr was begun and not finished"), "{check:?}");
        assert!(state.ends_with("coldstream failover switchover, with --server naming home, finishes it"), "{state}");
    }
    said(&regions.command(&regions.home, &["failover", "switchover", "--yes"]).await, 0, "the old region follows");
    assert_eq!((role(&regions.dr).await, role(&regions.home).await), (("active".into(), 3), ("follower".into(), 3)));
    regions.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forced_failover_under_load_says_first_what_may_be_lost() {
    let mut regions = TwoRegions::start().await;
    let writers = Writers::start([&regions.home, &regions.dr], "load", Belief::Any);
    writers.more(200).await;
    seal_all(&regions.home).await;
    let answered = regions.command(&regions.dr, &["failover", "promote", "--force", "--accept-unknown-loss", "--yes"]);
    said(&answered.await, 1, "switch over instead");
    assert_eq!(role(&regions.dr).await, ("follower".into(), 1), "a refusal gives the role back");
    writers.more(100).await;
    regions.home.kill().await.expect("killed");

    let promote = |words: &'static [&'static str]| regions.command(&regions.dr, words);
    said(&promote(&["failover", "promote", "--accept-unknown-loss", "--yes"]).await, 2, "--force");
    said(&promote(&["failover", "promote", "--force", "--accept-unknown-loss"]).await, 2, "--yes");
    until("dr has nothing left to apply", async || match status(&regions.dr).await?.workers["follow"].clone() {
        follow if follow.state == "failing" => Ok(()),
        follow => Err(format!("{follow:?}")),
    })
    .await;
    let dr = standing(&regions.dr).await.expect("it answers");
    let heard = dr.heard.clone().expect("it heard of home");
    let refused = promote(&["failover", "promote", "--force", "--accept-loss", "0", "--yes"]).await;
    said(&refused, 1, &format!("this region's head is {}; ", dr.head));
    said(&refused, 1, &format!("the newest head heard of the other region is {} at {}", heard.head, heard.at));
    said(&refused, 1, &format!("how many more since {} is unknown", heard.at));
    assert_eq!(role(&regions.dr).await, ("follower".into(), 1));
    is_fenced(&regions.dr, "before-the-promotion").await;

    let promoted = promote(&["failover", "promote", "--force", "--accept-unknown-loss", "--yes"]).await;
    said(&promoted, 0, "");
    assert_eq!((&promoted.data["epoch"], &promoted.data["fork"]), (&json!("2"), &json!(dr.head.to_string())));
    let missing = heard.head.get().saturating_sub(dr.head.get());
    assert_eq!(promoted.data["loss"]["known_missing"], json!(missing.to_string()));
    claims(&regions.dr, 2, "dr").await;
    writers.more(100).await;
    let journal = writers.stop().await;
    let lines = lines(&regions.dr).await;
    for lost in lost(&lines, &journal) {
        // Nothing is lost that dr had: all of it lies beyond the fork, in the epoch that is over.
        assert!(lost.epoch == 1 && lost.position > dr.head.get(), "{lost:?}");
    }
    assert!(journal.acknowledged.iter().any(|acknowledged| acknowledged.epoch == 2));
    // Once more: it is done, and changes nothing.
    said(&promote(&["failover", "promote", "--force", "--accept-loss", "0", "--yes"]).await, 0, "");
    assert_eq!(role(&regions.dr).await, ("active".into(), 2));
    seal_all(&regions.dr).await;
    let audit = regions.command(&regions.dr, &["audit", "verify"]).await;
    said(&audit, 0, "");
    assert_eq!((&audit.data["verified_head"], &audit.data["findings"]), (&json!(lines.len()), &json!([])));
    regions.end().await;
}

/// The region's bucket has the claim of `epoch` by `name`.
async fn claims(region: &Region, epoch: u64, name: &str) {
    let key = layout::epoch_claim(Epoch::new(epoch).expect("from 1"));
    let claim = bucket(region).get(&key).await.expect("the claim").bytes;
    let said: Value = serde_json::from_slice(&claim).expect("a statement");
    assert!(said.to_string().contains(&format!("\"region\":\"{name}\"")), "{said}");
}

/// Home drains at 40 and dies; dr has heard of that, and holds 15 only.
async fn drained_and_dead(regions: &mut TwoRegions) {
    append_run(&regions.home, "both", 15).await;
    head_beyond(&regions.dr, 15).await;
    regions.dr.kill_server().await.expect("killed");
    append_run(&regions.home, "home", 25).await;
    assert_eq!(act(&regions.home, "/v1/admin/drain", Value::Null).await.status, 200);
    // Nothing can be inserted, so what dr hears of it cannot apply.
    let mut holder = PgConnection::connect(&regions.dr.superuser_url()).await.expect("connected");
    holder.execute("BEGIN; LOCK TABLE coldstream.events IN SHARE MODE").await.expect("held");
    regions.dr.serve().await.expect("it serves again");
    until("dr has heard that home drains", async || {
        let heard = standing(&regions.dr).await?.heard.ok_or("nothing heard")?;
        let drains = (heard.role.as_str(), heard.head.get()) == ("draining", 40);
        if drains { Ok(()) } else { Err(format!("{heard:?}")) }
    })
    .await;
    regions.home.kill().await.expect("killed");
    regions.dr.kill_server().await.expect("killed");
    holder.close().await.expect("released");
    regions.dr.serve().await.expect("it serves again");
    assert_eq!(standing(&regions.dr).await.expect("it answers").head.get(), 15);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_a_bound_is_stated_no_more_than_that_is_lost() {
    let mut regions = TwoRegions::start().await;
    drained_and_dead(&mut regions).await;
    let promote = |words: &'static [&'static str]| regions.command(&regions.dr, words);
    let refused = promote(&["failover", "promote", "--force", "--accept-loss", "24", "--yes"]).await;
    said(&refused, 1, "25 events are known to be missing, 25 at most");
    let promoted = promote(&["failover", "promote", "--force", "--accept-loss", "25", "--yes"]).await;
    said(&promoted, 0, "");
    assert_eq!(promoted.data["loss"]["bound"], json!({ "events": 25 }), "{promoted:?}");
    let lost = 40 - lines(&regions.dr).await.len();
    assert_eq!(lost, 25, "acknowledged minus surviving is what was stated");
    // A writer that was never answered, or whose event was lost, sends it again with its id.
    let events: Vec<Value> = (0..25).map(|number| event("note-home", &format!("home:{number}"))).collect();
    assert_eq!(append(&regions.dr, &events).await.status, 201);
    assert_eq!(append(&regions.dr, &events).await.status, 200, "and then it is known");
    assert_eq!(lines(&regions.dr).await.len(), 40);

    // The old home comes back with what was lost: it keeps it, says so, and acknowledges nothing.
    regions.home.revive().await.expect("revived");
    regions.home.serve().await.expect("it serves");
    becomes(&regions.home, "read_only", 1).await;
    is_fenced(&regions.home, "from-the-dead").await;
    assert_eq!(lines(&regions.home).await.len(), 40);
    regions.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_homes_bucket_shows_is_counted_though_dr_never_heard_of_it() {
    let mut regions = TwoRegions::start().await;
    append_run(&regions.home, "both", 15).await;
    head_beyond(&regions.dr, 15).await;
    regions.dr.kill_server().await.expect("killed");
    append_run(&regions.home, "home", 25).await;
    seal_all(&regions.home).await;
    // Home's server and database are gone. Its bucket is not.
    regions.home.kill_server().await.expect("killed");
    regions.home.cluster.kill().await.expect("killed");
    regions.dr.serve().await.expect("it serves again");
    let heard = standing(&regions.dr).await.expect("it answers").heard.expect("it heard of home");
    assert_eq!(heard.head.get(), 15);

    let key = layout::manifest(Epoch::FIRST, 1);
    let promote = |words: &'static [&'static str]| regions.command(&regions.dr, words);
    let refused = promote(&["failover", "promote", "--force", "--accept-loss", "1000", "--yes"]).await;
    said(
        &refused,
        1,
        &format!("{key} in the other region's bucket shows 40 events; 25 events are known to be missing"),
    );
    assert_eq!(role(&regions.dr).await, ("follower".into(), 1));
    let promoted = promote(&["failover", "promote", "--force", "--accept-unknown-loss", "--yes"]).await;
    said(&promoted, 0, "");
    let loss = &promoted.data["loss"];
    assert_eq!(loss["newest"], json!({ "head": "40", "source": { "other_bucket": key } }), "{loss}");
    assert_eq!((&loss["own_head"], &loss["known_missing"]), (&json!("15"), &json!("25")), "{loss}");
    assert_eq!(lines(&regions.dr).await.len(), 15, "acknowledged minus surviving is what was stated");
    regions.end().await;
}
