//! What a client claims about the bytes it sends, and what they really are. Must never let bytes pass whose
//! claim is wrong, or was announced and never came.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use s3s::checksum::ChecksumHasher;
use s3s::crypto::{Checksum as _, Md5};
use s3s::dto;
use serde::{Deserialize, Serialize};

/// The checksums that S3 knows beside Content-MD5.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Algorithm {
    Crc32,
    Crc32c,
    Crc64Nvme,
    Sha1,
    Sha256,
}

impl Algorithm {
    pub(super) const ALL: [Self; 5] = [Self::Crc32, Self::Crc32c, Self::Crc64Nvme, Self::Sha1, Self::Sha256];

    /// The header, or trailer, that carries it.
    pub(super) fn header(self) -> &'static str {
        match self {
            Self::Crc32 => "x-amz-checksum-crc32",
            Self::Crc32c => "x-amz-checksum-crc32c",
            Self::Crc64Nvme => "x-amz-checksum-crc64nvme",
            Self::Sha1 => "x-amz-checksum-sha1",
            Self::Sha256 => "x-amz-checksum-sha256",
        }
    }

    fn digest_bytes(self) -> usize {
        match self {
            Self::Crc32 | Self::Crc32c => 4,
            Self::Crc64Nvme => 8,
            Self::Sha1 => 20,
            Self::Sha256 => 32,
        }
    }
}

/// Checksums in base64, as S3 sends them.
pub(super) type Checksums = BTreeMap<Algorithm, String>;

/// What the client says about the bytes.
#[derive(Debug, Default)]
pub(super) struct Claims {
    pub(super) content_md5: Option<String>,
    pub(super) checksums: Checksums,
    /// Announced for the trailer, which comes after the bytes.
    pub(super) announced: Vec<Algorithm>,
    /// The length before any transfer encoding.
    pub(super) length: Option<u64>,
}

/// Why an upload is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ClaimError {
    /// Not base64 of the right length.
    #[error("the value of {0} is not a digest")]
    Malformed(&'static str),
    #[error("the bytes do not match {0}")]
    Mismatch(&'static str),
    #[error("{0} was announced and did not come")]
    Missing(&'static str),
    #[error("{got} bytes came instead of {claimed}")]
    Length { claimed: u64, got: u64 },
}

impl Claims {
    /// Refuses values that cannot be digests at all, before any byte is stored.
    pub(super) fn check_form(&self) -> Result<(), ClaimError> {
        let well_formed = |value: &str, length| BASE64.decode(value).is_ok_and(|digest| digest.len() == length);
        if self.content_md5.as_deref().is_some_and(|value| !well_formed(value, 16)) {
            return Err(ClaimError::Malformed("content-md5"));
        }
        match self.checksums.iter().find(|(algorithm, value)| !well_formed(value, algorithm.digest_bytes())) {
            Some((algorithm, _)) => Err(ClaimError::Malformed(algorithm.header())),
            None => Ok(()),
        }
    }

    /// A hasher of all that has to be compared.
    pub(super) fn hasher(&self) -> Hasher {
        let wanted = |algorithm| self.checksums.contains_key(&algorithm) || self.announced.contains(&algorithm);
        let checksums = ChecksumHasher {
            crc32: wanted(Algorithm::Crc32).then(Default::default),
            crc32c: wanted(Algorithm::Crc32c).then(Default::default),
            crc64nvme: wanted(Algorithm::Crc64Nvme).then(Default::default),
            sha1: wanted(Algorithm::Sha1).then(Default::default),
            sha256: wanted(Algorithm::Sha256).then(Default::default),
        };
        Hasher { md5: Md5::new(), checksums, length: 0 }
    }

    /// Compares with what the bytes really are.
    pub(super) fn check(&self, found: &Digests) -> Result<(), ClaimError> {
        if let Some(claimed) = self.length.filter(|claimed| *claimed != found.length) {
            return Err(ClaimError::Length { claimed, got: found.length });
        }
        if self.content_md5.as_ref().is_some_and(|claimed| *claimed != BASE64.encode(found.md5)) {
            return Err(ClaimError::Mismatch("content-md5"));
        }
        for (algorithm, claimed) in &self.checksums {
            if found.checksums.get(algorithm) != Some(claimed) {
                return Err(ClaimError::Mismatch(algorithm.header()));
            }
        }
        match self.announced.iter().find(|algorithm| !self.checksums.contains_key(algorithm)) {
            Some(algorithm) => Err(ClaimError::Missing(algorithm.header())),
            None => Ok(()),
        }
    }
}

/// Hashes an upload while it is written.
pub(super) struct Hasher {
    md5: Md5,
    checksums: ChecksumHasher,
    length: u64,
}

impl Hasher {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.md5.update(bytes);
        self.checksums.update(bytes);
        self.length += bytes.len() as u64;
    }

    pub(super) fn finish(self) -> Digests {
        let dto::Checksum {
            checksum_crc32, checksum_crc32c, checksum_crc64nvme, checksum_sha1, checksum_sha256, ..
        } = self.checksums.finalize();
        let found = [
            (Algorithm::Crc32, checksum_crc32),
            (Algorithm::Crc32c, checksum_crc32c),
            (Algorithm::Crc64Nvme, checksum_crc64nvme),
            (Algorithm::Sha1, checksum_sha1),
            (Algorithm::Sha256, checksum_sha256),
        ];
        let checksums = found.into_iter().filter_map(|(algorithm, value)| Some((algorithm, value?))).collect();
        Digests { md5: self.md5.finalize(), checksums, length: self.length }
    }
}

/// What the bytes really are.
#[derive(Debug)]
pub(super) struct Digests {
    md5: [u8; 16],
    pub(super) checksums: Checksums,
    pub(super) length: u64,
}

impl Digests {
    /// S3's ETag of an object that came in one piece: the MD5 in hex.
    pub(super) fn etag(&self) -> String {
        self.md5.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digests(claims: &Claims, bytes: &[u8]) -> Digests {
        let mut hasher = claims.hasher();
        hasher.update(bytes);
        hasher.finish()
    }

    #[test]
    fn a_true_claim_passes_and_a_false_one_does_not() {
        // CRC-32 (IEEE) of "123456789" is cbf43926.
        let crc32 = BASE64.encode([0xcb, 0xf4, 0x39, 0x26]);
        let claims = Claims { checksums: [(Algorithm::Crc32, crc32)].into(), ..Claims::default() };
        assert_eq!(claims.check(&digests(&claims, b"123456789")), Ok(()));
        let refused = claims.check(&digests(&claims, b"123456780"));
        assert_eq!(refused, Err(ClaimError::Mismatch("x-amz-checksum-crc32")));
    }

    #[test]
    fn an_announced_checksum_has_to_come() {
        let claims = Claims { announced: vec![Algorithm::Sha1], ..Claims::default() };
        assert_eq!(claims.check(&digests(&claims, b"x")), Err(ClaimError::Missing("x-amz-checksum-sha1")));
    }

    #[test]
    fn a_cut_upload_is_refused() {
        let claims = Claims { length: Some(10), ..Claims::default() };
        assert_eq!(claims.check(&digests(&claims, b"short")), Err(ClaimError::Length { claimed: 10, got: 5 }));
    }

    #[test]
    fn a_value_that_is_no_digest_is_refused_before_the_bytes() {
        let claims = Claims { content_md5: Some("bm9wZQ==".into()), ..Claims::default() };
        assert_eq!(claims.check_form(), Err(ClaimError::Malformed("content-md5")));
    }
}
