//! The HTTP API: what comes in, who may, and how it is answered. It decides nothing about events.
//!
//! | route | role | |
//! |---|---|---|
//! | `POST /v1/append` | appender | [`append`] |
//! | `GET /v1/log`, `/v1/stream`, `/v1/content/history` | appender, reader, auditor | [`read`], [`search`] |
//! | `GET /v1/content`, `/v1/content/list` | appender, reader, auditor | [`content`] |
//! | `GET /v1/groups`, `/v1/group/*` | appender, reader; some operator, auditor | [`groups`] |
//! | `GET /v1/status`, `GET /metrics` | any | [`status`] |
//! | `GET /v1/openapi.json` | any | [`openapi`] |
//! | `GET /v1/archive/status`, `POST /v1/admin/{archive-run,scrub,clock}` | any; operator | [`archive`] |
//! | `/v1/replication/*`, `POST /v1/admin/{drain,resume,promote,step-down,confirm-epoch}` | replicator; operator | [`regions`] |
//! | `GET /health/live`, `GET /health/ready` | no token | [`status`] |
//!
//! Every answer carries `X-Request-Id`: the client's own, or one made here; it stands in the log too.
//! Once a shutdown has begun, what was accepted is answered and what was not is refused as Unavailable.

mod append;
pub mod archive;
mod at_least;
mod audit;
pub mod auth;
mod body;
mod coding;
mod confirmed;
mod connections;
pub mod content;
mod follow;
pub mod groups;
mod handshake;
mod held;
pub mod metrics;
pub mod openapi;
mod page;
mod patience;
pub mod problem;
mod range;
mod rates;
mod read;
pub mod regions;
mod resume;
mod room;
mod route;
mod scan;
pub mod scope;
mod search;
mod server;
pub mod status;
mod tails;
mod trace;

#[cfg(test)]
mod tests;

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, MatchedPath, Query, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::MethodRouter;
use domain::ErrorKind;
use domain::append::Role;
use domain::log::{EventLog, LogReader, ReadError};
use event_log::Looks;
use futures::FutureExt;
use projections::content::ContentNow;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::chance;
use crate::clock::{SimulatedClock, Stopwatch};
use crate::config::{HttpConfig, RatesConfig};
use crate::groups::Groups;
use crate::spans::Spans;
use crate::tls::ServerTls;
use crate::workers::Workers;
use archive::ArchiveApi;
use audit::Asked;
use auth::{TokenRole, Tokens};
use confirmed::ConfirmedLog;
use metrics::families::{HTTP_BODIES, HTTP_BODIES_LIMIT};
use metrics::{ApiMetrics, MetricsText, Numbers};
use problem::Problem;
use rates::Rates;
use regions::RegionApi;
use room::Bodies;
use route::Route;
use scan::Readers;
use tails::Tails;
use trace::Course;

pub use connections::Connections;
pub use server::{Door, PeerAddress, ServeError, serve};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// A client's own request id is at most this long; a longer one is replaced.
const REQUEST_ID_BYTES_MAX: usize = 128;
/// Routes of operators' acts start so.
const ACTS: &str = "/v1/admin/";
/// An act is answered within this time: a promotion claims epochs in buckets that may not answer.
const ACT_LIMIT: Duration = Duration::from_secs(300);

/// What the API serves, put together by the composition root.
pub struct Parts {
    /// This region's name.
    pub region: String,
    /// The live log, which takes appends.
    pub log: Arc<dyn EventLog>,
    /// Live log and archive as one.
    pub reader: Arc<dyn LogReader>,
    /// The consumer groups of the log.
    pub groups: Groups,
    /// The view "content now".
    pub content: ContentNow,
    /// Who may come in.
    pub tokens: Arc<dyn Tokens>,
    /// TLS of the door, for its numbers.
    pub tls: Option<Arc<ServerTls>>,
    /// Cancelled a while before the shutdown: load balancers are told to go elsewhere, and what comes is served.
    pub leaving: CancellationToken,
    /// What the background workers last did.
    pub workers: Workers,
    /// What an operator has accepted and should not forget.
    pub warnings: Vec<String>,
    /// The archive, if there is one.
    pub archive: Option<ArchiveApi>,
    /// What the other region asks for, if there can be one.
    pub region_api: Option<RegionApi>,
    /// The clock of a log with simulated time.
    pub simulated: Option<Arc<dyn SimulatedClock>>,
    /// Where spans of requests go.
    pub spans: Spans,
    /// The numbers of log, archive and regions, for the metrics.
    pub numbers: Box<dyn Numbers>,
}

