//! Holds what a log serves against what an oracle says of the history: which items lived after how many events.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::Read;
use std::path::Path;

use domain::content::living::LivingItems;
use domain::record::{self, Record};
use serde::Deserialize;
use thiserror::Error;

/// Why a replay is not what the oracle says.
#[derive(Debug, Error)]
pub enum OracleError {
    /// A file cannot be read.
    #[error("cannot read {file}")]
    File {
        /// Which one.
        file: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{file} is no history or oracle")]
    Form {
        /// Which one.
        file: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A line is no record.
    #[error("the log served what is no record")]
    Record(#[from] domain::event::EventError),
    /// Not what the oracle says.
    #[error("after {after} events {found} items live with digest {digest}; the oracle says {expected}")]
    Differs {
        /// How many events of the history were applied.
        after: usize,
        /// How many items live.
        found: usize,
        /// Their digest.
        digest: String,
        /// What the oracle says.
        expected: String,
    },
    /// Events of the history are missing, doubled or out of order.
    #[error("event {expected} of the history should follow, the log has {found:?}")]
    Order {
        /// The event that should come.
        expected: String,
        /// The event that came; none if the log ended.
        found: Option<String>,
    },
}

#[derive(Deserialize)]
struct OracleFile {
    checkpoints: Vec<Point>,
}

#[derive(Deserialize)]
struct Point {
    after_events: usize,
    live: usize,
    digest: String,
}

/// An id is one of its source only.
#[derive(Debug, PartialEq, Eq, Deserialize)]
struct Identity {
    id: String,
    source: String,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.id, self.source)
    }
}

/// A history's events in order, and the points at which its oracle says what lives.
pub(super) struct Oracle {
    /// What else a log holds is of none of these, and not the history's.
    sources: BTreeSet<String>,
    events: Vec<Identity>,
    points: BTreeMap<usize, Point>,
}

/// A replay on its way.
pub(super) struct Replay<'a> {
    oracle: &'a Oracle,
    living: LivingItems,
    events: usize,
    points: usize,
}

impl Oracle {
    /// Reads a history and its oracle; without an oracle only order and completeness are checked.
    ///
    /// # Errors
    /// `File` or `Form` with the file's name.
    pub(super) fn read(history: &Path, oracle: Option<&Path>) -> Result<Self, OracleError> {
        let text = read_text(history)?;
        let events: Vec<Identity> = text.lines().map(|line| parse(history, line)).collect::<Result<_, _>>()?;
        let sources = events.iter().map(|event| event.source.clone()).collect();
        let points = match oracle {
            None => BTreeMap::new(),
            Some(file) => {
                let oracle: OracleFile = parse(file, &read_text(file)?)?;
                oracle.checkpoints.into_iter().map(|point| (point.after_events, point)).collect()
            }
        };
        Ok(Self { sources, events, points })
    }

    /// How many events the history has.
    #[must_use]
    pub(super) fn events(&self) -> usize {
        self.events.len()
    }

    /// How many points the oracle has.
    #[must_use]
    pub(super) fn points(&self) -> usize {
        self.points.len()
    }

    /// A replay from the first event on.
    #[must_use]
    pub(super) fn replay(&self) -> Replay<'_> {
        Replay { oracle: self, living: LivingItems::default(), events: 0, points: 0 }
    }
}

impl Replay<'_> {
    /// Takes the next line of the log.
    ///
    /// # Errors
    /// `Differs` at an oracle point, `Order` where the history's events do not follow each other.
    pub(super) fn take(&mut self, line: &[u8]) -> Result<(), OracleError> {
        let record = record::read(line)?;
        let Record::Event(event) = &record else { return Ok(()) };
        if !self.oracle.sources.contains(&event.event.source) {
            return Ok(());
        }
        let expected = self.oracle.events.get(self.events);
        if expected.is_none_or(|expected| expected.id != event.event.id || expected.source != event.event.source) {
            let expected = expected.map_or_else(|| "nothing".into(), Identity::to_string);
            let found = Identity { id: event.event.id.clone(), source: event.event.source.clone() };
            return Err(OracleError::Order { expected, found: Some(found.to_string()) });
        }
        self.living.apply(&record);
        self.events += 1;
        self.compare()
    }

    fn compare(&mut self) -> Result<(), OracleError> {
        let Some(point) = self.oracle.points.get(&self.events) else { return Ok(()) };
        let (found, digest) = (self.living.len(), self.living.digest().to_hex());
        if found != point.live || digest != point.digest {
            let expected = format!("{} with digest {}", point.live, point.digest);
            return Err(OracleError::Differs { after: self.events, found, digest, expected });
        }
        self.points += 1;
        Ok(())
    }

    /// Ends the replay: how many oracle points held.
    ///
    /// # Errors
    /// `Order` if events of the history are missing.
    pub(super) fn finish(self) -> Result<usize, OracleError> {
        match self.oracle.events.get(self.events) {
            None => Ok(self.points),
            Some(expected) => Err(OracleError::Order { expected: expected.to_string(), found: None }),
        }
    }
}

