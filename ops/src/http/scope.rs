//! What of the log a token opens: all of it, or the streams of named categories (SEC-1). Whatever an operation does not
//! say of itself is taken as "everything": a route that is added and forgotten here stays shut for a limited token. It must
//! never be asked about roles.

use std::collections::BTreeSet;

use domain::append::AppendRequest;
use domain::filter::Filter;
use domain::{ErrorKind, StreamName};

use super::problem::Problem;

/// What a token opens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Scope {
    /// All categories.
    #[default]
    Everything,
    /// The streams of these categories alone.
    Categories(BTreeSet<String>),
}

/// What of the log an operation shows or changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Touches {
    /// No event and nothing made of events.
    Nothing,
    /// Events of this category.
    Category(&'static str),
    /// What its request names; its handler asks the caller's [`Scope`].
    WhatItNames,
    /// Events of any category.
    Everything,
}

impl Scope {
    /// Whether it opens the streams of `category`.
    #[must_use]
    pub fn covers(&self, category: &str) -> bool {
        match self {
            Self::Everything => true,
            Self::Categories(named) => named.contains(category),
        }
    }

    /// Refuses a category that it does not open.
    ///
    /// # Errors
    /// Denied, with the categories that it opens.
    pub(super) fn check(&self, category: &str) -> Result<(), Problem> {
        if self.covers(category) {
            return Ok(());
        }
        Err(self.refusal(&format!("not {category:?}")))
    }

    /// Refuses what is of all categories.
    ///
    /// # Errors
    /// Denied, with the categories that it opens.
    pub(super) fn check_everything(&self) -> Result<(), Problem> {
        match self {
            Self::Everything => Ok(()),
            Self::Categories(_) => Err(self.refusal("and this is of all")),
        }
    }

    /// Refuses an append unless it opens every stream that is written, and every stream whose version is asked for: a
    /// conflict's answer would tell it. A condition asks about the events of all categories.
    ///
    /// # Errors
    /// Denied, with the first category that it does not open.
    pub(super) fn check_append(&self, request: &AppendRequest) -> Result<(), Problem> {
        if !request.conditions.is_empty() {
            self.check_everything()?;
        }
        let written = request.events.iter().map(|event| &event.stream);
        let asked = request.expect.iter().map(|expectation| &expectation.stream);
        written.chain(asked).map(StreamName::category).try_for_each(|category| self.check(category))
    }

    /// Refuses a filter unless it names categories, and this opens all of them.
    ///
    /// # Errors
    /// Denied, with the categories that it opens.
    pub(super) fn check_filter(&self, filter: &Filter) -> Result<(), Problem> {
        match filter.categories() {
            [] => self.check_everything(),
            named => named.iter().try_for_each(|category| self.check(category)),
        }
    }

    /// Refuses an operation that touches more than it opens.
    ///
    /// # Errors
    /// Denied, with the categories that it opens.
    pub(super) fn check_route(&self, touches: Touches) -> Result<(), Problem> {
        match touches {
            Touches::Nothing | Touches::WhatItNames => Ok(()),
            Touches::Category(category) => self.check(category),
            Touches::Everything => self.check_everything(),
        }
    }

    fn refusal(&self, wanted: &str) -> Problem {
        let named: Vec<&str> = match self {
            Self::Everything => Vec::new(),
            Self::Categories(named) => named.iter().map(String::as_str).collect(),
        };
        let detail = format!("this token opens the categories {} alone, {wanted}", named.join(", "));
        Problem::new(ErrorKind::Denied, detail)
    }
}

#[cfg(test)]
mod tests {
    use domain::append::{AppendCondition, Expectation, ExpectedVersion};
    use domain::event::NewEvent;

    use super::*;

    fn orders() -> Scope {
        Scope::Categories(BTreeSet::from(["order".to_owned()]))
    }

    fn stream(name: &str) -> StreamName {
        StreamName::parse(name).expect("a stream")
    }

    #[test]
    fn a_limited_token_opens_its_categories_and_no_prefix_of_them() {
        assert!(orders().covers("order") && Scope::Everything.covers("order"));
        for other in ["orde", "orders", "", "content"] {
            assert!(!orders().covers(other), "{other:?}");
        }
        assert!(!Scope::Categories(BTreeSet::new()).covers("order"), "none named is none opened");
    }

    #[test]
    fn an_append_touches_what_it_writes_and_what_it_asks_about() {
        let event = |stream: &str| {
            let text = format!(r#"{{"specversion":"1.0","id":"1","source":"/t","type":"t","subject":"{stream}"}}"#);
            NewEvent::from_cloudevent(text.as_bytes()).expect("an event")
        };
        let expect = |name: &str| Expectation { stream: stream(name), version: ExpectedVersion::NoStream };
        let request = |events: &[&str], expected: &[&str]| AppendRequest {
            events: events.iter().map(|stream| event(stream)).collect(),
            expect: expected.iter().map(|stream| expect(stream)).collect(),
            ..AppendRequest::default()
        };
        assert!(orders().check_append(&request(&["order-1", "order-2"], &["order-3"])).is_ok());
        for (events, expected) in [(["order-1", "bill-1"], "order-1"), (["order-1", "order-2"], "bill-1")] {
            let refused = orders().check_append(&request(&events, &[expected])).expect_err("not its category");
            assert_eq!(refused.kind(), ErrorKind::Denied);
            assert!(Scope::Everything.check_append(&request(&events, &[expected])).is_ok());
        }
        let conditions = vec![AppendCondition::default()];
        let asking = AppendRequest { conditions, ..request(&["order-1"], &[]) };
        assert!(orders().check_append(&asking).is_err(), "a condition is not of a category");
        assert!(Scope::Everything.check_append(&asking).is_ok());
    }

    #[test]
    fn a_route_that_says_nothing_of_itself_is_shut_for_a_limited_token() {
        assert!(orders().check_route(Touches::Everything).is_err());
        assert!(orders().check_route(Touches::Category("content")).is_err());
        assert!(orders().check_route(Touches::Category("order")).is_ok());
        assert!(orders().check_route(Touches::Nothing).is_ok());
        assert!(Scope::Everything.check_route(Touches::Everything).is_ok());
    }
}
