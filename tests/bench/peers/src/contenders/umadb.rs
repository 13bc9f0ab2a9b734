//! UmaDB: its own server in a process of its own, on the disk of the others, by its own client over gRPC. Each request
//! has the condition that its users write for a stream: nothing of this tag after what was seen last.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::Stdio;
use std::sync::Arc;

use async_trait::async_trait;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use umadb_client::{AsyncUmaDbClient, UmaDbClient};
use umadb_dcb::{DcbAppendCondition, DcbError, DcbEvent, DcbEventStoreAsync, DcbQuery, DcbQueryItem};
use uuid::Uuid;

use super::Contender;
use crate::error::{BenchError, append, io};
use crate::events::{Course, EVENT_TYPE, METADATA_MEMBER, PAYLOAD_MEMBER, Texts, object};
use crate::peer::{Answered, Peer, Writer};
use crate::rig::Rig;

const NAME: &str = "UmaDB";
const HOW: &str = "it is built beside this program by `cargo build --release` of this package";
/// Each attempt of its client waits half a second at most.
const CONNECT_ATTEMPTS: usize = 20;

/// A running server.
pub(super) struct UmaDb {
    server: Child,
    url: String,
    texts: Arc<Texts>,
    _folder: TempDir,
}

impl UmaDb {
    pub(super) async fn start(rig: &Rig, texts: Arc<Texts>) -> Result<Self, BenchError> {
        if !rig.umadb.is_file() {
            return Err(BenchError::Missing { program: rig.umadb.clone(), how: HOW });
        }
        let folder = rig.scratch()?;
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let address = TcpListener::bind(any).and_then(|free| free.local_addr()).map_err(io("finding a free port"))?;
        let mut command = Command::new(&rig.umadb);
        command.arg("--listen").arg(address.to_string()).arg("--db-path").arg(folder.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let server = command.spawn().map_err(io("starting UmaDB"))?;
        let started = Self { server, url: format!("http://{address}"), texts, _folder: folder };
        for _ in 1..CONNECT_ATTEMPTS {
            if started.connect().await.is_ok() {
                return Ok(started);
            }
        }
        started.connect().await.map_err(append(NAME))?;
        Ok(started)
    }

    async fn connect(&self) -> Result<AsyncUmaDbClient, DcbError> {
        UmaDbClient::new(self.url.clone()).connect_async().await
    }
}

#[async_trait]
impl Peer for UmaDb {
    fn name(&self) -> &'static str {
        Contender::Umadb.name()
    }

    async fn writer(&self) -> Result<Box<dyn Writer>, BenchError> {
        let client = self.connect().await.map_err(append(NAME))?;
        Ok(Box::new(UmaDbWriter { client, texts: Arc::clone(&self.texts), course: Course::new(), last: None }))
    }

    fn processes(&self) -> Vec<u32> {
        self.server.id().into_iter().collect()
    }

    async fn end(mut self: Box<Self>) -> Result<(), BenchError> {
        self.server.kill().await.map_err(io("ending UmaDB"))
    }
}

struct UmaDbWriter {
    client: AsyncUmaDbClient,
    texts: Arc<Texts>,
    course: Course,
    /// Position of the stream's newest event.
    last: Option<u64>,
}

impl UmaDbWriter {
    #[expect(clippy::disallowed_methods, reason = "the load generator is a composition root: it makes its own ids")]
    fn event(&self, index: usize) -> DcbEvent {
        DcbEvent {
            event_type: EVENT_TYPE.into(),
            tags: vec![self.course.name()],
            data: object(PAYLOAD_MEMBER, self.texts.payload(index)).into_bytes(),
            uuid: Some(Uuid::new_v4()),
            metadata: vec![(METADATA_MEMBER.into(), self.texts.metadata(index).to_owned())],
        }
    }
}

#[async_trait]
impl Writer for UmaDbWriter {
    async fn append(&mut self, events: usize) -> Result<Answered, BenchError> {
        let made = (0..events).map(|index| self.event(index)).collect();
        let of_stream = DcbQuery::new().item(DcbQueryItem::new().tags([self.course.name()]));
        let unseen = DcbAppendCondition::new(of_stream).after(self.last);
        match self.client.append(made, Some(unseen), None).await {
            Ok(position) => {
                let begins = self.course.acknowledged(events);
                self.last = (!begins).then_some(position);
                Ok(Answered::Durable)
            }
            Err(error) => Err(append(NAME)(error)),
        }
    }
}
