//! Private PostgreSQL clusters from the installed server binaries, for the demo and for tests. Each has its own
//! folder, its own port on 127.0.0.1 and its own guardian, which ends it when its owner is gone. fsync stays on:
//! what a cluster has committed survives `kill`. Must never touch a cluster that it has not made itself.
//!
//! ```text
//! owner (this process) ──pipe──▶ guardian (sh) ──parent of──▶ postgres ──parent of──▶ its backends
//!         │                                                      ▲
//!         └──────────── signals, by pidfd ───────────────────────┘
//! ```
//!
//! A parent-death signal would be less to read, but Linux ties it to the thread that forked and clears it when
//! the child changes its user; a pipe ends exactly when the last holder of its write end does.

mod binaries;
mod guardian;
mod process;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use sqlx::{Connection as _, PgConnection};

pub use binaries::BIN_VARIABLE;
use guardian::{Charge, Guardian};
use process::Process;

/// `initdb` writes and syncs about 40 MB.
const INIT_LIMIT: Duration = Duration::from_secs(120);
/// A start replays the WAL since the last checkpoint.
const START_LIMIT: Duration = Duration::from_secs(120);
/// How often a start looks at the server's status line, which nothing announces.
const START_POLL: Duration = Duration::from_millis(10);
/// A fast shutdown writes one checkpoint.
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// Killed processes are gone as soon as the kernel has released their memory.
const KILL_LIMIT: Duration = Duration::from_secs(10);
/// Covers the guardian's own steps: 10 s orderly, 5 s at once, 5 s killed.
const END_LIMIT: Duration = Duration::from_secs(25);
/// How many ports a first start tries, for the case that others start servers at the same moment.
const PORT_ATTEMPTS: usize = 10;

/// What can go wrong with a private cluster.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PostgresError {
    /// PostgreSQL is not installed.
    #[error(
        "no PostgreSQL server binaries found; install them with `apt-get install postgresql` (Debian, Ubuntu) \
         or name their folder in {BIN_VARIABLE}"
    )]
    BinariesMissing,
    /// The environment names a folder without server binaries.
    #[error("{BIN_VARIABLE} names {folder:?}, which has no `initdb` and `postgres`")]
    WrongBinFolder {
        /// The folder.
        folder: PathBuf,
    },
    /// We are root and there is nobody to become.
    #[error("PostgreSQL refuses to run as root, and there is neither a user `postgres` nor `nobody`")]
    NoUnprivilegedUser,
    /// The unprivileged user has no way into the folder.
    #[error("the user {user} that PostgreSQL runs as cannot reach {folder:?}: a folder above it is private")]
    Unreachable {
        /// Where the data was to be kept.
        folder: PathBuf,
        /// Who cannot get there.
        user: String,
    },
    /// The operating system refused.
    #[error("{doing} failed")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
    /// `initdb` failed.
    #[error("initdb failed; the end of its log:\n{log}")]
    InitFailed {
        /// The last lines.
        log: String,
    },
    /// Nothing is free on 127.0.0.1, or others were faster every time.
    #[error("found no free port on 127.0.0.1")]
    NoFreePort,
    /// Another process listens on the cluster's port.
    #[error("port {port} on 127.0.0.1 is taken")]
    PortTaken {
        /// The port.
        port: u16,
    },
    /// The server ended while it started.
    #[error("postgres ended while starting; the end of its log:\n{log}")]
    EndedAtStart {
        /// The last lines.
        log: String,
    },
    /// A limit has passed.
    #[error("{doing} took longer than {limit:?}")]
    TimedOut {
        /// What was being waited for.
        doing: &'static str,
        /// How long.
        limit: Duration,
    },
    /// The guardian was killed by somebody, or has ended after a time-out.
    #[error("the cluster's guardian is gone")]
    GuardianGone,
    /// `start` on a running cluster.
    #[error("the cluster is running already")]
    Running,
    /// The server did not do what it was asked.
    #[error("the cluster refused a statement")]
    Database(#[source] sqlx::Error),
    /// The runtime is going down.
    #[error("the runtime ended before the cluster's operation did")]
    RuntimeGone(#[source] tokio::task::JoinError),
}

/// Parameters for measurements over the built-in ones, which are for many small clusters beside each other: what a server
/// that has some GiB of memory to itself is given, and nothing that changes what is durable.
#[must_use]
pub fn for_measurements() -> Vec<(String, String)> {
    let parameters = [("shared_buffers", "1GB"), ("max_wal_size", "4GB"), ("checkpoint_timeout", "15min")];
    parameters.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
}

/// How to make a cluster.
#[derive(Debug, Clone)]
pub struct PostgresOptions {
    /// The name of the bootstrap superuser.
    pub superuser: String,
    /// Keep the data in this folder (made if missing, opened again if it holds a cluster). Without it the data
    /// lives in a temporary folder and goes away with the cluster.
    pub keep_in: Option<PathBuf>,
    /// A fixed port; without it a free one is chosen.
    pub port: Option<u16>,
    /// More configuration parameters, as after `-c`; they win over the built-in ones.
    pub settings: Vec<(String, String)>,
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self { superuser: "postgres".to_owned(), keep_in: None, port: None, settings: Vec::new() }
    }
}

