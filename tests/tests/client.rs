//! The Rust client on real regions: nothing lost, nothing doubled, nothing in the wrong order, whatever breaks between.

mod door_common;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use coldstream_client::{Client, ClientError, From, Settings, TraceContext};
use domain::append::{AppendRequest, Appended, Expectation, ExpectedVersion};
use domain::event::NewEvent;
use domain::filter::Filter;
use domain::record::Record;
use domain::{ErrorKind, Position, StreamName, StreamVersion};
use door_common::{Rig, text};
use ops::config::HttpConfig;
use ops::dev::Region;
use system_tests::two_regions::{TwoRegions, append_run, event, head_beyond, lines};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

/// A test that waits for longer is broken.
const GIVE_UP: Duration = Duration::from_secs(50);

fn name(stream: &str) -> StreamName {
    StreamName::parse(stream).expect("a stream")
}

fn request(stream: &str, ids: &[String], version: Option<ExpectedVersion>) -> AppendRequest {
    let new = |id: &String| NewEvent::from_cloudevent(event(stream, id).to_string().as_bytes()).expect("an event");
    let expect = version.map(|version| Expectation { stream: name(stream), version });
    AppendRequest {
        events: ids.iter().map(new).collect(),
        expect: expect.into_iter().collect(),
        ..AppendRequest::default()
    }
}

fn of_both(regions: &TwoRegions) -> Client {
    let settings = Settings::new(&regions.home.url, &regions.home.tokens.appender);
    let settings = settings.or_region(&regions.dr.url, &regions.dr.tokens.appender).give_up_after(GIVE_UP);
    Client::new(settings).expect("a client")
}

fn id(record: &Record) -> String {
    match record {
        Record::Event(recorded) => recorded.event.id.clone(),
        Record::Removed(_) => panic!("nothing is removed here"),
    }
}

/// Stands between a client and a server, and cuts each connection after so many bytes of answers.
struct Proxy {
    url: String,
    connections: Arc<AtomicUsize>,
}

/// Stands before a server: answers one connection with this text, and carries those after it.
async fn behind(first: &'static str, server: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let (url, server) = (format!("http://{}", listener.local_addr().expect("bound")), server.to_owned());
    tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.expect("a client");
        client.read_buf(&mut Vec::new()).await.expect("a request");
        client.write_all(first.as_bytes()).await.expect("answered");
        client.shutdown().await.expect("it ends");
        // What is left unread would reset the connection, and the answer with it.
        tokio::spawn(async move { tokio::io::copy(&mut client, &mut tokio::io::sink()).await });
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(Proxy::carry(client, server.trim_start_matches("http://").to_owned(), u64::MAX));
        }
    });
    url
}

impl Proxy {
    async fn start(region: &Region, bytes: impl Fn(usize) -> u64 + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let server = region.url.trim_start_matches("http://").to_owned();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let limit = bytes(counted.fetch_add(1, Ordering::SeqCst));
                tokio::spawn(Self::carry(client, server.clone(), limit));
            }
        });
        Self { url, connections }
    }

    /// Ends when either side does, or after `limit` bytes from the server.
    async fn carry(client: TcpStream, server: String, limit: u64) {
        let server = TcpStream::connect(server).await.expect("the server");
        let (mut from_client, mut to_client) = client.into_split();
        let (from_server, mut to_server) = server.into_split();
        let mut answer = from_server.take(limit);
        tokio::select! {
            _ = tokio::io::copy(&mut from_client, &mut to_server) => {}
            _ = tokio::io::copy(&mut answer, &mut to_client) => {}
        }
        // What was cut off is not finished politely.
        let _ = to_client.shutdown().await;
    }
}

