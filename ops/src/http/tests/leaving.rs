//! A process that is about to end: it says so to who balances, and serves everybody on.

use reqwest::StatusCode;
use reqwest::header::CONNECTION;

use super::{Api, SINGLE, event};

#[tokio::test]
async fn a_server_that_is_about_to_end_is_not_ready_and_serves_all_the_same() {
    let api = Api::start().await;
    let ready = async || api.client.get(format!("{}/health/ready", api.url)).send().await.expect("an answer");
    assert_eq!(ready().await.status(), StatusCode::OK);
    api.leaving.cancel();
    assert_eq!(ready().await.status(), StatusCode::SERVICE_UNAVAILABLE);
    let live = api.client.get(format!("{}/health/live", api.url)).send().await.expect("an answer");
    assert_eq!(live.status(), StatusCode::OK, "nobody has to kill it");
    let appended = api.post(SINGLE, event("1", "content-a").to_string()).send().await.expect("an answer");
    assert_eq!(appended.status(), StatusCode::CREATED);
    assert_eq!(appended.headers()[CONNECTION], "close", "the next request may go to another server");
    assert_eq!(api.get("/v1/log").await.status(), StatusCode::OK);
}
