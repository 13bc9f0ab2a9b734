//! What consumer groups do, whatever they are kept in (GRP-1).

use std::future::Future;

use async_trait::async_trait;

use super::log::request;
use crate::append::Role;
use crate::filter::Filter;
use crate::group::{
    ConsumerGroups, ConsumerName, Created, Delivered, Group, GroupName, GroupSettings, GroupStatus, LAPSED_REASON,
    Lease, Listed, NewGroup, Outcome, Parked, Reason, Settled, Settlement, Start, Take, Which, look_on, records_at,
};
use crate::log::{EventLog, FollowerLog, LogReader as _};
use crate::{ErrorKind, Head, Position};

/// Groups of a log of their own, and a hand on their clock.
#[async_trait]
pub trait Timed: Send + Sync {
    /// The log.
    type Log: EventLog + FollowerLog;
    /// The groups.
    type Groups: ConsumerGroups;

    /// The log, which is active and empty at first.
    fn log(&self) -> &Self::Log;
    /// The groups, of which there are none at first.
    fn groups(&self) -> &Self::Groups;
    /// Lets so many seconds pass for all that waits and all that is handed out.
    async fn pass(&self, seconds: u32);
}

/// Runs the whole suite; `make` gives an empty log without groups each time.
///
/// # Panics
/// Where the groups do not keep the contract; the case's name is printed before it runs.
pub async fn run<T: Timed, F: Future<Output = T>>(make: impl Fn() -> F) {
    macro_rules! cases {
        ($($case:ident),* $(,)?) => {$(
            println!("group conformance: {}", stringify!($case));
            $case(&Bench(make().await)).await;
        )*};
    }
    cases!(
        a_group_is_made_once,
        a_group_begins_where_it_says,
        each_event_is_handed_out_once_until_it_is_settled,
        a_stream_is_in_one_lease_at_a_time,
        what_fails_is_tried_again_later_and_parked_in_the_end,
        a_lease_that_ran_out_is_a_failed_attempt_and_a_late_worker_changes_nothing,
        what_failed_with_its_lease_is_handed_out_alone,
        a_lease_is_extended_while_its_worker_lives,
        what_is_released_counts_no_attempt,
        what_is_parked_holds_nothing_back_and_is_replayed_out_of_order,
        what_is_discarded_is_gone,
        no_more_is_listed_than_there_is_room_for,
        a_listing_that_comes_too_late_changes_nothing,
        a_removed_group_leaves_nothing_to_the_next_of_its_name,
        a_region_that_is_not_active_hands_nothing_out,
        a_settlement_names_each_event_once,
    );
}

struct Bench<T>(T);

fn named(name: &str) -> GroupName {
    GroupName::parse(name).expect("a name")
}

/// A group of everything, from the first event on; a retry comes after 10 s, then 20, and the third failure parks.
fn wanted() -> NewGroup {
    let settings = GroupSettings {
        lease_seconds: 30,
        attempts_max: 3,
        retry_first_seconds: 10,
        retry_max_seconds: 100,
        unsettled_max: 5,
    };
    NewGroup { start: Start::From(Position::FIRST), settings, ..NewGroup::called(named("workers")) }
}

fn at(number: u64) -> Position {
    Position::new(number).expect("from 1")
}

fn positions(events: &[Delivered]) -> Vec<u64> {
    events.iter().map(|event| event.position.get()).collect()
}

fn settlement(number: u64, outcome: Outcome) -> Settlement {
    Settlement { position: at(number), outcome }
}

fn retry(reason: &str) -> Outcome {
    Outcome::Retry { after_seconds: None, reason: Reason::of(reason) }
}

impl<T: Timed> Bench<T> {
    /// One event each for `streams`, in this order.
    async fn append(&self, streams: &[&str]) {
        for stream in streams {
            let next = self.0.log().log_head().await.expect("readable").head.next();
            self.0.log().append(request(&[(stream, &next.to_string())], &[])).await.expect("acknowledged");
        }
    }

    async fn create(&self, new: &NewGroup) -> Group {
        match self.0.groups().create(new).await.expect("created") {
            Created::New(group) => group,
            Created::Same(group) => panic!("there was {group:?}"),
        }
    }

    async fn with(&self, streams: &[&str]) -> Group {
        let group = self.create(&wanted()).await;
        self.append(streams).await;
        group
    }

