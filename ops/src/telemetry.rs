//! What the process writes to stderr: one line an event, for people or as JSON. Never a secret: whoever logs
//! passes none.

use std::fmt;
use std::io::IsTerminal;

use domain::ErrorKind;
use thiserror::Error;
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, SubscriberBuilder};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, reload};

use crate::config::TelemetryConfig;

/// The target of the audit's lines, by which a filter or a collector tells them from others.
pub(crate) const AUDIT: &str = "coldstream::audit";

/// The filter is no filter, or another one is in force.
#[derive(Debug, Error)]
#[error("telemetry.filter {filter:?} cannot be used: {reason}")]
pub struct TelemetryError {
    filter: String,
    reason: String,
}

impl TelemetryError {
    /// What the caller has to do: fix the configuration.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }
}

/// Logging that runs, whose filter may change.
pub struct Telemetry(Box<dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync>);

/// A filter that can be used.
pub struct Filter(EnvFilter);

impl Filter {
    /// Reads what [`TelemetryConfig::filter`] says.
    ///
    /// # Errors
    /// [`TelemetryError`] if it is no filter.
    pub fn of(config: &TelemetryConfig) -> Result<Self, TelemetryError> {
        EnvFilter::try_new(&config.filter).map(Self).map_err(|error| refused(config, error.to_string()))
    }
}

impl Telemetry {
    /// From now on this filter holds.
    pub fn change(&self, Filter(filter): Filter) {
        // Only a subscriber that is gone takes no filter, and then nobody logs.
        drop((self.0)(filter));
    }
}

/// Starts logging, once in a process.
///
/// # Errors
/// [`TelemetryError`] if the filter is none.
pub fn start(config: &TelemetryConfig) -> Result<Telemetry, TelemetryError> {
    let Filter(filter) = Filter::of(config)?;
    let colours = std::io::stderr().is_terminal();
    let lines = SubscriberBuilder::default().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours);
    let (started, telemetry) = if config.json {
        let lines = lines.json().with_filter_reloading();
        let handle = lines.reload_handle();
        (lines.try_init(), Telemetry(Box::new(move |filter| handle.reload(filter))))
    } else {
        let lines = lines.event_format(ForPeople::default()).with_filter_reloading();
        let handle = lines.reload_handle();
        (lines.try_init(), Telemetry(Box::new(move |filter| handle.reload(filter))))
    };
    started.map_err(|error| refused(config, error.to_string()))?;
    Ok(telemetry)
}

/// Lines for people. Those of the audit say their target before their message, where nothing that a client wrote can stand;
/// the others say none.
struct ForPeople {
    audit: Format<Full>,
    other: Format<Full>,
}

impl Default for ForPeople {
    fn default() -> Self {
        Self { audit: Format::default(), other: Format::default().with_target(false) }
    }
}

impl<S, N> FormatEvent<S, N> for ForPeople
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let format = if event.metadata().target() == AUDIT { &self.audit } else { &self.other };
        format.format_event(context, writer, event)
    }
}

fn refused(config: &TelemetryConfig, reason: String) -> TelemetryError {
    TelemetryError { filter: config.filter.clone(), reason }
}
