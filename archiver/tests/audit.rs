//! The outsider's audit: it proves what is right, and finds each single thing that is not.

mod common;

use std::path::{Path, PathBuf};

use archiver::audit::{self, AsOf, AuditReport, ReplayError, ReplayReport};
use archiver::seal::Demand;
use common::{Region, at, key, keys, position};
use domain::archive::manifest::Manifest;
use domain::archive::segment::{Sealed, SegmentWriter};
use domain::archive::{layout, statement};
use domain::evidence::Evidence;
use domain::keys::KeyRing;
use domain::merkle::Hash;
use domain::record::{Record, RecordedEvent};
use domain::store::ObjectStore;
use domain::twin::MemoryStore;
use domain::{Epoch, ErrorKind, Head, Position};

fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/archive-v1").join(path)
}

fn golden_keys() -> KeyRing {
    let text = |name: &str| std::fs::read_to_string(golden(name)).expect("a key");
    KeyRing::parse(&(text("home.vkey") + &text("dr.vkey"))).expect("two keys")
}

async fn golden_bucket() -> MemoryStore {
    let (store, root) = (MemoryStore::new(), golden("bucket"));
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let key = path.strip_prefix(&root).expect("inside").to_str().expect("UTF-8").to_owned();
                store.create(&key, &std::fs::read(&path).expect("a file")).await.expect("created");
            }
        }
    }
    store
}

async fn audit(store: &MemoryStore, keys: &KeyRing) -> AuditReport {
    audit::verify(store, keys, None, &|_| ()).await.expect("an answer")
}

#[tokio::test]
async fn the_golden_bucket_is_proven() {
    let report = audit(&golden_bucket().await, &golden_keys()).await;
    assert!(report.is_proven(), "{:?}", report.findings);
    assert_eq!((report.log.as_str(), report.verified_head, report.archived_head), ("golden", 2100, 2100));
    assert_eq!((report.manifests, report.void_manifests.len(), report.epoch_claims), (2, 1, 2));
    assert_eq!((report.segments, report.confirmed_segments, report.removed_records), (2, 2, 1));
    assert_eq!((report.checkpoints, report.cosigned_head, report.checkpoints_beyond), (2, Some(1030), 0));
    assert_eq!(report.orphans, [""; 0]);
}

#[tokio::test]
async fn a_bucket_without_a_manifest_has_no_archive() {
    assert!(audit(&golden_bucket().await, &golden_keys()).await.has_archive());
    assert!(!audit(&MemoryStore::new(), &golden_keys()).await.has_archive());
}

#[tokio::test]
async fn one_flipped_bit_in_any_object_is_found() {
    let whole = golden_bucket().await;
    let lost = layout::manifest(Epoch::FIRST, 2);
    for key in whole.keys() {
        for at in [0, 40, usize::MAX] {
            let store = common::copy_of(&whole).await;
            assert!(store.damage(&key, |bytes| {
                let at = at.min(bytes.len() - 1);
                bytes[at] ^= 1;
            }));
            // The manifest of the lost branch is void: nothing depends on what it says.
            assert_eq!(audit(&store, &golden_keys()).await.is_proven(), key == lost, "{key}, byte {at}");
        }
    }
}

#[tokio::test]
async fn a_missing_segment_index_or_manifest_is_found() {
    let whole = golden_bucket().await;
    let first = layout::manifest(Epoch::FIRST, 1);
    let needed = |key: &String| key.starts_with("seg/") || key.starts_with("idx/") || *key == first;
    for key in whole.keys().into_iter().filter(needed) {
        let store = common::copy_of(&whole).await;
        store.delete(&key).await.expect("deleted");
        let report = audit(&store, &golden_keys()).await;
        assert!(report.findings.iter().any(|finding| finding.object == key), "{key}: {:?}", report.findings);
    }
}