fn parse<'a, T: Deserialize<'a>>(file: &Path, text: &'a str) -> Result<T, OracleError> {
    serde_json::from_str(text).map_err(|source| OracleError::Form { file: file.display().to_string(), source })
}

fn read_text(file: &Path) -> Result<String, OracleError> {
    let error = |source| OracleError::File { file: file.display().to_string(), source };
    let opened = std::fs::File::open(file).map_err(error)?;
    let mut text = String::new();
    if file.extension().is_some_and(|extension| extension == "zst") {
        let mut decoder = zstd::Decoder::new(opened).map_err(error)?;
        decoder.read_to_string(&mut text).map_err(error)?;
    } else {
        std::io::BufReader::new(opened).read_to_string(&mut text).map_err(error)?;
    }
    Ok(text)
}

/// The first line of a history.
///
/// # Errors
/// `File`.
pub(super) fn first_line(history: &Path) -> Result<String, OracleError> {
    Ok(read_text(history)?.lines().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use domain::append::{AppendRequest, Role};
    use domain::event::NewEvent;
    use domain::log::{Direction, EventLog, LogReader};
    use domain::twin::MemoryLog;
    use domain::{FixedClock, Position, StreamName, Timestamp};

    use super::*;

    fn line(source: &str, id: &str) -> String {
        format!(
            r#"{{"specversion":"1.0","id":"{id}","source":"{source}","type":"content.created","subject":"f/{id}","data":{{"author":"x","change":"c","oid":"{id}","mode":"100644","size":1}}}}"#
        )
    }

    /// The lines of a log that has these events.
    async fn lines(events: &[String]) -> Vec<Vec<u8>> {
        let now = Timestamp::parse_rfc3339("2026-05-01T08:00:00Z").expect("an instant");
        let log = MemoryLog::new(std::sync::Arc::new(FixedClock(now)), now, Role::Active);
        for line in events {
            let event = NewEvent::from_cloudevent_with(line.as_bytes(), |id| StreamName::of("content", id));
            let events = vec![event.expect("an event")];
            log.append(AppendRequest { events, ..AppendRequest::default() }).await.expect("appended");
        }
        let records = log.read_log(Position::FIRST, Direction::Forward, 100).await.expect("readable");
        records.iter().map(Record::to_line).collect()
    }

    fn replayed(oracle: &Oracle, lines: &[Vec<u8>]) -> Result<usize, OracleError> {
        let mut replay = oracle.replay();
        lines.iter().try_for_each(|line| replay.take(line))?;
        replay.finish()
    }

    #[tokio::test]
    async fn a_history_of_two_sources_plain_or_packed_is_held_against_the_log() {
        let folder = tempfile::tempdir().expect("a folder");
        // The same id twice: of two sources it is two events.
        let history = [line("/one", "1"), line("/two", "1"), line("/one", "2")];
        let (plain, packed) = (folder.path().join("h.ndjson"), folder.path().join("h.ndjson.zst"));
        std::fs::write(&plain, history.join("\n")).expect("written");
        std::fs::write(&packed, zstd::encode_all(history.join("\n").as_bytes(), 1).expect("packed")).expect("written");
        let mut log = history.to_vec();
        log.insert(1, line("/somebody-else", "9"));
        for file in [plain, packed] {
            let oracle = Oracle::read(&file, None).expect("a history");
            assert_eq!(oracle.events(), 3);
            replayed(&oracle, &lines(&log).await).expect("the whole history, in its order");
            let swapped = [history[1].clone(), history[0].clone(), history[2].clone()];
            let error = replayed(&oracle, &lines(&swapped).await).expect_err("another order");
            assert_eq!(
                error.to_string(),
                r#"event 1 of /one of the history should follow, the log has Some("1 of /two")"#
            );
            let missing = [history[0].clone(), history[2].clone()];
            replayed(&oracle, &lines(&missing).await).expect_err("one is missing");
            replayed(&oracle, &lines(&history[..2]).await).expect_err("the last one is missing");
        }
    }
}
