//! The door while something is amiss, with the real binary: a queue that is full, a database that is gone, a region that takes
//! nothing, and a server that was killed and started again.

mod door_common;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use domain::Epoch;
use domain::append::Role;
use domain::log::FollowerLog;
use door_common::{Rig, text};
use event_log::{PgConfig, PgLog};
use ops::clock::SystemClock;
use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};
use sqlx::{Connection, Executor, PgConnection};
use tokio::sync::watch;

const SINGLE: &str = "application/cloudevents+json";
const BATCH: &str = "application/cloudevents-batch+json";
const DOCUMENT: &str = "application/vnd.coldstream.append+json";

async fn post(rig: &Rig, media: &str, body: &Value) -> Response {
    let request = Client::new().post(format!("{}/v1/append", rig.region.url)).bearer_auth(&rig.region.tokens.appender);
    request.header("content-type", media).body(body.to_string()).send().await.expect("an answer")
}

async fn answered(answer: Response) -> (StatusCode, Value) {
    (answer.status(), answer.json().await.expect("JSON"))
}

async fn get(rig: &Rig, path: &str) -> Response {
    let request = Client::new().get(format!("{}{path}", rig.region.url)).bearer_auth(&rig.region.tokens.reader);
    request.send().await.expect("an answer")
}

async fn log_of(rig: &Rig) -> Vec<Value> {
    let text = get(rig, "/v1/log").await.text().await.expect("whole");
    text.lines().map(|line| serde_json::from_str(line).expect("a record")).collect()
}

/// Clients, and events of each: with each some 5 MiB, of which the queue has room for three.
const CLIENTS: usize = 6;
const EVENTS: usize = 5;
const QUEUE_BYTES: usize = 16 << 20;

/// What one client has heard so far.
#[derive(Debug, Default, Clone, Copy)]
struct Heard {
    answers: u32,
    full: u32,
}

/// Sends one request until it is acknowledged, and tells what it hears. Each client has a token of its own: none of them is
/// refused for its share.
async fn persist(url: String, token: String, client: usize, heard: watch::Sender<Heard>) {
    let data = "x".repeat((1 << 20) - 4096);
    let event = |number: usize| {
        json!({"specversion": "1.0", "id": number.to_string(), "source": format!("/client-{client}"), "type": "t",
               "subject": format!("thing-{client}"), "data": data})
    };
    let body = Value::from((0..EVENTS).map(event).collect::<Vec<_>>()).to_string();
    let (http, mut pace) = (Client::new(), tokio::time::interval(Duration::from_millis(100)));
    loop {
        pace.tick().await;
        let request = http.post(format!("{url}/v1/append")).bearer_auth(&token).header("content-type", BATCH);
        let answer = request.body(body.clone()).send().await.expect("an answer");
        if answer.status().is_success() {
            return;
        }
        let status = answer.status();
        let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let (media, retry_after) = (header("content-type"), header("retry-after"));
        assert_eq!(media.as_deref(), Some("application/problem+json"));
        let problem: Value = answer.json().await.expect("a problem");
        assert_eq!(problem["status"], status.as_u16());
        // A group that has waited for the head for too long is answered as well; that is no full queue.
        let due = matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT);
        assert!(due, "{problem}");
        let full = problem["detail"].as_str().is_some_and(|detail| detail.contains("bytes wait to be appended"));
        if full {
            assert_eq!((status, &problem["kind"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("unavailable")));
            let seconds: u32 = retry_after.expect("it says when to come again").parse().expect("seconds");
            assert!(seconds >= 1);
        }
        heard.send_modify(|heard| {
            heard.answers += 1;
            heard.full += u32::from(full);
        });
    }
}

/// What the queue holds, as the metrics say: `requests` that wait, `bytes` of those and of what is being committed.
async fn queued(rig: &Rig, what: &str) -> usize {
    let metrics = get(rig, "/metrics").await.text().await.expect("text");
    let line = metrics.lines().find_map(|line| line.strip_prefix(&format!("coldstream_log_queued_{what} ")));
    line.expect("it is measured").parse().expect("a number")
}

