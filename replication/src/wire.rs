//! A batch of records on the way to the other region: one zstd frame of NDJSON.
//!
//! The first line is the header: `{"log","epoch","role","after","last","head","crc32","root_before",
//! "root_after","clock","kept"?}`, all strings. The lines after it are the records from position `after` + 1 to `last`,
//! byte for byte as they stand in the log; none, if `last` is `after`. `crc32` is of these lines with their LFs;
//! the roots are those of the log's tree at `after` and at `last`; `head`, `role` and `clock` are the sender's.
//! `kept` is an array of the positions in the batch whose ids are kept for ever (LOG-4), ascending; absent where
//! there are none, so that a batch without them is the same to a receiver from before there were any. One that does
//! not know the member refuses the batch: it could not keep them.
//!
//! [`decode`] trusts nothing: a batch that is cut, altered, out of order, of another log or epoch, or whose
//! roots are not those of the receiver's own tree is refused before anything of it is applied (REP-1).

use std::io::Read;

use domain::append::{REQUEST_BYTES_MAX, Role};
use domain::event::EventError;
use domain::merkle::{Frontier, Hash, leaf_hash};
use domain::record::{self, Record};
use domain::{Epoch, ErrorKind, Head, Position, Timestamp};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use zstd::bulk::Compressor;

use domain::spelling;

/// A batch has at most this many records.
pub const BATCH_RECORDS_MAX: usize = 8192;
/// The record lines of a batch stop growing at this many bytes; the last one may go beyond.
pub const BATCH_BYTES_GOAL: usize = 8 << 20;
/// No batch has more bytes than this when it is decompressed.
pub const BATCH_BYTES_MAX: usize = 2 * REQUEST_BYTES_MAX;

const _: () = assert!(
    BATCH_BYTES_GOAL + 2 * domain::append::EVENT_BYTES_MAX <= BATCH_BYTES_MAX,
    "a batch at its goal takes one more event of the largest size, and the header"
);

/// Fast enough to keep up with any import, and records shrink to a fifth.
const COMPRESSION_LEVEL: i32 = 1;

/// What the sender says of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchHeader {
    /// Name of the log.
    pub log: String,
    /// The sender's epoch.
    #[serde(with = "spelling::text")]
    pub epoch: Epoch,
    /// What the sender is.
    #[serde(with = "spelling::text")]
    pub role: Role,
    /// The batch begins after this head.
    #[serde(with = "spelling::text")]
    pub after: Head,
    /// The head of who has applied it.
    #[serde(with = "spelling::text")]
    pub last: Head,
    /// The sender's head.
    #[serde(with = "spelling::text")]
    pub head: Head,
    /// CRC-32 of the record lines, as 8 hexadecimal digits.
    pub crc32: String,
    /// Root of the tree at `after`.
    #[serde(with = "spelling::text")]
    pub root_before: Hash,
    /// Root of the tree at `last`.
    #[serde(with = "spelling::text")]
    pub root_after: Hash,
    /// What time it is at the sender.
    #[serde(with = "spelling::text")]
    pub clock: Timestamp,
    /// Positions in the batch whose ids are kept for ever, ascending.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "spelling::texts")]
    pub kept: Vec<Position>,
}

/// What is sent along with the records.
#[derive(Debug, Clone)]
pub struct Envelope {
    /// Name of the log.
    pub log: String,
    /// The sender's epoch.
    pub epoch: Epoch,
    /// What the sender is.
    pub role: Role,
    /// The sender's head, at least the last record's position.
    pub head: Head,
    /// What time it is at the sender.
    pub clock: Timestamp,
    /// Positions among the records' whose ids are kept for ever, ascending.
    pub kept: Vec<Position>,
}

/// A batch that was checked: it continues the receiver's log.
#[derive(Debug)]
pub struct Batch {
    /// What the sender said.
    pub header: BatchHeader,
    /// The records, dense from `header.after` + 1.
    pub records: Vec<Record>,
    /// The tree of who has applied it.
    pub frontier: Frontier,
}

