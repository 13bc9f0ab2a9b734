//! Randomness for tests: seeds, which they print, names, and moments that nobody has to find again.

use rand::distr::{Distribution, StandardUniform};
use rand::rngs::ThreadRng;

/// A random value.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "a test draws its seed here, and prints it")]
pub fn random<T>() -> T
where
    StandardUniform: Distribution<T>,
{
    rand::random()
}

/// The system's generator, for more than one value or another distribution.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "a test draws its seed here, and prints it")]
pub fn generator() -> ThreadRng {
    rand::rng()
}
