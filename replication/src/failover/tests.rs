//! Switchover, forced promotion and their refusals, on two regions in memory.

use std::sync::Arc;

use domain::archive::catalog::{Catalog, ManifestRef};
use domain::log::{EventLog, FollowerLog, LogReader};
use domain::replication::{Heard, PeerMemory};

use super::*;
use crate::follow::Follower;
use crate::mirror;
use crate::testing::{Meddled, Pair, append, at, seal, without_lock};

fn head(events: u64) -> Head {
    Head::new(events).expect("small")
}

fn epoch(number: u64) -> Epoch {
    Epoch::new(number).expect("small")
}

async fn follow(region: &Arc<Region>) {
    let mut follower = Follower::new(Arc::clone(region));
    while follower.round().await.expect("good").has_more() {}
}

async fn role(region: &Region) -> (Epoch, Role) {
    let head = region.log.log_head().await.expect("head");
    (head.epoch, head.role)
}

fn stands(region: &str, at_epoch: u64, role: Role, events: u64, root: &[u8]) -> Standing {
    Standing {
        log: "log".into(),
        region: region.into(),
        epoch: epoch(at_epoch),
        role,
        head: head(events),
        root: Some(Hash::of(root)),
        manifest: None,
        mirrors: true,
        clock: at(0),
        heard: None,
    }
}

#[test]
fn a_switchover_goes_step_by_step_from_whatever_it_finds() {
    let planned = |old, new| plan(&old, &new).expect("there is a way");
    let home = |role, events| stands("home", 1, role, events, b"r");
    let dr = |events| stands("dr", 1, Role::Follower, events, b"r");
    assert_eq!(planned(home(Role::Active, 9), dr(7)), Some(Step::Drain));
    assert_eq!(planned(home(Role::Draining, 9), dr(7)), Some(Step::CatchUp { behind: Behind::Events(2) }));
    let promote = Step::Promote { head: head(9), root: Hash::of(b"r") };
    assert_eq!(planned(home(Role::Draining, 9), dr(9)), Some(promote.clone()));
    assert_eq!(planned(home(Role::Draining, 9), stands("dr", 1, Role::ReadOnly, 9, b"r")), Some(promote));
    let active = stands("dr", 2, Role::Active, 9, b"r");
    assert_eq!(planned(home(Role::Draining, 9), active.clone()), Some(Step::StepDown));
    assert_eq!(planned(stands("home", 2, Role::Follower, 9, b"r"), active), None);
}

fn ends_with(number: u64, standing: Standing) -> Standing {
    let sha256 = Hash::of(&number.to_be_bytes());
    Standing { manifest: Some(ManifestRef { epoch: epoch(1), number, sha256 }), ..standing }
}

#[test]
fn a_switchover_waits_until_both_archives_end_with_the_same_manifest() {
    let home = ends_with(3, stands("home", 1, Role::Draining, 9, b"r"));
    let dr = stands("dr", 1, Role::Follower, 9, b"r");
    let archive = |new: &Standing| match plan(&home, new).expect("there is a way") {
        Some(Step::CatchUp { behind: behind @ Behind::Archive { .. } }) => behind.to_string(),
        other => panic!("{other:?}"),
    };
    assert!(archive(&dr).ends_with("with manifest 3 of epoch 1 there and with no manifest here"), "{}", archive(&dr));
    let nearly = ends_with(2, dr.clone());
    assert!(archive(&nearly).ends_with("and with manifest 2 of epoch 1 here"));
    let other = Some(ManifestRef { sha256: Hash::of(b"another"), ..home.manifest.expect("one") });
    archive(&Standing { manifest: other, ..dr.clone() });
    archive(&Standing { role: Role::ReadOnly, ..nearly.clone() });
    let promote = Step::Promote { head: head(9), root: Hash::of(b"r") };
    assert_eq!(plan(&home, &ends_with(3, dr.clone())).expect("a way"), Some(promote.clone()));
    // The events come first: the archive holds some of them.
    let short = plan(&home, &Standing { head: head(8), ..nearly.clone() }).expect("a way");
    assert_eq!(short, Some(Step::CatchUp { behind: Behind::Events(1) }));

    // Who never mirrors is not waited for, nor who has claimed the epoch already.
    assert_eq!(plan(&home, &Standing { mirrors: false, ..dr }).expect("a way"), Some(promote.clone()));
    let follows = Standing { epoch: epoch(2), role: Role::Follower, ..home };
    assert_eq!(plan(&follows, &Standing { role: Role::ReadOnly, ..nearly }).expect("a way"), Some(promote));
}

