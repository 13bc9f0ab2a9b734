//! The index of a segment: where its blocks are, and which of them hold a stream (FORMAT.md §5).
//!
//! An index is a function of its segment: reading the segment gives the same bytes again, and whoever verifies
//! compares them. It may be rebuilt, never edited. Hostile bytes are refused without a panic, and nothing is
//! allocated beyond what the bytes themselves justify.

use std::collections::BTreeMap;

use thiserror::Error;

use crate::merkle::Hash;
use crate::{ErrorKind, Position, StreamName, StreamVersion, Timestamp};

/// The first eight bytes of every index of format 1.
pub const MAGIC: [u8; 8] = *b"CSINDEX\x01";

/// A block holds at most 2^12 records; a writer chooses fewer ([`super::segment::BLOCK_LEVEL`]).
pub const BLOCK_LEVEL_MAX: u32 = 12;
/// A block's records, LFs included, are at most this long.
pub const BLOCK_BYTES_MAX: usize = 4 << 20;

const _: () = assert!(crate::append::EVENT_BYTES_MAX < BLOCK_BYTES_MAX / 2, "the longest line fits into a block");

const HEADER_BYTES: usize = 72;
const BLOCK_ROW_BYTES: usize = 80;
const STREAM_ROW_BYTES: usize = 20;
const CRC_BYTES: usize = 4;
const STREAM_KEY_BYTES: usize = 16;

/// Why bytes are no index, or records have none.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IndexError {
    /// The bytes are not an index of format 1, or not what was stored.
    #[error("not an index: {0}")]
    Damaged(&'static str),
    /// The records cannot be indexed.
    #[error("the record at position {position} cannot be indexed: {reason}")]
    Records {
        /// Which one.
        position: Position,
        /// Why.
        reason: &'static str,
    },
}

impl IndexError {
    /// What the caller has to do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Corrupt
    }
}

/// A block: records that are compressed together, one zstd frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Position of its first record.
    pub first: Position,
    /// Number of its records.
    pub records: u32,
    /// Where its frame begins in the segment.
    pub offset: u64,
    /// Length of its frame.
    pub bytes: u32,
    /// CRC-32/IEEE of its frame.
    pub crc32: u32,
    /// Length of its records, LFs included.
    pub record_bytes: u32,
    /// `recordedat` of its first record.
    pub first_at: Timestamp,
    /// `recordedat` of its last record.
    pub last_at: Timestamp,
    /// RFC 6962 root over its leaves alone; for a complete block a node of the log's tree.
    pub hash: Hash,
}

impl Block {
    /// Position of its last record.
    #[must_use]
    pub fn last(&self) -> Position {
        Position::new(self.first.get() + u64::from(self.records) - 1).unwrap_or(self.first)
    }

    /// Level of the smallest aligned group of leaves that holds the block.
    #[must_use]
    pub fn level(&self) -> u32 {
        u64::BITS - (self.first.leaf() ^ self.last().leaf()).leading_zeros()
    }

    /// Whether it is a whole aligned group, so that its hash is a node of the log's tree.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.first.leaf().is_multiple_of(1 << self.level()) && u64::from(self.records) == 1 << self.level()
    }
}

/// Which blocks of a segment hold a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamBlocks {
    /// The stream's newest version in the segment.
    pub last: StreamVersion,
    /// The blocks that hold it, in order: number of the block, and the stream's first version there.
    pub blocks: Vec<(usize, StreamVersion)>,
}

impl StreamBlocks {
    /// The stream's oldest version in the segment.
    #[must_use]
    pub fn first(&self) -> StreamVersion {
        self.blocks.first().map_or(self.last, |(_, version)| *version)
    }
}

/// An index that was read and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    segment_sha256: Hash,
    blocks: Vec<Block>,
    directory: Vec<u8>,
    postings: Vec<u8>,
}

impl Index {
    /// Reads the stored form.
    ///
    /// # Errors
    /// [`IndexError::Damaged`] if a length, checksum or order is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, IndexError> {
        let damaged = IndexError::Damaged;
        let mut rest = bytes;
        let mut header = Cursor(section(&mut rest, HEADER_BYTES).ok_or(damaged("the header"))?);
        if header.take::<8>() != Some(MAGIC) {
            return Err(damaged("the magic bytes"));
        }
        let mut number = || header.u64().ok_or(damaged("the header"));
        let (first, last) = (number()?, number()?);
        let segment_sha256 = Hash(header.take().ok_or(damaged("the header"))?);
        let mut count = || header.u32().and_then(|n| usize::try_from(n).ok()).ok_or(damaged("the header"));
        let (blocks, streams) = (count()?, count()?);
        let postings = header.u64().and_then(|n| usize::try_from(n).ok()).ok_or(damaged("the header"))?;

