//! How numbers, hashes and instants are spelled in JSON, in the archive and between regions: as strings, each in
//! one spelling.
//!
//! 64-bit numbers are strings because JSON readers hold numbers as doubles (CloudEvents 1.0 §3.1 asks the
//! same). Reading here may be lax: [`crate::archive::statement`] compares what it read with what it would write.

use crate::append::Role;
use crate::merkle::Hash;
use crate::{Epoch, Head, Position, Timestamp};

/// A value that stands in JSON as a string.
pub trait Spelled: Sized {
    /// Its spelling.
    fn spell(&self) -> String;
    /// Reads its spelling.
    fn read(text: &str) -> Option<Self>;
}

macro_rules! decimal {
    ($($number:ty, $read:expr;)*) => {$(
        impl Spelled for $number {
            fn spell(&self) -> String {
                self.to_string()
            }

            fn read(text: &str) -> Option<Self> {
                text.parse::<u64>().ok().and_then($read)
            }
        }
    )*};
}

decimal! {
    u64, Some;
    Head, Head::new;
    Position, Position::new;
    Epoch, Epoch::new;
}

impl Spelled for Role {
    fn spell(&self) -> String {
        self.as_str().to_owned()
    }

    fn read(text: &str) -> Option<Self> {
        Self::parse(text)
    }
}

impl Spelled for Hash {
    fn spell(&self) -> String {
        self.to_hex()
    }

    fn read(text: &str) -> Option<Self> {
        Self::from_hex(text)
    }
}

impl Spelled for Timestamp {
    fn spell(&self) -> String {
        self.to_string()
    }

    fn read(text: &str) -> Option<Self> {
        Self::parse_rfc3339(text).ok()
    }
}

/// `#[serde(with = "spelling::text")]`
pub mod text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use super::Spelled;

    /// For `serde(with)`.
    ///
    /// # Errors
    /// The serializer's.
    pub fn serialize<T: Spelled, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&value.spell())
    }

    /// For `serde(with)`.
    ///
    /// # Errors
    /// If the text is not a spelling of such a value.
    pub fn deserialize<'de, T: Spelled, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
        let text = String::deserialize(from)?;
        T::read(&text).ok_or_else(|| D::Error::custom(format_args!("{text:?} is not in its one spelling")))
    }
}

/// `#[serde(with = "spelling::texts")]`: an array of them.
pub mod texts {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use super::Spelled;

    /// For `serde(with)`.
    ///
    /// # Errors
    /// The serializer's.
    pub fn serialize<T: Spelled, S: Serializer>(values: &[T], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(values.iter().map(Spelled::spell))
    }

    /// For `serde(with)`.
    ///
    /// # Errors
    /// If one of the texts is not a spelling of such a value.
    pub fn deserialize<'de, T: Spelled, D: Deserializer<'de>>(from: D) -> Result<Vec<T>, D::Error> {
        let texts = Vec::<String>::deserialize(from)?;
        let value = |text: String| {
            T::read(&text).ok_or_else(|| D::Error::custom(format_args!("{text:?} is not in its one spelling")))
        };
        texts.into_iter().map(value).collect()
    }
}

/// `#[serde(with = "spelling::text_or_null")]`
pub mod text_or_null {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use super::Spelled;

    /// For `serde(with)`.
    ///
    /// # Errors
    /// The serializer's.
    pub fn serialize<T: Spelled, S: Serializer>(value: &Option<T>, to: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => to.serialize_str(&value.spell()),
            None => to.serialize_none(),
        }
    }

    /// For `serde(with)`.
    ///
    /// # Errors
    /// If the text is not a spelling of such a value.
    pub fn deserialize<'de, T: Spelled, D: Deserializer<'de>>(from: D) -> Result<Option<T>, D::Error> {
        let Some(text) = Option::<String>::deserialize(from)? else { return Ok(None) };
        let value = T::read(&text).ok_or_else(|| D::Error::custom(format_args!("{text:?} is not in its one spelling")));
        value.map(Some)
    }
}

/// `#[serde(with = "spelling::crc")]`: a CRC-32 as 8 lower-case hexadecimal digits.
pub mod crc {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// For `serde(with)`.
    ///
    /// # Errors
    /// The serializer's.
    pub fn serialize<S: Serializer>(crc: &u32, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&format!("{crc:08x}"))
    }

    /// For `serde(with)`.
    ///
    /// # Errors
    /// If the text is not a spelling of such a value.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
        let text = String::deserialize(from)?;
        u32::from_str_radix(&text, 16).map_err(|_| D::Error::custom("a CRC-32 is 8 hexadecimal digits"))
    }
}
