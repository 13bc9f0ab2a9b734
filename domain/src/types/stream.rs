//! Names of streams and categories.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

use crate::json;

/// An attribute, and so a stream's name, is at most this long.
pub const ATTRIBUTE_BYTES_MAX: usize = 512;

/// The part of a stream's name before the first `-`: its aggregate type. `[a-z0-9_]+`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Category<'a>(&'a str);

impl<'a> Category<'a> {
    /// The category called `text`, if that can be one.
    ///
    /// # Errors
    /// [`StreamNameError::Category`] unless `text` is `[a-z0-9_]+`.
    pub fn parse(text: &'a str) -> Result<Self, StreamNameError> {
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        if !text.is_empty() && text.bytes().all(fits) { Ok(Self(text)) } else { Err(StreamNameError::Category) }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &'a str {
        self.0
    }
}

/// Name of a stream: `category-id`. (category, id) are cqrs-es's (`aggregate_type`, `aggregate_id`).
/// Names are compared byte by byte; there is no Unicode normalisation. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamName {
    text: Arc<str>,
    category_bytes: usize,
}

/// A name whose parts belong to somebody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamRef<'a> {
    category: Category<'a>,
    id: &'a str,
}

/// Why a text cannot be a stream's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum StreamNameError {
    /// There is no `-`.
    #[error("a stream's name is category-id: there is no '-'")]
    NoDash,
    /// The category is not `[a-z0-9_]+`.
    #[error("a category is made of a-z, 0-9 and _")]
    Category,
    /// Nothing follows the `-`.
    #[error("a stream's id is not empty")]
    EmptyId,
    /// The id holds a control character.
    #[error("a stream's id holds no control characters")]
    Control,
    /// The name is over 512 bytes.
    #[error("a stream's name is at most 512 bytes")]
    TooLong,
}

impl StreamName {
    /// Reads `category-id`. The category ends at the first `-`.
    ///
    /// # Errors
    /// A [`StreamNameError`] that says what is wrong.
    pub fn parse(text: &str) -> Result<Self, StreamNameError> {
        let dash = text.find('-').ok_or(StreamNameError::NoDash)?;
        StreamRef::of(&text[..dash], &text[dash + 1..])?;
        Ok(Self { text: text.into(), category_bytes: dash })
    }

    /// The stream of `id` in `category`.
    ///
    /// # Errors
    /// As [`StreamName::parse`].
    pub fn of(category: &str, id: &str) -> Result<Self, StreamNameError> {
        StreamRef::of(category, id).map(Self::from)
    }

    /// The part before the first `-`.
    #[must_use]
    pub fn category(&self) -> &str {
        &self.text[..self.category_bytes]
    }

    /// The part after the first `-`.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.text[self.category_bytes + 1..]
    }

    /// The whole name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl<'a> StreamRef<'a> {
    /// The stream of `id` in `category`.
    ///
    /// # Errors
    /// A [`StreamNameError`] that says what is wrong.
    pub fn of(category: &'a str, id: &'a str) -> Result<Self, StreamNameError> {
        let category = Category::parse(category)?;
        if id.is_empty() {
            return Err(StreamNameError::EmptyId);
        }
        if category.as_str().len() + 1 + id.len() > ATTRIBUTE_BYTES_MAX {
            return Err(StreamNameError::TooLong);
        }
        if json::holds_control(id) {
            return Err(StreamNameError::Control);
        }
        Ok(Self { category, id })
    }

    /// The part before the first `-`.
    #[must_use]
    pub fn category(&self) -> &'a str {
        self.category.as_str()
    }

    /// The part after the first `-`.
    #[must_use]
    pub fn id(&self) -> &'a str {
        self.id
    }
}

impl From<StreamRef<'_>> for StreamName {
    fn from(stream: StreamRef<'_>) -> Self {
        let category = stream.category();
        Self { text: [category, "-", stream.id].concat().into(), category_bytes: category.len() }
    }
}

impl<'a> From<&'a StreamName> for StreamRef<'a> {
    fn from(stream: &'a StreamName) -> Self {
        Self { category: Category(stream.category()), id: stream.id() }
    }
}

impl fmt::Display for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_category_ends_at_the_first_dash() {
        let name = StreamName::parse("content-a-b/c.rs").expect("valid");
        assert_eq!((name.category(), name.id()), ("content", "a-b/c.rs"));
    }

    #[test]
    fn what_is_no_name_is_refused_with_the_reason() {
        let refused = |text: &str| StreamName::parse(text).expect_err("refused");
        assert_eq!(refused("content"), StreamNameError::NoDash);
        assert_eq!(refused("Content-1"), StreamNameError::Category);
        assert_eq!(refused("-1"), StreamNameError::Category);
        assert_eq!(refused("content-"), StreamNameError::EmptyId);
        assert_eq!(refused("content-a\u{7f}"), StreamNameError::Control);
        assert_eq!(refused("content-a\u{85}"), StreamNameError::Control);
        assert_eq!(refused(&format!("c-{}", "x".repeat(511))), StreamNameError::TooLong);
    }
}
