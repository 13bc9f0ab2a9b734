//! Writers in every mode at once, each with a journal of what it was told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::calls::Calls;
use super::request::{Answer, Client, Place, Request};

/// Streams that all writers append to without a word about versions.
const SHARED: usize = 5;
/// Streams that a writer has to itself: it always knows their version.
const OWN: usize = 3;
/// So many names are to be had; each writer tries for all of them, one after the other.
const NAMES: u64 = 400;
/// The stream for which all writers compete.
const RACE: &str = "race-1";
/// After no answer, the next try comes at most this soon.
const PAUSE: Duration = Duration::from_millis(20);

/// What a writer was told.
#[derive(Debug, Default)]
pub struct Journal {
    /// Where its events stand.
    pub acknowledged: Vec<Place>,
    /// Ids of requests that lost a race: they must not be in the log.
    pub refused: Vec<String>,
    /// How many requests had to be sent again for want of an answer.
    pub resent: u64,
    /// How many of them turned out to be stored already.
    pub replayed: u64,
}

/// Writers at work.
pub struct Writers {
    tasks: Vec<JoinHandle<Journal>>,
    stop: Arc<AtomicBool>,
    requests: watch::Receiver<u64>,
    calls: Arc<Calls>,
}

impl Writers {
    /// Starts `count` writers, each of which sends every request to any of `urls`. `name` is part of their ids.
    #[must_use]
    pub fn start(count: usize, name: &str, urls: &[&str], token: &str, rng: &mut StdRng) -> Self {
        Self::start_paced((count, Duration::from_micros(1)), name, urls, token, rng)
    }

    /// Writers of which each sends a request at most `every` so often.
    #[must_use]
    pub fn start_paced(
        (count, every): (usize, Duration),
        name: &str,
        urls: &[&str],
        token: &str,
        rng: &mut StdRng,
    ) -> Self {
        let (stop, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(Calls::default()));
        let (answered, requests) = watch::channel(0);
        let writer = |number: usize| {
            let writer = Writer {
                client: Client::new(token),
                urls: urls.iter().map(|url| (*url).to_owned()).collect(),
                name: format!("{name}{number}"),
                source: format!("/writers/{name}{number}"),
                rng: StdRng::seed_from_u64(rng.random()),
                number: 0,
                own: [0; OWN],
                race: 0,
                name_number: 0,
                last: None,
                journal: Journal::default(),
                calls: Arc::clone(&calls),
            };
            tokio::spawn(writer.run(every, stop.clone(), answered.clone()))
        };
        Self { tasks: (0..count).map(writer).collect(), stop, requests, calls }
    }

    /// How many requests were answered so far.
    #[must_use]
    pub fn answered(&self) -> u64 {
        *self.requests.borrow()
    }

    /// Waits until `more` requests were answered.
    ///
    /// # Panics
    /// If the writers have ended, which they do only by a panic.
    pub async fn go_on(&mut self, more: u64) {
        let target = self.answered() + more;
        self.requests.wait_for(|answered| *answered >= target).await.expect("the writers are at work");
    }

    /// All calls so far, and to come.
    #[must_use]
    pub fn calls(&self) -> Arc<Calls> {
        Arc::clone(&self.calls)
    }

    /// Lets each writer have the answer that it waits for, and gives their journals.
    ///
    /// # Panics
    /// With what a writer found wrong.
    pub async fn stop(self) -> Vec<Journal> {
        self.stop.store(true, Ordering::SeqCst);
        let mut journals = Vec::new();
        for task in self.tasks {
            journals.push(task.await.expect("a writer found nothing wrong"));
        }
        journals
    }
}

struct Writer {
    client: Client,
    urls: Vec<String>,
    name: String,
    source: String,
    rng: StdRng,
    number: u64,
    /// The versions of its own streams.
    own: [u64; OWN],
    /// The version that it believes the contested stream to have.
    race: u64,
    /// The name that it tries for next.
    name_number: u64,
    /// What was acknowledged last, and how.
    last: Option<(Request, Vec<Place>)>,
    journal: Journal,
    calls: Arc<Calls>,
}

