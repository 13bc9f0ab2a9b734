//! Why a run ended without its table. It owns no way to go on: a figure that is missing a part is no figure.

use std::path::PathBuf;

use thiserror::Error;

/// Why the benchmark did not finish.
#[derive(Debug, Error)]
pub(crate) enum BenchError {
    /// The private cluster or a region did not start or end.
    #[error("{doing} failed")]
    Rig {
        /// What was being done.
        doing: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A peer did not do what it was asked, for a reason that asking again does not mend.
    #[error("{peer} did not append")]
    Append {
        /// Which.
        peer: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A peer's answer is not an acknowledgement.
    #[error("{peer} answered {said:?}")]
    Answer {
        /// Which.
        peer: &'static str,
        /// What it said.
        said: String,
    },
    /// A program that the run starts is not there.
    #[error("{program:?} is missing: {how}")]
    Missing {
        /// The program.
        program: PathBuf,
        /// How to get it.
        how: &'static str,
    },
    /// A file, a process or the clock.
    #[error("{doing} failed")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A process ended as it should not.
    #[error("{program} ended with {said}")]
    Process {
        /// Which.
        program: &'static str,
        /// Its status and the end of its stderr.
        said: String,
    },
    /// Nothing was acknowledged in the measured window, so there is nothing to divide by.
    #[error("{peer} acknowledged nothing within the measured window")]
    Nothing {
        /// Which.
        peer: &'static str,
    },
}

/// Names what was being done when the rig failed.
pub(crate) fn rig<E>(doing: &'static str) -> impl FnOnce(E) -> BenchError
where
    E: std::error::Error + Send + Sync + 'static,
{
    move |source| BenchError::Rig { doing, source: Box::new(source) }
}

/// Names what was being done when a file or process failed.
pub(crate) fn io(doing: &'static str) -> impl FnOnce(std::io::Error) -> BenchError {
    move |source| BenchError::Io { doing, source }
}

/// Names the peer that did not append.
pub(crate) fn append<E>(peer: &'static str) -> impl FnOnce(E) -> BenchError
where
    E: std::error::Error + Send + Sync + 'static,
{
    move |source| BenchError::Append { peer, source: Box::new(source) }
}