        // Each section is cut out of the bytes that are there before anything is allocated for it.
        let blocks = blocks.checked_mul(BLOCK_ROW_BYTES).and_then(|n| section(&mut rest, n));
        let directory = streams.checked_mul(STREAM_ROW_BYTES).and_then(|n| section(&mut rest, n));
        let postings = section(&mut rest, postings);
        let blocks = parse_blocks(blocks.ok_or(damaged("the block table"))?)?;
        let directory = directory.ok_or(damaged("the stream directory"))?.to_vec();
        let postings = postings.ok_or(damaged("the postings"))?.to_vec();
        let range = blocks.first().map(|b| b.first.get()).zip(blocks.last().map(|b| b.last().get()));
        if range != Some((first, last)) {
            return Err(damaged("the range of positions"));
        }
        if !rest.is_empty() {
            return Err(damaged("the length"));
        }
        check_directory(&directory, postings.len())?;
        Ok(Self { segment_sha256, blocks, directory, postings })
    }

    /// SHA-256 of the segment that it belongs to.
    #[must_use]
    pub fn segment_sha256(&self) -> Hash {
        self.segment_sha256
    }

    /// The blocks, in order.
    #[must_use]
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// Number of the block that holds a position; `None` if it is not in the segment.
    #[must_use]
    pub fn block_holding(&self, position: Position) -> Option<usize> {
        let after = self.blocks.partition_point(|block| block.first <= position);
        let number = after.checked_sub(1)?;
        (position <= self.blocks[number].last()).then_some(number)
    }

    /// The blocks that hold a stream; `None` if the segment has no record of it. The answer is exact.
    ///
    /// # Errors
    /// [`IndexError::Damaged`] if the stream's postings are no such thing.
    pub fn stream(&self, stream: &StreamName) -> Result<Option<StreamBlocks>, IndexError> {
        let wanted = Hash::of(stream.as_str().as_bytes()).0;
        let rows = self.directory.as_chunks::<STREAM_ROW_BYTES>().0;
        let Ok(found) = rows.binary_search_by(|row| row[..STREAM_KEY_BYTES].cmp(&wanted[..STREAM_KEY_BYTES])) else {
            return Ok(None);
        };
        let end = rows.get(found + 1).map_or(self.postings.len(), posting_offset);
        let postings = self.postings.get(posting_offset(&rows[found])..end);
        postings
            .and_then(|bytes| parse_postings(bytes, self.blocks.len()))
            .map(Some)
            .ok_or(IndexError::Damaged("a posting"))
    }

    /// Rough size in memory, for a cache's budget.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>() + size_of_val(self.blocks.as_slice()) + self.directory.len() + self.postings.len()
    }
}

fn parse_blocks(table: &[u8]) -> Result<Vec<Block>, IndexError> {
    let rows = table.as_chunks::<BLOCK_ROW_BYTES>().0;
    let blocks: Option<Vec<Block>> = rows.iter().map(parse_block).collect();
    let blocks = blocks.ok_or(IndexError::Damaged("a row of the block table"))?;
    let follows = |pair: &[Block]| {
        let [a, b] = pair else { return false };
        b.first == a.last().next() && b.offset == a.offset + u64::from(a.bytes) && b.first_at >= a.last_at
    };
    let dense = blocks.first().is_some_and(|first| first.offset == 0) && blocks.windows(2).all(follows);
    if dense { Ok(blocks) } else { Err(IndexError::Damaged("the order of the block table")) }
}

fn parse_block(row: &[u8; BLOCK_ROW_BYTES]) -> Option<Block> {
    let mut row = Cursor(row);
    let (offset, bytes, crc32) = (row.u64()?, row.u32()?, row.u32()?);
    let (first, records, record_bytes) = (Position::new(row.u64()?)?, row.u32()?, row.u32()?);
    let (first_at, last_at) = (row.time()?, row.time()?);
    let block =
        Block { first, records, offset, bytes, crc32, record_bytes, first_at, last_at, hash: Hash(row.take()?) };
    let sound = (1..=1 << BLOCK_LEVEL_MAX).contains(&records)
        && usize::try_from(record_bytes).is_ok_and(|n| n <= BLOCK_BYTES_MAX)
        && Position::new(first.get() + u64::from(records)).is_some()
        && offset.checked_add(u64::from(bytes)).is_some()
        && first_at <= last_at
        && block.level() <= BLOCK_LEVEL_MAX;
    sound.then_some(block)
}