    async fn status(&self, group: &Group) -> GroupStatus {
        let all = self.0.groups().statuses().await.expect("readable");
        all.into_iter().find(|status| status.group == *group).expect("it is there")
    }

    /// (checkpoint, unsettled, parked).
    async fn counts(&self, group: &Group) -> (u64, u64, u64) {
        let status = self.status(group).await;
        (status.checkpoint.get(), status.unsettled, status.parked)
    }

    /// Takes once; lists what there is room for if nothing is ready, and takes again.
    async fn take(&self, group: &Group, max: usize) -> Option<Lease> {
        let consumer = ConsumerName::parse("one").expect("a name");
        for _ in 0..2 {
            let idle = match self.0.groups().take(group, &consumer, max).await.expect("taken") {
                Take::Lease(lease) => return Some(lease),
                Take::Nothing(idle) => idle,
            };
            if idle.room == 0 {
                return None;
            }
            let listing = look_on(self.0.log(), group, idle.listed_to, idle.room).await.expect("readable")?;
            let listed = self.0.groups().list(group, idle.listed_to, &listing).await.expect("listed");
            assert_eq!(listed, Listed::Stored, "nobody else lists");
        }
        None
    }

    /// Positions of a take.
    async fn taken(&self, group: &Group, max: usize) -> Vec<u64> {
        self.take(group, max).await.map(|lease| positions(&lease.events)).unwrap_or_default()
    }

    async fn settle(&self, group: &Group, lease: &Lease, events: &[(u64, Outcome)]) -> Vec<Settled> {
        let events: Vec<Settlement> = events.iter().map(|(at, outcome)| settlement(*at, outcome.clone())).collect();
        self.0.groups().settle(group, lease.number, &events).await.expect("answered")
    }

    async fn all_done(&self, group: &Group, lease: &Lease) {
        let events: Vec<(u64, Outcome)> = positions(&lease.events).into_iter().map(|at| (at, Outcome::Done)).collect();
        assert!(self.settle(group, lease, &events).await.iter().all(|settled| *settled == Settled::Done));
    }

    async fn parked(&self, group: &Group) -> Vec<Parked> {
        self.0.groups().parked(group, Head::EMPTY, 10).await.expect("readable")
    }
}

async fn a_group_is_made_once<T: Timed>(bench: &Bench<T>) {
    let group = bench.create(&wanted()).await;
    let again = bench.0.groups().create(&wanted()).await.expect("the same");
    assert_eq!(again, Created::Same(group.clone()));
    let settings = GroupSettings { attempts_max: 4, ..wanted().settings };
    let filter = Filter::default().category("a").expect("a filter");
    for other in [
        NewGroup { settings, ..wanted() },
        NewGroup { filter: filter.clone(), ..wanted() },
        NewGroup { start: Start::Head, ..wanted() },
    ] {
        assert_eq!(bench.0.groups().create(&other).await.expect_err("another").kind(), ErrorKind::Conflict);
    }
    let at = crate::Timestamp::from_unix_micros(0).expect("an instant");
    let unsound = [
        NewGroup { settings: GroupSettings { lease_seconds: 0, ..settings }, name: named("b"), ..wanted() },
        NewGroup { filter: Filter::default().recorded_before(at), name: named("b"), ..wanted() },
        NewGroup { start: Start::From(self::at(2)), name: named("b"), ..wanted() },
    ];
    for new in unsound {
        assert_eq!(bench.0.groups().create(&new).await.expect_err("unsound").kind(), ErrorKind::Invalid);
    }
    assert_eq!(bench.0.groups().find(&named("workers")).await.expect("found"), group);
    assert_eq!(bench.0.groups().find(&named("b")).await.expect_err("none").kind(), ErrorKind::NotFound);
    let full = NewGroup { filter, name: named("another"), ..wanted() };
    let full = bench.create(&full).await;
    assert_eq!(bench.0.groups().find(&named("another")).await.expect("found"), full, "with all its values");
    let statuses = bench.0.groups().statuses().await.expect("readable");
    let names: Vec<&str> = statuses.iter().map(|status| status.group.name().as_str()).collect();
    assert_eq!(names, ["another", "workers"]);
}

