//! Cold reads: records from the archive, each compared with what was stored before it is served (ARC-4).
//!
//! A point read costs at most two requests in a segment that holds the stream (its index and one block), and none
//! in one that does not, once its index is cached. A stream is followed by its back links, so segments without it
//! are not even looked at. Nothing here waits for the live log or holds it up.
//!
//! While the own bucket does not answer, the other region's is read: with the same comparisons, and without healing,
//! because what cannot be read is not known to be damaged.

mod cache;
mod counts;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use domain::archive::catalog::{Catalog, CatalogError, Segment};
use domain::archive::index::{Block, Index, StreamBlocks};
use domain::archive::{layout, reader};
use domain::filter::{Filter, SEARCH_POSITIONS_MAX, Searched};
use domain::log::{Direction, ReadError};
use domain::merkle::Hash;
use domain::record::Record;
use domain::store::{ObjectStore, StoreError};
use domain::tiered::{ANSWER_BYTES, ArchiveReader};
use domain::{Head, Position, StreamName, StreamVersion, Timestamp};
use futures::future::try_join_all;

use self::cache::{Cache, Cached, Key};
use self::counts::{Bucket, Counts};
use crate::ArchiveError;
use crate::error::busy;
use crate::heal::{Healer, Part};

pub use self::counts::ColdReads;

/// How many blocks one read requests at once. More is faster on a far store and costs memory: 4 MiB each at most.
const BLOCKS_AT_ONCE: usize = 4;
/// A decoded record takes about this many times the memory of its line.
const DECODED_FACTOR: usize = 3;

/// Reads the archive of one region.
pub struct ColdReader {
    catalog: Arc<dyn Catalog>,
    healer: Healer,
    cache: Cache,
    counts: Counts,
    /// Whether the own bucket did not answer the last time; so that it is said once, and once again when it does.
    own_is_away: AtomicBool,
}

/// What a bucket gave for something that was stored in it.
enum Fetched<T> {
    /// What was stored.
    Good(T),
    /// Something else, or nothing: what gave it away.
    Bad(String),
    /// No answer, or none for us.
    Away(StoreError),
}

impl<T> Fetched<T> {
    fn no_answer(error: StoreError) -> Self {
        match error {
            StoreError::NotFound { .. } | StoreError::Different { .. } => Self::Bad(error.to_string()),
            StoreError::Unavailable { .. } | StoreError::Refused { .. } => Self::Away(error),
        }
    }
}

/// A segment that holds a stream, and where in it.
struct Holding {
    segment: Segment,
    blocks: StreamBlocks,
}

impl ColdReader {
    /// Reads what `catalog` says is in force, with `cache_bytes` of memory for what was read.
    #[must_use]
    pub fn new(catalog: Arc<dyn Catalog>, healer: Healer, cache_bytes: usize) -> Self {
        let (cache, counts) = (Cache::new(cache_bytes), Counts::default());
        Self { catalog, healer, cache, counts, own_is_away: AtomicBool::new(false) }
    }

    /// What its reads have cost.
    #[must_use]
    pub fn reads(&self) -> ColdReads {
        self.counts.get()
    }

    async fn segment_holding(&self, position: Position) -> Result<Option<Segment>, ReadError> {
        let entry = self.catalog.segment_holding(position).await.map_err(no_catalog)?;
        Ok(entry.map(|entry| entry.segment))
    }

    async fn index(&self, segment: &Segment) -> Result<Arc<Index>, ReadError> {
        let key = Key::Index(segment.sha256);
        if let Some(Cached::Index(index)) = self.cache.get(&key) {
            self.counts.cached();
            return Ok(index);
        }
        let own = self.fetch_index(Bucket::Own, &*self.healer.own, segment).await;
        let fetched = match self.other_for(&own) {
            Some((away, other)) => instead(away, self.fetch_index(Bucket::Other, other, segment).await)?,
            None => own,
        };
        let index = match fetched {
            Fetched::Good(index) => index,
            Fetched::Away(error) => return Err(unavailable(&error)),
            Fetched::Bad(cause) => {
                let good = self.healer.heal(segment, Part::Index, &cause).await?;
                reader::read_index(segment, &good).map_err(|error| corrupt(&error))?
            }
        };
        Ok(self.keep_index(key, index))
    }

