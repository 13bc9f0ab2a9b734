//! TLS through real connections, with authorities that each test makes for itself.

use std::fs;
use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use replication::PeerClient;
use replication::peer::{Peer, PeerError};
use tempfile::TempDir;
use tokio::io::AsyncReadExt;

use super::*;
use crate::config::{ClientCertificates, PeerConfig, TlsConfig};
use crate::tls::{self, TlsError};

/// Who signs certificates.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate and its key, in PEM.
struct Pair {
    certificate: String,
    key: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let pem = params.self_signed(&key).expect("signed").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    fn signs(&self) -> Pair {
        self.signs_until(4000)
    }

    fn signs_until(&self, year: i32) -> Pair {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).expect("a name");
        params.not_after = date_time_ymd(year, 1, 1);
        let certificate = params.signed_by(&key, &self.issuer).expect("signed").pem();
        Pair { certificate, key: key.serialize_pem() }
    }
}

/// Where files in PEM lie.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let file = self.0.path().join(name);
        fs::write(&file, text).expect("written");
        file
    }

    /// What a server is configured with that shows `pair`.
    fn server(&self, pair: &Pair) -> TlsConfig {
        TlsConfig {
            certificate: self.write("server.pem", &pair.certificate),
            key: self.write("server.key", &pair.key),
            client_ca: None,
            clients: ClientCertificates::Required,
        }
    }

    /// A client that believes `ca` alone and shows `pair`.
    fn client(&self, ca: &Authority, pair: Option<&Pair>) -> Client {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let config = PeerConfig {
            ca: Some(self.write("ca.pem", &ca.pem)),
            certificate: pair.map(|pair| self.write("client.pem", &pair.certificate)),
            key: pair.map(|pair| self.write("client.key", &pair.key)),
        };
        tls::client(&config).expect("certificates").build().expect("a client")
    }
}

async fn start(tls: &Arc<ServerTls>, limits: HttpConfig) -> Api {
    Api::start_behind(Some(tls.clone()), limits, Semaphore::MAX_PERMITS).await
}

fn opened(config: &TlsConfig) -> Arc<ServerTls> {
    Arc::new(ServerTls::open(config).expect("good files"))
}

async fn is_live(client: &Client, api: &Api) -> bool {
    let answer = client.get(format!("{}/health/live", api.url)).send().await;
    answer.is_ok_and(|answer| answer.status() == StatusCode::OK)
}

#[tokio::test]
async fn who_believes_the_servers_authority_is_served_and_still_needs_a_token() {
    let (ours, others, files) = (Authority::new("ours"), Authority::new("others"), Folder::new());
    let api = start(&opened(&files.server(&ours.signs())), HttpConfig::default()).await;
    assert!(!is_live(&files.client(&others, None), &api).await);
    let client = files.client(&ours, None);
    let (status, _) = answered(client.get(format!("{}/v1/status", api.url))).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    let asked = client.get(format!("{}/v1/status", api.url)).bearer_auth(&api.tokens[&TokenRole::Reader]);
    assert_eq!(answered(asked).await.0, StatusCode::OK);
    // The other region speaks through such a client too; this one has no archive and says so.
    let peer = PeerClient::new(client, &api.url, &api.tokens[&TokenRole::Replicator]);
    let refused = Peer::standing(&peer, false).await.expect_err("it stands alone");
    assert!(matches!(refused, PeerError::Refused { kind: domain::ErrorKind::NotFound, .. }), "{refused}");
}

#[tokio::test]
async fn a_server_whose_certificate_has_expired_is_not_believed() {
    let (ours, files) = (Authority::new("ours"), Folder::new());
    let api = start(&opened(&files.server(&ours.signs_until(2000))), HttpConfig::default()).await;
    assert!(!is_live(&files.client(&ours, None), &api).await);
}

#[tokio::test]
async fn a_client_shows_a_certificate_of_the_authority_that_is_asked_for_or_is_not_served() {
    let (ours, clients, files) = (Authority::new("ours"), Authority::new("clients"), Folder::new());
    let (good, expired, wrong) = (clients.signs(), clients.signs_until(2000), ours.signs());
    for (asked, none_is_served) in [(ClientCertificates::Required, false), (ClientCertificates::Optional, true)] {
        let client_ca = Some(files.write("clients.pem", &clients.pem));
        let config = TlsConfig { client_ca, clients: asked, ..files.server(&ours.signs()) };
        let api = start(&opened(&config), HttpConfig::default()).await;
        assert_eq!(is_live(&files.client(&ours, None), &api).await, none_is_served, "{asked:?}");
        for (pair, served) in [(&good, true), (&expired, false), (&wrong, false)] {
            assert_eq!(is_live(&files.client(&ours, Some(pair)), &api).await, served, "{asked:?}");
        }
        let request = files.client(&ours, Some(&good)).get(format!("{}/metrics", api.url));
        let answer = request.bearer_auth(&api.tokens[&TokenRole::Reader]).send().await.expect("an answer");
        let failed = if none_is_served { 2 } else { 3 };
        let line = format!("coldstream_tls_handshakes_failed_total {failed}\n");
        assert!(answer.text().await.expect("text").contains(&line), "{asked:?}: {line}");
    }
}

