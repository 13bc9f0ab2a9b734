//! A process that is about to end says so to who balances, and serves everybody on; one that ends answers what it accepted.

use reqwest::StatusCode;
use reqwest::header::CONNECTION;

use super::{Api, HttpConfig, SINGLE, event};

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

#[tokio::test]
async fn a_shutdown_answers_what_was_accepted_and_refuses_what_was_not() {
    let api = Api::start_with(HttpConfig::default(), 0).await;
    let accepted = tokio::spawn(api.post(SINGLE, event("1", "content-a").to_string()).send());
    api.log.between.arrived.acquire().await.expect("open").forget();
    api.shutdown.cancel();
    // A connection of its own each time: kept ones are closed by the shutdown anyway.
    let live = || reqwest::get(format!("{}/health/live", api.url));
    while !live().await.is_err_and(|error| error.is_connect()) {}
    assert!(!accepted.is_finished() && !api.server.is_finished(), "it is waited for");
    api.log.between.permits.add_permits(1);
    assert_eq!(accepted.await.expect("no panic").expect("an answer").status(), StatusCode::CREATED);
    api.server.await.expect("no panic").expect("in good order");
}
