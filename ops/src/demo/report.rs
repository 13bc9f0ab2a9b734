//! What the demo measured: one table for people, `result.json` for the outsider.

use std::time::Duration;

use domain::Head;
use replication::failover::{Bound, LossStatement};
use serde_json::{Map, Value, json};

use super::counted;
use crate::clock::Stopwatch;

/// Everything that was measured, in the order of the demo.
#[derive(Default)]
pub(super) struct Figures {
    pub(super) import_watch: Option<Stopwatch>,
    pub(super) disaster: Option<Stopwatch>,
    pub(super) acknowledged: u64,
    pub(super) archived_head: u64,
    pub(super) healed: usize,
    pub(super) home_points: (usize, f64),
    pub(super) dr_points: (usize, f64),
    pub(super) audit_rate: f64,
    /// How long the whole demo took, once it is over.
    seconds: Option<f64>,
    rows: Vec<(String, String)>,
    json: Map<String, Value>,
}

/// What one region holds, and where.
pub(super) struct Place {
    pub(super) head: u64,
    pub(super) pruned: u64,
    /// Rows of the live log.
    pub(super) live: u64,
    pub(super) archived: u64,
    pub(super) segments: String,
    /// Bytes in the bucket, indexes included.
    pub(super) stored_bytes: u64,
    /// Bytes of the records in them.
    pub(super) record_bytes: u64,
    /// Bytes of all tables and indexes.
    pub(super) database_bytes: u64,
    /// Bytes of all files in the cluster's folder: with its write-ahead log, and system tables.
    pub(super) disk_bytes: u64,
}

/// Events per second.
#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
pub(super) fn rate(events: u64, seconds: f64) -> f64 {
    events as f64 / seconds.max(f64::EPSILON)
}

#[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
fn ratio(large: u64, small: u64) -> f64 {
    large as f64 / small.max(1) as f64
}

pub(super) fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", ratio(bytes, 1_000_000))
}

fn per_second(events: u64, seconds: f64) -> String {
    format!("{} events/s", counted(rate(events, seconds).round()))
}

impl Figures {
    fn row(&mut self, name: &str, value: String) {
        self.rows.push((name.into(), value));
    }

    pub(super) fn import(&mut self, events: u64, seconds: f64) {
        let speed = per_second(events, seconds);
        self.row("import", format!("{speed} ({} events in {seconds:.2} s)", counted(events)));
        self.json.insert(
            "import".into(),
            json!({ "events": events, "seconds": seconds, "events_per_second": rate(events, seconds) }),
        );
    }

    pub(super) fn shipped(&mut self, events: u64) {
        let seconds = self.import_watch.map_or(0.0, |watch| watch.elapsed().as_secs_f64());
        let speed = per_second(events, seconds);
        self.row("ship to dr", format!("{speed} (all there {seconds:.2} s after the import began)"));
        let shipped = json!({ "seconds": seconds, "events_per_second": rate(events, seconds) });
        self.json.insert("ship".into(), shipped);
    }

    pub(super) fn sealed(&mut self, head: u64, segments: usize, took: Duration) {
        self.archived_head = head;
        let seconds = took.as_secs_f64();
        self.row("seal", format!("{} ({segments} segments in {seconds:.2} s)", per_second(head, seconds)));
        let sealed = json!({ "segments": segments, "events_per_second": rate(head, seconds) });
        self.json.insert("seal".into(), sealed);
    }

    pub(super) fn pruned(&mut self, took: Duration) {
        self.row("seal → prune", format!("{:.2} s until both regions held the window alone", took.as_secs_f64()));
        self.json.insert("prune_seconds".into(), json!(took.as_secs_f64()));
    }

    pub(super) fn place(&mut self, region: &str, place: &Place) {
        let Place { head, pruned, live, archived, segments, stored_bytes, record_bytes, database_bytes, disk_bytes } =
            place;
        self.row(
            &format!("{region} holds"),
            format!(
                "{} live and {} archived events, {} of them pruned",
                counted(live),
                counted(archived),
                counted(pruned)
            ),
        );
        self.row(
            &format!("{region} takes"),
            format!(
                "{} of tables and indexes ({} in the cluster's folder, WAL included), {} in the bucket",
                megabytes(*database_bytes),
                megabytes(*disk_bytes),
                megabytes(*stored_bytes)
            ),
        );
        if region == "home" {
            self.row("compression", format!("{:.1} : 1 (indexes included)", ratio(*record_bytes, *stored_bytes)));
        }
        let place = json!({
            "head": head.to_string(), "pruned": pruned.to_string(), "live_rows": live,
            "database_bytes": database_bytes, "disk_bytes": disk_bytes, "stored_bytes": stored_bytes.to_string(),
            "record_bytes": record_bytes.to_string(), "segments": segments,
        });
        self.json.insert(region.into(), place);
    }

    pub(super) fn failover(&mut self, loss: &LossStatement, fork: Head, lost: u64, after: [Duration; 3]) {
        let bound = match loss.bound {
            Bound::Events(bound) => Some(bound),
            Bound::UnknownSince(_) => None,
        };
        let [detected, promoted, first_write] = after.map(|after| after.as_millis());
        self.row("RPO", format!("{lost} of {} acknowledged events", counted(self.acknowledged)));
        self.row(
            "RTO",
            format!("{first_write} ms from the kill to the first write in dr (promoted after {promoted} ms)"),
        );
        let failover = json!({
            "stated": loss.to_string(), "own_head": loss.own_head.to_string(), "fork": fork.to_string(),
            "bound_events": bound, "lost_events": lost, "acknowledged_events": self.acknowledged,
            "noticed_ms": detected.to_string(), "promoted_ms": promoted.to_string(), "first_write_ms": first_write.to_string(),
        });
        self.json.insert("failover".into(), failover);
    }

    /// The demo is over.
    pub(super) fn took(&mut self, whole: Duration) {
        self.seconds = Some(whole.as_secs_f64());
    }

    fn rest(&self) -> Vec<(String, String)> {
        let replay = |(points, speed): (usize, f64)| match points {
            0 => format!("{} events/s", counted(speed.round())),
            _ => format!("{} events/s, right at {points} points in time", counted(speed.round())),
        };
        let mut rest = vec![
            ("healed on read".into(), format!("{} objects", self.healed)),
            ("replay at home".into(), replay(self.home_points)),
            ("replay in dr".into(), replay(self.dr_points)),
            ("audit".into(), format!("{} events/s", counted(self.audit_rate.round()))),
        ];
        rest.extend(self.seconds.map(|seconds| ("the whole demo".into(), format!("{seconds:.1} s"))));
        rest
    }

    /// The table.
    pub(super) fn table(&self) -> String {
        let rows: Vec<(String, String)> = self.rows.iter().cloned().chain(self.rest()).collect();
        let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        let line = |(name, value): &(String, String)| {
            let pad = " ".repeat(width - name.chars().count());
            format!("    {name}{pad}  {value}")
        };
        rows.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    /// What stands in `result.json`.
    pub(super) fn to_json(&self) -> Value {
        let mut json = self.json.clone();
        json.insert("healed_objects".into(), json!(self.healed));
        json.insert("replay_events_per_second".into(), json!({ "home": self.home_points.1, "dr": self.dr_points.1 }));
        json.insert("audit_events_per_second".into(), json!(self.audit_rate));
        if let Some(seconds) = self.seconds {
            json.insert("seconds".into(), json!(seconds));
        }
        Value::Object(json)
    }
}