/// A token for appends.
async fn new_token(rig: &Rig, name: &str) -> String {
    let made = rig.run(&["token", "create", "--role", "appender", "--name", name]).await;
    assert!(made.status.success());
    text(&made.stdout).trim().to_owned()
}

/// Returns once a group is being committed, whose session waits for the head that another one holds.
async fn waits_for_the_head(rig: &Rig) {
    let mut observer = PgConnection::connect(&rig.region.superuser_url()).await.expect("connected");
    let waiting = "SELECT count(*) FROM pg_stat_activity
                   WHERE application_name = 'coldstream append' AND wait_event_type = 'Lock'";
    while sqlx::query_scalar::<_, i64>(waiting).fetch_one(&mut observer).await.expect("looked") == 0 {}
    observer.close().await.expect("closed");
}

async fn hold_head(rig: &Rig) -> PgConnection {
    let mut holder = PgConnection::connect(&rig.region.superuser_url()).await.expect("connected");
    holder.execute("BEGIN; SELECT FROM coldstream.log_head FOR UPDATE").await.expect("held");
    holder
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_is_503_with_retry_after_nobody_waits_for_ever_and_appends_go_on_afterwards() {
    let bytes = i64::try_from(QUEUE_BYTES).expect("small");
    let mut rig = Rig::with(None, vec![("log.queue_bytes", bytes.into())]).await;
    rig.region.serve().await.expect("it serves");
    let mut clients = Vec::new();
    for client in 0..CLIENTS {
        let (heard, ear) = watch::channel(Heard::default());
        let (url, token) = (rig.region.url.clone(), new_token(&rig, &format!("client-{client}")).await);
        clients.push((ear, persist(url, token, client, heard)));
    }
    let mut holder = hold_head(&rig).await;
    let clients: Vec<_> = clients.into_iter().map(|(ear, client)| (ear, tokio::spawn(client))).collect();
    // The head is held all the while: every client is answered though nothing can be stored, and one hears of the queue.
    let mut look = tokio::time::interval(Duration::from_millis(20));
    let heard =
        |clients: &[(watch::Receiver<Heard>, _)]| clients.iter().map(|(ear, _)| *ear.borrow()).collect::<Vec<_>>();
    loop {
        look.tick().await;
        // One that has ended was told that it is stored, or something that it must not be told.
        assert!(clients.iter().all(|(_, client)| !client.is_finished()), "nothing is stored without the head");
        assert!(queued(&rig, "bytes").await <= QUEUE_BYTES, "it takes no more than it may");
        let heard = heard(&clients);
        if heard.iter().all(|heard| heard.answers > 0) && heard.iter().any(|heard| heard.full > 0) {
            break;
        }
    }
    holder.execute("ROLLBACK").await.expect("let go");
    holder.close().await.expect("closed");
    for (_, client) in clients {
        client.await.expect("each is acknowledged in the end");
    }
    let log = log_of(&rig).await;
    let ids: BTreeSet<_> = log.iter().map(|record| (record["source"].to_string(), record["id"].to_string())).collect();
    assert_eq!((log.len(), ids.len()), (CLIENTS * EVENTS, CLIENTS * EVENTS), "each is stored once");
    assert_eq!(queued(&rig, "bytes").await, 0);
    rig.end().await;
}

/// Sends `events` of one source, each with `bytes` of data, and returns their positions.
async fn positions(url: String, token: String, (request, events, bytes): (usize, usize, usize)) -> Vec<u64> {
    let event = |number: usize| {
        json!({"specversion": "1.0", "id": format!("{request}/{number}"), "source": "/shared", "type": "t",
               "subject": format!("thing-{request}"), "data": "x".repeat(bytes)})
    };
    let body = Value::from((0..events).map(event).collect::<Vec<_>>()).to_string();
    let post = Client::new().post(format!("{url}/v1/append")).bearer_auth(token).header("content-type", BATCH);
    let (status, answer) = answered(post.body(body).send().await.expect("an answer")).await;
    assert_eq!(status, StatusCode::CREATED, "{answer}");
    let position = |event: &Value| event["position"].as_str().and_then(|text| text.parse().ok()).expect("a position");
    answer["events"].as_array().expect("events").iter().map(position).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_waits_for_one_turn_of_another_and_not_for_all_that_it_sent_though_their_source_is_the_same() {
    const MIB: usize = (1 << 20) - 4096;
    let rig = Rig::serving().await;
    let (greedy, modest) = (rig.region.tokens.appender.clone(), new_token(&rig, "modest").await);
    let mut look = tokio::time::interval(Duration::from_millis(5));
    let mut until_queued = async |requests: usize| {
        while queued(&rig, "requests").await < requests {
            look.tick().await;
        }
    };
    let mut holder = hold_head(&rig).await;
    let send = |token: &String, what| tokio::spawn(positions(rig.region.url.clone(), token.clone(), what));
    let mut of_greedy = vec![send(&greedy, (0, 2, MIB))];
    waits_for_the_head(&rig).await;
    of_greedy.extend((1..3).map(|request| send(&greedy, (request, 2, MIB))));
    until_queued(2).await;
    let of_modest: Vec<_> = (3..9).map(|request| send(&modest, (request, 1, 10))).collect();
    until_queued(8).await;
    holder.execute("ROLLBACK").await.expect("let go");
    let mut first = Vec::new();
    for sent in of_greedy {
        first.push(sent.await.expect("acknowledged")[0]);
    }
    for sent in of_modest {
        let position = sent.await.expect("acknowledged")[0];
        assert!((3..9).contains(&position), "behind what was being committed, and before what waited: {position}");
    }
    first.sort_unstable();
    assert_eq!(first, [1, 9, 11]);
    rig.end().await;
}

/// Health, as a balancer asks: without a token.
async fn health(rig: &Rig, path: &str) -> Response {
    Client::new().get(format!("{}/health/{path}", rig.region.url)).send().await.expect("an answer")
}

/// What it says once it answers with `status`: it says what was so a moment ago.
async fn until_it_answers(rig: &Rig, status: StatusCode) -> Response {
    let mut look = tokio::time::interval(Duration::from_millis(50));
    loop {
        look.tick().await;
        let answer = health(rig, "ready").await;
        if answer.status() == status {
            return answer;
        }
    }
}

/// Returns once it is ready as `expected`.
async fn until_ready(rig: &Rig, expected: &str) {
    while until_it_answers(rig, StatusCode::OK).await.text().await.expect("a body") != expected {}
}

fn event(id: &str) -> Value {
    json!({"specversion": "1.0", "id": id, "source": "/tests", "type": "t", "subject": "thing-1"})
}

#[tokio::test]
async fn health_tells_a_database_that_is_gone_and_a_region_that_takes_nothing_from_all_being_well() {
    let rig = Rig::serving().await;
    let live = async || {
        let answer = health(&rig, "live").await;
        (answer.status(), answer.text().await.expect("a body"))
    };
    until_ready(&rig, "ready active\n").await;
    assert_eq!(post(&rig, SINGLE, &event("1")).await.status(), StatusCode::CREATED);

    rig.region.cluster.stop().await.expect("stopped");
    let gone = until_it_answers(&rig, StatusCode::SERVICE_UNAVAILABLE).await;
    assert_eq!(gone.headers()["content-type"], "application/problem+json");
    assert_eq!(gone.headers()["retry-after"], "1");
    let problem: Value = gone.json().await.expect("a problem");
    assert_eq!(problem["kind"], "unavailable");
    let detail = problem["detail"].as_str().expect("a reason");
    // Nobody has shown a token: neither the database's address nor its own words are told.
    assert!(detail == "the log does not answer" || detail == "the log does not answer in time", "{detail}");
    assert_eq!(live().await, (StatusCode::OK, "live\n".to_owned()), "to kill it would bring no database back");
    rig.region.cluster.start().await.expect("started");
    until_ready(&rig, "ready active\n").await;

    let config = PgConfig::at(&rig.region.database_url());
    let log = PgLog::connect(config, Arc::new(SystemClock)).await.expect("the log opens");
    let (one, two) = (Epoch::FIRST, Epoch::FIRST.next());
    log.change_role((one, Role::Active), (two, Role::ReadOnly)).await.expect("changed");
    until_ready(&rig, "ready read_only\n").await;
    let refused = post(&rig, SINGLE, &event("2")).await;
    assert!(!refused.headers().contains_key("retry-after"), "another region may take it");
    let (status, problem) = answered(refused).await;
    assert_eq!((status, &problem["kind"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("fenced")));
    assert_eq!(log_of(&rig).await.len(), 1, "it is read as before");
    log.change_role((two, Role::ReadOnly), (two.next(), Role::Active)).await.expect("changed");
    until_ready(&rig, "ready active\n").await;
    assert_eq!(post(&rig, SINGLE, &event("2")).await.status(), StatusCode::CREATED);
    assert_eq!(live().await.0, StatusCode::OK);
    rig.end().await;
}

/// An event that takes a seat, if nobody has taken it since `after`.
fn takes(id: &str, seat: &str, after: &str) -> Value {
    json!({
        "events": [{"specversion": "1.0", "id": id, "source": "/tests", "type": "seat.taken", "subject": format!("guest-{id}"),
                    "tags": format!("seat:{seat}")}],
        "conditions": [{"fail_if_events_match": [{"types": ["seat.taken"], "tags": [format!("seat:{seat}")]}], "after": after}],
    })
}

#[tokio::test]
async fn a_retry_and_a_condition_are_answered_by_a_server_that_was_started_again_as_by_the_one_before() {
    let mut rig = Rig::serving().await;
    let single = event("1");
    let (status, first) = answered(post(&rig, SINGLE, &single).await).await;
    assert_eq!((status, &first["replayed"]), (StatusCode::CREATED, &json!(false)));
    let (status, taken) = answered(post(&rig, DOCUMENT, &takes("a", "7", "1")).await).await;
    assert_eq!((status, &taken["events"][0]["position"]), (StatusCode::CREATED, &json!("2")));
    assert_eq!(post(&rig, SINGLE, &event("2")).await.status(), StatusCode::CREATED);

    // Killed, and then ended in good order: neither takes along what the answers are made of.
    for again in 0..2 {
        if again == 0 {
            rig.region.kill_server().await.expect("killed");
        } else {
            assert_eq!(rig.region.stop_server().await.expect("ended"), Some(0));
        }
        rig.region.serve().await.expect("it serves again");
        for (media, body, before) in [(SINGLE, &single, &first), (DOCUMENT, &takes("a", "7", "1"), &taken)] {
            let (status, retried) = answered(post(&rig, media, body).await).await;
            assert_eq!((status, &retried["replayed"]), (StatusCode::OK, &json!(true)));
            assert_eq!(retried["events"], before["events"], "the first positions");
        }
        // The same seat, by who has not seen who took it; and by who has.
        let late = format!("late-{again}");
        let (status, problem) = answered(post(&rig, DOCUMENT, &takes(&late, "7", "1")).await).await;
        assert_eq!((status, &problem["kind"]), (StatusCode::CONFLICT, &json!("conflict")));
        assert_eq!(problem["position"], "2", "where it was taken");
        let seat = format!("9{again}");
        let (status, other) = answered(post(&rig, DOCUMENT, &takes(&late, &seat, "0")).await).await;
        assert_eq!(status, StatusCode::CREATED, "{other}: nobody has taken that one");
    }
    let (status, _) = answered(post(&rig, DOCUMENT, &takes("knows", "7", "2")).await).await;
    assert_eq!(status, StatusCode::CREATED, "it has read who took it, and takes it over");
    let ids: Vec<Value> = log_of(&rig).await.into_iter().map(|record| record["id"].clone()).collect();
    assert_eq!(ids, ["1", "a", "2", "late-0", "late-1", "knows"], "nothing twice, and nothing that was refused");
    rig.end().await;
}
