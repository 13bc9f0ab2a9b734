//! The client for services in Rust: appends that keep their ids until somebody acknowledges them, reads that go on
//! where they broke off, and the active region found by itself.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use coldstream_client::{Client, From, Settings};
//! use domain::append::{AppendRequest, Expectation, ExpectedVersion};
//! use domain::{StreamName, event::NewEvent};
//!
//! let settings = Settings::new("https://home.example:7400", "token").or_region("https://dr.example:7400", "its token");
//! let client = Client::new(settings)?;
//! let event = br#"{"specversion":"1.0","id":"1","source":"/shop","type":"order.placed","subject":"order-1"}"#;
//! let expect = vec![Expectation { stream: StreamName::parse("order-1")?, version: ExpectedVersion::NoStream }];
//! let events = vec![NewEvent::from_cloudevent(event)?];
//! let appended = client.append(&AppendRequest { events, expect, ..AppendRequest::default() }).await?;
//! println!("stored at {}", appended.events[0].position);
//!
//! let mut records = client.tail(From::Start);
//! while let Some(record) = records.next().await? {
//!     println!("{} {}", record.position(), record.stream());
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Work that many processes share goes through a consumer group, which the server keeps: each event is handed out to one
//! of them at a time, those of a stream one after another, until it is done or parked.
//!
//! ```no_run
//! # async fn example(client: coldstream_client::Client) -> Result<(), Box<dyn std::error::Error>> {
//! use coldstream_client::{ConsumerName, Filter, GroupName, NewGroup, Outcome, Reason, Work};
//!
//! let filter = Filter::default().category("order")?;
//! let group = client.create_group(&NewGroup { filter, ..NewGroup::called(GroupName::parse("mailer")?) }).await?;
//! # async fn send(_: &domain::record::Record) -> Result<(), std::io::Error> { Ok(()) }
//! # async fn told_to_stop() {}
//! let work = Work::of(ConsumerName::parse("mailer-1")?);
//! group.work(&work, told_to_stop(), async |delivery: coldstream_client::Delivery| match send(&delivery.record).await {
//!     Ok(()) => Outcome::Done,
//!     Err(error) => Outcome::Retry { after_seconds: None, reason: Reason::of(&error.to_string()) },
//! }).await?;
//! # Ok(())
//! # }
//! ```
//!
//! In other languages the same takes three rules. **Which region:** `GET /health/ready` of each (no token) answers
//! `ready active` in the one that takes appends; or append to any of them, and turn to the next one where the answer
//! has the kind `fenced`, `unavailable` or `denied` (a token belongs to its region) or does not come. **Appends:** choose each
//! event's `id` once, and send the same document again until it is answered with 200, 201 or a kind other than `unavailable`,
//! `indeterminate` and `fenced`; `denied` is the end once each region has said it. An answer may take a minute, and what comes
//! without a kind is of something in between: send it again.
//! **Reads:** keep `position@epoch` of the last record and go on with `token=position@epoch`. A filtered answer
//! (`category`, `type`, `stream_prefix`, `recorded_from`, `recorded_before`) is a page: go on with the `Coldstream-Resume`
//! of its header while that has `Coldstream-Next` too; of a filtered tail a line with `resume` alone is such a token.
//! A worker of a **group** takes (`POST /v1/group/take`), settles each event before the deadline, or extends; at the first
//! event of a stream that fails it gives the later ones of that stream back (`release`).
//!
//! It never invents an event id, and never takes a part of an answer for the whole.

mod answer;
mod error;
mod group;
mod records;
mod regions;

use std::sync::Arc;
use std::time::Duration;

use domain::append::{AppendRequest, Appended};
pub use domain::event::TraceContext;
pub use domain::filter::Filter;
pub use domain::group::{
    ConsumerName, GroupName, GroupSettings, NewGroup, Outcome, Reason, Settled, Settlement, Start,
};
use domain::{Position, ResumeToken, StreamName, StreamVersion};
use reqwest::{Certificate, Identity, Method, RequestBuilder};

pub use error::ClientError;
pub use group::{Delivery, Group, Lease, Work};
pub use records::Records;

use regions::{Patience, Region, Regions};

