//! Objects on disk: durable before they are acknowledged, whole or absent after a crash at any instruction.
//! Serves the bytes that the disk has and must never look into them: rotten storage is served rotten.
//!
//! An object is a folder with the body and its metadata (see `layout`). It is built under `.tmp`, synced, and then
//! moved to its place as one: `renameat2` with NOREPLACE creates, with EXCHANGE replaces. So body and metadata
//! change together, and what is half done stays under `.tmp`, where the next start sweeps it.

use std::collections::{BTreeMap, HashSet};
use std::fs::{File, TryLockError};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use s3s::dto::ETagCondition;
use serde::{Deserialize, Serialize};

use super::digests::{Checksums, ClaimError, Claims, Hasher};
use super::layout::{self, BODY, LOCK, META, TEMPORARY};

/// Keys share this many locks; a commit holds one for a rename and a sync of the folder.
const KEY_LOCKS: usize = 256;

/// What is known about an object beside its bytes; its form on disk is `meta.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Meta {
    pub(super) etag: String,
    /// The length that was uploaded; the body's real length is what is served.
    pub(super) length: u64,
    /// Since the Unix epoch, by the file system's clock.
    modified: Duration,
    pub(super) checksums: Checksums,
    pub(super) headers: Headers,
}

impl Meta {
    pub(super) fn modified(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + self.modified
    }
}

/// Headers that a client stores with an object and gets back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Headers {
    pub(super) content_type: Option<String>,
    pub(super) content_encoding: Option<String>,
    pub(super) content_disposition: Option<String>,
    pub(super) content_language: Option<String>,
    pub(super) cache_control: Option<String>,
    pub(super) user: BTreeMap<String, String>,
}

