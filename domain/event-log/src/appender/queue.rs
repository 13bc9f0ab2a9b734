//! The queue in front of the appender: bounded, and fair between clients. Each source of events has a lane of its own, whose
//! requests keep their order. Lanes take turns by what their requests cost (deficit round robin, Shreedhar and Varghese
//! 1996), so a client that sends 16 MiB at a time gets as much of the log as one that sends single events, and no more
//! while others wait. A lane may hold as much room as it leaves free (dynamic thresholds, Choudhury and Hahne 1998): however
//! much one client sends, there is room for the first request of another.
//!
//! It decides nothing about events, and never loses a request that it took: each is handed out once.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use domain::append::AppendRequest;
use tokio::sync::Notify;

/// Most requests in the queue or in the group that is being committed. Their bytes have a limit of their own.
pub const QUEUE_REQUESTS_MAX: usize = 8192;
/// What a lane may take at each of its turns, beside what it has left over. A smaller one is fairer among small requests,
/// a larger one turns less often.
const QUANTUM: usize = 64 << 10;
/// What an event costs beside its bytes: its row, index entries and heads.
const EVENT_COST: usize = 512;

/// A request in a lane.
#[derive(Debug)]
struct Waiting<T> {
    item: T,
    size: Size,
}

/// What a request takes.
#[derive(Debug, Clone, Copy)]
struct Size {
    /// Events, and items of conditions: each of these holds the head about as long as an event does.
    events: usize,
    bytes: usize,
}

impl Size {
    fn of(request: &AppendRequest) -> Self {
        Self { events: request.events.len() + request.condition_items().count(), bytes: request.bytes() }
    }

    fn cost(self) -> usize {
        self.bytes + self.events * EVENT_COST
    }
}

/// The requests of one source.
#[derive(Debug)]
struct Lane<T> {
    waiting: VecDeque<Waiting<T>>,
    /// What it may still take in this turn; 0 while nothing waits.
    deficit: usize,
    held: Held,
}

impl<T> Lane<T> {
    fn new() -> Self {
        Self { waiting: VecDeque::new(), deficit: 0, held: Held::default() }
    }
}

/// Room that is taken, by what waits and by what is being committed.
#[derive(Debug, Default, Clone, Copy)]
struct Held {
    requests: usize,
    bytes: usize,
}

/// The lanes and whose turn it is. Pure: no time, no waiting.
#[derive(Debug)]
struct Lanes<T> {
    lanes: HashMap<u64, Lane<T>>,
    /// Lanes in which something waits, in the order of their turns.
    turns: VecDeque<u64>,
    held: Held,
    bytes_max: usize,
    closed: bool,
}

