//! Writes a segment and its index (FORMAT.md §4): records in position order, one zstd frame a block.
//!
//! The same records give the same bytes (of one release of zstd), so that sealing can be repeated after a crash.
//! Memory: the compressed blocks so far, and at most one block's lines.

use thiserror::Error;
use zstd::bulk::Compressor;
use zstd::zstd_safe::CParameter;

use super::catalog::Segment;
use super::index::{BLOCK_BYTES_MAX, BLOCK_LEVEL_MAX, Block, IndexBuilder, IndexError, IndexedRecord};
use crate::event::EventError;
use crate::merkle::{Frontier, Hash, leaf_hash, root_of};
use crate::record::{self, Record};
use crate::{Epoch, ErrorKind, Position, Timestamp};

/// A block is an aligned group of 2^10 leaves, where its records fit. Measured (FORMAT.md §4): half of it costs
/// 6 % more storage, twice as much saves nothing and doubles the bytes that a point read fetches.
pub const BLOCK_LEVEL: u32 = 10;

const _: () = assert!(BLOCK_LEVEL <= BLOCK_LEVEL_MAX, "readers accept what we write");

/// zstd's level. Not part of the format: any level can be read. 9 takes an eighth less room than 3 at half of its
/// speed, still several times the log's; 19 saves another twelfth at a fortieth of the speed.
const COMPRESSION_LEVEL: i32 = 9;

/// Why a segment was not written, or is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SegmentError {
    /// A record does not follow the one before it.
    #[error("the record at position {found} does not follow: expected {expected}")]
    OutOfOrder {
        /// The next position.
        expected: Position,
        /// What came.
        found: Position,
    },
    /// `recordedat` falls.
    #[error("the record at position {position} was recorded before the one in front of it")]
    TimeWentBack {
        /// Where.
        position: Position,
    },
    /// A line no block holds.
    #[error("the record at position {position} is longer than a block")]
    TooLong {
        /// Where.
        position: Position,
    },
    /// There is nothing to seal.
    #[error("a segment has at least one record")]
    Empty,
    /// The compressor failed.
    #[error("compression failed: {0}")]
    Compression(String),
    /// The records have no index, or the bytes are none.
    #[error("the index is not right")]
    Index(#[from] IndexError),
    /// Stored bytes are not what was stored.
    #[error("damaged at position {position}: {reason}")]
    Damaged {
        /// First position that is affected.
        position: Position,
        /// What is wrong.
        reason: String,
    },
    /// A line is no record.
    #[error("the line at position {position} is no record")]
    Record {
        /// Where.
        position: Position,
        /// Why.
        #[source]
        source: EventError,
    },
}

impl SegmentError {
    /// What the caller has to do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Empty => ErrorKind::Invalid,
            Self::Compression(_) => ErrorKind::Unavailable,
            _ => ErrorKind::Corrupt,
        }
    }
}

/// A segment and its index, ready to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// What manifest and catalog will say of it.
    pub segment: Segment,
    /// The bytes of the segment.
    pub object: Vec<u8>,
    /// The bytes of its index.
    pub index: Vec<u8>,
}

/// A record that waits for its block.
struct Row {
    /// Where its line, LF included, ends in the pending text.
    end: usize,
    leaf: Hash,
    at: Timestamp,
    indexed: IndexedRecord,
}

/// Writes one segment.
pub struct SegmentWriter {
    first: Position,
    next: Position,
    epoch: Epoch,
    compressor: Compressor<'static>,
    text: Vec<u8>,
    rows: Vec<Row>,
    object: Vec<u8>,
    index: IndexBuilder,
    tree: Frontier,
    record_bytes: u64,
    times: Option<(Timestamp, Timestamp)>,
}

impl SegmentWriter {
    /// A segment that begins with the record at `first`, sealed in `epoch`.
    ///
    /// # Errors
    /// [`SegmentError::Compression`] if there is no memory for a compressor.
    pub fn new(first: Position, epoch: Epoch) -> Result<Self, SegmentError> {
        Ok(Self {
            first,
            next: first,
            epoch,
            compressor: compressor().map_err(|error| SegmentError::Compression(error.to_string()))?,
            text: Vec::new(),
            rows: Vec::new(),
            object: Vec::new(),
            index: IndexBuilder::default(),
            tree: Frontier::default(),
            record_bytes: 0,
            times: None,
        })
    }

    /// Position of its first record.
    #[must_use]
    pub fn first(&self) -> Position {
        self.first
    }

    /// Position that the next record must have.
    #[must_use]
    pub fn next(&self) -> Position {
        self.next
    }

    /// The epoch in which it is sealed.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Length of its records so far, LFs included.
    #[must_use]
    pub fn record_bytes(&self) -> u64 {
        self.record_bytes
    }

    /// `recordedat` of its first record; `None` while it is empty.
    #[must_use]
    pub fn first_at(&self) -> Option<Timestamp> {
        self.times.map(|(first, _)| first)
    }

    /// Whether every record so far is in its final block: a cut here leaves no partial last block.
    #[must_use]
    pub fn is_between_blocks(&self) -> bool {
        self.rows.is_empty()
    }

