//! The group behind the one that is being stored. It forms in the queue. If it is whole when the server begins to flush the
//! one in front, it is taken and its rows are spelled meanwhile, beside the task that commits, so that nobody is answered
//! later for it. What it depends on the one in front for stays to be done: its decision.

use std::mem::replace;
use std::panic::resume_unwind;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::task::Poll;

use domain::append::AppendRequest;
use domain::arbiter::{self, Facts, Ruling, Wanted};
use domain::event::NewEvent;
use futures::poll;
use tokio::task::{JoinHandle, spawn_blocking};

use super::Ticket;
use super::queue::Queue;
use crate::rows::{Content, SpelledRows};

/// Requests that are committed together.
pub(super) struct Formed {
    pub(super) tickets: Vec<Ticket>,
    /// The content of their events: spelled ahead if there was time, else when it is needed, and once.
    spelled: OnceLock<SpelledRows>,
}

/// What is decided and stored of them.
pub(super) struct Gathered<'a> {
    pub(super) requests: Vec<&'a AppendRequest>,
    pub(super) wanted: Wanted<'a>,
    spelled: &'a OnceLock<SpelledRows>,
}

impl From<Vec<Ticket>> for Formed {
    fn from(tickets: Vec<Ticket>) -> Self {
        Self { tickets, spelled: OnceLock::new() }
    }
}

impl Formed {
    pub(super) fn gathered(&self) -> Gathered<'_> {
        Gathered {
            requests: self.tickets.iter().map(|ticket| &ticket.request).collect(),
            wanted: Wanted::by(self.tickets.iter().map(|ticket| (&ticket.request, &ticket.keys[..]))),
            spelled: &self.spelled,
        }
    }

    /// Whether its rows are spelled already.
    pub(super) fn is_built(&self) -> bool {
        self.spelled.get().is_some()
    }

    /// The second half of it, if it has more than one request.
    pub(super) fn split_off(&mut self) -> Self {
        self.spelled = OnceLock::new();
        self.tickets.split_off(self.tickets.len() / 2).into()
    }
}

impl Gathered<'_> {
    pub(super) fn decide(&self, facts: Facts) -> Ruling {
        arbiter::decide(&self.requests, &self.wanted, facts)
    }

    /// The content of all events, request by request.
    pub(super) fn spelled(&self) -> &SpelledRows {
        self.spelled.get_or_init(|| {
            let events: Vec<&NewEvent> = self.requests.iter().flat_map(|request| &request.events).collect();
            SpelledRows::of(events.into_iter().map(Content::Event))
        })
    }

    /// Where the events of each request begin in [`Gathered::spelled`].
    pub(super) fn starts(&self) -> Vec<usize> {
        let begin = |next: &mut usize, request: &&AppendRequest| Some(replace(next, *next + request.events.len()));
        self.requests.iter().scan(0, begin).collect()
    }
}

/// The way from the queue to the commit.
pub(super) struct Ahead {
    queue: Arc<Queue<Ticket>>,
    events_max: usize,
    bytes_max: usize,
    /// Spells, or has spelled, a group that is taken.
    building: Option<JoinHandle<Formed>>,
}

impl Ahead {
    pub(super) fn new(queue: Arc<Queue<Ticket>>, events_max: usize, bytes_max: usize) -> Self {
        Self { queue, events_max, bytes_max, building: None }
    }

    /// The next group, as soon as anything waits; `None` once the queue is closed and empty.
    pub(super) async fn next(&mut self) -> Option<Formed> {
        let Some(building) = self.building.take() else {
            return self.queue.next_group(self.events_max, self.bytes_max).await.map(Formed::from);
        };
        let built = building.await;
        self.queue.begins();
        match built {
            Ok(formed) => Some(formed),
            Err(error) => match error.try_into_panic() {
                Ok(panic) => resume_unwind(panic),
                // Nobody cancels it but a runtime that ends, with this task.
                Err(_) => None,
            },
        }
    }

