//! Compares two versions of a view, row by row in the order of their keys. Pure: it takes rows and gives a verdict.

use domain::Head;
use domain::merkle::Hash;
use sha2::{Digest, Sha256};

/// How many rows, and the SHA-256 of all of them: of table, key and content of each, in this order, each after its
/// length in bytes as 8 bytes, big-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rows {
    /// How many.
    pub count: u64,
    /// Of all of them.
    pub sha256: Hash,
}

/// Two versions of a view at one checkpoint and cutoff.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comparison {
    /// Where both stood.
    pub checkpoint: Head,
    /// The live version.
    pub live: Rows,
    /// The version beside it.
    pub beside: Rows,
    /// Rows that stand in one of them alone, or differently in both.
    pub differing: u64,
    /// Table and key of the first such row.
    pub first: Option<String>,
}

#[derive(Default)]
struct Tally {
    count: u64,
    sha256: Sha256,
}

impl Tally {
    fn add(&mut self, row: [&str; 3]) {
        self.count += 1;
        for part in row {
            let length = u64::try_from(part.len()).expect("a length in memory fits 64 bits");
            self.sha256.update(length.to_be_bytes());
            self.sha256.update(part.as_bytes());
        }
    }

    fn rows(self) -> Rows {
        Rows { count: self.count, sha256: Hash(self.sha256.finalize().into()) }
    }
}

/// A comparison under way.
#[derive(Default)]
pub(super) struct Comparing {
    live: Tally,
    beside: Tally,
    differing: u64,
    first: Option<String>,
}

impl Comparing {
    /// Takes the next key of a table, with what each version has there. Tables and keys come in one order, each once.
    pub(super) fn take(&mut self, table: &str, key: &str, live: Option<&str>, beside: Option<&str>) {
        for (tally, content) in [(&mut self.live, live), (&mut self.beside, beside)] {
            if let Some(content) = content {
                tally.add([table, key, content]);
            }
        }
        if live != beside {
            self.differing += 1;
            self.first.get_or_insert_with(|| format!("{table} {key}"));
        }
    }

    /// What came of it, at `checkpoint`.
    pub(super) fn at(self, checkpoint: Head) -> Comparison {
        let (live, beside) = (self.live.rows(), self.beside.rows());
        Comparison { checkpoint, live, beside, differing: self.differing, first: self.first }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Row<'a> = (&'a str, &'a str, Option<&'a str>, Option<&'a str>);

    fn compared(rows: &[Row<'_>]) -> Comparison {
        let mut comparing = Comparing::default();
        for (table, key, live, beside) in rows {
            comparing.take(table, key, *live, *beside);
        }
        comparing.at(Head::EMPTY)
    }

    #[test]
    fn equal_versions_have_equal_digests_and_no_difference() {
        let same = compared(&[("items", "(a)", Some("1"), Some("1")), ("stubs", "(b)", Some("2"), Some("2"))]);
        assert_eq!((same.differing, &same.first, same.live), (0, &None, same.beside));
        assert_eq!(same.live.count, 2);
    }

    #[test]
    fn a_row_that_is_missing_added_or_another_is_counted_and_the_first_is_named() {
        let different = compared(&[
            ("items", "(a)", Some("1"), Some("1")),
            ("items", "(b)", Some("1"), None),
            ("items", "(c)", None, Some("1")),
            ("stubs", "(a)", Some("1"), Some("2")),
        ]);
        assert_eq!((different.differing, different.first.as_deref()), (3, Some("items (b)")));
        assert_eq!((different.live.count, different.beside.count), (3, 3));
        assert_ne!(different.live.sha256, different.beside.sha256);
    }

    #[test]
    fn a_digest_knows_where_a_part_ends() {
        let one = compared(&[("t", "ab", Some("c"), None)]);
        let other = compared(&[("t", "a", Some("bc"), None)]);
        assert_ne!(one.live.sha256, other.live.sha256);
    }
}
