//! Groups on the wire: 64-bit numbers as strings, records as the log holds them.

use domain::group::{Extended, GroupName, LeaseNumber, NewGroup, Outcome, Settled, Settlement, Start};
use domain::{Position, Timestamp, record};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::{Delivery, Lease};
use crate::error::ClientError;

fn corrupt(reason: impl ToString) -> ClientError {
    ClientError::Corrupt { reason: reason.to_string() }
}

pub(super) fn create(new: &NewGroup) -> Value {
    let (filter, settings) = (&new.filter, &new.settings);
    let mut body = json!({
        "group": new.name.as_str(), "category": filter.categories(), "type": filter.event_types(),
        "stream_prefix": filter.stream_prefixes(), "lease_seconds": settings.lease_seconds,
        "attempts_max": settings.attempts_max, "retry_first_seconds": settings.retry_first_seconds,
        "retry_max_seconds": settings.retry_max_seconds, "unsettled_max": settings.unsettled_max,
    });
    if let Start::From(position) = new.start {
        body["from"] = Value::from(position.to_string());
    }
    body
}

pub(super) fn settle(group: &GroupName, lease: LeaseNumber, events: &[Settlement]) -> Value {
    let event = |Settlement { position, outcome }: &Settlement| {
        let mut event = match outcome {
            Outcome::Done => json!({"outcome": "done"}),
            Outcome::Release => json!({"outcome": "release"}),
            Outcome::Park { reason } => json!({"outcome": "park", "reason": reason.as_str()}),
            Outcome::Retry { after_seconds: None, reason } => json!({"outcome": "retry", "reason": reason.as_str()}),
            Outcome::Retry { after_seconds: Some(after), reason } => {
                json!({"outcome": "retry", "reason": reason.as_str(), "after_seconds": after})
            }
        };
        event["position"] = Value::from(position.to_string());
        event
    };
    let events: Vec<Value> = events.iter().map(event).collect();
    json!({"group": group.as_str(), "lease": lease.to_string(), "events": events})
}

#[derive(Deserialize)]
pub(super) struct Taken {
    lease: Option<String>,
    deadline: Option<String>,
    deliveries: Vec<TakenEvent>,
}

#[derive(Deserialize)]
struct TakenEvent {
    position: String,
    attempt: u32,
    replayed: bool,
    record: Box<RawValue>,
}

impl Taken {
    pub(super) fn lease(self, region: usize) -> Result<Option<Lease>, ClientError> {
        let (Some(lease), Some(deadline)) = (self.lease, self.deadline) else { return Ok(None) };
        let number = lease.parse().ok().and_then(LeaseNumber::new).ok_or_else(|| corrupt("a lease is none"))?;
        let deadline = Timestamp::parse_rfc3339(&deadline).map_err(corrupt)?;
        let deliveries = self.deliveries.into_iter().map(TakenEvent::delivery).collect::<Result<_, _>>()?;
        Ok(Some(Lease { number, deadline, deliveries, region }))
    }
}

impl TakenEvent {
    fn delivery(self) -> Result<Delivery, ClientError> {
        let record = record::read(self.record.get().as_bytes()).map_err(corrupt)?;
        if record.position().to_string() != self.position {
            return Err(corrupt(format!("another record than that of position {}", self.position)));
        }
        Ok(Delivery { attempt: self.attempt, replayed: self.replayed, record })
    }
}

#[derive(Deserialize)]
pub(super) struct SettledEvents {
    events: Vec<SettledEvent>,
}

#[derive(Deserialize)]
struct SettledEvent {
    position: String,
    settled: String,
}

impl SettledEvents {
    /// What became of `events`, in their order.
    pub(super) fn of(self, events: &[Settlement]) -> Result<Vec<Settled>, ClientError> {
        let wanted = events.iter().map(|event| event.position.to_string());
        if !wanted.eq(self.events.iter().map(|event| event.position.clone())) {
            return Err(corrupt("it does not say what became of each event"));
        }
        let read = |event: &SettledEvent| Settled::parse(&event.settled).ok_or_else(|| corrupt(&event.settled));
        self.events.iter().map(read).collect()
    }
}

#[derive(Deserialize)]
pub(super) struct Extension {
    events: String,
    deadline: Option<String>,
}

impl Extension {
    pub(super) fn read(self) -> Result<Extended, ClientError> {
        let events = self.events.parse().map_err(corrupt)?;
        let deadline = self.deadline.as_deref().map(Timestamp::parse_rfc3339).transpose().map_err(corrupt)?;
        Ok(Extended { events, deadline })
    }
}

#[derive(Deserialize)]
pub(super) struct Status {
    pub(super) lease_seconds: u64,
}

/// Where a delivery's event stands.
pub(super) fn position(delivery: &Delivery) -> Position {
    delivery.record.position()
}
