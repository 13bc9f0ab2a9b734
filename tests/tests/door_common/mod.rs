//! What the tests of the door share: a region with a running server, and the binary as a command.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

pub mod certificates;

use std::path::{Path, PathBuf};
use std::process::Output;

use domain::Timestamp;
use domain::window::LiveWindow;
use ops::dev::Region;
use ops::dev::region::Plan;
use ops::http::openapi;
use tempfile::TempDir;
use tokio::process::Command;

/// The binary beside this test's own, which `cargo build --workspace --bins` has made.
pub fn binary() -> PathBuf {
    let test = std::env::current_exe().expect("this test has a path");
    let folder = test.parent().and_then(Path::parent).expect("tests lie in target/PROFILE/deps");
    let binary = folder.join("coldstream");
    assert!(binary.is_file(), "{} is not there: cargo build -p ops", binary.display());
    binary
}

/// A region, and the folder that it lies in.
pub struct Rig {
    pub region: Region,
    pub folder: TempDir,
}

impl Rig {
    /// A region whose server is not started.
    pub async fn idle() -> Self {
        Self::with_time(None).await
    }

    /// The same with simulated time, if one is given.
    pub async fn with_time(simulated_now: Option<Timestamp>) -> Self {
        Self::with(simulated_now, Vec::new()).await
    }

    /// The same with settings of its own.
    pub async fn with(simulated_now: Option<Timestamp>, settings: Vec<(&'static str, toml::Value)>) -> Self {
        // Another test of this process may have been first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().expect("a folder");
        let plan = Plan {
            binary: binary(),
            folder: folder.path().to_owned(),
            simulated_now,
            window: LiveWindow::default(),
            settings,
            postgres: Vec::new(),
        };
        Self { region: Region::single(&plan).await.expect("a region"), folder }
    }

    /// A region that serves.
    pub async fn serving() -> Self {
        let mut rig = Self::idle().await;
        rig.region.serve().await.expect("it serves");
        rig
    }

    /// A command of the binary with the region's configuration and a token.
    pub fn command(&self, token: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.arg("--config").arg(&self.region.config).args(arguments).env("COLDSTREAM_TOKEN", token);
        command.kill_on_drop(true);
        command
    }

    /// Runs it to its end, as an operator. This process goes on meanwhile: the object storage lives in it.
    pub async fn run(&self, arguments: &[&str]) -> Output {
        self.run_as(&self.region.tokens.operator, arguments).await
    }

    /// Runs it to its end with a token.
    pub async fn run_as(&self, token: &str, arguments: &[&str]) -> Output {
        self.command(token, arguments).output().await.expect("the binary runs")
    }

    /// Ends a region whose server runs. Whatever a test was about: the API's document has told every answer.
    pub async fn end(self) {
        let request = reqwest::Client::new().get(format!("{}/metrics", self.region.url));
        let answer = request.bearer_auth(&self.region.tokens.reader).send().await.expect("metrics");
        let text = answer.text().await.expect("whole");
        for line in text.lines().filter(|line| line.starts_with("coldstream_http_requests_total{")) {
            let words: Vec<&str> = line.split('"').collect();
            assert!(openapi::says(words[1], words[3], words[5]), "not documented: {line}");
        }
        self.region.end().await.expect("it ends");
    }
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}
