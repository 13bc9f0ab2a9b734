//! What every log does with conditions over types and tags (LOG-3, LOG-4), whatever it is made of.

use std::future::Future;

use super::log::{Prunable, event, request};
use crate::append::{
    AppendCondition, AppendError, AppendRequest, Appended, ConditionItem, Expectation, ExpectedVersion,
};
use crate::event::{Extension, ExtensionValue, NewEvent, TAGS_EXTENSION, TAGS_MAX};
use crate::log::{EventLog, LogReader};
use crate::{ErrorKind, Head, StreamName};

/// An event of a type with tags, in a stream of its own.
#[must_use]
pub fn tagged(id: &str, event_type: &str, tags: &str) -> NewEvent {
    let mut event = event(&format!("tagged-{id}"), id);
    event.event_type = event_type.into();
    if !tags.is_empty() {
        let value = ExtensionValue::String(tags.into());
        event.extensions = vec![Extension { name: TAGS_EXTENSION.into(), value }];
    }
    event
}

/// An item of types and tags, each separated by spaces.
#[must_use]
pub fn item(types: &str, tags: &str) -> ConditionItem {
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect();
    ConditionItem { types: words(types), tags: words(tags) }
}

/// A condition: no event after `after` matches any of the items.
#[must_use]
pub fn none(after: Head, items: Vec<ConditionItem>) -> AppendCondition {
    AppendCondition { fail_if_events_match: items, after }
}

/// A request of one event that is appended on a condition.
#[must_use]
pub fn on_condition(event: NewEvent, condition: AppendCondition) -> AppendRequest {
    AppendRequest { events: vec![event], conditions: vec![condition], ..AppendRequest::default() }
}

fn head(number: u64) -> Head {
    Head::new(number).expect("small")
}

async fn stored(log: &impl EventLog, request: AppendRequest) -> (AppendRequest, Appended) {
    let appended = log.append(request.clone()).await.expect("acknowledged");
    assert!(!appended.replayed);
    (request, appended)
}

async fn store(log: &impl EventLog, events: &[NewEvent]) -> Head {
    let request = AppendRequest { events: events.to_vec(), ..AppendRequest::default() };
    let (_, appended) = stored(log, request).await;
    appended.events.last().expect("not empty").position.as_head()
}

async fn refuse(log: &impl EventLog, request: AppendRequest) -> AppendError {
    let before = log.log_head().await.expect("readable").head;
    let error = log.append(request).await.expect_err("refused");
    assert_eq!(log.log_head().await.expect("readable").head, before, "what is refused stores nothing");
    error
}

/// The condition is refused for the event at that position.
async fn fails_at(log: &impl EventLog, after: Head, items: Vec<ConditionItem>, position: u64) {
    let error = refuse(log, on_condition(tagged("never", "t", ""), none(after, items))).await;
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(matches!(error, AppendError::ConditionFailed { position: at, .. } if at.get() == position), "{error}");
}

/// The condition holds.
async fn holds(log: &impl EventLog, id: &str, after: Head, items: Vec<ConditionItem>) {
    stored(log, on_condition(tagged(id, "probe", ""), none(after, items))).await;
}

async fn is_replayed(log: &impl EventLog, (request, first): &(AppendRequest, Appended)) {
    let again = log.append(request.clone()).await.expect("a retry is acknowledged");
    assert!(again.replayed, "{request:?}");
    assert_eq!(again.events, first.events);
}

/// Runs the whole suite; `make` gives an empty, active log each time.
///
/// # Panics
/// Where the log does not keep the contract; the case's name is printed before it runs.
pub async fn run<L: EventLog, F: Future<Output = L>>(make: impl Fn() -> F) {
    macro_rules! cases {
        ($($case:ident),* $(,)?) => {$(
            println!("conditions conformance: {}", stringify!($case));
            $case(&make().await).await;
        )*};
    }
    cases!(
        a_condition_excludes_events_after_its_position_only,
        an_item_means_any_of_its_types_with_all_of_its_tags,
        a_name_is_registered_once,
        a_course_is_not_booked_beyond_its_capacity,
        a_retry_is_answered_before_its_condition_is_looked_at,
        conditions_stand_beside_expected_versions,
        of_many_at_once_on_one_condition_one_is_stored,
        a_position_beyond_the_head_is_refused,
        what_breaks_a_rule_of_conditions_is_invalid,
    );
}

/// Runs what holds when events were pruned; `make` gives an empty, active log each time.
///
/// # Panics
/// Where the log does not keep the contract; the case's name is printed before it runs.
pub async fn run_pruned<P: Prunable, F: Future<Output = P>>(make: impl Fn() -> F) {
    macro_rules! cases {
        ($($case:ident),* $(,)?) => {$(
            println!("conditions conformance: {}", stringify!($case));
            $case(&make().await).await;
        )*};
    }
    cases!(
        a_pruned_event_still_counts,
        several_tags_are_told_apart_from_the_pruned_head_on,
        a_retry_on_a_condition_is_known_for_ever,
        whatever_is_asked_a_naive_model_agrees,
    );
}

