//! A consumer group where its region is lost: the group's state is not shipped, so the workers begin a group in the other
//! region at a position at which everything was certainly done, and every event is handed out to somebody.

use std::collections::BTreeMap;
use std::time::Duration;

use coldstream_client::{Client, ClientError, Group, Settings};
use domain::filter::Filter;
use domain::group::{ConsumerName, GroupName, NewGroup, Outcome, Settlement, Start};
use domain::{ErrorKind, Position};
use serde_json::Value;
use system_tests::two_regions::{TwoRegions, append_run, head_beyond};

const EVENTS: u64 = 30;

fn client(regions: &TwoRegions) -> Client {
    let settings = Settings::new(&regions.home.url, &regions.home.tokens.appender);
    let settings = settings.or_region(&regions.dr.url, &regions.dr.tokens.appender);
    Client::new(settings.give_up_after(Duration::from_secs(50))).expect("a client")
}

fn from(position: u64) -> NewGroup {
    let start = Start::From(Position::new(position).expect("from 1"));
    let filter = Filter::default().category("note").expect("a category");
    NewGroup { filter, start, ..NewGroup::called(GroupName::parse("mailer").expect("a name")) }
}

/// Takes what there is and does it, but for `left`, which it holds on to; counts what it was handed.
async fn work(group: &Group, left: &[u64], handed: &mut BTreeMap<u64, u32>) {
    let consumer = ConsumerName::parse("worker").expect("a name");
    while let Some(lease) = group.take(&consumer, 7, Duration::from_secs(1)).await.expect("taken") {
        let positions = lease.deliveries.iter().map(|delivery| delivery.record.position());
        let mut done = Vec::new();
        for position in positions {
            *handed.entry(position.get()).or_default() += 1;
            if !left.contains(&position.get()) {
                done.push(Settlement { position, outcome: Outcome::Done });
            }
        }
        group.settle(&lease, &done).await.expect("settled");
    }
}

/// Up to here everything was done, as the region says.
async fn checkpoint(url: &str, token: &str) -> u64 {
    let asked = reqwest::Client::new().get(format!("{url}/v1/group/status?group=mailer")).bearer_auth(token);
    let status: Value = asked.send().await.expect("an answer").json().await.expect("JSON");
    status["checkpoint"].as_str().unwrap_or_else(|| panic!("{status}")).parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_go_on_in_the_other_region_from_where_everything_was_done() {
    let mut regions = TwoRegions::start().await;
    for run in 0..EVENTS {
        append_run(&regions.home, &run.to_string(), 1).await;
    }
    head_beyond(&regions.dr, EVENTS).await;
    let client = client(&regions);
    let group = client.create_group(&from(1)).await.expect("created");
    // One event is held by a worker when the region goes; all beyond it is done, and that is not known elsewhere.
    let (mut handed, held) = (BTreeMap::new(), 12);
    work(&group, &[held], &mut handed).await;
    assert_eq!(handed.len() as u64, EVENTS);
    let done_to = checkpoint(&regions.home.url, &regions.home.tokens.reader).await;
    assert_eq!(done_to, held - 1);

    regions.home.kill().await.expect("killed");
    let words = ["failover", "promote", "--force", "--accept-unknown-loss", "--yes"];
    let promoted = regions.command(&regions.dr, &words).await;
    assert_eq!(promoted.code, Some(0), "{promoted:?}");
    let consumer = ConsumerName::parse("worker").expect("a name");
    let unknown = group.take(&consumer, 7, Duration::ZERO).await.expect_err("no group was shipped");
    assert!(matches!(unknown, ClientError::Refused { kind: ErrorKind::NotFound, .. }), "{unknown:?}");
    let group = client.create_group(&from(done_to + 1)).await.expect("created in the region that is active now");
    append_run(&regions.dr, "after", 3).await;
    work(&group, &[], &mut handed).await;
    assert_eq!(handed.len() as u64, EVENTS + 3, "every event was handed out");
    assert!(
        handed.range(..held).all(|(_, times)| *times == 1),
        "what was done before the checkpoint is not done again"
    );
    assert!(handed.range(held..=EVENTS).all(|(_, times)| *times == 2), "the rest is at least once: {handed:?}");
    assert_eq!(checkpoint(&regions.dr.url, &regions.dr.tokens.reader).await, EVENTS + 3);
    regions.dr.end().await.expect("it ends");
}
