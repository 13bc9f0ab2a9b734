//! What the demo measured: one table for people, `result.json` for the outsider.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::passage::number;
use crate::clock::Stopwatch;
use crate::http::archive::ArchiveStatus;
use crate::http::status::Status;

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
    rows: Vec<(String, String)>,
    json: Map<String, Value>,
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

impl Figures {
    fn row(&mut self, name: &str, value: String) {
        self.rows.push((name.into(), value));
    }

    pub(super) fn import(&mut self, events: u64, seconds: f64) {
        let per_second = rate(events, seconds);
        self.row("import", format!("{events} events in {seconds:.2} s, {per_second:.0} events/s"));
        self.json
            .insert("import".into(), json!({ "events": events, "seconds": seconds, "events_per_second": per_second }));
    }

    pub(super) fn shipped(&mut self, events: u64) {
        let seconds = self.import_watch.map_or(0.0, |watch| watch.elapsed().as_secs_f64());
        let per_second = rate(events, seconds);
        self.row(
            "ship",
            format!("{events} events in dr {seconds:.2} s after the import began, {per_second:.0} events/s"),
        );
        self.json.insert("ship".into(), json!({ "seconds": seconds, "events_per_second": per_second }));
    }

    pub(super) fn sealed(&mut self, head: u64, segments: usize, took: Duration) {
        self.archived_head = head;
        let per_second = rate(head, took.as_secs_f64());
        self.row("seal", format!("{segments} segments in {:.2} s, {per_second:.0} events/s", took.as_secs_f64()));
        self.json.insert("seal".into(), json!({ "segments": segments, "events_per_second": per_second }));
    }

    pub(super) fn pruned(&mut self, took: Duration) {
        self.row("seal → prune", format!("{:.2} s until both regions held the window alone", took.as_secs_f64()));
        self.json.insert("prune_seconds".into(), json!(took.as_secs_f64()));
    }

    pub(super) fn place(&mut self, region: &str, status: &Status, archive: &ArchiveStatus, live: u64, database: u64) {
        let (stored, records) = (number(&archive.stored_bytes), number(&archive.record_bytes));
        self.row(
            &format!("{region} holds"),
            format!(
                "{live} live, {} archived, {} pruned; database {:.1} MB, bucket {:.1} MB",
                archive.archived_head,
                status.pruned,
                ratio(database, 1_000_000),
                ratio(stored, 1_000_000)
            ),
        );
        if region == "home" {
            self.row("compression", format!("{:.1} : 1 (indexes included)", ratio(records, stored)));
        }
        let place = json!({
            "head": status.head, "pruned": status.pruned, "live_rows": live, "database_bytes": database,
            "stored_bytes": stored, "record_bytes": records, "segments": archive.segments,
        });
        self.json.insert(region.into(), place);
    }

    pub(super) fn failover(&mut self, said: &str, bound: Option<u64>, lost: u64, after: [Duration; 3]) {
        let [detected, promoted, first_write] = after.map(|after| after.as_millis());
        self.row("stated before", said.into());
        self.row("RPO", format!("{lost} of {} acknowledged events", self.acknowledged));
        self.row(
            "RTO",
            format!("{first_write} ms from the kill to the first write in dr (promoted after {promoted} ms)"),
        );
        let failover = json!({
            "stated": said, "bound_events": bound, "lost_events": lost, "acknowledged_events": self.acknowledged,
            "noticed_ms": detected.to_string(), "promoted_ms": promoted.to_string(), "first_write_ms": first_write.to_string(),
        });
        self.json.insert("failover".into(), failover);
    }

    fn rest(&self) -> Vec<(String, String)> {
        let replay =
            |(points, per_second): (usize, f64)| format!("{points} oracle points hold, {per_second:.0} events/s");
        vec![
            (
                "healed on read".into(),
                format!("{} objects (a flipped byte; where there are several, a deletion)", self.healed),
            ),
            ("replay at home".into(), replay(self.home_points)),
            ("replay in dr".into(), replay(self.dr_points)),
            ("audit".into(), format!("{:.0} events/s from the bucket and public keys alone", self.audit_rate)),
        ]
    }

    /// The table.
    pub(super) fn table(&self) -> String {
        let rows: Vec<(String, String)> = self.rows.iter().cloned().chain(self.rest()).collect();
        let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        let line = |(name, value): &(String, String)| {
            let pad = " ".repeat(width - name.chars().count());
            format!("{name}{pad}  {value}")
        };
        rows.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    /// What stands in `result.json`.
    pub(super) fn to_json(&self) -> Value {
        let mut json = self.json.clone();
        json.insert("healed_objects".into(), json!(self.healed));
        json.insert("replay_events_per_second".into(), json!({ "home": self.home_points.1, "dr": self.dr_points.1 }));
        json.insert("audit_events_per_second".into(), json!(self.audit_rate));
        Value::Object(json)
    }
}
