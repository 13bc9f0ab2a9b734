//! LOG-1 where a process stops without dying: another process of the log goes on, and the one that wakes up never
//! acknowledges what is not there.

mod log_common;

use std::time::Duration;

use log_common::{Database, is_sound};
use ops::dev::process::Server;
use ops::dev::region::Region;
use rand::Rng;
use rustix::process::Signal;
use sqlx::{Connection, PgConnection, Row};
use system_tests::torture::{Answer, Client, Journal, Request, Second, Writers, plan, served};
use system_tests::two_regions::random;
use tempfile::TempDir;

/// How often the database says, one look after the other, that a session waits for its client until that is believed:
/// what the stopped client had sent already takes a moment to arrive.
const LOOKS: usize = 25;
/// Catching a process in the middle of a COPY of a few hundred milliseconds does not always work the first time.
const TRIES: usize = 40;

/// One region and two processes of its log.
struct Two {
    region: Region,
    second: Second,
    client: Client,
    database: Database,
    _folder: TempDir,
}

impl Two {
    async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut region = Region::single(&plan(folder.path(), None)).await.expect("a region");
        region.serve().await.expect("it serves");
        let second = Second::start(&region).await;
        let client = Client::new(&region.tokens.appender);
        let (url, admin_url) = (region.database_url(), region.superuser_url());
        let database = Database { name: "coldstream".into(), url, admin_url };
        Self { region, second, client, database, _folder: folder }
    }

    fn first(&mut self) -> &mut Server {
        self.region.server().expect("it serves")
    }

    /// How many sessions of the other one a process has ended.
    async fn ended_by(&self, url: &str) -> u64 {
        self.client.metric(url, "log_terminated_holders_total").await
    }

    async fn end(self) {
        assert_eq!(self.second.stop().await, Some(0));
        self.region.end().await.expect("it ends");
    }
}

/// What the appending sessions are at, one row each: is it in COPY, and does it wait for its client?
async fn in_copy(watch: &mut PgConnection) -> Vec<bool> {
    let query = "SELECT wait_event IS NOT DISTINCT FROM 'ClientRead' AS waits FROM pg_stat_activity
        WHERE application_name = 'coldstream append' AND state = 'active' AND query LIKE 'COPY %'";
    let rows = sqlx::query(query).fetch_all(watch).await.expect("readable");
    rows.iter().map(|row| row.get("waits")).collect()
}

/// Stops `server` while it sends a COPY. `false` if the COPY was over already: then it goes on.
async fn stop_in_copy(server: &Server, watch: &mut PgConnection) -> bool {
    while in_copy(watch).await.is_empty() {
        tokio::task::yield_now().await;
    }
    server.signal(Signal::STOP).expect("stopped");
    let mut waiting = 0;
    let mut look = tokio::time::interval(Duration::from_millis(4));
    while waiting < LOOKS {
        look.tick().await;
        waiting = match in_copy(watch).await.as_slice() {
            [true] => waiting + 1,
            [] => {
                server.signal(Signal::CONT).expect("it goes on");
                return false;
            }
            _ => 0,
        };
    }
    true
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_stopped_in_the_middle_of_a_copy_does_not_stop_the_other_one() {
    let mut two = Two::start().await;
    let mut watch = PgConnection::connect(&two.database.admin_url).await.expect("connected");
    let mut stopped = None;
    for number in 0..TRIES {
        // Larger than what the sockets between them can hold: a stopped client leaves the server without its rest.
        let ids = (0..16).map(|index| format!("big-{number}-{index}")).collect();
        let request = Request::batch("/frozen", "thing-big", "any", ids, 980_000);
        let (client, url, sent) = (two.client.clone(), two.region.url.clone(), request.clone());
        let answer = tokio::spawn(async move { client.send(&url, &sent).await });
        if stop_in_copy(two.first(), &mut watch).await {
            stopped = Some((request, answer));
            break;
        }
        assert!(matches!(answer.await.expect("no panic"), Answer::Stored { replayed: false, .. }));
    }
    let (request, answer) = stopped.expect("the process was never caught in a COPY");
    let ended = two.ended_by(&two.second.url).await;

    let small = Request::single("/frozen", "thing-small", "small");
    let Answer::Stored { places, .. } = two.client.send(&two.second.url, &small).await else { panic!("acknowledged") };
    assert!(!answer.is_finished(), "the stopped process answers nobody");
    assert_eq!(two.ended_by(&two.second.url).await, ended + 1, "its session was ended, and that was counted");
    let stored = served(&two.client, &two.second.url).await;
    assert_eq!(stored["small"].2, places[0].position);
    assert!(request.ids.iter().all(|id| !stored.contains_key(id)), "half a request is none");

    two.first().signal(Signal::CONT).expect("it goes on");
    let answer = answer.await.expect("no panic");
    let stored = served(&two.client, &two.second.url).await;
    match &answer {
        Answer::Stored { places, .. } => {
            for place in places {
                assert_eq!(stored[&place.id].2, place.position, "LOG-1: {} was acknowledged", place.id);
            }
        }
        Answer::Problem(503, problem) => {
            assert_eq!(problem["kind"], "unavailable", "{problem}");
            assert!(request.ids.iter().all(|id| !stored.contains_key(id)), "it was said not to be stored: {problem}");
        }
        other => panic!("{other:?}"),
    }
    // A retry settles it, at either process.
    let Answer::Stored { places, .. } = two.client.send(&two.second.url, &request).await else { panic!("settled") };
    let stored = served(&two.client, &two.region.url).await;
    assert!(places.iter().all(|place| stored[&place.id].2 == place.position));
    is_sound(&two.database).await;
    two.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_stopped_at_random_moments_under_load_acknowledge_nothing_that_is_not_there() {
    let (mut two, mut rng) = (Two::start().await, random());
    let token = two.region.tokens.appender.clone();
    let mut of_first = Writers::start(4, "a", &[&two.region.url], &token, &mut rng);
    let mut of_second = Writers::start(4, "b", &[&two.second.url], &token, &mut rng);
    let mut rounds = 0;
    // A stop counts where it met the holder of the head; most of them do.
    while two.ended_by(&two.region.url).await + two.ended_by(&two.second.url).await < 3 {
        rounds += 1;
        assert!(rounds <= TRIES, "no stop ever met the holder of the head");
        of_first.go_on(rng.random_range(10..40)).await;
        two.first().signal(Signal::STOP).expect("stopped");
        of_second.go_on(30).await;
        two.first().signal(Signal::CONT).expect("it goes on");
        of_first.go_on(10).await;
        two.second.server().signal(Signal::STOP).expect("stopped");
        of_first.go_on(30).await;
        two.second.server().signal(Signal::CONT).expect("it goes on");
        let head = is_sound(&two.database).await;
        println!("round {rounds}: head {head}");
    }
    let mut journals = of_first.stop().await;
    journals.extend(of_second.stop().await);
    let stored = served(&two.client, &two.region.url).await;
    Journal::are_all_of(&journals, &stored);
    println!("{} events stored", stored.len());
    two.end().await;
}
