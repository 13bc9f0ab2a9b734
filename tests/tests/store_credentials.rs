//! Credentials of a bucket that are not configured, as a pod or an instance has them: found where AWS's tools find them,
//! asked for again before they end, and missed with a clear word.

mod door_common;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::http::HeaderMap;
use axum::routing::{get, post};
use axum::{Form, Json, Router};
use domain::Timestamp;
use door_common::{Rig, text};
use ops::clock::SystemClock;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::process::Command;
use toml::Table;

/// The bucket's, which nothing in the environment names.
const REGION: &str = "eu-north-9";

/// Takes the credentials out of the region's file, and gives them.
fn take_out(rig: &Rig) -> (String, String) {
    let text = fs::read_to_string(&rig.region.config).expect("a configuration");
    let mut config: Table = text.parse().expect("it is TOML");
    let store = config["archive"].as_table_mut().and_then(|archive| archive["store"].as_table_mut()).expect("a bucket");
    store.insert("region".to_owned(), REGION.into());
    let mut take = |name| store.remove(name).and_then(|value| value.as_str().map(str::to_owned)).expect("a text");
    let taken = (take("access_key_id"), take("secret_access_key"));
    fs::write(&rig.region.config, config.to_string()).expect("written");
    taken
}

/// `config check`, which probes the bucket, where nothing but `given` says where credentials and region are.
fn check(rig: &Rig, given: &[(&str, &str)]) -> Command {
    let mut command = rig.command("", &["config", "check"]);
    for name in ["ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "PROFILE", "REGION", "DEFAULT_REGION"] {
        command.env_remove(format!("AWS_{name}"));
    }
    command.env("HOME", rig.folder.path()).env("AWS_EC2_METADATA_DISABLED", "true");
    command.envs(given.iter().copied());
    command
}

/// So near that the next request asks again.
fn soon() -> Timestamp {
    let now = SystemClock::read().expect("a clock").unix_micros();
    Timestamp::from_unix_micros(now + 5_000_000).expect("an instant")
}

