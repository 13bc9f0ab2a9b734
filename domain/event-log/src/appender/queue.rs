//! The queue in front of the appender: bounded, and fair between clients, and between the sources of one client's events.
//! Clients take turns by what their requests cost (deficit round robin, Shreedhar and Varghese 1996), so one that sends
//! 16 MiB at a time gets as much of the log as one that sends single events, and no more while others wait, however many
//! sources it names; and each turn of a client is the turn of one of its sources. A source may hold as much room as is left
//! free, a client twice that (dynamic thresholds, Choudhury and Hahne 1998): the more hold some, the less each, and some is
//! left for who comes. The requests of one client for one source keep their order.
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
/// What a client may take at each of its turns. A smaller one is fairer among small requests, a larger one turns less often.
const QUANTUM: usize = 64 << 10;
/// What an event costs beside its bytes: its row, index entries and heads.
const EVENT_COST: usize = 512;
/// A client may hold so many times the room that is free: two thirds of the queue, if it is alone. Of the 64 MiB that are
/// the default, one leaves 21 MiB and two leave 12: a third one's largest request may have to wait.
const CLIENT_SHARE: usize = 2;
/// The same of a source: half of the queue, so that no source takes all that its client may.
const SOURCE_SHARE: usize = 1;

/// What requests take.
#[derive(Debug, Default, Clone, Copy)]
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

    fn add(&mut self, other: Self) {
        (self.events, self.bytes) = (self.events + other.events, self.bytes + other.bytes);
    }

    fn take_off(&mut self, other: Self) {
        (self.events, self.bytes) = (self.events - other.events, self.bytes - other.bytes);
    }
}

/// The requests of one source, in the order in which they came. Not empty.
#[derive(Debug)]
struct Source<T> {
    requests: VecDeque<(T, Size)>,
    /// What it has not used of its turns: its next request cost more.
    saved: usize,
}

/// The sources of a client in which something waits. Not empty.
#[derive(Debug)]
struct Client<T> {
    sources: HashMap<u64, Source<T>>,
    /// The first is the one whose turn it is next.
    order: VecDeque<u64>,
    /// What is left of this turn. When nothing waits any more it is gone: it would be a burst later.
    credit: usize,
}

impl<T> Client<T> {
    fn new() -> Self {
        Self { sources: HashMap::new(), order: VecDeque::new(), credit: QUANTUM }
    }

    fn push(&mut self, source: u64, request: (T, Size)) {
        let of_source = self.sources.entry(source).or_insert_with(|| {
            self.order.push_back(source);
            Source { requests: VecDeque::new(), saved: 0 }
        });
        of_source.requests.push_back(request);
    }

    fn first(&mut self) -> &mut Source<T> {
        let first = self.order.front().expect("a client has sources");
        self.sources.get_mut(first).expect("a source that has a turn is there")
    }

    /// The request that [`Client::take`] hands out, if this turn pays for it; else its source saves the turn.
    fn next(&mut self) -> Option<Size> {
        let credit = self.credit;
        let first = self.first();
        let size = first.requests.front().expect("a source has requests").1;
        if size.cost() <= first.saved + credit {
            return Some(size);
        }
        first.saved += credit;
        self.credit = QUANTUM;
        self.order.rotate_left(1);
        None
    }

    /// Hands out what [`Client::next`] told.
    fn take(&mut self) -> T {
        let credit = self.credit;
        let first = self.first();
        let (item, size) = first.requests.pop_front().expect("a source has requests");
        let left = std::mem::take(&mut first.saved) + credit - size.cost();
        let is_empty = first.requests.is_empty();
        self.credit = left;
        if is_empty && let Some(source) = self.order.pop_front() {
            self.sources.remove(&source);
        }
        item
    }
}

/// What waits, and whose turn it is.
#[derive(Debug)]
struct Turns<T> {
    clients: HashMap<u64, Client<T>>,
    /// The first is the one whose turn it is.
    order: VecDeque<u64>,
    /// How many requests wait, and what they take together.
    waiting: usize,
    size: Size,
}

impl<T> Default for Turns<T> {
    fn default() -> Self {
        Self { clients: HashMap::new(), order: VecDeque::new(), waiting: 0, size: Size::default() }
    }
}

