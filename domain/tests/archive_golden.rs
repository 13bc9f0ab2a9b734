//! The golden bucket of the archive's format 1: it was written by `tests/golden/archive-v1/make.py`, a script
//! made from FORMAT.md alone. What it wrote is read here, and what is written here is what it wrote.

use std::path::PathBuf;

use domain::archive::chain::{Chain, Lineage};
use domain::archive::checkpoint;
use domain::archive::confirmation::Confirmation;
use domain::archive::epoch_claim::EpochClaim;
use domain::archive::index::Index;
use domain::archive::manifest::Manifest;
use domain::archive::reader::{self, Scan};
use domain::archive::segment::SegmentWriter;
use domain::archive::statement::{self, Signed, Statement};
use domain::archive::{catalog::Segment, layout};
use domain::keys::{KeyRing, SigningKey, VerifyKey};
use domain::record::Record;
use domain::{Epoch, Head, Position, StreamName};

fn golden(path: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/archive-v1").join(path);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn text(path: &str) -> String {
    String::from_utf8(golden(path)).expect("text")
}

fn object(key: &str) -> Vec<u8> {
    golden(&format!("bucket/{key}"))
}

fn signing_key(name: &str) -> SigningKey {
    SigningKey::parse(&text(&format!("{name}.skey"))).expect("a golden key")
}

fn ring() -> KeyRing {
    KeyRing::parse(&(text("home.vkey") + &text("dr.vkey"))).expect("the golden keys")
}

fn epoch(number: u64) -> Epoch {
    Epoch::new(number).expect("an epoch")
}

fn manifest(of: u64, number: u64) -> Signed<Manifest> {
    statement::verify(&object(&layout::manifest(epoch(of), number)), &ring()).expect("a golden manifest")
}

fn segments() -> [Segment; 2] {
    [(1, 1), (2, 2)].map(|(of, number)| manifest(of, number).statement.added.remove(0))
}

fn blobs(segment: &Segment) -> (Vec<u8>, Vec<u8>) {
    (object(&layout::segment(segment)), object(&layout::index(segment)))
}

fn records(segment: &Segment) -> Vec<Record> {
    let (object, index) = blobs(segment);
    let mut scan = Scan::open(segment, &object, &index).expect("a golden segment");
    let mut records = Vec::new();
    while let Some(block) = scan.next_block().expect("a golden block") {
        records.extend(block.records);
    }
    scan.finish().expect("a golden segment");
    records
}

fn reads_and_writes_the_same<S: Statement>(key: &str, signer: &str) -> S {
    let stored = object(key);
    let signed: Signed<S> = statement::verify(&stored, &ring()).expect(key);
    assert_eq!(signed.signer, *signing_key(signer).id(), "{key}");
    assert_eq!(statement::sign(&signed.statement, &signing_key(signer)).expect(key), stored, "{key}");
    signed.statement
}

#[test]
fn keys_are_read_and_written_as_pinned() {
    for name in ["home", "dr"] {
        let key = signing_key(name);
        assert_eq!(key.to_secret_text() + "\n", text(&format!("{name}.skey")));
        assert_eq!(key.verify_key().to_string() + "\n", text(&format!("{name}.vkey")));
        assert_eq!(VerifyKey::parse(text(&format!("{name}.vkey")).trim_end()), Ok(key.verify_key()));
    }
}

#[test]
fn statements_are_read_and_written_as_pinned() {
    for (of, number, signer) in [(1, 1, "home"), (1, 2, "home"), (2, 2, "dr")] {
        let manifest: Manifest = reads_and_writes_the_same(&layout::manifest(epoch(of), number), signer);
        assert_eq!((manifest.epoch, manifest.number), (epoch(of), number));
    }
    let [one, two] = segments();
    for (region, segment) in [("dr", one), ("home", two)] {
        let confirmation: Confirmation = reads_and_writes_the_same(&layout::confirmation(region, &segment), region);
        assert_eq!((confirmation.region.as_str(), confirmation.segment), (region, segment));
    }
    for (number, region, fork) in [(1, "home", 0), (2, "dr", 1500)] {
        let claim: EpochClaim = reads_and_writes_the_same(&layout::epoch_claim(epoch(number)), region);
        assert_eq!((claim.epoch, claim.fork), (epoch(number), Head::new(fork).expect("a head")));
    }
}

