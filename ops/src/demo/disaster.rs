//! Home dies under load, dr takes over, home comes back and is refused.

use std::collections::HashMap;
use std::time::Duration;

use domain::record::{self, Record};
use replication::failover::{AcceptLoss, Bound, LossStatement, Promote, Promoted};

use super::api::{Api, ApiError, number};
use super::passage::until;
use super::writers::{Acknowledged, Writers};
use super::{Demo, DemoError, chapter, check, counted, held, io, note};
use crate::clock::Stopwatch;

const WRITERS: usize = 8;
/// Home dies when this many appends were acknowledged.
const ACKNOWLEDGED: u64 = 1_000;
const APPENDED_IN_DR: u64 = 25;

impl Demo {
    /// Eight writers append; then server, database and object storage of home die at once.
    pub(super) async fn lose_home_under_load(&mut self) -> Result<(), DemoError> {
        chapter(
            "Home dies under load",
            "Writers keep a journal of what was acknowledged to them: all of it must survive, or be within the stated loss.",
        );
        note(&format!("{WRITERS} writers append to home"));
        let journals = self.folder.join("journals");
        let writers = Writers::start(WRITERS, "writer", &self.home.url, &self.home.tokens.appender, &journals);
        let writers = writers.map_err(io("starting the writers"))?;
        until("the writers are acknowledged", || async { Ok((writers.acknowledged() >= ACKNOWLEDGED).then_some(())) })
            .await?;
        note("kill -9: home's server, its PostgreSQL and its object storage, all at once");
        self.figures.disaster = Some(Stopwatch::start());
        self.home.kill().await?;
        let acknowledged = writers.stop().await.map_err(io("writing the journals"))?;
        self.figures.acknowledged = acknowledged;
        held(&format!("home is dead; it had acknowledged {} appends", counted(acknowledged)));
        Ok(())
    }

    /// Promotes dr without home's consent, and measures what was lost and how long it took.
    pub(super) async fn fail_over(&mut self) -> Result<(), DemoError> {
        chapter(
            "dr takes over",
            "A forced failover says first what it may lose, and refuses if that was not accepted.",
        );
        let detected = self.figures.since_disaster();
        // As an operator would: what may be lost is stated before anything happens, and refused as 0.
        let nothing = Promote::Forced { accept: AcceptLoss::Events(0) };
        let refused = Api::of(&self.dr).act::<Promoted>("/v1/admin/promote", &nothing).await;
        let is_refused = matches!(&refused, Err(ApiError::Refused { status: 409, .. }));
        check(is_refused, || {
            format!("a promotion that may lose something is refused where 0 is accepted: {refused:?}")
        })?;
        held("asked to lose nothing, it refuses: nobody knows what home acknowledged last");
        let unknown = Promote::Forced { accept: AcceptLoss::Unknown };
        let promoted: Promoted = Api::of(&self.dr).act("/v1/admin/promote", &unknown).await?;
        let promoted_after = self.figures.since_disaster();
        let loss = promoted.loss.ok_or_else(|| DemoError::Check("a forced promotion states its loss".into()))?;
        note(&format!("asked again, accepting that; it states: {loss}"));
        held(&format!("dr is active in epoch {}", promoted.epoch));
        let dr = &self.dr;
        until("dr acknowledges an append", || async move {
            Ok((Api::of(dr).append(&event("first", 0)).await? == 201).then_some(()))
        })
        .await?;
        let first_write = self.figures.since_disaster();
        for number in 1..APPENDED_IN_DR {
            let status = Api::of(&self.dr).append(&event("first", number)).await?;
            check(status == 201, || format!("dr acknowledges, it answered {status}"))?;
        }
        held(&format!("it acknowledges: {APPENDED_IN_DR} appends"));
        check(promoted.fork == loss.own_head, || {
            format!("the new epoch begins after {}, dr's head was stated as {}", promoted.fork, loss.own_head)
        })?;
        let lost = self.hold_to_its_word(&loss).await?;
        self.figures.failover(&loss, promoted.fork, lost, [detected, promoted_after, first_write]);
        Ok(())
    }

    /// Holds every acknowledged append against what was stated before the promotion: gives how many are lost.
    async fn hold_to_its_word(&self, loss: &LossStatement) -> Result<u64, DemoError> {
        let (lost, survived) = self.lost(loss.own_head.get()).await?;
        check(lost + survived == self.figures.acknowledged, || {
            "every acknowledged append is lost or there once".into()
        })?;
        held(&format!(
            "of {} acknowledged appends {} are there exactly once, at the position and version that was said",
            counted(self.figures.acknowledged),
            counted(survived),
        ));
        if let Bound::Events(bound) = loss.bound {
            check(lost <= bound, || format!("{lost} lost events are within {bound}"))?;
        }
        held(&format!("{lost} went down with home, all above the stated head {}", counted(loss.own_head)));
        Ok(lost)
    }

