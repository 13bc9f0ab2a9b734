//! What lies in a bucket, and what is shipped between regions: segments, indexes, statements, checkpoints, batches.
//! Checksums refuse nearly all damage, so each reader is also given damaged content under checksums that are right.

use domain::archive::catalog::Segment;
use domain::archive::checkpoint::{self, Checkpoint};
use domain::archive::confirmation::Confirmation;
use domain::archive::epoch_claim::EpochClaim;
use domain::archive::index::{BLOCK_BYTES_MAX, Block, Index};
use domain::archive::layout;
use domain::archive::manifest::Manifest;
use domain::archive::reader::{self, Scan};
use domain::archive::statement::{self, Statement};
use domain::keys::{KeyRing, SigningKey};
use domain::merkle::{Frontier, Hash};
use domain::record::Record;
use domain::{Epoch, Head, Position, StreamName, Timestamp};
use replication::wire::{self, BATCH_BYTES_MAX, Envelope};
use zstd::bulk::{Compressor, Decompressor};

use super::engine::{Target, Verdict};
use super::{golden_bytes, of};

/// A block's text, its records, and what they are made of.
const BLOCK_HELD_MAX: usize = 24 * BLOCK_BYTES_MAX;

fn object(key: &str) -> Vec<u8> {
    golden_bytes(&format!("archive-v1/bucket/{key}"))
}

fn text(path: &str) -> String {
    String::from_utf8(golden_bytes(path)).expect("text")
}

fn ring() -> KeyRing {
    KeyRing::parse(&(text("archive-v1/home.vkey") + &text("archive-v1/dr.vkey"))).expect("the golden keys")
}

fn manifest(epoch: u64, number: u64) -> Vec<u8> {
    object(&layout::manifest(Epoch::new(epoch).expect("from 1"), number))
}

/// The golden segments, each with its object and its index.
fn segments() -> Vec<(Segment, Vec<u8>, Vec<u8>)> {
    let manifests = [manifest(1, 1), manifest(2, 2)];
    let added = manifests.iter().map(|object| {
        let signed = statement::verify::<Manifest>(object, &ring()).expect("a golden manifest");
        signed.statement.added.into_iter().next().expect("a segment")
    });
    added
        .map(|segment| {
            let (object, index) = (object(&layout::segment(&segment)), object(&layout::index(&segment)));
            (segment, object, index)
        })
        .collect()
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).expect("a length")
}

#[test]
fn a_segment_is_the_one_that_the_manifest_names_or_refused() {
    let segments = segments();
    let corpus: Vec<_> = segments.iter().map(|(_, object, _)| object.clone()).collect();
    let target = Target { name: "segment", corpus: &corpus, cases: 2_000, bytes_max: BLOCK_HELD_MAX };
    target.run(|bytes| {
        let accepted = segments.iter().any(|(segment, object, index)| {
            let accepted = reader::check(segment, bytes, index).is_ok();
            assert!(!accepted || bytes == object, "another segment was taken for it");
            accepted
        });
        of(accepted)
    });
}

#[test]
fn a_segment_whose_checksums_were_made_right_gives_the_same_records_or_none() {
    let segments = segments();
    let corpus: Vec<_> = segments.iter().map(|(_, object, _)| object.clone()).collect();
    let target = Target { name: "segment, checksums right", corpus: &corpus, cases: 150, bytes_max: BLOCK_HELD_MAX };
    target.run(|bytes| {
        let accepted = segments.iter().any(|(segment, object, index)| {
            let (crc32, sha256) = (crc32fast::hash(bytes), Hash::of(bytes));
            let forged = Segment { bytes: length(bytes), crc32, sha256, ..*segment };
            let Ok(mut scan) = Scan::open(&forged, bytes, index) else { return false };
            while let Ok(Some(block)) = scan.next_block() {
                for (record, line) in block.records.iter().zip(block.lines()) {
                    assert_eq!(record.to_line(), line, "another spelling of a record was read");
                }
            }
            let accepted = scan.finish().is_ok();
            assert!(!accepted || bytes == object, "another segment was taken for it");
            accepted
        });
        of(accepted)
    });
}

