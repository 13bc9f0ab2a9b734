//! What the door takes of a request: headers bounded in size, number and time, bodies in size, and no wait without end.

use tokio::io::AsyncReadExt;

use super::*;

/// What the door answers to these bytes, until it closes the connection.
async fn said(api: &Api, bytes: &[u8]) -> String {
    let mut connection = TcpStream::connect(api.url.trim_start_matches("http://")).await.expect("connected");
    connection.write_all(bytes).await.expect("sent");
    let mut answer = Vec::new();
    // A reset in place of an end says the same: the door has closed it.
    let _ = connection.read_to_end(&mut answer).await;
    String::from_utf8(answer).expect("UTF-8")
}

fn get_live(headers: &str) -> Vec<u8> {
    format!("GET /health/live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n").into_bytes()
}

#[tokio::test]
async fn a_header_that_is_too_large_is_431_in_bytes_and_in_number() {
    let api = Api::start().await;
    // With this one and the two that each request has.
    let large = |bytes: usize| get_live(&format!("x-large: {}\r\n", "x".repeat(bytes)));
    let many = |fields: usize| get_live(&"x-many: x\r\n".repeat(fields));
    assert!(said(&api, &large(31 << 10)).await.starts_with("HTTP/1.1 200 "), "32 KiB are always taken");
    assert!(said(&api, &many(62)).await.starts_with("HTTP/1.1 200 "), "64 fields");
    for bytes in [large(64 << 10), many(63)] {
        let answer = said(&api, &bytes).await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }
    // Its end is not waited for: who never ends it is told as well, and no more of it is held.
    let endless = format!("GET /health/live HTTP/1.1\r\nx-large: {}", "x".repeat(33 << 10));
    assert!(said(&api, endless.as_bytes()).await.starts_with("HTTP/1.1 431 "));
    let path = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "x".repeat(64 << 10));
    assert!(said(&api, path.as_bytes()).await.starts_with("HTTP/1.1 431 "), "the path is a part of it");
}

#[tokio::test]
async fn a_header_that_does_not_end_in_time_is_cut_off_without_an_answer() {
    let limits = HttpConfig { receive_seconds: 1, ..HttpConfig::default() };
    let api = Api::start_with(limits, Semaphore::MAX_PERMITS).await;
    // Both end though their client never closes them; a whole header beside them is answered.
    for begun in ["GET /health/live HTTP/1.1\r\nhost: x\r\n", "GET /health/live HTTP/1.1\r\nhost: x\r\nx-slow: "] {
        assert_eq!(said(&api, begun.as_bytes()).await, "");
    }
    assert!(said(&api, &get_live("")).await.ends_with("live\n"));
}

/// An append that says that it has more of its body than it sends, or sends it without saying how much there will be.
fn append_head(api: &Api, headers: &str) -> String {
    let token = &api.tokens[&TokenRole::Appender];
    format!(
        "POST /v1/append HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-type: {SINGLE}\r\n\
         connection: close\r\n{headers}\r\n\r\n"
    )
}

fn problem_in(answer: &str) -> Value {
    let body = answer.split_once("\r\n\r\n").expect("a header").1;
    // A body in chunks has their lengths around it.
    let (begin, end) = (body.find('{').expect("a document"), body.rfind('}').expect("a document"));
    serde_json::from_str(&body[begin..=end]).expect("JSON")
}

