//! What regions ask each other, and what operators ask of a region: `/v1/replication/*` and `/v1/admin/*`.
//!
//! The acts are replication's and the archiver's; this module reads, hands over and answers. Nothing of a
//! switchover is kept here: whoever drives it looks again after each step.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use domain::archive::catalog::EvidenceStore;
use domain::evidence::EvidenceError;
use domain::{ErrorKind, Head};
use replication::Region;
use replication::cosign::{self, CosignError};
use replication::failover::{self, FailoverError, Promote, Promoted};
use replication::peer::{NoteMessage, Standing};
use replication::ship::{ShipError, Shipper};
use replication::wire::BATCH_RECORDS_MAX;
use schemars::JsonSchema;
use serde::Deserialize;

use super::auth::TokenRole;
use super::body::Act;
use super::problem::Problem;
use super::route::{Answer, Body, JSON, Route, between_regions, bytes, members};
use super::{ApiState, OPERATORS, carried_through, query};

const REPLICATORS: &[TokenRole] = &[TokenRole::Replicator];
/// Whoever drives a switchover looks at both regions.
const LOOKERS: &[TokenRole] = &[TokenRole::Replicator, TokenRole::Operator];

/// A region that speaks to another, as the API serves it.
pub struct RegionApi {
    region: Arc<Region>,
    shipper: Shipper,
}

impl RegionApi {
    /// The API of `region`.
    #[must_use]
    pub fn new(region: Arc<Region>) -> Self {
        Self { shipper: Shipper::new(region.clone()), region }
    }

    /// What both regions have signed; `None` where there is no other one.
    pub(super) fn evidence(&self) -> Option<Arc<dyn EvidenceStore>> {
        self.region.peer.is_some().then(|| self.region.evidence.clone())
    }
}

