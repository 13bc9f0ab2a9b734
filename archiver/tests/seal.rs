//! Sealing: what is archived is what the log has, whatever happens in between.

mod common;

use std::sync::{Arc, Mutex};

use archiver::seal::{Demand, SealIo, Sealer};
use archiver::sweep::{self, SweepReport, Sweeper};
use archiver::{ArchiveError, ArchiverConfig, Silent, StepObserver, catch_up};
use common::counted::Counted;
use common::{KillAt, Region, key, keys, now, position};
use domain::append::Role;
use domain::archive::catalog::Catalog;
use domain::archive::epoch_claim::EpochClaim;
use domain::archive::{layout, statement};
use domain::log::{FollowerLog, LogReader};
use domain::store::ObjectStore;
use domain::twin::{MemoryLog, MemoryStore};
use domain::{Epoch, ErrorKind, FixedClock, Head, Position};

const STEPS: [&str; 6] =
    ["seal.segment", "seal.index", "seal.read_back", "seal.manifest", "seal.accept", "seal.mark_verified"];

#[tokio::test]
async fn what_is_sealed_is_cataloged_verified_and_proven_by_an_audit() {
    let region = Region::with_events(3000).await;
    let sealed = region.seal(Demand::Everything).await.expect("sealed");
    assert_eq!(region.segments().await, sealed);
    assert_eq!((sealed.len(), sealed[0].first, sealed[0].last), (1, Position::FIRST, position(3000)));
    assert!(region.log.segments().await.expect("segments").iter().all(|entry| entry.verified_at == Some(now())));
    let report = region.audit().await;
    assert!(report.is_proven(), "{:?}", report.findings);
    assert_eq!((report.records, report.verified_head, report.archived_head), (3000, 3000, 3000));
    assert_eq!(region.seal(Demand::Everything).await.expect("nothing new"), []);
}

#[tokio::test]
async fn segments_are_cut_by_size_at_the_end_of_a_block() {
    let region = Region::with_events(5000).await;
    let config = ArchiverConfig { segment_bytes: 300_000, ..ArchiverConfig::default() };
    let sealed = region.sealer(&config).run(Demand::ByRules).await.expect("sealed");
    let ends: Vec<u64> = sealed.iter().map(|segment| segment.last.get()).collect();
    // Everything is old here, so what is left over is cut by age.
    assert_eq!(ends, [2048, 4096, 5000]);
    assert!(sealed[..2].iter().all(|segment| segment.record_bytes >= 300_000));
    assert!(region.audit().await.is_proven());
}

#[tokio::test]
async fn a_young_and_small_segment_waits() {
    let region = Region::with_events(100).await;
    let config = ArchiverConfig { seal_after_seconds: u32::MAX, ..ArchiverConfig::default() };
    let mut sealer = region.sealer(&config);
    assert_eq!(sealer.run(Demand::ByRules).await.expect("nothing due"), []);
    region.append(101, 150).await;
    assert_eq!(sealer.run(Demand::ByRules).await.expect("nothing due"), []);
    let sealed = sealer.run(Demand::Everything).await.expect("sealed");
    assert_eq!(sealed[0].records(), 150);
    assert!(region.audit().await.is_proven());
}

async fn run_and_be_killed(region: &Region, step: &'static str) {
    let steps = Arc::new(KillAt { step, seen: Mutex::default() });
    let mut sealer = Sealer::new(region.io(steps), ArchiverConfig::default());
    let killed = tokio::spawn(async move { sealer.run(Demand::Everything).await }).await;
    assert!(killed.expect_err("killed").is_panic(), "{step}");
}

#[tokio::test]
async fn a_kill_between_any_two_steps_loses_nothing_and_the_next_run_finishes() {
    for step in STEPS {
        let region = Region::with_events(1500).await;
        run_and_be_killed(&region, step).await;
        // What comes meanwhile may make the next segment another one: then the first is an orphan.
        region.append(1501, 1600).await;
        region.seal(Demand::Everything).await.expect("finished");
        let report = region.audit().await;
        assert!(report.is_proven(), "{step}: {:?}", report.findings);
        assert_eq!((report.verified_head, report.records), (1600, 1600), "{step}");
        assert!(region.log.segments().await.expect("segments").iter().all(|entry| entry.verified_at.is_some()));

        let orphans = region.orphans().await;
        assert_eq!(orphans, report.orphans, "{step}");
        sweep::remove(&region.sweep_io(Arc::new(Silent)), &orphans).await.expect("removed");
        let report = region.audit().await;
        assert!(report.is_proven() && report.orphans.is_empty(), "{step}");
    }
}

