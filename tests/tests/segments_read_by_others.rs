//! A segment needs none of our code: zstd and any reader of JSON lines read it, DuckDB does, and both refuse one in which a
//! bit has flipped. On the golden bucket. Where DuckDB cannot be had the test says so and ends.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Records of the golden bucket, and the sum of their positions.
const RECORDS: u64 = 2_100;
const POSITIONS: u64 = RECORDS * (RECORDS + 1) / 2;
/// Bits that are flipped in each segment, one at a time, far from each other.
const FLIPS: usize = 12;

/// The golden segments, by position.
fn segments() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/archive-v1/bucket/seg");
    let entries = fs::read_dir(folder).expect("a folder");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files
}

/// Copies of a segment that differ from it in one bit each, somewhere within its compressed data.
fn damaged(segment: &Path, folder: &Path) -> Vec<PathBuf> {
    let bytes = fs::read(segment).expect("a segment");
    let copy = |flip: usize| {
        let mut bytes = bytes.clone();
        let at = bytes.len() * flip / (FLIPS + 1);
        bytes[at] ^= 1 << (flip % 8);
        let file = folder.join(format!("{flip}.ndjson.zst"));
        fs::write(&file, bytes).expect("written");
        file
    };
    (1..=FLIPS).map(copy).collect()
}

fn zstdcat(file: &Path) -> Output {
    Command::new("zstd").args(["-dcq"]).arg(file).output().expect("zstd is installed")
}

/// What comes out of a program for what goes in.
fn filtered(program: &str, arguments: &[&str], input: Vec<u8>) -> Option<Vec<u8>> {
    let mut command = Command::new(program);
    let mut child = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().ok()?;
    let mut stdin = child.stdin.take().expect("piped");
    let writing = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().expect("it ends");
    writing.join().expect("no panic").expect("it reads everything");
    assert!(output.status.success(), "{program}");
    Some(output.stdout)
}

#[test]
fn zstd_and_any_reader_of_json_print_the_records_and_zstd_refuses_a_flipped_bit() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut positions = 0;
    for segment in segments() {
        let whole = zstdcat(&segment);
        assert!(whole.status.success(), "{}", segment.display());
        let python = "import json,sys\nfor line in sys.stdin: print(json.dumps(json.loads(line), separators=(',', ':'), \
                      ensure_ascii=False))";
        let printed = filtered("jq", &["-c", "."], whole.stdout.clone()).unwrap_or_else(|| {
            println!("jq is not installed: Python's json prints instead");
            filtered("python3", &["-c", python], whole.stdout.clone()).expect("python3 is installed")
        });
        assert!(printed == whole.stdout, "records are compact JSON: printing them changes no byte");
        for line in printed.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let record: serde_json::Value = serde_json::from_slice(line).expect("JSON");
            positions += record["position"].as_str().expect("text").parse::<u64>().expect("a number");
        }
        for file in damaged(&segment, folder.path()) {
            assert!(!zstdcat(&file).status.success(), "{} has a flipped bit", file.display());
        }
    }
    assert_eq!(positions, POSITIONS);
}

/// As in README.md.
const QUERY: &str = "import duckdb, sys
print(duckdb.sql(\"\"\"SELECT count(*), sum(position::BIGINT), min(recordedat), max(recordedat)
  FROM read_json($files, format='newline_delimited', compression='zstd')\"\"\", params={'files': sys.argv[1:]}).fetchone())";

#[test]
fn duckdb_reads_the_segments_and_refuses_a_flipped_bit() {
    let python = std::env::var("DUCKDB_PYTHON").unwrap_or_else(|_| "python3".into());
    let version = Command::new(&python).args(["-c", "import duckdb; print(duckdb.__version__)"]).output();
    let Some(version) = version.ok().filter(|output| output.status.success()) else {
        println!("skipped: DuckDB is not installed; pip install duckdb");
        return;
    };
    println!("DuckDB {}", String::from_utf8_lossy(&version.stdout).trim());
    let read = |files: &[PathBuf]| Command::new(&python).args(["-c", QUERY]).args(files).output().expect("it runs");
    let whole = read(&segments());
    let (said, complained) = (String::from_utf8_lossy(&whole.stdout), String::from_utf8_lossy(&whole.stderr));
    assert!(said.contains(&RECORDS.to_string()) && said.contains(&POSITIONS.to_string()), "{said}{complained}");
    let folder = tempfile::tempdir().expect("a folder");
    for segment in segments() {
        for file in damaged(&segment, folder.path()) {
            let output = read(std::slice::from_ref(&file));
            assert!(!output.status.success(), "{}: {}", file.display(), String::from_utf8_lossy(&output.stdout));
        }
    }
}
