//! The outsider itself (`tests/outsider.py`), on the golden bucket: each of its checks of a failover and of a history can
//! fail, and what a losing branch left behind is no reason to doubt.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use domain::archive::checkpoint::Checkpoint;
use domain::keys::SigningKey;
use domain::merkle::Hash;
use domain::{Epoch, Head};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// Where the golden bucket's second epoch begins.
const FORK: u64 = 1_500;
/// The golden bucket's one removed event: nobody can say any more what was in it.
const REMOVED: u64 = 7;

fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}

fn golden(name: &str) -> PathBuf {
    tests().join("golden/archive-v1").join(name)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() { copy(&entry.path(), &target) } else { drop(fs::copy(entry.path(), target)) }
    }
}

/// What a demo keeps, with the golden bucket in both regions: home's last two appends were lost, two were stated.
struct Kept(TempDir);

impl Kept {
    fn new() -> Self {
        let kept = Self(tempfile::tempdir().expect("a folder"));
        for region in ["home", "dr"] {
            copy(&golden("bucket"), &kept.0.path().join(region));
        }
        let key = |name: &str| fs::read_to_string(golden(name)).expect("a key");
        kept.write("public-keys.txt", &(key("home.vkey") + &key("dr.vkey")));
        kept.fails_over(FORK, Some(2));
        kept.acknowledges(&[survivor(), lost(FORK + 1), lost(FORK + 2)]);
        kept
    }

    fn write(&self, name: &str, text: &str) {
        let file = self.0.path().join(name);
        fs::create_dir_all(file.parent().expect("a parent")).expect("a folder");
        fs::write(file, text).expect("written");
    }

    fn fails_over(&self, head: u64, bound: Option<u64>) {
        let failover = json!({ "own_head": head.to_string(), "fork": head.to_string(), "bound_events": bound });
        self.write("result.json", &json!({ "failover": failover }).to_string());
    }

    fn acknowledges(&self, entries: &[Value]) {
        let lines: Vec<String> = entries.iter().map(Value::to_string).collect();
        self.write("journals/writer-0.ndjson", &lines.join("\n"));
    }

    /// Puts a checkpoint of epoch 1, whose root is none of this log, into dr's bucket.
    fn checkpoint(&self, size: u64) {
        let secret = fs::read_to_string(golden("home.skey")).expect("a key");
        let size = Head::new(size).expect("a size");
        let checkpoint = Checkpoint { log: "golden".into(), size, root: Hash([7; 32]), epoch: Epoch::FIRST };
        let note = checkpoint.sign(&SigningKey::parse(&secret).expect("a key")).expect("signed");
        self.write(&format!("dr/checkpoint/{:020}/{:020}.note", 1, size.get()), &note);
    }

    /// What the outsider says: its report, or what it does not believe.
    fn judged(&self, more: &[&str]) -> Result<Value, String> {
        let mut command = Command::new("python3");
        command.arg(tests().join("outsider.py")).arg(self.0.path()).current_dir(self.0.path()).args(more);
        let output = command.output().expect("python3 is installed");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!said.contains("Traceback"), "{said}");
        if output.status.success() {
            return Ok(serde_json::from_slice(&output.stdout).expect("a report"));
        }
        assert_eq!(output.status.code(), Some(1), "{said}");
        Err(said)
    }
}

fn acknowledged(source: &str, id: &str, place: [u64; 3]) -> Value {
    let [position, version, epoch] = place.map(|number| number.to_string());
    json!({ "source": source, "id": id, "position": position, "version": version, "epoch": epoch })
}

/// As the golden history has it.
fn survivor() -> Value {
    acknowledged("/golden", "e-10", [10, 1, 1])
}

fn lost(position: u64) -> Value {
    acknowledged("/lost", &format!("l-{position}"), [position, 1, 1])
}

#[test]
fn what_was_lost_is_held_against_the_bound_that_was_stated() {
    let kept = Kept::new();
    let report = kept.judged(&[]).expect("two were stated, two are lost");
    let failover = json!({"acknowledged": 3, "lost": 2, "bound": 2, "own_head": FORK, "fork": FORK});
    assert_eq!(report["failover"], failover);
    kept.fails_over(FORK, Some(1));
    let doubt = kept.judged(&[]).expect_err("one more than was stated");
    assert!(doubt.contains("2 acknowledged events are lost, the stated bound is 1"), "{doubt}");
    kept.fails_over(FORK, None);
    assert_eq!(kept.judged(&[]).expect("nothing was stated")["failover"]["lost"], 2);
}