async fn a_group_begins_where_it_says<T: Timed>(bench: &Bench<T>) {
    bench.append(&["a-1", "b-1", "a-2"]).await;
    let late = bench.create(&NewGroup::called(named("late"))).await;
    let of_a = Filter::default().category("a").expect("a filter");
    let from = NewGroup { filter: of_a, start: Start::From(at(2)), name: named("from"), ..wanted() };
    let from = bench.create(&from).await;
    bench.append(&["a-3", "b-2", "a-4"]).await;
    assert_eq!(bench.counts(&late).await, (3, 0, 0));
    assert_eq!(bench.taken(&late, 9).await, [4, 5, 6]);
    let lease = bench.take(&from, 9).await.expect("events");
    assert_eq!(positions(&lease.events), [3, 4, 6]);
    let records = records_at(bench.0.log(), &from, &lease.events).await.expect("readable");
    assert_eq!(records.iter().map(|record| record.position().get()).collect::<Vec<_>>(), [3, 4, 6]);
    let next = NewGroup { start: Start::From(at(7)), name: named("next"), ..wanted() };
    assert!(bench.take(&bench.create(&next).await, 9).await.is_none());
}

async fn each_event_is_handed_out_once_until_it_is_settled<T: Timed>(bench: &Bench<T>) {
    let group = bench.with(&["a-1", "a-2", "a-3", "a-4"]).await;
    let first = bench.take(&group, 2).await.expect("events");
    let second = bench.take(&group, 9).await.expect("events");
    assert_eq!((positions(&first.events), positions(&second.events)), (vec![1, 2], vec![3, 4]));
    assert_ne!(first.number, second.number);
    assert!(first.events.iter().all(|event| event.attempt == 1 && !event.replayed));
    assert!(bench.take(&group, 9).await.is_none(), "all are handed out");
    bench.all_done(&group, &second).await;
    assert_eq!(bench.counts(&group).await, (0, 2, 0), "the first one is not done");
    bench.all_done(&group, &first).await;
    assert_eq!(bench.counts(&group).await, (4, 0, 0));
    let again = bench.settle(&group, &first, &[(1, Outcome::Done)]).await;
    assert_eq!(again, [Settled::Lapsed], "settling again is harmless");
    assert!(bench.take(&group, 9).await.is_none());
    assert_eq!(bench.status(&group).await.lag(Head::new(6).expect("small")), 2);
}

async fn a_stream_is_in_one_lease_at_a_time<T: Timed>(bench: &Bench<T>) {
    let group = bench.with(&["a-1", "a-1", "b-1", "a-1"]).await;
    let first = bench.take(&group, 1).await.expect("an event");
    let other = bench.take(&group, 9).await.expect("the other stream");
    assert_eq!((positions(&first.events), positions(&other.events)), (vec![1], vec![3]));
    bench.all_done(&group, &first).await;
    let rest = bench.take(&group, 9).await.expect("the rest, in one lease");
    assert_eq!(positions(&rest.events), [2, 4]);
    // The first of two fails, and what comes after it was not begun.
    let settled = bench.settle(&group, &rest, &[(2, retry("no"))]).await;
    assert_eq!(settled, [Settled::Waiting]);
    bench.0.pass(10).await;
    assert!(bench.take(&group, 9).await.is_none(), "4 is of its stream and under the lease");
    assert_eq!(bench.settle(&group, &rest, &[(4, Outcome::Release)]).await, [Settled::Released]);
    assert_eq!(bench.taken(&group, 9).await, [2, 4]);
}

