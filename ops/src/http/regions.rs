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
use domain::{ErrorKind, Head};
use replication::Region;
use replication::cosign;
use replication::failover::{self, FailoverError, Promote, Promoted};
use replication::peer::{NoteMessage, Standing};
use replication::ship::{ShipError, Shipper};
use replication::wire::BATCH_RECORDS_MAX;
use serde::Deserialize;

use super::auth::TokenRole;
use super::body::Act;
use super::problem::Problem;
use super::{ApiState, OPERATORS, carried_through, only, query};

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
}

pub(super) fn routes() -> axum::Router<Arc<ApiState>> {
    axum::Router::new()
        .route("/v1/replication/epoch", only(LOOKERS, get(epoch)))
        .route("/v1/replication/batch", only(REPLICATORS, get(batch)))
        .route("/v1/replication/checkpoint", only(REPLICATORS, get(checkpoint)))
        .route("/v1/replication/cosignature", only(REPLICATORS, post(cosignature)))
        .route("/v1/admin/drain", only(OPERATORS, post(drain)))
        .route("/v1/admin/resume", only(OPERATORS, post(resume)))
        .route("/v1/admin/promote", only(OPERATORS, post(promote)))
        .route("/v1/admin/step-down", only(OPERATORS, post(step_down)))
        .route("/v1/admin/confirm-epoch", only(OPERATORS, post(confirm_epoch)))
}

fn api(state: &ApiState) -> Result<&RegionApi, Problem> {
    let absent = || Problem::new(ErrorKind::NotFound, "this region has no bucket or no signing key: it stands alone");
    state.region_api.as_ref().ok_or_else(absent)
}

fn region(state: &ApiState) -> Result<Arc<Region>, Problem> {
    Ok(api(state)?.region.clone())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct EpochQuery {
    #[serde(default)]
    root: bool,
}

async fn epoch(State(state): State<Arc<ApiState>>, uri: Uri) -> Result<Json<Standing>, Problem> {
    let query: EpochQuery = query(&uri)?;
    Ok(Json(failover::standing(&api(&state)?.region, query.root).await?))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct BatchQuery {
    after: u64,
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
    accepted.map_err(|error| Problem::of(error.kind(), &error))?;
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