#[tokio::test]
async fn a_kill_before_the_manifest_and_a_repeat_of_the_same_leave_no_orphan() {
    for step in &STEPS[..3] {
        let region = Region::with_events(1500).await;
        run_and_be_killed(&region, step).await;
        let sealed = region.seal(Demand::Everything).await.expect("finished");
        assert_eq!(sealed.len(), 1, "{step}");
        assert_eq!(region.audit().await.orphans, [""; 0], "{step}");
    }
}

#[tokio::test]
async fn sweep_leaves_an_unfinished_plan_alone() {
    let region = Region::with_events(1500).await;
    region.seal(Demand::Everything).await.expect("sealed");
    region.append(1501, 1600).await;
    run_and_be_killed(&region, "seal.index").await;
    assert_eq!(region.orphans().await, [""; 0]);
}

/// A region whose first plan was broken off and left both of its objects, and whose second one was broken off at `step`.
async fn twice_killed(step: &'static str) -> Region {
    let region = Region::with_events(1500).await;
    run_and_be_killed(&region, "seal.index").await;
    region.append(1501, 1600).await;
    run_and_be_killed(&region, step).await;
    region
}

#[tokio::test]
async fn sweep_takes_nothing_before_what_stands_in_its_place_was_read_back() {
    // In the catalog, and not marked as read back: the orphan may be all that is whole.
    let region = twice_killed("seal.accept").await;
    assert_eq!(region.segments().await.len(), 1);
    assert_eq!(region.orphans().await, [""; 0]);
    region.seal(Demand::Everything).await.expect("finished");
    assert_eq!(region.orphans().await.len(), 2, "segment and index of the first plan");
    let named = region.segments().await.remove(0);
    assert!(!region.orphans().await.iter().any(|key| [layout::segment(&named), layout::index(&named)].contains(key)));
}

#[tokio::test]
async fn a_sweep_that_is_killed_is_finished_by_the_next_one() {
    let region = twice_killed("seal.mark_verified").await;
    let before = region.orphans().await;
    let io = region.sweep_io(Arc::new(KillAt { step: "sweep.removed", seen: Mutex::default() }));
    let killed = tokio::spawn(async move { Sweeper::new(io).round().await }).await;
    assert!(killed.expect_err("killed").is_panic());
    assert_eq!(region.orphans().await, before[1..], "one is gone");

    let mut sweeper = Sweeper::new(region.sweep_io(Arc::new(Silent)));
    // The segments, then the indexes, then anew.
    assert_eq!(sweeper.round().await.expect("done"), SweepReport { seen: 1, removed: Vec::new() });
    assert_eq!(sweeper.round().await.expect("done"), SweepReport { seen: 2, removed: before[1..].to_vec() });
    assert_eq!(sweeper.round().await.expect("done"), SweepReport { seen: 1, removed: Vec::new() });
    let report = region.audit().await;
    assert!(report.is_proven() && report.orphans.is_empty(), "{:?}", report.findings);
}

#[tokio::test]
async fn only_the_region_that_seals_sweeps_and_only_what_its_epoch_sealed() {
    let home = twice_killed("seal.mark_verified").await;
    assert_eq!(home.orphans().await.len(), 2);
    for role in [Role::Draining, Role::Follower] {
        let now = home.log.log_head().await.expect("a head").role;
        home.log.change_role((Epoch::FIRST, now), (Epoch::FIRST, role)).await.expect("changed");
        let refused = sweep::find(&home.sweep_io(Arc::new(Silent))).await.expect_err("it does not seal");
        assert_eq!(refused.kind(), ErrorKind::Fenced, "{role:?}");
    }
    // The same objects in the bucket of the region that holds the next epoch.
    let dr = promoted(&home, 1600).await;
    assert_eq!(dr.orphans().await, [""; 0]);
}

/// Damages the segment's object as soon as it is stored, as a bad disk does.
struct DamageWhenStored(Arc<MemoryStore>);

impl StepObserver for DamageWhenStored {
    fn reached(&self, step: &'static str) {
        if step == "seal.index" {
            let keys = self.0.keys();
            let key = keys.iter().find(|key| key.starts_with(layout::SEGMENTS)).expect("a segment");
            assert!(self.0.damage(key, |bytes| bytes[100] ^= 1));
        }
    }
}

#[tokio::test]
async fn what_does_not_read_back_is_in_no_manifest() {
    let region = Region::with_events(1500).await;
    let steps = Arc::new(DamageWhenStored(region.store.clone()));
    let error = Sealer::new(region.io(steps), ArchiverConfig::default()).run(Demand::Everything).await;
    assert_eq!(error.expect_err("refused").kind(), ErrorKind::Corrupt);
    assert_eq!(region.log.last_manifest().await.expect("an answer"), None);
    assert!(!region.store.keys().iter().any(|key| key.starts_with(layout::MANIFESTS)));
}

