//! The demo as a person runs it: the real binary, every check of it, and the outsider. ARC-1 to ARC-4, REP-1 and REP-3
//! on whole histories: at every oracle point, from live log and archive, and from the other region when home is dead.

use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_path_buf()
}

/// Runs the demo and asserts that it ends well and leaves nothing running.
fn run(history: Option<PathBuf>) {
    let kept = tempfile::tempdir().expect("a folder");
    let mut command = Command::new(system_tests::binary());
    command.arg("demo").arg("--outsider").arg(root().join("tests/outsider.py")).arg("--keep").arg(kept.path());
    if let Some(history) = history {
        command.arg("--history").arg(history);
    }
    let output = command.output().expect("the demo runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the demo failed:\n{said}");
    assert!(said.contains("every check held"), "{said}");
    println!("{}", String::from_utf8_lossy(&output.stdout));
    for left in
        ["home/manifest", "dr/manifest", "dr/checkpoint", "dr/confirm", "journals", "result.json", "public-keys.txt"]
    {
        assert!(kept.path().join(left).exists(), "{left} is kept");
    }
}

#[test]
fn a_generated_history_goes_all_the_way_through() {
    run(None);
}

#[test]
fn the_history_small_goes_all_the_way_through() {
    match system_tests::history("small.ndjson.zst") {
        Some(history) => run(Some(history)),
        None => println!("skipped: CONTENT_HISTORIES names no folder with small.ndjson.zst"),
    }
}

#[test]
fn the_history_restic_goes_all_the_way_through() {
    match system_tests::history("restic.ndjson.zst") {
        Some(history) => run(Some(history)),
        None => println!("skipped: CONTENT_HISTORIES names no folder with restic.ndjson.zst"),
    }
}
