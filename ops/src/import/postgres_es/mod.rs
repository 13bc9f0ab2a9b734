//! `coldstream import-postgres-es`: takes over the tables of a service that uses cqrs-es with postgres-es, so that
//! it goes on over [`domain::cqrs::TieredEventRepository`] with the same aggregates at the same versions.
//!
//! 1. **Survey** ([`survey`]): every row is read, stream by stream, and checked; what cannot be an event ([`row`]) is
//!    named before anything is stored.
//! 2. **Append**, in the import's order, in atomic groups; each moves the import's own checkpoint in its transaction.
//!    A run that was killed is resumed by running it again: the source's digest finds the checkpoint. In a region that
//!    took over meanwhile the log itself is asked how far the import came.
//! 3. **Verify** ([`verify`]): source and log are both read once more and compared, stream by stream and as a whole.
//! 4. **Snapshots** ([`snapshots`]) are taken over as they are, held against the events before anything is stored (what
//!    is of no event is named) and by the service's first load: cqrs-es 0.5 applies some events of a command to them twice.
//!
//! Survey and append read one snapshot of the source. The service must not write meanwhile: what it writes after the
//! survey is not in it, and the verification says so.

mod append;
mod row;
mod snapshots;
mod source;
mod survey;
mod verify;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use domain::append::{AppendCondition, AppendError, AppendRequest, ConditionItem};
use domain::cqrs::snapshot::SnapshotStore;
use domain::log::{EventLog, LogReader, ReadError};
use domain::{Clock, ClockError, ErrorKind, Head, StreamName, Timestamp};
use serde::Serialize;
use serde_json::json;
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::{Progress, RecordedAt, opening};
use crate::clock::Stopwatch;
use crate::config::SecretUrl;
use append::Appender;
use opening::Began;
pub use snapshots::SnapshotsReport;
use snapshots::SurveyedSnapshots;
use source::{Source, next_streams};
pub use survey::{BadRow, BadRows, TypeReport};
use survey::{Streams, Survey};

/// Streams whose summaries are made between two looks at them.
const STREAMS_AT_ONCE: usize = 256;

/// Why such an import ended early, or is not proven. Running it again goes on where its checkpoint stands.
#[derive(Debug, Error)]
pub enum PostgresEsError {
    /// The source was not read.
    #[error("the source was not read: {doing} failed")]
    Source {
        /// What was being done.
        doing: &'static str,
        /// Why.
        #[source]
        source: sqlx::Error,
    },
    /// The source has no such table.
    #[error("the source has no table {table:?}")]
    NoTable {
        /// Its name.
        table: String,
    },
    /// Rows cannot be imported. Nothing was stored.
    #[error("{0}")]
    BadRows(BadRows),
    /// Two types would be one in the log. Nothing was stored.
    #[error("the aggregate types {one:?} and {other:?} would both be the category {category:?}")]
    SameCategory {
        /// One of them.
        one: String,
        /// The other.
        other: String,
        /// What both would be.
        category: String,
    },
    /// The log has what this import would have to bring. Nothing was stored.
    #[error(
        "the log has {stream} already, which another import or a service wrote; if this import was begun before, \
         the source has changed since"
    )]
    NotEmpty {
        /// A stream that is there.
        stream: StreamName,
    },
    /// The log has events, whose recorded time the source's would have to follow. Nothing was stored.
    #[error("recordedat can be taken from the source only in an empty log, and this one has {head} events")]
    HasEvents {
        /// How many.
        head: Head,
    },
    /// An earlier run of this import recorded other instants. This run stored nothing.
    #[error("this import was begun with recordedat from the {}, not from the {}", .began.as_str(), .asked.as_str())]
    OtherMode {
        /// What the opening event says.
        began: RecordedAt,
        /// What this run was to do.
        asked: RecordedAt,
    },
    /// The source has no times to record. Nothing was stored.
    #[error("recordedat can be taken from the source only where a column of times is named")]
    NoTimes,
    /// The opening event was not appended.
    #[error("the import's opening event was not appended")]
    Opening(#[source] AppendError),
    /// The log refused a group. Nothing of it was stored.
    #[error("the events {first} to {last} of the import's order were not appended")]
    Refused {
        /// First event of the group, from 1.
        first: u64,
        /// Last event of the group.
        last: u64,
        /// Why.
        #[source]
        source: AppendError,
    },
    /// A snapshot cannot be read back from where it was kept. The events are there, and proven.
    #[error("{what} was not kept; the lines before this say why")]
    NotKept {
        /// Which one.
        what: String,
    },
    /// A row was an event in the survey and is none now: the source's snapshot does not hold what it promises.
    #[error("a row changed within one snapshot of the source: {0}")]
    Unsteady(BadRow),
    /// The log does not answer.
    #[error("the log was not read")]
    Log(#[from] ReadError),
    /// There is no time.
    #[error("no time")]
    Clock(#[from] ClockError),
    /// Source and log do not hold the same.
    #[error("source and log differ: {what}")]
    Differs {
        /// Where.
        what: String,
    },
}

impl PostgresEsError {
    /// What the caller has to do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Source { .. } | Self::Clock(_) | Self::NotKept { .. } => ErrorKind::Unavailable,
            Self::NoTable { .. } | Self::BadRows(_) | Self::SameCategory { .. } | Self::NoTimes => ErrorKind::Invalid,
            Self::NotEmpty { .. } | Self::HasEvents { .. } | Self::OtherMode { .. } => ErrorKind::Conflict,
            Self::Opening(source) | Self::Refused { source, .. } => source.kind(),
            Self::Log(error) => error.kind(),
            Self::Differs { .. } | Self::Unsteady(_) => ErrorKind::Corrupt,
        }
    }
}

