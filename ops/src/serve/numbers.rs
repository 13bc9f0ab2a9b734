//! The metrics of a region: what its parts have counted, what the workers last heard, and what the database says. A
//! figure that nobody has told is left out; nothing here waits for long, and nothing is decided on any of it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use domain::append::{LogHead, Role};
use domain::archive::catalog::Doubt;
use domain::group::{ConsumerGroups as _, GroupStatus};
use domain::log::{Direction, LogReader};
use domain::{Epoch, Head, Position, Timestamp};
use event_log::{COMMIT_MICROS_BOUNDS, Figures, GROUP_EVENTS_BOUNDS, LogMetrics, QUEUE_REQUESTS_MAX};
use projections::runner::Seen;
use replication::Standing;

use crate::clock::SystemClock;
use crate::config::LogConfig;
use crate::http::metrics::families::*;
use crate::http::metrics::{Family, MetricsText, Numbers};
use crate::http::status::{seconds, unix_seconds, write_role};
use crate::node::{Node, VIEW_CONNECTIONS};
use crate::spans::Spans;

/// The database has this long for all that a scrape asks of it, beside the head.
const DATABASE_LIMIT: Duration = Duration::from_secs(2);

/// What the workers last heard, for the metrics alone.
#[derive(Debug, Default)]
pub(super) struct Heard(Mutex<HeardNow>);

#[derive(Debug, Clone, Default)]
struct HeardNow {
    /// How many did not answer the watch.
    silent: Option<usize>,
    peer_answers: bool,
    peer: Option<PeerNow>,
}

/// The other region when it last answered.
#[derive(Debug, Clone, Copy)]
struct PeerNow {
    head: Head,
    epoch: Epoch,
    role: Role,
    manifest: u64,
    /// Its clock, and this machine's, at that moment.
    clocks: (Timestamp, Timestamp),
}

impl Heard {
    /// The watch has asked everybody.
    pub(super) fn watched(&self, peer: Option<&Standing>, silent: usize) {
        let mut heard = self.lock();
        heard.silent = Some(silent);
        heard.peer_answers = peer.is_some();
        let Some((peer, own)) = peer.zip(SystemClock::read().ok()) else { return };
        let manifest = peer.manifest.map_or(0, |manifest| manifest.number);
        let (head, epoch, role) = (peer.head, peer.epoch, peer.role);
        heard.peer = Some(PeerNow { head, epoch, role, manifest, clocks: (peer.clock, own) });
    }

    /// The follower has asked the other region for more.
    pub(super) fn followed(&self, head: Head, clock: Timestamp) {
        let mut heard = self.lock();
        heard.peer_answers = true;
        if let (Some(peer), Ok(own)) = (&mut heard.peer, SystemClock::read()) {
            (peer.head, peer.clocks) = (head, (clock, own));
        }
    }

    fn lock(&self) -> MutexGuard<'_, HeardNow> {
        // Each field is true by itself: a panic elsewhere leaves nothing half said.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The numbers of a region's process.
pub(super) struct RegionNumbers {
    pub(super) node: Arc<Node>,
    pub(super) heard: Arc<Heard>,
    pub(super) spans: Spans,
    pub(super) log: LogConfig,
    pub(super) started: Timestamp,
}

#[async_trait]
impl Numbers for RegionNumbers {
    async fn write(&self, text: &mut MetricsText, head: Option<&LogHead>) {
        text.value(&PROCESS_START, &[], unix_seconds(self.started));
        if let Some(dropped) = self.spans.dropped() {
            text.value(&SPANS_DROPPED, &[], dropped);
        }
        write_log(text, &self.node.log.metrics(), &self.log);
        self.write_connections(text);
        self.write_view(text, head);
        self.write_work(text);
        let heard = self.heard.lock().clone();
        write_heard(text, &heard, self.node.region.as_ref().is_some_and(|region| region.peer.is_some()));
        let Some(head) = head else { return };
        self.ask_groups(text, head).await;
        self.ask_views(text, head).await;
        let asked = async {
            let figures = self.node.log.figures().await?;
            Ok::<_, event_log::EventLogError>((figures, self.unfollowed_since(head, &heard).await))
        };
        match tokio::time::timeout(DATABASE_LIMIT, asked).await {
            Ok(Ok((figures, unfollowed_since))) => {
                text.value(&LOG_COMING_PARTITION, &[], u8::from(figures.coming_partition));
                if self.node.archive.is_some() {
                    write_archive(text, &figures, &heard);
                }
                // Simulated clocks stand where they were put.
                if !head.simulated {
                    write_clocks(text, &figures, &heard);
                }
                write_lag(text, head, &heard, unfollowed_since);
            }
            Ok(Err(error)) => {
                tracing::warn!(error = %crate::chain::chain(&error), "the archive's metrics are left out")
            }
            Err(_) => tracing::warn!("the archive's metrics are left out: the database does not answer in time"),
        }
    }
}

impl RegionNumbers {
    fn write_connections(&self, text: &mut MetricsText) {
        let views = &self.node.views;
        let views_idle = u32::try_from(views.num_idle()).unwrap_or(u32::MAX);
        let pools = [
            ("log", self.node.log.connections(), self.log.connections),
            ("views", (views.size(), views_idle), VIEW_CONNECTIONS),
        ];
        for (pool, (open, idle), limit) in pools {
            text.value(&CONNECTIONS, &[pool, "busy"], open.saturating_sub(idle));
            text.value(&CONNECTIONS, &[pool, "idle"], idle);
            text.value(&CONNECTIONS_LIMIT, &[pool], limit);
        }
    }

