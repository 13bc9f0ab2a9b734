//! The object store's contract over real HTTP, against the embedded endpoint: the suite of the port with its
//! sixteen racers, the probe, and what rot on the disk looks like from above (ARC-4 starts here).

mod door_common;

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::header;
use axum::response::Response;
use domain::store::{ObjectStore, StoreError};
use door_common::certificates::Authority;
use ops::config::{ClientCertificates, HttpConfig, TlsConfig};
use ops::dev::{Credentials, ObjectServer};
use ops::http::{Connections, Door, serve as serve_http};
use ops::tls::ServerTls;
use segment_store::{S3Store, StoreConfig, conformance, probe};

const BUCKET: &str = "archive";

async fn serve(root: &Path) -> ObjectServer {
    std::fs::create_dir_all(root.join(BUCKET)).expect("a bucket is a folder");
    let credentials = Credentials { access_key: "id".into(), secret_key: "secret".into() };
    let anywhere = "127.0.0.1:0".parse().expect("an address");
    ObjectServer::start(root, credentials, anywhere).await.expect("the endpoint starts")
}

fn config(server: &ObjectServer) -> StoreConfig {
    StoreConfig::at(&server.endpoint(), BUCKET, "id", "secret")
}

fn connect(server: &ObjectServer) -> S3Store {
    S3Store::connect(&config(server)).expect("a valid configuration")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_endpoint_passes_the_suite_of_object_stores() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = serve(folder.path()).await;
    conformance::check(&connect(&server), "suite/").await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_probe_finds_nothing_wrong_with_the_embedded_endpoint_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = serve(folder.path()).await;
    let store = connect(&server);
    let report = probe(&store, "first").await.expect("it answers");
    assert_eq!(report.findings, []);
    assert!(report.allows_sealing());
    assert_eq!(store.list("", None, 10).await.expect("listed"), []);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_keeps_two_logs_apart_in_one_bucket() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = serve(folder.path()).await;
    let below = |prefix: &str| {
        let config = StoreConfig { prefix: prefix.into(), ..config(&server) };
        S3Store::connect(&config).expect("a valid configuration")
    };
    let (one, two) = (below("log-1"), below("log-2/"));
    one.create("seg/a", b"one").await.expect("created");
    two.create("seg/a", b"two").await.expect("created");
    assert_eq!(one.get("seg/a").await.expect("there").bytes, b"one");
    let keys: Vec<String> = two.list("", None, 10).await.expect("listed").into_iter().map(|meta| meta.key).collect();
    assert_eq!(keys, ["seg/a"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rot_on_the_disk_reaches_the_reader_who_compares_digests() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = serve(folder.path()).await;
    let store = connect(&server);
    store.create("seg/a", b"records").await.expect("created");
    let before = store.head("seg/a").await.expect("head").expect("there");

    let path = server.object_path(BUCKET, "seg/a");
    std::fs::write(&path, b"recordz").expect("a byte flips");
    assert_eq!(store.get("seg/a").await.expect("it is served as it is").bytes, b"recordz");

    // And it can be healed by naming the version that is in force.
    store.replace("seg/a", &before.etag, b"records").await.expect("healed");
    assert_eq!(store.get("seg/a").await.expect("there").bytes, b"records");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_endpoint_refuses_is_told_apart_from_what_is_not_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = serve(folder.path()).await;
    let stranger = StoreConfig::at(&server.endpoint(), BUCKET, "id", "wrong");
    let stranger = S3Store::connect(&stranger).expect("a valid configuration");
    assert!(matches!(stranger.get("seg/a").await, Err(StoreError::Refused { .. })));
    let nowhere = StoreConfig::at(&server.endpoint(), "no-such-bucket", "id", "secret");
    let nowhere = S3Store::connect(&nowhere).expect("a valid configuration");
    assert!(matches!(nowhere.get("seg/a").await, Err(StoreError::Refused { .. })));
    assert!(matches!(connect(&server).get("seg/a").await, Err(StoreError::NotFound { .. })));

    let endpoint = config(&server);
    server.stop().await;
    let gone = S3Store::connect(&endpoint).expect("a valid configuration");
    assert!(matches!(gone.get("seg/a").await, Err(StoreError::Unavailable { .. })));
}

/// Hands a request on as it is, host and signature included, and its answer back.
async fn hand_on(State((http, to)): State<(reqwest::Client, String)>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, usize::MAX).await.expect("whole");
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let asked = http.request(parts.method, format!("{to}{path}")).headers(parts.headers).body(body);
    let answer = asked.send().await.expect("an answer");
    let mut response = Response::builder().status(answer.status());
    for (name, value) in answer.headers().iter().filter(|(name, _)| *name != header::TRANSFER_ENCODING) {
        response = response.header(name, value);
    }
    response.body(Body::from(answer.bytes().await.expect("whole"))).expect("it was an answer")
}

/// TLS in front of an endpoint, with a certificate for `names`; gives its port.
async fn behind_tls(server: &ObjectServer, folder: &Path, (certificate, key): (String, String)) -> u16 {
    // Another test of this process may have been first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let files = TlsConfig {
        certificate: folder.join("server.pem"),
        key: folder.join("server.key"),
        client_ca: None,
        clients: ClientCertificates::default(),
    };
    std::fs::write(&files.certificate, certificate).expect("written");
    std::fs::write(&files.key, key).expect("written");
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let (tls, limits) = (Arc::new(ServerTls::open(&files).expect("a pair")), HttpConfig::default());
    let door = Door { listener, tls: Some(tls), connections: Connections::of(&limits) };
    let router = axum::Router::new().fallback(hand_on).with_state((reqwest::Client::new(), server.endpoint()));
    tokio::spawn(async move { serve_http(door, router, &limits, Default::default()).await });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_of_a_private_authority_is_believed_by_its_name_with_the_bucket_in_the_path_or_in_the_host() {
    let folder = tempfile::tempdir().expect("a folder");
    let (server, authority) = (serve(&folder.path().join("objects")).await, Authority::new("ours"));
    let names = ["s3.localhost", "archive.localhost", "localhost"];
    let port = behind_tls(&server, folder.path(), authority.signs_for(&names)).await;
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, &authority.pem).expect("written");
    let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let at = |host: &str, path_style: bool| StoreConfig {
        ca: Some(ca.clone()),
        path_style,
        ..StoreConfig::at(&format!("https://{host}:{port}"), BUCKET, "id", "secret")
    };
    // As it is deployed: by a name that this machine knows.
    let known = S3Store::connect(&at("localhost", true)).expect("a valid configuration");
    conformance::check(&known, "path/").await;
    let in_host = S3Store::connect_to(&at("localhost", false), here).expect("a valid configuration");
    conformance::check(&in_host, "host/").await;
    assert!(probe(&in_host, "nonce").await.expect("it answers").allows_sealing());
    in_host.create("seg/a", b"one").await.expect("created");
    assert_eq!(known.get("seg/a").await.expect("the same bucket").bytes, b"one");

    let once = |config: StoreConfig| StoreConfig { attempts: std::num::NonZeroU32::MIN, ..config };
    let wrong_name = S3Store::connect_to(&once(at("other.localhost", true)), here).expect("a valid configuration");
    assert!(matches!(wrong_name.get("seg/a").await, Err(StoreError::Unavailable { .. })), "another name");
    let public = StoreConfig { ca: None, ..once(at("localhost", true)) };
    let public = S3Store::connect(&public).expect("a valid configuration");
    assert!(
        matches!(public.get("seg/a").await, Err(StoreError::Unavailable { .. })),
        "the system's have not signed it"
    );
    let none = StoreConfig { ca: Some(folder.path().join("server.key")), ..at("localhost", true) };
    assert!(S3Store::connect(&none).is_err(), "a key is no authority");
    server.stop().await;
}

