//! SIGHUP, with the real binary: what can change while a region serves changes, what cannot is named, and a configuration
//! with a fault is refused as a whole.

mod door_common;

use std::fs;
use std::time::Duration;

use door_common::Rig;
use door_common::certificates::Authority;
use reqwest::StatusCode;
use rustix::process::Signal;
use toml::{Table, Value};

/// Shaped as a JWT is, and signed by nobody.
const JWT: &str = "eyJhbGciOiJSUzI1NiIsImtpZCI6ImtleSJ9.eyJzdWIiOiJhbm4iLCJleHAiOjQxMDI0NDQ4MDB9.AAAA";

async fn status(rig: &Rig, token: &str) -> StatusCode {
    let request = reqwest::Client::new().get(format!("{}/v1/status", rig.region.url)).bearer_auth(token);
    request.send().await.expect("an answer").status()
}

/// Sets a setting in the region's file.
fn set(rig: &Rig, name: &str, value: impl Into<Value>) {
    let text = fs::read_to_string(&rig.region.config).expect("a configuration");
    let mut config: Table = text.parse().expect("it is TOML");
    let (sections, setting) = name.rsplit_once('.').expect("section.setting");
    let mut table = &mut config;
    for section in sections.split('.') {
        let section = table.entry(section).or_insert_with(|| Table::new().into());
        table = section.as_table_mut().expect("a section");
    }
    table.insert(setting.to_owned(), value.into());
    fs::write(&rig.region.config, config.to_string()).expect("written");
}

fn log(rig: &Rig) -> String {
    fs::read_to_string(rig.region.server_log()).expect("the server's log")
}

/// SIGHUP; waits until the log has one line more with these words, and gives it.
async fn told(rig: &mut Rig, words: &str) -> String {
    let count = |log: &str| log.lines().filter(|line| line.contains(words)).count();
    let before = count(&log(rig));
    rig.region.server().expect("it runs").signal(Signal::HUP).expect("told");
    let mut look = tokio::time::interval(Duration::from_millis(20));
    loop {
        look.tick().await;
        let log = log(rig);
        if count(&log) > before {
            return log.lines().rfind(|line| line.contains(words)).expect("it is there").to_owned();
        }
    }
}

const READ: &str = "the configuration was read again";
const REFUSED: &str = "refused as a whole";

#[tokio::test]
async fn a_sighup_changes_what_can_change_names_what_cannot_and_kills_nobody() {
    let mut rig = Rig::serving().await;
    let pid = rig.region.server().map(|server| server.pid());
    let [reader, auditor] = [rig.region.tokens.reader.clone(), rig.region.tokens.auditor.clone()];
    assert_eq!(status(&rig, JWT).await, StatusCode::UNAUTHORIZED, "nobody issues tokens here");
    told(&mut rig, READ).await;
    assert!(!log(&rig).contains("needs a restart") && !log(&rig).contains("DEBUG"), "nothing is new");

    set(&rig, "http.rates.reader.requests_per_second", 1);
    set(&rig, "telemetry.filter", "debug");
    set(&rig, "http.connections_max", 77);
    set(&rig, "log.url", format!("{}&application_name=other", rig.region.database_url()));
    for (setting, value) in [
        ("issuer", "https://issuer.example"),
        ("audience", "coldstream"),
        ("role_claim", "groups"),
        ("keys_url", "http://127.0.0.1:1/keys"),
    ] {
        set(&rig, &format!("http.oidc.{setting}"), value);
    }
    set(&rig, "http.oidc.roles.readers", "reader");
    let line = told(&mut rig, "needs a restart").await;
    assert!(line.contains("http.connections_max, log.url") && !line.contains("rates"), "{line}");
    while status(&rig, &reader).await != StatusCode::TOO_MANY_REQUESTS {}
    assert_eq!(status(&rig, &auditor).await, StatusCode::OK);
    assert_eq!(status(&rig, JWT).await, StatusCode::SERVICE_UNAVAILABLE, "its issuer is asked, and does not answer");
    assert!(log(&rig).contains("DEBUG"), "the filter is another one");

    // Each has something that could change, and a fault: none of it holds.
    set(&rig, "http.rates.reader.requests_per_second", 0);
    let sound = fs::read_to_string(&rig.region.config).expect("a configuration");
    for (setting, value) in [
        ("telemetry.filter", Value::from("of=no=filter")),
        ("http.answer_seconds", Value::from(0)),
        ("http.oidc.ca", Value::from("no-such-file.pem")),
        ("http.no_such_setting", Value::from(1)),
    ] {
        set(&rig, setting, value);
        let line = told(&mut rig, REFUSED).await;
        assert!(line.contains("ERROR"), "{line}");
        fs::write(&rig.region.config, &sound).expect("written");
    }
    fs::write(&rig.region.config, "this is no TOML").expect("written");
    told(&mut rig, REFUSED).await;
    while status(&rig, &reader).await != StatusCode::TOO_MANY_REQUESTS {}

    fs::write(&rig.region.config, sound).expect("written");
    told(&mut rig, READ).await;
    for _ in 0..20 {
        assert_eq!(status(&rig, &reader).await, StatusCode::OK, "without limit again");
    }
    // The authorities of the issuer are read again, though the configuration is the same.
    let ca = rig.folder.path().join("ca.pem");
    fs::write(&ca, &Authority::new("issuer's").pem).expect("written");
    set(&rig, "http.oidc.ca", ca.display().to_string());
    told(&mut rig, READ).await;
    fs::write(&ca, "none").expect("written");
    told(&mut rig, REFUSED).await;
    assert_eq!(rig.region.server().map(|server| server.pid()), pid, "nobody started it again");
    rig.end().await;
}
