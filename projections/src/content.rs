//! The view "content now": each content item as its last change left it, within the live window.
//!
//! Owns the fold of one item ([`fold`]) and what is kept of it in and out of the window. The fold is pure and
//! total: any record of a content stream gives something, because one odd event, appended past the aggregate,
//! must not stop the view.

mod now;
mod rows;
mod write;

use domain::content::{CATEGORY, Change, Revision};
use domain::record::Record;
use domain::{Position, StreamVersion, Timestamp};

pub use now::{AT_LEAST_WAIT, ContentNow, Counts, Lookup};
pub use write::ContentView;

/// Name of the view: its schema, and its name as a consumer of the log.
pub const VIEW: &str = "view_content";
/// Number of its fold: grows with every change of [`fold`], of what is written of it, or of its tables.
pub const FOLD: i32 = 1;

/// What an item is after its last change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ItemState {
    /// It lives.
    Living,
    /// It was deleted; it may be created again.
    Deleted,
    /// A tombstone closed its stream for good.
    Closed,
    /// Its last change does not say: the record was removed, or this version cannot read it. The next change
    /// says it again.
    Unknown,
}

impl ItemState {
    /// The word in SQL and API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Living => "living",
            Self::Deleted => "deleted",
            Self::Closed => "closed",
            Self::Unknown => "unknown",
        }
    }

    /// Reads [`ItemState::as_str`]'s word.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Living, Self::Deleted, Self::Closed, Self::Unknown].into_iter().find(|state| state.as_str() == text)
    }
}

/// When something happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moment {
    /// As its source says, text as given.
    pub time: Option<String>,
    /// When the log recorded it.
    pub recorded_at: Timestamp,
}

/// What is known of an item in and out of the window, and all that the fold needs to go on: a stub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stub {
    /// The item's id.
    pub id: String,
    /// What it is.
    pub state: ItemState,
    /// When it was created (the last time); `None` if that record was removed.
    pub created: Option<Moment>,
    /// How often it was revised since.
    pub revisions: u64,
    /// The last change's place in the stream.
    pub version: StreamVersion,
    /// The last change's place in the log.
    pub position: Position,
    /// When the log recorded the last change.
    pub changed_at: Timestamp,
}

/// What a living item is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Form {
    /// Object id of the content's bytes.
    pub oid: String,
    /// File mode.
    pub mode: String,
    /// Length of the content in bytes, at most 2^63 − 1.
    pub size: i64,
}

/// An item as its last change left it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// What stays of it when it leaves the window.
    pub stub: Stub,
    /// `time` of the last change, text as given.
    pub changed_time: Option<String>,
    /// Who made the last change; `None` where that is not known.
    pub author: Option<String>,
    /// The change that it belonged to.
    pub change: Option<String>,
    /// What it is now, if it lives.
    pub form: Option<Form>,
}

/// The item after `record`, given what was known of it `before`; `None` if the record changes no item (another
/// category, or a type that this version does not know).
#[must_use]
pub fn fold(before: Option<&Stub>, record: &Record) -> Option<Item> {
    if record.stream().category() != CATEGORY {
        return None;
    }
    let (change, time) = match record {
        Record::Event(event) => (storable(Change::of(event)), event.event.time.clone()),
        Record::Removed(_) => (Change::Unreadable, None),
    };
    let mut item = Item {
        stub: Stub {
            id: record.stream().id().to_owned(),
            state: ItemState::Unknown,
            created: before.and_then(|before| before.created.clone()),
            revisions: before.map_or(0, |before| before.revisions),
            version: record.version(),
            position: record.position(),
            changed_at: record.recorded_at(),
        },
        changed_time: time,
        author: None,
        change: None,
        form: None,
    };
    match change {
        Change::Created(form) => {
            item.stub.created = Some(Moment { time: item.changed_time.clone(), recorded_at: item.stub.changed_at });
            item.stub.revisions = 0;
            item.live_as(form);
        }
        Change::Revised(form) => {
            item.stub.revisions += 1;
            item.live_as(form);
        }
        Change::Deleted(deletion) => {
            item.stub.state = ItemState::Deleted;
            (item.author, item.change) = (Some(deletion.author), Some(deletion.change));
        }
        Change::Closed => item.stub.state = ItemState::Closed,
        Change::Unreadable => {}
        Change::Other => return None,
    }
    Some(item)
}

impl Item {
    fn live_as(&mut self, form: Revision) {
        self.stub.state = ItemState::Living;
        self.author = Some(form.author);
        self.change = Some(form.change);
        let size = i64::try_from(form.size).expect("storable");
        self.form = Some(Form { oid: form.oid, mode: form.mode, size });
    }
}

/// A change that PostgreSQL cannot hold (NUL in text, a size beyond bigint) counts as unreadable.
fn storable(change: Change) -> Change {
    let fits = match &change {
        Change::Created(form) | Change::Revised(form) => {
            let texts = [&form.author, &form.change, &form.oid, &form.mode];
            i64::try_from(form.size).is_ok() && texts.iter().all(|text| !text.contains('\0'))
        }
        Change::Deleted(deletion) => !deletion.author.contains('\0') && !deletion.change.contains('\0'),
        Change::Closed | Change::Unreadable | Change::Other => true,
    };
    if fits { change } else { Change::Unreadable }
}

