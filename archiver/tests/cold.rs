//! Cold reads: the same bytes before and after pruning, at a known cost, and never a wrong one (ARC-3, ARC-4).

mod common;

use std::sync::Arc;

use archiver::heal::{Finding, Outcome};
use archiver::scrub::{ScrubReport, Scrubber};
use archiver::seal::Demand;
use async_trait::async_trait;
use common::{Counting, Findings, Region, copy_of, hour, now, position, stream};
use domain::archive::layout;
use domain::conformance::search;
use domain::filter::Filter;
use domain::log::{Direction, LogReader, ReadError};
use domain::merkle::{Hash, root_of};
use domain::record::{Lines, Record};
use domain::store::{Created, Object, ObjectMeta, ObjectStore, StoreError};
use domain::tiered::{ArchiveReader, TieredLog};
use domain::twin::{MemoryLog, MemoryStore};
use domain::{Head, Position, StreamName, StreamVersion, Timestamp};

const BOTH: [Direction; 2] = [Direction::Forward, Direction::Backward];

fn head(number: u64) -> Head {
    Head::new(number).expect("a head")
}

/// A region with 2,000 events, archived up to 1,700 in five segments, pruned up to 1,450, and the same unpruned.
async fn pruned_and_whole() -> (Region, Arc<MemoryLog>) {
    let region = Region::new("home", domain::append::Role::Active);
    region.seal_up_to(1700, 350).await;
    region.append(1701, 2000).await;
    let whole = Region::with_events(2000).await.log;
    assert_eq!(
        region.all_records().await,
        whole.read_log(Position::FIRST, Direction::Forward, 5000).await.expect("all")
    );
    region.log.prune_to(head(1450));
    (region, whole)
}

#[tokio::test]
async fn the_log_reads_the_same_before_and_after_pruning() {
    let (region, whole) = pruned_and_whole().await;
    let tiered = region.tiered();
    for from in [1, 2, 350, 351, 1024, 1025, 1449, 1450, 1451, 1700, 1999, 2000, 2001] {
        for (direction, limit) in
            BOTH.into_iter().flat_map(|direction| [1, 7, 400, 5000].map(|limit| (direction, limit)))
        {
            let expected = whole.read_log(position(from), direction, limit).await.expect("read");
            let found = tiered.read_log(position(from), direction, limit).await.expect("read");
            assert_eq!(found, expected, "{direction:?} from {from}, {limit}");
        }
    }
}

#[tokio::test]
async fn every_stream_reads_the_same_before_and_after_pruning() {
    let (region, whole) = pruned_and_whole().await;
    let tiered = region.tiered();
    for name in (0..8).chain([99]).map(stream) {
        let newest = whole.stream_head(&name).await.expect("read").map_or(1, |head| head.version.get());
        for from in [1, 2, newest / 2, newest - 1, newest, newest + 1].into_iter().filter_map(StreamVersion::new) {
            for (direction, limit) in BOTH.into_iter().flat_map(|d| [1, 5, 1000].map(|limit| (d, limit))) {
                let expected = whole.read_stream(&name, from, direction, limit).await.expect("read");
                let found = tiered.read_stream(&name, from, direction, limit).await.expect("read");
                assert_eq!(found, expected, "{direction:?} {name} from {from}, {limit}");
            }
        }
    }
}

#[tokio::test]
async fn a_head_as_of_an_instant_is_the_same_before_and_after_pruning() {
    let (region, whole) = pruned_and_whole().await;
    let tiered = region.tiered();
    for number in [0, 1, 349, 350, 351, 1023, 1024, 1025, 1450, 1451, 2000, 2001] {
        for instant in [hour(number), Timestamp::from_unix_micros(hour(number).unix_micros() + 1).expect("an instant")]
        {
            let found = tiered.head_as_of(instant).await.expect("read");
            assert_eq!(found, whole.head_as_of(instant).await.expect("read"), "{instant}");
        }
    }
}

/// Prunes in front of the nth read of the live log.
struct PruneInBetween {
    log: Arc<MemoryLog>,
    reads_before: std::sync::atomic::AtomicU64,
}