#[tokio::test]
async fn new_files_are_shown_to_new_connections_and_those_that_stand_go_on() {
    let (before, after, files) = (Authority::new("before"), Authority::new("after"), Folder::new());
    let tls = opened(&files.server(&before.signs()));
    let mut api = start(&tls, HttpConfig::default()).await;
    api.client = files.client(&before, None);
    let mut tail = api.get("/v1/log?follow=true").await.bytes_stream();
    assert!(!tls.reload().expect("good files"), "nothing is new");
    files.server(&after.signs());
    assert!(tls.reload().expect("good files"));
    assert!(!is_live(&files.client(&before, None), &api).await);
    api.client = files.client(&after, None);
    api.appended(1..=1).await;
    loop {
        let piece = tail.next().await.expect("it goes on").expect("whole");
        if piece.ends_with(b"}\n") {
            break;
        }
    }
    let (good, other) = (after.signs(), after.signs());
    files.server(&Pair { key: other.key, ..after.signs() });
    let refused = tls.reload().expect_err("another key");
    assert!(matches!(refused, TlsError::Pair { setting: "http.tls.key", .. }), "{refused}");
    files.server(&Pair { certificate: "none".to_owned(), key: good.key.clone() });
    let refused = tls.reload().expect_err("no certificate");
    assert!(matches!(refused, TlsError::Pem { setting: "http.tls.certificate", .. }), "{refused}");
    fs::remove_file(files.server(&good).key).expect("removed");
    let refused = tls.reload().expect_err("no key");
    assert!(refused.to_string().starts_with("http.tls.key: cannot read "), "{refused}");
    assert!(is_live(&files.client(&after, None), &api).await, "what was good before is shown on");
    files.server(&good);
    assert!(tls.reload().expect("good files"));
    assert!(is_live(&files.client(&after, None), &api).await);
}

#[tokio::test]
async fn who_speaks_no_tls_or_one_that_is_too_old_is_told_and_nobody_else_notices() {
    let (ours, files) = (Authority::new("ours"), Folder::new());
    let api = start(&opened(&files.server(&ours.signs())), HttpConfig::default()).await;
    let plain = api.url.replace("https", "http");
    let (status, problem) = answered(Client::new().get(format!("{plain}/v1/log")).bearer_auth(new_token())).await;
    assert_eq!((status, &problem["kind"]), (StatusCode::BAD_REQUEST, &json!("invalid")));
    // A hello of TLS 1.1 (RFC 4346 §7.4.1.2): version, random, no session, one cipher suite, no compression; and the
    // signatures that it knows, without which it would be refused for that.
    let signatures = [0, 8, 0, 13, 0, 4, 0, 2, 4, 3];
    let body = [&[3, 2][..], &[7; 32], &[0], &[0, 2, 0xc0, 0x13], &[1, 0], &signatures].concat();
    let length = |bytes: usize| u8::try_from(bytes).expect("short");
    let hello = [&[22, 3, 1, 0, length(body.len() + 4), 1, 0, 0, length(body.len())][..], &body].concat();
    let mut old = TcpStream::connect(api.url.trim_start_matches("https://")).await.expect("connected");
    old.write_all(&hello).await.expect("sent");
    let mut told = Vec::new();
    old.read_to_end(&mut told).await.expect("it is closed");
    let (alert, protocol_version) = (21, 70);
    assert_eq!((told.first(), told.last()), (Some(&alert), Some(&protocol_version)), "{told:?}");
    assert!(is_live(&files.client(&ours, None), &api).await);
}

#[tokio::test]
async fn who_does_not_finish_its_handshake_gives_its_connection_back() {
    let (ours, files) = (Authority::new("ours"), Folder::new());
    // One connection at a time: who comes next is served only when the one before is gone.
    let limits = HttpConfig { connections_max: 1, receive_seconds: 1, ..HttpConfig::default() };
    let api = start(&opened(&files.server(&ours.signs())), limits).await;
    for said in [&b""[..], &[22, 3, 1, 0, 200, 1]] {
        let mut stuck = TcpStream::connect(api.url.trim_start_matches("https://")).await.expect("connected");
        stuck.write_all(said).await.expect("sent");
        // A connection of its own each time: a kept one would be the one that is waited for. On a machine that is very busy
        // it may be too slow as well.
        while !is_live(&files.client(&ours, None), &api).await {}
    }
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_a_handshake() {
    let (ours, files) = (Authority::new("ours"), Folder::new());
    let api = start(&opened(&files.server(&ours.signs())), HttpConfig::default()).await;
    let _silent = TcpStream::connect(api.url.trim_start_matches("https://")).await.expect("connected");
    // The server has accepted the silent one once it serves the next one.
    assert!(is_live(&files.client(&ours, None), &api).await);
    api.shutdown.cancel();
    api.server.await.expect("no panic").expect("in good order");
}
