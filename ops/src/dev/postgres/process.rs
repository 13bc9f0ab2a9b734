//! A process that is not our child, held by a pidfd, so that a reused pid is never signalled and its end can be
//! waited for without polling. Must never signal a process that it has not opened.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// A running (or just ended) process.
#[derive(Debug)]
pub(super) struct Process {
    pid: Pid,
    handle: OwnedFd,
}

impl Process {
    /// Takes hold of the process `pid`; `ErrorKind::NotFound`-like errors mean that it is gone.
    pub(super) fn open(pid: Pid) -> io::Result<Self> {
        let handle = pidfd_open(pid, PidfdFlags::empty())?;
        Ok(Self { pid, handle })
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Sends a signal. A process that has ended already is no error: the sender wanted it to end.
    pub(super) fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(&self.handle, signal) {
            Err(rustix::io::Errno::SRCH) => Ok(()),
            other => Ok(other?),
        }
    }

    /// Waits until the process has ended and its memory is released, at most `limit`. True if it has.
    /// It may still be a zombie that its parent has to reap.
    pub(super) fn wait_ended(&self, limit: Duration) -> io::Result<bool> {
        readable(&self.handle, limit)
    }

    /// The processes whose parent this one is. Complete only while this one is stopped.
    pub(super) fn children(&self) -> io::Result<Vec<Process>> {
        let own = self.pid.as_raw_nonzero().get().to_string();
        let mut children = Vec::new();
        for entry in std::fs::read_dir("/proc")? {
            let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw)
            else {
                continue;
            };
            // A process that ends between the listing and the opening is one less to care for.
            if parent_of(pid).is_some_and(|parent| parent == own)
                && let Ok(child) = Process::open(pid)
            {
                children.push(child);
            }
        }
        Ok(children)
    }
}

/// The parent's pid, from `/proc/<pid>/stat` (proc(5)): the second field after the command's closing bracket.
fn parent_of(pid: Pid) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    let (_, after_command) = stat.rsplit_once(')')?;
    after_command.split_whitespace().nth(1).map(str::to_owned)
}

/// True when `fd` has something to read or its other end is closed; false after `limit`.
pub(super) fn readable(fd: &impl std::os::fd::AsFd, limit: Duration) -> io::Result<bool> {
    let limit = Timespec::try_from(limit).map_err(|_| io::ErrorKind::InvalidInput)?;
    loop {
        match poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&limit)) {
            // Starting over makes the limit longer; it bounds a hang and is no clock.
            Err(rustix::io::Errno::INTR) => {}
            ready => return Ok(ready? > 0),
        }
    }
}
