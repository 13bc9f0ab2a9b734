//! The model of the log: what was sent, what was acknowledged, and the lines that were seen on disk. It knows nothing
//! of how regions work; it compares answers and disks with what must be so (LOG-1 to LOG-5, REP-1 to REP-3).

mod judge;

use std::collections::{BTreeMap, BTreeSet};

use domain::append::{AppendRequest, ExpectedVersion, Role};
use domain::event::TOMBSTONE_TYPE;
use domain::log::{Direction, LogReader};
use domain::record::Record;
use domain::{Head, StreamName};
use replication::failover::{AcceptLoss, Bound, LossStatement};
use serde::Deserialize;

use crate::client::EVENTS_MAX;
use crate::world::{NAMES, Site, World};

pub(crate) use judge::Expected;

/// A region's clock goes back by no more than this.
const CLOCK_STEP_MICROS_MAX: i64 = 120_000_000;

/// A promise that was broken.
#[derive(Debug)]
pub(crate) struct Violation {
    pub(crate) promise: &'static str,
    pub(crate) what: String,
}

pub(crate) type Kept = Result<(), Violation>;

pub(crate) fn broken<T>(promise: &'static str, what: impl Into<String>) -> Result<T, Violation> {
    Err(Violation { promise, what: what.into() })
}

pub(crate) fn check(promise: &'static str, holds: bool, what: impl FnOnce() -> String) -> Kept {
    if holds { Ok(()) } else { broken(promise, what()) }
}

pub(crate) fn index(position: u64) -> usize {
    usize::try_from(position).expect("a short log")
}

/// One line of the log, read as JSON by itself.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) bytes: Vec<u8>,
    pub(crate) stream: String,
    pub(crate) version: u64,
    pub(crate) recordedat: String,
    epoch: u64,
    id: String,
    /// The request that it belongs to, and its place in it.
    request: u64,
    place: u64,
    closes: bool,
    tags: String,
}

#[derive(Deserialize)]
struct Json {
    id: String,
    #[serde(rename = "type")]
    event_type: String,
    subject: String,
    recordedat: String,
    position: String,
    version: String,
    previous: String,
    epoch: String,
    #[serde(default)]
    tags: String,
    data: JsonData,
}

#[derive(Deserialize)]
struct JsonData {
    number: u64,
}

/// A request that was sent at least once.
pub(crate) struct Sent {
    pub(crate) request: AppendRequest,
    /// Whether it names a stream's version or has a condition: a retry of it is known for ever, by that or by its ids.
    is_kept: bool,
    /// Whether its ids are all that it can be known by: it writes no stream whose version it names.
    by_ids: bool,
    /// Where its first event stands: once, or again after the first ones were pruned.
    pub(crate) places: Vec<u64>,
}

/// An acknowledged append whose events may get lost with a region.
#[derive(Debug, Clone, Copy)]
struct Ack {
    request: u64,
    first: u64,
    last: u64,
    /// What each region's clock said then.
    clocks: [i64; 2],
}

#[derive(Debug, Clone, Copy)]
struct Stream {
    version: u64,
    position: u64,
    closed: bool,
}

/// How a region was asked to take over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    Planned,
    Forced(AcceptLoss),
}

/// The model.
#[derive(Default)]
pub(crate) struct Ledger {
    pub(crate) lines: Vec<Line>,
    streams: BTreeMap<String, Stream>,
    /// Ids that are known for ever.
    kept_ids: BTreeSet<String>,
    pub(crate) sent: Vec<Sent>,
    acks: Vec<Ack>,
    /// The newest epoch that was seen to take appends, and who holds it.
    pub(crate) epoch: u64,
    pub(crate) holder: usize,
    /// How far each region's disk was compared.
    seen: [u64; 2],
    /// From where on a region's log is not the log any more: it was passed over by a forced promotion.
    pub(crate) branched: [Option<u64>; 2],
    /// How the regions were asked to take over since nothing was under way.
    pub(crate) asked: [Vec<Asked>; 2],
    pub(crate) told: Option<(usize, Option<LossStatement>)>,
    pub(crate) lost: u64,
    pub(crate) promotions: u64,
}