#[test]
fn what_survived_stands_where_it_was_said_and_what_was_lost_stood_above_the_fork() {
    let kept = Kept::new();
    for (wrong, why) in [
        (acknowledged("/golden", "e-10", [11, 1, 1]), "stands at (10, 1, 1)"),
        (acknowledged("/golden", "e-10", [10, 2, 1]), "stands at (10, 1, 1)"),
        (acknowledged("/golden", "e-10", [10, 1, 2]), "stands at (10, 1, 1)"),
        (acknowledged("/golden", "e-1600", [1_600, 6, 2]), "above the stated head 1500"),
        (lost(FORK), "is not above the stated head 1500, and is lost"),
    ] {
        kept.acknowledges(&[wrong]);
        let doubt = kept.judged(&[]).expect_err("it is not so");
        assert!(doubt.contains(why), "{doubt}");
    }
    kept.acknowledges(&[survivor(), survivor()]);
    assert!(kept.judged(&[]).expect_err("twice").contains("acknowledged twice"));
}

#[test]
fn a_checkpoint_of_an_older_epoch_beyond_a_later_fork_is_void() {
    let kept = Kept::new();
    kept.checkpoint(FORK + 10);
    let report = kept.judged(&[]).expect("a branch that lost proves nothing and refutes nothing");
    assert_eq!((&report["dr"]["checkpoints"], &report["dr"]["void_checkpoints"]), (&json!(2), &json!(1)));
    kept.checkpoint(FORK);
    let doubt = kept.judged(&[]).expect_err("up to the fork both branches are one");
    assert!(doubt.contains("the checkpoint at 1500 has another root"), "{doubt}");
}

/// The golden bucket's events as the history that they came from, and what lives after all of it.
fn history() -> (Vec<Value>, Value) {
    let mut events = Vec::new();
    let mut living = BTreeMap::new();
    let mut segments: Vec<_> = fs::read_dir(golden("bucket/seg")).expect("segments").collect();
    segments.sort_by_key(|entry| entry.as_ref().expect("an entry").file_name());
    for segment in segments {
        let packed = fs::read(segment.expect("an entry").path()).expect("a segment");
        let text = String::from_utf8(zstd::decode_all(&packed[..]).expect("zstd")).expect("UTF-8");
        for line in text.lines() {
            let record: Value = serde_json::from_str(line).expect("a record");
            if record["position"].as_str().and_then(|text| text.parse().ok()) == Some(REMOVED) {
                continue;
            }
            let path =
                record["subject"].as_str().and_then(|name| name.split_once('-')).expect("a category").1.to_owned();
            living.insert(path, record["data"]["oid"].as_str().expect("an object id").to_owned());
            events.push(record);
        }
    }
    let text: String = living.iter().map(|(path, oid)| format!("{path}\0{oid}\n")).collect();
    let digest: String = Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect();
    let point = json!({ "after_events": events.len(), "live": living.len(), "digest": digest });
    (events, json!({ "checkpoints": [point] }))
}

#[test]
fn a_history_may_be_plain_or_packed_and_what_is_no_history_is_said() {
    let kept = Kept::new();
    let (events, oracle) = history();
    let ndjson = |events: &[Value]| events.iter().map(|event| format!("{event}\n")).collect::<String>();
    kept.write("h.oracle.json", &oracle.to_string());
    kept.write("h.ndjson", &ndjson(&events));
    fs::write(kept.0.path().join("h.ndjson.zst"), zstd::encode_all(ndjson(&events).as_bytes(), 1).expect("packed"))
        .expect("written");
    for file in ["h.ndjson", "h.ndjson.zst"] {
        let report = kept.judged(&["--history", file, "--oracle", "h.oracle.json"]).expect("it is the history");
        assert_eq!(report["dr"]["oracle_points"], 1, "{file}");
    }
    // An id alone is no identity: the event must be of its source as well.
    let mut other = events.clone();
    other[40]["source"] = "/elsewhere".into();
    kept.write("other.ndjson", &ndjson(&other));
    let doubt = kept.judged(&["--history", "other.ndjson", "--oracle", "h.oracle.json"]).expect_err("another event");
    assert!(doubt.contains("events of the history are missing"), "{doubt}");
    kept.write("broken.ndjson.zst", "no zstd");
    kept.write("broken.ndjson", "{\"id\":");
    for file in ["broken.ndjson.zst", "broken.ndjson", "nowhere.ndjson"] {
        let doubt = kept.judged(&["--history", file, "--oracle", "h.oracle.json"]).expect_err("no history");
        assert!(doubt.starts_with("outsider: "), "{doubt}");
    }
}