async fn what_fails_is_tried_again_later_and_parked_in_the_end<T: Timed>(bench: &Bench<T>) {
    let group = bench.with(&["a-1", "a-1", "b-1"]).await;
    let lease = bench.take(&group, 1).await.expect("an event");
    bench.settle(&group, &lease, &[(1, retry("the first"))]).await;
    assert_eq!(bench.taken(&group, 9).await, [3], "what waits holds its stream back, and no other");
    bench.0.pass(9).await;
    assert!(bench.take(&group, 1).await.is_none(), "it is not due");
    bench.0.pass(1).await;
    let lease = bench.take(&group, 1).await.expect("it is due");
    assert_eq!((positions(&lease.events), lease.events[0].attempt), (vec![1], 2));
    let soon = Outcome::Retry { after_seconds: Some(2), reason: Reason::of("the second") };
    assert_eq!(bench.settle(&group, &lease, &[(1, soon)]).await, [Settled::Waiting]);
    bench.0.pass(2).await;
    let lease = bench.take(&group, 1).await.expect("it is due");
    assert_eq!(lease.events[0].attempt, 3);
    assert_eq!(bench.settle(&group, &lease, &[(1, retry("the third"))]).await, [Settled::Parked]);
    let parked = bench.parked(&group).await;
    assert_eq!((parked[0].position, parked[0].attempts, parked[0].reason.as_str()), (at(1), 3, "the third"));
    assert_eq!((parked.len(), parked[0].stream.as_str(), parked[0].consumer.as_str()), (1, "a-1", "one"));
    assert_eq!(bench.taken(&group, 1).await, [2], "its stream goes on");
    assert_eq!(bench.counts(&group).await, (1, 2, 1), "what is parked holds no checkpoint back");
}

async fn a_lease_that_ran_out_is_a_failed_attempt_and_a_late_worker_changes_nothing<T: Timed>(bench: &Bench<T>) {
    let group = bench.with(&["a-1"]).await;
    let first = bench.take(&group, 1).await.expect("an event");
    bench.0.pass(30).await;
    assert!(bench.take(&group, 1).await.is_none(), "it waits as any that failed");
    for outcome in [Outcome::Done, retry("late"), Outcome::Release] {
        assert_eq!(bench.settle(&group, &first, &[(1, outcome)]).await, [Settled::Lapsed]);
    }
    assert_eq!(bench.0.groups().extend(&group, first.number).await.expect("answered").events, 0);
    bench.0.pass(10).await;
    let second = bench.take(&group, 1).await.expect("it is due");
    assert_eq!((second.events[0].attempt, bench.status(&group).await.lapses), (2, 1));
    assert_eq!(bench.settle(&group, &first, &[(1, Outcome::Done)]).await, [Settled::Lapsed], "another one's lease");
    // A deadline alone takes nothing away: a take does.
    bench.0.pass(30).await;
    bench.all_done(&group, &second).await;
    assert_eq!(bench.counts(&group).await, (1, 0, 0));
    bench.append(&["a-1"]).await;
    for attempt in 1..=3 {
        let lease = bench.take(&group, 1).await.expect("it is due");
        assert_eq!(lease.events[0].attempt, attempt);
        bench.0.pass(30).await;
        assert!(bench.take(&group, 1).await.is_none());
        bench.0.pass(100).await;
    }
    let parked = bench.parked(&group).await;
    assert_eq!((parked[0].position, parked[0].reason.as_str()), (at(2), LAPSED_REASON));
}

async fn what_failed_with_its_lease_is_handed_out_alone<T: Timed>(bench: &Bench<T>) {
    let group = bench.with(&["a-1", "a-2", "a-3", "a-4"]).await;
    // The second one kills whoever begins it.
    assert_eq!(bench.taken(&group, 3).await, [1, 2, 3]);
    bench.0.pass(30).await;
    let fresh = bench.take(&group, 9).await.expect("an event");
    assert_eq!(positions(&fresh.events), [4], "what failed waits");
    bench.all_done(&group, &fresh).await;
    bench.0.pass(10).await;
    let one = bench.take(&group, 9).await.expect("an event");
    assert_eq!((positions(&one.events), one.events[0].attempt), (vec![1], 2));
    assert_eq!(bench.taken(&group, 9).await, [2], "alone");
    let three = bench.take(&group, 9).await.expect("an event");
    assert_eq!(positions(&three.events), [3]);
    bench.all_done(&group, &one).await;
    bench.all_done(&group, &three).await;
    bench.0.pass(30).await;
    assert!(bench.take(&group, 9).await.is_none());
    bench.0.pass(20).await;
    assert_eq!(bench.taken(&group, 9).await, [2]);
    bench.0.pass(30).await;
    assert!(bench.take(&group, 9).await.is_none());
    let parked = bench.parked(&group).await;
    assert_eq!((parked.len(), parked[0].position, parked[0].attempts), (1, at(2), 3), "nobody else fails with it");
}

