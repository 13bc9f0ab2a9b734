//! When a group is decided without the head's lock. It pays where groups are small and nobody else writes: one round trip
//! instead of six. It is never wrong, only in vain: then the group is decided again under the lock.

use domain::append::AppendRequest;
use domain::arbiter::Wanted;

/// More events are faster by COPY.
const EVENTS_MAX: usize = 128;
/// So many bytes are sent and parsed as parameters at once.
const BYTES_MAX: usize = 512 << 10;
/// How many groups are decided under the lock after another process has written between.
const GROUPS_AFTER_RACE: u32 = 16;
/// How many groups have their ids looked up first after a retry was met: what stores a group finds a known id too, at
/// the price of the whole group.
const GROUPS_AFTER_RETRY: u32 = 64;

/// What the last groups have taught.
#[derive(Debug, Default)]
pub(super) struct Optimism {
    locked: u32,
    looked: u32,
}

impl Optimism {
    /// Whether this group may be tried without the lock. Asked once a group.
    pub(super) fn allows(&mut self, requests: &[&AppendRequest], wanted: &Wanted<'_>) -> bool {
        if self.locked > 0 {
            self.locked -= 1;
            return false;
        }
        let events = requests.iter().flat_map(|request| &request.events);
        let (count, bytes) = events.fold((0, 0), |(count, bytes), event| (count + 1, bytes + event.bytes()));
        let simple = wanted.consumers.is_empty() && requests.iter().all(|request| request.conditions.is_empty());
        simple && count <= EVENTS_MAX && bytes <= BYTES_MAX
    }

    /// Whether ids are taken for new ones until the log says otherwise. Asked once a group that is allowed.
    pub(super) fn trusts(&mut self) -> bool {
        self.looked = self.looked.saturating_sub(1);
        self.looked == 0
    }

    pub(super) fn lost_a_race(&mut self) {
        self.locked = GROUPS_AFTER_RACE;
    }

    pub(super) fn met_a_retry(&mut self) {
        self.looked = GROUPS_AFTER_RETRY;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_race_some_groups_are_decided_under_the_lock() {
        let (mut optimism, wanted) = (Optimism::default(), Wanted::default());
        assert!(optimism.allows(&[], &wanted));
        optimism.lost_a_race();
        let refused = (0..100).take_while(|_| !optimism.allows(&[], &wanted)).count();
        assert_eq!(refused, 16);
    }

    #[test]
    fn after_a_retry_some_groups_have_their_ids_looked_up() {
        let mut optimism = Optimism::default();
        assert!(optimism.trusts());
        optimism.met_a_retry();
        assert_eq!((0..100).take_while(|_| !optimism.trusts()).count(), 63);
        assert!(optimism.trusts());
    }
}
