//! `/v1/groups` and `/v1/group/…`: named consumer groups (GRP-1). Reads, answers, and asks whether its caller may: a token
//! that is limited to categories uses only groups that want nothing of any other. What is handed out is decided elsewhere.

mod deliveries;
mod forms;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json};
use domain::append::{LogHead, Role};
use domain::group::{
    ConsumerName, Created, Group, GroupError, GroupName, InvalidGroup, PARKED_PAGE_MAX, TAKE_EVENTS_MAX,
};
use domain::{ErrorKind, Head};

use super::auth::{Caller, TokenRole};
use super::body::Act;
use super::problem::{Member, Problem};
use super::route::{self, Answer, JSON, Route, members, shape};
use super::scope::Touches;
use super::{ApiState, query};
use crate::groups::{Handed, Wanted};
use crate::telemetry::AUDIT;
use deliveries::{Extend, ExtendedAnswer, Settle, SettledAnswer, TakeAnswer, TakeForm};
use forms::{
    Create, Discard, Named, ParkedAnswer, ParkedQuery, Remove, RemovedAnswer, Replay, Replayed, StatusAnswer,
    StatusQuery, lease_number, positions,
};
pub use forms::{GroupInfo, GroupStatusAnswer, ParkedEvent};

/// A settlement names many events with a reason each.
const SETTLE_BYTES_MAX: usize = 2 << 20;
/// A take waits so long at most.
const WAIT_SECONDS_MAX: u64 = 60;

const WORKERS: &[TokenRole] = &[TokenRole::Appender, TokenRole::Reader];
const KEEPERS: &[TokenRole] = &[TokenRole::Appender, TokenRole::Reader, TokenRole::Operator];
const WATCHERS: &[TokenRole] = &[TokenRole::Appender, TokenRole::Reader, TokenRole::Operator, TokenRole::Auditor];

const CREATED: &[Answer] = &[
    Answer { status: StatusCode::CREATED, what: "There is a new one", forms: INFO, headers: &[] },
    Answer { status: StatusCode::OK, what: "It was there, made with the same values", forms: INFO, headers: &[] },
];
const INFO: &[(&str, route::Shape)] = &[(JSON, shape::<GroupInfo>)];

/// An act on one group, with a JSON body.
const fn act(path: &'static str, roles: &'static [TokenRole], answers: &'static [Answer], route: Route) -> Route {
    Route { path, roles, answers, touches: Touches::WhatItNames, ..route }
}

const FOUND: &[ErrorKind] = &[ErrorKind::NotFound, ErrorKind::Fenced, ErrorKind::Corrupt];
const HANDED: &[ErrorKind] = &[ErrorKind::NotFound, ErrorKind::Fenced, ErrorKind::Corrupt, ErrorKind::Conflict];