    fn write_view(&self, text: &mut MetricsText, head: Option<&LogHead>) {
        let seen = *self.node.content_runner.seen().borrow();
        write_view(text, self.node.content_runner.name(), seen, head);
    }

    /// Group state belongs to a region; the one that is not active hands nothing out, and its groups stand.
    async fn ask_groups(&self, text: &mut MetricsText, head: &LogHead) {
        if head.role != Role::Active {
            return;
        }
        let statuses = match tokio::time::timeout(DATABASE_LIMIT, self.node.log.statuses()).await {
            Ok(Ok(statuses)) => statuses,
            Ok(Err(error)) => {
                tracing::warn!(error = %crate::chain::chain(&error), "the consumer groups' metrics are left out");
                return;
            }
            Err(_) => {
                tracing::warn!("the consumer groups' metrics are left out: the database does not answer in time");
                return;
            }
        };
        write_groups(text, &statuses, head.head);
    }

    /// The views that other programs move; the server's own is known without asking.
    async fn ask_views(&self, text: &mut MetricsText, head: &LogHead) {
        let own = self.node.content_runner.name();
        let views = match tokio::time::timeout(DATABASE_LIMIT, projections::status::of_all(&self.node.views)).await {
            Ok(Ok(views)) => views,
            Ok(Err(error)) => {
                tracing::warn!(error = %crate::chain::chain(&error), "the metrics of other views are left out");
                return;
            }
            Err(_) => {
                tracing::warn!("the metrics of other views are left out: the database does not answer in time");
                return;
            }
        };
        for view in views.iter().filter(|view| view.view != own) {
            let stopped = view.stopped.as_ref().map(|stopped| stopped.position);
            write_view(text, &view.view, Seen { checkpoint: view.checkpoint, stopped }, Some(head));
        }
    }

    fn write_work(&self, text: &mut MetricsText) {
        let Some(archive) = &self.node.archive else { return };
        let counts = archive.heals.counts();
        let outcomes = [("healed", counts.healed), ("not_rewritten", counts.not_rewritten), ("lost", counts.lost)];
        for (outcome, count) in outcomes {
            text.value(&ARCHIVE_FINDINGS, &[outcome], count);
        }
        let work = archive.work();
        text.value(&ARCHIVE_SCRUBBED, &[], work.scrubbed_segments);
        text.value(&ARCHIVE_SCRUBBED_BYTES, &[], work.scrubbed_bytes);
        // Before pruning has looked, nobody knows what it waits for.
        let Some(cutoff) = work.cutoff else { return };
        text.value(&WINDOW_CUTOFF, &[], unix_seconds(cutoff));
        for reason in REASONS {
            text.value(&ARCHIVE_PRUNE_HELD, &[reason], u8::from(work.held.iter().any(|doubt| word(doubt) == reason)));
        }
    }

    /// When the first event was recorded that the follower does not have, and what time it is by the log's clock;
    /// `None` where this region does not lead, nothing is missing there, or the log does not say.
    async fn unfollowed_since(&self, head: &LogHead, heard: &HeardNow) -> Option<(Timestamp, Timestamp)> {
        let peer = heard.peer.filter(|peer| leads(head.role) && peer.head < head.head)?;
        let next = self.node.log.read_log(peer.head.next(), Direction::Forward, 1).await.ok()?;
        Some((next.first()?.recorded_at(), self.node.clock.now().await.ok()?))
    }
}

fn write_view(text: &mut MetricsText, view: &str, seen: Seen, head: Option<&LogHead>) {
    text.value(&VIEW_CHECKPOINT, &[view], seen.checkpoint);
    if let Some(head) = head {
        text.value(&VIEW_LAG, &[view], head.head.get().saturating_sub(seen.checkpoint.get()));
    }
    text.value(&VIEW_STOPPED, &[view], u8::from(seen.stopped.is_some()));
    text.value(&VIEW_STOPPED_POSITION, &[view], seen.stopped.map_or(0, Position::get));
}

/// What pruning can wait for.
const REASONS: [&str; 7] =
    ["not_sealed", "not_verified", "not_confirmed", "not_cosigned", "view_behind", "rows", "older_month"];

/// The word for a doubt. A month inside of the window is not held: its time is not over.
fn word(doubt: &Doubt) -> &'static str {
    match doubt {
        Doubt::InWindow => "in_window",
        Doubt::NotSealed(_) => "not_sealed",
        Doubt::NotVerified(_) => "not_verified",
        Doubt::NotConfirmed(_) => "not_confirmed",
        Doubt::NotCosigned(_) => "not_cosigned",
        Doubt::ConsumerBehind(..) => "view_behind",
        Doubt::Rows(_) => "rows",
        Doubt::OlderFirst => "older_month",
    }
}

