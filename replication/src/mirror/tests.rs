//! Mirroring and confirming, on two regions in memory with segments that a test seals itself.

use std::sync::Arc;

use domain::Timestamp;
use domain::archive::catalog::{Catalog, CatalogEntry};
use domain::archive::statement::FORMAT;
use domain::log::FollowerLog;
use domain::twin::{MemoryLog, MemoryStore};

use super::*;
use crate::failover::{self, AcceptLoss, Promote};
use crate::fence;
use crate::follow::Follower;
use crate::testing::{self, Pair, append, at};

/// Seals the positions `first` to `last` of the home log as the next manifest.
async fn seal(pair: &Pair, first: u64, last: u64) {
    testing::seal(&pair.home, None, first, last).await;
}

async fn sealed_pair() -> Pair {
    let pair = Pair::new().await;
    append(&pair.home_log, 0..40).await;
    follow(&pair).await;
    seal(&pair, 1, 25).await;
    seal(&pair, 26, 40).await;
    pair
}

async fn follow(pair: &Pair) {
    let mut follower = Follower::new(Arc::clone(&pair.dr));
    while follower.round().await.expect("good").has_more() {}
}

async fn entries(log: &MemoryLog) -> Vec<CatalogEntry> {
    log.segments().await.expect("read")
}

fn archived(store: &MemoryStore) -> Vec<String> {
    let keys = store.keys().into_iter();
    keys.filter(|key| !key.starts_with(layout::CONFIRMATIONS) && !key.starts_with(layout::EPOCHS)).collect()
}

async fn mirror_all(pair: &Pair) -> u64 {
    let mut mirrored = 0;
    while let Round::Mirrored { .. } = round(&pair.dr).await.expect("good") {
        mirrored += 1;
    }
    mirrored
}

#[tokio::test]
async fn both_buckets_hold_the_same_archive_and_both_catalogs_say_so() {
    let pair = sealed_pair().await;
    assert_eq!(mirror_all(&pair).await, 2);
    assert_eq!(archived(&pair.home_store), archived(&pair.dr_store));
    for key in archived(&pair.home_store) {
        let (home, dr) = (pair.home_store.get(&key).await, pair.dr_store.get(&key).await);
        assert_eq!(home.expect("there").bytes, dr.expect("there").bytes, "{key}");
    }
    let confirmed = |entries: Vec<CatalogEntry>| entries.iter().filter(|entry| entry.confirmed_at.is_some()).count();
    assert_eq!(confirmed(entries(&pair.dr_log).await), 2);
    assert_eq!(confirmed(entries(&pair.home_log).await), 0);
    assert_eq!(round(&pair.home).await.expect("good"), Round::Idle);
    assert_eq!(confirmed(entries(&pair.home_log).await), 2, "home has read the confirmations");
}

#[tokio::test]
async fn a_segment_beyond_the_own_head_waits() {
    let pair = Pair::new().await;
    append(&pair.home_log, 0..10).await;
    seal(&pair, 1, 10).await;
    assert_eq!(round(&pair.dr).await.expect("good"), Round::Behind(Head::new(10).expect("small")));
    assert_eq!(archived(&pair.dr_store), Vec::<String>::new());
    follow(&pair).await;
    assert_eq!(mirror_all(&pair).await, 1);
}

#[tokio::test]
async fn a_damaged_segment_is_neither_kept_nor_confirmed() {
    let pair = sealed_pair().await;
    let key = archived(&pair.home_store).into_iter().find(|key| key.starts_with(layout::SEGMENTS)).expect("one");
    let flip = |bytes: &mut Vec<u8>| bytes[20] ^= 1;
    assert!(pair.home_store.damage(&key, flip));
    assert_eq!(round(&pair.dr).await.expect_err("refused").kind(), ErrorKind::Corrupt);
    assert!(pair.dr_store.keys().is_empty());
    assert!(pair.home_store.damage(&key, flip));
    assert_eq!(mirror_all(&pair).await, 2, "once it is healed");
}

#[tokio::test]
async fn what_an_interrupted_round_left_and_was_damaged_since_is_replaced() {
    let pair = sealed_pair().await;
    for (key, damage) in
        archived(&pair.home_store).into_iter().filter(|key| layout::parse_range(key).is_some()).zip(0..)
    {
        let mut bytes = pair.home_store.get(&key).await.expect("there").bytes;
        if damage % 2 == 0 {
            bytes.truncate(7)
        } else {
            bytes[7] ^= 1
        }
        pair.dr_store.create(&key, &bytes).await.expect("created");
    }
    assert_eq!(mirror_all(&pair).await, 2);
    for key in archived(&pair.home_store) {
        let (home, dr) = (pair.home_store.get(&key).await, pair.dr_store.get(&key).await);
        assert_eq!(home.expect("there").bytes, dr.expect("there").bytes, "{key}");
    }
}