/// What must hold for a change to be made.
#[derive(Debug, Clone)]
pub(super) enum Condition {
    Always,
    /// `If-None-Match: *`
    Absent,
    /// `If-Match`
    Matches(ETagCondition),
}

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    #[error("no such bucket")]
    NoBucket,
    #[error("the bucket exists")]
    BucketExists,
    #[error("the bucket holds objects")]
    BucketNotEmpty,
    #[error("no such object")]
    NoObject,
    #[error("the condition does not hold")]
    Precondition,
    #[error("the upload is refused")]
    Claim(#[from] ClaimError),
    #[error("the object's metadata cannot be read")]
    Meta(#[source] serde_json::Error),
    #[error("the disk failed")]
    Io(#[from] io::Error),
}

/// An object that is open for reading; replacing or deleting it does not disturb the reader.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) body: File,
    pub(super) length: u64,
    pub(super) meta: Meta,
}

/// The folder of one server.
#[derive(Debug)]
pub(super) struct Store {
    root: PathBuf,
    /// Held for our life: two servers would not see each other's key locks.
    _lock: File,
    next_temporary: AtomicU64,
    key_locks: Vec<Mutex<()>>,
    key_hash: RandomState,
    /// Read by every commit, written by the removal of a bucket.
    buckets: RwLock<()>,
    /// Folders whose entry in their parent is known to be on disk.
    durable: Mutex<HashSet<PathBuf>>,
}

impl Store {
    /// Takes the folder, alone, and sweeps what a crash has left. `WouldBlock` means that another server has it.
    pub(super) fn open(root: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(root)?;
        let root = root.canonicalize()?;
        let lock = File::options().create(true).append(true).open(root.join(LOCK))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => io::Error::from(ErrorKind::WouldBlock),
            TryLockError::Error(error) => error,
        })?;
        let temporary = root.join(TEMPORARY);
        remove_folder(&temporary)?;
        std::fs::create_dir(&temporary)?;
        probe_exchange(&temporary)?;
        sync_folder(&root)?;
        Ok(Self {
            root,
            _lock: lock,
            next_temporary: AtomicU64::new(0),
            key_locks: std::iter::repeat_with(Mutex::default).take(KEY_LOCKS).collect(),
            key_hash: RandomState::new(),
            buckets: RwLock::default(),
            durable: Mutex::default(),
        })
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    fn temporary(&self) -> PathBuf {
        let number = self.next_temporary.fetch_add(1, Ordering::Relaxed);
        self.root.join(TEMPORARY).join(number.to_string())
    }

    /// The bucket's folder. The protocol has checked the name: it has no slash and starts with a letter or digit.
    pub(super) fn bucket(&self, bucket: &str) -> Result<PathBuf, StoreError> {
        let folder = self.root.join(bucket);
        if folder.is_dir() { Ok(folder) } else { Err(StoreError::NoBucket) }
    }

    /// Names and creation times, by name.
    pub(super) fn list_buckets(&self) -> Result<Vec<(String, SystemTime)>, StoreError> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.root)? {
            let entry = entry?;
            if let Ok(name) = entry.file_name().into_string()
                && !name.starts_with('.')
            {
                let metadata = entry.metadata()?;
                if metadata.is_dir() {
                    found.push((name, metadata.created().or_else(|_| metadata.modified())?));
                }
            }
        }
        found.sort();
        Ok(found)
    }

    pub(super) fn create_bucket(&self, bucket: &str) -> Result<(), StoreError> {
        match std::fs::create_dir(self.root.join(bucket)) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(StoreError::BucketExists),
            other => Ok(other.and_then(|()| sync_folder(&self.root))?),
        }
    }

    pub(super) fn delete_bucket(&self, bucket: &str) -> Result<(), StoreError> {
        let _alone = self.buckets.write().unwrap_or_else(PoisonError::into_inner);
        let folder = self.bucket(bucket)?;
        if super::listing::holds_objects(&folder)? {
            return Err(StoreError::BucketNotEmpty);
        }
        let away = self.temporary();
        std::fs::rename(&folder, &away)?;
        sync_folder(&self.root)?;
        lock(&self.durable).retain(|path| !path.starts_with(&folder));
        Ok(remove_folder(&away)?)
    }

    /// Opens the object as it is now: body and metadata of the same upload.
    pub(super) fn open_object(&self, bucket: &str, key: &str) -> Result<Opened, StoreError> {
        let folder = layout::object_folder(&self.bucket(bucket)?, key);
        // Waits for a commit under way: what is served is on disk already.
        let _key = self.lock_key(&folder);
        let body = match File::open(folder.join(BODY)) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(StoreError::NoObject),
            other => other?,
        };
        let length = body.metadata()?.len();
        Ok(Opened { body, length, meta: read_meta(&folder)? })
    }

    /// Begins an upload.
    pub(super) fn stage(&self, claims: &Claims) -> Result<Staged, StoreError> {
        let folder = self.temporary();
        std::fs::create_dir(&folder)?;
        let body = File::options().write(true).create_new(true).open(folder.join(BODY))?;
        Ok(Staged { folder: Temporary(folder), body, hasher: claims.hasher() })
    }

    /// Puts a sealed upload in its place. When this returns `Ok` it is on disk; otherwise nothing has changed,
    /// except after `Io`, when the new object may be there.
    pub(super) fn commit(
        &self,
        bucket: &str,
        key: &str,
        sealed: &Sealed,
        condition: &Condition,
    ) -> Result<(), StoreError> {
        let _buckets = self.buckets.read().unwrap_or_else(PoisonError::into_inner);
        let bucket = self.bucket(bucket)?;
        let folder = layout::object_folder(&bucket, key);
        let parent = folder.parent().unwrap_or(&bucket);
        self.make_folders(&bucket, parent)?;

        // From the look to the sync under the key's lock: who is told "it exists" must find it after a crash too.
        let _key = self.lock_key(&folder);
        check_condition(&folder, condition)?;
        let flags = if folder.exists() { RenameFlags::EXCHANGE } else { RenameFlags::NOREPLACE };
        renameat_with(CWD, &sealed.folder.0, CWD, &folder, flags).map_err(io::Error::from)?;
        // After an exchange the old version lies where the new one was built, and is removed with `sealed`.
        Ok(sync_folder(parent)?)
    }

    /// Deletes the object; one that is absent is deleted already.
    pub(super) fn delete_object(&self, bucket: &str, key: &str, condition: &Condition) -> Result<(), StoreError> {
        let folder = layout::object_folder(&self.bucket(bucket)?, key);
        let away = Temporary(self.temporary());
        let _key = self.lock_key(&folder);
        if matches!(condition, Condition::Always) && !folder.exists() {
            return Ok(());
        }
        check_condition(&folder, condition)?;
        std::fs::rename(&folder, &away.0)?;
        Ok(sync_folder(folder.parent().unwrap_or(&self.root))?)
    }

    /// Makes the folders from `bucket` down to `folder`, each durable before anything is put below it. One at a
    /// time, so that nobody builds on a folder that another thread has made but not yet synced.
    fn make_folders(&self, bucket: &Path, folder: &Path) -> Result<(), StoreError> {
        let mut durable = lock(&self.durable);
        if durable.contains(folder) {
            return Ok(());
        }
        let mut missing: Vec<&Path> =
            folder.ancestors().take_while(|above| *above != bucket && !durable.contains(*above)).collect();
        missing.reverse();
        for folder in missing {
            match std::fs::create_dir(folder) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                other => other?,
            }
            sync_folder(folder.parent().unwrap_or(bucket))?;
            durable.insert(folder.to_owned());
        }
        Ok(())
    }

    fn lock_key(&self, folder: &Path) -> MutexGuard<'_, ()> {
        let hash = self.key_hash.hash_one(folder);
        let place = usize::try_from(hash % KEY_LOCKS as u64).unwrap_or(0);
        lock(&self.key_locks[place])
    }
}

