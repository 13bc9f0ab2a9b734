//! Imports by the real binary into a real log, with real kills.

mod door_common;

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use door_common::{Rig, text};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use system_tests::two_regions::{TwoRegions, head_beyond, lines};

/// A history of `lines` lines over some years, in changes of 1 to 12 lines, with times that now and then go back.
fn history(seed: u64, lines: u32) -> String {
    let mut random = StdRng::seed_from_u64(seed);
    let (mut text, mut left, mut change) = (String::new(), 0, 0);
    for line in 0..lines {
        if left == 0 {
            left = random.random_range(1..=12);
            change += 1;
        }
        left -= 1;
        let month = change / 4 % 12 + 1;
        let (year, day) = (2015 + change / 48, random.random_range(1..=28));
        let item = random.random_range(0..200);
        writeln!(
            text,
            r#"{{"specversion":"1.0","id":"h:{line}","source":"/h","type":"content.revised","subject":"f/{item}","time":"{year}-{month:02}-{day:02}T10:00:00+02:00","data":{{"author":"x","change":"{change}","oid":"{line}","mode":"100644","size":{line}}}}}"#
        )
        .expect("written");
    }
    text
}

fn write(rig: &Rig, name: &str, history: &str) -> PathBuf {
    let file = rig.folder.path().join(name);
    fs::write(&file, zstd::encode_all(history.as_bytes(), 3).expect("compressed")).expect("written");
    file
}

/// The records of the log, as JSON.
async fn records(rig: &Rig) -> Vec<Value> {
    let request = reqwest::Client::new().get(format!("{}/v1/log", rig.region.url));
    let answer = request.bearer_auth(&rig.region.tokens.reader).send().await.expect("an answer");
    let body = answer.text().await.expect("the whole log");
    body.lines().map(|line| serde_json::from_str(line).expect("a record")).collect()
}

#[tokio::test]
async fn a_killed_import_goes_on_and_every_line_is_stored_once_in_its_order() {
    let seed: u64 = system_tests::chance::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let rig = Rig::serving().await;
    let history = history(seed, 6_000);
    let file = write(&rig, "history.ndjson.zst", &history);
    let arguments = ["import", file.to_str().expect("UTF-8"), "--recorded-at", "source"];
    let mut kills = 0;
    let status = loop {
        let mut command = rig.command("", &arguments);
        let mut import = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("started");
        // The first ten runs are killed, each at another moment, unless they are done before.
        let patience = if kills < 10 { Duration::from_millis(random.random_range(20..400)) } else { Duration::MAX };
        match tokio::time::timeout(patience, import.wait()).await {
            Ok(status) => break status.expect("waited for"),
            Err(_) => import.kill().await.expect("killed"),
        }
        kills += 1;
    };
    assert!(status.success(), "a run that is not killed does not fail");
    assert!(kills > 0, "at least one run was killed");

    let records = records(&rig).await;
    assert_eq!(records[0]["type"], "coldstream.import.started");
    let lines: Vec<Value> = history.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(records.len(), 1 + lines.len());
    let mut recorded = "";
    for (record, line) in records[1..].iter().zip(&lines) {
        assert_eq!((&record["id"], &record["time"], &record["data"]), (&line["id"], &line["time"], &line["data"]));
        assert_eq!(record["subject"].as_str(), line["subject"].as_str().map(|id| format!("content-{id}")).as_deref());
        let at = record["recordedat"].as_str().expect("an instant");
        assert!(recorded <= at, "recordedat goes back to {at}");
        recorded = at;
    }
    rig.end().await;
}

#[tokio::test]
async fn a_bad_line_ends_the_import_with_its_number_before_anything_is_stored() {
    let rig = Rig::serving().await;
    let history = history(7, 50).replace(r#""id":"h:33","#, "");
    let file = write(&rig, "bad.ndjson.zst", &history);
    let import = rig.run(&["import", file.to_str().expect("UTF-8")]).await;
    assert_eq!(import.status.code(), Some(1));
    let said = text(&import.stderr);
    assert!(said.contains("line 34: \"id\" is missing"), "{said}");
    assert_eq!(records(&rig).await, Vec::<Value>::new());
    rig.end().await;
}

#[tokio::test]
async fn a_second_run_of_an_import_changes_nothing() {
    let rig = Rig::serving().await;
    let file = write(&rig, "history.ndjson.zst", &history(3, 300));
    let arguments = ["--json", "import", file.to_str().expect("UTF-8")];
    let report = |output: std::process::Output| -> Value { serde_json::from_slice(&output.stdout).expect("JSON") };
    let first = report(rig.run(&arguments).await);
    assert_eq!((&first["events"], &first["lines_before"]), (&300.into(), &0.into()));
    let second = report(rig.run(&arguments).await);
    assert_eq!((&second["events"], &second["lines_before"]), (&0.into(), &300.into()));
    let source = rig.run(&["import", file.to_str().expect("UTF-8"), "--recorded-at", "source"]).await;
    assert_eq!(source.status.code(), Some(1), "what is recorded is not the source's times");
    assert!(text(&source.stderr).contains("begun with recordedat from the clock"), "{}", text(&source.stderr));
    let other = write(&rig, "other.ndjson.zst", &history(4, 10));
    let refused = rig.run(&["import", other.to_str().expect("UTF-8"), "--recorded-at", "source"]).await;
    assert_eq!(refused.status.code(), Some(1), "the log has content");
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_that_a_failover_cut_is_finished_in_the_other_region() {
    let seed: u64 = system_tests::chance::random();
    println!("seed {seed}");
    let mut regions = TwoRegions::start().await;
    let (folder, history) = (tempfile::tempdir().expect("a folder"), history(seed, 20_000));
    let file = folder.path().join("history.ndjson");
    fs::write(&file, &history).expect("written");
    let arguments = ["import", file.to_str().expect("UTF-8"), "--recorded-at", "source"];
    let import = regions.begin(&regions.home, &arguments);
    head_beyond(&regions.dr, 1_000).await;
    regions.home.kill().await.expect("killed");
    drop(import);
    let words = ["failover", "promote", "--force", "--accept-unknown-loss", "--yes"];
    let promoted = regions.command(&regions.dr, &words).await;
    assert_eq!(promoted.code, Some(0), "{promoted:?}");
    // Nobody is left who could know of a newer epoch but the operator.
    let refused = regions.command(&regions.dr, &arguments).await;
    assert!(refused.code == Some(1) && refused.talk.contains("a newer epoch may exist"), "{refused:?}");
    let arguments = [&arguments[..], &["--epoch-confirmed"]].concat();
    let report = regions.command(&regions.dr, &arguments).await;
    assert_eq!(report.code, Some(0), "{report:?}");
    println!("{} of 20000 lines came by the home region", report.data["lines_before"]);

    let id = |line: &[u8]| serde_json::from_slice::<Value>(line).expect("JSON")["id"].clone();
    let found: Vec<Value> = lines(&regions.dr).await[1..].iter().map(|line| id(line)).collect();
    let expected: Vec<Value> = history.lines().map(|line| id(line.as_bytes())).collect();
    assert!(found == expected, "each line once and in its order: {} lines", found.len());
    let again = regions.command(&regions.dr, &arguments).await;
    assert_eq!((&again.data["lines_before"], &again.data["appends"]), (&20_000.into(), &0.into()), "{again:?}");
    regions.dr.end().await.expect("it ends");
}