#[tokio::test]
async fn a_segment_with_other_records_than_the_own_log_is_an_alarm() {
    let pair = Pair::new().await;
    append(&pair.home_log, 0..10).await;
    pair.diverge(10).await;
    seal(&pair, 1, 10).await;
    assert_eq!(round(&pair.dr).await.expect_err("refused").kind(), ErrorKind::Corrupt);
    assert!(pair.dr_store.keys().is_empty());
}

#[tokio::test]
async fn a_manifest_that_nobody_trusted_signed_is_refused() {
    let pair = sealed_pair().await;
    let key = layout::manifest(Epoch::FIRST, 1);
    assert!(
        pair.home_store.damage(&key, |bytes| *bytes = String::from_utf8_lossy(bytes).replace("twin", "twim").into())
    );
    assert_eq!(round(&pair.dr).await.expect_err("refused").kind(), ErrorKind::Corrupt);
}

#[tokio::test]
async fn what_was_left_after_any_step_is_finished_by_the_next_round() {
    // Each step's effect, as a process that died after it leaves it.
    for died_after in 0..6 {
        let pair = sealed_pair().await;
        let first = entries(&pair.home_log).await[0].clone();
        let copy = async |key: String| {
            let bytes = pair.home_store.get(&key).await.expect("there").bytes;
            pair.dr_store.create(&key, &bytes).await.expect("copied");
        };
        if died_after > 0 {
            copy(layout::index(&first.segment)).await;
        }
        if died_after > 1 {
            copy(layout::segment(&first.segment)).await;
        }
        if died_after > 2 {
            copy(layout::manifest(Epoch::FIRST, 1)).await;
        }
        if died_after > 3 {
            let peer: &dyn ObjectStore = pair.home_store.as_ref();
            let (_, step) = read_manifest(&pair.dr, peer, Epoch::FIRST, 1).await.expect("good");
            pair.dr_log.accept(None, step.reference(), &step.statement.added).await.expect("accepted");
        }
        if died_after > 4 {
            write_confirmation(&pair, &first.segment, at(-60)).await;
        }
        mirror_all(&pair).await;
        round(&pair.home).await.expect("good");
        assert_eq!(archived(&pair.home_store), archived(&pair.dr_store), "after step {died_after}");
        for log in [&pair.home_log, &pair.dr_log] {
            let entries = entries(log).await;
            let settled = entries.iter().filter(|e| e.verified_at.is_some() && e.confirmed_at.is_some());
            assert_eq!((entries.len(), settled.count()), (2, 2), "after step {died_after}");
        }
    }
}

async fn write_confirmation(pair: &Pair, segment: &Segment, verified_at: Timestamp) {
    let confirmation = domain::archive::confirmation::Confirmation {
        format: FORMAT,
        log: "twin".into(),
        region: "dr".into(),
        segment: segment.clone(),
        verified_at,
    };
    let bytes = statement::sign(&confirmation, &pair.dr.key).expect("signed");
    pair.dr_store.create(&layout::confirmation("dr", segment), &bytes).await.expect("created");
}

#[tokio::test]
async fn home_does_not_take_its_own_word_for_the_others() {
    let pair = sealed_pair().await;
    let segment = entries(&pair.home_log).await[0].segment.clone();
    let confirmation = domain::archive::confirmation::Confirmation {
        format: FORMAT,
        log: "twin".into(),
        region: "home".into(),
        segment: segment.clone(),
        verified_at: at(0),
    };
    // Signed by home, put under DR's name into DR's bucket.
    let bytes = statement::sign(&confirmation, &pair.home.key).expect("signed");
    pair.dr_store.create(&layout::confirmation("dr", &segment), &bytes).await.expect("created");
    assert_eq!(round(&pair.home).await.expect_err("refused").kind(), ErrorKind::Corrupt);
    assert!(entries(&pair.home_log).await[0].confirmed_at.is_none());
}

#[tokio::test]
async fn a_confirmation_of_another_segment_confirms_nothing() {
    let pair = sealed_pair().await;
    let entries_before = entries(&pair.home_log).await;
    let (one, two) = (&entries_before[0].segment, &entries_before[1].segment);
    write_confirmation(&pair, one, at(0)).await;
    let key = layout::confirmation("dr", one);
    let bytes = pair.dr_store.get(&key).await.expect("there").bytes;
    pair.dr_store.create(&layout::confirmation("dr", two), &bytes).await.expect("created");
    assert_eq!(round(&pair.home).await.expect_err("the second").kind(), ErrorKind::Corrupt);
    let confirmed: Vec<bool> = entries(&pair.home_log).await.iter().map(|e| e.confirmed_at.is_some()).collect();
    assert_eq!(confirmed, [true, false]);
}

