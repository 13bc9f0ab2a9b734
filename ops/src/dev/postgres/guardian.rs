//! The owner's side of `guardian.sh`: starts it, talks to it, ends it. The guardian is the parent of the server
//! and outlives us by exactly the time it takes to end the server and to remove the folder, however we end.
//! Must never wait for it without a limit.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use super::PostgresError;
use super::binaries::Account;
use super::process::readable;

/// The whole script is an argument of `sh`, so that it needs no file beside the binary.
const SCRIPT: &str = include_str!("guardian.sh");

/// What the guardian has to know for its whole life.
#[derive(Debug)]
pub(super) struct Charge {
    pub(super) account: Option<Account>,
    pub(super) bin: PathBuf,
    /// Removed at the end, with sockets, log and, unless it is kept, the data.
    pub(super) scratch: PathBuf,
    pub(super) data: PathBuf,
    pub(super) log: PathBuf,
    pub(super) superuser: String,
    pub(super) settings: Vec<(String, String)>,
}

impl Charge {
    pub(super) fn is_kept(&self) -> bool {
        !self.data.starts_with(&self.scratch)
    }

    fn command(&self) -> Command {
        // Data that goes away needs no checkpoint; data that is kept gets an orderly end.
        let signal = if self.is_kept() { "INT" } else { "QUIT" };
        let mut command = Command::new("/bin/sh");
        // The owner's PG* and LC_* variables are meant for its clients, not for this server.
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into()));
        command.args(["-c", SCRIPT, "guardian", signal]);
        command.args([&self.scratch, &self.data, &self.log, &self.bin]).arg(&self.superuser);
        for (name, value) in &self.settings {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        if let Some(account) = &self.account {
            command.uid(account.uid).gid(account.gid);
        }
        command
    }
}

/// A running guardian.
#[derive(Debug)]
pub(super) struct Guardian {
    child: Child,
    /// The write end of the pipe, close-on-exec like every descriptor that std makes: no other child of ours
    /// can hold it open past our end.
    words: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Guardian {
    pub(super) fn start(charge: &Charge) -> Result<Self, PostgresError> {
        let io = |source| PostgresError::Io { doing: "starting the cluster's guardian", source };
        let log = File::options().append(true).create(true).open(&charge.log).map_err(io)?;
        if let Some(account) = &charge.account {
            std::os::unix::fs::fchown(&log, Some(account.uid), Some(account.gid)).map_err(io)?;
        }
        let mut child = charge
            .command()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            // Ctrl-C and a runner that kills its group must reach us only; the pipe tells the guardian.
            .process_group(0)
            .spawn()
            .map_err(io)?;
        let words = child.stdin.take();
        let answers = child.stdout.take().ok_or(PostgresError::GuardianGone)?;
        Ok(Self { child, words, answers: BufReader::new(answers) })
    }

    /// Says one word and waits for its answer, at most `limit`.
    pub(super) fn ask(&mut self, word: &str, limit: Duration) -> Result<String, PostgresError> {
        let words = self.words.as_mut().ok_or(PostgresError::GuardianGone)?;
        writeln!(words, "{word}").map_err(|_| PostgresError::GuardianGone)?;
        let io = |source| PostgresError::Io { doing: "reading the guardian's answer", source };
        if !readable(self.answers.get_ref(), limit).map_err(io)? {
            // Its late answer would be taken for the answer to the next word: let it end everything instead.
            self.words = None;
            return Err(PostgresError::TimedOut { doing: "waiting for the guardian", limit });
        }
        let mut answer = String::new();
        match self.answers.read_line(&mut answer).map_err(io)? {
            0 => Err(PostgresError::GuardianGone),
            _ => Ok(answer.trim_end().to_owned()),
        }
    }

    /// Ends the pipe and waits until the guardian has ended the server, removed the folder and left.
    /// False after `limit`: then it is still at it.
    pub(super) fn end(&mut self, limit: Duration) -> io::Result<bool> {
        self.words = None;
        // The guardian alone holds the answers' write end, so their end is its own end.
        let mut late = String::new();
        while readable(self.answers.get_ref(), limit)? {
            if self.answers.read_line(&mut late)? == 0 {
                self.child.wait()?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The last resort after `end` has returned false.
    pub(super) fn kill(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }
}
