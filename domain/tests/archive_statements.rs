//! Signed statements and their chain: only what a trusted key signed counts, in its one spelling, in order.

use domain::archive::catalog::{ManifestRef, Segment};
use domain::archive::chain::Chain;
use domain::archive::confirmation::Confirmation;
use domain::archive::epoch_claim::EpochClaim;
use domain::archive::manifest::{Fork, LIST_EVERY, Manifest, Replaced};
use domain::archive::statement::{self, FORMAT, Signed, StatementError};
use domain::keys::{KeyError, KeyRing, SigningKey};
use domain::merkle::Hash;
use domain::{Epoch, Head, Position, Timestamp};
use proptest::prelude::*;

fn key() -> SigningKey {
    SigningKey::from_seed("home", &[7; 32]).expect("a name")
}

fn ring() -> KeyRing {
    KeyRing::new([key().verify_key()]).expect("one key")
}

fn at() -> Timestamp {
    Timestamp::parse_rfc3339("2026-05-01T08:00:00Z").expect("an instant")
}

fn epoch(number: u64) -> Epoch {
    Epoch::new(number).expect("an epoch")
}

fn segment(first: u64, last: u64, of: u64) -> Segment {
    Segment {
        first: Position::new(first).expect("a position"),
        last: Position::new(last).expect("a position"),
        epoch: epoch(of),
        sha256: Hash::of(&[first.to_le_bytes(), last.to_le_bytes(), of.to_le_bytes()].concat()),
        crc32: 0xdead,
        bytes: 10,
        record_bytes: 100,
        index_sha256: Hash([3; 32]),
        index_crc32: 0xbeef,
        index_bytes: 20,
        root: Hash([4; 32]),
        first_at: at(),
        last_at: at(),
    }
}

/// The step of epoch `of` that follows `chain` and adds positions up to `last`.
fn step(chain: &Chain, of: u64, last: u64) -> Manifest {
    let opens = chain.last().map_or(of > 1, |last| last.epoch != epoch(of));
    Manifest {
        format: FORMAT,
        log: "test".into(),
        epoch: epoch(of),
        number: chain.last().map_or(1, |last| last.number + 1),
        previous: chain.last().map(|last| last.sha256),
        time: at(),
        fork: opens.then(|| Fork { after: chain.last(), position: chain.head() }),
        added: vec![segment(chain.head().next().get(), last, of)],
        replaced: Vec::new(),
        in_force: None,
    }
}

fn signed(manifest: &Manifest) -> Signed<Manifest> {
    statement::verify(&statement::sign(manifest, &key()).expect("sound"), &ring()).expect("just signed")
}

fn chain(steps: &[(u64, u64)]) -> Chain {
    let mut chain = Chain::new("test");
    for (of, last) in steps {
        let next = signed(&step(&chain, *of, *last));
        chain.accept(&next).expect("a step that follows");
    }
    chain
}

fn refused(chain: &Chain, manifest: &Manifest) -> String {
    let mut after = chain.clone();
    let error = after.accept(&signed(manifest)).expect_err("refused");
    assert_eq!(&after, chain, "nothing is changed by a step that is refused");
    error.reason
}

#[test]
fn one_sort_of_statement_never_passes_for_another() {
    let claim = EpochClaim {
        format: FORMAT,
        log: "test".into(),
        epoch: epoch(2),
        previous: Some(epoch(1)),
        region: "home".into(),
        fork: Head::EMPTY,
        time: at(),
    };
    let object = String::from_utf8(statement::sign(&claim, &key()).expect("sound")).expect("text");
    assert!(statement::verify::<EpochClaim>(object.as_bytes(), &ring()).is_ok());
    let renamed = object.replacen("{\"epoch\":", "{\"confirmation\":", 1);
    let error = statement::verify::<Confirmation>(renamed.as_bytes(), &ring()).expect_err("refused");
    assert!(matches!(error, StatementError::Key { source: KeyError::Signature(_), .. }), "{error}");
}

#[test]
fn what_an_unknown_key_signed_is_refused() {
    let stranger = SigningKey::from_seed("home", &[8; 32]).expect("a name");
    let object = statement::sign(&step(&chain(&[]), 1, 10), &stranger).expect("sound");
    let error = statement::verify::<Manifest>(&object, &ring()).expect_err("refused");
    assert!(matches!(error, StatementError::Key { source: KeyError::Unknown(_), .. }), "{error}");
}

#[test]
fn nobody_speaks_for_another_region() {
    let confirmation = Confirmation {
        format: FORMAT,
        log: "test".into(),
        region: "dr".into(),
        segment: segment(1, 10, 1),
        verified_at: at(),
    };
    assert!(matches!(statement::sign(&confirmation, &key()), Err(StatementError::Content { .. })));
}

#[test]
fn another_spelling_of_the_same_is_refused() {
    // Whoever holds the key could sign another spelling; it would be a second object of the same meaning.
    let object = statement::sign(&step(&chain(&[]), 1, 10), &key()).expect("sound");
    let text = String::from_utf8(object).expect("text");
    for (from, to) in [("}}", "}} "), ("{\"manifest\"", " {\"manifest\""), (",\"signature\"", ", \"signature\"")] {
        assert!(statement::verify::<Manifest>(text.replacen(from, to, 1).as_bytes(), &ring()).is_err(), "{to}");
    }
}

