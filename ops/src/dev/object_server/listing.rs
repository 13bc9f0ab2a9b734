//! ListObjectsV2 over the folders of a bucket. Reads names and metadata; never opens a body.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::layout::{self, BODY, Entry};
use super::store::{StoreError, read_meta};

/// S3's page size.
pub(super) const KEYS_MAX: usize = 1000;

/// Where a page begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum After {
    Start,
    /// After this key, or where it would stand.
    Key(String),
    /// After all keys that start so.
    Prefix(String),
}

impl After {
    fn admits(&self, key: &str) -> bool {
        match self {
            Self::Start => true,
            Self::Key(last) => key > last.as_str(),
            Self::Prefix(last) => key > last.as_str() && !key.starts_with(last.as_str()),
        }
    }

    /// Whether any key that starts with `leading` may be admitted.
    fn admits_some(&self, leading: &[u8]) -> bool {
        let (Self::Key(last) | Self::Prefix(last)) = self else { return true };
        leading > last.as_bytes() || last.as_bytes().starts_with(leading)
    }
}

/// What is asked for.
#[derive(Debug)]
pub(super) struct Query {
    pub(super) prefix: String,
    pub(super) delimiter: Option<String>,
    pub(super) after: After,
    pub(super) keys_max: usize,
}

/// One answer.
#[derive(Debug, Default)]
pub(super) struct Page {
    pub(super) objects: Vec<Listed>,
    pub(super) common_prefixes: Vec<String>,
    /// Where the next page begins, if there is more.
    pub(super) next: Option<After>,
}

/// An object in a page.
#[derive(Debug)]
pub(super) struct Listed {
    pub(super) key: String,
    pub(super) etag: String,
    pub(super) length: u64,
    pub(super) modified: SystemTime,
}

/// A page in the order of the keys' bytes.
pub(super) fn list(bucket: &Path, query: &Query) -> Result<Page, StoreError> {
    let mut keys = Vec::new();
    walk(bucket, &mut |leading| could_match(query, leading), &mut |key| {
        if key.starts_with(&query.prefix) && query.after.admits(key) {
            keys.push(key.to_owned());
        }
        Walk::On
    })?;
    keys.sort_unstable();
    fill(bucket, query, keys)
}

fn could_match(query: &Query, leading: &[u8]) -> bool {
    let prefix = query.prefix.as_bytes();
    (leading.starts_with(prefix) || prefix.starts_with(leading)) && query.after.admits_some(leading)
}

fn fill(bucket: &Path, query: &Query, keys: Vec<String>) -> Result<Page, StoreError> {
    let mut page = Page::default();
    let mut last = After::Start;
    for key in keys {
        // A key below a common prefix that the page has already is part of that one entry.
        if !last.admits(&key) {
            continue;
        }
        if page.objects.len() + page.common_prefixes.len() == query.keys_max {
            page.next = Some(last);
            break;
        }
        if let Some(common) = common_prefix(&key, query) {
            last = After::Prefix(common.clone());
            page.common_prefixes.push(common);
        } else if let Some(listed) = look_at(bucket, &key)? {
            last = After::Key(key);
            page.objects.push(listed);
        }
    }
    Ok(page)
}

/// The key up to and with the first delimiter after the prefix.
fn common_prefix(key: &str, query: &Query) -> Option<String> {
    let delimiter = query.delimiter.as_deref().filter(|delimiter| !delimiter.is_empty())?;
    let rest = key.strip_prefix(&query.prefix)?;
    let end = rest.find(delimiter)? + delimiter.len();
    Some(format!("{}{}", query.prefix, &rest[..end]))
}

/// `None` if the object went away since its name was read, or has lost its body.
fn look_at(bucket: &Path, key: &str) -> Result<Option<Listed>, StoreError> {
    let folder = layout::object_folder(bucket, key);
    let length = match std::fs::metadata(folder.join(BODY)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        found => found?.len(),
    };
    match read_meta(&folder) {
        Err(StoreError::NoObject) => Ok(None),
        meta => {
            let meta = meta?;
            Ok(Some(Listed { key: key.to_owned(), modified: meta.modified(), etag: meta.etag, length }))
        }
    }
}

/// Whether the bucket has any object; folders that deleted objects have left behind do not count.
pub(super) fn holds_objects(bucket: &Path) -> io::Result<bool> {
    let mut found = false;
    walk(bucket, &mut |_| true, &mut |_| {
        found = true;
        Walk::Enough
    })?;
    Ok(found)
}

#[derive(PartialEq, Eq)]
enum Walk {
    On,
    Enough,
}

/// Visits the key of every object below the folder, in no order; leaves out folders that `enter` refuses.
fn walk(bucket: &Path, enter: &mut dyn FnMut(&[u8]) -> bool, visit: &mut dyn FnMut(&str) -> Walk) -> io::Result<()> {
    let mut folders: Vec<(PathBuf, Vec<u8>)> = vec![(bucket.to_owned(), Vec::new())];
    while let Some((folder, leading)) = folders.pop() {
        let entries = match std::fs::read_dir(&folder) {
            // Taken away by hand, or a stray file of somebody else's.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            match name.to_str().and_then(|name| layout::read_entry(&leading, name)) {
                Some(Entry::Object(key)) if visit(&key) == Walk::Enough => return Ok(()),
                Some(Entry::Folder(below)) if enter(&below) => folders.push((entry.path(), below)),
                _ => {}
            }
        }
    }
    Ok(())
}
