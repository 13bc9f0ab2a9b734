//! Content: what people change, item by item. One stream `content-ID` an item.
//!
//! Owns the aggregate's rules (given events and a command, which events follow) and the reading of content
//! events. It must never read the log or a view: what it decides on is what was applied to it.
//!
//! The aggregate is strict and the folds are total. A command is decided only over events that this version
//! understands; a fold ([`Change::of`]) takes whatever a stream holds, because one odd event that somebody
//! appended past the aggregate must not stop a view.

pub mod living;

use cqrs_es::event_sink::EventSink;
use cqrs_es::{Aggregate, DomainEvent};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::ErrorKind;
use crate::event::{Data, TOMBSTONE_TYPE};
use crate::record::RecordedEvent;

/// The category of content streams: an item's stream is `content-ID`.
pub const CATEGORY: &str = "content";
/// Type of the event that an item came to be, for the first time or after a deletion.
pub const CREATED_TYPE: &str = "content.created";
/// Type of the event that a living item changed.
pub const REVISED_TYPE: &str = "content.revised";
/// Type of the event that a living item was deleted. Its stream goes on.
pub const DELETED_TYPE: &str = "content.deleted";

/// `data` of `content.created` and `content.revised`: the whole form of the item after the change.
/// Members that a later version adds are left out and do no harm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revision {
    /// Who changed it (a pseudonym).
    pub author: String,
    /// The change that it belonged to: many items can change together.
    pub change: String,
    /// Object id of the content's bytes.
    pub oid: String,
    /// File mode, such as `100644`.
    pub mode: String,
    /// Length of the content in bytes.
    pub size: u64,
}

/// `data` of `content.deleted`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deletion {
    /// Who deleted it (a pseudonym).
    pub author: String,
    /// The change that it belonged to.
    pub change: String,
}

/// What happens to a content item. As JSON it is tagged by its type: `{"content.deleted":{…}}`; the record
/// holds the inner object alone ([`crate::cqrs::PayloadForm::TaggedByType`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContentEvent {
    /// The item came to be.
    #[serde(rename = "content.created")]
    Created(Revision),
    /// The item changed.
    #[serde(rename = "content.revised")]
    Revised(Revision),
    /// The item was deleted.
    #[serde(rename = "content.deleted")]
    Deleted(Deletion),
    /// The stream was closed for good, whatever the tombstone says beside that.
    #[serde(rename = "coldstream.tombstone")]
    Closed(serde_json::Value),
}

impl DomainEvent for ContentEvent {
    fn event_type(&self) -> String {
        match self {
            Self::Created(_) => CREATED_TYPE,
            Self::Revised(_) => REVISED_TYPE,
            Self::Deleted(_) => DELETED_TYPE,
            Self::Closed(_) => TOMBSTONE_TYPE,
        }
        .to_owned()
    }

    fn event_version(&self) -> String {
        "1.0".to_owned()
    }
}

/// What can be asked of a content item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContentCommand {
    /// Let it be: for the first time, or again after its deletion.
    Create(Revision),
    /// Change it.
    Revise(Revision),
    /// Delete it. The stream goes on; it can be created again.
    Delete(Deletion),
}

/// Which rule of content a command breaks. Nothing was appended.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ContentError {
    /// A living item cannot be created.
    #[error("the content exists already")]
    AlreadyExists,
    /// Only a living item can be revised or deleted.
    #[error("there is no such content, or it was deleted")]
    DoesNotExist,
    /// A revision has to change something: the object id, the mode or the size.
    #[error("the revision changes nothing")]
    Unchanged,
    /// A tombstone closed the stream.
    #[error("the content was closed for good")]
    Closed,
    /// A field that cannot be stored or says nothing.
    #[error("{field:?} is empty or holds a control character")]
    Unfit {
        /// Which one.
        field: &'static str,
    },
}

impl ContentError {
    /// What the caller has to do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::AlreadyExists | Self::Unchanged | Self::Closed => ErrorKind::Conflict,
            Self::DoesNotExist => ErrorKind::NotFound,
            Self::Unfit { .. } => ErrorKind::Invalid,
        }
    }
}

