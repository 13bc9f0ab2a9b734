//! Named Ed25519 keys: what signs manifests, confirmations, claims and checkpoints, and what verifies them.
//!
//! The text forms are those of C2SP signed-note: a public key is `name+hash+base64`, a secret one
//! `PRIVATE+KEY+name+hash+base64`. Nothing here makes randomness: a new key comes from 32 bytes that the
//! caller gives. A secret key never shows itself in `Debug`.
//!
//! One key signs several sorts of text, so each text says in its first line what it is (FORMAT.md §1):
//! a signature of one sort can never pass for another.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::Signer;
use sha2::{Digest, Sha256};
use thiserror::Error;

/// A key's name is at most this long.
pub const KEY_NAME_BYTES_MAX: usize = 64;

/// C2SP signed-note's number of the algorithm Ed25519.
const ALGORITHM_ED25519: u8 = 1;

/// Why a text is no key, or a signature is none.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeyError {
    /// The name is not `[a-z0-9][a-z0-9._-]*` of at most 64 bytes: it stands in object keys.
    #[error(
        "a key's name is made of a-z, 0-9, '.', '_' and '-', starts with a letter or digit and has at most 64 bytes"
    )]
    Name,
    /// The text is not in its form.
    #[error("not a key in the form of C2SP signed-note: {0}")]
    Form(&'static str),
    /// No such key is known here.
    #[error("the key {0} is not among the known ones")]
    Unknown(KeyId),
    /// Two keys of one ring share name and hash.
    #[error("the key {0} stands twice in the ring")]
    Twice(KeyId),
    /// The signature is not by this key over these bytes.
    #[error("not a signature by {0} over these bytes")]
    Signature(KeyId),
}

/// How a key is named in a signature: its name and the first four bytes of
/// SHA-256(name ‖ LF ‖ 0x01 ‖ public key), as C2SP signed-note defines it. Written `name+hash`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId {
    name: String,
    hash: u32,
}

impl KeyId {
    fn of(name: &str, public: &ed25519_dalek::VerifyingKey) -> Result<Self, KeyError> {
        let mut hasher = Sha256::new();
        hasher.update(check_name(name)?);
        hasher.update([b'\n', ALGORITHM_ED25519]);
        hasher.update(public.as_bytes());
        let [a, b, c, d, ..]: [u8; 32] = hasher.finalize().into();
        Ok(Self { name: name.to_owned(), hash: u32::from_be_bytes([a, b, c, d]) })
    }

    /// Reads `name+hash`.
    ///
    /// # Errors
    /// [`KeyError::Name`], [`KeyError::Form`].
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let (name, hash) = text.split_once('+').ok_or(KeyError::Form("there is no '+'"))?;
        Ok(Self { name: check_name(name)?.to_owned(), hash: parse_hash(hash)? })
    }

    /// The key's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The key's hash.
    #[must_use]
    pub fn hash(&self) -> u32 {
        self.hash
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{:08x}", self.name, self.hash)
    }
}

/// A public key with its name.
#[derive(Clone, PartialEq, Eq)]
pub struct VerifyKey {
    id: KeyId,
    public: ed25519_dalek::VerifyingKey,
}

impl VerifyKey {
    /// Reads `name+hash+base64` (a C2SP vkey). The hash must be the key's own.
    ///
    /// # Errors
    /// [`KeyError::Name`], [`KeyError::Form`].
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let (name, rest) = text.split_once('+').ok_or(KeyError::Form("there is no '+'"))?;
        let (hash, encoded) = rest.split_once('+').ok_or(KeyError::Form("there is no second '+'"))?;
        let public = ed25519_dalek::VerifyingKey::from_bytes(&decode_key(encoded)?)
            .map_err(|_| KeyError::Form("not a point of the curve"))?;
        let id = KeyId::of(name, &public)?;
        if id.hash != parse_hash(hash)? {
            return Err(KeyError::Form("the hash is not this key's"));
        }
        Ok(Self { id, public })
    }

    /// How signatures name it.
    #[must_use]
    pub fn id(&self) -> &KeyId {
        &self.id
    }

    /// Checks a signature.
    ///
    /// # Errors
    /// [`KeyError::Signature`] unless it is by this key over exactly these bytes.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), KeyError> {
        let wrong = || KeyError::Signature(self.id.clone());
        let signature = ed25519_dalek::Signature::from_slice(signature).map_err(|_| wrong())?;
        self.public.verify_strict(message, &signature).map_err(|_| wrong())
    }
}

