//! Connections: bounded in number, in size and time of headers, in patience with clients that send or take nothing,
//! and ended in good order. HTTP/1.1 only: a proxy in front may speak what it likes to the world.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::Request;
use domain::ErrorKind;
use hyper::body::Incoming;
use hyper::server::conn::http1::Builder;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Interval;
use tokio_util::sync::CancellationToken;

use super::connections::Connections;
use super::handshake;
use super::patience::Patient;
use super::rates::Lines;
use crate::config::HttpConfig;
use crate::tls::ServerTls;

/// A header that is not whole with so many bytes is refused. One read may bring as many again with the last of those that
/// are taken: so one of this length is always taken, and one of twice as many never.
const HEADER_BYTES_MAX: usize = 32 << 10;
/// A request has at most this many header fields.
const HEADERS_MAX: usize = 64;

/// After a connection could not be accepted, at most one more is tried in this time.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why the API does not listen.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The address cannot be had.
    #[error("cannot listen on {address}, which http.bind names")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Requests under way took longer than a shutdown may.
    #[error("requests were still under way {seconds} s after the shutdown began; their clients must ask again")]
    CutOff {
        /// How long they had.
        seconds: u64,
    },
}

impl ServeError {
    /// What the caller has to do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Bind { .. } => ErrorKind::Unavailable,
            Self::CutOff { .. } => ErrorKind::Indeterminate,
        }
    }
}

/// Where a request's connection comes from: its client, or a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerAddress(pub IpAddr);

/// The router, for the requests of one connection.
struct Connected {
    router: TowerToHyperService<Router>,
    peer: PeerAddress,
}

impl Service<Request<Incoming>> for Connected {
    type Response = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Response;
    type Error = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Error;
    type Future = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Future;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(self.peer);
        self.router.call(request)
    }
}

/// Where requests come in.
pub struct Door {
    /// What is listened on.
    pub listener: TcpListener,
    /// TLS, unless it ends in front of this process or nobody listens on the way.
    pub tls: Option<Arc<ServerTls>>,
    /// How many may come in at a time: those of the API's state, which tells of them.
    pub connections: Arc<Connections>,
}

/// Serves `router` on `door` until `shutdown`; returns once what was accepted is answered.
///
/// # Errors
/// `CutOff` if that takes longer than `limits.shutdown_seconds`.
pub async fn serve(
    door: Door,
    router: Router,
    limits: &HttpConfig,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    let (graceful, lines) = (GracefulShutdown::new(), Arc::new(Lines::new()));
    let builder = builder(limits);
    let mut pause = tokio::time::interval(ACCEPT_PAUSE);
    loop {
        let place = tokio::select! {
            () = shutdown.cancelled() => break,
            place = door.connections.place() => place,
        };
        let stream = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = accept(&door.listener, &mut pause) => accepted,
        };
        let Some((stream, peer)) = stream else { continue };
        let open = door.connections.open(place);
        let connection = Connection {
            builder: builder.clone(),
            service: Connected { router: TowerToHyperService::new(router.clone()), peer },
            watcher: graceful.watcher(),
        };
        let (tls, limits, shutdown) = (door.tls.clone(), Limits::of(limits), shutdown.clone());
        let lines = lines.clone();
        tokio::spawn(async move {
            match tls {
                None => connection.serve(Patient::new(stream, limits.send)).await,
                Some(tls) => {
                    // The one whose handshake is not over has been promised nothing.
                    let shaken = tokio::select! {
                        () = shutdown.cancelled() => None,
                        shaken = handshake::shake((stream, peer), &tls, &limits, &lines) => shaken,
                    };
                    if let Some(stream) = shaken {
                        connection.serve(stream).await;
                    }
                }
            }
            drop(open);
        });
    }
    // From here on nobody is accepted: a client is refused at once and turns to another server.
    drop(door.listener);
    let seconds = limits.shutdown_seconds;
    let answered = tokio::time::timeout(Duration::from_secs(seconds), graceful.shutdown()).await;
    answered.map_err(|_| ServeError::CutOff { seconds })
}

/// What a connection's other end has time for.
pub(super) struct Limits {
    /// To say what it has to say first.
    pub(super) receive: Duration,
    /// To take something of what is sent to it.
    pub(super) send: Duration,
}

impl Limits {
    fn of(limits: &HttpConfig) -> Self {
        Self { receive: Duration::from_secs(limits.receive_seconds), send: Duration::from_secs(limits.send_seconds) }
    }
}

/// What a connection is served with.
struct Connection {
    builder: Builder,
    service: Connected,
    watcher: Watcher,
}

impl Connection {
    async fn serve(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let connection = self.builder.serve_connection(TokioIo::new(stream), self.service);
        if let Err(error) = self.watcher.watch(connection).await {
            // A client that goes away, or sends what is no HTTP: its own affair.
            tracing::debug!(%error, "a connection ended early");
        }
    }
}

fn builder(limits: &HttpConfig) -> Builder {
    let mut builder = Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(limits.receive_seconds))
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEADER_BYTES_MAX);
    builder
}

async fn accept(listener: &TcpListener, pause: &mut Interval) -> Option<(TcpStream, PeerAddress)> {
    match listener.accept().await {
        Ok((stream, address)) => {
            // Answers are small and waited for.
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "no TCP_NODELAY");
            }
            Some((stream, PeerAddress(address.ip())))
        }
        Err(error) => {
            tracing::warn!(%error, "a connection could not be accepted");
            // Out of file descriptors, most likely: give those that end a chance, and the processor a rest.
            pause.tick().await;
            None
        }
    }
}
