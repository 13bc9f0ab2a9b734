//! Credentials of a bucket that are not configured, as a pod or an instance has them: found where AWS's tools find them,
//! asked for again before they end, and missed with a clear word.

mod door_common;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::routing::get;
use axum::{Json, Router};
use domain::Timestamp;
use door_common::{Rig, text};
use ops::clock::SystemClock;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::process::Command;
use toml::Table;

/// Takes the credentials out of the region's file, and gives them.
fn take_out(rig: &Rig) -> (String, String) {
    let text = fs::read_to_string(&rig.region.config).expect("a configuration");
    let mut config: Table = text.parse().expect("it is TOML");
    let store = config["archive"].as_table_mut().and_then(|archive| archive["store"].as_table_mut()).expect("a bucket");
    let mut take = |name| store.remove(name).and_then(|value| value.as_str().map(str::to_owned)).expect("a text");
    let taken = (take("access_key_id"), take("secret_access_key"));
    fs::write(&rig.region.config, config.to_string()).expect("written");
    taken
}

/// `config check`, which probes the bucket, where nothing but `uri` gives credentials out.
fn check(rig: &Rig, uri: Option<&str>) -> Command {
    let mut command = rig.command("", &["config", "check"]);
    for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"] {
        command.env_remove(name);
    }
    command.env("HOME", rig.folder.path()).env("AWS_EC2_METADATA_DISABLED", "true");
    command.envs(uri.map(|uri| ("AWS_CONTAINER_CREDENTIALS_FULL_URI", uri)));
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_of_a_container_are_found_and_asked_for_again_before_they_end() {
    let rig = Rig::idle().await;
    let (id, secret) = take_out(&rig);
    let nobody = check(&rig, None).output().await.expect("it runs");
    assert!(!nobody.status.success());
    let said = text(&nobody.stdout) + &text(&nobody.stderr);
    assert!(said.contains("credentials"), "{said}");

    let given = Arc::new(AtomicUsize::new(0));
    let answer = {
        let given = given.clone();
        move || {
            given.fetch_add(1, Ordering::Relaxed);
            // So near that the next request asks again.
            let now = SystemClock::read().expect("a clock").unix_micros();
            let soon = Timestamp::from_unix_micros(now + 5_000_000).expect("an instant");
            let (id, secret) = (id.clone(), secret.clone());
            async move {
                let expiration = soon.to_string();
                let said: Value =
                    json!({ "AccessKeyId": id, "SecretAccessKey": secret, "Token": "t", "Expiration": expiration });
                Json(said)
            }
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let uri = format!("http://{}/credentials", listener.local_addr().expect("bound"));
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/credentials", get(answer))).await });
    let found = check(&rig, Some(&uri)).output().await.expect("it runs");
    assert!(found.status.success(), "{}{}", text(&found.stdout), text(&found.stderr));
    let given = given.load(Ordering::Relaxed);
    assert!(given > 1, "asked for {given} times");
    rig.region.end().await.expect("it ends");
}
