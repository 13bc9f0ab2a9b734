//! The end of a run: the faults stop, an operator puts the roles right, and then everything has to come about: one
//! log, one archive, one published checkpoint in both regions, and pruning goes on. What does not is a failure.

use archiver::audit;
use archiver::seal::Demand;
use domain::Position;
use domain::append::Role;
use domain::archive::catalog::{Catalog, EvidenceStore};
use domain::archive::epoch_claim::EpochClaim;
use domain::archive::{layout, statement};
use domain::log::{Direction, LogReader};
use domain::store::ObjectStore;
use replication::failover::{AcceptLoss, Promote};

use super::{DAY, Sim};
use crate::acts::{self, Query};
use crate::client;
use crate::ledger::{Asked, Kept, Violation, broken, check};
use crate::world::Dials;

/// So many rounds of everything have to be enough.
const ROUNDS: u32 = 25;
/// So many old requests are sent again at the end.
const RETRIES: usize = 40;

impl Sim {
    pub(super) async fn ending(&mut self) -> Result<(), Violation> {
        self.step += 1;
        self.world.turn(Dials::QUIET);
        self.world.wire.set(true, true);
        (self.mixture.crashes, self.mixture.holds) = (0, 0);
        self.tell("the faults stop".into());
        self.release().await?;
        for site in 0..2 {
            if self.world.sites[site].serving().is_none() {
                self.crash(site, "started again");
                self.start(site).await?;
            }
        }
        self.converge().await?;
        self.quiet = true;
        // Once more with nothing left to repair: now nothing may fail.
        self.round().await?;
        self.retry_all().await?;
        self.age().await?;
        self.audit().await
    }

    async fn converge(&mut self) -> Kept {
        let mut missing = String::new();
        for round in 1..=ROUNDS {
            self.step += 1;
            self.settle_roles().await?;
            if round % 5 == 0 {
                // A region whose log was replaced signs what comes next, not what both have signed before.
                self.append_plain().await?;
            }
            self.round().await?;
            match self.missing().await {
                None => return Ok(()),
                Some(what) => missing = what,
            }
        }
        broken("liveness", format!("after {ROUNDS} rounds without faults: {missing}"))
    }

    /// What is not as it has to be in the end.
    async fn missing(&mut self) -> Option<String> {
        self.shelves.look_for_healed(&self.world).await;
        if let Some(((site, key), _)) = self.shelves.damaged.first_key_value() {
            return Some(format!("{key} of {} is still damaged", self.world.sites[*site].name()));
        }
        let mut manifests = Vec::new();
        for site in &self.world.sites {
            let (disk, name) = (site.disk(), site.name());
            let head = disk.log_head().await.expect("a twin answers");
            let role = if site.number == self.ledger.holder { Role::Active } else { Role::Follower };
            let stands = (head.role, head.epoch.get(), head.head.get());
            if stands != (role, self.ledger.epoch, self.ledger.head()) {
                return Some(format!("{name} is {stands:?}, not {role:?} in epoch {}", self.ledger.epoch));
            }
            let segments = disk.segments().await.expect("a twin answers");
            let archived = segments.last().map_or(0, |entry| entry.segment.last.get());
            if archived != self.ledger.head() {
                return Some(format!("{name} has archived {archived} of {}", self.ledger.head()));
            }
            if let Some(entry) = segments.iter().find(|e| e.verified_at.is_none() || e.confirmed_at.is_none()) {
                return Some(format!("{name} has an unsettled segment: {entry:?}"));
            }
            let cosigned = disk.newest_checkpoint(true).await.expect("a twin answers").map_or(0, |c| c.size.get());
            if cosigned != self.ledger.head() {
                return Some(format!("{name} has a cosigned checkpoint of {cosigned} of {}", self.ledger.head()));
            }
            manifests.push(disk.last_manifest().await.expect("a twin answers"));
        }
        (manifests[0] != manifests[1]).then(|| format!("the archives end with {manifests:?}"))
    }

    /// One round of all workers, in which all that is there is sealed, mirrored and signed.
    async fn round(&mut self) -> Kept {
        self.world.time.pass(super::SECOND);
        let (holder, follower) = (self.ledger.holder, 1 - self.ledger.holder);
        for site in [holder, follower] {
            self.worker_of(site, "watch", acts::watch).await?;
            self.worker_of(site, "scrub", |process| acts::scrub(process, u64::MAX)).await?;
        }
        if self.world.sites[holder].disk().log_head().await.expect("a twin answers").role == Role::Active {
            self.worker_of(holder, "seal all", |process| acts::seal(process, Demand::Everything)).await?;
        }
        self.worker_of(follower, "follow", |process| acts::follow(process, 1000)).await?;
        for site in [holder, follower, holder] {
            self.worker_of(site, "cosign", acts::cosign).await?;
        }
        for _ in 0..self.unmirrored().await + 1 {
            self.worker_of(follower, "mirror", acts::mirror).await?;
        }
        for site in [holder, follower] {
            self.worker_of(site, "mirror", acts::mirror).await?;
            self.worker_of(site, "prune", acts::prune).await?;
        }
        Ok(())
    }

    async fn unmirrored(&self) -> u64 {
        let (mut least, mut most) = (u64::MAX, 0);
        for site in &self.world.sites {
            let last = site.disk().last_manifest().await.expect("a twin answers").map_or(0, |last| last.number);
            (least, most) = (least.min(last), most.max(last));
        }
        most - least
    }

