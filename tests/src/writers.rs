//! Writers that append to two regions, as services do: whoever does not acknowledge is asked again, or the other
//! region is, with the same ids. Each keeps a journal of what was acknowledged to it, and of nothing else.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use domain::record::{self, Record, RecordedEvent};
use ops::dev::Region;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::two_regions::until;

const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// A refused writer asks again after this long.
const AGAIN_AFTER: Duration = Duration::from_millis(25);
/// Between two appends of one writer: the load is real, and leaves the machine some air.
const PACE: Duration = Duration::from_millis(8);

/// One acknowledged event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acknowledged {
    /// Its id.
    pub id: String,
    /// Its stream.
    pub stream: String,
    /// Its stream version.
    pub version: u64,
    /// Its position.
    pub position: u64,
    /// The epoch that it was decided in.
    pub epoch: u64,
}

/// What the writers saw.
#[derive(Debug, Default)]
pub struct Journal {
    /// What was acknowledged.
    pub acknowledged: Vec<Acknowledged>,
    /// Requests that were acknowledged as retries.
    pub replayed: u64,
    /// Requests that were refused, or not answered, and sent again.
    pub retried: u64,
}

/// What writers expect of their own stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Belief {
    /// Exactly the version that they were last told.
    Exact,
    /// Nothing.
    Any,
}

/// Writers at work. They are stopped when this is dropped.
pub struct Writers {
    tasks: Vec<JoinHandle<Journal>>,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
}

impl Drop for Writers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

impl Writers {
    /// Starts eight of them: even ones append one event to their own stream, odd ones three events at once, one of
    /// them to a stream that they share.
    #[must_use]
    pub fn start(regions: [&Region; 2], run: &str, belief: Belief) -> Self {
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let targets = regions.map(|region| (format!("{}/v1/append", region.url), region.tokens.appender.clone()));
        let tasks = (0..8_u32).map(|number| {
            let writer = Writer {
                http: reqwest::Client::new(),
                targets: targets.clone(),
                at: 0,
                name: format!("{run}-{number}"),
                several: number % 2 == 1,
                belief,
                stop: Arc::clone(&stop),
                acknowledged: Arc::clone(&acknowledged),
                journal: Journal::default(),
            };
            tokio::spawn(writer.run())
        });
        Self { tasks: tasks.collect(), stop, acknowledged }
    }

    /// Waits until `more` further requests are acknowledged.
    ///
    /// # Panics
    /// If they never are.
    pub async fn more(&self, more: u64) {
        let goal = self.acknowledged.load(Ordering::SeqCst) + more;
        until(&format!("{goal} requests are acknowledged"), async || match self.acknowledged.load(Ordering::SeqCst) {
            there if there >= goal => Ok(()),
            there => Err(there),
        })
        .await;
    }

    /// Stops them; a request that is not acknowledged by now is given up.
    ///
    /// # Panics
    /// If a writer was told something that no region may say.
    pub async fn stop(mut self) -> Journal {
        self.stop.store(true, Ordering::SeqCst);
        let mut all = Journal::default();
        for task in std::mem::take(&mut self.tasks) {
            let journal = task.await.expect("a writer is told only what a region may say");
            all.acknowledged.extend(journal.acknowledged);
            all.replayed += journal.replayed;
            all.retried += journal.retried;
        }
        all
    }
}

struct Writer {
    http: reqwest::Client,
    targets: [(String, String); 2],
    at: usize,
    name: String,
    several: bool,
    belief: Belief,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    journal: Journal,
}

impl Writer {
    async fn run(mut self) -> Journal {
        let mut pace = tokio::time::interval(PACE);
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut version = 0;
        for number in 0_u64.. {
            pace.tick().await;
            let ids = self.ids(number);
            let document = self.document(&ids, version);
            let Some(answer) = self.acknowledged(&document).await else { break };
            let events = answer["events"].as_array().expect("one answer an event");
            assert_eq!(events.len(), ids.len());
            for (id, event) in ids.iter().zip(events) {
                let acknowledged = acknowledged_of(id, event);
                version = if acknowledged.stream == self.own_stream() { acknowledged.version } else { version };
                self.journal.acknowledged.push(acknowledged);
            }
            self.journal.replayed += u64::from(answer["replayed"] == true);
            self.acknowledged.fetch_add(1, Ordering::SeqCst);
        }
        self.journal
    }

    fn own_stream(&self) -> String {
        format!("note-{}", self.name)
    }