fn write_groups(text: &mut MetricsText, statuses: &[GroupStatus], head: Head) {
    let mut all = |family: &'static Family, value: &dyn Fn(&GroupStatus) -> u64| {
        for status in statuses {
            text.value(family, &[status.group.name().as_str()], value(status));
        }
    };
    all(&GROUP_CHECKPOINT, &|status| status.checkpoint.get());
    all(&GROUP_LAG, &|status| status.lag(head));
    all(&GROUP_UNSETTLED, &|status| status.unsettled);
    all(&GROUP_OLDEST, &|status| status.oldest_unsettled_seconds.unwrap_or(0));
    all(&GROUP_PARKED, &|status| status.parked);
    all(&GROUP_LAPSES, &|status| status.lapses);
}

fn leads(role: Role) -> bool {
    matches!(role, Role::Active | Role::Draining)
}

fn write_log(text: &mut MetricsText, log: &LogMetrics, config: &LogConfig) {
    text.value(&LOG_GROUPS, &[], log.groups);
    text.value(&LOG_EVENTS, &[], log.events);
    text.value(&LOG_REPLAYED, &[], log.replayed);
    text.value(&LOG_REFUSED, &[], log.refused);
    text.value(&LOG_RETRIED, &[], log.retried_groups);
    text.value(&LOG_HALVED, &[], log.halved_groups);
    text.value(&LOG_IN_DOUBT, &[], log.in_doubt);
    text.value(&LOG_HOLDERS, &[], log.terminated_holders);
    text.value(&LOG_LATE_PARTITIONS, &[], log.late_partitions);
    text.value(&LOG_QUEUED, &[], log.queued_requests);
    text.value(&LOG_QUEUED_LIMIT, &[], QUEUE_REQUESTS_MAX);
    text.value(&LOG_QUEUED_BYTES, &[], log.queued_bytes);
    text.value(&LOG_QUEUED_BYTES_LIMIT, &[], config.queue_bytes);
    let events = GROUP_EVENTS_BOUNDS.map(|bound| bound as f64);
    text.histogram(&LOG_GROUP_EVENTS, &[], events, &log.group_events.counts, log.group_events.sum as f64);
    let times = COMMIT_MICROS_BOUNDS.map(|bound| bound as f64 / 1e6);
    text.histogram(&LOG_COMMIT, &[], times, &log.commit_micros.counts, log.commit_micros.sum as f64 / 1e6);
}

fn write_heard(text: &mut MetricsText, heard: &HeardNow, has_peer: bool) {
    let Some(silent) = heard.silent else { return };
    text.value(&FENCE_SILENT, &[], silent);
    if has_peer {
        text.value(&PEER_UP, &[], u8::from(heard.peer_answers));
    }
    let Some(peer) = heard.peer else { return };
    text.value(&PEER_ANSWERED, &[], unix_seconds(peer.clocks.1));
    text.value(&PEER_HEAD, &[], peer.head);
    text.value(&PEER_EPOCH, &[], peer.epoch);
    write_role(text, &PEER_ROLE, peer.role);
}

fn write_archive(text: &mut MetricsText, figures: &Figures, heard: &HeardNow) {
    text.value(&ARCHIVE_SEGMENTS, &[], figures.segments);
    text.value(&ARCHIVE_UNCONFIRMED, &[], figures.unconfirmed_segments);
    text.value(&ARCHIVE_STORED, &[], figures.stored_bytes);
    text.value(&ARCHIVE_RECORDS, &[], figures.record_bytes);
    text.value(&ARCHIVE_SEALED, &[], figures.sealed);
    text.value(&ARCHIVE_VERIFIED, &[], figures.verified);
    text.value(&ARCHIVE_CONFIRMED, &[], figures.confirmed);
    if let Some(at) = figures.newest_at {
        text.value(&ARCHIVE_NEWEST, &[], unix_seconds(at));
    }
    if let Some(at) = figures.oldest_verified_at {
        text.value(&ARCHIVE_OLDEST_VERIFIED, &[], unix_seconds(at));
    }
    text.value(&ARCHIVE_MANIFEST, &[], figures.manifest);
    text.value(&EVIDENCE_SIGNED, &[], figures.signed);
    text.value(&EVIDENCE_COSIGNED, &[], figures.cosigned);
    if let Some(peer) = heard.peer {
        text.value(&MIRROR_BACKLOG, &[], figures.manifest.abs_diff(peer.manifest));
    }
}