/// The source's tables, each `name` or `schema.name`.
#[derive(Debug, Clone)]
pub struct PostgresEsTables {
    /// The events.
    pub events: String,
    /// The snapshots, if the service makes some.
    pub snapshots: Option<String>,
}

/// In which order streams are interleaved. Within a stream the order is its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// By a column of times; an event stands where the latest time of its stream up to it says. At one time by type
    /// and id, byte by byte.
    Time {
        /// The column.
        column: String,
    },
    /// postgres-es's own tables have no times: the first events of all streams, then the second ones, and so on; those
    /// of one sequence by type and id, byte by byte. So what names another aggregate mostly comes after its creation.
    Sequence,
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Time { column } => write!(f, "by {column}, then aggregate_type, aggregate_id, sequence"),
            Self::Sequence => f.write_str("by sequence, then aggregate_type, aggregate_id"),
        }
    }
}

/// An import of postgres-es's tables.
pub struct PostgresEsImport {
    /// Where to.
    pub log: Arc<dyn EventLog>,
    /// Reads live log and archive as one, for the verification.
    pub reader: Arc<dyn LogReader>,
    /// Keeps the snapshots.
    pub snapshots: Arc<dyn SnapshotStore>,
    /// The true time.
    pub clock: Arc<dyn Clock>,
    /// The source.
    pub from: SecretUrl,
    /// Its tables.
    pub tables: PostgresEsTables,
    /// In which order.
    pub order: Order,
    /// The events' `source`: the URI reference of the service.
    pub source: String,
    /// What stands in `recordedat`.
    pub recorded_at: RecordedAt,
}

/// What such an import did.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PostgresEsReport {
    /// SHA-256 over all streams, hexadecimal: the same over the source's rows and over the log's records.
    pub sha256: String,
    /// What was taken over, by aggregate type.
    pub types: Vec<TypeReport>,
    /// Streams.
    pub streams: u64,
    /// Events.
    pub events: u64,
    /// Events that an earlier run had brought.
    pub events_before: u64,
    /// In which order the streams were interleaved.
    pub order: String,
    /// What became of the snapshots.
    pub snapshots: SnapshotsReport,
    /// Appends of this run.
    pub appends: u64,
    /// How long checking the source took.
    pub survey_seconds: f64,
    /// How long appending took.
    pub append_seconds: f64,
    /// How long reading and comparing both took.
    pub verify_seconds: f64,
}

/// What the survey found.
struct Surveyed {
    survey: Survey,
    snapshots: SurveyedSnapshots,
    /// The earliest time.
    first_time: Option<Timestamp>,
    /// The import's name: that of its checkpoint, and of its stream.
    name: String,
}

