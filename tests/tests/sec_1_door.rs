//! SEC-1 at the door, with the real binary: tokens that end and that open some categories only, what the audit tells of a
//! refusal, and TLS with certificates that change while the server runs.

mod door_common;

use std::fs;
use std::path::PathBuf;
use std::process::{Output, Stdio};

use coldstream_client::{Client, Settings};
use domain::append::AppendRequest;
use domain::event::NewEvent;
use door_common::certificates::Authority;
use door_common::{Rig, text};
use reqwest::{Certificate, Identity, StatusCode};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use sqlx::{Connection, Executor};
use system_tests::administrators::slowed;
use tokio::process::Child;

fn event(id: &str, stream: &str) -> Value {
    json!({"specversion": "1.0", "id": id, "source": "/tests", "type": "t", "subject": stream})
}

async fn append(rig: &Rig, token: &str, event: &Value) -> StatusCode {
    let request = reqwest::Client::new().post(format!("{}/v1/append", rig.region.url)).bearer_auth(token);
    let request = request.header("content-type", "application/cloudevents+json").body(event.to_string());
    request.send().await.expect("an answer").status()
}

async fn get(rig: &Rig, token: &str, path: &str) -> StatusCode {
    let request = reqwest::Client::new().get(format!("{}{path}", rig.region.url)).bearer_auth(token);
    request.send().await.expect("an answer").status()
}

async fn made(rig: &Rig, arguments: &[&str]) -> String {
    let made = rig.run(&[&["token", "create"], arguments].concat()).await;
    assert!(made.status.success(), "{}", text(&made.stderr));
    text(&made.stdout).trim().to_owned()
}

#[tokio::test]
async fn a_token_opens_its_categories_until_its_end_at_its_rate_and_every_refusal_is_audited() {
    let rig = Rig::serving().await;
    let shop = made(&rig, &["--name", "shop", "--role", "appender", "--category", "order", "--expires", "90d"]).await;
    assert_eq!(append(&rig, &shop, &event("1", "order-1")).await, StatusCode::CREATED);
    assert_eq!(append(&rig, &shop, &event("2", "bill-1")).await, StatusCode::FORBIDDEN);
    assert_eq!(get(&rig, &shop, "/v1/stream?stream=order-1").await, StatusCode::OK);
    assert_eq!(get(&rig, &shop, "/v1/log").await, StatusCode::FORBIDDEN);
    assert_eq!(get(&rig, &shop, "/v1/log?category=order").await, StatusCode::OK);

    // It was made for a time that is over now: no test waits for a clock.
    let over = "UPDATE coldstream.tokens SET expires_at = clock_timestamp() WHERE id = 'late'";
    let late = made(&rig, &["--name", "late", "--role", "reader", "--expires", "30m"]).await;
    let database = sqlx::PgPool::connect(&rig.region.superuser_url()).await.expect("connected");
    sqlx::query(over).execute(&database).await.expect("changed");
    database.close().await;
    assert_eq!(get(&rig, &late, "/v1/log").await, StatusCode::UNAUTHORIZED);

    let bulk = made(&rig, &["--name", "bulk", "--role", "appender", "--append-bytes-per-second", "1"]).await;
    assert_eq!(append(&rig, &bulk, &event("3", "order-1")).await, StatusCode::CREATED);
    assert_eq!(append(&rig, &bulk, &event("4", "order-1")).await, StatusCode::TOO_MANY_REQUESTS);

    let listed = rig.run(&["token", "list", "--json"]).await;
    let listed: Vec<Value> = serde_json::from_slice(&listed.stdout).expect("JSON");
    let of = |name: &str| listed.iter().find(|token| token["name"] == name).expect("it is listed");
    assert_eq!((&of("shop")["categories"], &of("late")["state"]), (&json!(["order"]), &json!("expired")));
    assert!(of("shop")["last_used_at"].is_string() && of("late")["last_used_at"].is_null(), "{listed:?}");

    let log = fs::read_to_string(rig.region.server_log()).expect("the server's log");
    let refused =
        |name: &str| log.lines().any(|line| line.contains("refused") && line.contains(&format!("\"{name}\"")));
    assert!(["shop", "late", "bulk"].into_iter().all(refused), "{log}");
    assert!(![shop, late, bulk].iter().any(|token| log.contains(token)), "no token is logged");
    rig.end().await;
}

