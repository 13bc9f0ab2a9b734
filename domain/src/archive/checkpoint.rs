//! The signed checkpoint: size and root of the log's tree, as a C2SP tlog-checkpoint (FORMAT.md §10).
//!
//! The region that holds the epoch signs; the other one, when it holds the same events, adds a plain Ed25519
//! signature to the same note (not C2SP's timestamped `cosignature/v1`). Keys are named after regions, so a
//! key's name is not the origin, which C2SP recommends: the origin outlives a failover, the signing key does not.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use signed_note::{Note, NoteError, Signer, VerificationError, Verifier, Verifiers};
use thiserror::Error;

use super::statement::check_log_id;
use crate::keys::{KeyId, KeyRing, SigningKey, VerifyKey};
use crate::merkle::Hash;
use crate::{Epoch, ErrorKind, Head};

/// What the first line starts with; the log's name follows.
const ORIGIN: &str = "coldstream/";

/// Why a note is no signed checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CheckpointError {
    /// Not the form, or not its one spelling.
    #[error("not a signed checkpoint: {reason}")]
    Form {
        /// What is wrong.
        reason: String,
    },
    /// No trusted key signed it, or a trusted key's signature is wrong.
    #[error("the checkpoint is not signed by a trusted key: {reason}")]
    Signature {
        /// Why.
        reason: String,
    },
}

impl CheckpointError {
    /// What the caller has to do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Corrupt
    }
}

/// What a checkpoint says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Name of the log.
    pub log: String,
    /// Number of leaves.
    pub size: Head,
    /// Root at that size.
    pub root: Hash,
    /// The epoch of whoever signed first.
    pub epoch: Epoch,
}

impl Checkpoint {
    /// The text that is signed: origin, size, root, and the extension line `epoch <n>`, an LF after each.
    #[must_use]
    pub fn to_text(&self) -> String {
        let Self { log, size, root, epoch } = self;
        format!("{ORIGIN}{log}\n{size}\n{}\nepoch {epoch}\n", STANDARD.encode(root.0))
    }

    fn parse(text: &str) -> Result<Self, CheckpointError> {
        let form = |reason: &str| CheckpointError::Form { reason: reason.to_owned() };
        let mut lines = text.split_terminator('\n');
        let mut line = || lines.next().ok_or_else(|| form("a line is missing"));
        let log = line()?.strip_prefix(ORIGIN).ok_or_else(|| form("the origin is not ours"))?;
        check_log_id(log).map_err(|reason| CheckpointError::Form { reason })?;
        let size = line()?.parse().ok().and_then(Head::new).ok_or_else(|| form("the size is no number"))?;
        let root = STANDARD.decode(line()?).ok().and_then(|root| root.try_into().ok());
        let root = Hash(root.ok_or_else(|| form("the root is not 32 bytes in base64"))?);
        let epoch = line()?.strip_prefix("epoch ").and_then(|epoch| epoch.parse().ok()).and_then(Epoch::new);
        let epoch = epoch.ok_or_else(|| form("there is no epoch"))?;
        let checkpoint = Self { log: log.to_owned(), size, root, epoch };
        // Leading zeros, signs and lines after the fourth end here.
        if checkpoint.to_text() == text { Ok(checkpoint) } else { Err(form("another spelling of the same")) }
    }

    /// The note with one signature.
    ///
    /// # Errors
    /// [`CheckpointError::Form`] if the log's name cannot be one.
    pub fn sign(&self, key: &SigningKey) -> Result<String, CheckpointError> {
        check_log_id(&self.log).map_err(|reason| CheckpointError::Form { reason })?;
        add_signature(Note::new(self.to_text().as_bytes(), &[]).map_err(form)?, key)
    }
}

/// Adds a signature to a note; a signature that the same key made before is replaced by the same one.
/// It does not judge: whoever cosigns has compared the root with its own log's.
///
/// # Errors
/// [`CheckpointError::Form`] if it is no checkpoint.
pub fn cosign(note: &str, key: &SigningKey) -> Result<String, CheckpointError> {
    let note = Note::from_bytes(note.as_bytes()).map_err(form)?;
    parse_text(&note)?;
    add_signature(note, key)
}

