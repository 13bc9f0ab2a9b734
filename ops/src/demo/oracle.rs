//! Holds what a log serves against what an oracle says of the history: which items lived after how many events.

use std::collections::BTreeMap;
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
        /// The id that should come.
        expected: String,
        /// The id that came; none if the log ended.
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

#[derive(Deserialize)]
struct Identity {
    id: String,
    source: String,
}

/// A history's ids in order, and the points at which its oracle says what lives.
pub(super) struct Oracle {
    source: String,
    ids: Vec<String>,
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
        let (mut source, mut ids) = (String::new(), Vec::new());
        for line in read_text(history)?.lines() {
            let identity: Identity = parse(history, line)?;
            source = identity.source;
            ids.push(identity.id);
        }
        let points = match oracle {
            None => BTreeMap::new(),
            Some(file) => {
                let oracle: OracleFile = parse(file, &read_text(file)?)?;
                oracle.checkpoints.into_iter().map(|point| (point.after_events, point)).collect()
            }
        };
        Ok(Self { source, ids, points })
    }

    /// How many events the history has.
    #[must_use]
    pub(super) fn events(&self) -> usize {
        self.ids.len()
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
        if event.event.source != self.oracle.source {
            return Ok(());
        }
        let expected = self.oracle.ids.get(self.events);
        if expected != Some(&event.event.id) {
            let expected = expected.cloned().unwrap_or_else(|| "nothing".into());
            return Err(OracleError::Order { expected, found: Some(event.event.id.clone()) });
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
        match self.oracle.ids.get(self.events) {
            None => Ok(self.points),
            Some(expected) => Err(OracleError::Order { expected: expected.clone(), found: None }),
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
