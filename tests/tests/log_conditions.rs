//! Conditions over types and tags on a real cluster (LOG-3, LOG-4): two processes at once, another region after a
//! failover, a database of an older release, heads that lag, and the door.

mod door_common;
mod log_common;

use coldstream_client::{Client, ClientError, Settings};
use domain::append::{AppendError, AppendRequest, Role};
use domain::conformance::conditions::{item, none, on_condition, tagged};
use domain::event::NewEvent;
use domain::log::{EventLog, FollowerLog, LogReader};
use domain::{Epoch, ErrorKind, Head};
use event_log::{Admin, NewLog, PgLog, ServiceLogin};
use log_common::{Rig, SERVICE, all, is_sound, new_log};
use sqlx::{Connection, Executor, PgConnection};

fn head(number: u64) -> Head {
    Head::new(number).expect("small")
}

fn events(events: Vec<NewEvent>) -> AppendRequest {
    AppendRequest { events, ..AppendRequest::default() }
}

/// Where an event stands that a condition on these types and tags excludes; `Err` where that cannot be told.
async fn excluded(log: &PgLog, types: &str, tags: &str, after: u64) -> Result<Option<u64>, u64> {
    // A new id each time: an answer to a retry would say nothing.
    let id = format!("{types}/{tags}/{after}/{}", log.log_head().await.expect("readable").head);
    match log.append(on_condition(tagged(&id, "probe", ""), none(head(after), vec![item(types, tags)]))).await {
        Ok(_) => Ok(None),
        Err(AppendError::ConditionFailed { position, .. }) => Ok(Some(position.get())),
        Err(AppendError::ConditionUnsettled { up_to, .. }) => Err(up_to.get()),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_processes_on_one_condition_one_wins() {
    let rig = Rig::start().await;
    let database = rig.database(new_log()).await;
    let processes = [database.open().await, database.open().await];
    for round in 0..40 {
        let read_to = processes[0].log_head().await.expect("readable").head;
        let seat = format!("seat:{round}");
        let take = async |process: usize| {
            let event = tagged(&format!("{round}/{process}"), "seat.taken", &seat);
            processes[process].append(on_condition(event, none(read_to, vec![item("seat.taken", &seat)]))).await
        };
        let answers = tokio::join!(take(0), take(1));
        match answers {
            (Ok(won), Err(AppendError::ConditionFailed { position, .. }))
            | (Err(AppendError::ConditionFailed { position, .. }), Ok(won)) => {
                assert_eq!(won.events[0].position, position, "it lost to the one that won");
            }
            other => panic!("round {round}: {other:?}"),
        }
    }
    assert_eq!(is_sound(&database).await, head(40));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_other_region_answers_the_same_after_a_failover() {
    let rig = Rig::start().await;
    let home = rig.log(new_log()).await;
    let database = rig.database(NewLog { role: Role::Follower, ..new_log() }).await;
    let dr = database.open().await;
    let once = |id: &str| {
        on_condition(tagged(id, "registered", "name:ann"), none(Head::EMPTY, vec![item("registered", "name:ann")]))
    };
    let first = home.append(once("1")).await.expect("acknowledged");
    let more = vec![tagged("2", "moved", "name:ann city:b"), tagged("3", "moved", "name:bob"), tagged("4", "left", "")];
    home.append(events(more)).await.expect("acknowledged");

    let records = all(&home).await;
    let kept = home.kept_ids(records[0].position(), records[3].position()).await.expect("readable");
    // In two batches, and the first of them twice.
    dr.apply_keeping(&records[..2], &kept).await.expect("applied");
    dr.apply_keeping(&records[..2], &kept).await.expect("applied");
    dr.apply_keeping(&records[1..], &kept).await.expect("applied");
    let promoted = (Epoch::FIRST.next(), Role::Active);
    dr.change_role((Epoch::FIRST, Role::Follower), promoted).await.expect("promoted");

    let again = dr.append(once("1")).await.expect("a retry is acknowledged");
    assert!(again.replayed);
    assert_eq!(again.events, first.events);
    for (types, tags, after) in [
        ("registered", "name:ann", 0),
        ("registered", "name:ann", 1),
        ("", "name:ann", 1),
        ("moved", "city:b name:ann", 0),
        ("moved", "name:bob", 2),
        ("left", "", 3),
        ("registered moved", "", 3),
        ("unknown", "", 0),
    ] {
        let said = excluded(&home, types, tags, after).await;
        assert_eq!(said, excluded(&dr, types, tags, after).await, "{types}/{tags} after {after}");
    }
    is_sound(&database).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_type_is_found_though_its_head_is_written_rarely() {
    let rig = Rig::start().await;
    let database = rig.database(new_log()).await;
    let log = database.open().await;
    let often = async |round: u32| {
        for request in 0..4 {
            let new = (0..750).map(|n| tagged(&format!("{round}/{request}/{n}"), "often", ""));
            log.append(events(new.collect())).await.expect("acknowledged");
        }
    };
    let rare = async |id: &str| {
        let appended = log.append(events(vec![tagged(id, "rare", "")])).await.expect("acknowledged");
        appended.events[0].position.get()
    };
    let head_of_rare = async || {
        let mut session = database.service().await;
        let query = sqlx::query_scalar("SELECT position FROM coldstream.type_heads WHERE event_type = 'rare'");
        let position: i64 = query.fetch_one(&mut session).await.expect("a head");
        u64::try_from(position).expect("from 1")
    };
    let first = rare("first").await;
    often(1).await;
    let second = rare("second").await;
    assert_eq!(head_of_rare().await, first, "it is not worth writing yet");
    // Another process has read nothing that the first one keeps in memory.
    for log in [&log, &database.open().await] {
        assert_eq!(excluded(log, "rare", "", first).await, Ok(Some(second)));
        assert_eq!(excluded(log, "rare", "", second - 1).await, Ok(Some(second)));
        assert_eq!(excluded(log, "rare", "", second).await, Ok(None));
        assert!(matches!(excluded(log, "rare", "", 0).await, Ok(Some(at)) if at >= first));
    }
    often(2).await;
    let third = rare("third").await;
    assert_eq!(head_of_rare().await, third);
    assert_eq!(excluded(&log, "rare", "", second).await, Ok(Some(third)));
    assert_eq!(excluded(&log, "rare", "", third).await, Ok(None));
    is_sound(&database).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_search_for_several_tags_ends_after_so_many_steps() {
    let rig = Rig::start().await;
    let log = rig.log(new_log()).await;
    let zip = |n: u32| tagged(&n.to_string(), "zip", if n.is_multiple_of(2) { "left dense" } else { "right dense" });
    let last = log.append(events((0..2400).map(zip).collect())).await.expect("acknowledged");
    let last = last.events.last().expect("not empty").position.get();
    log.append(events(vec![tagged("once", "zip", "sparse dense")])).await.expect("acknowledged");

    assert_eq!(excluded(&log, "", "left right", 0).await, Err(last + 1), "refused, never accepted unseen");
    assert_eq!(excluded(&log, "zip", "left right", last).await, Ok(None), "whoever has read on is told");
    assert_eq!(
        excluded(&log, "zip", "dense sparse", 0).await,
        Ok(Some(last + 1)),
        "steps are as many as the rarer tag"
    );
    assert_eq!(excluded(&log, "", "left dense", 0).await, Ok(Some(last - 1)));
}

/// A database as the release before tags has left it: two events are pruned, three are live.
async fn of_an_older_release(rig: &Rig) -> PgLog {
    let url = rig.cluster.superuser_url("older");
    rig.cluster.create_database("older").await.expect("a database");
    let mut session = PgConnection::connect(&url).await.expect("connected");
    for statement in [
        include_str!("../../domain/event-log/src/sql/roles.sql"),
        "SET ROLE coldstream_owner",
        include_str!("../../domain/event-log/src/sql/claim_migrations.sql"),
    ] {
        sqlx::raw_sql(statement).execute(&mut session).await.expect("runs");
    }
    let migrations = [
        ("log", include_str!("../../domain/event-log/migrations/0001_log.sql")),
        ("catalog", include_str!("../../domain/event-log/migrations/0002_catalog.sql")),
        ("guards", include_str!("../../domain/event-log/migrations/0003_guards.sql")),
        ("partitions", include_str!("../../domain/event-log/migrations/0004_partitions.sql")),
        ("grants", include_str!("../../domain/event-log/migrations/0005_grants.sql")),
        ("wind back", include_str!("../../domain/event-log/migrations/0006_wind_back.sql")),
        ("kept ids", include_str!("../../domain/event-log/migrations/0007_kept_ids.sql")),
    ];
    for (version, (name, text)) in (1..).zip(migrations) {
        sqlx::raw_sql(text).execute(&mut session).await.expect("runs");
        let noted = "INSERT INTO coldstream.migrations (version, name, sha256)
            VALUES ($1, $2, sha256(convert_to($3, 'UTF8')))";
        let noted = sqlx::query(noted).bind(version).bind(name).bind(text).execute(&mut session).await;
        noted.expect("noted");
    }
    let rows = "
        INSERT INTO coldstream.log_head
            (log_id, incarnation, epoch, role, position, recorded_at, pruned, window_months, copies)
            VALUES ('log-under-test', gen_random_uuid(), 1, 'active', 5, '2026-05-01Z', 2, 6, 2);
        SELECT coldstream.make_partitions(ARRAY['2026-05-01Z'::timestamptz]);
        UPDATE coldstream.partitions SET first_position = 3;
        INSERT INTO coldstream.events (position, recorded_at, sequence, epoch, bytes, data_kind, record_format,
                aggregate_type, aggregate_id, event_type, event_version, event_id, source, metadata, payload)
            SELECT n, '2026-05-01Z', 1, 1, 100, 0, 1, 'a', n, 'made', '', n, '/older', m::json, 'null'
            FROM (VALUES (3, '{\"tags\":\"x:1  \\u00e9 x:1\"}'), (4, '{}'), (5, '{\"a\":\"tags\",\"tags\":\"x:2\"}')) e (n, m);
        INSERT INTO coldstream.streams (category, id, version, position, first_position, closed)
            SELECT 'a', n, 1, n, n, false FROM generate_series(1, 5) n;
        INSERT INTO coldstream.event_ids (id_hash, position)
            SELECT encode(substring(sha256(convert_to('/older', 'UTF8') || '\\x00'::bytea || convert_to(n::text, 'UTF8'))
                FOR 16), 'hex')::uuid, n FROM generate_series(3, 5) n";
    session.execute(rows).await.expect("runs");
    let mut admin = Admin::connect(&url).await.expect("connected");
    let login = ServiceLogin { name: SERVICE.into(), password: None };
    let applied = admin.prepare(&login).await.expect("migrated");
    assert!(applied.contains(&"tags"), "{applied:?}");
    let database =
        log_common::Database { url: rig.cluster.url(SERVICE, "older"), name: "older".into(), admin_url: url };
    is_sound(&database).await;
    database.open().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_of_an_older_release_knows_the_tags_of_its_live_events_and_that_it_knows_no_others() {
    let rig = Rig::start().await;
    let log = of_an_older_release(&rig).await;
    assert_eq!(excluded(&log, "", "x:1", 0).await, Ok(Some(3)));
    assert_eq!(excluded(&log, "made", "é", 2).await, Ok(Some(3)));
    assert_eq!(excluded(&log, "made", "x:2", 0).await, Ok(Some(5)));
    assert_eq!(excluded(&log, "made", "", 4).await, Ok(Some(5)));
    // It was pruned before anybody noted tags: perhaps, so no.
    assert_eq!(excluded(&log, "", "x:3", 0).await, Err(2));
    assert_eq!(excluded(&log, "other", "", 1).await, Err(2));
    assert_eq!(excluded(&log, "", "x:3", 2).await, Ok(None));
    assert_eq!(excluded(&log, "other", "", 2).await, Ok(None));
    assert_eq!(excluded(&log, "made", "x:1", 3).await, Ok(None));
}

#[tokio::test]
async fn a_service_appends_on_a_condition_through_the_door() {
    let rig = door_common::Rig::serving().await;
    let service = Client::new(Settings::new(&rig.region.url, &rig.region.tokens.appender)).expect("a client");
    let register = |id: &str| {
        on_condition(tagged(id, "registered", "name:ann"), none(Head::EMPTY, vec![item("registered", "name:ann")]))
    };
    let first = service.append(&register("1")).await.expect("acknowledged");
    assert_eq!(service.append(&register("1")).await.expect("a retry is acknowledged").events, first.events);
    let refused = service.append(&register("2")).await.expect_err("the name is taken");
    assert_eq!((refused.kind(), refused.position()), (ErrorKind::Conflict, Some(first.events[0].position)));

    let ahead = on_condition(tagged("3", "t", ""), none(head(99), vec![item("t", "")]));
    let Err(ClientError::Refused { members, .. }) = service.append(&ahead).await else { panic!("it is refused") };
    assert_eq!(members["head"], "1");
}
