//! Takes the snapshots over, once the events are proven. What cqrs-es 0.5 keeps cannot be told from a right state without
//! the aggregate's code: so each is kept as one that is still to be proven, and the service's first load of it holds it
//! against the events ([`domain::cqrs::snapshot::Snapshot::imported`]).

use domain::StreamVersion;
use domain::cqrs::snapshot::Snapshot;
use futures::{StreamExt as _, TryStreamExt as _};
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::row::stream_of;
use super::source::Source;
use super::survey::{BadRow, BadRows};
use super::{PostgresEsError, PostgresEsImport, opening};

/// Snapshots that are kept at once. More are faster and take more of the log's sessions.
const AT_ONCE: usize = 4;

/// What became of the snapshots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SnapshotsReport {
    /// The newest of each aggregate, taken over: the first load holds each against the events.
    pub taken_over: u64,
    /// Those that the service has made or proven itself since.
    pub made_since: u64,
    /// Older ones of the same aggregates, and those of no event.
    pub left_out: u64,
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
    /// The snapshot that it is, or why it can be none.
    fn snapshot(&self) -> Result<Snapshot, String> {
        let stream = stream_of(&self.aggregate_type, &self.aggregate_id).map_err(|error| error.to_string())?;
        let version = StreamVersion::from_i64(self.last_sequence).ok_or("it is of no version")?;
        let number = usize::try_from(self.current_snapshot).map_err(|_| "its number is negative")?;
        let state: Value = serde_json::from_str(&self.payload).map_err(|error| format!("its state: {error}"))?;
        let snapshot = Snapshot::imported(stream, version, number, state);
        // As it is kept it is nested by one more.
        let kept = serde_json::from_str::<Value>(&snapshot.state.to_string());
        kept.map_err(|error| format!("its state: {error}")).map(|_| snapshot)
    }

    fn bad(&self, reason: &str) -> BadRow {
        BadRow {
            aggregate_type: self.aggregate_type.clone(),
            aggregate_id: self.aggregate_id.clone(),
            sequence: self.last_sequence,
            reason: format!("its snapshot cannot be taken over: {reason}"),
        }
    }

    fn name(&self) -> String {
        let Self { aggregate_type, aggregate_id, last_sequence, .. } = self;
        format!("the snapshot of {aggregate_type:?} {aggregate_id:?} {last_sequence}")
    }
}

/// What the survey found of the snapshots.
pub(super) struct SurveyedSnapshots {
    /// Rows.
    pub(super) all: u64,
    /// The newest of each aggregate.
    pub(super) newest: u64,
}

/// Checks every snapshot before anything is stored; `bad` takes those that cannot be taken over.
///
/// # Errors
/// What keeps from reading.
pub(super) async fn survey(source: &mut Source, bad: &mut BadRows) -> Result<SurveyedSnapshots, PostgresEsError> {
    let (all, ahead) = source.snapshots().await?;
    ahead.into_iter().for_each(|snapshot| bad.add(snapshot));
    let (mut newest, mut rows) = (0, source.newest_snapshots());
    while let Some(row) = rows.try_next().await? {
        newest += 1;
        if let Err(reason) = row.snapshot() {
            bad.add(row.bad(&reason));
        }
    }
    drop(rows);
    Ok(SurveyedSnapshots { all, newest })
}

/// Takes over what was `surveyed`.
///
/// # Errors
/// `Differs` where one is not kept as it was read, or another number is there by now; what keeps from reading.
pub(super) async fn take_over(
    import: &PostgresEsImport,
    source: &mut Source,
    surveyed: &SurveyedSnapshots,
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
    let SurveyedSnapshots { all, newest } = surveyed;
    if taken_over + made_since != *newest {
        let what = format!("the source had {newest} newest snapshots and has {} now", taken_over + made_since);
        return Err(PostgresEsError::Differs { what });
    }
    Ok(SnapshotsReport {
        taken_over,
        made_since,
        left_out: all - newest,
        sha256: opening::hexadecimal(&digest.finalize()),
    })
}

/// Keeps one, and reads what is kept then; `None` if the service has gone on and made its own.
async fn keep(import: &PostgresEsImport, row: &SnapshotRow) -> Result<Option<Snapshot>, PostgresEsError> {
    let differs = |what: &str| PostgresEsError::Differs { what: format!("{} {what}", row.name()) };
    let snapshot = row.snapshot().map_err(|reason| differs(&format!("has changed: {reason}")))?;
    let there = import.snapshots.load(&snapshot.stream).await;
    if there.is_some_and(|there| !there.is_imported()) {
        return Ok(None);
    }
    let head = import.reader.stream_head(&snapshot.stream).await?;
    if head.is_none_or(|head| head.version < snapshot.version) {
        return Err(differs("is of an event that was not imported; stop what writes to the source"));
    }
    import.snapshots.save(snapshot.clone()).await;
    match import.snapshots.load(&snapshot.stream).await {
        Some(kept) if kept == snapshot => Ok(Some(kept)),
        // The service runs already, and was faster.
        Some(kept) if !kept.is_imported() => Ok(None),
        Some(_) => Err(differs("is another one where it was kept")),
        None => Err(PostgresEsError::NotKept { what: row.name() }),
    }
}
