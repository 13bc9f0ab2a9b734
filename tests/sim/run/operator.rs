//! What an operator does, within the limits that are stated: switches over, forces, resumes, confirms.

use domain::archive::catalog::Catalog;
use domain::log::LogReader;
use rand::Rng;
use replication::failover::{AcceptLoss, Promote};

use super::Sim;
use crate::acts;
use crate::ledger::{Asked, Kept};
use crate::link::Line;
use crate::steps::Step;

impl Sim {
    pub(super) fn line(&self, site: usize) -> Line {
        Line { site: self.world.sites[site].clone(), faults: self.world.line_faults.clone() }
    }

    /// Notes how a region is asked to take over. What was asked before is over, unless some of it is held up.
    pub(super) fn ask(&mut self, site: usize, asked: Asked) {
        if self.held.is_none() {
            self.ledger.asked = [Vec::new(), Vec::new()];
        }
        self.ledger.asked[site].push(asked);
    }

    /// An operator forces a promotion only where the other region is gone or cut off, and never that of a region which
    /// another one has passed over, that does not know the epoch in force (it would claim the same one again), or whose
    /// log and catalog are new and not filled again: by what it had sealed or confirmed, the other one may prune.
    async fn may_force(&self, site: usize) -> bool {
        let [own, other] = [site, 1 - site].map(|site| self.world.sites[site].serving().is_some());
        let gone = !other || !self.world.wire.reaches_peers();
        let head = self.world.sites[site].disk().log_head().await.expect("a twin answers");
        let knows = head.epoch.get() == self.ledger.epoch && head.head.get() >= self.shelves.published();
        own && gone && knows && self.ledger.branched[site].is_none() && !self.unfilled[site]
    }

    /// Whether a region that got an empty log has by now the archive that the other one has.
    pub(super) async fn look_for_filled(&mut self) {
        for site in 0..2 {
            if self.unfilled[site] {
                let last = async |site: usize| self.world.sites[site].disk().last_manifest().await;
                let (own, other) =
                    (last(site).await.expect("a twin answers"), last(1 - site).await.expect("a twin answers"));
                self.unfilled[site] = own != other;
            }
        }
    }

    /// What an operator does.
    pub(super) async fn operate(&mut self, step: Step) -> Kept {
        let site = self.site();
        let (old, new) = (self.ledger.holder, 1 - self.ledger.holder);
        let (work, site) = match step {
            Step::Switchover if self.ledger.branched[new].is_none() => {
                self.ask(new, Asked::Planned);
                (acts::switchover(self.line(old), self.line(new)), new)
            }
            Step::Force if self.may_force(site).await => {
                let accept = [AcceptLoss::Unknown, AcceptLoss::Events(0), AcceptLoss::Events(10)];
                let accept = accept[self.rng.random_range(0..accept.len())];
                self.ask(site, Asked::Forced(accept));
                (acts::promote(self.line(site), Promote::Forced { accept }), site)
            }
            Step::Resume => (acts::resume(self.line(old)), old),
            Step::Confirm => (acts::confirm(self.line(old)), old),
            _ => return Ok(()),
        };
        self.act(site, format!("{step:?}"), work, None).await
    }
}