async fn a_lease_is_extended_while_its_worker_lives<T: Timed>(bench: &Bench<T>) {
    let group = bench.with(&["a-1", "a-2"]).await;
    let lease = bench.take(&group, 9).await.expect("events");
    bench.settle(&group, &lease, &[(1, Outcome::Done)]).await;
    for _ in 0..3 {
        bench.0.pass(20).await;
        let extended = bench.0.groups().extend(&group, lease.number).await.expect("answered");
        assert!(extended.events == 1 && extended.deadline.is_some());
        assert!(bench.take(&group, 9).await.is_none());
    }
    bench.all_done(&group, &Lease { events: lease.events[1..].to_vec(), ..lease }).await;
}

async fn what_is_released_counts_no_attempt<T: Timed>(bench: &Bench<T>) {
    let group = bench.with(&["a-1", "a-1"]).await;
    let lease = bench.take(&group, 9).await.expect("events");
    let settled = bench.settle(&group, &lease, &[(2, Outcome::Release), (1, Outcome::Done)]).await;
    assert_eq!(settled, [Settled::Released, Settled::Done], "in the order of the question");
    let again = bench.take(&group, 9).await.expect("at once");
    assert_eq!((positions(&again.events), again.events[0].attempt), (vec![2], 1));
}

async fn what_is_parked_holds_nothing_back_and_is_replayed_out_of_order<T: Timed>(bench: &Bench<T>) {
    let group = bench.with(&["a-1", "a-1", "a-1"]).await;
    let lease = bench.take(&group, 9).await.expect("events");
    let poison = Outcome::Park { reason: Reason::of("poison") };
    let settled = bench.settle(&group, &lease, &[(1, poison.clone()), (2, Outcome::Done), (3, poison)]).await;
    assert_eq!(settled, [Settled::Parked, Settled::Done, Settled::Parked]);
    assert_eq!(bench.counts(&group).await, (3, 0, 2));
    assert_eq!(bench.0.groups().parked(&group, at(1).as_head(), 10).await.expect("readable").len(), 1);
    assert_eq!(bench.0.groups().parked(&group, Head::EMPTY, 1).await.expect("readable").len(), 1);
    let these = Which::These(vec![at(1), at(2), at(9)]);
    assert_eq!(bench.0.groups().replay(&group, &these).await.expect("replayed"), 1, "only what is parked");
    assert_eq!(bench.counts(&group).await, (3, 1, 1), "a checkpoint never goes back");
    let again = bench.take(&group, 9).await.expect("the replayed");
    let expected = Delivered { position: at(1), attempt: 1, replayed: true };
    assert_eq!(again.events, [expected]);
    bench.settle(&group, &again, &[(1, retry("still"))]).await;
    bench.0.pass(10).await;
    let again = bench.take(&group, 9).await.expect("once more");
    assert_eq!(again.events, [Delivered { attempt: 2, ..expected }], "it stays marked");
    bench.all_done(&group, &again).await;
    assert_eq!(bench.0.groups().replay(&group, &Which::All).await.expect("replayed"), 1);
    assert_eq!(bench.taken(&group, 9).await, [3]);
}

async fn what_is_discarded_is_gone<T: Timed>(bench: &Bench<T>) {
    let group = bench.with(&["a-1", "a-2", "a-3"]).await;
    let lease = bench.take(&group, 9).await.expect("events");
    let poison = |at| (at, Outcome::Park { reason: Reason::default() });
    bench.settle(&group, &lease, &[poison(1), poison(2)]).await;
    let these = Which::These(vec![at(1), at(3)]);
    assert_eq!(bench.0.groups().discard(&group, &these).await.expect("discarded"), 1, "3 is handed out");
    assert_eq!(bench.counts(&group).await, (2, 1, 1));
    assert_eq!(bench.0.groups().discard(&group, &Which::All).await.expect("discarded"), 1);
    assert_eq!(bench.counts(&group).await, (2, 1, 0));
}

async fn no_more_is_listed_than_there_is_room_for<T: Timed>(bench: &Bench<T>) {
    let group = bench.with(&["a-1", "a-2", "a-3", "a-4", "a-5", "a-6", "a-7"]).await;
    let lease = bench.take(&group, 9).await.expect("events");
    assert_eq!(positions(&lease.events), [1, 2, 3, 4, 5], "unsettled_max");
    assert!(bench.take(&group, 9).await.is_none(), "there is no room");
    assert_eq!(bench.status(&group).await.listed_to.get(), 5);
    bench.settle(&group, &lease, &[(1, retry("no")), (2, Outcome::Done)]).await;
    assert_eq!(bench.taken(&group, 9).await, [6], "what waits takes room");
    let poison = Outcome::Park { reason: Reason::default() };
    bench.settle(&group, &lease, &[(3, poison)]).await;
    assert_eq!(bench.taken(&group, 9).await, [7], "what is parked takes none");
}