    /// Has `flush` begin, builds the next group if a whole one waits, and returns what `flush` does.
    pub(super) async fn while_flushing<T>(&mut self, flush: impl Future<Output = T>) -> T {
        let mut flush = pin!(flush);
        if let Poll::Ready(flushed) = poll!(flush.as_mut()) {
            return flushed;
        }
        self.build();
        flush.await
    }

    fn build(&mut self) {
        if self.building.is_some() {
            return;
        }
        let tickets = self.queue.full_group(self.events_max, self.bytes_max);
        if !tickets.is_empty() {
            self.building = Some(spawn_blocking(move || {
                let formed = Formed::from(tickets);
                formed.gathered().spelled();
                formed
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use domain::StreamName;
    use domain::arbiter::EventKey;
    use domain::event::Data;
    use tokio::sync::oneshot;

    use super::*;

    fn event(number: usize) -> NewEvent {
        NewEvent {
            id: number.to_string(),
            source: "/s".to_owned(),
            event_type: "t".to_owned(),
            stream: StreamName::parse("a-1").expect("a name"),
            time: None,
            event_version: None,
            data_schema: None,
            data_content_type: None,
            extensions: Vec::new(),
            data: Data::Json("{}".to_owned()),
        }
    }

    /// Lets a request of so many events in.
    fn push(queue: &Queue<Ticket>, events: usize) {
        let request = AppendRequest { events: (0..events).map(event).collect(), ..AppendRequest::default() };
        let keys = EventKey::all_of(&request);
        let place = queue.place_for(&request).expect("room");
        let ticket = |room| Ticket { request, keys, answer: oneshot::channel().0, room: Some(room), look_up: None };
        queue.push(place, ticket).expect("open");
    }

    fn ahead() -> (Arc<Queue<Ticket>>, Ahead) {
        let queue = Arc::new(Queue::new(1 << 20));
        (Arc::clone(&queue), Ahead::new(queue, 10, 1 << 20))
    }

    #[tokio::test]
    async fn a_whole_group_is_built_while_the_one_before_it_is_flushed() {
        let (queue, mut ahead) = ahead();
        (0..4).for_each(|_| push(&queue, 4));
        let (flushed, flush) = oneshot::channel();
        {
            let mut flushing = pin!(ahead.while_flushing(flush));
            assert!(poll!(flushing.as_mut()).is_pending());
            assert_eq!(queue.holds().0, 4, "all of them wait");
            assert!(queue.full_group(10, 1 << 20).is_empty(), "two are taken, and two are no whole group");
            flushed.send("flushed").expect("somebody waits");
            assert_eq!(flushing.await, Ok("flushed"));
        }
        let built = ahead.next().await.expect("there");
        assert_eq!((built.tickets.len(), queue.holds().0), (2, 2));
        assert!(built.is_built(), "its rows are spelled");
        assert_eq!(built.gathered().starts(), [0, 4]);
        assert_eq!(ahead.next().await.expect("there").tickets.len(), 2, "the others are the next one");
    }

    #[tokio::test]
    async fn one_that_still_forms_is_left_to_form() {
        let (queue, mut ahead) = ahead();
        (0..2).for_each(|_| push(&queue, 4));
        let (flushed, flush) = oneshot::channel();
        {
            let mut flushing = pin!(ahead.while_flushing(flush));
            assert!(poll!(flushing.as_mut()).is_pending());
            assert_eq!(queue.holds().0, 2);
            // Whoever comes meanwhile belongs to it.
            push(&queue, 1);
            flushed.send(()).expect("somebody waits");
            flushing.await.expect("flushed");
        }
        let formed = ahead.next().await.expect("there");
        assert_eq!((formed.tickets.len(), formed.is_built()), (3, false));
    }

    #[tokio::test]
    async fn a_half_is_spelled_anew() {
        let (queue, mut ahead) = ahead();
        (0..3).for_each(|_| push(&queue, 3));
        let mut group = ahead.next().await.expect("there");
        group.gathered().spelled();
        let second = group.split_off();
        assert_eq!((group.tickets.len(), second.tickets.len()), (1, 2));
        assert!(!group.is_built() && !second.is_built());
        assert_eq!(second.gathered().starts(), [0, 3]);
    }
}
