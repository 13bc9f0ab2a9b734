//! Bodies of acts: JSON of a few members, read within the limits of size and time. What is none is answered as a problem,
//! like everything else that is refused.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{FromRequest, Request};
use serde::de::DeserializeOwned;

use super::ApiState;
use super::append::too_slow;
use super::problem::Problem;

/// At most so long: a signed note, or a few members.
pub(super) const ACT_BYTES_MAX: usize = 64 << 10;

/// The body of an act. The router's limit of [`ACT_BYTES_MAX`] holds.
pub(super) struct Act<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<Arc<ApiState>> for Act<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &Arc<ApiState>) -> Result<Self, Problem> {
        let receive = Duration::from_secs(state.limits.receive_seconds);
        let read = tokio::time::timeout(receive, Json::from_request(request, state)).await.map_err(|_| too_slow())?;
        let refused = |refusal: axum::extract::rejection::JsonRejection| {
            Problem::invalid(refusal.body_text()).with_status(refusal.status())
        };
        read.map(|Json(body)| Self(body)).map_err(refused)
    }
}