/// What all handlers share.
pub struct ApiState {
    parts: Parts,
    metrics: ApiMetrics,
    rates: Rates,
    tails: Tails,
    readers: Readers,
    connections: Arc<Connections>,
    limits: HttpConfig,
    shutdown: CancellationToken,
    bodies: Bodies,
    /// What the region is, for whoever asks whether it is ready.
    roles: Looks<Role>,
    /// The log as far as the other region has it; `None` where there is none.
    confirmed: Option<Arc<ConfirmedLog>>,
}

impl Deref for ApiState {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.parts
    }
}

impl ApiState {
    /// The state of an API that serves `parts` until `shutdown`.
    #[must_use]
    pub fn new(parts: Parts, limits: HttpConfig, shutdown: CancellationToken) -> Self {
        let bodies = Bodies::new(limits.body_bytes_in_flight_max);
        let rates = Rates::new(limits.rates, !limits.behind_tls_proxy);
        let evidence = parts.region_api.as_ref().and_then(RegionApi::evidence);
        let confirmed = evidence.map(|evidence| Arc::new(ConfirmedLog::new(parts.reader.clone(), evidence)));
        let log = Arc::clone(&parts.log);
        let roles = Looks::new(ROLE_EVERY, move || {
            let log = Arc::clone(&log);
            async move { Ok(log.log_head().await?.role) }.boxed()
        });
        let connections = Connections::of(&limits);
        let (metrics, tails) = (ApiMetrics::default(), Tails::new(connections.of_tails()));
        let readers = Readers::default();
        Self { parts, metrics, rates, tails, readers, connections, limits, shutdown, bodies, roles, confirmed }
    }

    /// What the region is, or was a moment ago.
    async fn role(&self) -> Result<Role, ReadError> {
        match self.roles.fresh()? {
            Some(role) => Ok(role),
            None => self.roles.listen().next().await,
        }
    }

    /// The connections of the door that serves it.
    #[must_use]
    pub fn connections(&self) -> Arc<Connections> {
        self.connections.clone()
    }

    /// From now on these rates hold.
    pub fn change_rates(&self, rates: RatesConfig) {
        self.rates.change(rates);
    }

    /// The API's own metrics.
    fn write_metrics(&self, text: &mut MetricsText) {
        self.metrics.write(text);
        self.rates.write(text);
        self.connections.write(text);
        text.value(&HTTP_BODIES, &[], self.bodies.held());
        text.value(&HTTP_BODIES_LIMIT, &[], self.bodies.bytes_max());
        if let Some(tls) = &self.tls {
            tls.write_metrics(text);
        }
    }
}

/// Whoever asks without a token is answered by a look that is at most so old.
const ROLE_EVERY: Duration = Duration::from_millis(200);

const EVERYONE: &[TokenRole] = &TokenRole::ALL;
const APPENDERS: &[TokenRole] = &[TokenRole::Appender];
const OPERATORS: &[TokenRole] = &[TokenRole::Operator];
/// An appender has to see the versions that it names.
const READERS: &[TokenRole] = &[TokenRole::Appender, TokenRole::Reader, TokenRole::Auditor];

/// All routes: what the router serves and the document says.
fn routes() -> impl Iterator<Item = &'static Route> {
    let tables = [
        append::ROUTES,
        read::ROUTES,
        content::ROUTES,
        groups::ROUTES,
        archive::ROUTES,
        regions::ROUTES,
        status::ROUTES,
        openapi::ROUTES,
    ];
    tables.into_iter().flatten()
}

/// The router of all routes.
pub fn router(state: Arc<ApiState>) -> axum::Router {
    let (open, closed): (Vec<&'static Route>, Vec<&'static Route>) = routes().partition(|route| route.roles.is_empty());
    let serve = |router: axum::Router<_>, route: &Route| router.route(route.path, (route.handler)());
    let protect = |router: axum::Router<_>, route: &'static Route| router.route(route.path, only(route));
    let protected = closed
        .into_iter()
        .fold(axum::Router::new(), protect)
        .fallback(async || Problem::new(ErrorKind::NotFound, "there is no such route"))
        .method_not_allowed_fallback(async || {
            Problem::invalid("the route has no such method").with_status(StatusCode::METHOD_NOT_ALLOWED)
        })
        .layer(DefaultBodyLimit::max(body::ACT_BYTES_MAX))
        .layer(middleware::from_fn(coding::compress))
        .layer(middleware::from_fn_with_state(state.clone(), within_time))
        // Outside of everything else that is protected: also a route that does not exist asks for a token.
        .layer(middleware::from_fn_with_state(state.clone(), auth::authenticate));
    open.into_iter()
        .fold(axum::Router::new(), serve)
        .merge(protected)
        .layer(middleware::from_fn_with_state(state.clone(), observe))
        .with_state(state)
}