async fn a_listing_that_comes_too_late_changes_nothing<T: Timed>(bench: &Bench<T>) {
    let group = bench.with(&["a-1", "a-2"]).await;
    let look = look_on(bench.0.log(), &group, Head::EMPTY, 9).await.expect("readable").expect("events");
    assert_eq!((look.to.get(), look.events.len()), (2, 2));
    let groups = bench.0.groups();
    assert_eq!(groups.list(&group, Head::EMPTY, &look).await.expect("listed"), Listed::Stored);
    assert_eq!(groups.list(&group, Head::EMPTY, &look).await.expect("answered"), Listed::Moved);
    bench.all_done(&group, &bench.take(&group, 9).await.expect("events")).await;
    assert_eq!(groups.list(&group, Head::EMPTY, &look).await.expect("answered"), Listed::Moved);
    assert!(bench.take(&group, 9).await.is_none());
    assert_eq!(look_on(bench.0.log(), &group, look.to, 9).await.expect("readable"), None);
}

async fn a_removed_group_leaves_nothing_to_the_next_of_its_name<T: Timed>(bench: &Bench<T>) {
    let old = bench.with(&["a-1", "a-2"]).await;
    let lease = bench.take(&old, 9).await.expect("events");
    bench.0.groups().remove(&old).await.expect("removed");
    bench.0.groups().remove(&old).await.expect("removing it again is harmless");
    let new = bench.create(&wanted()).await;
    let next = bench.take(&new, 9).await.expect("from the start");
    assert_eq!(positions(&next.events), [1, 2]);
    assert_ne!(next.number, lease.number, "a number is never used twice");
    assert_eq!(bench.settle(&new, &lease, &[(1, Outcome::Done)]).await, [Settled::Lapsed]);
    let consumer = ConsumerName::parse("one").expect("a name");
    let gone = bench.0.groups().take(&old, &consumer, 1).await.expect_err("it was removed");
    assert_eq!(gone.kind(), ErrorKind::NotFound);
    let gone = bench.0.groups().extend(&old, lease.number).await.expect_err("it was removed");
    assert_eq!(gone.kind(), ErrorKind::NotFound);
    bench.0.groups().remove(&old).await.expect("harmless");
    assert_eq!(bench.0.groups().statuses().await.expect("readable").len(), 1, "the new one stays");
}

async fn a_region_that_is_not_active_hands_nothing_out<T: Timed>(bench: &Bench<T>) {
    let group = bench.with(&["a-1"]).await;
    let lease = bench.take(&group, 9).await.expect("an event");
    let epoch = bench.0.log().log_head().await.expect("readable").epoch;
    for (from, to) in
        [(Role::Active, Role::Draining), (Role::Draining, Role::ReadOnly), (Role::ReadOnly, Role::Follower)]
    {
        bench.0.log().change_role((epoch, from), (epoch, to)).await.expect("changed");
        let consumer = ConsumerName::parse("one").expect("a name");
        let refused = bench.0.groups().take(&group, &consumer, 1).await.expect_err("not active");
        assert_eq!(refused.kind(), ErrorKind::Fenced, "{refused}");
        let new = NewGroup { name: named("new"), ..wanted() };
        assert_eq!(bench.0.groups().create(&new).await.expect_err("not active").kind(), ErrorKind::Fenced);
    }
    bench.all_done(&group, &lease).await;
}

async fn a_settlement_names_each_event_once<T: Timed>(bench: &Bench<T>) {
    let group = bench.with(&["a-1"]).await;
    let lease = bench.take(&group, 9).await.expect("an event");
    let twice = [settlement(1, Outcome::Done), settlement(1, Outcome::Release)];
    let refused = bench.0.groups().settle(&group, lease.number, &twice).await.expect_err("which one?");
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    assert!(bench.settle(&group, &lease, &[]).await.is_empty());
    bench.all_done(&group, &lease).await;
}
