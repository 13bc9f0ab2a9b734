//! Makes a history of a year and a half from a seed, with its own oracle: the same bytes for the same seed.
//!
//! The oracle comes from a model of its own (a plain map), not from Coldstream's folds. It must never use them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use chrono::{DateTime, Datelike, Duration, FixedOffset, TimeZone, Utc, Weekday};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use sha2::{Digest, Sha256};

/// How many events a generated history has, roughly: it ends with the change that reaches them.
pub(super) const EVENTS: usize = 24_000;
/// Points at which the oracle says what lives.
const ORACLE_POINTS: usize = 40;
const DAYS: i64 = 546;

/// A history as NDJSON of CloudEvents, and what is true of it.
pub(super) struct History {
    /// One event a line.
    pub(super) ndjson: String,
    /// What lives at some points.
    pub(super) oracle: Oracle,
}

/// What lives at some points of a history.
#[derive(Debug, Serialize)]
pub(super) struct Oracle {
    digest_rule: &'static str,
    events: usize,
    checkpoints: Vec<OraclePoint>,
}

/// What lives after a number of events.
#[derive(Debug, Serialize)]
struct OraclePoint {
    after_events: usize,
    time: String,
    live: usize,
    digest: String,
}

struct Author {
    name: String,
    offset: FixedOffset,
}

struct Generator {
    rng: ChaCha8Rng,
    authors: Vec<Author>,
    /// The model: path → object id.
    living: BTreeMap<String, String>,
    gone: Vec<String>,
    made: usize,
    lines: usize,
    ndjson: String,
    oracle: Vec<OraclePoint>,
}

/// The history of `seed`: eighteen months from 2025-01-01 on.
///
/// # Panics
/// Never: all dates are inside chrono's range.
#[must_use]
pub(super) fn generate(seed: u64) -> History {
    let mut generator = Generator::new(seed);
    let start = Utc.with_ymd_and_hms(2025, 1, 1, 0, 0, 0).single().expect("a date");
    let (mut day, mut change) = (0, 0);
    while day < DAYS {
        let date = start + Duration::days(day);
        for at in generator.moments(date) {
            change += 1;
            generator.change(change, at);
        }
        day += 1;
    }
    let events = generator.lines;
    let digest_rule = "sha256 of the concatenation, sorted by path in code-point order, of: path NUL oid LF";
    let oracle = Oracle { digest_rule, events, checkpoints: generator.oracle };
    History { ndjson: generator.ndjson, oracle }
}

impl Generator {
    fn new(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let offsets = [-8, -5, 0, 1, 2, 5, 9];
        let author = |_| Author {
            name: hex(&mut rng, 8),
            offset: FixedOffset::east_opt(offsets[rng.random_range(0..offsets.len())] * 3600).expect("below a day"),
        };
        let authors = (0..14).map(author).collect();
        Self {
            rng,
            authors,
            living: BTreeMap::new(),
            gone: Vec::new(),
            made: 0,
            lines: 0,
            ndjson: String::new(),
            oracle: Vec::new(),
        }
    }

    /// When changes are made on a day: in working hours, few at the weekend, none on some days.
    fn moments(&mut self, date: DateTime<Utc>) -> Vec<DateTime<Utc>> {
        let weekend = matches!(date.weekday(), Weekday::Sat | Weekday::Sun);
        let changes = if weekend { self.rng.random_range(0..3) } else { self.rng.random_range(6..26) };
        let mut seconds: Vec<i64> = (0..changes).map(|_| self.rng.random_range(7 * 3600..19 * 3600)).collect();
        seconds.sort_unstable();
        seconds.into_iter().map(|second| date + Duration::seconds(second)).collect()
    }

    /// One change: many items, one author, one instant.
    fn change(&mut self, number: u64, at: DateTime<Utc>) {
        let index = self.rng.random_range(0..self.authors.len()).min(self.rng.random_range(0..self.authors.len()));
        // Some authors' clocks are slow: `time` is not monotonic.
        let slow = if self.rng.random_bool(0.04) { self.rng.random_range(60..90_000) } else { 0 };
        let time = (at - Duration::seconds(slow)).with_timezone(&self.authors[index].offset);
        let time = time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
        let items = match self.rng.random_range(0..100) {
            0..70 => self.rng.random_range(1..4),
            70..97 => self.rng.random_range(2..12),
            _ => self.rng.random_range(20..60),
        };
        let change = format!("{number:08x}{}", hex(&mut self.rng, 32));
        let mut touched = std::collections::BTreeSet::new();
        for _ in 0..items {
            let path = self.path();
            if touched.insert(path.clone()) {
                self.event(&path, index, &change, &time);
            }
        }
        if self.lines / (EVENTS / ORACLE_POINTS) > self.oracle.len() {
            self.point(time);
        }
    }

