//! Filtered reads through real connections: pages, tails, and tokens that go on over what does not match.

use super::*;

impl Api {
    /// Events 1 to `count`; each third is a note, the others are content.
    async fn mixed(&self, count: u32) {
        for id in 1..=count {
            let stream = if id.is_multiple_of(3) { "note-a" } else { "content-a" };
            let (status, answer) = self.append(SINGLE, &event(&id.to_string(), stream)).await;
            assert_eq!(status, StatusCode::CREATED, "{answer}");
        }
    }

    async fn positions(&self, path: &str) -> Vec<u64> {
        self.lines(path).await.iter().map(|line| position_of(line)).collect()
    }
}

/// Reads lines until `until` says that it was the last one.
async fn lines_until(answer: Response, until: impl Fn(&str) -> bool) -> Vec<String> {
    let (mut body, mut text) = (answer.bytes_stream(), String::new());
    loop {
        let lines: Vec<String> =
            text.split_inclusive('\n').filter(|line| line.ends_with('\n')).map(Into::into).collect();
        if lines.iter().any(|line| until(line.trim_end())) {
            return lines.iter().map(|line| line.trim_end().to_owned()).filter(|line| !line.is_empty()).collect();
        }
        text.push_str(std::str::from_utf8(&body.next().await.expect("it goes on").expect("whole")).expect("UTF-8"));
    }
}

#[tokio::test]
async fn the_log_is_read_by_category_type_prefix_and_time_both_ways() {
    let api = Api::start().await;
    api.mixed(9).await;
    assert_eq!(api.positions("/v1/log?category=note").await, [3, 6, 9]);
    assert_eq!(api.positions("/v1/log?category=note&direction=backward&limit=2").await, [9, 6]);
    assert_eq!(api.positions("/v1/log?stream_prefix=co&from=4").await, [4, 5, 7, 8]);
    assert_eq!(api.positions("/v1/log?category=note&category=content&after=6").await, [7, 8, 9]);
    assert_eq!(api.positions("/v1/log?type=content.revised&category=note&limit=1").await, [3]);
    assert_eq!(api.positions("/v1/log?type=other").await, [0; 0]);
    // All of them are of one instant.
    let at = "2026-05-01T08:00:00Z";
    assert_eq!(api.positions(&format!("/v1/log?recorded_from={at}")).await.len(), 9);
    assert_eq!(api.positions(&format!("/v1/log?recorded_before={at}&category=note")).await, [0; 0]);
    let whole = api.lines("/v1/log").await;
    assert_eq!(api.lines("/v1/log?category=note&token=5@1").await, [whole[5].clone(), whole[8].clone()]);
    let follow = format!("follow=true&recorded_before={at}");
    for wrong in ["category=Note", "type=", "recorded_from=yesterday", "category=note&form=1", &follow] {
        assert_eq!(api.get(&format!("/v1/log?{wrong}")).await.status(), StatusCode::BAD_REQUEST, "{wrong}");
    }
}

#[tokio::test]
async fn an_answer_says_whether_there_is_more_to_look_at_and_its_token_goes_on_over_what_does_not_match() {
    let api = Api::start().await;
    api.mixed(8).await;
    let said = async |query: &str| {
        let answer = api.get(&format!("/v1/log?category=note&{query}")).await;
        let header = |name: &str| Some(answer.headers().get(name)?.to_str().expect("text").to_owned());
        let [next, resume, head] = ["coldstream-next", "coldstream-resume", "coldstream-head"].map(header);
        assert_eq!(head.as_deref(), Some("8"));
        (next, resume, answer.text().await.expect("a body").lines().count())
    };
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(said("limit=1").await, (text("4"), text("3@1"), 1));
    assert_eq!(said("token=3@1").await, (None, text("8@1"), 1), "all was looked at");
    assert_eq!(said("token=8@1").await, (None, text("8@1"), 0));
    assert_eq!(said("from=99").await, (None, None, 0));
}

#[tokio::test]
async fn a_filtered_tail_gives_what_matches_once_and_moves_its_reader_over_the_rest() {
    let api = Arc::new(Api::start().await);
    api.mixed(4).await;
    let answer = api.get("/v1/log?follow=true&category=note").await;
    let appending = {
        let api = api.clone();
        tokio::spawn(async move {
            for id in 5..=40 {
                let stream = if id == 20 { "note-b" } else { "content-b" };
                assert_eq!(api.append(SINGLE, &event(&id.to_string(), stream)).await.0, StatusCode::CREATED);
            }
        })
    };
    let lines = lines_until(answer, |line| line == r#"{"resume":"40@1"}"#).await;
    appending.await.expect("appended");
    let is_token = |line: &&String| line.starts_with(r#"{"resume":"#);
    let found: Vec<u64> = lines.iter().filter(|line| !is_token(line)).map(|line| position_of(line)).collect();
    assert_eq!(found, [3, 20]);
    let tokens = lines.iter().filter(is_token).map(|line| {
        let token: Value = serde_json::from_str(line).expect("JSON");
        token["resume"].as_str().and_then(|text| text.strip_suffix("@1")?.parse().ok()).expect("a token")
    });
    let tokens: Vec<u64> = tokens.collect();
    assert!(tokens.is_sorted_by(|one, next| one < next), "{tokens:?}");

    let events = api.client.get(format!("{}/v1/log?follow=true&category=note&after=19", api.url));
    let events = events.header("accept", "text/event-stream").bearer_auth(&api.tokens[&TokenRole::Reader]);
    let lines = lines_until(events.send().await.expect("an answer"), |line| line == "id: 40@1").await;
    assert_eq!((lines[0].as_str(), lines.last().map(String::as_str)), ("id: 20@1", Some("id: 40@1")));
    assert_eq!(lines.iter().filter(|line| line.starts_with("data: ")).count(), 1);
}
