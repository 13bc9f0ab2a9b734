//! Problems as the API's document shows them: made of the errors that handlers make theirs of, so that none is shown that
//! could not be answered. What only some routes answer names these; it must never name what no route says of itself.

use axum::http::StatusCode;
use domain::append::{AppendError, ExpectedVersion, InvalidRequest, Role};
use domain::group::GroupError;
use domain::log::ReadError;
use domain::{Epoch, ErrorKind, Head, Position, StreamName, StreamVersion};
use projections::ProjectionError;
use projections::content::VIEW;

use super::{Member, Problem};

const APPEND: &[&str] = &["/v1/append"];
const CONTENT: &[&str] = &["/v1/content", "/v1/content/list"];
const LIVE: &[&str] = &["/v1/log", "/v1/stream", "/v1/content/history"];
const GROUP: &[&str] = &["/v1/group/"];
const CREATE: &[&str] = &["/v1/group/create"];
/// What a route answers that nothing else is said of.
const ANY: &[&str] = &[];

/// A problem to show.
pub(in crate::http) struct Example {
    pub(in crate::http) name: &'static str,
    pub(in crate::http) problem: Problem,
    paths: &'static [&'static str],
}

/// The examples of one error answer of a route: its own, or else those of any route.
pub(in crate::http) fn of(path: &str, kind: ErrorKind, status: StatusCode) -> Vec<Example> {
    let is_own = |name: &&str| path == *name || name.ends_with('/') && path.starts_with(*name);
    let fits = |example: &Example| (example.problem.kind, example.problem.status) == (kind, status);
    let fitting = [appends(), reads(), groups(), any()].into_iter().flatten().filter(fits);
    let (common, own): (Vec<_>, Vec<_>) = fitting.partition(|example| example.paths.is_empty());
    let own: Vec<_> = own.into_iter().filter(|example| example.paths.iter().any(is_own)).collect();
    if own.is_empty() { common } else { own }
}

fn example(name: &'static str, paths: &'static [&'static str], problem: impl Into<Problem>) -> Example {
    Example { name, paths, problem: problem.into() }
}

fn position(number: u64) -> Position {
    Position::new(number).expect("counted from 1")
}

fn head(number: u64) -> Head {
    Head::new(number).expect("small")
}

fn epoch(number: u64) -> Epoch {
    Epoch::new(number).expect("counted from 1")
}

fn appends() -> Vec<Example> {
    let stream = StreamName::parse("content-guide").expect("a stream");
    let expected = StreamVersion::new(2).map_or(ExpectedVersion::Any, ExpectedVersion::Exactly);
    let wrong = AppendError::WrongVersion { stream, expected, actual: StreamVersion::new(3) };
    let (source_uri, id) = ("/editor".to_owned(), "e-1".to_owned());
    let taken = AppendError::IdTaken { source_uri, id, position: position(17) };
    let failed = AppendError::ConditionFailed { after: head(40), position: position(41) };
    let unsettled = AppendError::ConditionUnsettled { after: head(1), up_to: head(9000) };
    let ahead = AppendError::ConditionAhead { after: head(50), head: head(41) };
    let fenced = AppendError::Fenced { epoch: epoch(2), reason: "it is follower".to_owned() };
    vec![
        example("wrong_version", APPEND, wrong),
        example("id_taken", APPEND, taken),
        example("condition_failed", APPEND, failed),
        example("condition_too_old", APPEND, unsettled),
        example("condition_ahead", APPEND, ahead),
        example("not_active", APPEND, fenced),
        example("no_events", APPEND, AppendError::from(InvalidRequest::Empty)),
    ]
}

fn reads() -> Vec<Example> {
    let late = ProjectionError::NotYet { view: VIEW, position: position(41), checkpoint: head(40) };
    let ahead = |kind| {
        let said = format!("the log ends at {} here: there is no event at position {} yet", head(40), position(41));
        Problem::new(kind, said).with(Member::Head, head(40))
    };
    vec![
        example("pruned", LIVE, ReadError::Pruned { pruned: head(9000) }),
        example("no_such_thing", LIVE, Problem::new(ErrorKind::NotFound, "content-guide has never had an event")),
        example("no_such_content", CONTENT, Problem::new(ErrorKind::NotFound, "there has never been such content")),
        example("view_behind", CONTENT, late),
        example("log_behind", CONTENT, ahead(ErrorKind::Unavailable)),
        example("ahead_of_log", CONTENT, ahead(ErrorKind::Invalid)),
    ]
}

fn groups() -> Vec<Example> {
    let name = || "mailer".to_owned();
    let fenced = GroupError::Fenced { role: Role::Follower, epoch: epoch(2) };
    vec![
        example("no_such_group", GROUP, GroupError::NotFound { name: name() }),
        example("not_active", GROUP, fenced),
        example("made_otherwise", CREATE, GroupError::Differs { name: name(), member: "lease_seconds" }),
        example("ahead_of_log", CREATE, GroupError::Ahead { head: head(40) }),
    ]
}

/// One for each answer that any route may give.
fn any() -> Vec<Example> {
    let forked = ReadError::Forked { position: position(41), token: epoch(1), recorded: epoch(2), fork: head(40) };
    let corrupt = ReadError::Corrupt { reason: "position 7 is not there, and its neighbours are".to_owned() };
    let as_status = |kind, status, detail: &str| Problem::new(kind, detail).with_status(status);
    let unavailable = |status, detail| as_status(ErrorKind::Unavailable, status, detail);
    let invalid = |status, detail| as_status(ErrorKind::Invalid, status, detail);
    let denied = |status, detail| as_status(ErrorKind::Denied, status, detail);
    let plain = [
        ("otherwise", Problem::new(ErrorKind::Conflict, "the region is not what the request takes it for")),
        ("not_active", Problem::new(ErrorKind::Fenced, "this region is follower").with(Member::Epoch, epoch(2))),
        ("shutting_down", unavailable(StatusCode::SERVICE_UNAVAILABLE, "the server is shutting down")),
        ("too_slow", unavailable(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time, nothing was done")),
        ("too_often", unavailable(StatusCode::TOO_MANY_REQUESTS, "the token \"shop\" may send 100 requests a second")),
        ("not_known", Problem::new(ErrorKind::Indeterminate, "there was no answer within 60 s")),
        ("wrong_value", invalid(StatusCode::BAD_REQUEST, "positions are counted from 1")),
        ("too_large", invalid(StatusCode::PAYLOAD_TOO_LARGE, "length limit exceeded")),
        ("other_coding", invalid(StatusCode::UNSUPPORTED_MEDIA_TYPE, "zstd is the only content encoding")),
        ("missing_member", invalid(StatusCode::UNPROCESSABLE_ENTITY, "missing field `group` at line 1 column 2")),
        ("held", Problem::new(ErrorKind::Held, "the legal hold \"case-7\" forbids it")),
        ("forked", forked.into()),
        ("corrupt", corrupt.into()),
        ("no_such_thing", Problem::new(ErrorKind::NotFound, "this region has no bucket")),
        ("unknown_token", denied(StatusCode::UNAUTHORIZED, "the token is unknown")),
        ("other_role", denied(StatusCode::FORBIDDEN, "this needs a token of role appender; yours is reader")),
    ];
    plain.into_iter().map(|(name, problem)| example(name, ANY, problem)).collect()
}
