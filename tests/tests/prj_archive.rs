//! PRJ-1 and PRJ-2 over a real archive: a view whose history is pruned from the live log is rebuilt from the archive by
//! the command line while a server serves and moves it, whatever of it is killed with SIGKILL; and reads wait for it.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use domain::append::AppendRequest;
use domain::event::{Data, NewEvent};
use domain::{StreamName, Timestamp};
use event_log::PgLog;
use ops::dev::Region;
use ops::dev::kill_at::VARIABLE;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use reqwest::Response;
use serde_json::Value;
use sqlx::{Connection, PgConnection};
use system_tests::chance::Moments;
use system_tests::regions::{Api, Setting, append, at, number, open, seed, single, until};
use tempfile::TempDir;
use tokio::process::{Child, Command};

const ITEMS: u32 = 400;
const EVENTS_A_MONTH: u32 = 1_200;
/// So many that four months of them are folded in three batches.
const EVENTS_OF_BATCHES: u32 = 9_600;
const START: &str = "2025-01-01T00:00:00Z";

/// A region with four months of content, of which one is live and the others are pruned.
struct Archived {
    region: Region,
    log: PgLog,
    rng: StdRng,
    made: u64,
    _folder: TempDir,
}

impl Archived {
    async fn set_up() -> Self {
        Self::set_up_of(EVENTS_A_MONTH).await
    }

    async fn set_up_of(events_a_month: u32) -> Self {
        let settings = vec![("archive.sealing.segment_bytes", (64 << 10).into())];
        let (mut region, folder) = single(&Setting { now: at(START), window_months: 1, settings }).await;
        let log = open(&region).await;
        let seed = seed();
        println!("seed {seed}");
        region.serve().await.expect("it serves");
        let mut archived = Self { region, log, rng: StdRng::seed_from_u64(seed), made: 0, _folder: folder };
        for month in 0..4 {
            let month = at(START).months_after(month).expect("a month");
            archived.log.set_simulated_now(month.months_after(1).expect("a month")).await.expect("time goes on");
            archived.grow(events_a_month, Some(month)).await;
        }
        let due = u64::from(events_a_month) * 3;
        until("all but a month is pruned, and the view is at the head", async || {
            let status = Api::of(&archived.region).status().await;
            let caught_up = status.workers["content view"].note == format!("at {}", archived.made);
            (caught_up && number(&status.pruned) == due).then_some(())
        })
        .await;
        archived
    }

    /// Appends random changes, recorded in `month` or now.
    async fn grow(&mut self, events: u32, month: Option<Timestamp>) {
        let requests = (0..events).map(|n| {
            let micros = i64::from(n) * 1_000_000;
            let recorded_at = month.map(|month| month.unix_micros() + micros);
            let recorded_at = recorded_at.map(|at| Timestamp::from_unix_micros(at).expect("an instant"));
            AppendRequest { events: vec![self.event()], recorded_at, ..AppendRequest::default() }
        });
        let requests = requests.collect();
        append(&self.log, requests).await;
    }

