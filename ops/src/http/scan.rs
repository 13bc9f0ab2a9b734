//! Reads a range page by page, ahead of whoever takes the pages.
//!
//! A page is read while the one before it is on its way: database, this process and the socket work at once. A client that
//! waits for a page of the live log is faster than the database, and then the page behind it is read as well, from where it is
//! likely to begin; whatever comes of that, the place of a page is what the one before it says. So a slow reader costs two
//! pages, and a fast one three for a moment; where all readers together hold much ([`super::held`]), pages are small, and
//! none is read before it is asked for.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use domain::log::{Direction, LogReader, ReadError};
use domain::{Head, StreamName, StreamVersion};
use futures::stream::{Stream, try_unfold};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::AbortOnDropHandle;

use super::held::{HeldPages, PageRoom};
use super::page::{dense, dense_lines, page_limit};
use super::range::LogRange;
use super::read::{Spelling, lines, log_broken_answer};
use super::tails::Tail;

/// How many pages are read at a time, for all readers together, before it is known where they begin: each takes a session of
/// the pool that another reader may wait for.
const LIKELY_MAX: usize = 1;

/// What all readers of the process share.
pub(super) struct Readers {
    pub(super) held: HeldPages,
    likely: Arc<Semaphore>,
}

impl Default for Readers {
    fn default() -> Self {
        Self { held: HeldPages::default(), likely: Arc::new(Semaphore::new(LIKELY_MAX)) }
    }
}

/// Versions that an answer holds: `next` first, `left` of them, none above `newest`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StreamRange {
    pub(super) next: StreamVersion,
    pub(super) newest: StreamVersion,
    pub(super) left: u64,
    pub(super) direction: Direction,
}

/// What is still to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Rest {
    Log(LogRange),
    Stream(StreamName, StreamRange),
    Done,
}

/// A read of a range, page by page.
#[derive(Clone)]
pub(super) struct Scan {
    reader: Arc<dyn LogReader>,
    rest: Rest,
    spelling: Spelling,
    /// What was out of the live log when the scan began.
    pruned: Head,
    room: PageRoom,
    /// Records of the next page at most.
    most: usize,
    likely: Arc<Semaphore>,
}

/// A page as it is sent; empty at the end.
#[derive(Default)]
pub(super) struct Page {
    pub(super) bytes: Bytes,
    /// Everything up to here is in it or before it, if it is of the log and read forward.
    to: Option<Head>,
}

impl Scan {
    /// A scan of `rest`. What is `pruned` comes from the archive.
    pub(super) fn new(
        reader: Arc<dyn LogReader>,
        rest: Rest,
        spelling: Spelling,
        pruned: Head,
        readers: &Readers,
    ) -> Self {
        let room = readers.held.reader();
        Self { reader, rest, spelling, pruned, most: room.records(), room, likely: Arc::clone(&readers.likely) }
    }

    /// The next page. Density is checked here again: a hole is an error, never an answer.
    pub(super) async fn page(&mut self) -> Result<Page, ReadError> {
        let page = match self.rest.clone() {
            Rest::Done => return Ok(Page::default()),
            Rest::Log(range) => self.page_of_log(range).await?,
            Rest::Stream(name, range) => self.page_of_stream(name, range).await?,
        };
        self.most = self.room.records();
        Ok(page)
    }

    async fn page_of_log(&mut self, range: LogRange) -> Result<Page, ReadError> {
        let Some(next) = range.next.filter(|_| range.last().is_some()) else {
            self.rest = Rest::Done;
            return Ok(Page::default());
        };
        let limit = page_limit(range.left, range.newest.get(), next.get(), range.direction).min(self.most);
        let _reading = self.room.hold(limit);
        let (bytes, count, end) = if self.spelling == Spelling::Record && range.direction == Direction::Forward {
            let lines = self.reader.read_lines(next, limit).await?;
            let (count, end) = (lines.count(), dense_lines(&lines, next, limit)?);
            (lines.into_bytes(), count, end.get())
        } else {
            let mut records = self.reader.read_log(next, range.direction, limit).await?;
            records.truncate(limit);
            let numbers = records.iter().map(|record| record.position().get());
            let end = dense(numbers, next.get(), range.direction, "position")?;
            (lines(&records, self.spelling), records.len(), end)
        };
        self.rest = range.after(count, end).map_or(Rest::Done, Rest::Log);
        let to = (range.direction == Direction::Forward).then(|| Head::new(end - 1)).flatten();
        Ok(Page { bytes: self.room.page(bytes, count), to })
    }

