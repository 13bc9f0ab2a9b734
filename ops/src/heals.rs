//! What was found damaged in the archive, on the record: an event for each object, and counts. A damage that stays is
//! found again by every read; it stands on the record once, not once a read.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use archiver::heal::{Finding, HealObserver, Outcome};
use async_trait::async_trait;
use domain::append::{AppendError, AppendRequest};
use domain::event::{Data, NewEvent};
use domain::log::EventLog;
use domain::{ErrorKind, StreamName};
use futures::future::BoxFuture;
use replication::fence::FenceError;
use serde_json::json;
use thiserror::Error;
use uuid::Uuid;

use crate::chain::chain;
use crate::chance;

/// The stream of all findings.
const STREAM: &str = "archive-findings";

/// Types of the events.
const HEALED: &str = "segment.healed";
const DAMAGED: &str = "segment.damaged";
const LOST: &str = "segment.lost";

/// A finding that the log could not take is sent again after this; so often at most.
const REPEAT_PAUSE: Duration = Duration::from_secs(5);
const REPEATS_MAX: u32 = 60;

/// By key, the type of the event that says what is wrong with an object now, stored or on its way. What is healed stands
/// here only until that is stored.
type Standing = Arc<Mutex<HashMap<String, &'static str>>>;

/// Whether this region may append.
pub type Permit = dyn Fn() -> BoxFuture<'static, Result<(), FenceError>> + Send + Sync;

/// Counts findings, and appends an event for each that is news.
pub struct HealRecorder {
    log: Arc<dyn EventLog>,
    region: String,
    standing: Standing,
    /// Is asked before an event is appended, where no watch does so all the time (LOG-5).
    permit: Arc<OnceLock<Box<Permit>>>,
    /// Held while an event is on its way: what is found later of an object is recorded later.
    turn: Arc<tokio::sync::Mutex<()>>,
    healed: AtomicU64,
    not_rewritten: AtomicU64,
    lost: AtomicU64,
}

/// How many objects were found damaged since the process started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HealCounts {
    /// Rewritten from the other copy.
    pub healed: u64,
    /// Served from the other copy, and not rewritten.
    pub not_rewritten: u64,
    /// No good copy was to be had.
    pub lost: u64,
}

impl HealRecorder {
    /// Records what `region` finds in `log`.
    #[must_use]
    pub fn new(log: Arc<dyn EventLog>, region: &str) -> Self {
        Self {
            log,
            region: region.to_owned(),
            standing: Standing::default(),
            permit: Arc::default(),
            turn: Arc::default(),
            healed: AtomicU64::new(0),
            not_rewritten: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        }
    }

    /// From now on `permit` is asked before each append. Set once, by the composition root.
    pub fn ask_first(&self, permit: Box<Permit>) {
        // A second one comes too late: there is one root.
        drop(self.permit.set(permit));
    }

    /// What was found so far.
    #[must_use]
    pub fn counts(&self) -> HealCounts {
        HealCounts {
            healed: self.healed.load(Ordering::Relaxed),
            not_rewritten: self.not_rewritten.load(Ordering::Relaxed),
            lost: self.lost.load(Ordering::Relaxed),
        }
    }

    /// Whether the record does not say so already. Each heal is news.
    fn is_news(&self, key: &str, event_type: &'static str) -> bool {
        let mut standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        standing.insert(key.to_owned(), event_type) != Some(event_type) || event_type == HEALED
    }

    fn event(&self, finding: &Finding, event_type: &str) -> NewEvent {
        let outcome = match &finding.outcome {
            Outcome::Healed { etag } => json!({"outcome": "healed", "etag": etag}),
            Outcome::NotRewritten { reason } => json!({"outcome": "not rewritten", "reason": reason}),
            Outcome::Lost { reason } => json!({"outcome": "lost", "reason": reason}),
        };
        let data = json!({
            "region": self.region,
            "object": finding.key,
            "cause": finding.cause,
            "damaged_etag": finding.bad_etag,
            "result": outcome,
        });
        NewEvent {
            id: Uuid::from_bytes(chance::random()).to_string(),
            source: format!("/coldstream/{}", self.region),
            event_type: event_type.to_owned(),
            stream: StreamName::parse(STREAM).expect("a constant name"),
            time: None,
            event_version: Some("1.0".to_owned()),
            data_schema: None,
            data_content_type: Some("application/json".to_owned()),
            extensions: Vec::new(),
            data: Data::Json(data.to_string()),
        }
    }
}

#[async_trait]
impl HealObserver for HealRecorder {
    async fn found(&self, finding: Finding) {
        let (count, event_type) = match finding.outcome {
            Outcome::Healed { .. } => (&self.healed, HEALED),
            Outcome::NotRewritten { .. } => (&self.not_rewritten, DAMAGED),
            Outcome::Lost { .. } => (&self.lost, LOST),
        };
        count.fetch_add(1, Ordering::Relaxed);
        if !self.is_news(&finding.key, event_type) {
            return;
        }
        let request = AppendRequest { events: vec![self.event(&finding, event_type)], ..AppendRequest::default() };
        let (log, standing, turn, key) = (self.log.clone(), self.standing.clone(), self.turn.clone(), finding.key);
        let permit = self.permit.clone();
        // The read that found it does not wait for the record of it.
        tokio::spawn(async move {
            let _turn = turn.lock().await;
            let stored = store(&*log, permit.get().map(|permit| &**permit), request).await;
            if stored.is_err() || event_type == HEALED {
                forget(&standing, &key, event_type);
            }
            if let Err(error) = stored {
                tell(&key, event_type, &error);
            }
        });
    }
}

