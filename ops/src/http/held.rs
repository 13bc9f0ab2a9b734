//! What all readers together hold of the log: pages that are read, or being read, and that no client has taken yet.
//!
//! The more of it there is, the smaller the next pages are, so that many slow readers cost about as much as a few do. Nobody
//! waits for anybody here: a page has a record at least, however much is held.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

use super::page::PAGE_RECORDS;

/// Bytes of pages that there are to be at most.
const HELD_BYTES_MAX: usize = 64 << 20;
/// Bytes that a page is to have at most, …
const PAGE_BYTES_MAX: usize = 1 << 20;
/// … and those that it may have however much is held.
const PAGE_BYTES_MIN: usize = 16 << 10;
/// Bytes that a line is taken to have before any were read: many readers may begin before that is known.
const LINE_BYTES: usize = 64 << 10;

/// The pages of all readers of the process.
#[derive(Debug, Clone)]
pub(super) struct HeldPages(Arc<Held>);

#[derive(Debug)]
struct Held {
    bytes: AtomicUsize,
    /// About how many bytes a line has, of those that were read last by anybody.
    line_bytes: AtomicUsize,
}

/// One reader's way to the next page.
#[derive(Debug, Clone)]
pub(super) struct PageRoom {
    held: Arc<Held>,
    line_bytes: usize,
}

/// Some bytes of pages; they are held until this is dropped.
#[derive(Debug)]
pub(super) struct Hold {
    held: Arc<Held>,
    bytes: usize,
}

impl Default for HeldPages {
    fn default() -> Self {
        Self(Arc::new(Held { bytes: AtomicUsize::new(0), line_bytes: AtomicUsize::new(LINE_BYTES) }))
    }
}

impl HeldPages {
    /// For one reader.
    pub(super) fn reader(&self) -> PageRoom {
        PageRoom { held: Arc::clone(&self.0), line_bytes: self.0.line_bytes.load(Ordering::Relaxed) }
    }
}

impl PageRoom {
    /// How many records the next page may have.
    pub(super) fn records(&self) -> usize {
        let free = HELD_BYTES_MAX.saturating_sub(self.held.bytes.load(Ordering::Relaxed));
        // Once half of it is held, a share of what is free, which no number of readers uses up.
        let share = (PAGE_BYTES_MAX >> 10) * free / (HELD_BYTES_MAX >> 11);
        (share.clamp(PAGE_BYTES_MIN, PAGE_BYTES_MAX) / self.line_bytes).clamp(1, PAGE_RECORDS)
    }

    /// Whether so much is held that no page is to be read before its client asks for it.
    pub(super) fn is_scarce(&self) -> bool {
        self.held.bytes.load(Ordering::Relaxed) >= HELD_BYTES_MAX / 2
    }

    /// Holds what a page of so many records is likely to have, while it is read.
    pub(super) fn hold(&self, records: usize) -> Hold {
        Hold::of(&self.held, records * self.line_bytes)
    }

    /// A page that was read: it is held until its client has taken it.
    pub(super) fn page(&mut self, bytes: Vec<u8>, records: usize) -> Bytes {
        if let Some(each) = bytes.len().checked_div(records) {
            self.line_bytes = each.max(1);
            self.held.line_bytes.store(self.line_bytes, Ordering::Relaxed);
        }
        let _hold = Hold::of(&self.held, bytes.len());
        if bytes.is_empty() { Bytes::new() } else { Bytes::from_owner(HeldPage { bytes, _hold }) }
    }
}

impl Hold {
    fn of(held: &Arc<Held>, bytes: usize) -> Self {
        held.bytes.fetch_add(bytes, Ordering::Relaxed);
        Self { held: Arc::clone(held), bytes }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.held.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

struct HeldPage {
    bytes: Vec<u8>,
    _hold: Hold,
}

impl AsRef<[u8]> for HeldPage {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a page of lines of `line` bytes, as long as it may be.
    fn read(room: &mut PageRoom, line: usize) -> Bytes {
        let records = room.records();
        let _reading = room.hold(records);
        room.page(vec![b'x'; records * line], records)
    }

    #[test]
    fn many_slow_readers_hold_about_as_much_as_a_few_and_all_of_it_is_given_back() {
        for line in [100, 600, 20_000] {
            let held = HeldPages::default();
            // The first page of all is read before anybody knows how long lines are.
            read(&mut held.reader(), line);
            let mut rooms: Vec<PageRoom> = (0..1000).map(|_| held.reader()).collect();
            let pages: Vec<Bytes> =
                (0..3).flat_map(|_| rooms.iter_mut().map(|room| read(room, line)).collect::<Vec<_>>()).collect();
            let bytes: usize = pages.iter().map(Bytes::len).sum();
            assert_eq!(held.0.bytes.load(Ordering::Relaxed), bytes);
            let least = 3000 * PAGE_BYTES_MIN.max(line);
            assert!(bytes <= HELD_BYTES_MAX + least, "{bytes} bytes of lines of {line}");
            assert!(pages.iter().all(|page| page.len() >= line), "each has something");
            drop(pages);
            assert_eq!(held.0.bytes.load(Ordering::Relaxed), 0);
            assert!(rooms[0].records() * line <= PAGE_BYTES_MAX.max(line));
        }
    }

    #[test]
    fn a_reader_alone_has_whole_pages_and_a_read_that_is_given_up_leaves_nothing() {
        let held = HeldPages::default();
        let mut room = held.reader();
        assert_eq!(room.records(), 16, "nobody knows how long lines are");
        drop(room.page(vec![b'x'; 16 << 9], 16));
        assert_eq!(room.records(), PAGE_RECORDS);
        drop(room.hold(PAGE_RECORDS));
        assert_eq!(held.0.bytes.load(Ordering::Relaxed), 0);
        let mut large = held.reader();
        let page = large.page(vec![b'x'; 5 << 20], 5);
        assert_eq!(large.records(), 1, "a line of a whole page");
        drop(page);
        assert!(large.page(Vec::new(), 0).is_empty());
        assert_eq!(held.0.bytes.load(Ordering::Relaxed), 0);
    }
}
