//! Two whole regions for tests of the archive: started from the real binary, filled from a seed, read over HTTP,
//! audited from their buckets. Nothing here is a mock, and nothing here decides what is right: the truth is what the
//! live log said of each event when it was appended.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use archiver::audit::{self, AuditReport};
use domain::append::{AppendRequest, Appended, Expectation, ExpectedVersion};
use domain::event::{Data, NewEvent};
use domain::log::{Direction, EventLog, LogReader};
use domain::record::Record;
use domain::window::LiveWindow;
use domain::{Head, StreamName, StreamVersion, Timestamp};
use event_log::{PgConfig, PgLog};
use futures::{StreamExt, TryStreamExt};
use ops::clock::SystemClock;
use ops::config::{Config, Overrides};
use ops::dev::Region;
use ops::dev::region::Plan;
use ops::http::archive::{ArchiveRun, ArchiveStatus, ScrubRun};
use ops::http::status::Status;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use segment_store::S3Store;
use serde::de::DeserializeOwned;
use sqlx::{Connection, PgConnection};
use tempfile::TempDir;
use toml::Value;

use crate::binary;
use crate::two_regions::random;

/// No state that a test waits for takes longer than this.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Requests that are under way at once: they share groups, and keep their order.
const REQUESTS_AT_ONCE: usize = 64;

/// An instant.
#[must_use]
pub fn at(text: &str) -> Timestamp {
    Timestamp::parse_rfc3339(text).expect("an instant")
}

/// A number as the API spells it.
#[must_use]
pub fn number(text: &str) -> u64 {
    text.parse().unwrap_or_else(|_| panic!("{text:?} is a number"))
}

/// The seed of a run, which is printed.
#[must_use]
pub fn seed() -> u64 {
    random().random()
}

/// Waits for a state; `look` gives something once it is there.
///
/// # Panics
/// If it is not there in time; it says what was waited for.
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let mut pace = tokio::time::interval(LOOK_EVERY);
    let waiting = async {
        loop {
            pace.tick().await;
            if let Some(found) = look().await {
                return found;
            }
        }
    };
    let found = tokio::time::timeout(PATIENCE, waiting).await;
    found.unwrap_or_else(|_| panic!("{what}: not within {} s", PATIENCE.as_secs()))
}

/// What the regions of a test are, but for what all of them have in common.
pub struct Setting {
    /// Now, at first.
    pub now: Timestamp,
    /// Months that stay live.
    pub window_months: u32,
    /// Further settings.
    pub settings: Vec<(&'static str, Value)>,
}

impl Setting {
    fn plan(&self, folder: &TempDir) -> Plan {
        // A client for HTTP asks for a provider of TLS, also where it needs none; two tests may come at once.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Plan {
            binary: binary(),
            folder: folder.path().to_owned(),
            simulated_now: Some(self.now),
            window: LiveWindow::of_months(self.window_months).expect("a window of some months"),
            settings: self.settings.clone(),
            postgres: Vec::new(),
        }
    }
}

/// Two regions and a way into home's log beside its server.
pub struct Pair {
    /// Active.
    pub home: Region,
    /// Follows.
    pub dr: Region,
    /// Home's log.
    pub log: PgLog,
    /// Dr's log.
    pub dr_log: PgLog,
    _folder: TempDir,
}

impl Pair {
    /// Sets both up; their servers are not started.
    pub async fn set_up(setting: &Setting) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (home, dr) = Region::pair(&setting.plan(&folder)).await.expect("two regions");
        let (log, dr_log) = tokio::join!(open(&home), open(&dr));
        Self { home, dr, log, dr_log, _folder: folder }
    }

    /// Moves the simulated time of both on.
    pub async fn move_to(&self, now: Timestamp) {
        let (home, dr) = tokio::join!(self.log.set_simulated_now(now), self.dr_log.set_simulated_now(now));
        home.and(dr).expect("time goes on");
    }

    /// Ends both in good order.
    pub async fn end(self) {
        tokio::join!(self.log.shut_down(), self.dr_log.shut_down());
        let (home, dr) = tokio::join!(self.home.end(), self.dr.end());
        home.expect("home ends");
        dr.expect("dr ends");
    }
}

/// One region whose pruning needs one copy, and its folder.
pub async fn single(setting: &Setting) -> (Region, TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    (Region::single(&setting.plan(&folder)).await.expect("a region"), folder)
}

/// A region's log, as its service sees it.
pub async fn open(region: &Region) -> PgLog {
    PgLog::connect(PgConfig::at(&region.database_url()), Arc::new(SystemClock)).await.expect("the log opens")
}

/// Makes up a history: events of a few hundred streams in three categories, in requests of one to four.
pub struct History {
    seed: u64,
    rng: StdRng,
    streams: Vec<StreamName>,
    versions: BTreeMap<StreamName, StreamVersion>,
    made: u64,
}

