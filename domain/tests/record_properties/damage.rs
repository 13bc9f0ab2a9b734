//! Damage to bytes: what rot, a bug or an attacker may do to a text that was valid.

use proptest::prelude::*;
use proptest::sample::{Index, select};

#[derive(Debug, Clone)]
pub(crate) enum Damage {
    Replace(Index, u8),
    Insert(Index, u8),
    Remove(Index),
    Repeat(Index, Index),
}

pub(crate) fn damage() -> impl Strategy<Value = Vec<Damage>> {
    let byte = || prop_oneof![select(b"\"\\{}[]:,.-+0123456789eEu \n\x00\x7f\xc2\x85\xff".to_vec()), any::<u8>()];
    let one = prop_oneof![
        (any::<Index>(), byte()).prop_map(|(at, byte)| Damage::Replace(at, byte)),
        (any::<Index>(), byte()).prop_map(|(at, byte)| Damage::Insert(at, byte)),
        any::<Index>().prop_map(Damage::Remove),
        (any::<Index>(), any::<Index>()).prop_map(|(from, to)| Damage::Repeat(from, to)),
    ];
    prop::collection::vec(one, 1..4)
}

pub(crate) fn damaged(mut bytes: Vec<u8>, damage: &[Damage]) -> Vec<u8> {
    for one in damage {
        if bytes.is_empty() {
            break;
        }
        match one {
            Damage::Replace(at, byte) => *at.get_mut(&mut bytes[..]) = *byte,
            Damage::Insert(at, byte) => bytes.insert(at.index(bytes.len()), *byte),
            Damage::Remove(at) => drop(bytes.remove(at.index(bytes.len()))),
            Damage::Repeat(from, to) => {
                let (from, to) = (from.index(bytes.len()), to.index(bytes.len()));
                let part = bytes[from.min(to)..from.max(to)].to_vec();
                bytes.splice(to..to, part);
            }
        }
    }
    bytes
}