/// The line that the audit writes of a request without a token, in one form of the log. The request says to be one itself.
async fn audited(json: bool) -> String {
    let mut rig = Rig::with(None, vec![("telemetry.json", toml::Value::from(json))]).await;
    rig.region.serve().await.expect("it serves");
    let request = reqwest::Client::new().get(format!("{}/v1/log", rig.region.url));
    let request = request.header("X-Request-Id", "WARN:coldstream::audit:refused");
    assert_eq!(request.send().await.expect("an answer").status(), StatusCode::UNAUTHORIZED);
    // What is refused for another reason is not the audit's.
    let wrong = format!("/v1/stream?stream={}", "%20WARN%20coldstream::audit:%20");
    assert_eq!(get(&rig, &rig.region.tokens.reader, &wrong).await, StatusCode::BAD_REQUEST);
    let log = fs::read_to_string(rig.region.server_log()).expect("the server's log");
    let is_audit = |line: &&str| match json {
        true => serde_json::from_str::<Value>(line).expect("JSON")["target"] == "coldstream::audit",
        false => {
            line.split_once(' ').is_some_and(|(_, rest)| rest.trim_start().starts_with("WARN coldstream::audit: "))
        }
    };
    let lines: Vec<&str> = log.lines().filter(is_audit).collect();
    let [line] = lines[..] else { panic!("{lines:?} of {log}") };
    assert!(log.lines().count() > 1, "{log}");
    rig.end().await;
    line.to_owned()
}

#[tokio::test]
async fn a_line_of_the_audit_is_told_from_others_as_text_and_as_json() {
    let text = audited(false).await;
    for said in ["refused kind=\"denied\" status=401", "route=\"/v1/log\"", "WARN:coldstream::audit:refused"] {
        assert!(text.contains(said), "{text}");
    }
    let line: Value = serde_json::from_str(&audited(true).await).expect("JSON");
    let said = &line["fields"];
    assert_eq!((&line["level"], &said["message"]), (&json!("WARN"), &json!("refused")), "{line}");
    assert_eq!((&said["kind"], &said["status"], &said["route"]), (&json!("denied"), &json!(401), &json!("/v1/log")));
}

#[tokio::test]
async fn what_the_document_of_a_running_server_lists_asks_for_a_token_with_one_of_the_roles_it_lists() {
    // Without a limit for who tries one token after the other: that would be another refusal.
    let settings = vec![("http.rates.failures_per_second", toml::Value::from(0))];
    let mut rig = Rig::with(None, settings).await;
    rig.region.serve().await.expect("it serves");
    let tokens = rig.region.tokens.clone();
    let roles = [
        ("appender", &tokens.appender),
        ("reader", &tokens.reader),
        ("operator", &tokens.operator),
        ("auditor", &tokens.auditor),
        ("replicator", &tokens.replicator),
    ];
    let http = reqwest::Client::new();
    let document = http.get(format!("{}/v1/openapi.json", rig.region.url)).bearer_auth(&tokens.reader);
    let document: Value = document.send().await.expect("an answer").json().await.expect("JSON");
    let (mut closed, mut open) = (Vec::new(), Vec::new());
    for (path, operations) in document["paths"].as_object().expect("paths") {
        for (verb, operation) in operations.as_object().expect("operations") {
            let verb: reqwest::Method = verb.to_ascii_uppercase().parse().expect("a method");
            // Its body and its query are none: who may come in is refused for that, and changes nothing.
            let request = || http.request(verb.clone(), format!("{}{path}?no-such-parameter=1", rig.region.url));
            let alternatives = operation["security"].as_array().expect("alternatives");
            if alternatives.is_empty() {
                assert_eq!(request().send().await.expect("an answer").status(), StatusCode::OK, "{path}");
                open.push(path.as_str());
                continue;
            }
            closed.push(path.as_str());
            for refused in [request(), request().bearer_auth("cst_nobody's")] {
                let answer = refused.send().await.expect("an answer");
                assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{verb} {path}");
                assert_eq!(answer.headers()["www-authenticate"], "Bearer", "{verb} {path}");
            }
            let listed = |role: &str| alternatives.iter().any(|of| of["token"][0] == role);
            for (role, token) in roles.into_iter().filter(|(role, _)| !listed(role)) {
                let answer = request().bearer_auth(token).send().await.expect("an answer");
                assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{verb} {path} {role}");
            }
        }
    }
    assert_eq!(open, ["/health/live", "/health/ready"]);
    for known in ["/v1/append", "/v1/group/take", "/v1/replication/batch", "/v1/admin/promote", "/metrics"] {
        assert!(closed.contains(&known), "{known} is not in the document");
    }
    rig.end().await;
}

