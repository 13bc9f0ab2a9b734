//! Mirroring and confirming, on two regions in memory with segments that a test seals itself.

use std::sync::Arc;

use domain::Timestamp;
use domain::archive::catalog::{Catalog, CatalogEntry};
use domain::archive::segment::SegmentWriter;
use domain::archive::statement::FORMAT;
use domain::log::{Direction, LogReader};
use domain::twin::{MemoryLog, MemoryStore};

use super::*;
use crate::follow::Follower;
use crate::testing::{Pair, append, at};

/// Seals the positions `first` to `last` of the home log as manifest `number`, as the archiver does.
async fn seal(pair: &Pair, first: u64, last: u64) {
    seal_from(pair, &pair.home_log, first, last).await;
}

async fn seal_from(pair: &Pair, records_of: &MemoryLog, first: u64, last: u64) {
    let first = Position::new(first).expect("from 1");
    let count = usize::try_from(last + 1 - first.get()).expect("small");
    let records = records_of.read_log(first, Direction::Forward, count).await.expect("readable");
    let mut writer = SegmentWriter::new(first, Epoch::FIRST).expect("a writer");
    records.iter().for_each(|record| writer.push(record).expect("in order"));
    let sealed = writer.finish().expect("sealed");
    let before = pair.home_log.last_manifest().await.expect("read");
    let manifest = Manifest {
        format: FORMAT,
        log: "twin".into(),
        epoch: Epoch::FIRST,
        number: before.map_or(1, |before| before.number + 1),
        previous: before.map(|before| before.sha256),
        time: at(0),
        fork: None,
        added: vec![sealed.segment.clone()],
        replaced: Vec::new(),
        in_force: None,
    };
    let bytes = statement::sign(&manifest, &pair.home.key).expect("signed");
    let step = statement::verify::<Manifest>(&bytes, &pair.home.keys).expect("good");
    let store = &pair.home_store;
    store.create(&layout::segment(&sealed.segment), &sealed.object).await.expect("created");
    store.create(&layout::index(&sealed.segment), &sealed.index).await.expect("created");
    store.create(&layout::manifest(Epoch::FIRST, manifest.number), &bytes).await.expect("created");
    pair.home_log.accept(before, step.reference(), &manifest.added).await.expect("accepted");
    pair.home_log.mark_verified(sealed.segment.first, at(0)).await.expect("marked");
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
