//! The endpoint keeps its promises to the client that Coldstream uses: aws-sdk-s3.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Instant;

use aws_sdk_s3::Client;
use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumMode};
use futures::future::join_all;
use tempfile::TempDir;

use super::*;

mod killed;

const BUCKET: &str = "archive";
const RACERS: usize = 16;
const ROUNDS: usize = 50;

fn credentials() -> Credentials {
    Credentials { access_key: "test-key".into(), secret_key: "test-secret".into() }
}

async fn serve(root: &Path) -> ObjectServer {
    ObjectServer::start(root, credentials(), (Ipv4Addr::LOCALHOST, 0).into()).await.unwrap()
}

fn client_as(server: &ObjectServer, credentials: &Credentials) -> Client {
    client_at(&server.endpoint(), credentials)
}

fn client_at(endpoint: &str, credentials: &Credentials) -> Client {
    let http = aws_smithy_http_client::Builder::new().build_http();
    let keys = aws_credential_types::Credentials::from_keys(&credentials.access_key, &credentials.secret_key, None);
    let config = aws_sdk_s3::Config::builder()
        .endpoint_url(endpoint)
        .region(aws_sdk_s3::config::Region::new("eu-north-1"))
        .credentials_provider(keys)
        .http_client(http)
        .retry_config(aws_sdk_s3::config::retry::RetryConfig::disabled())
        .force_path_style(true)
        .build();
    Client::from_conf(config)
}

struct Fixture {
    folder: TempDir,
    server: ObjectServer,
    client: Client,
}

async fn fixture() -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let server = serve(folder.path()).await;
    let client = client_as(&server, &credentials());
    client.create_bucket().bucket(BUCKET).send().await.unwrap();
    Fixture { folder, server, client }
}

impl Fixture {
    async fn put(&self, key: &str, bytes: &[u8]) -> String {
        let put = self.client.put_object().bucket(BUCKET).key(key).body(ByteStream::from(bytes.to_vec()));
        put.send().await.unwrap().e_tag.unwrap()
    }

    async fn get(&self, key: &str) -> bytes::Bytes {
        let got = self.client.get_object().bucket(BUCKET).key(key).send().await.unwrap();
        // `to_vec` copies byte by byte, which takes 40 ms a mebibyte without optimisation.
        got.body.collect().await.unwrap().into_bytes()
    }

    async fn exists(&self, key: &str) -> bool {
        self.client.head_object().bucket(BUCKET).key(key).send().await.is_ok()
    }

    async fn keys(&self) -> Vec<String> {
        let list = self.client.list_objects_v2().bucket(BUCKET).send().await.unwrap();
        list.contents().iter().map(|object| object.key().unwrap().to_owned()).collect()
    }

    fn left_over(&self) -> usize {
        std::fs::read_dir(self.folder.path().join(layout::TEMPORARY)).unwrap().count()
    }
}