    async fn page_of_stream(&mut self, name: StreamName, range: StreamRange) -> Result<Page, ReadError> {
        if range.next > range.newest {
            self.rest = Rest::Done;
            return Ok(Page::default());
        }
        let limit = page_limit(range.left, range.newest.get(), range.next.get(), range.direction).min(self.most);
        let _reading = self.room.hold(limit);
        let mut records = self.reader.read_stream(&name, range.next, range.direction, limit).await?;
        records.truncate(limit);
        let numbers = records.iter().map(|record| record.version().get());
        let end = dense(numbers, range.next.get(), range.direction, "version")?;
        let left = range.left - u64::try_from(records.len()).expect("a page has few records");
        let next = StreamVersion::new(end).filter(|end| left > 0 && *end <= range.newest);
        self.rest = next.map_or(Rest::Done, |next| Rest::Stream(name, StreamRange { next, left, ..range }));
        Ok(Page { bytes: self.room.page(lines(&records, self.spelling), records.len()), to: None })
    }

    /// What follows the next page if that has as many records as it may, which only its bytes forbid. The archive has no pause
    /// between its pages, and two that are read at once may decode the same block.
    fn likely(&self) -> Option<Self> {
        let Rest::Log(range) = self.rest else { return None };
        // A tail may begin above the head, where no page is.
        range.last()?;
        let next = range.next.filter(|next| range.direction == Direction::Forward && !self.pruned.includes(*next))?;
        let limit = page_limit(range.left, range.newest.get(), next.get(), range.direction).min(self.most);
        let end = next.get() + u64::try_from(limit).ok()?;
        Some(Self { rest: Rest::Log(range.after(limit, end)?), ..self.clone() })
    }
}

/// A page that is being read. Its read ends with it.
struct Ahead {
    read: AbortOnDropHandle<Result<(Page, Scan), ReadError>>,
    likely: Option<Scan>,
    /// Of a page that was begun where it is only likely to be: leave for it, …
    permit: Option<OwnedSemaphorePermit>,
    /// … and, once it is known to be there, the scan that has come there.
    come: Option<Scan>,
}

impl Ahead {
    fn of(mut scan: Scan) -> Self {
        let likely = scan.likely();
        let read = async move { Ok((scan.page().await?, scan)) };
        Self { read: AbortOnDropHandle::new(tokio::spawn(read)), likely, permit: None, come: None }
    }

    /// The page behind this one, if one more may be read where it is only likely to begin.
    fn behind(&self) -> Option<Self> {
        let scan = self.likely.clone()?;
        let permit = Arc::clone(&scan.likely).try_acquire_owned().ok()?;
        Some(Self { permit: Some(permit), ..Self::of(scan) })
    }

    /// It is known to be where `scan` has come.
    fn confirm(&mut self, scan: Scan) {
        (self.permit, self.come) = (None, Some(scan));
    }

    /// The page, and the scan after it. A read that was begun early has its time again where it failed.
    async fn page(self) -> Result<(Page, Scan), ReadError> {
        let read = self.read.await;
        let read = read.unwrap_or_else(|broken| Err(ReadError::Unavailable { reason: broken.to_string() }));
        match (read, self.come) {
            (Err(_), Some(mut scan)) => Ok((scan.page().await?, scan)),
            (read, _) => read,
        }
    }
}

/// The pages of a scan.
struct Pages {
    /// What nobody has asked for yet.
    unread: Option<Scan>,
    /// The next page first.
    ahead: VecDeque<Ahead>,
    /// Whether the last page ended where it was likely to.
    was_likely: bool,
    /// Who is told how far it got, if it is the beginning of a tail.
    tail: Option<Tail>,
}

