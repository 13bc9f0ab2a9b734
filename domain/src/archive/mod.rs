//! The formats of the archive, byte by byte in FORMAT.md beside this crate, and the ports to its state.
//!
//! A segment holds records; its index finds them; a manifest says that they belong to the archive; a signed
//! checkpoint proves the whole log at one size; a confirmation says that the other region holds a segment.

pub mod catalog;
