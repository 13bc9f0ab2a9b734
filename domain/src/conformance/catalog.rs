//! What every catalog has to do when a branch of the archive has lost.

use crate::archive::catalog::{Catalog, ManifestRef, Segment};
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