fn check_directory(directory: &[u8], postings: usize) -> Result<(), IndexError> {
    let rows = directory.as_chunks::<STREAM_ROW_BYTES>().0;
    let sorted = rows.windows(2).all(|pair| {
        pair[0][..STREAM_KEY_BYTES] < pair[1][..STREAM_KEY_BYTES] && posting_offset(&pair[0]) < posting_offset(&pair[1])
    });
    let bounds = rows.first().is_some_and(|row| posting_offset(row) == 0)
        && rows.last().is_some_and(|row| posting_offset(row) < postings);
    if sorted && bounds { Ok(()) } else { Err(IndexError::Damaged("the order of the stream directory")) }
}

fn posting_offset(row: &[u8; STREAM_ROW_BYTES]) -> usize {
    let [.., a, b, c, d] = *row;
    // An offset that no usize holds is past the end of the postings, which every reader checks.
    usize::try_from(u32::from_le_bytes([a, b, c, d])).unwrap_or(usize::MAX)
}

fn parse_postings(bytes: &[u8], blocks: usize) -> Option<StreamBlocks> {
    let mut cursor = Cursor(bytes);
    let last = StreamVersion::new(cursor.varint()?)?;
    let (mut block, mut version) = (cursor.varint()?, cursor.varint()?);
    let mut found = Vec::new();
    loop {
        let number = usize::try_from(block).ok().filter(|number| *number < blocks)?;
        found.push((number, StreamVersion::new(version).filter(|version| *version <= last)?));
        if cursor.0.is_empty() {
            return Some(StreamBlocks { last, blocks: found });
        }
        // A later block, a higher version: zero steps would let a few bytes claim any number of blocks.
        let (block_step, version_step) = (cursor.varint()?, cursor.varint()?);
        if block_step == 0 || version_step == 0 {
            return None;
        }
        (block, version) = (block.checked_add(block_step)?, version.checked_add(version_step)?);
    }
}

/// Cuts `bytes` bytes and the CRC-32 after them off `rest`; `None` if they are not there or do not match.
fn section<'a>(rest: &mut &'a [u8], bytes: usize) -> Option<&'a [u8]> {
    let (content, after) = rest.split_at_checked(bytes)?;
    let (crc, after) = after.split_first_chunk::<CRC_BYTES>()?;
    *rest = after;
    (crc32fast::hash(content) == u32::from_le_bytes(*crc)).then_some(content)
}

/// Reads little-endian numbers off the front of bytes; `None` past the end.
struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn time(&mut self) -> Option<Timestamp> {
        self.take().map(i64::from_le_bytes).and_then(|micros| Timestamp::from_unix_micros(micros).ok())
    }

    /// LEB128, unsigned.
    fn varint(&mut self) -> Option<u64> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.take()?;
            let bits = u64::from(byte & 0x7f);
            if (bits << shift) >> shift != bits {
                return None;
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }
}

fn write_varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        let [low, ..] = number.to_le_bytes();
        out.push(low | 0x80);
        number >>= 7;
    }
    let [low, ..] = number.to_le_bytes();
    out.push(low);
}

#[derive(Debug, Default)]
struct Postings {
    bytes: Vec<u8>,
    block: u64,
    version: u64,
    last: u64,
}

/// What the index needs to know of a record.
#[derive(Debug, Clone)]
pub(super) struct IndexedRecord {
    pub(super) position: Position,
    pub(super) stream: Hash,
    pub(super) version: StreamVersion,
}

/// Makes an index, block by block.
#[derive(Debug, Default)]
pub(super) struct IndexBuilder {
    blocks: Vec<Block>,
    streams: BTreeMap<Hash, Postings>,
}