/// A region whose server speaks TLS and asks clients for certificates.
struct Locked {
    rig: Rig,
    clients: Authority,
    server: Option<Child>,
}

impl Locked {
    async fn start(authority: &Authority) -> Self {
        let (rig, clients) = (Rig::idle().await, Authority::new("clients"));
        let mut locked = Self { rig, clients, server: None };
        locked.write("clients.pem", &locked.clients.pem);
        locked.show(authority.signs());
        let own = locked.clients.signs();
        locked.write("own.pem", &own.0);
        locked.write("own.key", &own.1);
        let arguments = locked.arguments(&["serve"]);
        let mut command = locked.rig.command("", &arguments.iter().map(String::as_str).collect::<Vec<_>>());
        let log = fs::File::create(locked.file("server.log")).expect("a file");
        locked.server = Some(command.stdin(Stdio::null()).stderr(log).spawn().expect("started"));
        locked
    }

    fn file(&self, name: &str) -> PathBuf {
        self.rig.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.file(name), text).expect("written");
    }

    /// Replaces the server's certificate and key.
    fn show(&self, (certificate, key): (String, String)) {
        self.write("server.pem", &certificate);
        self.write("server.key", &key);
    }

    /// A command's arguments with the settings of both sides.
    fn arguments(&self, command: &[&str]) -> Vec<String> {
        let settings = [
            ("http.tls.certificate", "server.pem"),
            ("http.tls.key", "server.key"),
            ("http.tls.client_ca", "clients.pem"),
            ("peer.certificate", "own.pem"),
            ("peer.key", "own.key"),
        ];
        let set = |(name, file)| ["--set".to_owned(), format!("{name}={}", self.file(file).display())];
        settings.into_iter().flat_map(set).chain(command.iter().map(|&word| word.to_owned())).collect()
    }

    fn identity(&self) -> String {
        let (certificate, key) = self.clients.signs();
        format!("{certificate}\n{key}")
    }

    fn url(&self) -> String {
        self.rig.region.url.replace("http:", "https:")
    }

    /// Asks until the server shows a certificate of `authority` and `good` says so of its status.
    async fn until(&self, authority: &Authority, good: impl Fn(&Value) -> bool) {
        let mut look = tokio::time::interval(std::time::Duration::from_millis(50));
        loop {
            look.tick().await;
            // A client of its own each time: what a connection was shown is shown to it on.
            let http = reqwest::Client::builder()
                .tls_certs_only([Certificate::from_pem(authority.pem.as_bytes()).expect("a certificate")])
                .identity(Identity::from_pem(self.identity().as_bytes()).expect("a pair"))
                .build()
                .expect("a client");
            let asked = http.get(format!("{}/v1/status", self.url())).bearer_auth(&self.rig.region.tokens.reader);
            if let Ok(answer) = asked.send().await
                && answer.json().await.is_ok_and(|status: Value| good(&status))
            {
                return;
            }
        }
    }

    /// Who shows no certificate, or one of another authority, is refused; the audit says so once a minute.
    async fn refuses_and_says_so(&self, authority: &Authority) {
        let believing = Certificate::from_pem(authority.pem.as_bytes()).expect("a certificate");
        let (certificate, key) = Authority::new("others").signs();
        let others = Identity::from_pem(format!("{certificate}\n{key}").as_bytes()).expect("a pair");
        for shown in [None, Some(others.clone()), Some(others)] {
            let http = reqwest::Client::builder().tls_certs_only([believing.clone()]);
            let http = shown.into_iter().fold(http, reqwest::ClientBuilder::identity).build().expect("a client");
            http.get(format!("{}/v1/status", self.url())).send().await.expect_err("refused");
        }
        let mut look = tokio::time::interval(std::time::Duration::from_millis(50));
        loop {
            look.tick().await;
            let log = fs::read_to_string(self.file("server.log")).expect("the server's log");
            let lines: Vec<&str> = log.lines().filter(|line| line.contains("a TLS handshake is refused")).collect();
            if let [line] = lines[..] {
                assert!(line.contains("WARN") && line.contains("peer=127.0.0.1") && line.contains("why="), "{line}");
                return;
            }
            assert!(lines.is_empty(), "{lines:?}");
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = self.server.as_ref().and_then(Child::id).expect("it runs");
        let pid = Pid::from_raw(i32::try_from(pid).expect("a process")).expect("a process");
        kill_process(pid, signal).expect("told");
    }
}

