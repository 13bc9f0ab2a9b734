//! `GET /v1/content` and `GET /v1/content/list`: content as it is now, from the live view.
//!
//! An item that has left the live window is recalled on demand: the answer is the same, with a header that
//! says so. `recall=false` leaves it where it is. `at_least=POSITION` waits until the view has come there.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use domain::content::CATEGORY;
use domain::log::ReadError;
use domain::{ErrorKind, StreamName};
use projections::ProjectionError;
use projections::content::{Item, Lookup, Moment, Stub};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::problem::{Member, Problem};
use super::read::ARCHIVE;
use super::route::{Answer, JSON, NDJSON, Route, lines, members, shape};
use super::scope::Touches;
use super::{ApiState, READERS, at_least, query};

/// The events that the view is the fold of.
const CHECKPOINT: HeaderName = HeaderName::from_static("coldstream-checkpoint");
/// Items in one answer of a list at most.
const LIST_MAX: u32 = 1000;

pub(super) static ROUTES: &[Route] = &[
    Route {
        summary: "A content item as it is now",
        touches: Touches::Category(CATEGORY),
        query: Some(members::<ItemQuery>),
        kinds: &[ErrorKind::NotFound, ErrorKind::Forked, ErrorKind::Corrupt],
        example: &[("id", "guide"), ("at_least", "1")],
        ..Route::get("/v1/content", READERS, || get(item), ITEM)
    },
    Route {
        summary: "Content items by id in code-point order, one a line",
        touches: Touches::Category(CATEGORY),
        query: Some(members::<ListQuery>),
        kinds: &[ErrorKind::NotFound, ErrorKind::Forked, ErrorKind::Corrupt],
        example: &[("limit", "10"), ("at_least", "1")],
        ..Route::get("/v1/content/list", READERS, || get(list), ITEMS)
    },
];

const ITEM: &[Answer] = &[Answer {
    status: StatusCode::OK,
    what: "The item",
    forms: &[(JSON, shape::<ContentItem>)],
    headers: &["Coldstream-Checkpoint", "Coldstream-Archive"],
}];

const ITEMS: &[Answer] = &[Answer {
    status: StatusCode::OK,
    what: "The items, in the form of ContentItem",
    forms: &[(NDJSON, lines)],
    headers: &["Coldstream-Checkpoint"],
}];

/// A content item as its last change left it. 64-bit numbers are strings, as in the record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ContentItem {
    /// Its id.
    pub id: String,
    /// `living`, `deleted`, `closed` or `unknown`.
    pub state: String,
    /// Whether its last change is within the live window.
    pub live: bool,
    /// Object id of the content's bytes, if it lives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oid: Option<String>,
    /// File mode, if it lives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// Length of the content in bytes, if it lives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<String>,
    /// Who made the last change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// The change that it belonged to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub change: Option<String>,
    /// `time` of the last change, as its source gave it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// When the log recorded the last change.
    pub recordedat: String,
    /// When it was created, the last time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<Created>,
    /// How often it was revised since.
    pub revisions: String,
    /// The last change's place in its stream.
    pub version: String,
    /// The last change's place in the log.
    pub position: String,
}

/// When an item was created.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Created {
    /// As its source says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// When the log recorded it.
    pub recordedat: String,
}

impl From<Moment> for Created {
    fn from(moment: Moment) -> Self {
        Self { time: moment.time, recordedat: moment.recorded_at.to_string() }
    }
}

impl ContentItem {
    fn of_stub(stub: Stub, live: bool) -> Self {
        Self {
            id: stub.id,
            state: stub.state.as_str().to_owned(),
            live,
            oid: None,
            mode: None,
            size: None,
            author: None,
            change: None,
            time: None,
            recordedat: stub.changed_at.to_string(),
            created: stub.created.map(Created::from),
            revisions: stub.revisions.to_string(),
            version: stub.version.to_string(),
            position: stub.position.to_string(),
        }
    }