/// The content item as its commands see it: no more of it than they need, and nobody's name, because
/// snapshots of it are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// It has never been.
    #[default]
    Absent,
    /// It lives in this form.
    Living {
        /// Object id of its bytes.
        oid: String,
        /// File mode.
        mode: String,
        /// Length in bytes.
        size: u64,
    },
    /// It was deleted and may be created again.
    Deleted,
    /// A tombstone closed its stream.
    Closed,
}

impl Content {
    fn decide(&self, command: ContentCommand) -> Result<ContentEvent, ContentError> {
        match (self, command) {
            (Self::Closed, _) => Err(ContentError::Closed),
            (Self::Living { .. }, ContentCommand::Create(_)) => Err(ContentError::AlreadyExists),
            (Self::Absent | Self::Deleted, ContentCommand::Create(form)) => Ok(ContentEvent::Created(fit(form)?)),
            (Self::Living { oid, mode, size }, ContentCommand::Revise(form)) => {
                if (oid, mode, *size) == (&form.oid, &form.mode, form.size) {
                    return Err(ContentError::Unchanged);
                }
                Ok(ContentEvent::Revised(fit(form)?))
            }
            (Self::Living { .. }, ContentCommand::Delete(deletion)) => {
                fits("author", &deletion.author)?;
                fits("change", &deletion.change)?;
                Ok(ContentEvent::Deleted(deletion))
            }
            (Self::Absent | Self::Deleted, ContentCommand::Revise(_) | ContentCommand::Delete(_)) => {
                Err(ContentError::DoesNotExist)
            }
        }
    }
}

fn fit(form: Revision) -> Result<Revision, ContentError> {
    fits("author", &form.author)?;
    fits("change", &form.change)?;
    fits("oid", &form.oid)?;
    fits("mode", &form.mode)?;
    Ok(form)
}

fn fits(field: &'static str, text: &str) -> Result<(), ContentError> {
    if text.is_empty() || text.chars().any(char::is_control) { Err(ContentError::Unfit { field }) } else { Ok(()) }
}

impl Aggregate for Content {
    const TYPE: &'static str = CATEGORY;
    type Command = ContentCommand;
    type Event = ContentEvent;
    type Error = ContentError;
    type Services = ();

    async fn handle(
        &mut self,
        command: Self::Command,
        _services: &Self::Services,
        sink: &EventSink<Self>,
    ) -> Result<(), Self::Error> {
        let event = self.decide(command)?;
        sink.write(event, self).await;
        Ok(())
    }

    fn apply(&mut self, event: Self::Event) {
        *self = match event {
            ContentEvent::Created(form) | ContentEvent::Revised(form) => {
                Self::Living { oid: form.oid, mode: form.mode, size: form.size }
            }
            ContentEvent::Deleted(_) => Self::Deleted,
            ContentEvent::Closed(_) => Self::Closed,
        };
    }
}

/// What an event of a content stream says, for folds: any event says something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The item came to be.
    Created(Revision),
    /// The item has this form now.
    Revised(Revision),
    /// The item was deleted.
    Deleted(Deletion),
    /// The stream was closed for good.
    Closed,
    /// It is one of the three above, but its data cannot be read as that: what the item is now is unknown.
    Unreadable,
    /// A type that this version does not know. It leaves the item as it is.
    Other,
}

impl Change {
    /// Reads an event of a content stream.
    #[must_use]
    pub fn of(event: &RecordedEvent) -> Self {
        let data = &event.event.data;
        match event.event.event_type.as_str() {
            CREATED_TYPE => read(data).map_or(Self::Unreadable, Self::Created),
            REVISED_TYPE => read(data).map_or(Self::Unreadable, Self::Revised),
            DELETED_TYPE => read(data).map_or(Self::Unreadable, Self::Deleted),
            TOMBSTONE_TYPE => Self::Closed,
            _ => Self::Other,
        }
    }
}

