//! LOG-1 to LOG-4 and PRJ-1 all at once: 64 writers in every mode, readers that follow, a service that reads what it has
//! just written, and SIGKILL for server or PostgreSQL every few seconds. Judged by what was asked and answered, and when.
//! STRESS_SECONDS makes it longer; the long form is ten minutes.

mod log_common;

use std::collections::HashMap;
use std::time::Duration;

use coldstream_client::{Client as Reader, From, Settings};
use domain::append::{AppendRequest, Expectation, ExpectedVersion};
use domain::event::NewEvent;
use domain::record::Record;
use domain::{StreamName, StreamVersion};
use log_common::{Database, is_sound};
use ops::dev::region::Region;
use rand::Rng;
use system_tests::torture::{ALONE, Client, Journal, Stored, Writers, plan, served};
use system_tests::two_regions::{event, random};
use tokio::sync::watch;
use tokio::time::{Instant, interval};

const WRITERS: usize = 64;
/// Each writer sends a request so often at most: the load is steady, and a test machine has air for the rest.
const EVERY: Duration = Duration::from_millis(50);
const KILL_EVERY: Duration = Duration::from_secs(10);
/// Longer than any outage here.
const GIVE_UP: Duration = Duration::from_secs(60);

fn seconds() -> Duration {
    let given = std::env::var("STRESS_SECONDS").ok();
    Duration::from_secs(given.map_or(45, |text| text.parse().expect("STRESS_SECONDS is a number")))
}

fn client(region: &Region) -> Reader {
    let settings = Settings::new(&region.url, &region.tokens.appender).give_up_after(GIVE_UP);
    Reader::new(settings).expect("a client")
}

/// Follows the log from its start until it has read as much as `end` says; gives the id at each position.
async fn follow(reader: Reader, mut end: watch::Receiver<Option<u64>>) -> Vec<String> {
    let mut tail = reader.tail(From::Start);
    let mut ids = Vec::new();
    loop {
        if let Some(end) = *end.borrow_and_update()
            && ids.len() as u64 >= end
        {
            return ids;
        }
        tokio::select! {
            record = tail.next() => match record.expect("it goes on").expect("a tail has no end") {
                Record::Event(event) => {
                    assert_eq!(event.position.get(), ids.len() as u64 + 1, "LOG-2: each position once, in order");
                    ids.push(event.event.id);
                }
                Record::Removed(_) => panic!("nothing is removed here"),
            },
            changed = end.changed() => changed.expect("the test says when it is over"),
        }
    }
}

/// A service that reads back, at once, each event that was acknowledged to it.
async fn read_own_writes(service: Reader, stop: watch::Receiver<bool>) -> u64 {
    let stream = StreamName::parse("probe-1").expect("a stream");
    let mut version = 0;
    let mut pace = interval(EVERY);
    while !*stop.borrow() {
        pace.tick().await;
        let new = event(stream.as_str(), &format!("probe:{version}")).to_string();
        let expected = StreamVersion::new(version).map_or(ExpectedVersion::NoStream, ExpectedVersion::Exactly);
        let request = AppendRequest {
            events: vec![NewEvent::from_cloudevent(new.as_bytes()).expect("an event")],
            expect: vec![Expectation { stream: stream.clone(), version: expected }],
            ..AppendRequest::default()
        };
        let appended = service.append(&request).await.expect("acknowledged in the end");
        version = appended.events[0].version.get();
        let mut read = service.stream(&stream, appended.events[0].version);
        let record = read.next().await.expect("served").expect("LOG-1: it was acknowledged, so it is read");
        assert_eq!(record.position(), appended.events[0].position, "LOG-1: where it was said to stand");
    }
    version
}

/// What each of the readers saw is the log.
fn is_the_log(seen: &[String], stored: &Stored) {
    let at: HashMap<u64, &str> = stored.iter().map(|(id, place)| (place.2, id.as_str())).collect();
    assert_eq!(seen.len(), at.len());
    for (id, position) in seen.iter().zip(1_u64..) {
        assert_eq!(at[&position], id, "a reader saw another event at {position}");
    }
}

#[expect(clippy::disallowed_methods, reason = "how long it goes on is real time")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_writers_and_their_readers_agree_on_one_history_whatever_dies() {
    let (folder, mut rng) = (tempfile::tempdir().expect("a folder"), random());
    let mut region = Region::single(&plan(folder.path(), None)).await.expect("a region");
    region.serve().await.expect("it serves");
    let database =
        Database { name: "coldstream".into(), url: region.database_url(), admin_url: region.superuser_url() };
    let ((over, stop), (say, end)) = (watch::channel(false), watch::channel(None));
    let tails: Vec<_> = (0..2).map(|_| tokio::spawn(follow(client(&region), end.clone()))).collect();
    let service = tokio::spawn(read_own_writes(client(&region), stop));
    let (url, token) = (region.url.clone(), region.tokens.appender.clone());
    let mut writers = Writers::start_paced((WRITERS, EVERY), "s", &[&url], &token, &mut rng);

    let until = Instant::now() + seconds();
    let mut kills = interval(KILL_EVERY);
    kills.tick().await;
    while Instant::now() < until {
        kills.tick().await;
        let victim = ALONE[rng.random_range(0..ALONE.len())];
        victim.dies(&mut region, None).await;
        writers.go_on(WRITERS as u64).await;
        println!("{victim:?} died; {} requests are answered so far", writers.answered());
    }
    let calls = writers.calls();
    let journals = writers.stop().await;
    over.send_replace(true);
    let probes = service.await.expect("it read what it wrote");
    let stored = served(&Client::new(&token), &url).await;
    say.send_replace(Some(stored.len() as u64));
    for tail in tails {
        is_the_log(&tail.await.expect("a reader found nothing wrong"), &stored);
    }
    assert_eq!(is_sound(&database).await.get(), stored.len() as u64);
    let (written, probed): (Stored, Stored) = stored.into_iter().partition(|(id, _)| !id.starts_with("probe:"));
    assert_eq!(probed.len() as u64, probes, "LOG-1: each probe is there once");
    Journal::are_all_of(&journals, &written);
    let made = calls.agree_with(&written);
    println!("{made} calls, {} events by writers, {probes} read back at once", written.len());
    region.end().await.expect("it ends");
}
