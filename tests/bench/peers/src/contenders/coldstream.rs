//! Coldstream through its library, and the request that both of its doors are given. Each names the version that it
//! expects, which is the mode with the most checks.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use domain::append::{AppendError, AppendRequest, Expectation, ExpectedVersion};
use domain::event::{Data, Extension, ExtensionValue, NewEvent};
use domain::log::EventLog;
use domain::{StreamName, StreamVersion};
use event_log::{PgConfig, PgLog};
use ops::clock::SystemClock;

use super::Contender;
use crate::error::{BenchError, append, rig};
use crate::events::{Course, EVENT_TYPE, METADATA_MEMBER, PAYLOAD_MEMBER, Texts, object};
use crate::peer::{AFTER_REFUSAL, Answered, Peer, Writer};
use crate::rig::{Database, Rig};

/// The next request of a writer.
pub(super) fn request(course: &Course, texts: &Texts, events: usize) -> AppendRequest {
    let stream = StreamName::parse(&course.name()).expect("a category, a hyphen, letters and digits");
    let event = |index| NewEvent {
        id: course.id(index),
        source: "/bench".into(),
        event_type: EVENT_TYPE.into(),
        stream: stream.clone(),
        time: None,
        event_version: None,
        data_schema: None,
        data_content_type: None,
        extensions: vec![Extension {
            name: METADATA_MEMBER.into(),
            value: ExtensionValue::String(texts.metadata(index).to_owned()),
        }],
        data: Data::Json(object(PAYLOAD_MEMBER, texts.payload(index))),
    };
    let events = (0..events).map(event).collect();
    let version = StreamVersion::new(course.version).map_or(ExpectedVersion::NoStream, ExpectedVersion::Exactly);
    AppendRequest { events, expect: vec![Expectation { stream, version }], ..AppendRequest::default() }
}

/// The log in this process.
pub(super) struct Library {
    rig: Arc<Rig>,
    database: Database,
    log: Arc<PgLog>,
    texts: Arc<Texts>,
}

impl Library {
    pub(super) async fn start(rig: Arc<Rig>, texts: Arc<Texts>) -> Result<Self, BenchError> {
        let (database, url) = rig.log().await?;
        let log = PgLog::connect(PgConfig::at(&url), Arc::new(SystemClock)).await;
        let log = Arc::new(log.map_err(self::rig("opening the log"))?);
        Ok(Self { rig, database, log, texts })
    }
}

#[async_trait]
impl Peer for Library {
    fn name(&self) -> &'static str {
        Contender::Library.name()
    }

    async fn writer(&self) -> Result<Box<dyn Writer>, BenchError> {
        let (log, texts) = (Arc::clone(&self.log), Arc::clone(&self.texts));
        Ok(Box::new(LibraryWriter { log, texts, course: Course::new() }))
    }

    fn processes(&self) -> Vec<u32> {
        self.rig.postgres()
    }

    async fn end(self: Box<Self>) -> Result<(), BenchError> {
        self.log.shut_down().await;
        drop(self.log);
        self.rig.drop_database(&self.database).await
    }
}

struct LibraryWriter {
    log: Arc<PgLog>,
    texts: Arc<Texts>,
    course: Course,
}

#[async_trait]
impl Writer for LibraryWriter {
    async fn append(&mut self, events: usize) -> Result<Answered, BenchError> {
        match self.log.append(request(&self.course, &self.texts, events)).await {
            Ok(_) => {
                self.course.acknowledged(events);
                Ok(Answered::Durable)
            }
            // A full queue: nothing is stored.
            Err(AppendError::Unavailable { retry_after_seconds, .. }) => {
                let said = retry_after_seconds.map(|seconds| Duration::from_secs(seconds.into()));
                Ok(Answered::Refused(said.unwrap_or(AFTER_REFUSAL)))
            }
            Err(error) => Err(append(Contender::Library.name())(error)),
        }
    }
}
