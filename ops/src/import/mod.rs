//! `coldstream import`: brings a history (CloudEvents, one a line) into the log, once and in its order.
//!
//! The whole file is checked first ([`survey`]): a bad line is named before anything is stored. Then its
//! groups ([`group`]) are appended in file order, many in flight ([`send`]). Each append moves the import's
//! own checkpoint in its transaction, from the line where the one before it ended: so what is stored is
//! always a beginning of the file, and a run that was killed is resumed by running it again. In a region that took over
//! meanwhile there is no such checkpoint, or an old one: there the log itself is asked how far it came ([`resume`]).
//!
//! Original times stay in `time`. With [`RecordedAt::Source`] they are recorded too, which is for a log
//! without content; the import's opening event says so, with the file's digest and the true time. That there is
//! none holds up to the import's first group, which is stored under the head's lock only if nothing at all was
//! appended since that was looked at. What others append after it, they append into a log with content: the times
//! of later lines are then raised to what is recorded of theirs (LOG-2).
//! A run goes on as the first one began; one that asks for another `recordedat` is refused.
//!
//! The tables of a service that uses postgres-es have an importer of their own: [`postgres_es`].

mod group;
mod lines;
mod opening;
pub mod postgres_es;
mod resume;
mod send;
mod survey;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use domain::append::{AppendCondition, AppendError, ConditionItem};
use domain::log::{EventLog, LogReader, ReadError};
use domain::{Clock, ClockError, ErrorKind, content};
use thiserror::Error;

use crate::clock::{SimulatedClock, Stopwatch};
use send::{Place, Sender};
use survey::{Stretch, Survey};

/// After an error that passes, the import goes on as soon as this; so often at most without any progress.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
const RETRIES_MAX: u32 = 30;

/// A line that cannot be imported.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("line {line}: {reason}")]
pub struct BadLine {
    /// Its number, from 1.
    pub line: u64,
    /// What is wrong with it.
    pub reason: String,
}

/// Why an import ended early. What was stored is a beginning of the file; running it again goes on there.
#[derive(Debug, Error)]
pub enum ImportError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A line is bad. Nothing of its group was stored.
    #[error(transparent)]
    BadLine(#[from] BadLine),
    /// The log refused a group. Nothing of it was stored.
    #[error("lines {first_line} to {last_line} were not appended")]
    Refused {
        /// First line of the group.
        first_line: u64,
        /// Last line of the group.
        last_line: u64,
        /// Why.
        #[source]
        source: AppendError,
    },
    /// The log has content already.
    #[error("recordedat can be taken from the source only in a log without content, and this one has {stream}")]
    NotEmpty {
        /// A stream that is there.
        stream: String,
    },
    /// An earlier run of this import recorded other instants.
    #[error("this import was begun with recordedat from the {}, not from the {}", .began.as_str(), .asked.as_str())]
    OtherMode {
        /// What the opening event says.
        began: RecordedAt,
        /// What this run was to do.
        asked: RecordedAt,
    },
    /// The file is not the one that the import began with.
    #[error("{} changed while it was imported", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The opening event was not appended.
    #[error("the import's opening event was not appended")]
    Opening(#[source] AppendError),
    /// The log does not answer.
    #[error("the log was not read")]
    Log(#[from] ReadError),
    /// A clock cannot be read, or the simulated one not be moved.
    #[error("no time")]
    Clock(#[from] ClockError),
}

impl ImportError {
    /// What the caller has to do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Read { .. } | Self::BadLine(_) => ErrorKind::Invalid,
            Self::NotEmpty { .. } | Self::OtherMode { .. } | Self::Changed { .. } => ErrorKind::Conflict,
            Self::Refused { source, .. } | Self::Opening(source) => source.kind(),
            Self::Log(error) => error.kind(),
            Self::Clock(_) => ErrorKind::Unavailable,
        }
    }
}

/// What stands in `recordedat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum RecordedAt {
    /// The log's own clock. A simulated one is moved along, a day at a time.
    Clock,
    /// The latest `time` of the file so far, raised to what the log has recorded already and never beyond
    /// its clock. Only into a log without content. A simulated clock is moved ahead, some thousand lines at a time.
    Source,
}

impl RecordedAt {
    fn as_str(self) -> &'static str {
        match self {
            Self::Clock => "clock",
            Self::Source => "source",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Clock, Self::Source].into_iter().find(|mode| mode.as_str() == text)
    }
}

/// Is told how far an import is.
pub trait Progress: Send + Sync {
    /// The source was checked: it has `all` lines or events, of which `done` were imported before.
    fn surveyed(&self, all: u64, done: u64);
    /// Everything up to line or event `done` is durable.
    fn done(&self, done: u64);
}

/// An import.
pub struct Import {
    /// Where to.
    pub log: Arc<dyn EventLog>,
    /// Reads live log and archive as one: an import that is resumed late finds its beginning in the archive.
    pub reader: Arc<dyn LogReader>,
    /// The log's clock, if it is a simulated one.
    pub simulated: Option<Arc<dyn SimulatedClock>>,
    /// The true time.
    pub clock: Arc<dyn Clock>,
    /// The file: NDJSON, plain or zstd.
    pub file: PathBuf,
    /// What stands in `recordedat`.
    pub recorded_at: RecordedAt,
}

