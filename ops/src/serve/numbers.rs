//! The metrics of a region: what its parts have counted, what the workers last heard, and what the database says. A
//! figure that nobody has told is left out; nothing here waits for long, and nothing is decided on any of it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use domain::append::{LogHead, Role};
use domain::archive::catalog::Doubt;
use domain::group::{ConsumerGroups as _, GroupError, GroupStatus};
use domain::log::{Direction, LogReader};
use domain::{Epoch, Head, Position, Timestamp};
use event_log::{COMMIT_MICROS_BOUNDS, Figures, GROUP_EVENTS_BOUNDS, LogMetrics, QUEUE_REQUESTS_MAX};
use projections::runner::Seen;
use projections::status::ViewStatus;
use replication::Standing;
use sqlx::postgres::PgPool;

use crate::chain::chain;
use crate::clock::SystemClock;
use crate::config::LogConfig;
use crate::http::metrics::families::*;
use crate::http::metrics::{Family, MetricsText, Numbers};
use crate::http::status::{seconds, unix_seconds, write_role};
use crate::node::{Node, READER_CONNECTIONS, VIEW_CONNECTIONS};
use crate::spans::Spans;

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
    async fn write(&self, text: &mut MetricsText, head: Option<&LogHead>, limit: Duration) {
        text.value(&PROCESS_START, &[], unix_seconds(self.started));
        if let Some(dropped) = self.spans.dropped() {
            text.value(&SPANS_DROPPED, &[], dropped);
        }
        if let Some(tls) = &self.node.peer_tls {
            tls.write_metrics(text);
        }
        write_log(text, &self.node.log.metrics(), &self.log);
        self.write_connections(text);
        self.write_view(text, head);
        self.write_work(text);
        let heard = self.heard.lock().clone();
        write_heard(text, &heard, self.node.region.as_ref().is_some_and(|region| region.peer.is_some()));
        let Some(head) = head else { return };
        let (groups, views, figures) = ask(
            limit,
            async { self.groups(head).await.map_err(|error| chain(&error)) },
            async { projections::status::of_all(&self.node.views).await.map_err(|error| chain(&error)) },
            async {
                let figures = self.node.log.figures().await.map_err(|error| chain(&error))?;
                Ok((figures, self.unfollowed_since(head, &heard).await))
            },
        )
        .await;
        write_groups(text, &groups.unwrap_or_default(), head.head);
        self.write_other_views(text, &views.unwrap_or_default(), head);
        let Some((figures, unfollowed_since)) = figures else { return };
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
}

/// What the database tells of groups, views and archive. They are asked for side by side: a database that is away takes one
/// limit of a scrape, not one for each of them.
async fn ask<G, V, F>(
    limit: Duration,
    groups: impl Future<Output = Result<G, String>>,
    views: impl Future<Output = Result<V, String>>,
    figures: impl Future<Output = Result<F, String>>,
) -> (Option<G>, Option<V>, Option<F>) {
    tokio::join!(
        in_time(limit, "the consumer groups' metrics", groups),
        in_time(limit, "the metrics of other views", views),
        in_time(limit, "the archive's metrics", figures),
    )
}

/// What is told within the limit; otherwise `what` is left out.
async fn in_time<T>(limit: Duration, what: &str, told: impl Future<Output = Result<T, String>>) -> Option<T> {
    match tokio::time::timeout(limit, told).await {
        Ok(Ok(told)) => return Some(told),
        Ok(Err(error)) => tracing::warn!(what, error, "left out of a scrape"),
        Err(_) => tracing::warn!(what, "left out of a scrape: the database does not answer in time"),
    }
    None
}

