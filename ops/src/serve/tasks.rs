//! The parts of a process that run beside each other: each runs until the end of all, and one that ends before is noticed.

use tokio::task::{JoinError, JoinSet};

use super::StartError;

type Ended = Result<Result<(), StartError>, JoinError>;

/// Running parts.
#[derive(Default)]
pub(super) struct Tasks {
    running: JoinSet<Result<(), StartError>>,
    /// The one that ended before it was asked to.
    broken: Option<Ended>,
}

impl Tasks {
    /// Starts a part.
    pub(super) fn start(&mut self, part: impl Future<Output = Result<(), StartError>> + Send + 'static) {
        self.running.spawn(part);
    }

    /// Ready once a part has ended, by a panic or otherwise. Before anybody asked for it, that is a fault.
    pub(super) async fn broke(&mut self) {
        if self.broken.is_none() {
            self.broken = self.running.join_next().await;
        }
    }

    /// Waits until all have ended.
    ///
    /// # Errors
    /// Of the first part that did not end well; the others have ended too.
    pub(super) async fn ended(mut self) -> Result<(), StartError> {
        let mut all: Vec<Ended> = self.broken.take().into_iter().collect();
        while let Some(ended) = self.running.join_next().await {
            all.push(ended);
        }
        all.into_iter().try_for_each(|ended| ended.map_err(StartError::Broken)?)
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;

    #[tokio::test]
    async fn a_part_that_breaks_is_noticed_while_the_others_run_and_is_told_at_the_end() {
        let shutdown = CancellationToken::new();
        let mut tasks = Tasks::default();
        let asked = shutdown.clone();
        tasks.start(async move {
            asked.cancelled().await;
            Ok(())
        });
        tasks.start(async { panic!("as a fault in the program would") });
        tasks.broke().await;
        shutdown.cancel();
        assert!(matches!(tasks.ended().await, Err(StartError::Broken(_))));
    }

    #[tokio::test]
    async fn parts_that_were_asked_to_end_have_not_broken() {
        let mut tasks = Tasks::default();
        tasks.start(async { Ok(()) });
        tasks.start(async { Ok(()) });
        tasks.ended().await.expect("all ended well");
    }
}