impl fmt::Display for VerifyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.id, encode_key(self.public.as_bytes()))
    }
}

impl fmt::Debug for VerifyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A secret key with its name.
pub struct SigningKey {
    id: KeyId,
    secret: ed25519_dalek::SigningKey,
}

impl SigningKey {
    /// The key that `seed` is. The seed must come from a good source of randomness and be used for nothing else.
    ///
    /// # Errors
    /// [`KeyError::Name`].
    pub fn from_seed(name: &str, seed: &[u8; 32]) -> Result<Self, KeyError> {
        let secret = ed25519_dalek::SigningKey::from_bytes(seed);
        Ok(Self { id: KeyId::of(name, &secret.verifying_key())?, secret })
    }

    /// Reads `PRIVATE+KEY+name+hash+base64`, the content of a secret file; a line break at its end is fine.
    ///
    /// # Errors
    /// [`KeyError::Name`], [`KeyError::Form`]. The message never holds the key.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let text = text.trim_end_matches(['\r', '\n']);
        let rest = text.strip_prefix("PRIVATE+KEY+").ok_or(KeyError::Form("it does not start with PRIVATE+KEY+"))?;
        let (name, rest) = rest.split_once('+').ok_or(KeyError::Form("there is no name"))?;
        let (hash, encoded) = rest.split_once('+').ok_or(KeyError::Form("there is no hash"))?;
        let key = Self::from_seed(name, &decode_key(encoded)?)?;
        if key.id.hash != parse_hash(hash)? {
            return Err(KeyError::Form("the hash is not this key's"));
        }
        Ok(key)
    }

    /// The text of the secret file, without a line break. Whoever has it can sign in this name.
    #[must_use]
    pub fn to_secret_text(&self) -> String {
        format!("PRIVATE+KEY+{}+{}", self.id, encode_key(self.secret.as_bytes()))
    }

    /// How signatures name it.
    #[must_use]
    pub fn id(&self) -> &KeyId {
        &self.id
    }

    /// The public half.
    #[must_use]
    pub fn verify_key(&self) -> VerifyKey {
        VerifyKey { id: self.id.clone(), public: self.secret.verifying_key() }
    }

    /// Signs bytes. The same bytes always give the same signature (RFC 8032). Only formats call this: each
    /// puts a first line in front that no other format has.
    pub(crate) fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.secret.sign(message).to_bytes()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.id)
    }
}

/// The public keys that are trusted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyRing {
    keys: BTreeMap<KeyId, VerifyKey>,
}

impl KeyRing {
    /// A ring of `keys`.
    ///
    /// # Errors
    /// [`KeyError::Twice`] if two of them are different keys that share name and hash.
    pub fn new(keys: impl IntoIterator<Item = VerifyKey>) -> Result<Self, KeyError> {
        let mut ring = Self::default();
        for key in keys {
            let id = key.id.clone();
            if ring.keys.insert(id.clone(), key.clone()).is_some_and(|other| other != key) {
                return Err(KeyError::Twice(id));
            }
        }
        Ok(ring)
    }

    /// Reads one public key a line; empty lines and lines that start with `#` are left out.
    ///
    /// # Errors
    /// As [`VerifyKey::parse`] and [`KeyRing::new`].
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        Self::new(lines.map(VerifyKey::parse).collect::<Result<Vec<_>, _>>()?)
    }

    /// The key that a signature names.
    ///
    /// # Errors
    /// [`KeyError::Unknown`].
    pub fn get(&self, id: &KeyId) -> Result<&VerifyKey, KeyError> {
        self.keys.get(id).ok_or_else(|| KeyError::Unknown(id.clone()))
    }

    /// All keys, by name.
    pub fn iter(&self) -> impl Iterator<Item = &VerifyKey> {
        self.keys.values()
    }
}

fn check_name(name: &str) -> Result<&str, KeyError> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let starts = name.bytes().next().is_some_and(plain);
    let fits = name.bytes().all(|b| plain(b) || matches!(b, b'.' | b'_' | b'-'));
    if starts && fits && name.len() <= KEY_NAME_BYTES_MAX { Ok(name) } else { Err(KeyError::Name) }
}