    /// The bucket to read instead of the own one that gave `own`: the other one while the own one is away.
    fn other_for<'a, T>(&'a self, own: &'a Fetched<T>) -> Option<(&'a StoreError, &'a dyn ObjectStore)> {
        let Fetched::Away(error) = own else {
            if self.own_is_away.swap(false, Ordering::Relaxed) {
                tracing::info!("the own bucket answers again");
            }
            return None;
        };
        let other = self.healer.other.as_deref()?;
        if !self.own_is_away.swap(true, Ordering::Relaxed) {
            tracing::warn!(%error, "the own bucket does not answer: the archive is read from the other one");
        }
        Some((error, other))
    }

    async fn fetch_index(&self, bucket: Bucket, store: &dyn ObjectStore, segment: &Segment) -> Fetched<Index> {
        self.counts.asked(bucket);
        match store.get(&layout::index(segment)).await {
            Ok(object) => {
                self.counts.given(object.bytes.len());
                match reader::read_index(segment, &object.bytes) {
                    Ok(index) => Fetched::Good(index),
                    Err(error) => Fetched::Bad(chain(&error)),
                }
            }
            Err(error) => Fetched::no_answer(error),
        }
    }

    async fn fetch_block(
        &self,
        bucket: Bucket,
        store: &dyn ObjectStore,
        (segment, row): (&Segment, &Block),
    ) -> Result<Fetched<Vec<Record>>, ReadError> {
        self.counts.asked(bucket);
        match store.get_range(&layout::segment(segment), row.offset, row.bytes.into()).await {
            Ok(stored) => {
                self.counts.given(stored.len());
                Ok(decode(stored, row).await?.map_or_else(Fetched::Bad, Fetched::Good))
            }
            Err(error) => Ok(Fetched::no_answer(error)),
        }
    }

    fn keep_index(&self, key: Key, index: Index) -> Arc<Index> {
        let (bytes, index) = (index.memory_bytes(), Arc::new(index));
        self.cache.put(key, Cached::Index(Arc::clone(&index)), bytes);
        index
    }

    /// The records of a block, from memory or from the store.
    async fn block(&self, segment: &Segment, number: usize, row: &Block) -> Result<Arc<[Record]>, ReadError> {
        let key = Key::Block(segment.sha256, number);
        if let Some(Cached::Block(records)) = self.cache.get(&key) {
            self.counts.cached();
            return Ok(records);
        }
        let own = self.fetch_block(Bucket::Own, &*self.healer.own, (segment, row)).await?;
        let fetched = match self.other_for(&own) {
            Some((away, other)) => instead(away, self.fetch_block(Bucket::Other, other, (segment, row)).await?)?,
            None => own,
        };
        let records = match fetched {
            Fetched::Good(records) => records,
            Fetched::Away(error) => return Err(unavailable(&error)),
            Fetched::Bad(cause) => {
                let good = self.healer.heal(segment, Part::Segment, &cause).await?;
                let range = usize::try_from(row.offset).ok().zip(usize::try_from(row.bytes).ok());
                let stored = range.and_then(|(offset, bytes)| good.get(offset..)?.get(..bytes)).unwrap_or_default();
                decode(stored.to_vec(), row).await?.map_err(|reason| ReadError::Corrupt { reason })?
            }
        };
        Ok(self.keep_block(key, records, row))
    }

    fn keep_block(&self, key: Key, records: Vec<Record>, row: &Block) -> Arc<[Record]> {
        let records: Arc<[Record]> = records.into();
        let bytes = usize::try_from(row.record_bytes).unwrap_or(usize::MAX).saturating_mul(DECODED_FACTOR);
        self.cache.put(key, Cached::Block(Arc::clone(&records)), bytes);
        records
    }

    /// The next blocks of a segment from `from` on in `direction`, as many as `limit` records and `bytes` need.
    async fn blocks_from(
        &self,
        segment: &Segment,
        from: Position,
        direction: Direction,
        (limit, bytes): (usize, usize),
    ) -> Result<Vec<Arc<[Record]>>, ReadError> {
        let index = self.index(segment).await?;
        let reason = || format!("the index of the segment from {} has no position {from}", segment.first);
        let first = index.block_holding(from).ok_or_else(|| ReadError::Corrupt { reason: reason() })?;
        let numbers: Vec<usize> = match direction {
            Direction::Forward => (first..index.blocks().len()).take(BLOCKS_AT_ONCE).collect(),
            Direction::Backward => (0..=first).rev().take(BLOCKS_AT_ONCE).collect(),
        };
        let (mut records, mut size) = (0_u64, 0_u64);
        let needed = numbers.into_iter().take_while(|number| {
            let row = &index.blocks()[*number];
            let wanted = records < limit as u64 && size < bytes as u64;
            // Of the first block only the part from `from` on counts.
            records += match direction {
                Direction::Forward => row.last().get() + 1 - row.first.max(from).get(),
                Direction::Backward => row.last().min(from).get() + 1 - row.first.get(),
            };
            size += u64::from(row.record_bytes);
            wanted
        });
        try_join_all(needed.map(|number| self.block(segment, number, &index.blocks()[number]))).await
    }

    /// The newest segment that holds the stream at `at` or below it.
    async fn holding(&self, stream: &StreamName, at: Position) -> Result<Option<Holding>, ReadError> {
        let mut at = Some(at);
        while let Some(position) = at {
            let Some(segment) = self.segment_holding(position).await? else { return Ok(None) };
            let found = self.index(&segment).await?.stream(stream).map_err(|error| corrupt(&error))?;
            if let Some(blocks) = found {
                return Ok(Some(Holding { segment, blocks }));
            }
            at = segment.first.head_before().newest();
        }
        Ok(None)
    }

    /// Where the stream's event stands that came before the oldest one of this segment.
    async fn link(&self, stream: &StreamName, holding: &Holding) -> Result<Option<Position>, ReadError> {
        let Holding { segment, blocks } = holding;
        let key = Key::Link(segment.sha256, Hash::of(stream.as_str().as_bytes()));
        if let Some(Cached::Link(link)) = self.cache.get(&key) {
            return Ok(link);
        }
        let Some((number, first)) = blocks.blocks.first().copied() else { return Ok(None) };
        let index = self.index(segment).await?;
        let records = self.block(segment, number, &index.blocks()[number]).await?;
        let oldest = records.iter().find(|record| record.version() == first && record.stream() == stream);
        let link = match oldest {
            Some(Record::Event(event)) => event.previous,
            // A removed line has no back link: the segments below are looked through one by one.
            Some(Record::Removed(removed)) => removed.position.head_before().newest(),
            None => {
                let reason = format!("the index says that {stream} is in the segment from {}", segment.first);
                return Err(ReadError::Corrupt { reason });
            }
        };
        self.cache.put(key, Cached::Link(link), 0);
        Ok(link)
    }

    /// Adds a segment's events of the stream to `found`, in `direction`, from version `from` on.
    async fn collect(
        &self,
        holding: &Holding,
        (stream, from, direction): (&StreamName, StreamVersion, Direction),
        found: &mut Answer,
    ) -> Result<(), ReadError> {
        let index = self.index(&holding.segment).await?;
        let blocks = &holding.blocks.blocks;
        let ends = blocks.iter().skip(1).map(|(_, next)| next.get() - 1).chain([holding.blocks.last.get()]);
        let ranges = blocks.iter().zip(ends);
        let wanted: Vec<usize> = match direction {
            Direction::Forward => ranges.filter(|(_, end)| *end >= from.get()).map(|((n, _), _)| *n).collect(),
            Direction::Backward => blocks.iter().rev().filter(|(_, first)| *first <= from).map(|(n, _)| *n).collect(),
        };
        for number in wanted {
            if found.is_full() {
                break;
            }
            let records = self.block(&holding.segment, number, &index.blocks()[number]).await?;
            let of_stream = records.iter().filter(|record| record.stream() == stream);
            match direction {
                Direction::Forward => found.extend(of_stream.filter(|record| record.version() >= from)),
                Direction::Backward => found.extend(of_stream.rev().filter(|record| record.version() <= from)),
            }
        }
        Ok(())
    }
}