impl Writer {
    async fn run(mut self, every: Duration, stop: Arc<AtomicBool>, answered: watch::Sender<u64>) -> Journal {
        let mut pace = tokio::time::interval(every);
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !stop.load(Ordering::SeqCst) {
            pace.tick().await;
            match self.rng.random_range(0..9) {
                0 => self.any().await,
                1 => self.exactly().await,
                2 => self.no_stream().await,
                3 => self.many_streams().await,
                4 => self.exists().await,
                5 => self.name().await,
                6 => self.again().await,
                7 => self.with_other_content().await,
                _ => self.race().await,
            }
            answered.send_modify(|count| *count += 1);
        }
        self.journal
    }

    fn id(&mut self) -> String {
        self.number += 1;
        format!("{}:{}", self.name, self.number)
    }

    fn shared(&mut self) -> String {
        format!("shared-{}", self.rng.random_range(0..SHARED))
    }

    async fn any(&mut self) {
        let (stream, id) = (self.shared(), self.id());
        self.acknowledged(&Request::single(&self.source, &stream, &id)).await;
    }

    async fn exactly(&mut self) {
        let index = self.rng.random_range(0..OWN);
        let stream = format!("own-{}-{index}", self.name);
        let ids: Vec<String> = (0..self.rng.random_range(1..12)).map(|_| self.id()).collect();
        let pad = if self.rng.random_ratio(1, 20) { 100_000 } else { 20 };
        let request = Request::batch(&self.source, &stream, &expected(self.own[index]), ids, pad);
        for place in self.acknowledged(&request).await {
            self.own[index] += 1;
            assert_eq!((place.stream, place.version), (stream.clone(), self.own[index]), "LOG-3: {}", place.id);
        }
    }

    async fn no_stream(&mut self) {
        let id = self.id();
        let stream = format!("once-{id}");
        let places = self.acknowledged(&Request::batch(&self.source, &stream, "none", vec![id], 20)).await;
        assert_eq!(places[0].version, 1, "LOG-3: the first event of {stream}");
    }

    /// A new stream, one of its own and a shared one, all or nothing; checked against another one of its own.
    async fn many_streams(&mut self) {
        let (index, shared, ids) = (self.rng.random_range(0..OWN), self.shared(), [self.id(), self.id(), self.id()]);
        let (new, own) = (format!("many-{}", ids[0]), format!("own-{}-{index}", self.name));
        let checked = (index + 1) % OWN;
        let other = format!("own-{}-{checked}", self.name);
        let events = [(new.as_str(), ids[0].clone()), (&own, ids[1].clone()), (&shared, ids[2].clone())];
        let expect =
            [(new.as_str(), "none".into()), (&own, expected(self.own[index])), (&other, expected(self.own[checked]))];
        let places = self.acknowledged(&Request::document(&self.source, &events, &expect)).await;
        self.own[index] += 1;
        assert_eq!((places[0].version, places[1].version), (1, self.own[index]), "LOG-3: {}", ids[0]);
        assert_eq!(places[2].position, places[0].position + 2, "a request's positions follow each other");
    }

    /// A stream of its own that has had events, whatever its version.
    async fn exists(&mut self) {
        let Some(index) = (0..OWN).find(|index| self.own[*index] > 0) else { return };
        let (stream, id) = (format!("own-{}-{index}", self.name), self.id());
        let places = self.acknowledged(&Request::batch(&self.source, &stream, "exists", vec![id], 20)).await;
        self.own[index] += 1;
        assert_eq!(places[0].version, self.own[index], "LOG-3: {}", places[0].id);
    }

    /// One of all the writers gets each name.
    async fn name(&mut self) {
        if self.name_number == NAMES {
            return;
        }
        self.name_number += 1;
        let (tag, id) = (format!("name:{}", self.name_number), self.id());
        let request = Request::claim(&self.source, &format!("named-{id}"), &id, &tag);
        if self.answered(&request).await.is_err() {
            self.journal.refused.extend(request.ids);
        }
    }

