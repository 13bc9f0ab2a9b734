//! What came of an act is told, and the models judge it.

use std::fmt::Write as _;

use domain::append::Role;
use domain::log::{Direction, LogReader, ReadError};
use domain::record::Record;

use super::{Before, Sim};
use crate::acts::{Done, Query};
use crate::ledger::{Kept, check, index};

impl Sim {
    pub(super) fn told(&mut self, what: String, done: &Done) {
        let mut text = what;
        let _ = match done {
            Done::Said(Ok(said)) => write!(text, ": {said}"),
            Done::Said(Err(error)) => write!(text, " failed: {error}"),
            Done::Appended(_, Ok(appended)) => {
                let first = appended.events.first().map(|event| event.position.get());
                write!(text, ": {} from {first:?}", if appended.replayed { "replayed" } else { "stored" })
            }
            Done::Appended(_, Err(error)) => write!(text, " refused: {error}"),
            Done::Watched(watched) => write!(text, ": {watched:?}"),
            Done::Promoted(promoted) => write!(text, ": {promoted:?}"),
            Done::Read(query, found) => write!(text, " {query:?}: {:?}", found.as_ref().map(Vec::len)),
            Done::AsOf(at, found) => write!(text, " as of {at}: {found:?}"),
        };
        self.tell(text);
    }

    /// Lets both models look at the disks.
    pub(super) async fn look(&mut self) -> Kept {
        self.look_for_filled().await;
        self.ledger.observe(&self.world).await?;
        self.shelves.observe(&self.world, &self.ledger).await
    }

    pub(super) async fn judge(&mut self, site: usize, what: &str, done: Done, before: Before) -> Kept {
        if let Done::Promoted(Ok(loss)) = &done {
            self.ledger.told = Some((site, loss.clone()));
        }
        self.look().await?;
        match &done {
            Done::Said(Err(error)) if self.quiet => check("liveness", false, || format!("{what}: {error}")),
            Done::Appended(number, answer) => {
                let known = before.as_ref().and_then(|(head, expected)| Some((head, (*expected)?)));
                check("liveness", !self.quiet || answer.is_ok(), || format!("{what}: {answer:?}"))?;
                self.ledger.judge((site, *number), known, answer, &self.world)
            }
            // What was held up may have asked before the epoch was claimed.
            Done::Watched(Ok(watched)) if what == "start" || (what == "watch" && watched.silent.is_empty()) => {
                let outdated = watched.role == Role::Active && watched.epoch.get() < self.ledger.epoch;
                check("REP-2", !outdated, || format!("it could learn of epoch {}: {watched:?}", self.ledger.epoch))
            }
            Done::Read(query, found) => self.served(site, query, found).await,
            Done::AsOf(at, Ok(found)) => {
                let head = index(self.world.sites[site].disk().log_head().await.expect("a twin answers").head.get());
                let at = at.to_string();
                let wanted = self.ledger.lines.iter().take(head).filter(|line| line.recordedat <= at).count();
                check("LOG-2", index(found.get()) == wanted, || format!("the head as of {at} is {wanted}, not {found}"))
            }
            _ => Ok(()),
        }
    }

    async fn served(&self, site: usize, query: &Query, found: &Result<Vec<Record>, ReadError>) -> Kept {
        let head = self.world.sites[site].disk().log_head().await.expect("a twin answers").head.get();
        let Ok(records) = found else {
            return check("liveness", !self.quiet, || format!("{query:?}: {:?}", found.as_ref().err()));
        };
        if self.ledger.branched[site].is_some() {
            return Ok(());
        }
        let (mut wanted, limit): (Vec<u64>, usize) = match query {
            Query::Log(from, Direction::Forward, limit) => ((from.get()..=head).collect(), *limit),
            Query::Log(from, Direction::Backward, limit) => ((1..=from.get()).rev().collect(), *limit),
            Query::Stream(stream, from, direction, limit) => {
                let of_stream = (1..=head).filter(|at| self.ledger.lines[index(at - 1)].stream == stream.as_str());
                let version = |at: &u64| self.ledger.lines[index(at - 1)].version;
                let positions: Vec<u64> = match direction {
                    Direction::Forward => of_stream.filter(|at| version(at) >= from.get()).collect(),
                    Direction::Backward => of_stream.rev().filter(|at| version(at) <= from.get()).collect(),
                };
                (positions, *limit)
            }
        };
        wanted.truncate(limit);
        self.ledger.served(&format!("{query:?}"), records, &wanted, true)
    }
}
