//! Reads segments, and trusts nothing: every byte that comes out was compared with what was stored.
//!
//! [`read_block`] reads one block for a cold read, checked against the index's row. [`Scan`] reads a whole
//! segment, rebuilds its index on the way and compares all of it with what the manifest says. What does not
//! match is an error and is never handed on.

use zstd::bulk::Decompressor;
use zstd::zstd_safe;

use super::catalog::Segment;
use super::index::{BLOCK_BYTES_MAX, BLOCK_LEVEL_MAX, Block, Index, IndexBuilder, IndexedRecord};
use super::segment::SegmentError;
use crate::merkle::{Frontier, Hash, leaf_hash, root_of};
use crate::record::{self, Record};
use crate::{Position, Timestamp};

/// What every zstd frame begins with (RFC 8878 §3.1.1).
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Bit of the frame header descriptor that says that a checksum follows the content (RFC 8878 §3.1.1.1.1).
const CHECKSUM_FLAG: u8 = 0b100;

/// The records of a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodedBlock {
    /// The records, in order.
    pub records: Vec<Record>,
    /// Their leaves.
    pub leaves: Vec<Hash>,
    /// Their lines, an LF after each.
    pub text: Vec<u8>,
}

impl DecodedBlock {
    /// The records' lines, without LFs.
    pub fn lines(&self) -> impl Iterator<Item = &[u8]> {
        self.text.split_inclusive(|byte| *byte == b'\n').map(|line| &line[..line.len() - 1])
    }
}

/// Reads the stored bytes of one block and checks them against the index's row: CRC-32, zstd's checksum, every
/// record's form and place, and the root over the leaves.
///
/// # Errors
/// [`SegmentError::Damaged`], [`SegmentError::Record`].
pub fn read_block(stored: &[u8], row: &Block) -> Result<DecodedBlock, SegmentError> {
    let damaged = |reason: &str| SegmentError::Damaged { position: row.first, reason: reason.into() };
    if u64::from(row.bytes) != stored.len() as u64 || crc32fast::hash(stored) != row.crc32 {
        return Err(damaged("the CRC-32 of the stored block does not match"));
    }
    let block = decode(stored, row.first, None)?;
    if describe(stored, row.offset, &block)? != *row {
        return Err(damaged("the records are not those of the index"));
    }
    Ok(block)
}

/// A walk through a whole segment.
pub struct Scan<'a> {
    segment: &'a Segment,
    object: &'a [u8],
    index: &'a [u8],
    offset: usize,
    next: Position,
    last_at: Option<Timestamp>,
    built: IndexBuilder,
    tree: Frontier,
    record_bytes: u64,
}

impl<'a> Scan<'a> {
    /// Compares lengths, CRC-32 and SHA-256 of both objects with what the manifest says, and begins.
    ///
    /// # Errors
    /// [`SegmentError::Damaged`] for the first that does not match.
    pub fn open(segment: &'a Segment, object: &'a [u8], index: &'a [u8]) -> Result<Self, SegmentError> {
        let Segment { bytes, crc32, sha256, index_bytes, index_crc32, index_sha256, .. } = segment;
        compare(segment, "segment", object, (*bytes, *crc32, *sha256))?;
        compare(segment, "index", index, (*index_bytes, *index_crc32, *index_sha256))?;
        Ok(Self {
            segment,
            object,
            index,
            offset: 0,
            next: segment.first,
            last_at: None,
            built: IndexBuilder::default(),
            tree: Frontier::default(),
            record_bytes: 0,
        })
    }

    /// The next block; `None` after the last.
    ///
    /// # Errors
    /// As [`read_block`].
    pub fn next_block(&mut self) -> Result<Option<DecodedBlock>, SegmentError> {
        let rest = &self.object[self.offset..];
        if rest.is_empty() {
            return Ok(None);
        }
        let frame = zstd_safe::find_frame_compressed_size(rest)
            .ok()
            .and_then(|bytes| rest.get(..bytes))
            .ok_or_else(|| self.damaged("no zstd frame"))?;
        let block = decode(frame, self.next, self.last_at)?;
        let row = describe(frame, self.offset as u64, &block)?;
        let inside = self.next != self.segment.first && frame.len() < rest.len();
        if row.level() > BLOCK_LEVEL_MAX || (inside && !row.is_complete()) {
            return Err(self.damaged("the block is no aligned group of records"));
        }
        let indexed = block.records.iter().map(|record| IndexedRecord {
            position: record.position(),
            stream: Hash::of(record.stream().as_str().as_bytes()),
            version: record.version(),
        });
        self.offset += frame.len();
        self.next = row.last().next();
        self.last_at = Some(row.last_at);
        self.record_bytes += u64::from(row.record_bytes);
        self.built.add(row, indexed)?;
        block.leaves.iter().for_each(|leaf| self.tree.push(*leaf));
        Ok(Some(block))
    }

    /// After the last block: compares range, sizes, times, root and the rebuilt index with what was stated.
    ///
    /// # Errors
    /// [`SegmentError::Damaged`] for the first that does not match.
    pub fn finish(self) -> Result<(), SegmentError> {
        if self.offset != self.object.len() {
            return Err(self.damaged("not all of it was read"));
        }
        let root = self.tree.root();
        let Segment { first, last, record_bytes, first_at, last_at, .. } = self.segment;
        let damaged = |reason: &str| SegmentError::Damaged { position: *first, reason: reason.into() };
        if (self.next, self.record_bytes) != (last.next(), *record_bytes) {
            return Err(damaged("it has other records than the manifest says"));
        }
        if root != self.segment.root {
            return Err(damaged("its root is not the manifest's"));
        }
        if self.built.finish(self.segment.sha256)? != self.index {
            return Err(damaged("its index is not the one that its records give"));
        }
        let blocks = Index::parse(self.index)?;
        let times = blocks.blocks().first().zip(blocks.blocks().last()).map(|(a, b)| (a.first_at, b.last_at));
        if times != Some((*first_at, *last_at)) {
            return Err(damaged("its times are not the manifest's"));
        }
        Ok(())
    }

