//! SEC-1 at the door for tokens of an identity provider, with the real binary: an issuer that shows its keys over HTTPS, and
//! what opens that it has signed, or somebody else.

mod door_common;

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use axum::routing::get;
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use door_common::Rig;
use door_common::certificates::Authority;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use ops::clock::SystemClock;
use ops::config::{ClientCertificates, HttpConfig, TlsConfig};
use ops::http::{Connections, Door, serve};
use ops::tls::ServerTls;
use rcgen::KeyPair;
use reqwest::StatusCode;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

const ISSUER: &str = "https://login.example";
const CATEGORIES: &str = "https://example.org/categories";

/// A key of an issuer: ECDSA on P-256.
struct Key {
    name: &'static str,
    pair: KeyPair,
}

impl Key {
    fn new(name: &'static str) -> Self {
        Self { name, pair: KeyPair::generate().expect("a key") }
    }

    fn shown(&self) -> Value {
        let (x, y) = self.pair.public_key_raw()[1..].split_at(32);
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        json!({"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.name, "x": text(x), "y": text(y)})
    }

    fn signs(&self, claims: &Value) -> String {
        let header = Header { kid: Some(self.name.to_owned()), ..Header::new(Algorithm::ES256) };
        encode(&header, claims, &EncodingKey::from_ec_der(self.pair.serialized_der())).expect("signed")
    }

    /// The same with the public key as a secret that both share.
    fn shares(&self, claims: &Value) -> String {
        let header = Header { kid: Some(self.name.to_owned()), ..Header::new(Algorithm::HS256) };
        encode(&header, claims, &EncodingKey::from_secret(self.pair.public_key_raw())).expect("signed")
    }
}

/// The same claims, signed by nobody.
fn unsigned(key: &Key, claims: &Value) -> String {
    let text = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
    format!("{}.{}.", text(&json!({"alg": "none", "kid": key.name})), text(claims))
}

/// Seconds since 1970, so many from now.
fn at(seconds: i64) -> i64 {
    SystemClock::read().expect("a time").unix_micros() / 1_000_000 + seconds
}

/// What an appender's token says that is limited to orders, with some of it changed.
fn claims(changed: &[(&str, Value)]) -> Value {
    let mut claims = json!({"iss": ISSUER, "aud": "coldstream", "sub": "ann", "exp": at(3600), "nbf": at(-5),
                            "realm_access": {"roles": ["staff", "writers"]}, CATEGORIES: ["order"]});
    for (name, value) in changed {
        claims[*name] = value.clone();
    }
    claims
}

fn role(name: &str) -> (&'static str, Value) {
    ("realm_access", json!({"roles": [name]}))
}

/// Shows its keys over HTTPS, with a certificate of a private authority, until the test ends.
struct Issuer {
    keys: Arc<Mutex<Vec<Value>>>,
    url: String,
    folder: TempDir,
}

impl Issuer {
    async fn start(key: &Key) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (folder, authority) = (tempfile::tempdir().expect("a folder"), Authority::new("issuer"));
        let (certificate, private) = authority.signs();
        let write = |name: &str, text: &str| {
            let file = folder.path().join(name);
            fs::write(&file, text).expect("written");
            file
        };
        write("ca.pem", &authority.pem);
        let (certificate, key_file) = (write("issuer.pem", &certificate), write("issuer.key", &private));
        let clients = ClientCertificates::default();
        let files = TlsConfig { certificate, key: key_file, client_ca: None, clients };
        let tls = Some(Arc::new(ServerTls::open(&files).expect("a pair")));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("https://{}/keys", listener.local_addr().expect("an address"));
        let keys = Arc::new(Mutex::new(vec![key.shown()]));
        let shown = keys.clone();
        let show = move || async move { Json(json!({"keys": *shown.lock().expect("no panic")})) };
        let router = Router::new().route("/keys", get(show));
        let limits = HttpConfig::default();
        let door = Door { listener, tls, connections: Connections::of(&limits) };
        tokio::spawn(async move { serve(door, router, &limits, CancellationToken::new()).await });
        Self { keys, url, folder }
    }

    /// From now on it shows this key alone.
    fn shows(&self, key: &Key) {
        *self.keys.lock().expect("no panic") = vec![key.shown()];
    }

    /// A region that believes it.
    async fn believed(&self, further: Vec<(&'static str, toml::Value)>) -> Rig {
        let file = |name: &str| toml::Value::from(Path::new(self.folder.path()).join(name).display().to_string());
        let mut settings = vec![
            ("http.oidc.issuer", ISSUER.into()),
            ("http.oidc.audience", "coldstream".into()),
            ("http.oidc.keys_url", self.url.clone().into()),
            ("http.oidc.ca", file("ca.pem")),
            ("http.oidc.role_claim", "realm_access.roles".into()),
            ("http.oidc.categories_claim", CATEGORIES.into()),
            ("http.oidc.roles.writers", "appender".into()),
            ("http.oidc.roles.readers", "reader".into()),
            ("http.oidc.roles.auditors", "auditor".into()),
            // Whoever tries one token after the other is another test's.
            ("http.rates.failures_per_second", 0.into()),
        ];
        settings.extend(further);
        let mut rig = Rig::with(None, settings).await;
        rig.region.serve().await.expect("it serves");
        rig
    }
}

async fn asked(rig: &Rig, token: &str, path: &str) -> StatusCode {
    let request = reqwest::Client::new().get(format!("{}{path}", rig.region.url)).bearer_auth(token);
    request.send().await.expect("an answer").status()
}

async fn append(rig: &Rig, token: &str, stream: &str) -> StatusCode {
    let event = json!({"specversion": "1.0", "id": stream, "source": "/tests", "type": "t", "subject": stream});
    let request = reqwest::Client::new().post(format!("{}/v1/append", rig.region.url)).bearer_auth(token);
    let request = request.header("content-type", "application/cloudevents+json").body(event.to_string());
    request.send().await.expect("an answer").status()
}

#[tokio::test]
async fn a_token_of_the_issuer_opens_what_its_claims_say_and_no_other_opens_anything() {
    let (key, stranger, impostor) = (Key::new("one"), Key::new("two"), Key::new("one"));
    let issuer = Issuer::start(&key).await;
    let rig = issuer.believed(Vec::new()).await;
    let appender = key.signs(&claims(&[]));
    assert_eq!(append(&rig, &appender, "order-1").await, StatusCode::CREATED);
    assert_eq!(append(&rig, &appender, "bill-1").await, StatusCode::FORBIDDEN);
    for (path, expected) in [
        ("/v1/stream?stream=order-1", StatusCode::OK),
        ("/v1/stream?stream=bill-1", StatusCode::FORBIDDEN),
        ("/v1/log?category=order", StatusCode::OK),
        ("/v1/log", StatusCode::FORBIDDEN),
        ("/v1/groups", StatusCode::OK),
    ] {
        assert_eq!(asked(&rig, &appender, path).await, expected, "{path}");
    }
    for of_all in
        [claims(&[role("readers"), (CATEGORIES, json!("*"))]), claims(&[role("auditors"), (CATEGORIES, json!("*"))])]
    {
        assert_eq!(asked(&rig, &key.signs(&of_all), "/v1/log").await, StatusCode::OK, "{of_all}");
    }

    for (name, value) in [
        role("staff"),
        ("realm_access", Value::Null),
        (CATEGORIES, Value::Null),
        (CATEGORIES, json!([])),
        role("auditors"),
    ] {
        let token = key.signs(&claims(&[(name, value.clone())]));
        for path in ["/v1/log?category=order", "/v1/status", "/metrics", "/no/such/route"] {
            assert_eq!(asked(&rig, &token, path).await, StatusCode::FORBIDDEN, "{name}: {value} at {path}");
        }
    }

    let good = claims(&[]);
    let mut refused: Vec<(&str, String)> = [
        ("aud", json!("coldstream2")),
        ("iss", json!("https://login.example.net")),
        ("exp", json!(at(-3600))),
        ("nbf", json!(at(3600))),
    ]
    .map(|(name, value)| (name, key.signs(&claims(&[(name, value)]))))
    .into();
    refused.extend([
        ("unknown key", stranger.signs(&good)),
        ("another key of the same name", impostor.signs(&good)),
        ("alg none", unsigned(&key, &good)),
        ("shared secret", key.shares(&good)),
    ]);
    for (what, token) in &refused {
        assert_eq!(asked(&rig, token, "/v1/log?category=order").await, StatusCode::UNAUTHORIZED, "{what}");
        assert_eq!(append(&rig, token, "order-2").await, StatusCode::UNAUTHORIZED, "{what}");
    }
    let log = fs::read_to_string(rig.region.server_log()).expect("the server's log");
    for said in ["has expired", "names no role", "names no category", "token=\"oidc:ann\"", "token=\"JWT of https://"] {
        assert!(log.contains(said), "{said} is not in {log}");
    }
    assert!(!refused.iter().any(|(_, token)| log.contains(token)) && !log.contains(&appender), "no token is logged");
    rig.end().await;
}

#[tokio::test]
async fn new_keys_of_the_issuer_are_found_and_old_ones_forgotten_while_the_server_runs() {
    let (before, after) = (Key::new("before"), Key::new("after"));
    let issuer = Issuer::start(&before).await;
    let mut rig = issuer.believed(Vec::new()).await;
    let pid = rig.region.server().map(|server| server.pid());
    let path = "/v1/log?category=order";
    let [old, new] = [&before, &after].map(|key| key.signs(&claims(&[])));
    assert_eq!(asked(&rig, &old, path).await, StatusCode::OK);
    assert_eq!(asked(&rig, &new, path).await, StatusCode::UNAUTHORIZED, "it is not shown yet");
    issuer.shows(&after);
    let mut look = tokio::time::interval(std::time::Duration::from_millis(100));
    while asked(&rig, &new, path).await != StatusCode::OK {
        look.tick().await;
    }
    assert_eq!(asked(&rig, &old, path).await, StatusCode::UNAUTHORIZED);
    assert_eq!(rig.region.server().map(|server| server.pid()), pid, "nobody has restarted it");
    rig.end().await;
}

#[tokio::test]
async fn a_bearer_has_the_rate_of_its_role_for_all_of_its_tokens_together() {
    let key = Key::new("one");
    let issuer = Issuer::start(&key).await;
    let rig = issuer.believed(vec![("http.rates.reader.requests_per_second", 1.into())]).await;
    let path = "/v1/log?category=order";
    let of = |subject: &str, number: i64| {
        key.signs(&claims(&[("sub", json!(subject)), ("jti", json!(number.to_string())), role("readers")]))
    };
    let mut number = 0;
    while asked(&rig, &of("ann", number), path).await != StatusCode::TOO_MANY_REQUESTS {
        number += 1;
        assert!(number < 1000, "a new token each time is no way around it");
    }
    assert_eq!(asked(&rig, &of("bob", 0), path).await, StatusCode::OK, "another bearer");
    rig.end().await;
}