impl RegionNumbers {
    fn write_connections(&self, text: &mut MetricsText) {
        let held = |pool: &PgPool| (pool.size(), u32::try_from(pool.num_idle()).unwrap_or(u32::MAX));
        let pools = [
            ("log", self.node.log.connections(), self.log.connections),
            ("views", held(&self.node.views), VIEW_CONNECTIONS),
            ("readers", held(&self.node.readers), READER_CONNECTIONS),
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
    async fn groups(&self, head: &LogHead) -> Result<Vec<GroupStatus>, GroupError> {
        if head.role != Role::Active {
            return Ok(Vec::new());
        }
        self.node.log.statuses().await
    }

    /// The views that other programs move; the server's own is known without asking.
    fn write_other_views(&self, text: &mut MetricsText, views: &[ViewStatus], head: &LogHead) {
        let own = self.node.content_runner.name();
        for view in views.iter().filter(|view| view.view != own) {
            let stopped = view.stopped.as_ref().map(|stopped| stopped.position);
            write_view(text, &view.view, Seen { checkpoint: view.checkpoint, stopped }, Some(head));
        }
    }

    fn write_work(&self, text: &mut MetricsText) {
        let Some(archive) = &self.node.archive else { return };
        let reads = archive.reader.reads();
        for (from, count) in [("memory", reads.cached), ("own", reads.own), ("other", reads.other)] {
            text.value(&ARCHIVE_READS, &[from], count);
        }
        text.value(&ARCHIVE_READ_BYTES, &[], reads.bytes);
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
    text.value(&LOG_BUILT_AHEAD, &[], log.built_ahead);
    text.value(&LOG_RETRIED, &[], log.retried_groups);
    text.value(&LOG_HALVED, &[], log.halved_groups);
    text.value(&LOG_IN_DOUBT, &[], log.in_doubt);
    text.value(&LOG_HOLDERS, &[], log.terminated_holders);
    text.value(&LOG_LATE_PARTITIONS, &[], log.late_partitions);
    text.value(&LOG_QUEUED, &[], log.queued_requests);
    text.value(&LOG_QUEUED_LIMIT, &[], QUEUE_REQUESTS_MAX);
    text.value(&LOG_QUEUED_BYTES, &[], log.queued_bytes);
    text.value(&LOG_QUEUED_BYTES_LIMIT, &[], config.queue_bytes);
    text.value(&LOG_LOOK_UPS, &[], log.look_up_bytes);
    text.value(&LOG_LOOK_UPS_LIMIT, &[], config.queue_bytes);
    text.value(&LOG_LOOK_UPS_FULL, &[], log.full_look_ups);
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

    #[tokio::test(start_paused = true)]
    #[expect(clippy::disallowed_methods, reason = "time stands still until everybody waits for it")]
    async fn a_database_that_never_answers_takes_one_limit_of_a_scrape() {
        use std::future::pending;
        let (limit, began) = (Duration::from_secs(2), tokio::time::Instant::now());
        let told = ask::<(), (), ()>(limit, pending(), pending(), pending()).await;
        assert_eq!((told, began.elapsed()), ((None, None, None), limit));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_told_is_kept_where_the_rest_is_late_or_refused() {
        let refused = async { Err::<(), _>("it is away".to_owned()) };
        let told = ask(Duration::from_secs(2), refused, async { Ok(7) }, std::future::pending::<Result<(), _>>());
        assert_eq!(told.await, (None, Some(7), None));
    }

    #[test]
    fn two_views_are_one_group_of_each_family() {
        let mut text = MetricsText::default();
        for view in ["view_content", "view_other"] {
            write_view(&mut text, view, Seen { checkpoint: Head::EMPTY, stopped: None }, Some(&head(Role::Active, 3)));
        }
        let text = text.finish();
        let names = text.lines().map(|line| line.trim_start_matches("# HELP ").trim_start_matches("# TYPE "));
        let mut groups: Vec<&str> = names.filter_map(|line| line.split([' ', '{']).next()).collect();
        groups.dedup();
        let families = [&VIEW_CHECKPOINT, &VIEW_LAG, &VIEW_STOPPED, &VIEW_STOPPED_POSITION];
        assert_eq!(groups, families.map(|family| family.name), "{text}");
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