/// What a root vouches for: of a removed record that is the line that was there, and nothing of the one that is now.
fn leaves(records: &[Record]) -> Vec<Hash> {
    records.iter().map(Record::leaf).collect()
}

/// The first and the last block of each golden segment: their rows, their text, and their records.
fn blocks() -> Vec<(Block, Vec<u8>, Vec<Record>)> {
    let block = |(object, index): (&[u8], &Index), number: usize| {
        let row = index.blocks()[number].clone();
        let from = usize::try_from(row.offset).expect("in the object");
        let to = from + usize::try_from(row.bytes).expect("in the object");
        let text = Decompressor::new().and_then(|mut zstd| zstd.decompress(&object[from..to], BLOCK_BYTES_MAX));
        let records = reader::read_block(&object[from..to], &row).expect("a golden block").records;
        (row, text.expect("a golden block"), records)
    };
    let both = |(_, object, index): &(Segment, Vec<u8>, Vec<u8>)| {
        let index = Index::parse(index).expect("a golden index");
        [0, index.blocks().len() - 1].map(|number| block((object, &index), number))
    };
    segments().iter().flat_map(both).collect()
}

fn compressed(text: &[u8]) -> Vec<u8> {
    let mut zstd = Compressor::new(1).expect("a compressor");
    zstd.include_checksum(true).expect("a checksum");
    zstd.compress(text).expect("compressed")
}

#[test]
fn a_block_of_other_records_is_refused_whatever_its_checksums_say() {
    let blocks = blocks();
    let corpus: Vec<_> = blocks.iter().map(|(_, text, _)| text.clone()).collect();
    let target = Target { name: "block, checksums right", corpus: &corpus, cases: 300, bytes_max: BLOCK_HELD_MAX };
    target.run(|text| {
        let stored = compressed(text);
        let accepted = blocks.iter().any(|(row, _, golden)| {
            let bytes = u32::try_from(stored.len()).expect("a block");
            let forged = Block { bytes, crc32: crc32fast::hash(&stored), ..row.clone() };
            let Ok(read) = reader::read_block(&stored, &forged) else { return false };
            assert!(read.leaves == leaves(golden), "other records were taken for a block");
            true
        });
        of(accepted)
    });
}

/// Looks at everything that an index can be asked.
fn ask(index: &Index, bytes: &[u8]) {
    assert!(index.memory_bytes() <= 4 * bytes.len() + 1_024, "an index of {} bytes", bytes.len());
    for (number, block) in index.blocks().iter().enumerate() {
        assert_eq!(index.block_holding(block.first), Some(number));
        assert_eq!(index.block_holding(block.last()), Some(number));
    }
    for stream in ["content-a", "content-b/c.rs", "content-README.md"] {
        let stream = StreamName::parse(stream).expect("a name");
        if let Ok(Some(found)) = index.stream(&stream) {
            assert!(found.blocks.iter().all(|(block, version)| {
                *block < index.blocks().len() && (found.first()..=found.last).contains(version)
            }));
        }
    }
}

#[test]
fn an_index_is_the_stored_one_or_refused() {
    let corpus: Vec<_> = segments().into_iter().map(|(_, _, index)| index).collect();
    let target = Target { name: "index", corpus: &corpus, cases: 8_000, bytes_max: 1 << 20 };
    target.run(|bytes| {
        let Ok(index) = Index::parse(bytes) else { return Verdict::Refused };
        assert!(corpus.iter().any(|stored| stored == bytes), "another index was read under the old checksums");
        ask(&index, bytes);
        Verdict::Accepted
    });
}

