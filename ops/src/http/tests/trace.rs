//! Trace context of a request, in the events that it appends.

use super::*;

const FIRST: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const RETRY: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-b7ad6b7169203331-01";

async fn append_in(api: &Api, parents: &[&str], body: &Value) -> (StatusCode, Value) {
    let mut request = api.post(SINGLE, body.to_string()).header("tracestate", "a=1").header("tracestate", "b=2");
    for parent in parents {
        request = request.header("traceparent", *parent);
    }
    answered(request).await
}

#[tokio::test]
async fn the_context_of_an_append_stands_in_the_record_and_a_retry_in_another_span_is_a_retry() {
    let api = Api::start().await;
    let (status, first) = append_in(&api, &[FIRST], &event("1", "content-a")).await;
    assert_eq!(status, StatusCode::CREATED, "{first}");
    for parents in [&[RETRY][..], &[]] {
        let (status, again) = append_in(&api, parents, &event("1", "content-a")).await;
        assert_eq!((status, &again["replayed"], &again["events"]), (StatusCode::OK, &json!(true), &first["events"]));
    }
    let lines = api.lines("/v1/stream?stream=content-a").await;
    assert_eq!(lines.len(), 1);
    let record: Value = serde_json::from_str(&lines[0]).expect("a record");
    assert_eq!((&record["traceparent"], &record["tracestate"]), (&json!(FIRST), &json!("a=1,b=2")), "the first one's");
}

#[tokio::test]
async fn what_is_no_context_is_ignored_and_an_event_keeps_its_own() {
    let api = Api::start().await;
    for (id, parents) in [("1", &["nonsense"][..]), ("2", &[FIRST, RETRY]), ("3", &[])] {
        let (status, answer) = append_in(&api, parents, &event(id, "content-a")).await;
        assert_eq!(status, StatusCode::CREATED, "{answer}");
    }
    let mut own = event("4", "content-a");
    own["traceparent"] = json!(RETRY);
    assert_eq!(append_in(&api, &[FIRST], &own).await.0, StatusCode::CREATED);
    let records: Vec<Value> =
        api.lines("/v1/stream?stream=content-a").await.iter().map(|line| line.parse().expect("JSON")).collect();
    let parents: Vec<&Value> = records.iter().map(|record| &record["traceparent"]).collect();
    assert_eq!(parents, [&Value::Null, &Value::Null, &Value::Null, &json!(RETRY)]);
    assert_eq!(records[3]["tracestate"], Value::Null, "a state belongs to its own parent");
}

#[tokio::test]
async fn an_answer_carries_the_clients_request_id_or_one_of_ours() {
    let api = Api::start().await;
    let live = || api.client.get(format!("{}/health/live", api.url));
    let own = live().header("x-request-id", "abc-1").send().await.expect("an answer");
    assert_eq!(own.headers()["x-request-id"], "abc-1");
    let ours = live().header("x-request-id", "a b").send().await.expect("an answer");
    assert_eq!(ours.headers()["x-request-id"].len(), 32);
}
