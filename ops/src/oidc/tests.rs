//! Tokens of an issuer that really shows its keys over HTTP.

use std::collections::BTreeMap;
use std::sync::Mutex as Lock;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::KeyPair;
use serde_json::json;
use tokio::net::TcpListener;

use super::*;
use crate::clock::SystemClock;
use crate::config::OidcAlgorithm;

/// Knows nobody.
struct Nobody;

#[async_trait]
impl Tokens for Nobody {
    async fn presented(&self, _token: &str) -> Result<Presented, Problem> {
        Ok(Presented::Unknown)
    }

    fn is_known(&self, _token: &str) -> bool {
        false
    }
}

/// A key of the issuer's: ECDSA on P-256.
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
}

/// An issuer that shows its keys at `keys_url`.
fn config(keys_url: String) -> OidcConfig {
    let roles = [("writers", TokenRole::Appender), ("auditors", TokenRole::Auditor)];
    OidcConfig {
        issuer: "https://login.example".to_owned(),
        audience: "coldstream".to_owned(),
        keys_url,
        ca: None,
        role_claim: "groups".to_owned(),
        roles: roles.into_iter().map(|(value, role)| (value.to_owned(), role)).collect::<BTreeMap<_, _>>(),
        categories_claim: None,
        algorithms: vec![OidcAlgorithm::RS256, OidcAlgorithm::ES256],
    }
}

/// What the issuer shows, and how often it was asked. It answers while nobody holds its door.
#[derive(Default)]
struct Issuer {
    document: Lock<Option<Value>>,
    door: tokio::sync::RwLock<()>,
    asked: AtomicUsize,
}

impl Issuer {
    fn shows(&self, keys: Option<&[&Key]>) {
        let unknown = json!({"kty": "of another time", "kid": "new"});
        let keys = keys.map(|keys| keys.iter().map(|key| key.shown()).chain([unknown]).collect::<Vec<_>>());
        self.answers(keys.map(|keys| json!({"keys": keys})));
    }

    fn answers(&self, document: Option<Value>) {
        *self.document.lock().expect("no panic") = document;
    }

    /// Serves until the test ends.
    async fn start(keys: &[&Key]) -> (Arc<Self>, OidcTokens) {
        let issuer = Arc::new(Self::default());
        issuer.shows(Some(keys));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let keys_url = format!("http://{}/keys", listener.local_addr().expect("an address"));
        let served = issuer.clone();
        let show = move || {
            let issuer = served.clone();
            async move {
                issuer.asked.fetch_add(1, Ordering::SeqCst);
                drop(issuer.door.read().await);
                let document = issuer.document.lock().expect("no panic").clone();
                document.map(Json).ok_or(StatusCode::SERVICE_UNAVAILABLE)
            }
        };
        tokio::spawn(async move { axum::serve(listener, Router::new().route("/keys", get(show))).await });
        // Another test of this process may have been first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        (issuer, OidcTokens::new(&config(keys_url), Arc::new(Nobody)).expect("a client"))
    }
}

/// Seconds since 1970, so many from now.
fn at(seconds: i64) -> i64 {
    SystemClock::read().expect("a time").unix_micros() / 1_000_000 + seconds
}

fn claims(changed: &[(&str, Value)]) -> Value {
    let mut claims = json!({"iss": "https://login.example", "aud": ["other", "coldstream"], "sub": "ann",
                            "exp": at(3600), "nbf": at(-5), "groups": ["staff", "writers"]});
    for (name, value) in changed {
        claims[*name] = value.clone();
    }
    claims
}

async fn barred(tokens: &OidcTokens, token: &str) -> &'static str {
    match tokens.presented(token).await.expect("the issuer answers") {
        Presented::Barred { name, why } if name == "oidc:ann" => why,
        other => panic!("{other:?}"),
    }
}