#[tokio::test]
async fn certificates_change_while_the_server_runs_and_both_clients_believe_a_private_authority() {
    let (before, after) = (Authority::new("before"), Authority::new("after"));
    let mut locked = Locked::start(&before).await;
    locked.until(&before, |status| status["role"] == "active").await;
    locked.refuses_and_says_so(&before).await;
    locked.write("ca.pem", &before.pem);
    let reader = locked.rig.region.tokens.reader.clone();
    let run = |command: &[&str]| {
        let arguments = locked.arguments(command);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut command = locked.rig.command(&reader, &arguments);
        async move { command.output().await.expect("the binary runs").status.code() }
    };
    let believing = format!("peer.ca={}", locked.file("ca.pem").display());
    assert_eq!(run(&["--set", &believing, "status"]).await, Some(0));
    assert_eq!(run(&["status"]).await, Some(1), "the system's authorities have not signed it");
    let settings = Settings::new(&locked.url(), &locked.rig.region.tokens.appender);
    let settings = settings.believing(before.pem.as_bytes()).showing(locked.identity().as_bytes());
    let event = NewEvent::from_cloudevent(event("1", "order-1").to_string().as_bytes()).expect("an event");
    let request = AppendRequest { events: vec![event], ..AppendRequest::default() };
    let appended = Client::new(settings).expect("a client").append(&request).await.expect("acknowledged");
    assert_eq!(appended.events[0].position.get(), 1);

    // A key that is another certificate's: said, and not shown to anybody.
    locked.show((after.signs().0, after.signs().1));
    locked.signal(Signal::HUP);
    locked.until(&before, |status| status["workers"]["certificates"]["state"] == "failing").await;
    assert_eq!(run(&["config", "check"]).await, Some(3));
    locked.show(after.signs());
    locked.signal(Signal::HUP);
    locked.until(&after, |status| status["workers"]["certificates"]["state"] == "working").await;
    assert_eq!(run(&["config", "check"]).await, Some(0));
    let log = fs::read_to_string(locked.file("server.log")).expect("the server's log");
    assert!(log.contains("ERROR") && log.contains("new certificates are refused"), "{log}");

    locked.signal(Signal::TERM);
    let mut server = locked.server.take().expect("it runs");
    assert_eq!(server.wait().await.expect("it ends").code(), Some(0), "in good order");
    locked.rig.region.end().await.expect("it ends");
}

/// Our crates say all that they can.
const EVERYTHING: &str = "info,ops=trace,coldstream=trace,event_log=trace,domain=trace,archiver=trace,segment_store=trace,\
    replication=trace,projections=trace";
const PASSWORD: &str = "hush-database-password";
const SERVICE_PASSWORD: &str = "hush-service-password";
/// Shaped as a JWT is: header, claims and signature.
const JWT: &str = "eyJhbGciOiJSUzI1NiIsImtpZCI6ImtleSJ9.eyJzdWIiOiJodXNoIiwiZXhwIjo0MTAyNDQ0ODAwfQ.aHVzaC1zaWduYXR1cmU";

/// `db init` that has to wait before it sets the service's password, on a server that logs every statement.
async fn initialised(rig: &Rig) -> Output {
    let url = rig.region.superuser_url();
    let mut database = sqlx::PgConnection::connect(&url).await.expect("connected");
    database.execute("ALTER DATABASE coldstream SET log_statement = 'all'").await.expect("set");
    let mut command = rig.command("", &["db", "init", "--log-id", "development", "--yes"]);
    let command = command.env("COLDSTREAM_ADMIN_URL", &url).env("COLDSTREAM_SERVICE_PASSWORD", SERVICE_PASSWORD);
    let output = slowed(&url, "coldstream", command.output()).await.expect("the binary runs");
    assert!(output.status.success(), "{}", text(&output.stderr));
    output
}