    fn event(&mut self) -> NewEvent {
        self.made += 1;
        let oid = self.rng.random::<u32>();
        let form = format!(r#"{{"author":"a","change":"c","oid":"{oid:08x}","mode":"100644","size":{oid}}}"#);
        let (event_type, data) = match self.rng.random_range(0..10) {
            0..3 => ("content.created", form),
            3..9 => ("content.revised", form),
            _ => ("content.deleted", r#"{"author":"a","change":"c"}"#.to_owned()),
        };
        NewEvent {
            id: self.made.to_string(),
            source: "/tests".into(),
            event_type: event_type.into(),
            stream: StreamName::of("content", &format!("item-{}", self.rng.random_range(0..ITEMS))).expect("a name"),
            time: None,
            event_version: None,
            data_schema: None,
            data_content_type: None,
            extensions: Vec::new(),
            data: Data::Json(data),
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(system_tests::binary());
        command.arg("--config").arg(&self.region.config).args(["--json", "projection"]).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    async fn killed_at(&self, step: &str) {
        let rebuild = self.command(&["rebuild", "--yes"]).env(VARIABLE, step).output().await.expect("started");
        assert!(was_killed(rebuild.status), "at {step}: {rebuild:?}");
    }

    /// What the command prints; it has to succeed, once nobody else is at the rebuild any more.
    async fn says(&self, arguments: &[&str]) -> Value {
        until(&format!("coldstream projection {arguments:?}"), async || {
            let output = self.command(arguments).output().await.expect("started");
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let refused = said.contains("another process is at the rebuild");
            assert!(output.status.success() || refused, "{said}");
            (!refused).then(|| serde_json::from_slice(&output.stdout).expect("JSON"))
        })
        .await
    }

    async fn status(&self) -> Value {
        self.says(&["status"]).await[0].take()
    }

    /// The rows of the view that are its fold, and the schemas that there are of it.
    async fn rows(&self) -> (Vec<String>, Vec<String>) {
        let mut connection = PgConnection::connect(&self.region.superuser_url()).await.expect("connected");
        let rows = "SELECT item::text COLLATE \"C\" AS row FROM view_content.items item \
                    UNION ALL SELECT stub::text FROM view_content.stubs stub ORDER BY row";
        let rows = sqlx::query_scalar(rows).fetch_all(&mut connection).await.expect("readable");
        let schemas = "SELECT nspname::text FROM pg_namespace WHERE nspname LIKE 'view%' ORDER BY 1";
        (rows, sqlx::query_scalar(schemas).fetch_all(&mut connection).await.expect("readable"))
    }

    async fn end(self) {
        self.log.shut_down().await;
        self.region.end().await.expect("it ends");
    }
}

fn was_killed(status: ExitStatus) -> bool {
    std::os::unix::process::ExitStatusExt::signal(&status) == Some(9)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuild_from_the_archive_is_the_view_that_was_folded_live_whichever_step_it_is_killed_at() {
    let archived = Archived::set_up_of(EVENTS_OF_BATCHES).await;
    let (live, _) = archived.rows().await;
    assert!(live.len() > 300, "{} rows", live.len());
    let before =
        ["rebuild.begun", "rebuild.folded", "rebuild.folded:2", "rebuild.met", "rebuild.compared", "rebuild.met"];
    for step in before {
        archived.killed_at(step).await;
        let status = archived.status().await;
        assert_eq!((&status["version"], &status["rebuild"]["swapped"]), (&"1".into(), &false.into()), "{step}");
        assert_eq!(archived.rows().await, (live.clone(), vec!["view_content".into(), "view_content_next".into()]));
    }
    archived.killed_at("rebuild.swapped").await;
    let status = archived.status().await;
    assert_eq!((&status["version"], &status["rebuild"]["swapped"]), (&"2".into(), &true.into()));
    assert_eq!(status["rebuild"]["comparison"]["differing"], "0");
    assert_eq!(archived.rows().await, (live.clone(), vec!["view_content".into(), "view_content_old".into()]));
    archived.killed_at("rebuild.dropped").await;
    let status = archived.status().await;
    assert_eq!((&status["version"], &status["rebuild"]), (&"2".into(), &Value::Null));
    assert_eq!(archived.rows().await, (live, vec!["view_content".into()]));
    archived.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuild_that_is_killed_at_random_moments_under_load_ends_as_the_live_fold() {
    let mut archived = Archived::set_up().await;
    let mut moments = Moments::within(Duration::from_millis(700));
    while moments.counts().0 < 6 {
        let mut rebuild: Child = archived.command(&["rebuild", "--yes"]).spawn().expect("started");
        let mut pace = tokio::time::interval(moments.draw(&mut archived.rng));
        pace.tick().await;
        tokio::join!(archived.grow(60, None), pace.tick());
        rebuild.start_kill().expect("killed, or ended before");
        moments.was_cut(was_killed(rebuild.wait().await.expect("ended")));
    }
    println!("{moments:?}");
    let rebuilt = archived.says(&["rebuild", "--yes"]).await;
    assert_eq!(rebuilt["comparison"]["differing"], "0");
    assert_eq!(rebuilt["comparison"]["live_sha256"], rebuilt["comparison"]["beside_sha256"]);
    // Once more, against what has become of the one that survived the kills.
    archived.grow(60, None).await;
    assert_eq!(archived.says(&["rebuild", "--yes"]).await["comparison"]["differing"], "0");
    assert_eq!(archived.rows().await.1, ["view_content"]);
    archived.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_see_where_a_view_has_stopped_and_which_row_differs() {
    let mut archived = Archived::set_up().await;
    let mut admin = PgConnection::connect(&archived.region.superuser_url()).await.expect("connected");
    // A fault that only the next event meets: what it would become is refused.
    let fault = format!("ALTER TABLE view_content.items ADD CONSTRAINT fault CHECK (position <= {})", archived.made);
    sqlx::raw_sql(&fault).execute(&mut admin).await.expect("done");
    let sealed = Api::of(&archived.region).status().await.workers["seal"].rounds;
    archived.grow(3, None).await;
    let position = (archived.made - 2).to_string();
    let status = until("the view stops", async || {
        let status = Api::of(&archived.region).status().await;
        (status.workers["content view"].state == "failing" && status.workers["seal"].rounds > sealed).then_some(status)
    })
    .await;
    let error = status.workers["content view"].error.as_deref().expect("why");
    assert!(error.starts_with(&format!("the view view_content stops at position {position}, the event ")), "{error}");
    let stopped = archived.status().await["stopped"].take();
    assert_eq!((&stopped["position"], &stopped["id"]), (&position.as_str().into(), &position.as_str().into()));
    assert!(stopped["reason"].as_str().is_some_and(|reason| reason.contains("fault")), "{stopped}");
    let metrics = Api::of(&archived.region).get("/metrics", &[]).await.text();
    let metric = format!("coldstream_view_stopped_position{{view=\"view_content\"}} {position}\n");
    assert!(metrics.contains(&metric), "{metrics}");
    sqlx::raw_sql("ALTER TABLE view_content.items DROP CONSTRAINT fault").execute(&mut admin).await.expect("done");
    until("the view goes on", async || (archived.status().await["stopped"] == Value::Null).then_some(())).await;

    let damage =
        "UPDATE view_content.stubs SET revisions = revisions + 1 WHERE id = (SELECT min(id) FROM view_content.stubs)";
    sqlx::raw_sql(damage).execute(&mut admin).await.expect("done");
    let rebuild = archived.command(&["rebuild", "--yes"]).output().await.expect("started");
    let said = String::from_utf8_lossy(&rebuild.stderr).into_owned();
    assert_eq!(rebuild.status.code(), Some(3), "{said}");
    assert!(said.contains("differ in 1 rows") && said.contains("the first is stubs (item-"), "{said}");
    assert_eq!(archived.says(&["drop", "--yes"]).await["dropped"], true);
    assert_eq!(archived.says(&["rebuild", "--accept-differences", "--yes"]).await["comparison"]["differing"], "1");
    assert_eq!(archived.says(&["rebuild", "--yes"]).await["comparison"]["differing"], "0");
    assert_eq!(archived.says(&["drop", "--yes"]).await["dropped"], false);
    archived.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_of_at_least_a_position_waits_for_a_bounded_time_and_refuses_what_is_not_there() {
    let mut archived = Archived::set_up().await;
    let read = async |path: &str, at_least: &str| -> Response {
        let request = reqwest::Client::new().get(format!("{}{path}", archived.region.url));
        let request = request.query(&[("at_least", at_least)]).bearer_auth(&archived.region.tokens.reader);
        request.send().await.expect("an answer")
    };
    let (item, list) = ("/v1/content?id=item-1", "/v1/content/list?limit=2");
    let head = archived.made;
    for (path, at_least) in [(item, head.to_string()), (list, head.to_string()), (list, format!("{head}@1"))] {
        let answer = read(path, &at_least).await;
        assert_eq!(answer.status().as_u16(), 200);
        assert_eq!(answer.headers()["coldstream-checkpoint"], *head.to_string());
    }
    for (at_least, status, kind) in [((head + 1).to_string(), 400, "invalid"), ("0".into(), 400, "invalid")] {
        let answer = read(item, &at_least).await;
        assert_eq!(answer.status().as_u16(), status);
        assert_eq!(answer.json::<Value>().await.expect("a problem")["kind"], kind);
    }
    // Somebody holds the view where it is.
    let mut holder = PgConnection::connect(&archived.region.superuser_url()).await.expect("connected");
    let mut hold = holder.begin().await.expect("begun");
    let lock = "SELECT FROM coldstream.consumers WHERE name = 'view_content' FOR UPDATE";
    sqlx::query(lock).execute(&mut *hold).await.expect("held");
    let next = (head + 1).to_string();
    let url = archived.region.url.clone();
    let token = archived.region.tokens.reader.clone();
    archived.grow(1, None).await;
    let request = reqwest::Client::new().get(format!("{url}{item}&at_least={next}")).bearer_auth(&token);
    let late = request.send().await.expect("an answer");
    assert_eq!(late.status().as_u16(), 503);
    assert_eq!(late.headers()["retry-after"], "1");
    let problem: Value = late.json().await.expect("a problem");
    assert_eq!((&problem["kind"], &problem["checkpoint"]), (&"unavailable".into(), &head.to_string().into()));
    let request = reqwest::Client::new().get(format!("{url}{item}&at_least={next}")).bearer_auth(&token);
    let (released, waited) = tokio::join!(hold.rollback(), request.send());
    released.expect("released");
    assert_eq!(waited.expect("an answer").status().as_u16(), 200);
    let metrics = reqwest::Client::new().get(format!("{url}/metrics")).bearer_auth(&token).send().await;
    let metrics = metrics.expect("an answer").text().await.expect("a body");
    assert!(metrics.contains("coldstream_view_stopped_position{view=\"view_content\"} 0\n"), "{metrics}");
    archived.end().await;
}