async fn opens(tokens: &OidcTokens, token: &str) -> (TokenRole, Scope) {
    match tokens.presented(token).await.expect("the issuer answers") {
        Presented::Opens(caller) => (caller.role, caller.scope.clone()),
        other => panic!("{other:?}"),
    }
}

async fn refused(tokens: &OidcTokens, token: &str) -> &'static str {
    match tokens.presented(token).await.expect("the issuer answers") {
        Presented::Spent { why, .. } => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn authorities_that_are_none_are_named_by_their_setting() {
    let ca = std::env::temp_dir().join(format!("no-authority-{}.pem", std::process::id()));
    std::fs::write(&ca, "no certificate").expect("written");
    let config = OidcConfig { ca: Some(ca.clone()), ..config("https://login.example/keys".to_owned()) };
    let refused = OidcTokens::new(&config, Arc::new(Nobody)).err().expect("refused").to_string();
    std::fs::remove_file(&ca).expect("removed");
    assert!(refused.starts_with("http.oidc.ca: "), "{refused}");
}

#[tokio::test]
async fn a_claim_says_which_role_a_token_of_the_issuer_has() {
    let key = Key::new("one");
    let (issuer, tokens) = Issuer::start(&[&key]).await;
    for (groups, role) in [(json!(["staff", "writers"]), TokenRole::Appender), (json!("auditors"), TokenRole::Auditor)]
    {
        let token = key.signs(&claims(&[("groups", groups)]));
        let Ok(Presented::Opens(caller)) = tokens.presented(&token).await else { panic!("it opens something") };
        assert_eq!((caller.name.as_str(), caller.role, &caller.scope), ("oidc:ann", role, &Scope::Everything));
        assert!(tokens.is_known(&token));
    }
    assert_eq!(issuer.asked.load(Ordering::SeqCst), 1, "its keys are kept");
    assert_eq!(tokens.presented("cst_our_own").await.expect("asked elsewhere"), Presented::Unknown);
    for (groups, why) in [
        (json!(["staff"]), "names no role"),
        (Value::Null, "names no role"),
        (json!(["writers", "auditors"]), "names more than one role"),
    ] {
        assert_eq!(barred(&tokens, &key.signs(&claims(&[("groups", groups)]))).await, why);
    }
}

#[tokio::test]
async fn a_claim_has_the_name_that_is_said_or_the_path() {
    let key = Key::new("one");
    let (_issuer, mut tokens) = Issuer::start(&[&key]).await;
    let writers = || json!(["writers"]);
    let cases = [
        ("realm_access.roles", "realm_access", json!({"roles": writers()})),
        ("https://example.org/roles", "https://example.org/roles", writers()),
        ("realm_access.roles", "realm_access.roles", writers()),
        ("resource_access.log.example.roles", "resource_access", json!({"log.example": {"roles": writers()}})),
        ("https://example.org/app.roles", "https://example.org/app", json!({"roles": writers()})),
    ];
    for (path, claim, value) in cases {
        path.clone_into(&mut tokens.config.role_claim);
        let token = key.signs(&claims(&[(claim, value)]));
        assert_eq!(opens(&tokens, &token).await.0, TokenRole::Appender, "{path}");
    }
    "realm_access.roles".clone_into(&mut tokens.config.role_claim);
    let both = [("realm_access.roles", json!("auditors")), ("realm_access", json!({"roles": writers()}))];
    assert_eq!(opens(&tokens, &key.signs(&claims(&both))).await.0, TokenRole::Auditor, "the name comes first");
    for value in
        [json!({"role": writers()}), json!({"roles": {"writers": true}}), json!("writers"), json!({"": writers()})]
    {
        let token = key.signs(&claims(&[("realm_access", value.clone())]));
        assert_eq!(barred(&tokens, &token).await, "names no role", "{value}");
    }
}

#[tokio::test]
async fn a_claim_limits_appenders_and_readers_to_categories_and_opens_nothing_where_it_is_missing() {
    let key = Key::new("one");
    let (_issuer, mut tokens) = Issuer::start(&[&key]).await;
    let of = |group: &str, named: Value| key.signs(&claims(&[("groups", json!(group)), ("categories", named)]));
    assert_eq!(opens(&tokens, &of("writers", json!("order"))).await.1, Scope::Everything, "no claim is said to limit");
    tokens.config.categories_claim = Some("categories".to_owned());
    let only = |named: &[&str]| Scope::Categories(named.iter().map(|&name| name.to_owned()).collect());
    for (group, named, scope) in [
        ("writers", json!("order"), only(&["order"])),
        ("writers", json!(["order", "bill"]), only(&["bill", "order"])),
        ("writers", json!("*"), Scope::Everything),
        ("auditors", json!(["*"]), Scope::Everything),
    ] {
        assert_eq!(opens(&tokens, &of(group, named)).await.1, scope);
    }
    for without in [key.signs(&claims(&[("groups", json!("auditors"))])), of("auditors", Value::Null)] {
        assert_eq!(opens(&tokens, &without).await, (TokenRole::Auditor, Scope::Everything), "what it opens has none");
    }
    assert_eq!(barred(&tokens, &key.signs(&claims(&[]))).await, "names no category");
    for (group, named, why) in [
        ("writers", json!([]), "names no category"),
        ("writers", json!({"order": true}), "names no category"),
        ("writers", json!(["order", "*"]), "names a category that cannot be one"),
        ("writers", json!("order bill"), "names a category that cannot be one"),
        ("auditors", json!("order"), "names categories, and its role opens what has none"),
        ("auditors", json!([]), "names categories, and its role opens what has none"),
    ] {
        assert_eq!(barred(&tokens, &of(group, named)).await, why);
    }
}

#[tokio::test]
async fn what_its_issuer_has_not_signed_for_us_and_for_now_opens_nothing() {
    let (key, other) = (Key::new("one"), Key::new("one"));
    let (_issuer, tokens) = Issuer::start(&[&key]).await;
    let none = "is none of its issuer's";
    let cases = [
        ("iss", json!("https://login.example.net"), "is of another issuer"),
        ("aud", json!("coldstream2"), "is for another audience"),
        ("exp", json!(at(-3600)), "has expired"),
        ("nbf", json!(at(3600)), "is not good yet"),
        // Of another type, a time must not count as one that is not there.
        ("exp", json!(at(3600).to_string()), none),
        ("nbf", json!(at(3600).to_string()), none),
        ("exp", Value::Null, none),
        ("iss", Value::Null, none),
        ("sub", json!(""), "has a subject that cannot be one"),
        ("sub", json!("a\nb"), "has a subject that cannot be one"),
    ];
    for (name, value, why) in cases {
        assert_eq!(refused(&tokens, &key.signs(&claims(&[(name, value.clone())]))).await, why, "{name}: {value}");
    }
    let good = key.signs(&claims(&[]));
    assert_eq!(refused(&tokens, &other.signs(&claims(&[]))).await, "is not signed by its issuer");
    assert!(!tokens.is_known(&other.signs(&claims(&[]))));
    // The payload of one token under the signature of another.
    let (stolen, own) =
        (key.signs(&claims(&[("groups", json!("auditors"))])), good.rsplit_once('.').expect("three parts"));
    let payload = stolen.split('.').nth(1).expect("three parts");
    let header = good.split('.').next().expect("three parts");
    assert_eq!(refused(&tokens, &format!("{header}.{payload}.{}", own.1)).await, "is not signed by its issuer");
}

#[tokio::test]
async fn a_token_does_not_choose_its_algorithm() {
    let key = Key::new("one");
    let (_issuer, tokens) = Issuer::start(&[&key]).await;
    let header = Header { kid: Some("one".to_owned()), ..Header::new(Algorithm::HS256) };
    // The public key as a shared secret.
    let secret = EncodingKey::from_secret(key.pair.public_key_raw());
    let shared = encode(&header, &claims(&[]), &secret).expect("signed");
    assert_eq!(refused(&tokens, &shared).await, "is signed with an algorithm that is not allowed");
    let good = key.signs(&claims(&[]));
    let payload = good.split('.').nth(1).expect("three parts");
    let unsigned = URL_SAFE_NO_PAD.encode(json!({"alg": "none", "kid": "one"}).to_string());
    assert_eq!(refused(&tokens, &format!("{unsigned}.{payload}.")).await, "is none of its issuer's");
    // Allowed, but not of this key.
    let wrong = URL_SAFE_NO_PAD.encode(json!({"alg": "RS256", "kid": "one"}).to_string());
    let signature = good.rsplit('.').next().expect("three parts");
    let why = refused(&tokens, &format!("{wrong}.{payload}.{signature}")).await;
    assert_eq!(why, "is signed with a key that its issuer does not show");
}

#[tokio::test]
async fn new_keys_are_found_old_ones_forgotten_and_the_issuer_is_not_asked_for_every_invented_one() {
    let (old, new) = (Key::new("old"), Key::new("new"));
    let (issuer, mut tokens) = Issuer::start(&[&old]).await;
    assert!(matches!(tokens.presented(&old.signs(&claims(&[]))).await, Ok(Presented::Opens(_))));
    for _ in 0..5 {
        let why = refused(&tokens, &Key::new("invented").signs(&claims(&[]))).await;
        assert_eq!(why, "is signed with a key that its issuer does not show");
    }
    assert_eq!(issuer.asked.load(Ordering::SeqCst), 1, "it was asked just before");
    tokens.ask_again_after = Duration::ZERO;
    issuer.shows(Some(&[&new]));
    assert!(matches!(tokens.presented(&new.signs(&claims(&[]))).await, Ok(Presented::Opens(_))));
    let why = refused(&tokens, &old.signs(&claims(&[]))).await;
    assert_eq!(why, "is signed with a key that its issuer does not show");
    issuer.shows(None);
    refused(&tokens, &old.signs(&claims(&[]))).await;
    assert!(matches!(tokens.presented(&new.signs(&claims(&[]))).await, Ok(Presented::Opens(_))), "it was shown before");
}

#[tokio::test]
async fn nobody_is_let_in_before_the_issuer_has_shown_its_keys() {
    let key = Key::new("one");
    let (issuer, mut tokens) = Issuer::start(&[&key]).await;
    tokens.ask_again_after = Duration::ZERO;
    for nonsense in [None, Some(json!([])), Some(json!({})), Some(json!({"keys": {}}))] {
        issuer.answers(nonsense.clone());
        let problem = tokens.presented(&key.signs(&claims(&[]))).await.expect_err("nobody knows");
        assert_eq!(problem.kind(), ErrorKind::Unavailable, "{nonsense:?}");
        assert!(probe(&tokens.config).await.is_err(), "{nonsense:?}");
    }
    issuer.shows(Some(&[]));
    assert_eq!(probe(&tokens.config).await, Err("none of the keys that it shows can be used".to_owned()));
    issuer.shows(Some(&[&key]));
    assert_eq!(probe(&tokens.config).await, Ok(1));
    assert!(matches!(tokens.presented(&key.signs(&claims(&[]))).await, Ok(Presented::Opens(_))));
}

#[tokio::test]
async fn who_hangs_up_while_the_issuer_is_asked_keeps_nobody_out() {
    let key = Key::new("one");
    let (issuer, tokens) = Issuer::start(&[&key]).await;
    let shut = issuer.door.write().await;
    let token = key.signs(&claims(&[]));
    let is_asked = async {
        while issuer.asked.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        _ = tokens.presented(&token) => panic!("the issuer has not answered yet"),
        () = is_asked => {}
    }
    drop(shut);
    let next = tokens.presented(&token).await;
    assert!(matches!(next, Ok(Presented::Opens(_))), "{next:?}");
    assert_eq!(issuer.asked.load(Ordering::SeqCst), 1, "what it answered the first time was kept");
}