/// Records that are put together until they are enough.
struct Answer {
    records: Vec<Record>,
    limit: usize,
    bytes: usize,
}

impl Answer {
    fn new(limit: usize) -> Self {
        Self { records: Vec::new(), limit, bytes: 0 }
    }

    fn is_full(&self) -> bool {
        self.records.len() >= self.limit || self.bytes >= ANSWER_BYTES
    }

    fn extend<'a>(&mut self, records: impl Iterator<Item = &'a Record>) {
        for record in records {
            if self.is_full() {
                break;
            }
            if let Record::Event(event) = record {
                self.bytes += event.event.bytes();
            }
            self.records.push(record.clone());
        }
    }
}

#[async_trait]
impl ArchiveReader for ColdReader {
    async fn read_log(&self, from: Position, direction: Direction, limit: usize) -> Result<Vec<Record>, ReadError> {
        let mut found = Answer::new(limit);
        let mut next = Some(from);
        while let Some(from) = next.filter(|_| !found.is_full()) {
            let Some(segment) = self.segment_holding(from).await? else { break };
            let wanted = (limit - found.records.len(), ANSWER_BYTES - found.bytes);
            for block in self.blocks_from(&segment, from, direction, wanted).await? {
                match direction {
                    Direction::Forward => found.extend(block.iter().filter(|record| record.position() >= from)),
                    Direction::Backward => found.extend(block.iter().rev().filter(|record| record.position() <= from)),
                }
            }
            next = found.records.last().and_then(|last| match direction {
                Direction::Forward => Some(last.position().next()),
                Direction::Backward => last.position().head_before().newest(),
            });
        }
        Ok(found.records)
    }

