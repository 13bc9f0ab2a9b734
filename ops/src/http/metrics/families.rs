//! All metrics that a region's process has. What is not in this table cannot be scraped; [`table`] is `ops/METRICS.md`.
//! Names never change their meaning: people's alerts stand on them.

use super::text::{Family, Kind};

macro_rules! families {
    ($($id:ident: $kind:ident $name:literal [$($label:literal)*] $help:literal)*) => {
        $(
            #[doc = $help]
            pub static $id: Family =
                Family { name: $name, kind: Kind::$kind, help: $help, labels: &[$($label),*] };
        )*
        /// All of them, in the order of the table.
        pub static ALL: &[&Family] = &[$(&$id),*];
    };
}

families! {
    BUILD_INFO: Gauge "coldstream_build_info" ["version" "region"]
        "Always 1; its labels say which release serves which region"
    PROCESS_CPU: Counter "process_cpu_seconds_total" []
        "Processor time that this process has used"
    PROCESS_RSS: Gauge "process_resident_memory_bytes" []
        "Memory that this process holds"
    PROCESS_FDS: Gauge "process_open_fds" []
        "Files and connections that this process holds open"
    PROCESS_FDS_MAX: Gauge "process_max_fds" []
        "How many it may hold open"
    PROCESS_START: Gauge "process_start_time_seconds" []
        "When this process started, in seconds since 1970"

    SPANS_DROPPED: Counter "coldstream_spans_dropped_total" []
        "Spans that the collector did not take (telemetry.otlp_endpoint)"

    HTTP_REQUESTS: Counter "coldstream_http_requests_total" ["method" "route" "status"]
        "SEC-1: requests that were answered; 401 and 403 are those that no token allowed"
    HTTP_SECONDS: Histogram "coldstream_http_request_seconds" ["method" "route"]
        "Time until a request is answered; of an answer in lines, until it begins"
    HTTP_CONNECTIONS: Gauge "coldstream_http_connections" []
        "Connections to the API, whether they ask for something or not"
    HTTP_CONNECTIONS_LIMIT: Gauge "coldstream_http_connections_limit" []
        "How many there may be; more wait unanswered (http.connections_max)"
    HTTP_IN_FLIGHT: Gauge "coldstream_http_requests_in_flight" []
        "Requests that wait for their answer"
    HTTP_BODIES: Gauge "coldstream_http_body_bytes" []
        "Bytes of request bodies in memory"
    HTTP_BODIES_LIMIT: Gauge "coldstream_http_body_bytes_limit" []
        "How many there may be; more wait (http.body_bytes_in_flight_max)"
    HTTP_LIMITED: Counter "coldstream_http_limited_total" ["limit"]
        "Requests that were answered with 429: their token's rate of requests or bytes, or their address's failures"
    HTTP_TAILS: Gauge "coldstream_http_tails" []
        "Readers that follow the log or a stream (follow=true); three quarters of the connections at most"
    HTTP_TAILS_LAG: Gauge "coldstream_http_tails_lag_events" []
        "How far the slowest of these is behind the head: it takes less than comes, or reads history first"
    TLS_FAILED: Counter "coldstream_tls_handshakes_failed_total" []
        "SEC-1: connections that came to no TLS: no HTTPS, no certificate or a wrong one, or too slow"
    TLS_NOT_AFTER: Gauge "coldstream_tls_certificate_not_after_timestamp_seconds" []
        "SEC-1: when the first of the certificates ends that the API shows, in seconds since 1970"
    TLS_PEER_NOT_AFTER: Gauge "coldstream_tls_peer_certificate_not_after_timestamp_seconds" []
        "SEC-1: when the first of the certificates ends that the other region is shown, in seconds since 1970"

    APPENDS: Counter "coldstream_append_requests_total" ["outcome"]
        "LOG-1, LOG-3, LOG-4: appends by outcome; conflict: an expected version or an id was another one"
    APPEND_EVENTS: Counter "coldstream_append_events_total" []
        "LOG-1: events stored through the API"
    APPEND_SECONDS: Histogram "coldstream_append_seconds" []
        "LOG-1: time of an append from the queue to its answer, whatever that is"

    LOG_UP: Gauge "coldstream_log_up" []
        "LOG-1: 1 while the log's database answers"
    LOG_HEAD: Gauge "coldstream_log_head" []
        "LOG-2: position of the newest event"
    LOG_RECORDED_AT: Gauge "coldstream_log_recordedat_timestamp_seconds" []
        "LOG-2: when the newest event was recorded, in seconds since 1970"
    LOG_PRUNED: Gauge "coldstream_log_pruned_head" []
        "ARC-1: newest position that is out of the live log"
    LOG_EPOCH: Gauge "coldstream_log_epoch" []
        "LOG-5, REP-2: epoch in force here"
    LOG_ROLE: Gauge "coldstream_log_role" ["role"]
        "LOG-5: 1 for what this region is, 0 for what it is not; only an active one takes appends"
    LOG_GROUPS: Counter "coldstream_log_groups_total" []
        "LOG-1: groups of appends that were committed"
    LOG_EVENTS: Counter "coldstream_log_events_total" []
        "LOG-1: events that these stored"
    LOG_GROUP_EVENTS: Histogram "coldstream_log_group_events" []
        "Events of a group"
    LOG_COMMIT: Histogram "coldstream_log_commit_seconds" []
        "LOG-1: time of a group's COMMIT, or of a small group's one statement: mostly of the flush to disk"
    LOG_REPLAYED: Counter "coldstream_log_replayed_total" []
        "LOG-4: appends that were retries; nothing was stored twice"
    LOG_REFUSED: Counter "coldstream_log_refused_total" []
        "LOG-3, LOG-4, LOG-5: appends that the log refused"
    LOG_BUILT_AHEAD: Counter "coldstream_log_built_ahead_groups_total" []
        "Groups that were built while the one in front of them was flushed: a whole group waited"
    LOG_RETRIED: Counter "coldstream_log_retried_groups_total" []
        "Groups that were tried again: a lost connection, a lock, a missing partition"
    LOG_HALVED: Counter "coldstream_log_halved_groups_total" []
        "Groups that were halved because the database refused their data"
    LOG_IN_DOUBT: Counter "coldstream_log_in_doubt_total" []
        "LOG-1: commits whose reply was lost"
    LOG_HOLDERS: Counter "coldstream_log_terminated_holders_total" []
        "Sessions that held the head without moving and were ended"
    LOG_LATE_PARTITIONS: Counter "coldstream_log_late_partitions_total" []
        "Months whose partition an append had to wait for: it was not made ahead"
    LOG_COMING_PARTITION: Gauge "coldstream_log_coming_partition" []
        "1 while the coming month has its partition; 0: its first append will wait"
    LOG_QUEUED: Gauge "coldstream_log_queued_requests" []
        "Appends that wait for their group"
    LOG_QUEUED_LIMIT: Gauge "coldstream_log_queued_requests_limit" []
        "How many may wait; more are refused as unavailable, those of one token from two thirds on"
    LOG_QUEUED_BYTES: Gauge "coldstream_log_queued_bytes" []
        "Bytes of the appends that wait for their group or are in it"
    LOG_QUEUED_BYTES_LIMIT: Gauge "coldstream_log_queued_bytes_limit" []
        "How many bytes may wait; more are refused as unavailable, those of one token from two thirds on (log.queue_bytes)"
    LOG_LOOK_UPS: Gauge "coldstream_log_look_up_bytes" []
        "LOG-4: bytes of the retries whose first appearance is looked up, in the live log or the archive"
    LOG_LOOK_UPS_LIMIT: Gauge "coldstream_log_look_up_bytes_limit" []
        "How many there may be; more retries are answered as indeterminate (log.queue_bytes)"
    LOG_LOOK_UPS_FULL: Counter "coldstream_log_full_look_ups_total" []
        "LOG-4: retries that were so"
    CONNECTIONS: Gauge "coldstream_database_connections" ["pool" "state"]
        "Connections to the database; appending and following have one more each"
    CONNECTIONS_LIMIT: Gauge "coldstream_database_connections_limit" ["pool"]
        "How many there may be; who needs one more waits (log.connections)"
    CLOCK_DIFFERENCE: Gauge "coldstream_clock_difference_seconds" ["to"]
        "How far the other clock is ahead of this machine's; beyond 60 either way, appends and pruning stop"

    VIEW_CHECKPOINT: Gauge "coldstream_view_checkpoint" ["view"]
        "PRJ-1: events that are in the view"
    VIEW_LAG: Gauge "coldstream_view_lag_events" ["view"]
        "PRJ-1: events that are in the log and not yet in the view"
    VIEW_STOPPED: Gauge "coldstream_view_stopped" ["view"]
        "PRJ-1: 1 while the view stands at an event that it cannot fold"
    VIEW_STOPPED_POSITION: Gauge "coldstream_view_stopped_position" ["view"]
        "PRJ-1: position of that event, 0 if there is none"
    GROUP_CHECKPOINT: Gauge "coldstream_consumer_group_checkpoint" ["group"]
        "GRP-1: up to here every event that the group wants was done, parked or given up"
    GROUP_LAG: Gauge "coldstream_consumer_group_lag_events" ["group"]
        "GRP-1: events between that and the log's head, whether the group wants them or not"
    GROUP_UNSETTLED: Gauge "coldstream_consumer_group_unsettled_events" ["group"]
        "GRP-1: events of the group that are ready, handed out, or wait for another attempt"
    GROUP_OLDEST: Gauge "coldstream_consumer_group_oldest_unsettled_seconds" ["group"]
        "GRP-1: how long ago the oldest of these was listed, 0 if there is none"
    GROUP_PARKED: Gauge "coldstream_consumer_group_parked_events" ["group"]
        "GRP-1: events of the group that were tried in vain and wait for a person"
    GROUP_LAPSES: Counter "coldstream_consumer_group_lease_expirations_total" ["group"]
        "GRP-1: attempts that ended because their lease ran out: a consumer died, or is too slow for lease_seconds"
    WINDOW_CUTOFF: Gauge "coldstream_window_cutoff_timestamp_seconds" []
        "PRJ-2: start of the live window when it was last looked at, in seconds since 1970"

    ARCHIVE_SEGMENTS: Gauge "coldstream_archive_segments" []
        "Segments in force"
    ARCHIVE_UNCONFIRMED: Gauge "coldstream_archive_unconfirmed_segments" []
        "ARC-2: segments that the other store has not confirmed"
    ARCHIVE_STORED: Gauge "coldstream_archive_stored_bytes" []
        "Bytes of the segments and their indexes, as they are stored"
    ARCHIVE_RECORDS: Gauge "coldstream_archive_record_bytes" []
        "Bytes of the records in them"
    ARCHIVE_SEALED: Gauge "coldstream_archive_sealed_head" []
        "ARC-1: up to here every event is archived"
    ARCHIVE_VERIFIED: Gauge "coldstream_archive_verified_head" []
        "ARC-2, ARC-3: up to here every segment was read back and is what the log says"
    ARCHIVE_CONFIRMED: Gauge "coldstream_archive_confirmed_head" []
        "ARC-2: up to here the other store has confirmed every segment"
    ARCHIVE_NEWEST: Gauge "coldstream_archive_newest_recordedat_timestamp_seconds" []
        "ARC-1: when the newest archived event was recorded, in seconds since 1970"
    ARCHIVE_OLDEST_VERIFIED: Gauge "coldstream_archive_oldest_verified_timestamp_seconds" []
        "ARC-4: when the segment was read that has not been read again for the longest time, in seconds since 1970"
    ARCHIVE_MANIFEST: Gauge "coldstream_archive_manifest" []
        "Number of the last manifest in this region's bucket"
    ARCHIVE_PRUNE_HELD: Gauge "coldstream_archive_prune_held" ["reason"]
        "ARC-2: 1 for each reason that keeps a month in the live log whose time is over"
    ARCHIVE_SCRUBBED: Counter "coldstream_archive_scrubbed_segments_total" []
        "ARC-4: segments that the scrub has read again, in runs that ended without an error"
    ARCHIVE_SCRUBBED_BYTES: Counter "coldstream_archive_scrubbed_bytes_total" []
        "ARC-4: bytes that these runs have read"
    ARCHIVE_READS: Counter "coldstream_archive_reads_total" ["from"]
        "ARC-3: indexes and blocks of segments that readers have taken from memory or asked a bucket for"
    ARCHIVE_READ_BYTES: Counter "coldstream_archive_read_bytes_total" []
        "Bytes that the buckets have given for these"
    ARCHIVE_FINDINGS: Counter "coldstream_archive_findings_total" ["outcome"]
        "ARC-4: damaged objects; lost: no good copy is left"

    EVIDENCE_SIGNED: Gauge "coldstream_evidence_signed_head" []
        "EVD-1: size of the newest checkpoint that this region has signed"
    EVIDENCE_COSIGNED: Gauge "coldstream_evidence_cosigned_head" []
        "EVD-1, ARC-2: size of the newest checkpoint that both regions have signed"

    PEER_UP: Gauge "coldstream_replication_peer_up" []
        "REP-1: 1 if the other region answered when it was last asked"
    PEER_ANSWERED: Gauge "coldstream_replication_peer_answered_timestamp_seconds" []
        "REP-3: when the other region last answered, in seconds since 1970"
    PEER_HEAD: Gauge "coldstream_replication_peer_head" []
        "REP-1, REP-3: the other region's head, as last heard"
    PEER_EPOCH: Gauge "coldstream_replication_peer_epoch" []
        "REP-2: the other region's epoch, as last heard"
    PEER_ROLE: Gauge "coldstream_replication_peer_role" ["role"]
        "LOG-5: 1 for what the other region was when it last answered, 0 for what it was not"
    LAG_EVENTS: Gauge "coldstream_replication_lag_events" []
        "REP-1, REP-3: events that one region has and its follower has not"
    LAG_SECONDS: Gauge "coldstream_replication_lag_seconds" []
        "REP-3: age of the oldest of these; at the follower the most that it can be"
    MIRROR_BACKLOG: Gauge "coldstream_replication_mirror_backlog_manifests" []
        "ARC-2: manifests in one bucket that the other one does not have"
    FENCE_SILENT: Gauge "coldstream_fence_silent" []
        "LOG-5, REP-2: how many of the other region and the buckets did not answer when they were asked for the epoch"

    WORKER_UP: Gauge "coldstream_worker_up" ["worker"]
        "1 while the last round of this background work was without an error"
    WORKER_ROUNDS: Counter "coldstream_worker_rounds_total" ["worker"]
        "Rounds of it without an error"
    WORKER_FAILURES: Counter "coldstream_worker_failures_total" ["worker"]
        "Rounds of it with an error"
    WORKER_SUCCEEDED: Gauge "coldstream_worker_succeeded_timestamp_seconds" ["worker"]
        "When a round of it last ended without an error, in seconds since 1970"
}

