//! Segments and indexes: what is written is read; what was changed is refused; nothing panics.

use domain::archive::catalog::Segment;
use domain::archive::index::{BLOCK_BYTES_MAX, Index};
use domain::archive::reader::{self, Scan};
use domain::archive::segment::{BLOCK_LEVEL, Sealed, SegmentError, SegmentWriter};
use domain::event::{Data, NewEvent};
use domain::merkle::{Hash, root_of};
use domain::record::{Record, RecordedEvent};
use domain::{Epoch, Position, StreamName, StreamVersion, Timestamp};
use proptest::prelude::*;

const GROUP: u64 = 1 << BLOCK_LEVEL;

fn position(number: u64) -> Position {
    Position::new(number).expect("a position")
}

/// Event `number` of a log with `streams` streams that take turns, with `payload` bytes of data.
fn record(number: u64, streams: u64, payload: usize) -> Record {
    let version = (number - 1) / streams + 1;
    Record::Event(Box::new(RecordedEvent {
        position: position(number),
        recorded_at: Timestamp::from_unix_micros(i64::try_from(number / 3).expect("small")).expect("an instant"),
        version: StreamVersion::new(version).expect("a version"),
        previous: number.checked_sub(streams).and_then(Position::new),
        epoch: Epoch::FIRST,
        event: NewEvent {
            id: format!("e-{number}"),
            source: "/test".into(),
            event_type: "content.revised".into(),
            stream: StreamName::parse(&format!("content-{}", (number - 1) % streams)).expect("a name"),
            time: None,
            event_version: None,
            data_schema: None,
            data_content_type: None,
            extensions: Vec::new(),
            data: Data::Json(format!("\"{}\"", "x".repeat(payload))),
        },
    }))
}

fn seal(records: &[Record]) -> Sealed {
    let mut writer = SegmentWriter::new(records[0].position(), Epoch::FIRST).expect("a writer");
    records.iter().for_each(|record| writer.push(record).expect("a record that follows"));
    writer.finish().expect("sealed")
}

fn sealed(first: u64, last: u64, payload: usize) -> (Vec<Record>, Sealed) {
    let records: Vec<Record> = (first..=last).map(|number| record(number, 7, payload)).collect();
    let sealed = seal(&records);
    (records, sealed)
}

/// The blocks as (position of the first record, number of records).
fn blocks(sealed: &Sealed) -> Vec<(u64, u32)> {
    let index = Index::parse(&sealed.index).expect("an index");
    index.blocks().iter().map(|block| (block.first.get(), block.records)).collect()
}

fn read(segment: &Segment, object: &[u8], index: &[u8]) -> Result<Vec<Record>, SegmentError> {
    let mut scan = Scan::open(segment, object, index)?;
    let mut records = Vec::new();
    while let Some(block) = scan.next_block()? {
        records.extend(block.records);
    }
    scan.finish().map(|()| records)
}

#[test]
fn what_is_sealed_reads_back_whole_and_block_by_block() {
    let (records, sealed) = sealed(3, 2 * GROUP + 5, 10);
    assert_eq!(read(&sealed.segment, &sealed.object, &sealed.index).expect("sound"), records);
    assert_eq!(sealed.segment.root, root_of(&records.iter().map(Record::leaf).collect::<Vec<_>>()));
    let index = reader::read_index(&sealed.segment, &sealed.index).expect("an index");
    let mut by_block = Vec::new();
    for row in index.blocks() {
        let from = usize::try_from(row.offset).expect("small");
        let stored = &sealed.object[from..from + usize::try_from(row.bytes).expect("small")];
        let block = reader::read_block(stored, row).expect("sound");
        assert!(block.lines().map(<[u8]>::to_vec).eq(block.records.iter().map(Record::to_line)));
        by_block.extend(block.records);
    }
    assert_eq!(by_block, records);
}

#[test]
fn blocks_are_aligned_groups_but_at_the_cuts() {
    let (_, sealed) = sealed(3, 2 * GROUP + 5, 10);
    let expected = [(3, GROUP - 2), (GROUP + 1, GROUP), (2 * GROUP + 1, 5)];
    assert_eq!(blocks(&sealed), expected.map(|(first, records)| (first, u32::try_from(records).expect("small"))));
    let index = Index::parse(&sealed.index).expect("an index");
    assert_eq!(index.blocks().iter().map(|b| b.is_complete()).collect::<Vec<_>>(), [false, true, false]);
}

