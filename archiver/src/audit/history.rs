//! What a bucket's manifests and claims say: which segments are in force, and which branches lost.

use std::collections::BTreeMap;

use domain::archive::catalog::Segment;
use domain::archive::chain::{Chain, Lineage};
use domain::archive::epoch_claim::EpochClaim;
use domain::archive::layout;
use domain::archive::manifest::Manifest;
use domain::archive::statement::{self, Signed};
use domain::keys::{KeyId, KeyRing};
use domain::store::{ObjectStore, StoreError};
use domain::{Epoch, Head, Position};

use super::AuditReport;
use crate::{ArchiveError, catch_up};

/// The archive's history as its signed statements tell it.
pub(super) struct History {
    chain: Chain,
    log: String,
    claims: BTreeMap<Epoch, EpochClaim>,
    /// Whose key signed the manifest that added the segment that begins here.
    sealers: BTreeMap<Position, KeyId>,
}

impl History {
    /// Reads all claims and manifests. What does not hold becomes a finding, and the chain ends before it.
    pub(super) async fn read(
        store: &dyn ObjectStore,
        keys: &KeyRing,
        report: &mut AuditReport,
    ) -> Result<Self, ArchiveError> {
        let claims = read_claims(store, keys, report).await?;
        let names = catch_up::list_all(store, layout::MANIFESTS).await?;
        let mut numbers = Vec::new();
        for key in &names {
            match layout::parse_manifest(key) {
                Some(number) => numbers.push(number),
                None => report.state(key, "not the name of a manifest"),
            }
        }
        let mut lineage = Lineage::of(numbers.iter().copied());
        while let Some((epoch, number)) = lineage.wanted() {
            let first = read_manifest(store, keys, (epoch, number), report).await?;
            lineage.forked(first.and_then(|first| first.statement.fork).and_then(|fork| fork.after));
        }
        let mut history = Self { chain: Chain::new(""), log: String::new(), claims, sealers: BTreeMap::new() };
        history.follow(store, keys, &lineage, report).await?;
        let counts = |(epoch, number): &(Epoch, u64)| {
            history.chain.last().is_some_and(|last| *number <= last.number) && lineage.counts(*epoch, *number)
        };
        let void = numbers.iter().filter(|name| !counts(name)).map(|(epoch, number)| layout::manifest(*epoch, *number));
        report.void_manifests = void.collect();
        report.log.clone_from(&history.log);
        report.archived_head = history.chain.head().get();
        report.segments = u64::try_from(history.chain.in_force().len()).unwrap_or(u64::MAX);
        Ok(history)
    }

    async fn follow(
        &mut self,
        store: &dyn ObjectStore,
        keys: &KeyRing,
        lineage: &Lineage,
        report: &mut AuditReport,
    ) -> Result<(), ArchiveError> {
        for stretch in lineage.stretches() {
            for number in stretch.first..=stretch.last {
                let Some(step) = read_manifest(store, keys, (stretch.epoch, number), report).await? else {
                    return Ok(());
                };
                if self.is_cut_off(&step.statement) {
                    return Ok(());
                }
                if let Err(reason) = self.accept(&step) {
                    report.state(layout::manifest(stretch.epoch, number), reason);
                    return Ok(());
                }
                report.manifests += 1;
            }
        }
        Ok(())
    }

    fn accept(&mut self, step: &Signed<Manifest>) -> Result<(), String> {
        let manifest = &step.statement;
        if self.chain.last().is_none() {
            self.log.clone_from(&manifest.log);
            self.chain = Chain::new(&manifest.log);
        }
        if let Some(claim) = self.claims.get(&manifest.epoch) {
            if claim.log != manifest.log || claim.region != step.signer.name() {
                return Err(format!("{} signed it, and {} holds its epoch", step.signer.name(), claim.region));
            }
            if manifest.fork.is_some_and(|fork| fork.position != claim.fork) {
                return Err("its fork is not the one of the epoch's claim".into());
            }
        }
        self.chain.accept(step).map_err(|error| error.to_string())?;
        self.sealers.extend(manifest.added.iter().map(|segment| (segment.first, step.signer.clone())));
        Ok(())
    }

    /// Whether a newer epoch, which has no manifest yet, forked before what this manifest adds.
    fn is_cut_off(&self, manifest: &Manifest) -> bool {
        let head = manifest.added.iter().map(|segment| segment.last.as_head()).max();
        head.is_some_and(|head| self.is_void(manifest.epoch, head))
    }

    /// Whether what `epoch` said of the log at `head` was lost: a newer epoch forked below it.
    pub(super) fn is_void(&self, epoch: Epoch, head: Head) -> bool {
        self.claims.values().any(|claim| claim.epoch > epoch && claim.fork < head)
    }

    pub(super) fn log(&self) -> &str {
        &self.log
    }

    /// The segments in force, by position.
    pub(super) fn in_force(&self) -> &[Segment] {
        self.chain.in_force()
    }

    /// Whose key signed the manifest that added this segment; `None` if it is not in force.
    pub(super) fn sealed_by(&self, segment: &Segment) -> Option<&KeyId> {
        let known = self.in_force().binary_search_by_key(&segment.first, |known| known.first).ok()?;
        self.sealers.get(&segment.first).filter(|_| self.in_force()[known] == *segment)
    }
}

async fn read_claims(
    store: &dyn ObjectStore,
    keys: &KeyRing,
    report: &mut AuditReport,
) -> Result<BTreeMap<Epoch, EpochClaim>, ArchiveError> {
    let mut claims = BTreeMap::new();
    for key in catch_up::list_all(store, layout::EPOCHS).await? {
        let object = store.get(&key).await?;
        match statement::verify::<EpochClaim>(&object.bytes, keys) {
            Ok(signed) if layout::parse_epoch_claim(&key) == Some(signed.statement.epoch) => {
                claims.insert(signed.statement.epoch, signed.statement);
            }
            Ok(_) => report.state(key, "its name says another epoch than it does"),
            Err(error) => report.find(key, &error),
        }
    }
    report.epoch_claims = u64::try_from(claims.len()).unwrap_or(u64::MAX);
    Ok(claims)
}

async fn read_manifest(
    store: &dyn ObjectStore,
    keys: &KeyRing,
    (epoch, number): (Epoch, u64),
    report: &mut AuditReport,
) -> Result<Option<Signed<Manifest>>, ArchiveError> {
    match catch_up::manifest(store, keys, epoch, number).await {
        Ok(manifest) => Ok(Some(manifest)),
        Err(
            error @ (ArchiveError::Statement(_)
            | ArchiveError::Foreign { .. }
            | ArchiveError::Store(StoreError::NotFound { .. })),
        ) => {
            report.find(layout::manifest(epoch, number), &error);
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