    /// LOG-4: what was acknowledged is sent once more, as by a client that has forgotten the answer.
    async fn again(&mut self) {
        let Some((request, places)) = self.last.clone() else { return };
        loop {
            let begun = self.calls.begin();
            let answer = self.client.send(self.urls.choose(&mut self.rng).expect("there is a server"), &request).await;
            self.calls.end(begun, &request, &answer);
            match answer {
                Answer::Stored { replayed, places: again } => {
                    assert_eq!((replayed, again), (true, places), "LOG-4: the first positions");
                    return;
                }
                answer => self.passes(&answer).await,
            }
        }
    }

    /// LOG-4: known ids with other content are refused, and nothing is stored.
    async fn with_other_content(&mut self) {
        let Some((request, _)) = self.last.clone() else { return };
        let request = request.with_other_content();
        loop {
            match self.client.send(self.urls.choose(&mut self.rng).expect("there is a server"), &request).await {
                Answer::Problem(409, problem) => {
                    assert_eq!(problem["kind"], "conflict", "LOG-4: {problem}");
                    return;
                }
                Answer::Stored { .. } => panic!("LOG-4: {:?} was taken with other content", request.ids),
                answer => self.passes(&answer).await,
            }
        }
    }

    /// Waits a moment after an answer that leaves a request open.
    async fn passes(&mut self, answer: &Answer) {
        if let Answer::Problem(status, problem) = answer {
            assert!(matches!(status, 503 | 504), "{status}: {problem}");
        }
        let mut pause = tokio::time::interval(PAUSE);
        pause.tick().await;
        pause.tick().await;
    }

    /// One of all the writers wins each version.
    async fn race(&mut self) {
        let (shared, ids) = (self.shared(), [self.id(), self.id()]);
        let events = [(shared.as_str(), ids[0].clone()), (RACE, ids[1].clone())];
        let request = Request::document(&self.source, &events, &[(RACE, expected(self.race))]);
        match self.answered(&request).await {
            Ok(places) => {
                self.race += 1;
                assert_eq!(places[1].version, self.race, "LOG-3: {}", ids[1]);
            }
            Err(problem) => {
                let actual = problem["actual"].as_str().and_then(|text| text.parse().ok());
                let actual = actual.unwrap_or_else(|| panic!("{problem}"));
                assert!(actual > self.race, "refused though the version was right: {problem}");
                self.race = actual;
                self.journal.refused.extend(request.ids);
            }
        }
    }

    async fn acknowledged(&mut self, request: &Request) -> Vec<Place> {
        self.answered(request).await.unwrap_or_else(|problem| panic!("{:?} was refused: {problem}", request.ids))
    }

    /// Sends `request` until it is acknowledged or refused.
    async fn answered(&mut self, request: &Request) -> Result<Vec<Place>, Value> {
        let mut pause = tokio::time::interval(PAUSE);
        let mut sent = 0;
        loop {
            pause.tick().await;
            let url = self.urls.choose(&mut self.rng).expect("there is a server");
            let begun = self.calls.begin();
            let answer = self.client.send(url, request).await;
            self.calls.end(begun, request, &answer);
            match answer {
                Answer::Stored { replayed, places } => {
                    assert!(sent > 0 || !replayed, "{:?} is new and was called a retry", request.ids);
                    self.journal.replayed += u64::from(replayed);
                    self.journal.acknowledged.extend(places.iter().cloned());
                    self.last = Some((request.clone(), places.clone()));
                    return Ok(places);
                }
                Answer::Problem(409, problem) => return Err(problem),
                Answer::Problem(503 | 504, problem) => {
                    let kind = problem["kind"].as_str();
                    assert!(matches!(kind, Some("unavailable" | "indeterminate")), "{problem}");
                }
                Answer::Problem(status, problem) => panic!("{status}: {problem}"),
                Answer::None(_) => {}
            }
            sent += 1;
            self.journal.resent += 1;
        }
    }
}

/// How an expectation of a stream at `version` is written; 0 is a stream that has never had an event.
fn expected(version: u64) -> String {
    if version == 0 { "none".to_owned() } else { version.to_string() }
}
