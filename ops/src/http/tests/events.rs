//! Server-sent events through real connections: each record once, also for who comes back.

use super::*;

impl Api {
    async fn events(&self, path: &str, last: Option<&str>) -> Response {
        let request = self.client.get(format!("{}{path}", self.url)).header("accept", "text/event-stream");
        let request = last.into_iter().fold(request, |request, last| request.header("last-event-id", last));
        request.bearer_auth(&self.tokens[&TokenRole::Reader]).send().await.expect("an answer")
    }
}

/// Takes `count` events: id and data.
async fn taken(answer: Response, count: usize) -> Vec<(String, String)> {
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    let (mut body, mut text) = (answer.bytes_stream(), String::new());
    loop {
        let whole = text.split_inclusive("\n\n").filter(|event| event.ends_with("\n\n") && !event.starts_with(':'));
        let events: Vec<(String, String)> = whole
            .map(|event| {
                let (id, data) = event.trim_end().split_once('\n').expect("two lines");
                let value = |line: &str, name: &str| line.strip_prefix(name).expect("its name").to_owned();
                (value(id, "id: "), value(data, "data: "))
            })
            .collect();
        if events.len() >= count {
            return events;
        }
        text.push_str(std::str::from_utf8(&body.next().await.expect("it goes on").expect("whole")).expect("UTF-8"));
    }
}

#[tokio::test]
async fn an_event_is_a_record_under_its_resume_token_and_who_comes_back_misses_nothing() {
    let api = Api::start().await;
    api.appended(1..=3).await;
    let lines = api.lines("/v1/log").await;
    let first = taken(api.events("/v1/log?follow=true&from=2", None).await, 2).await;
    let expected = |positions: std::ops::RangeInclusive<usize>, lines: &[String]| {
        positions.map(|position| (format!("{position}@1"), lines[position - 1].clone())).collect::<Vec<_>>()
    };
    assert_eq!(first, expected(2..=3, &lines));
    api.appended(4..=6).await;
    let lines = api.lines("/v1/log").await;
    let again = taken(api.events("/v1/log?follow=true&from=2", Some("3@1")).await, 3).await;
    assert_eq!(again, expected(4..=6, &lines), "at the URL that it began with");
}

