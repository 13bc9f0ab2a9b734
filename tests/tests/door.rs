//! The door on a real region: a process of the binary, its database, its object storage.

mod door_common;

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use domain::store::ObjectStore;
use door_common::{Rig, text};
use reqwest::{Client, Response, StatusCode};
use rustix::process::Signal;
use serde_json::{Value, json};

async fn append(rig: &Rig, event: &Value) -> Response {
    let request = Client::new().post(format!("{}/v1/append", rig.region.url)).bearer_auth(&rig.region.tokens.appender);
    let request = request.header("content-type", "application/cloudevents+json").body(event.to_string());
    request.send().await.expect("an answer")
}

async fn get(rig: &Rig, token: &str, path: &str) -> Response {
    let request = Client::new().get(format!("{}{path}", rig.region.url)).bearer_auth(token);
    request.send().await.expect("an answer")
}

fn content(id: &str, event_type: &str, data: &Value) -> Value {
    json!({"specversion": "1.0", "id": id, "source": "/tests", "type": event_type, "subject": "content-a/b",
           "time": "2026-05-01T10:00:00.5+02:00", "data": data})
}

/// Asks until `good` says so: the view follows the log at its own pace.
async fn until(rig: &Rig, path: &str, good: impl Fn(StatusCode, &str) -> bool) -> String {
    let mut look = tokio::time::interval(Duration::from_millis(20));
    loop {
        look.tick().await;
        let response = get(rig, &rig.region.tokens.reader, path).await;
        let status = response.status();
        let body = response.text().await.expect("a whole answer");
        if good(status, &body) {
            return body;
        }
    }
}

#[tokio::test]
async fn content_is_what_was_appended_to_it() {
    let rig = Rig::serving().await;
    let form = |oid: &str| json!({"author": "x", "change": "c", "oid": oid, "mode": "100644", "size": 3});
    for (id, event_type, data) in [("1", "content.created", form("one")), ("2", "content.revised", form("two"))] {
        assert_eq!(append(&rig, &content(id, event_type, &data)).await.status(), StatusCode::CREATED);
    }
    let now = until(&rig, "/v1/content?id=a/b", |status, body| status.is_success() && body.contains("two")).await;
    let now: Value = serde_json::from_str(&now).expect("JSON");
    let said = (&now["id"], &now["state"], &now["live"], &now["size"], &now["revisions"], &now["version"]);
    assert_eq!(said, (&json!("a/b"), &json!("living"), &json!(true), &json!("3"), &json!("1"), &json!("2")));

    let reader = rig.region.tokens.reader.as_str();
    let said = rig.run_as(reader, &["content", "now", "a/b", "--json"]).await;
    let said: Value = serde_json::from_slice(&said.stdout).expect("JSON");
    assert_eq!(said, now, "the command line says the same");
    let history = rig.run_as(reader, &["content", "history", "a/b"]).await;
    let history: Vec<Value> =
        text(&history.stdout).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let entries: Vec<_> = history.iter().map(|event| (&event["subject"], &event["time"])).collect();
    let (subject, time) = (json!("a/b"), json!("2026-05-01T10:00:00.5+02:00"));
    assert_eq!(entries, [(&subject, &time), (&subject, &time)], "under the id and the time that the source gave");

    append(&rig, &content("3", "content.deleted", &json!({"author": "x", "change": "c"}))).await;
    until(&rig, "/v1/content?id=a/b", |_, body| body.contains(r#""state":"deleted""#)).await;
    let list = get(&rig, &rig.region.tokens.reader, "/v1/content/list").await.text().await.expect("a list");
    assert_eq!(list.lines().count(), 1, "a deleted item is known until it leaves the window: {list}");
    let never = get(&rig, &rig.region.tokens.reader, "/v1/content?id=never").await;
    assert_eq!(never.status(), StatusCode::NOT_FOUND);
    rig.end().await;
}

#[tokio::test]
async fn sec_1_a_token_opens_what_its_role_allows_until_it_is_revoked() {
    let rig = Rig::serving().await;
    let made = rig.run(&["token", "create", "--role", "reader", "--name", "curious"]).await;
    assert!(made.status.success());
    let token = text(&made.stdout).trim().to_owned();
    assert_eq!(get(&rig, &token, "/v1/log").await.status(), StatusCode::OK);
    let again = rig.run(&["token", "create", "--role", "operator", "--name", "curious"]).await;
    assert_eq!(again.status.code(), Some(1), "a name is taken once");
    let listed = text(&rig.run(&["token", "list"]).await.stdout);
    assert!(listed.contains("curious") && !listed.contains(&token), "{listed}");
    assert_eq!(rig.run(&["token", "revoke", "curious"]).await.status.code(), Some(2), "a plan is no deed");
    assert_eq!(get(&rig, &token, "/v1/log").await.status(), StatusCode::OK);
    assert!(rig.run(&["token", "revoke", "curious", "--yes"]).await.status.success());
    let mut look = tokio::time::interval(Duration::from_millis(100));
    while get(&rig, &token, "/v1/log").await.status() != StatusCode::UNAUTHORIZED {
        look.tick().await;
    }
    rig.end().await;
}

#[tokio::test]
async fn log_1_a_server_that_ends_has_answered_what_it_accepted() {
    let mut rig = Rig::serving().await;
    let (url, token) = (rig.region.url.clone(), rig.region.tokens.appender.clone());
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let (url, token) = (format!("{url}/v1/append"), token.clone());
            tokio::spawn(async move {
                let (http, mut acknowledged) = (Client::new(), BTreeMap::new());
                for number in 0.. {
                    let id = format!("{writer}-{number}");
                    let event = json!({"specversion": "1.0", "id": id, "source": "/tests", "type": "t",
                                       "subject": format!("thing-{writer}")});
                    let request = http.post(&url).bearer_auth(&token).body(event.to_string());
                    let answer = request.header("content-type", "application/cloudevents+json").send().await;
                    // The listener is gone, or the server says that it ends: nothing of this was accepted.
                    let Ok(answer) = answer else { break };
                    if answer.status() == StatusCode::SERVICE_UNAVAILABLE {
                        break;
                    }
                    assert_eq!(answer.status(), StatusCode::CREATED);
                    let body: Value = answer.json().await.expect("what was accepted is answered whole");
                    acknowledged.insert(id, body["events"][0]["position"].as_str().expect("a position").to_owned());
                }
                acknowledged
            })
        })
        .collect();
    until(&rig, "/v1/status", |_, body| {
        let status: Value = serde_json::from_str(body).expect("JSON");
        status["head"].as_str().and_then(|head| head.parse::<u64>().ok()).is_some_and(|head| head >= 100)
    })
    .await;
    rig.region.server().expect("it runs").signal(Signal::TERM).expect("told to end");
    let mut acknowledged = BTreeMap::new();
    for writer in writers {
        acknowledged.extend(writer.await.expect("no panic"));
    }
    assert_eq!(rig.region.stop_server().await.expect("ended"), Some(0), "in good order");

    rig.region.serve().await.expect("it serves again");
    let log = get(&rig, &rig.region.tokens.reader, "/v1/log").await.text().await.expect("the log");
    let stored: BTreeMap<String, String> = log
        .lines()
        .map(|line| {
            let record: Value = serde_json::from_str(line).expect("a record");
            let member = |name: &str| record[name].as_str().expect("a text").to_owned();
            (member("id"), member("position"))
        })
        .collect();
    assert!(acknowledged.len() >= 100);
    for (id, position) in &acknowledged {
        assert_eq!(stored.get(id), Some(position), "{id} was acknowledged");
    }
    rig.end().await;
}

