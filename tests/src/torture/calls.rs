//! Every request and its answer, in the order in which they really happened, and an independent judgement of them: is
//! there one order of all events, agreeing with what everybody saw and when? It knows nothing of how the log works.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::judge::Stored;
use super::request::{Answer, Request};

/// One request and what came of it.
#[derive(Debug)]
struct Call {
    /// When it was sent and when its answer was there, by a counter that all callers share.
    begun: u64,
    ended: u64,
    ids: Vec<String>,
    expect: Vec<(String, String)>,
    claims: Option<String>,
    outcome: Outcome,
}

#[derive(Debug)]
enum Outcome {
    Stored {
        replayed: bool,
    },
    /// Refused because this stream was at this version.
    Refused {
        stream: String,
        actual: u64,
    },
    /// Refused because another event has the tag that it claims.
    Taken,
    /// The server said that it did not happen.
    DidNotHappen,
    /// No answer, or one that leaves it open.
    Unknown,
}

/// Notes calls as they are made.
#[derive(Debug, Default)]
pub struct Calls {
    clock: AtomicU64,
    made: Mutex<Vec<Call>>,
}

impl Calls {
    /// The moment before a request is sent.
    #[must_use]
    pub fn begin(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    /// Notes the answer to a request that was sent at `begun`.
    ///
    /// # Panics
    /// If the answer is none that a writer may be given.
    pub fn end(&self, begun: u64, request: &Request, answer: &Answer) {
        let ended = self.clock.fetch_add(1, Ordering::SeqCst);
        let outcome = match answer {
            Answer::Stored { replayed, .. } => Outcome::Stored { replayed: *replayed },
            Answer::Problem(409, _) if request.claims.is_some() => Outcome::Taken,
            Answer::Problem(409, problem) => {
                let stream = problem["stream"].as_str().unwrap_or_else(|| panic!("no stream: {problem}")).to_owned();
                let actual = problem["actual"].as_str().and_then(|text| text.parse().ok());
                Outcome::Refused { stream, actual: actual.unwrap_or_else(|| panic!("no version: {problem}")) }
            }
            Answer::Problem(_, problem) if problem["kind"] == "unavailable" => Outcome::DidNotHappen,
            Answer::Problem(..) | Answer::None(_) => Outcome::Unknown,
        };
        let (ids, expect, claims) = (request.ids.clone(), request.expect.clone(), request.claims.clone());
        let call = Call { begun, ended, ids, expect, claims, outcome };
        self.made.lock().unwrap_or_else(PoisonError::into_inner).push(call);
    }

    /// Holds all calls against the log in the end. Gives how many calls there were.
    ///
    /// # Panics
    /// With the promise that is broken and by which events.
    pub fn agree_with(&self, stored: &Stored) -> usize {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let judge = Judge::of(&made, stored);
        judge.real_time_order(stored);
        for call in made.iter() {
            match &call.outcome {
                Outcome::Stored { replayed } => judge.stored(call, *replayed, stored, &made),
                Outcome::Refused { stream, actual } => judge.refused(call, stream, *actual),
                Outcome::Taken => judge.taken(call),
                Outcome::DidNotHappen | Outcome::Unknown => {}
            }
        }
        made.len()
    }
}

/// When an event was first sent, and first known to be stored.
#[derive(Clone, Copy)]
struct Span {
    begun: u64,
    known: Option<u64>,
}

struct Judge<'a> {
    /// By id.
    spans: HashMap<&'a str, Span>,
    /// The events of each stream, in its order: position and id.
    streams: HashMap<&'a str, Vec<(u64, &'a str)>>,
    /// The event that has each tag.
    tagged: HashMap<&'a str, &'a str>,
}

