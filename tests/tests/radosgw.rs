//! The object store against Ceph's S3 gateway: an endpoint that is not ours. Where Debian's `radosgw` is not
//! installed the test says so and ends.

use domain::store::ObjectStore;
use segment_store::{Check, S3Store, StoreConfig, conformance, probe};
use system_tests::radosgw::{ACCESS_KEY, Radosgw, SECRET_KEY};

#[tokio::test(flavor = "multi_thread")]
async fn cephs_gateway_passes_the_suite_and_the_probe_names_what_it_lacks() {
    let missing = Radosgw::missing();
    if !missing.is_empty() {
        println!("skipped: radosgw is not installed (missing: {missing:?}); apt-get install radosgw ceph-mon ceph-osd");
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let gateway = Radosgw::start(folder.path()).await;
    let config = StoreConfig::at(gateway.endpoint(), "archive", ACCESS_KEY, SECRET_KEY);
    let store = S3Store::connect(&config).expect("a valid configuration");
    store.create_bucket().await.expect("a bucket");

    conformance::check(&store, "suite/").await;

    let report = probe(&store, "first").await.expect("it answers");
    let found: Vec<Check> = report.findings.iter().map(|finding| finding.check).collect();
    assert_eq!(found, [Check::WrongChecksum], "{report:?}");
    assert!(report.allows_sealing(), "the read-back covers what the gateway does not check");
    assert_eq!(store.list("probe/", None, 10).await.expect("listed"), []);

    // It signs every request again for the region that the request names, and compares: an endpoint that is not ours.
    let elsewhere = StoreConfig { region: "eu-central-1".into(), ..config };
    let elsewhere = S3Store::connect(&elsewhere).expect("a valid configuration");
    conformance::check(&elsewhere, "region/").await;
}
