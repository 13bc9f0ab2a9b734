//! How numbers, hashes and instants are spelled in the archive's JSON: as strings, each in one spelling.
//!
//! 64-bit numbers are strings because JSON readers hold numbers as doubles (CloudEvents 1.0 §3.1 asks the
//! same). Reading here may be lax: [`super::statement`] compares what it read with what it would write.

use crate::merkle::Hash;
use crate::{Epoch, Head, Position, Timestamp};

/// A value that stands in JSON as a string.
pub(super) trait Text: Sized {
    fn write(&self) -> String;
    fn read(text: &str) -> Option<Self>;
}

macro_rules! decimal {
    ($($number:ty, $read:expr;)*) => {$(
        impl Text for $number {
            fn write(&self) -> String {
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

impl Text for Hash {
    fn write(&self) -> String {
        self.to_hex()
    }

    fn read(text: &str) -> Option<Self> {
        Self::from_hex(text)
    }
}

impl Text for Timestamp {
    fn write(&self) -> String {
        self.to_string()
    }

    fn read(text: &str) -> Option<Self> {
        Self::parse_rfc3339(text).ok()
    }
}

/// `#[serde(with = "wire::text")]`
pub(super) mod text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use super::Text;

    pub(in super::super) fn serialize<T: Text, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&value.write())
    }

    pub(in super::super) fn deserialize<'de, T: Text, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
        let text = String::deserialize(from)?;
        T::read(&text).ok_or_else(|| D::Error::custom(format_args!("{text:?} is not in its one spelling")))
    }
}

/// `#[serde(with = "wire::text_or_null")]`
pub(super) mod text_or_null {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use super::Text;

    pub(in super::super) fn serialize<T: Text, S: Serializer>(value: &Option<T>, to: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => to.serialize_str(&value.write()),
            None => to.serialize_none(),
        }
    }

    pub(in super::super) fn deserialize<'de, T: Text, D: Deserializer<'de>>(from: D) -> Result<Option<T>, D::Error> {
        let Some(text) = Option::<String>::deserialize(from)? else { return Ok(None) };
        let value = T::read(&text).ok_or_else(|| D::Error::custom(format_args!("{text:?} is not in its one spelling")));
        value.map(Some)
    }
}

/// `#[serde(with = "wire::crc")]`: a CRC-32 as 8 lower-case hexadecimal digits.
pub(super) mod crc {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(in super::super) fn serialize<S: Serializer>(crc: &u32, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&format!("{crc:08x}"))
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
        let text = String::deserialize(from)?;
        u32::from_str_radix(&text, 16).map_err(|_| D::Error::custom("a CRC-32 is 8 hexadecimal digits"))
    }
}