async fn a_condition_excludes_events_after_its_position_only(log: &impl EventLog) {
    holds(log, "first", Head::EMPTY, vec![item("", "")]).await;
    store(log, &[tagged("1", "opened", "account:1"), tagged("2", "opened", "account:2")]).await;
    fails_at(log, Head::EMPTY, vec![item("opened", "account:1")], 2).await;
    fails_at(log, head(1), vec![item("opened", "account:1")], 2).await;
    fails_at(log, head(2), vec![item("opened", "")], 3).await;
    holds(log, "a", head(2), vec![item("opened", "account:1")]).await;
    holds(log, "b", head(3), vec![item("opened", "")]).await;
    fails_at(log, head(4), vec![item("", "")], 5).await;
}

async fn an_item_means_any_of_its_types_with_all_of_its_tags(log: &impl EventLog) {
    store(log, &[tagged("1", "made", "a b"), tagged("2", "sold", "b  c b"), tagged("3", "sold", "")]).await;
    for (types, tags, position) in [
        ("made", "a", 1),
        ("made", "b a", 1),
        ("", "a", 1),
        ("", "b", 2),
        ("lost sold", "b", 2),
        ("sold lost", "c b", 2),
        ("", "c", 2),
        ("sold", "", 3),
        ("lost sold", "", 3),
    ] {
        fails_at(log, Head::EMPTY, vec![item("lost", ""), item(types, tags)], position).await;
    }
    let absent = [("sold", "a"), ("", "a c"), ("made", "a b c"), ("mad", ""), ("", "A"), ("lost", "b")];
    for (number, (types, tags)) in absent.into_iter().enumerate() {
        holds(log, &format!("probe-{number}"), Head::EMPTY, vec![item(types, tags)]).await;
    }
}

/// dcb.events, "Unique username": nothing but the tag says what must be unique.
async fn a_name_is_registered_once(log: &impl EventLog) {
    let unique = |name: &str| none(Head::EMPTY, vec![item("registered", &format!("username:{name}"))]);
    let register = |id: &str, name: &str| {
        on_condition(tagged(id, "registered", &format!("username:{name} account:{id}")), unique(name))
    };
    stored(log, register("1", "ann")).await;
    let error = refuse(log, register("2", "ann")).await;
    assert!(matches!(error, AppendError::ConditionFailed { .. }), "{error}");
    stored(log, register("2", "bob")).await;
}

/// dcb.events, "Course subscriptions": a decision over two entities at once, neither of which is a stream.
async fn a_course_is_not_booked_beyond_its_capacity(log: &impl EventLog) {
    let read_to = store(log, &[tagged("c", "course.defined", "course:c1"), tagged("1", "booked", "course:c1")]).await;
    let seats = || vec![item("course.defined booked", "course:c1"), item("booked left", "student:7")];
    let book = |id: &str| on_condition(tagged(id, "booked", "course:c1 student:7"), none(read_to, seats()));
    // Something else happens; that is nobody's business here.
    store(log, &[tagged("x", "booked", "course:c2 student:8")]).await;
    stored(log, book("2")).await;
    let error = refuse(log, book("3")).await;
    assert!(matches!(error, AppendError::ConditionFailed { position, .. } if position.get() == 4), "{error}");
}

async fn a_retry_is_answered_before_its_condition_is_looked_at(log: &impl EventLog) {
    let request =
        on_condition(tagged("1", "opened", "account:1"), none(Head::EMPTY, vec![item("opened", "account:1")]));
    let first = stored(log, request.clone()).await;
    // Its own event matches by now.
    is_replayed(log, &first).await;
    store(log, &[tagged("2", "opened", "account:1")]).await;
    is_replayed(log, &first).await;
    let mut ahead = request;
    ahead.conditions[0].after = head(99);
    is_replayed(log, &(ahead, first.1)).await;
}

async fn conditions_stand_beside_expected_versions(log: &impl EventLog) {
    store(log, &[tagged("1", "opened", "account:1")]).await;
    let both = |version, after| {
        let stream = StreamName::parse("tagged-1").expect("a name");
        let mut request = on_condition(tagged("2", "moved", "account:1"), none(after, vec![item("", "account:1")]));
        request.expect = vec![Expectation { stream, version }];
        request
    };
    let error = refuse(log, both(ExpectedVersion::NoStream, head(1))).await;
    assert!(matches!(error, AppendError::WrongVersion { .. }), "{error}");
    let error = refuse(log, both(ExpectedVersion::StreamExists, Head::EMPTY)).await;
    assert!(matches!(error, AppendError::ConditionFailed { .. }), "{error}");
    stored(log, both(ExpectedVersion::StreamExists, head(1))).await;
}

