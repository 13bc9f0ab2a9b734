//! What all readers together hold of the log: pages that are read, or being read, and that no client has taken yet.
//!
//! The more of it there is, the smaller the next pages are, so that many slow readers cost about as much as a few do. Nobody
//! waits for anybody here: a page has some records however much is held.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

use super::page::PAGE_RECORDS;

/// Bytes of pages that there are to be at most.
const HELD_BYTES_MAX: usize = 64 << 20;
/// Bytes that a page is to have at most.
const PAGE_BYTES: usize = 1 << 20;
/// Records that a page may have however much is held.
const RECORDS_MIN: usize = 16;
/// Bytes that a line is taken to have before any were read.
const LINE_BYTES: usize = 1 << 10;

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

/// Room for a page that is being read; it ends with the page.
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
        let records = (PAGE_BYTES / self.line_bytes).clamp(1, PAGE_RECORDS);
        // Once half of it is held, a share of what is free, which no number of readers uses up.
        let share = records * (free >> 10) / (HELD_BYTES_MAX >> 11);
        share.clamp(RECORDS_MIN.min(records), records)
    }

    /// Whether so much is held that no page is to be read before its client asks for it.
    pub(super) fn is_scarce(&self) -> bool {
        self.held.bytes.load(Ordering::Relaxed) >= HELD_BYTES_MAX / 2
    }

    /// Room for a page of so many records, which is about to be read.
    pub(super) fn hold(&self, records: usize) -> Hold {
        let bytes = records * self.line_bytes;
        self.held.bytes.fetch_add(bytes, Ordering::Relaxed);
        Hold { held: Arc::clone(&self.held), bytes }
    }

    /// The page that was read into that room: it is held until its client has taken it.
    pub(super) fn page(&mut self, mut hold: Hold, bytes: Vec<u8>, records: usize) -> Bytes {
        if let Some(each) = bytes.len().checked_div(records) {
            self.line_bytes = each.max(1);
            self.held.line_bytes.store(self.line_bytes, Ordering::Relaxed);
        }
        self.held.bytes.fetch_add(bytes.len(), Ordering::Relaxed);
        self.held.bytes.fetch_sub(hold.bytes, Ordering::Relaxed);
        hold.bytes = bytes.len();
        if bytes.is_empty() { Bytes::new() } else { Bytes::from_owner(HeldPage { bytes, _hold: hold }) }
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
        let hold = room.hold(records);
        room.page(hold, vec![b'x'; records * line], records)
    }

    #[test]
    fn many_slow_readers_hold_about_as_much_as_a_few_and_all_of_it_is_given_back() {
        for line in [100, 600, 20_000] {
            let held = HeldPages::default();
            let mut rooms: Vec<PageRoom> = (0..1000).map(|_| held.reader()).collect();
            // The first page of each is read before anybody knows how long lines are.
            read(&mut rooms[0], line);
            rooms.iter_mut().for_each(|room| *room = held.reader());
            let pages: Vec<Bytes> =
                (0..3).flat_map(|_| rooms.iter_mut().map(|room| read(room, line)).collect::<Vec<_>>()).collect();
            let bytes: usize = pages.iter().map(Bytes::len).sum();
            assert_eq!(held.0.bytes.load(Ordering::Relaxed), bytes);
            assert!(bytes <= HELD_BYTES_MAX + 3000 * RECORDS_MIN * line, "{bytes} bytes of lines of {line}");
            assert!(pages.iter().all(|page| page.len() >= line), "each has something");
            drop(pages);
            assert_eq!(held.0.bytes.load(Ordering::Relaxed), 0);
            assert!(rooms[0].records() * line <= PAGE_BYTES.max(line));
        }
    }

    #[test]
    fn a_reader_alone_has_whole_pages_and_a_read_that_is_given_up_leaves_nothing() {
        let held = HeldPages::default();
        let room = held.reader();
        assert_eq!(room.records(), PAGE_RECORDS);
        drop(room.hold(PAGE_RECORDS));
        assert_eq!(held.0.bytes.load(Ordering::Relaxed), 0);
        let mut large = held.reader();
        let hold = large.hold(1);
        let page = large.page(hold, vec![b'x'; 5 << 20], 5);
        assert_eq!(large.records(), 1, "a line of a whole page");
        drop(page);
        let hold = large.hold(1);
        assert!(large.page(hold, Vec::new(), 0).is_empty());
        assert_eq!(held.0.bytes.load(Ordering::Relaxed), 0);
    }
}