fn write_clocks(text: &mut MetricsText, figures: &Figures, heard: &HeardNow) {
    if let Ok(own) = SystemClock::read() {
        text.value(&CLOCK_DIFFERENCE, &["database"], seconds(figures.database_now.micros_since(own)));
    }
    if let Some((theirs, own)) = heard.peer.map(|peer| peer.clocks) {
        text.value(&CLOCK_DIFFERENCE, &["peer"], seconds(theirs.micros_since(own)));
    }
}

/// How far one of the two is behind the other; where neither follows, that says nothing.
fn write_lag(
    text: &mut MetricsText,
    head: &LogHead,
    heard: &HeardNow,
    unfollowed_since: Option<(Timestamp, Timestamp)>,
) {
    let Some(peer) = heard.peer else { return };
    let (events, micros) = if leads(head.role) {
        let events = head.head.get().saturating_sub(peer.head.get());
        let age = unfollowed_since.map(|(recorded_at, now)| now.micros_since(recorded_at));
        (events, if events == 0 { Some(0) } else { age })
    } else if head.role == Role::Follower {
        let events = peer.head.get().saturating_sub(head.head.get());
        let age = peer.clocks.0.micros_since(head.recorded_at);
        (events, Some(if events == 0 { 0 } else { age }))
    } else {
        return;
    };
    text.value(&LAG_EVENTS, &[], events);
    if let Some(micros) = micros {
        text.value(&LAG_SECONDS, &[], seconds(micros.max(0)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_unix_micros(second * 1_000_000).expect("an instant")
    }

    fn head(role: Role, events: u64) -> LogHead {
        LogHead {
            head: Head::new(events).expect("small"),
            recorded_at: at(100),
            epoch: Epoch::FIRST,
            role,
            pruned: Head::EMPTY,
            log_id: "test".into(),
            simulated: false,
        }
    }

    fn hears(events: u64) -> HeardNow {
        let head = Head::new(events).expect("small");
        let peer = PeerNow { head, epoch: Epoch::FIRST, role: Role::Active, manifest: 0, clocks: (at(160), at(160)) };
        HeardNow { peer_answers: true, peer: Some(peer), ..HeardNow::default() }
    }

    fn lag(own: &LogHead, heard: &HeardNow, since: Option<(Timestamp, Timestamp)>) -> Vec<String> {
        let mut text = MetricsText::default();
        write_lag(&mut text, own, heard, since);
        let lines: Vec<String> = text.finish().lines().map(str::to_owned).collect();
        lines.into_iter().filter(|line| !line.starts_with('#')).collect()
    }

    #[test]
    fn a_follower_is_behind_by_what_the_other_region_has_more() {
        let follower = head(Role::Follower, 7);
        let behind = ["coldstream_replication_lag_events 3", "coldstream_replication_lag_seconds 60"];
        assert_eq!(lag(&follower, &hears(10), None), behind);
        let level = ["coldstream_replication_lag_events 0", "coldstream_replication_lag_seconds 0"];
        assert_eq!(lag(&follower, &hears(7), None), level);
    }

    #[test]
    fn the_leading_region_says_how_old_the_first_event_is_that_the_follower_has_not() {
        let active = head(Role::Active, 9);
        let behind = ["coldstream_replication_lag_events 2", "coldstream_replication_lag_seconds 30"];
        assert_eq!(lag(&active, &hears(7), Some((at(70), at(100)))), behind);
        assert_eq!(lag(&active, &hears(7), None), behind[..1], "its age is left out where nobody can say it");
        let level = ["coldstream_replication_lag_events 0", "coldstream_replication_lag_seconds 0"];
        assert_eq!(lag(&active, &hears(9), None), level);
    }

    #[test]
    fn nothing_is_said_of_a_lag_while_nobody_follows_or_is_heard() {
        assert!(lag(&head(Role::ReadOnly, 9), &hears(7), None).is_empty());
        assert!(lag(&head(Role::Active, 9), &HeardNow::default(), None).is_empty());
    }

    #[test]
    fn every_doubt_that_holds_a_month_is_a_reason() {
        let doubts = [
            Doubt::NotSealed(Position::FIRST),
            Doubt::NotVerified(Position::FIRST),
            Doubt::NotConfirmed(Position::FIRST),
            Doubt::NotCosigned(None),
            Doubt::ConsumerBehind("view".into(), 0),
            Doubt::Rows(0),
            Doubt::OlderFirst,
        ];
        assert_eq!(doubts.each_ref().map(word), REASONS);
    }
}
