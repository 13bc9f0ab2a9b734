//! Appends the groups of a file in its order, many in flight.
//!
//! Order is kept twice over: requests enter the appender's queue in file order, and each moves the import's
//! checkpoint from where the one before it ended, so that after a refused one all later ones are refused too.

use std::future::Future;
use std::pin::Pin;
use std::task::Poll;

use domain::append::{AppendCondition, AppendError, AppendRequest, Appended, ConsumerCheckpoint};
use futures::StreamExt;
use futures::future::{Either, Ready, ready};
use futures::stream::FuturesOrdered;
use tokio::sync::mpsc;

use super::group::Group;
use super::survey::{Survey, each_group};
use super::{Import, ImportError, Progress, RecordedAt};

/// Appends in flight. More fill the appender's groups better and cost memory.
const IN_FLIGHT_MAX: usize = 256;
/// Bytes of events in flight, besides one request of any size.
const IN_FLIGHT_BYTES_MAX: usize = 8 << 20;
/// Groups that the reader of the file may be ahead.
pub(super) const READ_AHEAD: usize = 16;

/// How far an import is.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Place {
    /// The import's checkpoint when it was last read. It may be behind `done`: what another region's run brought did not
    /// move it.
    pub(super) checkpoint: u64,
    /// Every line up to here is durable.
    pub(super) done: u64,
    /// Of the next group, so many events are durable too: a forced failover kept them without the rest.
    pub(super) partly: usize,
    pub(super) events: u64,
    pub(super) events_replayed: u64,
    pub(super) appends: u64,
}

impl Place {
    /// Whether anything of the file is durable.
    pub(super) fn is_begun(&self) -> bool {
        self.done > 0 || self.partly > 0
    }
}

/// One append under way.
struct Sent {
    first_line: u64,
    last_line: u64,
    events: u64,
    bytes: usize,
    result: Result<Appended, AppendError>,
}

type AppendFuture<'a> = Either<Ready<Sent>, Pin<Box<dyn Future<Output = Sent> + Send + 'a>>>;

#[derive(Default)]
struct InFlight<'a> {
    appends: FuturesOrdered<AppendFuture<'a>>,
    bytes: usize,
}

impl InFlight<'_> {
    fn has_room(&self) -> bool {
        self.appends.len() < IN_FLIGHT_MAX && self.bytes < IN_FLIGHT_BYTES_MAX
    }
}

pub(super) struct Sender<'a> {
    pub(super) import: &'a Import,
    pub(super) survey: &'a Survey,
    pub(super) consumer: &'a str,
    pub(super) progress: &'a dyn Progress,
}

impl Sender<'_> {
    /// Sends what is not done yet. After an error nothing is under way any more, and `place` says how far it is.
    pub(super) async fn attempt(&mut self, place: &mut Place) -> Result<(), ImportError> {
        let checkpoint = self.import.log.consumer_checkpoint(self.consumer).await?;
        if checkpoint != place.checkpoint && checkpoint > place.done {
            (place.done, place.partly) = (checkpoint, 0);
        }
        place.checkpoint = checkpoint;
        let mut condition = if place.is_begun() { None } else { self.import.nothing_since().await? };
        let (path, recorded_at, done) = (self.import.file.clone(), self.import.recorded_at, place.done);
        let mut partly = place.partly;
        let (groups, mut read) = mpsc::channel(READ_AHEAD);
        let reading = tokio::task::spawn_blocking(move || {
            // The whole file is read, also what was done before: its digest is compared at the end.
            each_group(&path, recorded_at, |mut group| {
                if group.last_line <= done {
                    return true;
                }
                group.events.drain(..std::mem::take(&mut partly));
                groups.blocking_send(group).is_ok()
            })
        });
        let mut in_flight = InFlight::default();
        let sent = self.send(&mut read, &mut in_flight, (checkpoint, &mut condition), place).await;
        // What was refused after the first refusal was refused because of it; what was stored is found out by
        // the next attempt from the checkpoint.
        while in_flight.appends.next().await.is_some() {}
        drop(read);
        let file = reading.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        sent?;
        if file? == self.survey.file {
            return Ok(());
        }
        Err(ImportError::Changed { path: self.import.file.clone() })
    }

    async fn send<'a>(
        &'a self,
        read: &mut mpsc::Receiver<Group>,
        in_flight: &mut InFlight<'a>,
        (checkpoint, condition): (u64, &mut Option<AppendCondition>),
        place: &mut Place,
    ) -> Result<(), ImportError> {
        let mut from = checkpoint;
        let mut stretches = self.survey.stretches.iter().peekable();
        loop {
            let group = tokio::select! {
                biased;
                Some(sent) = in_flight.appends.next() => {
                    in_flight.bytes -= sent.bytes;
                    self.settle(sent, place)?;
                    continue;
                }
                group = read.recv(), if in_flight.has_room() => group,
            };
            let Some(group) = group else { break };
            let mut clock = None;
            while let Some(stretch) = stretches.next_if(|stretch| stretch.first_line <= group.first_line) {
                clock = Some(stretch);
            }
            if let Some(stretch) = clock {
                if self.import.recorded_at == RecordedAt::Clock {
                    // What is under way belongs to the time before.
                    self.drain(in_flight, place).await?;
                }
                self.import.move_clock(stretch).await?;
            }
            let last_line = group.last_line;
            self.begin(group, from, condition.take(), in_flight).await;
            from = last_line;
        }
        self.drain(in_flight, place).await
    }

    /// Puts a group into the appender's queue: behind the one before it, since it is polled here already.
    async fn begin<'a>(
        &'a self,
        group: Group,
        from: u64,
        condition: Option<AppendCondition>,
        in_flight: &mut InFlight<'a>,
    ) {
        let recorded_at = match self.import.recorded_at {
            RecordedAt::Clock => None,
            RecordedAt::Source => group.time,
        };
        let (first_line, last_line, bytes) = (group.first_line, group.last_line, group.bytes);
        let events = u64::try_from(group.events.len()).expect("a group has few events");
        let checkpoint = Some(ConsumerCheckpoint { consumer: self.consumer.to_owned(), from, to: last_line });
        let conditions = condition.into_iter().collect();
        let request = AppendRequest { events: group.events, conditions, recorded_at, checkpoint, ..Default::default() };
        let mut append: Pin<Box<dyn Future<Output = Sent> + Send + 'a>> = Box::pin(async move {
            let result = self.import.log.append(request).await;
            Sent { first_line, last_line, events, bytes, result }
        });
        let polled = futures::poll!(&mut append);
        in_flight.bytes += bytes;
        in_flight.appends.push_back(match polled {
            Poll::Ready(sent) => Either::Left(ready(sent)),
            Poll::Pending => Either::Right(append),
        });
    }

    async fn drain(&self, in_flight: &mut InFlight<'_>, place: &mut Place) -> Result<(), ImportError> {
        while let Some(sent) = in_flight.appends.next().await {
            in_flight.bytes -= sent.bytes;
            self.settle(sent, place)?;
        }
        Ok(())
    }

    fn settle(&self, sent: Sent, place: &mut Place) -> Result<(), ImportError> {
        let Sent { first_line, last_line, events, result, .. } = sent;
        let appended = result.map_err(|source| ImportError::Refused { first_line, last_line, source })?;
        (place.done, place.partly) = (last_line, 0);
        place.appends += 1;
        *(if appended.replayed { &mut place.events_replayed } else { &mut place.events }) += events;
        self.progress.done(last_line);
        Ok(())
    }
}
