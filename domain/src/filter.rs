//! Which records a reader wants, and what a search for them has found. Where the log is live its database is asked in its
//! own language; everywhere else [`Filter::matches`] decides, and a test holds the two to each other. It reads nothing.

use thiserror::Error;

use crate::event::attribute_text;
use crate::log::Direction;
use crate::record::Record;
use crate::tiered::{ANSWER_BYTES, bytes_of};
use crate::{Category, Epoch, ErrorKind, Position, ResumeToken, StreamNameError, Timestamp};

/// A filter names at most so many values. Each of them is compared with each record that is looked at.
pub const VALUES_MAX: usize = 64;

/// One search looks at so many positions at most. More make a search for what is rare cheaper, and the wait for its
/// answer longer.
pub const SEARCH_POSITIONS_MAX: usize = 8192;

/// Which records are wanted: those of any of the categories *and* of any of the types *and* of a stream whose name begins
/// with any of the prefixes *and* recorded within the times. What is not named is not asked about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    categories: Vec<String>,
    types: Vec<String>,
    stream_prefixes: Vec<String>,
    recorded_from: Option<Timestamp>,
    recorded_before: Option<Timestamp>,
}

/// Why a filter is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FilterError {
    /// No stream is of such a category.
    #[error(transparent)]
    Category(#[from] StreamNameError),
    /// No event is of such a type.
    #[error("a type has 1 to 512 bytes and no control characters")]
    Type,
    /// No stream's name begins like this.
    #[error("the beginning of a stream's name has 1 to 512 bytes and no control characters")]
    StreamPrefix,
    /// It names too many values.
    #[error("a filter names at most {VALUES_MAX} categories, types and prefixes")]
    TooMany,
}

impl FilterError {
    /// What the caller has to do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }
}

impl Filter {
    /// Also records of this category.
    ///
    /// # Errors
    /// [`FilterError::Category`] if there can be none, `TooMany`.
    pub fn category(mut self, category: &str) -> Result<Self, FilterError> {
        self.categories.push(Category::parse(category)?.as_str().to_owned());
        self.bounded()
    }

    /// Also events of this type. A removed record has no type any more: where types are named it is left out.
    ///
    /// # Errors
    /// [`FilterError::Type`] if there can be none, `TooMany`.
    pub fn event_type(mut self, event_type: &str) -> Result<Self, FilterError> {
        self.types.push(attribute(event_type).ok_or(FilterError::Type)?);
        self.bounded()
    }

    /// Also records of streams whose names begin so, compared byte by byte.
    ///
    /// # Errors
    /// [`FilterError::StreamPrefix`] if there can be none, `TooMany`.
    pub fn stream_prefix(mut self, prefix: &str) -> Result<Self, FilterError> {
        self.stream_prefixes.push(attribute(prefix).ok_or(FilterError::StreamPrefix)?);
        self.bounded()
    }

    /// Only records with a `recordedat` at or after `instant`.
    #[must_use]
    pub fn recorded_from(self, instant: Timestamp) -> Self {
        Self { recorded_from: Some(instant), ..self }
    }

    /// Only records with a `recordedat` before `instant`.
    #[must_use]
    pub fn recorded_before(self, instant: Timestamp) -> Self {
        Self { recorded_before: Some(instant), ..self }
    }

    fn bounded(self) -> Result<Self, FilterError> {
        let values = self.categories.len() + self.types.len() + self.stream_prefixes.len();
        if values > VALUES_MAX { Err(FilterError::TooMany) } else { Ok(self) }
    }

    /// Whether it wants everything.
    #[must_use]
    pub fn is_all(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it wants `record`.
    #[must_use]
    pub fn matches(&self, record: &Record) -> bool {
        let any_of = |named: &[String], fits: &dyn Fn(&str) -> bool| named.is_empty() || named.iter().any(|n| fits(n));
        let (stream, recorded_at) = (record.stream(), record.recorded_at());
        let of_type = |named: &str| matches!(record, Record::Event(event) if event.event.event_type == named);
        any_of(&self.categories, &|named| stream.category() == named)
            && any_of(&self.types, &of_type)
            && any_of(&self.stream_prefixes, &|prefix| stream.as_str().starts_with(prefix))
            && self.recorded_from.is_none_or(|from| recorded_at >= from)
            && self.recorded_before.is_none_or(|before| recorded_at < before)
    }

    /// The categories that it names.
    #[must_use]
    pub fn categories(&self) -> &[String] {
        &self.categories
    }

    /// The types that it names.
    #[must_use]
    pub fn event_types(&self) -> &[String] {
        &self.types
    }

    /// The beginnings of streams' names that it names.
    #[must_use]
    pub fn stream_prefixes(&self) -> &[String] {
        &self.stream_prefixes
    }

    /// The times that it names: the first instant, and the one after the last.
    #[must_use]
    pub fn recorded(&self) -> (Option<Timestamp>, Option<Timestamp>) {
        (self.recorded_from, self.recorded_before)
    }
}

fn attribute(text: &str) -> Option<String> {
    let fits = !text.is_empty() && attribute_text("", text).is_ok();
    fits.then(|| text.to_owned())
}

/// What a search of a part of the log has found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Searched {
    /// Those that match, in the direction of the search.
    pub records: Vec<Record>,
    /// Where it has come to: from the position that it began at to here nothing else matches. `None`: there is nothing.
    pub to: Option<SearchedTo>,
}

/// The last record that a search has looked at, whether it matches or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SearchedTo {
    /// Its position.
    pub position: Position,
    /// Its epoch; a removed record does not say it.
    pub epoch: Option<Epoch>,
}