#[test]
fn a_switchover_that_was_interrupted_is_recognised_from_both_sides() {
    let home = |at, role| stands("home", at, role, 9, b"r");
    let dr = |at, role| stands("dr", at, role, 9, b"r");
    let begun = [
        (home(1, Role::Draining), dr(1, Role::Follower), "promote"),
        (home(1, Role::Draining), stands("dr", 1, Role::Follower, 7, b"r"), "catch up"),
        (home(1, Role::Draining), dr(1, Role::ReadOnly), "promote"),
        (home(2, Role::Follower), dr(1, Role::ReadOnly), "promote"),
        (home(1, Role::Draining), dr(2, Role::Active), "step down"),
    ];
    for (home, dr, wanted) in begun {
        for found in [outlook(&home, &dr), outlook(&dr, &home)] {
            let Ok(Outlook::UnderWay { from, to, next }) = found else { panic!("{wanted}: {found:?}") };
            let next = match next {
                Step::CatchUp { .. } => "catch up",
                Step::Promote { .. } => "promote",
                Step::StepDown => "step down",
                Step::Drain => "drain",
            };
            assert_eq!((from.region.as_str(), to.region.as_str(), next), ("home", "dr", wanted));
        }
    }
    for (from, to) in [(home(1, Role::Active), dr(1, Role::Follower)), (dr(2, Role::Active), home(2, Role::Follower))] {
        let ready = Outlook::Ready { from: from.clone(), to: to.clone() };
        assert_eq!((outlook(&from, &to).expect("a way"), outlook(&to, &from).expect("a way")), (ready.clone(), ready));
    }
    // Forced out, with events of its own: nothing that a switchover could finish.
    for (one, other) in [
        (home(1, Role::ReadOnly), dr(2, Role::Active)),
        (home(1, Role::ReadOnly), dr(1, Role::Follower)),
        (home(1, Role::Follower), dr(1, Role::Follower)),
    ] {
        assert_eq!(outlook(&one, &other).expect_err("no way").kind(), ErrorKind::Conflict);
        assert_eq!(outlook(&other, &one).expect_err("no way").kind(), ErrorKind::Conflict);
    }
}

#[tokio::test]
async fn a_planned_promotion_is_refused_until_the_archive_is_mirrored() {
    let pair = Pair::new().await;
    append(&pair.home_log, 0..5).await;
    seal(&pair.home, None, 1, 5).await;
    let stands = drain(&pair.home).await.expect("drained");
    follow(&pair.dr).await;
    let request = Promote::Planned { head: head(5), root: stands.root.expect("asked for") };
    let error = promote(&pair.dr, &request).await.expect_err("the archive is behind");
    assert!(error.to_string().contains("the archive to mirror"), "{error}");
    assert_eq!(role(&pair.dr).await, (epoch(1), Role::Follower), "a refusal gives the role back");
    assert!(pair.dr_store.keys().is_empty(), "and claims nothing");
    mirror::round(&pair.dr).await.expect("mirrored");
    promote(&pair.dr, &request).await.expect("promoted");
}

