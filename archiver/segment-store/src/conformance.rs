//! What every object store has to do, whatever it is made of: one suite for the port, run by the twin in memory,
//! by the embedded endpoint and by real ones. Each fact has a key space of its own below `prefix` and needs
//! nothing of the others. It panics with the fact that does not hold.

use domain::store::{Created, ObjectStore, StoreError};
use futures::future::join_all;

/// How many creators race for one key.
const RACERS: usize = 16;

/// Checks every fact. `prefix` has to be empty of objects and ends with `/`.
///
/// # Panics
/// With the first fact that does not hold.
pub async fn check(store: &impl ObjectStore, prefix: &str) {
    a_created_object_is_read_listed_and_named(store, &format!("{prefix}create/")).await;
    a_second_creation_is_same_or_different(store, &format!("{prefix}second/")).await;
    of_sixteen_racers_one_wins(store, &format!("{prefix}race/")).await;
    the_same_bytes_may_race(store, &format!("{prefix}race-same/")).await;
    only_the_version_in_force_is_replaced(store, &format!("{prefix}replace/")).await;
    of_sixteen_replacements_one_wins(store, &format!("{prefix}race-replace/")).await;
    a_range_is_exact_or_an_error(store, &format!("{prefix}range/")).await;
    what_is_not_there_is_not_found(store, &format!("{prefix}missing/")).await;
    a_listing_is_sorted_bounded_and_goes_on(store, &format!("{prefix}list/")).await;
    a_deleted_object_is_gone_and_may_be_created_again(store, &format!("{prefix}delete/")).await;
    empty_and_large_objects_are_kept_byte_for_byte(store, &format!("{prefix}sizes/")).await;
}

async fn a_created_object_is_read_listed_and_named(store: &impl ObjectStore, prefix: &str) {
    let key = format!("{prefix}manifest/00000000000000000001.json");
    assert_eq!(store.create(&key, b"{}").await.expect("created"), Created::New);
    let object = store.get(&key).await.expect("read after write");
    assert_eq!((object.bytes.as_slice(), object.meta.bytes, object.meta.key.as_str()), (&b"{}"[..], 2, key.as_str()));
    let head = store.head(&key).await.expect("head").expect("it is there");
    assert_eq!(head, object.meta, "head and get name the same version");
    let listed = store.list(prefix, None, 10).await.expect("list after write");
    assert_eq!(listed, [head], "list names the same version");
}

async fn a_second_creation_is_same_or_different(store: &impl ObjectStore, prefix: &str) {
    let key = format!("{prefix}object");
    assert_eq!(store.create(&key, b"one").await.expect("created"), Created::New);
    assert_eq!(store.create(&key, b"one").await.expect("a lost reply"), Created::Same);
    let other = store.create(&key, b"two").await;
    assert!(matches!(other, Err(StoreError::Different { .. })), "other bytes are refused: {other:?}");
    assert_eq!(store.get(&key).await.expect("there").bytes, b"one", "and nothing was changed");
}

async fn of_sixteen_racers_one_wins(store: &impl ObjectStore, prefix: &str) {
    for round in 0..8 {
        let key = format!("{prefix}{round}");
        let bodies: Vec<Vec<u8>> = (0..RACERS).map(|racer| format!("racer {racer}").into_bytes()).collect();
        let outcomes = join_all(bodies.iter().map(|body| store.create(&key, body))).await;
        let won: Vec<usize> = (0..RACERS).filter(|racer| outcomes[*racer].is_ok()).collect();
        assert_eq!(won.len(), 1, "one racer wins: {outcomes:?}");
        let lost = |outcome: &Result<Created, StoreError>| matches!(outcome, Err(StoreError::Different { .. }));
        assert_eq!(outcomes.iter().filter(|outcome| lost(outcome)).count(), RACERS - 1, "{outcomes:?}");
        assert_eq!(store.get(&key).await.expect("there").bytes, bodies[won[0]], "the winner's bytes are there");
    }
}

async fn the_same_bytes_may_race(store: &impl ObjectStore, prefix: &str) {
    let key = format!("{prefix}object");
    let outcomes = join_all((0..RACERS).map(|_| store.create(&key, b"same"))).await;
    let new = outcomes.iter().filter(|outcome| matches!(outcome, Ok(Created::New))).count();
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    assert!(new <= 1, "at most one made it (none, if that one's reply was lost): {outcomes:?}");
}

async fn only_the_version_in_force_is_replaced(store: &impl ObjectStore, prefix: &str) {
    let key = format!("{prefix}object");
    store.create(&key, b"one").await.expect("created");
    let first = store.head(&key).await.expect("head").expect("there").etag;
    store.replace(&key, &first, b"two").await.expect("the version in force");
    assert_eq!(store.get(&key).await.expect("there").bytes, b"two");
    let stale = store.replace(&key, &first, b"three").await;
    assert!(matches!(stale, Err(StoreError::Different { .. })), "a stale version is refused: {stale:?}");
    assert_eq!(store.get(&key).await.expect("there").bytes, b"two", "and nothing was changed");
    let missing = store.replace(&format!("{prefix}missing"), &first, b"one").await;
    assert!(matches!(missing, Err(StoreError::NotFound { .. })), "a missing object is not replaced: {missing:?}");
    assert_eq!(store.head(&format!("{prefix}missing")).await.expect("head"), None, "nor created");
}

