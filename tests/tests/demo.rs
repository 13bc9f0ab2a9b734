//! The demo as a person runs it: the real binary, every check of it, and the outsider. ARC-1 to ARC-4, REP-1 and REP-3
//! on whole histories: at every oracle point, from live log and archive, and from the other region when home is dead.
//! Whether it comes to its end or is killed on the way, it leaves nothing running and no temporary folder.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;
use system_tests::two_regions::until;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_path_buf()
}

/// Where one demo has its temporary files, by which also all that it starts can be known.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("coldstream-test").tempdir().expect("a folder");
        // As a machine's own: PostgreSQL may run as somebody else.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o1777)).expect("opened to all");
        Self(folder)
    }

    /// A demo in a process group of its own.
    fn demo(&self) -> Command {
        let mut command = Command::new(system_tests::binary());
        command.arg("demo").arg("--outsider").arg(root().join("tests/outsider.py"));
        command.env("TMPDIR", self.0.path()).process_group(0).stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// What is in the folder, and which processes belong to it: by their group, or because their command line, their
    /// environment or their working folder names it (what PostgreSQL starts has a group of its own, and no environment).
    fn left(&self, group: u32) -> Vec<String> {
        let folder = self.0.path().to_str().expect("UTF-8");
        let files =
            fs::read_dir(folder).expect("a folder").map(|entry| format!("{:?}", entry.expect("an entry").path()));
        let processes = fs::read_dir("/proc").expect("/proc").filter_map(|entry| {
            let process = entry.ok()?.path();
            process.file_name()?.to_str()?.parse::<u32>().ok()?;
            let text =
                |name: &str| String::from_utf8_lossy(&fs::read(process.join(name)).unwrap_or_default()).into_owned();
            let stat = text("stat");
            let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
            let (state, of) = (*fields.first()?, fields.get(2)?.parse::<u32>().ok()?);
            let inside = fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd.starts_with(folder));
            let named = text("cmdline").contains(folder) || text("environ").contains(folder);
            // A dead one that nobody has asked after yet runs no more.
            (state != "Z" && (of == group || inside || named)).then(|| format!("{process:?}: {}", text("cmdline")))
        });
        files.chain(processes).collect()
    }

    async fn nothing_is_left(&self, group: u32) {
        until("nothing of the demo is left", async || {
            let left = self.left(group);
            if left.is_empty() { Ok(()) } else { Err(left) }
        })
        .await;
    }
}

/// Runs the demo and asserts that it ends well and leaves nothing running.
async fn run(history: Option<PathBuf>) {
    let (place, kept) = (Place::new(), tempfile::tempdir().expect("a folder"));
    let mut command = place.demo();
    command.arg("--keep").arg(kept.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if let Some(history) = history {
        command.arg("--history").arg(history);
    }
    let child = command.spawn().expect("the demo starts");
    let group = child.id().expect("it runs");
    let output = child.wait_with_output().await.expect("the demo runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the demo failed:\n{said}");
    assert!(said.contains("every check held"), "{said}");
    // What it started it has ended before it ended itself.
    assert_eq!(place.left(group), Vec::<String>::new());
    let table = String::from_utf8_lossy(&output.stdout);
    println!("{table}");
    for row in ["pruned", "cluster's folder", "the whole demo"] {
        assert!(table.contains(row), "{table}");
    }
    for left in
        ["home/manifest", "dr/manifest", "dr/checkpoint", "dr/confirm", "journals", "result.json", "public-keys.txt"]
    {
        assert!(kept.path().join(left).exists(), "{left} is kept");
    }
    let result = fs::read(kept.path().join("result.json")).expect("it is kept");
    let result: Value = serde_json::from_slice(&result).expect("JSON");
    assert!(result["seconds"].as_f64().is_some_and(|seconds| seconds > 0.0), "{result}");
    assert_eq!(result["failover"]["own_head"], result["failover"]["fork"]);
}

#[tokio::test]
async fn a_demo_that_is_killed_in_the_middle_leaves_nothing_either() {
    for moment in ["A history is imported", "writers append to home"] {
        let place = Place::new();
        let mut demo = place.demo().stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the demo starts");
        let group = demo.id().expect("it runs");
        let mut said = BufReader::new(demo.stderr.take().expect("piped")).lines();
        loop {
            let line = said.next_line().await.expect("readable").unwrap_or_else(|| panic!("it never said {moment:?}"));
            if line.contains(moment) {
                break;
            }
        }
        assert!(!place.left(group).is_empty(), "it is in the middle");
        demo.kill().await.expect("killed");
        place.nothing_is_left(group).await;
    }
}

#[tokio::test]
async fn a_generated_history_goes_all_the_way_through() {
    run(None).await;
}

#[tokio::test]
async fn the_history_small_goes_all_the_way_through() {
    match system_tests::history("small.ndjson.zst") {
        Some(history) => run(Some(history)).await,
        None => println!("skipped: CONTENT_HISTORIES names no folder with small.ndjson.zst"),
    }
}

#[tokio::test]
async fn the_history_restic_goes_all_the_way_through() {
    match system_tests::history("restic.ndjson.zst") {
        Some(history) => run(Some(history)).await,
        None => println!("skipped: CONTENT_HISTORIES names no folder with restic.ndjson.zst"),
    }
}