#[tokio::test]
async fn a_reader_whose_connections_break_sees_each_record_once_and_in_order() {
    let rig = Rig::serving().await;
    for run in 0..6 {
        append_run(&rig.region, &format!("run{run}"), 500).await;
    }
    // The first answer of each try ends somewhere else: in a header, in a line, at a line's end.
    let proxy = Proxy::start(&rig.region, |connection| 20_011 * (connection as u64 + 1)).await;
    let client = Client::new(Settings::new(&proxy.url, &rig.region.tokens.reader).give_up_after(GIVE_UP));
    let client = client.expect("a client");

    let mut records = client.log(From::Start);
    let mut read = Vec::new();
    while let Some(record) = records.next().await.expect("it goes on") {
        read.push(record.to_line());
    }
    assert!(read == lines(&rig.region).await, "{} records", read.len());
    assert!(proxy.connections.load(Ordering::SeqCst) > 3, "it was cut");

    let mut tail = client.tail(From::Position(Position::new(2_900).expect("a position")));
    append_run(&rig.region, "late", 3).await;
    let mut last = None;
    while last.as_ref().is_none_or(|record| id(record) != "late:2") {
        let record = tail.next().await.expect("it goes on").expect("a tail has no end");
        let expected = last.as_ref().map_or(2_900, |last: &Record| last.position().get() + 1);
        assert_eq!(record.position().get(), expected);
        last = Some(record);
    }
    let mut stream = client.stream(&name("note-run3"), StreamVersion::new(2).expect("a version"));
    let mut versions = Vec::new();
    while let Some(record) = stream.next().await.expect("it goes on") {
        versions.push(record.version().get());
    }
    assert!(versions.iter().copied().eq(2..=500), "{versions:?}");

    let of_run = |run: &str| Filter::default().stream_prefix(&format!("note-{run}")).expect("a filter");
    let mut matching = client.log_matching(From::Start, of_run("run3"));
    let mut found = Vec::new();
    while let Some(record) = matching.next().await.expect("it goes on") {
        found.push(id(&record));
    }
    assert!((0..500).map(|number| format!("run3:{number}")).eq(found.iter().cloned()), "{found:?}");
    let token = matching.token().expect("the log's newest event");
    assert_eq!(token.to_string(), "3003@1", "what does not match is not looked at again");
    let mut tail = client.tail_matching(From::Token(token), of_run("wanted"));
    append_run(&rig.region, "other", 500).await;
    append_run(&rig.region, "wanted", 2).await;
    for expected in ["wanted:0", "wanted:1"] {
        assert_eq!(id(&tail.next().await.expect("it goes on").expect("a tail has no end")), expected);
    }
    rig.end().await;
}