/// Serves `router`, and gives its URL.
async fn serving(router: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_of_a_container_are_found_and_asked_for_again_before_they_end() {
    let rig = Rig::idle().await;
    let (id, secret) = take_out(&rig);
    let nobody = check(&rig, &[]).output().await.expect("it runs");
    assert!(!nobody.status.success());
    let said = text(&nobody.stdout) + &text(&nobody.stderr);
    assert!(said.contains("credentials"), "{said}");

    let given = Arc::new(AtomicUsize::new(0));
    let answer = {
        let given = given.clone();
        move || {
            given.fetch_add(1, Ordering::Relaxed);
            let (id, secret) = (id.clone(), secret.clone());
            async move {
                let expiration = soon().to_string();
                let said: Value =
                    json!({ "AccessKeyId": id, "SecretAccessKey": secret, "Token": "t", "Expiration": expiration });
                Json(said)
            }
        }
    };
    let uri = serving(Router::new().route("/credentials", get(answer))).await + "/credentials";
    let found = check(&rig, &[("AWS_CONTAINER_CREDENTIALS_FULL_URI", &uri)]).output().await.expect("it runs");
    assert!(found.status.success(), "{}{}", text(&found.stdout), text(&found.stderr));
    let given = given.load(Ordering::Relaxed);
    assert!(given > 1, "asked for {given} times");
    rig.region.end().await.expect("it ends");
}

/// A token service. It takes the token in `file`, and then puts the next one there.
struct Sts {
    file: PathBuf,
    keys: (String, String),
    asked: Mutex<Vec<BTreeMap<String, String>>>,
}

impl Sts {
    fn put_token(&self, number: usize) {
        fs::write(&self.file, format!("token-{number}")).expect("written");
    }

    fn answer(&self, headers: &HeaderMap, mut request: BTreeMap<String, String>) -> String {
        let mut asked = self.asked.lock().expect("no panic");
        let signed = headers.get("authorization").map(|value| value.to_str().expect("text").to_owned());
        request.insert("signed".to_owned(), signed.unwrap_or_default());
        let action = request["Action"].clone();
        asked.push(request);
        self.put_token(asked.len());
        let ((id, secret), ends) = (&self.keys, soon());
        format!(
            "<{action}Response xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><{action}Result><AssumedRoleUser>\
             <AssumedRoleId>A:b</AssumedRoleId><Arn>{ROLE}/b</Arn></AssumedRoleUser><Credentials>\
             <AccessKeyId>{id}</AccessKeyId><SecretAccessKey>{secret}</SecretAccessKey><SessionToken>t</SessionToken>\
             <Expiration>{ends}</Expiration></Credentials></{action}Result></{action}Response>"
        )
    }

    /// Serves it for the bucket of `rig`; gives its URL as well.
    async fn start(rig: &Rig) -> (Arc<Self>, String) {
        let (keys, file) = (take_out(rig), rig.folder.path().join("web-identity"));
        let sts = Arc::new(Self { file, keys, asked: Mutex::default() });
        sts.put_token(0);
        let answer = {
            let sts = sts.clone();
            async move |headers: HeaderMap, Form(request)| sts.answer(&headers, request)
        };
        let url = serving(Router::new().route("/", post(answer))).await;
        (sts, url)
    }

    /// What was asked of it.
    fn asked(&self) -> Vec<BTreeMap<String, String>> {
        std::mem::take(&mut *self.asked.lock().expect("no panic"))
    }
}

const ROLE: &str = "arn:aws:iam::123456789012:role/events";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_web_identity_is_given_for_credentials_with_the_token_that_its_file_has_then() {
    let rig = Rig::idle().await;
    let (sts, url) = Sts::start(&rig).await;
    let given = [
        ("AWS_ENDPOINT_URL_STS", url.as_str()),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", sts.file.to_str().expect("UTF-8")),
        ("AWS_ROLE_ARN", ROLE),
    ];
    let found = check(&rig, &given).output().await.expect("it runs");
    assert!(found.status.success(), "{}{}", text(&found.stdout), text(&found.stderr));
    let asked = sts.asked();
    for (number, request) in asked.iter().enumerate() {
        assert_eq!(request["Action"], "AssumeRoleWithWebIdentity");
        assert_eq!((&*request["RoleArn"], &request["WebIdentityToken"]), (ROLE, &format!("token-{number}")));
    }
    assert!(asked.len() > 1, "they end, and are asked for again");
    rig.region.end().await.expect("it ends");
}

/// The request for a role is signed for a region, and a pod has no other than the bucket's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_a_profile_names_is_asked_for_in_the_region_of_the_bucket() {
    let rig = Rig::idle().await;
    let (sts, url) = Sts::start(&rig).await;
    let profiles = rig.folder.path().join("profiles");
    let own = "[profile own]\naws_access_key_id = own\naws_secret_access_key = secret\n";
    fs::write(&profiles, format!("[default]\nrole_arn = {ROLE}\nsource_profile = own\n{own}")).expect("written");
    let given = [("AWS_ENDPOINT_URL_STS", url.as_str()), ("AWS_CONFIG_FILE", profiles.to_str().expect("UTF-8"))];
    let found = check(&rig, &given).output().await.expect("it runs");
    assert!(found.status.success(), "{}{}", text(&found.stdout), text(&found.stderr));
    let asked = sts.asked();
    for request in &asked {
        assert_eq!((&*request["Action"], &*request["RoleArn"]), ("AssumeRole", ROLE));
        let signed = &request["signed"];
        assert!(signed.contains("Credential=own/") && signed.contains(&format!("/{REGION}/sts/")), "{signed}");
    }
    assert!(asked.len() > 1, "they end, and are asked for again");
    rig.region.end().await.expect("it ends");
}