#[tokio::test]
async fn keys_that_are_not_trusted_prove_nothing() {
    let report = audit(&golden_bucket().await, &keys()).await;
    assert!(!report.is_proven());
    assert_eq!(report.verified_head, 0);
}

#[tokio::test]
async fn a_bucket_that_ends_before_a_checkpoint_that_was_kept_is_not_proven() {
    let region = Region::with_events(500).await;
    region.seal(Demand::Everything).await.expect("sealed");
    let evidence = Evidence::new(region.log.clone(), region.log.clone());
    let early = evidence.sign(&key("home")).await.expect("signed").note;
    region.append(501, 600).await;
    let late = evidence.sign(&key("home")).await.expect("signed").note;
    let verify =
        async |kept: &str| audit::verify(&*region.store, &keys(), Some(kept), &|_| ()).await.expect("an answer");
    assert!(verify(&early).await.is_proven());
    let report = verify(&late).await;
    assert_eq!(report.findings.len(), 1, "{:?}", report.findings);
    region.seal(Demand::Everything).await.expect("sealed");
    assert!(verify(&late).await.is_proven());
}

#[tokio::test]
async fn a_checkpoint_of_another_history_is_found() {
    let region = Region::with_events(500).await;
    region.seal(Demand::Everything).await.expect("sealed");
    let other = Region::new("home", domain::append::Role::Active);
    other.append(2, 300).await;
    let signed = Evidence::new(other.log.clone(), other.log.clone()).sign(&key("home")).await.expect("signed");
    let name = layout::checkpoint(Epoch::FIRST, signed.size);
    region.store.create(&name, signed.note.as_bytes()).await.expect("created");
    let report = region.audit().await;
    assert!(matches!(&report.findings[..], [finding] if finding.object == name), "{:?}", report.findings);
    assert_eq!(report.verified_head, 500, "the records themselves are right");
}

/// A bucket of two signed segments with the given records, each right by itself.
async fn signed(halves: [&[Record]; 2]) -> MemoryStore {
    let (store, mut previous) = (MemoryStore::new(), None);
    for (records, number) in halves.into_iter().zip(1..) {
        let mut writer = SegmentWriter::new(records[0].position(), Epoch::FIRST).expect("a writer");
        records.iter().for_each(|record| writer.push(record).expect("it follows"));
        let Sealed { segment, object, index } = writer.finish().expect("sealed");
        store.create(&layout::segment(&segment), &object).await.expect("created");
        store.create(&layout::index(&segment), &index).await.expect("created");
        let manifest = Manifest {
            format: statement::FORMAT,
            log: "twin".into(),
            epoch: Epoch::FIRST,
            number,
            previous,
            time: common::now(),
            fork: None,
            added: vec![segment],
            replaced: Vec::new(),
            in_force: None,
        };
        let object = statement::sign(&manifest, &key("home")).expect("signed");
        previous = Some(Hash::of(&object));
        store.create(&layout::manifest(Epoch::FIRST, number), &object).await.expect("created");
    }
    store
}

/// A bucket in whose second segment one stream's events are changed by `change`, and the position of the first of them.
/// Within a segment versions are dense all the same: it could not be sealed otherwise.
async fn with_a_wrong_stream(change: impl Fn(&mut RecordedEvent)) -> (MemoryStore, Position) {
    let records = Region::with_events(600).await.all_records().await;
    let mut second = records[300..].to_vec();
    let (stream, position) = (second[0].stream().clone(), second[0].position());
    assert!(records[..300].iter().any(|record| *record.stream() == stream));
    for record in second.iter_mut().filter(|record| *record.stream() == stream) {
        let Record::Event(event) = record else { panic!("nothing was removed") };
        change(event);
    }
    (signed([&records[..300], &second]).await, position)
}