#[tokio::test]
async fn an_append_whose_answers_are_lost_is_stored_once_and_acknowledged_as_replayed() {
    let rig = Rig::serving().await;
    // Of three answers only a byte arrives, the fourth comes.
    let proxy = Proxy::start(&rig.region, |connection| if connection < 3 { 1 } else { u64::MAX }).await;
    let client = Client::new(Settings::new(&proxy.url, &rig.region.tokens.appender).give_up_after(GIVE_UP));
    let client = client.expect("a client");
    let ids = ["a".to_owned(), "b".to_owned()];
    let appended = client.append(&request("note-1", &ids, Some(ExpectedVersion::NoStream))).await.expect("stored");
    assert!(appended.replayed, "the first attempt had been stored");
    assert_eq!(appended.events.iter().map(|event| event.position.get()).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(lines(&rig.region).await.len(), 2);

    let stale = client.append(&request("note-1", &["c".to_owned()], Some(ExpectedVersion::NoStream))).await;
    let stale = stale.expect_err("a conflict is the caller's to decide");
    assert_eq!((stale.kind(), stale.actual_version()), (ErrorKind::Conflict, Some(2)));
    let missing = client.stream(&name("note-none"), StreamVersion::FIRST).next().await.expect_err("no such stream");
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    rig.end().await;
}

/// Appends events one by one, each expecting the version before it.
async fn append_all(client: Client, stream: &'static str, numbers: std::ops::Range<u64>) -> Vec<Appended> {
    let mut told = Vec::new();
    for number in numbers {
        let version = StreamVersion::new(number).map_or(ExpectedVersion::NoStream, ExpectedVersion::Exactly);
        let request = request(stream, &[format!("{stream}:{number}")], Some(version));
        told.push(client.append(&request).await.expect("acknowledged in the end"));
    }
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn service_and_reader_go_on_across_a_failover_without_being_told() {
    let mut regions = TwoRegions::start().await;
    let client = of_both(&regions);
    let mut tail = client.tail(From::Start);
    let told = append_all(client.clone(), "note-a", 0..20).await;
    assert!(told.iter().all(|appended| appended.events[0].epoch.get() == 1));
    let mut seen = Vec::new();
    while seen.len() < 20 {
        seen.push(id(&tail.next().await.expect("it goes on").expect("a tail has no end")));
    }
    head_beyond(&regions.dr, 20).await;

    regions.home.kill().await.expect("killed");
    let service = tokio::spawn(append_all(client.clone(), "note-a", 20..40));
    let words = ["failover", "promote", "--force", "--accept-unknown-loss", "--yes"];
    let promoted = regions.command(&regions.dr, &words).await;
    assert_eq!(promoted.code, Some(0), "{promoted:?}");
    let told = service.await.expect("acknowledged");
    assert!(told.iter().all(|appended| appended.events[0].epoch.get() == 2 && !appended.replayed));
    while seen.len() < 40 {
        seen.push(id(&tail.next().await.expect("it goes on").expect("a tail has no end")));
    }
    let expected: Vec<String> = (0..40).map(|number| format!("note-a:{number}")).collect();
    assert_eq!(seen, expected, "each event once, in order");
    regions.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_of_a_branch_that_lost_is_refused_with_the_fork() {
    let mut regions = TwoRegions::start().await;
    append_run(&regions.home, "both", 10).await;
    head_beyond(&regions.dr, 10).await;
    regions.dr.kill_server().await.expect("killed");
    append_run(&regions.home, "alone", 5).await;
    let client = of_both(&regions);
    let mut records = client.log(From::Start);
    while records.next().await.expect("read").is_some() {}
    let token = records.token().expect("the last record's");
    assert_eq!(token.to_string(), "15@1");

    regions.home.kill().await.expect("killed");
    regions.dr.serve().await.expect("it serves again");
    let words = ["failover", "promote", "--force", "--accept-unknown-loss", "--yes"];
    let promoted = regions.command(&regions.dr, &words).await;
    assert_eq!(promoted.code, Some(0), "{promoted:?}");
    append_run(&regions.dr, "new", 20).await;
    let forked: ClientError = client.tail(From::Token(token)).next().await.expect_err("its branch lost");
    assert_eq!((forked.kind(), forked.fork()), (ErrorKind::Forked, Position::new(10)));
    let mut after = client.log(From::Position(forked.fork().expect("a fork").next()));
    assert_eq!(id(&after.next().await.expect("read").expect("a record")), "new:0");
    regions.end().await;
}

/// Runs the example; what it says on stdout and stderr.
async fn example(url: &str, token: &str) -> (bool, String, String) {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ops/client/examples/append.py");
    let said = Command::new("python3").arg(example).args([url, token]).output().await.expect("it runs");
    (said.status.success(), text(&said.stdout), text(&said.stderr))
}

#[tokio::test]
async fn the_example_in_python_appends_and_reads_with_the_standard_library_alone() {
    let rig = Rig::serving().await;
    let (held, told, complaint) = example(&rig.region.url, &rig.region.tokens.appender).await;
    assert!(held && told.starts_with("acknowledged at 1\n1 "), "{told} {complaint}");
    let (held, told, complaint) = example(&rig.region.url, "no token").await;
    assert!(!held && told.is_empty() && !complaint.contains("Traceback"), "{told} {complaint}");
    rig.end().await;
}

const BAD_GATEWAY: &str =
    "HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n<html></html>";
/// So many answers are cut, each of them somewhere else: in its first line, in its header, in its body.
const CUT: usize = 12;

#[tokio::test]
async fn the_example_in_python_sends_again_what_was_cut_off_or_answered_by_a_proxy() {
    let rig = Rig::serving().await;
    let bytes = |connection| if connection < CUT { 10 + 25 * connection as u64 } else { u64::MAX };
    let proxy = Proxy::start(&rig.region, bytes).await;
    let url = behind(BAD_GATEWAY, &proxy.url).await;
    let (held, told, complaint) = example(&url, &rig.region.tokens.appender).await;
    assert!(held && told.starts_with("acknowledged at 1\n1 "), "{told} {complaint}");
    assert_eq!(complaint.lines().count(), CUT + 1, "{complaint}");
    assert_eq!(proxy.connections.load(Ordering::SeqCst), CUT + 2, "and then an append and a read");
    assert_eq!(lines(&rig.region).await.len(), 1, "it is stored once");
    rig.end().await;
}

const UNAVAILABLE: &str = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\n\
    Connection: close\r\n\r\n{\"kind\":\"unavailable\",\"status\":503,\"detail\":\"a moment\"}";

#[tokio::test]
async fn a_region_with_a_wrong_token_keeps_nobody_from_one_that_was_away_for_a_moment() {
    let rig = Rig::serving().await;
    let token = &rig.region.tokens.appender;
    let home = behind(UNAVAILABLE, &rig.region.url).await;
    let client = Client::new(Settings::new(&home, token).or_region(&rig.region.url, "expired")).expect("a client");
    for id in ["a", "b"] {
        client.append(&request("note-1", &[id.to_owned()], None)).await.expect("home takes it again");
    }
    assert_eq!(lines(&rig.region).await.len(), 2);
    let settings = Settings::new(&rig.region.url, "expired").or_region(&rig.region.url, "revoked");
    let refused = Client::new(settings).expect("a client").append(&request("note-1", &["c".to_owned()], None)).await;
    assert_eq!(refused.expect_err("both refuse").kind(), ErrorKind::Denied);
    rig.end().await;
}

#[test]
fn the_client_waits_for_longer_than_a_server_takes() {
    assert!(Settings::ANSWER_WITHIN > Duration::from_secs(HttpConfig::default().answer_seconds));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_is_followed_across_a_kill_and_a_prune_and_from_the_archive_on() {
    let mut regions = TwoRegions::start_at("2025-01-10T00:00:00Z").await;
    let settings = Settings::new(&regions.home.url, &regions.home.tokens.appender).give_up_after(GIVE_UP);
    let (client, stream) = (Client::new(settings).expect("a client"), name("note-one"));
    let mut tail = client.tail_stream(&stream, StreamVersion::FIRST);
    // It is asked for before it begins.
    let mut first = Box::pin(tail.next());
    assert!(futures::poll!(&mut first).is_pending());
    append_run(&regions.home, "one", 30).await;
    append_run(&regions.home, "other", 5).await;
    assert_eq!(id(&first.await.expect("it goes on").expect("no end")), "one:0");
    let mut next = async || tail.next().await.expect("it goes on").expect("a tail has no end");
    for version in 2..=30 {
        assert_eq!(next().await.version().get(), version);
    }
    regions.home.kill_server().await.expect("killed");
    regions.home.serve().await.expect("it serves again");
    system_tests::two_regions::append(&regions.home, &[event("note-one", "after the kill")]).await;
    assert_eq!(id(&next().await), "after the kill");
    regions.move_to("2025-03-10T00:00:00Z").await;
    system_tests::two_regions::until("home has pruned January", async || {
        let status = system_tests::two_regions::status(&regions.home).await?;
        if status.pruned == "36" { Ok(()) } else { Err(format!("{:?}", status.workers["prune"])) }
    })
    .await;
    system_tests::two_regions::append(&regions.home, &[event("note-one", "after the prune")]).await;
    assert_eq!(id(&next().await), "after the prune");
    let mut again = client.tail_stream(&stream, StreamVersion::new(30).expect("a version"));
    for expected in ["one:29", "after the kill", "after the prune"] {
        assert_eq!(id(&again.next().await.expect("archived and live").expect("no end")), expected);
    }
    regions.end().await;
}

#[tokio::test]
async fn what_a_client_sends_within_a_course_says_so_each_time_that_it_is_sent() {
    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let trace = || TraceContext::parse(PARENT, Some("vendor=1")).expect("a trace context");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    // A server that takes the header of a request and goes away.
    let heads = tokio::spawn(async move {
        let mut heads: Vec<String> = Vec::new();
        while heads.len() < 4 {
            let (mut client, _) = listener.accept().await.expect("a client");
            let mut head = vec![0; 4096];
            let length = client.read(&mut head).await.expect("a request");
            heads.push(String::from_utf8_lossy(&head[..length]).to_lowercase());
        }
        heads
    });
    let give_up = Duration::from_millis(300);
    let client = Client::new(Settings::new(&url, "token").give_up_after(give_up)).expect("a client").within(trace());
    assert!(client.append(&request("note-a", &["1".into()], None)).await.is_err(), "nobody answers");
    assert!(client.log(From::Start).next().await.is_err());
    let heads = heads.await.expect("no panic");
    assert!(heads.iter().filter(|head| head.starts_with("post")).count() > 1, "it was sent again");
    for head in heads {
        assert!(head.contains(&format!("traceparent: {PARENT}")) && head.contains("tracestate: vendor=1"), "{head}");
    }

    let rig = Rig::serving().await;
    let client = Client::new(Settings::new(&rig.region.url, &rig.region.tokens.appender)).expect("a client");
    client.within(trace()).append(&request("note-a", &["1".into()], None)).await.expect("acknowledged");
    let Some(Record::Event(record)) = client.log(From::Start).next().await.expect("readable") else {
        panic!("an event")
    };
    assert_eq!(TraceContext::of(&record.event), Some(trace()), "it is in the record");
    rig.end().await;
}
