//! One run: draws steps, does them against the world, lets the models look after each, and in the end lets all faults
//! stop and asks for what has to come about then. The only place where world, steps and models meet.

mod ending;
mod operator;
mod verdict;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::future::poll_fn;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use archiver::seal::Demand;
use domain::append::LogHead;
use domain::log::{Direction, LogReader};
use domain::{Position, StreamName, StreamVersion, Timestamp};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::timeout;

use crate::acts::{self, Done, Query, Work};
use crate::archive::Shelves;
use crate::client;
use crate::ledger::{Expected, Kept, Ledger, Violation, index};
use crate::life::{Cut, Point};
use crate::steps::{Mixture, Step, weather};
use crate::world::{Process, World};

/// So many of the last steps are told when a promise is broken.
const TOLD_STEPS: usize = 30;
/// In simulated time: whatever still waits then waits for something that is held up.
const STUCK_AFTER: Duration = Duration::from_secs(3600);
const SECOND: i64 = 1_000_000;
const DAY: i64 = 86_400 * SECOND;

/// What runs came to.
#[derive(Debug, Default)]
pub(crate) struct Report {
    events: u64,
    promotions: u64,
    lost: u64,
    pruned: u64,
    damages: u64,
    /// After which named steps acts were cut or held up, and how often.
    cuts: BTreeMap<&'static str, u64>,
    /// Digest of all steps and what came of them.
    pub(crate) told: u64,
}

impl Report {
    pub(crate) fn add(&mut self, other: Self) {
        self.events += other.events;
        self.promotions += other.promotions;
        self.lost += other.lost;
        self.pruned += other.pruned;
        self.damages += other.damages;
        self.told ^= other.told;
        for (step, times) in other.cuts {
            *self.cuts.entry(step).or_default() += times;
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { events, promotions, lost, pruned, damages, cuts, told: _ } = self;
        write!(f, "{events} events, {pruned} of them pruned, {promotions} promotions that lost {lost} events, ")?;
        write!(f, "{damages} objects damaged, acts cut or held up after {cuts:?}")
    }
}

/// A broken promise, and how it came to it.
pub(crate) struct Failure {
    pub(crate) violation: Violation,
    pub(crate) step: u64,
    pub(crate) trace: Vec<String>,
}

/// An act that is held up.
struct Held {
    what: String,
    site: usize,
    work: Work,
}

/// What was so when an act began.
type Before = Option<(LogHead, Option<Expected>)>;

enum Ended {
    Done(Box<Done>),
    Held,
    Died,
}

pub(crate) struct Sim {
    world: World,
    ledger: Ledger,
    shelves: Shelves,
    rng: StdRng,
    mixture: Mixture,
    held: Option<Held>,
    step: u64,
    damages: u64,
    /// Which regions got an empty log that is not filled again.
    unfilled: [bool; 2],
    /// Whether everything has to succeed: the faults have stopped.
    quiet: bool,
    trace: VecDeque<String>,
    /// Of all that was told: two runs of one seed are the same.
    told: DefaultHasher,
}

/// Runs `steps` steps from `seed` and then the ending.
pub(crate) fn run(seed: u64, steps: u64) -> Result<Report, Box<Failure>> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().expect("a runtime");
    let mut sim = Sim::new(seed);
    let ended = runtime.block_on(sim.whole(steps));
    let failed = |violation| Failure { violation, step: sim.step, trace: sim.trace.iter().cloned().collect() };
    ended.map_err(|violation| Box::new(failed(violation)))?;
    Ok(Report {
        events: sim.ledger.head(),
        promotions: sim.ledger.promotions,
        lost: sim.ledger.lost,
        pruned: sim.shelves.pruned_by_both(),
        damages: sim.damages,
        cuts: sim.world.gate.cuts(),
        told: sim.told.finish(),
    })
}