impl<T> Turns<T> {
    fn push(&mut self, path: Path, request: (T, Size)) {
        let client = self.clients.entry(path.client).or_insert_with(|| {
            self.order.push_back(path.client);
            Client::new()
        });
        self.waiting += 1;
        self.size.add(request.1);
        client.push(path.source, request);
    }

    /// What each request that waits takes.
    fn sizes(&self) -> impl Iterator<Item = Size> {
        let sources = self.clients.values().flat_map(|client| client.sources.values());
        sources.flat_map(|source| &source.requests).map(|(_, size)| *size)
    }

    /// Hands out the next request, unless `fits` says of its size that it does not; then it stays the next one.
    fn take_if(&mut self, fits: impl FnOnce(Size) -> bool) -> Option<T> {
        let (first, client, size) = loop {
            let first = *self.order.front()?;
            let client = self.clients.get_mut(&first).expect("a client that has a turn is there");
            match client.next() {
                Some(size) => break (first, client, size),
                None => self.order.rotate_left(1),
            }
        };
        if !fits(size) {
            return None;
        }
        let item = client.take();
        if client.order.is_empty() {
            self.clients.remove(&first);
            self.order.pop_front();
        }
        self.waiting -= 1;
        self.size.take_off(size);
        Some(item)
    }
}

/// Who asks, and for which source: requests of one path keep their order.
#[derive(Debug, Clone, Copy)]
struct Path {
    /// The source, where it is not known who asks.
    client: u64,
    source: u64,
}

impl Path {
    /// Those that hold the room of its requests: what each is, and its share.
    fn holders(self) -> impl Iterator<Item = (u64, &'static str, usize)> {
        let client = (self.client != self.source).then_some((self.client, "client", CLIENT_SHARE));
        client.into_iter().chain([(self.source, "source", SOURCE_SHARE)])
    }
}

/// Room that is taken, by what waits and by what is being committed.
#[derive(Debug, Default, Clone, Copy)]
struct Held {
    requests: usize,
    bytes: usize,
}

/// What waits, and who holds which room. Pure: no time, no waiting.
#[derive(Debug)]
struct Requests<T> {
    turns: Turns<T>,
    /// How many were handed out ahead, and wait for the group in front of theirs.
    ahead: usize,
    held: Held,
    holders: HashMap<u64, Held>,
    bytes_max: usize,
    closed: bool,
}

/// Why a request is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// The queue has no room for it.
    Full(&'static str),
    /// Its source, or its client, holds as much as it may: whose share it is, and of what.
    Share(&'static str, &'static str),
    /// Nothing is let in any more.
    Closed,
}

impl<T> Requests<T> {
    fn new(bytes_max: usize) -> Self {
        let (turns, ahead, held, holders) = Default::default();
        Self { turns, ahead, held, holders, bytes_max, closed: false }
    }

    /// Whether `more` fits into `max`, by what `held` says of all and of each holder.
    fn has_room(
        &self,
        path: Path,
        (what, max, more): (&'static str, usize, usize),
        held: impl Fn(&Held) -> usize,
    ) -> Result<(), Refused> {
        let free = max.checked_sub(held(&self.held) + more).ok_or(Refused::Full(what))?;
        let full = path.holders().find(|(key, _, share)| {
            let own = self.holders.get(key).map_or(0, &held);
            own > 0 && own + more > free.saturating_mul(*share)
        });
        full.map_or(Ok(()), |(_, whose, _)| Err(Refused::Share(whose, what)))
    }

    /// Takes room for a request, or says why there is none.
    fn reserve(&mut self, path: Path, size: Size) -> Result<(), Refused> {
        if self.closed {
            return Err(Refused::Closed);
        }
        self.has_room(path, ("requests", QUEUE_REQUESTS_MAX, 1), |held| held.requests)?;
        self.has_room(path, ("bytes", self.bytes_max, size.bytes), |held| held.bytes)?;
        self.held.take(size.bytes);
        path.holders().for_each(|(key, ..)| self.holders.entry(key).or_default().take(size.bytes));
        Ok(())
    }

    /// What is committed next: at least one request where one waits, and not more than a group may have unless that one
    /// alone is larger.
    fn next_group(&mut self, events_max: usize, bytes_max: usize) -> Vec<T> {
        let (mut group, mut events, mut bytes) = (Vec::new(), 0, 0);
        while let Some(item) = self.turns.take_if(|next| {
            (events, bytes) = (events + next.events, bytes + next.bytes);
            group.is_empty() || (events <= events_max && bytes <= bytes_max)
        }) {
            group.push(item);
        }
        group
    }

    /// The same, if what waits is as much as a group may have. Not while a request waits that fills one alone: those that
    /// come later belong to the small group that goes in front of it.
    fn full_group(&mut self, events_max: usize, bytes_max: usize) -> Vec<T> {
        let fills = |size: Size| size.events >= events_max || size.bytes >= bytes_max;
        if !fills(self.turns.size) || self.turns.sizes().any(fills) {
            return Vec::new();
        }
        let group = self.next_group(events_max, bytes_max);
        self.ahead = group.len();
        group
    }

    fn give_back(&mut self, path: Path, bytes: usize) {
        self.held.give_back(bytes);
        for (key, ..) in path.holders() {
            if let Entry::Occupied(mut holder) = self.holders.entry(key) {
                holder.get_mut().give_back(bytes);
                if holder.get().requests == 0 {
                    holder.remove();
                }
            }
        }
    }
}

impl Held {
    fn take(&mut self, bytes: usize) {
        self.requests += 1;
        self.bytes += bytes;
    }