#[tokio::test]
async fn a_draining_region_says_its_last_manifest_only_when_nobody_writes_one() {
    let pair = Pair::new().await;
    append(&pair.home_log, 0..5).await;
    // The sealer is about to write a manifest when the drain comes.
    let publishing = pair.home.publishing.lock().await;
    let drained = tokio::spawn({
        let home = Arc::clone(&pair.home);
        async move { drain(&home).await }
    });
    while role(&pair.home).await.1 != Role::Draining {
        tokio::task::yield_now().await;
    }
    seal(&pair.home, None, 1, 5).await;
    assert!(!drained.is_finished());
    drop(publishing);
    let stands = drained.await.expect("no panic").expect("drained");
    assert_eq!(stands.manifest, pair.home_log.last_manifest().await.expect("read"));
    assert!(stands.manifest.is_some());
}

#[test]
fn there_is_no_switchover_between_logs_that_differ() {
    let home = stands("home", 1, Role::Draining, 9, b"one");
    assert_eq!(
        plan(&home, &stands("dr", 1, Role::Follower, 9, b"two")).expect_err("refused").kind(),
        ErrorKind::Corrupt
    );
    assert_eq!(
        plan(&home, &stands("dr", 1, Role::Follower, 10, b"one")).expect_err("refused").kind(),
        ErrorKind::Corrupt
    );
    let two = stands("dr", 1, Role::Active, 9, b"one");
    assert_eq!(plan(&home, &two).expect_err("refused").kind(), ErrorKind::Conflict);
}

#[tokio::test]
async fn a_switchover_loses_nothing_and_turns_the_stream_round() {
    let pair = Pair::new().await;
    append(&pair.home_log, 0..20).await;
    for _ in 0..10 {
        let (old, new) = (RegionAdmin::standing(&*pair.home).await, RegionAdmin::standing(&*pair.dr).await);
        let Some(step) = plan(&old.expect("stands"), &new.expect("stands")).expect("a way") else { break };
        execute(&step, &*pair.home, &*pair.dr).await.expect("done");
        execute(&step, &*pair.home, &*pair.dr).await.expect("and safe to repeat");
        follow(&pair.dr).await;
    }
    assert_eq!(role(&pair.home).await, (epoch(2), Role::Follower));
    assert_eq!(role(&pair.dr).await, (epoch(2), Role::Active));
    append(&pair.dr_log, 20..30).await;
    follow(&pair.home).await;
    assert_eq!(pair.home_log.log_head().await.expect("head").head, head(30));
}

#[tokio::test]
async fn a_switchover_that_died_between_claim_and_role_is_finished_by_the_next_one() {
    let pair = Pair::new().await;
    append(&pair.home_log, 0..5).await;
    drain(&pair.home).await.expect("drained");
    follow(&pair.dr).await;
    // Dr went read-only, claimed the epoch and died; home's watch saw the claim.
    pair.dr_log.change_role((epoch(1), Role::Follower), (epoch(1), Role::ReadOnly)).await.expect("read-only");
    claim::claim(&pair.dr, Reach::OwnBucket, "twin", epoch(2), Some(epoch(1)), head(5), at(0)).await.expect("claimed");
    fence::look_now(&pair.home).await.expect("looked");
    fence::look_now(&pair.dr).await.expect("looked");
    assert_eq!(role(&pair.home).await, (epoch(2), Role::Follower));
    assert_eq!(role(&pair.dr).await, (epoch(1), Role::ReadOnly));

    let standings = || async { tokio::join!(RegionAdmin::standing(&*pair.home), RegionAdmin::standing(&*pair.dr)) };
    let (old, new) = standings().await;
    let step = plan(&old.expect("stands"), &new.expect("stands")).expect("a way").expect("a step");
    assert!(matches!(step, Step::Promote { .. }), "{step:?}");
    execute(&step, &*pair.home, &*pair.dr).await.expect("promoted");
    assert_eq!(role(&pair.dr).await, (epoch(2), Role::Active));
    let (old, new) = standings().await;
    assert_eq!(plan(&old.expect("stands"), &new.expect("stands")).expect("a way"), None);
}

