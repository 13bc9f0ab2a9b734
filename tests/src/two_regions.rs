//! Two real regions for a test, and how a test asks them, over HTTP and by the real command line. What is said
//! here is said by the regions; nothing is looked up behind their back but the buckets, as an outsider would.

mod buckets;

use std::fmt::Debug;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use domain::Timestamp;
use domain::keys::{KeyRing, VerifyKey};
use domain::window::LiveWindow;
use ops::dev::kill_at::VARIABLE;
use ops::dev::region::{Plan, Region};
use ops::http::status::Status;
use replication::Standing;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};

use crate::binary;

pub use buckets::{bucket, published, roots};

/// The longest that a test waits for one state.
const STATE_WITHIN: Duration = Duration::from_secs(50);
/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_millis(40);
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
const COMMAND_WITHIN: Duration = Duration::from_secs(55);

/// A generator of random moments; its seed is printed, and COLDSTREAM_TEST_SEED gives it again.
///
/// # Panics
/// If the variable holds no number.
#[must_use]
pub fn random() -> rand::rngs::StdRng {
    let given = std::env::var("COLDSTREAM_TEST_SEED").ok();
    let seed = given.map_or_else(crate::chance::random, |seed| seed.parse().expect("COLDSTREAM_TEST_SEED is a number"));
    eprintln!("COLDSTREAM_TEST_SEED={seed}");
    rand::SeedableRng::seed_from_u64(seed)
}

/// Two regions of one log.
pub struct TwoRegions {
    /// The first active one.
    pub home: Region,
    /// Its follower.
    pub dr: Region,
    folder: TempDir,
}

impl TwoRegions {
    /// Two regions whose servers are not started.
    ///
    /// # Panics
    /// If this machine cannot have them.
    pub async fn prepare() -> Self {
        Self::prepare_as(None, LiveWindow::default()).await
    }

    /// Two regions that serve, in simulated time, which stands still: it is `now` until [`TwoRegions::move_to`]. One
    /// month stays live.
    ///
    /// # Panics
    /// If they do not.
    pub async fn start_at(now: &str) -> Self {
        let now = Timestamp::parse_rfc3339(now).expect("an instant");
        let regions = Self::prepare_as(Some(now), LiveWindow::of_months(1).expect("a window")).await;
        regions.serve().await
    }

    async fn prepare_as(simulated_now: Option<Timestamp>, window: LiveWindow) -> Self {
        // Another test of this process may have installed it before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::Builder::new().prefix("coldstream-test").tempdir().expect("a folder");
        let plan = Plan {
            binary: binary(),
            folder: folder.path().to_owned(),
            simulated_now,
            window,
            settings: Vec::new(),
            postgres: Vec::new(),
        };
        let (home, dr) = Region::pair(&plan).await.expect("two regions");
        for region in [&home, &dr] {
            std::fs::write(folder.path().join(region.name).join("operator"), &region.tokens.operator).expect("written");
        }
        Self { home, dr, folder }
    }

    /// Two regions that serve.
    ///
    /// # Panics
    /// If they do not.
    pub async fn start() -> Self {
        Self::prepare().await.serve().await
    }

    async fn serve(mut self) -> Self {
        self.home.serve().await.expect("home serves");
        self.dr.serve().await.expect("dr serves");
        self
    }

    /// Moves simulated time on, in both.
    ///
    /// # Panics
    /// If one of them refuses.
    pub async fn move_to(&self, now: &str) {
        for region in [&self.home, &self.dr] {
            let answer = act(region, "/v1/admin/clock", json!({ "now": now })).await;
            assert_eq!(answer.status, 200, "{}", answer.body);
        }
    }

    /// Ends what still runs.
    ///
    /// # Panics
    /// If something does not end.
    pub async fn end(self) {
        self.home.end().await.expect("home ends");
        self.dr.end().await.expect("dr ends");
    }

    /// Both public keys.
    ///
    /// # Panics
    /// Never: a region's key is one.
    #[must_use]
    pub fn keys(&self) -> KeyRing {
        let keys = [&self.home, &self.dr].map(|region| VerifyKey::parse(&region.public_key).expect("a key"));
        KeyRing::new(keys).expect("two keys")
    }

