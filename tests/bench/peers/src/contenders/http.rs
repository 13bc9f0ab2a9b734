//! Coldstream as its users in other languages see it: the release binary in a process of its own, and a client that
//! writes HTTP/1.1 by hyper and reads no more of an answer than its status.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use domain::window::LiveWindow;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{HeaderMap, Request, StatusCode};
use hyper_util::rt::TokioIo;
use ops::dev::Region;
use ops::dev::postgres::for_measurements;
use ops::dev::region::Plan;
use tempfile::TempDir;
use tokio::net::TcpStream;

use super::{Contender, coldstream};
use crate::error::{BenchError, append, io, rig};
use crate::events::{Course, Texts};
use crate::peer::{AFTER_REFUSAL, Answered, Peer, Writer};
use crate::rig::Rig;

const NAME: &str = "Coldstream, HTTP";
const HOW: &str = "`cargo build --release -p ops` in the workspace, or name it with --coldstream";

/// A region of its own: cluster, store and server.
pub(super) struct Http {
    region: Region,
    processes: Vec<u32>,
    address: SocketAddr,
    texts: Arc<Texts>,
    _folder: TempDir,
}

impl Http {
    pub(super) async fn start(rig: &Rig, texts: Arc<Texts>) -> Result<Self, BenchError> {
        if !rig.coldstream.is_file() {
            return Err(BenchError::Missing { program: rig.coldstream.clone(), how: HOW });
        }
        let folder = rig.scratch()?;
        let plan = Plan {
            binary: rig.coldstream.clone(),
            folder: folder.path().to_owned(),
            simulated_now: None,
            window: LiveWindow::default(),
            settings: Vec::new(),
            postgres: for_measurements(),
        };
        let mut region = Region::single(&plan).await.map_err(self::rig("setting up a region"))?;
        region.serve().await.map_err(self::rig("starting the server"))?;
        let server = region.server().map(|server| server.pid());
        let processes = server.into_iter().chain(region.cluster.pid()).collect();
        let unreadable = || BenchError::Answer { peer: NAME, said: region.url.clone() };
        let address = region.url.strip_prefix("http://").and_then(|at| at.parse().ok()).ok_or_else(unreadable)?;
        Ok(Self { region, processes, address, texts, _folder: folder })
    }
}

#[async_trait]
impl Peer for Http {
    fn name(&self) -> &'static str {
        Contender::Http.name()
    }

    async fn writer(&self) -> Result<Box<dyn Writer>, BenchError> {
        let stream = TcpStream::connect(self.address).await.map_err(io("connecting to the server"))?;
        stream.set_nodelay(true).map_err(io("connecting to the server"))?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(append(NAME))?;
        // It ends with the writer, and its error reaches the request that waits.
        tokio::spawn(connection);
        Ok(Box::new(HttpWriter {
            sender,
            host: self.address.to_string(),
            bearer: format!("Bearer {}", self.region.tokens.appender),
            texts: Arc::clone(&self.texts),
            course: Course::new(),
        }))
    }

    fn processes(&self) -> Vec<u32> {
        self.processes.clone()
    }

    async fn end(self: Box<Self>) -> Result<(), BenchError> {
        self.region.end().await.map_err(rig("ending a region"))
    }
}

struct HttpWriter {
    sender: SendRequest<Full<Bytes>>,
    host: String,
    bearer: String,
    texts: Arc<Texts>,
    course: Course,
}

/// What the answer says of when to ask again.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get("retry-after")?.to_str().ok()?.parse().ok().map(Duration::from_secs)
}

#[async_trait]
impl Writer for HttpWriter {
    async fn append(&mut self, events: usize) -> Result<Answered, BenchError> {
        let document = coldstream::request(&self.course, &self.texts, events).to_document();
        let request = Request::post("/v1/append")
            .header("host", &self.host)
            .header("authorization", &self.bearer)
            .header("content-type", "application/vnd.coldstream.append+json")
            .body(Full::new(Bytes::from(document)))
            .expect("its parts are written above");
        let answer = self.sender.send_request(request).await.map_err(append(NAME))?;
        let (status, wait) = (answer.status(), retry_after(answer.headers()));
        let body = answer.into_body().collect().await.map_err(append(NAME))?.to_bytes();
        match status {
            StatusCode::CREATED => {
                self.course.acknowledged(events);
                Ok(Answered::Durable)
            }
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
                Ok(Answered::Refused(wait.unwrap_or(AFTER_REFUSAL)))
            }
            _ => Err(BenchError::Answer { peer: NAME, said: format!("{status}: {}", String::from_utf8_lossy(&body)) }),
        }
    }
}
