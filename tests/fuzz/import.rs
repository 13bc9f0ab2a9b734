//! The lines of an import, through the importer itself into a log in memory.

use std::io::Write;
use std::sync::Arc;

use domain::append::Role;
use domain::log::LogReader;
use domain::twin::MemoryLog;
use domain::{ErrorKind, FixedClock, Timestamp};
use ops::import::{Import, ImportError, Progress, RecordedAt};

use super::engine::{Target, Verdict};

struct Unwatched;

impl Progress for Unwatched {
    fn surveyed(&self, _all: u64, _done: u64) {}
    fn done(&self, _done: u64) {}
}

/// A file is imported whole, or a line is named and nothing was stored, or a group is refused and nothing after it was.
fn import(bytes: &[u8]) -> Verdict {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(bytes).expect("written");
    let clock = Arc::new(FixedClock(Timestamp::from_unix_micros(1_780_000_000_000_000).expect("an instant")));
    let earliest = Timestamp::from_unix_micros(0).expect("an instant");
    let log = Arc::new(MemoryLog::new(clock.clone(), earliest, Role::Active));
    let job = Import {
        log: log.clone(),
        reader: log.clone(),
        simulated: None,
        clock,
        file: file.path().to_owned(),
        recorded_at: RecordedAt::Source,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let (imported, head) = runtime.block_on(async {
        let imported = job.run(&Unwatched).await;
        (imported, log.log_head().await.expect("readable").head.get())
    });
    match imported {
        Ok(report) => {
            assert_eq!(head, report.events + 1, "the events, behind the opening event");
            Verdict::Accepted
        }
        Err(ImportError::BadLine(bad)) => {
            assert!(bad.line >= 1 && head == 0, "{bad}, and {head} events are stored");
            Verdict::Refused
        }
        Err(error) => {
            let kind = error.kind();
            assert!(matches!(kind, ErrorKind::Invalid | ErrorKind::Conflict), "{kind}: {error}");
            Verdict::Refused
        }
    }
}

#[test]
fn a_file_is_imported_whole_or_its_line_is_named() {
    let line = |id: u32| {
        let (change, item, month) = (id / 3, id % 5, id % 12 + 1);
        format!(
            r#"{{"specversion":"1.0","id":"h:{id}","source":"/h","type":"content.revised","subject":"f/{item}","time":"2020-{month:02}-01T00:00:00Z","data":{{"change":"{change}"}}}}"#
        )
    };
    let plain = (0..12).map(line).collect::<Vec<_>>().join("\n").into_bytes();
    let compressed = zstd::encode_all(&plain[..], 3).expect("compressed");
    let corpus = [plain, compressed];
    Target { name: "import", corpus: &corpus, cases: 1_000, bytes_max: 64 << 20 }.run(import);
}