fn read<T: for<'de> Deserialize<'de>>(data: &Data) -> Option<T> {
    match data {
        Data::Json(text) => serde_json::from_str(text).ok(),
        Data::Absent | Data::Base64(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use cqrs_es::test::TestFramework;

    use super::*;

    fn form(oid: &str) -> Revision {
        Revision {
            author: "85ec80be".to_owned(),
            change: "25d1d6a8".to_owned(),
            oid: oid.to_owned(),
            mode: "100644".to_owned(),
            size: 41,
        }
    }

    fn deletion() -> Deletion {
        Deletion { author: "85ec80be".to_owned(), change: "ed1becb0".to_owned() }
    }

    fn given(events: Vec<ContentEvent>) -> cqrs_es::test::AggregateTestExecutor<Content> {
        TestFramework::<Content>::with(()).given(events)
    }

    #[test]
    fn new_content_is_created() {
        given(vec![])
            .when(ContentCommand::Create(form("a")))
            .then_expect_events(vec![ContentEvent::Created(form("a"))]);
    }

    #[test]
    fn living_content_cannot_be_created_again() {
        given(vec![ContentEvent::Created(form("a"))])
            .when(ContentCommand::Create(form("b")))
            .then_expect_error(ContentError::AlreadyExists);
    }

    #[test]
    fn deleted_content_can_be_created_again() {
        given(vec![ContentEvent::Created(form("a")), ContentEvent::Deleted(deletion())])
            .when(ContentCommand::Create(form("a")))
            .then_expect_events(vec![ContentEvent::Created(form("a"))]);
    }

    #[test]
    fn living_content_is_revised_and_deleted() {
        given(vec![ContentEvent::Created(form("a"))])
            .when(ContentCommand::Revise(form("b")))
            .then_expect_events(vec![ContentEvent::Revised(form("b"))]);
        given(vec![ContentEvent::Created(form("a")), ContentEvent::Revised(form("b"))])
            .when(ContentCommand::Delete(deletion()))
            .then_expect_events(vec![ContentEvent::Deleted(deletion())]);
    }

    #[test]
    fn what_does_not_live_cannot_be_revised_or_deleted() {
        let deleted = vec![ContentEvent::Created(form("a")), ContentEvent::Deleted(deletion())];
        for history in [vec![], deleted] {
            for command in [ContentCommand::Revise(form("b")), ContentCommand::Delete(deletion())] {
                given(history.clone()).when(command).then_expect_error(ContentError::DoesNotExist);
            }
        }
    }

    #[test]
    fn a_revision_that_changes_nothing_is_refused() {
        let again = Revision { author: "someone else".to_owned(), change: "another".to_owned(), ..form("b") };
        given(vec![ContentEvent::Created(form("a")), ContentEvent::Revised(form("b"))])
            .when(ContentCommand::Revise(again))
            .then_expect_error(ContentError::Unchanged);
        let mode_only = Revision { mode: "100755".to_owned(), ..form("a") };
        given(vec![ContentEvent::Created(form("a"))])
            .when(ContentCommand::Revise(mode_only.clone()))
            .then_expect_events(vec![ContentEvent::Revised(mode_only)]);
    }

    #[test]
    fn closed_content_takes_no_command() {
        let closed = vec![ContentEvent::Created(form("a")), ContentEvent::Closed(serde_json::Value::Null)];
        for command in
            [ContentCommand::Create(form("b")), ContentCommand::Revise(form("b")), ContentCommand::Delete(deletion())]
        {
            given(closed.clone()).when(command).then_expect_error(ContentError::Closed);
        }
    }

    #[test]
    fn a_field_that_says_nothing_is_refused_by_name() {
        given(vec![]).when(ContentCommand::Create(form(""))).then_expect_error(ContentError::Unfit { field: "oid" });
        let nul = Deletion { author: "a\0b".to_owned(), ..deletion() };
        given(vec![ContentEvent::Created(form("a"))])
            .when(ContentCommand::Delete(nul))
            .then_expect_error(ContentError::Unfit { field: "author" });
    }

    #[test]
    fn members_of_later_versions_are_left_out_and_do_no_harm() {
        let later = r#"{"author":"a","change":"c","oid":"o","mode":"m","size":1,"licence":{"name":"MIT"}}"#;
        let event: ContentEvent = serde_json::from_str(&format!(r#"{{"content.revised":{later}}}"#)).expect("readable");
        let ContentEvent::Revised(form) = event else { panic!("a revision") };
        assert_eq!((form.oid.as_str(), form.size), ("o", 1));
    }

    #[test]
    fn a_type_of_a_later_version_stops_a_command() {
        // To decide over what one does not understand would be a guess.
        serde_json::from_str::<ContentEvent>(r#"{"content.shared":{}}"#).expect_err("unknown");
    }
}