#[tokio::test]
async fn audit_replay_prints_the_log_as_it_was() {
    let rig = Rig::serving().await;
    let form = |oid: &str| json!({"author": "x", "change": "c", "oid": oid, "mode": "100644", "size": 3});
    append(&rig, &content("1", "content.created", &form("one"))).await;
    let thing = json!({"specversion": "1.0", "id": "event:2", "source": "/tests", "type": "t", "subject": "thing-1",
                       "data": {"as written": 1.0, "subject": "content-x"}});
    append(&rig, &thing).await;
    append(&rig, &content("3", "content.revised", &form("two"))).await;
    let log = get(&rig, &rig.region.tokens.reader, "/v1/log").await.text().await.expect("the log");
    let live: Vec<&str> = log.lines().collect();
    assert_eq!(live.len(), 3, "{log}");
    assert!(rig.run(&["archive", "run", "--everything", "--yes"]).await.status.success());

    let replayed = async |arguments: &[&str]| {
        let output = rig.run(&[&["audit", "replay"], arguments].concat()).await;
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", text(&output.stderr));
        text(&output.stdout).lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(replayed(&["--raw"]).await, live, "byte for byte");
    let instant = |line: &str| {
        let record: Value = serde_json::from_str(line).expect("a record");
        record["recordedat"].as_str().expect("an instant").to_owned()
    };
    // Three requests, one after the other: none was recorded before the one in front of it.
    let second = instant(live[1]);
    let until_then = live.iter().filter(|line| instant(line) <= second).count();
    assert_eq!(replayed(&["--raw", "--as-of", &second]).await, live[..until_then]);
    assert_eq!(replayed(&["--raw", "--as-of", "2"]).await, live[..2], "a position");
    assert_eq!(replayed(&["--raw", "--as-of", "2020-01-01T00:00:00Z"]).await, live[..0], "before everything");
    assert_eq!(replayed(&["--raw", "--as-of", "event:event:2"]).await, live[..2], "an event");
    assert_eq!(
        replayed(&["--raw", "--as-of", "1", "--source", "/tests"]).await,
        live[..1],
        "an event whose id is a number"
    );

    // Without --raw content stands under its own id again, and nothing else is another.
    let shown = replayed(&[]).await;
    let stripped = |line: &str| line.replacen(r#""subject":"content-a/b""#, r#""subject":"a/b""#, 1);
    assert_eq!(shown, [stripped(live[0]), live[1].to_owned(), stripped(live[2])]);
    assert_ne!(shown[0], live[0]);
    let absent = rig.run(&["audit", "replay", "--as-of", "event:never"]).await;
    assert_eq!((absent.status.code(), text(&absent.stdout).as_str()), (Some(1), ""));
    rig.end().await;
}

#[tokio::test]
async fn archive_sweep_shows_its_plan_and_removes_nothing_that_is_archived() {
    let rig = Rig::serving().await;
    append(&rig, &content("1", "content.created", &json!({"author": "x", "change": "c", "size": 1}))).await;
    assert!(rig.run(&["archive", "run", "--everything", "--yes"]).await.status.success());
    let nothing = rig.run(&["archive", "sweep"]).await;
    assert_eq!(nothing.status.code(), Some(0), "there is nothing to do: {}", text(&nothing.stderr));

    let (store, _config) = system_tests::regions::bucket(&rig.region);
    let orphan = format!("seg/{:020}-{:020}-1-0123456789abcdef.ndjson.zst", 1, 1);
    store.create(&orphan, b"what a kill left").await.expect("created");
    let plan = rig.run(&["archive", "sweep"]).await;
    assert_eq!(plan.status.code(), Some(2), "a plan is no deed");
    assert!(text(&plan.stderr).contains(&orphan), "{}", text(&plan.stderr));
    assert!(store.head(&orphan).await.expect("asked").is_some());
    let done = rig.run(&["archive", "sweep", "--yes", "--json"]).await;
    assert_eq!(done.status.code(), Some(0), "{}", text(&done.stderr));
    let done: Value = serde_json::from_slice(&done.stdout).expect("JSON");
    assert_eq!(done, json!({"keys": [orphan]}));
    assert!(store.head(&orphan).await.expect("asked").is_none());
    assert_eq!(rig.run(&["audit", "verify"]).await.status.code(), Some(0), "what is archived is whole");
    rig.end().await;
}

#[tokio::test]
async fn a_command_says_by_its_exit_code_how_it_ended() {
    let rig = Rig::serving().await;
    let code = async |arguments: &[&str]| rig.run(arguments).await.status.code();
    assert_eq!(code(&["status"]).await, Some(0));
    assert_eq!(code(&["config", "check"]).await, Some(0));
    assert_eq!(code(&["audit", "verify"]).await, Some(3), "an empty bucket proves nothing");
    append(&rig, &content("1", "content.created", &json!({"author": "x", "change": "c", "size": 1}))).await;
    assert_eq!(code(&["archive", "run", "--everything", "--yes"]).await, Some(0));
    assert_eq!(code(&["audit", "verify"]).await, Some(0));
    assert_eq!(code(&["content", "now", "never"]).await, Some(1), "refused: an operator does not read content");
    assert_eq!(code(&["archive", "run"]).await, Some(2), "a plan only");
    assert_eq!(code(&["no-such-noun"]).await, Some(2));
    assert_eq!(code(&["--set", "log.urll=x", "status"]).await, Some(2));
    assert_eq!(code(&["--server", "http://127.0.0.1:1", "status"]).await, Some(1));
    assert_eq!(code(&["audit", "replay", "--as-of", "99"]).await, Some(3), "the archive ends before");
    let shown = text(&rig.run(&["config", "check"]).await.stdout);
    assert!(shown.contains("secret_access_key") && !shown.contains("home-secret"), "{shown}");
    rig.end().await;
}

#[tokio::test]
async fn what_could_be_set_better_in_the_database_is_said_at_start_and_by_config_check() {
    let rig = Rig::serving().await;
    let log = fs::read_to_string(rig.region.server_log()).expect("the server's log");
    // As PostgreSQL has them if nobody sets them.
    for setting in ["lock_timeout", "statement_timeout"] {
        let said =
            |line: &&str| line.contains("WARN") && line.contains("could be set better") && line.contains(setting);
        assert!(log.lines().any(|line| said(&line)), "{setting}: {log}");
    }
    let checked = rig.run(&["config", "check"]).await;
    assert_eq!(checked.status.code(), Some(0), "advice is no failure");
    let checked = [text(&checked.stdout), text(&checked.stderr)].concat();
    assert!(checked.contains("lock_timeout is 0: ") && checked.contains("statement_timeout is 0: "), "{checked}");
    rig.end().await;
}

#[tokio::test]
async fn a_server_that_cannot_start_says_why_in_the_form_of_its_log() {
    let rig = Rig::idle().await;
    let nobody = ["--set", "log.url=postgres://nobody@127.0.0.1:1/none?sslmode=disable"];
    let refused = rig.run(&[&nobody[..], &["serve"]].concat()).await;
    assert_eq!(refused.status.code(), Some(1));
    let said = text(&refused.stderr);
    assert!(said.lines().last().is_some_and(|line| line.starts_with("coldstream: starting failed: ")), "{said}");

    let refused = rig.run(&[&nobody[..], &["--set", "telemetry.json=true", "serve"]].concat()).await;
    assert_eq!(refused.status.code(), Some(1));
    let said = text(&refused.stderr);
    let lines: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let error = lines.last().and_then(|line| line["fields"]["error"].as_str());
    assert!(error.is_some_and(|error| error.starts_with("starting failed: ")), "{said}");
    rig.region.end().await.expect("it ends");
}