    /// Adds the next record. After an error the writer is of no use.
    ///
    /// # Errors
    /// [`SegmentError::OutOfOrder`], [`SegmentError::TimeWentBack`], [`SegmentError::TooLong`],
    /// [`SegmentError::Index`].
    pub fn push(&mut self, record: &Record) -> Result<(), SegmentError> {
        let (position, at) = (record.position(), record.recorded_at());
        if position != self.next {
            return Err(SegmentError::OutOfOrder { expected: self.next, found: position });
        }
        let first_at = self.times.map_or(at, |(first, _)| first);
        if self.times.is_some_and(|(_, last)| at < last) {
            return Err(SegmentError::TimeWentBack { position });
        }
        let start = self.text.len();
        record::write(record, &mut self.text);
        let line = &self.text[start..];
        let leaf = match record {
            Record::Event(_) => leaf_hash(line),
            Record::Removed(removed) => removed.leaf,
        };
        self.text.push(b'\n');
        let bytes = self.text.len() - start;
        if bytes > BLOCK_BYTES_MAX {
            return Err(SegmentError::TooLong { position });
        }
        let stream = Hash::of(record.stream().as_str().as_bytes());
        let indexed = IndexedRecord { position, stream, version: record.version() };
        self.rows.push(Row { end: self.text.len(), leaf, at, indexed });
        self.tree.push(leaf);
        self.record_bytes += bytes as u64;
        self.times = Some((first_at, at));
        self.next = position.next();
        while let Some(records) = self.next_block(false) {
            self.write_block(records)?;
        }
        Ok(())
    }

    /// Number of pending records that make up the next block, if that is certain; with `last`, if nothing follows.
    ///
    /// The block is the largest aligned group of leaves, of at most 2^[`BLOCK_LEVEL`], whose records in this
    /// segment are not over [`BLOCK_BYTES_MAX`]. Only a segment's first block may begin inside its group.
    fn next_block(&self, last: bool) -> Option<usize> {
        let start = self.rows.first()?.indexed.position.leaf();
        let largest = if start == self.first.leaf() { BLOCK_LEVEL } else { BLOCK_LEVEL.min(start.trailing_zeros()) };
        for level in (0..=largest).rev() {
            let to_end = usize::try_from((1 << level) - start % (1 << level)).expect("at most 2^10");
            let here = to_end.min(self.rows.len());
            if self.rows[here - 1].end <= BLOCK_BYTES_MAX {
                return (here == to_end || last).then_some(here);
            }
        }
        None
    }

    fn write_block(&mut self, records: usize) -> Result<(), SegmentError> {
        let rows: Vec<Row> = self.rows.drain(..records).collect();
        let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return Ok(()) };
        let frame = self.compressor.compress(&self.text[..last.end]);
        let frame = frame.map_err(|error| SegmentError::Compression(error.to_string()))?;
        let leaves: Vec<Hash> = rows.iter().map(|row| row.leaf).collect();
        let small = |n: usize| u32::try_from(n).expect("a block is at most 4 MiB, its frame little more");
        let block = Block {
            first: first.indexed.position,
            records: small(records),
            offset: self.object.len() as u64,
            bytes: small(frame.len()),
            crc32: crc32fast::hash(&frame),
            record_bytes: small(last.end),
            first_at: first.at,
            last_at: last.at,
            hash: root_of(&leaves),
        };
        let end = last.end;
        self.index.add(block, rows.into_iter().map(|row| row.indexed))?;
        self.object.extend(frame);
        self.text.drain(..end);
        for row in &mut self.rows {
            row.end -= end;
        }
        Ok(())
    }

    /// Writes what is pending and returns the segment.
    ///
    /// # Errors
    /// [`SegmentError::Empty`] if no record was added.
    pub fn finish(mut self) -> Result<Sealed, SegmentError> {
        while let Some(records) = self.next_block(true) {
            self.write_block(records)?;
        }
        let (first_at, last_at) = self.times.ok_or(SegmentError::Empty)?;
        let last = self.next.head_before().newest().ok_or(SegmentError::Empty)?;
        let sha256 = Hash::of(&self.object);
        let index = self.index.finish(sha256)?;
        let segment = Segment {
            first: self.first,
            last,
            epoch: self.epoch,
            sha256,
            crc32: crc32fast::hash(&self.object),
            bytes: self.object.len() as u64,
            record_bytes: self.record_bytes,
            index_sha256: Hash::of(&index),
            index_crc32: crc32fast::hash(&index),
            index_bytes: index.len() as u64,
            root: self.tree.root(),
            first_at,
            last_at,
        };
        Ok(Sealed { segment, object: self.object, index })
    }
}

/// One frame a block, with content size and checksum, without a dictionary: one trained on events would carry
/// personal data that nobody can erase.
fn compressor() -> std::io::Result<Compressor<'static>> {
    let mut compressor = Compressor::new(COMPRESSION_LEVEL)?;
    compressor.set_parameter(CParameter::ChecksumFlag(true))?;
    compressor.set_parameter(CParameter::ContentSizeFlag(true))?;
    Ok(compressor)
}