pub(super) static ROUTES: &[Route] = &[
    Route {
        summary: "Where this region stands",
        kinds: KINDS,
        query: Some(members::<EpochQuery>),
        example: &[("root", "true")],
        ..Route::get("/v1/replication/epoch", LOOKERS, || get(epoch), STANDING)
    },
    Route {
        summary: "Records after a position, as a follower takes them",
        kinds: KINDS,
        query: Some(members::<BatchQuery>),
        example: &[("after", "0"), ("limit", "1")],
        ..Route::get(
            "/v1/replication/batch",
            REPLICATORS,
            || get(batch),
            &[Answer::json("A batch", &[("application/zstd", bytes)])],
        )
    },
    Route {
        summary: "The signed checkpoint that waits for a cosignature",
        kinds: KINDS,
        ..Route::get("/v1/replication/checkpoint", REPLICATORS, || get(checkpoint), NOTE)
    },
    Route {
        summary: "Hand in a cosigned checkpoint",
        kinds: KINDS,
        bodies: &[Body { media: JSON, shape: between_regions, example: r#"{"note": "no checkpoint\\n"}"# }],
        ..Route::post("/v1/replication/cosignature", REPLICATORS, || post(cosignature), NOTE)
    },
    Route {
        summary: "Take no appends any more, for a switchover",
        kinds: KINDS,
        ..Route::post("/v1/admin/drain", OPERATORS, || post(drain), STANDING)
    },
    Route {
        summary: "Take appends again, after a drain",
        kinds: KINDS,
        ..Route::post("/v1/admin/resume", OPERATORS, || post(resume), STANDING)
    },
    Route {
        summary: "Become the active region",
        kinds: KINDS,
        bodies: &[Body {
            media: JSON,
            shape: between_regions,
            example: r#"{"mode": "planned", "head": "1", "root": "0000000000000000000000000000000000000000000000000000000000000000"}"#,
        }],
        ..Route::post(
            "/v1/admin/promote",
            OPERATORS,
            || post(promote),
            &[Answer::json("Promoted", &[(JSON, between_regions)])],
        )
    },
    Route {
        summary: "Become a follower",
        kinds: KINDS,
        ..Route::post("/v1/admin/step-down", OPERATORS, || post(step_down), STANDING)
    },
    Route {
        summary: "Confirm the epoch in force",
        kinds: KINDS,
        ..Route::post("/v1/admin/confirm-epoch", OPERATORS, || post(confirm_epoch), STANDING)
    },
];

const STANDING: &[Answer] = &[Answer::json("Where the region stands", &[(JSON, between_regions)])];
const NOTE: &[Answer] = &[Answer::json("A signed note, or null", &[(JSON, between_regions)])];

/// What can be wrong between regions.
const KINDS: &[ErrorKind] = &[
    ErrorKind::Conflict,
    ErrorKind::Fenced,
    ErrorKind::Unavailable,
    ErrorKind::Indeterminate,
    ErrorKind::Invalid,
    ErrorKind::Held,
    ErrorKind::Forked,
    ErrorKind::Corrupt,
    ErrorKind::NotFound,
];

fn api(state: &ApiState) -> Result<&RegionApi, Problem> {
    let absent = || Problem::new(ErrorKind::NotFound, "this region has no bucket or no signing key: it stands alone");
    state.region_api.as_ref().ok_or_else(absent)
}

fn region(state: &ApiState) -> Result<Arc<Region>, Problem> {
    Ok(api(state)?.region.clone())
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct EpochQuery {
    /// Whether to say the root of the tree at the head too: it costs a read.
    #[serde(default)]
    root: bool,
}

async fn epoch(State(state): State<Arc<ApiState>>, uri: Uri) -> Result<Json<Standing>, Problem> {
    let query: EpochQuery = query(&uri)?;
    Ok(Json(failover::standing(&api(&state)?.region, query.root).await?))
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct BatchQuery {
    /// The head of who asks.
    after: u64,
    /// Records at most.
    limit: Option<usize>,
}

async fn batch(State(state): State<Arc<ApiState>>, uri: Uri) -> Result<Response, Problem> {
    let query: BatchQuery = query(&uri)?;
    let after = Head::new(query.after).ok_or_else(|| Problem::invalid("after is no position"))?;
    let body = api(&state)?.shipper.batch(after, query.limit.unwrap_or(BATCH_RECORDS_MAX)).await?;
    Ok(([(header::CONTENT_TYPE, "application/zstd")], body).into_response())
}

async fn checkpoint(State(state): State<Arc<ApiState>>) -> Result<Json<NoteMessage>, Problem> {
    let waiting = cosign::waiting(&api(&state)?.region).await;
    Ok(Json(NoteMessage { note: waiting.map_err(|error| Problem::of(error.kind(), &error))? }))
}

async fn cosignature(
    State(state): State<Arc<ApiState>>,
    Act(message): Act<NoteMessage>,
) -> Result<Json<NoteMessage>, Problem> {
    let note = message.note.ok_or_else(|| Problem::invalid("note is missing"))?;
    let accepted = cosign::accept(&api(&state)?.region, &note).await;
    accepted.map_err(|error| match error {
        // Of stored bytes it would mean rot; these were sent.
        CosignError::Checkpoint(_) | CosignError::Evidence(EvidenceError::Checkpoint(_)) => {
            Problem::of(ErrorKind::Invalid, &error)
        }
        _ => Problem::of(error.kind(), &error),
    })?;
    Ok(Json(NoteMessage { note: Some(note) }))
}

async fn drain(State(state): State<Arc<ApiState>>) -> Result<Json<Standing>, Problem> {
    let region = region(&state)?;
    Ok(Json(carried_through(async move { failover::drain(&region).await }).await?))
}

async fn resume(State(state): State<Arc<ApiState>>) -> Result<Json<Standing>, Problem> {
    let region = region(&state)?;
    Ok(Json(carried_through(async move { failover::resume(&region).await }).await?))
}

async fn promote(State(state): State<Arc<ApiState>>, Act(request): Act<Promote>) -> Result<Json<Promoted>, Problem> {
    let region = region(&state)?;
    Ok(Json(carried_through(async move { failover::promote(&region, &request).await }).await?))
}

async fn step_down(State(state): State<Arc<ApiState>>) -> Result<Json<Standing>, Problem> {
    let region = region(&state)?;
    Ok(Json(carried_through(async move { failover::step_down(&region).await }).await?))
}

async fn confirm_epoch(State(state): State<Arc<ApiState>>) -> Result<Json<Standing>, Problem> {
    let region = region(&state)?;
    Ok(Json(carried_through(async move { failover::confirm(&region).await }).await?))
}

impl From<FailoverError> for Problem {
    fn from(error: FailoverError) -> Self {
        Self::of(error.kind(), &error)
    }
}

impl From<ShipError> for Problem {
    fn from(error: ShipError) -> Self {
        Self::of(error.kind(), &error)
    }
}