impl Sim {
    fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mixture = Mixture::draw(&mut rng);
        Self {
            world: World::new(seed),
            ledger: Ledger::new(),
            shelves: Shelves::default(),
            rng,
            mixture,
            held: None,
            step: 0,
            damages: 0,
            unfilled: [false; 2],
            quiet: false,
            trace: VecDeque::new(),
            told: DefaultHasher::new(),
        }
    }

    async fn whole(&mut self, steps: u64) -> Result<(), Violation> {
        for number in [0, 1] {
            self.start(number).await?;
        }
        for step in 1..=steps {
            self.step = step;
            self.world.time.pass(self.rng.random_range(1_000..SECOND));
            let next = self.mixture.next(&mut self.rng);
            self.one(next).await?;
            if step.is_multiple_of(25) {
                self.shelves.look_for_healed(&self.world).await;
                self.shelves.inspect(&self.world, &self.ledger).await?;
            }
        }
        self.ending().await
    }

    fn tell(&mut self, what: String) {
        if std::env::var_os("SIM_ALOUD").is_some() {
            eprintln!("{:>5}  {what}", self.step);
        }
        what.hash(&mut self.told);
        if self.trace.len() == TOLD_STEPS {
            self.trace.pop_front();
        }
        self.trace.push_back(format!("{:>5}  {what}", self.step));
    }

    fn site(&mut self) -> usize {
        self.rng.random_range(0..2)
    }

    /// Mostly the region that takes appends.
    fn addressed(&mut self) -> usize {
        if self.rng.random_ratio(1, 12) { self.site() } else { self.ledger.holder }
    }

    async fn one(&mut self, step: Step) -> Kept {
        match step {
            Step::Append | Step::Retry | Step::Contradict => self.append(step).await,
            Step::Read => self.read().await,
            Step::Follow => {
                let rounds = self.rng.random_range(1..6);
                self.worker("follow", move |process| acts::follow(process, rounds)).await
            }
            Step::Cosign => self.worker("cosign", acts::cosign).await,
            Step::Mirror => self.worker("mirror", acts::mirror).await,
            Step::Seal => self.worker("seal", |process| acts::seal(process, Demand::ByRules)).await,
            Step::SealAll => self.worker("seal all", |process| acts::seal(process, Demand::Everything)).await,
            Step::Prune => self.worker("prune", acts::prune).await,
            Step::Scrub => {
                let budget = self.rng.random_range(1..20_000);
                self.worker("scrub", move |process| acts::scrub(process, budget)).await
            }
            Step::Sweep => self.worker("sweep", acts::sweep).await,
            Step::Watch => self.worker("watch", acts::watch).await,
            Step::Hour => self.hour().await.map(|_| ()),
            Step::Switchover | Step::Force | Step::Resume | Step::Confirm => self.operate(step).await,
            Step::Start => {
                let site = self.site();
                if self.world.sites[site].running().is_none() { self.start(site).await } else { Ok(()) }
            }
            _ => self.befall(step).await,
        }
    }

    /// What happens to the world without anybody's doing.
    async fn befall(&mut self, step: Step) -> Kept {
        let site = self.site();
        match step {
            Step::Tick => {
                let micros = self.rng.random_range(1..3600) * SECOND;
                self.world.time.pass(micros);
                return Ok(());
            }
            Step::Months => {
                let days = self.rng.random_range(10..100);
                self.world.time.pass(days * DAY);
                self.tell(format!("{days} days pass"));
            }
            Step::Skew => {
                let micros = self.rng.random_range(-60..60) * SECOND;
                self.world.sites[site].clock.off_by_micros.store(micros, Ordering::SeqCst);
                self.tell(format!("the clock of {} is off by {} s", self.world.sites[site].name(), micros / SECOND));
            }
            Step::Damage => return self.damage(site).await,
            Step::Crash => self.crash(site, "killed"),
            Step::CutWire => {
                let (peers, buckets) = [(false, false), (false, true), (true, false)][self.rng.random_range(0..3)];
                self.world.wire.set(peers, buckets);
                self.tell(format!("wire: regions {peers}, buckets {buckets}"));
            }
            Step::MendWire => self.world.wire.set(true, true),
            Step::Replace if self.ledger.branched[site].is_some() && site != self.ledger.holder => {
                self.replace(site).await?;
            }
            Step::Release => return self.release().await,
            Step::Weather => {
                let dials = weather(&mut self.rng);
                self.world.turn(dials);
                self.tell(format!("{dials:?}"));
            }
            _ => {}
        }
        self.look().await
    }

    async fn damage(&mut self, site: usize) -> Kept {
        self.shelves.look_for_healed(&self.world).await;
        let keys = self.shelves.damageable(&self.world, site).await;
        if keys.is_empty() {
            return Ok(());
        }
        let (key, way) = (self.rng.random_range(0..keys.len()), self.rng.random_range(0..1000));
        self.shelves.damage(&self.world, site, &keys[key], way).await;
        self.damages += 1;
        self.tell(format!("{} of {} is damaged, way {}", keys[key], self.world.sites[site].name(), way % 3));
        Ok(())
    }

    async fn replace(&mut self, site: usize) -> Kept {
        self.crash(site, "replaced by an empty log");
        self.world.sites[site].replace_log();
        self.ledger.emptied(site);
        self.shelves.emptied(site);
        self.unfilled[site] = true;
        self.start(site).await
    }

    fn crash(&mut self, site: usize, why: &str) {
        self.world.sites[site].crash();
        self.held = self.held.take().filter(|held| held.site != site);
        self.tell(format!("{}: {why}", self.world.sites[site].name()));
    }

    async fn start(&mut self, site: usize) -> Kept {
        self.world.sites[site].start();
        let process = self.world.sites[site].running().expect("it has just been started");
        self.act(site, "start".into(), acts::watch(process), None).await
    }

    async fn worker(&mut self, what: &str, work: impl FnOnce(Arc<Process>) -> Work) -> Kept {
        let site = self.site();
        self.worker_of(site, what, work).await
    }

    async fn worker_of(&mut self, site: usize, what: &str, work: impl FnOnce(Arc<Process>) -> Work) -> Kept {
        let running = self.world.sites[site].running();
        // Workers run once the first look of the watch is over; only the watch itself runs before.
        let ready = running.filter(|process| what == "watch" || process.serves.load(Ordering::SeqCst));
        match ready {
            Some(process) => self.act(site, what.to_owned(), work(process), None).await,
            None => Ok(()),
        }
    }

    /// One round of every worker in both regions; says whether anything went wrong.
    async fn hour(&mut self) -> Result<(), Violation> {
        for site in [self.ledger.holder, 1 - self.ledger.holder] {
            self.worker_of(site, "watch", acts::watch).await?;
            self.worker_of(site, "seal", |process| acts::seal(process, Demand::ByRules)).await?;
        }
        let follower = 1 - self.ledger.holder;
        self.worker_of(follower, "follow", |process| acts::follow(process, 100)).await?;
        for site in [self.ledger.holder, follower, self.ledger.holder] {
            self.worker_of(site, "cosign", acts::cosign).await?;
            for _ in 0..4 {
                self.worker_of(site, "mirror", acts::mirror).await?;
            }
            self.worker_of(site, "prune", acts::prune).await?;
        }
        Ok(())
    }

    async fn append(&mut self, step: Step) -> Kept {
        let number = match step {
            Step::Append => {
                let request = client::fresh(&self.ledger, &mut self.rng);
                self.ledger.send(request)
            }
            _ if self.ledger.sent.is_empty() => return Ok(()),
            _ => {
                // Mostly what was sent lately, sometimes what is long pruned.
                let count = self.ledger.sent.len();
                let back = if self.rng.random_bool(0.5) { count.min(8) } else { count };
                let known = count - 1 - self.rng.random_range(0..back);
                if step == Step::Contradict {
                    let known = self.ledger.sent[known].request.clone();
                    let wrong = client::contradicting(&self.ledger, &known, &mut self.rng);
                    self.ledger.send(wrong)
                } else {
                    known
                }
            }
        };
        let site = self.addressed();
        let Some(process) = self.world.sites[site].serving() else { return Ok(()) };
        let head = self.world.sites[site].disk().log_head().await.expect("a twin answers");
        let expected = self.ledger.expect(number, head.pruned.get());
        let request = self.ledger.sent[number].request.clone();
        let what = format!("append {number} ({} events)", request.events.len());
        let before = Some((head, Some(expected)));
        self.act(site, what, acts::append(process, number, request), before).await
    }

    async fn read(&mut self) -> Kept {
        let site = self.site();
        let head = self.world.sites[site].disk().log_head().await.expect("a twin answers");
        let head = head.head.get();
        let Some(process) = self.world.sites[site].serving() else { return Ok(()) };
        if head == 0 || self.ledger.branched[site].is_some() || head > self.ledger.head() {
            return Ok(());
        }
        let position = self.rng.random_range(1..=head);
        let line = &self.ledger.lines[index(position - 1)];
        let direction = if self.rng.random_bool(0.5) { Direction::Forward } else { Direction::Backward };
        let limit = self.rng.random_range(1..300);
        let work = match self.rng.random_range(0..5) {
            0..=1 => {
                let from = Position::new(position).expect("from 1");
                acts::read(process, Query::Log(from, direction, limit))
            }
            2..=3 => {
                let stream = StreamName::parse(&line.stream).expect("a name");
                let version = StreamVersion::new(line.version).expect("from 1");
                acts::read(process, Query::Stream(stream, version, direction, limit))
            }
            _ => acts::as_of(process, Timestamp::parse_rfc3339(&line.recordedat).expect("an instant")),
        };
        self.act(site, "read".into(), work, None).await
    }

    /// Lets what is held up go on to its end.
    async fn release(&mut self) -> Kept {
        let Some(held) = self.held.take() else { return Ok(()) };
        let Held { what, site, work } = held;
        self.ended(site, format!("{what} (held up until now)"), work, None).await
    }

    /// Does an act, maybe cut or held up by chance, and lets the models look.
    async fn act(&mut self, site: usize, what: String, work: Work, before: Before) -> Kept {
        let roll = self.rng.random_range(0..100);
        let (crashes, holds) = (self.mixture.crashes, self.mixture.holds);
        let cut = match roll {
            _ if self.quiet => None,
            roll if roll < crashes => Some(Cut::Crash),
            roll if roll < crashes + holds && self.held.is_none() => Some(Cut::Hold),
            _ => None,
        };
        let point = if self.rng.random_bool(0.5) {
            Point::Call(self.rng.random_range(0..40))
        } else {
            Point::Reached(self.rng.random_range(0..4))
        };
        self.world.gate.arm(cut.map(|cut| (point, cut)));
        self.ended(site, what, work, before).await
    }

    async fn ended(&mut self, site: usize, what: String, mut work: Work, before: Before) -> Kept {
        let mut ended = self.drive(site, &mut work).await;
        if ended.is_none()
            && let Some(mut held) = self.held.take()
        {
            // It waits for what is held up: both go on together.
            let (one, other) = tokio::join!(self.drive(site, &mut work), self.drive(held.site, &mut held.work));
            ended = one;
            let Held { what, site, work } = held;
            self.finish(site, format!("{what} (waited for)"), other, work, None).await?;
        }
        self.finish(site, what, ended, work, before).await
    }

    async fn finish(&mut self, site: usize, what: String, ended: Option<Ended>, work: Work, before: Before) -> Kept {
        self.world.gate.arm(None);
        let Some(ended) = ended else {
            return Err(Violation { promise: "liveness", what: format!("{what} waits for ever") });
        };
        // A batch that is fetched ahead arrives before the next step.
        let _ = timeout(Duration::from_millis(1), std::future::pending::<()>()).await;
        let name = self.world.sites[site].name();
        match ended {
            Ended::Done(done) => {
                self.told(format!("{name}: {what}"), &done);
                self.bury();
                self.judge(site, &what, *done, before).await
            }
            Ended::Held => {
                self.tell(format!("{name}: {what} is held up"));
                self.held = Some(Held { what, site, work });
                self.look().await
            }
            Ended::Died => {
                drop(work);
                self.tell(format!("{name}: {what} dies"));
                self.bury();
                self.look().await
            }
        }
    }

    /// Polls an act until it ends, is held up, or its region dies; `None`: it is stuck.
    async fn drive(&self, site: usize, work: &mut Work) -> Option<Ended> {
        let running = self.world.sites[site].running();
        let moving = poll_fn(|context| match work.as_mut().poll(context) {
            Poll::Ready(done) => Poll::Ready(Ended::Done(Box::new(done))),
            Poll::Pending if self.world.gate.take_held() => Poll::Ready(Ended::Held),
            Poll::Pending if running.as_ref().is_some_and(|process| process.life.is_dead()) => Poll::Ready(Ended::Died),
            Poll::Pending => Poll::Pending,
        });
        timeout(STUCK_AFTER, moving).await.ok()
    }

    /// Takes away the processes that died in an act.
    fn bury(&mut self) {
        for site in 0..2 {
            if self.world.sites[site].has_died() {
                self.crash(site, "died");
            }
        }
    }
}
