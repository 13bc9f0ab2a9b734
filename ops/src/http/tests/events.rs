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