    /// Waits until both logs end at the same position, and gives their lines, which are the same.
    ///
    /// # Panics
    /// If they are not the same, or never end at the same position.
    pub async fn same_lines(&self) -> Vec<Vec<u8>> {
        until("both logs end at the same position", async || {
            let (home, dr) = (standing(&self.home).await?, standing(&self.dr).await?);
            (home.head == dr.head).then_some(()).ok_or(format!("{} and {}", home.head, dr.head))
        })
        .await;
        let (home, dr) = (lines(&self.home).await, lines(&self.dr).await);
        assert!(home == dr, "the logs differ: {} and {} lines", home.len(), dr.len());
        home
    }

    /// Waits until both regions have the archive up to `head`, confirmed; then each bucket alone proves it, with no void
    /// manifest in it.
    ///
    /// # Panics
    /// If one does not.
    pub async fn is_proven(&self, head: usize, epochs: u64) {
        self.is_proven_beside(head, epochs, [&[], &[]]).await;
    }

    /// The same, where the buckets of home and dr have these void manifests: objects that stay and do no harm.
    ///
    /// # Panics
    /// As [`TwoRegions::is_proven`].
    pub async fn is_proven_beside(&self, head: usize, epochs: u64, void: [&[String]; 2]) {
        for (region, void) in [&self.home, &self.dr].into_iter().zip(void) {
            until(&format!("{} has the whole archive, confirmed and cosigned", region.name), async || {
                let status = archive_status(region).await?;
                let cosigned = status.cosigned_head.as_deref() == Some(&head.to_string());
                let whole = status.archived_head == head.to_string() && status.confirmed == status.segments;
                if whole && cosigned { Ok(()) } else { Err(format!("{status:?}")) }
            })
            .await;
            let Said { code, data: report, talk } = self.command(region, &["audit", "verify"]).await;
            assert_eq!(code, Some(0), "{report} {talk}");
            assert_eq!((&report["findings"], &report["verified_head"]), (&json!([]), &json!(head)), "{report}");
            assert_eq!((&report["epoch_claims"], &report["cosigned_head"]), (&json!(epochs), &json!(head)), "{report}");
            assert_eq!(report["void_manifests"], json!(void), "{report}");
        }
    }

    /// Runs `coldstream --json` as an operator of `region`, who has a token for the other one too.
    ///
    /// # Panics
    /// If it does not end in time.
    pub async fn command(&self, region: &Region, words: &[&str]) -> Said {
        self.begin(region, words).ends().await
    }

    /// Starts it.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn begin(&self, region: &Region, words: &[&str]) -> Running {
        let operator = |name: &str| self.folder.path().join(name).join("operator");
        let other = if region.name == self.home.name { &self.dr } else { &self.home };
        let mut command = Command::new(binary());
        command.arg("--config").arg(&region.config).arg("--json").args(words);
        if matches!(words, ["failover", "check" | "switchover", ..] | ["replication", ..]) {
            command.arg("--other-token-file").arg(operator(other.name));
        }
        command.env("COLDSTREAM_TOKEN_FILE", operator(region.name)).kill_on_drop(true);
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Running { child: command.spawn().expect("it runs"), talk: String::new() }
    }
}

/// A command that runs. It is killed when this is dropped.
pub struct Running {
    child: Child,
    /// What it has said on stderr and was waited for.
    talk: String,
}

impl Running {
    /// Waits until it says `word` on stderr.
    ///
    /// # Panics
    /// If it does not.
    pub async fn says(&mut self, word: &str) {
        let talk = self.child.stderr.as_mut().expect("piped");
        let wait = async {
            // Byte by byte: nothing that it says later is taken away from the end.
            while !self.talk.contains(word) {
                let byte = talk.read_u8().await.unwrap_or_else(|_| panic!("{word:?} is awaited: {}", self.talk));
                self.talk.push(char::from(byte));
            }
        };
        tokio::time::timeout(COMMAND_WITHIN, wait).await.unwrap_or_else(|_| panic!("it never says {word:?}"));
    }

