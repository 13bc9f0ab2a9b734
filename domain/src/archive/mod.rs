//! The formats of the archive, byte by byte in FORMAT.md beside this crate, and the ports to its state.
//!
//! A [`segment`] holds records; its [`index`] finds them; a [`manifest`] says that they belong to the archive
//! and the [`chain`] of manifests what is in force; a signed [`checkpoint`] proves the whole log at one size; a
//! [`confirmation`] says that the other region holds a segment; an [`epoch_claim`] that a region was promoted.

pub mod accept;
pub mod catalog;
pub mod chain;
pub mod checkpoint;
pub mod confirmation;
pub mod epoch_claim;
pub mod index;
pub mod layout;
pub mod manifest;
pub mod read_back;
pub mod reader;
pub mod segment;
pub mod statement;
