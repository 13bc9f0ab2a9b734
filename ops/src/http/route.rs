//! What a route is: the form in which each module of the API says what it serves. Router and OpenAPI document are made
//! from the same [`Route`]s, so that neither can say what the other does not. It must never hold a handler's work.

use std::sync::Arc;

use axum::http::StatusCode;
use axum::routing::MethodRouter;
use domain::ErrorKind;
use schemars::generate::SchemaGenerator;
use schemars::{JsonSchema, Schema, json_schema};

use super::ApiState;
use super::auth::TokenRole;
use super::problem::status_of;
use super::scope::Touches;

/// Makes a JSON Schema.
pub(super) type Shape = fn(&mut SchemaGenerator) -> Schema;

/// Records or items, one a line.
pub(super) const NDJSON: &str = "application/x-ndjson";
pub(super) const JSON: &str = "application/json";
pub(super) const TEXT: &str = "text/plain";

/// A method of HTTP that the API uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Get,
    Post,
}

/// One operation of the API.
#[derive(Clone, Copy)]
pub(super) struct Route {
    pub(super) verb: Verb,
    pub(super) path: &'static str,
    /// What it does, in one sentence.
    pub(super) summary: &'static str,
    /// Who may; empty: no token is asked for.
    pub(super) roles: &'static [TokenRole],
    /// What of the log it shows or changes: what a token that is limited to categories may ask for.
    pub(super) touches: Touches,
    pub(super) handler: fn() -> MethodRouter<Arc<ApiState>>,
    /// Its query, as an object.
    pub(super) query: Option<Shape>,
    /// Headers that it reads: name and meaning.
    pub(super) headers: &'static [(&'static str, &'static str)],
    /// Bodies that it takes; empty: it reads none.
    pub(super) bodies: &'static [Body],
    /// Answers without an error, the example's first.
    pub(super) answers: &'static [Answer],
    /// Errors of its own, beside those that belong to every route like it.
    pub(super) kinds: &'static [ErrorKind],
    /// A query that can be sent as it is.
    pub(super) example: &'static [(&'static str, &'static str)],
}

/// A form of a body.
#[derive(Clone, Copy)]
pub(super) struct Body {
    pub(super) media: &'static str,
    pub(super) shape: Shape,
    /// A body that can be sent as it is.
    pub(super) example: &'static str,
}

/// An answer without an error.
#[derive(Clone, Copy)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) what: &'static str,
    /// Media types, each with the shape of what is in it.
    pub(super) forms: &'static [(&'static str, Shape)],
    /// Names of the headers that may stand in it.
    pub(super) headers: &'static [&'static str],
}

impl Answer {
    /// 200 with `shape` as JSON.
    pub(super) const fn json(what: &'static str, forms: &'static [(&'static str, Shape)]) -> Self {
        Self { status: StatusCode::OK, what, forms, headers: &[] }
    }
}

impl Route {
    /// A question: nothing is changed by it.
    pub(super) const fn get(
        path: &'static str,
        roles: &'static [TokenRole],
        handler: fn() -> MethodRouter<Arc<ApiState>>,
        answers: &'static [Answer],
    ) -> Self {
        Self {
            verb: Verb::Get,
            path,
            summary: "",
            roles,
            touches: Touches::Everything,
            handler,
            query: None,
            headers: &[],
            bodies: &[],
            answers,
            kinds: &[],
            example: &[],
        }
    }

    /// An act.
    pub(super) const fn post(
        path: &'static str,
        roles: &'static [TokenRole],
        handler: fn() -> MethodRouter<Arc<ApiState>>,
        answers: &'static [Answer],
    ) -> Self {
        Self { verb: Verb::Post, ..Self::get(path, roles, handler, answers) }
    }

    /// Every problem that it may answer with: kind and status. A kind may have several.
    pub(super) fn problems(&self) -> Vec<(ErrorKind, StatusCode)> {
        let mut problems: Vec<_> = self.kinds.iter().map(|kind| (*kind, status_of(*kind))).collect();
        if !self.roles.is_empty() {
            problems.push((ErrorKind::Denied, StatusCode::UNAUTHORIZED));
            problems.push((ErrorKind::Denied, StatusCode::FORBIDDEN));
            problems.push((ErrorKind::Unavailable, StatusCode::SERVICE_UNAVAILABLE));
            problems.push((ErrorKind::Unavailable, StatusCode::TOO_MANY_REQUESTS));
        }
        if self.query.is_some() || !self.bodies.is_empty() {
            problems.push((ErrorKind::Invalid, StatusCode::BAD_REQUEST));
        }
        if !self.bodies.is_empty() {
            problems.push((ErrorKind::Unavailable, StatusCode::REQUEST_TIMEOUT));
            problems.push((ErrorKind::Invalid, StatusCode::PAYLOAD_TOO_LARGE));
            problems.push((ErrorKind::Invalid, StatusCode::UNSUPPORTED_MEDIA_TYPE));
        }
        if self.bodies.iter().any(|body| body.media == JSON) {
            problems.push((ErrorKind::Invalid, StatusCode::UNPROCESSABLE_ENTITY));
        }
        if self.verb == Verb::Post {
            // The time for an answer may end while the act goes on.
            problems.push((ErrorKind::Indeterminate, StatusCode::GATEWAY_TIMEOUT));
        }
        problems.sort_unstable_by_key(|(kind, status)| (status.as_u16(), kind.as_str()));
        problems.dedup();
        problems
    }
}

/// The shape of `T`, by reference to what is described once.
pub(super) fn shape<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

/// The shape of `T` in its place: for a query, whose members become parameters.
pub(super) fn members<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    T::json_schema(generator)
}

/// Lines, each of which is JSON of its own.
pub(super) fn lines(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "description": "JSON objects, one a line; an empty line says nothing"})
}

/// Plain text.
pub(super) fn text(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string"})
}

/// Bytes.
pub(super) fn bytes(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "contentMediaType": "application/zstd"})
}

/// An object whose members are between regions of one release, and no contract with others.
pub(super) fn between_regions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "description": "between regions of one release; members may be added"})
}
