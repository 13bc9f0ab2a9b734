//! Pruning: only what two regions hold and signed for leaves the live log (ARC-2), and it says why it waits.

mod common;

use std::sync::{Arc, Mutex};

use archiver::prune::{PruneIo, PruneReport, Pruner};
use archiver::seal::Demand;
use archiver::{Silent, StepObserver};
use common::{KillAt, Region, key, keys, now};
use domain::append::Role;
use domain::archive::catalog::EvidenceStore;
use domain::archive::catalog::{Catalog, Copies, Doubt, LivePartitions, StoredCheckpoint};
use domain::archive::checkpoint::{self, Checkpoint};
use domain::archive::layout;
use domain::evidence::{Evidence, EvidenceError};
use domain::log::LogReader;
use domain::store::ObjectStore;
use domain::window::LiveWindow;
use domain::{Epoch, FixedClock, Head};

/// Hours from the start of January: the region's events are one an hour, so this many end before July.
const UNTIL_JULY: u64 = 181 * 24 - 1;

fn io(region: &Region, steps: Arc<dyn StepObserver>) -> PruneIo {
    PruneIo {
        log: region.log.clone(),
        partitions: region.log.clone(),
        catalog: region.log.clone(),
        evidence: region.log.clone(),
        store: region.store.clone(),
        clock: Arc::new(FixedClock(now())),
        keys: keys(),
        steps,
    }
}

async fn prune_with(region: &Region, copies: Copies) -> PruneReport {
    Pruner::new(io(region, Arc::new(Silent)), LiveWindow::default(), copies).run().await.expect("an answer")
}

async fn prune(region: &Region) -> PruneReport {
    prune_with(region, Copies::Two).await
}

fn doubts(report: PruneReport) -> Vec<Doubt> {
    report.waiting.map(|waiting| waiting.doubts).unwrap_or_default()
}

/// A region with events from January to July, sealed; the window begins in May.
async fn sealed() -> Region {
    let region = Region::with_events(UNTIL_JULY + 100).await;
    region.seal(Demand::Everything).await.expect("sealed");
    region
}

async fn confirm(region: &Region) {
    for segment in region.segments().await {
        region.log.mark_confirmed(segment.first, now()).await.expect("marked");
    }
}

/// Both regions sign a checkpoint at the head.
async fn cosign(region: &Region) -> StoredCheckpoint {
    let evidence = Evidence::new(region.log.clone(), region.log.clone());
    let signed = evidence.sign(&key("home")).await.expect("signed");
    evidence.cosign(&signed.note, &keys(), &key("dr")).await.expect("cosigned")
}

#[tokio::test]
async fn a_month_goes_when_two_regions_hold_it_and_signed_for_it() {
    let region = sealed().await;
    assert!(matches!(doubts(prune(&region).await)[..], [Doubt::NotConfirmed(_), Doubt::NotCosigned(None)]));
    confirm(&region).await;
    assert_eq!(doubts(prune(&region).await), [Doubt::NotCosigned(None)]);
    cosign(&region).await;
    let report = prune(&region).await;
    assert_eq!((report.pruned.len(), report.waiting), (4, None), "January to April");
    let partitions = region.log.partitions().await.expect("partitions");
    assert_eq!(partitions[0].month.to_string(), "2026-05-01T00:00:00.000000Z");
    assert_eq!(prune(&region).await.pruned, [], "the rest is in the window");
}

#[tokio::test]
async fn a_checkpoint_that_one_region_alone_signed_covers_nothing() {
    let region = sealed().await;
    confirm(&region).await;
    let head = region.log.log_head().await.expect("a head");
    let evidence = Evidence::new(region.log.clone(), region.log.clone());
    let root = evidence.root_at(head.head).await.expect("a root");
    let alone = Checkpoint { log: head.log_id, size: head.head, root, epoch: Epoch::FIRST }.sign(&key("home"));
    // A wrong row says that it was cosigned; the signatures say otherwise.
    let stored = StoredCheckpoint { size: head.head, root, note: alone.expect("signed"), cosigned: true };
    region.log.save_checkpoint(&stored).await.expect("saved");
    assert_eq!(doubts(prune(&region).await), [Doubt::NotCosigned(None)]);
}