async fn of_many_at_once_on_one_condition_one_is_stored(log: &impl EventLog) {
    for round in 0..8 {
        let tag = format!("slot:{round}");
        let take = |n: u32| {
            let event = tagged(&format!("{round}/{n}"), "taken", &tag);
            log.append(on_condition(event, none(Head::EMPTY, vec![item("taken", &tag)])))
        };
        let answers = futures::future::join_all((0..16).map(take)).await;
        let taken = answers.iter().filter(|answer| answer.is_ok()).count();
        assert_eq!(taken, 1, "round {round}");
        let failed = |error: &AppendError| matches!(error, AppendError::ConditionFailed { .. });
        assert!(answers.iter().filter_map(|answer| answer.as_ref().err()).all(failed), "round {round}");
    }
}

async fn a_position_beyond_the_head_is_refused(log: &impl EventLog) {
    store(log, &[tagged("1", "t", "a")]).await;
    let error = refuse(log, on_condition(tagged("2", "t", ""), none(head(2), vec![item("t", "")]))).await;
    assert!(matches!(error, AppendError::ConditionAhead { .. }), "{error}");
    assert_eq!(error.kind(), ErrorKind::Conflict);
}

async fn what_breaks_a_rule_of_conditions_is_invalid(log: &impl EventLog) {
    let empty = on_condition(tagged("1", "t", ""), none(Head::EMPTY, Vec::new()));
    assert_eq!(refuse(log, empty).await.kind(), ErrorKind::Invalid);
    let spaced = ConditionItem { types: Vec::new(), tags: vec!["a b".into()] };
    let spaced = on_condition(tagged("1", "t", ""), none(Head::EMPTY, vec![spaced]));
    assert_eq!(refuse(log, spaced).await.kind(), ErrorKind::Invalid);
    let tags = |count| (0..count).map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
    let many = AppendRequest { events: vec![tagged("1", "t", &tags(TAGS_MAX + 1))], ..AppendRequest::default() };
    assert_eq!(refuse(log, many).await.kind(), ErrorKind::Invalid);
    store(log, &[tagged("1", "t", &tags(TAGS_MAX))]).await;
}

async fn a_pruned_event_still_counts(rig: &impl Prunable) {
    let log = rig.log();
    store(log, &[tagged("1", "opened", "account:1"), tagged("2", "moved", "account:1")]).await;
    store(log, &[tagged("3", "opened", "account:2"), tagged("4", "untagged", "")]).await;
    // What is pruned twice has been pruned once: the heads of the first time stay.
    for round in ["5", "6"] {
        rig.prune().await;
        fails_at(log, Head::EMPTY, vec![item("opened", "account:1")], 1).await;
        fails_at(log, Head::EMPTY, vec![item("", "account:1")], 2).await;
        fails_at(log, head(1), vec![item("opened moved", "account:1")], 2).await;
        fails_at(log, Head::EMPTY, vec![item("untagged", "")], 4).await;
        holds(log, &format!("{round}a"), head(1), vec![item("opened", "account:1")]).await;
        holds(log, &format!("{round}b"), Head::EMPTY, vec![item("closed", ""), item("moved", "account:2")]).await;
    }
}

async fn several_tags_are_told_apart_from_the_pruned_head_on(rig: &impl Prunable) {
    let log = rig.log();
    let first = [tagged("1", "booked", "student:1 course:1"), tagged("2", "booked", "student:1 course:2")];
    store(log, &first).await;
    store(log, &[tagged("3", "booked", "student:2 course:1"), tagged("4", "left", "student:9 course:9")]).await;
    let pair = |student: u32, course: u32| vec![item("booked left", &format!("student:{student} course:{course}"))];
    fails_at(log, Head::EMPTY, pair(1, 1), 1).await;
    holds(log, "5", Head::EMPTY, pair(2, 2)).await;
    rig.prune().await;
    // The newest of both tags is one event, or one of the tags has none at all.
    fails_at(log, Head::EMPTY, pair(9, 9), 4).await;
    holds(log, "6", Head::EMPTY, pair(9, 1)).await;
    // Each has been seen, and not together of late. Only the archive knows more.
    for (student, course) in [(1, 1), (2, 2)] {
        let asked = on_condition(tagged("never", "t", ""), none(Head::EMPTY, pair(student, course)));
        let error = refuse(log, asked).await;
        assert_eq!(error.kind(), ErrorKind::Conflict);
        let AppendError::ConditionUnsettled { up_to, .. } = error else { panic!("{error}") };
        assert!(up_to.get() <= 3, "{up_to}");
        holds(log, &format!("7/{student}"), up_to, pair(student, course)).await;
    }
    // What is live is told apart again.
    let live = store(log, &[tagged("8", "booked", "student:1 course:1")]).await;
    fails_at(log, Head::EMPTY, pair(1, 1), live.get()).await;
    fails_at(log, head(5), pair(1, 1), live.get()).await;
    holds(log, "9", head(5), pair(1, 2)).await;
}