impl PruneInBetween {
    fn read(&self) {
        if self.reads_before.fetch_sub(1, std::sync::atomic::Ordering::SeqCst) == 0 {
            self.log.prune_to(head(1700));
        }
    }
}

#[async_trait::async_trait]
impl LogReader for PruneInBetween {
    async fn log_head(&self) -> Result<domain::append::LogHead, ReadError> {
        self.log.log_head().await
    }

    async fn read_log(&self, from: Position, direction: Direction, limit: usize) -> Result<Vec<Record>, ReadError> {
        self.read();
        self.log.read_log(from, direction, limit).await
    }

    async fn read_stream(
        &self,
        stream: &StreamName,
        from: StreamVersion,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<Record>, ReadError> {
        self.read();
        self.log.read_stream(stream, from, direction, limit).await
    }

    async fn stream_head(&self, stream: &StreamName) -> Result<Option<domain::append::StreamHead>, ReadError> {
        self.log.stream_head(stream).await
    }

    async fn streams(
        &self,
        category: &str,
        after: Option<&StreamName>,
        limit: usize,
    ) -> Result<Vec<(StreamName, domain::append::StreamHead)>, ReadError> {
        self.log.streams(category, after, limit).await
    }

    async fn find_event(&self, source: &str, id: &str) -> Result<Option<Position>, ReadError> {
        self.log.find_event(source, id).await
    }

    async fn head_as_of(&self, at: Timestamp) -> Result<Head, ReadError> {
        self.read();
        self.log.head_as_of(at).await
    }

    async fn wait_beyond(&self, seen: Head) -> Result<Head, ReadError> {
        self.log.wait_beyond(seen).await
    }
}

#[tokio::test]
async fn a_prune_between_two_reads_changes_no_answer() {
    for reads_before in 0..4 {
        for direction in BOTH {
            let (region, whole) = pruned_and_whole().await;
            let live = PruneInBetween { log: region.log.clone(), reads_before: reads_before.into() };
            let tiered = TieredLog::new(Arc::new(live), region.reader(None, Arc::new(Findings::default())));
            let (from, version) = match direction {
                Direction::Forward => (position(1), StreamVersion::FIRST),
                Direction::Backward => (position(2000), StreamVersion::new(9999).expect("a version")),
            };
            let expected = whole.read_stream(&stream(4), version, direction, 5000).await.expect("read");
            let found = tiered.read_stream(&stream(4), version, direction, 5000).await.expect("read");
            assert_eq!(found, expected, "{direction:?}, pruned before read {reads_before}");
            let expected = whole.read_log(from, direction, 5000).await.expect("read");
            assert_eq!(tiered.read_log(from, direction, 5000).await.expect("read"), expected, "{direction:?}");
        }
    }
}

#[tokio::test]
async fn lines_are_those_of_the_records_also_where_they_are_pruned_in_between() {
    for reads_before in 0..4 {
        let (region, whole) = pruned_and_whole().await;
        let live = PruneInBetween { log: region.log.clone(), reads_before: reads_before.into() };
        let tiered = TieredLog::new(Arc::new(live), region.reader(None, Arc::new(Findings::default())));
        for (from, limit) in [(1, 5000), (990, 40), (1700, 1), (1701, 5000)] {
            let expected = whole.read_log(position(from), Direction::Forward, limit).await.expect("read");
            let found = tiered.read_lines(position(from), limit).await.expect("read");
            assert_eq!(found, Lines::of(&expected), "{limit} from {from}, pruned before read {reads_before}");
        }
    }
    let (region, _) = pruned_and_whole().await;
    region.log.prune_to(head(1900));
    let hole = region.tiered().read_lines(position(1800), 10).await.expect_err("a hole");
    assert!(matches!(hole, ReadError::Corrupt { .. }), "{hole}");
}

#[tokio::test]
async fn what_neither_live_log_nor_archive_has_is_corrupt() {
    let (region, _) = pruned_and_whole().await;
    region.log.prune_to(head(1900));
    let tiered = region.tiered();
    let hole = tiered.read_log(position(1800), Direction::Forward, 10).await.expect_err("a hole");
    assert!(matches!(hole, ReadError::Corrupt { .. }), "{hole}");
    let hole = tiered.read_stream(&stream(4), StreamVersion::FIRST, Direction::Forward, 5000).await;
    assert!(matches!(hole, Err(ReadError::Corrupt { .. })), "{hole:?}");
}

#[tokio::test]
async fn a_point_read_costs_two_requests_and_none_where_the_stream_is_not() {
    let (region, _) = pruned_and_whole().await;
    let store = Counting::of(&region.store);
    let fresh = || region.reader_of(store.clone(), None, Arc::new(Findings::default()));

    let cold = fresh();
    let read = cold.read_log(position(400), Direction::Forward, 1).await.expect("read");
    assert_eq!((read[0].position(), store.take()), (position(400), 2));
    cold.read_log(position(401), Direction::Forward, 1).await.expect("read");
    assert_eq!(store.take(), 0, "index and block are cached");
    let reads = cold.reads();
    assert_eq!((reads.own, reads.other, reads.cached), (2, 0, 2));
    let segment = &region.segments().await[1];
    assert!((segment.index_bytes + 1..=segment.index_bytes + segment.bytes).contains(&reads.bytes), "{reads:?}");

    // The stream of the first event alone: from its newest event on, one segment is looked at.
    let cold = fresh();
    let read = cold.read_stream(&stream(99), Position::FIRST, StreamVersion::FIRST, Direction::Forward, 10).await;
    assert_eq!((read.expect("read").len(), store.take()), (1, 2));
    let absent = StreamName::parse("content-absent").expect("a name");
    let read = cold.read_stream(&absent, position(350), StreamVersion::FIRST, Direction::Forward, 10).await;
    assert_eq!((read.expect("read").len(), store.take()), (0, 0), "its index is cached and says no");
}

#[tokio::test]
async fn a_search_finds_the_same_before_and_after_pruning() {
    let (region, whole) = pruned_and_whole().await;
    let tiered = region.tiered();
    assert_eq!(search::read(&tiered).await, search::read(&*whole).await);
    let some = Filter::default;
    for filter in [
        Ok(some()),
        some().stream_prefix("content-9"),
        some().stream_prefix("content-3").map(|filter| filter.recorded_from(hour(340)).recorded_before(hour(1500))),
        some().category("note"),
        some().event_type("content.revised").and_then(|filter| filter.stream_prefix("content-5")),
    ] {
        let filter = filter.expect("a filter");
        search::agrees(&tiered, &filter).await;
    }
}

#[tokio::test]
async fn a_search_fetches_a_few_blocks_of_one_segment_however_little_it_finds() {
    let (region, _) = pruned_and_whole().await;
    let store = Counting::of(&region.store);
    let cold = region.reader_of(store.clone(), None, Arc::new(Findings::default()));
    let nothing = Filter::default().category("note").expect("a filter");
    for (from, direction, end) in [(1, Direction::Forward, 350), (700, Direction::Backward, 351)] {
        let found = cold.search_log(position(from), direction, &nothing, 9).await.expect("read");
        assert_eq!((found.records.len(), found.to.map(|to| to.position)), (0, Some(position(end))));
        let fetched = store.take();
        assert!((2..=5).contains(&fetched), "an index and at most four blocks: {fetched}");
    }
    let above = cold.search_log(position(1701), Direction::Forward, &nothing, 9).await.expect("read");
    assert_eq!((above.to, store.take()), (None, 0));
}

struct Damaged {
    region: Region,
    good: Arc<MemoryStore>,
    findings: Arc<Findings>,
    whole: Arc<MemoryLog>,
}

impl Damaged {
    async fn new() -> Self {
        let (region, whole) = pruned_and_whole().await;
        let good = copy_of(&region.store).await;
        Self { region, good, findings: Arc::default(), whole }
    }

