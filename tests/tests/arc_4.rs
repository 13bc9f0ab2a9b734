//! ARC-4: a flipped, missing, truncated, swapped or stale byte in the archive is found on read and by the scrub, and
//! healed from the other region's bucket; with no good copy left the answer is Corrupt. What is served is right or it
//! is an error. All damage is done to the files of a real S3 endpoint, behind its back.

use std::fs;
use std::path::{Path, PathBuf};

use domain::archive::catalog::{Catalog, Segment};
use domain::archive::layout;
use domain::archive::segment::SegmentWriter;
use domain::record;
use domain::store::ObjectStore;
use domain::{Epoch, StreamName};
use ops::dev::Region;
use system_tests::regions::{Api, History, Pair, Setting, Truth, append, at, bucket, number, seed, until};

const EVENTS: usize = 4500;
const STREAMS: usize = 60;

/// A way to break an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Damage {
    Flip,
    Truncate,
    Delete,
    /// The next segment's object of the same kind stands here, and this one there.
    Swap,
    /// What was there before more came: a sound object of fewer records, stored in good order.
    Stale,
}

const ALL: [Damage; 5] = [Damage::Flip, Damage::Truncate, Damage::Delete, Damage::Swap, Damage::Stale];

/// Which object of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Records,
    Index,
}

impl Part {
    fn key(self, segment: &Segment) -> String {
        match self {
            Self::Records => layout::segment(segment),
            Self::Index => layout::index(segment),
        }
    }

    /// The object that this segment was when it had half of its records.
    fn half(self, segment: &Segment, truth: &Truth) -> Vec<u8> {
        let mut writer = SegmentWriter::new(segment.first, Epoch::FIRST).expect("a writer");
        let lines = truth.lines(segment.first.get(), segment.first.get() + segment.records() / 2);
        for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            writer.push(&record::read(line).expect("a record")).expect("in order");
        }
        let sealed = writer.finish().expect("sealed");
        match self {
            Self::Records => sealed.object,
            Self::Index => sealed.index,
        }
    }
}

/// Breaks an object in a region's bucket; returns the keys of all that are broken now.
async fn damage(region: &Region, how: Damage, part: Part, at: (&Segment, &Segment), truth: &Truth) -> Vec<String> {
    let (key, file) = (part.key(at.0), region.object_file(&part.key(at.0)));
    let folder = |file: &Path| file.parent().expect("an object has a folder").to_owned();
    match how {
        Damage::Flip => {
            let mut bytes = fs::read(&file).expect("an object");
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x04;
            fs::write(&file, bytes).expect("damaged");
        }
        Damage::Truncate => {
            let bytes = fs::read(&file).expect("an object");
            fs::write(&file, &bytes[..bytes.len() - 7]).expect("damaged");
        }
        Damage::Delete => fs::remove_dir_all(folder(&file)).expect("deleted"),
        Damage::Swap => {
            let other = part.key(at.1);
            let (a, b) = (folder(&file), folder(&region.object_file(&other)));
            let aside: PathBuf = region.objects_folder().join("aside");
            for (from, to) in [(&a, &aside), (&b, &a), (&aside, &b)] {
                fs::rename(from, to).expect("swapped");
            }
            return vec![key, other];
        }
        Damage::Stale => {
            let (store, _) = bucket(region);
            let etag = store.get(&key).await.expect("an object").meta.etag;
            store.replace(&key, &etag, &part.half(at.0, truth)).await.expect("replaced in good order");
        }
    }
    vec![key]
}

/// The bytes of an object as they lie there; none if it is gone.
fn stored(region: &Region, key: &str) -> Option<Vec<u8>> {
    fs::read(region.object_file(key)).ok()
}

