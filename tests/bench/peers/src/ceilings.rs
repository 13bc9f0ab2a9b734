//! What nothing on this machine can beat: one COPY into a table like a partition of ours, and the disk's fdatasync. It
//! must never leave out a part that a real append has to do on disk.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

use ops::clock::Stopwatch;
use serde::Serialize;
use sqlx::{Connection, Executor, PgConnection};

use crate::error::{BenchError, io, rig};
use crate::events::{CATEGORY, EVENT_TYPE, METADATA_MEMBER, PAYLOAD_MEMBER, REQUESTS_A_STREAM, Texts, object};
use crate::rig::Rig;

/// Rows of the one COPY.
const COPY_ROWS: u64 = 300_000;
/// The better one counts: it is a ceiling.
const COPY_TIMES: usize = 2;
/// Bytes that are sent at once.
const COPY_CHUNK_BYTES: usize = 1 << 20;
/// A page of PostgreSQL's WAL.
const PAGE: [u8; 8192] = [0x5a; 8192];

/// The ceilings of this machine in this run.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Ceilings {
    /// Rows a second of one COPY of 300,000, its COMMIT included.
    pub(crate) copy_rows_per_second: f64,
    /// Appends of 8 KiB, each followed by fdatasync, a second.
    pub(crate) fdatasyncs_per_second: f64,
}

/// Measures both.
///
/// # Errors
/// `Rig`, `Io`.
pub(crate) async fn measure(rig: &Rig, texts: &Texts, sync_for: Duration) -> Result<Ceilings, BenchError> {
    let rows = rows(texts);
    let mut best: f64 = 0.0;
    for _ in 0..COPY_TIMES {
        best = best.max(COPY_ROWS as f64 / copy(rig, &rows).await?.as_secs_f64());
    }
    let folder = rig.scratch()?;
    let file = folder.path().join("synced");
    let synced = tokio::task::spawn_blocking(move || fdatasyncs(&file, sync_for)).await;
    let fdatasyncs_per_second = synced.expect("it neither panics nor is cancelled").map_err(io("syncing a file"))?;
    Ok(Ceilings { copy_rows_per_second: best, fdatasyncs_per_second })
}

/// The rows in COPY's text form, made before the time is taken.
fn rows(texts: &Texts) -> String {
    let mut rows = String::new();
    for position in 1..=COPY_ROWS {
        let (stream, version) = (position / REQUESTS_A_STREAM, position % REQUESTS_A_STREAM + 1);
        let text = usize::try_from(position).unwrap_or(0);
        writeln!(
            rows,
            "{position}\t2026-01-01 00:00:00Z\t{version}\t400\t1\t1\t{CATEGORY}\t{stream:032x}x0\t{EVENT_TYPE}\t\t\
             {stream:032x}x0-{version}\t/bench\t{}\t{}",
            object(METADATA_MEMBER, texts.metadata(text)),
            object(PAYLOAD_MEMBER, texts.payload(text)),
        )
        .expect("a String takes all that is written");
    }
    rows
}

async fn copy(rig: &Rig, rows: &str) -> Result<Duration, BenchError> {
    const DOING: &str = "copying into the plain table";
    let (database, _) = rig.log().await?;
    let mut connection = PgConnection::connect(&database.url).await.map_err(self::rig(DOING))?;
    connection.execute(include_str!("sql/plain_events.sql")).await.map_err(self::rig(DOING))?;
    let watch = Stopwatch::start();
    let mut sink = connection.copy_in_raw(include_str!("sql/copy_events.sql")).await.map_err(self::rig(DOING))?;
    for chunk in rows.as_bytes().chunks(COPY_CHUNK_BYTES) {
        sink.send(chunk).await.map_err(self::rig(DOING))?;
    }
    // Outside of a transaction the statement commits before it answers.
    sink.finish().await.map_err(self::rig(DOING))?;
    let took = watch.elapsed();
    connection.close().await.map_err(self::rig(DOING))?;
    rig.drop_database(&database).await?;
    Ok(took)
}

fn fdatasyncs(file: &std::path::Path, sync_for: Duration) -> std::io::Result<f64> {
    let mut file = std::fs::File::create(file)?;
    let watch = Stopwatch::start();
    let mut synced = 0.0;
    while watch.elapsed() < sync_for {
        file.write_all(&PAGE)?;
        file.sync_data()?;
        synced += 1.0;
    }
    Ok(synced / watch.elapsed().as_secs_f64())
}
