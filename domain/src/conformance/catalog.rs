//! What every catalog has to do: answer each question about its segments, and go back when a branch of the archive has
//! lost.

use crate::archive::catalog::{Catalog, CatalogEntry, CatalogTotals, ManifestRef, Mark, Segment};
use crate::merkle::Hash;
use crate::{Epoch, ErrorKind, Head, Position, Timestamp};

/// Checks an empty catalog. `prune_to` says to its log what is pruned. It is not empty afterwards.
///
/// # Panics
/// With the first fact that does not hold.
pub async fn check(catalog: &impl Catalog, prune_to: impl AsyncFn(Head)) {
    let steps: Vec<ManifestRef> = (1..=4).map(|number| manifest(1, number)).collect();
    let mut after = None;
    for (step, first) in steps.iter().zip([1, 11, 21, 31]) {
        catalog.accept(after, *step, &[segment(1, first, first + 9)]).await.expect("it follows");
        after = Some(*step);
    }
    let last = steps[3];
    let refused = async |last, to, why: &str| {
        let error = catalog.wind_back(last, to).await.expect_err(why);
        assert_eq!(error.kind(), ErrorKind::Conflict, "{why}");
        assert_eq!(ends(catalog).await, (Some(steps[3]), 40), "{why}: and nothing was changed");
    };
    refused(steps[2], Some(steps[0]), "another manifest is the last").await;
    refused(last, Some(manifest(2, 2)), "the step to go back to is none of this catalog's").await;
    prune_to(Head::new(21).expect("small")).await;
    refused(last, Some(steps[1]), "the third segment holds a pruned position").await;
    refused(last, None, "all segments hold one").await;

    catalog.wind_back(last, Some(steps[2])).await.expect("the fourth holds none");
    assert_eq!(ends(catalog).await, (Some(steps[2]), 30), "the steps that count stay, with their segments");
    catalog.wind_back(last, Some(steps[2])).await.expect("repeating it changes nothing");
    assert_eq!(ends(catalog).await, (Some(steps[2]), 30), "repeated");
    let newer = ManifestRef { sha256: Hash::of(b"the branch in force"), ..manifest(2, 4) };
    catalog.accept(Some(steps[2]), newer, &[segment(2, 31, 35)]).await.expect("the branch in force follows there");
    assert_eq!(ends(catalog).await, (Some(newer), 35), "it is the catalog's end");
}

/// Checks an empty catalog of a log that has pruned nothing: all of it may be void.
///
/// # Panics
/// With the first fact that does not hold.
pub async fn check_whole(catalog: &impl Catalog) {
    let only = manifest(1, 1);
    catalog.accept(None, only, &[segment(1, 1, 10), segment(1, 11, 20)]).await.expect("the first");
    catalog.wind_back(only, None).await.expect("none counts");
    assert_eq!(ends(catalog).await, (None, 0), "the catalog is empty");
    catalog.accept(None, manifest(2, 1), &[segment(2, 1, 5)]).await.expect("it begins anew");
}

/// Checks what an empty catalog answers, and what it answers with four segments. It is not empty afterwards.
///
/// # Panics
/// With the first fact that does not hold.
pub async fn check_answers(catalog: &impl Catalog) {
    assert_eq!(catalog.last_segment().await.expect("read"), None);
    assert_eq!(catalog.segment_as_of(second(9)).await.expect("read"), None);
    assert_eq!(catalog.totals().await.expect("read"), CatalogTotals::default());
    // Recorded from second 10, 20, 20 and 40 on; 11, 12, 13 and 14 bytes long, of which the half is the index.
    let segments = [(1, 10, 10), (11, 20, 20), (21, 30, 20), (31, 40, 40)].map(|(first, last, at)| Segment {
        first_at: second(at),
        last_at: second(at),
        bytes: first / 10 + 1,
        index_bytes: 10,
        record_bytes: 100,
        ..segment(1, first, last)
    });
    catalog.accept(None, manifest(1, 1), &segments[..2]).await.expect("the first");
    catalog.accept(Some(manifest(1, 1)), manifest(1, 2), &segments[2..]).await.expect("the second");

    let between =
        async |first, last| firsts(&catalog.segments_between(position(first), position(last)).await.expect("read"));
    assert_eq!(between(1, u64::MAX >> 1).await, [1, 11, 21, 31], "all of them");
    assert_eq!(between(10, 11).await, [1, 11], "both hold one of the two positions");
    assert_eq!(between(15, 15).await, [11], "one position is in one segment");
    assert_eq!(between(41, 99).await, [0; 0], "nothing is archived there");
    let last = catalog.last_segment().await.expect("read").expect("there is one");
    assert_eq!((last.segment, last.manifest), (segments[3].clone(), (Epoch::FIRST, 2)));
    for (at, first) in [(9, None), (10, Some(1)), (19, Some(1)), (20, Some(21)), (39, Some(21)), (99, Some(31))] {
        let found = catalog.segment_as_of(second(at)).await.expect("read");
        assert_eq!(found.map(|entry| entry.segment.first.get()), first, "as of second {at}");
    }
    check_marks(catalog).await;
}