#[test]
fn a_complete_blocks_hash_is_a_node_of_the_logs_tree() {
    let (records, sealed) = sealed(1, 4 * GROUP, 0);
    let nodes: Vec<Hash> = Index::parse(&sealed.index).expect("an index").blocks().iter().map(|b| b.hash).collect();
    let node = domain::merkle::node_hash;
    let root = node(node(nodes[0], nodes[1]), node(nodes[2], nodes[3]));
    assert_eq!(root, root_of(&records.iter().map(Record::leaf).collect::<Vec<_>>()));
}

#[test]
fn large_records_make_the_largest_aligned_blocks_that_fit() {
    // 300 kB each: 13 fit into 4 MiB. Of the group of 16 in which the segment begins 11 are there; a whole one
    // would not fit, so groups of 8 follow.
    let (records, sealed) = sealed(6, 30, 300_000);
    assert_eq!(blocks(&sealed), [(6, 11), (17, 8), (25, 6)]);
    let index = Index::parse(&sealed.index).expect("an index");
    assert!(index.blocks().iter().all(|block| block.record_bytes as usize <= BLOCK_BYTES_MAX));
    assert_eq!(read(&sealed.segment, &sealed.object, &sealed.index).expect("sound"), records);
}

#[test]
fn sealing_the_same_records_again_gives_the_same_bytes() {
    assert_eq!(sealed(900, 3000, 50).1, sealed(900, 3000, 50).1);
}

#[test]
fn records_that_do_not_follow_are_refused() {
    let push = |records: &[Record]| {
        let mut writer = SegmentWriter::new(position(1), Epoch::FIRST).expect("a writer");
        records.iter().try_for_each(|record| writer.push(record))?;
        writer.finish()
    };
    assert_eq!(push(&[]), Err(SegmentError::Empty));
    let gap = SegmentError::OutOfOrder { expected: position(2), found: position(3) };
    assert_eq!(push(&[record(1, 7, 0), record(3, 7, 0)]), Err(gap));
    let mut late = record(2, 7, 0);
    if let Record::Event(event) = &mut late {
        event.recorded_at = Timestamp::from_unix_micros(-1).expect("an instant");
    }
    assert_eq!(push(&[record(1, 7, 0), late]), Err(SegmentError::TimeWentBack { position: position(2) }));
    assert!(matches!(push(&[record(8, 7, 0)]), Err(SegmentError::OutOfOrder { .. })));
    let mut skips = record(2, 1, 0);
    if let Record::Event(event) = &mut skips {
        event.version = StreamVersion::new(5).expect("a version");
    }
    assert!(matches!(push(&[record(1, 1, 0), skips]), Err(SegmentError::Index(_))));
}

#[test]
fn a_segment_whose_digests_were_made_again_after_a_change_is_still_refused() {
    let (_, good) = sealed(1, 3 * GROUP, 10);
    let with = |object: Vec<u8>| {
        let mut segment = good.segment.clone();
        (segment.sha256, segment.crc32, segment.bytes) =
            (Hash::of(&object), crc32fast::hash(&object), object.len() as u64);
        read(&segment, &object, &good.index)
    };
    let index = Index::parse(&good.index).expect("an index");
    let end = |block: usize| usize::try_from(index.blocks()[block].offset).expect("small");
    let swapped = [&good.object[end(1)..end(2)], &good.object[..end(1)], &good.object[end(2)..]].concat();
    assert!(with(swapped).is_err(), "swapped blocks");
    assert!(with(good.object[..end(2)].to_vec()).is_err(), "a missing block");
    assert!(with([&good.object[..], &good.object[end(2)..]].concat()).is_err(), "a doubled block");
    assert!(with([&good.object[..], b"x"].concat()).is_err(), "a byte more");
    let unchecked = zstd::bulk::compress(&zstd::decode_all(&good.object[..]).expect("zstd"), 3).expect("zstd");
    assert!(with(unchecked).is_err(), "one large frame without a checksum");
}