/// A connection is made within this time, or the next region is asked.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
/// A machine that takes nothing of what is sent to it for so long is gone. A server may let a body wait for 30 s.
#[cfg(target_os = "linux")]
const GONE_AFTER: Duration = Duration::from_secs(35);
/// A read that says nothing for so long is asked for again: a tail has a sign of life about every second.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Which servers, as whom, and for how long.
#[derive(Clone)]
pub struct Settings {
    regions: Vec<Region>,
    answer_within: Duration,
    give_up_after: Duration,
    authorities: Option<Vec<u8>>,
    identity: Option<Vec<u8>>,
}

impl Settings {
    /// What [`Settings::answer_within`] is unless said otherwise: more than a server takes (its `http.answer_seconds`).
    pub const ANSWER_WITHIN: Duration = Duration::from_secs(70);
    /// What [`Settings::give_up_after`] is unless said otherwise: after a server that says nothing, another one is asked.
    pub const GIVE_UP_AFTER: Duration = Duration::from_secs(120);

    /// The region at `url` (scheme, host and port), with a bearer token.
    #[must_use]
    pub fn new(url: &str, token: &str) -> Self {
        Self {
            regions: vec![Region::new(url, token)],
            answer_within: Self::ANSWER_WITHIN,
            give_up_after: Self::GIVE_UP_AFTER,
            authorities: None,
            identity: None,
        }
    }

    /// Another region of the same log, which may be the active one, with a token of its own: tokens belong to a region.
    #[must_use]
    pub fn or_region(mut self, url: &str, token: &str) -> Self {
        self.regions.push(Region::new(url, token));
        self
    }

    /// The authorities (certificates in PEM) that alone are believed, in place of the system's: for a private one.
    #[must_use]
    pub fn believing(mut self, authorities: &[u8]) -> Self {
        self.authorities = Some(authorities.to_vec());
        self
    }

    /// A certificate and its private key (PEM, one after the other), for servers that ask clients for one.
    #[must_use]
    pub fn showing(mut self, certificate_and_key: &[u8]) -> Self {
        self.identity = Some(certificate_and_key.to_vec());
        self
    }

    /// How long one attempt may take, from the first byte that is sent to the last one that comes; 70 s unless said otherwise.
    /// A server that hangs is left sooner with less. With less than a server takes by its own limits, an append that is large,
    /// or that has to wait there, may never be acknowledged. (A connection has 3 s.)
    #[must_use]
    pub fn answer_within(mut self, limit: Duration) -> Self {
        self.answer_within = limit;
        self
    }

    /// How long one call is tried before it is given up; 120 s unless said otherwise. A longer time outlasts a longer
    /// failover, and holds the caller for as long. An attempt that has begun is waited for; a pause that a server asks for is
    /// kept, unless the time would be over. Of a read it counts from the first failure after which nothing came.
    #[must_use]
    pub fn give_up_after(mut self, limit: Duration) -> Self {
        self.give_up_after = limit;
        self
    }
}

/// Where a read of the log begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// With the first event.
    Start,
    /// With the event at this position.
    Position(Position),
    /// After the record of this token; refused with the kind Forked if that record's branch lost.
    Token(ResumeToken),
}

/// A client of one log in one or more regions. Cheap to clone; clones share connections, and what they learn of which
/// region is active.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    trace: Option<Arc<TraceContext>>,
}

pub(crate) struct Shared {
    http: reqwest::Client,
    /// Where appends go.
    writers: Regions,
    /// Where reads go: a follower serves them too.
    readers: Regions,
    answer_within: Duration,
    give_up_after: Duration,
}

const _: () = assert!(
    Settings::ANSWER_WITHIN.as_secs() < Settings::GIVE_UP_AFTER.as_secs(),
    "a call outlasts one server that hangs"
);

impl Client {
    /// A client with TLS by rustls, which believes the system's authorities or those of [`Settings::believing`].
    ///
    /// # Errors
    /// [`ClientError::Setup`] if a certificate is none, or this machine cannot speak HTTP.
    pub fn new(settings: Settings) -> Result<Self, ClientError> {
        // One provider a process: whoever was first has chosen.
        drop(rustls::crypto::ring::default_provider().install_default());
        let http = http(&settings).map_err(|error| ClientError::Setup { reason: error::chain(&error) })?;
        Ok(Self::with_http(settings, http))
    }

    /// A client that uses your own connections, with your own TLS (that of `settings` is not looked at), proxies and limits.
    #[must_use]
    pub fn with_http(settings: Settings, http: reqwest::Client) -> Self {
        let Settings { regions, answer_within, give_up_after, .. } = settings;
        let (writers, readers) = (Regions::new(regions.clone()), Regions::new(regions));
        Self { shared: Arc::new(Shared { http, writers, readers, answer_within, give_up_after }), trace: None }
    }

