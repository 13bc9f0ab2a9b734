//! What the process writes to stderr: one line an event, for people or as JSON. Never a secret: whoever logs
//! passes none.

use std::io::IsTerminal;

use domain::ErrorKind;
use thiserror::Error;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;

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

/// Starts logging, once in a process.
///
/// # Errors
/// [`TelemetryError`] if the filter is none.
pub fn start(config: &TelemetryConfig) -> Result<(), TelemetryError> {
    let refused = |reason: String| TelemetryError { filter: config.filter.clone(), reason };
    let filter = EnvFilter::try_new(&config.filter).map_err(|error| refused(error.to_string()))?;
    let colours = std::io::stderr().is_terminal();
    let lines = fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours);
    let started = if config.json { lines.json().try_init() } else { lines.with_target(false).try_init() };
    started.map_err(|error| refused(error.to_string()))
}