#[tokio::test]
async fn a_copy_that_is_gone_since_is_a_doubt() {
    let region = sealed().await;
    confirm(&region).await;
    cosign(&region).await;
    let segment = region.segments().await.remove(0);
    region.store.delete(&layout::segment(&segment)).await.expect("deleted");
    assert_eq!(doubts(prune(&region).await), [Doubt::NotVerified(segment.first)]);
}

#[tokio::test]
async fn what_is_not_sealed_stays() {
    let region = Region::with_events(UNTIL_JULY + 100).await;
    assert!(matches!(doubts(prune(&region).await)[..], [Doubt::NotSealed(_), Doubt::NotCosigned(None)]));
}

#[tokio::test]
async fn one_copy_is_enough_only_where_that_was_asked_for_by_name() {
    let region = sealed().await;
    let report = prune_with(&region, Copies::OneAcceptedByOperator).await;
    assert_eq!((report.pruned.len(), report.waiting), (4, None));
}

#[tokio::test]
async fn a_kill_around_pruning_loses_nothing_and_the_next_run_finishes() {
    for step in ["prune.proven", "prune.pruned"] {
        let region = sealed().await;
        confirm(&region).await;
        cosign(&region).await;
        let before = region.all_records().await;
        let steps = Arc::new(KillAt { step, seen: Mutex::default() });
        let pruner = Pruner::new(io(&region, steps), LiveWindow::default(), Copies::Two);
        assert!(tokio::spawn(async move { pruner.run().await }).await.expect_err("killed").is_panic());
        let report = prune(&region).await;
        assert_eq!(report.waiting, None);
        let tiered = region.tiered();
        let mut after = Vec::new();
        while after.len() < before.len() {
            let next = common::position(after.len() as u64 + 1);
            after.extend(tiered.read_log(next, domain::log::Direction::Forward, 1000).await.expect("read"));
        }
        assert_eq!(after, before, "{step}");
    }
}

#[tokio::test]
async fn a_checkpoint_over_another_history_is_neither_cosigned_nor_signed_beyond() {
    let home = Region::with_events(300).await;
    let dr = Region::new("dr", Role::Active);
    dr.append(1, 200).await;
    dr.append(1000, 1100).await;
    let home_tree = Evidence::new(home.log.clone(), home.log.clone());
    let dr_tree = Evidence::new(dr.log.clone(), dr.log.clone());
    let signed = home_tree.sign(&key("home")).await.expect("signed");
    let refused = dr_tree.cosign(&signed.note, &keys(), &key("dr")).await;
    assert!(matches!(refused, Err(EvidenceError::Differs { .. })), "{refused:?}");

    // A region whose log is behind its own word, or another one, signs nothing.
    let behind = Region::with_events(250).await;
    behind.log.save_checkpoint(&signed).await.expect("saved");
    let tree = Evidence::new(behind.log.clone(), behind.log.clone());
    assert!(matches!(tree.sign(&key("home")).await, Err(EvidenceError::Short { .. })));
    dr.log.save_checkpoint(&signed).await.expect("saved");
    assert!(matches!(dr_tree.sign(&key("dr")).await, Err(EvidenceError::Differs { .. })));
}

#[tokio::test]
async fn a_cosigned_checkpoint_names_both_regions_and_the_right_root() {
    let region = Region::with_events(3000).await;
    let stored = cosign(&region).await;
    let (stated, signers) = checkpoint::verify(&stored.note, &keys()).expect("valid");
    assert_eq!(signers.iter().map(|signer| signer.name()).collect::<Vec<_>>(), ["home", "dr"]);
    assert_eq!((stated.size, stored.cosigned), (Head::new(3000).expect("a head"), true));
    let leaves: Vec<_> = region.all_records().await.iter().map(domain::record::Record::leaf).collect();
    assert_eq!(stated.root, domain::merkle::root_of(&leaves));
    // The tree goes on from what it stored, also in another process and at any older size.
    let evidence = Evidence::new(region.log.clone(), region.log.clone());
    for size in [3000, 2999, 1024, 1, 0] {
        let root = evidence.root_at(Head::new(size as u64).expect("a head")).await.expect("a root");
        assert_eq!(root, domain::merkle::root_of(&leaves[..size]), "size {size}");
    }
}