/// The metadata of the object in `folder`.
pub(super) fn read_meta(folder: &Path) -> Result<Meta, StoreError> {
    match std::fs::read(folder.join(META)) {
        Err(error) if error.kind() == ErrorKind::NotFound => Err(StoreError::NoObject),
        bytes => serde_json::from_slice(&bytes?).map_err(StoreError::Meta),
    }
}

/// The body is the object: where it was taken away by hand, the object is absent and may be created again.
fn check_condition(folder: &Path, condition: &Condition) -> Result<(), StoreError> {
    let exists = folder.join(BODY).exists();
    match condition {
        Condition::Always => Ok(()),
        Condition::Absent if exists => Err(StoreError::Precondition),
        Condition::Absent => Ok(()),
        Condition::Matches(_) if !exists => Err(StoreError::NoObject),
        Condition::Matches(ETagCondition::Any) => Ok(()),
        Condition::Matches(ETagCondition::ETag(etag)) => {
            let matches = etag.as_strong() == Some(read_meta(folder)?.etag.as_str());
            if matches { Ok(()) } else { Err(StoreError::Precondition) }
        }
    }
}

/// A folder under `.tmp` that goes away with its owner; what a crash leaves, the next start sweeps.
#[derive(Debug)]
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(error) = remove_folder(&self.0) {
            tracing::warn!(error = &error as &dyn std::error::Error, folder = ?self.0, "temporary folder is left");
        }
    }
}

/// An upload whose bytes are coming in.
pub(super) struct Staged {
    folder: Temporary,
    body: File,
    hasher: Hasher,
}

impl Staged {
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.hasher.update(bytes);
        Ok(self.body.write_all(bytes)?)
    }

    /// Compares with the claims and brings body and metadata to disk, still under `.tmp`.
    pub(super) fn seal(self, claims: &Claims, headers: Headers) -> Result<Sealed, StoreError> {
        let found = self.hasher.finish();
        claims.check(&found)?;
        let modified = self.body.metadata()?.modified()?;
        let meta = Meta {
            etag: found.etag(),
            length: found.length,
            modified: modified.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default(),
            checksums: found.checksums,
            headers,
        };
        let mut file = File::options().write(true).create_new(true).open(self.folder.0.join(META))?;
        file.write_all(&serde_json::to_vec_pretty(&meta).map_err(StoreError::Meta)?)?;
        self.body.sync_all()?;
        file.sync_all()?;
        // The folder after its files: it must not come to disk as the name of something that is not there.
        sync_folder(&self.folder.0)?;
        Ok(Sealed { folder: self.folder, meta })
    }
}

/// An upload that is whole and on disk, but has no key yet.
#[derive(Debug)]
pub(super) struct Sealed {
    folder: Temporary,
    pub(super) meta: Meta,
}

/// A panic elsewhere leaves the disk in a state that it can be in anyhow.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn remove_folder(folder: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Replacing an object needs an atomic exchange, which some file systems (older network and overlay ones) refuse.
fn probe_exchange(temporary: &Path) -> io::Result<()> {
    let (one, other) = (Temporary(temporary.join("probe-1")), Temporary(temporary.join("probe-2")));
    std::fs::create_dir(&one.0)?;
    std::fs::create_dir(&other.0)?;
    Ok(renameat_with(CWD, &one.0, CWD, &other.0, RenameFlags::EXCHANGE)?)
}
