//! What goes over the wire between a group and its workers: leases, deliveries and outcomes. 64-bit numbers are strings, as
//! in the record; an event's record is the log's own bytes. Nothing is asked here.

use domain::group::{Delivered, Extended, Lease, Outcome, RETRY_SECONDS_MAX, Reason, Settled, Settlement};
use domain::log::ReadError;
use domain::record::Record;
use schemars::generate::SchemaGenerator;
use schemars::{JsonSchema, Schema, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::forms::position;
use crate::http::problem::Problem;

fn default_max() -> u64 {
    100
}

/// Who takes how many events of which group.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "GroupTake")]
pub(super) struct TakeForm {
    /// The group's name.
    pub(super) group: String,
    /// Who works on them, for people who look where one hangs: 1 to 64 bytes.
    pub(super) consumer: String,
    /// Events at most: 1 to 1,000.
    #[serde(default = "default_max")]
    pub(super) max: u64,
    /// How long to wait for the first one: up to 60, and at most half of the time that the server takes for an answer.
    #[serde(default)]
    pub(super) wait_seconds: u64,
}

/// Events that are handed out. Without any there is no lease.
#[derive(Debug, Default, Serialize, JsonSchema)]
#[schemars(rename = "GroupDeliveries")]
pub(super) struct TakeAnswer {
    /// The lease's number.
    #[serde(skip_serializing_if = "Option::is_none")]
    lease: Option<String>,
    /// When it runs out, by the database's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    deadline: Option<String>,
    /// By position; those of one stream in its order.
    deliveries: Vec<Delivery>,
}

/// One event of a lease.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "GroupDelivery")]
struct Delivery {
    /// Its place in the log.
    position: String,
    /// Which attempt this is, from 1.
    attempt: u32,
    /// Whether it was parked and is replayed: later ones of its stream may have been done before it.
    replayed: bool,
    /// The record, as the log holds it.
    #[schemars(schema_with = "record")]
    record: Box<RawValue>,
}

fn record(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "description": "The record, byte for byte as `GET /v1/log` has it"})
}

impl TakeAnswer {
    pub(super) fn of(lease: &Lease, records: &[Record]) -> Result<Self, ReadError> {
        let corrupt = |error: &dyn std::error::Error| ReadError::Corrupt { reason: error.to_string() };
        let delivery = |(event, record): (&Delivered, &Record)| {
            let line = String::from_utf8(record.to_line()).map_err(|error| corrupt(&error))?;
            Ok(Delivery {
                position: event.position.to_string(),
                attempt: event.attempt,
                replayed: event.replayed,
                record: RawValue::from_string(line).map_err(|error| corrupt(&error))?,
            })
        };
        let deliveries = lease.events.iter().zip(records).map(delivery).collect::<Result<_, ReadError>>()?;
        Ok(Self { lease: Some(lease.number.to_string()), deadline: Some(lease.deadline.to_string()), deliveries })
    }
}

/// How the attempts of a lease ended.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "GroupSettle")]
pub(super) struct Settle {
    /// The group's name.
    pub(super) group: String,
    /// The lease's number.
    pub(super) lease: String,
    /// At most 1,000, each once.
    events: Vec<SettleEvent>,
}

/// How one attempt ended.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "GroupSettleEvent")]
struct SettleEvent {
    /// Which event.
    position: String,
    /// How.
    outcome: OutcomeWord,
    /// `retry` alone: wait so long, and not as long as the group's settings say.
    after_seconds: Option<u32>,
    /// `retry` and `park`: why; cut at 512 bytes.
    #[serde(default)]
    reason: String,
}

/// How an attempt ended: it is done, it is to be tried again later, it would fail again, or it was not begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "GroupOutcome")]
enum OutcomeWord {
    Done,
    Retry,
    Park,
    Release,
}

impl Settle {
    pub(super) fn events(&self) -> Result<Vec<Settlement>, Problem> {
        self.events.iter().map(SettleEvent::read).collect()
    }
}

impl SettleEvent {
    fn read(&self) -> Result<Settlement, Problem> {
        let (position, reason) = (position(&self.position)?, Reason::of(&self.reason));
        if self.after_seconds.is_some() && self.outcome != OutcomeWord::Retry {
            return Err(Problem::invalid("after_seconds belongs to the outcome retry"));
        }
        if self.after_seconds.is_some_and(|after| after > RETRY_SECONDS_MAX) {
            return Err(Problem::invalid(format!("after_seconds is at most {RETRY_SECONDS_MAX}")));
        }
        let outcome = match self.outcome {
            OutcomeWord::Done => Outcome::Done,
            OutcomeWord::Retry => Outcome::Retry { after_seconds: self.after_seconds, reason },
            OutcomeWord::Park => Outcome::Park { reason },
            OutcomeWord::Release => Outcome::Release,
        };
        Ok(Settlement { position, outcome })
    }
}

/// What became of the events.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "GroupSettled")]
pub(super) struct SettledAnswer {
    /// In the request's order.
    events: Vec<SettledEvent>,
}

/// What became of one event.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "GroupSettledEvent")]
struct SettledEvent {
    /// Which one.
    position: String,
    /// `done`, `waiting`, `parked`, `released`, or `lapsed`: it was not under the lease any more, and nothing changed.
    settled: &'static str,
}

impl SettledAnswer {
    pub(super) fn of(events: &[Settlement], settled: &[Settled]) -> Self {
        let event = |(event, settled): (&Settlement, &Settled)| SettledEvent {
            position: event.position.to_string(),
            settled: settled.as_str(),
        };
        Self { events: events.iter().zip(settled).map(event).collect() }
    }
}

/// A lease that is still worked on.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "GroupExtend")]
pub(super) struct Extend {
    /// The group's name.
    pub(super) group: String,
    /// The lease's number.
    pub(super) lease: String,
}

/// What extending has done.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "GroupExtended")]
pub(super) struct ExtendedAnswer {
    /// Events that are still under the lease.
    events: String,
    /// Until when; absent if none is.
    #[serde(skip_serializing_if = "Option::is_none")]
    deadline: Option<String>,
}

impl From<Extended> for ExtendedAnswer {
    fn from(extended: Extended) -> Self {
        Self { events: extended.events.to_string(), deadline: extended.deadline.map(|at| at.to_string()) }
    }
}