impl Ledger {
    pub(crate) fn new() -> Self {
        Self { epoch: 1, ..Self::default() }
    }

    pub(crate) fn next_request(&self) -> u64 {
        u64::try_from(self.sent.len()).expect("few")
    }

    pub(crate) fn head(&self) -> u64 {
        u64::try_from(self.lines.len()).expect("a short log")
    }

    pub(crate) fn version(&self, stream: &StreamName) -> Option<u64> {
        self.streams.get(stream.as_str()).map(|stream| stream.version)
    }

    /// Keeps a request before it is sent for the first time.
    pub(crate) fn send(&mut self, request: AppendRequest) -> usize {
        let writes = |stream: &StreamName| request.events.iter().any(|event| event.stream == *stream);
        let names = |version| matches!(version, ExpectedVersion::Exactly(_) | ExpectedVersion::NoStream);
        let is_kept = request.expect.iter().any(|e| names(e.version)) || !request.conditions.is_empty();
        let by_ids = !request.expect.iter().any(|e| names(e.version) && writes(&e.stream)) && is_kept;
        self.sent.push(Sent { request, is_kept, by_ids, places: Vec::new() });
        self.sent.len() - 1
    }

    /// Looks at both disks after a step and takes in what is new.
    pub(crate) async fn observe(&mut self, world: &World) -> Kept {
        for site in &world.sites {
            let head = site.disk().log_head().await.expect("a twin answers");
            if head.role == Role::Active && head.epoch.get() > self.epoch {
                self.promoted(site, head.epoch.get(), head.head.get(), world).await?;
            }
        }
        self.told = None;
        let mut leaders = 0;
        for site in &world.sites {
            let head = site.disk().log_head().await.expect("a twin answers");
            leaders += u32::from(head.role == Role::Active && head.epoch.get() == self.epoch);
            if head.epoch.get() == self.epoch && self.branched[site.number].is_some_and(|fork| head.head.get() <= fork)
            {
                self.branched[site.number] = None;
            }
        }
        check("LOG-5", leaders <= 1, || format!("both regions are active in epoch {}", self.epoch))?;
        self.extend(&world.sites[self.holder]).await?;
        for site in &world.sites {
            self.compare(site).await?;
        }
        Ok(())
    }

    /// The holder's disk is the log: takes its new lines.
    async fn extend(&mut self, site: &Site) -> Kept {
        let disk = site.disk();
        let head = disk.log_head().await.expect("a twin answers").head;
        check("LOG-1", head.get() >= self.head(), || {
            format!("{} holds {head} events, {} were there", site.name(), self.head())
        })?;
        if head.get() == self.head() {
            return Ok(());
        }
        let pruned = disk.log_head().await.expect("a twin answers").pruned.get();
        let from = Head::new(self.head()).expect("small").next();
        let records = disk.read_log(from, Direction::Forward, usize::MAX).await.expect("nothing new is pruned");
        for record in &records {
            self.take(record, pruned)?;
        }
        check("LOG-2", self.head() == head.get(), || format!("the head is {head}, and {} lines exist", self.head()))?;
        let whole = self.lines.last().is_none_or(|line| line.place + 1 == self.events_of(line.request));
        check("LOG-1", whole, || "a request is stored in part".to_owned())?;
        self.seen[self.holder] = self.head();
        Ok(())
    }

    fn events_of(&self, request: u64) -> u64 {
        u64::try_from(self.sent[index(request)].request.events.len()).expect("few")
    }