#[test]
fn an_index_of_another_segment_is_refused() {
    let (_, one) = sealed(1, GROUP, 10);
    let (_, other) = sealed(1, GROUP, 11);
    let mut mixed = one.segment.clone();
    let theirs = &other.segment;
    (mixed.index_sha256, mixed.index_crc32, mixed.index_bytes) =
        (theirs.index_sha256, theirs.index_crc32, theirs.index_bytes);
    assert!(reader::read_index(&mixed, &other.index).is_err());
    assert!(reader::check(&mixed, &one.object, &other.index).is_err());
}

/// A change that hits stored bytes: a flip, a cut, or something put in.
fn damage(bytes: &[u8], at: usize, with: u8, how: u8) -> Vec<u8> {
    let mut changed = bytes.to_vec();
    let at = at % bytes.len();
    match how % 3 {
        0 => changed[at] ^= with.max(1),
        1 => changed.truncate(at),
        _ => changed.insert(at, with),
    }
    changed
}

/// Makes the CRC-32 of every section of an index right again, as whoever damages it on purpose would.
fn with_right_checksums(mut index: Vec<u8>) -> Vec<u8> {
    let number = |bytes: &[u8], at: usize, n: usize| {
        bytes.get(at..at + n).map_or(0, |field| field.iter().rev().fold(0_usize, |sum, b| sum << 8 | usize::from(*b)))
    };
    let lengths = [72, number(&index, 56, 4) * 80, number(&index, 60, 4) * 20, number(&index, 64, 8)];
    let mut at = 0_usize;
    for length in lengths {
        let Some(end) = at.checked_add(length).filter(|end| end + 4 <= index.len()) else { break };
        let crc = crc32fast::hash(&index[at..end]).to_le_bytes();
        index[end..end + 4].copy_from_slice(&crc);
        at = end + 4;
    }
    index
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn any_records_read_back(first in 1_u64..3000, sizes in prop::collection::vec(0_usize..3000, 1..1500), streams in 1_u64..50) {
        let numbered = (first..).zip(&sizes);
        let records: Vec<Record> = numbered.map(|(number, size)| record(number, streams, *size)).collect();
        let sealed = seal(&records);
        prop_assert_eq!(read(&sealed.segment, &sealed.object, &sealed.index).expect("sound"), records);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn a_damaged_index_is_refused(at in any::<usize>(), with in any::<u8>(), how in any::<u8>()) {
        let (_, sealed) = sealed(1000, 1100, 3);
        prop_assert!(Index::parse(&damage(&sealed.index, at, with, how)).is_err());
    }

    #[test]
    fn a_forged_index_neither_panics_nor_passes_for_the_right_one(at in any::<usize>(), with in any::<u8>(), how in any::<u8>()) {
        let (_, sealed) = sealed(1000, 1100, 3);
        let forged = with_right_checksums(damage(&sealed.index, at, with, how));
        if let Ok(index) = Index::parse(&forged) {
            for stream in 0..7 {
                let name = StreamName::parse(&format!("content-{stream}")).expect("a name");
                if let Ok(Some(found)) = index.stream(&name) {
                    prop_assert!(found.blocks.iter().all(|(block, _)| *block < index.blocks().len()));
                }
            }
        }
        if forged != sealed.index {
            prop_assert!(reader::read_index(&sealed.segment, &forged).is_err());
            prop_assert!(reader::check(&sealed.segment, &sealed.object, &forged).is_err());
        }
    }

    #[test]
    fn any_bytes_are_no_index_and_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(Index::parse(&bytes).is_err());
        prop_assert!(Index::parse(&with_right_checksums([&b"CSINDEX\x01"[..], &bytes].concat())).is_err());
    }

    #[test]
    fn a_damaged_block_is_never_read(at in any::<usize>(), with in any::<u8>(), how in any::<u8>()) {
        let (_, sealed) = sealed(1000, 1024, 3);
        let index = Index::parse(&sealed.index).expect("an index");
        let stored = damage(&sealed.object, at, with, how);
        prop_assert!(reader::read_block(&stored, &index.blocks()[0]).is_err());
        // Even where the CRC-32 was made right again, other records do not pass, and nothing panics.
        let mut row = index.blocks()[0].clone();
        (row.crc32, row.bytes) = (crc32fast::hash(&stored), u32::try_from(stored.len()).expect("small"));
        if let Ok(block) = reader::read_block(&stored, &row) {
            prop_assert_eq!(block, reader::read_block(&sealed.object, &index.blocks()[0]).expect("sound"));
        }
    }
}
