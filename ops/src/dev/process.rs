//! One process of the real binary: started, watched, killed. It ends with its owner, also when that is killed.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Blocking, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use thiserror::Error;
use tokio::io::AsyncReadExt;
use tokio::process::{Child as Running, Command};
use tokio::time::{MissedTickBehavior, interval, timeout};

const READY_WITHIN: Duration = Duration::from_secs(60);
const ENDED_WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Why a server's process does not run, or does not end.
#[derive(Debug, Error)]
pub enum ServerError {
    /// It was not started.
    #[error("{} was not started", binary.display())]
    Start {
        /// The binary.
        binary: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It was not ready in time, or ended before.
    #[error("the server was not ready: {said}")]
    NotReady {
        /// The end of what it wrote to stderr.
        said: String,
    },
    /// It does not end.
    #[error("the server's process {pid} does not end")]
    Ends {
        /// Its process id.
        pid: u32,
        /// Why, if the system said.
        #[source]
        source: Option<io::Error>,
    },
}

/// A running server.
pub struct Server {
    // Dropped first: its target's number may be another process's once we have reaped it.
    _guardian: Guardian,
    child: Running,
    pid: u32,
}

/// A shell that reads from a pipe that only we hold: when we are gone, however that came, it does its work. Dropped while
/// we live it does nothing.
#[derive(Debug)]
pub struct Guardian(Child);

impl Guardian {
    /// Kills the process `pid` when we are gone. Drop it before that process is reaped.
    ///
    /// # Errors
    /// If it was not started.
    pub fn that_kills(pid: u32) -> io::Result<Self> {
        Self::start("read -r _; kill -9 \"$1\" 2>/dev/null", pid.to_string().as_ref())
    }

    /// Removes `folder` when we are gone. Others may die at the same moment and still write there: so it looks again, and
    /// gives up after some seconds.
    ///
    /// # Errors
    /// If it was not started.
    pub fn that_removes(folder: &Path) -> io::Result<Self> {
        let script = "read -r _; for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do \
                      rm -rf \"$1\" 2>/dev/null && break; sleep 0.5; done";
        Self::start(script, folder.as_os_str())
    }

    fn start(script: &str, what: &std::ffi::OsStr) -> io::Result<Self> {
        let mut watch = Blocking::new("sh");
        // Ctrl-C and a runner that kills its group must reach us only; the pipe tells the guardian.
        watch.arg("-c").arg(script).arg("guardian").arg(what).process_group(0).current_dir("/");
        watch.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        watch.spawn().map(Self)
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        if let Err(error) = self.0.kill().and_then(|()| self.0.wait()) {
            tracing::warn!(%error, "a guardian was not ended");
        }
    }
}

/// Runs a command to its end and gives its stdout; it ends with us, also when we are killed.
///
/// # Errors
/// If it was not started.
pub async fn run_guarded(command: &mut Command) -> io::Result<Output> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
    let guardian = child.id().map(Guardian::that_kills).transpose()?;
    let mut stdout = Vec::new();
    if let Some(mut pipe) = child.stdout.take() {
        pipe.read_to_end(&mut stdout).await?;
    }
    // Its output has ended, so it is at its end; nobody has reaped it yet, so its number is still its own.
    drop(guardian);
    Ok(Output { status: child.wait().await?, stdout, stderr: Vec::new() })
}

impl Server {
    /// Starts `coldstream serve` and waits until `url` says that it is ready. Its stderr is appended to `log`.
    ///
    /// # Errors
    /// `Start`, or `NotReady` with what it last said.
    pub async fn start(
        binary: &Path,
        config: &Path,
        log: &Path,
        url: &str,
        environment: &[(&str, &str)],
    ) -> Result<Self, ServerError> {
        let start = |source| ServerError::Start { binary: binary.to_owned(), source };
        let stderr: File = OpenOptions::new().create(true).append(true).open(log).map_err(start)?;
        let mut command = Command::new(binary);
        command.arg("--config").arg(config).arg("serve").envs(environment.iter().copied());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr).kill_on_drop(true);
        let child = command.spawn().map_err(start)?;
        let pid = child.id().ok_or_else(|| start(io::Error::other("it ended at once")))?;
        let mut server = Self { _guardian: Guardian::that_kills(pid).map_err(start)?, child, pid };
        match timeout(READY_WITHIN, server.ready(url)).await {
            Ok(true) => Ok(server),
            Ok(false) | Err(_) => Err(ServerError::NotReady { said: last_lines(log) }),
        }
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends a signal, such as STOP or CONT.
    ///
    /// # Errors
    /// `Ends` if it is gone already.
    pub fn signal(&self, signal: Signal) -> Result<(), ServerError> {
        let gone = |source: Option<io::Error>| ServerError::Ends { pid: self.pid, source };
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw).ok_or_else(|| gone(None))?;
        kill_process(pid, signal).map_err(|error| gone(Some(error.into())))
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until it ends by itself, such as after a test told it to; gives its exit code, none after a signal.
    ///
    /// # Errors
    /// `Ends` if it does not in time.
    pub async fn wait(mut self) -> Result<Option<i32>, ServerError> {
        self.ended().await
    }

    /// SIGKILL; returns when it is gone.
    ///
    /// # Errors
    /// `Ends` if it does not go.
    pub async fn kill(mut self) -> Result<(), ServerError> {
        let started = self.child.start_kill();
        started.map_err(|source| ServerError::Ends { pid: self.pid, source: Some(source) })?;
        self.ended().await.map(drop)
    }

    /// SIGTERM; returns when it has ended, with its exit code.
    ///
    /// # Errors
    /// `Ends` if it does not in time.
    pub async fn stop(mut self) -> Result<Option<i32>, ServerError> {
        self.signal(Signal::TERM)?;
        self.ended().await
    }

    async fn ended(&mut self) -> Result<Option<i32>, ServerError> {
        let pid = self.pid;
        match timeout(ENDED_WITHIN, self.child.wait()).await {
            Ok(Ok(status)) => Ok(status.code()),
            Ok(Err(source)) => Err(ServerError::Ends { pid, source: Some(source) }),
            Err(_) => Err(ServerError::Ends { pid, source: None }),
        }
    }

    /// Whether it became ready; `false` if it ended before.
    async fn ready(&mut self, url: &str) -> bool {
        let http = reqwest::Client::new();
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            if self.has_ended() {
                return false;
            }
            let asked = http.get(format!("{url}/health/ready")).timeout(Duration::from_secs(2)).send().await;
            if asked.is_ok_and(|answer| answer.status().is_success()) {
                return true;
            }
        }
    }
}

/// The end of a log file, for an error's text.
fn last_lines(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}