impl IndexBuilder {
    /// Adds the next block and its records.
    pub(super) fn add(
        &mut self,
        block: Block,
        records: impl IntoIterator<Item = IndexedRecord>,
    ) -> Result<(), IndexError> {
        let number = self.blocks.len() as u64;
        for IndexedRecord { position, stream, version } in records {
            let version = version.get();
            let postings = self.streams.entry(stream).or_default();
            if !postings.bytes.is_empty() && version != postings.last + 1 {
                return Err(IndexError::Records { position, reason: "its stream's versions are not dense" });
            }
            if postings.bytes.is_empty() || postings.block != number {
                write_varint(number - postings.block, &mut postings.bytes);
                write_varint(version - postings.version, &mut postings.bytes);
                (postings.block, postings.version) = (number, version);
            }
            postings.last = version;
        }
        self.blocks.push(block);
        Ok(())
    }

    /// The stored form.
    pub(super) fn finish(self, segment_sha256: Hash) -> Result<Vec<u8>, IndexError> {
        let too_large = IndexError::Damaged("the segment is too large for one index");
        let (first, last) = self.blocks.first().zip(self.blocks.last()).ok_or(IndexError::Damaged("no blocks"))?;
        let (mut directory, mut postings) = (Vec::<u8>::new(), Vec::new());
        for (stream, Postings { bytes, last, .. }) in &self.streams {
            let key = &stream.0[..STREAM_KEY_BYTES];
            // Streams come sorted, so two that share a key would stand side by side.
            if directory.last_chunk::<STREAM_ROW_BYTES>().is_some_and(|row| row.starts_with(key)) {
                return Err(IndexError::Damaged("two streams share the first 16 bytes of their names' SHA-256"));
            }
            directory.extend(key);
            directory.extend(u32::try_from(postings.len()).map_err(|_| too_large.clone())?.to_le_bytes());
            write_varint(*last, &mut postings);
            postings.extend(bytes);
        }
        let count = |n: usize| u32::try_from(n).map(u32::to_le_bytes).map_err(|_| too_large.clone());
        let mut header = MAGIC.to_vec();
        header.extend(first.first.get().to_le_bytes());
        header.extend(last.last().get().to_le_bytes());
        header.extend(segment_sha256.0);
        header.extend(count(self.blocks.len())?);
        header.extend(count(self.streams.len())?);
        header.extend((postings.len() as u64).to_le_bytes());
        let table: Vec<u8> = self.blocks.iter().flat_map(block_row).collect();
        let with_crc = |section: Vec<u8>| {
            let crc = crc32fast::hash(&section).to_le_bytes();
            section.into_iter().chain(crc)
        };
        Ok([header, table, directory, postings].into_iter().flat_map(with_crc).collect())
    }
}

fn block_row(block: &Block) -> Vec<u8> {
    let Block { first, records, offset, bytes, crc32, record_bytes, first_at, last_at, hash } = block;
    let mut row = Vec::with_capacity(BLOCK_ROW_BYTES);
    row.extend(offset.to_le_bytes());
    row.extend(bytes.to_le_bytes());
    row.extend(crc32.to_le_bytes());
    row.extend(first.get().to_le_bytes());
    row.extend(records.to_le_bytes());
    row.extend(record_bytes.to_le_bytes());
    row.extend(first_at.unix_micros().to_le_bytes());
    row.extend(last_at.unix_micros().to_le_bytes());
    row.extend(hash.0);
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_read_back_and_overlong_ones_are_refused() {
        for number in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
            let mut bytes = Vec::new();
            write_varint(number, &mut bytes);
            assert_eq!(Cursor(&bytes).varint(), Some(number));
            assert_eq!(Cursor(&bytes[..bytes.len() - 1]).varint(), None);
        }
        assert_eq!(Cursor(&[0xff; 10]).varint(), None, "more than 64 bits");
        assert_eq!(Cursor(&[0x80; 11]).varint(), None, "without an end");
    }

    #[test]
    fn postings_of_no_step_are_refused() {
        assert!(parse_postings(&[9, 0, 1], 4).is_some());
        assert!(parse_postings(&[9, 0, 1, 1, 2], 4).is_some());
        assert!(parse_postings(&[9, 0, 1, 0, 2], 4).is_none(), "the same block twice");
        assert!(parse_postings(&[9, 0, 1, 1, 0], 4).is_none(), "the same version twice");
        assert!(parse_postings(&[9, 4, 1], 4).is_none(), "a block that is not there");
        assert!(parse_postings(&[9, 0, 10], 4).is_none(), "a version above the last");
        assert!(parse_postings(&[9], 4).is_none(), "no block");
    }
}
