//! SEC-1 between regions: each shows the other one a certificate and asks it for one, and all of them are replaced while both
//! go on, under way and by another authority.

mod door_common;

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;

use door_common::certificates::Authority;
use ops::clock::SystemClock;
use ops::dev::Region;
use reqwest::{Certificate, Client, Identity};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use system_tests::two_regions::{TwoRegions, until};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::sync::watch;

const ANSWERED: &str = "coldstream_replication_peer_answered_timestamp_seconds";
const NOT_AFTER: &str = "coldstream_tls_peer_certificate_not_after_timestamp_seconds";

/// The way to a region, on which connections can be cut.
struct Passage {
    at: SocketAddr,
    cut: watch::Sender<()>,
}

impl Passage {
    async fn to(region: &Region) -> Self {
        let to: SocketAddr = region.url.trim_start_matches("http://").parse().expect("an address");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let (at, cut) = (listener.local_addr().expect("bound"), watch::Sender::new(()));
        let cuts = cut.clone();
        tokio::spawn(async move {
            while let Ok((mut here, _)) = listener.accept().await {
                let mut cut = cuts.subscribe();
                tokio::spawn(async move {
                    let Ok(mut there) = TcpStream::connect(to).await else { return };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut here, &mut there) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        Self { at, cut }
    }
}

/// Two regions that speak TLS with each other and ask for certificates.
struct Locked {
    regions: TwoRegions,
    /// To home, and to dr.
    passages: [Passage; 2],
    servers: Vec<Child>,
}

impl Locked {
    async fn start(authority: &Authority) -> Self {
        let regions = TwoRegions::prepare().await;
        let passages = [Passage::to(&regions.home).await, Passage::to(&regions.dr).await];
        let mut locked = Self { regions, passages, servers: Vec::new() };
        locked.believe(&authority.pem);
        locked.show(authority);
        let [to_home, to_dr] = [&locked.passages[0], &locked.passages[1]];
        for (region, to_other) in [(&locked.regions.home, to_dr), (&locked.regions.dr, to_home)] {
            configure(region, to_other.at);
            let log = fs::File::create(file(region, "server.log")).expect("a file");
            let mut command = Command::new(door_common::binary());
            command.arg("--config").arg(&region.config).arg("serve").kill_on_drop(true);
            locked.servers.push(command.stdin(Stdio::null()).stderr(log).spawn().expect("started"));
        }
        locked
    }

    fn both(&self) -> [&Region; 2] {
        [&self.regions.home, &self.regions.dr]
    }

    /// Replaces what both believe: the API its clients, and each the other one.
    fn believe(&self, authorities: &str) {
        for region in self.both() {
            fs::write(file(region, "ca.pem"), authorities).expect("written");
        }
    }

    /// Replaces what both show.
    fn show(&self, authority: &Authority) {
        for region in self.both() {
            for name in ["api", "own"] {
                let (certificate, key) = authority.signs();
                fs::write(file(region, &format!("{name}.pem")), certificate).expect("written");
                fs::write(file(region, &format!("{name}.key")), key).expect("written");
            }
        }
    }

    /// Tells both, and waits until each has said these words for its API and for the other region.
    async fn told(&self, words: &str, of_each: usize) {
        let before = self.both().map(|region| said(region, words));
        for server in &self.servers {
            let pid = i32::try_from(server.id().expect("it runs")).expect("a process");
            kill_process(Pid::from_raw(pid).expect("a process"), Signal::HUP).expect("told");
        }
        until(words, async || {
            let more: Vec<usize> =
                self.both().iter().zip(before).map(|(of, before)| said(of, words) - before).collect();
            if more.iter().all(|more| *more >= of_each) { Ok(()) } else { Err(more) }
        })
        .await;
    }

    /// Cuts what stands between the regions; then both have to ask each other anew, and dr follows what is appended.
    async fn goes_on(&self, authority: &Authority, number: u64) {
        let http = client(authority);
        for passage in &self.passages {
            passage.cut.send_replace(());
        }
        let cut_at = SystemClock::read().expect("a clock").unix_micros() / 1_000_000 + 1;
        let event = json!({"specversion": "1.0", "id": number.to_string(), "source": "/tests", "type": "t",
                           "subject": "order-1"});
        until("home acknowledges", async || {
            let [home, _] = self.both();
            let request = http.post(format!("{}/v1/append", url(home))).bearer_auth(&home.tokens.appender);
            let request = request.header("content-type", "application/cloudevents+json").body(event.to_string());
            request.send().await.and_then(reqwest::Response::error_for_status).map_err(|error| format!("{error:?}"))
        })
        .await;
        let text = async |region: &Region, path: &str| {
            let asked = http.get(format!("{}{path}", url(region))).bearer_auth(&region.tokens.auditor);
            let answer = asked.send().await.map_err(|error| format!("{error:?}"))?;
            answer.text().await.map_err(|error| error.to_string())
        };
        until("dr follows", async || {
            let status = text(&self.regions.dr, "/v1/status").await?;
            if status.contains(&format!(r#""head":"{number}""#)) { Ok(()) } else { Err(status) }
        })
        .await;
        for region in self.both() {
            until("each has an answer of the other one", async || {
                let metrics = text(region, "/metrics").await?;
                let value = |name: &str| -> f64 {
                    let line = metrics.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
                    line.and_then(|value| value.parse().ok()).unwrap_or_default()
                };
                let answered = value(ANSWERED);
                if answered > cut_at as f64 && value(NOT_AFTER) > answered { Ok(()) } else { Err(answered.to_string()) }
            })
            .await;
        }
    }
}

fn file(region: &Region, name: &str) -> PathBuf {
    region.config.with_file_name(name)
}

fn url(region: &Region) -> String {
    region.url.replace("http:", "https:")
}

/// How often a region's log has these words.
fn said(region: &Region, words: &str) -> usize {
    let log = fs::read_to_string(file(region, "server.log")).expect("a log");
    log.lines().filter(|line| line.contains(words)).count()
}

fn configure(region: &Region, other: SocketAddr) {
    let text = fs::read_to_string(&region.config).expect("a configuration");
    let mut config: toml::Table = text.parse().expect("TOML");
    let files = |names: [(&str, &str); 3]| -> toml::Value {
        let path = |name| toml::Value::from(file(region, name).display().to_string());
        toml::Table::from_iter(names.map(|(setting, name)| (setting.to_owned(), path(name)))).into()
    };
    let tls = files([("certificate", "api.pem"), ("key", "api.key"), ("client_ca", "ca.pem")]);
    config["http"].as_table_mut().expect("a section").insert("tls".into(), tls);
    config.insert("peer".into(), files([("certificate", "own.pem"), ("key", "own.key"), ("ca", "ca.pem")]));
    config["replication"]["peer_url"] = format!("https://{other}").into();
    fs::write(&region.config, config.to_string()).expect("written");
}

/// A client that believes an authority alone, and shows a certificate of it.
fn client(authority: &Authority) -> Client {
    let (certificate, key) = authority.signs();
    Client::builder()
        .tls_certs_only([Certificate::from_pem(authority.pem.as_bytes()).expect("a certificate")])
        .identity(Identity::from_pem(format!("{certificate}\n{key}").as_bytes()).expect("a pair"))
        .build()
        .expect("a client")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn regions_replace_their_certificates_and_authorities_while_one_follows_the_other() {
    const SHOWN: &str = "new certificates are shown";
    let (before, after) = (Authority::new("before"), Authority::new("after"));
    let locked = Locked::start(&before).await;
    locked.goes_on(&before, 1).await;
    // First both are believed, then the new ones are shown, then the old ones are believed no more.
    locked.believe(&format!("{}\n{}", before.pem, after.pem));
    locked.told(SHOWN, 2).await;
    locked.show(&after);
    locked.told(SHOWN, 2).await;
    locked.believe(&after.pem);
    locked.told(SHOWN, 2).await;
    locked.goes_on(&after, 2).await;

    // A key that is another certificate's: the other region is shown what it was shown before.
    for region in locked.both() {
        fs::write(file(region, "own.key"), after.signs().1).expect("written");
    }
    locked.told("new certificates are refused", 1).await;
    locked.goes_on(&after, 3).await;
    drop(locked.servers);
    locked.regions.end().await;
}