#[test]
fn a_manifest_that_contradicts_itself_is_not_signed() {
    let good = step(&chain(&[]), 1, 10);
    let sign = |change: fn(&mut Manifest)| {
        let mut bad = good.clone();
        change(&mut bad);
        assert!(matches!(statement::sign(&bad, &key()), Err(StatementError::Content { .. })), "{bad:?}");
    };
    sign(|m| m.format = 2);
    sign(|m| m.log = "a/b".into());
    sign(|m| m.number = 0);
    sign(|m| m.number = 2);
    sign(|m| m.previous = Some(Hash([0; 32])));
    sign(|m| m.in_force = Some(Vec::new()));
    sign(|m| m.added[0].epoch = epoch(2));
    sign(|m| m.added[0].last_at = Timestamp::from_unix_micros(0).expect("an instant"));
    sign(|m| {
        m.fork = Some(Fork { after: None, position: Head::EMPTY }).filter(|_| m.number == 1).map(|mut fork| {
            fork.after = Some(ManifestRef { epoch: epoch(1), number: 1, sha256: Hash([0; 32]) });
            fork
        })
    });
}

#[test]
fn a_chain_takes_each_step_once_and_in_order() {
    let chain = chain(&[(1, 10), (1, 20)]);
    assert_eq!(chain.head().get(), 20);
    let next = step(&chain, 1, 30);
    let with = |change: fn(&mut Manifest)| {
        let mut bad = next.clone();
        change(&mut bad);
        refused(&chain, &bad)
    };
    assert_eq!(with(|m| m.number = 4), "its number is not the next");
    assert_eq!(with(|m| m.previous = Some(Hash([9; 32]))), "it names another one as the one before it");
    assert_eq!(with(|m| m.log = "other".into()), "it is of another log");
    assert_eq!(with(|m| m.added = vec![segment(22, 30, 1)]), "position 21 is in no segment, or in two");
    assert_eq!(with(|m| m.added = vec![segment(20, 30, 1)]), "position 21 is in no segment, or in two");
    assert!(chain.clone().accept(&signed(&next)).is_ok());
}

#[test]
fn an_epoch_opens_with_its_fork_and_only_then() {
    let chain = chain(&[(1, 10), (2, 20)]);
    let mut silent = step(&chain, 3, 30);
    silent.fork = None;
    assert_eq!(refused(&chain, &silent), "it opens an epoch and does not say where");
    let mut early = step(&chain, 3, 30);
    early.fork.as_mut().expect("it opens an epoch").position = Head::new(19).expect("a head");
    assert_eq!(refused(&chain, &early), "its epoch begins before the archive ends");
    let mut late = step(&chain, 2, 30);
    late.fork = Some(Fork { after: None, position: Head::new(20).expect("a head") });
    late.previous = None;
    assert!(statement::sign(&late, &key()).is_err());
    let mut old = step(&chain, 1, 30);
    old.fork = None;
    assert_eq!(refused(&chain, &old), "it opens an epoch and does not say where");
}

#[test]
fn an_archive_may_begin_in_a_later_epoch() {
    let chain = chain(&[(3, 10)]);
    assert_eq!(chain.head().get(), 10);
}

#[test]
fn replaced_segments_are_covered_by_those_added() {
    let chain = chain(&[(1, 10), (1, 20), (1, 30)]);
    let mut merge = step(&chain, 1, 30);
    merge.added = vec![segment(1, 20, 1)];
    merge.replaced =
        chain.in_force()[..2].iter().map(|s| Replaced { first: s.first, last: s.last, sha256: s.sha256 }).collect();
    let mut after = chain.clone();
    after.accept(&signed(&merge)).expect("it covers what it replaces");
    assert_eq!(after.in_force().iter().map(|s| s.last.get()).collect::<Vec<_>>(), [20, 30]);
    merge.added = vec![segment(1, 15, 1)];
    assert_eq!(refused(&chain, &merge), "position 16 is in no segment, or in two");
    merge.replaced[0].sha256 = Hash([0; 32]);
    assert_eq!(refused(&chain, &merge), "it replaces a segment that is not in force");
}

#[test]
fn every_1024th_manifest_lists_what_is_in_force() {
    let before = ManifestRef { epoch: epoch(1), number: LIST_EVERY - 1, sha256: Hash([1; 32]) };
    let chain = Chain::resume("test", Some(before), vec![segment(1, 10, 1)]);
    let mut listing = step(&chain, 1, 20);
    assert!(statement::sign(&listing, &key()).is_err(), "it has to list them");
    listing.in_force = Some(vec![segment(1, 10, 1), segment(11, 20, 1)]);
    assert!(chain.clone().accept(&signed(&listing)).is_ok());
    listing.in_force = Some(vec![segment(1, 20, 1)]);
    assert_eq!(refused(&chain, &listing), "its list of segments in force is not what the steps give");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn a_changed_statement_is_refused(at in any::<prop::sample::Index>(), with in 1_u8.., cut in any::<bool>()) {
        let mut object = statement::sign(&step(&chain(&[]), 1, 10), &key()).expect("sound");
        let at = at.index(object.len());
        if cut { object.truncate(at) } else { object[at] ^= with }
        prop_assert!(statement::verify::<Manifest>(&object, &ring()).is_err());
    }

    #[test]
    fn any_text_is_no_statement_and_no_panic(text in "\\PC{0,200}") {
        prop_assert!(statement::verify::<Manifest>(text.as_bytes(), &ring()).is_err());
        let wrapped = format!("{{\"manifest\":{text},\"signature\":{{\"key\":\"home+00000000\",\"ed25519\":\"\"}}}}");
        prop_assert!(statement::verify::<Manifest>(wrapped.as_bytes(), &ring()).is_err());
        prop_assert!(domain::archive::checkpoint::verify(&text, &ring()).is_err());
    }
}