#[test]
fn checkpoints_are_read_and_written_as_pinned() {
    let (home, dr) = (signing_key("home"), signing_key("dr"));
    let both =
        String::from_utf8(object(&layout::checkpoint(epoch(1), Head::new(1030).expect("a head")))).expect("text");
    let (checkpoint, signers) = checkpoint::verify(&both, &ring()).expect("a golden checkpoint");
    assert_eq!(signers, [home.id().clone(), dr.id().clone()]);
    let alone = checkpoint.sign(&home).expect("signed");
    assert_eq!(checkpoint::cosign(&alone, &dr), Ok(both));
    assert_eq!(checkpoint.root, segments()[0].root, "the first segment is the whole log so far");
}

#[test]
fn segments_and_indexes_are_read_as_pinned() {
    let read: Vec<Record> = segments().iter().flat_map(records).collect();
    assert_eq!(read.len(), 2100);
    assert!(matches!(&read[6], Record::Removed(removed) if removed.certificate == "certificate/golden"));
    for segment in segments() {
        let (_, index) = blobs(&segment);
        let index = reader::read_index(&segment, &index).expect("a golden index");
        the_directory_is_exact(&index, &records(&segment));
    }
}

fn the_directory_is_exact(index: &Index, records: &[Record]) {
    for item in 0..=301 {
        let stream = StreamName::parse(&format!("content-item/{item}")).expect("a name");
        let held: Vec<&Record> = records.iter().filter(|record| *record.stream() == stream).collect();
        let found = index.stream(&stream).expect("a sound index");
        assert_eq!(found.is_some(), !held.is_empty(), "{stream}");
        let Some(found) = found else { continue };
        assert_eq!((found.first(), found.last), (held[0].version(), held[held.len() - 1].version()), "{stream}");
        let mut blocks: Vec<usize> = held.iter().filter_map(|record| index.block_holding(record.position())).collect();
        blocks.dedup();
        assert_eq!(found.blocks.iter().map(|(block, _)| *block).collect::<Vec<_>>(), blocks, "{stream}");
    }
}

#[test]
fn the_writer_makes_the_same_blocks_leaves_and_directory() {
    for segment in segments() {
        let records = records(&segment);
        let mut writer = SegmentWriter::new(segment.first, segment.epoch).expect("a writer");
        records.iter().for_each(|record| writer.push(record).expect("a record that follows"));
        let sealed = writer.finish().expect("sealed");
        // The compressed bytes may differ: another release of zstd made the golden ones.
        let facts = |s: &Segment| (s.first, s.last, s.epoch, s.record_bytes, s.root, s.first_at, s.last_at);
        assert_eq!(facts(&sealed.segment), facts(&segment));
        let rows = |bytes: &[u8]| {
            let index = Index::parse(bytes).expect("an index");
            let row =
                |b: &domain::archive::index::Block| (b.first, b.records, b.record_bytes, b.first_at, b.last_at, b.hash);
            index.blocks().iter().map(row).collect::<Vec<_>>()
        };
        assert_eq!(rows(&sealed.index), rows(&blobs(&segment).1));
        the_directory_is_exact(&Index::parse(&sealed.index).expect("an index"), &records);
    }
}

#[test]
fn the_chain_forks_where_the_epoch_says_and_the_lost_branch_is_void() {
    let mut lineage = Lineage::of([(epoch(1), 1), (epoch(1), 2), (epoch(2), 2)]);
    while let Some((of, number)) = lineage.wanted() {
        lineage.forked(manifest(of.get(), number).statement.fork.and_then(|fork| fork.after));
    }
    let steps: Vec<(u64, u64)> =
        lineage.stretches().iter().flat_map(|s| (s.first..=s.last).map(|number| (s.epoch.get(), number))).collect();
    assert_eq!(steps, [(1, 1), (2, 2)]);
    assert!(!lineage.counts(epoch(1), 2));

    let mut chain = Chain::new("golden");
    for (of, number) in steps {
        chain.accept(&manifest(of, number)).expect("a step that follows");
    }
    assert_eq!(chain.in_force(), segments());
    assert_eq!(chain.head(), Head::new(2100).expect("a head"));
    assert!(chain.accept(&manifest(1, 2)).is_err(), "a number is used once");
    assert_eq!(Position::new(2101), Some(chain.head().next()));
}