#[tokio::test]
async fn who_comes_back_from_a_branch_that_lost_is_told_where_it_forked() {
    let api = Api::start().await;
    api.appended(1..=2).await;
    let (one, two) = (Epoch::FIRST, Epoch::FIRST.next());
    api.log.log.change_role((one, Role::Active), (two, Role::Active)).await.expect("promoted");
    api.appended(3..=4).await;
    let answer = api.events("/v1/log?follow=true", Some("3@1")).await;
    assert_eq!(answer.status(), StatusCode::CONFLICT);
    let problem: Value = answer.json().await.expect("a problem");
    assert_eq!((&problem["kind"], &problem["fork"]), (&json!("forked"), &json!("2")));
    assert_eq!(api.events("/v1/log?follow=true", Some("yesterday")).await.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_stream_is_followed_from_a_version_on_and_who_comes_back_says_the_last_that_it_has() {
    let api = Api::start().await;
    // It has not begun: its reader waits for its first event, and other streams do not come.
    let waiting = api.events("/v1/stream?stream=content-a&follow=true", None).await;
    let (status, _) = api.append(SINGLE, &event("other", "content-b")).await;
    assert_eq!(status, StatusCode::CREATED);
    api.appended(1..=3).await;
    let lines = api.lines("/v1/stream?stream=content-a").await;
    let expected = |versions: std::ops::RangeInclusive<usize>, lines: &[String]| {
        versions.map(|version| (version.to_string(), lines[version - 1].clone())).collect::<Vec<_>>()
    };
    assert_eq!(taken(waiting, 3).await, expected(1..=3, &lines));
    api.appended(4..=5).await;
    let lines = api.lines("/v1/stream?stream=content-a").await;
    let again = api.events("/v1/stream?stream=content-a&follow=true&from=2", Some("3")).await;
    assert_eq!(taken(again, 2).await, expected(4..=5, &lines), "at the URL that it began with");
    let late = api.events("/v1/stream?stream=content-a&follow=true&from=5", None).await;
    assert_eq!(taken(late, 1).await, expected(5..=5, &lines));

    let lines_of = api.get("/v1/stream?stream=content-a&follow=true&from=6").await;
    assert_eq!(lines_of.headers()["content-type"], "application/x-ndjson");
    let mut body = lines_of.bytes_stream();
    let mut next = async || loop {
        let bytes = body.next().await.expect("it goes on").expect("whole");
        if !bytes.is_empty() {
            return String::from_utf8(bytes.to_vec()).expect("UTF-8");
        }
    };
    assert_eq!(next().await, "\n", "a sign of life where nothing comes");
    api.appended(6..=6).await;
    let line = loop {
        let line = next().await;
        if line != "\n" {
            break line;
        }
    };
    let record: Value = serde_json::from_str(&line).expect("a record");
    assert_eq!((&record["id"], &record["version"]), (&json!("6"), &json!("6")));
    for wrong in ["&limit=3", "&direction=backward", "&from=0"] {
        let refused = api.events(&format!("/v1/stream?stream=content-a&follow=true{wrong}"), None).await;
        assert_eq!(refused.status(), StatusCode::BAD_REQUEST, "{wrong}");
    }
    let refused = api.events("/v1/stream?stream=content-a&follow=true", Some("3@1")).await;
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_quiet_tail_gives_signs_of_life_in_its_own_form_and_goes_on() {
    let api = Api::start().await;
    api.appended(1..=2).await;
    let tails = [
        ("/v1/log?follow=true&after=2", "id: 3@1\ndata: "),
        ("/v1/log?follow=true&after=2&category=content", "id: 3@1\ndata: "),
        ("/v1/stream?stream=content-a&follow=true&from=3", "id: 3\ndata: "),
    ];
    let mut quiet = Vec::new();
    for (path, id) in tails {
        // A comment (WHATWG HTML §9.2.5), which a browser's reader gives to nobody; a line without anything is none of JSON.
        quiet.push((path, api.events(path, None).await.bytes_stream(), ":\n\n", id));
        quiet.push((path, api.get(path).await.bytes_stream(), "\n", ""));
    }
    for (path, body, sign, _) in &mut quiet {
        for _ in 0..2 {
            assert_eq!(said(body).await, *sign, "{path}");
        }
    }
    api.appended(3..=3).await;
    let line = api.lines("/v1/log?from=3").await.remove(0);
    for (path, mut body, sign, id) in quiet {
        let news = format!("{id}{line}{}", if id.is_empty() { "\n" } else { "\n\n" });
        let mut text = String::new();
        while text.trim_start_matches(sign).len() < news.len() {
            text.push_str(&said(&mut body).await);
        }
        assert_eq!(text.trim_start_matches(sign), news, "{path}");
    }
}

/// What comes next.
async fn said(body: &mut (impl futures::Stream<Item = reqwest::Result<bytes::Bytes>> + Unpin)) -> String {
    loop {
        let piece = body.next().await.expect("it goes on").expect("whole");
        if !piece.is_empty() {
            return String::from_utf8(piece.to_vec()).expect("UTF-8");
        }
    }
}

#[tokio::test]
async fn open_tails_are_counted_with_how_far_they_are_behind() {
    let api = Api::start().await;
    api.appended(1..=3).await;
    let said = async |name: &str| {
        let metrics = api.lines("/metrics").await;
        metrics.iter().find_map(|line| line.strip_prefix(&format!("{name} "))?.parse::<u64>().ok())
    };
    assert_eq!(said("coldstream_http_tails").await, Some(0));
    let tail = api.events("/v1/log?follow=true", None).await;
    let of_stream = api.events("/v1/stream?stream=content-a&follow=true", None).await;
    while said("coldstream_http_tails").await != Some(2) {}
    while said("coldstream_http_tails_lag_events").await != Some(0) {}
    drop((tail, of_stream));
    while said("coldstream_http_tails").await != Some(0) {}
}

#[tokio::test]
async fn what_another_region_has_confirmed_is_asked_for_only_where_there_is_one() {
    let api = Api::start().await;
    assert_eq!(api.get("/v1/log?confirmed=true").await.status(), StatusCode::BAD_REQUEST);
    assert_eq!(api.get("/v1/log?confirmed=false").await.status(), StatusCode::OK);
}