impl PostgresEsImport {
    /// Runs it to its end, or goes on with it.
    ///
    /// # Errors
    /// A [`PostgresEsError`]; what was stored is a beginning of the import's order.
    pub async fn run(&self, progress: &dyn Progress) -> Result<PostgresEsReport, PostgresEsError> {
        if self.recorded_at == RecordedAt::Source && self.order == Order::Sequence {
            return Err(PostgresEsError::NoTimes);
        }
        let watch = Stopwatch::start();
        let mut source = Source::open(&self.from, &self.tables, &self.order).await?;
        source.begin_snapshot().await?;
        let surveyed = self.survey(&mut source).await?;
        let survey_seconds = watch.elapsed().as_secs_f64();

        let watch = Stopwatch::start();
        let checkpoint = self.log.consumer_checkpoint(&surveyed.name).await?;
        let before = match self.open(&surveyed).await? {
            Some(began) if began.is_of_an_older_epoch(&*self.log).await? => {
                append::brought(self, &mut source, began.position).await?
            }
            _ => checkpoint,
        };
        progress.surveyed(surveyed.survey.events, before);
        let consumer = &surveyed.name;
        let mut appender = Appender { import: self, consumer, progress, checkpoint, done: before, appends: 0 };
        appender.append_all(&mut source).await?;
        let appends = appender.appends;
        source.end_snapshot().await?;
        let append_seconds = watch.elapsed().as_secs_f64();

        let watch = Stopwatch::start();
        verify::verify(self, &mut source, &surveyed.survey).await?;
        let snapshots = snapshots::take_over(self, &mut source, &surveyed.snapshots).await?;
        source.close().await;
        Ok(PostgresEsReport {
            sha256: opening::hexadecimal(&surveyed.survey.sha256()),
            types: surveyed.survey.types().cloned().collect(),
            streams: surveyed.survey.streams,
            events: surveyed.survey.events,
            events_before: before,
            order: self.order.to_string(),
            snapshots,
            appends,
            survey_seconds,
            append_seconds,
            verify_seconds: watch.elapsed().as_secs_f64(),
        })
    }

    async fn survey(&self, source: &mut Source) -> Result<Surveyed, PostgresEsError> {
        let mut streams = Streams::new(&self.source, matches!(self.order, Order::Time { .. }));
        let mut survey = Survey::default();
        let mut rows = source.by_stream();
        loop {
            let ended = next_streams(&mut rows, &mut streams, STREAMS_AT_ONCE).await?;
            if ended.is_empty() {
                break;
            }
            ended.iter().for_each(|stream| survey.add(stream));
        }
        drop(rows);
        let Streams { mut bad, first_time, .. } = streams;
        let snapshots = snapshots::survey(source, &mut bad).await?;
        if bad.total > 0 {
            return Err(PostgresEsError::BadRows(bad));
        }
        survey.check_categories()?;
        let first_time = first_time.and_then(|micros| Timestamp::from_unix_micros(micros).ok());
        Ok(Surveyed { name: self.name(&survey), snapshots, first_time, survey })
    }

    /// The name of the import of these events in this order: a checkpoint counts the events of one order only.
    fn name(&self, survey: &Survey) -> String {
        let digest = Sha256::new().chain_update(survey.sha256()).chain_update(self.order.to_string());
        let digest: [u8; 32] = digest.chain_update([0]).chain_update(&self.source).finalize().into();
        opening::consumer(&digest)
    }

    /// Appends the opening event, if an earlier run has not; then it says how that one began. It comes first and alone:
    /// what the log says of the import is durable before anything that it imported is.
    async fn open(&self, surveyed: &Surveyed) -> Result<Option<Began>, PostgresEsError> {
        let mut request = self.opening(surveyed, self.clock.now().await?);
        if self.log.stream_head(&request.events[0].stream).await?.is_some() {
            return match opening::began(&*self.reader, &surveyed.name).await? {
                Some(Began { recorded_at: began, .. }) if began != self.recorded_at => {
                    Err(PostgresEsError::OtherMode { began, asked: self.recorded_at })
                }
                began => Ok(began),
            };
        }
        for of_type in surveyed.survey.types() {
            if let Some((stream, _)) = self.log.streams(&of_type.category, None, 1).await?.into_iter().next() {
                return Err(PostgresEsError::NotEmpty { stream });
            }
        }
        let head = self.log.log_head().await?.head;
        if self.recorded_at == RecordedAt::Source {
            if head != Head::EMPTY {
                return Err(PostgresEsError::HasEvents { head });
            }
            // Nor does anything come in between: this is decided under the head's lock.
            let anything = vec![ConditionItem::default()];
            request.conditions = vec![AppendCondition { fail_if_events_match: anything, after: head }];
        }
        match self.log.append(request).await {
            Ok(_) => Ok(None),
            Err(AppendError::ConditionFailed { position, .. }) => {
                Err(PostgresEsError::HasEvents { head: position.as_head() })
            }
            Err(error) => Err(PostgresEsError::Opening(error)),
        }
    }

    fn opening(&self, surveyed: &Surveyed, now: Timestamp) -> AppendRequest {
        let Surveyed { survey, snapshots, first_time, name } = surveyed;
        let data = json!({
            "from": "postgres-es",
            "sha256": opening::hexadecimal(&survey.sha256()),
            "streams": survey.streams,
            "events": survey.events,
            "snapshots": snapshots.all,
            "order": self.order.to_string(),
            "recordedat": self.recorded_at.as_str(),
            "startedat": now.to_string(),
        });
        // Recorded now, it would raise everything after it to now (LOG-2).
        let recorded_at = first_time.filter(|_| self.recorded_at == RecordedAt::Source);
        opening::append(name, name, &data, now, recorded_at)
    }
}