    /// As far as the blocks go that are fetched at once. A block says nothing of types or categories: it is decoded to be
    /// looked through, and only what matches is copied.
    async fn search_log(
        &self,
        from: Position,
        direction: Direction,
        filter: &Filter,
        limit: usize,
    ) -> Result<Searched, ReadError> {
        let Some(segment) = self.segment_holding(from).await? else { return Ok(Searched::default()) };
        let blocks = self.blocks_from(&segment, from, direction, (SEARCH_POSITIONS_MAX, ANSWER_BYTES)).await?;
        let records = blocks.iter();
        Ok(match direction {
            Direction::Forward => {
                let records = records.flat_map(|block| block.iter()).filter(|record| record.position() >= from);
                Searched::among(records, filter, limit)
            }
            Direction::Backward => {
                let records = records.flat_map(|block| block.iter().rev()).filter(|record| record.position() <= from);
                Searched::among(records, filter, limit)
            }
        })
    }

    async fn read_stream(
        &self,
        stream: &StreamName,
        newest: Position,
        from: StreamVersion,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<Record>, ReadError> {
        let mut found = Answer::new(limit);
        let mut holdings = Vec::new();
        let mut at = Some(newest);
        while let Some(position) = at.filter(|_| !found.is_full()) {
            let Some(holding) = self.holding(stream, position).await? else { break };
            let reaches = holding.blocks.first() <= from;
            if direction == Direction::Backward && reaches {
                self.collect(&holding, (stream, from, direction), &mut found).await?;
            }
            // Forward the walk ends where `from` is, backward where the answer is full.
            let ends = if direction == Direction::Forward { reaches } else { found.is_full() };
            at = if ends { None } else { self.link(stream, &holding).await? };
            holdings.push(holding);
        }
        if direction == Direction::Forward {
            for holding in holdings.iter().rev().filter(|holding| holding.blocks.last >= from) {
                self.collect(holding, (stream, from, direction), &mut found).await?;
            }
        }
        Ok(found.records)
    }

    async fn head_as_of(&self, at: Timestamp) -> Result<Head, ReadError> {
        let begun = self.catalog.segment_as_of(at).await.map_err(no_catalog)?;
        let Some(segment) = begun.as_ref().map(|entry| &entry.segment) else { return Ok(Head::EMPTY) };
        if segment.last_at <= at {
            return Ok(segment.last.as_head());
        }
        let index = self.index(segment).await?;
        let begun = index.blocks().partition_point(|block| block.first_at <= at);
        let number = begun.saturating_sub(1);
        let row = &index.blocks()[number];
        if row.last_at <= at {
            return Ok(row.last().as_head());
        }
        let records = self.block(segment, number, row).await?;
        let newest = records.iter().take_while(|record| record.recorded_at() <= at).last();
        Ok(newest.map_or(row.first.head_before(), |record| record.position().as_head()))
    }
}

/// What the other bucket gave while the own one was `away`. If it is not good, nobody knows whether the record is
/// lost: the own bucket may still have it.
fn instead<T>(away: &StoreError, other: Fetched<T>) -> Result<Fetched<T>, ReadError> {
    let cause = match other {
        good @ Fetched::Good(_) => return Ok(good),
        Fetched::Bad(cause) => cause,
        Fetched::Away(error) => error.to_string(),
    };
    Err(ReadError::Unavailable { reason: format!("{away}; the other bucket: {cause}") })
}

/// Decodes a block on a thread where that holds up nobody. The inner error says why the bytes are not right.
async fn decode(stored: Vec<u8>, row: &Block) -> Result<Result<Vec<Record>, String>, ReadError> {
    let row = row.clone();
    let decoded = busy(move || reader::read_block(&stored, &row)).await.map_err(broken_off)?;
    Ok(decoded.map(|block| block.records).map_err(|error| chain(&error)))
}

fn broken_off(error: ArchiveError) -> ReadError {
    ReadError::Unavailable { reason: error.to_string() }
}

fn no_catalog(error: CatalogError) -> ReadError {
    ReadError::Unavailable { reason: error.to_string() }
}

fn unavailable(error: &StoreError) -> ReadError {
    ReadError::Unavailable { reason: error.to_string() }
}

fn corrupt(error: &dyn std::error::Error) -> ReadError {
    ReadError::Corrupt { reason: chain(error) }
}

/// An error and what caused it, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