    async fn read(&self, other: Option<Arc<dyn ObjectStore>>) -> Result<Vec<Record>, ReadError> {
        let cold = self.region.reader(other, self.findings.clone());
        cold.read_log(position(400), Direction::Forward, 200).await
    }

    async fn serves_and_heals(&self, key: &str, how: &str) {
        let expected = self.whole.read_log(position(400), Direction::Forward, 200).await.expect("read");
        assert_eq!(self.read(Some(self.good.clone())).await.expect("served"), expected, "{how}");
        let stored = self.region.store.get(key).await.expect("there again").bytes;
        assert_eq!(stored, self.good.get(key).await.expect("good").bytes, "{how}: rewritten");
        let found = self.findings.take();
        let [Finding { key: named, outcome: Outcome::Healed { .. }, .. }] = &found[..] else {
            panic!("{how}: {found:?}")
        };
        assert_eq!(named, key, "{how}");
        assert_eq!(self.read(Some(self.good.clone())).await.expect("served"), expected, "{how}");
        assert_eq!(self.findings.take(), [], "{how}: healed for good");
    }
}

#[tokio::test]
async fn a_damaged_object_is_healed_on_read_and_never_served() {
    let damaged = Damaged::new().await;
    let segments = damaged.region.segments().await;
    let store = &damaged.region.store;
    for (key, other) in [
        (layout::segment(&segments[1]), layout::segment(&segments[2])),
        (layout::index(&segments[1]), layout::index(&segments[2])),
    ] {
        assert!(store.damage(&key, |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        }));
        damaged.serves_and_heals(&key, "a flipped bit").await;
        assert!(store.damage(&key, |bytes| bytes.truncate(bytes.len() / 2)));
        damaged.serves_and_heals(&key, "cut short").await;
        assert!(store.damage(&key, Vec::clear));
        damaged.serves_and_heals(&key, "empty").await;
        store.delete(&key).await.expect("deleted");
        damaged.serves_and_heals(&key, "missing").await;
        let swapped = store.get(&other).await.expect("another").bytes;
        assert!(store.damage(&key, |bytes| *bytes = swapped));
        damaged.serves_and_heals(&key, "swapped for another").await;
    }
}