impl History {
    /// The history of `seed` over `streams` streams.
    #[must_use]
    pub fn new(seed: u64, streams: usize) -> Self {
        let name = |n: usize| match n % 3 {
            0 => format!("thing-{n}"),
            1 => format!("order-2026/{n} ä"),
            _ => format!("note-{n}-x"),
        };
        let streams = (0..streams).map(|n| StreamName::parse(&name(n)).expect("a name")).collect();
        Self { seed, rng: StdRng::seed_from_u64(seed), streams, versions: BTreeMap::new(), made: 0 }
    }

    /// The next `events` events, spread evenly over the month that starts at `month`.
    pub fn month(&mut self, month: Timestamp, events: usize) -> Vec<AppendRequest> {
        let length = month.months_after(1).expect("a month").micros_since(month);
        let step = length / i64::try_from(events + 1).expect("few");
        let (mut requests, mut left) = (Vec::new(), events);
        while left > 0 {
            let count = self.rng.random_range(1..=4).min(left);
            let so_far = i64::try_from(events - left).expect("few");
            let recorded_at = Timestamp::from_unix_micros(month.unix_micros() + step * so_far).expect("in the month");
            requests.push(self.request(count, recorded_at));
            left -= count;
        }
        requests
    }

    /// One more event, on a stream of the test's own.
    pub fn on(&mut self, stream: &StreamName, version: ExpectedVersion) -> AppendRequest {
        let expect = vec![Expectation { stream: stream.clone(), version }];
        AppendRequest { events: vec![self.event(stream.clone())], expect, ..AppendRequest::default() }
    }

    fn request(&mut self, count: usize, recorded_at: Timestamp) -> AppendRequest {
        let mut request = AppendRequest { recorded_at: Some(recorded_at), ..AppendRequest::default() };
        for _ in 0..count {
            let stream = self.streams[self.rng.random_range(0..self.streams.len())].clone();
            let before = self.versions.get(&stream).copied();
            if request.expect.iter().all(|expected| expected.stream != stream) {
                let exactly = before.map_or(ExpectedVersion::NoStream, ExpectedVersion::Exactly);
                let version = if self.rng.random() { exactly } else { ExpectedVersion::Any };
                request.expect.push(Expectation { stream: stream.clone(), version });
            }
            self.versions.insert(stream.clone(), before.map_or(StreamVersion::FIRST, StreamVersion::next));
            request.events.push(self.event(stream));
        }
        request
    }