impl Pages {
    async fn next(&mut self) -> Result<Option<Bytes>, ReadError> {
        self.ahead.extend(self.unread.take().map(Ahead::of));
        let Some(mut page) = self.ahead.pop_front() else { return Ok(None) };
        if self.was_likely && self.ahead.is_empty() && !page.read.is_finished() {
            self.ahead.extend(page.behind());
        }
        let likely = page.likely.take();
        let (Page { bytes, to }, scan) = page.page().await.inspect_err(log_broken_answer)?;
        self.was_likely = likely.is_some_and(|likely| likely.rest == scan.rest);
        if !self.was_likely {
            self.ahead.clear();
        }
        if bytes.is_empty() {
            return Ok(None);
        }
        match self.ahead.front_mut() {
            Some(next) => next.confirm(scan),
            None if scan.room.is_scarce() => self.unread = Some(scan),
            None => self.ahead.push_back(Ahead::of(scan)),
        }
        if let (Some(tail), Some(to)) = (&self.tail, to) {
            tail.at(to);
        }
        Ok(Some(bytes))
    }
}

/// The pages of `scan`. Nothing is read before somebody listens.
pub(super) fn pages(scan: Scan, tail: Option<Tail>) -> impl Stream<Item = Result<Bytes, ReadError>> {
    let pages = Pages { unread: Some(scan), ahead: VecDeque::new(), was_likely: false, tail };
    try_unfold(pages, |mut pages| async move { Ok(pages.next().await?.map(|page| (page, pages))) })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

    use async_trait::async_trait;
    use domain::append::Role;
    use domain::record::{Lines, Record};
    use domain::twin::{Between, Interposed, MemoryLog};
    use domain::{FixedClock, Position, Timestamp};
    use futures::{FutureExt, StreamExt, TryStreamExt};

    use super::*;
    use crate::http::page::{PAGE_RECORDS, tests::records};

    /// How many records a read from a position has at most.
    type Most = fn(u64) -> u64;

    /// A log of so many records, whose reads end where they are told to, and go on when they may.
    struct Reads {
        records: u64,
        most: Most,
        begun: AtomicUsize,
        may: Semaphore,
        /// The next read from here fails.
        fails_at: AtomicU64,
    }

    #[async_trait]
    impl Between for Reads {
        async fn read_log(
            &self,
            _: &dyn LogReader,
            from: Position,
            _: Direction,
            limit: usize,
        ) -> Result<Vec<Record>, ReadError> {
            self.begun.fetch_add(1, Ordering::Relaxed);
            self.may.acquire().await.expect("open").forget();
            if self.fails_at.compare_exchange(from.get(), 0, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                return Err(ReadError::Unavailable { reason: "once".into() });
            }
            let count = u64::try_from(limit).expect("small").min((self.most)(from.get()));
            Ok(records(from.get()..=self.records.min(from.get() + count - 1)))
        }
    }

    type Log = Interposed<MemoryLog, Reads>;

    fn log_of(records: u64, most: Most, may: usize) -> Arc<Log> {
        let at = Timestamp::parse_rfc3339("2026-01-01T00:00:00Z").expect("an instant");
        let (begun, fails_at) = (AtomicUsize::new(0), AtomicU64::new(0));
        let between = Reads { records, most, begun, may: Semaphore::new(may), fails_at };
        Arc::new(Interposed { log: Arc::new(MemoryLog::new(Arc::new(FixedClock(at)), at, Role::Active)), between })
    }

    /// From `next` on to the log's end.
    fn scan_from(next: Position, log: &Arc<Log>) -> Scan {
        let newest = Head::new(log.between.records).expect("small");
        let range = LogRange { next: Some(next), newest, left: u64::MAX, direction: Direction::Forward };
        let readers = Readers::default();
        // How long lines are is known.
        drop(readers.held.reader().page(lines_of(1..=9), 9));
        Scan::new(Arc::clone(log) as _, Rest::Log(range), Spelling::Record, Head::EMPTY, &readers)
    }

    fn scan(log: &Arc<Log>) -> Scan {
        scan_from(Position::FIRST, log)
    }

    fn lines_of(positions: impl Iterator<Item = u64>) -> Vec<u8> {
        Lines::of(&records(positions)).into_bytes()
    }

    /// How many reads have begun once nothing goes on any more.
    async fn begun(log: &Log) -> usize {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        log.between.begun.load(Ordering::Relaxed)
    }

    #[tokio::test]
    async fn pages_follow_each_other_wherever_they_end() {
        let page = u64::try_from(PAGE_RECORDS).expect("small");
        let everywhere: [(u64, Most); 5] = [
            (1, |_| u64::MAX),
            (5 * page, |_| u64::MAX),
            (5 * page + 1, |_| u64::MAX),
            (9 * page, |_| 1000),
            // Now and then what is read has many bytes.
            (20 * page, |from| if from % 7 < 3 { 1 + from % 50 } else { u64::MAX }),
        ];
        for (count, most) in everywhere {
            let log = log_of(count, most, usize::MAX >> 4);
            let read: Vec<Bytes> = pages(scan(&log), None).try_collect().await.expect("readable");
            assert_eq!(read.concat(), lines_of(1..=count), "{count} records");
        }
    }

    #[tokio::test]
    async fn who_waits_for_a_page_has_the_one_behind_it_read_and_who_does_not_costs_one_page_ahead() {
        let log = log_of(100 * 1024, |_| u64::MAX, 2);
        let mut pages = Box::pin(pages(scan(&log), None));
        assert_eq!(begun(&log).await, 0, "nobody listens");
        pages.next().await.expect("a page").expect("readable");
        assert_eq!(begun(&log).await, 2, "one ahead, which is there: its client is slow");
        pages.next().await.expect("a page").expect("readable");
        assert_eq!(begun(&log).await, 3, "one ahead, which is not there yet");
        assert!(pages.next().now_or_never().is_none(), "its client waits for it");
        assert_eq!(begun(&log).await, 4, "and so the one behind it is read");
        assert!(pages.next().now_or_never().is_none());
        assert_eq!(begun(&log).await, 4, "but no more");
        log.between.may.add_permits(1);
        let page = pages.next().await.expect("a page").expect("readable");
        assert_eq!(page, lines_of(2049..=3072));
        drop(pages);
    }

    #[tokio::test]
    async fn a_page_that_is_short_is_not_followed_by_what_was_only_likely() {
        let log = log_of(100 * 1024, |from| if from > 2048 { 10 } else { u64::MAX }, 2);
        let mut pages = Box::pin(pages(scan(&log), None));
        for expected in [2, 3] {
            pages.next().await.expect("a page").expect("readable");
            assert_eq!(begun(&log).await, expected);
        }
        assert!(pages.next().now_or_never().is_none());
        assert_eq!(begun(&log).await, 4);
        log.between.may.add_permits(2);
        for from in [2049, 2059] {
            let page = pages.next().await.expect("a page").expect("readable");
            assert_eq!(page, lines_of(from..=from + 9));
            log.between.may.add_permits(1);
        }
        assert_eq!(begun(&log).await, 6, "where pages are short, nothing is taken for likely");
    }

    #[tokio::test]
    async fn a_page_that_failed_before_its_place_was_known_is_read_again_and_one_that_fails_after_is_an_error() {
        let log = log_of(5 * 1024, |_| u64::MAX, 2);
        let mut pages = Box::pin(pages(scan(&log), None));
        for expected in [2, 3] {
            pages.next().await.expect("a page").expect("readable");
            assert_eq!(begun(&log).await, expected);
        }
        assert!(pages.next().now_or_never().is_none());
        log.between.fails_at.store(3073, Ordering::Relaxed);
        log.between.may.add_permits(2);
        assert_eq!(begun(&log).await, 4);
        log.between.may.add_permits(2);
        for from in [2049, 3073] {
            let page = pages.next().await.expect("a page").expect("read again");
            assert_eq!(page, lines_of(from..=from + 1023));
        }
        log.between.fails_at.store(4097, Ordering::Relaxed);
        log.between.may.add_permits(1);
        pages.next().await.expect("an answer").expect_err("it fails in its own time");
    }

    #[tokio::test]
    async fn nothing_is_likely_in_the_archive_or_above_the_head() {
        let log = log_of(100 * 1024, |_| u64::MAX, 2);
        let archived = Scan { pruned: Head::new(99 * 1024).expect("small"), ..scan(&log) };
        let mut pages_of_archive = Box::pin(pages(archived, None));
        for expected in [2, 3] {
            pages_of_archive.next().await.expect("a page").expect("readable");
            assert_eq!(begun(&log).await, expected);
        }
        assert!(pages_of_archive.next().now_or_never().is_none());
        assert_eq!(begun(&log).await, 3);
        for head in [0, 7] {
            let empty_above = log_of(head, |_| u64::MAX, 0);
            let beyond = scan_from(Position::new(head + 1).expect("from 1"), &empty_above);
            assert!(pages(beyond, None).try_collect::<Vec<_>>().await.expect("nothing").is_empty());
        }
    }
}