impl<'a> Judge<'a> {
    fn of(made: &'a [Call], stored: &'a Stored) -> Self {
        let mut spans: HashMap<&str, Span> = HashMap::new();
        for call in made {
            for id in &call.ids {
                let span = spans.entry(id).or_insert(Span { begun: call.begun, known: None });
                span.begun = span.begun.min(call.begun);
                if let Outcome::Stored { .. } = call.outcome {
                    span.known = Some(span.known.map_or(call.ended, |known| known.min(call.ended)));
                }
            }
        }
        let mut streams: HashMap<&str, Vec<(u64, &str)>> = HashMap::new();
        for (id, (stream, _, position, _)) in stored {
            streams.entry(stream).or_default().push((*position, id));
        }
        streams.values_mut().for_each(|events| events.sort_unstable());
        let mut tagged: HashMap<&str, &str> = HashMap::new();
        for (tag, id) in made.iter().filter_map(|call| Some((call.claims.as_deref()?, call.ids[0].as_str()))) {
            if stored.contains_key(id) {
                let other = tagged.insert(tag, id).filter(|other| *other != id);
                assert_eq!(other, None, "a condition did not hold: {tag} is of {id} too");
            }
        }
        Self { spans, streams, tagged }
    }

    /// Somebody else had the tag, or was about to, when this one was refused.
    fn taken(&self, call: &Call) {
        let tag = call.claims.as_deref().unwrap_or_default();
        let winner = self.tagged.get(tag).unwrap_or_else(|| panic!("{:?} was refused and nobody has {tag}", call.ids));
        assert!(call.ids[0] != **winner, "{winner} was refused and is stored");
        assert!(self.spans[winner].begun < call.ended, "{winner} was not sent when {:?} was refused {tag}", call.ids);
    }

    /// LOG-2 in real time: what was acknowledged before another event was first sent stands before that one.
    fn real_time_order(&self, stored: &Stored) {
        let mut order: Vec<(u64, &str)> = stored.iter().map(|(id, place)| (place.2, id.as_str())).collect();
        order.sort_unstable();
        let mut latest: Option<(u64, &str)> = None;
        for (position, id) in order {
            let span = self.spans[id];
            if let (Some(known), Some((begun, earlier))) = (span.known, latest) {
                assert!(begun < known, "LOG-2: {id} at {position} was acknowledged before {earlier} was first sent");
            }
            latest = latest.max(Some((span.begun, id)));
        }
    }

    /// LOG-3 and LOG-4: what the request expected was so at its place in the order, and a retry repeats something.
    fn stored(&self, call: &Call, replayed: bool, stored: &Stored, made: &[Call]) {
        let first = stored[&call.ids[0]].2;
        for (stream, expected) in &call.expect {
            let before = self.streams.get(stream.as_str()).map_or(0, |events| events.partition_point(|e| e.0 < first));
            let holds = match expected.as_str() {
                "any" => true,
                "none" => before == 0,
                "exists" => before > 0,
                version => version.parse() == Ok(before),
            };
            assert!(holds, "LOG-3: {:?} expected {stream} at {expected}, it was at {before}", call.ids);
        }
        if replayed {
            let open = |other: &Call| {
                other.begun < call.ended
                    && other.ids == call.ids
                    && matches!(other.outcome, Outcome::Unknown | Outcome::Stored { .. })
                    && !std::ptr::eq(other, call)
            };
            assert!(made.iter().any(open), "LOG-4: {:?} was stored though it was said not to have happened", call.ids);
        }
    }

