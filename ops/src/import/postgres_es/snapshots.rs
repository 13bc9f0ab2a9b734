//! Takes the snapshots over, once the events are proven. What cqrs-es 0.5 keeps cannot be told from a right state without
//! the aggregate's code: so each is kept as one that is still to be proven, and the service's first load of it holds it
//! against the events ([`domain::cqrs::snapshot::Snapshot::imported`]).

use domain::StreamVersion;
use domain::cqrs::snapshot::Snapshot;
use futures::{StreamExt as _, TryStreamExt as _};
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::source::Source;
use super::{PostgresEsError, PostgresEsImport, opening};

/// Snapshots that are kept at once. More are faster and take more of the log's sessions.
const AT_ONCE: usize = 4;

/// What became of the snapshots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SnapshotsReport {
    /// The newest of each aggregate, taken over: the first load holds each against the events.
    pub taken_over: u64,
    /// Those of which the service has made one of its own since.
    pub made_since: u64,
    /// SHA-256 over those that were taken over, hexadecimal: the same over the source's rows and over what is kept.
    pub sha256: String,
}

/// A row of the source's table.
pub(super) struct SnapshotRow {
    pub(super) aggregate_type: String,
    pub(super) aggregate_id: String,
    pub(super) last_sequence: i64,
    pub(super) current_snapshot: i64,
    pub(super) payload: String,
}

impl SnapshotRow {
    /// The snapshot that it is, if its numbers and names can be.
    fn snapshot(&self) -> Option<Snapshot> {
        let stream = super::row::stream_of(&self.aggregate_type, &self.aggregate_id).ok()?;
        let version = StreamVersion::from_i64(self.last_sequence)?;
        let number = usize::try_from(self.current_snapshot).ok()?;
        let state: Value = serde_json::from_str(&self.payload).ok()?;
        Some(Snapshot::imported(stream, version, number, state))
    }

    fn name(&self) -> String {
        let Self { aggregate_type, aggregate_id, last_sequence, .. } = self;
        format!("the snapshot of {aggregate_type:?} {aggregate_id:?} {last_sequence}")
    }
}

/// # Errors
/// `Differs` where one is not kept as it was read; what keeps from reading.
pub(super) async fn take_over(
    import: &PostgresEsImport,
    source: &mut Source,
) -> Result<SnapshotsReport, PostgresEsError> {
    let (mut digest, mut taken_over, mut made_since) = (Sha256::new(), 0, 0);
    source.begin_snapshot().await?;
    let mut kept = source.newest_snapshots().map(|row| async { keep(import, &row?).await }).buffered(AT_ONCE);
    while let Some(snapshot) = kept.try_next().await? {
        let Some(Snapshot { stream, version, number, state }) = snapshot else {
            made_since += 1;
            continue;
        };
        taken_over += 1;
        digest.update(format!("{stream}\0{version}\0{number}\0{state}\n"));
    }
    drop(kept);
    source.end_snapshot().await?;
    Ok(SnapshotsReport { taken_over, made_since, sha256: opening::hexadecimal(&digest.finalize()) })
}

/// Keeps one, and reads what is kept then; `None` if the service has gone on and made its own.
async fn keep(import: &PostgresEsImport, row: &SnapshotRow) -> Result<Option<Snapshot>, PostgresEsError> {
    let differs = |what: &str| PostgresEsError::Differs { what: format!("{} {what}", row.name()) };
    let snapshot = row.snapshot().ok_or_else(|| differs("is none that can be kept"))?;
    let there = import.snapshots.load(&snapshot.stream).await;
    if there.is_some_and(|there| !there.is_imported()) {
        return Ok(None);
    }
    import.snapshots.save(snapshot.clone()).await;
    match import.snapshots.load(&snapshot.stream).await {
        Some(kept) if kept == snapshot => Ok(Some(kept)),
        Some(_) => Err(differs("is another one where it was kept")),
        None => Err(differs("was not kept; the log of this program says why")),
    }
}
