//! Replays an archive in order, as of a position, an event or an instant: what is handed on was verified first.

use domain::archive::catalog::Segment;
use domain::archive::layout;
use domain::archive::reader::Scan;
use domain::archive::segment::SegmentError;
use domain::keys::KeyRing;
use domain::record::Record;
use domain::store::ObjectStore;
use domain::{ErrorKind, Head, Position, Timestamp};
use thiserror::Error;

use super::history::History;
use super::{AuditFinding, AuditReport};
use crate::ArchiveError;

/// Where a replay ends; what it names is the last record of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AsOf {
    /// All that is archived.
    Head,
    /// This position.
    Position(Position),
    /// The event with this id; with a `source`, of that source.
    Event {
        /// Its id.
        id: String,
        /// Its source; `None`: the first event with the id.
        source: Option<String>,
    },
    /// The newest record with `recordedat` at or before this instant.
    Instant(Timestamp),
}

/// Takes each record and its line, without LF.
pub type Sink<'a> = &'a mut (dyn FnMut(&Record, &[u8]) -> std::io::Result<()> + Send);

/// Looks at a record and its line, and says whether to go on.
type Visit<'a> = &'a mut (dyn FnMut(&Record, &[u8]) -> Result<bool, ReplayError> + Send);

/// What a replay handed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplayReport {
    /// Position of the last record handed on.
    pub replayed: Head,
    /// Where the archive ends. What is asked for beyond it has to come from a live log.
    pub archived: Head,
}

/// Why a replay ended early. What was handed on before is right, and is not all.
#[derive(Debug, Error)]
pub enum ReplayError {
    /// The store did not answer.
    #[error("the archive was not read")]
    Archive(#[from] ArchiveError),
    /// The manifests or claims are not right.
    #[error("{}: {}", .0.object, .0.reason)]
    History(AuditFinding),
    /// A segment is not right.
    #[error("{object} is not right")]
    Segment {
        /// The object.
        object: String,
        /// Why.
        #[source]
        source: SegmentError,
    },
    /// The archive has no such event.
    #[error("the archive has no event {0:?}")]
    NoSuchEvent(String),
    /// The records could not be handed on.
    #[error("the records were not taken")]
    Sink(#[source] std::io::Error),
}

impl ReplayError {
    /// What the caller has to do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Archive(error) => error.kind(),
            Self::History(_) | Self::Segment { .. } => ErrorKind::Corrupt,
            Self::NoSuchEvent(_) => ErrorKind::NotFound,
            Self::Sink(_) => ErrorKind::Unavailable,
        }
    }
}

impl AsOf {
    /// Whether a record is past the end.
    fn is_before(&self, record: &Record) -> bool {
        match self {
            Self::Head | Self::Event { .. } => false,
            Self::Position(last) => record.position() > *last,
            Self::Instant(last) => record.recorded_at() > *last,
        }
    }

    /// Whether a whole segment is past the end.
    fn is_before_segment(&self, segment: &Segment) -> bool {
        match self {
            Self::Head | Self::Event { .. } => false,
            Self::Position(last) => segment.first > *last,
            Self::Instant(last) => segment.first_at > *last,
        }
    }
}

/// Hands each record and its line to `sink`, in order of position, up to `as_of`. Each segment's digests are
/// compared before its first record is handed on, and each block's records before they are.
///
/// # Errors
/// [`ReplayError`]; what was handed on before is right.
pub async fn replay(
    store: &dyn ObjectStore,
    keys: &KeyRing,
    as_of: &AsOf,
    sink: Sink<'_>,
) -> Result<ReplayReport, ReplayError> {
    let mut report = AuditReport::default();
    let history = History::read(store, keys, &mut report).await?;
    if let Some(finding) = report.findings.pop() {
        return Err(ReplayError::History(finding));
    }
    let segments = history.in_force();
    // An event is looked for first: records must not be handed on before it is known where they end.
    let end = match as_of {
        AsOf::Event { id, source } => AsOf::Position(find(store, segments, id, source.as_deref()).await?),
        other => other.clone(),
    };
    let mut replayed = Head::EMPTY;
    for segment in segments.iter().take_while(|segment| !end.is_before_segment(segment)) {
        walk(store, segment, &mut |record, line| {
            if end.is_before(record) {
                return Ok(false);
            }
            sink(record, line).map_err(ReplayError::Sink)?;
            replayed = record.position().as_head();
            Ok(true)
        })
        .await?;
    }
    let archived = segments.last().map_or(Head::EMPTY, |segment| segment.last.as_head());
    Ok(ReplayReport { replayed, archived })
}

/// Where an event stands.
async fn find(
    store: &dyn ObjectStore,
    segments: &[Segment],
    id: &str,
    source: Option<&str>,
) -> Result<Position, ReplayError> {
    let mut found = None;
    for segment in segments {
        walk(store, segment, &mut |record, _line| {
            if let Record::Event(event) = record
                && event.event.id == id
                && source.is_none_or(|source| event.event.source == source)
            {
                found = Some(event.position);
            }
            Ok(found.is_none())
        })
        .await?;
        if let Some(position) = found {
            return Ok(position);
        }
    }
    Err(ReplayError::NoSuchEvent(id.to_owned()))
}

/// Gives each record of a segment and its line to `visit`, until that says `false`.
async fn walk(store: &dyn ObjectStore, segment: &Segment, visit: Visit<'_>) -> Result<(), ReplayError> {
    let key = layout::segment(segment);
    let object = store.get(&key).await.map_err(ArchiveError::from)?;
    let index = store.get(&layout::index(segment)).await.map_err(ArchiveError::from)?;
    let damaged = |source| ReplayError::Segment { object: key.clone(), source };
    let mut scan = Scan::open(segment, &object.bytes, &index.bytes).map_err(damaged)?;
    while let Some(block) = scan.next_block().map_err(damaged)? {
        for (record, line) in block.records.iter().zip(block.lines()) {
            if !visit(record, line)? {
                return Ok(());
            }
        }
    }
    scan.finish().map_err(damaged)
}
