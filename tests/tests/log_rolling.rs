//! LOG-1 through a rolling restart: two processes serve one log and are restarted in turn, and nobody goes without service.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use coldstream_client::{Client as Reader, From, Settings};
use domain::record::Record;
use ops::dev::region::Region;
use system_tests::torture::{Answer, Client, Place, Request, Second, plan, served};
use tokio::sync::watch;
use tokio::task::JoinHandle;

const WRITERS: usize = 6;
const ROUNDS: usize = 3;
/// How long a process that is told to end is there for those who have not noticed.
const DRAIN_SECONDS: u64 = 2;
/// How often the balancer asks who is ready: many times in that.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What a writer was told.
#[derive(Default)]
struct Told {
    acknowledged: Vec<Place>,
    /// Requests that the process refused which was ending, or did not answer: the other one took them at once.
    sent_on: u64,
}

/// Writers that know both processes, how often each has been answered, and what tells them to stop.
struct Writers {
    tasks: Vec<JoinHandle<Told>>,
    stop: Arc<AtomicBool>,
    answered: watch::Receiver<Vec<u64>>,
}

impl Writers {
    /// Starts them; `ask` appends one request, and gives where it stands and how often it was sent on.
    fn start<F: Future<Output = (Place, u64)> + Send>(
        region: &Region,
        ask: impl Fn(Client, usize, Request) -> F + Clone + Send + 'static,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (told, answered) = watch::channel(vec![0; WRITERS]);
        let write = |writer: usize| {
            let client = Client::new(&region.tokens.appender);
            let (stop, told, ask) = (stop.clone(), told.clone(), ask.clone());
            tokio::spawn(async move {
                let mut mine = Told::default();
                for number in 0.. {
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                    let id = format!("{writer}:{number}");
                    let request = Request::single("/rolling", &format!("thing-{writer}"), &id);
                    let (place, sent_on) = ask(client.clone(), writer, request).await;
                    mine.acknowledged.push(place);
                    mine.sent_on += sent_on;
                    told.send_modify(|counts| counts[writer] += 1);
                }
                mine
            })
        };
        Self { tasks: (0..WRITERS).map(write).collect(), stop, answered }
    }

    /// Waits until each was answered some times more: all are served again by whoever is there.
    async fn go_on(&mut self) {
        let before = self.answered.borrow().clone();
        let more = |now: &Vec<u64>| now.iter().zip(&before).all(|(now, before)| now >= &(before + 20));
        self.answered.wait_for(more).await.expect("the writers are at work");
    }

    async fn stop(self) -> Told {
        self.stop.store(true, Ordering::SeqCst);
        let mut all = Told::default();
        for task in self.tasks {
            let told = task.await.expect("a writer found nothing wrong");
            all.acknowledged.extend(told.acknowledged);
            all.sent_on += told.sent_on;
        }
        all
    }
}

/// Restarts both, one after the other, some times.
async fn restart_in_turn(region: &mut Region, second: &mut Second, writers: &mut Writers) {
    for _ in 0..ROUNDS {
        writers.go_on().await;
        assert_eq!(region.stop_server().await.expect("it ends"), Some(0), "in good order");
        region.serve().await.expect("it serves again");
        writers.go_on().await;
        assert_eq!(second.end().await, Some(0), "in good order");
        second.serve().await;
    }
    writers.go_on().await;
}

