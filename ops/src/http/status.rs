//! What the process says of itself: health for load balancers, status for people, metrics for Prometheus.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use domain::append::{LogHead, Role};
use domain::{ErrorKind, Timestamp};
use schemars::generate::SchemaGenerator;
use schemars::{JsonSchema, Schema, json_schema};
use serde::{Deserialize, Serialize};

use super::metrics::families::{
    BUILD_INFO, LOG_EPOCH, LOG_HEAD, LOG_PRUNED, LOG_RECORDED_AT, LOG_ROLE, LOG_UP, WORKER_FAILURES, WORKER_ROUNDS,
    WORKER_SUCCEEDED, WORKER_UP,
};
use super::metrics::{Family, MetricsText};
use super::problem::Problem;
use super::route::{Answer, JSON, Route, TEXT, shape, text};
use super::scope::Touches;
use super::{ApiState, EVERYONE};
use crate::clock::Stopwatch;
use crate::workers::WorkerStatus;

/// The log has to answer a health check within this time.
const READY_WITHIN: Duration = Duration::from_secs(2);
/// The database has this long for all that a scrape asks of it.
const SCRAPE_WITHIN: Duration = Duration::from_secs(2);

pub(super) static ROUTES: &[Route] = &[
    Route {
        summary: "Where the log ends, what this region may do, and how its workers are",
        touches: Touches::Nothing,
        kinds: &[ErrorKind::Corrupt],
        ..Route::get("/v1/status", EVERYONE, || get(status), &[Answer::json("It", &[(JSON, shape::<Status>)])])
    },
    Route {
        summary: "Metrics in Prometheus' text format",
        touches: Touches::Nothing,
        ..Route::get("/metrics", EVERYONE, || get(metrics), &[Answer::json("They", &[(TEXT, text)])])
    },
    Route {
        summary: "Whether the process runs",
        ..Route::get("/health/live", &[], || get(async || LIVE), &[Answer::json("It does", &[(TEXT, live_bodies)])])
    },
    Route {
        summary: "Whether the log answers, and the process is not about to end; the body says the role",
        kinds: &[ErrorKind::Unavailable],
        ..Route::get("/health/ready", &[], || get(ready), READY)
    },
];

const LIVE: &str = "live\n";

const READY: &[Answer] = &[Answer::json(
    "It does. Appends are taken with the role `active` alone, and answered with 503 `fenced` with any other; reads are served \
     with each",
    &[(TEXT, ready_bodies)],
)];

const ROLES: [Role; 4] = [Role::Active, Role::Follower, Role::Draining, Role::ReadOnly];

fn live_bodies(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "enum": [LIVE]})
}

fn ready_bodies(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "enum": ROLES.map(ready_as)})
}

fn ready_as(role: Role) -> String {
    format!("ready {}\n", role.as_str())
}

/// `GET /v1/status`. 64-bit numbers are strings, as in the record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    /// The region's name.
    pub region: String,
    /// Name of the log, the same in all regions.
    pub log_id: String,
    /// Position of the newest event.
    pub head: String,
    /// When it was recorded.
    pub recordedat: String,
    /// Epoch in force here.
    pub epoch: String,
    /// `active`, `follower`, `draining` or `read_only`.
    pub role: String,
    /// Every position up to here is out of the live log.
    pub pruned: String,
    /// Whether the log's time is simulated.
    pub simulated: bool,
    /// What an operator has accepted and should not forget.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// The background workers, by name.
    pub workers: BTreeMap<String, WorkerReport>,
}

/// One worker in [`Status`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WorkerReport {
    /// `working`, `failing` or `ended`.
    pub state: String,
    /// Rounds without an error.
    pub rounds: u64,
    /// Rounds with an error.
    pub failures: u64,
    /// When a round last ended without an error.
    pub succeeded_at: Option<String>,
    /// When a round last ended with an error.
    pub failed_at: Option<String>,
    /// That error, with its whole chain.
    pub error: Option<String>,
    /// What the worker says of itself.
    pub note: String,
}

impl From<WorkerStatus> for WorkerReport {
    fn from(status: WorkerStatus) -> Self {
        let state = match (status.ended, status.is_failing()) {
            (true, _) => "ended",
            (false, true) => "failing",
            (false, false) => "working",
        };
        let (failed_at, error) = status.failed.map(|(at, error)| (at.to_string(), error)).unzip();
        Self {
            state: state.to_owned(),
            rounds: status.rounds,
            failures: status.failures,
            succeeded_at: status.succeeded_at.map(|at| at.to_string()),
            failed_at,
            error,
            note: status.note,
        }
    }
}

