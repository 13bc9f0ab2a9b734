//! Imports into the log in memory.

use std::io::Write;
use std::sync::Mutex;

use async_trait::async_trait;
use domain::append::{AppendRequest, Role};
use domain::event::NewEvent;
use domain::log::{Direction, FollowerLog, LogReader};
use domain::record::{Record, RecordedEvent};
use domain::tiered::TieredLog;
use domain::twin::{Between, Interposed, MemoryLog};
use domain::{Epoch, FixedClock, Position, Timestamp};

use super::*;

struct Quiet(Mutex<Vec<u64>>);

impl Progress for Quiet {
    fn surveyed(&self, _all: u64, _done: u64) {}
    fn done(&self, done: u64) {
        self.0.lock().expect("not poisoned").push(done);
    }
}

/// A clock that a test moves, and that says how often it was.
struct MovedClock(Mutex<Vec<Timestamp>>);

#[async_trait]
impl SimulatedClock for MovedClock {
    async fn move_to(&self, now: Timestamp) -> Result<(), ClockError> {
        self.0.lock().expect("not poisoned").push(now);
        Ok(())
    }
}

#[async_trait]
impl Clock for MovedClock {
    async fn now(&self) -> Result<Timestamp, ClockError> {
        let moved = self.0.lock().expect("not poisoned").last().copied();
        Ok(moved.unwrap_or_else(|| at("2000-01-01T00:00:00Z")))
    }
}

fn at(text: &str) -> Timestamp {
    Timestamp::parse_rfc3339(text).expect("an instant")
}

fn now() -> Timestamp {
    at("2026-05-01T08:00:00Z")
}

fn line(id: u32, change: &str, time: &str) -> String {
    format!(
        r#"{{"specversion":"1.0","id":"h:{id}","source":"/h","type":"content.created","subject":"f/{id}","time":"{time}","data":{{"change":"{change}"}}}}"#
    )
}

fn file(lines: &[String]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(lines.join("\n").as_bytes()).expect("written");
    file
}

fn log() -> Arc<MemoryLog> {
    Arc::new(MemoryLog::new(Arc::new(FixedClock(now())), at("2000-01-01T00:00:00Z"), Role::Active))
}

fn import(log: &Arc<MemoryLog>, file: &tempfile::NamedTempFile, recorded_at: RecordedAt) -> Import {
    let clock = Arc::new(FixedClock(now()));
    let file = file.path().to_owned();
    Import { log: log.clone(), reader: log.clone(), simulated: None, clock, file, recorded_at }
}

async fn run(import: &Import) -> Result<ImportReport, ImportError> {
    import.run(&Quiet(Mutex::default())).await
}

async fn events(log: &MemoryLog) -> Vec<RecordedEvent> {
    let records = log.read_log(Position::FIRST, Direction::Forward, 10_000).await.expect("records");
    let event = |record| match record {
        Record::Event(event) => *event,
        Record::Removed(_) => panic!("nothing was removed"),
    };
    records.into_iter().map(event).collect()
}

fn history() -> Vec<String> {
    vec![
        line(1, "a", "2020-01-01T00:00:00+01:00"),
        line(2, "a", "2020-01-01T00:00:00+01:00"),
        line(3, "b", "2019-06-01T00:00:00Z"),
        line(4, "c", "2020-02-01T00:00:00Z"),
    ]
}

#[tokio::test]
async fn a_history_comes_in_once_in_its_order_behind_an_event_that_says_so() {
    let (log, file) = (log(), file(&history()));
    let report = run(&import(&log, &file, RecordedAt::Source)).await.expect("imported");
    assert_eq!((report.events, report.appends, report.lines), (4, 3, 4));
    let events = events(&log).await;
    let opening = &events[0];
    assert_eq!(opening.event.event_type, "coldstream.import.started");
    assert_eq!(opening.event.stream.as_str(), format!("import-{}", &report.sha256[..16]));
    let domain::event::Data::Json(data) = &opening.event.data else { panic!("it has data") };
    assert!(data.contains(&report.sha256) && data.contains("2026-05-01T08:00:00.000000Z"), "{data}");
    let places: Vec<_> = events[1..].iter().map(|e| (e.event.stream.as_str(), e.event.time.as_deref())).collect();
    assert_eq!(places[0], ("content-f/1", Some("2020-01-01T00:00:00+01:00")));
    assert_eq!(places[2], ("content-f/3", Some("2019-06-01T00:00:00Z")));
    // From the source, and raised where the source went back.
    let recorded: Vec<_> = events.iter().map(|event| event.recorded_at).collect();
    let (first, last) = (at("2019-12-31T23:00:00Z"), at("2020-02-01T00:00:00Z"));
    assert_eq!(recorded, [first, first, first, first, last]);
}

