//! Names of the archive's objects (FORMAT.md §2).
//!
//! Numbers have 20 digits, so that the order of the keys is the order of the log. Names are written here
//! and read here, nowhere else.

use super::catalog::Segment;
use crate::{Epoch, Head, Position};

/// All manifests; after it come epoch and number.
pub const MANIFESTS: &str = "manifest/";
/// All segments.
pub const SEGMENTS: &str = "seg/";
/// All indexes.
pub const INDEXES: &str = "idx/";
/// All confirmations; after it comes the name of the region's key.
pub const CONFIRMATIONS: &str = "confirm/";
/// All signed checkpoints; after it come epoch and size.
pub const CHECKPOINTS: &str = "checkpoint/";
/// All claims of epochs.
pub const EPOCHS: &str = "epoch/";

/// `<first>-<last>-<epoch>-<first 16 digits of the segment's SHA-256>`: names a segment and its index.
fn stem(segment: &Segment) -> String {
    let Segment { first, last, epoch, .. } = segment;
    format!("{:020}-{:020}-{}-{}", first.get(), last.get(), epoch, &segment.sha256.to_hex()[..16])
}

/// Key of a segment.
#[must_use]
pub fn segment(segment: &Segment) -> String {
    format!("{SEGMENTS}{}.ndjson.zst", stem(segment))
}

/// Key of a segment's index.
#[must_use]
pub fn index(segment: &Segment) -> String {
    format!("{INDEXES}{}.idx", stem(segment))
}

/// Key of a manifest.
#[must_use]
pub fn manifest(epoch: Epoch, number: u64) -> String {
    format!("{}{number:020}.json", manifests_of(epoch))
}

/// What the keys of an epoch's manifests start with.
#[must_use]
pub fn manifests_of(epoch: Epoch) -> String {
    format!("{MANIFESTS}{:020}/", epoch.get())
}

/// Key of what the region that signs as `region` says of a segment.
#[must_use]
pub fn confirmation(region: &str, segment: &Segment) -> String {
    let (first, last) = (segment.first.get(), segment.last.get());
    format!("{CONFIRMATIONS}{region}/{first:020}-{last:020}-{}.json", &segment.sha256.to_hex()[..16])
}

/// Key of a signed checkpoint.
#[must_use]
pub fn checkpoint(epoch: Epoch, size: Head) -> String {
    format!("{CHECKPOINTS}{:020}/{:020}.note", epoch.get(), size.get())
}

/// Key of the claim of an epoch.
#[must_use]
pub fn epoch_claim(epoch: Epoch) -> String {
    format!("{EPOCHS}{:020}.json", epoch.get())
}

/// Epoch and number of the manifest called `key`; `None` if that is no manifest's name.
#[must_use]
pub fn parse_manifest(key: &str) -> Option<(Epoch, u64)> {
    let (epoch, number) = key.strip_prefix(MANIFESTS)?.strip_suffix(".json")?.split_once('/')?;
    let parsed = (Epoch::new(padded(epoch)?)?, padded(number)?);
    Some(parsed)
}

/// Epoch and size of the signed checkpoint called `key`.
#[must_use]
pub fn parse_checkpoint(key: &str) -> Option<(Epoch, Head)> {
    let (epoch, size) = key.strip_prefix(CHECKPOINTS)?.strip_suffix(".note")?.split_once('/')?;
    Some((Epoch::new(padded(epoch)?)?, Head::new(padded(size)?)?))
}

/// The epoch claimed by the object called `key`.
#[must_use]
pub fn parse_epoch_claim(key: &str) -> Option<Epoch> {
    Epoch::new(padded(key.strip_prefix(EPOCHS)?.strip_suffix(".json")?)?)
}

/// First and last position and epoch of the segment or index called `key`.
#[must_use]
pub fn parse_range(key: &str) -> Option<(Position, Position, Epoch)> {
    let segment = key.strip_prefix(SEGMENTS).and_then(|rest| rest.strip_suffix(".ndjson.zst"));
    let stem = segment.or_else(|| key.strip_prefix(INDEXES)?.strip_suffix(".idx"))?;
    let mut parts = stem.splitn(4, '-');
    let (first, last) = (padded(parts.next()?)?, padded(parts.next()?)?);
    let epoch = parts.next()?.parse().ok()?;
    Some((Position::new(first)?, Position::new(last)?, Epoch::new(epoch)?))
}

fn padded(digits: &str) -> Option<u64> {
    let form = digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit());
    if form { digits.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Timestamp;
    use crate::merkle::Hash;

    fn example() -> Segment {
        let at = Timestamp::from_unix_micros(0).unwrap();
        Segment {
            first: Position::new(4097).unwrap(),
            last: Position::new(8192).unwrap(),
            epoch: Epoch::new(2).unwrap(),
            sha256: Hash([0xab; 32]),
            crc32: 0,
            bytes: 1,
            record_bytes: 1,
            index_sha256: Hash([0; 32]),
            index_crc32: 0,
            index_bytes: 1,
            root: Hash([0; 32]),
            first_at: at,
            last_at: at,
        }
    }

    #[test]
    fn keys_are_spelled_as_format_md_says() {
        let epoch = Epoch::new(2).unwrap();
        assert_eq!(segment(&example()), "seg/00000000000000004097-00000000000000008192-2-abababababababab.ndjson.zst");
        assert_eq!(index(&example()), "idx/00000000000000004097-00000000000000008192-2-abababababababab.idx");
        assert_eq!(manifest(epoch, 7), "manifest/00000000000000000002/00000000000000000007.json");
        assert_eq!(
            confirmation("dr", &example()),
            "confirm/dr/00000000000000004097-00000000000000008192-abababababababab.json"
        );
        assert_eq!(
            checkpoint(epoch, Head::new(8192).unwrap()),
            "checkpoint/00000000000000000002/00000000000000008192.note"
        );
        assert_eq!(epoch_claim(epoch), "epoch/00000000000000000002.json");
    }

    #[test]
    fn keys_read_back_and_others_are_none() {
        let epoch = Epoch::new(2).unwrap();
        let range = Some((example().first, example().last, epoch));
        assert_eq!(parse_range(&segment(&example())), range);
        assert_eq!(parse_range(&index(&example())), range);
        assert_eq!(parse_manifest(&manifest(epoch, 7)), Some((epoch, 7)));
        assert_eq!(parse_epoch_claim(&epoch_claim(epoch)), Some(epoch));
        let size = Head::new(5).unwrap();
        assert_eq!(parse_checkpoint(&checkpoint(epoch, size)), Some((epoch, size)));
        assert_eq!(parse_manifest("manifest/2/7.json"), None);
        assert_eq!(parse_range("seg/1-2-3-x.ndjson.zst"), None);
        assert_eq!(parse_epoch_claim("epoch/+0000000000000000002.json"), None);
    }
}