/// Why a batch was refused. Nothing of it may be applied.
#[derive(Debug, Error)]
pub enum BatchError {
    /// It is not in its form: cut, altered on the way, or no batch at all.
    #[error("the batch cannot be read: {0}")]
    Form(String),
    /// It is of another log.
    #[error("the batch is of log {found:?}, this is {expected:?}")]
    OtherLog {
        /// This log.
        expected: String,
        /// The batch's.
        found: String,
    },
    /// The sender is in another epoch.
    #[error("the batch is of epoch {found}, this region is in epoch {expected}")]
    OtherEpoch {
        /// The epoch here.
        expected: Epoch,
        /// The sender's.
        found: Epoch,
    },
    /// It does not begin where this log ends.
    #[error("the batch begins after {found}, this log ends at {expected}")]
    OutOfOrder {
        /// This log's head.
        expected: Head,
        /// Where the batch begins.
        found: Head,
    },
    /// The lines are not those that the sender wrote.
    #[error("the CRC-32 of the batch's lines does not match")]
    Checksum,
    /// A line is no record.
    #[error("the line for position {position} is no record")]
    Record {
        /// Its place.
        position: Position,
        /// Why.
        #[source]
        source: EventError,
    },
    /// Both logs have this many events, and not the same ones.
    #[error("the two logs differ somewhere in their first {at} events")]
    Forked {
        /// The head at which the roots differ.
        at: Head,
    },
    /// The root after the batch is not what its records give.
    #[error("the batch's records do not give the root that it states at {at}")]
    WrongRoot {
        /// The head after it.
        at: Head,
    },
}

impl BatchError {
    /// What the caller has to do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Form(_) | Self::Checksum | Self::OutOfOrder { .. } => ErrorKind::Unavailable,
            Self::OtherLog { .. } => ErrorKind::Invalid,
            Self::OtherEpoch { .. } => ErrorKind::Fenced,
            Self::Forked { .. } => ErrorKind::Forked,
            Self::Record { .. } | Self::WrongRoot { .. } => ErrorKind::Corrupt,
        }
    }
}

/// Writes a batch. `before` is the tree that the records continue; the tree after them is returned too.
///
/// # Errors
/// What the compressor says, if there is no memory for it.
pub fn encode(envelope: &Envelope, before: &Frontier, records: &[Record]) -> std::io::Result<(Vec<u8>, Frontier)> {
    let mut lines = Vec::new();
    let mut after = before.clone();
    for record in records {
        let start = lines.len();
        record::write(record, &mut lines);
        after.push(leaf_of(record, &lines[start..]));
        lines.push(b'\n');
    }
    let header = BatchHeader {
        log: envelope.log.clone(),
        epoch: envelope.epoch,
        role: envelope.role,
        after: before.size(),
        last: after.size(),
        head: envelope.head.max(after.size()),
        crc32: spell_crc(crc32fast::hash(&lines)),
        root_before: before.root(),
        root_after: after.root(),
        clock: envelope.clock,
        kept: envelope.kept.clone(),
    };
    let mut text = serde_json::to_vec(&header).expect("a struct of strings has a JSON form");
    text.push(b'\n');
    text.append(&mut lines);
    // With zstd's own checksum, so that a changed byte of the header is found as well.
    let mut compressor = Compressor::new(COMPRESSION_LEVEL)?;
    compressor.include_checksum(true)?;
    Ok((compressor.compress(&text)?, after))
}

/// Reads a batch that has to continue the log `log` in `epoch`, whose tree is `before`.
///
/// # Errors
/// A [`BatchError`] for the first thing that is wrong.
pub fn decode(body: &[u8], log: &str, epoch: Epoch, before: &Frontier) -> Result<Batch, BatchError> {
    let text = decompress(body)?;
    let end = text.iter().position(|byte| *byte == b'\n').ok_or_else(|| BatchError::Form("no header".into()))?;
    let (header, lines) = (&text[..end], &text[end + 1..]);
    let header: BatchHeader = serde_json::from_slice(header).map_err(|error| BatchError::Form(error.to_string()))?;
    if header.log != log {
        return Err(BatchError::OtherLog { expected: log.into(), found: header.log });
    }
    if header.epoch != epoch {
        return Err(BatchError::OtherEpoch { expected: epoch, found: header.epoch });
    }
    if header.after != before.size() {
        return Err(BatchError::OutOfOrder { expected: before.size(), found: header.after });
    }
    if header.crc32 != spell_crc(crc32fast::hash(lines)) {
        return Err(BatchError::Checksum);
    }
    // Before any record is looked at: if the histories differ, what follows is another log's.
    if header.root_before != before.root() {
        return Err(BatchError::Forked { at: before.size() });
    }
    let (records, frontier) = read_lines(lines, epoch, before.clone())?;
    if header.last != frontier.size() || header.head < header.last {
        return Err(BatchError::Form(format!("it ends at {}, its header says {}", frontier.size(), header.last)));
    }
    let inside = |position: &Position| !header.after.includes(*position) && header.last.includes(*position);
    if !header.kept.is_sorted_by(|a, b| a < b) || !header.kept.iter().all(inside) {
        return Err(BatchError::Form("its kept ids are not positions in it, each once, ascending".into()));
    }
    if header.root_after != frontier.root() {
        return Err(BatchError::WrongRoot { at: frontier.size() });
    }
    Ok(Batch { header, records, frontier })
}

