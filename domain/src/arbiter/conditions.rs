//! Whether the conditions of a request hold: by what the log has found of the events that are stored, and by the events
//! that earlier requests of the same group have placed.

use crate::append::{AppendError, AppendRequest};
use crate::event::NewEvent;
use crate::{Head, Position};

/// What the log has found of one item of a condition, among the stored events after the condition's position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    /// None of them matches.
    None,
    /// The one at this position does; others may.
    At(Position),
    /// One of those up to here may match, and the live log cannot tell; none after it does.
    Unsettled {
        /// Up to here.
        up_to: Head,
    },
}

/// Decides the conditions of `request`. `found` has an answer for each item, in order; `placed` are the events before it
/// that are not stored yet, and `head` is where the log ends with them.
pub(super) fn hold<'a>(
    request: &AppendRequest,
    found: &[Match],
    head: Head,
    placed: impl Iterator<Item = (Position, &'a NewEvent)> + Clone,
) -> Result<(), AppendError> {
    let mut found = found.iter().copied();
    let mut unsettled = None;
    for condition in &request.conditions {
        let after = condition.after;
        if after > head {
            return Err(AppendError::ConditionAhead { after, head });
        }
        for item in &condition.fail_if_events_match {
            // An item that was not looked up is not settled: nothing is accepted by omission.
            let stored = found.next().unwrap_or(Match::Unsettled { up_to: head });
            let in_group = || placed.clone().find(|(at, event)| !after.includes(*at) && item.matches(event));
            match (stored, in_group()) {
                (Match::At(position), _) | (_, Some((position, _))) => {
                    return Err(AppendError::ConditionFailed { after, position });
                }
                (Match::Unsettled { up_to }, None) => {
                    unsettled = unsettled.max(Some((up_to, after)));
                }
                (Match::None, None) => {}
            }
        }
    }
    // Last: an event that is known to match says more.
    match unsettled {
        Some((up_to, after)) => Err(AppendError::ConditionUnsettled { after, up_to }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::append::{AppendCondition, ConditionItem};

    fn head(number: u64) -> Head {
        Head::new(number).expect("small")
    }

    fn event(event_type: &str, tags: &str) -> NewEvent {
        let json = format!(
            r#"{{"specversion":"1.0","id":"1","source":"/s","type":"{event_type}","subject":"a-1","tags":"{tags}"}}"#
        );
        NewEvent::from_cloudevent(json.as_bytes()).expect("an event")
    }

    /// A request whose conditions are (after, tags of the items).
    fn request(conditions: &[(u64, &[&str])]) -> AppendRequest {
        let item = |tag: &&str| ConditionItem { types: Vec::new(), tags: vec![(*tag).to_owned()] };
        let condition = |(after, tags): &(u64, &[&str])| AppendCondition {
            fail_if_events_match: tags.iter().map(item).collect(),
            after: head(*after),
        };
        AppendRequest { conditions: conditions.iter().map(condition).collect(), ..AppendRequest::default() }
    }

    fn decide(request: &AppendRequest, found: &[Match], placed: &[(u64, NewEvent)]) -> Result<(), AppendError> {
        let at = |number| Position::new(number).expect("from 1");
        let end = head(10 + u64::try_from(placed.len()).expect("few"));
        hold(request, found, end, placed.iter().map(|(number, event)| (at(*number), event)))
    }

    #[test]
    fn any_match_of_any_item_refuses() {
        let two = request(&[(3, &["a"]), (0, &["b", "c"])]);
        assert!(decide(&two, &[Match::None; 3], &[]).is_ok());
        let at = Match::At(Position::new(7).expect("from 1"));
        for found in [[at, Match::None, Match::None], [Match::None, Match::None, at]] {
            let refused = decide(&two, &found, &[]);
            assert!(matches!(refused, Err(AppendError::ConditionFailed { position, .. }) if position.get() == 7));
        }
    }

    #[test]
    fn an_event_of_an_earlier_request_of_the_group_counts() {
        let placed = [(11, event("t", "a"))];
        let refused = decide(&request(&[(10, &["a"])]), &[Match::None], &placed);
        assert!(matches!(refused, Err(AppendError::ConditionFailed { position, .. }) if position.get() == 11));
        assert!(decide(&request(&[(10, &["b"])]), &[Match::None], &placed).is_ok());
        assert!(decide(&request(&[(11, &["a"])]), &[Match::None], &placed).is_ok(), "the writer has seen it");
    }

    #[test]
    fn what_is_not_settled_refuses_and_a_match_says_more() {
        let two = request(&[(0, &["a", "b"])]);
        let unsettled = |up_to| Match::Unsettled { up_to: head(up_to) };
        let refused = decide(&two, &[unsettled(2), unsettled(4)], &[]);
        assert!(matches!(refused, Err(AppendError::ConditionUnsettled { up_to, .. }) if up_to.get() == 4));
        let refused = decide(&two, &[unsettled(2), Match::None], &[(11, event("t", "b"))]);
        assert!(matches!(refused, Err(AppendError::ConditionFailed { .. })));
        assert!(decide(&two, &[Match::None], &[]).is_err(), "an item without an answer is not settled");
    }

    #[test]
    fn a_position_that_the_log_has_not_reached_refuses() {
        let refused = decide(&request(&[(11, &["a"])]), &[Match::None], &[]);
        assert!(matches!(refused, Err(AppendError::ConditionAhead { .. })));
        assert!(decide(&request(&[(10, &["a"])]), &[Match::None], &[]).is_ok());
    }
}