    /// LOG-3: the stream had the version that it was said to have, at a moment between question and answer.
    fn refused(&self, call: &Call, stream: &str, actual: u64) {
        let empty = Vec::new();
        let events = self.streams.get(stream).unwrap_or(&empty);
        let at = |version: u64| events.get(usize::try_from(version).ok()?.checked_sub(1)?).map(|event| event.1);
        if actual > 0 {
            let id = at(actual).unwrap_or_else(|| panic!("LOG-3: {stream} never had version {actual}"));
            assert!(self.spans[id].begun < call.ended, "LOG-3: {id} was not sent when {:?} was refused", call.ids);
        }
        if let Some(known) = at(actual + 1).and_then(|id| self.spans[id].known) {
            assert!(known > call.begun, "LOG-3: {:?} was told version {actual} of {stream}, an old one", call.ids);
        }
        let expected = call.expect.iter().find(|(expected, _)| expected == stream).map(|(_, version)| version.as_str());
        let right = match expected {
            Some("none") => actual == 0,
            Some("exists") => actual > 0,
            Some(version) => version.parse() == Ok(actual),
            None => true,
        };
        assert!(!right, "LOG-3: {:?} was refused though {stream} was at {actual} as expected", call.ids);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::torture::request::Place;

    fn place(id: &str, stream: &str, version: u64, position: u64) -> (String, (String, u64, u64, String)) {
        (id.into(), (stream.into(), version, position, String::new()))
    }

    fn request(id: &str, stream: &str, expected: &str) -> Request {
        Request::batch("/s", stream, expected, vec![id.into()], 1)
    }

    fn acknowledged(replayed: bool) -> Answer {
        Answer::Stored { replayed, places: Vec::<Place>::new() }
    }

    fn judged(calls: &Calls, stored: Vec<(String, (String, u64, u64, String))>) -> Result<usize, String> {
        let stored: Stored = stored.into_iter().collect();
        let judged = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| calls.agree_with(&stored)));
        judged.map_err(|panic| panic.downcast_ref::<String>().cloned().unwrap_or_default())
    }

    #[test]
    fn an_event_before_one_that_was_acknowledged_earlier_is_found() {
        for (positions, good) in [([1, 2], true), ([2, 1], false)] {
            let calls = Calls::default();
            for id in ["a", "b"] {
                calls.end(calls.begin(), &request(id, &format!("s-{id}"), "none"), &acknowledged(false));
            }
            let stored = vec![place("a", "s-a", 1, positions[0]), place("b", "s-b", 1, positions[1])];
            assert_eq!(judged(&calls, stored).is_ok(), good);
        }
        // At the same time: either order is right.
        let calls = Calls::default();
        let (first, second) = (calls.begin(), calls.begin());
        calls.end(first, &request("a", "s-a", "none"), &acknowledged(false));
        calls.end(second, &request("b", "s-b", "none"), &acknowledged(false));
        assert_eq!(judged(&calls, vec![place("a", "s-a", 1, 2), place("b", "s-b", 1, 1)]), Ok(2));
    }

    #[test]
    fn an_expectation_that_was_not_so_is_found() {
        let calls = Calls::default();
        calls.end(calls.begin(), &request("a", "s-1", "none"), &acknowledged(false));
        calls.end(calls.begin(), &request("b", "s-1", "2"), &acknowledged(false));
        let found = judged(&calls, vec![place("a", "s-1", 1, 1), place("b", "s-1", 2, 2)]).expect_err("found");
        assert!(found.contains("expected s-1 at 2, it was at 1"), "{found}");
    }

    #[test]
    fn a_version_of_the_past_in_a_refusal_is_found() {
        let refused = |actual: u64| Answer::Problem(409, json!({"stream": "s-1", "actual": actual.to_string()}));
        for (actual, good) in [(0, false), (1, true), (2, false)] {
            let calls = Calls::default();
            calls.end(calls.begin(), &request("a", "s-1", "none"), &acknowledged(false));
            calls.end(calls.begin(), &request("b", "s-1", "7"), &refused(actual));
            assert_eq!(judged(&calls, vec![place("a", "s-1", 1, 1)]).is_ok(), good, "{actual}");
        }
    }

    #[test]
    fn a_tag_that_two_events_have_or_that_was_refused_for_nothing_is_found() {
        let claim = |id: &str| Request::claim("/s", &format!("s-{id}"), id, "name:x");
        let taken = Answer::Problem(409, json!({"kind": "conflict"}));
        let both = [place("a", "s-a", 1, 1), place("b", "s-b", 1, 2)];
        for (second, stored, good) in
            [(acknowledged(false), &both[..], false), (taken.clone(), &both[..1], true), (taken, &both[..0], false)]
        {
            let calls = Calls::default();
            let first = if stored.is_empty() { Answer::None("cut".into()) } else { acknowledged(false) };
            calls.end(calls.begin(), &claim("a"), &first);
            calls.end(calls.begin(), &claim("b"), &second);
            assert_eq!(judged(&calls, stored.to_vec()).is_ok(), good);
        }
    }

    #[test]
    fn a_retry_of_what_was_said_not_to_have_happened_is_found() {
        let unavailable = Answer::Problem(503, json!({"kind": "unavailable"}));
        for (first, good) in [(unavailable, false), (Answer::None("cut".into()), true)] {
            let calls = Calls::default();
            calls.end(calls.begin(), &request("a", "s-1", "none"), &first);
            calls.end(calls.begin(), &request("a", "s-1", "none"), &acknowledged(true));
            assert_eq!(judged(&calls, vec![place("a", "s-1", 1, 1)]).is_ok(), good);
        }
    }
}