/// Two regions whose history is wholly archived and out of both live logs, and its segments.
async fn archived() -> (Pair, Truth, Vec<Segment>) {
    let start = at("2025-01-01T00:00:00Z");
    // Nothing is kept in memory: each read is a read of the objects.
    let settings = vec![
        ("archive.sealing.segment_bytes", (64 << 10).into()),
        ("archive.sealing.cache_bytes", 0.into()),
        ("archive.scrub_interval_seconds", 86_400.into()),
    ];
    let mut pair = Pair::set_up(&Setting { now: start, window_months: 1, settings }).await;
    pair.move_to(start.months_after(1).expect("a month")).await;
    append(&pair.log, History::new(seed(), STREAMS).month(start, EVENTS)).await;
    let mut truth = Truth::default();
    truth.learn(&pair.log).await;
    pair.move_to(start.months_after(2).expect("a month")).await;
    tokio::try_join!(pair.home.serve(), pair.dr.serve()).expect("both serve");
    for region in [&pair.home, &pair.dr] {
        until("all is out of the live log", async || {
            (number(&Api::of(region).status().await.pruned) == truth.head().get()).then_some(())
        })
        .await;
    }
    let segments = pair.log.segments().await.expect("a catalog").into_iter().map(|entry| entry.segment).collect();
    (pair, truth, segments)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_is_found_on_read_and_by_the_scrub_and_healed_from_the_other_region() {
    let (pair, truth, segments) = archived().await;
    assert!(segments.len() >= 4, "{} segments", segments.len());
    let mut found = [0, 0];
    for (number, how) in ALL.into_iter().enumerate() {
        for part in [Part::Records, Part::Index] {
            // Each region heals from the other.
            for (which, region) in [&pair.home, &pair.dr].into_iter().enumerate() {
                let at = (&segments[number % 3], &segments[number % 3 + 1]);
                let what = format!("{how:?} of {part:?} in {}", region.name);
                let good = |key: &String| (key.clone(), stored(region, key));
                let before: Vec<_> = [part.key(at.0), part.key(at.1)].iter().map(good).collect();

                let broken = damage(region, how, part, at, &truth).await;
                is_broken(region, &broken, &before, &what);
                truth.is_the_log_of(region).await;
                is_good(region, &before, &format!("{what}, found on read"));
                found[which] += broken.len();

                let broken = damage(region, how, part, at, &truth).await;
                is_broken(region, &broken, &before, &what);
                let scrubbed = Api::of(region).scrub().await;
                assert_eq!((scrubbed.damaged, scrubbed.lost), (broken.len().to_string(), Vec::new()), "{what}");
                is_good(region, &before, &format!("{what}, found by the scrub"));
                found[which] += broken.len();
            }
        }
    }
    for (region, found) in [&pair.home, &pair.dr].into_iter().zip(found) {
        let counted = format!("archive_findings_total{{outcome=\"healed\"}} {found}");
        let metrics = Api::of(region).get("/metrics", &[]).await.text();
        assert!(metrics.contains(&counted), "{}: {counted}: {metrics}", region.name);
        assert_eq!(Api::of(region).scrub().await.damaged, "0", "{} is sound again", region.name);
    }
    findings_are_on_the_record(&pair, found[0]).await;
    no_good_copy_is_corrupt(&pair, &truth, &segments).await;
    pair.end().await;
}

fn is_broken(region: &Region, broken: &[String], before: &[(String, Option<Vec<u8>>)], what: &str) {
    for (key, good) in before.iter().filter(|(key, _)| broken.contains(key)) {
        assert!(good.is_some() && stored(region, key) != *good, "{what}: {key} is damaged now");
    }
}

fn is_good(region: &Region, before: &[(String, Option<Vec<u8>>)], what: &str) {
    for (key, good) in before {
        assert!(good.is_some() && stored(region, key) == *good, "{what}: {key} is as it was");
    }
}

/// The region that appends says each of its findings in an event.
async fn findings_are_on_the_record(pair: &Pair, found: usize) {
    let stream = StreamName::parse("archive-findings").expect("a name");
    until("each finding at home is an event", async || {
        let events = Api::of(&pair.home).stream(&stream, &[]).await.text();
        (events.matches("\"type\":\"segment.healed\"").count() == found).then_some(())
    })
    .await;
}

/// The same segment is damaged in both buckets, in different ways.
async fn no_good_copy_is_corrupt(pair: &Pair, truth: &Truth, segments: &[Segment]) {
    let (bad, next) = (&segments[1], &segments[2]);
    let keys: Vec<String> = [Part::Records, Part::Index].iter().map(|part| part.key(bad)).collect();
    let good: Vec<_> = keys.iter().map(|key| stored(&pair.home, key).expect("an object")).collect();
    for part in [Part::Records, Part::Index] {
        damage(&pair.home, Damage::Flip, part, (bad, next), truth).await;
        damage(&pair.dr, Damage::Stale, part, (bad, next), truth).await;
    }
    let (first, last) = (bad.first.get(), bad.last.get());
    for region in [&pair.home, &pair.dr] {
        let api = Api::of(region);
        let refused = api.log(first, last).await;
        assert_eq!(refused.status, 500, "{}: {}", region.name, refused.text());
        assert!(refused.text().contains("\"kind\":\"corrupt\""), "{}: {}", region.name, refused.text());
        // A read that runs into it breaks off: nobody takes a part for the whole, and the part is right.
        let broken = api.log(1, truth.head().get()).await;
        let right = truth.log.starts_with(&broken.body) || broken.status == 500;
        assert!(right && !broken.is(&truth.log), "{}: never wrong, never cut short in silence", region.name);
        assert!(broken.status == 500 || !broken.whole, "{}: the break is seen", region.name);
        let (before, after) = (api.log(1, first - 1).await, api.log(last + 1, truth.head().get()).await);
        assert!(before.is(truth.lines(1, first - 1)), "{}: what stands before it is served", region.name);
        assert!(after.is(truth.lines(last + 1, truth.head().get())), "{}: what follows it, too", region.name);
        for (stream, lines) in &truth.streams {
            let read = api.stream(stream, &[]).await;
            let right = if read.status == 200 { lines.starts_with(&read.body) } else { read.status == 500 };
            assert!(right && (read.is(lines) || read.status == 500 || !read.whole), "{}: {stream}", region.name);
        }
        let scrubbed = api.scrub().await;
        assert!(scrubbed.lost.contains(&keys[0]), "{}: {:?} names {}", region.name, scrubbed.lost, keys[0]);
    }
    // A copy from elsewhere, such as a backup of the bucket, is put back: the other region heals itself from it.
    for (key, bytes) in keys.iter().zip(&good) {
        fs::write(pair.home.object_file(key), bytes).expect("put back");
    }
    for region in [&pair.home, &pair.dr] {
        let whole = Api::of(region).log(1, truth.head().get()).await;
        assert!(whole.is(&truth.log), "{} serves all of it again", region.name);
        assert_eq!(Api::of(region).scrub().await.lost, Vec::<String>::new(), "{}", region.name);
    }
}
