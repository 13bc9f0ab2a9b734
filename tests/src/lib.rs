//! End to end on real clusters: promises, kills, golden bytes.

use std::path::PathBuf;

pub mod administrators;
pub mod chance;
pub mod radosgw;
pub mod regions;
pub mod torture;
pub mod two_regions;
pub mod writers;

/// The binary `coldstream`, built beside the tests.
///
/// # Panics
/// If it is not there.
#[must_use]
pub fn binary() -> PathBuf {
    let test = std::env::current_exe().expect("this test's own file");
    let built = test.ancestors().nth(2).expect("target/<profile>/deps/<test>").join("coldstream");
    assert!(built.exists(), "{} is missing: cargo build -p ops --bins", built.display());
    built
}

/// A file of the folder that CONTENT_HISTORIES names; `None` if it names none: the test is skipped then.
///
/// # Panics
/// In CI if it names none, and everywhere if it names a folder without the file.
#[must_use]
pub fn history(name: &str) -> Option<PathBuf> {
    let Some(folder) = std::env::var_os("CONTENT_HISTORIES") else {
        assert!(std::env::var_os("CI").is_none(), "CONTENT_HISTORIES is not set");
        return None;
    };
    let file = PathBuf::from(folder).join(name);
    assert!(file.exists(), "{} is missing", file.display());
    Some(file)
}
