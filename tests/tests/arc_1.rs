//! ARC-1: every position up to the head is live or in a cataloged segment, never in neither and never twice, whatever
//! is killed with SIGKILL between whichever two steps of seal, verify, mirror, confirm and prune.

use domain::Timestamp;
use ops::dev::Region;
use system_tests::regions::{Api, History, Pair, Setting, Truth, append, at, is_whole, number, seed, until};
use system_tests::two_regions::dies_at;

/// More than a block of 1,024: each month is archived in two segments or three, whose ends are not the months' ends.
const EVENTS_A_MONTH: usize = 1500;
const STREAMS: usize = 150;

/// In each round one server dies here …
const AT_HOME: [&str; 9] = [
    "seal.segment:2",
    "seal.index:2",
    "prune.proven",
    "seal.read_back",
    "seal.manifest:2",
    "prune.pruned",
    "seal.accept",
    "seal.mark_verified:2",
    "seal.segment",
];
/// … and the other one there.
const IN_DR: [&str; 9] = [
    "mirror.index:2",
    "mirror.segment:2",
    "mirror.manifest:2",
    "prune.proven",
    "mirror.accept",
    "confirm.mark_verified:2",
    "prune.pruned",
    "confirm.statement",
    "confirm.mark_confirmed:2",
];

fn setting(now: Timestamp) -> Setting {
    let settings = vec![("archive.sealing.segment_bytes", (64 << 10).into())];
    Setting { now, window_months: 1, settings }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_between_any_two_steps_loses_nothing_and_the_next_run_finishes_the_work() {
    let start = at("2025-01-01T00:00:00Z");
    let mut pair = Pair::set_up(&setting(start)).await;
    let (mut history, mut truth) = (History::new(seed(), STREAMS), Truth::default());
    let mut pruned = 0;
    for (round, (at_home, in_dr)) in (0..).zip(AT_HOME.into_iter().zip(IN_DR)) {
        let month = start.months_after(round).expect("a month");
        // Now the month before is due to leave both live logs, and this one is due to be archived.
        pair.move_to(month.months_after(1).expect("a month")).await;
        append(&pair.log, history.month(month, EVENTS_A_MONTH)).await;
        let before = truth.head().get();
        truth.learn(&pair.log).await;

        dies_at(&mut pair.home, at_home).await;
        pair.home.serve().await.expect("home starts again");
        dies_at(&mut pair.dr, in_dr).await;
        pair.dr.serve().await.expect("dr starts again");
        for region in [&pair.home, &pair.dr] {
            finishes(region, truth.head().get(), before).await;
            let (out, report) = is_whole(region, truth.head()).await;
            pruned = out;
            assert_eq!(pruned, before, "{}: the window alone is live", region.name);
            truth.is_the_log_of(region).await;
            assert_eq!(report.orphans, Vec::<String>::new(), "{}: the same work was done again", region.name);
            assert_eq!(report.confirmed_segments, if region.name == "dr" { report.segments } else { 0 });
            assert_eq!(report.cosigned_head, Some(truth.head().get()), "{}: both signed", region.name);
        }
        println!("killed at {at_home} and {in_dr}: {} events, {pruned} of them archived only", truth.head());
        tokio::try_join!(pair.home.kill_server(), pair.dr.kill_server()).expect("killed");
    }
    assert!(pruned > 0, "something was pruned");
    tokio::try_join!(pair.home.serve(), pair.dr.serve()).expect("both serve");
    for region in [&pair.home, &pair.dr] {
        truth.are_the_streams_of(region).await;
    }
    pair.end().await;
}

/// Waits until a region has archived everything up to `head`, in both buckets, and pruned everything up to `due`.
async fn finishes(region: &Region, head: u64, due: u64) {
    let api = Api::of(region);
    until(&format!("{} archives up to {head} and prunes up to {due}", region.name), async || {
        let (status, archive) = (api.status().await, api.archive().await);
        let cosigned = archive.cosigned_head.as_deref().map_or(0, number);
        let reached = [number(&status.head), number(&archive.archived_head), cosigned] == [head; 3];
        let copies = archive.verified == archive.segments && archive.confirmed == archive.segments;
        (reached && copies && number(&status.pruned) == due).then_some(())
    })
    .await;
}
