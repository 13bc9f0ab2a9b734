//! What every memory of the other region has to do.

use crate::append::Role;
use crate::replication::{Heard, PeerMemory};
use crate::{Epoch, Head, Timestamp};

/// Checks an empty memory. It is not empty afterwards.
///
/// # Panics
/// With the first fact that does not hold.
pub async fn check(memory: &impl PeerMemory) {
    let heard = |epoch, head, role, second: i64| Heard {
        epoch: Epoch::new(epoch).expect("small"),
        head: Head::new(head).expect("small"),
        role,
        at: Timestamp::from_unix_micros(second * 1_000_000).expect("an instant"),
    };
    assert_eq!(memory.heard().await.expect("asked"), None, "nothing was heard at first");
    let steps = [
        (heard(1, 10, Role::Active, 1), true),
        (heard(1, 10, Role::Draining, 2), true),
        (heard(1, 9, Role::Active, 3), false),
        (heard(2, 5, Role::Active, 4), true),
        (heard(1, 99, Role::Active, 5), false),
    ];
    let mut kept = None;
    for (said, moves) in steps {
        memory.hear(said).await.expect("kept");
        kept = if moves { Some(said) } else { kept };
        assert_eq!(memory.heard().await.expect("asked"), kept, "after {said:?}");
    }
}
