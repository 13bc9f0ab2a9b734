//! GRP-1 on real regions: what a consumer group wants is done at least once, a stream's events one after another, whatever
//! is killed between; what cannot be done is parked, and replayed when somebody says so.

mod door_common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use coldstream_client::{
    Client, ConsumerName, Delivery, Filter, Group, GroupName, GroupSettings, Lease, NewGroup, Outcome, Reason,
    Settings, Settled, Settlement, Start, Work,
};
use domain::append::AppendRequest;
use domain::event::NewEvent;
use domain::record::Record;
use domain::{ErrorKind, Position, StreamName};
use door_common::{Rig, binary, text};
use ops::dev::Region;
use ops::dev::process::Server;
use rand::Rng;
use rand::rngs::StdRng;
use reqwest::StatusCode;
use serde_json::{Value, json};
use system_tests::regions::{Api, History, Setting, at, number, open, single, until};
use system_tests::two_regions::random;

/// A test that waits for longer is broken.
const GIVE_UP: Duration = Duration::from_secs(50);
const EVENTS: usize = 10_000;
const STREAMS: usize = 200;

fn group_name(name: &str) -> GroupName {
    GroupName::parse(name).expect("a name")
}

fn consumer(name: &str) -> ConsumerName {
    ConsumerName::parse(name).expect("a name")
}

fn client(url: &str, token: &str) -> Client {
    Client::new(Settings::new(url, token).give_up_after(GIVE_UP)).expect("a client")
}

fn new_event(stream: &str, id: &str, event_type: &str) -> NewEvent {
    let text = json!({"specversion": "1.0", "id": id, "source": "/tests", "type": event_type, "subject": stream,
                      "data": {"id": id}});
    NewEvent::from_cloudevent(text.to_string().as_bytes()).expect("an event")
}

async fn append(client: &Client, events: Vec<NewEvent>) {
    client.append(&AppendRequest { events, ..AppendRequest::default() }).await.expect("acknowledged");
}

fn settlement(position: Position, outcome: Outcome) -> Settlement {
    Settlement { position, outcome }
}

fn position(delivery: &Delivery) -> Position {
    delivery.record.position()
}

fn is_poison(record: &Record) -> bool {
    matches!(record, Record::Event(event) if event.event.event_type == "thing.poison")
}

/// What the consumers have done, in the order in which each event was done first.
#[derive(Default)]
struct Done {
    events: BTreeSet<Position>,
    streams: BTreeMap<StreamName, Vec<Position>>,
    again: usize,
}

impl Done {
    fn note(&mut self, record: &Record) {
        if self.events.insert(record.position()) {
            self.streams.entry(record.stream().clone()).or_default().push(record.position());
        } else {
            self.again += 1;
        }
    }
}

/// Works as anybody would, but for failures and deaths at random: the lease of one that dies is never settled.
async fn work(group: Group, name: String, mut random: StdRng, done: Arc<Mutex<Done>>) {
    loop {
        let taken = group.take(&consumer(&name), 50, Duration::from_secs(2)).await.expect("answered in the end");
        let Some(lease) = taken else { continue };
        let dies_after = random.random_bool(0.05).then(|| random.random_range(0..lease.deliveries.len()));
        let (mut outcomes, mut failed) = (Vec::new(), BTreeSet::new());
        for (number, delivery) in lease.deliveries.iter().enumerate() {
            if dies_after == Some(number) {
                outcomes.clear();
                break;
            }
            let stream = delivery.record.stream();
            let outcome = if failed.contains(stream) {
                Outcome::Release
            } else if is_poison(&delivery.record) || random.random_bool(0.01) {
                failed.insert(stream.clone());
                Outcome::Retry { after_seconds: None, reason: Reason::of(&format!("attempt {}", delivery.attempt)) }
            } else {
                done.lock().expect("no panic").note(&delivery.record);
                Outcome::Done
            };
            outcomes.push(settlement(position(delivery), outcome));
        }
        let settled = group.settle(&lease, &outcomes).await.expect("answered in the end");
        assert_eq!(settled.len(), outcomes.len());
    }
}