#[tokio::test]
async fn a_draining_region_cannot_append_and_resumes_as_long_as_nobody_took_over() {
    let pair = Pair::new().await;
    drain(&pair.home).await.expect("drained");
    let refused = pair.home_log.append(crate::testing::request(0)).await.expect_err("refused");
    assert_eq!(refused.kind(), ErrorKind::Fenced);
    resume(&pair.home).await.expect("resumed");
    assert_eq!(role(&pair.home).await, (epoch(2), Role::Active), "what was heard of the drain bounds nothing now");
    append(&pair.home_log, 0..1).await;

    let stands = drain(&pair.home).await.expect("drained");
    crate::fence::look_now(&pair.dr).await.expect("looked");
    follow(&pair.dr).await;
    let request = Promote::Planned { head: stands.head, root: stands.root.expect("asked for") };
    promote(&pair.dr, &request).await.expect("promoted");
    assert_eq!(resume(&pair.home).await.expect_err("refused").kind(), ErrorKind::Conflict);
}

#[tokio::test]
async fn a_drain_that_was_taken_back_bounds_no_loss() {
    let pair = Pair::new().await;
    append(&pair.home_log, 0..5).await;
    drain(&pair.home).await.expect("drained");
    follow(&pair.dr).await;
    resume(&pair.home).await.expect("resumed");
    append(&pair.home_log, 5..9).await;
    // Home falls silent before dr has asked it again.
    pair.to_home.set_up(false);
    let nothing = Promote::Forced { accept: AcceptLoss::Events(0) };
    let Err(FailoverError::Loss(loss)) = promote(&pair.dr, &nothing).await else { panic!("a bound that is none") };
    assert!(matches!(loss.bound, Bound::UnknownSince(Some(_))), "{loss}");
    promote(&pair.dr, &Promote::Forced { accept: AcceptLoss::Unknown }).await.expect("promoted");
    assert_eq!(role(&pair.dr).await, (epoch(3), Role::Active));
}

#[tokio::test]
async fn a_planned_promotion_needs_the_old_regions_consent_and_the_same_root() {
    let pair = Pair::new().await;
    append(&pair.home_log, 0..5).await;
    follow(&pair.dr).await;
    let root = RegionAdmin::standing(&*pair.dr).await.expect("stands").root.expect("asked for");
    let request = Promote::Planned { head: head(5), root };
    assert_eq!(promote(&pair.dr, &request).await.expect_err("home is active").kind(), ErrorKind::Conflict);
    drain(&pair.home).await.expect("drained");
    let other = Promote::Planned { head: head(5), root: Hash::of(b"other") };
    assert_eq!(promote(&pair.dr, &other).await.expect_err("another root").kind(), ErrorKind::Corrupt);
    assert_eq!(role(&pair.dr).await, (epoch(1), Role::Follower), "a refusal gives the role back");
    promote(&pair.dr, &request).await.expect("promoted");
}

#[tokio::test]
async fn a_forced_promotion_states_its_loss_first_and_needs_it_accepted() {
    let pair = Pair::new().await;
    append(&pair.home_log, 0..5).await;
    follow(&pair.dr).await;
    let heard = Heard { epoch: epoch(1), head: head(8), role: Role::Active, at: at(60) };
    pair.dr_log.hear(heard).await.expect("kept");
    pair.to_home.set_up(false);

    let forced = |accept| Promote::Forced { accept };
    let error = promote(&pair.dr, &forced(AcceptLoss::Events(1000))).await.expect_err("nobody knows how much");
    let FailoverError::Loss(loss) = error else { panic!("{error}") };
    assert_eq!((loss.own_head, loss.known_missing), (head(5), 3));
    assert_eq!(loss.bound, Bound::UnknownSince(Some(at(60))));
    assert_eq!(role(&pair.dr).await, (epoch(1), Role::Follower));

    let promoted = promote(&pair.dr, &forced(AcceptLoss::Unknown)).await.expect("accepted");
    assert_eq!((promoted.epoch, promoted.fork, promoted.loss), (epoch(2), head(5), Some(loss)));
    let again = promote(&pair.dr, &forced(AcceptLoss::Unknown)).await.expect("done before");
    assert_eq!((again.epoch, again.fork, again.loss), (epoch(2), head(5), None));
    append(&pair.dr_log, 10..12).await;
}