    /// The item that a change touches: mostly a living one, and of those mostly a recent one.
    fn path(&mut self) -> String {
        let pick = self.rng.random_range(0..100);
        if pick < 4 && !self.gone.is_empty() {
            let index = self.rng.random_range(0..self.gone.len());
            return self.gone[index].clone();
        }
        if pick < 30 || self.living.len() < 20 {
            self.made += 1;
            return new_path(&mut self.rng, self.made);
        }
        let index = self.rng.random_range(0..self.living.len());
        self.living.keys().nth(index).expect("below the length").clone()
    }

    fn event(&mut self, path: &str, author: usize, change: &str, time: &str) {
        self.lines += 1;
        let alive = self.living.contains_key(path);
        let kind = match alive {
            false => "created",
            true if self.rng.random_bool(0.12) => "deleted",
            true => "revised",
        };
        let mut data = format!(r#"{{"author":"{}","change":"{change}""#, self.authors[author].name);
        if kind == "deleted" {
            self.living.remove(path);
            self.gone.push(path.to_owned());
        } else {
            let oid = hex(&mut self.rng, 40);
            let size: u32 = 1 << self.rng.random_range(4..17);
            let size = size + self.rng.random_range(0..size);
            let _ = write!(data, r#","oid":"{oid}","mode":"100644","size":{size}"#);
            self.living.insert(path.to_owned(), oid);
            self.gone.retain(|gone| gone != path);
        }
        let subject = serde_json::Value::from(path);
        let _ = writeln!(
            self.ndjson,
            r#"{{"specversion":"1.0","id":"generated:{:07}","source":"/histories/generated","type":"content.{kind}","subject":{subject},"time":"{time}","datacontenttype":"application/json","data":{data}}}}}"#,
            self.lines
        );
    }

    fn point(&mut self, time: String) {
        let mut hasher = Sha256::new();
        for (path, oid) in &self.living {
            hasher.update(path);
            hasher.update([0]);
            hasher.update(oid);
            hasher.update(b"\n");
        }
        let digest = hasher.finalize().iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        self.oracle.push(OraclePoint { after_events: self.lines, time, live: self.living.len(), digest });
    }
}

fn hex(rng: &mut ChaCha8Rng, digits: usize) -> String {
    (0..digits).map(|_| char::from_digit(rng.random_range(0..16), 16).expect("below 16")).collect()
}

/// A path as people write them, some with letters that are not ASCII, blanks and quotes.
fn new_path(rng: &mut ChaCha8Rng, number: usize) -> String {
    const FOLDERS: [&str; 9] =
        ["docs", "src", "src/core", "plans/2025", "plans/2026", "Entwürfe", "legal", "design/pages", "日誌"];
    const WORDS: [&str; 12] = [
        "budget",
        "intro",
        "notes",
        "Überblick",
        "report",
        "q&a",
        "agenda",
        "minutes",
        "draft \"b\"",
        "spec",
        "élan",
        "map",
    ];
    const ENDS: [&str; 5] = ["md", "txt", "html", "rs", "json"];
    let folder = FOLDERS[rng.random_range(0..FOLDERS.len())];
    let word = WORDS[rng.random_range(0..WORDS.len())];
    let end = ENDS[rng.random_range(0..ENDS.len())];
    format!("{folder}/{word}-{number}.{end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_bytes() {
        let (one, two) = (generate(7), generate(7));
        assert_eq!(one.ndjson, two.ndjson);
        assert_ne!(one.ndjson, generate(8).ndjson);
        assert!(one.oracle.checkpoints.len() >= 30, "{}", one.oracle.checkpoints.len());
        assert!(one.oracle.events > EVENTS / 2 && one.oracle.events < EVENTS * 2, "{}", one.oracle.events);
    }
}
