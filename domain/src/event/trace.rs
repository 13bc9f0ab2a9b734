//! Trace context (W3C Trace Context, level 1) on its way into an event: CloudEvents' extension for distributed tracing,
//! `traceparent` and `tracestate`. It says in whose course something was asked for, and never what happened: a retry is
//! another request, of another span, and the same event.

use super::{Extension, ExtensionValue, NewEvent, check_extensions};
use crate::append::{AppendRequest, REQUEST_BYTES_MAX};

/// The extension that names trace and span.
pub const TRACEPARENT_EXTENSION: &str = "traceparent";
/// The extension with what tracing systems add to it.
pub const TRACESTATE_EXTENSION: &str = "tracestate";
/// Where the four fields of a `traceparent` begin and end (§3.2): version, trace, span, flags.
const FIELDS: [(usize, usize); 4] = [(0, 2), (3, 35), (36, 52), (53, 55)];

/// A trace context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceContext {
    parent: String,
    state: Option<String>,
}

impl TraceContext {
    /// Reads the values of the headers `traceparent` and `tracestate`; `None` for what is no trace context, which §2.2
    /// tells to ignore. A later version is read as this one.
    #[must_use]
    pub fn parse(parent: &str, state: Option<&str>) -> Option<Self> {
        let bytes = parent.as_bytes();
        let known_length = match bytes.get(..2)? {
            b"ff" => return None,
            b"00" => bytes.len() == 55,
            _ => bytes.len() == 55 || bytes.get(55) == Some(&b'-'),
        };
        let is_hex = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let fields: Vec<&[u8]> = FIELDS.iter().filter_map(|(start, end)| bytes.get(*start..*end)).collect();
        let [version, trace, span, flags] = fields[..] else { return None };
        let hex = [version, trace, span, flags].iter().all(|field| field.iter().all(is_hex));
        let dashes = [2, 35, 52].iter().all(|at| bytes.get(*at) == Some(&b'-'));
        let nobody = [trace, span].iter().any(|field| field.iter().all(|digit| *digit == b'0'));
        let good = known_length && hex && dashes && !nobody;
        let state = state.filter(|state| !state.is_empty()).map(str::to_owned);
        good.then(|| Self { parent: parent.to_owned(), state })
    }

    /// As the header `traceparent` says it.
    #[must_use]
    pub fn parent(&self) -> &str {
        &self.parent
    }

    /// As the header `tracestate` says it, if there is one.
    #[must_use]
    pub fn state(&self) -> Option<&str> {
        self.state.as_deref()
    }

    /// The trace's id: 32 hexadecimal digits.
    #[must_use]
    pub fn trace_id(&self) -> &str {
        self.field(1)
    }

    /// The id of the span in whose course this is: 16 hexadecimal digits.
    #[must_use]
    pub fn span_id(&self) -> &str {
        self.field(2)
    }

    /// Whether its caller records the trace (§3.2.2.5).
    #[must_use]
    pub fn is_sampled(&self) -> bool {
        // The lowest bit of the last hexadecimal digit.
        matches!(self.field(3).as_bytes(), [_, b'1' | b'3' | b'5' | b'7' | b'9' | b'b' | b'd' | b'f'])
    }

    /// The context that an event carries.
    #[must_use]
    pub fn of(event: &NewEvent) -> Option<Self> {
        let value = |name| event.extensions.iter().find(|extension| extension.name == name).map(|found| &found.value);
        match (value(TRACEPARENT_EXTENSION)?, value(TRACESTATE_EXTENSION)) {
            (ExtensionValue::String(parent), Some(ExtensionValue::String(state))) => Self::parse(parent, Some(state)),
            (ExtensionValue::String(parent), _) => Self::parse(parent, None),
            _ => None,
        }
    }

    fn field(&self, number: usize) -> &str {
        let (start, end) = FIELDS[number];
        &self.parent[start..end]
    }
}

impl AppendRequest {
    /// Puts the context into each event that has none of its own and room for it; into none where the request would
    /// then be too large.
    pub fn carry(&mut self, context: &TraceContext) {
        let state = context.state.as_ref().map_or(0, |state| TRACESTATE_EXTENSION.len() + state.len());
        let more = TRACEPARENT_EXTENSION.len() + context.parent.len() + state;
        let bytes: usize = self.events.iter().map(|event| event.bytes() + more).sum();
        if bytes <= REQUEST_BYTES_MAX {
            self.events.iter_mut().for_each(|event| event.carry(context));
        }
    }
}

impl NewEvent {
    /// Puts the context into the event, unless it has one of its own or no room for it: tracing refuses no event.
    pub fn carry(&mut self, context: &TraceContext) {
        if self.extensions.iter().any(is_of_trace) {
            return;
        }
        let extension = |name: &str, value: &str| Extension {
            name: name.to_owned(),
            value: ExtensionValue::String(value.to_owned()),
        };
        let parent = extension(TRACEPARENT_EXTENSION, &context.parent);
        let state = context.state.as_deref().map(|state| extension(TRACESTATE_EXTENSION, state));
        // A state that does not fit is left out rather than the whole context (§3.3.1.4).
        let before = self.extensions.clone();
        for more in [state.map(|state| vec![parent.clone(), state]), Some(vec![parent])].into_iter().flatten() {
            self.extensions = [before.as_slice(), &more].concat();
            self.extensions.sort_by(|a, b| a.name.cmp(&b.name));
            if check_extensions(&self.extensions).and_then(|()| self.check_size()).is_ok() {
                return;
            }
        }
        self.extensions = before;
    }

