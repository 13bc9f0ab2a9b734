//! Where the object of a key lives on disk, and back. Pure: never touches the disk.
//!
//! ```text
//! <root>/.lock                        flock: one server owns the folder
//! <root>/.tmp/<n>/                    uploads that are not stored yet, and what was just replaced; swept at start
//! <root>/<bucket>/seg/=0001.zst/body       the bytes of the object `seg/0001.zst`, nothing else
//! <root>/<bucket>/seg/=0001.zst/meta.json  its ETag, checksums, headers
//! ```
//!
//! A key is cut at each `/`. All parts but the last are folders; the last is a folder whose name starts with `=`,
//! so that the keys `a` and `a/b` do not collide. Letters, digits, `-`, `_` and `.` stand for themselves; other
//! bytes, and a leading `.`, are `%XX`; an empty part is `%`. A part that is too long for a file name is cut into
//! several folders, whose names end in `+` except for the last one.

use std::path::{Path, PathBuf};

pub(super) const BODY: &str = "body";
pub(super) const META: &str = "meta.json";
pub(super) const LOCK: &str = ".lock";
pub(super) const TEMPORARY: &str = ".tmp";

/// A file name has at most 255 bytes; `=` or `+` is added.
const PIECE_BYTES_MAX: usize = 240;

const OBJECT_MARK: char = '=';
const PIECE_MARK: char = '+';
const EMPTY: &str = "%";

/// The folder of the object `key`, below its bucket's folder.
pub(super) fn object_folder(bucket: &Path, key: &str) -> PathBuf {
    let mut path = bucket.to_owned();
    let mut parts = key.split('/').peekable();
    while let Some(part) = parts.next() {
        let mut pieces = encode(part);
        let last = pieces.pop().unwrap_or_default();
        path.extend(pieces.into_iter().map(|piece| format!("{piece}{PIECE_MARK}")));
        match parts.peek() {
            Some(_) if last.is_empty() => path.push(EMPTY),
            Some(_) => path.push(last),
            None => path.push(format!("{OBJECT_MARK}{last}")),
        }
    }
    path
}

/// What a folder's entry stands for, given the part of the key that leads to the folder.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// The object of this key.
    Object(String),
    /// A folder; every key below it starts with these bytes (which may end inside of a character).
    Folder(Vec<u8>),
}

/// Reads an entry's name; `None` for a name that this layout never makes.
pub(super) fn read_entry(leading: &[u8], name: &str) -> Option<Entry> {
    let joined = |encoded: &str| Some([leading, &decode(encoded)?].concat());
    if let Some(encoded) = name.strip_prefix(OBJECT_MARK) {
        return Some(Entry::Object(String::from_utf8(joined(encoded)?).ok()?));
    }
    if let Some(encoded) = name.strip_suffix(PIECE_MARK) {
        return Some(Entry::Folder(joined(encoded)?));
    }
    let mut leading = if name == EMPTY { leading.to_owned() } else { joined(name)? };
    leading.push(b'/');
    Some(Entry::Folder(leading))
}

/// The pieces of one part of a key, each short enough for a file name; none for an empty part.
fn encode(part: &str) -> Vec<String> {
    let mut pieces: Vec<String> = Vec::new();
    for byte in part.bytes() {
        let full = pieces.last().is_none_or(|piece| piece.len() + 3 > PIECE_BYTES_MAX);
        if full {
            pieces.push(String::new());
        }
        if let Some(piece) = pieces.last_mut() {
            // Never a name that starts with a dot: `.`, `..`, and the server's own files.
            let plain =
                byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') || (byte == b'.' && !piece.is_empty());
            match plain {
                true => piece.push(char::from(byte)),
                false => piece.push_str(&format!("%{byte:02X}")),
            }
        }
    }
    pieces
}

fn decode(encoded: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if first == b'%' {
            let (digits, tail) = tail.split_at_checked(2)?;
            bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
            rest = tail;
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_back(path: &Path) -> String {
        let mut leading = Vec::new();
        for name in path {
            match read_entry(&leading, name.to_str().unwrap()).unwrap() {
                Entry::Folder(longer) => leading = longer,
                Entry::Object(key) => return key,
            }
        }
        panic!("{path:?} names no object");
    }

    #[test]
    fn a_person_finds_the_object_of_a_key() {
        let path = object_folder(Path::new("bucket"), "seg/0001-0002.ndjson.zst");
        assert_eq!(path, Path::new("bucket/seg/=0001-0002.ndjson.zst"));
    }

    #[test]
    fn every_key_is_read_back_and_stays_below_its_bucket() {
        let long = "ä".repeat(512);
        let dots = format!("{}/x", ".".repeat(1022));
        let odd = ["a", "a/b", "/", "//", "a/", "/a", "..", "../../etc/passwd", ".", ".lock", "=a", "a+", "%", "%2F"];
        let more = ["a b&c?d#e", "\u{1}\u{7f}", "日本語/キー", "a/../b", "+", "=", &long, &dots];
        let mut seen = std::collections::HashSet::new();
        for key in odd.into_iter().chain(more) {
            let path = object_folder(Path::new(""), key);
            assert_eq!(read_back(&path), key, "{path:?}");
            for name in &path {
                let name = name.to_str().unwrap();
                assert!(name.len() <= 255 && !name.starts_with('.') && !name.is_empty(), "{key:?}: {name:?}");
            }
            assert!(seen.insert(path), "{key:?} collides");
        }
    }

    #[test]
    fn names_that_the_layout_never_makes_are_no_entries() {
        assert_eq!(read_entry(b"", "%zz"), None);
        assert_eq!(read_entry(b"", "=%4"), None);
        assert_eq!(read_entry(b"", "=%FF"), None, "a key is UTF-8");
    }

    proptest::proptest! {
        #[test]
        fn encoding_is_reversible(key in "\\PC{1,300}") {
            proptest::prop_assert_eq!(read_back(&object_folder(Path::new(""), &key)), key);
        }
    }
}
