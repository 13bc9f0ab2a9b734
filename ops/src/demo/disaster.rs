//! Home dies under load, dr takes over, home comes back and is refused.

use std::collections::HashSet;
use std::time::Duration;

use domain::record::{self, Record};
use replication::failover::{AcceptLoss, Bound, Promote, Promoted};

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
        let (lost, survived) = self.lost().await?;
        check(lost + survived == self.figures.acknowledged, || {
            "every acknowledged append is lost or there once".into()
        })?;
        let bound = match loss.bound {
            Bound::Events(bound) => Some(bound),
            Bound::UnknownSince(_) => None,
        };
        held(&format!(
            "of {} acknowledged appends {} are there exactly once, {lost} went down with home",
            counted(self.figures.acknowledged),
            counted(survived),
        ));
        check(bound.is_none_or(|bound| lost <= bound), || format!("{lost} lost events are within {bound:?}"))?;
        self.figures.failover(&loss.to_string(), bound, lost, [detected, promoted_after, first_write]);
        Ok(())
    }

    /// How many acknowledged appends are not in dr's log, and how many are, each once.
    async fn lost(&self) -> Result<(u64, u64), DemoError> {
        let mut there = HashSet::new();
        let from = self.figures.archived_head + 1;
        Api::of(&self.dr)
            .log::<DemoError>(from, None, |line| {
                let record = record::read(line).map_err(|error| DemoError::Check(format!("a record: {error}")))?;
                let Record::Event(event) = record else { return Ok(()) };
                check(there.insert(event.event.id.clone()), || format!("{:?} is there once", event.event.id))
            })
            .await?;
        let (mut lost, mut survived) = (0, 0);
        let journals = std::fs::read_dir(self.folder.join("journals")).map_err(io("reading the journals"))?;
        for journal in journals {
            let text = std::fs::read_to_string(journal.map_err(io("reading the journals"))?.path());
            for line in text.map_err(io("reading a journal"))?.lines() {
                let entry: Acknowledged = serde_json::from_str(line)
                    .map_err(|error| DemoError::Check(format!("a journal's line: {error}")))?;
                if there.contains(&entry.id) { survived += 1 } else { lost += 1 }
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
