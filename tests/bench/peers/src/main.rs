//! The log against its peers: one command, one run, one table, ratios against baselines of the same run. Each peer is
//! started fresh for each measurement, one after the other, so that none pays for another. What its acknowledgements
//! mean and what is not comparable stands in [`contenders`].
//!
//! It reports and never judges a build: figures do not travel, and this is no test.

mod ceilings;
mod contenders;
mod cpu;
mod error;
mod events;
mod load;
mod peer;
mod pgbench;
mod report;
mod rig;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;

use contenders::Contender;
use error::{BenchError, io};
use events::Texts;
use load::{Measured, Window};
use ops::chain::chain;
use pgbench::Load;
use report::{Machine, Prefilled, Report, Row};
use rig::Rig;

/// Writers × events a request of a default run: about five minutes for all peers.
const LOADS: [(usize, usize); 6] = [(1, 1), (8, 1), (64, 1), (256, 1), (8, 100), (8, 1000)];
const WRITERS: [usize; 4] = [1, 8, 64, 256];
const EVENTS: [usize; 4] = [1, 10, 100, 1000];
/// The peak whose half is offered in the open loop, and whose like is measured on a filled log.
const STEADY_WRITERS: usize = 64;

/// Measures the log and its peers on this machine.
#[derive(Debug, Parser)]
struct Arguments {
    /// All of 1, 8, 64, 256 writers × 1, 10, 100, 1000 events a request.
    #[arg(long)]
    full: bool,
    /// Only these peers; a ratio against one that is left out is left out too.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Contender>,
    /// Only these loads, as writers x events a request, such as 64x1.
    #[arg(long, value_delimiter = ',', value_parser = load_of)]
    loads: Vec<(usize, usize)>,
    /// Seconds before anything counts.
    #[arg(long, default_value_t = 1)]
    warm_up: u64,
    /// Seconds that count.
    #[arg(long, default_value_t = 4)]
    measured: u64,
    /// Measures the library once more with so many events behind it.
    #[arg(long)]
    prefilled: Option<u64>,
    /// Folder for peers.md and peers.json.
    #[arg(long, default_value = ".")]
    out: PathBuf,
    /// The release binary of Coldstream.
    #[arg(long)]
    coldstream: PathBuf,
}

fn load_of(text: &str) -> Result<(usize, usize), String> {
    let split = text.split_once('x').and_then(|(writers, events)| Some((writers.parse().ok()?, events.parse().ok()?)));
    split.filter(|(writers, events)| *writers > 0 && *events > 0).ok_or_else(|| format!("{text:?} is not like 64x1"))
}

impl Arguments {
    fn contenders(&self) -> Vec<Contender> {
        Contender::ALL.into_iter().filter(|one| self.only.is_empty() || self.only.contains(one)).collect()
    }

    fn loads(&self) -> Vec<(usize, usize)> {
        if !self.loads.is_empty() {
            return self.loads.clone();
        }
        if self.full {
            return EVENTS.iter().flat_map(|events| WRITERS.iter().map(|writers| (*writers, *events))).collect();
        }
        LOADS.to_vec()
    }

    fn window(&self) -> Window {
        Window { warm_up: Duration::from_secs(self.warm_up), measured: Duration::from_secs(self.measured) }
    }
}

/// What every measurement needs.
struct Bench {
    rig: Arc<Rig>,
    texts: Arc<Texts>,
    window: Window,
}

impl Bench {
    /// A closed loop on a fresh peer, or an open one where a rate is given.
    async fn measure(&self, peer: Contender, load: Load) -> Result<Row, BenchError> {
        let Load { writers, events, rate } = load;
        eprintln!("{}: {writers} writers, {events} events a request", peer.name());
        let seen: Measured = match peer.start(&self.rig, &self.texts).await? {
            None => pgbench::measure(&self.rig, &self.texts, load, self.window).await?,
            Some(started) => {
                let seen = match rate {
                    None => load::closed(started.as_ref(), writers, events, self.window).await?,
                    Some(rate) => load::open(started.as_ref(), writers, rate, self.window).await?,
                };
                started.end().await?;
                seen
            }
        };
        Ok(Row::of(peer, writers, events, rate, &seen))
    }

