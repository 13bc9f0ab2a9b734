//! Connections: bounded in number, in size and time of headers, in patience with clients that send or take nothing,
//! and ended in good order. HTTP/1.1 only: a proxy in front may speak what it likes to the world.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use domain::ErrorKind;
use hyper::server::conn::http1::Builder;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Interval;
use tokio_util::sync::CancellationToken;

use super::patience::Patient;
use crate::config::HttpConfig;

/// A request's header is at most this long.
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

/// Serves `router` on `listener` until `shutdown`; returns once what was accepted is answered.
///
/// # Errors
/// `CutOff` if that takes longer than `limits.shutdown_seconds`.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: &HttpConfig,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    let connections = Arc::new(Semaphore::new(limits.connections_max));
    let graceful = GracefulShutdown::new();
    let builder = builder(limits);
    let mut pause = tokio::time::interval(ACCEPT_PAUSE);
    loop {
        let permit = tokio::select! {
            () = shutdown.cancelled() => break,
            permit = connections.clone().acquire_owned() => permit.expect("the semaphore is never closed"),
        };
        let stream = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = accept(&listener, &mut pause) => accepted,
        };
        let Some(stream) = stream else { continue };
        let service = TowerToHyperService::new(router.clone());
        let stream = Patient::new(stream, Duration::from_secs(limits.send_seconds));
        let connection = graceful.watch(builder.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                // A client that goes away, or sends what is no HTTP: its own affair.
                tracing::debug!(%error, "a connection ended early");
            }
            drop(permit);
        });
    }
    // From here on nobody is accepted: a client is refused at once and turns to another server.
    drop(listener);
    let seconds = limits.shutdown_seconds;
    let answered = tokio::time::timeout(Duration::from_secs(seconds), graceful.shutdown()).await;
    answered.map_err(|_| ServeError::CutOff { seconds })
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

async fn accept(listener: &TcpListener, pause: &mut Interval) -> Option<TcpStream> {
    match listener.accept().await {
        Ok((stream, _)) => {
            // Answers are small and waited for.
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "no TCP_NODELAY");
            }
            Some(stream)
        }
        Err(error) => {
            tracing::warn!(%error, "a connection could not be accepted");
            // Out of file descriptors, most likely: give those that end a chance, and the processor a rest.
            pause.tick().await;
            None
        }
    }
}