/// Why a finding is not on the record.
#[derive(Debug, Error)]
#[error(transparent)]
enum NotRecorded {
    Fence(#[from] FenceError),
    Append(#[from] AppendError),
}

impl NotRecorded {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Fence(error) => error.kind(),
            Self::Append(error) => error.kind(),
        }
    }
}

/// Appends `request`, and again with the same ids while it is not known to be stored: it is on the record once.
async fn store(log: &dyn EventLog, permit: Option<&Permit>, request: AppendRequest) -> Result<(), NotRecorded> {
    let mut pause = tokio::time::interval(REPEAT_PAUSE);
    let mut repeats = 0;
    loop {
        pause.tick().await;
        let Err(error) = store_once(log, permit, request.clone()).await else { return Ok(()) };
        let passes = matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Indeterminate);
        if !passes || repeats == REPEATS_MAX {
            return Err(error);
        }
        repeats += 1;
    }
}

async fn store_once(log: &dyn EventLog, permit: Option<&Permit>, request: AppendRequest) -> Result<(), NotRecorded> {
    if let Some(permit) = permit {
        permit().await?;
    }
    log.append(request).await?;
    Ok(())
}

/// An object does not stand so any more, unless something else was found of it since. If that is because the log did not
/// take it, the next one to find it tries again.
fn forget(standing: &Mutex<HashMap<String, &'static str>>, key: &str, event_type: &'static str) {
    let mut standing = standing.lock().unwrap_or_else(PoisonError::into_inner);
    if standing.get(key) == Some(&event_type) {
        standing.remove(key);
    }
}

fn tell(key: &str, event_type: &str, error: &NotRecorded) {
    match error.kind() {
        // Only the region that holds the epoch appends; the finding stands in this process's log.
        ErrorKind::Fenced => {
            tracing::info!(key, event_type, error = %chain(error), "a finding is not on the record");
        }
        _ => tracing::warn!(key, event_type, error = %chain(error), "a finding is not on the record"),
    }
}

#[cfg(test)]
mod tests {
    use domain::append::{Appended, Role};
    use domain::archive::catalog::Segment;
    use domain::log::{Direction, FollowerLog, LogReader, ReadError};
    use domain::merkle::Hash;
    use domain::record::Record;
    use domain::twin::{Between, Interposed, MemoryLog};
    use domain::{Epoch, FixedClock, Head, Position, Timestamp};

    use super::*;

    fn now() -> Timestamp {
        Timestamp::parse_rfc3339("2026-05-01T08:00:00Z").expect("an instant")
    }

    fn log(role: Role) -> Arc<MemoryLog> {
        Arc::new(MemoryLog::new(Arc::new(FixedClock(now())), now(), role))
    }

    fn finding(outcome: Outcome) -> Finding {
        let segment = Segment {
            first: Position::FIRST,
            last: Position::FIRST,
            epoch: Epoch::FIRST,
            bytes: 1,
            record_bytes: 1,
            sha256: Hash::of(b""),
            crc32: 0,
            index_bytes: 1,
            index_sha256: Hash::of(b""),
            index_crc32: 0,
            first_at: now(),
            last_at: now(),
            root: Hash::of(b""),
        };
        Finding { key: "seg/1".into(), segment, cause: "a test".into(), bad_etag: None, outcome }
    }

