//! LOG-1, LOG-2 and LOG-3 on the real thing: servers and databases die by SIGKILL at random moments under eight writers
//! in every mode, and afterwards the log is exactly what the writers were told.

mod log_common;

use log_common::{Database, is_sound};
use ops::dev::region::Region;
use rand::Rng;
use rand::rngs::StdRng;
use system_tests::torture::{ALONE, Client, Journal, Second, TOGETHER, Writers, plan, served};
use system_tests::two_regions::random;

/// `rounds` of load and death; the rows are checked under load after each, everything in the end.
async fn torture(region: &mut Region, mut second: Option<&mut Second>, rounds: usize, rng: &mut StdRng) {
    let database =
        Database { name: "coldstream".into(), url: region.database_url(), admin_url: region.superuser_url() };
    let (url, token) = (region.url.clone(), region.tokens.appender.clone());
    let mut urls = vec![url.as_str()];
    let second_url = second.as_ref().map(|second| second.url.clone());
    urls.extend(second_url.as_deref());
    let victims = if second.is_none() { ALONE } else { TOGETHER };
    let mut writers = Writers::start(8, "w", &urls, &token, rng);
    for round in 0..rounds {
        writers.go_on(rng.random_range(50..250)).await;
        // In the order of the list first, so that everyone dies whatever the seed is.
        let victim = victims.get(round).copied().unwrap_or_else(|| victims[rng.random_range(0..victims.len())]);
        victim.dies(region, second.as_deref_mut()).await;
        writers.go_on(20).await;
        let head = is_sound(&database).await;
        println!("round {round}: {victim:?}, head {head}");
    }
    let calls = writers.calls();
    let journals = writers.stop().await;
    let stored = served(&Client::new(&token), &url).await;
    Journal::are_all_of(&journals, &stored);
    calls.agree_with(&stored);
    assert_eq!(is_sound(&database).await.get(), u64::try_from(stored.len()).expect("fits"));
    let sum = |count: fn(&Journal) -> u64| journals.iter().map(count).sum::<u64>();
    let (resent, replayed) = (sum(|journal| journal.resent), sum(|journal| journal.replayed));
    println!("{} events stored, {resent} requests sent again, {replayed} of them were stored already", stored.len());
    assert!(resent > 0, "nobody was ever without an answer: the kills hit nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_twenty_kills_of_server_and_database_under_eight_writers() {
    let (folder, mut rng) = (tempfile::tempdir().expect("a folder"), random());
    let mut region = Region::single(&plan(folder.path(), None)).await.expect("a region");
    region.serve().await.expect("it serves");
    torture(&mut region, None, 20, &mut rng).await;
    region.end().await.expect("it ends");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_append_to_one_log_at_once_and_survive_each_others_death() {
    let (folder, mut rng) = (tempfile::tempdir().expect("a folder"), random());
    let mut region = Region::single(&plan(folder.path(), None)).await.expect("a region");
    region.serve().await.expect("it serves");
    let mut second = Second::start(&region).await;
    torture(&mut region, Some(&mut second), 8, &mut rng).await;
    // Both did their part.
    for url in [&region.url, &second.url] {
        let appended = Client::new(&region.tokens.reader).metric(url, "log_events_total").await;
        assert!(appended > 0, "{url} appended nothing");
    }
    assert_eq!(second.stop().await, Some(0));
    region.end().await.expect("it ends");
}
