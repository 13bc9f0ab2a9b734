//! Dashboard and alerts: made of metrics that there are, each alert with a way out, and held to their own tests by
//! Prometheus' tool. Where promtool is not installed, that part says so and ends.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use ops::http::metrics::Kind;
use ops::http::metrics::families::ALL;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").join("ops/observe")
}

fn read(file: &str) -> String {
    std::fs::read_to_string(folder().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// Every name that a metric of ours can be asked for by.
fn names() -> BTreeSet<String> {
    let parts = |kind| if kind == Kind::Histogram { &["_bucket", "_sum", "_count"][..] } else { &[""][..] };
    ALL.iter().flat_map(|family| parts(family.kind).iter().map(|part| [family.name, part].concat())).collect()
}

#[test]
fn dashboard_and_alerts_name_only_metrics_that_there_are() {
    let (known, families) = (names(), ALL.iter().map(|family| family.name).collect::<BTreeSet<_>>());
    for file in ["dashboard.json", "alerts.yml", "alerts_test.yml"] {
        let text = read(file);
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let named: BTreeSet<&str> =
            words.filter(|word| word.starts_with("coldstream_") || word.starts_with("process_")).collect();
        assert!(named.len() > 5, "{file} names metrics");
        for name in named {
            // What people are told to look at may be a whole histogram.
            assert!(known.contains(name) || families.contains(name), "{file} names {name}, which nobody writes");
        }
    }
    serde_json::from_str::<serde_json::Value>(&read("dashboard.json")).expect("JSON");
}

#[test]
fn every_alert_says_whom_it_wakes_which_promise_it_watches_and_what_to_do() {
    let text = read("alerts.yml");
    let alerts: Vec<&str> = text.split("- alert: ").skip(1).collect();
    let mut seen = BTreeSet::new();
    for alert in alerts {
        let name = alert.lines().next().expect("a name");
        assert!(name.starts_with("Coldstream") && seen.insert(name), "{name}");
        assert!(alert.contains("severity: page") || alert.contains("severity: ticket"), "{name}");
        let promise = alert.split("promise: ").nth(1).and_then(|rest| rest.split('}').next()).expect("a promise");
        assert!(ALL.iter().any(|family| family.help.contains(promise)), "{name} watches {promise}");
        for annotation in ["summary: \"{{ $labels.", "runbook: \""] {
            let said = alert.split(annotation).nth(1).and_then(|rest| rest.lines().next());
            assert!(said.is_some_and(|said| said.len() > 20), "{name}: {annotation}");
        }
    }
}

#[test]
fn every_promise_has_an_alert_or_is_named_among_those_that_can_have_none() {
    let text = read("alerts.yml");
    let (head, _) = text.split_once("groups:").expect("the alerts");
    let is_promise = |word: &&str| word.split_once('-').is_some_and(|(of, number)| of.len() == 3 && number.len() == 1);
    let words = |text: &'static str| text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').filter(is_promise);
    let promises: BTreeSet<&str> = ALL.iter().flat_map(|family| words(family.help)).collect();
    assert!(promises.len() > 15 && promises.contains("ARC-3"), "{promises:?}");
    for promise in promises {
        let watched = text.contains(&format!("promise: {promise}}}"));
        assert!(watched != head.contains(promise), "{promise} has an alert: {watched}");
    }
}

#[test]
fn promtool_takes_the_alerts_and_holds_them_to_their_tests() {
    for words in [["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]] {
        let output = match Command::new("promtool").args(words).current_dir(folder()).output() {
            Ok(output) => output,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                println!("skipped: promtool is not installed; Debian has it in the package prometheus");
                return;
            }
            Err(error) => panic!("promtool: {error}"),
        };
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&said));
    }
}