/// The bytes of an index with the checksums of its sections made right, as far as they are there (FORMAT.md §5).
fn with_checksums(bytes: &[u8]) -> Vec<u8> {
    const HEADER: usize = 72;
    let mut bytes = bytes.to_vec();
    let number = |bytes: &[u8], at: usize, width: usize| {
        let mut number = [0; 8];
        number[..width].copy_from_slice(bytes.get(at..at + width).unwrap_or(&[0; 8][..width]));
        usize::try_from(u64::from_le_bytes(number)).unwrap_or(usize::MAX)
    };
    let (blocks, streams, postings) = (number(&bytes, 56, 4), number(&bytes, 60, 4), number(&bytes, 64, 8));
    let mut at = 0_usize;
    for section in [HEADER, blocks.saturating_mul(80), streams.saturating_mul(20), postings] {
        let end = at.saturating_add(section);
        let Some(content) = bytes.get(at..end) else { break };
        let crc32 = crc32fast::hash(content).to_le_bytes();
        let Some(stored) = bytes.get_mut(end..end + crc32.len()) else { break };
        stored.copy_from_slice(&crc32);
        at = end + crc32.len();
    }
    bytes
}

#[test]
fn an_index_whose_checksums_were_made_right_answers_within_its_blocks_or_is_refused() {
    let corpus: Vec<_> = segments().into_iter().map(|(_, _, index)| index).collect();
    for index in &corpus {
        assert_eq!(with_checksums(index), *index, "the sections are where the format puts them");
    }
    let target = Target { name: "index, checksums right", corpus: &corpus, cases: 8_000, bytes_max: 1 << 20 };
    target.run(|bytes| {
        let bytes = with_checksums(bytes);
        let Ok(index) = Index::parse(&bytes) else { return Verdict::Refused };
        ask(&index, &bytes);
        Verdict::Accepted
    });
}

fn statements() -> Vec<Vec<u8>> {
    let bucket = [
        "confirm/dr/00000000000000000001-00000000000000001030-0645d304cb84f557.json",
        "confirm/home/00000000000000001031-00000000000000002100-5f669a7fc1a7aea7.json",
        "epoch/00000000000000000001.json",
        "epoch/00000000000000000002.json",
    ];
    [manifest(1, 1), manifest(1, 2), manifest(2, 2)].into_iter().chain(bucket.map(object)).collect()
}

#[test]
fn a_signed_statement_is_the_signed_one_or_refused() {
    let (corpus, ring) = (statements(), ring());
    let target = Target { name: "statement", corpus: &corpus, cases: 15_000, bytes_max: 1 << 20 };
    target.run(|bytes| {
        let accepted = statement::verify::<Manifest>(bytes, &ring).is_ok()
            || statement::verify::<Confirmation>(bytes, &ring).is_ok()
            || statement::verify::<EpochClaim>(bytes, &ring).is_ok();
        assert!(!accepted || corpus.iter().any(|stored| stored == bytes), "bytes were accepted that nobody signed");
        of(accepted)
    });
}

/// The statement that `json` states, if one can be signed, is read from what was signed.
fn states<S: Statement + PartialEq + std::fmt::Debug>(json: &[u8], key: &SigningKey, ring: &KeyRing) -> bool {
    let Ok(stated) = serde_json::from_slice::<S>(json) else { return false };
    let Ok(object) = statement::sign(&stated, key) else { return false };
    let read = statement::verify::<S>(&object, ring).expect("what was signed is read");
    assert_eq!(read.statement, stated);
    true
}

#[test]
fn a_statement_that_a_trusted_key_signs_is_read_back_whatever_it_states() {
    let ring = ring();
    let keys = ["home", "dr"].map(|name| SigningKey::parse(&text(&format!("archive-v1/{name}.skey"))).expect("a key"));
    let inner = |object: &Vec<u8>| {
        let text = std::str::from_utf8(object).expect("JSON");
        let begin = text.find(':').expect("a member") + 1;
        text.as_bytes()[begin..text.rfind(",\"signature\":").expect("a signature")].to_vec()
    };
    let corpus: Vec<_> = statements().iter().map(inner).collect();
    let target = Target { name: "statement, signed", corpus: &corpus, cases: 15_000, bytes_max: 1 << 20 };
    target.run(|json| {
        let states = |key| {
            states::<Manifest>(json, key, &ring)
                || states::<Confirmation>(json, key, &ring)
                || states::<EpochClaim>(json, key, &ring)
        };
        of(keys.iter().any(states))
    });
}

