//! REP-3 for a reader: what is read with `confirmed=true` is in both regions, so that a forced failover takes none of it back,
//! and what it takes back was never read so.

use coldstream_client::{Client, From, Settings};
use domain::{ErrorKind, StreamName, StreamVersion};
use futures::StreamExt;
use futures::stream::BoxStream;
use ops::dev::Region;
use system_tests::two_regions::{TwoRegions, append_run, head_beyond, until};

async fn get(region: &Region, query: &str) -> reqwest::Response {
    let request = reqwest::Client::new().get(format!("{}/v1/log?{query}", region.url));
    let answer = request.bearer_auth(&region.tokens.auditor).send().await.expect("an answer");
    assert_eq!(answer.status().as_u16(), 200);
    answer
}

async fn lines(region: &Region, query: &str) -> Vec<String> {
    let text = get(region, query).await.text().await.expect("whole");
    text.lines().map(str::to_owned).collect()
}

/// A tail, line by line; an empty one is a sign of life.
struct Tail(BoxStream<'static, Vec<u8>>, String);

impl Tail {
    async fn of(region: &Region, query: &str) -> Self {
        let pieces = get(region, query).await.bytes_stream().map(|piece| piece.expect("whole").to_vec());
        Self(pieces.boxed(), String::new())
    }

    async fn line(&mut self) -> String {
        loop {
            if let Some((line, rest)) = self.1.split_once('\n') {
                let (line, rest) = (line.to_owned(), rest.to_owned());
                self.1 = rest;
                return line;
            }
            let bytes = self.0.next().await.expect("it goes on");
            self.1.push_str(std::str::from_utf8(&bytes).expect("UTF-8"));
        }
    }

    async fn record(&mut self) -> String {
        loop {
            let line = self.line().await;
            if line.contains("specversion") {
                return line;
            }
        }
    }
}

/// How many records the client gives of what is confirmed; of a stream it is told that there is no such thing.
async fn read_by_client(region: &Region) -> usize {
    let client = Client::new(Settings::new(&region.url, &region.tokens.auditor)).expect("a client");
    let mut log = client.log(From::Start).confirmed();
    let mut read = 0;
    while log.next().await.expect("readable").is_some() {
        read += 1;
    }
    let stream = StreamName::parse("note-1").expect("a name");
    let error = client.stream(&stream, StreamVersion::FIRST).confirmed().next().await.expect_err("only of the log");
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    read
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forced_failover_takes_back_nothing_that_was_read_as_confirmed() {
    let mut regions = TwoRegions::start().await;
    let mut tails = [
        Tail::of(&regions.home, "confirmed=true&follow=true").await,
        Tail::of(&regions.home, "confirmed=true&follow=true&category=note").await,
    ];
    append_run(&regions.home, "one", 20).await;
    until("the other region has confirmed all of it", async || {
        let there = lines(&regions.home, "confirmed=true").await.len();
        if there == 20 { Ok(()) } else { Err(there) }
    })
    .await;
    let confirmed = lines(&regions.home, "confirmed=true").await;
    assert_eq!(confirmed, lines(&regions.home, "").await);
    for tail in &mut tails {
        for expected in &confirmed {
            assert_eq!(&tail.record().await, expected);
        }
    }
    head_beyond(&regions.dr, 20).await;
    assert_eq!(lines(&regions.dr, "confirmed=true").await, confirmed, "a follower has what came from there");

    regions.dr.kill_server().await.expect("killed");
    append_run(&regions.home, "lost", 5).await;
    assert_eq!(lines(&regions.home, "").await.len(), 25);
    for query in ["confirmed=true", "confirmed=true&category=note", "confirmed=true&from=21", "confirmed=true&from=24"]
    {
        let read = lines(&regions.home, query).await;
        assert_eq!(read.len(), if query.contains("from") { 0 } else { 20 }, "{query}");
    }
    assert_eq!(read_by_client(&regions.home).await, 20);
    let newest = lines(&regions.home, "confirmed=true&direction=backward&limit=1").await;
    assert_eq!(newest, confirmed[19..]);
    for tail in &mut tails {
        // Two signs of life: between them it has looked.
        assert_eq!([tail.line().await, tail.line().await], ["", ""]);
    }

    regions.home.kill().await.expect("killed");
    regions.dr.serve().await.expect("it serves again");
    let words = ["failover", "promote", "--force", "--accept-unknown-loss", "--yes"];
    let promoted = regions.command(&regions.dr, &words).await;
    assert_eq!(promoted.code, Some(0), "{}", promoted.talk);
    append_run(&regions.dr, "after", 3).await;
    let now = lines(&regions.dr, "").await;
    assert_eq!(now[..20], confirmed, "byte for byte where they were");
    assert!(now.len() == 23 && !now.iter().any(|line| line.contains("lost:")));
    assert_eq!(lines(&regions.dr, "confirmed=true").await, confirmed, "nobody else has the rest yet");
    regions.end().await;
}
