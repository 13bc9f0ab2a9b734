//! The engine: damages valid bytes in ways that know how formats are made, gives them to a reader, and says with which
//! seed and case a reader broke. Must never depend on a clock in its short form: the same cases every time.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use ops::clock::Stopwatch;
use proptest::prop_assert;
use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

/// The seed of the short form, and of a long one that is told it.
const SEED_VARIABLE: &str = "FUZZ_SEED";
/// How long each target runs in the long form.
const SECONDS_VARIABLE: &str = "FUZZ_SECONDS";

/// Counts what the thread that reads has allocated.
struct Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static MOST: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: usize, sign: isize) {
    let bytes = isize::try_from(bytes).unwrap_or(isize::MAX);
    // A thread that ends has no counters any more, and nothing to be counted.
    let _ = HELD.try_with(|held| {
        held.set(held.get().saturating_add(sign * bytes));
        MOST.with(|most| most.set(most.get().max(held.get())));
    });
}

#[expect(unsafe_code, reason = "a global allocator is unsafe to write; this one counts and asks the system's")]
// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 1);
        // SAFETY: the caller's promises are the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(layout.size(), -1);
        // SAFETY: the caller's promises are the system's.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// The most bytes that were allocated at once while `act` ran, beyond those before it.
fn most_allocated(act: impl FnOnce()) -> usize {
    let before = HELD.get();
    MOST.set(before);
    act();
    usize::try_from(MOST.get() - before).unwrap_or(0)
}

/// What a target says of one case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The reader accepted it, and what it gave kept its promises.
    Accepted,
    /// The reader refused it.
    Refused,
}

/// A reader under test.
pub(crate) struct Target<'a> {
    pub(crate) name: &'static str,
    /// Valid inputs.
    pub(crate) corpus: &'a [Vec<u8>],
    /// Cases of the short form.
    pub(crate) cases: u64,
    /// A reader allocates at most this much at once, and [`BYTES_PER_BYTE`] times its input.
    pub(crate) bytes_max: usize,
}

/// Values that a reader makes of a byte of its input hold no more than this, and their containers twice as much.
const BYTES_PER_BYTE: usize = 256;

impl Target<'_> {
    /// Gives damaged inputs to `read`, which panics where a promise is broken.
    pub(crate) fn run(&self, read: impl Fn(&[u8]) -> Verdict) {
        for valid in self.corpus {
            assert_eq!(read(valid), Verdict::Accepted, "{}: an input of the corpus", self.name);
        }
        let (course, mut case, mut accepted) = (Course::begin(), 0, 0_u64);
        let seed = course.seed;
        while !course.is_over(case, self.cases) {
            let input = self.input(seed, case);
            let mut verdict = Verdict::Refused;
            let ran = catch_unwind(AssertUnwindSafe(|| most_allocated(|| verdict = read(&input))));
            let most = ran.unwrap_or_else(|panic| {
                self.tell(seed, case, &input);
                resume_unwind(panic)
            });
            let bound = self.bytes_max + BYTES_PER_BYTE * input.len();
            if most > bound {
                self.tell(seed, case, &input);
                panic!("{}: {most} bytes allocated for {} of input, at most {bound}", self.name, input.len());
            }
            accepted += u64::from(verdict == Verdict::Accepted);
            case += 1;
        }
        course.say(self.name, case, accepted);
    }

    /// The input of one case: it depends on seed, target and case alone.
    fn input(&self, seed: u64, case: u64) -> Vec<u8> {
        let mut seeds = [0; 32];
        seeds[..8].copy_from_slice(&seed.to_le_bytes());
        seeds[8..16].copy_from_slice(&case.to_le_bytes());
        for (to, from) in seeds[16..].iter_mut().zip(self.name.bytes()) {
            *to = from;
        }
        let mut random = StdRng::from_seed(seeds);
        if random.random_ratio(1, 32) {
            return arbitrary(&mut random);
        }
        let mut bytes = self.corpus.choose(&mut random).expect("a corpus").clone();
        for _ in 0..random.random_range(1..=4) {
            damage(&mut bytes, self.corpus, &mut random);
        }
        bytes
    }

    fn tell(&self, seed: u64, case: u64, input: &[u8]) {
        let shown: String = input.iter().take(4_096).flat_map(|byte| byte.escape_ascii().map(char::from)).collect();
        println!("fuzz {}: broken by seed {seed}, case {case}, {} bytes: b\"{shown}\"", self.name, input.len());
    }
}

/// What is drawn by a strategy of proptest, which finds the smallest value that breaks the property.
pub(crate) struct Drawn {
    pub(crate) name: &'static str,
    /// Cases of the short form, and of each round of a long one.
    pub(crate) cases: u32,
    /// One case allocates at most this much at once.
    pub(crate) bytes_max: usize,
}

impl Drawn {
    /// Gives what is drawn to `holds`, which panics where a promise is broken; gives how much of it was accepted, in parts.
    pub(crate) fn hold<S: Strategy>(&self, strategy: &S, holds: impl Fn(&S::Value) -> Verdict) -> f64 {
        let (course, round, accepted) = (Course::begin(), Cell::new(0_u32), Cell::new(0_u32));
        while !course.is_over(u64::from(round.get()), 1) {
            let mut seeds = [0; 32];
            seeds[..8].copy_from_slice(&course.seed.to_le_bytes());
            seeds[8..12].copy_from_slice(&round.get().to_le_bytes());
            let config = Config { cases: self.cases, failure_persistence: None, ..Config::default() };
            let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &seeds));
            let held = runner.run(strategy, |value| {
                let mut verdict = Verdict::Refused;
                let most = most_allocated(|| verdict = holds(&value));
                prop_assert!(most <= self.bytes_max, "{most} bytes allocated, at most {}", self.bytes_max);
                accepted.set(accepted.get() + u32::from(verdict == Verdict::Accepted));
                Ok(())
            });
            held.unwrap_or_else(|broken| {
                panic!("fuzz {}: broken by seed {}, round {}: {broken}", self.name, course.seed, round.get())
            });
            round.set(round.get() + 1);
        }
        let cases = u64::from(round.get()) * u64::from(self.cases);
        course.say(self.name, cases, u64::from(accepted.get()));
        f64::from(accepted.get()) / f64::from(round.get() * self.cases)
    }
}