    /// How many acknowledged appends are not in dr's log, all of them above the stated head, and how many are, each
    /// once and as it was said.
    async fn lost(&self, head: u64) -> Result<(u64, u64), DemoError> {
        let mut there = HashMap::new();
        let from = self.figures.archived_head + 1;
        Api::of(&self.dr)
            .log::<DemoError>(from, None, |line| {
                let record = record::read(line).map_err(|error| DemoError::Check(format!("a record: {error}")))?;
                let Record::Event(event) = record else { return Ok(()) };
                let place = [event.position.get(), event.version.get(), event.epoch.get()];
                let doubled = there.insert((event.event.source.clone(), event.event.id.clone()), place);
                check(doubled.is_none(), || format!("{:?} is there once", event.event.id))
            })
            .await?;
        let (mut lost, mut survived) = (0, 0);
        let journals = std::fs::read_dir(self.folder.join("journals")).map_err(io("reading the journals"))?;
        for journal in journals {
            let text = std::fs::read_to_string(journal.map_err(io("reading the journals"))?.path());
            for line in text.map_err(io("reading a journal"))?.lines() {
                let entry: Acknowledged = serde_json::from_str(line)
                    .map_err(|error| DemoError::Check(format!("a journal's line: {error}")))?;
                match survives(&entry, &there, head)? {
                    true => survived += 1,
                    false => lost += 1,
                }
            }
        }
        Ok((lost, survived))
    }

    /// Home comes back as it was, and must not acknowledge anything (LOG-5).
    pub(super) async fn old_home_is_refused(&mut self) -> Result<(), DemoError> {
        chapter(
            "The old home comes back",
            "It believes that it is active. If it acknowledged anything now, that would be lost.",
        );
        self.home.revive().await?;
        self.home.serve().await?;
        let home = &self.home;
        let role = until("home has learned of the newer epoch", || async move {
            let status = Api::of(home).status().await?;
            Ok((status.role != "active" || number(&status.epoch)? > 1).then_some(status.role))
        })
        .await?;
        let answered = Api::of(home).append(&event("from-the-dead", 0)).await?;
        check(answered == 409 || answered == 503, || format!("an append to the old home is refused, not {answered}"))?;
        held(&format!("it has learned of the newer epoch and is {role}; an append to it is answered {answered}"));
        self.home.kill().await?;
        Ok(())
    }
}

/// By source and id: position, version, epoch.
type Places = HashMap<(String, String), [u64; 3]>;

/// Whether an acknowledged append is in the log of the region that went on after `head`. What survives stands where it
/// was said to stand; what is lost stood above the head that was stated, for nothing up to there may be missing (REP-3).
fn survives(entry: &Acknowledged, there: &Places, head: u64) -> Result<bool, DemoError> {
    let Acknowledged { source, id, position, version, epoch } = entry;
    let said = [number(position)?, number(version)?, number(epoch)?];
    match there.get(&(source.clone(), id.clone())) {
        Some(found) => {
            check(*found == said && said[0] <= head, || {
                format!(
                    "{id:?} stands at {said:?} (position, version, epoch), up to the stated head {head}, not {found:?}"
                )
            })?;
            Ok(true)
        }
        None => {
            check(said[0] > head, || {
                format!("{id:?}, acknowledged at {}, is not above the stated head {head}", said[0])
            })?;
            Ok(false)
        }
    }
}

fn event(run: &str, number: u64) -> serde_json::Value {
    serde_json::json!({
        "specversion": "1.0", "id": format!("{run}:{number}"), "source": "/demo/dr", "type": "note.written",
        "subject": format!("note-{run}"), "datacontenttype": "application/json",
        "data": { "text": "life goes on in the other region" },
    })
}

impl super::Figures {
    fn since_disaster(&self) -> Duration {
        self.disaster.map_or(Duration::ZERO, |watch| watch.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: &str, place: [u64; 3]) -> Acknowledged {
        let [position, version, epoch] = place.map(|number| number.to_string());
        Acknowledged { source: "/s".into(), id: id.into(), position, version, epoch }
    }

    #[test]
    fn what_survives_stands_where_it_was_said_and_what_is_lost_stood_above_the_stated_head() {
        let key = |id: &str| ("/s".to_owned(), id.to_owned());
        let there = Places::from([(key("a"), [10, 2, 1]), (key("late"), [12, 1, 1])]);
        assert!(survives(&entry("a", [10, 2, 1]), &there, 11).expect("as it was said"));
        assert!(!survives(&entry("b", [12, 1, 1]), &there, 11).expect("lost, above the head"));
        for wrong in [entry("a", [9, 2, 1]), entry("a", [10, 3, 1]), entry("a", [10, 2, 2])] {
            survives(&wrong, &there, 11).expect_err("another place than was said");
        }
        survives(&entry("b", [11, 1, 1]), &there, 11).expect_err("nothing up to the stated head is missing");
        survives(&entry("late", [12, 1, 1]), &there, 11).expect_err("what is above the fork is another epoch's");
    }
}
