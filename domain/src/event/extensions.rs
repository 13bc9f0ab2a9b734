//! Extensions in two other forms: one JSON object (how the database holds them) and cqrs-es's metadata.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use super::cloudevents::extension_value;
use super::{EventError, Extension, ExtensionValue, METADATA_EXTENSION, RESERVED_EXTENSIONS, check_extensions};
use crate::json::{self, Scanner};

/// The object of an event without extensions, as most are: it needs no reading.
const NONE: &[u8] = b"{}";

/// The extensions as one JSON object in one spelling, in the order given.
#[must_use]
pub fn extensions_to_json(extensions: &[Extension]) -> String {
    let mut out = Vec::with_capacity(64);
    write_extensions(extensions, &mut out);
    text(out)
}

/// The same, behind what is in `out`.
pub fn write_extensions(extensions: &[Extension], out: &mut Vec<u8>) {
    out.push(b'{');
    for (index, extension) in extensions.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_member(extension, out);
    }
    out.push(b'}');
}

/// Reads [`extensions_to_json`]'s object, and any other that holds valid extensions; sorted by name.
///
/// # Errors
/// What is wrong with the JSON or with the first extension that breaks a rule.
pub fn extensions_from_json(json: &[u8]) -> Result<Vec<Extension>, EventError> {
    Ok(borrowed_from_json(json)?.into_iter().map(Extension::from).collect())
}

fn borrowed_from_json(json: &[u8]) -> Result<Vec<Extension<Cow<'_, str>>>, EventError> {
    let mut extensions = Vec::new();
    if json == NONE {
        return Ok(extensions);
    }
    let mut scanner = Scanner::new(json)?;
    scanner.object(|scanner, name| {
        let value = extension_value(&name, &scanner.value()?)?;
        extensions.push(Extension { name, value });
        Ok::<(), EventError>(())
    })?;
    scanner.end()?;
    sorted(extensions)
}

/// Writes what [`extensions_from_json`] reads of `json` as the members of an event, each behind a comma.
pub(crate) fn write_members_of(json: &str, out: &mut Vec<u8>) -> Result<(), EventError> {
    for extension in &borrowed_from_json(json.as_bytes())? {
        out.push(b',');
        write_member(extension, out);
    }
    Ok(())
}

impl From<Extension<Cow<'_, str>>> for Extension {
    fn from(borrowed: Extension<Cow<'_, str>>) -> Self {
        Self { name: borrowed.name.into_owned(), value: borrowed.value.into() }
    }
}

impl From<ExtensionValue<Cow<'_, str>>> for ExtensionValue {
    fn from(borrowed: ExtensionValue<Cow<'_, str>>) -> Self {
        match borrowed {
            ExtensionValue::String(text) => Self::String(text.into_owned()),
            ExtensionValue::Boolean(value) => Self::Boolean(value),
            ExtensionValue::Integer(value) => Self::Integer(value),
        }
    }
}

/// Writes `"name":value`.
pub(crate) fn write_member<T: AsRef<str>>(extension: &Extension<T>, out: &mut Vec<u8>) {
    json::write_string(extension.name.as_ref(), out);
    out.push(b':');
    match &extension.value {
        ExtensionValue::String(text) => json::write_string(text.as_ref(), out),
        ExtensionValue::Boolean(value) => out.extend_from_slice(if *value { b"true" } else { b"false" }),
        ExtensionValue::Integer(value) => out.extend_from_slice(value.to_string().as_bytes()),
    }
}

/// cqrs-es metadata as extensions: what can be a string extension becomes one; the rest (keys that cannot be an
/// extension's name or have a meaning of their own, values that an attribute cannot hold) goes into the
/// extension `metadata`, a JSON object with sorted keys. [`metadata_from_extensions`] gives the same map back.
///
/// # Errors
/// A value that is too long for an attribute, or more of them than an event can have.
pub fn extensions_from_metadata<K: AsRef<str>, V: AsRef<str>>(
    metadata: impl IntoIterator<Item = (K, V)>,
) -> Result<Vec<Extension>, EventError> {
    let mut extensions = Vec::new();
    let mut others = BTreeMap::new();
    for (key, value) in metadata {
        let value = ExtensionValue::String(value.as_ref().to_owned());
        let extension = Extension { name: key.as_ref().to_owned(), value };
        if RESERVED_EXTENSIONS.contains(&key.as_ref()) || extension.check().is_err() {
            others.insert(extension.name.clone(), extension);
        } else {
            extensions.push(extension);
        }
    }
    if !others.is_empty() {
        let others: Vec<_> = others.into_values().collect();
        let value = ExtensionValue::String(extensions_to_json(&others));
        extensions.push(Extension { name: METADATA_EXTENSION.to_owned(), value });
    }
    sorted(extensions)
}

fn sorted<T: AsRef<str>>(mut extensions: Vec<Extension<T>>) -> Result<Vec<Extension<T>>, EventError> {
    extensions.sort_unstable_by(|a, b| a.name.as_ref().cmp(b.name.as_ref()));
    check_extensions(&extensions)?;
    Ok(extensions)
}

/// Extensions as cqrs-es metadata: the way back from [`extensions_from_metadata`]. An extension `metadata` that
/// is no JSON object of strings (some other client's) is kept as one entry under its own name.
#[must_use]
pub fn metadata_from_extensions(extensions: &[Extension]) -> HashMap<String, String> {
    let mut metadata = HashMap::new();
    for extension in extensions {
        let value = match &extension.value {
            ExtensionValue::String(text) => text.clone(),
            ExtensionValue::Boolean(value) => value.to_string(),
            ExtensionValue::Integer(value) => value.to_string(),
        };
        match strings(&value) {
            Some(others) if extension.name == METADATA_EXTENSION => {
                for (key, value) in others {
                    // An extension of its own wins over an entry of the same name.
                    metadata.entry(key).or_insert(value);
                }
            }
            _ => {
                metadata.insert(extension.name.clone(), value);
            }
        }
    }
    metadata
}

/// The members of a JSON object of strings, if `json` is one.
fn strings(json: &str) -> Option<Vec<(String, String)>> {
    let mut members = Vec::new();
    let mut scanner = Scanner::new(json.as_bytes()).ok()?;
    let read = scanner.object(|scanner, name| {
        let value = super::cloudevents::string(&name, &scanner.value()?)?;
        members.push((name.into_owned(), value.into_owned()));
        Ok::<(), EventError>(())
    });
    (read.is_ok() && scanner.end().is_ok()).then_some(members)
}

fn text(json: Vec<u8>) -> String {
    String::from_utf8(json).expect("made of strings")
}