#[cfg(test)]
mod tests {
    use domain::event::{Data, NewEvent};
    use domain::merkle::Hash;
    use domain::record::{RecordedEvent, RemovedBy, RemovedRecord};
    use domain::{Epoch, StreamName};

    use super::*;

    fn at(day: u64) -> Timestamp {
        Timestamp::parse_rfc3339(&format!("2026-01-{day:02}T00:00:00Z")).expect("an instant")
    }

    /// The `n`th event of "content-a", on day n, at position 10 n.
    fn event(n: u64, event_type: &str, data: &str) -> Record {
        Record::Event(Box::new(RecordedEvent {
            position: Position::new(10 * n).expect("from 1"),
            recorded_at: at(n),
            version: StreamVersion::new(n).expect("from 1"),
            previous: None,
            epoch: Epoch::FIRST,
            event: NewEvent {
                id: n.to_string(),
                source: "/test".to_owned(),
                event_type: event_type.to_owned(),
                stream: StreamName::of("content", "a").expect("a name"),
                time: Some(format!("2016-01-{n:02}T00:00:00+02:00")),
                event_version: None,
                data_schema: None,
                data_content_type: None,
                extensions: Vec::new(),
                data: Data::Json(data.to_owned()),
            },
        }))
    }

    fn form(oid: &str) -> String {
        format!(r#"{{"author":"x","change":"y","oid":"{oid}","mode":"100644","size":7}}"#)
    }

    fn folded(records: &[Record]) -> Option<Item> {
        let mut item: Option<Item> = None;
        for record in records {
            let next = fold(item.as_ref().map(|item| &item.stub), record);
            item = next.or(item);
        }
        item
    }

    #[test]
    fn an_item_is_what_its_last_change_says() {
        let item = folded(&[
            event(1, "content.created", &form("1")),
            event(2, "content.revised", &form("2")),
            event(3, "content.revised", &form("3")),
        ])
        .expect("an item");
        let created = Moment { time: Some("2016-01-01T00:00:00+02:00".to_owned()), recorded_at: at(1) };
        assert_eq!((item.stub.state, item.stub.revisions, item.stub.created), (ItemState::Living, 2, Some(created)));
        assert_eq!((item.stub.version.get(), item.stub.position.get(), item.stub.changed_at), (3, 30, at(3)));
        assert_eq!(item.changed_time.as_deref(), Some("2016-01-03T00:00:00+02:00"));
        assert_eq!(item.form.map(|form| form.oid).as_deref(), Some("3"));
    }

    #[test]
    fn an_item_that_is_created_again_counts_from_there() {
        let item = folded(&[
            event(1, "content.created", &form("1")),
            event(2, "content.revised", &form("2")),
            event(3, "content.deleted", r#"{"author":"z","change":"w"}"#),
        ])
        .expect("an item");
        assert_eq!((item.stub.state, item.author.as_deref(), &item.form), (ItemState::Deleted, Some("z"), &None));
        let again = fold(Some(&item.stub), &event(4, "content.created", &form("4"))).expect("an item");
        assert_eq!((again.stub.state, again.stub.revisions), (ItemState::Living, 0));
        assert_eq!(again.stub.created.map(|created| created.recorded_at), Some(at(4)));
    }

    #[test]
    fn a_stub_is_enough_to_fold_the_next_change() {
        let records = [
            event(1, "content.created", &form("1")),
            event(2, "content.revised", &form("2")),
            event(3, "content.revised", &form("3")),
        ];
        let stub = folded(&records[..2]).expect("an item").stub;
        assert_eq!(fold(Some(&stub), &records[2]), folded(&records));
    }

    #[test]
    fn what_cannot_be_read_or_stored_is_unknown_and_never_the_form_before() {
        let created = event(1, "content.created", &form("1"));
        let too_large = form("2").replace(":7", ":9223372036854775808");
        for data in ["{}", "[]", &too_large, &form("\\u0000")] {
            let item = folded(&[created.clone(), event(2, "content.revised", data)]).expect("an item");
            assert_eq!((item.stub.state, item.form, item.author), (ItemState::Unknown, None, None), "{data}");
            assert_eq!(item.stub.position.get(), 20);
        }
        let removed = Record::Removed(RemovedRecord {
            position: Position::new(20).expect("from 1"),
            version: StreamVersion::new(2).expect("from 1"),
            stream: StreamName::of("content", "a").expect("a name"),
            recorded_at: at(2),
            removed: RemovedBy::Retention,
            certificate: "c".to_owned(),
            leaf: Hash::of(b""),
        });
        let item = folded(&[created.clone(), removed]).expect("an item");
        assert_eq!(item.stub.state, ItemState::Unknown);
        let known = folded(&[created, event(2, "content.revised", "{}"), event(3, "content.revised", &form("3"))]);
        assert_eq!(known.expect("an item").stub.state, ItemState::Living);
    }

    #[test]
    fn a_type_of_a_later_version_leaves_the_item_as_it_is() {
        let created = event(1, "content.created", &form("1"));
        assert_eq!(folded(&[created.clone(), event(2, "content.shared", "{}")]), folded(&[created]));
        assert_eq!(folded(&[event(1, "content.shared", "{}")]), None);
    }

    #[test]
    fn a_tombstone_closes_an_item() {
        let closed = folded(&[event(1, "content.created", &form("1")), event(2, "coldstream.tombstone", "null")]);
        assert_eq!(closed.expect("an item").stub.state, ItemState::Closed);
    }
}