/// Why a request is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// The queue has no room for it.
    Full(&'static str),
    /// Its source holds as much as it may.
    Share(&'static str),
    /// Nothing is let in any more.
    Closed,
}

/// Whether `more` fits into `max`, of which `all` is taken, `own` of it by the same lane.
fn has_room(what: &'static str, max: usize, all: usize, own: usize, more: usize) -> Result<(), Refused> {
    match max.checked_sub(all + more) {
        None => Err(Refused::Full(what)),
        Some(free) if own > 0 && own + more > free => Err(Refused::Share(what)),
        Some(_) => Ok(()),
    }
}

impl<T> Lanes<T> {
    fn new(bytes_max: usize) -> Self {
        Self { lanes: HashMap::new(), turns: VecDeque::new(), held: Held::default(), bytes_max, closed: false }
    }

    /// Takes room for a request, or says why there is none.
    fn reserve(&mut self, key: u64, size: Size) -> Result<(), Refused> {
        if self.closed {
            return Err(Refused::Closed);
        }
        let own = self.lanes.get(&key).map_or(Held::default(), |lane| lane.held);
        has_room("requests", QUEUE_REQUESTS_MAX, self.held.requests, own.requests, 1)?;
        has_room("bytes", self.bytes_max, self.held.bytes, own.bytes, size.bytes)?;
        let lane = self.lanes.entry(key).or_insert_with(Lane::new);
        for held in [&mut lane.held, &mut self.held] {
            held.requests += 1;
            held.bytes += size.bytes;
        }
        Ok(())
    }

    /// Puts a request behind the others of its lane, which has room for it.
    fn push(&mut self, key: u64, item: T, size: Size) {
        let lane = self.lanes.entry(key).or_insert_with(Lane::new);
        if lane.waiting.is_empty() {
            lane.deficit = QUANTUM;
            self.turns.push_back(key);
        }
        lane.waiting.push_back(Waiting { item, size });
    }

    /// What is committed next: at least one request where one waits, and not more than a group may have unless that one
    /// alone is larger.
    fn next_group(&mut self, events_max: usize, bytes_max: usize) -> Vec<T> {
        let (mut group, mut events, mut bytes) = (Vec::new(), 0, 0);
        while let Some(key) = self.turns.front().copied() {
            let lane = self.lanes.get_mut(&key).expect("a lane with a turn is there");
            while let Some(next) = lane.waiting.front().map(|next| next.size).filter(|next| next.cost() <= lane.deficit)
            {
                if !group.is_empty() && (events + next.events > events_max || bytes + next.bytes > bytes_max) {
                    // It goes on here with the next group.
                    return group;
                }
                lane.deficit -= next.cost();
                (events, bytes) = (events + next.events, bytes + next.bytes);
                group.extend(lane.waiting.pop_front().map(|next| next.item));
            }
            if lane.waiting.is_empty() {
                // What is left over is not saved up: it would be a burst later.
                lane.deficit = 0;
                self.turns.pop_front();
            } else {
                lane.deficit += QUANTUM;
                self.turns.rotate_left(1);
            }
        }
        group
    }

    fn give_back(&mut self, key: u64, bytes: usize) {
        self.held.requests -= 1;
        self.held.bytes -= bytes;
        if let Entry::Occupied(mut lane) = self.lanes.entry(key) {
            let held = &mut lane.get_mut().held;
            held.requests -= 1;
            held.bytes -= bytes;
            if held.requests == 0 {
                lane.remove();
            }
        }
    }
}

/// The queue, between the callers and the appender's task.
pub(super) struct Queue<T> {
    lanes: Arc<Mutex<Lanes<T>>>,
    arrived: Notify,
    keys: RandomState,
}

/// A request's room, given back when this is dropped.
pub(super) struct Room<T> {
    lanes: Arc<Mutex<Lanes<T>>>,
    /// Its lane; `None` once it is given back.
    key: Option<u64>,
    bytes: usize,
}

/// Room for a request that is about to come.
pub(super) struct Place<T> {
    room: Room<T>,
    key: u64,
    size: Size,
}

impl<T> Drop for Room<T> {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            lock(&self.lanes).give_back(key, self.bytes);
        }
    }
}

fn lock<T>(lanes: &Mutex<Lanes<T>>) -> MutexGuard<'_, Lanes<T>> {
    // No code of anybody else's runs under it.
    lanes.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T> Queue<T> {
    /// An empty queue whose requests have at most `bytes_max` bytes together.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { lanes: Arc::new(Mutex::new(Lanes::new(bytes_max))), arrived: Notify::new(), keys: RandomState::new() }
    }

    /// Takes room for `request`, which is given back if it does not come.
    pub(super) fn place_for(&self, request: &AppendRequest) -> Result<Place<T>, Refused> {
        let (key, size) = (self.lane_of(request), Size::of(request));
        lock(&self.lanes).reserve(key, size)?;
        Ok(Place { room: Room { lanes: Arc::clone(&self.lanes), key: Some(key), bytes: size.bytes }, key, size })
    }

    /// Lets a request in at its place, as `item` makes it of its room.
    pub(super) fn push(&self, place: Place<T>, item: impl FnOnce(Room<T>) -> T) -> Result<(), Refused> {
        let Place { room, key, size } = place;
        let mut lanes = lock(&self.lanes);
        if lanes.closed {
            // Its room takes the lock to go.
            drop(lanes);
            return Err(Refused::Closed);
        }
        lanes.push(key, item(room), size);
        drop(lanes);
        self.arrived.notify_one();
        Ok(())
    }

    /// Takes back the room of many requests at once: whoever comes meanwhile waits for the same lock.
    pub(super) fn take_back(&self, rooms: Vec<Room<T>>) {
        let mut lanes = lock(&self.lanes);
        for mut room in rooms {
            if let Some(key) = room.key.take() {
                lanes.give_back(key, room.bytes);
            }
        }
    }

    /// Requests of one lane keep their order: those of an importer, or else those whose first events are of one source.
    fn lane_of(&self, request: &AppendRequest) -> u64 {
        match (&request.checkpoint, request.events.first()) {
            (Some(checkpoint), _) => self.keys.hash_one(("consumer", &checkpoint.consumer)),
            (None, first) => self.keys.hash_one(("source", first.map(|event| &event.source))),
        }
    }

    /// The next group, as soon as anything waits; `None` once the queue is closed and empty.
    pub(super) async fn next_group(&self, events_max: usize, bytes_max: usize) -> Option<Vec<T>> {
        loop {
            {
                let mut lanes = lock(&self.lanes);
                let group = lanes.next_group(events_max, bytes_max);
                if !group.is_empty() {
                    return Some(group);
                }
                if lanes.closed {
                    return None;
                }
            }
            // A request that came since is not missed: its notice is kept for whoever waits next.
            self.arrived.notified().await;
        }
    }

    /// Lets nothing in any more. What was let in is still handed out.
    pub(super) fn close(&self) {
        lock(&self.lanes).closed = true;
        self.arrived.notify_one();
    }

    /// Closes the queue when it is dropped, and drops what still waits: whoever waits for its answer sees that none comes.
    pub(super) fn closed_in_the_end(self: &Arc<Self>) -> impl Drop + use<T> {
        Closing(Arc::clone(self))
    }

    /// The requests that wait, and the bytes of those that wait or are being committed.
    pub(super) fn holds(&self) -> (usize, usize) {
        let lanes = lock(&self.lanes);
        (lanes.lanes.values().map(|lane| lane.waiting.len()).sum(), lanes.held.bytes)
    }
}