fn read_lines(lines: &[u8], epoch: Epoch, mut frontier: Frontier) -> Result<(Vec<Record>, Frontier), BatchError> {
    let mut records = Vec::new();
    for line in lines.split_inclusive(|byte| *byte == b'\n') {
        let position = frontier.size().next();
        let line = line.strip_suffix(b"\n").ok_or_else(|| BatchError::Form("the last line does not end".into()))?;
        let record = record::read(line).map_err(|source| BatchError::Record { position, source })?;
        if record.position() != position {
            return Err(BatchError::Form(format!("position {} stands in the place of {position}", record.position())));
        }
        if let Record::Event(event) = &record
            && event.epoch > epoch
        {
            return Err(BatchError::OtherEpoch { expected: epoch, found: event.epoch });
        }
        // Reading is strict, so the line is what writing the record would give: hash it as it came.
        frontier.push(leaf_of(&record, line));
        records.push(record);
    }
    Ok((records, frontier))
}

fn leaf_of(record: &Record, line: &[u8]) -> Hash {
    match record {
        Record::Event(_) => leaf_hash(line),
        Record::Removed(removed) => removed.leaf,
    }
}

fn decompress(body: &[u8]) -> Result<Vec<u8>, BatchError> {
    let form = |error: std::io::Error| BatchError::Form(error.to_string());
    let mut text = Vec::new();
    let limit = BATCH_BYTES_MAX as u64 + 1;
    zstd::stream::read::Decoder::with_buffer(body).map_err(form)?.take(limit).read_to_end(&mut text).map_err(form)?;
    if text.len() > BATCH_BYTES_MAX {
        return Err(BatchError::Form(format!("over {BATCH_BYTES_MAX} bytes")));
    }
    Ok(text)
}

