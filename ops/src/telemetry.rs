//! What the process writes to stderr: one line an event, for people or as JSON. Never a secret: whoever logs
//! passes none.

use std::io::IsTerminal;

use domain::ErrorKind;
use thiserror::Error;
use tracing_subscriber::{EnvFilter, fmt, reload};

use crate::config::TelemetryConfig;

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
    let lines = fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours);
    let (started, telemetry) = if config.json {
        let lines = lines.json().with_filter_reloading();
        let handle = lines.reload_handle();
        (lines.try_init(), Telemetry(Box::new(move |filter| handle.reload(filter))))
    } else {
        let lines = lines.with_target(false).with_filter_reloading();
        let handle = lines.reload_handle();
        (lines.try_init(), Telemetry(Box::new(move |filter| handle.reload(filter))))
    };
    started.map_err(|error| refused(config, error.to_string()))?;
    Ok(telemetry)
}

fn refused(config: &TelemetryConfig, reason: String) -> TelemetryError {
    TelemetryError { filter: config.filter.clone(), reason }
}
