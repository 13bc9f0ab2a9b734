//! ARC-1 and ARC-2 across a change of regions: whatever one region had sealed that the other had not mirrored, afterwards
//! both have one archive again, both confirm it, and both prune by it.

use domain::Epoch;
use domain::archive::layout;
use serde_json::{Value, json};
use sqlx::{Connection, Executor, PgConnection};
use system_tests::two_regions::{
    Said, TwoRegions, act, append_run, archive_status, becomes, dies_at, head_beyond, role, seal_all, status, until,
};

/// The command ended with `code`, and said `word` on stderr.
fn said(said: &Said, code: i32, word: &str) {
    assert!(said.code == Some(code) && said.talk.contains(word), "{code} and {word:?} are awaited: {said:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switchover_waits_until_the_other_region_has_mirrored_the_last_manifest() {
    let regions = TwoRegions::start().await;
    append_run(&regions.home, "one", 20).await;
    head_beyond(&regions.dr, 20).await;
    // Dr can take no manifest into its catalog.
    let mut holder = PgConnection::connect(&regions.dr.superuser_url()).await.expect("connected");
    let hold = "BEGIN; LOCK TABLE coldstream.last_manifest IN SHARE ROW EXCLUSIVE MODE";
    holder.execute(hold).await.expect("held");
    seal_all(&regions.home).await;
    let no_go = regions.command(&regions.home, &["failover", "check"]).await;
    said(&no_go, 3, "the archive to mirror");

    let mut switchover = regions.begin(&regions.home, &["failover", "switchover", "--yes"]);
    switchover.says("with manifest 1 of epoch 1 there and with no manifest here").await;
    becomes(&regions.home, "draining", 1).await;
    // Nor does it help to promote dr by hand, and home writes nothing more meanwhile.
    let drained = act(&regions.home, "/v1/admin/drain", Value::Null).await.body;
    let planned = json!({ "mode": "planned", "head": "20", "root": drained["root"] });
    let refused = act(&regions.dr, "/v1/admin/promote", planned).await;
    assert_eq!((refused.status, refused.kind()), (409, "conflict"), "{}", refused.body);
    assert!(refused.body["detail"].to_string().contains("the archive to mirror"), "{}", refused.body);
    let run = act(&regions.home, "/v1/admin/archive-run", json!({ "everything": true })).await;
    assert!(run.body["not_sealed"].to_string().contains("draining"), "{}", run.body);

    becomes(&regions.dr, "follower", 1).await;
    holder.close().await.expect("released");
    said(&switchover.ends().await, 0, "the old region follows");
    assert_eq!((role(&regions.dr).await, role(&regions.home).await), (("active".into(), 2), ("follower".into(), 2)));
    append_run(&regions.dr, "two", 20).await;
    seal_all(&regions.dr).await;
    assert_eq!(regions.same_lines().await.len(), 40);
    regions.is_proven(40, 2).await;
    regions.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_forced_promotion_a_manifest_that_nobody_mirrored_is_void_and_both_regions_prune_on() {
    let mut regions = TwoRegions::start_at("2025-01-10T00:00:00Z").await;
    append_run(&regions.home, "one", 30).await;
    seal_all(&regions.home).await;
    regions.is_proven(30, 1).await;
    append_run(&regions.home, "two", 20).await;
    head_beyond(&regions.dr, 50).await;
    // Home seals what dr holds too, and dies before dr has seen the manifest.
    regions.dr.kill_server().await.expect("killed");
    seal_all(&regions.home).await;
    regions.home.kill().await.expect("killed");
    regions.dr.serve().await.expect("it serves again");
    let words = ["failover", "promote", "--force", "--accept-unknown-loss", "--yes"];
    said(&regions.command(&regions.dr, &words).await, 0, "");
    append_run(&regions.dr, "three", 15).await;
    seal_all(&regions.dr).await;

    // It comes back with a last manifest that is void, lets go of it, is killed there, and goes on.
    regions.home.revive().await.expect("revived");
    dies_at(&mut regions.home, "mirror.wind_back").await;
    regions.home.serve().await.expect("it serves again");
    becomes(&regions.home, "follower", 2).await;
    until("both regions end with the same manifest", async || {
        let (home, dr) = (archive_status(&regions.home).await?.manifest, archive_status(&regions.dr).await?.manifest);
        let wanted = Some(["2".to_owned(), "2".to_owned()]);
        if home == wanted && dr == wanted { Ok(()) } else { Err(format!("{home:?} and {dr:?}")) }
    })
    .await;
    assert_eq!(regions.same_lines().await.len(), 65);
    regions.is_proven_beside(65, 2, [&[layout::manifest(Epoch::FIRST, 2)], &[]]).await;

    // January leaves the window in both, and is still there to be read.
    regions.move_to("2025-03-10T00:00:00Z").await;
    for region in [&regions.home, &regions.dr] {
        until(&format!("{} has pruned January", region.name), async || {
            let (status, archive) = (status(region).await?, archive_status(region).await?);
            if status.pruned == "65" { Ok(()) } else { Err(format!("{:?}: {archive:?}", status.workers["prune"])) }
        })
        .await;
    }
    assert_eq!(regions.same_lines().await.len(), 65);
    regions.end().await;
}
