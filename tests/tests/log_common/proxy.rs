//! A TCP proxy before PostgreSQL that cuts a connection exactly at what commits, before or after the server has it: a
//! COMMIT, or the statement that stores a whole group.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What happens to the next commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// The server never sees it.
    Before,
    /// The server has done it; its reply gets lost.
    After,
    /// As `After`, and from then on connections lead to the server on this port.
    AfterThenTo(u16),
}

pub(crate) struct Proxy {
    port: u16,
    state: Arc<State>,
}

struct State {
    target: AtomicU16,
    next: Mutex<Option<Cut>>,
    cuts: AtomicUsize,
    /// Connections of an earlier one say nothing any more.
    era: AtomicUsize,
    /// Sessions begin without the settings that their clients ask for.
    drops_options: AtomicBool,
    /// Held by whoever lets nobody connect.
    door: tokio::sync::RwLock<()>,
}

impl Proxy {
    pub(crate) async fn start(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let state = Arc::new(State {
            target: AtomicU16::new(target),
            next: Mutex::default(),
            cuts: AtomicUsize::new(0),
            era: AtomicUsize::new(0),
            drops_options: AtomicBool::new(false),
            door: tokio::sync::RwLock::default(),
        });
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let state = Arc::clone(&shared);
                tokio::spawn(async move {
                    drop(state.door.read().await);
                    if let Ok(server) = TcpStream::connect(("127.0.0.1", state.target.load(Ordering::SeqCst))).await {
                        pump(client, server, &state).await;
                    }
                });
            }
        });
        Self { port, state }
    }

    /// `url`, through the proxy.
    pub(crate) fn url(&self, url: &str) -> String {
        let (before, rest) = url.split_once("127.0.0.1:").expect("a url of a private cluster");
        let (_, after) = rest.split_once('/').expect("a database");
        format!("{before}127.0.0.1:{}/{after}", self.port)
    }

    /// Cuts the next commit.
    pub(crate) fn cut(&self, cut: Cut) {
        *self.state.next.lock().unwrap_or_else(PoisonError::into_inner) = Some(cut);
    }

    /// Lets nobody connect until what it returns is dropped; connections that are open go on.
    pub(crate) async fn shut(&self) -> tokio::sync::RwLockWriteGuard<'_, ()> {
        self.state.door.write().await
    }

    /// Nothing comes through the connections that are open any more, either way, and none of them is closed: as if the
    /// server's machine, or the network to it, were gone. New ones lead to the server.
    pub(crate) fn silence(&self) {
        self.state.era.fetch_add(1, Ordering::SeqCst);
    }

    /// From now on sessions begin without the settings that their clients ask for: as poolers have it that are told to ignore
    /// them.
    pub(crate) fn drop_options(&self) {
        self.state.drops_options.store(true, Ordering::SeqCst);
    }

    pub(crate) fn cuts(&self) -> usize {
        self.state.cuts.load(Ordering::SeqCst)
    }
}

async fn pump(client: TcpStream, server: TcpStream, state: &State) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let era = state.era.load(Ordering::SeqCst);
    let hear = async || {
        if state.era.load(Ordering::SeqCst) != era {
            std::future::pending::<()>().await;
        }
    };
    let replies = async {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(read) = from_server.read(&mut buffer).await {
            hear().await;
            if read == 0 || to_client.write_all(&buffer[..read]).await.is_err() {
                break;
            }
        }
    };
    // Ends with what it does on a cut: the last message was forwarded (and its reply must be waited for), or not.
    let requests = async {
        let mut startup = message(&mut from_client, false).await?;
        if state.drops_options.load(Ordering::SeqCst) {
            startup = without_options(&startup);
        }
        to_server.write_all(&startup).await.ok()?;
        let mut protocol = Protocol::default();
        loop {
            let message = message(&mut from_client, true).await?;
            hear().await;
            let commit = protocol.commits(&message);
            let cut = if commit { state.next.lock().unwrap_or_else(PoisonError::into_inner).take() } else { None };
            if cut == Some(Cut::Before) {
                state.cuts.fetch_add(1, Ordering::SeqCst);
                return None;
            }
            to_server.write_all(&message).await.ok()?;
            if let Some(cut) = cut {
                return Some((cut, to_server));
            }
        }
    };
    let cut = tokio::select! {
        () = replies => None,
        cut = requests => cut,
    };
    if let Some((cut, _open)) = cut {
        // The server's reply says that it has done it; nobody else gets to see it.
        let mut reply = [0; 1];
        from_server.read_exact(&mut reply).await.expect("the server answers a commit");
        // Sent with all that follows, once the transaction has ended.
        assert!(matches!(&reply, b"C" | b"2"), "CommandComplete, or BindComplete before it: {reply:?}");
        if let Cut::AfterThenTo(port) = cut {
            state.target.store(port, Ordering::SeqCst);
        }
        state.cuts.fetch_add(1, Ordering::SeqCst);
    }
}

/// What has to be known of a session to see which message commits (documentation of PostgreSQL, "Extended Query").
#[derive(Default)]
struct Protocol {
    /// Names of the prepared statements that store a group.
    stores: HashSet<Vec<u8>>,
    bound: bool,
}

impl Protocol {
    /// Whether the message makes the server commit.
    fn commits(&mut self, message: &[u8]) -> bool {
        let mut strings = message[5..].split(|byte| *byte == 0);
        match message[0] {
            b'Q' => message[5..].starts_with(b"COMMIT"),
            b'P' => {
                let name = strings.next().expect("a name");
                let stores = strings.next().expect("a statement").windows(10).any(|words| words == b"WITH moved");
                if stores {
                    self.stores.insert(name.to_owned());
                }
                false
            }
            b'B' => {
                self.bound = self.stores.contains(strings.nth(1).expect("a portal, and a statement's name"));
                false
            }
            // Sync ends the implicit transaction of what was bound and executed before it.
            b'S' => std::mem::take(&mut self.bound),
            _ => false,
        }
    }
}

/// A startup message (documentation of PostgreSQL, "Message Formats") without the parameter `options`.
fn without_options(startup: &[u8]) -> Vec<u8> {
    let (header, parameters) = startup.split_at(8);
    let words: Vec<&[u8]> = parameters.split(|byte| *byte == 0).collect();
    let kept = words.chunks_exact(2).filter(|pair| !pair[0].is_empty() && pair[0] != b"options");
    let mut all = header.to_vec();
    kept.flatten().for_each(|word| all.extend([*word, b"\0"].concat()));
    all.push(0);
    let length = u32::try_from(all.len()).expect("short");
    all[..4].copy_from_slice(&length.to_be_bytes());
    all
}

/// One message of the protocol, whole (documentation of PostgreSQL, "Message Formats").
async fn message(from: &mut (impl AsyncReadExt + Unpin), typed: bool) -> Option<Vec<u8>> {
    let header = if typed { 5 } else { 4 };
    let mut message = vec![0; header];
    from.read_exact(&mut message).await.ok()?;
    let length = u32::from_be_bytes(message[header - 4..].try_into().expect("four bytes"));
    message.resize(header - 4 + usize::try_from(length).expect("fits"), 0);
    from.read_exact(&mut message[header..]).await.ok()?;
    Some(message)
}