#[tokio::test]
async fn the_loss_of_a_region_that_had_stopped_appends_is_bounded() {
    let pair = Pair::new().await;
    append(&pair.home_log, 0..5).await;
    follow(&pair.dr).await;
    let heard = Heard { epoch: epoch(1), head: head(8), role: Role::Draining, at: at(60) };
    pair.dr_log.hear(heard).await.expect("kept");
    pair.to_home.set_up(false);
    let forced = |events| Promote::Forced { accept: AcceptLoss::Events(events) };
    let error = promote(&pair.dr, &forced(2)).await.expect_err("three may be lost");
    assert!(matches!(error, FailoverError::Loss(LossStatement { bound: Bound::Events(3), .. })), "{error}");
    promote(&pair.dr, &forced(3)).await.expect("accepted");
}

#[tokio::test]
async fn what_the_old_regions_bucket_shows_beyond_what_was_heard_is_counted() {
    let pair = Pair::new().await;
    append(&pair.home_log, 0..5).await;
    follow(&pair.dr).await;
    // It drained at 5, was heard of, took appends again, and sealed up to 8 before it died.
    let heard = Heard { epoch: epoch(1), head: head(5), role: Role::Draining, at: at(60) };
    pair.dr_log.hear(heard).await.expect("kept");
    append(&pair.home_log, 5..8).await;
    seal(&pair.home, None, 1, 8).await;
    pair.to_home.set_up(false);
    let forced = |accept| Promote::Forced { accept };
    let error = promote(&pair.dr, &forced(AcceptLoss::Events(3))).await.expect_err("its word is not its last");
    let FailoverError::Loss(loss) = error else { panic!("{error}") };
    let source = Source::OtherBucket("manifest/00000000000000000001/00000000000000000001.json".into());
    assert_eq!(loss.newest, Some(Shown { head: head(8), source }));
    assert_eq!((loss.known_missing, loss.bound), (3, Bound::UnknownSince(Some(at(60)))));
    assert!(loss.to_string().contains("in the other region's bucket shows 8 events"), "{loss}");
    promote(&pair.dr, &forced(AcceptLoss::Unknown)).await.expect("accepted");
}

#[test]
fn the_loss_is_counted_from_the_highest_head_and_an_equal_one_adds_nothing() {
    let heard = Heard { epoch: epoch(1), head: head(8), role: Role::Draining, at: at(0) };
    let shown = |events, key: &str| Shown { head: head(events), source: Source::OwnBucket(key.into()) };
    let loss = state_loss(head(5), Some(epoch(1)), Some(heard), vec![shown(8, "equal"), shown(4, "less")]);
    assert_eq!(loss.newest, Some(Shown { head: head(8), source: Source::OtherRegion }));
    assert_eq!((loss.known_missing, loss.bound), (3, Bound::Events(3)));
    let loss = state_loss(head(5), Some(epoch(1)), Some(heard), vec![shown(9, "more"), shown(11, "most")]);
    assert_eq!((loss.newest, loss.known_missing), (Some(shown(11, "most")), 6));
    assert_eq!(loss.bound, Bound::UnknownSince(Some(at(0))));
    let loss = state_loss(head(5), Some(epoch(1)), None, vec![shown(7, "only")]);
    assert_eq!((loss.known_missing, loss.bound), (2, Bound::UnknownSince(None)));
    assert_eq!(state_loss(head(5), Some(epoch(1)), None, vec![]).newest, None);
}

#[tokio::test]
async fn a_region_that_answers_is_not_forced_out() {
    let pair = Pair::new().await;
    let error = promote(&pair.dr, &Promote::Forced { accept: AcceptLoss::Unknown }).await.expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_eq!(role(&pair.dr).await, (epoch(1), Role::Follower));
}