#[tokio::test]
async fn a_second_run_imports_nothing() {
    let (log, file) = (log(), file(&history()));
    run(&import(&log, &file, RecordedAt::Source)).await.expect("imported");
    let again = run(&import(&log, &file, RecordedAt::Source)).await.expect("nothing to do");
    assert_eq!((again.lines_before, again.events, again.appends), (4, 0, 0));
    assert_eq!(events(&log).await.len(), 5);
}

#[tokio::test]
async fn a_killed_import_goes_on_where_its_checkpoint_stands() {
    let (log, file) = (log(), file(&history()));
    let first = import(&log, &file, RecordedAt::Source);
    let survey = first.survey().await.expect("valid");
    first.open(&survey).await.expect("opened");
    let consumer = opening::consumer(&survey.file.sha256);
    let stored: Vec<NewEvent> = history()[..2]
        .iter()
        .map(|line| {
            NewEvent::from_cloudevent_with(line.as_bytes(), |id| domain::StreamName::of("content", id)).expect("valid")
        })
        .collect();
    let checkpoint = Some(domain::append::ConsumerCheckpoint { consumer, from: 0, to: 2 });
    let request = AppendRequest { events: stored, checkpoint, ..AppendRequest::default() };
    log.append(request).await.expect("stored before the kill");

    let report = run(&first).await.expect("goes on");
    assert_eq!((report.lines_before, report.events), (2, 2));
    assert_eq!(events(&log).await.len(), 5, "one opening, four lines");
}

#[tokio::test]
async fn a_bad_line_is_named_and_nothing_is_stored() {
    let mut lines = history();
    lines[2] = lines[2].replace("\"source\":\"/h\",", "");
    let log = log();
    let error = run(&import(&log, &file(&lines), RecordedAt::Clock)).await.expect_err("refused");
    assert_eq!(error.to_string(), "line 3: \"source\" is missing");
    assert_eq!(events(&log).await, []);
}

#[tokio::test]
async fn a_group_that_the_log_refuses_is_named_and_nothing_of_it_or_after_it_is_stored() {
    let mut lines = history();
    // The id of line 1 with other content, in the group of line 4.
    lines.push(line(4, "c", "2020-02-01T00:00:00Z").replace("h:4", "h:1"));
    let log = log();
    let error = run(&import(&log, &file(&lines), RecordedAt::Clock)).await.expect_err("refused");
    assert!(matches!(error, ImportError::Refused { first_line: 4, last_line: 5, .. }), "{error}");
    assert_eq!(events(&log).await.len(), 4, "the opening and lines 1 to 3");
}

#[tokio::test]
async fn a_longer_file_of_the_same_history_adds_what_is_new() {
    let log = log();
    run(&import(&log, &file(&history()[..3]), RecordedAt::Clock)).await.expect("imported");
    let report = run(&import(&log, &file(&history()), RecordedAt::Clock)).await.expect("imported");
    assert_eq!((report.events, report.events_replayed), (1, 3));
}

#[tokio::test]
async fn the_sources_times_are_recorded_only_in_a_log_without_content() {
    let log = log();
    run(&import(&log, &file(&history()[..3]), RecordedAt::Clock)).await.expect("imported");
    let error = run(&import(&log, &file(&history()), RecordedAt::Source)).await.expect_err("refused");
    assert!(matches!(&error, ImportError::NotEmpty { stream } if stream == "content-f/1"), "{error}");
}

#[tokio::test]
async fn a_simulated_clock_follows_the_history_and_stops_at_its_last_event() {
    let clock = Arc::new(MovedClock(Mutex::default()));
    let log = Arc::new(MemoryLog::new(clock.clone(), at("2000-01-01T00:00:00Z"), Role::Active));
    let file = file(&history());
    let import = Import { simulated: Some(clock.clone()), ..import(&log, &file, RecordedAt::Clock) };
    run(&import).await.expect("imported");
    let (first, last) = (at("2019-12-31T23:00:00Z"), at("2020-02-01T00:00:00Z"));
    let recorded: Vec<_> = events(&log).await.iter().map(|event| event.recorded_at).collect();
    assert_eq!(recorded, [first, first, first, first, last]);
    assert_eq!(clock.0.lock().expect("not poisoned").last(), Some(&last));
}

