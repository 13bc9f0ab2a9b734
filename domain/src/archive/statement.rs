//! The signed JSON objects of the archive: manifest, confirmation, claim of an epoch (FORMAT.md §6).
//!
//! All have one envelope, `{"<word>":{…},"signature":{"key":"…","ed25519":"…"}}`. What is signed is the line
//! `coldstream-<word>-v1`, an LF, and the bytes of the inner object exactly as they are stored, so one sort of
//! statement can never pass for another. Each has one spelling: whatever would be written otherwise is refused.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::ErrorKind;
use crate::keys::{KeyError, KeyId, KeyRing, SigningKey};
use crate::merkle::Hash;

/// The version of every format in this module's family.
pub const FORMAT: u32 = 1;

/// A log's name is at most this long.
pub const LOG_ID_BYTES_MAX: usize = 64;

/// Why bytes are not the signed statement that they should be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StatementError {
    /// Not the form, or not its one spelling.
    #[error("not a {word} in its one spelling: {reason}")]
    Form {
        /// The sort of statement.
        word: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// It is well formed and says what cannot be.
    #[error("the {word} contradicts itself: {reason}")]
    Content {
        /// The sort of statement.
        word: &'static str,
        /// What cannot be.
        reason: String,
    },
    /// Nobody that is trusted signed it.
    #[error("the {word} is not signed by a trusted key")]
    Key {
        /// The sort of statement.
        word: &'static str,
        /// Why.
        #[source]
        source: KeyError,
    },
}

impl StatementError {
    /// What the caller has to do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Corrupt
    }
}

/// Something that a region states and signs.
pub trait Statement: Serialize + DeserializeOwned {
    /// Names the sort: member of the envelope, and part of the line that is signed in front.
    const WORD: &'static str;

    /// Checks what can be checked of the statement alone; `signer` is the key that signs or signed it.
    ///
    /// # Errors
    /// What cannot be.
    fn check(&self, signer: &KeyId) -> Result<(), String>;
}

/// A statement whose signature was checked. Only [`verify`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed<S> {
    /// What is stated.
    pub statement: S,
    /// Whose key signed it.
    pub signer: KeyId,
    /// SHA-256 of the stored object.
    pub sha256: Hash,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Signature {
    key: String,
    ed25519: String,
}

const SIGNATURE_MEMBER: &str = ",\"signature\":";

/// Signs a statement. Returns the bytes of the object to store: the same statement and key, the same bytes.
///
/// # Errors
/// [`StatementError::Content`] if it contradicts itself.
pub fn sign<S: Statement>(statement: &S, key: &SigningKey) -> Result<Vec<u8>, StatementError> {
    let word = S::WORD;
    statement.check(key.id()).map_err(|reason| StatementError::Content { word, reason })?;
    let inner = to_json(statement);
    let signature =
        Signature { key: key.id().to_string(), ed25519: STANDARD.encode(key.sign(&signed_bytes(word, &inner))) };
    Ok(envelope(word, &inner, &signature).into_bytes())
}

/// Reads a stored statement and checks form, content and signature.
///
/// # Errors
/// A [`StatementError`] that says which of them is wrong.
pub fn verify<S: Statement>(object: &[u8], keys: &KeyRing) -> Result<Signed<S>, StatementError> {
    let word = S::WORD;
    let form = |reason: &str| StatementError::Form { word, reason: reason.to_owned() };
    let text = std::str::from_utf8(object).map_err(|_| form("not UTF-8"))?;
    let rest = text.strip_prefix(&format!("{{\"{word}\":")).ok_or_else(|| form("it begins otherwise"))?;
    let (inner, rest) = rest.rsplit_once(SIGNATURE_MEMBER).ok_or_else(|| form("there is no signature"))?;
    let rest = rest.strip_suffix('}').ok_or_else(|| form("it ends otherwise"))?;
    let signature: Signature = serde_json::from_str(rest).map_err(|error| form(&error.to_string()))?;

    // The signature first: nothing that an untrusted hand wrote is looked at any closer.
    let by_key = |source| StatementError::Key { word, source };
    let signer = KeyId::parse(&signature.key).map_err(by_key)?;
    let proof = STANDARD.decode(&signature.ed25519).map_err(|_| form("the signature is not base64"))?;
    keys.get(&signer).and_then(|key| key.verify(&signed_bytes(word, inner), &proof)).map_err(by_key)?;

    let statement: S = serde_json::from_str(inner).map_err(|error| form(&error.to_string()))?;
    if envelope(word, &to_json(&statement), &signature) != text {
        return Err(form("another spelling of the same"));
    }
    statement.check(&signer).map_err(|reason| StatementError::Content { word, reason })?;
    Ok(Signed { statement, signer, sha256: Hash::of(object) })
}

fn signed_bytes(word: &str, inner: &str) -> Vec<u8> {
    format!("coldstream-{word}-v1\n{inner}").into_bytes()
}

fn envelope(word: &str, inner: &str, signature: &Signature) -> String {
    format!("{{\"{word}\":{inner}{SIGNATURE_MEMBER}{}}}", to_json(signature))
}

fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("structs of strings, numbers and lists have a JSON form")
}

/// The checks that all statements share.
pub(super) fn check_common(format: u32, log: &str) -> Result<(), String> {
    if format != FORMAT {
        return Err(format!("format {format} is not known here"));
    }
    check_log_id(log)
}

/// A log's name stands in the first line of checkpoints, so it has no white space, '+' or '/'.
pub(super) fn check_log_id(log: &str) -> Result<(), String> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if (1..=LOG_ID_BYTES_MAX).contains(&log.len()) && log.bytes().all(fits) {
        Ok(())
    } else {
        Err(format!("{log:?} cannot be the name of a log"))
    }
}
