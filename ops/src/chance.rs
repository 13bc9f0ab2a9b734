//! Randomness, which only this module takes from the system: ids, secrets, nonces and names are made of it here and handed
//! to whoever decides (STYLE.md, rule 7).

use rand::distr::{Distribution, StandardUniform};
use rand::rngs::ThreadRng;

/// A random value.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the composition root's one source of randomness")]
pub fn random<T>() -> T
where
    StandardUniform: Distribution<T>,
{
    rand::random()
}

/// The system's generator, for more than one value or another distribution.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the composition root's one source of randomness")]
pub fn generator() -> ThreadRng {
    rand::rng()
}
