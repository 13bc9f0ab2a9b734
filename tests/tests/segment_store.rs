//! The object store's contract over real HTTP, against the embedded endpoint: the suite of the port with its
//! sixteen racers, the probe, and what rot on the disk looks like from above (ARC-4 starts here).

use std::path::Path;

use domain::store::{ObjectStore, StoreError};
use ops::dev::{Credentials, ObjectServer};
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