    /// Whether both say that the same has happened: whatever they say but their trace context (LOG-4).
    #[must_use]
    pub fn says_the_same(&self, other: &Self) -> bool {
        // Most are equal in everything.
        self == other || said(self) == said(other)
    }
}

/// All of an event but its trace context.
fn said(event: &NewEvent) -> impl PartialEq {
    let NewEvent { id, source, event_type, stream, time, event_version, .. } = event;
    let NewEvent { data_schema, data_content_type, extensions, data, .. } = event;
    let extensions: Vec<&Extension> = extensions.iter().filter(|extension| !is_of_trace(extension)).collect();
    ((id, source, event_type, stream, time, event_version), (data_schema, data_content_type, extensions, data))
}

fn is_of_trace(extension: &Extension) -> bool {
    [TRACEPARENT_EXTENSION, TRACESTATE_EXTENSION].contains(&extension.name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EXTENSIONS_MAX;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn event(extensions: &str) -> NewEvent {
        let json = format!(r#"{{"specversion":"1.0","id":"1","source":"/t","type":"t","subject":"a-1"{extensions}}}"#);
        NewEvent::from_cloudevent(json.as_bytes()).expect("an event")
    }

    fn names(event: &NewEvent) -> Vec<&str> {
        event.extensions.iter().map(|extension| extension.name.as_str()).collect()
    }

    #[test]
    fn only_what_the_standard_allows_is_a_trace_context() {
        let context = TraceContext::parse(PARENT, Some("a=1")).expect("the standard's own example");
        assert_eq!((context.trace_id(), context.span_id()), ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"));
        let sampled =
            |flags: &str| TraceContext::parse(&(PARENT[..53].to_owned() + flags), None).expect("good").is_sampled();
        assert!(sampled("01") && sampled("ff") && !sampled("00") && !sampled("02"));
        let later = PARENT.replacen("00", "cc", 1) + "-more";
        assert!(TraceContext::parse(&later, None).is_some(), "a later version may say more");
        let mut wrong: Vec<String> = (0..PARENT.len()).map(|length| PARENT[..length].to_owned()).collect();
        wrong.extend([format!("{PARENT}-more"), PARENT.to_uppercase(), PARENT.replacen("00", "ff", 1)]);
        wrong.extend([PARENT.replace('-', "_"), PARENT.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32))]);
        wrong.extend([PARENT.replace("00f067aa0ba902b7", &"0".repeat(16)), "é".repeat(27) + "0"]);
        for text in wrong {
            assert_eq!(TraceContext::parse(&text, None), None, "{text}");
        }
    }

    #[test]
    fn an_event_takes_a_context_in_its_place_and_keeps_its_own() {
        let context = TraceContext::parse(PARENT, Some("a=1")).expect("a context");
        let mut plain = event(r#","alpha":"1","zeta":"2""#);
        plain.carry(&context);
        assert_eq!(names(&plain), ["alpha", TRACEPARENT_EXTENSION, TRACESTATE_EXTENSION, "zeta"]);
        plain.check().expect("in order");
        assert_eq!(TraceContext::of(&plain), Some(context.clone()));
        let mut own = event(r#","traceparent":"what its source says""#);
        own.carry(&context);
        assert_eq!(own, event(r#","traceparent":"what its source says""#));
    }

    #[test]
    fn no_event_is_refused_for_a_context_that_does_not_fit() {
        let long = TraceContext::parse(PARENT, Some(&"x".repeat(600))).expect("a context");
        let mut plain = event("");
        plain.carry(&long);
        assert_eq!(names(&plain), [TRACEPARENT_EXTENSION]);
        let many: String = (0..EXTENSIONS_MAX).map(|number| format!(r#","x{number}":"1""#)).collect();
        let mut full = event(&many);
        full.carry(&long);
        assert_eq!(full, event(&many));
    }

    #[test]
    fn a_request_that_has_no_room_for_a_context_goes_without() {
        let context = TraceContext::parse(PARENT, None).expect("a context");
        let large = |bytes: usize| {
            let mut event = event("");
            event.data = crate::event::Data::Json(format!("{:?}", "x".repeat(bytes)));
            AppendRequest { events: vec![event; 16], ..AppendRequest::default() }
        };
        let mut full = large((1 << 20) - 20);
        let before = full.clone();
        full.carry(&context);
        assert_eq!(full.events, before.events);
        let mut largest = large((1 << 20) - 1000);
        largest.carry(&context);
        assert!(largest.events.iter().all(|event| names(event) == [TRACEPARENT_EXTENSION]));
        assert!(largest.events.iter().map(NewEvent::bytes).sum::<usize>() <= REQUEST_BYTES_MAX);
    }

    #[test]
    fn two_events_that_differ_in_their_context_alone_say_the_same() {
        let context = TraceContext::parse(PARENT, None).expect("a context");
        let (first, mut retry) = (event(r#","alpha":"1""#), event(r#","alpha":"1""#));
        retry.carry(&context);
        assert!(first != retry && first.says_the_same(&retry) && retry.says_the_same(&first));
        assert!(!first.says_the_same(&event(r#","alpha":"2""#)));
        assert!(!first.says_the_same(&event(r#","alpha":"1","data":1"#)));
    }
}