    /// Each peer at half of its own peak of single events.
    async fn steady(&self, peaks: &[Row]) -> Result<Vec<Row>, BenchError> {
        let mut rows = Vec::new();
        for peak in peaks.iter().filter(|row| (row.writers, row.events_a_request) == (STEADY_WRITERS, 1)) {
            let load = Load { writers: STEADY_WRITERS, events: 1, rate: Some(peak.events_per_second / 2.0) };
            rows.push(self.measure(peak.peer, load).await?);
        }
        Ok(rows)
    }

    async fn prefilled(&self, behind: u64) -> Result<Option<Prefilled>, BenchError> {
        let Some(peer) = Contender::Library.start(&self.rig, &self.texts).await? else { return Ok(None) };
        eprintln!("filling a log with {behind} events");
        load::fill(peer.as_ref(), behind).await?;
        let seen = load::closed(peer.as_ref(), STEADY_WRITERS, 1, self.window).await?;
        peer.end().await?;
        let row = Row::of(Contender::Library, STEADY_WRITERS, 1, None, &seen);
        Ok(Some(Prefilled { behind, row }))
    }
}

/// `/proc/loadavg`'s three averages.
fn load_average() -> Result<String, BenchError> {
    let text = std::fs::read_to_string("/proc/loadavg").map_err(io("reading the machine's load"))?;
    Ok(text.split(' ').take(3).collect::<Vec<_>>().join(" "))
}

/// UmaDB's server lies beside this program: one package builds both.
fn beside(name: &str) -> Result<PathBuf, BenchError> {
    let own = std::env::current_exe().map_err(io("finding this program"))?;
    Ok(own.parent().unwrap_or(Path::new(".")).join(name))
}

async fn run(arguments: &Arguments) -> Result<Report, BenchError> {
    let load_before = load_average()?;
    let cores = std::thread::available_parallelism().map_err(io("counting the cores"))?.get();
    let rig = Arc::new(Rig::start(arguments.coldstream.clone(), beside("umadb")?).await?);
    let bench = Bench { rig: Arc::clone(&rig), texts: Arc::new(Texts::new()), window: arguments.window() };
    eprintln!("ceilings");
    let ceilings = ceilings::measure(&bench.rig, &bench.texts, bench.window.measured).await?;
    let mut peaks = Vec::new();
    // One load after the other, all peers at each: what the machine does meanwhile hits neighbours alike.
    for (writers, events) in arguments.loads() {
        for peer in arguments.contenders() {
            peaks.push(bench.measure(peer, Load { writers, events, rate: None }).await?);
        }
    }
    let steady = bench.steady(&peaks).await?;
    let prefilled = match arguments.prefilled {
        Some(behind) => bench.prefilled(behind).await?,
        None => None,
    };
    let window = bench.window;
    drop(bench);
    if let Ok(rig) = Arc::try_unwrap(rig) {
        rig.end().await?;
    }
    let machine = Machine { cores, load_before, load_after: load_average()? };
    let mut report = Report { machine, window, ceilings, peaks, steady, prefilled, goals: Vec::new() };
    report.judge();
    Ok(report)
}

fn write(report: &Report, folder: &Path) -> Result<(), BenchError> {
    let json = serde_json::to_vec_pretty(report).map_err(error::rig("writing the report as JSON"))?;
    std::fs::create_dir_all(folder).map_err(io("creating the folder of the report"))?;
    std::fs::write(folder.join("peers.json"), json).map_err(io("writing peers.json"))?;
    std::fs::write(folder.join("peers.md"), report.to_markdown()).map_err(io("writing peers.md"))
}

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // Both of the peers' TLS providers are linked, so rustls does not choose one by itself.
    rustls::crypto::ring::default_provider().install_default().expect("nothing was installed before");
    let done = match Box::pin(run(&arguments)).await {
        Ok(report) => {
            println!("{}", report.to_markdown());
            write(&report, &arguments.out)
        }
        Err(error) => Err(error),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}