#[tokio::test]
async fn without_a_good_copy_the_answer_is_corrupt() {
    let damaged = Damaged::new().await;
    let key = layout::segment(&damaged.region.segments().await[1]);
    for store in [&damaged.region.store, &damaged.good] {
        assert!(store.damage(&key, |bytes| bytes[50] ^= 1));
    }
    for other in [None, Some(damaged.good.clone() as Arc<dyn ObjectStore>)] {
        assert!(matches!(damaged.read(other).await, Err(ReadError::Corrupt { .. })));
        assert!(matches!(&damaged.findings.take()[..], [Finding { outcome: Outcome::Lost { .. }, .. }]));
    }
    let bytes = damaged.region.store.get(&key).await.expect("there").bytes;
    assert_eq!(bytes, damaged.good.get(&key).await.expect("there").bytes, "nothing was rewritten with a bad copy");
}

/// A bucket that cannot be reached, and must not be written to meanwhile.
struct Away;

#[async_trait]
impl ObjectStore for Away {
    async fn create(&self, key: &str, _bytes: &[u8]) -> Result<Created, StoreError> {
        panic!("{key} is created")
    }
    async fn replace(&self, key: &str, _etag: &str, _bytes: &[u8]) -> Result<(), StoreError> {
        panic!("{key} is replaced")
    }
    async fn get(&self, key: &str) -> Result<Object, StoreError> {
        Err(away(key))
    }
    async fn get_range(&self, key: &str, _offset: u64, _bytes: u64) -> Result<Vec<u8>, StoreError> {
        Err(away(key))
    }
    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, StoreError> {
        Err(away(key))
    }
    async fn list(&self, prefix: &str, _: Option<&str>, _: usize) -> Result<Vec<ObjectMeta>, StoreError> {
        Err(away(prefix))
    }
    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        panic!("{key} is deleted")
    }
}

fn away(key: &str) -> StoreError {
    StoreError::Unavailable { key: key.into(), reason: "nobody answers".into() }
}

