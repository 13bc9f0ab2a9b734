//! The history's way through home: import, ship, seal, verify, confirm, cosign, prune; and its replay.

use std::process::Stdio;
use std::time::Duration;

use domain::Timestamp;
use domain::window::LiveWindow;
use serde::Deserialize;
use tokio::process::Command;

use super::api::{Api, number};
use super::on_disk::{database_bytes, folder_bytes, months_before};
use super::report::{Place, megabytes, rate};
use super::{Demo, DemoError, chapter, check, counted, held, io, note};
use crate::clock::Stopwatch;
use crate::dev::Region;
use crate::dev::process::run_guarded;

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

impl Demo {
    /// The import is its own process, as a person would run it.
    pub(super) async fn import(&mut self) -> Result<(), DemoError> {
        chapter(
            "A history is imported",
            "Every change that people made, as events. The regions' clocks are simulated: the months pass as it goes in.",
        );
        let mut command = Command::new(std::env::current_exe().map_err(io("finding this binary"))?);
        command.arg("--config").arg(&self.home.config).args(["--json", "import", "--recorded-at", "source"]);
        command.arg(&self.history).stderr(Stdio::inherit());
        self.figures.import_watch = Some(Stopwatch::start());
        let output = run_guarded(&mut command).await.map_err(io("running the import"))?;
        check(output.status.success(), || "the import ends well".into())?;
        let imported: Imported =
            serde_json::from_slice(&output.stdout).map_err(|error| DemoError::Check(format!("its report: {error}")))?;
        let expected = u64::try_from(self.oracle.events()).expect("a file has few events");
        check(imported.events == expected, || format!("all {expected} events are new, not {}", imported.events))?;
        self.figures.import(imported.events, imported.append_seconds);
        let per_second = rate(imported.events, imported.append_seconds);
        held(&format!(
            "{} events are durable at home, {} a second",
            counted(imported.events),
            counted(per_second.round())
        ));
        Ok(())
    }

    /// DR has been following all the while; now it catches up.
    pub(super) async fn ship(&mut self) -> Result<(), DemoError> {
        let head = number(&Api::of(&self.home).status().await?.head)?;
        let dr = &self.dr;
        until("dr has every event", || async move {
            let status = Api::of(dr).status().await?;
            Ok((number(&status.head)? >= head).then_some(()))
        })
        .await?;
        self.figures.shipped(head);
        held("dr, which followed all the while, has every one of them");
        Ok(())
    }

    /// Seal everything that is due, then ask both regions to prune until only the window is left.
    pub(super) async fn archive_and_prune(&mut self) -> Result<(), DemoError> {
        chapter(
            "Six months stay live, everything goes into the archive",
            "Sealed, read back, mirrored by dr, confirmed and signed by both: only then a month leaves the databases.",
        );
        let watch = Stopwatch::start();
        let run = Api::of(&self.home).archive_run(true).await?;
        let head = number(&Api::of(&self.home).status().await?.head)?;
        let sealed = run.sealed.last().map_or(Ok(0), |range| number(&range[1]))?;
        check(sealed == head, || format!("everything up to {head} is sealed, not up to {sealed}"))?;
        self.figures.sealed(sealed, run.sealed.len(), watch.elapsed());
        held(&format!("home sealed {} segments", run.sealed.len()));
        note("dr copies and confirms, both sign, both prune");
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
            // The log's own word is not enough: a partition that was detached and not dropped would still lie there.
            let left = months_before(region, cutoff).await?;
            check(left.is_empty(), || format!("{}'s database has no table of older months: {left:?}", region.name))?;
            held(&format!("{aim}, and its database has no table of an older month"));
        }
        self.figures.pruned(watch.elapsed());
        Ok(())
    }

    /// What is where now: the rows of a database are exactly what was not pruned.
    pub(super) async fn show_where_it_is(&mut self) -> Result<(), DemoError> {
        for region in [&self.home, &self.dr] {
            let (status, archive) = (Api::of(region).status().await?, Api::of(region).archive_status().await?);
            let rows = archive.partitions.iter().map(|partition| number(&partition.rows)).sum::<Result<u64, _>>()?;
            let place = Place {
                head: number(&status.head)?,
                pruned: number(&status.pruned)?,
                live: rows,
                archived: number(&archive.archived_head)?,
                segments: archive.segments,
                stored_bytes: number(&archive.stored_bytes)?,
                record_bytes: number(&archive.record_bytes)?,
                database_bytes: database_bytes(region).await?,
                disk_bytes: folder_bytes(region.cluster.data_folder()).map_err(io("measuring the cluster's folder"))?,
            };
            let Place { head, pruned, live, .. } = place;
            check(live == head - pruned, || format!("{}: {live} rows are live, of {pruned}+1 to {head}", region.name))?;
            held(&format!(
                "{}: {} events pruned, {} live in {} months ({}; {} on disk), all {} in {} segments ({})",
                region.name,
                counted(pruned),
                counted(live),
                archive.partitions.len(),
                megabytes(place.database_bytes),
                megabytes(place.disk_bytes),
                counted(place.archived),
                place.segments,
                megabytes(place.stored_bytes),
            ));
            self.figures.place(region.name, &place);
        }
        Ok(())
    }

    /// Reads the whole log through the API and holds it against the oracle at each of its points.
    pub(super) async fn replay(&self, region: &Region) -> Result<(usize, f64), DemoError> {
        let watch = Stopwatch::start();
        let mut replay = self.oracle.replay();
        let records = Api::of(region).log::<DemoError>(1, None, |line| Ok(replay.take(line)?)).await?;
        let points = replay.finish()?;
        check(points == self.oracle.points(), || "every oracle point is reached".into())?;
        let seconds = watch.elapsed().as_secs_f64();
        held(&format!("{} records: the whole history, in its order, nothing missing or doubled", counted(records)));
        if points > 0 {
            held(&format!("at {points} points in time the items that lived are those that the history's oracle names"));
        }
        Ok((points, rate(records, seconds)))
    }
}