    fn give_back(&mut self, bytes: usize) {
        self.requests -= 1;
        self.bytes -= bytes;
    }
}

/// The queue, between the callers and the appender's task.
pub(super) struct Queue<T> {
    requests: Arc<Mutex<Requests<T>>>,
    arrived: Notify,
    keys: RandomState,
}

/// A request's room, given back when this is dropped.
pub(super) struct Room<T> {
    requests: Arc<Mutex<Requests<T>>>,
    /// Whose it is; `None` once it is given back.
    path: Option<Path>,
    bytes: usize,
}

/// Room for a request that is about to come.
pub(super) struct Place<T> {
    room: Room<T>,
    path: Path,
    size: Size,
}

impl<T> Drop for Room<T> {
    fn drop(&mut self) {
        if let Some(path) = self.path.take() {
            lock(&self.requests).give_back(path, self.bytes);
        }
    }
}

fn lock<T>(requests: &Mutex<Requests<T>>) -> MutexGuard<'_, Requests<T>> {
    // No code of anybody else's runs under it.
    requests.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T> Queue<T> {
    /// An empty queue whose requests have at most `bytes_max` bytes together.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            requests: Arc::new(Mutex::new(Requests::new(bytes_max))),
            arrived: Notify::new(),
            keys: RandomState::new(),
        }
    }

    /// Takes room for `request`, which is given back if it does not come.
    pub(super) fn place_for(&self, request: &AppendRequest) -> Result<Place<T>, Refused> {
        let (path, size) = (self.path_of(request), Size::of(request));
        lock(&self.requests).reserve(path, size)?;
        Ok(Place {
            room: Room { requests: Arc::clone(&self.requests), path: Some(path), bytes: size.bytes },
            path,
            size,
        })
    }

    /// Lets a request in at its place, as `item` makes it of its room.
    pub(super) fn push(&self, place: Place<T>, item: impl FnOnce(Room<T>) -> T) -> Result<(), Refused> {
        let Place { room, path, size } = place;
        let mut requests = lock(&self.requests);
        if requests.closed {
            // Its room takes the lock to go.
            drop(requests);
            return Err(Refused::Closed);
        }
        requests.turns.push(path, (item(room), size));
        drop(requests);
        self.arrived.notify_one();
        Ok(())
    }

    /// Takes back the room of many requests at once: whoever comes meanwhile waits for the same lock.
    pub(super) fn take_back(&self, rooms: Vec<Room<T>>) {
        let mut requests = lock(&self.requests);
        for mut room in rooms {
            if let Some(path) = room.path.take() {
                requests.give_back(path, room.bytes);
            }
        }
    }

    /// What an importer sends is one source, whatever its events say; else it is the source of the first event.
    fn path_of(&self, request: &AppendRequest) -> Path {
        let client = request.client.as_deref();
        let source = match (&request.checkpoint, request.events.first()) {
            (Some(checkpoint), _) => self.keys.hash_one((client, "consumer", &checkpoint.consumer)),
            (None, first) => self.keys.hash_one((client, "source", first.map(|event| &event.source))),
        };
        Path { client: client.map_or(source, |client| self.keys.hash_one(client)), source }
    }

    /// The next group, as soon as anything waits; `None` once the queue is closed and empty.
    pub(super) async fn next_group(&self, events_max: usize, bytes_max: usize) -> Option<Vec<T>> {
        loop {
            {
                let mut requests = lock(&self.requests);
                let group = requests.next_group(events_max, bytes_max);
                if !group.is_empty() {
                    return Some(group);
                }
                if requests.closed {
                    return None;
                }
            }
            // A request that came since is not missed: its notice is kept for whoever waits next.
            self.arrived.notified().await;
        }
    }

    /// The next group, if a whole one waits; else nothing. It waits until [`Queue::begins`] says that it does not.
    pub(super) fn full_group(&self, events_max: usize, bytes_max: usize) -> Vec<T> {
        lock(&self.requests).full_group(events_max, bytes_max)
    }

    /// The group that was handed out ahead is being committed.
    pub(super) fn begins(&self) {
        lock(&self.requests).ahead = 0;
    }

    /// Lets nothing in any more. What was let in is still handed out.
    pub(super) fn close(&self) {
        lock(&self.requests).closed = true;
        self.arrived.notify_one();
    }

    /// Closes the queue when it is dropped, and drops what still waits: whoever waits for its answer sees that none comes.
    pub(super) fn closed_in_the_end(self: &Arc<Self>) -> impl Drop + use<T> {
        Closing(Arc::clone(self))
    }

    /// The requests that wait, and the bytes of those that wait or are being committed.
    pub(super) fn holds(&self) -> (usize, usize) {
        let requests = lock(&self.requests);
        (requests.turns.waiting + requests.ahead, requests.held.bytes)
    }
}