#[tokio::test]
async fn two_sealers_at_once_seal_each_event_once() {
    let region = Region::with_events(1500).await;
    let (mut one, mut two) = (region.sealer(&ArchiverConfig::default()), region.sealer(&ArchiverConfig::default()));
    let (a, b) = tokio::join!(one.run(Demand::Everything), two.run(Demand::Everything));
    for outcome in [a, b] {
        let error = outcome.err();
        let kind = error.as_ref().map(ArchiveError::kind);
        assert!(matches!(kind, None | Some(ErrorKind::Conflict)), "{error:?}");
    }
    region.seal(Demand::Everything).await.expect("the next run finds all done");
    let report = region.audit().await;
    assert!(report.is_proven(), "{:?}", report.findings);
    assert_eq!((report.verified_head, report.segments), (1500, 1));
}

#[tokio::test]
async fn a_region_that_does_not_hold_the_epoch_does_not_seal() {
    let follower = Region::new("dr", Role::Follower);
    let error = follower.seal(Demand::Everything).await.expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Fenced);
}

#[tokio::test]
async fn a_draining_region_takes_what_it_had_written_and_seals_nothing_more() {
    let region = Region::with_events(1500).await;
    run_and_be_killed(&region, "seal.manifest").await;
    region.append(1501, 1600).await;
    region.log.change_role((Epoch::FIRST, Role::Active), (Epoch::FIRST, Role::Draining)).await.expect("drains");
    let refused = region.seal(Demand::Everything).await.expect_err("it drains");
    assert!(matches!(refused, ArchiveError::NotActive { role: Role::Draining, .. }), "{refused}");
    let segments = region.segments().await;
    assert_eq!((segments.len(), segments[0].last), (1, position(1500)), "the manifest in the bucket was taken");
    let manifests = region.store.keys().into_iter().filter(|key| key.starts_with(layout::MANIFESTS)).count();
    assert_eq!(manifests, 1);
}

/// Drains the region when it has read a segment back, as an operator does meanwhile.
struct DrainWhenReadBack(Arc<MemoryLog>);

impl StepObserver for DrainWhenReadBack {
    fn reached(&self, step: &'static str) {
        if step == "seal.read_back" {
            let change = self.0.change_role((Epoch::FIRST, Role::Active), (Epoch::FIRST, Role::Draining));
            futures::executor::block_on(change).expect("drains");
        }
    }
}

#[tokio::test]
async fn a_drain_before_the_manifest_is_written_leaves_none() {
    let region = Region::with_events(1500).await;
    let steps = Arc::new(DrainWhenReadBack(region.log.clone()));
    let error = Sealer::new(region.io(steps), ArchiverConfig::default()).run(Demand::Everything).await;
    assert_eq!(error.expect_err("refused").kind(), ErrorKind::Fenced);
    assert!(!region.store.keys().iter().any(|key| key.starts_with(layout::MANIFESTS)));
}

/// A region that followed `home` up to `head`, has its objects, and was promoted to epoch 2.
async fn promoted(home: &Region, head: usize) -> Region {
    let dr = Region { store: common::copy_of(&home.store).await, ..Region::new("dr", Role::Follower) };
    dr.log.apply(&home.all_records().await[..head]).await.expect("applied");
    catch_up::rebuild(&*dr.store, &*dr.log, &keys(), "twin").await.expect("accepted");
    let two = Epoch::new(2).expect("an epoch");
    dr.log.change_role((Epoch::FIRST, Role::Follower), (two, Role::Active)).await.expect("promoted");
    dr
}

async fn claim(region: &Region, fork: u64) {
    let claim = EpochClaim {
        format: statement::FORMAT,
        log: "twin".into(),
        epoch: Epoch::new(2).expect("an epoch"),
        previous: Some(Epoch::FIRST),
        region: "dr".into(),
        fork: Head::new(fork).expect("a head"),
        time: now(),
    };
    let object = statement::sign(&claim, &key("dr")).expect("signed");
    region.store.create(&layout::epoch_claim(claim.epoch), &object).await.expect("created");
}

