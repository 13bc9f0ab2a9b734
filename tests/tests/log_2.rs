//! LOG-2: positions are dense from 1 in commit order; `recordedat` never decreases with position.

mod log_common;

use std::sync::Arc;

use domain::append::AppendRequest;
use domain::event::Data;
use domain::log::{Direction, EventLog, LogReader};
use domain::record::{Lines, Record};
use domain::{ErrorKind, FixedClock, Head, Position};
use event_log::{EventLogError, PgConfig, PgLog};
use log_common::{Rig, all, at, is_sound, name, new_log, new_simulated, position, recorded, request, version};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_appenders_at_once_leave_no_hole_and_no_double() {
    let rig = Rig::start().await;
    let database = rig.database(new_log()).await;
    let logs = [Arc::new(database.open().await), Arc::new(database.open().await)];
    let writers = (0..16).map(|writer: usize| {
        let log = Arc::clone(&logs[writer % 2]);
        tokio::spawn(async move {
            for number in 0..60 {
                let (own, common) = (format!("{writer}-{number}/own"), format!("{writer}-{number}/common"));
                let events = [(&*format!("own-{writer}"), &*own), ("common-1", &*common)];
                log.append(request(&events, &[])).await.expect("acknowledged");
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.expect("no panic");
    }
    assert_eq!(is_sound(&database).await.get(), 16 * 60 * 2);
    let one = all(&*logs[0]).await;
    assert_eq!(one, all(&*logs[1]).await, "both processes read the same");
    let common = logs[0].stream_head(&name("common-1")).await.expect("readable").expect("known");
    assert_eq!(common.version.get(), 960);
    assert!(logs.iter().all(|log| log.metrics().groups > 0), "both appended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tail_over_two_appenders_never_misses_and_never_doubles() {
    let rig = Rig::start().await;
    let database = rig.database(new_log()).await;
    let logs = [Arc::new(database.open().await), Arc::new(database.open().await)];
    let reader = database.open().await;
    let writers: Vec<_> = logs
        .iter()
        .enumerate()
        .map(|(writer, log)| {
            let log = Arc::clone(log);
            tokio::spawn(async move {
                for number in 0..300 {
                    log.append(request(&[("a-1", &format!("{writer}-{number}"))], &[])).await.expect("acknowledged");
                }
            })
        })
        .collect();
    let mut seen = Head::EMPTY;
    while seen.get() < 600 {
        reader.wait_beyond(seen).await.expect("readable");
        for record in reader.read_log(seen.next(), Direction::Forward, 50).await.expect("readable") {
            assert_eq!(record.position(), seen.next());
            seen = record.position().as_head();
        }
    }
    for writer in writers {
        writer.await.expect("no panic");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_over_many_months_lands_in_their_partitions_and_reads_in_order() {
    let rig = Rig::start().await;
    let database = rig.database(new_log()).await;
    let log = database.open().await;
    let months: Vec<String> = (0..30).map(|m| format!("20{:02}-{:02}-15T12:00:00Z", 10 + m / 12, m % 12 + 1)).collect();
    let appends = months.iter().enumerate().map(|(m, month)| {
        let ids = [format!("{m}/1"), format!("{m}/2")];
        log.append(recorded(month, request(&[("a-1", &ids[0]), (&format!("b-{m}"), &ids[1])], &[])))
    });
    for appended in futures::future::join_all(appends).await {
        appended.expect("acknowledged");
    }
    assert_eq!(is_sound(&database).await.get(), 60);
    let records = all(&log).await;
    let instants: Vec<_> = records.iter().step_by(2).map(Record::recorded_at).collect();
    assert_eq!(instants, months.iter().map(|month| at(month)).collect::<Vec<_>>());
    // Both ways, across partitions, by position and by stream; and with a map that another process has loaded.
    let other = database.open().await;
    let back = other.read_log(position(60), Direction::Backward, 100).await.expect("readable");
    assert!(back.iter().rev().eq(&records));
    let middle = other.read_log(position(30), Direction::Backward, 7).await.expect("readable");
    assert!(middle.iter().rev().eq(&records[23..30]));
    let stream = other.read_stream(&name("a-1"), version(5), Direction::Forward, 9).await.expect("readable");
    assert!(stream.iter().eq(records.iter().step_by(2).skip(4).take(9)));
    let stream = other.read_stream(&name("a-1"), version(5), Direction::Backward, 9).await.expect("readable");
    assert!(stream.iter().rev().eq(records.iter().step_by(2).take(5)));
    let lone = other.read_stream(&name("b-17"), version(1), Direction::Forward, 9).await.expect("readable");
    assert_eq!(lone, [records[35].clone()]);
    for (instant, head) in [("2009-12-31T00:00:00Z", 0), ("2010-01-15T12:00:00Z", 2), ("2011-07-01T00:00:00Z", 36)] {
        assert_eq!(other.head_as_of(at(instant)).await.expect("readable").get(), head, "{instant}");
    }
    assert_eq!(other.head_as_of(at("2030-01-01T00:00:00Z")).await.expect("readable").get(), 60);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_ends_at_its_bytes_also_where_rows_are_suddenly_large() {
    let rig = Rig::start().await;
    let database = rig.database(new_log()).await;
    let log = database.open().await;
    let small: Vec<(String, String)> = (0..600).map(|i| (format!("a-{i}"), i.to_string())).collect();
    let small: Vec<(&str, &str)> = small.iter().map(|(stream, id)| (&**stream, &**id)).collect();
    log.append(request(&small, &[])).await.expect("acknowledged");
    for request_number in 0..30 {
        let mut large = request(&[("b-1", &format!("large-{request_number}"))], &[]);
        large.events[0].data = Data::Json(format!("\"{}\"", "x".repeat(1000 << 10)));
        log.append(large).await.expect("acknowledged");
    }
    let bytes = |records: &[Record]| records.iter().map(|record| record.to_line().len()).sum::<usize>();
    // Small rows first, as whoever reads them expects more of the kind.
    for _ in 0..3 {
        let whole = log.read_log(position(1), Direction::Forward, 600).await.expect("readable");
        assert_eq!(whole.len(), 600);
        let mut next = position(1);
        while next.get() <= 630 {
            let page = log.read_log(next, Direction::Forward, 1000).await.expect("readable");
            assert_eq!(log.read_lines(next, 1000).await.expect("readable"), Lines::of(&page));
            assert!(page.len() < 630, "all of it is more than a page may have");
            assert!(bytes(&page) < 10 << 20, "{} bytes from {next}", bytes(&page));
            assert_eq!(page.first().map(Record::position), Some(next));
            next = page.last().expect("there is more").position().next();
        }
        assert_eq!(next.get(), 631);
    }
    log.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_learns_of_partitions_that_another_process_began() {
    let rig = Rig::start().await;
    let database = rig.database(new_log()).await;
    let (writer, reader) = (database.open().await, database.open().await);
    for (number, month) in ["2020-01", "2020-02", "2020-04"].iter().enumerate() {
        let id = number.to_string();
        let instant = format!("{month}-10T00:00:00Z");
        writer.append(recorded(&instant, request(&[("a-1", &id)], &[]))).await.expect("acknowledged");
        let seen = all(&reader).await;
        assert_eq!(seen.len(), number + 1);
        let newest = reader.read_log(position(99), Direction::Backward, 1).await.expect("readable");
        assert_eq!(newest, [seen[number].clone()]);
        let stream = reader.read_stream(&name("a-1"), version(1), Direction::Forward, 9).await.expect("readable");
        assert_eq!(stream, seen);
    }
    // The writer's own list was loaded before the other process began a partition in between.
    let other = database.open().await;
    other.append(recorded("2020-05-01T00:00:00Z", request(&[("a-2", "other")], &[]))).await.expect("acknowledged");
    writer.append(recorded("2020-05-02T00:00:00Z", request(&[("a-1", "again")], &[]))).await.expect("acknowledged");
    assert_eq!(all(&writer).await.len(), 5);
    let records = writer.read_log(position(4), Direction::Forward, 1).await.expect("readable");
    assert_eq!(records[0].position(), position(4));
    is_sound(&database).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_given_instant_is_raised_to_the_heads_and_lowered_to_the_clocks() {
    let rig = Rig::start().await;
    let log = rig.log(new_simulated("2020-06-15T00:00:00Z")).await;
    let mut instants = Vec::new();
    for (id, given) in [("1", "2019-01-01"), ("2", "2018-01-01"), ("3", "2021-01-01"), ("4", "2019-05-05")] {
        let given = format!("{given}T00:00:00Z");
        let appended = log.append(recorded(&given, request(&[("a-1", id)], &[]))).await.expect("acknowledged");
        instants.push(appended.events[0].recorded_at);
    }
    let expected = ["2019-01-01", "2019-01-01", "2020-06-15", "2020-06-15"];
    assert_eq!(instants, expected.map(|day| at(&format!("{day}T00:00:00Z"))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_appender_whose_clock_is_wrong_appends_nothing() {
    let rig = Rig::start().await;
    let database = rig.database(new_log()).await;
    let wrong = Arc::new(FixedClock(at("2020-01-01T00:00:00Z")));
    let log = PgLog::connect(PgConfig::at(&database.url), wrong).await.expect("the log opens");
    let error = log.append(request(&[("a-1", "1")], &[])).await.expect_err("the clock is years off");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("differ by"), "{error}");
    assert_eq!(is_sound(&database).await, Head::EMPTY);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn simulated_time_moves_on_only_and_only_in_a_log_created_with_it() {
    let rig = Rig::start().await;
    let database = rig.database(new_simulated("2020-01-01T00:00:00Z")).await;
    let (log, other) = (database.open().await, database.open().await);
    let stamp = |appended: domain::append::Appended| appended.events[0].recorded_at;
    let first = stamp(log.append(request(&[("a-1", "1")], &[])).await.expect("acknowledged"));
    assert_eq!(first, at("2020-01-01T00:00:00Z"), "the machine's clock plays no part");
    log.set_simulated_now(at("2020-03-01T00:00:00Z")).await.expect("moved on");
    let second = stamp(other.append(request(&[("a-1", "2")], &[])).await.expect("acknowledged"));
    assert_eq!(second, at("2020-03-01T00:00:00Z"), "all processes of the log see it");
    assert_eq!(other.clock().now().await.expect("readable"), second);
    let back = log.set_simulated_now(at("2020-02-01T00:00:00Z")).await.expect_err("never back");
    assert!(matches!(back, EventLogError::Refused { .. }), "{back}");

    let real = rig.database(new_log()).await;
    let log = real.open().await;
    let refused = log.set_simulated_now(at("2040-01-01T00:00:00Z")).await.expect_err("real time");
    assert!(matches!(refused, EventLogError::Refused { .. }), "{refused}");
    let mut service = real.service().await;
    let switched = sqlx::query("UPDATE coldstream.log_head SET simulated_now = now()").execute(&mut service).await;
    assert!(switched.is_err(), "and the database keeps it so");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_head_row_never_goes_back_whoever_writes_it() {
    let rig = Rig::start().await;
    let database = rig.database(new_log()).await;
    let log = database.open().await;
    log.append(request(&[("a-1", "1"), ("a-1", "2")], &[])).await.expect("acknowledged");
    let mut admin = database.superuser().await;
    for change in [
        "log_head SET position = position - 1",
        "log_head SET recorded_at = recorded_at - interval '1 microsecond'",
        "log_head SET epoch = 0",
        "log_head SET log_id = 'another'",
        "streams SET version = version - 1",
        "streams SET first_position = 2",
    ] {
        let changed = sqlx::query(&format!("UPDATE coldstream.{change}")).execute(&mut admin).await;
        assert!(changed.is_err(), "{change}");
    }
    assert_eq!(is_sound(&database).await.get(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_coming_month_has_its_partition_before_it_comes() {
    let rig = Rig::start().await;
    let database = rig.database(new_log()).await;
    let log = database.open().await;
    assert!(!log.figures().await.expect("readable").coming_partition, "nobody has made it");
    log.maintain().await.expect("maintained");
    assert!(log.figures().await.expect("readable").coming_partition);
    let mut admin = database.superuser().await;
    let months: i64 =
        sqlx::query_scalar("SELECT count(*) FROM coldstream.partitions").fetch_one(&mut admin).await.expect("a count");
    assert_eq!(months, 2, "this month's and the next one's");
    log.append(request(&[("a-1", "1")], &[])).await.expect("acknowledged");
    assert_eq!(log.metrics().late_partitions, 0, "no append waited for it");
    assert_eq!(all(&log).await.len(), 1);
    let empty = AppendRequest::default();
    assert_eq!(log.append(empty).await.expect_err("empty").kind(), ErrorKind::Invalid);
    assert_eq!(log.read_log(Position::FIRST, Direction::Forward, 0).await.expect("nothing asked"), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_that_cannot_be_made_is_told_and_keeps_nothing_else_from_being_done() {
    let rig = Rig::start().await;
    let database = rig.database(new_log()).await;
    let log = database.open().await;
    log.append(request(&[("a-1", "1")], &[])).await.expect("acknowledged");
    database.run("SELECT coldstream.make_partitions(ARRAY['2020-01-01T00:00:00Z'::timestamptz])").await;
    database.run(NO_TABLES).await;
    let error = log.maintain().await.expect_err("no table can be made");
    assert!(format!("{error:?}").contains("no room for tables"), "{error:?}");
    assert!(!log.figures().await.expect("readable").coming_partition);
    let mut admin = database.superuser().await;
    let count = "SELECT count(*) FROM coldstream.partitions";
    let months: i64 = sqlx::query_scalar(count).fetch_one(&mut admin).await.expect("a count");
    assert_eq!(months, 1, "the unused one of 2020 was dropped all the same");
    database.run("DROP EVENT TRIGGER no_tables").await;
    log.maintain().await.expect("maintained");
    assert!(log.figures().await.expect("readable").coming_partition);
}

const NO_TABLES: &str = "CREATE FUNCTION public.no_tables() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
        RAISE EXCEPTION 'no room for tables';
    END $$;
    CREATE EVENT TRIGGER no_tables ON ddl_command_start WHEN TAG IN ('CREATE TABLE')
        EXECUTE FUNCTION public.no_tables()";