/// A second server of a region's log, and its URL.
async fn beside(region: &Region) -> (Server, String) {
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port();
    let (bind, url) = (format!("127.0.0.1:{port}"), format!("http://127.0.0.1:{port}"));
    let log = region.config.with_file_name("beside.log");
    let environment = [("COLDSTREAM_HTTP__BIND", bind.as_str())];
    let server = Server::start(&binary(), &region.config, &log, &url, &environment).await.expect("a second server");
    (server, url)
}

/// The group as its status says.
async fn status(rig: &Rig, group: &str) -> Value {
    let said = rig.run(&["group", "show", group, "--json"]).await;
    serde_json::from_slice(&said.stdout).unwrap_or_else(|_| panic!("{}", text(&said.stderr)))
}

/// Ten thousand events of two hundred streams, one of which is poison. Between them stand others, which nobody wants.
async fn appended(client: &Client, random: &mut StdRng) -> Position {
    let events: Vec<NewEvent> = (0..EVENTS)
        .map(|number| {
            let stream = format!("thing-{}", random.random_range(0..STREAMS));
            let event_type = if number == EVENTS / 3 { "thing.poison" } else { "thing.made" };
            new_event(&stream, &number.to_string(), event_type)
        })
        .collect();
    for (run, part) in events.chunks(499).enumerate() {
        let other = new_event("other-1", &format!("other {run}"), "other.made");
        append(client, part.iter().cloned().chain([other]).collect()).await;
    }
    let poison = Filter::default().event_type("thing.poison").expect("a filter");
    let mut log = client.log_matching(coldstream_client::From::Start, poison);
    log.next().await.expect("readable").expect("the poison").position()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn competing_consumers_do_everything_in_order_whatever_dies_and_park_what_cannot_be_done() {
    let (mut rig, mut random) = (Rig::serving().await, random());
    let client = client(&rig.region.url, &rig.region.tokens.appender);
    let poison = appended(&client, &mut random).await;
    let settings = GroupSettings {
        lease_seconds: 2,
        attempts_max: 8,
        retry_first_seconds: 0,
        retry_max_seconds: 0,
        ..GroupSettings::default()
    };
    let filter = Filter::default().category("thing").expect("a filter");
    let new =
        NewGroup { filter, settings, start: Start::From(Position::FIRST), ..NewGroup::called(group_name("workers")) };
    let group = client.create_group(&new).await.expect("created");
    client.create_group(&new).await.expect("it is the same");

    let (second, there) = beside(&rig.region).await;
    let (here, token) = (rig.region.url.clone(), rig.region.tokens.appender.clone());
    let done = Arc::new(Mutex::new(Done::default()));
    let start = |name: usize, random: &mut StdRng| {
        let seed = rand::SeedableRng::seed_from_u64(random.random());
        // Each asks one of the two servers, and the other one while that is dead.
        let urls = if name.is_multiple_of(2) { [&here, &there] } else { [&there, &here] };
        let settings = Settings::new(urls[0], &token).or_region(urls[1], &token).give_up_after(GIVE_UP);
        let group = Client::new(settings).expect("a client").group(&group_name("workers"));
        tokio::spawn(work(group, format!("worker {name}"), seed, done.clone()))
    };
    let mut workers: Vec<_> = (0..4).map(|name| start(name, &mut random)).collect();
    let count = || done.lock().expect("no panic").events.len();
    until("a quarter is done", async || (count() > EVENTS / 4).then_some(())).await;
    workers.remove(0).abort();
    workers.push(start(4, &mut random));
    rig.region.kill_server().await.expect("killed");
    rig.region.serve().await.expect("it serves again");
    until("all but the poison is done", async || (count() == EVENTS - 1).then_some(())).await;
    let settled = until("all is settled", async || {
        let status = status(&rig, "workers").await;
        assert!(workers.iter().all(|worker| !worker.is_finished()), "none has failed");
        (status["unsettled"] == "0" && status["lag"] == "0").then_some(status)
    })
    .await;
    for worker in workers {
        worker.abort();
    }
    assert_eq!(settled["parked"], "1", "{settled}");
    {
        let done = done.lock().expect("no panic");
        assert!(!done.events.contains(&poison) && done.again > 0, "{} were done again", done.again);
        for (stream, positions) in &done.streams {
            assert!(positions.is_sorted(), "{stream}: {positions:?}");
        }
        println!("{} done again, {} leases ran out", done.again, settled["leases_run_out"]);
    }
    the_parked_one_is_replayed(&rig, &group, poison).await;
    second.stop().await.expect("it ends");
    rig.end().await;
}

async fn the_parked_one_is_replayed(rig: &Rig, group: &Group, poison: Position) {
    let at = poison.to_string();
    let parked = rig.run(&["group", "parked", "workers", "--json"]).await;
    let parked: Value = serde_json::from_slice(&parked.stdout).expect("JSON");
    assert_eq!((&parked[0]["position"], &parked[0]["attempts"]), (&json!(at), &json!(8)), "{parked}");
    assert!(parked[0]["reason"] == "attempt 8" || parked[0]["reason"] == "its lease ran out", "{parked}");
    assert_eq!(rig.run(&["group", "replay", "workers", &at]).await.status.code(), Some(2), "a plan is no deed");
    let replayed = rig.run(&["group", "replay", "workers", &at, "--yes"]).await;
    assert_eq!(text(&replayed.stdout), "1 event is ready once more\n", "{}", text(&replayed.stderr));
    let lease = group.take(&consumer("person"), 9, Duration::from_secs(5)).await.expect("answered").expect("it");
    let [delivery] = &lease.deliveries[..] else { panic!("{lease:?}") };
    assert_eq!((position(delivery), delivery.attempt, delivery.replayed), (poison, 1, true));
    let settled = group.settle(&lease, &[settlement(poison, Outcome::Done)]).await.expect("answered");
    assert_eq!(settled, [Settled::Done]);
    let shown = text(&rig.run(&["group", "list"]).await.stdout);
    assert!(shown.contains("0 behind the head, 0 unsettled, 0 parked"), "{shown}");
}

async fn take(group: &Group, max: usize) -> Lease {
    group.take(&consumer("one"), max, Duration::from_secs(20)).await.expect("answered").expect("events")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_is_told_and_who_is_late_changes_nothing() {
    let rig = Rig::serving().await;
    let client = client(&rig.region.url, &rig.region.tokens.appender);
    let settings =
        GroupSettings { lease_seconds: 1, retry_first_seconds: 0, retry_max_seconds: 0, ..GroupSettings::default() };
    let group =
        client.create_group(&NewGroup { settings, ..NewGroup::called(group_name("late")) }).await.expect("created");
    let nothing = group.take(&consumer("one"), 9, Duration::ZERO).await.expect("answered");
    assert_eq!(nothing, None, "it begins at the head");
    let waits = tokio::spawn({
        let group = group.clone();
        async move { take(&group, 1).await }
    });
    let events = vec![new_event("thing-1", "1", "thing.made"), new_event("thing-1", "2", "thing.made")];
    append(&client, events).await;
    let first = waits.await.expect("told");
    assert_eq!((position(&first.deliveries[0]).get(), first.deliveries[0].attempt), (1, 1));
    // The lease runs out while this waits.
    let second = take(&group, 1).await;
    assert_eq!((position(&second.deliveries[0]).get(), second.deliveries[0].attempt), (1, 2));
    let one = Position::FIRST;
    for outcome in [Outcome::Done, Outcome::Park { reason: Reason::of("late") }] {
        assert_eq!(group.settle(&first, &[settlement(one, outcome)]).await.expect("answered"), [Settled::Lapsed]);
    }
    assert_eq!(group.extend(&first).await.expect("answered").events, 0);
    assert_eq!(group.extend(&second).await.expect("answered").events, 1);
    let next = tokio::spawn({
        let group = group.clone();
        async move { take(&group, 1).await }
    });
    assert_eq!(group.settle(&second, &[settlement(one, Outcome::Done)]).await.expect("answered"), [Settled::Done]);
    let third = next.await.expect("its stream goes on");
    assert_eq!(position(&third.deliveries[0]).get(), 2);
    let settled = group.settle(&third, &[settlement(position(&third.deliveries[0]), Outcome::Done)]).await;
    assert_eq!(settled.expect("answered"), [Settled::Done]);
    let status = status(&rig, "late").await;
    assert_eq!((&status["checkpoint"], &status["leases_run_out"]), (&json!("2"), &json!("1")), "{status}");
    let scraped = scrape(&rig).await;
    for sample in ["lag_events", "unsettled_events", "parked_events"] {
        assert!(scraped.contains(&format!("coldstream_consumer_group_{sample}{{group=\"late\"}} 0\n")), "{scraped}");
    }
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_extends_its_lease_keeps_the_order_and_gives_back_what_it_has_not_begun() {
    let rig = Rig::serving().await;
    let client = client(&rig.region.url, &rig.region.tokens.appender);
    let settings =
        GroupSettings { lease_seconds: 1, retry_first_seconds: 0, retry_max_seconds: 0, ..GroupSettings::default() };
    let new = NewGroup { settings, ..NewGroup::called(group_name("work")) };
    let group = client.create_group(&new).await.expect("created");
    let events = [("a-1", "slow"), ("b-1", "fails"), ("b-1", "after"), ("a-1", "last"), ("a-1", "not begun")];
    append(&client, events.iter().map(|(stream, id)| new_event(stream, id, "thing.made")).collect()).await;
    let (stop, mut stopped) = tokio::sync::watch::channel(false);
    let seen = Mutex::new(Vec::new());
    let handle = async |delivery: Delivery| {
        let Record::Event(event) = &delivery.record else { panic!("nothing is removed here") };
        let id = event.event.id.clone();
        seen.lock().expect("no panic").push((id.clone(), delivery.attempt));
        match (id.as_str(), delivery.attempt) {
            // Three leases' time, in which nobody else gets anything.
            ("slow", _) => {
                let other = group.take(&consumer("other"), 9, Duration::from_secs(3)).await.expect("answered");
                assert_eq!(other, None);
                Outcome::Done
            }
            ("fails", 1) => Outcome::Retry { after_seconds: None, reason: Reason::of("no") },
            ("last", _) => {
                stop.send(true).expect("it listens");
                Outcome::Done
            }
            _ => Outcome::Done,
        }
    };
    let stop = async move { drop(stopped.wait_for(|stop| *stop).await) };
    group.work(&Work::of(consumer("one")), stop, handle).await.expect("it ends when it is told to");
    let seen = seen.into_inner().expect("no panic");
    let seen: Vec<(&str, u32)> = seen.iter().map(|(id, attempt)| (id.as_str(), *attempt)).collect();
    assert_eq!(seen, [("slow", 1), ("fails", 1), ("last", 1)], "what comes after a failure waits for it");
    let rest = take(&group, 9).await;
    let rest: Vec<(u64, u32)> = rest.deliveries.iter().map(|of| (position(of).get(), of.attempt)).collect();
    assert_eq!(rest, [(2, 2), (3, 1), (5, 1)], "what was not begun counts no attempt");
    let status = status(&rig, "work").await;
    assert_eq!((&status["leases_run_out"], &status["checkpoint"]), (&json!("0"), &json!("1")), "{status}");
    rig.end().await;
}

async fn scrape(rig: &Rig) -> String {
    let asked =
        reqwest::Client::new().get(format!("{}/metrics", rig.region.url)).bearer_auth(&rig.region.tokens.reader);
    asked.send().await.expect("an answer").text().await.expect("whole")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_reads_what_is_pruned_and_two_servers_of_one_log_share_it() {
    let start = at("2025-01-01T00:00:00Z");
    let settings = vec![("archive.sealing.segment_bytes", (64 << 10).into())];
    let (mut region, _folder) = single(&Setting { now: start, window_months: 1, settings }).await;
    let log = open(&region).await;
    region.serve().await.expect("it serves");
    let mut history = History::new(1, 60);
    for month in 0..3 {
        let month = start.months_after(month).expect("a month");
        log.set_simulated_now(month.months_after(1).expect("a month")).await.expect("time goes on");
        system_tests::regions::append(&log, history.month(month, 700)).await;
    }
    let api = Api::of(&region);
    until("two months are pruned", async || (number(&api.status().await.pruned) == 1400).then_some(())).await;

    let (second, url) = beside(&region).await;

    let filter = Filter::default().category("order").expect("a filter");
    let new =
        NewGroup { filter: filter.clone(), start: Start::From(Position::FIRST), ..NewGroup::called(group_name("all")) };
    let done = Arc::new(Mutex::new(Vec::new()));
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut workers = Vec::new();
    for (name, url) in [("here", &region.url), ("there", &url)] {
        let client = client(url, &region.tokens.reader);
        let group = client.create_group(&new).await.expect("created");
        let (done, mut stopped) = (done.clone(), stopped.clone());
        workers.push(tokio::spawn(async move {
            let work = Work { max: 25, wait: Duration::from_secs(1), ..Work::of(consumer(name)) };
            let stop = async move { drop(stopped.wait_for(|stop| *stop).await) };
            let handle = async |delivery: Delivery| {
                done.lock().expect("no panic").push((name, delivery.record));
                Outcome::Done
            };
            group.work(&work, stop, handle).await
        }));
    }
    let mut wanted = Vec::new();
    let mut all = client(&region.url, &region.tokens.reader).log_matching(coldstream_client::From::Start, filter);
    while let Some(record) = all.next().await.expect("readable") {
        wanted.push(record);
    }
    until("all is done", async || (done.lock().expect("no panic").len() >= wanted.len()).then_some(())).await;
    stop.send(true).expect("they listen");
    for worker in workers {
        worker.await.expect("no panic").expect("it ends when it is told to");
    }
    let done = done.lock().expect("no panic").clone();
    let mut records: Vec<Record> = done.iter().map(|(_, record)| record.clone()).collect();
    records.sort_by_key(Record::position);
    assert!(records == wanted, "each once, and as the log has it: {} of {}", records.len(), wanted.len());
    for name in ["here", "there"] {
        assert!(done.iter().any(|(by, _)| *by == name), "{name} has done nothing");
    }
    let refused =
        client(&region.url, &region.tokens.reader).group(&group_name("none")).take(&consumer("x"), 1, GIVE_UP).await;
    assert_eq!(refused.expect_err("there is none").kind(), ErrorKind::NotFound);
    second.stop().await.expect("it ends");
    log.shut_down().await;
    region.end().await.expect("it ends");
}

#[tokio::test]
async fn a_token_of_some_categories_uses_only_groups_of_these() {
    let rig = Rig::serving().await;
    let made = rig.run(&["token", "create", "--role", "reader", "--name", "mailer", "--category", "order"]).await;
    let limited = text(&made.stdout).trim().to_owned();
    let ask = async |token: &str, verb: &str, body: Value| {
        let request = reqwest::Client::new().post(format!("{}/v1/group/{verb}", rig.region.url)).bearer_auth(token);
        let answer = request.json(&body).send().await.expect("an answer");
        (answer.status(), answer.json::<Value>().await.expect("JSON"))
    };
    let appender = &rig.region.tokens.appender;
    for (group, category) in [("orders", json!(["order"])), ("both", json!(["order", "bill"])), ("all", json!([]))] {
        let new = json!({"group": group, "category": category, "from": "1"});
        let (status, said) = ask(&limited, "create", new.clone()).await;
        let may = group == "orders";
        assert_eq!(status, if may { StatusCode::CREATED } else { StatusCode::FORBIDDEN }, "{said}");
        let (status, said) = ask(appender, "create", new).await;
        assert_eq!(status, if may { StatusCode::OK } else { StatusCode::CREATED }, "{said}");
        let (status, said) = ask(&limited, "take", json!({"group": group, "consumer": "x"})).await;
        assert_eq!(status, if may { StatusCode::OK } else { StatusCode::FORBIDDEN }, "{said}");
        let (status, said) = ask(&limited, "remove", json!({"group": group})).await;
        assert_eq!(status, if may { StatusCode::OK } else { StatusCode::FORBIDDEN }, "{said}");
    }
    let operator = &rig.region.tokens.operator;
    assert_eq!(ask(operator, "take", json!({"group": "all", "consumer": "x"})).await.0, StatusCode::FORBIDDEN);
    assert_eq!(ask(operator, "discard", json!({"group": "all", "positions": ["1"]})).await.0, StatusCode::OK);
    let listed = rig.run_as(&limited, &["group", "list", "--json"]).await;
    assert_eq!(text(&listed.stdout), "[]\n", "it sees none of the others");
    rig.end().await;
}