#[tokio::test]
async fn while_the_own_bucket_is_away_the_other_one_is_read_and_nothing_is_healed() {
    let damaged = Damaged::new().await;
    let read = async |own: Arc<dyn ObjectStore>, other: Option<Arc<dyn ObjectStore>>| {
        let cold = damaged.region.reader_of(own, other, damaged.findings.clone());
        cold.read_log(position(400), Direction::Forward, 200).await
    };
    let expected = damaged.whole.read_log(position(400), Direction::Forward, 200).await.expect("read");
    assert_eq!(read(Arc::new(Away), Some(damaged.good.clone())).await.expect("served"), expected);
    assert!(matches!(read(Arc::new(Away), None).await, Err(ReadError::Unavailable { .. })));
    assert!(matches!(read(Arc::new(Away), Some(Arc::new(Away))).await, Err(ReadError::Unavailable { .. })));
    let segment = &damaged.region.segments().await[1];
    for key in [layout::segment(segment), layout::index(segment)] {
        let good = damaged.good.get(&key).await.expect("there").bytes;
        let flip = |bytes: &mut Vec<u8>| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        };
        assert!(damaged.good.damage(&key, flip));
        let both = read(Arc::new(Away), Some(damaged.good.clone())).await;
        assert!(matches!(both, Err(ReadError::Unavailable { .. })), "it may be good where nobody answers: {both:?}");
        assert!(damaged.good.damage(&key, |bytes| *bytes = good));
    }
    assert_eq!(damaged.findings.take(), [], "nothing is known to be damaged");
}

#[tokio::test]
async fn a_stale_object_under_the_right_name_is_found() {
    // A segment of another history, put in the place of this one: every checksum inside it is right.
    let damaged = Damaged::new().await;
    let other = Region::new("home", domain::append::Role::Active);
    other.append(351, 700).await;
    other.seal(Demand::Everything).await.expect("sealed");
    let [ours, theirs] = [&damaged.region.segments().await[0], &other.segments().await[0]].map(layout::segment);
    assert_ne!(ours, theirs);
    let bytes = other.store.get(&theirs).await.expect("an object").bytes;
    assert!(damaged.region.store.damage(&ours, |stored| *stored = bytes));
    let cold = damaged.region.reader(Some(damaged.good.clone()), damaged.findings.clone());
    let read = cold.read_log(position(1), Direction::Forward, 5).await.expect("served");
    assert_eq!(read, damaged.whole.read_log(position(1), Direction::Forward, 5).await.expect("read"));
    assert_eq!(damaged.findings.take().len(), 1);
}

#[tokio::test]
async fn the_scrub_finds_and_heals_what_nobody_reads() {
    let damaged = Damaged::new().await;
    let Region { log, store, .. } = damaged.region.clone();
    let segments = damaged.region.segments().await;
    assert!(store.damage(&layout::segment(&segments[0]), |bytes| bytes[9] ^= 1));
    store.delete(&layout::index(&segments[3])).await.expect("deleted");
    let healer = archiver::heal::Healer {
        own: store.clone(),
        other: Some(damaged.good.clone()),
        observer: damaged.findings.clone(),
    };
    let scrubber = Scrubber { catalog: log, healer, clock: Arc::new(domain::FixedClock(now())) };
    let ScrubReport { segments: read, damaged: found, lost, .. } = scrubber.run(u64::MAX).await.expect("read");
    assert_eq!((read, found, lost.len()), (5, 2, 0));
    assert_eq!(damaged.findings.take().len(), 2);
    assert!(damaged.region.audit().await.is_proven());
    assert_eq!(scrubber.run(u64::MAX).await.expect("read").damaged, 0);
    assert_eq!(scrubber.run(1).await.expect("read").segments, 1, "a budget ends it");
}

#[tokio::test]
async fn the_leaves_of_cold_records_are_those_of_the_log() {
    let (region, whole) = pruned_and_whole().await;
    let cold = region.reader(None, Arc::new(Findings::default()));
    let leaves = |records: Vec<Record>| records.iter().map(Record::leaf).collect::<Vec<Hash>>();
    let archived = leaves(cold.read_log(Position::FIRST, Direction::Forward, 5000).await.expect("read"));
    let live = leaves(whole.read_log(Position::FIRST, Direction::Forward, 1700).await.expect("read"));
    assert_eq!(root_of(&archived), root_of(&live));
}
