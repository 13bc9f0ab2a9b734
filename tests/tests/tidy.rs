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

/// The packages that a manifest depends on, for whatever target and under whatever name it calls them.
fn named(manifest: &toml::Table, workspace: &toml::Table) -> Vec<String> {
    let table = |of: &toml::Table, name: &str| of.get(name).and_then(toml::Value::as_table).cloned();
    let targets = table(manifest, "target").unwrap_or_default();
    let parts = targets.values().filter_map(toml::Value::as_table).chain([manifest]);
    let sections = ["dependencies", "dev-dependencies", "build-dependencies"];
    let dependencies = parts.flat_map(|part| sections.map(|section| table(part, section))).flatten().flatten();
    let shared = table(workspace, "workspace").and_then(|part| table(&part, "dependencies")).unwrap_or_default();
    let package = |value: &toml::Value| value.get("package").and_then(toml::Value::as_str).map(str::to_owned);
    let real = |(name, value): (String, toml::Value)| {
        let own = package(&value).or_else(|| shared.get(&name).and_then(package));
        own.unwrap_or(name)
    };
    dependencies.map(real).collect()
}

#[test]
fn an_arrow_is_seen_for_one_target_too_and_under_another_name() {
    let parse = |text: &str| text.parse::<toml::Table>().expect("TOML");
    let workspace = parse("[workspace.dependencies]\nhidden = { path = \"x\", package = \"replication\" }");
    let manifest = parse(
        "[dependencies]\nserde = \"1\"\nhidden.workspace = true\n\
         [target.'cfg(unix)'.dev-dependencies]\nother = { path = \"y\", package = \"archiver\" }\n\
         [target.'cfg(windows)'.dependencies]\nprojections.workspace = true",
    );
    let mut found = named(&manifest, &workspace);
    found.sort();
    assert_eq!(found, ["archiver", "projections", "replication", "serde"]);
}

#[test]
fn arrows_point_down() {
    let names: Vec<&str> = ARROWS[7].1.iter().copied().chain(["ops", "system-tests"]).collect();
    let workspace: toml::Table = read(Path::new("Cargo.toml")).parse().expect("a manifest");
    let mut wrong = Vec::new();
    for (folder, allowed) in ARROWS {
        let manifest: toml::Table = read(&Path::new(folder).join("Cargo.toml")).parse().expect("a manifest");
        for name in named(&manifest, &workspace).iter().filter(|name| names.contains(&name.as_str())) {
            // A dev-dependency on oneself only turns a feature on.
            let own = manifest["package"]["name"].as_str() == Some(name);
            if !own && !allowed.contains(&name.as_str()) {
                wrong.push(format!("{folder} names {name}"));
            }
        }
    }
    must_be_empty("arrows that point sideways or up", &wrong);
}

#[test]
fn domain_has_no_io_and_no_runtime() {
    let manifest: toml::Table = read(Path::new("domain/Cargo.toml")).parse().expect("a manifest");
    // What its own tests use is no part of it.
    let without = |part: &str| part == "dependencies" || part == "target";
    let manifest: toml::Table = manifest.into_iter().filter(|(part, _)| without(part)).collect();
    let named = named(&manifest, &read(Path::new("Cargo.toml")).parse().expect("a manifest"));
    for forbidden in ["tokio", "sqlx", "reqwest", "hyper", "axum", "aws-sdk-s3", "rand", "tracing"] {
        assert!(!named.iter().any(|name| name == forbidden), "domain names {forbidden}");
    }
    let io = ["std::fs", "std::net", "std::process", "std::env::"];
    let own = |file: &Path| file.starts_with("domain/src");
    let found = rust_files().into_iter().filter(|(file, _)| own(file)).flat_map(|(file, text)| {
        let code: String = before_tests(&text).join("\n");
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

/// The lines of a file before the block `mod tests { … }` at its end; all of them if it does not end with one, also
/// where its tests stand in a file of their own.
fn before_tests(text: &str) -> Vec<&str> {
    let lines: Vec<&str> = text.lines().collect();
    let opens = |at: &usize| {
        let mut next = lines[*at..].iter().skip_while(|line| line.starts_with("#["));
        lines[*at].starts_with("#[cfg(test)]") && next.next().is_some_and(|line| line.starts_with("mod tests {"))
    };
    let Some(at) = (0..lines.len()).find(opens) else { return lines };
    let closes = lines[at..].iter().position(|line| *line == "}").map(|after| at + after + 1);
    if closes == Some(lines.len()) { lines[..at].to_vec() } else { lines }
}

#[test]
fn only_a_block_of_tests_at_the_end_is_not_counted() {
    let block = "#[cfg(test)]\n#[allow(clippy::x)]\nmod tests {\n    fn a() {}\n}\n";
    let near_the_top = "//! x\n#[cfg(test)]\nmod tests;\nfn a() {}\nfn b() {}\n";
    assert_eq!(before_tests(near_the_top).len(), 5);
    assert_eq!(before_tests(&format!("//! x\nfn a() {{}}\n{block}")).len(), 2);
    assert_eq!(before_tests(&format!("{near_the_top}{block}")).len(), 5);
    assert_eq!(before_tests(&format!("{block}fn after() {{}}\n")).len(), 6, "code behind tests is code");
    let one = "//! x\n#[cfg(test)]\nuse a::b;\nfn a() {}\n";
    assert_eq!(before_tests(one).len(), 4);
}

#[test]
fn files_are_short_and_say_what_they_own() {
    let mut wrong = Vec::new();
    for (file, text) in rust_files() {
        let lines = before_tests(&text).len();
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