    fn damaged(&self, reason: &str) -> SegmentError {
        SegmentError::Damaged { position: self.next, reason: reason.into() }
    }
}

/// Checks a whole segment and its index against the manifest.
///
/// # Errors
/// As [`Scan`].
pub fn check(segment: &Segment, object: &[u8], index: &[u8]) -> Result<(), SegmentError> {
    let mut scan = Scan::open(segment, object, index)?;
    while scan.next_block()?.is_some() {}
    scan.finish()
}

/// Checks an index against the manifest and reads it.
///
/// # Errors
/// [`SegmentError::Damaged`], [`SegmentError::Index`].
pub fn read_index(segment: &Segment, index: &[u8]) -> Result<Index, SegmentError> {
    let Segment { first, last, bytes, index_bytes, index_crc32, index_sha256, .. } = segment;
    compare(segment, "index", index, (*index_bytes, *index_crc32, *index_sha256))?;
    let parsed = Index::parse(index)?;
    let stated = (*first, *last, *bytes, segment.sha256);
    let range = parsed.blocks().first().zip(parsed.blocks().last());
    let found = range.map(|(a, b)| (a.first, b.last(), b.offset + u64::from(b.bytes), parsed.segment_sha256()));
    if found == Some(stated) {
        Ok(parsed)
    } else {
        Err(SegmentError::Damaged { position: *first, reason: "the index is another segment's".into() })
    }
}

fn compare(segment: &Segment, name: &str, stored: &[u8], stated: (u64, u32, Hash)) -> Result<(), SegmentError> {
    let (bytes, crc32, sha256) = stated;
    let wrong = if stored.len() as u64 != bytes {
        "length"
    } else if crc32fast::hash(stored) != crc32 {
        "CRC-32"
    } else if Hash::of(stored) != sha256 {
        "SHA-256"
    } else {
        return Ok(());
    };
    let reason = format!("the {name}'s {wrong} is not the manifest's");
    Err(SegmentError::Damaged { position: segment.first, reason })
}

/// Decodes one frame whose first record is `first`, recorded at `after` or later.
fn decode(frame: &[u8], first: Position, after: Option<Timestamp>) -> Result<DecodedBlock, SegmentError> {
    let text = decompress(frame).map_err(|reason| SegmentError::Damaged {
        position: first,
        reason: format!("the block cannot be decompressed: {reason}"),
    })?;
    let mut block = DecodedBlock { records: Vec::new(), leaves: Vec::new(), text };
    let (mut position, mut after) = (first, after);
    for line in block.text.split_inclusive(|byte| *byte == b'\n') {
        let damaged = |reason: &str| SegmentError::Damaged { position, reason: reason.into() };
        let line = line.strip_suffix(b"\n").ok_or_else(|| damaged("the last line does not end"))?;
        let record = record::read(line).map_err(|source| SegmentError::Record { position, source })?;
        if record.position() != position {
            return Err(SegmentError::OutOfOrder { expected: position, found: record.position() });
        }
        if after.is_some_and(|after| record.recorded_at() < after) {
            return Err(SegmentError::TimeWentBack { position });
        }
        after = Some(record.recorded_at());
        block.leaves.push(match &record {
            Record::Event(_) => leaf_hash(line),
            Record::Removed(removed) => removed.leaf,
        });
        block.records.push(record);
        position = position.next();
    }
    Ok(block)
}

/// Decompresses exactly one frame, of a stated and bounded size, with a checksum.
fn decompress(frame: &[u8]) -> Result<Vec<u8>, String> {
    let descriptor = frame.strip_prefix(&ZSTD_MAGIC).and_then(|rest| rest.first()).ok_or("no zstd frame")?;
    if descriptor & CHECKSUM_FLAG == 0 {
        return Err("the frame has no checksum".into());
    }
    if zstd_safe::find_frame_compressed_size(frame) != Ok(frame.len()) {
        return Err("not one whole frame".into());
    }
    let stated = zstd_safe::get_frame_content_size(frame).ok().flatten();
    let bytes =
        stated.and_then(|bytes| usize::try_from(bytes).ok()).filter(|bytes| (1..=BLOCK_BYTES_MAX).contains(bytes));
    let bytes = bytes.ok_or("the frame states no size that a block can have")?;
    let text = Decompressor::new().and_then(|mut zstd| zstd.decompress(frame, bytes)).map_err(|e| e.to_string())?;
    if text.len() == bytes { Ok(text) } else { Err("the frame has another size than it states".into()) }
}

/// The index's row of a block that was read.
fn describe(frame: &[u8], offset: u64, block: &DecodedBlock) -> Result<Block, SegmentError> {
    let (first, last) = block.records.first().zip(block.records.last()).ok_or(SegmentError::Empty)?;
    let small = |n: usize| {
        let reason = || SegmentError::Damaged { position: first.position(), reason: "the block is too large".into() };
        u32::try_from(n).map_err(|_| reason())
    };
    Ok(Block {
        first: first.position(),
        records: small(block.records.len())?,
        offset,
        bytes: small(frame.len())?,
        crc32: crc32fast::hash(frame),
        record_bytes: small(block.text.len())?,
        first_at: first.recorded_at(),
        last_at: last.recorded_at(),
        hash: root_of(&block.leaves),
    })
}