    fn ids(&self, number: u64) -> Vec<String> {
        let parts: &[&str] = if self.several { &["a", "b", "c"] } else { &["a"] };
        parts.iter().map(|part| format!("{}:{number}{part}", self.name)).collect()
    }

    fn document(&self, ids: &[String], version: u64) -> String {
        let streams = [self.own_stream(), "shared-all".to_owned(), self.own_stream()];
        let events: Vec<Value> =
            ids.iter().zip(&streams).map(|(id, stream)| crate::two_regions::event(stream, id)).collect();
        let version = if version == 0 { json!("none") } else { json!(version.to_string()) };
        let expect = match self.belief {
            Belief::Exact => json!([{ "stream": self.own_stream(), "version": version }]),
            Belief::Any => json!([]),
        };
        json!({ "expect": expect, "events": events }).to_string()
    }

    /// Sends a request, with the same ids, until somebody acknowledges it.
    async fn acknowledged(&mut self, document: &str) -> Option<Value> {
        let mut pace = tokio::time::interval(AGAIN_AFTER);
        while !self.stop.load(Ordering::SeqCst) {
            pace.tick().await;
            match self.send(document).await {
                Ok((200 | 201, answer)) => return Some(answer),
                // Neither version nor ids of this writer are ever touched by anybody else.
                Ok((408 | 503 | 504, _)) | Err(_) => {
                    self.journal.retried += 1;
                    self.at = 1 - self.at;
                }
                Ok((status, answer)) => panic!("{} was told {status}: {answer}", self.name),
            }
        }
        None
    }

    async fn send(&self, document: &str) -> Result<(u16, Value), reqwest::Error> {
        let (url, token) = &self.targets[self.at];
        let request = self.http.post(url).bearer_auth(token).timeout(ANSWER_WITHIN);
        let request = request.header("content-type", "application/vnd.coldstream.append+json");
        let answer = request.body(document.to_owned()).send().await?;
        Ok((answer.status().as_u16(), answer.json().await?))
    }
}

fn acknowledged_of(id: &str, event: &Value) -> Acknowledged {
    let number = |name: &str| event[name].as_str().and_then(|text| text.parse().ok()).expect("a number as a string");
    let stream = event["stream"].as_str().expect("a stream").to_owned();
    let (version, position, epoch) = (number("version"), number("position"), number("epoch"));
    Acknowledged { id: id.to_owned(), stream, version, position, epoch }
}

/// Reads a log that has no removed lines.
///
/// # Panics
/// If a line is no record of an event.
#[must_use]
pub fn events(lines: &[Vec<u8>]) -> Vec<RecordedEvent> {
    let event = |line: &Vec<u8>| match record::read(line).expect("a record") {
        Record::Event(event) => *event,
        Record::Removed(removed) => panic!("{} was removed", removed.position),
    };
    lines.iter().map(event).collect()
}

/// Holds a log against what its writers were told: positions and versions are dense, no id stands twice, and what was
/// acknowledged stands where it was said to. Gives what was acknowledged and is not there.
///
/// # Panics
/// If any of it does not hold.
#[must_use]
pub fn lost(lines: &[Vec<u8>], journal: &Journal) -> Vec<Acknowledged> {
    let (mut heads, mut ids) = (HashMap::new(), HashSet::new());
    let mut there = HashMap::new();
    for (index, event) in events(lines).into_iter().enumerate() {
        assert_eq!(usize::try_from(event.position.get()), Ok(index + 1), "positions are dense");
        let stream = event.event.stream.as_str().to_owned();
        let head: &mut u64 = heads.entry(stream.clone()).or_default();
        *head += 1;
        assert_eq!(event.version.get(), *head, "versions of {stream} are dense");
        let id = event.event.id.clone();
        assert!(ids.insert((event.event.source.clone(), id.clone())), "{id} is stored twice");
        let (version, position, epoch) = (event.version.get(), event.position.get(), event.epoch.get());
        there.insert(id.clone(), Acknowledged { id, stream, version, position, epoch });
    }
    let mut told = HashSet::new();
    let mut lost = Vec::new();
    for acknowledged in &journal.acknowledged {
        assert!(told.insert(&acknowledged.id), "{} was acknowledged twice", acknowledged.id);
        match there.get(&acknowledged.id) {
            Some(stored) => assert_eq!(stored, acknowledged, "it stands where it was said to"),
            None => lost.push(acknowledged.clone()),
        }
    }
    lost
}
