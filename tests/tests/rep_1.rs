//! REP-1 and EVD-1: the follower's log is a byte-equal prefix of the active region's, whoever is killed and whatever
//! lies on the way; and what is published was signed by both, and is the root of both.

use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use ops::dev::Region;
use rand::Rng;
use rand::seq::SliceRandom;
use serde_json::{Value, json};
use system_tests::two_regions::{
    TwoRegions, append_run, head_beyond, lines, published, random, roots, standing, status, until,
};
use system_tests::writers::{Belief, Writers, events, lost};

#[derive(Debug, Clone, Copy)]
enum Victim {
    HomeServer,
    DrServer,
    DrDatabase,
}

/// SIGKILL, and up again.
async fn kill(regions: &mut TwoRegions, victim: Victim) {
    let region = match victim {
        Victim::HomeServer => &mut regions.home,
        Victim::DrServer | Victim::DrDatabase => &mut regions.dr,
    };
    match victim {
        Victim::HomeServer | Victim::DrServer => {
            region.kill_server().await.expect("killed");
            region.serve().await.expect("it serves again");
        }
        Victim::DrDatabase => {
            region.cluster.kill().await.expect("killed");
            region.cluster.start().await.expect("started again");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_followers_log_is_a_byte_equal_prefix_whoever_is_killed_under_eight_writers() {
    let mut random = random();
    let mut regions = TwoRegions::start().await;
    let writers = Writers::start([&regions.home, &regions.dr], "kills", Belief::Exact);
    let mut victims = [Victim::HomeServer, Victim::DrServer, Victim::DrDatabase].repeat(3);
    victims.shuffle(&mut random);
    for victim in victims {
        writers.more(random.random_range(5..120)).await;
        eprintln!("kill -9: {victim:?}");
        kill(&mut regions, victim).await;
        head_beyond(&regions.dr, standing(&regions.home).await.expect("it answers").head.get()).await;
        // The follower's first: the other one only grows.
        let (dr, home) = (lines(&regions.dr).await, lines(&regions.home).await);
        assert!(home.starts_with(&dr), "dr's {} lines are home's first ones", dr.len());
    }
    let journal = writers.stop().await;
    let lines = regions.same_lines().await;
    assert_eq!(lost(&lines, &journal), [], "every acknowledged event is there");
    assert!(journal.retried > 0, "the writers felt the kills");
    assert!(events(&lines).iter().all(|event| event.epoch.get() == 1), "a follower acknowledges nothing");

    let (roots, head, keys) = (roots(&lines), u64::try_from(lines.len()).expect("small"), regions.keys());
    for region in [&regions.home, &regions.dr] {
        let sizes = until("the newest head is published", async || {
            let sizes = published(region, &keys, &roots).await;
            if sizes.contains(&head) { Ok(sizes) } else { Err(sizes) }
        })
        .await;
        assert!(sizes.len() > 1, "checkpoints were published all along: {sizes:?}");
    }
    regions.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_is_published_only_when_the_follower_holds_it_too() {
    let mut regions = TwoRegions::start().await;
    let keys = regions.keys();
    append_run(&regions.home, "both", 20).await;
    head_beyond(&regions.dr, 20).await;
    regions.dr.kill_server().await.expect("killed");
    append_run(&regions.home, "alone", 30).await;
    until("home has signed alone", async || match status(&regions.home).await {
        Ok(status) if status.workers["cosign"].note == "signed 50" => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    let home_roots = roots(&lines(&regions.home).await);
    for region in [&regions.home, &regions.dr] {
        let sizes = published(region, &keys, &home_roots).await;
        assert!(sizes.iter().all(|size| *size <= 20), "dr does not hold {sizes:?}");
    }
    regions.dr.serve().await.expect("it serves again");
    for region in [&regions.home, &regions.dr] {
        until("now it is published", async || {
            let sizes = published(region, &keys, &home_roots).await;
            if sizes.contains(&50) { Ok(()) } else { Err(sizes) }
        })
        .await;
    }
    regions.end().await;
}

/// What is done to a batch on its way. All but the first two are bodies that a zstd reader takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lie {
    Nothing,
    Silence,
    CutBody,
    FlippedByte,
    SwappedLines,
    MissingFirst,
    MissingLast,
    AlteredRecord,
    OlderBatch,
    OtherRoot,
    OtherLog,
    NewerEpoch,
    NewerRecord,
}

impl Lie {
    /// With what each is refused.
    const REFUSED: [(Self, &str); 11] = [
        (Self::CutBody, "cannot be read"),
        (Self::FlippedByte, "the CRC-32 of the batch's lines does not match"),
        (Self::SwappedLines, "stands in the place of"),
        (Self::MissingFirst, "stands in the place of"),
        (Self::MissingLast, "do not give the root"),
        (Self::AlteredRecord, "do not give the root"),
        (Self::OlderBatch, "the batch begins after 0"),
        (Self::OtherRoot, "the two logs differ"),
        (Self::OtherLog, "the batch is of log \"another\""),
        (Self::NewerEpoch, "the batch is of epoch 7"),
        (Self::NewerRecord, "the batch is of epoch 7"),
    ];

    fn tell(self, body: &[u8]) -> Vec<u8> {
        if self == Self::CutBody {
            return body[..body.len() / 2].to_vec();
        }
        let text = zstd::decode_all(body).expect("a batch of home's");
        let mut lines: Vec<Vec<u8>> = text.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
        let mut header: Value = serde_json::from_slice(&lines.remove(0)).expect("a header");
        self.change(&mut header, &mut lines);
        let lines = lines.concat();
        if self != Self::FlippedByte {
            header["crc32"] = json!(format!("{:08x}", crc32fast::hash(&lines)));
        }
        zstd::encode_all(&*[header.to_string().as_bytes(), b"\n", &lines].concat(), 1).expect("memory")
    }

    fn change(self, header: &mut Value, lines: &mut Vec<Vec<u8>>) {
        let replace = |line: &mut Vec<u8>, from: &str, to: &str| {
            let text = String::from_utf8(line.clone()).expect("a record");
            assert!(text.contains(from), "{text}");
            *line = text.replacen(from, to, 1).into_bytes();
        };
        match self {
            Self::Nothing | Self::Silence | Self::CutBody | Self::OlderBatch => {}
            Self::FlippedByte | Self::AlteredRecord => replace(&mut lines[1], "\"text\":\"as", "\"text\":\"is"),
            Self::SwappedLines => lines.swap(0, 1),
            Self::MissingFirst => drop(lines.remove(0)),
            Self::MissingLast => {
                lines.pop();
                let last: u64 = header["last"].as_str().and_then(|last| last.parse().ok()).expect("a number");
                header["last"] = json!((last - 1).to_string());
            }
            Self::OtherRoot => header["root_before"] = header["root_after"].clone(),
            Self::OtherLog => header["log"] = json!("another"),
            Self::NewerEpoch => header["epoch"] = json!("7"),
            Self::NewerRecord => replace(&mut lines[1], "\"epoch\":\"1\"", "\"epoch\":\"7\""),
        }
    }
}

/// A server between dr and home.
struct Liar {
    home: String,
    http: reqwest::Client,
    lie: Mutex<Lie>,
}

impl Liar {
    /// Starts one; dr will ask it instead of home.
    async fn between(home: &Region, dr: &Region) -> Arc<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let mut config: toml::Table =
            std::fs::read_to_string(&dr.config).expect("read").parse().expect("a configuration");
        config["replication"]["peer_url"] = url.into();
        std::fs::write(&dr.config, config.to_string()).expect("written");
        let liar =
            Arc::new(Self { home: home.url.clone(), http: reqwest::Client::new(), lie: Mutex::new(Lie::Nothing) });
        let router = axum::Router::new().fallback(pass_on).with_state(Arc::clone(&liar));
        tokio::spawn(async move { axum::serve(listener, router).await });
        liar
    }

    fn tell(&self, lie: Lie) {
        *self.lie.lock().unwrap_or_else(PoisonError::into_inner) = lie;
    }

    fn lie(&self) -> Lie {
        *self.lie.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn pass_on(State(liar): State<Arc<Liar>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body: Bytes = axum::body::to_bytes(body, 1 << 20).await.expect("a small question");
    let is_batch = parts.uri.path() == "/v1/replication/batch";
    if is_batch && liar.lie() == Lie::Silence {
        return StatusCode::BAD_GATEWAY.into_response();
    }
    let path = match liar.lie() {
        Lie::OlderBatch if is_batch => "/v1/replication/batch?after=0&limit=10",
        _ => parts.uri.path_and_query().expect("a path").as_str(),
    };
    let mut asked = liar.http.request(parts.method, format!("{}{path}", liar.home)).body(body);
    for name in [header::AUTHORIZATION, header::CONTENT_TYPE] {
        if let Some(value) = parts.headers.get(&name) {
            asked = asked.header(name, value);
        }
    }
    let Ok(answer) = asked.send().await else { return StatusCode::BAD_GATEWAY.into_response() };
    let (status, kind) = (answer.status(), answer.headers().get(header::CONTENT_TYPE).cloned());
    let Ok(body) = answer.bytes().await else { return StatusCode::BAD_GATEWAY.into_response() };
    // Told after home answered: a question that was on its way before is not answered with the truth.
    let body = match liar.lie() {
        lie if is_batch && status.is_success() && lie != Lie::Nothing => {
            if lie == Lie::Silence {
                return StatusCode::BAD_GATEWAY.into_response();
            }
            lie.tell(&body).into()
        }
        _ => body,
    };
    let mut response = (status, body).into_response();
    if let Some(kind) = kind {
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
    }
    response
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_lies_is_refused_and_changes_nothing() {
    let mut regions = TwoRegions::prepare().await;
    let liar = Liar::between(&regions.home, &regions.dr).await;
    regions.home.serve().await.expect("home serves");
    regions.dr.serve().await.expect("dr serves");
    append_run(&regions.home, "true", 15).await;
    head_beyond(&regions.dr, 15).await;
    liar.tell(Lie::Silence);
    append_run(&regions.home, "more", 25).await;
    let before = lines(&regions.dr).await;
    let rows = stored(&regions.dr).await;
    for (lie, reason) in Lie::REFUSED {
        liar.tell(lie);
        until(&format!("{lie:?} is refused"), async || {
            let status = status(&regions.dr).await?;
            let follow = &status.workers["follow"];
            let refused = follow.error.as_ref().is_some_and(|error| error.contains(reason));
            if refused && follow.state == "failing" { Ok(()) } else { Err(format!("{follow:?}")) }
        })
        .await;
        assert_eq!(stored(&regions.dr).await, rows, "{lie:?}");
        assert!(lines(&regions.dr).await == before, "{lie:?} changed the log");
    }
    liar.tell(Lie::Nothing);
    head_beyond(&regions.dr, 40).await;
    assert_eq!(regions.same_lines().await.len(), 40);
    regions.end().await;
}

/// Head, events, streams and ids in a region's database.
async fn stored(region: &Region) -> (i64, i64, i64, i64) {
    use sqlx::Connection;
    let mut database = sqlx::PgConnection::connect(&region.superuser_url()).await.expect("connected");
    let sql = "SELECT (SELECT position FROM coldstream.log_head), (SELECT count(*) FROM coldstream.events), \
               (SELECT coalesce(sum(version), 0)::bigint FROM coldstream.streams), \
               (SELECT count(*) FROM coldstream.event_ids)";
    sqlx::query_as(sql).fetch_one(&mut database).await.expect("answered")
}