    /// This client in the course of a request of yours: all that it sends says so, retries included (W3C Trace Context), and
    /// what it appends carries it.
    #[must_use]
    pub fn within(&self, trace: TraceContext) -> Self {
        Self { shared: Arc::clone(&self.shared), trace: Some(Arc::new(trace)) }
    }

    /// Appends a request: all of it or nothing. Sends it again, with the same ids, to whichever region answers, until
    /// it is acknowledged, refused (a token only by each region), or the time is over.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with the server's kind; nothing of the request was stored. After
    /// [`ClientError::GaveUp`] of the kind Indeterminate it may be stored: append the same request again later.
    pub async fn append(&self, request: &AppendRequest) -> Result<Appended, ClientError> {
        let document = request.to_document();
        let streams: Vec<&StreamName> = request.events.iter().map(|event| &event.stream).collect();
        let mut patience = Patience::of(self.shared.give_up_after, self.shared.writers.count());
        loop {
            let region = self.shared.writers.current();
            let sent = self
                .shared
                .request(Method::POST, region, "/v1/append", self.trace.as_deref())
                .timeout(self.shared.answer_within)
                .header("content-type", "application/vnd.coldstream.append+json")
                .body(document.clone());
            let error = match answer::of(sent).await {
                Ok(response) => match answer::appended(response, &streams).await {
                    Ok(appended) => return Ok(appended),
                    Err(error) => error,
                },
                Err(error) => error,
            };
            let next = self.shared.writers.learn(region, &error);
            patience.after(error, region, next).await?;
        }
    }

    /// The log from `from` to the head that it has when the read begins.
    #[must_use]
    pub fn log(&self, from: From) -> Records {
        Records::of_log(self, from, Filter::default(), false)
    }

    /// As [`Client::log`], but only what `filter` wants: the rest is left out by the server, page by page.
    #[must_use]
    pub fn log_matching(&self, from: From, filter: Filter) -> Records {
        Records::of_log(self, from, filter, false)
    }

    /// The log from `from` on, and then whatever is appended, without end. Nothing is missed and nothing comes twice,
    /// also across broken connections and a switchover.
    #[must_use]
    pub fn tail(&self, from: From) -> Records {
        Records::of_log(self, from, Filter::default(), true)
    }

    /// As [`Client::tail`], but only what `filter` wants. [`Records::token`] moves on over what it does not want. A tail
    /// has no end: a filter with an instant before which records are wanted is refused as Invalid.
    #[must_use]
    pub fn tail_matching(&self, from: From, filter: Filter) -> Records {
        Records::of_log(self, from, filter, true)
    }

    /// A stream's events from a version on, live and archived, to the one that is the newest when the read begins. A
    /// stream that has never had an event is refused with the kind NotFound.
    #[must_use]
    pub fn stream(&self, stream: &StreamName, from: StreamVersion) -> Records {
        Records::of_stream(self, stream.clone(), from, false)
    }

    /// A stream's events from a version on, and then whatever is appended to it, without end; also of a stream that has not
    /// begun. To go on later, keep the version of the last record with your own work: a forced failover can give a version
    /// to another event, and only a tail of the log finds that out by its token.
    #[must_use]
    pub fn tail_stream(&self, stream: &StreamName, from: StreamVersion) -> Records {
        Records::of_stream(self, stream.clone(), from, true)
    }
}

fn http(settings: &Settings) -> Result<reqwest::Client, reqwest::Error> {
    let mut http = reqwest::Client::builder().connect_timeout(CONNECT_WITHIN);
    if let Some(authorities) = &settings.authorities {
        http = http.tls_certs_only(Certificate::from_pem_bundle(authorities)?);
    }
    if let Some(identity) = &settings.identity {
        http = http.identity(Identity::from_pem(identity)?);
    }
    #[cfg(target_os = "linux")]
    {
        http = http.tcp_user_timeout(GONE_AFTER);
    }
    http.build()
}

impl Shared {
    fn request(&self, method: Method, region: usize, path: &str, trace: Option<&TraceContext>) -> RequestBuilder {
        let Region { url, token } = self.writers.at(region);
        let request = self.http.request(method, format!("{url}{path}")).bearer_auth(token);
        let Some(trace) = trace else { return request };
        let request = request.header("traceparent", trace.parent());
        trace.state().into_iter().fold(request, |request, state| request.header("tracestate", state))
    }
}
