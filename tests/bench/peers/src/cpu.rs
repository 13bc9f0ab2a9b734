//! CPU time: of the load generator itself, and of the processes that a peer runs in. It must never count the same
//! process twice.

use std::collections::HashMap;
use std::time::Duration;

use rustix::param::clock_ticks_per_second;
use rustix::time::{ClockId, clock_gettime};

use crate::error::{BenchError, io};

/// CPU time of this process, user and system, all threads: what `getrusage(RUSAGE_SELF)` adds up.
pub(crate) fn own() -> Duration {
    let used = clock_gettime(ClockId::ProcessCPUTime);
    // It counts up from 0.
    Duration::new(u64::try_from(used.tv_sec).unwrap_or(0), u32::try_from(used.tv_nsec).unwrap_or(0))
}

/// CPU time of the children that have ended and that this process waited for: how a program that it ran is counted.
///
/// # Errors
/// `Io` where `/proc` cannot be read.
pub(crate) fn ended_children() -> Result<Duration, BenchError> {
    let stat = std::fs::read_to_string("/proc/self/stat").map_err(io("reading the process's CPU time"))?;
    let fields = fields(&stat).unwrap_or_default();
    Ok(from_ticks(fields.iter().skip(13).take(2).filter_map(|field| field.parse::<u64>().ok()).sum()))
}

/// CPU time of processes and of all that they have started, also of those that have ended meanwhile and were waited
/// for. Precise to one clock tick (10 ms) a process.
///
/// # Errors
/// `Io` where `/proc` cannot be listed. A process that ends between listing and reading counts through its parent.
pub(crate) fn of(roots: &[u32]) -> Result<Duration, BenchError> {
    let mut all: HashMap<u32, (u32, u64)> = HashMap::new();
    for entry in std::fs::read_dir("/proc").map_err(io("listing the processes"))? {
        let entry = entry.map_err(io("listing the processes"))?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        if let Some(found) = parent_and_ticks(&stat) {
            all.insert(pid, found);
        }
    }
    let ticks: u64 = all.iter().filter(|(pid, _)| descends(**pid, roots, &all)).map(|(_, (_, ticks))| ticks).sum();
    Ok(from_ticks(ticks))
}

fn from_ticks(ticks: u64) -> Duration {
    Duration::from_millis(ticks * 1000 / clock_ticks_per_second().max(1))
}

/// Whether `pid` is one of `roots` or below one.
fn descends(pid: u32, roots: &[u32], all: &HashMap<u32, (u32, u64)>) -> bool {
    let mut at = pid;
    // A chain of parents cannot be longer than the list; a pid that was used again while we read could make a ring.
    for _ in 0..all.len() {
        if roots.contains(&at) {
            return true;
        }
        match all.get(&at) {
            Some((parent, _)) if *parent != 0 => at = *parent,
            _ => return false,
        }
    }
    false
}

/// The fields of a line of `/proc/<pid>/stat` from the third on. The name in the second may hold anything, so they are
/// counted from the last bracket.
fn fields(stat: &str) -> Option<Vec<&str>> {
    stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect())
}

/// Parent, and ticks of the process and its ended children (proc(5): fields 4, 14, 15, 16 and 17).
fn parent_and_ticks(stat: &str) -> Option<(u32, u64)> {
    let fields = fields(stat)?;
    let parent = fields.get(1)?.parse().ok()?;
    let ticks = fields.get(11..15)?.iter().filter_map(|field| field.parse::<u64>().ok()).sum();
    Some((parent, ticks))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_hides_no_field() {
        let stat = "7 (a) b) S 3 7 7 0 -1 4194304 1 2 3 4 10 20 30 40 20 0 1 0 5";
        assert_eq!(parent_and_ticks(stat), Some((3, 100)));
    }

    #[test]
    fn ancestors_decide_and_rings_end() {
        let all = HashMap::from([(2, (1, 5)), (3, (2, 5)), (8, (9, 5)), (9, (8, 5))]);
        assert!(descends(3, &[2], &all));
        assert!(!descends(8, &[2], &all));
    }
}