struct Closing<T>(Arc<Queue<T>>);

impl<T> Drop for Closing<T> {
    fn drop(&mut self) {
        self.0.close();
        let left: Vec<Waiting<T>> = {
            let mut lanes = lock(&self.0.lanes);
            lanes.turns.clear();
            lanes.lanes.values_mut().flat_map(|lane| lane.waiting.drain(..)).collect()
        };
        // Outside of the lock, which each of them takes to give its room back.
        drop(left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Size = Size { events: 1, bytes: 400 };
    const HUGE: Size = Size { events: 10_000, bytes: 8 << 20 };

    struct Ticket(Option<Room<Ticket>>);

    /// Lanes in which an item is the lane's name and its number there.
    fn lanes(bytes_max: usize) -> Lanes<(u64, usize)> {
        Lanes::new(bytes_max)
    }

    fn add(lanes: &mut Lanes<(u64, usize)>, key: u64, number: usize, size: Size) -> Result<(), Refused> {
        lanes.reserve(key, size)?;
        lanes.push(key, (key, number), size);
        Ok(())
    }

    #[test]
    fn single_events_are_not_behind_the_huge_batches_of_another() {
        let mut lanes = lanes(1 << 30);
        for number in 0..8 {
            add(&mut lanes, 1, number, HUGE).expect("room");
        }
        for number in 0..1000 {
            add(&mut lanes, 2, number, SMALL).expect("room");
        }
        let first = lanes.next_group(4096, 8 << 20);
        assert_eq!(first.len(), 1000, "all small ones go before the first that pays for its size");
        assert!(first.iter().all(|(lane, _)| *lane == 2));
        assert_eq!(lanes.next_group(4096, 8 << 20), [(1, 0)], "and nothing keeps it waiting then");
    }

    #[test]
    fn each_lane_gets_as_many_bytes_as_another_while_both_wait() {
        let mut lanes = lanes(1 << 30);
        let batch = Size { events: 1000, bytes: 400_000 };
        for number in 0..4000 {
            add(&mut lanes, 1, number, SMALL).expect("room");
        }
        for number in 0..20 {
            add(&mut lanes, 2, number, batch).expect("room");
        }
        let (mut small, mut large) = (0, 0);
        while small < 4000 && large < 20 {
            for (lane, _) in lanes.next_group(4096, 8 << 20) {
                *(if lane == 1 { &mut small } else { &mut large }) += 1;
            }
        }
        let (small, large) = (small * SMALL.cost(), large * batch.cost());
        assert!(small.abs_diff(large) <= 2 * (batch.cost() + QUANTUM), "{small} and {large}");
    }

    #[test]
    fn a_lane_keeps_its_order_whatever_the_sizes() {
        let mut lanes = lanes(1 << 30);
        for number in 0..100 {
            let size = if number % 7 == 0 { HUGE } else { SMALL };
            add(&mut lanes, 1, number, size).expect("room");
            add(&mut lanes, 2, number, SMALL).expect("room");
        }
        let mut next = [0, 0];
        loop {
            let group = lanes.next_group(4096, 8 << 20);
            if group.is_empty() {
                break;
            }
            for (lane, number) in group {
                let next = &mut next[if lane == 1 { 0 } else { 1 }];
                assert_eq!(number, *next);
                *next += 1;
            }
        }
        assert_eq!(next, [100, 100]);
        assert!(lanes.turns.is_empty());
    }

    #[test]
    fn a_group_keeps_to_its_limits_and_a_larger_request_goes_alone() {
        let mut lanes = lanes(1 << 30);
        for number in 0..10 {
            add(&mut lanes, 1, number, Size { events: 3, bytes: 100 }).expect("room");
        }
        assert_eq!(lanes.next_group(8, 1 << 20).len(), 2, "three times three is more than eight");
        assert_eq!(lanes.next_group(100, 250).len(), 2, "three times a hundred is more than 250");
        add(&mut lanes, 2, 0, HUGE).expect("room");
        assert_eq!(lanes.next_group(100, 1 << 20).len(), 6);
        assert_eq!(lanes.next_group(100, 1 << 20), [(2, 0)]);
    }

    #[test]
    fn one_that_fills_the_queue_leaves_room_for_others() {
        let mut lanes = lanes(64 << 20);
        let mut number = 0;
        while add(&mut lanes, 1, number, HUGE).is_ok() {
            number += 1;
        }
        assert_eq!(number, 4, "half of the queue");
        assert_eq!(add(&mut lanes, 1, number, HUGE), Err(Refused::Share("bytes")));
        add(&mut lanes, 2, 0, HUGE).expect("another one has room");
        assert_eq!(lanes.next_group(4096, 8 << 20).len(), 1);
        // Until it is answered, what is being committed takes room too.
        assert_eq!(add(&mut lanes, 1, number, HUGE), Err(Refused::Share("bytes")));
        lanes.give_back(1, HUGE.bytes);
        lanes.give_back(2, HUGE.bytes);
        add(&mut lanes, 1, number, HUGE).expect("there is room again");
        lanes.closed = true;
        assert_eq!(add(&mut lanes, 3, 0, SMALL), Err(Refused::Closed));
    }

    #[test]
    fn what_is_larger_than_the_queue_is_refused_and_what_just_fits_is_not() {
        let mut lanes = lanes(HUGE.bytes);
        add(&mut lanes, 1, 0, HUGE).expect("it is alone");
        assert_eq!(add(&mut lanes, 2, 0, SMALL), Err(Refused::Full("bytes")));
        assert_eq!(lanes.next_group(1, 1), [(1, 0)]);
        lanes.give_back(1, HUGE.bytes);
        assert!(lanes.lanes.is_empty() && lanes.held.bytes == 0, "nothing is kept of who is gone");
    }

    fn push(queue: &Queue<Ticket>) -> Result<(), Refused> {
        queue.push(queue.place_for(&AppendRequest::default())?, |room| Ticket(Some(room)))
    }

    #[test]
    fn a_place_that_is_not_taken_is_free_again() {
        let queue = Queue::<Ticket>::new(1 << 20);
        drop(queue.place_for(&AppendRequest::default()).expect("room"));
        assert!(lock(&queue.lanes).lanes.is_empty());
    }

    #[tokio::test]
    async fn a_closed_queue_hands_out_what_it_took_and_ends() {
        let queue = Arc::new(Queue::new(1 << 20));
        for _ in 0..3 {
            push(&queue).expect("room");
        }
        let late = queue.place_for(&AppendRequest::default()).expect("room");
        queue.close();
        assert_eq!(push(&queue), Err(Refused::Closed));
        assert_eq!(queue.push(late, |room| Ticket(Some(room))), Err(Refused::Closed), "its place was taken before");
        let mut group = queue.next_group(9, 1 << 20).await.expect("what was taken is handed out");
        assert_eq!(group.len(), 3);
        assert!(queue.next_group(9, 1 << 20).await.is_none());
        group.iter_mut().for_each(|ticket| drop(ticket.0.take()));
        assert!(lock(&queue.lanes).lanes.is_empty());
    }

    #[test]
    fn what_still_waits_when_the_task_ends_is_let_go() {
        let queue = Arc::new(Queue::new(1 << 20));
        let task = queue.closed_in_the_end();
        push(&queue).expect("room");
        drop(task);
        assert!(lock(&queue.lanes).lanes.is_empty());
        assert_eq!(push(&queue), Err(Refused::Closed));
    }
}