    fn take(&mut self, record: &Record, pruned: u64) -> Kept {
        let bytes = record.to_line();
        let Ok(json) = serde_json::from_slice::<Json>(&bytes) else {
            return broken("LOG-1", format!("no event: {}", String::from_utf8_lossy(&bytes)));
        };
        let position = self.head() + 1;
        let wrong = |what: &str| format!("{what} at position {position}: {}", String::from_utf8_lossy(&bytes));
        check("LOG-2", json.position == position.to_string(), || wrong("another position"))?;
        let before = self.lines.last();
        let order = before.is_none_or(|before| before.recordedat <= json.recordedat);
        check("LOG-2", order, || wrong("recordedat falls"))?;
        check("LOG-5", json.epoch == self.epoch.to_string(), || wrong("another epoch than the one in force"))?;
        let stream = self.streams.get(&json.subject).copied();
        let version = stream.map_or(1, |stream| stream.version + 1);
        check("LOG-3", json.version == version.to_string(), || wrong("not the next version"))?;
        let previous = stream.map_or(0, |stream| stream.position).to_string();
        check("LOG-2", json.previous == previous, || wrong("another back link"))?;
        check("LOG-3", !stream.is_some_and(|stream| stream.closed), || wrong("its stream is closed"))?;

        let (request, place) = (json.data.number / EVENTS_MAX, json.data.number % EVENTS_MAX);
        let sent = self.sent.get(index(request)).and_then(|sent| sent.request.events.get(index(place)));
        let same = sent.is_some_and(|event| {
            (&event.id, &event.event_type, event.stream.as_str()) == (&json.id, &json.event_type, &json.subject)
        });
        check("LOG-1", same, || wrong("nobody sent this"))?;
        let follows = place == 0 || before.is_some_and(|line| (line.request, line.place + 1) == (request, place));
        check("LOG-1", follows, || wrong("a request is torn apart"))?;
        let live = &self.lines[index(pruned.min(self.head()))..];
        check("LOG-4", live.iter().all(|line| line.id != json.id), || wrong("the id is known in the live log"))?;
        let sent = &mut self.sent[index(request)];
        check("LOG-4", !sent.is_kept || sent.places.is_empty() || place > 0, || wrong("stored a second time"))?;
        if place == 0 {
            sent.places.push(position);
        }
        if sent.by_ids {
            self.kept_ids.insert(json.id.clone());
        }
        let closes = json.event_type == TOMBSTONE_TYPE;
        self.streams.insert(json.subject.clone(), Stream { version, position, closed: closes });
        let Json { id, subject: stream, recordedat, tags, .. } = json;
        let epoch = self.epoch;
        self.lines.push(Line { bytes, stream, version, recordedat, epoch, id, request, place, closes, tags });
        Ok(())
    }

    /// REP-1: what a region has is a prefix of the log.
    async fn compare(&mut self, site: &Site) -> Kept {
        let disk = site.disk();
        let head = disk.log_head().await.expect("a twin answers");
        let branched = self.branched[site.number];
        let end = branched.map_or(head.head.get(), |fork| fork.min(head.head.get()));
        check("REP-1", end <= self.head(), || {
            format!("{} has {end} events, the log has {}", site.name(), self.head())
        })?;
        let from = self.seen[site.number].max(head.pruned.get());
        if end > from {
            let first = Head::new(from).expect("small").next();
            let records = disk.read_log(first, Direction::Forward, index(end - from)).await.expect("not pruned");
            for record in records {
                let position = record.position().get();
                let same = self.lines[index(position - 1)].bytes == record.to_line();
                check("REP-1", same, || format!("{} has another line at position {position}", site.name()))?;
            }
        }
        self.seen[site.number] = end;
        Ok(())
    }