#[tokio::test]
async fn a_body_that_is_too_large_is_413_by_what_it_says_and_by_what_it_sends() {
    let api = Api::start().await;
    // Of what it announces nothing is waited for.
    let announced = append_head(&api, &format!("content-length: {}", (16 << 20) + 1));
    let answer = said(&api, announced.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert_eq!(problem_in(&answer)["kind"], "invalid");

    // The last piece is one byte more than is allowed, and the end never comes.
    let mut sent = append_head(&api, "transfer-encoding: chunked").into_bytes();
    for _ in 0..16 {
        sent.extend_from_slice(b"100000\r\n");
        sent.extend_from_slice(&[b' '; 1 << 20]);
        sent.extend_from_slice(b"\r\n");
    }
    sent.extend_from_slice(b"1\r\n \r\n");
    let answer = said(&api, &sent).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert_eq!(problem_in(&answer)["kind"], "invalid");
    assert_eq!(api.log.log_head().await.expect("a head").head.get(), 0, "nothing is stored");
}

#[tokio::test]
async fn a_body_that_does_not_come_in_time_is_408_and_nothing_is_stored() {
    let limits = HttpConfig { receive_seconds: 1, ..HttpConfig::default() };
    let api = Api::start_with(limits, Semaphore::MAX_PERMITS).await;
    let whole = event("1", "content-a").to_string();
    let head = append_head(&api, &format!("content-length: {}", whole.len()));
    let answer = said(&api, format!("{head}{}", &whole[..whole.len() - 1]).as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert_eq!(problem_in(&answer)["kind"], "unavailable");
    assert_eq!(api.log.log_head().await.expect("a head").head.get(), 0);
}

/// One event of some MiB.
fn large(id: &str) -> String {
    let data = "x".repeat(900 << 10);
    let events: Vec<Value> = (0..10)
        .map(|number| {
            let mut event = event(&format!("{id}-{number}"), "content-a");
            event["data"] = json!(data);
            event
        })
        .collect();
    Value::from(events).to_string()
}

#[tokio::test]
async fn a_body_that_finds_no_room_in_memory_is_told_to_come_again_and_then_is_taken() {
    let limits = HttpConfig { receive_seconds: 1, body_bytes_in_flight_max: 16 << 20, ..HttpConfig::default() };
    let api = Api::start_with(limits, 0).await;
    let mut accepted = tokio::spawn(api.post(BATCH, large("1")).send());
    // It is with the log, and holds its room until that has answered.
    tokio::select! {
        arrived = api.log.between.arrived.acquire() => arrived.expect("open").forget(),
        answer = &mut accepted => panic!("it never came to the log: {answer:?}"),
    }
    let refused = api.post(BATCH, large("2")).send().await.expect("an answer");
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.headers()["retry-after"], "1");
    assert_eq!(refused.headers()["content-type"], "application/problem+json");
    let problem: Value = refused.json().await.expect("a problem");
    assert_eq!((&problem["kind"], &problem["status"]), (&json!("unavailable"), &json!(503)));
    assert!(!accepted.is_finished(), "the one before it is still held");

    api.log.between.permits.add_permits(2);
    assert_eq!(accepted.await.expect("no panic").expect("an answer").status(), StatusCode::CREATED);
    assert_eq!(answered(api.post(BATCH, large("2"))).await.0, StatusCode::CREATED, "there is room again");
}

#[tokio::test]
async fn readers_that_follow_leave_a_quarter_of_the_connections_to_everybody_else() {
    let limits = HttpConfig { connections_max: 8, ..HttpConfig::default() };
    let api = Api::start_with(limits, Semaphore::MAX_PERMITS).await;
    api.appended(1..=1).await;
    let ways =
        ["/v1/log?follow=true", "/v1/log?follow=true&category=content", "/v1/stream?stream=content-a&follow=true"];
    let mut tails = Vec::new();
    for path in ways.into_iter().cycle().take(6) {
        let tail = api.get(path).await;
        assert_eq!(tail.status(), StatusCode::OK, "{path}");
        tails.push(tail);
    }
    for path in ways {
        let refused = api.get(path).await;
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE, "{path}");
        assert_eq!(refused.headers()["retry-after"], "5");
        let problem: Value = refused.json().await.expect("a problem");
        assert_eq!(problem["kind"], "unavailable");
    }
    api.appended(2..=2).await;
    assert!(said(&api, &get_live("")).await.ends_with("live\n"));
    let metrics = api.lines("/metrics").await;
    let told = |name: &str| {
        let told = metrics.iter().find_map(|line| line.strip_prefix(&format!("{name} "))?.parse::<u64>().ok());
        told.unwrap_or_else(|| panic!("{name} is not told"))
    };
    assert_eq!((told("coldstream_http_connections_limit"), told("coldstream_http_tails")), (8, 6));
    assert!((7..=8).contains(&told("coldstream_http_connections")), "the tails, and who asks");
    tails.pop();
    // As soon as the server sees that it is gone.
    while api.get(ways[0]).await.status() != StatusCode::OK {}
}
