//! Conditions of an append: what must not have happened since a position. They are the append condition of the DCB
//! specification (dcb.events/specification), and an item is one of its query items.
//!
//! It owns what a condition is and which event matches it. Whether one has is looked up by the log and decided by the
//! arbiter.

use super::InvalidRequest;
use crate::Head;
use crate::event::{self, NewEvent, TAGS_MAX};

/// The conditions of a request have at most this many items together. More hold the head lock for longer.
pub const CONDITION_ITEMS_MAX: usize = 64;
/// An item names at most this many types.
pub const ITEM_TYPES_MAX: usize = 32;

/// What the writer has not seen when it decides: the request is refused if such an event is there.
///
/// A name is registered once, and in a course that was read up to position 41 nobody has taken a seat since:
///
/// ```
/// use domain::append::AppendRequest;
///
/// let document = br#"{"events": [{"specversion": "1.0", "id": "1", "source": "/school", "type": "student.registered",
///     "subject": "student-7", "tags": "student:7 name:ann course:c1"}],
///     "conditions": [
///         {"fail_if_events_match": [{"types": ["student.registered"], "tags": ["name:ann"]}]},
///         {"fail_if_events_match": [{"types": ["course.booked", "course.closed"], "tags": ["course:c1"]}], "after": "41"}
///     ]}"#;
/// let request = AppendRequest::from_document(document)?;
/// assert_eq!(request.conditions[1].after.get(), 41);
/// # Ok::<(), domain::append::InvalidRequest>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AppendCondition {
    /// No event may match any of these. Not empty.
    pub fail_if_events_match: Vec<ConditionItem>,
    /// Only events after this position count: the newest one that the writer has read, or the log's head when it began
    /// to read. [`Head::EMPTY`]: all events count.
    pub after: Head,
}

/// Which events are meant: those of one of the types that have all of the tags.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConditionItem {
    /// Any of these types; empty: of whatever type.
    pub types: Vec<String>,
    /// All of these tags ([`NewEvent::tags`]); empty: whatever its tags.
    pub tags: Vec<String>,
}

impl ConditionItem {
    /// Whether `event` is meant.
    #[must_use]
    pub fn matches(&self, event: &NewEvent) -> bool {
        let typed = self.types.is_empty() || self.types.contains(&event.event_type);
        typed && self.tags.iter().all(|tag| event.tags().any(|own| own == tag))
    }

    fn check(&self) -> Result<(), InvalidRequest> {
        if self.types.len() > ITEM_TYPES_MAX {
            return Err(invalid(format!("an item names at most {ITEM_TYPES_MAX} types")));
        }
        if self.tags.len() > TAGS_MAX {
            return Err(invalid(format!("an item names at most {TAGS_MAX} tags")));
        }
        for event_type in &self.types {
            event::not_empty("type", event_type).map_err(|error| invalid(error.to_string()))?;
        }
        for tag in &self.tags {
            event::not_empty("tag", tag).map_err(|error| invalid(error.to_string()))?;
            if tag.contains(' ') {
                return Err(invalid(format!("{tag:?} is more than one tag: a tag holds no space")));
            }
        }
        Ok(())
    }
}

/// Every rule that can be checked without the log.
pub(super) fn check(conditions: &[AppendCondition]) -> Result<(), InvalidRequest> {
    if conditions.iter().any(|condition| condition.fail_if_events_match.is_empty()) {
        return Err(invalid("a condition has at least one item"));
    }
    let items = || conditions.iter().flat_map(|condition| &condition.fail_if_events_match);
    if items().count() > CONDITION_ITEMS_MAX {
        return Err(invalid(format!("they have at most {CONDITION_ITEMS_MAX} items together")));
    }
    items().try_for_each(ConditionItem::check)
}

fn invalid(reason: impl Into<String>) -> InvalidRequest {
    InvalidRequest::document("conditions", reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(event_type: &str, tags: &str) -> NewEvent {
        let json = format!(
            r#"{{"specversion":"1.0","id":"1","source":"/s","type":"{event_type}","subject":"a-1","tags":"{tags}"}}"#
        );
        NewEvent::from_cloudevent(json.as_bytes()).expect("an event")
    }

    fn item(types: &[&str], tags: &[&str]) -> ConditionItem {
        let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        ConditionItem { types: owned(types), tags: owned(tags) }
    }

    #[test]
    fn an_item_means_any_of_its_types_with_all_of_its_tags() {
        let subscribed = event("student.subscribed", "student:7 course:c1");
        for meant in [
            item(&[], &[]),
            item(&["student.subscribed"], &[]),
            item(&["student.left", "student.subscribed"], &["course:c1"]),
            item(&[], &["course:c1", "student:7"]),
        ] {
            assert!(meant.matches(&subscribed), "{meant:?}");
        }
        for other in [
            item(&["student"], &[]),
            item(&["student.left"], &["course:c1"]),
            item(&[], &["student:7", "course:c2"]),
            item(&[], &["student:77"]),
        ] {
            assert!(!other.matches(&subscribed), "{other:?}");
        }
        assert!(!item(&[], &["student:7"]).matches(&event("student.subscribed", "")));
    }

    #[test]
    fn a_condition_keeps_its_bounds() {
        let of = |items: Vec<ConditionItem>| AppendCondition { fail_if_events_match: items, after: Head::EMPTY };
        let many = |count: usize| (0..count).map(|n| n.to_string()).collect::<Vec<_>>();
        let most = ConditionItem { types: many(ITEM_TYPES_MAX), tags: many(TAGS_MAX) };
        assert!(check(&[of(vec![most.clone(); CONDITION_ITEMS_MAX])]).is_ok());
        for bad in [
            vec![of(vec![])],
            vec![of(vec![most.clone(); CONDITION_ITEMS_MAX]), of(vec![most.clone()])],
            vec![of(vec![ConditionItem { types: many(ITEM_TYPES_MAX + 1), tags: Vec::new() }])],
            vec![of(vec![ConditionItem { types: Vec::new(), tags: many(TAGS_MAX + 1) }])],
            vec![of(vec![item(&[""], &[])])],
            vec![of(vec![item(&[], &[""])])],
            vec![of(vec![item(&[], &["two words"])])],
            vec![of(vec![item(&["a\nb"], &[])])],
        ] {
            assert!(check(&bad).is_err(), "{bad:?}");
        }
    }
}
