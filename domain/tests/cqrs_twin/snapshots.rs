//! Snapshots over the twin: what they save, and that none is believed that the log does not bear out.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use cqrs_es::{CqrsFramework, EventStore};
use domain::content::{Content, ContentEvent};
use domain::cqrs::snapshot::{self, Snapshot, SnapshotStore};
use domain::{StreamName, StreamVersion};
use serde_json::json;

use super::{Commands, Rig, commands, create, delete, form, head, repository, revise};

#[derive(Default)]
pub(super) struct Snapshots {
    kept: Mutex<HashMap<StreamName, Snapshot>>,
    away: bool,
    wrong: Mutex<Vec<(StreamName, StreamVersion)>>,
}

#[async_trait]
impl SnapshotStore for Snapshots {
    async fn load(&self, stream: &StreamName) -> Option<Snapshot> {
        self.kept.lock().expect("not poisoned").get(stream).cloned()
    }

    async fn save(&self, snapshot: Snapshot) {
        if !self.away {
            self.kept.lock().expect("not poisoned").insert(snapshot.stream.clone(), snapshot);
        }
    }

    fn was_wrong(&self, stream: &StreamName, version: StreamVersion) {
        self.wrong.lock().expect("not poisoned").push((stream.clone(), version));
    }
}

impl Snapshots {
    fn kept(&self) -> Option<Snapshot> {
        self.kept.lock().expect("not poisoned").values().next().cloned()
    }
}

fn kept_in(store: &Arc<Snapshots>, every: usize) -> snapshot::Snapshots {
    let every = NonZeroUsize::new(every).expect("not 0");
    snapshot::Snapshots::new(Arc::<Snapshots>::clone(store), every, "1")
}

fn with_snapshots(rig: &Rig, snapshots: &Arc<Snapshots>, every: usize) -> Commands {
    let store = repository(rig).into_snapshot_store(kept_in(snapshots, every));
    CqrsFramework::new(store, Vec::new(), ())
}

#[tokio::test]
async fn a_snapshot_saves_reading_what_is_before_it() {
    let (rig, snapshots) = (Rig::new(), Arc::new(Snapshots::default()));
    let commands = with_snapshots(&rig, &snapshots, 2);
    for command in [create("1"), revise("2"), revise("3"), revise("4"), revise("5")] {
        commands.execute("a", command).await.expect("decided");
    }
    let kept = snapshots.kept().expect("kept");
    assert_eq!((kept.version.get(), kept.number), (4, 2));
    // Not even a removed event stands in the way of what a snapshot holds.
    rig.archive_up_to(3);
    rig.remove(2);
    commands.execute("a", delete()).await.expect("decided over the snapshot and version 5");
    assert_eq!(head(&rig).await, 6);
}

#[tokio::test]
async fn an_imported_snapshot_is_believed_once_the_events_have_given_it() {
    let stream = StreamName::parse("content-a").expect("a name");
    let version = |version| StreamVersion::new(version).expect("from 1");
    let second = Content::Living { oid: "2".to_owned(), mode: "100644".to_owned(), size: 41 };
    let (right, form) = (serde_json::to_value(second).expect("JSON"), "1");
    // Of the second of three versions; and of one that is not there.
    let cases = [(right.clone(), 2, true), (json!("Deleted"), 2, false), (right.clone(), 4, true)];
    for (state, at, is_right) in cases {
        let (rig, snapshots) = (Rig::new(), Arc::new(Snapshots::default()));
        for command in [create("1"), revise("2"), revise("3")] {
            commands(&rig).execute("a", command).await.expect("decided");
        }
        let imported = Snapshot::imported(stream.clone(), version(at), 7, state);
        assert!(imported.is_imported());
        snapshots.save(imported.clone()).await;
        let store = repository(&rig).into_snapshot_store::<Content>(kept_in(&snapshots, 100));
        let loaded = store.load_aggregate("a").await.expect("readable");
        let third = Content::Living { oid: "3".to_owned(), mode: "100644".to_owned(), size: 41 };
        assert_eq!((loaded.aggregate, loaded.current_sequence), (third, 3));
        let wrong = snapshots.wrong.lock().expect("not poisoned").clone();
        assert_eq!(wrong, if is_right { vec![] } else { vec![(stream.clone(), version(2))] });
        let kept = snapshots.kept().expect("kept");
        if at == 2 {
            let proven = json!({ "form": form, "state": right });
            assert_eq!(kept, Snapshot { stream: stream.clone(), version: version(2), number: 7, state: proven });
            assert_eq!(loaded.current_snapshot, Some(7), "it is what the load began with");
        } else {
            assert_eq!(kept, imported, "not proven, and not thrown away: the events may still come");
        }
    }
}

#[tokio::test]
async fn a_snapshot_amid_the_events_of_one_command_loses_none_of_them() {
    let (rig, snapshots) = (Rig::new(), Arc::new(Snapshots::default()));
    let store = repository(&rig).into_snapshot_store::<Content>(kept_in(&snapshots, 2));
    let context = store.load_aggregate("a").await.expect("empty");
    let events =
        vec![ContentEvent::Created(form("1")), ContentEvent::Revised(form("2")), ContentEvent::Revised(form("3"))];
    store.commit(events, context, HashMap::new()).await.expect("appended");
    assert_eq!(snapshots.kept().expect("kept").version.get(), 2);
    let loaded = store.load_aggregate("a").await.expect("readable");
    let third = Content::Living { oid: "3".to_owned(), mode: "100644".to_owned(), size: 41 };
    assert_eq!((loaded.aggregate, loaded.current_sequence), (third, 3));
}

#[tokio::test]
async fn a_snapshot_that_is_lost_ahead_or_unreadable_is_rebuilt_from_the_log() {
    let (rig, snapshots) = (Rig::new(), Arc::new(Snapshots { away: true, ..Snapshots::default() }));
    let commands = with_snapshots(&rig, &snapshots, 1);
    commands.execute("a", create("1")).await.expect("decided, the snapshot lost");
    commands.execute("a", revise("2")).await.expect("decided without it");
    let odd = |version, state| Snapshot {
        stream: StreamName::of("content", "a").expect("a name"),
        version: StreamVersion::new(version).expect("from 1"),
        number: 1,
        state,
    };
    let ahead = odd(9, json!({"form": "1", "state": "Deleted"}));
    let unreadable = odd(1, json!({"form": "1", "state": {"Living": "in another form"}}));
    let of_no_form = odd(1, json!("Deleted"));
    for (snapshot, oid) in [(ahead, "3"), (unreadable, "4"), (of_no_form, "5")] {
        snapshots.kept.lock().expect("not poisoned").insert(snapshot.stream.clone(), snapshot);
        commands.execute("a", revise(oid)).await.expect("decided over the log");
    }
    assert_eq!(head(&rig).await, 5);
}