    fn event(&mut self, stream: StreamName) -> NewEvent {
        self.made += 1;
        let text: String = (0..self.rng.random_range(5..60)).map(|_| self.rng.random_range('a'..='z')).collect();
        let tail = ["1.0", "-0", "1e400", "18446744073709551616", r#""\u00e9é""#][self.rng.random_range(0..5)];
        NewEvent {
            id: format!("{}/{}", self.seed, self.made),
            source: "/tests".into(),
            event_type: "thing.happened".into(),
            stream,
            time: self.rng.random::<bool>().then(|| "2026-01-01T00:00:00.50+02:00".to_owned()),
            event_version: Some("1.0".into()),
            data_schema: None,
            data_content_type: Some("application/json".into()),
            extensions: Vec::new(),
            data: Data::Json(format!(r#"{{"text":"{text}","as written":{tail}}}"#)),
        }
    }
}

/// Appends `requests` in their order.
///
/// # Panics
/// If one is refused.
pub async fn append(log: &PgLog, requests: Vec<AppendRequest>) -> Vec<Appended> {
    let appended = futures::stream::iter(requests).map(|request| log.append(request)).buffered(REQUESTS_AT_ONCE);
    appended.try_collect().await.expect("appended")
}

/// What was appended, as the live log spelled it then: one line of bytes for each event.
#[derive(Default)]
pub struct Truth {
    /// All lines, each with its LF.
    pub log: Vec<u8>,
    /// The same by stream.
    pub streams: BTreeMap<StreamName, Vec<u8>>,
    /// Where each line begins, and where the last one ends.
    starts: Vec<usize>,
    ids: HashSet<String>,
}

impl Truth {
    /// Takes in what stands above the head that it knows; it has to be live.
    ///
    /// # Panics
    /// If a position or version is missing, or an event is there twice.
    pub async fn learn(&mut self, log: &PgLog) {
        let head = log.log_head().await.expect("readable").head;
        while self.head() < head {
            let page = log.read_log(self.head().next(), Direction::Forward, 1000).await.expect("live");
            assert!(!page.is_empty(), "{} events stand in the log, {} are live", head, self.head());
            for record in &page {
                self.add(record);
            }
        }
    }

    fn add(&mut self, record: &Record) {
        let Record::Event(event) = record else { panic!("nothing was removed") };
        assert_eq!(event.position, self.head().next(), "positions are dense");
        assert!(self.ids.insert(event.event.id.clone()), "{} is there twice", event.event.id);
        let stream = self.streams.entry(event.event.stream.clone()).or_default();
        let before = stream.iter().filter(|byte| **byte == b'\n').count();
        assert_eq!(event.version.get(), before as u64 + 1, "versions are dense");
        let line = [record.to_line(), b"\n".to_vec()].concat();
        stream.extend_from_slice(&line);
        self.starts.push(self.log.len());
        self.log.extend_from_slice(&line);
    }

    /// How many events it knows.
    #[must_use]
    pub fn head(&self) -> Head {
        Head::new(self.starts.len() as u64).expect("few")
    }

    /// The lines of positions `first` to `last`.
    #[must_use]
    pub fn lines(&self, first: u64, last: u64) -> &[u8] {
        let start = |position: u64| usize::try_from(position - 1).ok().and_then(|n| self.starts.get(n).copied());
        &self.log[start(first).expect("known")..start(last + 1).unwrap_or(self.log.len())]
    }

    /// All lines, the newest first.
    #[must_use]
    pub fn backward(&self) -> Vec<u8> {
        let ends = self.starts.iter().skip(1).copied().chain([self.log.len()]);
        let lines: Vec<&[u8]> = self.starts.iter().zip(ends).map(|(start, end)| &self.log[*start..end]).collect();
        lines.into_iter().rev().collect::<Vec<_>>().concat()
    }

    /// Reads the whole log from a region.
    ///
    /// # Panics
    /// If a byte of it is another one.
    pub async fn is_the_log_of(&self, region: &Region) {
        let read = Api::of(region).log(1, self.head().get()).await;
        assert_eq!(read.status, 200, "{}: {}", region.name, read.text());
        assert!(read.whole && read.body == self.log, "{}'s log is what was appended, byte for byte", region.name);
    }

    /// Reads every stream from a region, forward and the newest event backward.
    ///
    /// # Panics
    /// If a byte of one is another one.
    pub async fn are_the_streams_of(&self, region: &Region) {
        let api = Api::of(region);
        let read = futures::stream::iter(&self.streams).map(async |(name, lines)| {
            let newest = lines[..lines.len() - 1].iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            let (forward, backward) =
                tokio::join!(api.stream(name, &[]), api.stream(name, &[("direction", "backward"), ("limit", "1")]));
            assert!(forward.is(lines), "{}: {name} is what was appended: {}", region.name, forward.text());
            assert!(backward.is(&lines[newest..]), "{}: {name} ends as it did", region.name);
        });
        read.buffer_unordered(8).collect::<()>().await;
    }
}

/// An answer whose body was read as far as it came.
pub struct Answer {
    /// The status.
    pub status: u16,
    /// What came.
    pub body: Vec<u8>,
    /// Whether the body came to its end.
    pub whole: bool,
}

impl Answer {
    /// Whether it is these lines, all of them.
    #[must_use]
    pub fn is(&self, lines: &[u8]) -> bool {
        self.status == 200 && self.whole && self.body == lines
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A region's API.
pub struct Api<'a> {
    region: &'a Region,
    http: reqwest::Client,
}

impl<'a> Api<'a> {
    /// Of this region.
    #[must_use]
    pub fn of(region: &'a Region) -> Self {
        Self { region, http: reqwest::Client::new() }
    }

    /// `GET /v1/status`.
    pub async fn status(&self) -> Status {
        self.json(self.http.get(self.url("/v1/status"))).await
    }

    /// `GET /v1/archive/status`.
    pub async fn archive(&self) -> ArchiveStatus {
        self.json(self.http.get(self.url("/v1/archive/status"))).await
    }

    /// `POST /v1/admin/archive-run`, by the rules.
    pub async fn run(&self) -> ArchiveRun {
        self.json(self.http.post(self.url("/v1/admin/archive-run")).json(&serde_json::json!({}))).await
    }

    /// `POST /v1/admin/scrub`, of everything.
    pub async fn scrub(&self) -> ScrubRun {
        self.json(self.http.post(self.url("/v1/admin/scrub")).json(&serde_json::json!({}))).await
    }

    /// `GET /v1/log`: positions `first` to `last`.
    pub async fn log(&self, first: u64, last: u64) -> Answer {
        self.get("/v1/log", &[("from", &first.to_string()), ("limit", &(last - first + 1).to_string())]).await
    }

    /// `GET /v1/stream`.
    pub async fn stream(&self, name: &StreamName, query: &[(&str, &str)]) -> Answer {
        self.get("/v1/stream", &[query, &[("stream", name.as_str())]].concat()).await
    }

    /// Any read, as an auditor.
    pub async fn get(&self, path: &str, query: &[(&str, &str)]) -> Answer {
        let request = self.http.get(self.url(path)).query(query).bearer_auth(&self.region.tokens.auditor);
        let mut answer = request.send().await.expect("an answer");
        let (status, mut body) = (answer.status().as_u16(), Vec::new());
        loop {
            match answer.chunk().await {
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Ok(None) => return Answer { status, body, whole: true },
                Err(_broken_off) => return Answer { status, body, whole: false },
            }
        }
    }

    /// `POST /v1/append` of one event, with what is believed of its stream; gives status and answer.
    pub async fn append(&self, stream: &StreamName, id: &str, expected: &str) -> (u16, serde_json::Value) {
        let event = serde_json::json!({"specversion": "1.0", "id": id, "source": "/tests", "type": "thing.happened",
                                       "subject": stream.as_str(), "data": {"id": id}});
        let request = self.http.post(self.url("/v1/append")).bearer_auth(&self.region.tokens.appender);
        let request = request.header("content-type", "application/cloudevents+json").body(event.to_string());
        let answer = request.header("expected-version", expected).send().await.expect("an answer");
        let (status, text) = (answer.status().as_u16(), answer.text().await.expect("a body"));
        (status, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")))
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.region.url)
    }

    async fn json<T: DeserializeOwned>(&self, request: reqwest::RequestBuilder) -> T {
        let answer = request.bearer_auth(&self.region.tokens.operator).send().await.expect("an answer");
        let (status, text) = (answer.status(), answer.text().await.expect("a body"));
        assert!(status.is_success(), "{}: {status}: {text}", self.region.name);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }
}

/// A region's bucket, and the configuration it was found in.
///
/// # Panics
/// If the configuration has none.
#[must_use]
pub fn bucket(region: &Region) -> (S3Store, Config) {
    let config = Config::load(Some(&region.config), &Overrides::default()).expect("a configuration");
    let store = config.archive.store.as_ref().expect("a bucket");
    (S3Store::connect(store).expect("a store"), config)
}

/// What an outsider finds in a region's bucket.
pub async fn audited(region: &Region) -> AuditReport {
    let (store, config) = bucket(region);
    let keys = ops::node::public_keys(&config).expect("public keys");
    audit::verify(&store, &keys, None, &|_| ()).await.expect("the bucket answers")
}

/// ARC-1 in one region: its head is `head`, every position is live or archived, none is live twice, and the bucket
/// alone proves what is archived. Returns the newest position that is out of the live log, and the audit's report.
///
/// # Panics
/// If any of that is not so.
pub async fn is_whole(region: &Region, head: Head) -> (u64, AuditReport) {
    let name = region.name;
    let (status, archive) = (Api::of(region).status().await, Api::of(region).archive().await);
    assert_eq!(number(&status.head), head.get(), "{name}'s head");
    let (pruned, archived) = (number(&status.pruned), number(&archive.archived_head));
    assert!(pruned <= archived && archived <= head.get(), "{name}: pruned {pruned}, archived {archived}");
    let mut next = pruned + 1;
    for partition in &archive.partitions {
        assert_eq!(number(&partition.first), next, "{name}: {} begins where the one before ends", partition.month);
        next = number(&partition.last) + 1;
    }
    assert_eq!(next, head.get() + 1, "{name}: the live log ends at the head");
    let live = "SELECT count(*), count(DISTINCT position), coalesce(min(position), 0) FROM coldstream.events";
    let (rows, positions, first): (i64, i64, i64) = sqlx::query_as(live)
        .fetch_one(&mut PgConnection::connect(&region.superuser_url()).await.expect("connected"))
        .await
        .expect("counted");
    let expected = i64::try_from(head.get() - pruned).expect("few");
    assert_eq!((rows, positions), (expected, expected), "{name}: each live position has one row");
    assert!(rows == 0 || first.unsigned_abs() == pruned + 1, "{name}: the live log begins at {first}");
    let report = audited(region).await;
    assert!(report.is_proven(), "{name}'s bucket: {:?}", report.findings);
    assert_eq!((report.verified_head, report.archived_head), (archived, archived), "{name}'s bucket holds the catalog");
    assert_eq!(report.segments.to_string(), archive.segments, "{name}: bucket and catalog have the same segments");
    (pruned, report)
}

/// Bytes of all tables of the log and its views, with their indexes.
pub async fn table_bytes(region: &Region) -> u64 {
    let mut connection = PgConnection::connect(&region.superuser_url()).await.expect("connected");
    let sql = "SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint FROM pg_class c \
               JOIN pg_namespace n ON n.oid = c.relnamespace \
               WHERE c.relkind = 'r' AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')";
    let bytes: i64 = sqlx::query_scalar(sql).fetch_one(&mut connection).await.expect("measured");
    bytes.unsigned_abs()
}