impl SearchedTo {
    /// Where a search has come to whose last record is this.
    #[must_use]
    pub fn of(record: &Record) -> Self {
        let epoch = match record {
            Record::Event(event) => Some(event.epoch),
            Record::Removed(_) => None,
        };
        Self { position: record.position(), epoch }
    }

    /// What a reader goes on with who wants to be told of a branch that lost.
    #[must_use]
    pub fn token(self) -> Option<ResumeToken> {
        self.epoch.map(|epoch| ResumeToken { position: self.position, epoch })
    }

    /// The position that a search looks at next; `None` before the first one.
    #[must_use]
    pub fn next(self, direction: Direction) -> Option<Position> {
        match direction {
            Direction::Forward => Some(self.position.next()),
            Direction::Backward => self.position.head_before().newest(),
        }
    }
}

impl Searched {
    /// Looks through records that follow each other without a hole, until `limit` of them match or those have many bytes.
    pub fn among<'a>(records: impl Iterator<Item = &'a Record>, filter: &Filter, limit: usize) -> Self {
        let (mut found, mut bytes) = (Self::default(), 0);
        for record in records {
            found.to = Some(SearchedTo::of(record));
            if filter.matches(record) {
                bytes += bytes_of(record);
                found.records.push(record.clone());
            }
            if found.records.len() >= limit || bytes >= ANSWER_BYTES {
                break;
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::NewEvent;
    use crate::merkle::Hash;
    use crate::record::{RecordedEvent, RemovedBy, RemovedRecord};
    use crate::{StreamName, StreamVersion};

    fn at(text: &str) -> Timestamp {
        Timestamp::parse_rfc3339(text).expect("an instant")
    }

    fn record(stream: &str, event_type: &str) -> Record {
        let text =
            format!(r#"{{"specversion":"1.0","id":"1","source":"/x","type":"{event_type}","subject":"{stream}"}}"#);
        Record::Event(Box::new(RecordedEvent {
            position: Position::FIRST,
            recorded_at: at("2026-05-01T08:00:00Z"),
            version: StreamVersion::FIRST,
            previous: None,
            epoch: Epoch::FIRST,
            event: NewEvent::from_cloudevent(text.as_bytes()).expect("an event"),
        }))
    }

    fn removed(stream: &str) -> Record {
        Record::Removed(RemovedRecord {
            position: Position::FIRST,
            version: StreamVersion::FIRST,
            stream: StreamName::parse(stream).expect("a name"),
            recorded_at: at("2026-05-01T08:00:00Z"),
            removed: RemovedBy::Retention,
            certificate: "c".into(),
            leaf: Hash::of(b""),
        })
    }

    #[test]
    fn any_value_of_a_kind_suffices_and_every_kind_that_is_named_counts() {
        let record = record("order-17", "order.placed");
        let fits = |filter: Result<Filter, FilterError>| filter.expect("a filter").matches(&record);
        let none = Filter::default;
        assert!(none().matches(&record) && none().is_all());
        assert!(fits(none().category("note").and_then(|filter| filter.category("order"))));
        assert!(!fits(none().category("orde")) && !fits(none().category("note")));
        assert!(fits(none().event_type("order.placed")) && !fits(none().event_type("order")));
        assert!(["o", "order", "order-", "order-17"].iter().all(|prefix| fits(none().stream_prefix(prefix))));
        assert!(!fits(none().stream_prefix("order-17x")) && !fits(none().stream_prefix("rder")));
        assert!(!fits(none().category("order").and_then(|filter| filter.event_type("order.paid"))));
        let (instant, later) = (at("2026-05-01T08:00:00Z"), at("2026-05-01T08:00:00.000001Z"));
        assert!(none().recorded_from(instant).recorded_before(later).matches(&record));
        assert!(!none().recorded_before(instant).matches(&record) && !none().recorded_from(later).matches(&record));
    }

    #[test]
    fn a_removed_record_has_a_stream_and_a_time_and_no_type() {
        let record = removed("order-17");
        let order = Filter::default().category("order").expect("a filter");
        assert!(order.matches(&record) && !order.event_type("order.placed").expect("a filter").matches(&record));
    }

    #[test]
    fn what_no_record_can_have_is_no_filter() {
        let none = Filter::default;
        assert_eq!(none().category("Order"), Err(FilterError::Category(StreamNameError::Category)));
        assert_eq!(none().event_type(""), Err(FilterError::Type));
        assert_eq!(none().stream_prefix("a\u{0}"), Err(FilterError::StreamPrefix));
        let full = (0..VALUES_MAX).try_fold(none(), |filter, number| filter.event_type(&number.to_string()));
        assert_eq!(full.and_then(|filter| filter.category("one_more")), Err(FilterError::TooMany));
    }

    #[test]
    fn a_search_says_where_it_has_come_to_whatever_it_finds() {
        let records = [record("a-1", "x"), record("b-1", "x"), removed("a-2")];
        let filter = Filter::default().category("a").expect("a filter");
        let found = Searched::among(records.iter(), &filter, 9);
        assert_eq!(found.records, [records[0].clone(), records[2].clone()]);
        assert_eq!(found.to, Some(SearchedTo { position: Position::FIRST, epoch: None }));
        let first = Searched::among(records.iter(), &filter, 1);
        assert_eq!(
            (first.records.len(), first.to),
            (1, Some(SearchedTo::of(&records[0]))),
            "it ends with the last match"
        );
        let nothing = Filter::default().category("c").expect("a filter");
        assert_eq!(Searched::among(records.iter(), &nothing, 1).to, Some(SearchedTo::of(&records[2])));
    }
}
