//! Consumer groups through real connections: what is handed out, answered and refused.

use domain::append::Role;
use domain::log::FollowerLog as _;

use super::*;

impl Api {
    async fn act(&self, role: TokenRole, verb: &str, body: &Value) -> (StatusCode, Value) {
        let request = self.client.post(format!("{}/v1/group/{verb}", self.url)).bearer_auth(&self.tokens[&role]);
        answered(request.json(body)).await
    }

    /// What an act answers that is done.
    async fn done(&self, verb: &str, body: Value) -> Value {
        let (status, said) = self.act(TokenRole::Appender, verb, &body).await;
        assert!(status.is_success(), "{verb}: {said}");
        said
    }

    async fn json(&self, path: &str) -> Value {
        serde_json::from_str(&self.get(path).await.text().await.expect("whole")).expect("JSON")
    }
}

#[tokio::test]
async fn events_are_taken_settled_parked_and_replayed() {
    let api = Api::start().await;
    api.appended(1..=3).await;
    api.done("create", json!({"group": "g", "from": "1", "category": ["content"], "attempts_max": 1})).await;
    let taken = api.done("take", json!({"group": "g", "consumer": "one"})).await;
    assert_eq!((&taken["lease"], &taken["deadline"]), (&json!("1"), &json!("2026-05-01T08:00:30.000000Z")));
    let whole = api.lines("/v1/log").await;
    let deliveries = taken["deliveries"].as_array().expect("events");
    assert_eq!(deliveries.len(), 3);
    for (delivery, line) in deliveries.iter().zip(&whole) {
        assert_eq!(delivery["record"], serde_json::from_str::<Value>(line).expect("JSON"));
        assert_eq!((&delivery["attempt"], &delivery["replayed"]), (&json!(1), &json!(false)));
    }
    let nothing = api.done("take", json!({"group": "g", "consumer": "two"})).await;
    assert_eq!(nothing, json!({"deliveries": []}));
    let extended = api.done("extend", json!({"group": "g", "lease": "1"})).await;
    assert_eq!(extended["events"], "3");
    let settled = api
        .done(
            "settle",
            json!({"group": "g", "lease": "1", "events": [
        {"position": "3", "outcome": "release"}, {"position": "1", "outcome": "done"},
        {"position": "2", "outcome": "retry", "reason": "no\nroom"}, {"position": "9", "outcome": "done"}]}),
        )
        .await;
    let words: Vec<&Value> = settled["events"].as_array().expect("events").iter().map(|of| &of["settled"]).collect();
    assert_eq!(words, ["released", "done", "parked", "lapsed"]);
    let parked = api.json("/v1/group/parked?group=g").await;
    let (position, reason) = (&parked["parked"][0]["position"], &parked["parked"][0]["reason"]);
    assert_eq!((position, reason), (&json!("2"), &json!("no room")));
    let status = api.json("/v1/group/status?group=g").await;
    let said = ["checkpoint", "lag", "unsettled", "parked"].map(|member| status[member].as_str().expect("a number"));
    assert_eq!(said, ["2", "1", "1", "1"]);
    assert_eq!(api.json("/v1/groups").await["groups"], json!([status]));
    assert_eq!(api.done("replay", json!({"group": "g", "all": true})).await, json!({"events": "1"}));
    let again = api.done("take", json!({"group": "g", "consumer": "one", "max": 1})).await;
    assert_eq!((&again["lease"], &again["deliveries"][0]["replayed"]), (&json!("2"), &json!(true)));
    api.done("settle", json!({"group": "g", "lease": "2", "events": [{"position": "2", "outcome": "park"}]})).await;
    assert_eq!(api.done("discard", json!({"group": "g", "positions": ["2", "3"]})).await, json!({"events": "1"}));
    assert_eq!(api.done("remove", json!({"group": "g"})).await, json!({"removed": true}));
    assert_eq!(api.done("remove", json!({"group": "g"})).await, json!({"removed": false}));
}

