//! The client against servers that break off, lag, refuse and rot: what it then says is never less than the truth.

use std::time::Duration;

use coldstream_client::{Client, ClientError, Filter, From, Settings};
use domain::append::AppendRequest;
use domain::event::NewEvent;
use domain::{ErrorKind, StreamName, StreamVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{interval, timeout};

/// What a server does with a connection, which it then closes.
#[derive(Clone)]
enum Act {
    /// Reads the request and says nothing.
    Nothing,
    /// Answers with the log's head and these lines: all of its answer.
    Whole(u64, String),
    /// The same, and breaks off before the end.
    Broken(u64, String),
    /// Says a line every 100 ms, and breaks off.
    Paced(Vec<String>),
    /// Refuses with this status and kind.
    Refused(u16, &'static str),
    /// Acknowledges an append of one event, after so many seconds.
    Stored(u64),
    /// Holds the connection, and says nothing for ever.
    Hangs,
}

use Act::{Broken, Hangs, Nothing, Paced, Refused, Stored, Whole};

impl Act {
    async fn answer(&self, client: &mut TcpStream) -> std::io::Result<()> {
        let ok = |head: u64, length: usize, body: &str| {
            format!(
                "HTTP/1.1 200 OK\r\nColdstream-Head: {head}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
            )
        };
        let text = match self {
            Nothing => return Ok(()),
            Whole(head, body) => ok(*head, body.len(), body),
            Broken(head, body) => ok(*head, body.len() + 1, body),
            Paced(_) => ok(10, 1 << 20, ""),
            Refused(status, kind) => {
                let body = format!(r#"{{"kind":"{kind}","status":{status},"detail":"no","fork":"1"}}"#);
                let length = body.len();
                format!("HTTP/1.1 {status} No\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
            }
            Stored(seconds) => {
                // Nothing else happens meanwhile.
                let _ = timeout(Duration::from_secs(*seconds), std::future::pending::<()>()).await;
                ok(1, ACKNOWLEDGED.len(), ACKNOWLEDGED)
            }
            Hangs => std::future::pending::<String>().await,
        };
        client.write_all(text.as_bytes()).await?;
        let Paced(lines) = self else { return Ok(()) };
        let mut pace = interval(Duration::from_millis(100));
        for line in lines {
            pace.tick().await;
            client.write_all(line.as_bytes()).await?;
        }
        Ok(())
    }
}

const ACKNOWLEDGED: &str = r#"{"replayed":false,"events":[
    {"version":"1","position":"1","epoch":"1","recordedat":"2026-01-01T00:00:00.000000Z"}]}"#;

/// Does one act after another, and the last one again and again.
async fn server(acts: Vec<Act>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    tokio::spawn(async move {
        for number in 0.. {
            let (mut client, _) = listener.accept().await.expect("a client");
            let mut request = Vec::new();
            while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                client.read_buf(&mut request).await.expect("a request");
            }
            // Whoever goes away while it is answered is not waited for.
            let _ = acts[number.min(acts.len() - 1)].answer(&mut client).await;
        }
    });
    url
}

fn settings(urls: &[&str], give_up_after: u64) -> Settings {
    let first = Settings::new(urls[0], "token").give_up_after(Duration::from_millis(give_up_after));
    urls[1..].iter().fold(first, |settings, url| settings.or_region(url, "token"))
}

fn client(urls: &[&str], give_up_after: u64) -> Client {
    Client::new(settings(urls, give_up_after)).expect("a client")
}

fn request() -> AppendRequest {
    let event = br#"{"specversion":"1.0","id":"1","source":"/s","type":"t","subject":"a-1"}"#;
    let events = vec![NewEvent::from_cloudevent(event).expect("an event")];
    AppendRequest { events, ..AppendRequest::default() }
}

/// The records of these numbers, all of one stream.
fn lines(numbers: std::ops::RangeInclusive<u64>) -> String {
    let line = |number: u64| {
        let event = format!(r#""specversion":"1.0","id":"{number}","source":"/s","type":"t","subject":"a-1""#);
        let previous = number - 1;
        let place = format!(
            r#""recordedat":"2026-01-01T00:00:00.000000Z","position":"{number}","version":"{number}","previous":"{previous}","epoch":"1""#
        );
        format!("{{{event},{place}}}\n")
    };
    numbers.map(line).collect()
}

fn stream() -> StreamName {
    StreamName::parse("a-1").expect("a stream")
}

fn of_category_a() -> Filter {
    Filter::default().category("a").expect("a filter")
}

/// The position of what came; 0 for the end.
fn place(came: Result<Option<domain::record::Record>, ClientError>) -> u64 {
    came.expect("readable").map_or(0, |record| record.position().get())
}

#[tokio::test]
async fn a_stream_goes_on_where_it_broke_off_once_the_region_that_lags_is_level() {
    let home = server(vec![Broken(10, lines(1..=3)), Nothing]).await;
    let lags = Whole(4, String::new());
    let follower = server(vec![lags.clone(), lags.clone(), lags, Whole(10, lines(4..=6))]).await;
    let mut records = client(&[&home, &follower], 10_000).stream(&stream(), StreamVersion::FIRST);
    for expected in [1, 2, 3, 4, 5, 6, 0] {
        assert_eq!(place(records.next().await), expected);
    }
}

#[tokio::test]
async fn what_a_heartbeat_says_is_that_the_next_break_is_the_first() {
    let beats = Paced(vec!["\n".to_owned(); 7]);
    let url = server(vec![Nothing, beats, Broken(10, lines(1..=1))]).await;
    let mut records = client(&[&url], 300).tail(From::Start);
    assert_eq!(place(records.next().await), 1);
}

#[tokio::test]
async fn a_filtered_tail_that_moves_on_over_what_it_does_not_want_is_alive() {
    let passed = Paced((1..=7).map(|position| format!("{{\"resume\":\"{position}@1\"}}\n")).collect());
    let url = server(vec![Nothing, passed, Broken(10, lines(8..=8))]).await;
    let mut records = client(&[&url], 300).tail_matching(From::Start, of_category_a());
    assert_eq!(place(records.next().await), 8);
}

#[tokio::test]
async fn a_server_that_begins_an_answer_and_breaks_off_each_time_is_given_up_on() {
    let passed = "{\"resume\":\"1@1\"}\n".to_owned();
    for (act, filter) in [(Broken(10, String::new()), Filter::default()), (Broken(10, passed), of_category_a())] {
        let url = server(vec![act]).await;
        let error = client(&[&url], 300).tail_matching(From::Start, filter).next().await.expect_err("no record");
        assert!(matches!(error, ClientError::GaveUp { attempts: 2.., may_be_stored: false, .. }), "{error:?}");
    }
}

#[tokio::test]
async fn a_refusal_hides_no_append_that_may_be_stored() {
    let home = server(vec![Nothing]).await;
    let other = server(vec![Refused(401, "denied")]).await;
    let error = client(&[&home, &other], 1_000).append(&request()).await.expect_err("not acknowledged");
    assert_eq!(error.kind(), ErrorKind::Indeterminate);
    let ClientError::GaveUp { attempts: 3.., last, denied: Some(denied), .. } = error else { panic!("{error:?}") };
    assert_eq!((last.kind(), denied.kind()), (ErrorKind::Indeterminate, ErrorKind::Denied), "both are told");
    let error = client(&[&other], 10_000).append(&request()).await.expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Denied, "nothing went before it");
    let error = client(&[&other, &other], 10_000).append(&request()).await.expect_err("refused");
    assert!(matches!(error, ClientError::Refused { kind: ErrorKind::Denied, .. }), "{error:?}");
}

#[tokio::test]
async fn a_region_that_refuses_its_token_is_left_for_one_that_takes_its_own() {
    let home = server(vec![Refused(503, "unavailable"), Stored(0)]).await;
    let other = server(vec![Refused(401, "denied")]).await;
    let client = client(&[&home, &other], 10_000);
    for _ in 0..2 {
        client.append(&request()).await.expect("home takes it");
    }
}

#[tokio::test]
async fn an_answer_that_takes_its_time_is_waited_for_and_nothing_is_sent_again() {
    let slow = server(vec![Stored(11), Refused(400, "invalid")]).await;
    client(&[&slow], 30_000).append(&request()).await.expect("acknowledged");
}

#[tokio::test]
async fn a_server_that_hangs_is_left_after_the_time_that_was_said() {
    let (hung, other) = (server(vec![Hangs]).await, server(vec![Stored(0), Whole(1, lines(1..=1))]).await);
    let settings = settings(&[&hung, &other], 10_000).answer_within(Duration::from_millis(200));
    let client = Client::new(settings).expect("a client");
    client.append(&request()).await.expect("the other one takes it");
    assert_eq!(place(client.log(From::Start).next().await), 1);
}

#[tokio::test]
async fn a_read_that_broke_off_stores_nothing_so_that_a_refusal_after_it_is_told_as_it_is() {
    let url = server(vec![Broken(10, lines(1..=1)), Refused(409, "forked")]).await;
    let mut records = client(&[&url], 10_000).tail(From::Start);
    assert_eq!(place(records.next().await), 1);
    let error = records.next().await.expect_err("its branch lost");
    assert_eq!((error.kind(), error.fork().map(|fork| fork.get())), (ErrorKind::Forked, Some(1)), "{error:?}");
}

#[tokio::test]
async fn a_line_that_is_rotten_is_asked_for_again_and_never_passed_over() {
    let rotten = format!("{{\"rotten\n{}", lines(2..=2));
    let url = server(vec![Whole(2, rotten), Whole(2, lines(1..=2))]).await;
    let mut records = client(&[&url], 10_000).log_matching(From::Start, of_category_a());
    assert_eq!(records.next().await.expect_err("a rotten line").kind(), ErrorKind::Corrupt);
    for expected in [1, 2, 0] {
        assert_eq!(place(records.next().await), expected);
    }
}
