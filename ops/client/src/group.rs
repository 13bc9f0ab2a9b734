//! Consumer groups: events that many workers share, each handed out to one of them at a time.
//!
//! A lease is yours until its deadline. Settle each of its events; what you settle too late is answered as
//! [`Settled::Lapsed`], and somebody else has it. Events of one stream come in their order, and in one lease at a time: so
//! stop at the first of a stream that fails, and give what comes after it back ([`Outcome::Release`]).
//! [`Group::work`] does all of this.

mod wire;
mod work;

use std::sync::Arc;
use std::time::Duration;

use domain::Timestamp;
use domain::event::TraceContext;
use domain::group::{ConsumerName, Extended, GroupName, LeaseNumber, NewGroup, Settled, Settlement};
use domain::record::Record;
use reqwest::Method;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

pub use work::Work;

use crate::error::ClientError;
use crate::regions::Patience;
use crate::{Client, Shared, answer};

/// A consumer group. Cheap to clone.
#[derive(Clone)]
pub struct Group {
    shared: Arc<Shared>,
    /// That of the client which it was made by.
    trace: Option<Arc<TraceContext>>,
    name: GroupName,
}

/// An event that is handed out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// Whether it was parked and is replayed: later ones of its stream may have been done before it.
    pub replayed: bool,
    /// The event, as the log holds it.
    pub record: Record,
}

/// Events that are yours until a deadline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Its number, which is never used twice.
    pub number: LeaseNumber,
    /// When it runs out, by the clock of the server's database.
    pub deadline: Timestamp,
    /// By position; at least one.
    pub deliveries: Vec<Delivery>,
    /// Where it was taken: another region knows nothing of it, and which URLs are of one log is not known here.
    region: usize,
}

impl Client {
    /// Creates a group; with the same values as before it is the same group.
    ///
    /// # Errors
    /// [`ClientError::Refused`]: Conflict if there is a group of that name with other values.
    pub async fn create_group(&self, new: &NewGroup) -> Result<Group, ClientError> {
        let group = self.group(&new.name);
        let _: Value = group.active(("create", &wire::create(new)), Duration::ZERO).await?.0;
        Ok(group)
    }

    /// The group of that name. Nobody is asked whether there is one.
    #[must_use]
    pub fn group(&self, name: &GroupName) -> Group {
        Group { shared: Arc::clone(&self.shared), trace: self.trace.clone(), name: name.clone() }
    }
}

impl Group {
    /// Takes up to `max` events to work on (at most 1,000), and waits for the first one, for up to 30 s: `None` if there is
    /// none. If the answer is lost, what was handed out comes again when its lease has run out.
    ///
    /// # Errors
    /// [`ClientError::Refused`], such as NotFound for a group that there is not; `GaveUp`.
    pub async fn take(
        &self,
        consumer: &ConsumerName,
        max: usize,
        wait: Duration,
    ) -> Result<Option<Lease>, ClientError> {
        let wanted = json!({"group": self.name.as_str(), "consumer": consumer.as_str(), "max": max,
                            "wait_seconds": wait.as_secs().min(30)});
        let (taken, region) = self.active::<wire::Taken>(("take", &wanted), wait).await?;
        taken.lease(region)
    }

    /// Settles events of a lease; what became of each, in their order. Settling again is harmless, and says `Lapsed`.
    ///
    /// # Errors
    /// [`ClientError::Refused`]; `GaveUp`: of the kind Indeterminate it may have been done.
    pub async fn settle(&self, lease: &Lease, events: &[Settlement]) -> Result<Vec<Settled>, ClientError> {
        if events.is_empty() {
            return Ok(Vec::new());
        }
        let body = wire::settle(&self.name, lease.number, events);
        let settled: wire::SettledEvents = self.at(lease.region, "settle", &body).await?;
        settled.of(events)
    }

    /// A lease's whole time again, from now on, for what is still under it.
    ///
    /// # Errors
    /// [`ClientError::Refused`], `GaveUp`.
    pub async fn extend(&self, lease: &Lease) -> Result<Extended, ClientError> {
        let body = json!({"group": self.name.as_str(), "lease": lease.number.to_string()});
        let extended: wire::Extension = self.at(lease.region, "extend", &body).await?;
        extended.read()
    }

    /// How long a lease of this group is.
    async fn lease_time(&self) -> Result<Duration, ClientError> {
        let mut patience = Patience::of_read(self.shared.give_up_after, self.shared.writers.count());
        loop {
            let region = self.shared.writers.current();
            let asked = self.shared.request(Method::GET, region, "/v1/group/status", self.trace.as_deref());
            let asked = asked.query(&[("group", self.name.as_str())]).timeout(self.shared.answer_within);
            match read::<wire::Status>(asked).await {
                Ok(status) => return Ok(Duration::from_secs(status.lease_seconds)),
                Err(error) => {
                    let next = self.shared.writers.learn(region, &error);
                    patience.after(error, region, next).await?;
                }
            }
        }
    }

    /// Asks the active region, whichever that is, which answers after `wait` at the latest; returns which one answered.
    async fn active<T: DeserializeOwned>(
        &self,
        (verb, body): (&'static str, &Value),
        wait: Duration,
    ) -> Result<(T, usize), ClientError> {
        let mut patience = Patience::of(self.shared.give_up_after, self.shared.writers.count());
        loop {
            let region = self.shared.writers.current();
            match self.ask(region, verb, body, self.shared.answer_within + wait).await {
                Ok(answer) => return Ok((answer, region)),
                Err(error) => {
                    let next = self.shared.writers.learn(region, &error);
                    patience.after(error, region, next).await?;
                }
            }
        }
    }

    /// Asks one region and no other: it alone knows the lease.
    async fn at<T: DeserializeOwned>(&self, region: usize, verb: &'static str, body: &Value) -> Result<T, ClientError> {
        let mut patience = Patience::of(self.shared.give_up_after, 1);
        loop {
            match self.ask(region, verb, body, self.shared.answer_within).await {
                Ok(answer) => return Ok(answer),
                Err(error) => patience.after(error, region, region).await?,
            }
        }
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        region: usize,
        verb: &'static str,
        body: &Value,
        within: Duration,
    ) -> Result<T, ClientError> {
        let path = format!("/v1/group/{verb}");
        let request = self.shared.request(Method::POST, region, &path, self.trace.as_deref()).timeout(within);
        read(request.header("content-type", "application/json").body(body.to_string())).await
    }
}

async fn read<T: DeserializeOwned>(request: reqwest::RequestBuilder) -> Result<T, ClientError> {
    let response = answer::of(request).await?;
    let body = response.bytes().await.map_err(|error| answer::no_answer(&error))?;
    serde_json::from_slice(&body).map_err(|error| ClientError::Corrupt { reason: error.to_string() })
}