/// Reads the log as it grows, until as much was read as `end` says; gives the id at each position.
async fn follow(reader: Reader, mut end: watch::Receiver<Option<usize>>) -> Vec<String> {
    let (mut tail, mut ids) = (reader.tail(From::Start), Vec::new());
    while end.borrow_and_update().is_none_or(|end| ids.len() < end) {
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
    ids
}

/// What is stored is what was acknowledged, and a reader saw all of it.
async fn agree(region: &Region, told: &Told, seen: Vec<String>) {
    let stored = served(&Client::new(&region.tokens.appender), &region.url).await;
    assert_eq!(stored.len(), told.acknowledged.len(), "LOG-1: no request is lost and none is stored twice");
    let at: HashMap<&str, u64> = stored.iter().map(|(id, place)| (id.as_str(), place.2)).collect();
    for place in &told.acknowledged {
        assert_eq!(at.get(place.id.as_str()), Some(&place.position), "LOG-1: {} was acknowledged", place.id);
    }
    for (id, position) in seen.iter().zip(1_u64..) {
        assert_eq!(at[id.as_str()], position);
    }
    println!("{} appends, {} sent on to the other process", told.acknowledged.len(), told.sent_on);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_processes_that_are_restarted_in_turn_the_other_one_takes_each_refused_request_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut region = Region::single(&plan(folder.path(), None)).await.expect("a region");
    region.serve().await.expect("it serves");
    let mut second = Second::start(&region).await;
    let urls = Arc::new([region.url.clone(), second.url.clone()]);
    let settings = Settings::new(&urls[0], &region.tokens.reader).or_region(&urls[1], &region.tokens.reader);
    let (say, end) = watch::channel(None);
    let tail = tokio::spawn(follow(Reader::new(settings).expect("a client"), end));

    let mut writers = Writers::start(&region, move |client, writer, request| {
        let urls = urls.clone();
        async move {
            // Each has a process of its own, and turns to the other one only for the request that was refused.
            let place = match client.send(&urls[writer % 2], &request).await {
                Answer::Stored { replayed: false, places } => return (places[0].clone(), 0),
                Answer::Problem(503, problem) => {
                    assert_eq!(problem["kind"], "unavailable", "{problem}");
                    Some(false)
                }
                Answer::None(_) => None,
                other => panic!("{other:?}"),
            };
            match (client.send(&urls[(writer + 1) % 2], &request).await, place) {
                (Answer::Stored { replayed, places }, known) => {
                    assert!(known.is_none_or(|stored| stored == replayed), "LOG-4: it was said not to be stored");
                    (places[0].clone(), 1)
                }
                (other, _) => panic!("the other process is there: {other:?}"),
            }
        }
    });
    restart_in_turn(&mut region, &mut second, &mut writers).await;
    let told = writers.stop().await;
    say.send_replace(Some(told.acknowledged.len()));
    agree(&region, &told, tail.await.expect("no panic")).await;
    assert!(told.sent_on > 0, "somebody was refused");
    assert_eq!(second.stop().await, Some(0));
    region.end().await.expect("it ends");
}

/// Asks both processes all the time who is ready, as a load balancer does, until it is dropped.
fn balance(urls: Arc<[String; 2]>) -> (watch::Receiver<[bool; 2]>, JoinHandle<u64>) {
    let (say, ready) = watch::channel([true; 2]);
    let asking = tokio::spawn(async move {
        let (http, mut look, mut refused) = (reqwest::Client::new(), tokio::time::interval(LOOK_EVERY), 0);
        while !say.is_closed() {
            look.tick().await;
            for (index, url) in urls.iter().enumerate() {
                let answer = http.get(format!("{url}/health/ready")).send().await;
                let good = answer.as_ref().is_ok_and(|answer| answer.status().is_success());
                refused += u64::from(answer.is_ok_and(|answer| answer.status().as_u16() == 503));
                say.send_modify(|ready| ready[index] = good);
            }
        }
        refused
    });
    (ready, asking)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_a_balancer_that_asks_who_is_ready_nobody_notices_that_processes_are_restarted() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut plan = plan(folder.path(), None);
    plan.settings.push(("http.drain_seconds", i64::try_from(DRAIN_SECONDS).expect("small").into()));
    let mut region = Region::single(&plan).await.expect("a region");
    region.serve().await.expect("it serves");
    let mut second = Second::start(&region).await;
    let urls = Arc::new([region.url.clone(), second.url.clone()]);
    let (ready, asking) = balance(urls.clone());
    let balanced = ready.clone();
    let mut writers = Writers::start(&region, move |client, writer, request| {
        let (urls, ready) = (urls.clone(), *balanced.borrow());
        async move {
            let to = if ready[writer % 2] { writer % 2 } else { (writer + 1) % 2 };
            match client.send(&urls[to], &request).await {
                Answer::Stored { replayed: false, places } => (places[0].clone(), 0),
                other => panic!("nobody is refused: {other:?}"),
            }
        }
    });
    restart_in_turn(&mut region, &mut second, &mut writers).await;
    let told = writers.stop().await;
    agree(&region, &told, Vec::new()).await;
    drop(ready);
    assert!(
        asking.await.expect("no panic") > 0,
        "a process that is told to end says that it is not ready, and serves on"
    );
    // A second signal waits for no balancer.
    let server = region.server().expect("it runs");
    server.signal(rustix::process::Signal::TERM).expect("told");
    let http = reqwest::Client::new();
    let mut look = tokio::time::interval(LOOK_EVERY);
    while http.get(format!("{}/health/ready", region.url)).send().await.is_ok_and(|answer| answer.status().is_success())
    {
        look.tick().await;
    }
    assert_eq!(region.stop_server().await.expect("it ends"), Some(0));
    assert_eq!(second.stop().await, Some(0));
    region.end().await.expect("it ends");
}