#[tokio::test]
async fn an_import_goes_on_as_it_began_or_not_at_all() {
    for (began, other) in [(RecordedAt::Source, RecordedAt::Clock), (RecordedAt::Clock, RecordedAt::Source)] {
        let (log, file) = (log(), file(&history()));
        let first = import(&log, &file, began);
        first.open(&first.survey().await.expect("valid")).await.expect("opened, and then killed");
        let error = run(&import(&log, &file, other)).await.expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Conflict);
        let says = format!("begun with recordedat from the {}, not from the {}", began.as_str(), other.as_str());
        assert!(error.to_string().contains(&says), "{error}");
        assert_eq!(run(&first).await.expect("goes on").events, 4);
        run(&import(&log, &file, other)).await.expect_err("also when it is done");
        assert_eq!(events(&log).await.len(), 5);
    }
}

/// Somebody else appends an event of `stream` at the moment when the import has just begun to send.
struct Overtaken {
    log: Arc<MemoryLog>,
    stream: &'static str,
    left: Mutex<u32>,
}

impl Overtaken {
    async fn appends(&self, nth: u32) {
        let line = line(100 + nth, "x", "2026-04-01T00:00:00Z");
        let event = NewEvent::from_cloudevent_with(line.as_bytes(), |_| domain::StreamName::parse(self.stream));
        let events = vec![event.expect("an event")];
        self.log.append(AppendRequest { events, ..AppendRequest::default() }).await.expect("appended");
    }
}

#[async_trait]
impl EventLog for Overtaken {
    async fn append(&self, request: AppendRequest) -> Result<domain::append::Appended, AppendError> {
        let first = request.checkpoint.as_ref().is_some_and(|checkpoint| checkpoint.from == 0);
        let nth = {
            let mut left = self.left.lock().expect("not poisoned");
            let nth = *left;
            *left -= u32::from(first && nth > 0);
            nth
        };
        if first && nth > 0 {
            self.appends(nth).await;
        }
        self.log.append(request).await
    }
    async fn consumer_checkpoint(&self, consumer: &str) -> Result<u64, ReadError> {
        self.log.consumer_checkpoint(consumer).await
    }
}

#[async_trait]
impl LogReader for Overtaken {
    async fn log_head(&self) -> Result<domain::append::LogHead, ReadError> {
        self.log.log_head().await
    }
    async fn read_log(&self, from: Position, way: Direction, limit: usize) -> Result<Vec<Record>, ReadError> {
        self.log.read_log(from, way, limit).await
    }
    async fn read_stream(
        &self,
        stream: &domain::StreamName,
        from: domain::StreamVersion,
        way: Direction,
        limit: usize,
    ) -> Result<Vec<Record>, ReadError> {
        self.log.read_stream(stream, from, way, limit).await
    }
    async fn stream_head(&self, stream: &domain::StreamName) -> Result<Option<domain::append::StreamHead>, ReadError> {
        self.log.stream_head(stream).await
    }
    async fn streams(
        &self,
        category: &str,
        after: Option<&domain::StreamName>,
        limit: usize,
    ) -> Result<Vec<(domain::StreamName, domain::append::StreamHead)>, ReadError> {
        self.log.streams(category, after, limit).await
    }
    async fn find_event(&self, source: &str, id: &str) -> Result<Option<Position>, ReadError> {
        self.log.find_event(source, id).await
    }
    async fn head_as_of(&self, at: Timestamp) -> Result<domain::Head, ReadError> {
        self.log.head_as_of(at).await
    }
    async fn wait_beyond(&self, seen: domain::Head) -> Result<domain::Head, ReadError> {
        self.log.wait_beyond(seen).await
    }
}

#[tokio::test(start_paused = true)]
async fn content_that_comes_between_the_look_and_the_first_group_ends_an_import_of_the_sources_times() {
    for (stream, recorded_at, stored) in [
        ("content-somebody", RecordedAt::Source, None),
        ("finding-1", RecordedAt::Source, Some(4)),
        ("content-somebody", RecordedAt::Clock, Some(4)),
    ] {
        let (log, file) = (log(), file(&history()));
        let overtaken = Arc::new(Overtaken { log: log.clone(), stream, left: Mutex::new(2) });
        let import = Import { log: overtaken, ..import(&log, &file, recorded_at) };
        let done = run(&import).await;
        match stored {
            Some(events) => assert_eq!(done.expect("imported").events, events, "{stream}"),
            None => {
                let error = done.expect_err("refused");
                assert!(matches!(&error, ImportError::NotEmpty { stream } if stream == "content-somebody"), "{error}");
                assert_eq!(events(&log).await.len(), 2, "the opening and somebody's: nothing of the file");
            }
        }
    }
}

/// Lets so many appends through and refuses all others, as a region that is replaced does.
struct EndsAfter(Mutex<u32>);

