//! How numbers, hashes and instants are spelled in what regions say to each other: as strings, because JSON
//! readers hold numbers as doubles. Spelled as in the archive's formats; decides nothing.

use domain::append::Role;
use domain::merkle::Hash;
use domain::{Epoch, Head, Timestamp};

/// A value that stands in JSON as a string.
pub(crate) trait Spelled: Sized {
    fn spell(&self) -> String;
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
    Epoch, Epoch::new;
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

impl Spelled for Role {
    fn spell(&self) -> String {
        self.as_str().to_owned()
    }

    fn read(text: &str) -> Option<Self> {
        Self::parse(text)
    }
}

/// `#[serde(with = "spelling::text")]`
pub(crate) mod text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use super::Spelled;

    pub(crate) fn serialize<T: Spelled, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&value.spell())
    }

    pub(crate) fn deserialize<'de, T: Spelled, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
        let text = String::deserialize(from)?;
        T::read(&text).ok_or_else(|| D::Error::custom(format_args!("{text:?} is not in its spelling")))
    }
}

/// `#[serde(default, with = "spelling::text_or_null")]`
pub(crate) mod text_or_null {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use super::Spelled;

    pub(crate) fn serialize<T: Spelled, S: Serializer>(value: &Option<T>, to: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => to.serialize_str(&value.spell()),
            None => to.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, T: Spelled, D: Deserializer<'de>>(from: D) -> Result<Option<T>, D::Error> {
        let Some(text) = Option::<String>::deserialize(from)? else { return Ok(None) };
        let read = T::read(&text).ok_or_else(|| D::Error::custom(format_args!("{text:?} is not in its spelling")));
        read.map(Some)
    }
}
