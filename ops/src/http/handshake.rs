//! The handshake of a connection with TLS, in bounded time. Who speaks HTTP without TLS is told so; nothing of what it said
//! is looked at. Who shows no certificate that is believed, where one is asked for, is the audit's.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

use super::PeerAddress;
use super::audit;
use super::patience::Patient;
use super::rates::Lines;
use super::server::Limits;
use crate::chain::chain;
use crate::tls::ServerTls;

/// What a client without TLS is told. It has no id: nothing of its request was read.
const PLAIN: &[u8] = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-type: application/problem+json\r\n\r\n\
    {\"type\":\"about:blank\",\"title\":\"Bad Request\",\"status\":400,\"kind\":\"invalid\",\
    \"detail\":\"this port speaks TLS: write https\"}";
/// Of what a client without TLS goes on to say, so much is taken, so that it reads its answer: a connection that is closed
/// with unread bytes is reset.
const UNREAD_BYTES_MAX: u64 = 64 << 10;

/// The connection with TLS; `None` if it came to none, which is counted and said.
pub(super) async fn shake(
    (stream, peer): (TcpStream, PeerAddress),
    tls: &ServerTls,
    limits: &Limits,
    lines: &Lines,
) -> Option<TlsStream<Patient<TcpStream>>> {
    let shaken = timeout(limits.receive, async {
        let mut first = [0; 1];
        // Nothing is taken by it: the handshake begins with this byte.
        if stream.peek(&mut first).await? == 1 && first[0].is_ascii_uppercase() {
            refuse_plain(stream).await?;
            return Err(std::io::Error::other("the client speaks HTTP without TLS"));
        }
        tls.acceptor().accept(Patient::new(stream, limits.send)).await
    });
    let (error, shows_none) = match shaken.await {
        Ok(Ok(stream)) => return Some(stream),
        Ok(Err(error)) => (chain(&error), shows_none(&error)),
        Err(_elapsed) => ("it took too long".to_owned(), false),
    };
    tls.failed();
    if shows_none && lines.may(peer) {
        audit::not_shaken(peer, &error);
    }
    tracing::debug!(error, peer = %peer.0, "a TLS handshake failed");
    None
}

/// Whether the client showed no certificate that is believed.
fn shows_none(error: &std::io::Error) -> bool {
    let of_tls = error.get_ref().and_then(|source| source.downcast_ref::<rustls::Error>());
    matches!(of_tls, Some(rustls::Error::NoCertificatesPresented | rustls::Error::InvalidCertificate(_)))
}

async fn refuse_plain(mut stream: TcpStream) -> std::io::Result<()> {
    stream.write_all(PLAIN).await?;
    stream.shutdown().await?;
    let unread = tokio::io::copy(&mut (&mut stream).take(UNREAD_BYTES_MAX), &mut tokio::io::sink()).await;
    unread.map(drop)
}