#[async_trait]
impl Between for EndsAfter {
    async fn append(
        &self,
        log: &dyn EventLog,
        request: AppendRequest,
    ) -> Result<domain::append::Appended, AppendError> {
        let left = {
            let mut left = self.0.lock().expect("not poisoned");
            let now = *left;
            *left = now.saturating_sub(1);
            now
        };
        if left == 0 {
            return Err(AppendError::Fenced { epoch: Epoch::FIRST, reason: "another region takes over".to_owned() });
        }
        log.append(request).await
    }
}

/// The log in another region, which has the first records of `home` and takes over. All of them are pruned then, if asked.
async fn taken_over(home: &MemoryLog, shipped: usize, pruned: bool) -> Arc<MemoryLog> {
    let records = home.read_log(Position::FIRST, Direction::Forward, shipped).await.expect("records");
    let dr = MemoryLog::new(Arc::new(FixedClock(now())), at("2000-01-01T00:00:00Z"), Role::Follower);
    let head = dr.apply_keeping(&records, &[]).await.expect("it follows");
    dr.change_role((Epoch::FIRST, Role::Follower), (Epoch::FIRST.next(), Role::Active)).await.expect("promoted");
    if pruned {
        dr.prune_to(head);
    }
    Arc::new(dr)
}

#[tokio::test]
async fn an_import_that_a_failover_cut_is_finished_by_the_other_region_whatever_that_has_of_it() {
    for recorded_at in [RecordedAt::Clock, RecordedAt::Source] {
        let (home, file) = (log(), file(&history()));
        let cut = Interposed { log: home.clone(), between: EndsAfter(Mutex::new(3)) };
        let error = run(&Import { log: Arc::new(cut), ..import(&home, &file, recorded_at) }).await.expect_err("cut");
        assert!(matches!(error, ImportError::Refused { first_line: 4, .. }), "{error}");
        assert_eq!(events(&home).await.len(), 4, "the opening and three lines");
        // Also none of it, the opening alone, and the first line of a change without the second.
        for (shipped, pruned) in (0..=4).flat_map(|shipped| [(shipped, false), (shipped, true)]) {
            let dr = taken_over(&home, shipped, pruned).await;
            let reader: Arc<dyn LogReader> = Arc::new(TieredLog::new(dr.clone(), dr.archive()));
            let line = line(100, "x", "2026-04-01T00:00:00Z");
            let others = NewEvent::from_cloudevent_with(line.as_bytes(), |_| domain::StreamName::parse("finding-1"));
            let events = vec![others.expect("an event")];
            dr.append(AppendRequest { events, ..AppendRequest::default() }).await.expect("a service goes on");

            let import = Import { reader: reader.clone(), ..import(&dr, &file, recorded_at) };
            let report = run(&import).await.unwrap_or_else(|error| panic!("{shipped} {pruned}: {error}"));
            let brought = u64::try_from(shipped).expect("small").saturating_sub(1);
            assert_eq!((report.events, report.events_replayed), (4 - brought, 0), "{shipped} {pruned}");
            let again = run(&import).await.expect("nothing to do");
            assert_eq!((again.lines_before, again.appends), (4, 0), "{shipped} {pruned}");
            let records = reader.read_log(Position::FIRST, Direction::Forward, 100).await.expect("records");
            let lines: Vec<&str> =
                records.iter().filter_map(|record| record.stream().as_str().strip_prefix("content-f/")).collect();
            assert_eq!(lines, ["1", "2", "3", "4"], "{shipped} {pruned}");
        }
    }
}

#[tokio::test]
async fn a_region_that_is_active_again_does_not_believe_its_old_checkpoint() {
    let (home, file) = (log(), file(&history()));
    let cut = Interposed { log: home.clone(), between: EndsAfter(Mutex::new(2)) };
    run(&Import { log: Arc::new(cut), ..import(&home, &file, RecordedAt::Clock) }).await.expect_err("cut");
    let dr = taken_over(&home, 3, false).await;
    run(&import(&dr, &file, RecordedAt::Clock)).await.expect("finished there");

    home.change_role((Epoch::FIRST, Role::Active), (Epoch::FIRST.next(), Role::Follower)).await.expect("it follows");
    let records = dr.read_log(Position::FIRST, Direction::Forward, 100).await.expect("records");
    let head = home.apply_keeping(&records, &[]).await.expect("it follows");
    let third = Epoch::FIRST.next().next();
    home.change_role((Epoch::FIRST.next(), Role::Follower), (third, Role::Active)).await.expect("promoted");
    home.prune_to(head);
    let reader = Arc::new(TieredLog::new(home.clone(), home.archive()));
    let report = run(&Import { reader, ..import(&home, &file, RecordedAt::Clock) }).await.expect("nothing to do");
    assert_eq!((report.lines_before, report.events, report.events_replayed), (4, 0, 0));
    assert_eq!(home.log_head().await.expect("readable").head, head);
}