fn only(route: &'static Route) -> MethodRouter<Arc<ApiState>> {
    (route.handler)().layer(middleware::from_fn_with_state(route, auth::allow))
}

/// Reads the query of a URL; what it does not know it refuses.
fn query<T: DeserializeOwned>(uri: &Uri) -> Result<T, Problem> {
    let query = Query::<T>::try_from_uri(uri);
    query.map(|query| query.0).map_err(|error| Problem::invalid(error.body_text()))
}

/// Carries an act through to its end, also if its client goes away or its time is over: what was begun by an
/// operator is not left half done because a line broke.
async fn carried_through<T: Send + 'static>(act: impl Future<Output = T> + Send + 'static) -> T {
    tokio::spawn(act).await.unwrap_or_else(|broken| std::panic::resume_unwind(broken.into_panic()))
}

/// Answers in time. What has been begun is not taken back: an append may still be stored.
async fn within_time(State(state): State<Arc<ApiState>>, request: Request, next: Next) -> Response {
    let acts = request.uri().path().starts_with(ACTS);
    let limit = if acts { ACT_LIMIT } else { Duration::from_secs(state.limits.answer_seconds) };
    let kind = if request.method().is_safe() { ErrorKind::Unavailable } else { ErrorKind::Indeterminate };
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::new(kind, format!("there was no answer within {} s", limit.as_secs())).into_response(),
    }
}

/// Gives the request its id, refuses it once a shutdown has begun, counts it, and logs it without secrets:
/// neither query nor headers. What its caller may not is the audit's.
async fn observe(State(state): State<Arc<ApiState>>, mut request: Request, next: Next) -> Response {
    let watch = Stopwatch::start();
    let _in_flight = state.metrics.began();
    let id = request_id(request.headers());
    // For whoever has to name the request further in.
    request.headers_mut().insert(REQUEST_ID, id.clone());
    let peer = request.extensions().get::<PeerAddress>().copied();
    let course = Course::of(request.headers(), &state.spans);
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    let mut response = if state.shutdown.is_cancelled() && route != "/health/live" {
        Problem::new(ErrorKind::Unavailable, "the server is shutting down").into_response()
    } else {
        next.run(request).await
    };
    if state.leaving.is_cancelled() || state.shutdown.is_cancelled() {
        // The next request comes over a new connection, and so to whom the balancer chooses now.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response.headers_mut().insert(REQUEST_ID, id.clone());
    let id = id.to_str().unwrap_or_default();
    problem::identify(&mut response, id);
    let (status, milliseconds) = (response.status().as_u16(), watch.elapsed().as_millis());
    state.metrics.answered(method.as_str(), &route, status, watch.elapsed());
    course.ended(&state.spans, watch, (method.as_str(), &route), response.status());
    if audit::refused(&Asked { id, peer, method: &method, route: &route }, &response) {
        return response;
    }
    let (caller, trace) = (auth::token_name(&response), course.id());
    let error = response.extensions().get::<Problem>().map_or("", Problem::detail);
    match status {
        500.. => tracing::warn!(%method, route, status, milliseconds, caller, id, trace, error, "answered"),
        400.. => tracing::info!(%method, route, status, milliseconds, caller, id, trace, error, "answered"),
        _ => tracing::debug!(%method, route, status, milliseconds, caller, id, trace, "answered"),
    }
    response
}

fn request_id(headers: &HeaderMap) -> HeaderValue {
    let fits = |text: &&HeaderValue| {
        let bytes = text.as_bytes();
        !bytes.is_empty() && bytes.len() <= REQUEST_ID_BYTES_MAX && bytes.iter().all(u8::is_ascii_graphic)
    };
    headers.get(&REQUEST_ID).filter(fits).cloned().unwrap_or_else(|| {
        let id = Uuid::from_bytes(chance::random()).simple().to_string();
        HeaderValue::try_from(id).expect("hexadecimal digits are header characters")
    })
}
