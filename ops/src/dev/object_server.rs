//! An S3 endpoint on 127.0.0.1 over a folder: the protocol by the crate `s3s`, the storage by us, durable. What it
//! has acknowledged survives a kill at any instruction; what it has not is whole or absent. It serves what the disk
//! has, rot included, and never repairs: finding rot is the business of its clients. A bucket's name is in the path, or in
//! the host's name in front of `.localhost`.

mod digests;
mod layout;
mod listing;
mod protocol;
mod store;

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use s3s::S3Result;
use s3s::auth::SimpleAuth;
use s3s::host::{S3Host, VirtualHost};
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use protocol::Protocol;
use store::Store;

/// How long requests under way may take when the server stops.
const GRACE: Duration = Duration::from_secs(10);
/// How long accepting pauses when the system is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What can go wrong at start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ObjectServerError {
    /// Another server serves this folder, in this process or in another.
    #[error("{root:?} is served by another object server")]
    InUse {
        /// The folder.
        root: PathBuf,
    },
    /// The folder cannot be made, swept or synced, or its file system cannot exchange two folders atomically.
    #[error("{root:?} cannot be used as object storage")]
    Folder {
        /// The folder.
        root: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {bind}")]
    Bind {
        /// The address.
        bind: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
}

/// The one key pair that may use the endpoint.
#[derive(Clone)]
pub struct Credentials {
    /// The access key, which is public.
    pub access_key: String,
    /// The secret key.
    pub secret_key: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("access_key", &self.access_key).finish_non_exhaustive()
    }
}

/// A running S3 endpoint. Dropping it stops it in the background; `stop` also waits until the folder is free.
#[derive(Debug)]
pub struct ObjectServer {
    address: SocketAddr,
    root: PathBuf,
    stopping: CancellationToken,
    killed: CancellationToken,
    task: Option<JoinHandle<()>>,
}

impl ObjectServer {
    /// Serves `root` (made if missing) on `bind`; port 0 takes a free one. Its buckets are the folders in it.
    pub async fn start(root: &Path, credentials: Credentials, bind: SocketAddr) -> Result<Self, ObjectServerError> {
        let folder = root.to_owned();
        let opened = tokio::task::spawn_blocking(move || Store::open(&folder)).await;
        let store = opened.unwrap_or_else(|error| Err(std::io::Error::other(error))).map_err(|source| {
            let root = root.to_owned();
            match source.kind() {
                ErrorKind::WouldBlock => ObjectServerError::InUse { root },
                _ => ObjectServerError::Folder { root, source },
            }
        })?;
        let bind_error = |source| ObjectServerError::Bind { bind, source };
        let listener = TcpListener::bind(bind).await.map_err(bind_error)?;
        let address = listener.local_addr().map_err(bind_error)?;
        let root = store.root().to_owned();

        let work = TaskTracker::new();
        let mut builder = S3ServiceBuilder::new(Protocol { store: Arc::new(store), work: work.clone() });
        builder.set_auth(SimpleAuth::from_single(credentials.access_key, credentials.secret_key));
        builder.set_host(Localhost);
        let serving = Serving {
            listener,
            service: builder.build(),
            work,
            stopping: CancellationToken::new(),
            killed: CancellationToken::new(),
        };
        let (stopping, killed) = (serving.stopping.clone(), serving.killed.clone());
        Ok(Self { address, root, stopping, killed, task: Some(tokio::spawn(serving.run())) })
    }

    /// `http://127.0.0.1:<port>`, for path-style requests.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The address listened on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The file with the bytes of an object, whether it exists or not. Changing a byte of it is what rot does.
    /// Taking the file away makes the object absent.
    pub fn object_path(&self, bucket: &str, key: &str) -> PathBuf {
        object_path(&self.root, bucket, key)
    }

    /// Takes no more requests, lets those under way end (for some seconds), and gives the folder back.
    pub async fn stop(mut self) {
        self.stopping.cancel();
        self.ended().await;
    }

    /// Like `stop`, but cuts all connections at once, as a crash does. The folder is free when this returns.
    pub async fn kill(mut self) {
        self.killed.cancel();
        self.ended().await;
    }

    async fn ended(&mut self) {
        if let Some(task) = self.task.take()
            && let Err(error) = task.await
        {
            tracing::error!(error = &error as &dyn std::error::Error, "the object server ended with a panic");
        }
    }
}

impl Drop for ObjectServer {
    fn drop(&mut self) {
        self.stopping.cancel();
    }
}

/// Where the bytes of an object lie below the folder that a server serves; for use without a running server.
pub fn object_path(root: &Path, bucket: &str, key: &str) -> PathBuf {
    layout::object_folder(&root.join(bucket), key).join(layout::BODY)
}

/// Where a bucket's name is: in front of `.localhost`, or else in the path.
struct Localhost;

impl S3Host for Localhost {
    fn parse_host_header<'a>(&'a self, host: &'a str) -> S3Result<VirtualHost<'a>> {
        let name = host.rsplit_once(':').map_or(host, |(name, _port)| name);
        Ok(match name.strip_suffix(".localhost") {
            Some(bucket) => VirtualHost::new("localhost").with_bucket(bucket),
            None => VirtualHost::new(host),
        })
    }
}

/// The server's task.
struct Serving {
    listener: TcpListener,
    service: S3Service,
    work: TaskTracker,
    stopping: CancellationToken,
    killed: CancellationToken,
}

impl Serving {
    async fn run(self) {
        let Self { listener, service, work, stopping, killed } = self;
        let graceful = GracefulShutdown::new();
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                () = stopping.cancelled() => break,
                () = killed.cancelled() => break,
                Some(_) = connections.join_next() => continue,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, service.clone(), graceful.watcher()));
                }
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "cannot accept a connection");
                    // Nothing tells when descriptors are free again; without a pause this loop would spin.
                    drop(tokio::time::timeout(ACCEPT_PAUSE, stopping.cancelled()).await);
                }
            }
        }
        drop(listener);
        tokio::select! {
            () = graceful.shutdown() => {}
            () = killed.cancelled() => {}
            // A client that does not read its answer must not keep us.
            _ = tokio::time::timeout(GRACE, std::future::pending::<()>()) => {}
        }
        connections.shutdown().await;
        // Disk work goes on after its connection is cut. Only when it is done may the next server have the folder.
        work.close();
        work.wait().await;
        drop(service);
    }
}

async fn connection(stream: TcpStream, service: S3Service, watcher: hyper_util::server::graceful::Watcher) {
    // An answer is several writes; with Nagle's algorithm its end waits for the client's delayed acknowledgement.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(error = &error as &dyn std::error::Error, "the connection is gone before it began");
        return;
    }
    let builder = auto::Builder::new(TokioExecutor::new());
    let serving = builder.serve_connection(TokioIo::new(stream), service).into_owned();
    if let Err(error) = watcher.watch(serving).await {
        tracing::debug!(error = %error, "a connection broke");
    }
}

#[cfg(test)]
mod tests;