#[tokio::test]
async fn no_secret_is_in_what_a_server_and_the_commands_say_whatever_fails() {
    let mut rig = Rig::idle().await;
    let key = fs::read_to_string(rig.region.config.with_file_name("key")).expect("a signing key");
    let key = key.trim().splitn(5, '+').last().expect("PRIVATE+KEY+name+id+key").to_owned();
    let url = rig.region.database_url().replacen('@', &format!(":{PASSWORD}@"), 1);
    let settings = fs::read_to_string(&rig.region.config).expect("a configuration");
    let mut settings: toml::Table = settings.parse().expect("TOML");
    let secret = settings["archive"]["store"]["secret_access_key"].as_str().expect("a secret").to_owned();
    settings["log"]["url"] = url.into();
    settings.insert("telemetry".into(), toml::Table::from_iter([("filter".to_owned(), EVERYTHING.into())]).into());
    let oidc = [("issuer", "https://i"), ("audience", "a"), ("role_claim", "r"), ("keys_url", "http://127.0.0.1:1/k")];
    let mut oidc = toml::Table::from_iter(oidc.map(|(name, value)| (name.to_owned(), value.into())));
    oidc.insert("roles".into(), toml::Table::new().into());
    settings["http"].as_table_mut().expect("a section").insert("oidc".into(), oidc.into());
    let write = |settings: &toml::Table| fs::write(&rig.region.config, settings.to_string()).expect("written");
    write(&settings);
    assert!(settings.to_string().contains(PASSWORD) && settings.to_string().contains(&secret));

    let mut said = Vec::new();
    rig.region.serve().await.expect("it serves");
    let tokens = rig.region.tokens.clone();
    assert_eq!(append(&rig, &tokens.appender, &event("1", "order-1")).await, StatusCode::CREATED);
    assert_eq!(get(&rig, JWT, "/v1/log").await, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(get(&rig, "cs_wrong_hush", "/v1/log").await, StatusCode::UNAUTHORIZED);
    for command in
        [&["archive", "run", "--everything", "--yes"][..], &["config", "check"], &["config", "show"], &["status"]]
    {
        said.push(rig.run(command).await);
    }
    rig.region.cluster.stop().await.expect("stopped");
    assert_eq!(get(&rig, &tokens.reader, "/v1/log").await, StatusCode::SERVICE_UNAVAILABLE);
    assert_ne!(append(&rig, &tokens.appender, &event("2", "order-1")).await, StatusCode::CREATED);
    said.push(rig.run(&["config", "check"]).await);
    rig.region.stop_server().await.expect("it ends");
    // Neither the database nor the bucket can be reached, at the start and while it serves.
    said.push(rig.run(&["serve"]).await);
    assert!(!said.last().expect("it was run").status.success());
    rig.region.cluster.start().await.expect("started");
    settings["archive"]["store"]["endpoint"] = "http://127.0.0.1:1".into();
    fs::write(&rig.region.config, settings.to_string()).expect("written");
    rig.region.serve().await.expect("it serves");
    assert_eq!(append(&rig, &tokens.appender, &event("3", "order-1")).await, StatusCode::CREATED);
    for command in
        [&["archive", "run", "--everything", "--yes"][..], &["archive", "scrub", "--yes"], &["config", "check"]]
    {
        said.push(rig.run(command).await);
    }
    rig.region.stop_server().await.expect("it ends");
    said.push(initialised(&rig).await);

    let mut all = fs::read_to_string(rig.region.server_log()).expect("the server's log");
    let databases = fs::read_to_string(rig.region.cluster.log_file()).expect("the database's log");
    assert!(databases.contains("LOGIN PASSWORD 'SCRAM-SHA-256$"), "it logs every statement");
    all.push_str(&databases);
    assert!(all.contains("DEBUG"), "it says much");
    for output in &said {
        all.push_str(&text(&output.stdout));
        all.push_str(&text(&output.stderr));
    }
    let signature = JWT.rsplit('.').next().expect("a signature");
    let tokens = [&tokens.appender, &tokens.reader, &tokens.operator, &tokens.auditor, &tokens.replicator];
    let secrets = [PASSWORD, SERVICE_PASSWORD, &secret, JWT, signature, &key, "cs_wrong_hush"];
    for hidden in secrets.into_iter().chain(tokens.into_iter().map(String::as_str)) {
        assert!(hidden.len() > 8, "it would be found by chance");
        let line = all.lines().find(|line| line.contains(hidden));
        assert_eq!(line, None, "a secret is said");
    }
    rig.region.end().await.expect("it ends");
}
