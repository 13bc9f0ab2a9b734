//! Randomness for tests: seeds, which they print, names, and moments that nobody has to find again.

use std::time::Duration;

use rand::Rng;
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

/// More are never needed, on a machine of any speed.
const ROUNDS_MAX: u32 = 5_000;

/// Random moments at which to cut something off: over a span that shrinks while it ends before its moment and grows
/// while it is cut, so that about half are cut on a machine of any speed, and early, late and finished ones occur.
#[derive(Debug)]
pub struct Moments {
    span: Duration,
    cut: u32,
    ended: u32,
}

impl Moments {
    /// Moments of at first up to `span`.
    #[must_use]
    pub const fn within(span: Duration) -> Self {
        Self { span, cut: 0, ended: 0 }
    }

    /// The next moment.
    pub fn draw(&self, rng: &mut impl Rng) -> Duration {
        self.span.mul_f64(rng.random_range(0.0..1.0)).max(Duration::from_micros(1))
    }

    /// Counts what came of the last moment.
    ///
    /// # Panics
    /// After thousands: what is cut ends before any moment that a timer can tell.
    pub fn was_cut(&mut self, cut: bool) {
        assert!(self.ended < ROUNDS_MAX, "too little is cut: {self:?}");
        if cut {
            self.cut += 1;
            self.span = self.span.mul_f64(1.25);
        } else {
            self.ended += 1;
            self.span = self.span.mul_f64(0.75);
        }
    }

    /// How many were cut off and how many ended before.
    #[must_use]
    pub const fn counts(&self) -> (u32, u32) {
        (self.cut, self.ended)
    }
}