impl Status {
    fn of(state: &ApiState, head: LogHead) -> Self {
        let workers = state.workers.statuses().into_iter();
        Self {
            region: state.region.clone(),
            log_id: head.log_id,
            head: head.head.to_string(),
            recordedat: head.recorded_at.to_string(),
            epoch: head.epoch.to_string(),
            role: head.role.as_str().to_owned(),
            pruned: head.pruned.to_string(),
            simulated: head.simulated,
            warnings: state.warnings.clone(),
            workers: workers.map(|(name, status)| (name.to_owned(), status.into())).collect(),
        }
    }
}

pub(super) async fn status(State(state): State<Arc<ApiState>>) -> Result<Json<Status>, Problem> {
    let head = state.log.log_head().await?;
    Ok(Json(Status::of(&state, head)))
}

/// 200 while the log answers and this process is not about to end. The body says the role, so that a load balancer may send appends to the active
/// region alone. No token is asked for, so nothing else is said, and the database is asked five times a second at most.
pub(super) async fn ready(State(state): State<Arc<ApiState>>) -> Result<String, Problem> {
    if state.leaving.is_cancelled() {
        return Err(Problem::new(ErrorKind::Unavailable, "the server is about to end: send requests to another one"));
    }
    match tokio::time::timeout(READY_WITHIN, state.role()).await {
        Ok(Ok(role)) => Ok(ready_as(role)),
        Ok(Err(error)) => {
            tracing::warn!(error = %crate::chain::chain(&error), "not ready");
            Err(Problem::new(ErrorKind::Unavailable, "the log does not answer"))
        }
        Err(_) => Err(Problem::new(ErrorKind::Unavailable, "the log does not answer in time")),
    }
}

/// A database that does not answer takes its own numbers away, and the others neither away nor back for long: what is
/// asked after the head shares its limit.
pub(super) async fn metrics(State(state): State<Arc<ApiState>>) -> Response {
    let watch = Stopwatch::start();
    let mut text = MetricsText::default();
    text.value(&BUILD_INFO, &[env!("CARGO_PKG_VERSION"), &state.region], 1);
    state.write_metrics(&mut text);
    for (name, status) in state.workers.statuses() {
        write_worker(&mut text, name, &status);
    }
    let head = match tokio::time::timeout(SCRAPE_WITHIN, state.log.log_head()).await {
        Ok(Ok(head)) => Some(head),
        Ok(Err(error)) => {
            tracing::warn!(error = %crate::chain::chain(&error), "the log's metrics are left out");
            None
        }
        Err(_) => {
            tracing::warn!("the log's metrics are left out: it does not answer in time");
            None
        }
    };
    write_head(&mut text, head.as_ref());
    state.tails.write(&mut text, head.as_ref().map(|head| head.head));
    let limit = SCRAPE_WITHIN.saturating_sub(watch.elapsed());
    state.numbers.write(&mut text, head.as_ref(), limit).await;
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text.finish()).into_response()
}

fn write_head(text: &mut MetricsText, head: Option<&LogHead>) {
    text.value(&LOG_UP, &[], u8::from(head.is_some()));
    let Some(head) = head else { return };
    text.value(&LOG_HEAD, &[], head.head);
    text.value(&LOG_RECORDED_AT, &[], unix_seconds(head.recorded_at));
    text.value(&LOG_PRUNED, &[], head.pruned);
    text.value(&LOG_EPOCH, &[], head.epoch);
    write_role(text, &LOG_ROLE, head.role);
}

/// All roles, so that a series never goes on to say what a region once was.
pub(crate) fn write_role(text: &mut MetricsText, family: &'static Family, is: Role) {
    for role in ROLES {
        text.value(family, &[role.as_str()], u8::from(role == is));
    }
}

/// Seconds since 1970, with their fraction.
pub(crate) fn unix_seconds(at: Timestamp) -> f64 {
    seconds(at.unix_micros())
}

/// Microseconds as seconds: of any instant, exact to the microsecond.
pub(crate) fn seconds(micros: i64) -> f64 {
    micros as f64 / 1e6
}

fn write_worker(text: &mut MetricsText, name: &str, status: &WorkerStatus) {
    text.value(&WORKER_UP, &[name], u8::from(!status.is_failing()));
    text.value(&WORKER_ROUNDS, &[name], status.rounds);
    text.value(&WORKER_FAILURES, &[name], status.failures);
    if let Some(at) = status.succeeded_at {
        text.value(&WORKER_SUCCEEDED, &[name], unix_seconds(at));
    }
}
