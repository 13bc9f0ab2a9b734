//! The Merkle tree over the log (RFC 6962 §2.1): leaf number = position − 1.
//!
//! [`Frontier`] is the tree in its smallest form: the roots of its complete subtrees, at most 63 of them.
//! It can only grow; the root at any size follows from the frontier at that size.

use std::fmt;

use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::Head;

/// A SHA-256 hash.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// SHA-256 of bytes that are no leaf and no node: objects, payloads.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// 64 lower-case hexadecimal digits.
    #[must_use]
    pub fn to_hex(self) -> String {
        use fmt::Write;
        self.0.iter().fold(String::with_capacity(64), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        })
    }

    /// Reads 64 lower-case hexadecimal digits.
    #[must_use]
    pub fn from_hex(hex: &str) -> Option<Self> {
        let digit = |b: u8| match b {
            b'0'..=b'9' => Some(b - b'0'),
            b'a'..=b'f' => Some(b - b'a' + 10),
            _ => None,
        };
        let mut hash = [0; 32];
        let hex = hex.as_bytes();
        if hex.len() != 64 {
            return None;
        }
        for (byte, pair) in hash.iter_mut().zip(hex.chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Some(Self(hash))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

/// The leaf of a record's line (without its LF): SHA-256(0x00 ‖ line).
#[must_use]
pub fn leaf_hash(line: &[u8]) -> Hash {
    let mut hasher = Sha256::new();
    hasher.update([0]);
    hasher.update(line);
    Hash(hasher.finalize().into())
}

/// The parent of two nodes: SHA-256(0x01 ‖ left ‖ right).
#[must_use]
pub fn node_hash(left: Hash, right: Hash) -> Hash {
    let mut hasher = Sha256::new();
    hasher.update([1]);
    hasher.update(left.0);
    hasher.update(right.0);
    Hash(hasher.finalize().into())
}

/// Root of the tree over `leaves` alone (RFC 6962's MTH). For 2^k leaves that start at a multiple of 2^k
/// it is a node of the log's own tree.
#[must_use]
pub fn root_of(leaves: &[Hash]) -> Hash {
    let mut frontier = Frontier::default();
    for leaf in leaves {
        frontier.push(*leaf);
    }
    frontier.root()
}

/// Stored bytes are no frontier of the size they claim.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{bytes} bytes are no frontier of a tree of {size} leaves")]
pub struct FrontierError {
    /// The size claimed.
    pub size: Head,
    /// How many bytes there are.
    pub bytes: usize,
}

/// The roots of the complete subtrees of a tree, largest (leftmost) first: one for each bit of its size.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Frontier {
    size: u64,
    peaks: Vec<Hash>,
}

impl Frontier {
    /// Number of leaves.
    #[must_use]
    pub fn size(&self) -> Head {
        Head::new(self.size).expect("a tree grows leaf by leaf and never reaches 2^63")
    }

    /// Adds the next leaf.
    pub fn push(&mut self, leaf: Hash) {
        let mut node = leaf;
        // Each trailing 1 bit of the old size is a complete subtree that the new leaf completes to a larger one.
        for _ in 0..self.size.trailing_ones() {
            let left = self.peaks.pop().expect("one peak for each bit of the size");
            node = node_hash(left, node);
        }
        self.peaks.push(node);
        self.size += 1;
    }

    /// Root of the tree; SHA-256 of nothing for the empty one (RFC 6962 §2.1).
    #[must_use]
    pub fn root(&self) -> Hash {
        let mut peaks = self.peaks.iter().rev();
        match peaks.next() {
            None => Hash::of(b""),
            Some(last) => peaks.fold(*last, |right, left| node_hash(*left, right)),
        }
    }

    /// The peaks, 32 bytes each: the stored form.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.peaks.iter().flat_map(|peak| peak.0).collect()
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// [`FrontierError`] unless there are 32 bytes for each bit of `size`.
    pub fn from_bytes(size: Head, bytes: &[u8]) -> Result<Self, FrontierError> {
        let peaks = size.get().count_ones() as usize;
        if bytes.len() != peaks * 32 {
            return Err(FrontierError { size, bytes: bytes.len() });
        }
        let hash = |chunk: &[u8]| Hash(chunk.try_into().expect("chunks of 32 bytes"));
        Ok(Self { size: size.get(), peaks: bytes.chunks_exact(32).map(hash).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition of RFC 6962 §2.1, as it stands there.
    fn mth(leaves: &[Hash]) -> Hash {
        match leaves.len() {
            0 => Hash::of(b""),
            1 => leaves[0],
            n => {
                let k = 1 << (usize::BITS - 1 - (n - 1).leading_zeros());
                node_hash(mth(&leaves[..k]), mth(&leaves[k..]))
            }
        }
    }

    #[test]
    fn a_frontier_gives_the_root_that_rfc_6962_defines() {
        let leaves: Vec<Hash> = (0..130_u32).map(|i| leaf_hash(&i.to_be_bytes())).collect();
        let mut frontier = Frontier::default();
        for size in 0..=leaves.len() {
            assert_eq!(frontier.root(), mth(&leaves[..size]), "size {size}");
            assert_eq!(Frontier::from_bytes(frontier.size(), &frontier.to_bytes()), Ok(frontier.clone()));
            if let Some(leaf) = leaves.get(size) {
                frontier.push(*leaf);
            }
        }
    }

    #[test]
    fn known_roots() {
        // RFC 6962's reference implementation, as published with Certificate Transparency's test vectors.
        assert_eq!(
            Frontier::default().root().to_hex(),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        assert_eq!(leaf_hash(b"").to_hex(), "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d");
    }

    #[test]
    fn bytes_of_another_size_are_no_frontier() {
        assert!(Frontier::from_bytes(Head::new(3).expect("small"), &[0; 32]).is_err());
    }
}