impl PostgresOptions {
    /// The parameters of every private cluster, then the caller's.
    fn all_settings(&self) -> Vec<(String, String)> {
        let built_in = [
            ("listen_addresses", "127.0.0.1"),
            ("unix_socket_permissions", "0700"),
            ("max_connections", "100"),
            ("shared_buffers", "32MB"),
            // Files in the data folder: they go away with it even after a kill, and small /dev/shm do not matter.
            ("dynamic_shared_memory_type", "mmap"),
            ("lc_messages", "C"),
            ("timezone", "UTC"),
            ("log_timezone", "UTC"),
            ("fsync", "on"),
        ];
        let built_in = built_in.map(|(name, value)| (name.to_owned(), value.to_owned()));
        built_in.into_iter().chain(self.settings.iter().cloned()).collect()
    }
}

/// A private PostgreSQL cluster. Dropping it ends the server and removes its temporary folder; so does the end of
/// this process, even by SIGKILL.
#[derive(Debug)]
pub struct PostgresCluster {
    core: Arc<Mutex<Core>>,
    port: u16,
    superuser: String,
    data: PathBuf,
    log: PathBuf,
}

impl PostgresCluster {
    /// Makes a cluster with its own data folder, starts it and waits until it takes connections.
    pub async fn launch(options: PostgresOptions) -> Result<Self, PostgresError> {
        blocking(move || {
            let core = Core::launch(&options)?;
            Ok(Self {
                port: core.port,
                superuser: core.charge.superuser.clone(),
                data: core.charge.data.clone(),
                log: core.charge.log.clone(),
                core: Arc::new(Mutex::new(core)),
            })
        })
        .await
    }

    /// Starts the stopped or killed cluster again on its folder and its port; returns when it takes connections.
    pub async fn start(&self) -> Result<(), PostgresError> {
        self.with_core(Core::start_again).await
    }

    /// Fast shutdown: open transactions are rolled back, clients are cut off, a checkpoint is written.
    /// A cluster that is down already stays down.
    pub async fn stop(&self) -> Result<(), PostgresError> {
        self.with_core(Core::stop).await
    }

    /// A crash: SIGKILL to the server and all of its processes. Returns when they are gone and their shared memory
    /// is released, so that `start` may follow at once.
    pub async fn kill(&self) -> Result<(), PostgresError> {
        self.with_core(Core::kill).await
    }

    /// Ends the cluster and removes what is not kept, like dropping it, but without blocking the runtime's thread.
    pub async fn end(self) -> Result<(), PostgresError> {
        self.with_core(Core::end).await
    }

    /// Makes a database, owned by the superuser, if there is none of that name.
    pub async fn create_database(&self, name: &str) -> Result<(), PostgresError> {
        let url = self.superuser_url("postgres");
        let mut connection = PgConnection::connect(&url).await.map_err(PostgresError::Database)?;
        let quoted = name.replace('"', "\"\"");
        let made = sqlx::query(&format!("CREATE DATABASE \"{quoted}\"")).execute(&mut connection).await;
        connection.close().await.map_err(PostgresError::Database)?;
        match made {
            // SQLSTATE 42P04, duplicate_database.
            Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("42P04") => Ok(()),
            other => other.map(drop).map_err(PostgresError::Database),
        }
    }

    /// Connection URL over TCP. The cluster trusts everybody on 127.0.0.1, so there is no password.
    /// `user` and `database` must be plain names: letters, digits, `-` and `_`.
    pub fn url(&self, user: &str, database: &str) -> String {
        format!("postgres://{user}@127.0.0.1:{}/{database}?sslmode=disable", self.port)
    }