async fn of_sixteen_replacements_one_wins(store: &impl ObjectStore, prefix: &str) {
    let key = format!("{prefix}object");
    store.create(&key, b"one").await.expect("created");
    let etag = store.head(&key).await.expect("head").expect("there").etag;
    let bodies: Vec<Vec<u8>> = (0..RACERS).map(|racer| format!("racer {racer}").into_bytes()).collect();
    let outcomes = join_all(bodies.iter().map(|body| store.replace(&key, &etag, body))).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "one wins: {outcomes:?}");
}

async fn a_range_is_exact_or_an_error(store: &impl ObjectStore, prefix: &str) {
    let key = format!("{prefix}object");
    store.create(&key, b"0123456789").await.expect("created");
    let range = |offset, bytes| store.get_range(&key, offset, bytes);
    assert_eq!(range(0, 10).await.expect("all"), b"0123456789");
    assert_eq!(range(3, 4).await.expect("middle"), b"3456");
    assert_eq!(range(9, 1).await.expect("last"), b"9");
    assert_eq!(range(10, 0).await.expect("nothing, at the end"), b"");
    for (offset, bytes) in [(0, 11), (9, 2), (10, 1), (100, 1), (11, 0), (u64::MAX, 1)] {
        let past = range(offset, bytes).await;
        assert!(matches!(past, Err(StoreError::Different { .. })), "{offset}+{bytes} is past the end: {past:?}");
    }
}

async fn what_is_not_there_is_not_found(store: &impl ObjectStore, prefix: &str) {
    let key = format!("{prefix}object");
    assert!(matches!(store.get(&key).await, Err(StoreError::NotFound { .. })));
    assert!(matches!(store.get_range(&key, 0, 1).await, Err(StoreError::NotFound { .. })));
    assert!(matches!(store.get_range(&key, 0, 0).await, Err(StoreError::NotFound { .. })));
    assert_eq!(store.head(&key).await.expect("head"), None);
    assert_eq!(store.list(prefix, None, 10).await.expect("list"), []);
    store.delete(&key).await.expect("deleting what is not there is fine");
}

async fn a_listing_is_sorted_bounded_and_goes_on(store: &impl ObjectStore, prefix: &str) {
    // `-` and `.` sort before `/` and digits: an order by bytes, not by folders.
    let names = ["a", "a-b", "a.b", "a/b", "a0", "b/00000000000000000009", "b/00000000000000000010", "c"];
    join_all(names.iter().map(|name| async move {
        store.create(&format!("{prefix}{name}"), name.as_bytes()).await.expect("created");
    }))
    .await;
    let list = |below: &str, after: Option<&str>, limit| {
        let (below, after) = (format!("{prefix}{below}"), after.map(|after| format!("{prefix}{after}")));
        async move {
            let listed = store.list(&below, after.as_deref(), limit).await.expect("list");
            let names = listed.iter().map(|meta| meta.key.strip_prefix(prefix).expect("below the prefix").to_owned());
            names.collect::<Vec<_>>()
        }
    };
    assert_eq!(list("", None, 100).await, names);
    assert_eq!(list("", None, 3).await, names[..3]);
    assert_eq!(list("", Some("a.b"), 2).await, names[3..5]);
    assert_eq!(list("", Some("b"), 1).await, ["b/00000000000000000009"], "after a key that is not there");
    assert_eq!(list("a", None, 100).await, names[..5]);
    assert_eq!(list("b/", Some("b/00000000000000000009"), 100).await, names[6..7]);
    assert_eq!(list("", Some("c"), 100).await, Vec::<String>::new());
    assert_eq!(list("", None, 0).await, Vec::<String>::new());
}

async fn a_deleted_object_is_gone_and_may_be_created_again(store: &impl ObjectStore, prefix: &str) {
    let key = format!("{prefix}object");
    store.create(&key, b"one").await.expect("created");
    store.delete(&key).await.expect("deleted");
    assert!(matches!(store.get(&key).await, Err(StoreError::NotFound { .. })));
    assert_eq!(store.list(prefix, None, 10).await.expect("list"), []);
    store.delete(&key).await.expect("again");
    assert_eq!(store.create(&key, b"two").await.expect("created again"), Created::New);
}

async fn empty_and_large_objects_are_kept_byte_for_byte(store: &impl ObjectStore, prefix: &str) {
    // 9 MB that do not compress and in which no part looks like another.
    let large: Vec<u8> = (0..9_000_000_u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect();
    for (name, bytes) in [("empty", &[][..]), ("large", &large)] {
        let key = format!("{prefix}{name}");
        assert_eq!(store.create(&key, bytes).await.expect("created"), Created::New);
        assert!(store.get(&key).await.expect("there").bytes == bytes, "{name}: the same bytes");
        assert_eq!(store.create(&key, bytes).await.expect("again"), Created::Same);
    }
    let part = store.get_range(&format!("{prefix}large"), 4_321_000, 70_000).await.expect("a part");
    assert!(part == large[4_321_000..4_391_000], "a part of a large object");
}

#[cfg(test)]
mod tests {
    use domain::twin::MemoryStore;

    use crate::{Fault, LyingStore};

    #[tokio::test]
    async fn the_twin_in_memory_passes_the_suite() {
        super::check(&MemoryStore::new(), "suite/").await;
    }

    #[tokio::test]
    async fn a_lying_store_that_tells_no_lie_passes_the_suite() {
        super::check(&LyingStore::scripted(MemoryStore::new(), []), "suite/").await;
    }

    #[tokio::test]
    #[should_panic(expected = "read after write")]
    async fn a_store_that_shows_the_past_does_not_pass() {
        super::check(&LyingStore::scripted(MemoryStore::new(), [None, Some(Fault::StaleRead)]), "suite/").await;
    }
}
