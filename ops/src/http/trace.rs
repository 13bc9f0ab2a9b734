//! Trace context at the door (W3C Trace Context, §3): what a request says of the course that it belongs to. It is passed on
//! into events, log lines and spans, and nothing is decided on it.

use axum::http::{HeaderMap, StatusCode};
use domain::Timestamp;
use domain::event::TraceContext;

use crate::clock::{Stopwatch, SystemClock};
use crate::spans::{Span, SpanKind, Spans};

pub(super) const TRACEPARENT: &str = "traceparent";
pub(super) const TRACESTATE: &str = "tracestate";

/// The context of a request; `None` where it has none, several, or what is none: that is ignored, not refused (§2.2).
pub(super) fn context(headers: &HeaderMap) -> Option<TraceContext> {
    let mut parents = headers.get_all(TRACEPARENT).iter();
    let (parent, None) = (parents.next()?, parents.next()) else { return None };
    // Several are one, in their order (§3.3).
    let states: Vec<&str> = headers.get_all(TRACESTATE).iter().filter_map(|state| state.to_str().ok()).collect();
    TraceContext::parse(parent.to_str().ok()?, Some(&states.join(",")))
}

/// A request on its way, as its caller's tracing sees it.
pub(super) struct Course {
    context: Option<TraceContext>,
    /// When it came, if a span of it is wanted.
    began: Option<Timestamp>,
}

impl Course {
    pub(super) fn of(headers: &HeaderMap, spans: &Spans) -> Self {
        let context = context(headers);
        let began = spans.wants(context.as_ref()).then(|| SystemClock::read().ok()).flatten();
        Self { context, began }
    }

    /// The trace's id; empty if there is none.
    pub(super) fn id(&self) -> &str {
        self.context.as_ref().map_or("", TraceContext::trace_id)
    }

    /// The request was answered.
    pub(super) fn ended(&self, spans: &Spans, watch: Stopwatch, (method, route): (&str, &str), status: StatusCode) {
        let Some((context, began)) = self.context.clone().zip(self.began) else { return };
        let took = i64::try_from(watch.elapsed().as_micros()).unwrap_or(i64::MAX);
        let Ok(ended) = Timestamp::from_unix_micros(began.unix_micros().saturating_add(took)) else { return };
        spans.tell(Span {
            context,
            kind: SpanKind::Server,
            name: format!("{method} {route}"),
            time: (began, ended),
            failed: status.is_server_error(),
            attributes: vec![
                ("http.request.method", method.to_owned()),
                ("http.route", route.to_owned()),
                ("http.response.status_code", status.as_u16().to_string()),
            ],
        });
    }
}