/// Reads a note and says which trusted keys signed it: at least one. Signatures by unknown keys are left out.
///
/// # Errors
/// [`CheckpointError::Signature`] if no trusted key signed it, or a signature in a trusted key's name is wrong.
pub fn verify(note: &str, keys: &KeyRing) -> Result<(Checkpoint, Vec<KeyId>), CheckpointError> {
    let note = Note::from_bytes(note.as_bytes()).map_err(form)?;
    let (known, _unknown) =
        note.verify(keys).map_err(|error| CheckpointError::Signature { reason: error.to_string() })?;
    let signer = |name: &str, hash: u32| KeyId::parse(&format!("{name}+{hash:08x}"));
    let signers = known.iter().map(|signature| signer(signature.name(), signature.id()));
    let signers = signers.collect::<Result<_, _>>().expect("a known key's name was checked when it was read");
    Ok((parse_text(&note)?, signers))
}

fn parse_text(note: &Note) -> Result<Checkpoint, CheckpointError> {
    let text = std::str::from_utf8(note.text()).map_err(|error| CheckpointError::Form { reason: error.to_string() })?;
    Checkpoint::parse(text)
}

fn add_signature(mut note: Note, key: &SigningKey) -> Result<String, CheckpointError> {
    note.add_sigs(&[key]).map_err(form)?;
    String::from_utf8(note.to_bytes()).map_err(|error| CheckpointError::Form { reason: error.to_string() })
}

fn form(error: NoteError) -> CheckpointError {
    CheckpointError::Form { reason: error.to_string() }
}

impl Signer for SigningKey {
    fn name(&self) -> &str {
        self.id().name()
    }

    fn key_id(&self) -> u32 {
        self.id().hash()
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, ed25519_dalek::SignatureError> {
        Ok(Self::sign(self, message).to_vec())
    }
}

impl Verifier for VerifyKey {
    fn name(&self) -> &str {
        self.id().name()
    }

    fn key_id(&self) -> u32 {
        self.id().hash()
    }

    fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        Self::verify(self, message, signature).is_ok()
    }
}

impl Verifiers for KeyRing {
    fn verifier(&self, name: &str, hash: u32) -> Result<&dyn Verifier, VerificationError> {
        let unknown = || VerificationError::UnknownKey { name: name.to_owned(), id: hash };
        let id = KeyId::parse(&format!("{name}+{hash:08x}")).map_err(|_| unknown())?;
        self.get(&id).map(|key| key as &dyn Verifier).map_err(|_| unknown())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> SigningKey {
        SigningKey::from_seed(name, &[7; 32]).unwrap()
    }

    fn example() -> Checkpoint {
        let (size, epoch) = (Head::new(8192).unwrap(), Epoch::new(2).unwrap());
        Checkpoint { log: "demo".into(), size, root: Hash([1; 32]), epoch }
    }

    #[test]
    fn a_checkpoint_says_who_signed_it() {
        let note = example().sign(&key("home")).unwrap();
        let both = cosign(&note, &key("dr")).unwrap();
        let ring = KeyRing::new([key("home").verify_key(), key("dr").verify_key()]).unwrap();
        assert_eq!(verify(&note, &ring).unwrap(), (example(), vec![key("home").id().clone()]));
        assert_eq!(verify(&both, &ring).unwrap().1, vec![key("home").id().clone(), key("dr").id().clone()]);
        assert_eq!(cosign(&both, &key("dr")).unwrap(), both, "cosigning again changes nothing");
        let home_alone = KeyRing::new([key("home").verify_key()]).unwrap();
        assert_eq!(verify(&both, &home_alone).unwrap().1, vec![key("home").id().clone()]);
    }

    #[test]
    fn a_checkpoint_that_nobody_trusted_signed_is_refused() {
        let note = example().sign(&key("home")).unwrap();
        let stranger = KeyRing::new([key("stranger").verify_key()]).unwrap();
        assert!(matches!(verify(&note, &stranger), Err(CheckpointError::Signature { .. })));
        let ring = KeyRing::new([key("home").verify_key()]).unwrap();
        let larger = note.replace("8192", "8193");
        assert!(matches!(verify(&larger, &ring), Err(CheckpointError::Signature { .. })));
    }

    #[test]
    fn another_spelling_is_no_checkpoint() {
        let ring = KeyRing::new([key("home").verify_key()]).unwrap();
        let refused = |text: &str| {
            let mut note = Note::new(text.as_bytes(), &[]).unwrap();
            note.add_sigs(&[&key("home")]).unwrap();
            let note = String::from_utf8(note.to_bytes()).unwrap();
            assert!(matches!(verify(&note, &ring), Err(CheckpointError::Form { .. })), "{text}");
        };
        let text = example().to_text();
        refused(&text.replace("8192", "08192"));
        refused(&text.replace("epoch 2", "epoch +2"));
        refused(&text.replace("coldstream/", "elsewhere/"));
        refused(&format!("{text}more\n"));
        refused("coldstream/demo\n1\n");
    }
}