    /// Waits until it ends.
    ///
    /// # Panics
    /// If it does not in time.
    pub async fn ends(self) -> Said {
        let output = tokio::time::timeout(COMMAND_WITHIN, self.child.wait_with_output()).await;
        let output = output.expect("it ends in time").expect("its output");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        let data = text(output.stdout);
        Said {
            code: output.status.code(),
            data: serde_json::from_str(&data).unwrap_or(Value::Null),
            talk: self.talk + &text(output.stderr),
        }
    }
}

/// What a command said.
#[derive(Debug)]
pub struct Said {
    /// Its exit code.
    pub code: Option<i32>,
    /// What it printed on stdout; null if that is not JSON.
    pub data: Value,
    /// What it printed on stderr.
    pub talk: String,
}

/// An answer over HTTP.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its body; null if that is not JSON.
    pub body: Value,
}

impl Answer {
    /// The kind of a problem.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.body["kind"].as_str().unwrap_or_default()
    }
}

async fn send(request: reqwest::RequestBuilder) -> Result<Answer, String> {
    let answer = request.timeout(ANSWER_WITHIN).send().await.map_err(|error| error.to_string())?;
    let status = answer.status().as_u16();
    let body = answer.bytes().await.map_err(|error| error.to_string())?;
    Ok(Answer { status, body: serde_json::from_slice(&body).unwrap_or(Value::Null) })
}

async fn get(region: &Region, path: &str) -> Result<Value, String> {
    let request = reqwest::Client::new().get(format!("{}{path}", region.url)).bearer_auth(&region.tokens.operator);
    let answer = send(request).await?;
    if answer.status == 200 { Ok(answer.body) } else { Err(format!("{}: {}", answer.status, answer.body)) }
}

/// Asks an act of a region, as its operator.
///
/// # Panics
/// If there is no answer.
pub async fn act(region: &Region, path: &str, body: Value) -> Answer {
    let request = reqwest::Client::new().post(format!("{}{path}", region.url)).bearer_auth(&region.tokens.operator);
    send(request.json(&body)).await.expect("an answer")
}

/// Seals everything that a region's log holds.
///
/// # Panics
/// If it does not.
pub async fn seal_all(region: &Region) {
    let answer = act(region, "/v1/admin/archive-run", json!({ "everything": true })).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
}

/// Where a region stands, without its root.
///
/// # Errors
/// What it said instead.
pub async fn standing(region: &Region) -> Result<Standing, String> {
    let body = get(region, "/v1/replication/epoch").await?;
    serde_json::from_value(body).map_err(|error| error.to_string())
}

/// What a region says of itself.
///
/// # Errors
/// What it said instead.
pub async fn status(region: &Region) -> Result<Status, String> {
    let body = get(region, "/v1/status").await?;
    serde_json::from_value(body).map_err(|error| error.to_string())
}

/// Role and epoch of a region.
///
/// # Panics
/// If it does not answer.
pub async fn role(region: &Region) -> (String, u64) {
    let standing = standing(region).await.expect("it answers");
    (standing.role.as_str().to_owned(), standing.epoch.get())
}

/// What the archive of a region says of itself.
///
/// # Errors
/// What it said instead.
pub async fn archive_status(region: &Region) -> Result<ops::http::archive::ArchiveStatus, String> {
    let body = get(region, "/v1/archive/status").await?;
    serde_json::from_value(body).map_err(|error| error.to_string())
}

/// An event without an expectation.
#[must_use]
pub fn event(stream: &str, id: &str) -> Value {
    json!({
        "specversion": "1.0", "id": id, "source": "/tests", "type": "note.written", "subject": stream,
        "datacontenttype": "application/json", "data": { "text": format!("as {id}") },
    })
}

/// Appends `events` in one request.
///
/// # Panics
/// If there is no answer.
pub async fn append(region: &Region, events: &[Value]) -> Answer {
    let request = reqwest::Client::new().post(format!("{}/v1/append", region.url));
    let request = request.bearer_auth(&region.tokens.appender);
    let request = request.header("content-type", "application/cloudevents-batch+json");
    send(request.body(json!(events).to_string())).await.expect("an answer")
}