    /// What an operator does until one region leads and the other follows.
    async fn settle_roles(&mut self) -> Kept {
        for site in 0..2 {
            let head = self.world.sites[site].disk().log_head().await.expect("a twin answers").head.get();
            if self.ledger.branched[site].is_some_and(|fork| head > fork) && site != self.ledger.holder {
                self.replace(site).await?;
            }
            self.worker_of(site, "watch", acts::watch).await?;
        }
        let holder = self.ledger.holder;
        if self.leads(holder).await {
            return Ok(());
        }
        // A promotion that was begun and not finished is finished; then what was drained or is unsure goes on. An epoch
        // that both have claimed is nobody's.
        let contested = self.contested().await;
        let claimant = if contested { holder } else { self.claimant().await };
        if claimant != holder {
            self.ask(claimant, Asked::Planned);
            let work = acts::switchover(self.line(holder), self.line(claimant));
            self.act(claimant, "switchover".into(), work, None).await?;
        }
        if !self.leads(self.ledger.holder).await && !contested {
            self.act(holder, "resume".into(), acts::resume(self.line(holder)), None).await?;
        }
        if !self.leads(self.ledger.holder).await && !contested {
            self.act(holder, "confirm".into(), acts::confirm(self.line(holder)), None).await?;
        }
        if !self.leads(self.ledger.holder).await {
            let accept = AcceptLoss::Unknown;
            self.ask(claimant, Asked::Forced(accept));
            let work = acts::promote(self.line(claimant), Promote::Forced { accept });
            self.act(claimant, "force".into(), work, None).await?;
        }
        Ok(())
    }

    async fn leads(&self, site: usize) -> bool {
        let head = self.world.sites[site].disk().log_head().await.expect("a twin answers");
        let newest = self.newest_claim().await.is_none_or(|claim| claim.epoch == head.epoch);
        head.role == Role::Active && newest
    }

    /// Who has claimed the newest epoch.
    async fn claimant(&self) -> usize {
        let claim = self.newest_claim().await;
        let number = claim.and_then(|claim| self.world.sites.iter().position(|site| site.name() == claim.region));
        number.unwrap_or(self.ledger.holder)
    }

    /// Whether the newest epoch was claimed by one region in one bucket and by the other in the other.
    async fn contested(&self) -> bool {
        let claims = self.claims().await;
        let newest = claims.iter().map(|claim| claim.epoch).max();
        let mut regions = claims.iter().filter(|claim| Some(claim.epoch) == newest).map(|claim| &claim.region);
        let first = regions.next();
        regions.any(|region| Some(region) != first)
    }

    async fn newest_claim(&self) -> Option<EpochClaim> {
        self.claims().await.into_iter().max_by_key(|claim| claim.epoch)
    }

    async fn claims(&self) -> Vec<EpochClaim> {
        let mut claims = Vec::new();
        for site in &self.world.sites {
            let store = site.bucket.inner();
            for key in store.keys().iter().filter(|key| key.starts_with(layout::EPOCHS)) {
                let bytes = store.get(key).await.expect("listed").bytes;
                claims.push(statement::verify::<EpochClaim>(&bytes, site.keys()).expect("nobody forges").statement);
            }
        }
        claims
    }

    /// LOG-4 at the end: what was acknowledged is still known, wherever it is now.
    async fn retry_all(&mut self) -> Kept {
        let holder = self.ledger.holder;
        let process = self.world.sites[holder].serving().expect("all run");
        let count = self.ledger.sent.len();
        for number in (0..count).step_by((count / RETRIES).max(1)) {
            let head = self.world.sites[holder].disk().log_head().await.expect("a twin answers");
            let expected = self.ledger.expect(number, head.pruned.get());
            if !matches!(expected, crate::ledger::Expected::Replay(_)) {
                continue;
            }
            let work = acts::append(process.clone(), number, self.ledger.sent[number].request.clone());
            self.act(holder, format!("retry {number}"), work, Some((head, Some(expected)))).await?;
        }
        Ok(())
    }

    /// Two thirds of a year later all that was there leaves the live window.
    async fn age(&mut self) -> Kept {
        self.world.time.pass(250 * DAY);
        self.append_plain().await?;
        self.round().await?;
        self.round().await?;
        let old = self.ledger.head() - 1;
        check("liveness", self.shelves.pruned_by_both() == old, || {
            format!("{} of {old} old events are pruned", self.shelves.pruned_by_both())
        })?;
        self.retry_all().await
    }

    async fn append_plain(&mut self) -> Kept {
        let number = self.ledger.send(client::plain(&self.ledger));
        let holder = self.ledger.holder;
        let process = self.world.sites[holder].serving().expect("all run");
        let work = acts::append(process, number, self.ledger.sent[number].request.clone());
        self.act(holder, "append one more".into(), work, None).await
    }

    /// Everything is read again in both regions, and both buckets are audited.
    async fn audit(&mut self) -> Kept {
        self.shelves.inspect(&self.world, &self.ledger).await?;
        for site in 0..2 {
            let process = self.world.sites[site].serving().expect("all run");
            let query = Query::Log(Position::FIRST, Direction::Forward, usize::MAX);
            self.act(site, "read".into(), acts::read(process, query), None).await?;
            let place = &self.world.sites[site];
            let report = audit::verify(place.bucket.inner(), place.keys(), None, &|_| ()).await;
            let told = format!("{report:?}");
            let proven = report.is_ok_and(|report| report.verified_head == self.ledger.head() && report.is_proven());
            check("EVD-1", proven, || format!("the audit of {}: {told}", place.name()))?;
        }
        Ok(())
    }
}
