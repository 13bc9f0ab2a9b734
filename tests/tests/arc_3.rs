//! ARC-3: an archived record is byte for byte the live record, in both regions and whichever way it is read. LOG-3: a
//! stream whose events are all archived goes on where it ended.

use coldstream_client::{Client, From, Settings};
use domain::append::ExpectedVersion;
use domain::filter::Filter;
use domain::record;
use domain::{StreamName, Timestamp};
use ops::dev::Region;
use system_tests::regions::{Api, History, Pair, Setting, Truth, append, at, is_whole, number, seed, until};

const MONTHS: u32 = 10;
const EVENTS_A_MONTH: usize = 350;
const STREAMS: usize = 240;
const WINDOW_MONTHS: u32 = 6;

fn setting(now: Timestamp) -> Setting {
    // The test asks for the archive's work itself: it reads everything before anything is pruned.
    let settings = vec![
        ("archive.interval_seconds", 3600.into()),
        ("archive.sealing.segment_bytes", (128 << 10).into()),
        ("archive.sealing.cache_bytes", (256 << 10).into()),
    ];
    Setting { now, window_months: WINDOW_MONTHS, settings }
}

/// Ten months of history in home's log, with one stream that ends in the first.
async fn appended(pair: &Pair, start: Timestamp, early: &StreamName) -> Truth {
    let mut history = History::new(seed(), STREAMS);
    for month in (0..MONTHS).map(|n| start.months_after(n).expect("a month")) {
        pair.move_to(month.months_after(1).expect("a month")).await;
        append(&pair.log, history.month(month, EVENTS_A_MONTH)).await;
        if month == start {
            append(&pair.log, (0..3).map(|_| history.on(early, ExpectedVersion::Any)).collect()).await;
        }
    }
    let mut truth = Truth::default();
    truth.learn(&pair.log).await;
    truth
}

/// Prunes both regions until the window alone is live; returns the newest position that is out.
async fn prune(pair: &Pair) -> u64 {
    for region in [&pair.home, &pair.dr] {
        until("only the window is live", async || {
            let waiting = Api::of(region).run().await.waiting;
            let live = Api::of(region).archive().await.partitions.len();
            (waiting.is_none() && live <= usize::try_from(WINDOW_MONTHS + 1).expect("few")).then_some(())
        })
        .await;
    }
    let pruned = [Api::of(&pair.home).status().await.pruned, Api::of(&pair.dr).status().await.pruned];
    assert_eq!(pruned[0], pruned[1], "both regions keep the same window");
    number(&pruned[0])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_and_streams_read_the_same_before_and_after_pruning_in_both_regions() {
    let start = at("2025-01-01T00:00:00Z");
    let early = StreamName::parse("thing-that ends early").expect("a name");
    let mut pair = Pair::set_up(&setting(start)).await;
    let mut truth = appended(&pair, start, &early).await;
    pair.home.serve().await.expect("home serves");
    pair.dr.serve().await.expect("dr serves");
    let head = truth.head();
    let dr = Api::of(&pair.dr);
    until("dr has everything", async || (number(&dr.status().await.head) == head.get()).then_some(())).await;

    for region in [&pair.home, &pair.dr] {
        assert_eq!(Api::of(region).status().await.pruned, "0", "all is live in {}", region.name);
        truth.is_the_log_of(region).await;
        truth.are_the_streams_of(region).await;
        filters_find_the_same(region, &truth, start).await;
    }
    let pruned = prune(&pair).await;
    assert!((1..head.get()).contains(&pruned), "{pruned} of {head} are archived only");
    for region in [&pair.home, &pair.dr] {
        assert_eq!(is_whole(region, head).await.0, pruned);
        truth.is_the_log_of(region).await;
        truth.are_the_streams_of(region).await;
        let backward = Api::of(region).get("/v1/log", &[("direction", "backward")]).await;
        assert!(backward.is(&truth.backward()), "{}: backward, too", region.name);
        filters_find_the_same(region, &truth, start).await;
    }

    goes_on_where_it_ended(&pair, &early).await;
    truth.learn(&pair.log).await;
    let head = truth.head();
    until("dr has that, too", async || (number(&dr.status().await.head) == head.get()).then_some(())).await;
    for region in [&pair.home, &pair.dr] {
        is_whole(region, head).await;
        truth.is_the_log_of(region).await;
        truth.are_the_streams_of(region).await;
    }
    pair.end().await;
}

/// What filters find, page by page, is what they match among all that was appended, wherever it is by now.
async fn filters_find_the_same(region: &Region, truth: &Truth, start: Timestamp) {
    let all = truth.lines(1, truth.head().get()).split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let all: Vec<_> = all.map(|line| record::read(line).expect("a record")).collect();
    let month = |number| start.months_after(number).expect("a month");
    let some = || Filter::default().category("thing").expect("a filter");
    let filters = [
        some().recorded_from(month(2)).recorded_before(month(5)),
        some().stream_prefix("thing-that").expect("a filter"),
        some().stream_prefix("thing-1").expect("a filter").recorded_from(month(3)),
        some().event_type("never").expect("a filter"),
    ];
    let client = Client::new(Settings::new(&region.url, &region.tokens.auditor)).expect("a client");
    for filter in filters {
        let wanted: Vec<_> = all.iter().filter(|record| filter.matches(record)).collect();
        let mut records = client.log_matching(From::Start, filter.clone());
        let mut found = Vec::new();
        while let Some(record) = records.next().await.expect("it goes on") {
            found.push(record);
        }
        let token = records.token().expect("all was looked at");
        assert!(found.iter().eq(wanted), "{}: {filter:?} finds {}", region.name, found.len());
        assert_eq!(token.position.as_head(), truth.head(), "{filter:?}: nobody has to look at that again");
    }
}

/// LOG-3: not one of its rows is live, and its version is known all the same. LOG-4: nor is a retry stored again.
async fn goes_on_where_it_ended(pair: &Pair, stream: &StreamName) {
    let home = Api::of(&pair.home);
    for wrong in ["none", "2", "4"] {
        let (status, problem) = home.append(stream, "wrong", wrong).await;
        assert_eq!((status, problem["actual"].as_str()), (409, Some("3")), "expected {wrong}: {problem}");
    }
    for (id, right, version) in [("first", "3", "4"), ("second", "exists", "5"), ("third", "any", "6")] {
        for status in [201, 200] {
            let (answered, appended) = home.append(stream, id, right).await;
            let place = (answered, appended["events"][0]["version"].as_str());
            assert_eq!(place, (status, Some(version)), "expected {right}: {appended}");
        }
    }
}