    fn of(item: Item, live: bool) -> Self {
        let mut answer = Self::of_stub(item.stub, live);
        answer.time = item.changed_time;
        answer.author = item.author;
        answer.change = item.change;
        if let Some(form) = item.form {
            answer.oid = Some(form.oid);
            answer.mode = Some(form.mode);
            answer.size = Some(form.size.to_string());
        }
        answer
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ItemQuery {
    /// The content's id.
    id: String,
    /// Whether an archived item is read back.
    #[serde(default = "yes")]
    recall: bool,
    /// A position or resume token that the answer has to be as new as.
    at_least: Option<String>,
}

fn yes() -> bool {
    true
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    /// The id before the first.
    after: Option<String>,
    /// Items at most.
    limit: Option<u32>,
    /// Those that did not change within the live window instead of those that did.
    #[serde(default)]
    archived: bool,
    /// A position or resume token that the answer has to be as new as.
    at_least: Option<String>,
}

/// One item as it is now.
pub(super) async fn item(State(state): State<Arc<ApiState>>, uri: Uri) -> Result<Response, Problem> {
    let query: ItemQuery = query(&uri)?;
    possible(&query.id)?;
    // The view's checkpoint before the row: the row is at least as new as the header says.
    let progress = at_least::progress(&state, query.at_least.as_deref()).await?;
    let lookup =
        if query.recall { state.content.recall(&query.id).await? } else { state.content.get(&query.id).await? };
    let item = match lookup {
        Lookup::Live(item) => ContentItem::of(item, true),
        Lookup::Recalled(item) => ContentItem::of(item, false),
        Lookup::Archived(stub) => ContentItem::of_stub(stub, false),
        Lookup::Never => return Err(Problem::new(ErrorKind::NotFound, "there has never been such content")),
    };
    let live = item.live;
    let mut response = Json(item).into_response();
    response.headers_mut().insert(CHECKPOINT, HeaderValue::from(progress.checkpoint.get()));
    if !live {
        response.headers_mut().insert(ARCHIVE, HeaderValue::from_static("true"));
    }
    Ok(response)
}

/// Items by id in code-point order, one a line: those that changed within the live window, or with
/// `archived=true` those that did not.
pub(super) async fn list(State(state): State<Arc<ApiState>>, uri: Uri) -> Result<Response, Problem> {
    let query: ListQuery = query(&uri)?;
    let limit = query.limit.unwrap_or(LIST_MAX);
    if !(1..=LIST_MAX).contains(&limit) {
        return Err(Problem::invalid(format!("limit is from 1 to {LIST_MAX}")));
    }
    let after = query.after.as_deref().filter(|after| !after.is_empty());
    after.map_or(Ok(()), possible)?;
    let progress = at_least::progress(&state, query.at_least.as_deref()).await?;
    let items: Vec<ContentItem> = if query.archived {
        let stubs = state.content.archived(after, limit).await?;
        stubs.into_iter().map(|stub| ContentItem::of_stub(stub, false)).collect()
    } else {
        state.content.items(after, limit).await?.into_iter().map(|item| ContentItem::of(item, true)).collect()
    };
    let mut body = String::new();
    for item in &items {
        body.push_str(&serde_json::to_string(item).expect("texts and truth values are JSON"));
        body.push('\n');
    }
    let mut response = ([(header::CONTENT_TYPE, NDJSON)], body).into_response();
    response.headers_mut().insert(CHECKPOINT, HeaderValue::from(progress.checkpoint.get()));
    Ok(response)
}

/// Refuses what cannot be the id of any content.
fn possible(id: &str) -> Result<(), Problem> {
    StreamName::of(CATEGORY, id).map(drop).map_err(|error| Problem::of(ErrorKind::Invalid, &error))
}

impl From<ProjectionError> for Problem {
    fn from(error: ProjectionError) -> Self {
        match error {
            // What the archive said, in full: a damaged segment is more than a view that does not answer.
            ProjectionError::Read(error) => ReadError::into(error),
            late @ ProjectionError::NotYet { checkpoint, .. } => {
                Self::of(late.kind(), &late).with(Member::Checkpoint, checkpoint)
            }
            other => Self::of(other.kind(), &other),
        }
    }
}
