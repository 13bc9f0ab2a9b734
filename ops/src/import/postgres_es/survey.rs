//! What a source holds, stream by stream: rows in, checks and digests out. Pure; it names what is wrong with a row and
//! never repairs it.

use std::collections::BTreeMap;
use std::fmt;

use domain::StreamName;
use domain::cqrs::category_of;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::PostgresEsError;
use super::row::{Row, StreamDigest};

/// So many bad rows are named; all are counted.
pub(super) const BAD_ROWS_NAMED: usize = 20;

/// A row that cannot be imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadRow {
    /// Its `aggregate_type`.
    pub aggregate_type: String,
    /// Its `aggregate_id`.
    pub aggregate_id: String,
    /// Its `sequence`.
    pub sequence: i64,
    /// What is wrong with it.
    pub reason: String,
}

impl fmt::Display for BadRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { aggregate_type, aggregate_id, sequence, reason } = self;
        write!(f, "{aggregate_type:?} {aggregate_id:?} {sequence}: {reason}")
    }
}

/// The rows that cannot be imported.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BadRows {
    /// The first of them, in the order of streams.
    pub first: Vec<BadRow>,
    /// How many there are.
    pub total: u64,
}

impl BadRows {
    pub(super) fn add(&mut self, bad: BadRow) {
        self.total += 1;
        if self.first.len() < BAD_ROWS_NAMED {
            self.first.push(bad);
        }
    }
}

impl fmt::Display for BadRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rows cannot be imported, nothing was stored:", self.total)?;
        self.first.iter().try_for_each(|bad| write!(f, "\n  {bad}"))?;
        let named = u64::try_from(self.first.len()).expect("a few");
        if named < self.total { write!(f, "\n  and {} more", self.total - named) } else { Ok(()) }
    }
}

/// One stream of the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StreamSummary {
    pub(super) aggregate_type: String,
    pub(super) stream: StreamName,
    pub(super) events: u64,
    pub(super) sha256: [u8; 32],
}

/// The stream whose rows are coming in.
struct Open {
    aggregate_type: String,
    aggregate_id: String,
    /// `None` where type and id name none.
    stream: Option<StreamName>,
    /// The sequence that has to come next.
    next: i64,
    events: u64,
    digest: StreamDigest,
}

impl Open {
    fn holds(&self, row: &Row) -> bool {
        self.aggregate_id == row.aggregate_id && self.aggregate_type == row.aggregate_type
    }

    fn close(self) -> Option<StreamSummary> {
        let Self { aggregate_type, stream, events, digest, .. } = self;
        Some(StreamSummary { aggregate_type, stream: stream?, events, sha256: digest.finish() })
    }
}

/// Takes rows stream by stream, each stream's in their order, and checks them.
pub(super) struct Streams<'a> {
    /// The events' source.
    source: &'a str,
    /// Whether a row without a time is refused.
    times_needed: bool,
    open: Option<Open>,
    pub(super) bad: BadRows,
    /// The earliest time of all rows, in microseconds since 1970.
    pub(super) first_time: Option<i64>,
}

impl<'a> Streams<'a> {
    pub(super) fn new(source: &'a str, times_needed: bool) -> Self {
        Self { source, times_needed, open: None, bad: BadRows::default(), first_time: None }
    }

    /// Takes a row; returns the stream that ends before it, if one does.
    pub(super) fn take(&mut self, row: &Row) -> Option<StreamSummary> {
        let ended = if self.open.as_ref().is_some_and(|open| open.holds(row)) { None } else { self.begin(row) };
        self.first_time = self.first_time.into_iter().chain(row.time).min();
        self.check(row);
        ended
    }

    /// The last stream.
    pub(super) fn finish(&mut self) -> Option<StreamSummary> {
        self.open.take().and_then(Open::close)
    }

    fn begin(&mut self, row: &Row) -> Option<StreamSummary> {
        let stream = row.stream();
        if let Err(error) = &stream {
            self.refuse(row, error.to_string());
        }
        let open = Open {
            aggregate_type: row.aggregate_type.clone(),
            aggregate_id: row.aggregate_id.clone(),
            stream: stream.ok(),
            next: 1,
            events: 0,
            digest: StreamDigest::default(),
        };
        self.open.replace(open).and_then(Open::close)
    }

    fn check(&mut self, row: &Row) {
        let Some(open) = &mut self.open else { return };
        let expected = open.next;
        open.next = row.sequence.saturating_add(1);
        open.events += 1;
        if row.sequence != expected {
            let reason = if row.sequence < expected {
                format!("the sequence {expected} should stand there")
            } else {
                format!("the sequences from {expected} to {} are missing before it", row.sequence - 1)
            };
            return self.refuse(row, reason);
        }
        if open.stream.is_none() {
            return;
        }
        if self.times_needed && row.time.is_none() {
            return self.refuse(row, "it has no time, and the order is to be taken from it".to_owned());
        }
        if let Err(reason) = row.digest(&mut open.digest).and_then(|()| row.event(self.source).map(drop)) {
            self.refuse(row, reason);
        }
    }

    fn refuse(&mut self, row: &Row, reason: String) {
        let Row { aggregate_type, aggregate_id, sequence, .. } = row.clone();
        self.bad.add(BadRow { aggregate_type, aggregate_id, sequence, reason });
    }
}

/// What the source has of one aggregate type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TypeReport {
    /// The type, as the aggregate spells it.
    pub aggregate_type: String,
    /// Its category in the log.
    pub category: String,
    /// Its streams.
    pub streams: u64,
    /// Their events.
    pub events: u64,
}

/// What the whole source is.
#[derive(Debug, Default)]
pub(super) struct Survey {
    types: BTreeMap<String, TypeReport>,
    pub(super) streams: u64,
    pub(super) events: u64,
    digest: Sha256,
}

impl Survey {
    /// Adds a stream; they come in the order of (type, id), byte by byte.
    pub(super) fn add(&mut self, summary: &StreamSummary) {
        let StreamSummary { aggregate_type, stream, events, sha256 } = summary;
        self.streams += 1;
        self.events += events;
        for text in [aggregate_type, stream.id()] {
            self.digest.update(u64::try_from(text.len()).expect("a text in memory").to_be_bytes());
            self.digest.update(text);
        }
        self.digest.update(events.to_be_bytes());
        self.digest.update(sha256);
        let of_type = self.types.entry(aggregate_type.clone()).or_insert_with(|| TypeReport {
            aggregate_type: aggregate_type.clone(),
            category: category_of(aggregate_type),
            streams: 0,
            events: 0,
        });
        of_type.streams += 1;
        of_type.events += events;
    }

    /// SHA-256 over all streams, each with its count and digest.
    pub(super) fn sha256(&self) -> [u8; 32] {
        self.digest.clone().finalize().into()
    }

    pub(super) fn types(&self) -> impl Iterator<Item = &TypeReport> {
        self.types.values()
    }

    /// # Errors
    /// Two types that would be one category, or one that is the importer's own.
    pub(super) fn check_categories(&self) -> Result<(), PostgresEsError> {
        let mut types: BTreeMap<&str, &str> = BTreeMap::from([("import", "coldstream's own importer")]);
        for TypeReport { aggregate_type, category, .. } in self.types() {
            if let Some(other) = types.insert(category, aggregate_type) {
                let (one, other) = (other.to_owned(), aggregate_type.clone());
                return Err(PostgresEsError::SameCategory { one, other, category: category.clone() });
            }
        }
        Ok(())
    }
}