/// What bounds the values of each label: nothing that a client sends becomes one.
const LABELS: &[(&str, &str)] = &[
    ("from", "`memory`; `own`, this region's bucket; `other`, the other region's, while the own one does not answer"),
    ("group", "the consumer groups of the log, 256 at most"),
    ("limit", "`requests`, `bytes`, `failures`"),
    ("method", "the methods of HTTP; any other is `other`"),
    ("outcome", "a word of the code; of appends `new`, `replayed` or the kind of the error"),
    ("pool", "`log`; `views`, which moves them; `readers`, which asks the view of content"),
    ("reason", "a word of the code for each thing that pruning waits for"),
    ("region", "the process's own"),
    ("role", "`active`, `follower`, `draining`, `read_only`"),
    ("route", "the routes of the API; `none` for what is none"),
    ("state", "`busy`, `idle`"),
    ("status", "the statuses that the API answers with"),
    ("to", "`database`, `peer`: the other region"),
    ("version", "the process's own"),
    ("view", "the views that are installed in the database"),
    ("worker", "the background work of this release"),
];

/// The table of all metrics, in Markdown.
#[must_use]
pub fn table() -> String {
    let mut text = "# Metrics\n\n\
        `GET /metrics`, with a token of any role, in Prometheus' text format. Made by `coldstream metrics`; a test holds \
        this table to the code. Ids such as LOG-1 are the promises in [ARCHITECTURE.md](../ARCHITECTURE.md). Positions and \
        heads are counts of events. A figure that the database has not told is left out: it is never the last one or 0. What \
        is as last heard of the other region says so.\n\n\
        A dashboard and alerts are in [observe/](observe/).\n\n\
        | metric | kind | labels | what it says |\n|---|---|---|---|\n"
        .to_owned();
    for Family { name, kind, help, labels } in ALL {
        text.push_str(&format!("| `{name}` | {} | {} | {help} |\n", kind.as_str(), labels.join(", ")));
    }
    text.push_str("\n| label | its values |\n|---|---|\n");
    for (label, values) in LABELS {
        text.push_str(&format!("| {label} | {values} |\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    #[test]
    fn names_follow_prometheus_conventions() {
        let names: BTreeSet<&str> = ALL.iter().map(|family| family.name).collect();
        assert_eq!(names.len(), ALL.len(), "each name once");
        for Family { name, kind, help, .. } in ALL {
            assert!(name.starts_with("coldstream_") || name.starts_with("process_"), "{name}");
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{name}");
            assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}: counters, and only they, are totals");
            let of_a_histogram = ["_bucket", "_sum", "_count"].iter().any(|part| name.ends_with(part));
            assert!(!of_a_histogram, "{name} looks like a part of a histogram");
            assert!(help.len() > 10 && !help.ends_with('.') && !help.contains(['\n', '|']), "{name}: {help}");
        }
    }

    #[test]
    fn every_label_says_what_bounds_it() {
        let said: BTreeSet<&str> = LABELS.iter().map(|(label, _)| *label).collect();
        let used: BTreeSet<&str> = ALL.iter().flat_map(|family| family.labels).copied().collect();
        assert_eq!(said, used);
    }

    #[test]
    fn every_promise_that_is_kept_today_has_a_metric() {
        let promises = [
            "LOG-1", "LOG-2", "LOG-3", "LOG-4", "LOG-5", "PRJ-1", "PRJ-2", "ARC-1", "ARC-2", "ARC-3", "ARC-4", "EVD-1",
            "REP-1", "REP-2", "REP-3", "SEC-1", "GRP-1",
        ];
        for promise in promises {
            assert!(ALL.iter().any(|family| family.help.contains(promise)), "{promise}");
        }
    }

    #[test]
    fn the_table_is_written_down() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("METRICS.md");
        let written = std::fs::read_to_string(file).expect("ops/METRICS.md");
        assert!(written == table(), "coldstream metrics > ops/METRICS.md");
    }
}