    async fn types(log: &MemoryLog, events: u64) -> Vec<String> {
        while log.log_head().await.expect("a head").head < Head::new(events).expect("a head") {
            tokio::time::advance(REPEAT_PAUSE).await;
        }
        let records = log.read_log(Position::FIRST, Direction::Forward, 100).await.expect("records");
        let event_type = |record: &Record| match record {
            Record::Event(event) => event.event.event_type.clone(),
            Record::Removed(_) => "removed".to_owned(),
        };
        records.iter().map(event_type).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_damage_that_stays_is_on_the_record_once() {
        let log = log(Role::Active);
        let recorder = HealRecorder::new(log.clone(), "home");
        for _ in 0..3 {
            recorder.found(finding(Outcome::NotRewritten { reason: "read only".into() })).await;
        }
        recorder.found(finding(Outcome::Lost { reason: "gone there too".into() })).await;
        for _ in 0..2 {
            recorder.found(finding(Outcome::Healed { etag: "e".into() })).await;
        }
        recorder.found(finding(Outcome::NotRewritten { reason: "read only".into() })).await;
        assert_eq!(types(&log, 5).await, [DAMAGED, LOST, HEALED, HEALED, DAMAGED]);
        let counts = recorder.counts();
        assert_eq!((counts.not_rewritten, counts.lost, counts.healed), (4, 1, 2), "each finding is counted");
    }

    #[tokio::test(start_paused = true)]
    async fn what_could_not_be_recorded_is_recorded_when_it_is_found_again() {
        let log = log(Role::Follower);
        let recorder = HealRecorder::new(log.clone(), "home");
        let lost = || finding(Outcome::Lost { reason: "gone".into() });
        recorder.found(lost()).await;
        while recorder.standing.lock().expect("not poisoned").contains_key("seg/1") {
            tokio::task::yield_now().await;
        }
        let (one, two) = (Epoch::FIRST, Epoch::FIRST.next());
        log.change_role((one, Role::Follower), (two, Role::Active)).await.expect("promoted");
        recorder.found(lost()).await;
        assert_eq!(types(&log, 1).await, [LOST]);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_watch_it_is_asked_first_whether_this_region_may_append() {
        let log = log(Role::Active);
        let recorder = HealRecorder::new(log.clone(), "home");
        let answers = vec![
            Ok(()),
            Err(FenceError::Read(ReadError::Unavailable { reason: "a restart".into() })),
            Err(FenceError::NotInForce { reason: "epoch 2 is in force".into() }),
        ];
        let answers = Mutex::new(answers);
        recorder.ask_first(Box::new(move || {
            let answer = answers.lock().expect("not poisoned").pop().expect("asked three times");
            Box::pin(async { answer })
        }));
        let lost = || finding(Outcome::Lost { reason: "gone".into() });
        recorder.found(lost()).await;
        while recorder.standing.lock().expect("not poisoned").contains_key("seg/1") {
            tokio::task::yield_now().await;
        }
        assert_eq!(types(&log, 0).await, Vec::<String>::new());
        recorder.found(lost()).await;
        assert_eq!(types(&log, 1).await, [LOST], "what was not known is asked again");
    }

    /// The first appends end in an error, after they were stored or before.
    struct Failing(Mutex<Vec<AppendError>>);

    #[async_trait]
    impl Between for Failing {
        async fn append(&self, log: &dyn EventLog, request: AppendRequest) -> Result<Appended, AppendError> {
            let error = self.0.lock().expect("not poisoned").pop();
            let Some(error) = error else { return log.append(request).await };
            if error.kind() == ErrorKind::Indeterminate {
                log.append(request).await.expect("stored");
            }
            Err(error)
        }
    }

    fn indeterminate() -> AppendError {
        AppendError::Indeterminate { reason: "the connection broke".into() }
    }

    fn unavailable() -> AppendError {
        AppendError::Unavailable { reason: "a restart".into(), retry_after_seconds: None }
    }

    /// A recorder whose first appends fail so, and its log.
    fn failing(errors: Vec<AppendError>) -> (Arc<MemoryLog>, HealRecorder) {
        let log = log(Role::Active);
        let failing = Interposed { log: log.clone(), between: Failing(Mutex::new(errors)) };
        (log, HealRecorder::new(Arc::new(failing), "home"))
    }

    #[tokio::test(start_paused = true)]
    async fn a_finding_that_may_be_stored_is_sent_again_as_the_same_event() {
        let (log, recorder) = failing(vec![indeterminate()]);
        let lost = || finding(Outcome::Lost { reason: "gone".into() });
        recorder.found(lost()).await;
        assert_eq!(types(&log, 1).await, [LOST]);
        recorder.found(lost()).await;
        // What is on its way comes before this.
        recorder.found(finding(Outcome::Healed { etag: "e".into() })).await;
        assert_eq!(types(&log, 2).await, [LOST, HEALED]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_heal_is_sent_until_it_is_stored_and_before_what_is_found_later() {
        let (log, recorder) = failing(vec![unavailable(), indeterminate(), unavailable(), unavailable()]);
        recorder.found(finding(Outcome::Healed { etag: "e".into() })).await;
        recorder.found(finding(Outcome::NotRewritten { reason: "read only".into() })).await;
        while types(&log, 0).await != [HEALED, DAMAGED] {
            tokio::time::advance(REPEAT_PAUSE).await;
            assert!(types(&log, 0).await.len() <= 2, "each is stored once");
        }
        assert_eq!(recorder.standing.lock().expect("not poisoned").get("seg/1"), Some(&DAMAGED));
    }

    #[tokio::test(start_paused = true)]
    async fn a_log_that_stays_away_is_given_up_and_the_next_finding_tries_again() {
        let (log, recorder) = failing(vec![unavailable(); 1 + REPEATS_MAX as usize]);
        let lost = || finding(Outcome::Lost { reason: "gone".into() });
        recorder.found(lost()).await;
        while recorder.standing.lock().expect("not poisoned").contains_key("seg/1") {
            tokio::time::advance(REPEAT_PAUSE).await;
        }
        assert_eq!(types(&log, 0).await, Vec::<String>::new());
        recorder.found(lost()).await;
        assert_eq!(types(&log, 1).await, [LOST]);
    }
}