async fn a_retry_on_a_condition_is_known_for_ever(rig: &impl Prunable) {
    let log = rig.log();
    let once =
        |id: &str| on_condition(tagged(id, "opened", "a"), none(head(0), vec![item("opened", &format!("a {id}"))]));
    let mut versioned = once("2");
    let stream = versioned.events[0].stream.clone();
    versioned.expect = vec![Expectation { stream, version: ExpectedVersion::NoStream }];
    let made = [stored(log, once("1")).await, stored(log, versioned).await];
    rig.prune().await;
    log.append(request(&[("a-1", "later")], &[])).await.expect("acknowledged");
    for retry in &made {
        is_replayed(log, retry).await;
    }
}

/// Numbers from a seed (xorshift64*).
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32) % most
    }

    /// Some of `words`, each with one chance in three, separated by spaces.
    fn some(&mut self, words: &[&str]) -> String {
        words.iter().filter(|_| self.below(3) == 0).copied().collect::<Vec<_>>().join(" ")
    }
}

/// What the model knows of the log: its events, and how many of them are pruned.
#[derive(Default)]
struct Model {
    events: Vec<NewEvent>,
    pruned: u64,
}

impl Model {
    fn matches(&self, condition: &AppendCondition) -> bool {
        let seen = usize::try_from(condition.after.get()).expect("small");
        let items = &condition.fail_if_events_match;
        self.events[seen..].iter().any(|event| items.iter().any(|item| item.matches(event)))
    }

    /// Whether a log may be unable to tell: never of live events, never of one tag.
    fn may_be_unsettled(&self, condition: &AppendCondition) -> bool {
        let hard = |item: &ConditionItem| item.tags.len() > 1 || (item.tags.is_empty() && !item.types.is_empty());
        condition.after.get() < self.pruned && condition.fail_if_events_match.iter().any(hard)
    }
}

async fn whatever_is_asked_a_naive_model_agrees(rig: &impl Prunable) {
    const TYPES: [&str; 3] = ["x", "y", "z"];
    const TAGS: [&str; 5] = ["a", "b", "c", "d", "e"];
    let (log, mut dice, mut model) = (rig.log(), Dice(0x0C01_D57E), Model::default());
    let (mut accepted, mut failed, mut unsettled) = (0, 0, 0);
    for step in 0..160 {
        if step % 40 == 39 {
            rig.prune().await;
            model.pruned = log.log_head().await.expect("readable").pruned.get();
        }
        let event_type = TYPES[usize::try_from(dice.below(3)).expect("small")];
        let free = tagged(&format!("{step}/free"), event_type, &dice.some(&TAGS));
        store(log, std::slice::from_ref(&free)).await;
        model.events.push(free);
        let event = tagged(&step.to_string(), event_type, &dice.some(&TAGS));
        let known = u64::try_from(model.events.len()).expect("small");
        // Mostly what was read lately, as in life.
        let since = if dice.below(3) == 0 { known } else { known.min(12) };
        let items = (0..=dice.below(3)).map(|_| item(&dice.some(&TYPES), &dice.some(&TAGS))).collect();
        let mut condition = none(head(known - dice.below(since + 1)), items);
        let mut answer = log.append(on_condition(event.clone(), condition.clone())).await;
        if let Err(AppendError::ConditionUnsettled { up_to, .. }) = answer {
            assert!(model.may_be_unsettled(&condition), "step {step}: {condition:?}");
            assert!(up_to > condition.after && up_to.get() <= model.pruned, "step {step}: {up_to}, {condition:?}");
            unsettled += 1;
            // Read on to there, as the answer says, it is told.
            condition.after = up_to;
            answer = log.append(on_condition(event.clone(), condition.clone())).await;
        }
        match answer {
            Ok(_) => {
                assert!(!model.matches(&condition), "step {step}: accepted, but {condition:?}");
                model.events.push(event);
                accepted += 1;
            }
            Err(AppendError::ConditionFailed { position, .. }) => {
                let there = &model.events[usize::try_from(position.leaf()).expect("small")];
                let items = &condition.fail_if_events_match;
                assert!(!condition.after.includes(position), "step {step}: {position}, {condition:?}");
                assert!(items.iter().any(|item| item.matches(there)), "step {step}: {position}, {condition:?}");
                failed += 1;
            }
            Err(error) => panic!("step {step}: {error}, {condition:?}"),
        }
    }
    assert!(accepted > 20 && failed > 20 && unsettled > 0, "{accepted} {failed} {unsettled}: it was asked too little");
}