async fn check_marks(catalog: &impl Catalog) {
    let unmarked =
        async |mark, from, limit| firsts(&catalog.unmarked(mark, position(from), limit).await.expect("read"));
    let oldest = async |bytes| firsts(&catalog.least_recently_verified(bytes).await.expect("read"));
    assert_eq!(unmarked(Mark::Verified, 1, 9).await, [1, 11, 21, 31]);
    assert_eq!(oldest(u64::MAX).await, [1, 11, 21, 31], "none was read: by position");
    for (first, at) in [(1, 300), (21, 100), (31, 200)] {
        catalog.mark_verified(position(first), second(at)).await.expect("there is one");
    }
    catalog.mark_confirmed(position(11), second(7)).await.expect("there is one");
    assert_eq!(unmarked(Mark::Verified, 1, 9).await, [11]);
    assert_eq!(unmarked(Mark::Verified, 12, 9).await, [0; 0], "it begins before");
    assert_eq!(unmarked(Mark::Confirmed, 1, 2).await, [1, 21], "two of three");
    assert_eq!(unmarked(Mark::Confirmed, 21, 9).await, [21, 31]);

    assert_eq!(oldest(u64::MAX).await, [11, 21, 31, 1], "the one that was never read first");
    assert_eq!(oldest(12).await, [11], "12 bytes are one");
    assert_eq!(oldest(13).await, [11, 21], "13 are more than that");
    assert_eq!(oldest(0).await, [0; 0], "nothing is nothing");
    let totals = CatalogTotals {
        segments: 4,
        archived: Head::new(40).expect("small"),
        verified: 3,
        confirmed: 1,
        stored_bytes: 11 + 12 + 13 + 14,
        record_bytes: 400,
        oldest_verified_at: Some(second(100)),
    };
    assert_eq!(catalog.totals().await.expect("read"), totals);
}

fn firsts(entries: &[CatalogEntry]) -> Vec<u64> {
    entries.iter().map(|entry| entry.segment.first.get()).collect()
}

fn position(number: u64) -> Position {
    Position::new(number).expect("from 1")
}

fn second(number: i64) -> Timestamp {
    Timestamp::from_unix_micros(number * 1_000_000).expect("an instant")
}

/// The last manifest, and the position up to which segments follow each other.
async fn ends(catalog: &impl Catalog) -> (Option<ManifestRef>, u64) {
    let entries = catalog.segments().await.expect("read");
    let end = entries.iter().fold(0, |end, entry| {
        assert_eq!(entry.segment.first.get(), end + 1, "no position is in no segment, and none in two");
        entry.segment.last.get()
    });
    (catalog.last_manifest().await.expect("read"), end)
}

fn manifest(epoch: u64, number: u64) -> ManifestRef {
    let sha256 = Hash::of(format!("{epoch}/{number}").as_bytes());
    ManifestRef { epoch: Epoch::new(epoch).expect("from 1"), number, sha256 }
}

fn segment(epoch: u64, first: u64, last: u64) -> Segment {
    let at = Timestamp::from_unix_micros(0).expect("an instant");
    let hash = Hash::of(format!("{epoch}: {first} to {last}").as_bytes());
    Segment {
        first: Position::new(first).expect("from 1"),
        last: Position::new(last).expect("from 1"),
        epoch: Epoch::new(epoch).expect("from 1"),
        sha256: hash,
        crc32: 1,
        bytes: 1,
        record_bytes: 1,
        index_sha256: hash,
        index_crc32: 1,
        index_bytes: 1,
        root: hash,
        first_at: at,
        last_at: at,
    }
}