#[tokio::test]
async fn a_take_that_waits_is_told_of_what_is_appended() {
    let api = Api::start().await;
    api.done("create", json!({"group": "g"})).await;
    let wait = json!({"group": "g", "consumer": "one", "wait_seconds": 20});
    let (waited, ()) = tokio::join!(api.done("take", wait), api.appended(1..=1));
    assert_eq!(waited["deliveries"][0]["position"], "1");
}

#[tokio::test]
async fn a_group_that_is_none_and_a_request_that_is_none_are_told_apart() {
    let api = Api::start().await;
    let worker = TokenRole::Appender;
    let (status, problem) = api.act(worker, "take", &json!({"group": "g", "consumer": "x"})).await;
    assert_eq!((status, &problem["kind"]), (StatusCode::NOT_FOUND, &json!("not_found")));
    api.done("create", json!({"group": "g"})).await;
    let (status, problem) = api.act(worker, "create", &json!({"group": "g", "lease_seconds": 31})).await;
    assert_eq!((status, &problem["kind"]), (StatusCode::CONFLICT, &json!("conflict")), "{problem}");
    for (verb, body) in [
        ("create", json!({"group": "G"})),
        ("create", json!({"group": "h", "from": "2"})),
        ("create", json!({"group": "h", "from": "0"})),
        ("create", json!({"group": "h", "attempts_max": 0})),
        ("create", json!({"group": "h", "category": ["No"]})),
        ("take", json!({"group": "g", "consumer": ""})),
        ("take", json!({"group": "g", "consumer": "x", "max": 0})),
        ("take", json!({"group": "g", "consumer": "x", "max": 1001})),
        ("take", json!({"group": "g", "consumer": "x", "wait_seconds": 61})),
        ("settle", json!({"group": "g", "lease": "x", "events": []})),
        ("settle", json!({"group": "g", "lease": "1", "events": [{"position": "+1", "outcome": "done"}]})),
        (
            "settle",
            json!({"group": "g", "lease": "1", "events": [
            {"position": "1", "outcome": "done", "after_seconds": 1}]}),
        ),
        (
            "settle",
            json!({"group": "g", "lease": "1", "events": [
            {"position": "1", "outcome": "done"}, {"position": "1", "outcome": "park"}]}),
        ),
        ("replay", json!({"group": "g"})),
        ("replay", json!({"group": "g", "positions": ["1"], "all": true})),
    ] {
        let (status, problem) = api.act(worker, verb, &body).await;
        assert_eq!(
            (status, &problem["kind"]),
            (StatusCode::BAD_REQUEST, &json!("invalid")),
            "{verb} {body}: {problem}"
        );
    }
    let (status, _) = api.act(worker, "take", &json!({"group": "g", "consumer": "x", "more": 1})).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    for (role, verb, body) in [
        (TokenRole::Operator, "take", json!({"group": "g", "consumer": "x"})),
        (TokenRole::Auditor, "replay", json!({"group": "g", "all": true})),
        (TokenRole::Replicator, "remove", json!({"group": "g"})),
    ] {
        assert_eq!(api.act(role, verb, &body).await.0, StatusCode::FORBIDDEN, "{role} {verb}");
    }
}

#[tokio::test]
async fn a_region_that_is_not_active_hands_nothing_out() {
    let api = Api::start().await;
    api.done("create", json!({"group": "g"})).await;
    let log = &api.log.log;
    log.change_role((Epoch::FIRST, Role::Active), (Epoch::FIRST, Role::Follower)).await.expect("changed");
    let take = |group: &str| json!({"group": group, "consumer": "x"});
    for (verb, body) in [("take", take("g")), ("take", take("none")), ("create", json!({"group": "h"}))] {
        let (status, problem) = api.act(TokenRole::Reader, verb, &body).await;
        let said = (status, &problem["kind"], &problem["epoch"]);
        assert_eq!(said, (StatusCode::SERVICE_UNAVAILABLE, &json!("fenced"), &json!("1")), "{problem}");
    }
    let settled = api.done("settle", json!({"group": "g", "lease": "1", "events": []})).await;
    assert_eq!(settled, json!({"events": []}), "what is under way may end");
}
