//! `coldstream demo`: one history goes all the way through two regions on this machine.
//!
//! Everything is real: two PostgreSQL clusters, two S3 endpoints, two processes of this binary; what is killed is
//! killed with SIGKILL. Each step checks what it claims; the first check that does not hold ends the demo with
//! exit code 1. Nothing is left running. It never shows a figure that it has not measured.

mod api;
mod damage;
mod disaster;
mod generate;
mod keep;
mod on_disk;
mod oracle;
mod passage;
mod report;
mod talk;
mod writers;

use std::path::{Path, PathBuf};

use domain::window::LiveWindow;
use domain::{Timestamp, TimestampError};
use serde::Deserialize;
use thiserror::Error;

use crate::clock::Stopwatch;
use crate::dev::Guardian;
use crate::dev::region::{Plan, Region, RegionError};
use api::ApiError;
use oracle::{Oracle, OracleError};
use report::Figures;
use talk::{chapter, counted, held, note};

/// Segments are cut small, so that also a short history has several.
const SEGMENT_BYTES: i64 = 2 << 20;
/// Cold reads keep little, so that a read after damage is a read of the object.
const CACHE_BYTES: i64 = 1 << 20;

/// What the demo is to do.
#[derive(Debug, Clone)]
pub struct DemoOptions {
    /// The history; without one, a year and a half is generated.
    pub history: Option<PathBuf>,
    /// Folder for what an outsider checks: buckets, keys, journals, figures.
    pub keep: Option<PathBuf>,
    /// `tests/outsider.py`, if it is to be run.
    pub outsider: Option<PathBuf>,
    /// Seed of a generated history.
    pub seed: u64,
}

/// Why the demo ended early.
#[derive(Debug, Error)]
pub enum DemoError {
    /// A region.
    #[error("a region could not be set up or ended")]
    Region(#[from] RegionError),
    /// The API.
    #[error("a region's API did not do what was asked for")]
    Api(#[from] ApiError),
    /// The oracle.
    #[error("the log is not what the oracle says")]
    Oracle(#[from] OracleError),
    /// A file or a process.
    #[error("{doing} failed")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Something that should be an instant is none, such as the time of the history's first line.
    #[error("no instant where one is needed: does the history's first line have a time?")]
    Time(#[from] TimestampError),
    /// Something that must hold does not.
    #[error("does not hold: {0}")]
    Check(String),
}

fn io(doing: &'static str) -> impl FnOnce(std::io::Error) -> DemoError {
    move |source| DemoError::Io { doing, source }
}

/// Ends the demo unless `holds`.
fn check(holds: bool, what: impl FnOnce() -> String) -> Result<(), DemoError> {
    if holds { Ok(()) } else { Err(DemoError::Check(what())) }
}

/// The demo on its way.
struct Demo {
    folder: PathBuf,
    history: PathBuf,
    oracle: Oracle,
    home: Region,
    dr: Region,
    figures: Figures,
}

/// Runs the whole demo.
///
/// # Errors
/// The first thing that failed, or the first check that does not hold.
pub async fn run(options: &DemoOptions) -> Result<(), DemoError> {
    let watch = Stopwatch::start();
    let folder = tempfile::Builder::new().prefix("coldstream-demo").tempdir().map_err(io("making a folder"))?;
    // A demo that is killed cannot clear up: this one does it.
    let guardian = Guardian::that_removes(folder.path()).map_err(io("starting the folder's guardian"))?;
    chapter(
        "Two regions start",
        "Each is a PostgreSQL cluster, an S3 endpoint and a server. home takes appends, dr follows.",
    );
    let (history, oracle_file) = history(options, folder.path())?;
    let oracle = Oracle::read(&history, oracle_file.as_deref())?;
    let plan = plan(folder.path(), &history)?;
    let (mut home, mut dr) = Region::pair(&plan).await?;
    home.serve().await?;
    dr.serve().await?;
    held(&format!("home serves at {}, dr at {}", home.url, dr.url));
    let figures = Figures::default();
    let mut demo = Demo { folder: folder.path().to_owned(), history, oracle, home, dr, figures };
    let done = demo.go(options, oracle_file.as_deref()).await;
    if done.is_err() {
        for region in [&demo.home, &demo.dr] {
            note(&format!("the last lines of {}'s log:\n{}", region.name, tail(&region.server_log())));
        }
    }
    let Demo { home, dr, mut figures, .. } = demo;
    let (home, dr) = (home.end().await, dr.end().await);
    done?;
    home?;
    dr?;
    drop(guardian);
    folder.close().map_err(io("removing the demo's folder"))?;
    figures.took(watch.elapsed());
    if let Some(kept) = &options.keep {
        keep::write_result(kept, &figures)?;
    }
    chapter("What was measured", "On this machine, just now.");
    println!("{}", figures.table());
    held("every check held");
    Ok(())
}

impl Demo {
    async fn go(&mut self, options: &DemoOptions, oracle_file: Option<&Path>) -> Result<(), DemoError> {
        self.import().await?;
        self.ship().await?;
        self.archive_and_prune().await?;
        self.show_where_it_is().await?;
        chapter(
            "The whole history is read again at home",
            "Old records come from the archive, new ones from the database; a reader does not notice.",
        );
        self.figures.home_points = self.replay(&self.home).await?;
        self.damage_and_heal().await?;
        self.lose_home_under_load().await?;
        self.fail_over().await?;
        self.old_home_is_refused().await?;
        chapter("The whole history is read again in dr", "Home is dead: nothing of it is needed.");
        self.figures.dr_points = self.replay(&self.dr).await?;
        self.audit().await?;
        self.hand_over(options, oracle_file).await
    }
}

/// The history to import, and its oracle if there is one.
fn history(options: &DemoOptions, folder: &Path) -> Result<(PathBuf, Option<PathBuf>), DemoError> {
    if let Some(history) = &options.history {
        let name = history.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let stem = name.trim_end_matches(".zst").trim_end_matches(".ndjson");
        let oracle = history.with_file_name(format!("{stem}.oracle.json"));
        return Ok((history.clone(), oracle.exists().then_some(oracle)));
    }
    note(&format!("generating a year and a half of people's work from seed {}", options.seed));
    let generated = generate::generate(options.seed);
    let (history, oracle) = (folder.join("generated.ndjson.zst"), folder.join("generated.oracle.json"));
    let packed = zstd::encode_all(generated.ndjson.as_bytes(), 3).map_err(io("packing the history"))?;
    std::fs::write(&history, packed).map_err(io("writing the history"))?;
    let text = serde_json::to_vec(&generated.oracle).expect("an oracle is texts and numbers");
    std::fs::write(&oracle, text).map_err(io("writing the oracle"))?;
    Ok((history, Some(oracle)))
}

fn plan(folder: &Path, history: &Path) -> Result<Plan, DemoError> {
    #[derive(Deserialize)]
    struct First {
        time: String,
    }
    let line = oracle::first_line(history)?;
    let first: First = serde_json::from_str(&line).map_err(|_| DemoError::Time(TimestampError))?;
    Ok(Plan {
        binary: std::env::current_exe().map_err(io("finding this binary"))?,
        folder: folder.to_owned(),
        simulated_now: Some(Timestamp::parse_rfc3339(&first.time)?),
        window: LiveWindow::default(),
        // The demo asks for the archive's work itself, so that it can measure it.
        settings: vec![
            ("archive.interval_seconds", 3600.into()),
            ("archive.sealing.segment_bytes", SEGMENT_BYTES.into()),
            ("archive.sealing.cache_bytes", CACHE_BYTES.into()),
        ],
        postgres: Vec::new(),
    })
}

fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}