#[tokio::test]
async fn the_old_home_that_comes_back_is_refused_and_keeps_what_it_had() {
    let pair = Pair::new().await;
    append(&pair.home_log, 0..5).await;
    follow(&pair.dr).await;
    append(&pair.home_log, 5..7).await;
    pair.to_home.set_up(false);
    promote(&pair.dr, &Promote::Forced { accept: AcceptLoss::Unknown }).await.expect("accepted");
    pair.to_home.set_up(true);

    let mut watch = fence::EpochWatch::new(Arc::clone(&pair.home));
    let watched = watch.round().await.expect("decided");
    assert_eq!((watched.epoch, watched.role), (epoch(1), Role::ReadOnly));
    assert!(confirm(&pair.home).await.is_err(), "an operator cannot confirm an epoch that is over");
    assert_eq!(pair.home_log.log_head().await.expect("head").head, head(7));
}

#[tokio::test]
async fn a_promotion_that_died_after_its_claim_is_finished_by_the_same_request() {
    let pair = Pair::new().await;
    append(&pair.home_log, 0..5).await;
    follow(&pair.dr).await;
    pair.to_home.set_up(false);
    pair.dr_log.change_role((epoch(1), Role::Follower), (epoch(1), Role::ReadOnly)).await.expect("stopped");
    claim::claim(&pair.dr, Reach::OwnBucket, "twin", epoch(2), Some(epoch(1)), head(5), at(0)).await.expect("claimed");
    // Here it died. The watch does not undo it.
    assert_eq!(fence::look_now(&pair.dr).await.expect("decided").role, Role::ReadOnly);
    let promoted = promote(&pair.dr, &Promote::Forced { accept: AcceptLoss::Unknown }).await.expect("finished");
    assert_eq!((promoted.epoch, promoted.fork), (epoch(2), head(5)));
}

#[tokio::test]
async fn a_log_that_ends_before_what_its_region_signed_is_not_promoted() {
    let pair = Pair::new().await;
    append(&pair.home_log, 0..5).await;
    follow(&pair.dr).await;
    let note = domain::archive::catalog::StoredCheckpoint {
        size: head(9),
        root: Hash::of(b"root"),
        note: "signed in a past that was lost".into(),
        cosigned: true,
    };
    pair.dr.evidence.save_checkpoint(&note).await.expect("stored");
    pair.to_home.set_up(false);
    let error = promote(&pair.dr, &Promote::Forced { accept: AcceptLoss::Unknown }).await.expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

#[test]
fn requests_have_one_form() {
    let json = |request: &Promote| serde_json::to_string(request).expect("json");
    let forced = |accept| Promote::Forced { accept };
    assert_eq!(json(&forced(AcceptLoss::Unknown)), r#"{"mode":"forced","accept":"unknown"}"#);
    assert_eq!(json(&forced(AcceptLoss::Events(7))), r#"{"mode":"forced","accept":{"events":7}}"#);
    let planned = Promote::Planned { head: head(7), root: Hash([0; 32]) };
    let text = json(&planned);
    assert!(text.starts_with(r#"{"mode":"planned","head":"7","root":"0000"#), "{text}");
    assert_eq!(serde_json::from_str::<Promote>(&text).expect("read"), planned);
}

#[tokio::test]
async fn a_promotion_that_the_watch_of_another_process_undoes_half_way_is_finished() {
    let pair = Pair::new().await;
    append(&pair.home_log, 0..3).await;
    follow(&pair.dr).await;
    fence::look_now(&pair.home).await.expect("the first epoch is claimed");
    pair.to_home.set_up(false);
    let other = without_lock(&pair.dr);
    let watch = async move {
        let watched = fence::look_now(&other).await.expect("decided");
        assert_eq!(watched.role, Role::Follower, "it gives back what it did not take");
    };
    let log = Meddled::after(&pair.dr_log, Box::pin(watch));
    let dr = Region { log, ..without_lock(&pair.dr) };
    let promoted = promote(&dr, &Promote::Forced { accept: AcceptLoss::Unknown }).await.expect("promoted");
    assert_eq!((promoted.epoch, promoted.fork), (epoch(2), head(3)));
    assert_eq!(role(&dr).await, (epoch(2), Role::Active));
}