struct Closing<T>(Arc<Queue<T>>);

impl<T> Drop for Closing<T> {
    fn drop(&mut self) {
        self.0.close();
        let left = {
            let mut requests = lock(&self.0.requests);
            std::mem::take(&mut requests.turns)
        };
        // Outside of the lock, which each of them takes to give its room back.
        drop(left);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use domain::append::ConsumerCheckpoint;

    use super::*;

    const SMALL: Size = Size { events: 1, bytes: 400 };
    const HUGE: Size = Size { events: 10_000, bytes: 8 << 20 };

    struct Ticket(Option<Room<Ticket>>);

    /// Requests in which an item is its source and its number there.
    fn requests(bytes_max: usize) -> Requests<(u64, usize)> {
        Requests::new(bytes_max)
    }

    fn of_client(
        client: u64,
        requests: &mut Requests<(u64, usize)>,
        source: u64,
        number: usize,
        size: Size,
    ) -> Result<(), Refused> {
        let path = Path { client, source };
        requests.reserve(path, size)?;
        requests.turns.push(path, ((source, number), size));
        Ok(())
    }

    /// Of a source whose client is not known.
    fn add(requests: &mut Requests<(u64, usize)>, source: u64, number: usize, size: Size) -> Result<(), Refused> {
        of_client(source, requests, source, number, size)
    }

    /// Gives back what a source without a client holds.
    fn give_back(requests: &mut Requests<(u64, usize)>, source: u64, size: Size) {
        requests.give_back(Path { client: source, source }, size.bytes);
    }

    #[test]
    fn single_events_are_not_behind_the_huge_batches_of_another() {
        let mut requests = requests(1 << 30);
        for number in 0..8 {
            add(&mut requests, 1, number, HUGE).expect("room");
        }
        for number in 0..1000 {
            add(&mut requests, 2, number, SMALL).expect("room");
        }
        let first = requests.next_group(4096, 8 << 20);
        assert_eq!(first.len(), 1000, "all small ones go before the first that pays for its size");
        assert!(first.iter().all(|(source, _)| *source == 2));
        assert_eq!(requests.next_group(4096, 8 << 20), [(1, 0)], "and nothing keeps it waiting then");
    }

    #[test]
    fn each_source_gets_as_many_bytes_as_another_while_both_wait() {
        let mut requests = requests(1 << 30);
        let batch = Size { events: 1000, bytes: 400_000 };
        for number in 0..4000 {
            add(&mut requests, 1, number, SMALL).expect("room");
        }
        for number in 0..20 {
            add(&mut requests, 2, number, batch).expect("room");
        }
        let (mut small, mut large) = (0, 0);
        while small < 4000 && large < 20 {
            for (source, _) in requests.next_group(4096, 8 << 20) {
                *(if source == 1 { &mut small } else { &mut large }) += 1;
            }
        }
        let (small, large) = (small * SMALL.cost(), large * batch.cost());
        assert!(small.abs_diff(large) <= 2 * (batch.cost() + QUANTUM), "{small} and {large}");
    }

    #[test]
    fn a_client_that_names_many_sources_gets_no_more_than_one_that_names_one() {
        let mut requests = requests(1 << 30);
        let batch = Size { events: 1000, bytes: 400_000 };
        for number in 0..20 {
            (100..110).for_each(|source| of_client(1, &mut requests, source, number, batch).expect("room"));
            of_client(2, &mut requests, 200, number, batch).expect("room");
        }
        let (mut many, mut one) = (0_usize, 0_usize);
        while one < 20 {
            for (source, _) in requests.next_group(4096, 8 << 20) {
                *(if source == 200 { &mut one } else { &mut many }) += 1;
            }
        }
        assert!(many.abs_diff(one) <= 2, "{many} and {one}");
    }

    #[test]
    fn a_source_is_not_behind_the_huge_batches_of_another_of_the_same_client() {
        let mut requests = requests(1 << 30);
        (0..8).for_each(|number| of_client(1, &mut requests, 100, number, HUGE).expect("room"));
        (0..3000).for_each(|number| of_client(2, &mut requests, 200, number, SMALL).expect("room"));
        assert_eq!(requests.next_group(1000, 8 << 20).len(), 1000, "of the other client, while the huge one saves");
        // What comes now waits for a turn, and not for all those that the huge one needs.
        (0..100).for_each(|number| of_client(1, &mut requests, 101, number, SMALL).expect("room"));
        let second = requests.next_group(1000, 8 << 20);
        assert_eq!(second.iter().filter(|(source, _)| *source == 101).count(), 100);
    }

    #[test]
    fn requests_of_one_path_keep_their_order_whatever_their_sizes() {
        let mut requests = requests(1 << 30);
        for number in 0..100 {
            let size = if number % 7 == 0 { HUGE } else { SMALL };
            of_client(10, &mut requests, 0, number, size).expect("room");
            of_client(10, &mut requests, 1, number, SMALL).expect("room");
            of_client(11, &mut requests, 2, number, SMALL).expect("room");
            add(&mut requests, 3, number, size).expect("room");
        }
        let mut next = [0; 4];
        loop {
            let group = requests.next_group(4096, 8 << 20);
            if group.is_empty() {
                break;
            }
            for (source, number) in group {
                let next = &mut next[usize::try_from(source).expect("small")];
                assert_eq!(number, *next);
                *next += 1;
            }
        }
        assert_eq!(next, [100; 4]);
        assert!(requests.turns.order.is_empty() && requests.turns.clients.is_empty() && requests.turns.waiting == 0);
    }

    #[test]
    fn a_group_keeps_to_its_limits_and_a_larger_request_goes_alone() {
        let mut requests = requests(1 << 30);
        for number in 0..10 {
            add(&mut requests, 1, number, Size { events: 3, bytes: 100 }).expect("room");
        }
        assert_eq!(requests.next_group(8, 1 << 20).len(), 2, "three times three is more than eight");
        assert_eq!(requests.next_group(100, 250).len(), 2, "three times a hundred is more than 250");
        add(&mut requests, 2, 0, HUGE).expect("room");
        assert_eq!(requests.next_group(100, 1 << 20).len(), 6);
        assert_eq!(requests.next_group(100, 1 << 20), [(2, 0)]);
    }

    #[test]
    fn one_that_fills_the_queue_leaves_room_for_others() {
        let mut requests = requests(64 << 20);
        let mut number = 0;
        while add(&mut requests, 1, number, HUGE).is_ok() {
            number += 1;
        }
        assert_eq!(number, 4, "half of the queue");
        assert_eq!(add(&mut requests, 1, number, HUGE), Err(Refused::Share("source", "bytes")));
        add(&mut requests, 2, 0, HUGE).expect("another one has room");
        assert_eq!(requests.next_group(4096, 8 << 20).len(), 1);
        // Until it is answered, what is being committed takes room too.
        assert_eq!(add(&mut requests, 1, number, HUGE), Err(Refused::Share("source", "bytes")));
        give_back(&mut requests, 1, HUGE);
        give_back(&mut requests, 2, HUGE);
        add(&mut requests, 1, number, HUGE).expect("there is room again");
        requests.closed = true;
        assert_eq!(add(&mut requests, 3, 0, SMALL), Err(Refused::Closed));
    }

    #[test]
    fn a_client_leaves_room_for_others_however_many_sources_it_names() {
        let mut requests = requests(64 << 20);
        let mut source = 100;
        while of_client(1, &mut requests, source, 0, HUGE).is_ok() {
            source += 1;
        }
        assert_eq!(source, 105, "two thirds of the queue");
        assert_eq!(of_client(1, &mut requests, source, 0, HUGE), Err(Refused::Share("client", "bytes")));
        of_client(2, &mut requests, 200, 0, HUGE).expect("another one has room");
        add(&mut requests, 3, 0, HUGE).expect("and one that is not known");
        for source in 100..105 {
            requests.give_back(Path { client: 1, source }, HUGE.bytes);
        }
        requests.give_back(Path { client: 2, source: 200 }, HUGE.bytes);
        give_back(&mut requests, 3, HUGE);
        assert!(requests.holders.is_empty(), "nothing is kept of who is gone");
    }

    #[test]
    fn what_is_larger_than_the_queue_is_refused_and_what_just_fits_is_not() {
        let mut requests = requests(HUGE.bytes);
        add(&mut requests, 1, 0, HUGE).expect("it is alone");
        assert_eq!(add(&mut requests, 2, 0, SMALL), Err(Refused::Full("bytes")));
        assert_eq!(requests.next_group(1, 1), [(1, 0)]);
        give_back(&mut requests, 1, HUGE);
        assert!(requests.holders.is_empty() && requests.held.bytes == 0, "nothing is kept of who is gone");
    }

    #[test]
    fn a_source_of_one_client_is_not_that_of_another_and_an_importer_is_one_whatever_it_imports() {
        let queue = Queue::<Ticket>::new(1 << 20);
        let checkpoint = || ConsumerCheckpoint { consumer: "import".to_owned(), from: 0, to: 1 };
        let path = |client: Option<&str>, imports: bool| {
            let client = client.map(str::to_owned);
            queue.path_of(&AppendRequest { client, checkpoint: imports.then(checkpoint), ..AppendRequest::default() })
        };
        let [unknown, one, other] = [path(None, false), path(Some("one"), false), path(Some("other"), false)];
        assert_eq!(unknown.client, unknown.source);
        let import = path(None, true);
        let keys = [unknown.source, one.client, one.source, other.client, other.source, import.source];
        assert_eq!(HashSet::from(keys).len(), keys.len());
        assert_eq!(import.source, path(None, true).source);
    }

    fn push(queue: &Queue<Ticket>) -> Result<(), Refused> {
        queue.push(queue.place_for(&AppendRequest::default())?, |room| Ticket(Some(room)))
    }

    #[test]
    fn a_place_that_is_not_taken_is_free_again() {
        let queue = Queue::<Ticket>::new(1 << 20);
        drop(queue.place_for(&AppendRequest::default()).expect("room"));
        assert!(lock(&queue.requests).holders.is_empty());
    }

    #[test]
    fn a_whole_group_is_taken_ahead_and_not_while_a_request_waits_that_is_one_alone() {
        let mut requests = requests(64 << 20);
        for number in 0..9 {
            add(&mut requests, 1, number, SMALL).expect("room");
        }
        assert!(requests.full_group(10, 1 << 20).is_empty(), "it still forms");
        add(&mut requests, 2, 0, SMALL).expect("room");
        assert_eq!(requests.full_group(10, 1 << 20).len(), 10);
        add(&mut requests, 3, 0, HUGE).expect("room");
        add(&mut requests, 2, 1, SMALL).expect("room");
        assert!(requests.full_group(10, 1 << 20).is_empty(), "who comes meanwhile still goes in front of the huge one");
        assert_eq!(requests.next_group(10, 1 << 20), [(2, 1)]);
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
        assert!(lock(&queue.requests).holders.is_empty());
    }

    #[test]
    fn what_still_waits_when_the_task_ends_is_let_go() {
        let queue = Arc::new(Queue::new(1 << 20));
        let task = queue.closed_in_the_end();
        push(&queue).expect("room");
        drop(task);
        assert!(lock(&queue.requests).holders.is_empty());
        assert_eq!(push(&queue), Err(Refused::Closed));
    }
}
