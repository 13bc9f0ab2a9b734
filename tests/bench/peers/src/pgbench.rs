//! The plain INSERT: pgbench with a script of ours, prepared, into a table that is a partition of ours in all but its
//! guards. pgbench is its own load generator, in C, and sends one payload for all rows of a request: where it is
//! bound by the client it is the faster for it.
//!
//! With a rate it draws its arrivals from a Poisson process, and its latencies count from the scheduled instant
//! (pgbench(1), `--rate`), as ours do.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use hdrhistogram::Histogram;
use sqlx::{Connection, Executor, PgConnection};
use tokio::process::Command;

use crate::cpu;
use crate::error::{BenchError, io, rig};
use crate::events::{CATEGORY, EVENT_TYPE, METADATA_MEMBER, PAYLOAD_MEMBER, Texts, object};
use crate::load::{Measured, Window, histogram};
use crate::rig::{Database, Rig};

const NAME: &str = "plain INSERT (pgbench)";
/// It repeats the whole statement in its errors.
const SAID_CHARS_MAX: usize = 400;

/// A load for pgbench.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    /// Its clients.
    pub(crate) writers: usize,
    /// Rows of one INSERT.
    pub(crate) events: usize,
    /// Requests a second; without it, a closed loop.
    pub(crate) rate: Option<f64>,
}

/// Runs `load` on a fresh table for a window.
///
/// # Errors
/// `Process` with what pgbench said.
pub(crate) async fn measure(rig: &Rig, texts: &Texts, load: Load, window: Window) -> Result<Measured, BenchError> {
    let (database, _) = rig.log().await?;
    let mut connection = PgConnection::connect(&database.url).await.map_err(self::rig("making the plain table"))?;
    connection.execute(include_str!("sql/plain_events.sql")).await.map_err(self::rig("making the plain table"))?;
    connection.close().await.map_err(self::rig("making the plain table"))?;
    let folder = rig.scratch()?;
    std::fs::write(folder.path().join("insert.sql"), script(load.events)).map_err(io("writing pgbench's script"))?;

    run(rig, texts, &database, load, window.warm_up, &folder.path().join("warm")).await?;
    let cpu_before = (cpu::ended_children()?, cpu::of(&rig.postgres())?);
    run(rig, texts, &database, load, window.measured, &folder.path().join("log")).await?;
    let cpu_after = (cpu::ended_children()?, cpu::of(&rig.postgres())?);
    let (latency, lasted) = logged(folder.path())?;
    rig.drop_database(&database).await?;
    if latency.is_empty() {
        return Err(BenchError::Nothing { peer: NAME });
    }
    Ok(Measured {
        requests: latency.len(),
        refused: 0,
        lasted,
        latency,
        own_cpu: cpu_after.0.saturating_sub(cpu_before.0),
        peer_cpu: cpu_after.1.saturating_sub(cpu_before.1),
    })
}

/// One INSERT of `events` rows of one stream that nobody else writes. Not a list of VALUES: pgbench takes 255 arguments,
/// and counts each use of one.
fn script(events: usize) -> String {
    format!(
        "\\set stream random(1, 9000000000000000000)\nINSERT INTO plain_events (recorded_at, sequence, bytes, \
         data_kind, record_format, aggregate_type, aggregate_id, event_type, event_version, event_id, source, \
         metadata, payload) SELECT now(), version, 400, 1, 1, '{CATEGORY}', :stream::text, '{EVENT_TYPE}', '', \
         gen_random_uuid()::text, '/bench', :metadata::json, :payload::json \
         FROM generate_series(1, {events}) AS version;\n"
    )
}

async fn run(
    rig: &Rig,
    texts: &Texts,
    database: &Database,
    load: Load,
    time: Duration,
    log: &Path,
) -> Result<(), BenchError> {
    let folder = log.parent().unwrap_or(log);
    let mut command = Command::new(rig.program("pgbench"));
    command.args(["--no-vacuum", "--protocol=prepared", "--log"]);
    command.arg(format!("--log-prefix={}", log.display()));
    command.arg(format!("--file={}", folder.join("insert.sql").display()));
    command.arg(format!("--client={}", load.writers)).arg(format!("--jobs={}", load.writers.min(2)));
    command.arg(format!("--time={}", time.as_secs().max(1)));
    command.arg(format!("--define=payload={}", object(PAYLOAD_MEMBER, texts.payload(0))));
    command.arg(format!("--define=metadata={}", object(METADATA_MEMBER, texts.metadata(0))));
    if let Some(rate) = load.rate {
        command.arg(format!("--rate={rate:.1}"));
    }
    command.arg(&database.url).stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.map_err(io("starting pgbench"))?;
    if !output.status.success() {
        let said: String = String::from_utf8_lossy(&output.stderr).chars().take(SAID_CHARS_MAX).collect();
        let said = format!("{}: {said}", output.status);
        return Err(BenchError::Process { program: "pgbench", said });
    }
    Ok(())
}

/// Latencies, and the time from the first request's start to the last one's end, from `log.<pid>` and
/// `log.<pid>.<thread>`: client, number, elapsed µs, script, end as seconds and µs.
fn logged(folder: &Path) -> Result<(Histogram<u64>, Duration), BenchError> {
    let mut latency = histogram();
    let (mut first, mut last) = (u64::MAX, 0);
    for entry in std::fs::read_dir(folder).map_err(io("listing pgbench's logs"))? {
        let entry = entry.map_err(io("listing pgbench's logs"))?;
        if !entry.file_name().to_string_lossy().starts_with("log.") {
            continue;
        }
        let text = std::fs::read_to_string(entry.path()).map_err(io("reading a log of pgbench"))?;
        for line in text.lines() {
            let Some((elapsed, end)) = elapsed_and_end(line) else {
                return Err(BenchError::Answer { peer: NAME, said: line.to_owned() });
            };
            latency.saturating_record(elapsed);
            first = first.min(end.saturating_sub(elapsed));
            last = last.max(end);
        }
    }
    Ok((latency, Duration::from_micros(last.saturating_sub(first))))
}

fn elapsed_and_end(line: &str) -> Option<(u64, u64)> {
    let fields: Vec<u64> = line.split(' ').map(|field| field.parse().ok()).collect::<Option<_>>()?;
    let [_, _, elapsed, _, seconds, micros, ..] = fields[..] else { return None };
    Some((elapsed, seconds.checked_mul(1_000_000)?.checked_add(micros)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_log_gives_elapsed_and_end() {
        assert_eq!(elapsed_and_end("0 199 2241 0 1175850568 995598"), Some((2241, 1_175_850_568_995_598)));
        assert_eq!(elapsed_and_end("0 200 2241 0 1175850568 995598 17"), Some((2241, 1_175_850_568_995_598)));
        assert_eq!(elapsed_and_end("0 199 skipped 0 1175850568 995598"), None);
    }
}
