//! Which step comes next: every run has its own mixture, drawn from its seed, so that some runs crash all the time
//! and others never. It draws; it does nothing.

use rand::Rng;
use rand::rngs::StdRng;

use crate::world::Dials;

/// One step. Numbers are regions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Append,
    Retry,
    Contradict,
    Read,
    Follow,
    Cosign,
    Mirror,
    Seal,
    SealAll,
    Prune,
    Scrub,
    Sweep,
    Watch,
    /// A round of everything in both regions, as an hour of quiet service would do.
    Hour,
    Tick,
    Months,
    Skew,
    Damage,
    Crash,
    Start,
    CutWire,
    MendWire,
    Switchover,
    Force,
    Resume,
    Confirm,
    /// A region with events beyond a fork gets an empty log.
    Replace,
    /// The act that is held up goes on.
    Release,
    /// What goes wrong goes wrong more or less often from now on.
    Weather,
}

const WEIGHTS: [(Step, u32); 29] = [
    (Step::Append, 90),
    (Step::Retry, 30),
    (Step::Contradict, 8),
    (Step::Read, 30),
    (Step::Follow, 40),
    (Step::Cosign, 30),
    (Step::Mirror, 30),
    (Step::Seal, 16),
    (Step::SealAll, 8),
    (Step::Prune, 10),
    (Step::Scrub, 6),
    (Step::Sweep, 2),
    (Step::Watch, 12),
    (Step::Hour, 10),
    (Step::Tick, 20),
    (Step::Months, 5),
    (Step::Skew, 2),
    (Step::Damage, 6),
    (Step::Crash, 5),
    (Step::Start, 20),
    (Step::CutWire, 4),
    (Step::MendWire, 10),
    (Step::Switchover, 6),
    (Step::Force, 8),
    (Step::Resume, 4),
    (Step::Confirm, 4),
    (Step::Replace, 6),
    (Step::Release, 14),
    (Step::Weather, 4),
];

/// The mixture of one run.
pub(crate) struct Mixture {
    steps: Vec<(Step, u32)>,
    total: u32,
    /// Of 100 acts so many are cut by a crash, and so many are held up.
    pub(crate) crashes: u32,
    pub(crate) holds: u32,
}

impl Mixture {
    pub(crate) fn draw(rng: &mut StdRng) -> Self {
        let rare = [Step::Damage, Step::Crash, Step::CutWire, Step::Switchover, Step::Force, Step::Sweep];
        let mut steps = Vec::new();
        for (step, weight) in WEIGHTS {
            let factors: &[u32] = if rare.contains(&step) { &[0, 1, 1, 3] } else { &[1, 1, 2] };
            steps.push((step, weight * factors[rng.random_range(0..factors.len())]));
        }
        let total = steps.iter().map(|(_, weight)| weight).sum();
        let often = |rng: &mut StdRng| [0, 2, 10][rng.random_range(0..3)];
        Self { steps, total, crashes: often(rng), holds: often(rng) }
    }

    pub(crate) fn next(&self, rng: &mut StdRng) -> Step {
        let mut roll = rng.random_range(0..self.total);
        for (step, weight) in &self.steps {
            match roll.checked_sub(*weight) {
                Some(left) => roll = left,
                None => return *step,
            }
        }
        Step::Tick
    }
}

/// How often things go wrong, from never to all the time.
pub(crate) fn weather(rng: &mut StdRng) -> Dials {
    if rng.random_bool(0.3) {
        return Dials::QUIET;
    }
    let rate = |rng: &mut StdRng| [0, 0, 60, 200, 600][rng.random_range(0..5)];
    Dials {
        store: rate(rng).into(),
        database: rate(rng),
        wire: rate(rng) / 8,
        hang: rate(rng) * 2,
        line: rate(rng) / 20,
    }
}