/// What an import did.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct ImportReport {
    /// SHA-256 of the file, hexadecimal.
    pub sha256: String,
    /// Lines of the file, by the number of the last one.
    pub lines: u64,
    /// Lines that an earlier run had imported.
    pub lines_before: u64,
    /// Events stored by this run.
    pub events: u64,
    /// Events that the log had already, under the same ids.
    pub events_replayed: u64,
    /// Appends of this run.
    pub appends: u64,
    /// How long checking the file took.
    pub survey_seconds: f64,
    /// How long appending took.
    pub append_seconds: f64,
}

impl Import {
    /// Runs it to its end, or goes on with it.
    ///
    /// # Errors
    /// An [`ImportError`]; see there for what is stored then.
    pub async fn run(&self, progress: &dyn Progress) -> Result<ImportReport, ImportError> {
        let watch = Stopwatch::start();
        let survey = self.survey().await?;
        let survey_seconds = watch.elapsed().as_secs_f64();
        let watch = Stopwatch::start();
        let consumer = opening::consumer(&survey.file.sha256);
        let mut place = self.place(&consumer).await?;
        let before = place.done;
        progress.surveyed(survey.lines, before);
        if !place.is_begun() {
            self.nothing_since().await?;
            self.open(&survey).await?;
        }
        let mut sender = Sender { import: self, survey: &survey, consumer: &consumer, progress };
        self.send_all(&mut sender, &mut place).await?;
        Ok(ImportReport {
            sha256: opening::hexadecimal(&survey.file.sha256),
            lines: survey.lines,
            lines_before: before,
            events: place.events,
            events_replayed: place.events_replayed,
            appends: place.appends,
            survey_seconds,
            append_seconds: watch.elapsed().as_secs_f64(),
        })
    }

    async fn survey(&self) -> Result<Survey, ImportError> {
        let (path, recorded_at) = (self.file.clone(), self.recorded_at);
        let survey = tokio::task::spawn_blocking(move || Survey::of(&path, recorded_at)).await;
        survey.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    }

    /// How far earlier runs came.
    async fn place(&self, consumer: &str) -> Result<Place, ImportError> {
        let began = opening::began(&*self.reader, consumer).await?;
        if let Some(opening::Began { recorded_at: began, .. }) = began
            && began != self.recorded_at
        {
            return Err(ImportError::OtherMode { began, asked: self.recorded_at });
        }
        let checkpoint = self.log.consumer_checkpoint(consumer).await?;
        match began {
            Some(began) if began.is_of_an_older_epoch(&*self.log).await? => {
                Ok(Place { checkpoint, ..resume::place(self, began.position).await? })
            }
            _ => Ok(Place { checkpoint, done: checkpoint, ..Place::default() }),
        }
    }

    /// What the first group demands, where the source's times are recorded: that the log still has no content. There is
    /// none up to the head that is read first, and a condition keeps out everything after it.
    async fn nothing_since(&self) -> Result<Option<AppendCondition>, ImportError> {
        if self.recorded_at == RecordedAt::Clock {
            return Ok(None);
        }
        let after = self.log.log_head().await?.head;
        match self.log.streams(content::CATEGORY, None, 1).await?.first() {
            None => Ok(Some(AppendCondition { fail_if_events_match: vec![ConditionItem::default()], after })),
            Some((stream, _)) => Err(ImportError::NotEmpty { stream: stream.to_string() }),
        }
    }

    /// Appends the opening event, if an earlier run has not. It comes first and alone: what the log says of
    /// the import is durable before anything that it imported is.
    async fn open(&self, survey: &Survey) -> Result<(), ImportError> {
        if let Some(first) = survey.stretches.first() {
            self.move_clock(first).await?;
        }
        let request = opening::request(self, survey, self.clock.now().await?);
        if self.log.stream_head(&request.events[0].stream).await?.is_some() {
            return Ok(());
        }
        self.log.append(request).await.map(|_| ()).map_err(ImportError::Opening)
    }

    async fn move_clock(&self, stretch: &Stretch) -> Result<(), ImportError> {
        match &self.simulated {
            Some(clock) => Ok(clock.move_to(stretch.clock).await?),
            None => Ok(()),
        }
    }

    async fn send_all(&self, sender: &mut Sender<'_>, place: &mut Place) -> Result<(), ImportError> {
        let mut pause = tokio::time::interval(RETRY_PAUSE);
        let mut retries = 0;
        loop {
            let done_before = place.done;
            let Err(error) = sender.attempt(place).await else { return Ok(()) };
            let progress = place.done > done_before;
            retries = if progress { 0 } else { retries + 1 };
            // Groups that the log had already do not move the checkpoint: the first new one finds it where
            // it was, and the next attempt starts from there.
            let passes = match error.kind() {
                ErrorKind::Unavailable | ErrorKind::Indeterminate => retries <= RETRIES_MAX,
                // The next attempt looks whether it was content.
                _ if is_overtaken(&error) => retries <= RETRIES_MAX,
                _ => progress && is_checkpoint_moved(&error),
            };
            if !passes {
                return Err(error);
            }
            tracing::info!(error = %crate::chain::chain(&error), line = place.done, "the import goes on from here");
            pause.tick().await;
        }
    }
}

fn is_checkpoint_moved(error: &ImportError) -> bool {
    matches!(error, ImportError::Refused { source: AppendError::CheckpointMoved { .. }, .. })
}

/// Something was appended between a look at the log and the first group.
fn is_overtaken(error: &ImportError) -> bool {
    matches!(error, ImportError::Refused { source: AppendError::ConditionFailed { .. }, .. })
}

/// The name of the file at the end of a path, for those who read the opening event.
fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
