//! The adapter against an endpoint that answers by a script: lost replies, half bodies, refusals, silence.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// What the endpoint does with a request.
enum Answer {
    /// A whole reply.
    Reply(u16, &'static str, &'static [u8]),
    /// A reply that announces more bytes than it has.
    Cut(usize, &'static [u8]),
    /// The connection is closed without a reply.
    HangUp,
}

const OK: Answer = Answer::Reply(200, "etag: \"1\"\r\n", b"");
const EXISTS: Answer = Answer::Reply(412, "", b"<Error><Code>PreconditionFailed</Code></Error>");
const BUSY: Answer = Answer::Reply(503, "", b"<Error><Code>SlowDown</Code></Error>");

fn found(body: &'static [u8]) -> Answer {
    Answer::Reply(200, "etag: \"1\"\r\n", body)
}

/// Serves `answers` in order, one connection each, and collects the requests' heads in lower case.
async fn endpoint(answers: Vec<Answer>) -> (S3Store, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let heads = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&heads);
    tokio::spawn(async move {
        for answer in answers {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let head = read_request(&mut stream).await;
            seen.lock().expect("no panic").push(head);
            serve(&mut stream, answer).await;
        }
    });
    let config = StoreConfig::at(&format!("http://{address}"), "bucket", "id", "secret");
    let config = StoreConfig { prefix: "logs".into(), attempts: NonZeroU32::new(3).expect("not zero"), ..config };
    (S3Store::connect(&config).expect("valid"), heads)
}

async fn read_request(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    loop {
        stream.read_buf(&mut bytes).await.expect("a request");
        let text = String::from_utf8_lossy(&bytes).to_lowercase();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        if body.len() >= length.map_or(0, |length| length.parse().expect("a number")) {
            return text;
        }
    }
}