    /// A region holds a newer epoch than any before.
    async fn promoted(&mut self, site: &Site, epoch: u64, fork: u64, world: &World) -> Kept {
        let other = &world.sites[1 - site.number];
        // Of several requests that are under way the forced one may lose more, so it is the one that is judged.
        let forced = self.asked[site.number].iter().rev().find(|asked| **asked != Asked::Planned);
        let Some(asked) = forced.or(self.asked[site.number].last()).copied() else {
            // It took a drain back: the same log, in a new epoch.
            if site.number == self.holder {
                self.epoch = epoch;
                return Ok(());
            }
            return broken("LOG-5", format!("{} took epoch {epoch} and nobody asked it to", site.name()));
        };
        self.promotions += 1;
        let told = self.told.take().filter(|(number, _)| *number == site.number).and_then(|(_, loss)| loss);
        let missing: Vec<Ack> = self.acks.iter().copied().filter(|ack| ack.last > fork).collect();
        match asked {
            Asked::Planned => check("REP-3", fork == self.head() && missing.is_empty(), || {
                format!("a switchover at {fork} loses some of {} events", self.head())
            })?,
            Asked::Forced(accept) => {
                if let Some(stated) = told {
                    check_statement(&stated, (site.number, fork), accept, &missing)?;
                }
            }
        }
        self.lost += missing.iter().map(|ack| ack.last - ack.first.max(fork + 1) + 1).sum::<u64>();
        let old = other.disk().log_head().await.expect("a twin answers");
        if old.head.get() > fork || (asked != Asked::Planned && old.role != Role::Follower) {
            let before = self.branched[other.number].unwrap_or(u64::MAX);
            self.branched[other.number] = Some(fork.min(old.head.get()).min(before));
        }
        (self.epoch, self.holder) = (epoch, site.number);
        self.branched[site.number] = None;
        self.cut_back(fork);
        Ok(())
    }

    /// Forgets what lies beyond a fork.
    fn cut_back(&mut self, fork: u64) {
        if fork >= self.head() {
            return;
        }
        self.lines.truncate(index(fork));
        self.acks.retain(|ack| ack.last <= fork);
        self.streams.clear();
        self.kept_ids.clear();
        for (line, position) in self.lines.iter().zip(1..) {
            if self.sent[index(line.request)].by_ids {
                self.kept_ids.insert(line.id.clone());
            }
            let stream = Stream { version: line.version, position, closed: line.closes };
            self.streams.insert(line.stream.clone(), stream);
        }
        for sent in &mut self.sent {
            let count = u64::try_from(sent.request.events.len()).expect("few");
            sent.places.retain(|first| first + count - 1 <= fork);
        }
        self.seen = self.seen.map(|seen| seen.min(fork));
    }

    /// A region's log was replaced by an empty one.
    pub(crate) fn emptied(&mut self, site: usize) {
        (self.seen[site], self.branched[site]) = (0, None);
    }
}

/// REP-3: what a forced promotion said is so.
fn check_statement(stated: &LossStatement, (site, fork): (usize, u64), accept: AcceptLoss, missing: &[Ack]) -> Kept {
    let name = NAMES[site];
    check("REP-3", stated.own_head.get() == fork, || {
        format!("{name} said that its head is {}, and took over at {fork}", stated.own_head)
    })?;
    let events: u64 = missing.iter().map(|ack| ack.last - ack.first.max(fork + 1) + 1).sum();
    if let AcceptLoss::Events(most) = accept {
        check("REP-3", events <= most, || format!("{events} events are lost, {most} were accepted"))?;
    }
    match stated.bound {
        Bound::Events(most) => {
            check("REP-3", events <= most, || format!("{events} events are lost, {name} said at most {most}"))
        }
        Bound::UnknownSince(None) => Ok(()),
        Bound::UnknownSince(Some(since)) => {
            let known = fork + stated.known_missing;
            let since_micros = since.unix_micros() - CLOCK_STEP_MICROS_MAX;
            let unsaid = missing.iter().find(|ack| ack.last > known && ack.clocks[site] < since_micros);
            check("REP-3", unsaid.is_none(), || {
                let clock = unsaid.map(|ack| (ack.first, ack.last, ack.clocks[site]));
                format!("{name} said that nothing beyond {known} is older than {since}; {clock:?} is lost")
            })
        }
    }
}