    /// Connection URL of the superuser.
    pub fn superuser_url(&self, database: &str) -> String {
        self.url(&self.superuser, database)
    }

    /// The TCP port on 127.0.0.1, the same for the cluster's whole life.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The server's process id while it is up.
    pub fn pid(&self) -> Option<u32> {
        lock(&self.core).server.as_ref().map(Process::pid)
    }

    /// The data folder.
    pub fn data_folder(&self) -> &Path {
        &self.data
    }

    /// One of PostgreSQL's own programs, such as `pg_dump`, from where the server is.
    pub fn program(&self, name: &str) -> PathBuf {
        lock(&self.core).charge.bin.join(name)
    }

    /// The server's log.
    pub fn log_file(&self) -> &Path {
        &self.log
    }

    async fn with_core(
        &self,
        act: impl FnOnce(&mut Core) -> Result<(), PostgresError> + Send + 'static,
    ) -> Result<(), PostgresError> {
        let core = Arc::clone(&self.core);
        blocking(move || act(&mut lock(&core))).await
    }
}

/// Processes are waited for in the kernel, not in the runtime; once begun, an operation is carried through even if
/// its future is dropped, so no half-stopped cluster is ever seen.
async fn blocking<T: Send + 'static>(
    act: impl FnOnce() -> Result<T, PostgresError> + Send + 'static,
) -> Result<T, PostgresError> {
    tokio::task::spawn_blocking(act).await.map_err(PostgresError::RuntimeGone)?
}

/// A panic in one operation leaves pids and pipes that are still true, so the cluster can still be ended.
fn lock(core: &Mutex<Core>) -> std::sync::MutexGuard<'_, Core> {
    core.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The cluster's processes and folders; every method blocks, within limits.
#[derive(Debug)]
struct Core {
    charge: Charge,
    guardian: Guardian,
    port: u16,
    server: Option<Process>,
    ended: bool,
}

impl Core {
    fn launch(options: &PostgresOptions) -> Result<Self, PostgresError> {
        let bin = binaries::find()?;
        let account = binaries::account()?;
        let kept =
            options.keep_in.as_deref().map(|folder| binaries::make_kept(folder, account.as_ref())).transpose()?;
        let scratch = binaries::make_scratch(account.as_ref())?;
        let charge = Charge {
            bin,
            data: kept.as_deref().unwrap_or(&scratch).join("data"),
            log: kept.as_deref().unwrap_or(&scratch).join("postgres.log"),
            scratch,
            account,
            superuser: options.superuser.clone(),
            settings: options.all_settings(),
        };
        let guardian = Guardian::start(&charge).inspect_err(|_| drop(std::fs::remove_dir_all(&charge.scratch)))?;
        // From here on whatever fails, `drop` ends the guardian and with it everything else.
        let mut core = Self { charge, guardian, port: 0, server: None, ended: false };
        core.init()?;
        core.start_first(options.port)?;
        Ok(core)
    }

    fn init(&mut self) -> Result<(), PostgresError> {
        if self.charge.data.join("PG_VERSION").exists() {
            return Ok(());
        }
        match self.guardian.ask("init", INIT_LIMIT)?.as_str() {
            "0" => Ok(()),
            _ => Err(PostgresError::InitFailed { log: self.log_since(0) }),
        }
    }

    fn start_first(&mut self, fixed: Option<u16>) -> Result<(), PostgresError> {
        if let Some(port) = fixed {
            self.port = port;
            return self.start_again();
        }
        for _ in 0..PORT_ATTEMPTS {
            self.port = binaries::free_port().ok_or(PostgresError::NoFreePort)?;
            match self.start_again() {
                // Somebody took it between our look and the server's bind.
                Err(PostgresError::PortTaken { .. }) => {}
                other => return other,
            }
        }
        Err(PostgresError::NoFreePort)
    }

    fn start_again(&mut self) -> Result<(), PostgresError> {
        if self.server.is_some() {
            return Err(PostgresError::Running);
        }
        let log_start = self.log_length();
        let pid = self.guardian.ask(&format!("start {}", self.port), START_LIMIT)?;
        let pid = pid.parse().ok().and_then(Pid::from_raw).ok_or(PostgresError::GuardianGone)?;
        let io = |source| PostgresError::Io { doing: "taking hold of the server", source };
        let server = self.server.insert(Process::open(pid).map_err(io)?);

        let polls = START_LIMIT.as_millis() / START_POLL.as_millis();
        for _ in 0..polls {
            if is_ready(&self.charge.data, server.pid()) {
                return Ok(());
            }
            // Paces the loop, and ends it at once when the server does.
            if server.wait_ended(START_POLL).map_err(io)? {
                self.reap()?;
                return Err(self.why_ended(log_start));
            }
        }
        self.kill()?;
        Err(PostgresError::TimedOut { doing: "starting postgres", limit: START_LIMIT })
    }