#[tokio::test]
async fn a_promoted_region_goes_on_where_its_claim_says_and_the_lost_branch_is_void() {
    let home = Region::with_events(1000).await;
    home.seal(Demand::Everything).await.expect("sealed");
    home.append(1001, 1300).await;
    let dr = promoted(&home, 1200).await;
    assert!(matches!(dr.seal(Demand::Everything).await, Err(ArchiveError::NoClaim(_))));
    claim(&dr, 1200).await;
    dr.append(2001, 2100).await;
    let sealed = dr.seal(Demand::Everything).await.expect("sealed");
    assert_eq!((sealed[0].first, sealed[0].last), (position(1001), position(1300)));

    // Home, cut off, still seals what it has, and its objects reach the same bucket later.
    home.seal(Demand::Everything).await.expect("sealed");
    for key in home.store.keys() {
        let object = home.store.get(&key).await.expect("an object");
        dr.store.create(&key, &object.bytes).await.expect("created");
    }
    let report = dr.audit().await;
    assert!(report.is_proven(), "{:?}", report.findings);
    assert_eq!((report.verified_head, report.manifests, report.void_manifests.len()), (1300, 2, 1));
    assert_eq!(report.orphans.len(), 2, "the lost branch's segment and index stay");
    assert_eq!(dr.orphans().await, [""; 0]);
}

#[tokio::test]
async fn a_catalog_on_a_branch_that_lost_is_built_anew_from_where_it_parts() {
    let home = Region::with_events(1000).await;
    home.seal(Demand::Everything).await.expect("sealed");
    home.append(1001, 1300).await;
    let dr = promoted(&home, 1300).await;
    claim(&dr, 1300).await;
    dr.seal(Demand::Everything).await.expect("sealed");
    // Home has sealed the same events, and nobody knew it.
    home.seal(Demand::Everything).await.expect("sealed");
    for key in dr.store.keys() {
        let object = dr.store.get(&key).await.expect("an object");
        home.store.create(&key, &object.bytes).await.expect("created");
    }
    assert_eq!(catch_up::rebuild(&*home.store, &*home.log, &keys(), "twin").await.expect("built"), 1);
    assert_eq!(home.segments().await, dr.segments().await);
    assert_eq!(home.log.last_manifest().await.expect("one"), dr.log.last_manifest().await.expect("one"));
    let report = home.audit().await;
    assert!(report.is_proven(), "{:?}", report.findings);
    assert_eq!((report.verified_head, report.void_manifests.len(), report.orphans.len()), (1300, 1, 2));
    assert_eq!(home.orphans().await, [""; 0], "nobody removes what is void");
}

#[tokio::test]
async fn a_claim_alone_makes_the_older_branch_beyond_it_void() {
    let home = Region::with_events(1000).await;
    home.seal(Demand::Everything).await.expect("sealed");
    home.append(1001, 1300).await;
    home.seal(Demand::Everything).await.expect("sealed");
    claim(&home, 1200).await;
    let report = home.audit().await;
    assert!(report.is_proven(), "{:?}", report.findings);
    assert_eq!((report.archived_head, report.void_manifests.len()), (1000, 1));
}

#[tokio::test]
async fn every_1024th_manifest_lists_all_segments() {
    let region = Region::new("home", Role::Active);
    region.seal_up_to(1030, 1).await;
    let listing = catch_up::manifest(&*region.store, &keys(), Epoch::FIRST, 1024).await.expect("a manifest").statement;
    assert_eq!(listing.in_force.as_deref(), Some(&region.segments().await[..1024]));
    assert!(region.audit().await.is_proven());
}

#[tokio::test]
async fn the_thousandth_segment_costs_as_much_as_the_tenth() {
    let region = Region::new("home", Role::Active);
    let catalog = Arc::new(Counted::of(&region.log));
    let mut costs = Vec::new();
    for number in 1..=1000 {
        region.append(number, number).await;
        let io = SealIo { catalog: catalog.clone(), ..region.io(Arc::new(Silent)) };
        let sealed = Sealer::new(io, ArchiverConfig::default()).run(Demand::Everything).await.expect("sealed");
        assert_eq!(sealed.len(), 1);
        costs.push(catalog.take());
    }
    assert_eq!(costs[999], costs[9], "questions to the catalog, and segments in the answers");
    assert!(costs[999].1 <= 10, "{:?}", costs[999]);
}

#[tokio::test]
async fn a_catalog_can_be_built_anew_from_the_bucket() {
    let region = Region::new("home", Role::Active);
    region.seal_up_to(2500, 700).await;
    let anew = MemoryLog::new(Arc::new(FixedClock(now())), now(), Role::Active);
    assert_eq!(catch_up::rebuild(&*region.store, &anew, &keys(), "twin").await.expect("built"), 4);
    let segments: Vec<_> = anew.segments().await.expect("segments").into_iter().map(|entry| entry.segment).collect();
    assert_eq!(segments, region.segments().await);
    assert_eq!(anew.last_manifest().await.expect("one"), region.log.last_manifest().await.expect("one"));
    assert_eq!(catch_up::rebuild(&*region.store, &anew, &keys(), "twin").await.expect("nothing to do"), 0);
    assert_eq!(anew.log_head().await.expect("a head").head, Head::EMPTY);
}