/// Appends `count` events with ids `run:0` and on, all in one request, and holds it to be acknowledged.
///
/// # Panics
/// If it is not.
pub async fn append_run(region: &Region, run: &str, count: usize) {
    let events: Vec<Value> =
        (0..count).map(|number| event(&format!("note-{run}"), &format!("{run}:{number}"))).collect();
    let answer = append(region, &events).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
}

/// The region refuses an append as one that is not active, and stores nothing of it.
///
/// # Panics
/// If it does anything else.
pub async fn is_fenced(region: &Region, id: &str) {
    let before = standing(region).await.expect("it answers").head;
    let answer = append(region, &[event("note-fenced", id)]).await;
    assert_eq!((answer.status, answer.kind()), (503, "fenced"), "{}", answer.body);
    let after = standing(region).await.expect("it answers").head;
    // A follower's log may have grown meanwhile, by what the other region sent.
    let stored =
        lines(region).await.iter().any(|line| String::from_utf8_lossy(line).contains(&format!("\"id\":\"{id}\"")));
    assert!(after >= before && !stored, "what was refused is not stored");
}

/// All lines of a region's log.
///
/// # Panics
/// If it does not give them all.
pub async fn lines(region: &Region) -> Vec<Vec<u8>> {
    let request = reqwest::Client::new().get(format!("{}/v1/log?from=1", region.url));
    let answer = request.bearer_auth(&region.tokens.auditor).send().await.expect("an answer");
    assert_eq!(answer.status().as_u16(), 200);
    let bytes = answer.bytes().await.expect("the whole log");
    let lines = bytes.split_inclusive(|byte| *byte == b'\n');
    lines.map(|line| line.strip_suffix(b"\n").expect("a whole line").to_vec()).collect()
}

/// Waits for a state; what `look` says while it is not there is part of the complaint.
///
/// # Panics
/// If it does not come.
pub async fn until<T, E: Debug>(what: &str, mut look: impl AsyncFnMut() -> Result<T, E>) -> T {
    let mut last = String::new();
    let wait = async {
        let mut pace = tokio::time::interval(LOOK_EVERY);
        loop {
            pace.tick().await;
            match look().await {
                Ok(found) => return found,
                Err(instead) => last = format!("{instead:?}"),
            }
        }
    };
    let found = tokio::time::timeout(STATE_WITHIN, wait).await;
    found.unwrap_or_else(|_| panic!("never came: {what}; instead: {last}"))
}

/// Waits until a region's head is at `head` or beyond; gives it.
///
/// # Panics
/// If it never is.
pub async fn head_beyond(region: &Region, head: u64) -> u64 {
    until(&format!("{} is at {head}", region.name), async || match standing(region).await {
        Ok(standing) if standing.head.get() >= head => Ok(standing.head.get()),
        other => Err(format!("{other:?}")),
    })
    .await
}

/// Waits until a region has a role in an epoch.
///
/// # Panics
/// If it never has.
pub async fn becomes(region: &Region, wanted: &str, epoch: u64) {
    until(&format!("{} is {wanted} in epoch {epoch}", region.name), async || match standing(region).await {
        Ok(standing) if (standing.role.as_str(), standing.epoch.get()) == (wanted, epoch) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}

/// Starts the region's server and waits until it has killed itself at `step`.
///
/// # Panics
/// If it lives on, or dies of something else.
pub async fn dies_at(region: &mut Region, step: &str) {
    let log = region.server_log();
    let before = suicides(&log);
    // It may be dead before it is ready; what it says in its log is the proof either way.
    let ready = region.serve_with(&[(VARIABLE, step)]).await;
    if ready.is_ok() {
        until(&format!("{} dies at {step}", region.name), async || {
            region.server().is_none_or(|server| server.has_ended()).then_some(()).ok_or("it lives")
        })
        .await;
        region.kill_server().await.expect("it is gone");
    }
    assert_eq!(suicides(&log), before + 1, "{} died at {step} and of nothing else: {ready:?}", region.name);
}

fn suicides(log: &Path) -> usize {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    text.lines().filter(|line| line.contains(VARIABLE)).count()
}