    fn stop(&mut self) -> Result<(), PostgresError> {
        let Some(server) = &self.server else { return Ok(()) };
        let io = |source| PostgresError::Io { doing: "stopping postgres", source };
        for (signal, limit) in [(Signal::INT, STOP_LIMIT), (Signal::QUIT, KILL_LIMIT)] {
            server.signal(signal).map_err(io)?;
            if server.wait_ended(limit).map_err(io)? {
                return self.reap();
            }
        }
        self.kill()
    }

    fn kill(&mut self) -> Result<(), PostgresError> {
        let Some(server) = &self.server else { return Ok(()) };
        let io = |source| PostgresError::Io { doing: "killing postgres", source };
        // Stopped first, so that it cannot fork a process that the listing misses.
        server.signal(Signal::STOP).map_err(io)?;
        let children = server.children().map_err(io)?;
        for process in std::iter::once(server).chain(&children) {
            process.signal(Signal::KILL).map_err(io)?;
        }
        for process in std::iter::once(server).chain(&children) {
            if !process.wait_ended(KILL_LIMIT).map_err(io)? {
                return Err(PostgresError::TimedOut { doing: "waiting for killed processes", limit: KILL_LIMIT });
            }
        }
        self.reap()
    }

    /// Lets the guardian take the ended server's status.
    fn reap(&mut self) -> Result<(), PostgresError> {
        self.server = None;
        self.guardian.ask("reap", KILL_LIMIT).map(drop)
    }

    fn end(&mut self) -> Result<(), PostgresError> {
        if std::mem::replace(&mut self.ended, true) {
            return Ok(());
        }
        let io = |source| PostgresError::Io { doing: "ending the cluster's guardian", source };
        if self.guardian.end(END_LIMIT).map_err(io)? {
            // A guardian that was killed by somebody has left its work to us.
            if self.server.as_ref().is_none_or(|server| server.wait_ended(Duration::ZERO).unwrap_or(true)) {
                self.server = None;
            }
        } else {
            self.guardian.kill().map_err(io)?;
        }
        // With the guardian gone nobody answers `reap`; the server's new parent reaps it.
        let killed = if self.server.is_some() { self.kill() } else { Ok(()) };
        match std::fs::remove_dir_all(&self.charge.scratch) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(io(source)),
            _ => match killed {
                Err(PostgresError::GuardianGone) => Ok(()),
                other => other,
            },
        }
    }

    fn log_length(&self) -> u64 {
        std::fs::metadata(&self.charge.log).map_or(0, |found| found.len())
    }

    /// The last lines that were logged after the first `start` bytes.
    fn log_since(&self, start: u64) -> String {
        const LINES: usize = 20;
        let bytes = std::fs::read(&self.charge.log).unwrap_or_default();
        let new = bytes.get(usize::try_from(start).unwrap_or(usize::MAX)..).unwrap_or_default();
        let text = String::from_utf8_lossy(new);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LINES)..].join("\n")
    }

    fn why_ended(&self, log_start: u64) -> PostgresError {
        let log = self.log_since(log_start);
        if log.contains("could not bind") && log.contains("Address already in use") {
            return PostgresError::PortTaken { port: self.port };
        }
        PostgresError::EndedAtStart { log }
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "a private PostgreSQL cluster did not end cleanly"
            );
        }
    }
}

/// Whether the lock file says that the server `pid` takes connections: the pid is its first line and the state
/// its eighth (PostgreSQL's `pidfile.h`). The file of a killed server says "ready" too, under its old pid.
fn is_ready(data: &Path, pid: u32) -> bool {
    let Ok(file) = std::fs::read_to_string(data.join("postmaster.pid")) else { return false };
    let lines: Vec<&str> = file.lines().collect();
    lines.first() == Some(&pid.to_string().as_str()) && lines.get(7).is_some_and(|state| state.trim_end() == "ready")
}

#[cfg(test)]
mod tests;