fn code<T: std::fmt::Debug, E: ProvideErrorMetadata + std::fmt::Debug, R: std::fmt::Debug>(
    result: Result<T, aws_sdk_s3::error::SdkError<E, R>>,
) -> String {
    result.unwrap_err().code().unwrap_or("none").to_owned()
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| u8::try_from(index * 31 % 251).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_racing_creates_exactly_one_wins_and_its_bytes_stay() {
    let fixture = fixture().await;
    for round in 0..ROUNDS {
        let key = format!("race/{round}");
        let racers = (0..RACERS).map(|racer| {
            let put = fixture.client.put_object().bucket(BUCKET).key(&key).if_none_match("*");
            put.body(ByteStream::from(format!("racer {racer}").into_bytes())).send()
        });
        let results = join_all(racers).await;
        let winners: Vec<usize> = (0..RACERS).filter(|racer| results[*racer].is_ok()).collect();
        assert_eq!(winners.len(), 1, "round {round}: {results:?}");
        for result in results.into_iter().filter(Result::is_err) {
            assert_eq!(code(result), "PreconditionFailed");
        }
        assert_eq!(fixture.get(&key).await, format!("racer {}", winners[0]).into_bytes());
    }
    assert_eq!(fixture.left_over(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_racing_replacements_exactly_one_wins() {
    let fixture = fixture().await;
    let mut etag = fixture.put("manifest", b"first").await;
    for round in 0..ROUNDS {
        let racers = (0..RACERS).map(|racer| {
            let put = fixture.client.put_object().bucket(BUCKET).key("manifest").if_match(&etag);
            put.body(ByteStream::from(format!("round {round} racer {racer}").into_bytes())).send()
        });
        let results = join_all(racers).await;
        let winners: Vec<usize> = (0..RACERS).filter(|racer| results[*racer].is_ok()).collect();
        assert_eq!(winners.len(), 1, "round {round}: {results:?}");
        etag = results[winners[0]].as_ref().unwrap().e_tag.clone().unwrap();
        for result in results.into_iter().filter(Result::is_err) {
            assert_eq!(code(result), "PreconditionFailed");
        }
        let expected = format!("round {round} racer {}", winners[0]);
        assert_eq!(fixture.get("manifest").await, expected.into_bytes());
    }
    assert_eq!(fixture.left_over(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_sees_one_version_whole_while_it_is_replaced() {
    let fixture = fixture().await;
    let version = |number: usize| vec![u8::try_from(number % 200).unwrap(); 10_000 + number];
    fixture.put("busy", &version(0)).await;
    let write = async {
        for number in 1..100 {
            fixture.put("busy", &version(number)).await;
        }
    };
    let read = async {
        for _ in 0..200 {
            // The SDK compares the bytes with the checksum that was stored with them.
            let got = fixture.client.get_object().bucket(BUCKET).key("busy").checksum_mode(ChecksumMode::Enabled);
            let got = got.send().await.unwrap();
            assert!(got.checksum_crc32().is_some());
            let bytes = got.body.collect().await.unwrap().into_bytes();
            assert_eq!(bytes, version(bytes.len() - 10_000));
        }
    };
    tokio::join!(write, read);
}

#[tokio::test]
async fn a_stale_or_impossible_condition_is_refused() {
    let fixture = fixture().await;
    let etag = fixture.put("a", b"one").await;
    fixture.put("a", b"two").await;
    let replace = |key: &'static str| fixture.client.put_object().bucket(BUCKET).key(key).if_match(&etag);
    assert_eq!(code(replace("a").body(ByteStream::from_static(b"three")).send().await), "PreconditionFailed");
    assert_eq!(code(replace("b").body(ByteStream::from_static(b"three")).send().await), "NoSuchKey");
    assert_eq!(fixture.get("a").await, b"two".as_slice());
    assert!(!fixture.exists("b").await);

    let read = |if_match: &str| fixture.client.get_object().bucket(BUCKET).key("a").if_match(if_match).send();
    assert_eq!(code(read(&etag).await), "PreconditionFailed");
    let delete = fixture.client.delete_object().bucket(BUCKET).key("a").if_match(&etag).send().await;
    assert_eq!(code(delete), "PreconditionFailed");
    assert!(fixture.exists("a").await);
}

#[tokio::test]
async fn a_wrong_checksum_is_refused_and_nothing_is_stored() {
    let fixture = fixture().await;
    let put = || fixture.client.put_object().bucket(BUCKET).key("wrong").body(ByteStream::from_static(b"bytes"));
    assert_eq!(code(put().content_md5("1B2M2Y8AsgTpgAmY7PhCfg==").send().await), "BadDigest");
    assert_eq!(code(put().content_md5("AAAA").send().await), "InvalidDigest");
    assert_eq!(code(put().checksum_crc32("AAAAAA==").send().await), "BadDigest");
    assert_eq!(code(put().checksum_crc32_c("AAAAAA==").send().await), "BadDigest");
    assert_eq!(code(put().checksum_sha1("2jmj7l5rSw0yVb/vlWAYkK/YBwk=").send().await), "BadDigest");
    let sha256 = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
    assert_eq!(code(put().checksum_sha256(sha256).send().await), "BadDigest");
    assert!(!fixture.exists("wrong").await);
    assert_eq!(fixture.left_over(), 0);
}

#[tokio::test]
async fn every_checksum_of_the_sdk_is_taken_in_a_header_and_in_a_trailer() {
    let fixture = fixture().await;
    let bytes = pattern(300_000);
    let file = fixture.folder.path().join("upload");
    std::fs::write(&file, &bytes).unwrap();
    let all = [ChecksumAlgorithm::Crc32, ChecksumAlgorithm::Crc32C, ChecksumAlgorithm::Sha1, ChecksumAlgorithm::Sha256];
    for algorithm in all {
        let header = fixture.client.put_object().bucket(BUCKET).key("header").checksum_algorithm(algorithm.clone());
        header.body(ByteStream::from(bytes.clone())).send().await.unwrap();
        assert_eq!(fixture.get("header").await, bytes);

        // A body that cannot be rewound into memory goes out as aws-chunked with the checksum behind it.
        let trailer = fixture.client.put_object().bucket(BUCKET).key("trailer").checksum_algorithm(algorithm.clone());
        let stored = trailer.body(ByteStream::from_path(&file).await.unwrap()).send().await.unwrap();
        let told = [stored.checksum_crc32, stored.checksum_crc32_c, stored.checksum_sha1, stored.checksum_sha256];
        assert_eq!(told.iter().flatten().count(), 1, "{algorithm}: {told:?}");
        assert_eq!(fixture.get("trailer").await, bytes);
    }
}

#[tokio::test]
async fn ranges_are_those_of_rfc_9110() {
    let fixture = fixture().await;
    let bytes = pattern(10_000);
    fixture.put("ranged", &bytes).await;
    let read = |range: &'static str| fixture.client.get_object().bucket(BUCKET).key("ranged").range(range).send();
    let cases = [
        ("bytes=0-0", 0..1, "bytes 0-0/10000"),
        ("bytes=100-199", 100..200, "bytes 100-199/10000"),
        ("bytes=9990-", 9_990..10_000, "bytes 9990-9999/10000"),
        ("bytes=-10", 9_990..10_000, "bytes 9990-9999/10000"),
        ("bytes=9000-99999", 9_000..10_000, "bytes 9000-9999/10000"),
    ];
    for (range, expected, told) in cases {
        let got = read(range).await.unwrap();
        assert_eq!(got.content_range(), Some(told));
        assert_eq!(got.body.collect().await.unwrap().into_bytes(), bytes[expected]);
    }
    assert_eq!(code(read("bytes=10000-").await), "InvalidRange");
}

#[tokio::test]
async fn a_body_larger_than_one_block_is_streamed_whole() {
    let fixture = fixture().await;
    let bytes = pattern(9 * 1024 * 1024 + 17);
    fixture.put("large", &bytes).await;
    assert!(fixture.get("large").await == bytes);
    fixture.put("empty", b"").await;
    assert_eq!(fixture.get("empty").await, b"".as_slice());
}

#[tokio::test]
async fn pages_follow_each_other_in_the_order_of_the_keys() {
    let fixture = fixture().await;
    let mut expected = BTreeSet::new();
    for number in 0..23 {
        for key in [format!("seg/{number:03}"), format!("seg-{number:03}"), format!("seg/{number:03}/index")] {
            fixture.put(&key, b"x").await;
            expected.insert(key);
        }
    }
    let mut found = Vec::new();
    let mut pages = fixture.client.list_objects_v2().bucket(BUCKET).max_keys(7).into_paginator().send();
    while let Some(page) = pages.next().await {
        let page = page.unwrap();
        assert!(page.contents().len() <= 7);
        found.extend(page.contents().iter().map(|object| object.key().unwrap().to_owned()));
    }
    assert!(found.iter().eq(&expected), "{found:?}");

    let list = || fixture.client.list_objects_v2().bucket(BUCKET);
    let after = list().prefix("seg/").start_after("seg/021/index").send().await.unwrap();
    let keys: Vec<_> = after.contents().iter().map(|object| object.key().unwrap()).collect();
    assert_eq!(keys, ["seg/022", "seg/022/index"]);
    assert_eq!(list().prefix("nothing").send().await.unwrap().key_count(), Some(0));
}

#[tokio::test]
async fn a_delimiter_folds_keys_into_common_prefixes_across_pages() {
    let fixture = fixture().await;
    for key in ["a", "b/1", "b/2", "c", "d/1", "d/2/3", "e"] {
        fixture.put(key, b"x").await;
    }
    let list = || fixture.client.list_objects_v2().bucket(BUCKET).delimiter("/");
    let (mut keys, mut prefixes) = (Vec::new(), Vec::new());
    let mut pages = list().max_keys(1).into_paginator().send();
    while let Some(page) = pages.next().await {
        let page = page.unwrap();
        keys.extend(page.contents().iter().map(|object| object.key().unwrap().to_owned()));
        prefixes.extend(page.common_prefixes().iter().map(|common| common.prefix().unwrap().to_owned()));
    }
    assert_eq!((keys, prefixes), (vec!["a".into(), "c".into(), "e".into()], vec!["b/".into(), "d/".to_owned()]));

    let below = list().prefix("d/").send().await.unwrap();
    assert_eq!(below.contents()[0].key(), Some("d/1"));
    assert_eq!(below.common_prefixes()[0].prefix(), Some("d/2/"));
}

#[tokio::test]
async fn odd_keys_are_stored_apart_and_listed() {
    let fixture = fixture().await;
    let long = format!("long/{}", "x".repeat(1_000));
    let odd =
        ["a", "a/b", "a/", "a//b", "=a", "a+", "%2F", "ä ö/日本", "a b&c<d>\"'#?", "../../x", "./y", ".hidden", &long];
    for key in odd {
        fixture.put(key, key.as_bytes()).await;
    }
    for key in odd {
        assert_eq!(fixture.get(key).await, key.as_bytes(), "{key}");
        assert_eq!(std::fs::read(fixture.server.object_path(BUCKET, key)).unwrap(), key.as_bytes());
        assert!(fixture.server.object_path(BUCKET, key).starts_with(fixture.server.root.join(BUCKET)));
    }
    let expected: BTreeSet<String> = odd.map(str::to_owned).into();
    assert!(fixture.keys().await.iter().eq(&expected), "{:?}", fixture.keys().await);
    for key in odd {
        fixture.client.delete_object().bucket(BUCKET).key(key).send().await.unwrap();
    }
    assert_eq!(fixture.keys().await, Vec::<String>::new());
    fixture.client.delete_bucket().bucket(BUCKET).send().await.unwrap();
}

#[tokio::test]
async fn objects_outlive_a_restart_with_all_that_is_known_about_them() {
    let fixture = fixture().await;
    let put = fixture.client.put_object().bucket(BUCKET).key("kept").content_type("application/zstd");
    put.metadata("origin", "home").body(ByteStream::from_static(b"bytes")).send().await.unwrap();
    let before = fixture.client.head_object().bucket(BUCKET).key("kept").send().await.unwrap();
    // What a crash in the middle of an upload leaves behind.
    std::fs::create_dir(fixture.folder.path().join(layout::TEMPORARY).join("7")).unwrap();

    fixture.server.stop().await;
    let server = serve(fixture.folder.path()).await;
    let client = client_as(&server, &credentials());
    let after = client.head_object().bucket(BUCKET).key("kept").send().await.unwrap();
    assert_eq!(after.e_tag(), before.e_tag());
    assert_eq!(after.last_modified(), before.last_modified());
    assert_eq!(after.content_type(), Some("application/zstd"));
    assert_eq!(after.metadata().unwrap()["origin"], "home");
    assert_eq!(std::fs::read_dir(fixture.folder.path().join(layout::TEMPORARY)).unwrap().count(), 0);
    let buckets = client.list_buckets().send().await.unwrap();
    assert_eq!(buckets.buckets()[0].name(), Some(BUCKET));
}

#[tokio::test]
async fn rot_is_served_as_it_is_and_a_lost_body_is_an_absent_object() {
    let fixture = fixture().await;
    let etag = fixture.put("rotten", b"good bytes").await;
    let path = fixture.server.object_path(BUCKET, "rotten");
    std::fs::write(&path, b"bad! bytes").unwrap();
    let got = fixture.client.get_object().bucket(BUCKET).key("rotten").range("bytes=0-").send().await.unwrap();
    assert_eq!(got.e_tag(), Some(etag.as_str()));
    assert_eq!(got.body.collect().await.unwrap().into_bytes(), b"bad! bytes".as_slice());
    // Without a range the SDK asks for the stored checksum, compares, and finds out.
    let whole = fixture.client.get_object().bucket(BUCKET).key("rotten").send().await.unwrap();
    assert!(whole.body.collect().await.is_err());

    // Healing: replace what is there by its ETag, create what is not.
    let heal = fixture.client.put_object().bucket(BUCKET).key("rotten").if_match(&etag);
    heal.body(ByteStream::from_static(b"good bytes")).send().await.unwrap();
    assert_eq!(fixture.get("rotten").await, b"good bytes".as_slice());
    std::fs::remove_file(&path).unwrap();
    assert!(!fixture.exists("rotten").await);
    assert_eq!(fixture.keys().await, Vec::<String>::new());
    let heal = fixture.client.put_object().bucket(BUCKET).key("rotten").if_none_match("*");
    heal.body(ByteStream::from_static(b"good bytes")).send().await.unwrap();
    assert_eq!(fixture.get("rotten").await, b"good bytes".as_slice());
}

#[tokio::test]
async fn only_the_right_key_is_let_in() {
    let fixture = fixture().await;
    for (access_key, secret_key) in [("test-key", "guessed"), ("stranger", "test-secret")] {
        let stranger = Credentials { access_key: access_key.into(), secret_key: secret_key.into() };
        let client = client_as(&fixture.server, &stranger);
        let listed = client.list_objects_v2().bucket(BUCKET).send().await;
        assert!(["SignatureDoesNotMatch", "NotSignedUp"].contains(&code(listed).as_str()));
    }
    let answer = raw(&fixture.server, &format!("GET /{BUCKET}/any HTTP/1.1\r\nConnection: close\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
}

/// One request without a client; adds the host and the end of the head.
async fn raw(server: &ObjectServer, head: &str) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    stream.write_all(format!("{head}Host: {}\r\n\r\n", server.address()).as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn buckets_are_made_once_and_go_only_empty() {
    let fixture = fixture().await;
    fixture.put("deep/down/object", b"x").await;
    let client = &fixture.client;
    assert_eq!(code(client.create_bucket().bucket(BUCKET).send().await), "BucketAlreadyOwnedByYou");
    assert_eq!(code(client.delete_bucket().bucket(BUCKET).send().await), "BucketNotEmpty");
    assert!(client.head_bucket().bucket("other").send().await.is_err());
    assert_eq!(code(client.get_object().bucket("other").key("x").send().await), "NoSuchBucket");
    let put = client.put_object().bucket("other").key("x").body(ByteStream::from_static(b"x")).send().await;
    assert_eq!(code(put), "NoSuchBucket");
    client.delete_object().bucket(BUCKET).key("deep/down/object").send().await.unwrap();
    client.delete_object().bucket(BUCKET).key("deep/down/object").send().await.unwrap();
    client.delete_bucket().bucket(BUCKET).send().await.unwrap();
    assert!(client.head_bucket().bucket(BUCKET).send().await.is_err());
}

#[tokio::test]
async fn a_folder_has_one_server() {
    let fixture = fixture().await;
    let second = ObjectServer::start(fixture.folder.path(), credentials(), (Ipv4Addr::LOCALHOST, 0).into()).await;
    assert!(matches!(second, Err(ObjectServerError::InUse { .. })), "{second:?}");
    fixture.server.kill().await;
    serve(fixture.folder.path()).await.stop().await;
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_nothing() {
    use tokio::io::AsyncWriteExt as _;
    let fixture = fixture().await;
    let presigning = aws_sdk_s3::presigning::PresigningConfig::expires_in(Duration::from_secs(60)).unwrap();
    let put = fixture.client.put_object().bucket(BUCKET).key("cut").presigned(presigning).await.unwrap();
    let path = put.uri().strip_prefix(&fixture.server.endpoint()).unwrap();
    let mut stream = TcpStream::connect(fixture.server.address()).await.unwrap();
    let head = format!("PUT {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: 5000000\r\n\r\n", fixture.server.address());
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&pattern(3_000_000)).await.unwrap();
    drop(stream);
    fixture.server.stop().await;
    let server = serve(fixture.folder.path()).await;
    let client = client_as(&server, &credentials());
    assert!(client.head_object().bucket(BUCKET).key("cut").send().await.is_err());
}

/// A server that answers in several small writes under Nagle's algorithm loses 40 ms a request.
#[tokio::test]
async fn reading_a_mebibyte_does_not_stall() {
    let fixture = fixture().await;
    let bytes = pattern(1 << 20);
    fixture.put("segment", &bytes).await;
    let mut times = Vec::new();
    for _ in 0..20 {
        let start = began();
        assert!(fixture.get("segment").await == bytes);
        times.push(start.elapsed());
    }
    times.sort_unstable();
    println!("GET of 1 MiB: median {:?}, slowest {:?}", times[10], times[19]);
    assert!(times[10] < Duration::from_millis(25), "median of {times:?}");
}

#[expect(clippy::disallowed_methods, reason = "a stall is real time")]
fn began() -> Instant {
    Instant::now()
}

#[tokio::test]
async fn a_promise_that_is_not_kept_is_not_taken() {
    let fixture = fixture().await;
    let put = fixture.client.put_object().bucket(BUCKET).key("held").body(ByteStream::from_static(b"x"));
    let hold = aws_sdk_s3::types::ObjectLockLegalHoldStatus::On;
    assert_eq!(code(put.object_lock_legal_hold_status(hold).send().await), "NotImplemented");
    assert!(!fixture.exists("held").await);
}