/// Home has sealed up to 40 and died before dr mirrored more than 25; dr has all the events, was forced to take over in
/// epoch 2, and goes on. Home comes back and follows.
async fn forced_with_a_void_end() -> Pair {
    let pair = Pair::new().await;
    append(&pair.home_log, 0..40).await;
    follow(&pair).await;
    seal(&pair, 1, 25).await;
    mirror_all(&pair).await;
    seal(&pair, 26, 40).await;
    pair.to_home.set_up(false);
    let forced = Promote::Forced { accept: AcceptLoss::Unknown };
    failover::promote(&pair.dr, &forced).await.expect("promoted");
    pair.to_home.set_up(true);
    fence::look_now(&pair.home).await.expect("looked");
    pair
}

async fn last(log: &MemoryLog) -> Option<(u64, u64)> {
    log.last_manifest().await.expect("read").map(|last| (last.epoch.get(), last.number))
}

#[tokio::test]
async fn an_end_of_the_archive_that_lost_is_wound_back_and_mirrored_anew() {
    let pair = forced_with_a_void_end().await;
    assert_eq!(last(&pair.home_log).await, Some((1, 2)));
    assert_eq!(round(&pair.home).await.expect("good"), Round::CaughtUp, "no step of the new epoch is there yet");

    testing::seal(&pair.dr, Some(Head::new(40).expect("small")), 26, 40).await;
    assert_eq!(round(&pair.home).await.expect("good"), Round::WoundBack { number: 1 });
    assert_eq!(last(&pair.home_log).await, Some((1, 1)));
    let head = Head::new(40).expect("small");
    assert_eq!(round(&pair.home).await.expect("good"), Round::Mirrored { number: 2, head });
    assert_eq!(round(&pair.home).await.expect("good"), Round::CaughtUp);
    assert_eq!(pair.home_log.last_manifest().await.expect("read"), pair.dr_log.last_manifest().await.expect("read"));
    round(&pair.dr).await.expect("dr reads what home confirms");
    for log in [&pair.home_log, &pair.dr_log] {
        let confirmed: Vec<bool> = entries(log).await.iter().map(|entry| entry.confirmed_at.is_some()).collect();
        assert_eq!(confirmed, [true, true]);
    }
    let void = layout::manifest(Epoch::FIRST, 2);
    assert!(pair.home_store.keys().contains(&void), "the void step stays where it is");
}

#[tokio::test]
async fn an_archive_that_lost_altogether_begins_anew() {
    let pair = Pair::new().await;
    append(&pair.home_log, 0..10).await;
    follow(&pair).await;
    seal(&pair, 1, 10).await;
    pair.to_home.set_up(false);
    let forced = Promote::Forced { accept: AcceptLoss::Unknown };
    failover::promote(&pair.dr, &forced).await.expect("promoted");
    pair.to_home.set_up(true);
    fence::look_now(&pair.home).await.expect("looked");
    testing::seal(&pair.dr, Some(Head::new(10).expect("small")), 1, 7).await;
    assert_eq!(round(&pair.home).await.expect("good"), Round::WoundBack { number: 0 });
    assert!(matches!(round(&pair.home).await.expect("good"), Round::Mirrored { number: 1, .. }));
    assert_eq!(last(&pair.home_log).await, Some((2, 1)));
}

#[tokio::test]
async fn what_is_pruned_is_not_forgotten_though_its_segment_is_void() {
    let pair = forced_with_a_void_end().await;
    // Against all rules: home has let go of what nobody confirmed.
    pair.home_log.prune_to(Head::new(30).expect("small"));
    testing::seal(&pair.dr, Some(Head::new(40).expect("small")), 26, 40).await;
    assert_eq!(round(&pair.home).await.expect_err("refused").kind(), ErrorKind::Conflict);
    assert_eq!((last(&pair.home_log).await, entries(&pair.home_log).await.len()), (Some((1, 2)), 2));
}

#[tokio::test]
async fn a_newer_epoch_that_is_not_followed_yet_makes_nothing_void() {
    let pair = forced_with_a_void_end().await;
    testing::seal(&pair.dr, Some(Head::new(40).expect("small")), 26, 40).await;
    // Home has not heard of the promotion: as if its watch had not looked.
    let other = Pair::new().await;
    append(&other.home_log, 0..40).await;
    testing::seal(&other.home, None, 1, 25).await;
    testing::seal(&other.home, None, 26, 40).await;
    other.home_log.change_role((Epoch::FIRST, Role::Active), (Epoch::FIRST, Role::Follower)).await.expect("follows");
    for key in pair.dr_store.keys() {
        let object = pair.dr_store.get(&key).await.expect("there");
        other.dr_store.create(&key, &object.bytes).await.expect("copied");
    }
    assert_eq!(round(&other.home).await.expect("good"), Round::Idle);
    assert_eq!(last(&other.home_log).await, Some((1, 2)));
}
