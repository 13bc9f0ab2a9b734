//! One attempt, what its failure means, and how often it is repeated. Never repeats what cannot be repeated,
//! never repeats without end, and never waits for an answer without a limit.

use std::future::Future;
use std::num::NonZeroU32;
use std::time::Duration;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use domain::store::StoreError;
use tokio::time::MissedTickBehavior;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE_TICKS: u32 = 64;

/// How a request failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// No answer, half an answer or "not now": send it again. A write may have happened.
    Again(String),
    /// The bytes that arrived were not the ones we announced: send them again.
    Damaged(String),
    /// There is no such object.
    NotFound,
    /// The condition of a conditional write does not hold.
    Precondition,
    /// The object ends before the range begins.
    Range,
    /// The store refuses us; sending it again changes nothing.
    Refused(String),
}

impl Failure {
    /// The port's error for it, where the verb gives no other meaning to it.
    pub(crate) fn of(self, key: &str) -> StoreError {
        let key = key.to_owned();
        match self {
            Self::Again(reason) | Self::Damaged(reason) => StoreError::Unavailable { key, reason },
            Self::NotFound => StoreError::NotFound { key },
            Self::Precondition | Self::Range => StoreError::Different { key },
            Self::Refused(reason) => StoreError::Refused { key, reason },
        }
    }
}

/// Reads the SDK's error.
impl<E> From<SdkError<E, HttpResponse>> for Failure
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    fn from(error: SdkError<E, HttpResponse>) -> Self {
        let reason = on_one_line(&error);
        match &error {
            SdkError::ServiceError(service) => {
                judge(service.raw().status().as_u16(), service.err().code().unwrap_or_default(), reason)
            }
            SdkError::ConstructionFailure(_) => Self::Refused(reason),
            SdkError::DispatchFailure(failure) if failure.is_user() => Self::Refused(reason),
            // No answer, or one that is no S3: something in between spoke, or the line broke.
            _ => Self::Again(reason),
        }
    }
}

/// An error and its causes. The SDK's own text for people has the whole reply in it, headers and all: it would stand in
/// logs and in answers to clients.
fn on_one_line(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    for cause in std::iter::successors(error.source(), |cause| cause.source()) {
        let said = cause.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn judge(status: u16, code: &str, reason: String) -> Failure {
    match (status, code) {
        (_, "NoSuchBucket") => Failure::Refused(reason),
        (404, _) => Failure::NotFound,
        (412, _) => Failure::Precondition,
        (416, _) => Failure::Range,
        // 409: another conditional write of this key is under way.
        (409 | 429 | 500.., _) | (_, "RequestTimeout" | "IncompleteBody") => Failure::Again(reason),
        (_, "BadDigest" | "XAmzContentSHA256Mismatch" | "XAmzContentChecksumMismatch") => Failure::Damaged(reason),
        _ => Failure::Refused(reason),
    }
}

/// How long and how often.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) attempt: Duration,
    pub(crate) attempts: NonZeroU32,
}

impl Limits {
    /// Runs `attempt` until it succeeds or fails for good, at most `attempts` times. The pause doubles. What
    /// fails for good after an attempt that was `Again` is returned as it is: the caller knows that its write
    /// may have happened before.
    pub(crate) async fn repeat<T, F>(&self, mut attempt: impl FnMut() -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let mut pause_ticks = 1;
        let mut left = self.attempts.get();
        loop {
            // Boxed: the SDK's futures are some 10 kB, and every caller would carry them.
            let outcome = match tokio::time::timeout(self.attempt, Box::pin(attempt())).await {
                Ok(outcome) => outcome,
                Err(_) => Err(Failure::Again(format!("no answer within {} s", self.attempt.as_secs()))),
            };
            left -= 1;
            match outcome {
                Err(Failure::Again(reason) | Failure::Damaged(reason)) if left > 0 => {
                    tracing::debug!(%reason, left, "the object store is asked again");
                    pause(pause_ticks).await;
                    pause_ticks = (pause_ticks * 2).min(LONGEST_PAUSE_TICKS);
                }
                other => return other,
            }
        }
    }
}

async fn pause(ticks: u32) {
    let mut interval = tokio::time::interval(FIRST_PAUSE);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first tick of an interval is there at once.
    for _ in 0..=ticks {
        interval.tick().await;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn limits(attempts: u32) -> Limits {
        Limits { attempt: Duration::from_secs(5), attempts: NonZeroU32::new(attempts).expect("not zero") }
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_be_repeated_is_repeated_to_the_bound_and_no_further() {
        let calls = Cell::new(0);
        let outcome: Result<(), _> = limits(4)
            .repeat(|| async {
                calls.set(calls.get() + 1);
                Err(Failure::Again("busy".into()))
            })
            .await;
        assert_eq!((outcome, calls.get()), (Err(Failure::Again("busy".into())), 4));
    }

    #[tokio::test(start_paused = true)]
    async fn a_verdict_is_not_repeated() {
        let calls = Cell::new(0);
        let outcome: Result<(), _> = limits(4)
            .repeat(|| async {
                calls.set(calls.get() + 1);
                Err(Failure::Precondition)
            })
            .await;
        assert_eq!((outcome, calls.get()), (Err(Failure::Precondition), 1));
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_without_an_answer_ends() {
        let outcome: Result<(), _> = limits(2).repeat(std::future::pending).await;
        assert_eq!(outcome, Err(Failure::Again("no answer within 5 s".into())));
    }

    #[test]
    fn an_error_is_told_with_its_causes_and_without_the_reply() {
        #[derive(Debug, thiserror::Error)]
        #[error("service error")]
        struct Outer(#[source] std::io::Error);
        let error = Outer(std::io::Error::other("no such bucket"));
        assert_eq!(on_one_line(&error), "service error: no such bucket");
    }

    #[test]
    fn a_missing_bucket_is_no_missing_object() {
        let judged = |status, code| judge(status, code, "why".into());
        assert_eq!(judged(404, "NoSuchKey"), Failure::NotFound);
        assert_eq!(judged(404, "NoSuchBucket"), Failure::Refused("why".into()));
        assert_eq!(judged(412, "PreconditionFailed"), Failure::Precondition);
        assert_eq!(judged(409, "ConditionalRequestConflict"), Failure::Again("why".into()));
        assert_eq!(judged(503, "SlowDown"), Failure::Again("why".into()));
        assert_eq!(judged(400, "BadDigest"), Failure::Damaged("why".into()));
        assert_eq!(judged(403, "SignatureDoesNotMatch"), Failure::Refused("why".into()));
    }
}
