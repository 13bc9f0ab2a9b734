//! zstd through real connections: what arrives is what was sent.

use super::*;

fn packed(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).expect("compressed")
}

#[tokio::test]
async fn lines_are_compressed_for_who_accepts_it() {
    let api = Api::start().await;
    let batch: Vec<Value> = (1..=1500).map(|id| event(&id.to_string(), "content-a")).collect();
    assert_eq!(api.append(BATCH, &Value::from(batch)).await.0, StatusCode::CREATED);
    let plain = api.get("/v1/log").await;
    assert_eq!(
        (plain.headers().get("content-encoding"), &plain.headers()["vary"]),
        (None, &"accept-encoding".parse().expect("a value"))
    );
    let plain = plain.bytes().await.expect("whole");
    for (accepted, compressed) in [("zstd", true), ("gzip, ZSTD;q=0.5", true), ("zstd;q=0", false), ("gzip", false)] {
        let request = api.client.get(format!("{}/v1/log", api.url)).bearer_auth(&api.tokens[&TokenRole::Reader]);
        let answer = request.header("accept-encoding", accepted).send().await.expect("an answer");
        assert_eq!(answer.headers().contains_key("content-encoding"), compressed, "{accepted}");
        assert_eq!(answer.headers()["coldstream-resume"], "1500@1");
        let bytes = answer.bytes().await.expect("whole");
        let lines = if compressed { zstd::decode_all(&*bytes).expect("zstd") } else { bytes.to_vec() };
        assert_eq!(lines, plain, "{accepted}");
        assert!(!compressed || bytes.len() * 4 < plain.len(), "{} of {}", bytes.len(), plain.len());
    }
}

#[tokio::test]
async fn json_is_compressed_too_unless_it_is_short() {
    let api = Api::start().await;
    let get = async |path: &str, accepted: &str| {
        let request = api.client.get(format!("{}{path}", api.url)).bearer_auth(&api.tokens[&TokenRole::Reader]);
        request.header("accept-encoding", accepted).send().await.expect("an answer")
    };
    let plain = get("/v1/openapi.json", "gzip").await;
    assert_eq!(plain.headers()["content-type"], "application/json");
    let packed = get("/v1/openapi.json", "zstd").await;
    assert_eq!(packed.headers()["content-encoding"], "zstd");
    let (plain, packed) = (plain.bytes().await.expect("whole"), packed.bytes().await.expect("whole"));
    assert_eq!(zstd::decode_all(&*packed).expect("zstd"), plain);
    assert!(get("/v1/groups", "zstd").await.headers().get("content-encoding").is_none(), "not worth it");
}

#[tokio::test]
async fn a_record_leaves_a_compressed_tail_before_the_next_one_comes() {
    let api = Api::start().await;
    let request = api.client.get(format!("{}/v1/log?follow=true", api.url)).header("accept-encoding", "zstd");
    let answer = request.bearer_auth(&api.tokens[&TokenRole::Reader]).send().await.expect("an answer");
    assert_eq!(answer.headers()["content-encoding"], "zstd");
    let mut body = answer.bytes_stream();
    let mut unpacked = zstd::stream::write::Decoder::new(Vec::new()).expect("a decoder");
    for position in 1..=20 {
        api.appended(position..=position).await;
        // Nothing more is appended before this one has come out.
        while !unpacked.get_ref().ends_with(b"}\n") {
            let piece = body.next().await.expect("it goes on").expect("whole");
            std::io::Write::write_all(&mut unpacked, &piece).expect("zstd");
            std::io::Write::flush(&mut unpacked).expect("in memory");
        }
        let lines = String::from_utf8(std::mem::take(unpacked.get_mut())).expect("UTF-8");
        let seen: Vec<u64> = lines.lines().filter(|line| !line.is_empty()).map(position_of).collect();
        assert_eq!(seen, [u64::from(position)]);
    }
}

#[tokio::test]
async fn a_compressed_body_is_taken_and_a_bomb_is_not() {
    let api = Api::start().await;
    let send = |encoding: &str, body: Vec<u8>| answered(api.post(SINGLE, body).header("content-encoding", encoding));
    let whole = packed(event("1", "content-a").to_string().as_bytes());
    assert_eq!(send("zstd", whole.clone()).await.0, StatusCode::CREATED);
    assert_eq!(send("ZSTD", whole.clone()).await.0, StatusCode::OK, "the same event");
    let bomb = packed(&vec![b' '; 1 << 30]);
    let wide = {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).expect("an encoder");
        encoder.window_log(27).expect("a window");
        std::io::Write::write_all(&mut encoder, event("2", "content-a").to_string().as_bytes()).expect("in memory");
        encoder.finish().expect("compressed")
    };
    let cases = [
        ("zstd", bomb, StatusCode::PAYLOAD_TOO_LARGE),
        ("zstd", wide, StatusCode::BAD_REQUEST),
        ("zstd", whole[..whole.len() - 1].to_vec(), StatusCode::BAD_REQUEST),
        ("zstd", b"{}".to_vec(), StatusCode::BAD_REQUEST),
        ("gzip", whole, StatusCode::UNSUPPORTED_MEDIA_TYPE),
    ];
    for (encoding, body, expected) in cases {
        let (status, problem) = send(encoding, body).await;
        assert_eq!((status, &problem["kind"]), (expected, &json!("invalid")), "{problem}");
    }
    assert_eq!(api.lines("/v1/log").await.len(), 1, "nothing of those was stored");
}