fn parse_hash(hex: &str) -> Result<u32, KeyError> {
    let form = hex.len() == 8 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let hash = u32::from_str_radix(hex, 16).ok().filter(|_| form);
    hash.ok_or(KeyError::Form("the hash is not 8 lower-case hexadecimal digits"))
}

fn encode_key(key: &[u8; 32]) -> String {
    let mut bytes = vec![ALGORITHM_ED25519];
    bytes.extend(key);
    STANDARD.encode(bytes)
}

fn decode_key(encoded: &str) -> Result<[u8; 32], KeyError> {
    let bytes = STANDARD.decode(encoded).map_err(|_| KeyError::Form("the key is not base64"))?;
    match bytes.split_first() {
        Some((&ALGORITHM_ED25519, key)) => key.try_into().map_err(|_| KeyError::Form("the key has not 32 bytes")),
        _ => Err(KeyError::Form("the algorithm is not Ed25519")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The example of the Go note package's documentation, which C2SP signed-note took over.
    const SEED_EXAMPLE: &str = "PRIVATE+KEY+peter+7ad5d7ea+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz";

    #[test]
    fn a_key_has_one_text_and_reads_back() {
        let key = SigningKey::from_seed("home", &[7; 32]).unwrap();
        assert_eq!(
            SigningKey::parse(&format!("{}\n", key.to_secret_text())).unwrap().to_secret_text(),
            key.to_secret_text()
        );
        let public = key.verify_key();
        assert_eq!(VerifyKey::parse(&public.to_string()), Ok(public.clone()));
        assert_eq!(KeyId::parse(&public.id().to_string()).as_ref(), Ok(public.id()));
        assert_eq!(format!("{key:?}"), format!("SigningKey({})", key.id()));
    }

    #[test]
    fn a_signature_is_good_for_its_bytes_and_its_key_alone() {
        let key = SigningKey::from_seed("home", &[7; 32]).unwrap();
        let other = SigningKey::from_seed("home", &[8; 32]).unwrap();
        let signature = key.sign(b"bytes");
        assert_eq!(key.verify_key().verify(b"bytes", &signature), Ok(()));
        assert!(key.verify_key().verify(b"byteS", &signature).is_err());
        assert!(other.verify_key().verify(b"bytes", &signature).is_err());
        assert!(key.verify_key().verify(b"bytes", &signature[..63]).is_err());
    }

    #[test]
    fn what_is_no_key_is_refused() {
        assert_eq!(SigningKey::parse(SEED_EXAMPLE).unwrap_err(), KeyError::Form("the hash is not this key's"));
        assert_eq!(SigningKey::from_seed("Home", &[0; 32]).unwrap_err(), KeyError::Name);
        assert_eq!(SigningKey::from_seed("a/b", &[0; 32]).unwrap_err(), KeyError::Name);
        assert!(VerifyKey::parse("home+00000000+AQ==").is_err());
        assert!(VerifyKey::parse("home").is_err());
        assert!(KeyId::parse("home+ABCDEF00").is_err());
    }

    #[test]
    fn the_go_note_packages_example_key_is_read() {
        let seed = decode_key("AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz").unwrap();
        // The same public key as in the package's documentation; only the name, and so the hash, is ours.
        let public = SigningKey::from_seed("peter", &seed).unwrap().verify_key().to_string();
        assert!(public.ends_with("+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"), "{public}");
    }

    #[test]
    fn a_ring_finds_keys_by_name_and_hash() {
        let home = SigningKey::from_seed("home", &[1; 32]).unwrap().verify_key();
        let old = SigningKey::from_seed("home", &[2; 32]).unwrap().verify_key();
        let ring = KeyRing::parse(&format!("# ours\n{home}\n\n{old}\n")).unwrap();
        assert_eq!(ring.iter().count(), 2);
        assert_eq!(ring.get(home.id()), Ok(&home));
        let unknown = SigningKey::from_seed("dr", &[1; 32]).unwrap();
        assert_eq!(ring.get(unknown.id()), Err(KeyError::Unknown(unknown.id().clone())));
    }
}
