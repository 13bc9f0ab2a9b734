//! For development: a server that kills itself with SIGKILL at a step of the archive, so that a test sees what a
//! crash between exactly these two steps leaves. Without the variable nothing is watched and nobody is killed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use archiver::{Silent, StepObserver};
use rustix::process::{Signal, getpid, kill_process};

/// Names the step, such as `seal.index`, or `seal.index:3` for the third time that it is reached.
pub const VARIABLE: &str = "COLDSTREAM_DEV_KILL_AT";

/// Kills its own process when a step is reached for the n-th time.
struct KillAt {
    step: String,
    left: AtomicU32,
}

/// Who is told of each step: nobody, unless `value`, that of [`VARIABLE`], names one.
///
/// # Errors
/// What is wrong with the value.
pub fn observer(value: Option<&str>) -> Result<Arc<dyn StepObserver>, String> {
    let Some(value) = value else { return Ok(Arc::new(Silent)) };
    let (step, times) = value.split_once(':').unwrap_or((value, "1"));
    match times.parse() {
        Ok(left @ 1..) if step.contains('.') => Ok(Arc::new(KillAt { step: step.to_owned(), left: left.into() })),
        Ok(_) | Err(_) => Err(format!("{VARIABLE} is a step or step:n, such as seal.index:2")),
    }
}

impl StepObserver for KillAt {
    fn reached(&self, step: &'static str) {
        if step != self.step || self.left.fetch_sub(1, Ordering::Relaxed) != 1 {
            return;
        }
        tracing::warn!(step, "killing this process, as {VARIABLE} says");
        if let Err(error) = kill_process(getpid(), Signal::KILL) {
            tracing::error!(%error, "this process could not kill itself");
        }
        // Whatever came of it: nothing after the step is done.
        std::process::abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_and_its_count_are_read_and_nonsense_is_refused() {
        assert!(["seal.index", "seal.index:2"].into_iter().all(|value| observer(Some(value)).is_ok()));
        assert!(
            ["", "seal", "seal.index:", "seal.index:0", "seal.index:x"].into_iter().all(|v| observer(Some(v)).is_err())
        );
        assert!(observer(None).is_ok());
    }
}