#[test]
fn a_checkpoint_is_one_that_trusted_keys_have_signed_or_refused() {
    let ring = ring();
    let notes = [(1, 1030), (2, 2100)].map(|(epoch, size)| {
        object(&layout::checkpoint(Epoch::new(epoch).expect("from 1"), Head::new(size).expect("a head")))
    });
    let read = |bytes: &[u8]| std::str::from_utf8(bytes).ok().and_then(|note| checkpoint::verify(note, &ring).ok());
    let signed: Vec<(Checkpoint, _)> = notes.iter().map(|note| read(note).expect("a golden note")).collect();
    let target = Target { name: "checkpoint", corpus: &notes, cases: 10_000, bytes_max: 1 << 20 };
    target.run(|bytes| {
        let Some((found, signers)) = read(bytes) else { return Verdict::Refused };
        // A signature may be gone, and an unknown one be there: what is stated, and by whom, is never another.
        let same = |(stated, by): &(Checkpoint, Vec<_>)| *stated == found && signers.iter().all(|key| by.contains(key));
        assert!(!signers.is_empty() && signed.iter().any(same), "{found:?} was accepted, which nobody signed");
        Verdict::Accepted
    });
}

/// The first records of the golden log, as a batch, and the records.
fn batch() -> (Vec<u8>, Vec<Record>) {
    let (segment, object, index) = segments().remove(0);
    let mut scan = Scan::open(&segment, &object, &index).expect("a golden segment");
    let mut records = scan.next_block().expect("a golden block").expect("a first block").records;
    records.truncate(12);
    let envelope = Envelope {
        log: "golden".to_owned(),
        epoch: Epoch::FIRST,
        role: domain::append::Role::Active,
        head: Head::new(1030).expect("a head"),
        clock: Timestamp::from_unix_micros(1_780_000_000_000_000).expect("an instant"),
        kept: vec![Position::new(2).expect("from 1")],
    };
    (wire::encode(&envelope, &Frontier::default(), &records).expect("encoded").0, records)
}

fn decoded(body: &[u8], expected: &[Record]) -> Verdict {
    let Ok(batch) = wire::decode(body, "golden", Epoch::FIRST, &Frontier::default()) else { return Verdict::Refused };
    assert!(leaves(&batch.records) == leaves(expected), "other records were taken for the batch");
    Verdict::Accepted
}

#[test]
fn a_shipped_batch_is_the_one_that_was_sent_or_refused() {
    let (body, records) = batch();
    let target = Target { name: "shipped batch", corpus: &[body], cases: 8_000, bytes_max: 2 * BATCH_BYTES_MAX };
    target.run(|bytes| decoded(bytes, &records));
}

#[test]
fn a_shipped_batch_of_other_records_is_refused_whatever_its_checksums_say() {
    let (body, records) = batch();
    let zstd = Decompressor::new().and_then(|mut zstd| zstd.decompress(&body, BATCH_BYTES_MAX));
    let corpus = [zstd.expect("what was encoded")];
    let cases = 4_000;
    let target =
        Target { name: "shipped batch, checksums right", corpus: &corpus, cases, bytes_max: 2 * BATCH_BYTES_MAX };
    target.run(|text| {
        let mut text = text.to_vec();
        let end = text.iter().position(|byte| *byte == b'\n').map_or(text.len(), |end| end + 1);
        let crc32 = format!("{:08x}", crc32fast::hash(&text[end..]));
        let named = b"\"crc32\":\"";
        if let Some(at) = text[..end].windows(named.len()).position(|window| window == named) {
            let at = at + named.len();
            let until = (at + crc32.len()).min(end);
            drop(text.splice(at..until, crc32.into_bytes()));
        }
        decoded(&compressed(&text), &records)
    });
}