#[tokio::test]
async fn a_signed_archive_in_which_a_stream_has_a_gap_is_not_proven() {
    let records = Region::with_events(600).await.all_records().await;
    let whole = audit(&signed([&records[..300], &records[300..]]).await, &keys()).await;
    assert!(whole.is_proven(), "{:?}", whole.findings);
    assert_eq!(whole.verified_head, 600);

    let version = |event: &mut RecordedEvent| event.version = event.version.next();
    let previous = |event: &mut RecordedEvent| event.previous = event.previous.and_then(|p| Position::new(p.get() - 1));
    let none = |event: &mut RecordedEvent| event.previous = None;
    let wrong = [
        (with_a_wrong_stream(version).await, "version"),
        (with_a_wrong_stream(previous).await, "before it"),
        (with_a_wrong_stream(none).await, "first event"),
    ];
    for ((store, position), word) in wrong {
        let report = audit(&store, &keys()).await;
        let [finding] = &report.findings[..] else { panic!("{word}: one finding: {:?}", report.findings) };
        assert!(finding.reason.contains(&position.to_string()) && finding.reason.contains(word), "{}", finding.reason);
        assert_eq!(report.verified_head, 300, "{word}: the tree ends before it");
    }
}

async fn replay(
    region: &Region,
    as_of: &AsOf,
    mut sink: impl FnMut(&Record, &[u8]) + Send,
) -> Result<ReplayReport, ReplayError> {
    let mut take = |record: &Record, line: &[u8]| {
        sink(record, line);
        Ok(())
    };
    audit::replay(&*region.store, &keys(), as_of, &mut take).await
}

async fn replayed(region: &Region, as_of: AsOf) -> Vec<u64> {
    let mut positions = Vec::new();
    let report = replay(region, &as_of, |record, line| {
        assert_eq!(record.to_line(), line);
        positions.push(record.position().get());
    });
    let replayed = report.await.expect("replayed").replayed;
    assert_eq!(replayed.get(), positions.last().copied().unwrap_or(0));
    positions
}

#[tokio::test]
async fn a_replay_ends_where_it_is_asked_to() {
    let region = Region::new("home", domain::append::Role::Active);
    region.seal_up_to(900, 350).await;
    let up_to = |last: u64| (1..=last).collect::<Vec<u64>>();
    assert_eq!(replayed(&region, AsOf::Head).await, up_to(900));
    assert_eq!(replayed(&region, AsOf::Position(position(351))).await, up_to(351));
    assert_eq!(replayed(&region, AsOf::Position(position(5000))).await, up_to(900));
    let event = |id: &str| AsOf::Event { id: id.into(), source: Some("/test".into()) };
    assert_eq!(replayed(&region, event("e-700")).await, up_to(700));
    // Event n was recorded n hours after the start of the year.
    assert_eq!(replayed(&region, AsOf::Instant(at("2026-01-11T00:00:00Z"))).await, up_to(240));
    assert_eq!(replayed(&region, AsOf::Instant(at("2026-01-10T23:59:59Z"))).await, up_to(239));
    assert_eq!(replayed(&region, AsOf::Instant(at("2025-01-01T00:00:00Z"))).await, up_to(0));
    let absent = replay(&region, &event("e-901"), |_, _| panic!("nothing is handed on")).await;
    assert!(matches!(absent, Err(ReplayError::NoSuchEvent(_))));
}

#[tokio::test]
async fn a_replay_stops_at_the_first_damaged_segment_and_hands_on_nothing_of_it() {
    let region = Region::new("home", domain::append::Role::Active);
    region.seal_up_to(900, 350).await;
    let segments = region.segments().await;
    assert!(region.store.damage(&layout::segment(&segments[1]), |bytes| bytes[300] ^= 1));
    let mut last = Head::EMPTY;
    let outcome = replay(&region, &AsOf::Head, |record, _| last = record.position().as_head()).await;
    assert_eq!(outcome.expect_err("damaged").kind(), ErrorKind::Corrupt);
    assert_eq!(last, segments[0].last.as_head());
    assert_eq!(last.newest(), Position::new(350));
}