/// How long a target runs, and from which seed.
struct Course {
    seed: u64,
    seconds: Option<u64>,
    watch: Stopwatch,
}

impl Course {
    fn begin() -> Self {
        let seconds = variable(SECONDS_VARIABLE);
        let other = || if seconds.is_some() { system_tests::chance::random() } else { 1 };
        Self { seed: variable(SEED_VARIABLE).unwrap_or_else(other), seconds, watch: Stopwatch::start() }
    }

    /// Whether `done` are all of the short form's, or the time of the long one is over.
    fn is_over(&self, done: u64, short: u64) -> bool {
        match self.seconds {
            Some(seconds) => self.watch.elapsed() >= Duration::from_secs(seconds),
            None => done == short,
        }
    }

    fn say(&self, name: &str, cases: u64, accepted: u64) {
        // Past the capture of the tests' runner, which keeps what `println!` says of a test that holds to itself.
        let said = format!("fuzz {name}: {cases} cases, {accepted} of them accepted, seed {}\n", self.seed);
        std::io::stdout().write_all(said.as_bytes()).expect("somebody listens");
    }
}

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text:?} is a number")))
}

fn arbitrary(random: &mut StdRng) -> Vec<u8> {
    let mut bytes = vec![0; random.random_range(0..600)];
    random.fill(&mut bytes[..]);
    bytes
}

/// Bytes with a meaning in one of the formats.
const BYTES: &[u8] = b"\"\\{}[]:,.-+0123456789eE@ \n\t\x00\x01\x7f\x80\xc2\x85\xff";
/// Texts with a meaning in one of the formats.
const TEXTS: [&[u8]; 22] = [
    b"18446744073709551616",
    b"18446744073709551615",
    b"9223372036854775808",
    b"9223372036854775807",
    b"-1",
    b"0",
    b"00",
    b"1e400",
    b"null",
    b"true",
    b"{}",
    b"[]",
    b"\"\"",
    b"\\u0000",
    b"\\ud800",
    b"\\ud83d\\ude00",
    b"\xef\xbb\xbf",
    b"\xf0\x9f\x98\x80",
    b",\"id\":\"twice\"",
    b"9999-12-31T23:59:59.999999Z",
    b"0001-01-01T00:00:00.000000Z",
    b"\n\n\xe2\x80\x94 home AAAA\n",
];

/// One damage: what rot, a bug or an attacker may do to bytes.
fn damage(bytes: &mut Vec<u8>, corpus: &[Vec<u8>], random: &mut StdRng) {
    let at = random.random_range(0..=bytes.len());
    let end = (at + random.random_range(1..=64)).min(bytes.len());
    match random.random_range(0..11) {
        0 if at < bytes.len() => bytes[at] ^= 1 << random.random_range(0..8),
        1 if at < bytes.len() => bytes[at] = *BYTES.choose(random).expect("some"),
        2 => bytes.insert(at, *BYTES.choose(random).expect("some")),
        3 => bytes.truncate(at),
        4 => drop(bytes.drain(at..end)),
        5 => {
            let part = bytes[at..end].to_vec();
            let to = random.random_range(0..=bytes.len());
            drop(bytes.splice(to..to, part));
        }
        6 => {
            let other = corpus.choose(random).expect("a corpus");
            let from = random.random_range(0..=other.len());
            let to = (from + random.random_range(1..=256)).min(other.len());
            drop(bytes.splice(at..end, other[from..to].iter().copied()));
        }
        7 => number(bytes, at, random),
        8 => digits(bytes, at, random),
        9 => drop(bytes.splice(at..at, TEXTS.choose(random).expect("some").iter().copied())),
        _ => {
            let opening = *b"[{\"".choose(random).expect("some");
            drop(bytes.splice(at..at, vec![opening; random.random_range(1..200)]));
        }
    }
}

/// A length or count in the binary formats, made extreme.
fn number(bytes: &mut [u8], at: usize, random: &mut StdRng) {
    let length = u64::try_from(bytes.len()).expect("a length");
    let numbers = [0, 1, 0x7f, 0xff, 0xffff, 0x7fff_ffff, 0xffff_ffff, u64::MAX >> 1, u64::MAX, length, length + 1];
    let number = numbers.choose(random).expect("some").to_le_bytes();
    let width = *[1, 2, 4, 8].choose(random).expect("some");
    for (to, from) in bytes[at..].iter_mut().zip(&number[..width]) {
        *to = *from;
    }
}

/// The first number in text from `at` on, made another.
fn digits(bytes: &mut Vec<u8>, at: usize, random: &mut StdRng) {
    let Some(begin) = bytes[at..].iter().position(u8::is_ascii_digit).map(|from| at + from) else { return };
    let end = bytes[begin..].iter().position(|byte| !byte.is_ascii_digit()).map_or(bytes.len(), |to| begin + to);
    let number = if random.random() { random.random::<u64>() } else { random.random_range(0..20) };
    drop(bytes.splice(begin..end, number.to_string().into_bytes()));
}