/// The region of buckets behind [`of_one_region`].
const REGION: &str = "eu-central-1";

/// Believes requests that are signed for [`REGION`], as AWS's endpoint of a region does; whether the signature is right is
/// the business of the endpoint behind it, which makes it again out of what the request says.
async fn of_one_region(State(to): State<(reqwest::Client, String)>, request: Request) -> Response {
    let signed = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    // AWS4-HMAC-SHA256 Credential=ID/DAY/REGION/s3/aws4_request, SignedHeaders=…, Signature=…
    let scope = signed.and_then(|signed| signed.split_once("Credential=")?.1.split(',').next());
    let region = scope.and_then(|scope| scope.split('/').nth(2));
    if region == Some(REGION) {
        return hand_on(State(to), request).await;
    }
    let said = format!(
        "<Error><Code>AuthorizationHeaderMalformed</Code><Message>the region '{}' is wrong; expecting '{REGION}'</Message>\
         </Error>",
        region.unwrap_or_default()
    );
    let response = Response::builder().status(400).header(header::CONTENT_TYPE, "application/xml");
    response.body(Body::from(said)).expect("an answer")
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_signed_for_the_region_that_is_configured_with_the_bucket_in_the_path_or_in_the_host() {
    // Another test of this process may have been first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let folder = tempfile::tempdir().expect("a folder");
    let server = serve(folder.path()).await;
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let router = axum::Router::new().fallback(of_one_region).with_state((reqwest::Client::new(), server.endpoint()));
    let limits = HttpConfig::default();
    let door = Door { listener, tls: None, connections: Connections::of(&limits) };
    tokio::spawn(async move { serve_http(door, router, &limits, Default::default()).await });
    let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let store = |region: &str, path_style: bool| {
        let config = StoreConfig::at(&format!("http://localhost:{port}"), BUCKET, "id", "secret");
        let config = StoreConfig { region: region.into(), path_style, ..config };
        S3Store::connect_to(&config, here).expect("a valid configuration")
    };
    for (prefix, path_style) in [("path/", true), ("host/", false)] {
        let of_the_region = store(REGION, path_style);
        conformance::check(&of_the_region, prefix).await;
        assert!(probe(&of_the_region, prefix.trim_end_matches('/')).await.expect("it answers").allows_sealing());
        of_the_region.create(&format!("{prefix}seg/a"), b"one").await.expect("created");
        for wrong in ["us-east-1", "eu-central-2"] {
            let elsewhere = store(wrong, path_style);
            for refused in [
                elsewhere.get(&format!("{prefix}seg/a")).await.map(drop),
                elsewhere.create(&format!("{prefix}seg/b"), b"two").await.map(drop),
                elsewhere.list("", None, 10).await.map(drop),
            ] {
                // Which region it would have had to be stands in what an operator is told.
                let told = matches!(&refused, Err(StoreError::Refused { reason, .. }) if reason.contains(REGION));
                assert!(told, "{wrong} {path_style}: {refused:?}");
            }
        }
    }
    server.stop().await;
}