fn spell_crc(crc32: u32) -> String {
    format!("{crc32:08x}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, records};

    fn envelope() -> Envelope {
        let kept = Vec::new();
        Envelope { log: "log".into(), epoch: Epoch::FIRST, role: Role::Active, head: head(10), clock: at(0), kept }
    }

    fn head(events: u64) -> Head {
        Head::new(events).expect("small")
    }

    fn refused(body: &[u8], before: &Frontier) -> BatchError {
        decode(body, "log", Epoch::FIRST, before).expect_err("it is refused")
    }

    fn recompress(body: &[u8], change: impl FnOnce(String) -> String) -> Vec<u8> {
        let text = String::from_utf8(zstd::stream::decode_all(body).expect("a frame")).expect("text");
        zstd::bulk::compress(change(text).as_bytes(), 1).expect("compressed")
    }

    #[tokio::test]
    async fn a_batch_comes_out_as_it_went_in() {
        let all = records(10).await;
        let (first, tree) = encode(&envelope(), &Frontier::default(), &all[..6]).expect("encoded");
        let batch = decode(&first, "log", Epoch::FIRST, &Frontier::default()).expect("good");
        assert_eq!(batch.records, all[..6]);
        assert_eq!((batch.header.after, batch.header.last, batch.header.head), (head(0), head(6), head(10)));
        assert_eq!(batch.frontier, tree);
        let (second, _) = encode(&envelope(), &tree, &all[6..]).expect("encoded");
        assert_eq!(decode(&second, "log", Epoch::FIRST, &tree).expect("good").records, all[6..]);
    }

    #[tokio::test]
    async fn a_batch_without_records_says_where_the_sender_is() {
        let (body, _) = encode(&envelope(), &Frontier::default(), &[]).expect("encoded");
        let batch = decode(&body, "log", Epoch::FIRST, &Frontier::default()).expect("good");
        assert_eq!((batch.records.len(), batch.header.head), (0, head(10)));
    }

    #[tokio::test]
    async fn kept_ids_are_positions_of_the_batch_or_it_is_refused() {
        let all = records(10).await;
        let (first, tree) = encode(&envelope(), &Frontier::default(), &all[..4]).expect("encoded");
        let text = String::from_utf8(zstd::stream::decode_all(&first[..]).expect("a frame")).expect("text");
        assert!(!text.contains("kept"), "without them it is what it was before there were any");
        let with = |kept: &[u64]| {
            let kept = kept.iter().map(|number| Position::new(*number).expect("from 1")).collect();
            encode(&Envelope { kept, ..envelope() }, &tree, &all[4..8]).expect("encoded").0
        };
        let batch = decode(&with(&[5, 8]), "log", Epoch::FIRST, &tree).expect("good");
        assert_eq!(batch.header.kept.iter().map(|at| at.get()).collect::<Vec<_>>(), [5, 8]);
        for wrong in [&[4][..], &[9], &[6, 6], &[7, 5]] {
            assert!(matches!(refused(&with(wrong), &tree), BatchError::Form(_)), "{wrong:?}");
        }
    }

    #[tokio::test]
    async fn every_cut_is_refused() {
        let (body, _) = encode(&envelope(), &Frontier::default(), &records(5).await).expect("encoded");
        for length in 0..body.len() {
            refused(&body[..length], &Frontier::default());
        }
    }

    #[tokio::test]
    async fn every_changed_byte_is_refused() {
        let (body, _) = encode(&envelope(), &Frontier::default(), &records(5).await).expect("encoded");
        let text = zstd::stream::decode_all(&body[..]).expect("a frame");
        // Not the header's statement of the sender's own head and clock, which nothing here can contradict.
        let records_start = text.iter().position(|byte| *byte == b'\n').expect("a header") + 1;
        for byte in records_start..text.len() {
            let mut text = text.clone();
            text[byte] ^= 1;
            refused(&zstd::bulk::compress(&text, 1).expect("compressed"), &Frontier::default());
        }
    }

    #[tokio::test]
    async fn a_batch_from_elsewhere_is_named() {
        let all = records(6).await;
        let (body, tree) = encode(&envelope(), &Frontier::default(), &all[..3]).expect("encoded");
        assert!(matches!(refused(&body, &tree), BatchError::OutOfOrder { .. }));
        let other = decode(&body, "other", Epoch::FIRST, &Frontier::default());
        assert!(matches!(other, Err(BatchError::OtherLog { .. })));
        let newer = decode(&body, "log", Epoch::FIRST.next(), &Frontier::default());
        assert!(matches!(newer, Err(BatchError::OtherEpoch { .. })));
        // The same size, another history.
        let mut other = Frontier::default();
        (0..3_u8).for_each(|leaf| other.push(leaf_hash(&[leaf])));
        let (second, _) = encode(&envelope(), &tree, &all[3..]).expect("encoded");
        assert!(matches!(refused(&second, &other), BatchError::Forked { .. }));
    }

    #[tokio::test]
    async fn records_that_do_not_give_the_stated_root_are_refused() {
        let (body, _) = encode(&envelope(), &Frontier::default(), &records(3).await).expect("encoded");
        let root = Hash::of(b"another").to_hex();
        let forged = recompress(&body, |text| {
            let (before, after) = text.split_once("\"root_after\":\"").expect("a root");
            format!("{before}\"root_after\":\"{root}{}", &after[64..])
        });
        assert!(matches!(refused(&forged, &Frontier::default()), BatchError::WrongRoot { .. }));
    }

    #[tokio::test]
    async fn a_line_out_of_order_is_refused_even_with_a_good_checksum() {
        let all = records(3).await;
        let swapped = [all[1].clone(), all[0].clone(), all[2].clone()];
        let (body, _) = encode(&envelope(), &Frontier::default(), &swapped).expect("encoded");
        assert!(matches!(refused(&body, &Frontier::default()), BatchError::Form(_)));
    }
}
