//! What the archive says of itself, and what an operator asks of it.

use std::sync::Arc;

use archiver::seal::Demand;
use archiver::{ArchiveError, sweep};
use axum::Json;
use axum::extract::State;
use axum::routing::{get, post};
use domain::archive::catalog::{Catalog, CatalogError, EvidenceStore, LivePartitions};
use domain::store::StoreError;
use domain::{ErrorKind, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::body::Act;
use super::problem::Problem;
use super::route::{Answer, Body, JSON, Route, shape};
use super::scope::Touches;
use super::{ApiState, EVERYONE, OPERATORS, carried_through};
use crate::archive::ArchiveNode;
use crate::clock::SimulatedClock;

/// The archive, as the API serves it.
pub struct ArchiveApi {
    /// The archive's work.
    pub node: Arc<ArchiveNode>,
    /// What is archived.
    pub catalog: Arc<dyn Catalog>,
    /// What is signed.
    pub evidence: Arc<dyn EvidenceStore>,
    /// What is live.
    pub partitions: Arc<dyn LivePartitions>,
}

/// `GET /v1/archive/status`. 64-bit numbers are strings, as in the record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ArchiveStatus {
    /// Segments in force.
    pub segments: String,
    /// Position of the newest archived event.
    pub archived_head: String,
    /// Segments that this region read back whole.
    pub verified: String,
    /// Segments that another store's confirmation was checked for.
    pub confirmed: String,
    /// Bytes of the stored objects, indexes included.
    pub stored_bytes: String,
    /// Bytes of the records in them.
    pub record_bytes: String,
    /// When the longest unread segment was last read.
    pub oldest_verified_at: Option<String>,
    /// Epoch and number of the last manifest.
    pub manifest: Option<[String; 2]>,
    /// Size of the newest checkpoint that both regions signed.
    pub cosigned_head: Option<String>,
    /// The months that are live, oldest first.
    pub partitions: Vec<PartitionStatus>,
}

/// One month of the live log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PartitionStatus {
    /// Start of the month.
    pub month: String,
    /// First position.
    pub first: String,
    /// Last position so far.
    pub last: String,
    /// Rows.
    pub rows: String,
}

/// What a run of the archive did: the answer to `POST /v1/admin/archive-run`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ArchiveRun {
    /// Segments that were sealed, as first and last position.
    pub sealed: Vec<[String; 2]>,
    /// Why none was sealed, if this region does not seal.
    pub not_sealed: Option<String>,
    /// Months that were pruned.
    pub pruned: Vec<String>,
    /// The month that should go and has to stay, and why.
    pub waiting: Option<String>,
}

/// What a scrub found: the answer to `POST /v1/admin/scrub`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ScrubRun {
    /// Segments read again.
    pub segments: String,
    /// Bytes read again.
    pub bytes: String,
    /// Objects that were damaged.
    pub damaged: String,
    /// Objects of which no good copy was to be had.
    pub lost: Vec<String>,
}

/// Objects that an interrupted seal left behind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Orphans {
    /// Their keys.
    pub keys: Vec<String>,
}