pub(super) static ROUTES: &[Route] = &[
    Route {
        summary: "All consumer groups that the token may use: where they stand and what waits",
        touches: Touches::WhatItNames,
        kinds: &[ErrorKind::Corrupt],
        ..Route::get(
            "/v1/groups",
            WATCHERS,
            || get(groups),
            &[Answer::json("The groups", &[(JSON, shape::<StatusAnswer>)])],
        )
    },
    act(
        "/v1/group/create",
        WORKERS,
        CREATED,
        Route {
            summary: "Create a consumer group. With the same values again it is the same group",
            bodies: &[route::Body {
                media: JSON,
                shape: shape::<Create>,
                example: r#"{"group": "mailer", "category": ["thing"], "from": "1", "attempts_max": 5}"#,
            }],
            kinds: HANDED,
            ..Route::post("", &[], || post(create), &[])
        },
    ),
    Route {
        summary: "A consumer group: where it stands and what waits",
        touches: Touches::WhatItNames,
        query: Some(members::<StatusQuery>),
        kinds: FOUND,
        example: &[("group", "mailer")],
        ..Route::get(
            "/v1/group/status",
            WATCHERS,
            || get(status),
            &[Answer::json("The group", &[(JSON, shape::<GroupStatusAnswer>)])],
        )
    },
    act(
        "/v1/group/take",
        WORKERS,
        &[Answer::json("Events, under a lease; none, if there were none in time", &[(JSON, shape::<TakeAnswer>)])],
        Route {
            summary: "Take events of a group to work on: they are yours until the lease's deadline",
            bodies: &[route::Body {
                media: JSON,
                shape: shape::<TakeForm>,
                example: r#"{"group": "mailer", "consumer": "worker-1", "max": 10, "wait_seconds": 0}"#,
            }],
            kinds: HANDED,
            ..Route::post("", &[], || post(take), &[])
        },
    ),
    act(
        "/v1/group/settle",
        WORKERS,
        &[Answer::json("What became of each event, in the request's order", &[(JSON, shape::<SettledAnswer>)])],
        Route {
            summary: "Settle events of a lease: done, to be retried, to be parked, or given back",
            bodies: &[route::Body {
                media: JSON,
                shape: shape::<Settle>,
                example: r#"{"group": "mailer", "lease": "1", "events": [
                    {"position": "2", "outcome": "done"},
                    {"position": "3", "outcome": "retry", "reason": "the mail server is away"}]}"#,
            }],
            kinds: FOUND,
            ..Route::post("", &[], || post(settle).layer(DefaultBodyLimit::max(SETTLE_BYTES_MAX)), &[])
        },
    ),
    act(
        "/v1/group/extend",
        WORKERS,
        &[Answer::json("What is still under the lease, and until when", &[(JSON, shape::<ExtendedAnswer>)])],
        Route {
            summary: "Extend a lease: its whole time again, from now on",
            bodies: &[route::Body {
                media: JSON,
                shape: shape::<Extend>,
                example: r#"{"group": "mailer", "lease": "1"}"#,
            }],
            kinds: FOUND,
            ..Route::post("", &[], || post(extend), &[])
        },
    ),
    Route {
        summary: "Parked events of a group by position, with the reason of the last failure",
        touches: Touches::WhatItNames,
        query: Some(members::<ParkedQuery>),
        kinds: FOUND,
        example: &[("group", "mailer"), ("limit", "10")],
        ..Route::get(
            "/v1/group/parked",
            WATCHERS,
            || get(parked),
            &[Answer::json("The parked events", &[(JSON, shape::<ParkedAnswer>)])],
        )
    },
    act(
        "/v1/group/replay",
        KEEPERS,
        &[Answer::json("How many are ready once more", &[(JSON, shape::<Replayed>)])],
        Route {
            summary: "Hand parked events out once more, as if they had never failed",
            bodies: &[route::Body {
                media: JSON,
                shape: shape::<Replay>,
                example: r#"{"group": "mailer", "positions": ["2"]}"#,
            }],
            kinds: FOUND,
            ..Route::post("", &[], || post(replay), &[])
        },
    ),
    act(
        "/v1/group/discard",
        KEEPERS,
        &[Answer::json("How many were given up", &[(JSON, shape::<Replayed>)])],
        Route {
            summary: "Give parked events up: the group is done with them",
            bodies: &[route::Body {
                media: JSON,
                shape: shape::<Discard>,
                example: r#"{"group": "mailer", "positions": ["2"]}"#,
            }],
            kinds: FOUND,
            ..Route::post("", &[], || post(discard), &[])
        },
    ),
    act(
        "/v1/group/remove",
        KEEPERS,
        &[Answer::json("Whether there was one", &[(JSON, shape::<RemovedAnswer>)])],
        Route {
            summary: "Remove a group with all that it remembers. No event is touched",
            bodies: &[route::Body { media: JSON, shape: shape::<Remove>, example: r#"{"group": "no-longer-used"}"# }],
            kinds: &[ErrorKind::Fenced, ErrorKind::Corrupt],
            ..Route::post("", &[], || post(remove), &[])
        },
    ),
];

impl From<GroupError> for Problem {
    fn from(error: GroupError) -> Self {
        let problem = Self::of(error.kind(), &error);
        match error {
            GroupError::Read(read) => read.into(),
            GroupError::Fenced { epoch, .. } => problem.with(Member::Epoch, epoch),
            GroupError::Ahead { head } => problem.with(Member::Head, head),
            _ => problem,
        }
    }
}

impl From<InvalidGroup> for Problem {
    fn from(error: InvalidGroup) -> Self {
        Self::of(error.kind(), &error)
    }
}

/// The group of that name, if the caller may use it. A region that is not active may know none because groups are not
/// shipped: then the other one is to be asked.
async fn find(state: &ApiState, caller: &Caller, name: &str) -> Result<Group, Problem> {
    match state.groups.kept.find(&GroupName::parse(name)?).await {
        Ok(group) => {
            caller.scope.check_filter(group.filter())?;
            Ok(group)
        }
        Err(missing @ GroupError::NotFound { .. }) => match state.reader.log_head().await? {
            LogHead { role: Role::Active, .. } => Err(missing.into()),
            LogHead { role, epoch, .. } => Err(GroupError::Fenced { role, epoch }.into()),
        },
        Err(error) => Err(error.into()),
    }
}

async fn create(
    State(state): State<Arc<ApiState>>,
    Extension(caller): Extension<Arc<Caller>>,
    Act(wanted): Act<Create>,
) -> Result<Response, Problem> {
    let new = wanted.read()?;
    caller.scope.check_filter(&new.filter)?;
    let created = state.groups.kept.create(&new).await?;
    let status = match &created {
        Created::New(_) => StatusCode::CREATED,
        Created::Same(_) => StatusCode::OK,
    };
    Ok((status, Json(GroupInfo::of(created.group()))).into_response())
}

async fn groups(
    State(state): State<Arc<ApiState>>,
    Extension(caller): Extension<Arc<Caller>>,
) -> Result<Json<StatusAnswer>, Problem> {
    let head = state.reader.log_head().await?.head;
    let statuses = state.groups.kept.statuses().await?;
    let may = statuses.iter().filter(|status| caller.scope.check_filter(status.group.filter()).is_ok());
    Ok(Json(StatusAnswer { groups: may.map(|status| GroupStatusAnswer::of(status, head)).collect() }))
}

async fn status(
    State(state): State<Arc<ApiState>>,
    Extension(caller): Extension<Arc<Caller>>,
    uri: Uri,
) -> Result<Json<GroupStatusAnswer>, Problem> {
    let asked: StatusQuery = query(&uri)?;
    let group = find(&state, &caller, &asked.group).await?;
    let head = state.reader.log_head().await?.head;
    let statuses = state.groups.kept.statuses().await?;
    let found = statuses.iter().find(|status| status.group.id == group.id);
    let found = found.ok_or(GroupError::NotFound { name: asked.group })?;
    Ok(Json(GroupStatusAnswer::of(found, head)))
}

async fn take(
    State(state): State<Arc<ApiState>>,
    Extension(caller): Extension<Arc<Caller>>,
    Act(asked): Act<TakeForm>,
) -> Result<Json<TakeAnswer>, Problem> {
    let consumer = ConsumerName::parse(&asked.consumer)?;
    let max = usize::try_from(asked.max).unwrap_or(usize::MAX);
    if !(1..=TAKE_EVENTS_MAX).contains(&max) {
        return Err(Problem::invalid(format!("max is from 1 to {TAKE_EVENTS_MAX}")));
    }
    if asked.wait_seconds > WAIT_SECONDS_MAX {
        return Err(Problem::invalid(format!("wait_seconds is at most {WAIT_SECONDS_MAX}")));
    }
    let group = find(&state, &caller, &asked.group).await?;
    // Half of the time that an answer has: a lease whose answer is cut off has to run out.
    let wait = Duration::from_secs(asked.wait_seconds).min(Duration::from_secs(state.limits.answer_seconds) / 2);
    let wanted = Wanted { consumer: &consumer, max, wait };
    let handed = state.groups.take(&group, &wanted, &state.shutdown).await?;
    let Some(Handed { lease, records }) = handed else { return Ok(Json(TakeAnswer::default())) };
    Ok(Json(TakeAnswer::of(&lease, &records)?))
}

async fn settle(
    State(state): State<Arc<ApiState>>,
    Extension(caller): Extension<Arc<Caller>>,
    Act(asked): Act<Settle>,
) -> Result<Json<SettledAnswer>, Problem> {
    let (lease, events) = (lease_number(&asked.lease)?, asked.events()?);
    let group = find(&state, &caller, &asked.group).await?;
    let settled = state.groups.settle(&group, lease, &events).await?;
    Ok(Json(SettledAnswer::of(&events, &settled)))
}

async fn extend(
    State(state): State<Arc<ApiState>>,
    Extension(caller): Extension<Arc<Caller>>,
    Act(asked): Act<Extend>,
) -> Result<Json<ExtendedAnswer>, Problem> {
    let lease = lease_number(&asked.lease)?;
    let group = find(&state, &caller, &asked.group).await?;
    Ok(Json(state.groups.extend(&group, lease).await?.into()))
}

async fn parked(
    State(state): State<Arc<ApiState>>,
    Extension(caller): Extension<Arc<Caller>>,
    uri: Uri,
) -> Result<Json<ParkedAnswer>, Problem> {
    let asked: ParkedQuery = query(&uri)?;
    let after = Head::new(asked.after.unwrap_or(0)).ok_or_else(|| Problem::invalid("after is a position, or 0"))?;
    let limit = asked.limit.map_or(PARKED_PAGE_MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    if !(1..=PARKED_PAGE_MAX).contains(&limit) {
        return Err(Problem::invalid(format!("limit is from 1 to {PARKED_PAGE_MAX}")));
    }
    let group = find(&state, &caller, &asked.group).await?;
    let parked = state.groups.kept.parked(&group, after, limit).await?;
    Ok(Json(ParkedAnswer { parked: parked.iter().map(ParkedEvent::of).collect() }))
}

async fn replay(
    State(state): State<Arc<ApiState>>,
    Extension(caller): Extension<Arc<Caller>>,
    Act(asked): Act<Replay>,
) -> Result<Json<Replayed>, Problem> {
    let which = asked.which()?;
    let group = find(&state, &caller, &asked.group).await?;
    let events = state.groups.replay(&group, &which).await?;
    done_by(&caller, &group, events, "parked events are replayed");
    Ok(Json(Replayed { events: events.to_string() }))
}

async fn discard(
    State(state): State<Arc<ApiState>>,
    Extension(caller): Extension<Arc<Caller>>,
    Act(asked): Act<Discard>,
) -> Result<Json<Replayed>, Problem> {
    let which = domain::group::Which::These(positions(&asked.positions)?);
    let group = find(&state, &caller, &asked.group).await?;
    let events = state.groups.kept.discard(&group, &which).await?;
    done_by(&caller, &group, events, "parked events are given up");
    Ok(Json(Replayed { events: events.to_string() }))
}

async fn remove(
    State(state): State<Arc<ApiState>>,
    Extension(caller): Extension<Arc<Caller>>,
    Act(Named { group }): Act<Remove>,
) -> Result<Json<RemovedAnswer>, Problem> {
    let group = match find(&state, &caller, &group).await {
        Ok(group) => group,
        Err(problem) if problem.kind() == ErrorKind::NotFound => return Ok(Json(RemovedAnswer { removed: false })),
        Err(problem) => return Err(problem),
    };
    state.groups.remove(&group).await?;
    done_by(&caller, &group, 0, "a group is removed");
    Ok(Json(RemovedAnswer { removed: true }))
}

/// Who has changed what a group owes, as a line of the audit.
fn done_by(caller: &Caller, group: &Group, events: u64, what: &'static str) {
    tracing::info!(target: AUDIT, token = caller.name, group = group.name().as_str(), events, "{what}");
}
