//! Requests that schemathesis makes from the API's document, valid ones and others: none is answered with a 5xx, and
//! none in a way that the document does not tell. Where it is not installed the test says so and ends.

mod door_common;

use std::fs;
use std::process::Stdio;

use door_common::{Rig, text};
use tokio::process::Command;

/// The program, as `pip install schemathesis` calls it.
const PROGRAM: &str = "schemathesis";
/// The same requests every time.
const SEED: &str = "1";
/// A tail has no end: everything else of its route is asked for.
const CONFIGURATION: &str = r#"
[[operations]]
include-path = "/v1/log"
parameters = { "query.follow" = "false" }

[[operations]]
include-path = "/v1/stream"
parameters = { "query.follow" = "false" }
"#;
/// What other roles may.
const NOT_OF_AN_APPENDER: &str = "^/v1/(admin|replication)";
/// A take waits half as long at most for events that nobody appends.
const ANSWER_SECONDS: i64 = 10;
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
                      response_schema_conformance,response_headers_conformance";

/// Asks for every operation whose path fits, as the bearer of a token.
async fn ask(rig: &Rig, token: &str, paths: [&str; 2]) {
    let mut command = Command::new(PROGRAM);
    command.current_dir(rig.folder.path()).args(["--config-file", "schemathesis.toml", "run", "openapi.json"]);
    command.args(["--url", &rig.region.url, "--header", &format!("Authorization: Bearer {token}")]).args(paths);
    command.args(["--checks", CHECKS, "--phases", "examples,coverage,fuzzing", "--max-examples", "10"]);
    command.args(["--seed", SEED, "--workers", "1", "--request-timeout", "60", "--continue-on-failure", "--no-color"]);
    let output = command.kill_on_drop(true).output().await.expect("it runs");
    let (said, complained) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{said}\n{complained}");
    println!("{}", said.lines().find(|line| line.contains("generated,")).expect("a count of cases"));
}

#[tokio::test]
async fn whatever_is_asked_is_answered_as_the_document_says_and_never_with_a_5xx() {
    let Ok(version) = Command::new(PROGRAM).arg("--version").stderr(Stdio::null()).output().await else {
        println!("skipped: schemathesis is not installed; pip install schemathesis");
        return;
    };
    println!("{}", text(&version.stdout).trim());
    let mut rig = Rig::with(None, vec![("http.answer_seconds", ANSWER_SECONDS.into())]).await;
    rig.region.serve().await.expect("it serves");
    let document = rig.run(&["openapi"]).await;
    fs::write(rig.folder.path().join("openapi.json"), document.stdout).expect("written");
    fs::write(rig.folder.path().join("schemathesis.toml"), CONFIGURATION).expect("written");
    let tokens = &rig.region.tokens;
    ask(&rig, &tokens.appender, ["--exclude-path-regex", NOT_OF_AN_APPENDER]).await;
    ask(&rig, &tokens.replicator, ["--include-path-regex", "^/v1/replication"]).await;
    // Last, for these move the region.
    ask(&rig, &tokens.operator, ["--include-path-regex", "^/v1/admin"]).await;
    rig.end().await;
}
