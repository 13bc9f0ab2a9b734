//! `at_least=POSITION`: an answer of a view that is at least as new as what its caller has seen, such as an append of
//! its own. A resume token says the branch too, and is refused as Forked where this log is of another one. It decides
//! nothing about content.

use domain::append::Role;
use domain::{ErrorKind, Position, ResumeToken};
use projections::runner::Progress;

use super::ApiState;
use super::problem::{Member, Problem};
use super::resume;

/// What the view of content is as of, once it has come to `wanted`. Waits for a bounded time.
///
/// # Errors
/// Invalid for what is no position, or beyond the log's head; Unavailable, with `checkpoint`, where the view does not
/// get there in time, and where this region has not got the event yet; Forked.
pub(super) async fn progress(state: &ApiState, wanted: Option<&str>) -> Result<Progress, Problem> {
    let Some(text) = wanted else { return Ok(state.content.progress().await?) };
    let head = state.reader.log_head().await?;
    let position = match ResumeToken::parse(text) {
        Some(token) => {
            resume::check(token, &*state.reader, &head).await?;
            token.position
        }
        None => position(text)?,
    };
    if !head.head.includes(position) {
        let detail = format!("the log ends at {} here: there is no event at position {position} yet", head.head);
        let kind = if head.role == Role::Active { ErrorKind::Invalid } else { ErrorKind::Unavailable };
        return Err(Problem::new(kind, detail).with(Member::Head, head.head));
    }
    Ok(state.content.at_least(position).await?)
}

fn position(text: &str) -> Result<Position, Problem> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let position = digits.then(|| text.parse().ok().and_then(Position::new)).flatten();
    position.ok_or_else(|| Problem::invalid("at_least is a position, from 1, or a resume token"))
}
