//! The small types: a number or a name that could be mistaken for another has one of its own.

pub(crate) mod clock;
pub(crate) mod kind;
pub(crate) mod number;
pub(crate) mod stream;
pub(crate) mod timestamp;
pub(crate) mod token;