pub(super) static ROUTES: &[Route] = &[
    Route {
        summary: "What is archived, verified, confirmed and pruned",
        touches: Touches::Nothing,
        kinds: &[ErrorKind::NotFound, ErrorKind::Corrupt],
        ..Route::get(
            "/v1/archive/status",
            EVERYONE,
            || get(status),
            &[Answer::json("It", &[(JSON, shape::<ArchiveStatus>)])],
        )
    },
    Route {
        summary: "Seal what is due and prune what is proven, now",
        bodies: &[Body { media: JSON, shape: shape::<RunRequest>, example: r#"{"everything": true}"# }],
        kinds: OF_ACTS,
        ..Route::post(
            "/v1/admin/archive-run",
            OPERATORS,
            || post(run),
            &[Answer::json("Done", &[(JSON, shape::<ArchiveRun>)])],
        )
    },
    Route {
        summary: "Read stored objects again, and heal what is damaged",
        bodies: &[Body { media: JSON, shape: shape::<ScrubRequest>, example: r#"{"bytes": 1000000}"# }],
        kinds: OF_ACTS,
        ..Route::post(
            "/v1/admin/scrub",
            OPERATORS,
            || post(scrub),
            &[Answer::json("Done", &[(JSON, shape::<ScrubRun>)])],
        )
    },
    Route {
        summary: "Objects that an interrupted seal left behind in the bucket of the region that seals",
        kinds: OF_ACTS,
        ..Route::get(
            "/v1/archive/orphans",
            OPERATORS,
            || get(orphans),
            &[Answer::json("They", &[(JSON, shape::<Orphans>)])],
        )
    },
    Route {
        summary: "Remove objects that an interrupted seal left behind",
        bodies: &[Body { media: JSON, shape: shape::<SweepRequest>, example: "{}" }],
        kinds: OF_ACTS,
        ..Route::post(
            "/v1/admin/sweep",
            OPERATORS,
            || post(remove_orphans),
            &[Answer::json("What was removed", &[(JSON, shape::<Orphans>)])],
        )
    },
    Route {
        summary: "Move simulated time on, in a log that was created with it",
        bodies: &[Body { media: JSON, shape: shape::<ClockRequest>, example: r#"{"now": "2030-01-01T00:00:00Z"}"# }],
        kinds: OF_ACTS,
        ..Route::post(
            "/v1/admin/clock",
            OPERATORS,
            || post(clock),
            &[Answer::json("Done", &[(JSON, shape::<ClockRequest>)])],
        )
    },
];

/// What an act on the archive may fail with.
const OF_ACTS: &[ErrorKind] = &[
    ErrorKind::Conflict,
    ErrorKind::Fenced,
    ErrorKind::Held,
    ErrorKind::Forked,
    ErrorKind::Corrupt,
    ErrorKind::NotFound,
];

fn archive(state: &ApiState) -> Result<&ArchiveApi, Problem> {
    let absent = || Problem::new(ErrorKind::NotFound, "this region has no bucket: archive.store is not configured");
    state.archive.as_ref().ok_or_else(absent)
}

async fn status(State(state): State<Arc<ApiState>>) -> Result<Json<ArchiveStatus>, Problem> {
    let archive = archive(&state)?;
    let totals = archive.catalog.totals().await?;
    let cosigned = archive.evidence.newest_checkpoint(true).await?;
    let manifest = archive.catalog.last_manifest().await?;
    let partitions = archive.partitions.partitions().await?.into_iter().map(|partition| PartitionStatus {
        month: partition.month.to_string(),
        first: partition.first.to_string(),
        last: partition.last.to_string(),
        rows: partition.rows.to_string(),
    });
    Ok(Json(ArchiveStatus {
        segments: totals.segments.to_string(),
        archived_head: totals.archived.to_string(),
        verified: totals.verified.to_string(),
        confirmed: totals.confirmed.to_string(),
        stored_bytes: totals.stored_bytes.to_string(),
        record_bytes: totals.record_bytes.to_string(),
        oldest_verified_at: totals.oldest_verified_at.map(|at| at.to_string()),
        manifest: manifest.map(|manifest| [manifest.epoch.to_string(), manifest.number.to_string()]),
        cosigned_head: cosigned.map(|checkpoint| checkpoint.size.to_string()),
        partitions: partitions.collect(),
    }))
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RunRequest {
    /// Seal up to the head, whatever the rules say.
    #[serde(default)]
    everything: bool,
}

/// Seals what is due and prunes what is proven, now instead of at the workers' next round.
async fn run(State(state): State<Arc<ApiState>>, Act(request): Act<RunRequest>) -> Result<Json<ArchiveRun>, Problem> {
    let node = archive(&state)?.node.clone();
    let demand = if request.everything { Demand::Everything } else { Demand::ByRules };
    Ok(Json(carried_through(async move { seal_and_prune(&node, demand).await }).await?))
}

async fn seal_and_prune(node: &ArchiveNode, demand: Demand) -> Result<ArchiveRun, ArchiveError> {
    let (sealed, not_sealed) = match node.sealer.lock().await.run(demand).await {
        Ok(sealed) => (sealed, None),
        // A follower's archive is mirrored, not sealed; it prunes all the same.
        Err(error @ ArchiveError::NotActive { .. }) => (Vec::new(), Some(error.to_string())),
        Err(error) => return Err(error),
    };
    let report = node.prune().await?;
    Ok(ArchiveRun {
        sealed: sealed.iter().map(|segment| [segment.first.to_string(), segment.last.to_string()]).collect(),
        not_sealed,
        pruned: report.pruned.iter().map(|partition| partition.month.to_string()).collect(),
        waiting: report.waiting.map(|waiting| waiting.to_string()),
    })
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ScrubRequest {
    /// Bytes to read again at most; absent: all.
    bytes: Option<u64>,
}

async fn scrub(State(state): State<Arc<ApiState>>, Act(request): Act<ScrubRequest>) -> Result<Json<ScrubRun>, Problem> {
    let node = archive(&state)?.node.clone();
    let budget = request.bytes.unwrap_or(u64::MAX);
    let report = carried_through(async move { node.scrub(budget).await }).await?;
    Ok(Json(ScrubRun {
        segments: report.segments.to_string(),
        bytes: report.bytes.to_string(),
        damaged: report.damaged.to_string(),
        lost: report.lost,
    }))
}

async fn orphans(State(state): State<Arc<ApiState>>) -> Result<Json<Orphans>, Problem> {
    Ok(Json(Orphans { keys: sweep::find(&archive(&state)?.node.sweep).await? }))
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SweepRequest {}

/// Looks again and removes what it finds: a list that is some minutes old is no reason to remove anything.
async fn remove_orphans(
    State(state): State<Arc<ApiState>>,
    Act(SweepRequest {}): Act<SweepRequest>,
) -> Result<Json<Orphans>, Problem> {
    let io = archive(&state)?.node.sweep.clone();
    let removed = async move {
        let keys = sweep::find(&io).await?;
        sweep::remove(&io, &keys).await.map(|()| keys)
    };
    Ok(Json(Orphans { keys: carried_through(removed).await? }))
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ClockRequest {
    /// The time (RFC 3339).
    now: String,
}

/// Moves simulated time on, in a log that was created with it.
async fn clock(
    State(state): State<Arc<ApiState>>,
    Act(request): Act<ClockRequest>,
) -> Result<Json<ClockRequest>, Problem> {
    let now = Timestamp::parse_rfc3339(&request.now).map_err(|error| Problem::of(ErrorKind::Invalid, &error))?;
    let real = || Problem::new(ErrorKind::Conflict, "this log was created with real time");
    let clock: &Arc<dyn SimulatedClock> = state.simulated.as_ref().ok_or_else(real)?;
    clock.move_to(now).await.map_err(|error| Problem::of(ErrorKind::Unavailable, &error))?;
    Ok(Json(ClockRequest { now: now.to_string() }))
}

impl From<ArchiveError> for Problem {
    fn from(error: ArchiveError) -> Self {
        // What a store refuses is wrong in its settings or in ours, and not in what was asked of us.
        let kind = match &error {
            ArchiveError::Store(StoreError::Refused { .. }) => ErrorKind::Unavailable,
            other => other.kind(),
        };
        Self::of(kind, &error)
    }
}

impl From<CatalogError> for Problem {
    fn from(error: CatalogError) -> Self {
        Self::of(error.kind(), &error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_store_refuses_is_no_fault_of_whoever_asks_for_a_run() {
        let refused = StoreError::Refused { key: "manifest/1".into(), reason: "no such bucket".into() };
        let problem = Problem::from(ArchiveError::Store(refused)).of_request("1");
        assert_eq!((&problem["status"], &problem["kind"]), (&503.into(), &"unavailable".into()));
    }
}
