//! The life of a region's process, and where it is cut: before any call of a port, a process can die or an
//! operation can be held up while others go on. It knows calls and named steps, never what they do.

use std::collections::BTreeMap;
use std::future::{pending, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use archiver::StepObserver;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// What happens at the chosen point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// The process that makes the call dies before it.
    Crash,
    /// The operation stops before the call, and goes on much later.
    Hold,
}

/// Which point of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Point {
    /// Before so many more calls of ports.
    Call(u32),
    /// At the first call after so many more named steps.
    Reached(u32),
}

#[derive(Default)]
struct Armed {
    cut: Option<(Point, Cut)>,
    held: bool,
    last: Option<&'static str>,
    after: BTreeMap<&'static str, u64>,
}

/// Where the operation under way is cut. One for the whole world: one operation moves at a time.
#[derive(Default)]
pub(crate) struct Gate(Mutex<Armed>);

impl Gate {
    fn armed(&self) -> MutexGuard<'_, Armed> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The operation that begins now is cut there, if it comes so far; `None`: nowhere.
    pub(crate) fn arm(&self, cut: Option<(Point, Cut)>) {
        let mut armed = self.armed();
        (armed.cut, armed.held, armed.last) = (cut, false, None);
    }

    /// Whether the operation was held up, once.
    pub(crate) fn take_held(&self) -> bool {
        std::mem::take(&mut self.armed().held)
    }

    /// After which named steps operations were cut, and how often.
    pub(crate) fn cuts(&self) -> BTreeMap<&'static str, u64> {
        self.armed().after.clone()
    }

    fn call(&self) -> Option<Cut> {
        let mut armed = self.armed();
        let (Point::Call(left), cut) = armed.cut? else { return None };
        if left > 0 {
            armed.cut = Some((Point::Call(left - 1), cut));
            return None;
        }
        armed.cut = None;
        armed.held = cut == Cut::Hold;
        if let Some(step) = armed.last {
            *armed.after.entry(step).or_default() += 1;
        }
        Some(cut)
    }

    fn reached(&self, step: &'static str) {
        let mut armed = self.armed();
        armed.last = Some(step);
        if let Some((Point::Reached(left), cut)) = armed.cut {
            let point = left.checked_sub(1).map_or(Point::Call(0), Point::Reached);
            armed.cut = Some((point, cut));
        }
    }
}

/// One life of one process.
pub(crate) struct Life {
    gate: Arc<Gate>,
    dead: AtomicBool,
    database: Arc<Dice>,
}

impl Life {
    pub(crate) fn new(gate: Arc<Gate>, database: Arc<Dice>) -> Arc<Self> {
        Arc::new(Self { gate, dead: AtomicBool::new(false), database })
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    pub(crate) fn kill(&self) {
        self.dead.store(true, Ordering::SeqCst);
    }

    /// Stands before every call of a port. It does not come back in a process that is dead or dies here.
    pub(crate) async fn pass(&self) {
        // What runs beside the operation (a batch fetched ahead) is not counted: where it stands is not chosen.
        let beside = tokio::task::try_id().is_some();
        match if beside { None } else { self.gate.call() } {
            Some(Cut::Crash) => self.kill(),
            Some(Cut::Hold) => wait_for_the_next_poll().await,
            None => {}
        }
        if self.is_dead() {
            pending::<()>().await;
        }
    }

    /// Whether this call of the database fails.
    pub(crate) fn database_fails(&self) -> bool {
        self.database.is_hit()
    }

    /// Does `work` inside this process: `None` if it dies meanwhile.
    pub(crate) async fn guard<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        poll_fn(|context| match work.as_mut().poll(context) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending if self.is_dead() => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        })
        .await
    }
}

impl StepObserver for Life {
    fn reached(&self, step: &'static str) {
        self.gate.reached(step);
    }
}

/// Nobody is woken: whoever holds the operation polls it again when it may go on.
async fn wait_for_the_next_poll() {
    let mut first = true;
    poll_fn(|_| if std::mem::take(&mut first) { Poll::Pending } else { Poll::Ready(()) }).await;
}

/// Chance of one sort, with a generator of its own: how often one thing goes wrong changes nothing else.
pub(crate) struct Dice(Mutex<(StdRng, u32)>);

impl Dice {
    /// Hits one time in `one_in`; 0: never.
    pub(crate) fn new(seed: u64, one_in: u32) -> Arc<Self> {
        Arc::new(Self(Mutex::new((StdRng::seed_from_u64(seed), one_in))))
    }

    fn state(&self) -> MutexGuard<'_, (StdRng, u32)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn turn_to(&self, one_in: u32) {
        self.state().1 = one_in;
    }

    pub(crate) fn is_hit(&self) -> bool {
        let (generator, one_in) = &mut *self.state();
        *one_in > 0 && generator.random_ratio(1, *one_in)
    }

    /// A number below `end`.
    pub(crate) fn below(&self, end: usize) -> usize {
        self.state().0.random_range(0..end)
    }
}
