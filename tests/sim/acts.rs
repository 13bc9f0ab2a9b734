//! What regions, operators and clients do: each act runs the real code of one region's process, once. It decides
//! nothing about when; it says what came of it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use archiver::seal::Demand;
use archiver::sweep::{self, SweepIo};
use domain::append::{AppendError, AppendRequest, Appended};
use domain::log::{Direction, EventLog, LogReader, ReadError};
use domain::record::Record;
use domain::{Head, Position, StreamName, StreamVersion, Timestamp};
use replication::failover::{self, FailoverError, LossStatement, Promote, RegionAdmin, Step};
use replication::fence::Watched;
use replication::{cosign, mirror};

use crate::link::Line;
use crate::world::Process;

/// An act under way.
pub(crate) type Work = Pin<Box<dyn Future<Output = Done>>>;

/// What came of an act.
pub(crate) enum Done {
    /// Nothing that a model has to judge.
    Said(Result<String, String>),
    /// An append of this request was answered.
    Appended(usize, Result<Appended, AppendError>),
    /// A region was looked after by its watch.
    Watched(Result<Watched, String>),
    /// A forced promotion was answered.
    Promoted(Result<Option<LossStatement>, String>),
    /// The log or a stream was read.
    Read(Query, Result<Vec<Record>, ReadError>),
    /// The head as of an instant was asked for.
    AsOf(Timestamp, Result<Head, ReadError>),
}

/// What is read.
#[derive(Debug, Clone)]
pub(crate) enum Query {
    Log(Position, Direction, usize),
    Stream(StreamName, StreamVersion, Direction, usize),
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn said<T: std::fmt::Debug, E: std::error::Error>(result: Result<T, E>) -> Done {
    Done::Said(result.map(|done| format!("{done:?}")).map_err(|error| chain(&error)))
}

fn busy() -> Done {
    Done::Said(Ok("busy".into()))
}

pub(crate) fn append(process: Arc<Process>, number: usize, request: AppendRequest) -> Work {
    Box::pin(async move { Done::Appended(number, process.log.append(request).await) })
}

pub(crate) fn seal(process: Arc<Process>, demand: Demand) -> Work {
    Box::pin(async move {
        let Ok(mut sealer) = process.sealer.try_lock() else { return busy() };
        said(sealer.run(demand).await.map(|segments| segments.len()))
    })
}

/// Follows for some rounds, or until there is nothing more.
pub(crate) fn follow(process: Arc<Process>, rounds: u32) -> Work {
    Box::pin(async move {
        let Ok(mut follower) = process.follower.try_lock() else { return busy() };
        let mut last = follower.round().await;
        for _ in 1..rounds {
            match &last {
                Ok(round) if round.has_more() => last = follower.round().await,
                _ => break,
            }
        }
        said(last)
    })
}

pub(crate) fn mirror(process: Arc<Process>) -> Work {
    Box::pin(async move { said(mirror::round(&process.region).await) })
}

pub(crate) fn cosign(process: Arc<Process>) -> Work {
    Box::pin(async move { said(cosign::round(&process.region).await) })
}

pub(crate) fn prune(process: Arc<Process>) -> Work {
    Box::pin(async move {
        said(process.pruner.run().await.map(|report| {
            let waiting = report.waiting.map(|waiting| waiting.to_string());
            (report.pruned.len(), waiting)
        }))
    })
}

pub(crate) fn scrub(process: Arc<Process>, budget_bytes: u64) -> Work {
    Box::pin(async move { said(process.scrubber.run(budget_bytes).await) })
}

pub(crate) fn sweep(process: Arc<Process>) -> Work {
    Box::pin(async move {
        let (log, store, steps) = (process.log.clone(), process.region.store.clone(), process.life.clone());
        let io = SweepIo { log: log.clone(), store, catalog: log, steps };
        match sweep::find(&io).await {
            Ok(orphans) => said(sweep::remove(&io, &orphans).await.map(|()| orphans.len())),
            Err(error) => said::<(), _>(Err(error)),
        }
    })
}

/// A round of the watch; after the first one the process serves.
pub(crate) fn watch(process: Arc<Process>) -> Work {
    Box::pin(async move {
        let Ok(mut watch) = process.watch.try_lock() else { return busy() };
        let watched = watch.round().await.map_err(|error| chain(&error));
        if watched.is_ok() {
            process.serves.store(true, Ordering::SeqCst);
        }
        Done::Watched(watched)
    })
}

pub(crate) fn read(process: Arc<Process>, query: Query) -> Work {
    Box::pin(async move {
        let found = match &query {
            Query::Log(from, direction, limit) => process.history.read_log(*from, *direction, *limit).await,
            Query::Stream(stream, from, direction, limit) => {
                process.history.read_stream(stream, *from, *direction, *limit).await
            }
        };
        Done::Read(query, found)
    })
}

pub(crate) fn as_of(process: Arc<Process>, at: Timestamp) -> Work {
    Box::pin(async move { Done::AsOf(at, process.history.head_as_of(at).await) })
}

/// A switchover, as the command line drives it: look, do the next step, look again.
pub(crate) fn switchover(old: Line, new: Line) -> Work {
    Box::pin(async move { Done::Said(drive(&old, &new).await.map_err(|error| chain(&error))) })
}

async fn drive(old: &Line, new: &Line) -> Result<String, FailoverError> {
    let mut steps = Vec::new();
    for _look in 0..12 {
        let (there, here) = (old.standing().await?, new.standing().await?);
        let Some(step) = failover::plan(&there, &here)? else { return Ok(format!("done by {steps:?}")) };
        if let (Step::CatchUp { .. }, Some(process)) = (&step, new.site.serving()) {
            // The other region's workers do this by themselves.
            follow(process, 3).await;
        }
        failover::execute(&step, old, new).await?;
        steps.push(step);
    }
    Ok(format!("not done by {steps:?}"))
}

pub(crate) fn promote(line: Line, request: Promote) -> Work {
    Box::pin(async move {
        let promoted = line.promote(&request).await;
        Done::Promoted(promoted.map(|promoted| promoted.loss).map_err(|error| chain(&error)))
    })
}

pub(crate) fn resume(line: Line) -> Work {
    Box::pin(async move { said(line.resume().await.map(|standing| standing.role)) })
}

pub(crate) fn confirm(line: Line) -> Work {
    Box::pin(async move { said(line.confirm().await.map(|standing| standing.role)) })
}
