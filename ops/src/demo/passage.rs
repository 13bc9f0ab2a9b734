//! The history's way through home: import, ship, seal, verify, confirm, cosign, prune; and its replay.

use std::process::Stdio;
use std::time::Duration;

use domain::Timestamp;
use domain::window::LiveWindow;
use serde::Deserialize;
use tokio::process::Command;

use super::api::Api;
use super::{Demo, DemoError, check, io, say};
use crate::clock::Stopwatch;
use crate::dev::Region;

/// No step of the demo takes longer than this.
pub(super) const PATIENCE: Duration = Duration::from_secs(90);
const LOOK_EVERY: Duration = Duration::from_millis(50);

#[derive(Deserialize)]
struct Imported {
    events: u64,
    append_seconds: f64,
}

/// Asks again and again until `done` gives something; says what it waited for if it never does.
pub(super) async fn until<T, F>(what: &str, mut done: impl FnMut() -> F) -> Result<T, DemoError>
where
    F: Future<Output = Result<Option<T>, DemoError>>,
{
    let mut look = tokio::time::interval(LOOK_EVERY);
    let waiting = async {
        loop {
            look.tick().await;
            if let Some(found) = done().await? {
                return Ok(found);
            }
        }
    };
    let late = || DemoError::Check(format!("{what}, within {} s", PATIENCE.as_secs()));
    tokio::time::timeout(PATIENCE, waiting).await.map_err(|_| late())?
}

pub(super) fn number(text: &str) -> u64 {
    text.parse().unwrap_or(0)
}

impl Demo {
    /// The import is its own process, as a person would run it.
    pub(super) async fn import(&mut self) -> Result<(), DemoError> {
        say("importing; the clock follows the history");
        let mut command = Command::new(std::env::current_exe().map_err(io("finding this binary"))?);
        command.arg("--config").arg(&self.home.config).args(["--json", "import", "--recorded-at", "source"]);
        command.arg(&self.history).stdout(Stdio::piped()).stderr(Stdio::inherit()).kill_on_drop(true);
        self.figures.import_watch = Some(Stopwatch::start());
        let output = command.output().await.map_err(io("running the import"))?;
        check(output.status.success(), || "the import ends well".into())?;
        let imported: Imported =
            serde_json::from_slice(&output.stdout).map_err(|error| DemoError::Check(format!("its report: {error}")))?;
        self.figures.import(imported.events, imported.append_seconds);
        Ok(())
    }

    /// DR has been following all the while; now it catches up.
    pub(super) async fn ship(&mut self) -> Result<(), DemoError> {
        say("waiting for dr to hold everything");
        let head = number(&Api::of(&self.home).status().await?.head);
        let dr = &self.dr;
        until("dr has every event", || async move {
            let status = Api::of(dr).status().await?;
            Ok((number(&status.head) >= head).then_some(()))
        })
        .await?;
        self.figures.shipped(head);
        Ok(())
    }

    /// Seal everything that is due, then ask both regions to prune until only the window is left.
    pub(super) async fn archive_and_prune(&mut self) -> Result<(), DemoError> {
        say("sealing what is due");
        let watch = Stopwatch::start();
        let run = Api::of(&self.home).archive_run(true).await?;
        let sealed = run.sealed.last().map_or(0, |range| number(&range[1]));
        self.figures.sealed(sealed, run.sealed.len(), watch.elapsed());
        say("waiting for dr's copies, its confirmation and its cosignature; then both regions prune");
        let now = Timestamp::parse_rfc3339(&Api::of(&self.home).status().await?.recordedat)?;
        let cutoff = LiveWindow::default().cutoff(now)?;
        for region in [&self.home, &self.dr] {
            let waiting = std::sync::Mutex::new(String::new());
            let aim = format!("{} holds nothing older than {cutoff}", region.name);
            let pruned = until(&aim, || async {
                let run = Api::of(region).archive_run(false).await?;
                *waiting.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = run.waiting.unwrap_or_default();
                let status = Api::of(region).archive_status().await?;
                let oldest = status.partitions.first().map(|partition| Timestamp::parse_rfc3339(&partition.month));
                Ok(oldest.transpose()?.is_none_or(|oldest| oldest >= cutoff).then_some(()))
            });
            let last = |error| match error {
                DemoError::Check(what) => {
                    let waiting = waiting.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    DemoError::Check(format!("{what}; it waits: {waiting}"))
                }
                other => other,
            };
            pruned.await.map_err(last)?;
        }
        self.figures.pruned(watch.elapsed());
        Ok(())
    }

    pub(super) async fn show_where_it_is(&mut self) -> Result<(), DemoError> {
        for region in [&self.home, &self.dr] {
            let (status, archive) = (Api::of(region).status().await?, Api::of(region).archive_status().await?);
            let (head, pruned) = (number(&status.head), number(&status.pruned));
            let live = archive.partitions.iter().map(|partition| number(&partition.rows)).sum::<u64>();
            check(live == head - pruned, || format!("{}: {live} rows are live, of {pruned}+1 to {head}", region.name))?;
            let database = database_bytes(region).await?;
            self.figures.place(region.name, &status, &archive, live, database);
            say(&format!(
                "{}: {head} events, {live} live in {} months, {} archived in {} segments, {pruned} pruned; \
                 {database} bytes of tables and indexes, {} bytes in the bucket",
                region.name,
                archive.partitions.len(),
                archive.archived_head,
                archive.segments,
                archive.stored_bytes,
            ));
        }
        Ok(())
    }

    /// Reads the whole log through the API and holds it against the oracle at each of its points.
    pub(super) async fn replay(&self, region: &Region, what: &str) -> Result<(usize, f64), DemoError> {
        let watch = Stopwatch::start();
        let mut replay = self.oracle.replay();
        let records = Api::of(region).log::<DemoError>(1, None, |line| Ok(replay.take(line)?)).await?;
        let points = replay.finish()?;
        check(points == self.oracle.points(), || format!("{what}: every oracle point is reached"))?;
        let seconds = watch.elapsed().as_secs_f64();
        say(&format!("replayed {records} records from {what}: all {points} oracle points hold"));
        Ok((points, super::report::rate(records, seconds)))
    }
}

/// Bytes of all tables and indexes of the log and its views.
async fn database_bytes(region: &Region) -> Result<u64, DemoError> {
    use sqlx::Connection;
    let error =
        |source: sqlx::Error| DemoError::Io { doing: "asking the database", source: std::io::Error::other(source) };
    let mut connection = sqlx::PgConnection::connect(&region.superuser_url()).await.map_err(error)?;
    let sql = "SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint FROM pg_class c \
               JOIN pg_namespace n ON n.oid = c.relnamespace \
               WHERE c.relkind = 'r' AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')";
    let bytes: i64 = sqlx::query_scalar(sql).fetch_one(&mut connection).await.map_err(error)?;
    Ok(u64::try_from(bytes).unwrap_or(0))
}
