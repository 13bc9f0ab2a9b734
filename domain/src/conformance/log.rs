//! What every log does, whatever it is made of (LOG-1 to LOG-4).

use std::future::Future;

use async_trait::async_trait;

use super::search;
use crate::append::{AppendError, AppendRequest, Appended, ConsumerCheckpoint, Expectation, ExpectedVersion};
use crate::event::{Data, NewEvent, TOMBSTONE_TYPE};
use crate::filter::Filter;
use crate::log::{Direction, EventLog};
use crate::record::{Lines, Record};
use crate::{ErrorKind, Head, Position, StreamName, StreamVersion, Timestamp};

/// An event of `stream` with `id` and a small payload.
#[must_use]
pub fn event(stream: &str, id: &str) -> NewEvent {
    NewEvent {
        id: id.into(),
        source: "/conformance".into(),
        event_type: "thing.happened".into(),
        stream: name(stream),
        time: Some("2026-05-01T10:00:00.5+02:00".into()),
        event_version: None,
        data_schema: None,
        data_content_type: Some("application/json".into()),
        extensions: Vec::new(),
        data: Data::Json(format!(r#"{{"id":"{id}","number":1.0}}"#)),
    }
}

/// A request of `events` with what is expected of streams.
#[must_use]
pub fn request(events: &[(&str, &str)], expect: &[(&str, ExpectedVersion)]) -> AppendRequest {
    AppendRequest {
        events: events.iter().map(|(stream, id)| event(stream, id)).collect(),
        expect: expect
            .iter()
            .map(|(stream, version)| Expectation { stream: name(stream), version: *version })
            .collect(),
        ..AppendRequest::default()
    }
}

/// `ExpectedVersion::Exactly(version)`.
#[must_use]
pub fn exactly(version: u64) -> ExpectedVersion {
    ExpectedVersion::Exactly(at_version(version))
}

fn name(text: &str) -> StreamName {
    StreamName::parse(text).expect("a stream's name")
}

fn at_version(version: u64) -> StreamVersion {
    StreamVersion::new(version).expect("from 1")
}

fn position(number: u64) -> Position {
    Position::new(number).expect("from 1")
}

fn places(appended: &Appended) -> Vec<(u64, u64)> {
    appended.events.iter().map(|event| (event.position.get(), event.version.get())).collect()
}

async fn append(log: &impl EventLog, events: &[(&str, &str)], expect: &[(&str, ExpectedVersion)]) -> Appended {
    log.append(request(events, expect)).await.expect("acknowledged")
}

async fn refuse(log: &impl EventLog, request: AppendRequest) -> AppendError {
    let before = log.log_head().await.expect("readable").head;
    let error = log.append(request).await.expect_err("refused");
    assert_eq!(log.log_head().await.expect("readable").head, before, "what is refused stores nothing");
    error
}

/// Runs the whole suite; `make` gives an empty, active log each time.
///
/// # Panics
/// Where the log does not keep the contract; the case's name is printed before it runs.
pub async fn run<L: EventLog, F: Future<Output = L>>(make: impl Fn() -> F) {
    macro_rules! cases {
        ($($case:ident),* $(,)?) => {$(
            println!("log conformance: {}", stringify!($case));
            $case(&make().await).await;
        )*};
    }
    cases!(
        positions_and_versions_are_dense_from_one,
        recordedat_never_decreases,
        an_expected_version_is_honoured,
        a_request_over_many_streams_is_atomic,
        a_check_on_a_stream_that_is_not_written_counts,
        a_retry_gets_the_first_positions_in_every_mode,
        a_known_id_with_other_content_is_refused,
        a_request_only_partly_known_is_refused,
        a_tombstone_closes_a_stream_for_good,
        a_consumer_checkpoint_moves_with_its_events,
        reads_go_both_ways,
        a_search_finds_what_matches_among_what_is_read,
        a_record_reads_the_same_each_time,
        a_bad_request_is_refused_before_anything_else,
        events_are_found_by_source_and_id,
        the_head_as_of_an_instant_counts_what_was_recorded_by_then,
        concurrent_appends_are_all_stored_once,
    );
}

/// A log with an archive behind it.
#[async_trait]
pub trait Prunable: Send + Sync {
    /// What it is.
    type Log: EventLog;

    /// The log.
    fn log(&self) -> &Self::Log;

    /// Takes all events that there are out of the live log; from then on the archive has them.
    async fn prune(&self);
}

/// Runs what holds of retries after their events were pruned (LOG-4); `make` gives an empty, active log each time.
///
/// # Panics
/// Where the log does not keep the contract; the case's name is printed before it runs.
pub async fn run_pruned<P: Prunable, F: Future<Output = P>>(make: impl Fn() -> F) {
    macro_rules! cases {
        ($($case:ident),* $(,)?) => {$(
            println!("log conformance: {}", stringify!($case));
            $case(&make().await).await;
        )*};
    }
    cases!(
        a_retry_that_named_a_version_is_known_for_ever,
        a_retry_that_named_only_a_stream_it_checks_is_known_for_ever,
        an_archived_request_gets_its_first_positions_also_where_its_ids_came_again,
        an_archived_request_that_named_no_version_is_known_by_its_live_ids_only,
    );
}

async fn is_replayed(log: &impl EventLog, (request, first): &(AppendRequest, Appended)) {
    let head = log.log_head().await.expect("readable").head;
    let again = log.append(request.clone()).await.expect("a retry is acknowledged");
    assert!(again.replayed, "{request:?}");
    assert_eq!(again.events, first.events);
    assert_eq!(log.log_head().await.expect("readable").head, head, "a retry stores nothing");
}

async fn stored(log: &impl EventLog, request: AppendRequest) -> (AppendRequest, Appended) {
    let appended = log.append(request.clone()).await.expect("acknowledged");
    assert!(!appended.replayed);
    (request, appended)
}

async fn a_retry_that_named_a_version_is_known_for_ever(rig: &impl Prunable) {
    let log = rig.log();
    let none = ExpectedVersion::NoStream;
    let mut made = Vec::new();
    for request in [
        request(&[("a-1", "1"), ("a-1", "2")], &[("a-1", none)]),
        request(&[("a-1", "3")], &[("a-1", exactly(2))]),
        // The stream whose version is named comes second: its request begins before it.
        request(&[("a-any", "4"), ("a-2", "5"), ("a-2", "6")], &[("a-2", none), ("a-any", ExpectedVersion::Any)]),
    ] {
        made.push(stored(log, request).await);
    }
    rig.prune().await;
    append(log, &[("a-1", "later")], &[]).await;
    for retry in &made {
        is_replayed(log, retry).await;
        let mut other = retry.0.clone();
        other.events[0].data = Data::Json("{}".into());
        let error = refuse(log, other).await;
        assert!(matches!(error, AppendError::IdTaken { .. }), "{error}");
    }
}

async fn a_retry_that_named_only_a_stream_it_checks_is_known_for_ever(rig: &impl Prunable) {
    let log = rig.log();
    append(log, &[("a-checked", "1")], &[]).await;
    let mut made = Vec::new();
    for request in [
        request(&[("a-1", "2"), ("b-1", "3")], &[("a-checked", exactly(1))]),
        request(&[("a-1", "4")], &[("a-absent", ExpectedVersion::NoStream), ("a-1", ExpectedVersion::StreamExists)]),
    ] {
        made.push(stored(log, request).await);
    }
    rig.prune().await;
    // In the second round what was checked has moved on, and all of it is archived once more.
    for round in ["5", "6"] {
        for retry in &made {
            is_replayed(log, retry).await;
            // Its ids are known in every mode.
            let anyhow = AppendRequest { expect: Vec::new(), ..retry.0.clone() };
            is_replayed(log, &(anyhow.clone(), retry.1.clone())).await;
            let mut other = anyhow.clone();
            other.events[0].data = Data::Json("{}".into());
            let error = refuse(log, other).await;
            assert!(matches!(error, AppendError::IdTaken { .. }), "{error}");
            let mut longer = anyhow;
            longer.events.push(event("a-1", "new"));
            let error = refuse(log, longer).await;
            assert!(matches!(error, AppendError::PartlyKnown { .. }), "{error}");
        }
        append(log, &[("a-checked", round), ("a-absent", &format!("{round}/absent"))], &[]).await;
        rig.prune().await;
    }
}

async fn an_archived_request_gets_its_first_positions_also_where_its_ids_came_again(rig: &impl Prunable) {
    let log = rig.log();
    let none = ExpectedVersion::NoStream;
    let alone = stored(log, request(&[("a-1", "1")], &[("a-1", none)])).await;
    let two = stored(log, request(&[("a-2", "2"), ("a-2", "3")], &[("a-2", none)])).await;
    rig.prune().await;
    // Other requests, which name no version: to them the ids mean nothing any more.
    let later = stored(log, request(&[("a-1", "1")], &[])).await;
    stored(log, request(&[("b-1", "3")], &[])).await;
    is_replayed(log, &alone).await;
    is_replayed(log, &two).await;
    is_replayed(log, &later).await;
}

async fn an_archived_request_that_named_no_version_is_known_by_its_live_ids_only(rig: &impl Prunable) {
    let log = rig.log();
    let two = stored(log, request(&[("a-1", "1"), ("a-1", "2")], &[])).await;
    rig.prune().await;
    stored(log, request(&[("a-1", "2")], &[])).await;
    let error = refuse(log, two.0.clone()).await;
    assert!(matches!(error, AppendError::PartlyKnown { known: 1, total: 2, .. }), "{error}");
    rig.prune().await;
    // Nothing of it is live: it is another request, stored as such.
    is_replayed(log, &stored(log, two.0).await).await;
}

async fn positions_and_versions_are_dense_from_one(log: &impl EventLog) {
    assert_eq!(log.log_head().await.expect("readable").head, Head::EMPTY);
    let first = append(log, &[("a-1", "1"), ("a-2", "2"), ("a-1", "3")], &[]).await;
    assert_eq!(places(&first), [(1, 1), (2, 1), (3, 2)]);
    assert!(!first.replayed);
    let second = append(log, &[("a-2", "4")], &[]).await;
    assert_eq!(places(&second), [(4, 2)]);
    let records = log.read_log(Position::FIRST, Direction::Forward, 10).await.expect("readable");
    let seen: Vec<u64> = records.iter().map(|record| record.position().get()).collect();
    assert_eq!(seen, [1, 2, 3, 4]);
    let Record::Event(third) = &records[2] else { panic!("an event") };
    assert_eq!(third.previous, Some(Position::FIRST), "the back link walks the stream");
    let Record::Event(fourth) = &records[3] else { panic!("an event") };
    assert_eq!(fourth.previous, Some(position(2)));
}

async fn recordedat_never_decreases(log: &impl EventLog) {
    let given = |id: &str, at: &str| AppendRequest {
        recorded_at: Some(Timestamp::parse_rfc3339(at).expect("an instant")),
        ..request(&[("a-1", id)], &[])
    };
    let created = log.log_head().await.expect("readable").recorded_at;
    let early = log.append(given("1", "0001-01-01T00:00:00Z")).await.expect("acknowledged");
    assert!(early.events[0].recorded_at >= created, "raised to the head's");
    let late = log.append(given("2", "9999-01-01T00:00:00Z")).await.expect("acknowledged");
    assert!(late.events[0].recorded_at.year_month().0 < 9999, "lowered to the clock's");
    assert!(late.events[0].recorded_at >= early.events[0].recorded_at);
    let clock = append(log, &[("a-1", "3")], &[]).await;
    assert!(clock.events[0].recorded_at >= late.events[0].recorded_at);
}

async fn an_expected_version_is_honoured(log: &impl EventLog) {
    append(log, &[("a-1", "1")], &[("a-1", ExpectedVersion::NoStream)]).await;
    append(log, &[("a-1", "2")], &[("a-1", exactly(1))]).await;
    append(log, &[("a-1", "3")], &[("a-1", ExpectedVersion::StreamExists)]).await;
    append(log, &[("a-1", "4")], &[("a-1", ExpectedVersion::Any)]).await;
    for wrong in [exactly(1), exactly(5), ExpectedVersion::NoStream] {
        let error = refuse(log, request(&[("a-1", "new")], &[("a-1", wrong)])).await;
        assert_eq!(error.kind(), ErrorKind::Conflict);
        let AppendError::WrongVersion { actual, .. } = error else { panic!("{error}") };
        assert_eq!(actual, Some(at_version(4)));
    }
    let error = refuse(log, request(&[("a-9", "new")], &[("a-9", ExpectedVersion::StreamExists)])).await;
    assert!(matches!(error, AppendError::WrongVersion { actual: None, .. }), "{error}");
}

async fn a_request_over_many_streams_is_atomic(log: &impl EventLog) {
    append(log, &[("a-1", "1")], &[]).await;
    let half_wrong = request(&[("a-1", "2"), ("a-2", "3")], &[("a-1", exactly(1)), ("a-2", exactly(1))]);
    refuse(log, half_wrong).await;
    let expect = [("a-1", exactly(1)), ("a-2", ExpectedVersion::NoStream)];
    let right = append(log, &[("a-1", "2"), ("a-2", "3"), ("a-1", "4")], &expect).await;
    assert_eq!(places(&right), [(2, 2), (3, 1), (4, 3)]);
}

async fn a_check_on_a_stream_that_is_not_written_counts(log: &impl EventLog) {
    append(log, &[("a-1", "1")], &[]).await;
    refuse(log, request(&[("a-2", "2")], &[("a-1", exactly(2))])).await;
    append(log, &[("a-2", "2")], &[("a-1", exactly(1))]).await;
}

async fn a_retry_gets_the_first_positions_in_every_mode(log: &impl EventLog) {
    let modes = [
        ("a-any", vec![]),
        ("a-none", vec![("a-none", ExpectedVersion::NoStream)]),
        ("a-checked", vec![("a-none", ExpectedVersion::StreamExists)]),
    ];
    let mut first = Vec::new();
    for (stream, expect) in &modes {
        let ids = [format!("{stream}/1"), format!("{stream}/2")];
        let events = [(*stream, ids[0].as_str()), (*stream, ids[1].as_str())];
        first.push((request(&events, expect), append(log, &events, expect).await));
    }
    let exact = request(&[("a-any", "x")], &[("a-any", exactly(2))]);
    first.push((exact.clone(), log.append(exact).await.expect("acknowledged")));
    append(log, &[("a-any", "later")], &[]).await;
    let head = log.log_head().await.expect("readable").head;
    for (request, answer) in first {
        let again = log.append(request).await.expect("a retry is acknowledged");
        assert!(again.replayed);
        assert_eq!(again.events, answer.events);
    }
    assert_eq!(log.log_head().await.expect("readable").head, head, "a retry stores nothing");
}

async fn a_known_id_with_other_content_is_refused(log: &impl EventLog) {
    append(log, &[("a-1", "1")], &[]).await;
    let mut other = request(&[("a-1", "1")], &[]);
    other.events[0].data = Data::Json("{}".into());
    let error = refuse(log, other).await;
    assert!(matches!(error, AppendError::IdTaken { .. }), "{error}");
    let elsewhere = refuse(log, request(&[("a-2", "1")], &[])).await;
    assert_eq!(elsewhere.kind(), ErrorKind::Conflict, "another stream is other content");
}

async fn a_request_only_partly_known_is_refused(log: &impl EventLog) {
    append(log, &[("a-1", "1"), ("a-1", "2")], &[]).await;
    let error = refuse(log, request(&[("a-1", "2"), ("a-1", "3")], &[])).await;
    assert!(matches!(error, AppendError::PartlyKnown { known: 1, total: 2, .. }), "{error}");
    append(log, &[("a-1", "3")], &[]).await;
}

async fn a_tombstone_closes_a_stream_for_good(log: &impl EventLog) {
    append(log, &[("a-1", "1")], &[]).await;
    let mut tombstone = request(&[("a-1", "2")], &[]);
    tombstone.events[0].event_type = TOMBSTONE_TYPE.into();
    log.append(tombstone.clone()).await.expect("acknowledged");
    let error = refuse(log, request(&[("a-1", "3")], &[])).await;
    assert!(matches!(error, AppendError::StreamClosed { .. }), "{error}");
    assert!(log.append(tombstone).await.expect("a retry is acknowledged").replayed);
    assert!(log.stream_head(&name("a-1")).await.expect("readable").expect("known").closed);
}

async fn a_consumer_checkpoint_moves_with_its_events(log: &impl EventLog) {
    let moved = |id: &str, from, to| AppendRequest {
        checkpoint: Some(ConsumerCheckpoint { consumer: "importer".into(), from, to }),
        ..request(&[("a-1", id)], &[])
    };
    log.append(moved("1", 0, 7)).await.expect("acknowledged");
    let error = refuse(log, moved("2", 0, 9)).await;
    assert!(matches!(error, AppendError::CheckpointMoved { actual: 7, .. }), "{error}");
    assert_eq!(log.consumer_checkpoint("importer").await.expect("readable"), 7);
    log.append(moved("2", 7, 9)).await.expect("acknowledged");
    assert_eq!(log.consumer_checkpoint("importer").await.expect("readable"), 9);
    assert_eq!(log.consumer_checkpoint("nobody").await.expect("readable"), 0);
}

async fn reads_go_both_ways(log: &impl EventLog) {
    for i in 1..=9 {
        append(log, &[(if i % 3 == 0 { "a-third" } else { "b-rest" }, &i.to_string())], &[]).await;
    }
    let positions = |records: Vec<Record>| records.iter().map(|r| r.position().get()).collect::<Vec<u64>>();
    let forward = log.read_log(position(4), Direction::Forward, 3).await.expect("readable");
    assert_eq!(positions(forward), [4, 5, 6]);
    let backward = log.read_log(position(4), Direction::Backward, 9).await.expect("readable");
    assert_eq!(positions(backward), [4, 3, 2, 1]);
    assert!(log.read_log(position(10), Direction::Forward, 9).await.expect("readable").is_empty());
    let lines = log.read_lines(position(4), 3).await.expect("readable");
    assert_eq!(lines, Lines::of(&log.read_log(position(4), Direction::Forward, 3).await.expect("readable")));
    assert_eq!((lines.count(), lines.last()), (3, Some(position(6))));
    assert_eq!(log.read_lines(position(10), 9).await.expect("readable"), Lines::default());
    let stream = name("a-third");
    let read = log.read_stream(&stream, at_version(2), Direction::Forward, 9).await.expect("readable");
    assert_eq!(positions(read), [6, 9]);
    let read = log.read_stream(&stream, at_version(2), Direction::Backward, 9).await.expect("readable");
    assert_eq!(positions(read), [6, 3]);
    let none = log.read_stream(&name("a-none"), StreamVersion::FIRST, Direction::Forward, 9).await.expect("readable");
    assert!(none.is_empty());
    let head = log.stream_head(&stream).await.expect("readable").expect("known");
    assert_eq!((head.version.get(), head.position.get(), head.first.get()), (3, 9, 3));
    let streams = log.streams("a", None, 9).await.expect("readable");
    assert_eq!(streams.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["a-third"]);
    assert!(log.streams("a", Some(&stream), 9).await.expect("readable").is_empty());
}

async fn a_search_finds_what_matches_among_what_is_read(log: &impl EventLog) {
    search::agrees(log, &Filter::default()).await;
    // What a pattern or another alphabet could make something else of is compared byte by byte.
    for (number, stream) in ["a-1", "b-%_", "a-10", "b-1", "a-ü\\", "a_b-1", "a-1"].iter().enumerate() {
        let mut request = request(&[(stream, &number.to_string())], &[]);
        request.events[0].event_type = ["thing.made", "thing%", "thing.unmade"][number % 3].into();
        log.append(request).await.expect("acknowledged");
    }
    let at = log.log_head().await.expect("readable").recorded_at;
    let all = Filter::default;
    let filters = [
        Ok(all()),
        all().category("a"),
        all().category("none"),
        all().event_type("thing%"),
        all().event_type("thing.made").and_then(|filter| filter.event_type("thing.unmade")),
        all().stream_prefix("a-1"),
        all().stream_prefix("b-%").and_then(|filter| filter.stream_prefix("a-ü\\")),
        all().stream_prefix("a").and_then(|filter| filter.category("a_b")),
        all().category("a").and_then(|filter| filter.event_type("thing.made")).map(|filter| filter.recorded_from(at)),
        Ok(all().recorded_before(at)),
    ];
    for filter in filters {
        search::agrees(log, &filter.expect("a filter")).await;
    }
}

async fn a_record_reads_the_same_each_time(log: &impl EventLog) {
    let mut odd = request(&[("a-ü/ \"\\", "é\"\\")], &[]);
    odd.events[0].data = Data::Json(r#"{"a":1.0,"b":-0,"c":1e400,"d":"\u00e9é\u2028"}"#.into());
    odd.events[0].event_version = Some("1.0".into());
    odd.events[0].data_schema = Some("https://example.org/schema".into());
    log.append(odd.clone()).await.expect("acknowledged");
    let mut bare = request(&[("a-bare", "bare")], &[]);
    bare.events[0].data = Data::Absent;
    (bare.events[0].time, bare.events[0].data_content_type) = (None, None);
    log.append(bare.clone()).await.expect("acknowledged");
    let mut binary = request(&[("a-binary", "binary")], &[]);
    binary.events[0].data = Data::Base64("AAEC".into());
    log.append(binary.clone()).await.expect("acknowledged");
    let records = log.read_log(Position::FIRST, Direction::Forward, 9).await.expect("readable");
    for (record, sent) in records.iter().zip([odd, bare, binary]) {
        let Record::Event(event) = record else { panic!("an event") };
        assert_eq!(event.event, sent.events[0]);
        let line = record.to_line();
        assert_eq!(crate::record::read(&line).expect("our own line").to_line(), line);
        let read = log.read_stream(record.stream(), StreamVersion::FIRST, Direction::Forward, 1).await;
        assert_eq!(read.expect("readable")[0].to_line(), line);
    }
}

async fn a_bad_request_is_refused_before_anything_else(log: &impl EventLog) {
    let empty = refuse(log, AppendRequest::default()).await;
    assert_eq!(empty.kind(), ErrorKind::Invalid);
    let twice = refuse(log, request(&[("a-1", "1"), ("a-1", "1")], &[])).await;
    assert_eq!(twice.kind(), ErrorKind::Invalid);
    let both = [("a-1", exactly(1)), ("a-1", ExpectedVersion::Any)];
    assert_eq!(refuse(log, request(&[("a-1", "1")], &both)).await.kind(), ErrorKind::Invalid);
}

async fn events_are_found_by_source_and_id(log: &impl EventLog) {
    append(log, &[("a-1", "1"), ("a-1", "2")], &[]).await;
    assert_eq!(log.find_event("/conformance", "2").await.expect("readable"), Some(position(2)));
    assert_eq!(log.find_event("/conformance", "3").await.expect("readable"), None);
    assert_eq!(log.find_event("/other", "2").await.expect("readable"), None);
}

async fn the_head_as_of_an_instant_counts_what_was_recorded_by_then(log: &impl EventLog) {
    append(log, &[("a-1", "1")], &[]).await;
    let second = append(log, &[("a-1", "2")], &[]).await;
    let at = second.events[0].recorded_at;
    let before = Timestamp::parse_rfc3339("0001-01-01T00:00:00Z").expect("an instant");
    assert_eq!(log.head_as_of(before).await.expect("readable"), Head::EMPTY);
    assert_eq!(log.head_as_of(at).await.expect("readable"), position(2).as_head());
}

async fn concurrent_appends_are_all_stored_once(log: &impl EventLog) {
    let ids: Vec<String> = (0..64).map(|i| i.to_string()).collect();
    let all = ids.iter().map(|id| log.append(request(&[("a-1", id)], &[])));
    let mut taken: Vec<(u64, u64)> = Vec::new();
    for appended in futures::future::join_all(all).await {
        taken.extend(places(&appended.expect("acknowledged")));
    }
    taken.sort_unstable();
    let dense: Vec<(u64, u64)> = (1..=64).map(|i| (i, i)).collect();
    assert_eq!(taken, dense, "positions and versions are dense");
}
