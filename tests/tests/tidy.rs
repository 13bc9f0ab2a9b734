//! Keeps the house tidy: arrows point down, files stay short, every file says what it owns, and nothing of
//! the machine that it was written on is left in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const FILE_LINES_MAX: usize = 500;
const TOP_LEVEL: [&str; 6] = ["domain", "projections", "archiver", "replication", "ops", "tests"];

/// (crate's folder, crates of this workspace that it may name). `tests` may name all.
const ARROWS: [(&str, &[&str]); 8] = [
    ("domain", &[]),
    ("domain/event-log", &["domain"]),
    ("projections", &["domain"]),
    ("archiver", &["domain"]),
    ("archiver/segment-store", &["domain"]),
    ("replication", &["domain"]),
    ("ops/client", &["domain"]),
    ("ops", &["domain", "coldstream-client", "event-log", "projections", "archiver", "segment-store", "replication"]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_path_buf()
}

/// The files that git knows or would add.
fn files() -> Vec<PathBuf> {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .expect("git lists the files");
    assert!(listed.status.success(), "git ls-files failed");
    let names = String::from_utf8(listed.stdout).expect("names are UTF-8");
    names.lines().map(PathBuf::from).filter(|file| root().join(file).is_file()).collect()
}

fn read(file: &Path) -> String {
    fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

fn rust_files() -> Vec<(PathBuf, String)> {
    let is_rust = |file: &PathBuf| file.extension().is_some_and(|extension| extension == "rs");
    files().into_iter().filter(is_rust).map(|file| (file.clone(), read(&file))).collect()
}

fn must_be_empty(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n{}", found.join("\n"));
}

#[test]
fn arrows_point_down() {
    let names: Vec<&str> = ARROWS[7].1.iter().copied().chain(["ops", "system-tests"]).collect();
    let mut wrong = Vec::new();
    for (folder, allowed) in ARROWS {
        let manifest: toml::Table = read(&Path::new(folder).join("Cargo.toml")).parse().expect("a manifest");
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let named =
                manifest.get(section).and_then(|table| table.as_table()).into_iter().flat_map(|table| table.keys());
            for name in named.filter(|name| names.contains(&name.as_str())) {
                // A dev-dependency on oneself only turns a feature on.
                let own = manifest["package"]["name"].as_str() == Some(name);
                if !own && !allowed.contains(&name.as_str()) {
                    wrong.push(format!("{folder} names {name}"));
                }
            }
        }
    }
    must_be_empty("arrows that point sideways or up", &wrong);
}

#[test]
fn domain_has_no_io_and_no_runtime() {
    let manifest: toml::Table = read(Path::new("domain/Cargo.toml")).parse().expect("a manifest");
    let named: Vec<&String> = manifest["dependencies"].as_table().expect("a table").keys().collect();
    for forbidden in ["tokio", "sqlx", "reqwest", "hyper", "axum", "aws-sdk-s3", "rand", "tracing"] {
        assert!(!named.iter().any(|name| *name == forbidden), "domain names {forbidden}");
    }
    let io = ["std::fs", "std::net", "std::process", "std::env::"];
    let own = |file: &Path| file.starts_with("domain/src");
    let found = rust_files().into_iter().filter(|(file, _)| own(file)).flat_map(|(file, text)| {
        let code = text.split("#[cfg(test)]").next().unwrap_or_default().to_owned();
        io.iter().filter(move |word| code.contains(**word)).map(move |word| format!("{}: {word}", file.display()))
    });
    must_be_empty("IO in domain", &found.collect::<Vec<_>>());
}

/// What deny.toml says too, for machines without cargo-deny.
#[test]
fn there_is_one_tls_stack_and_one_registry() {
    let lock: toml::Table = read(Path::new("Cargo.lock")).parse().expect("a lock file");
    let packages = lock["package"].as_array().expect("packages");
    let text = |package: &toml::Value, member: &str| package.get(member).and_then(|it| it.as_str()).map(str::to_owned);
    let policy: toml::Table = read(Path::new("deny.toml")).parse().expect("a policy");
    let denied: Vec<String> =
        policy["bans"]["deny"].as_array().expect("a list").iter().filter_map(|ban| text(ban, "crate")).collect();
    assert!(["openssl", "native-tls", "aws-lc-rs"].iter().all(|stack| denied.iter().any(|name| name == stack)));
    let names = packages.iter().filter_map(|package| text(package, "name"));
    must_be_empty("banned packages", &names.filter(|name| denied.contains(name)).collect::<Vec<_>>());
    let sources: std::collections::BTreeSet<String> =
        packages.iter().filter_map(|package| text(package, "source")).collect();
    assert!(sources.len() == 1 && sources.iter().all(|source| source.starts_with("registry+")), "{sources:?}");
}

#[test]
fn source_stands_in_the_six_folders_only() {
    let wrong: Vec<String> = rust_files()
        .iter()
        .map(|(file, _)| file)
        .filter(|file| !TOP_LEVEL.iter().any(|folder| file.starts_with(folder)))
        .map(|file| file.display().to_string())
        .collect();
    must_be_empty("source outside of the stages", &wrong);
}

#[test]
fn files_are_short_and_say_what_they_own() {
    let mut wrong = Vec::new();
    for (file, text) in rust_files() {
        let lines = text.lines().take_while(|line| !line.starts_with("#[cfg(test)]")).count();
        if lines > FILE_LINES_MAX {
            wrong.push(format!("{}: {lines} lines before its tests, at most {FILE_LINES_MAX}", file.display()));
        }
        if !text.starts_with("//! ") {
            wrong.push(format!("{}: does not open with //!", file.display()));
        }
    }
    must_be_empty("files to mend", &wrong);
}

#[test]
fn nothing_of_a_machine_is_left() {
    // Spelled in parts, so that this file does not find itself.
    let words = [["/wo", "rk/"].concat(), ["/ro", "ot/"].concat(), [".lib", "rary"].concat(), ["/farm", "/"].concat()];
    let mut wrong = Vec::new();
    for file in files().iter().filter(|file| !file.ends_with("Cargo.lock")) {
        let Ok(text) = fs::read_to_string(root().join(file)) else { continue };
        for (number, line) in text.lines().enumerate() {
            if words.iter().any(|word| line.contains(word.as_str())) {
                wrong.push(format!("{}:{}: {line}", file.display(), number + 1));
            }
        }
    }
    must_be_empty("paths of a machine", &wrong);
}

#[test]
fn unfinished_work_does_not_land() {
    let words =
        [["to", "do!("].concat(), ["unimple", "mented!("].concat(), ["FIX", "ME"].concat(), ["#[ig", "nore"].concat()];
    let found = rust_files().into_iter().flat_map(|(file, text)| {
        let hit = words.iter().find(|word| text.contains(word.as_str())).cloned();
        hit.map(|word| format!("{}: {word}", file.display()))
    });
    must_be_empty("unfinished work", &found.collect::<Vec<_>>());
}

#[test]
fn the_overview_stays_an_overview() {
    let lines = read(Path::new("ARCHITECTURE.md")).lines().count();
    assert!(lines <= 120, "ARCHITECTURE.md has {lines} lines, at most 120");
    let readme = read(Path::new("README.md"));
    for command in ["ops/demo", "ops/test"] {
        assert!(readme.contains(command), "README.md does not name {command}");
    }
}
