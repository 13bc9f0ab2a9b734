//! How commands end and what they print: data on stdout, talk on stderr.

use std::error::Error;
use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use domain::ErrorKind;
use serde::Serialize;
use thiserror::Error;

use crate::chain::chain;
use crate::config::ConfigError;

/// Why a command did not end with 0.
#[derive(Debug, Error)]
pub enum CliError {
    /// It was called wrongly: exit 2.
    #[error("{0}")]
    Usage(String),
    /// It is an acting command and was not told `--yes`: exit 2.
    #[error("nothing was done: this was the plan; repeat with --yes to do it")]
    NeedsYes,
    /// It failed: exit 1.
    #[error("{what} failed")]
    Failed {
        /// What was to be done.
        what: &'static str,
        /// Why not.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// No server answered: exit 1.
    #[error("{what}: {advice}")]
    Unreachable {
        /// Which one, and what is the matter.
        what: String,
        /// What to do about it.
        advice: &'static str,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// Who read our data went away, such as `head` with its lines: exit 1, without a word.
    #[error("nobody reads what is printed")]
    NobodyReads,
    /// The server said no: exit 1.
    #[error("{kind}: {detail}")]
    Refused {
        /// What to do about it.
        kind: String,
        /// Why.
        detail: String,
    },
    /// It ran, and its verdict is "not proven": exit 3.
    #[error("not proven: {0}")]
    NotProven(String),
    /// The log's last line has said it.
    #[error("{0}")]
    Logged(Box<Self>),
}

impl CliError {
    /// An error of `what`.
    pub fn failed<E: Error + Send + Sync + 'static>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Failed { what, source: Box::new(source) }
    }

    /// What the caller has to do, where that is known here.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Usage(_) | Self::NeedsYes => ErrorKind::Invalid,
            Self::Failed { .. } | Self::Unreachable { .. } | Self::NobodyReads | Self::Refused { .. } => {
                ErrorKind::Unavailable
            }
            Self::NotProven(_) => ErrorKind::Corrupt,
            Self::Logged(error) => error.kind(),
        }
    }

    /// The process's exit code.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Failed { .. } | Self::Unreachable { .. } | Self::NobodyReads | Self::Refused { .. } => {
                ExitCode::from(1)
            }
            Self::Usage(_) | Self::NeedsYes => ExitCode::from(2),
            Self::NotProven(_) => ExitCode::from(3),
            Self::Logged(error) => error.exit_code(),
        }
    }

    /// The error with its whole chain, on one line.
    #[must_use]
    pub fn line(&self) -> String {
        chain(self)
    }
}

impl From<ConfigError> for CliError {
    fn from(error: ConfigError) -> Self {
        Self::Usage(chain(&error))
    }
}

/// Where data goes.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    /// Whether data is JSON: a contract. Otherwise it is for people and may change.
    pub json: bool,
}

impl Output {
    /// Prints `data`, as JSON on one line or as `people` read it.
    ///
    /// # Errors
    /// [`CliError::Failed`] if stdout is closed.
    pub fn data<T: Serialize>(self, data: &T, people: impl FnOnce(&T) -> String) -> Result<(), CliError> {
        let text = if self.json {
            serde_json::to_string(data).map_err(CliError::failed("writing JSON"))?
        } else {
            people(data)
        };
        write_stdout(text.trim_end_matches('\n').as_bytes())?;
        write_stdout(b"\n")
    }
}

/// Writes bytes to stdout as they are.
///
/// # Errors
/// [`CliError::NobodyReads`] if stdout is closed; `Failed` if the disk behind it is full.
pub fn write_stdout(bytes: &[u8]) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(not_printed)
}

/// What it means that stdout did not take data.
pub(super) fn not_printed(error: io::Error) -> CliError {
    match error.kind() {
        io::ErrorKind::BrokenPipe => CliError::NobodyReads,
        _ => CliError::failed("writing to stdout")(error),
    }
}

/// How many, in words that fit one as well as many.
#[must_use]
pub fn counted<T: Display + PartialEq + From<u8>>(number: T, one: &str, many: &str) -> String {
    if number == T::from(1) { format!("1 {one}") } else { format!("{number} {many}") }
}

/// Says something to the person at the terminal.
pub fn say(text: impl AsRef<str>) {
    // Talk that cannot be heard is no reason to fail.
    let _ = writeln!(io::stderr(), "{}", text.as_ref());
}

/// Prints the plan of an acting command, and stops unless it was told to go on.
///
/// # Errors
/// [`CliError::NeedsYes`].
pub fn confirm(plan: &[String], yes: bool) -> Result<(), CliError> {
    for (number, step) in (1..).zip(plan) {
        say(format!("{number}. {step}"));
    }
    if yes { Ok(()) } else { Err(CliError::NeedsYes) }
}

/// Name and value pairs, aligned.
#[must_use]
pub fn table(rows: &[(String, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let line = |(name, value): &(String, String)| format!("{name:width$}  {value}\n");
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_ending_has_its_exit_code() {
        let code = |error: CliError| format!("{:?}", error.exit_code());
        assert_eq!(code(CliError::NotProven(String::new())), format!("{:?}", ExitCode::from(3)));
        assert_eq!(code(CliError::NeedsYes), format!("{:?}", ExitCode::from(2)));
        let failed = CliError::failed("x")(io::Error::other("y"));
        assert_eq!(failed.line(), "x failed: y");
        assert_eq!(code(failed), format!("{:?}", ExitCode::from(1)));
    }

    #[test]
    fn who_stops_reading_is_no_failure_to_talk_about_and_a_full_disk_is() {
        let closed = not_printed(io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(matches!(closed, CliError::NobodyReads));
        let full = not_printed(io::Error::from(io::ErrorKind::StorageFull));
        assert!(full.line().starts_with("writing to stdout failed: "), "{}", full.line());
    }

    #[test]
    fn nothing_is_done_without_yes() {
        assert!(matches!(confirm(&[], false), Err(CliError::NeedsYes)));
        assert!(confirm(&[], true).is_ok());
    }
}
