//! What was found damaged in the archive, on the record: an event `segment.healed` for each object, and counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use archiver::heal::{Finding, HealObserver, Outcome};
use async_trait::async_trait;
use domain::append::AppendRequest;
use domain::event::{Data, NewEvent};
use domain::log::EventLog;
use domain::{ErrorKind, StreamName};
use serde_json::json;
use uuid::Uuid;

use crate::chain::chain;

/// The stream of all findings.
const STREAM: &str = "archive-findings";

/// Counts findings, and appends an event for each.
pub struct HealRecorder {
    log: Arc<dyn EventLog>,
    region: String,
    healed: AtomicU64,
    not_rewritten: AtomicU64,
    lost: AtomicU64,
}

/// How many objects were found damaged since the process started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HealCounts {
    /// Rewritten from the other copy.
    pub healed: u64,
    /// Served from the other copy, and not rewritten.
    pub not_rewritten: u64,
    /// No good copy was to be had.
    pub lost: u64,
}

impl HealRecorder {
    /// Records what `region` finds in `log`.
    #[must_use]
    pub fn new(log: Arc<dyn EventLog>, region: &str) -> Self {
        Self {
            log,
            region: region.to_owned(),
            healed: AtomicU64::new(0),
            not_rewritten: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        }
    }

    /// What was found so far.
    #[must_use]
    pub fn counts(&self) -> HealCounts {
        HealCounts {
            healed: self.healed.load(Ordering::Relaxed),
            not_rewritten: self.not_rewritten.load(Ordering::Relaxed),
            lost: self.lost.load(Ordering::Relaxed),
        }
    }

    fn event(&self, finding: &Finding) -> NewEvent {
        let (event_type, outcome) = match &finding.outcome {
            Outcome::Healed { etag } => ("segment.healed", json!({"outcome": "healed", "etag": etag})),
            Outcome::NotRewritten { reason } => {
                ("segment.damaged", json!({"outcome": "not rewritten", "reason": reason}))
            }
            Outcome::Lost { reason } => ("segment.lost", json!({"outcome": "lost", "reason": reason})),
        };
        let data = json!({
            "region": self.region,
            "object": finding.key,
            "cause": finding.cause,
            "damaged_etag": finding.bad_etag,
            "result": outcome,
        });
        NewEvent {
            id: Uuid::from_bytes(rand::random()).to_string(),
            source: format!("/coldstream/{}", self.region),
            event_type: event_type.to_owned(),
            stream: StreamName::parse(STREAM).expect("a constant name"),
            time: None,
            event_version: Some("1.0".to_owned()),
            data_schema: None,
            data_content_type: Some("application/json".to_owned()),
            extensions: Vec::new(),
            data: Data::Json(data.to_string()),
        }
    }
}

#[async_trait]
impl HealObserver for HealRecorder {
    async fn found(&self, finding: Finding) {
        let (count, key) = (
            match finding.outcome {
                Outcome::Healed { .. } => &self.healed,
                Outcome::NotRewritten { .. } => &self.not_rewritten,
                Outcome::Lost { .. } => &self.lost,
            },
            finding.key.clone(),
        );
        count.fetch_add(1, Ordering::Relaxed);
        let request = AppendRequest { events: vec![self.event(&finding)], ..AppendRequest::default() };
        let log = self.log.clone();
        // The read that found it does not wait for the record of it.
        tokio::spawn(async move {
            match log.append(request).await {
                Ok(_) => {}
                // Only the region that holds the epoch appends; the finding stands in this process's log.
                Err(error) if error.kind() == ErrorKind::Fenced => {
                    tracing::info!(key, "a finding is not on the record: this region does not append");
                }
                Err(error) => tracing::warn!(key, error = %chain(&error), "a finding is not on the record"),
            }
        });
    }
}