async fn serve(stream: &mut TcpStream, answer: Answer) {
    let (status, headers, length, body) = match answer {
        Answer::Reply(status, headers, body) => (status, headers, body.len(), body),
        Answer::Cut(length, body) => (200, "etag: \"1\"\r\n", length, body),
        Answer::HangUp => return,
    };
    let head = format!("HTTP/1.1 {status} x\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.expect("written");
    stream.write_all(body).await.expect("written");
}

#[tokio::test]
async fn a_creation_is_conditional_and_carries_its_length_and_checksum_in_headers() {
    let (store, heads) = endpoint(vec![OK]).await;
    assert_eq!(store.create("seg/1", b"123456789").await.expect("created"), Created::New);
    let head = heads.lock().expect("no panic")[0].clone();
    assert!(head.starts_with("put /bucket/logs/seg/1"), "{head}");
    assert!(head.contains("\r\nif-none-match: *\r\n"), "{head}");
    assert!(head.contains("\r\ncontent-length: 9\r\n"), "{head}");
    // The check value of CRC-32/IEEE, 0xcbf43926, in base64; in lower case like all of the head.
    assert!(head.contains("\r\nx-amz-checksum-crc32: y/q5jg==\r\n"), "{head}");
    assert!(!head.contains("aws-chunked"), "{head}");
    assert!(!head.contains("trailer"), "{head}");
}

#[tokio::test]
async fn a_lost_reply_is_same() {
    let (store, _) = endpoint(vec![Answer::HangUp, EXISTS, found(b"bytes")]).await;
    assert_eq!(store.create("k", b"bytes").await.expect("it is there"), Created::Same);
}

#[tokio::test]
async fn other_bytes_under_the_key_are_different() {
    let (store, _) = endpoint(vec![BUSY, EXISTS, found(b"others")]).await;
    assert!(matches!(store.create("k", b"bytes").await, Err(StoreError::Different { .. })));
}

#[tokio::test]
async fn what_is_busy_is_asked_again_and_then_unavailable() {
    let conflict = Answer::Reply(409, "", b"<Error><Code>ConditionalRequestConflict</Code></Error>");
    let (store, _) = endpoint(vec![conflict, BUSY, OK]).await;
    assert_eq!(store.create("k", b"bytes").await.expect("the third time"), Created::New);
    let (store, heads) = endpoint(vec![BUSY, BUSY, BUSY]).await;
    assert!(matches!(store.create("k", b"bytes").await, Err(StoreError::Unavailable { .. })));
    assert_eq!(heads.lock().expect("no panic").len(), 3);
}

#[tokio::test]
async fn a_replacement_whose_reply_was_lost_has_happened() {
    let (store, heads) = endpoint(vec![Answer::HangUp, EXISTS, found(b"new")]).await;
    store.replace("k", "\"0\"", b"new").await.expect("it happened");
    assert!(heads.lock().expect("no panic")[0].contains("\r\nif-match: \"0\"\r\n"));
    let (store, _) = endpoint(vec![EXISTS, found(b"newer")]).await;
    assert!(matches!(store.replace("k", "\"0\"", b"new").await, Err(StoreError::Different { .. })));
}

#[tokio::test]
async fn an_endpoint_that_compares_versions_without_quotes_is_asked_that_way() {
    let (store, heads) = endpoint(vec![EXISTS, found(b"old"), OK]).await;
    store.replace("k", "\"1\"", b"new").await.expect("the version in force");
    let heads = heads.lock().expect("no panic");
    assert!(heads[0].contains("\r\nif-match: \"1\"\r\n"));
    assert!(heads[2].contains("\r\nif-match: 1\r\n"));
}

#[tokio::test]
async fn a_body_that_ends_early_is_read_again_and_never_returned() {
    let (store, _) = endpoint(vec![Answer::Cut(5, b"by"), found(b"bytes")]).await;
    assert_eq!(store.get("k").await.expect("the second time").bytes, b"bytes");
    let (store, _) = endpoint(vec![Answer::Cut(5, b"by"), Answer::Cut(5, b"byte"), Answer::Cut(5, b"")]).await;
    assert!(matches!(store.get("k").await, Err(StoreError::Unavailable { .. })));
}

#[tokio::test]
async fn a_range_of_another_length_is_an_error() {
    let (store, heads) = endpoint(vec![Answer::Reply(206, "", b"234")]).await;
    assert_eq!(store.get_range("k", 2, 3).await.expect("exact"), b"234");
    assert!(heads.lock().expect("no panic")[0].contains("\r\nrange: bytes=2-4\r\n"));
    let (store, _) = endpoint(vec![Answer::Reply(206, "", b"23")]).await;
    assert!(matches!(store.get_range("k", 2, 3).await, Err(StoreError::Different { .. })));
    let (store, _) = endpoint(vec![found(b"0123456789")]).await;
    assert!(matches!(store.get_range("k", 2, 3).await, Err(StoreError::Refused { .. })));
}

#[tokio::test]
async fn credentials_that_are_refused_are_not_tried_again() {
    let denied = Answer::Reply(403, "", b"<Error><Code>AccessDenied</Code></Error>");
    let (store, heads) = endpoint(vec![denied]).await;
    assert!(matches!(store.get("k").await, Err(StoreError::Refused { .. })));
    assert_eq!(heads.lock().expect("no panic").len(), 1);
}

#[tokio::test]
async fn a_listing_out_of_order_is_refused() {
    let page = b"<ListBucketResult><IsTruncated>true</IsTruncated>\
        <Contents><Key>logs/b</Key><Size>1</Size></Contents><Contents><Key>logs/a</Key><Size>1</Size></Contents>\
        </ListBucketResult>";
    let (store, _) = endpoint(vec![found(page), found(page), found(page)]).await;
    assert!(matches!(store.list("", None, 10).await, Err(StoreError::Unavailable { .. })));
}

#[tokio::test]
async fn a_listing_that_goes_on_after_an_empty_page_is_asked_for_again_and_never_taken_for_its_end() {
    let empty = b"<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>";
    let page = b"<ListBucketResult><IsTruncated>false</IsTruncated>\
        <Contents><Key>logs/a</Key><Size>1</Size></Contents></ListBucketResult>";
    let (store, _) = endpoint(vec![found(empty), found(page)]).await;
    assert_eq!(store.list("", None, 10).await.expect("listed").len(), 1);
    let (store, _) = endpoint(vec![found(empty), found(empty), found(empty)]).await;
    assert!(matches!(store.list("", None, 10).await, Err(StoreError::Unavailable { .. })));
}

#[tokio::test]
async fn an_endpoint_that_is_not_there_is_unavailable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    drop(listener);
    let store = S3Store::connect(&StoreConfig::at(&format!("http://{address}"), "b", "id", "secret")).expect("valid");
    assert!(matches!(store.get("k").await, Err(StoreError::Unavailable { .. })));
}
