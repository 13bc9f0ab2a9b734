//! Reads source and log once more, independently of what was appended, and compares them: each stream by count and
//! digest, and the whole.

use domain::log::{Direction, LogReader};
use domain::record::Record;
use domain::{StreamName, StreamVersion};
use futures::future::try_join_all;

use super::row::StreamDigest;
use super::source::{Source, next_streams};
use super::survey::{StreamSummary, Streams, Survey, TypeReport};
use super::{Order, PostgresEsError, PostgresEsImport};

/// Streams of the log that are read at once. More are faster and cost memory, a page each.
const STREAMS_AT_ONCE: usize = 8;
/// Records of a stream, and streams of a category, that are asked for at a time.
const PAGE: usize = 512;

/// # Errors
/// `Differs` for the first thing that is not the same; what else keeps from reading.
pub(super) async fn verify(
    import: &PostgresEsImport,
    source: &mut Source,
    surveyed: &Survey,
) -> Result<(), PostgresEsError> {
    // A snapshot of its own: what was written to the source meanwhile shows here.
    source.begin_snapshot().await?;
    let mut streams = Streams::new(&import.source, matches!(import.order, Order::Time { .. }));
    let mut again = Survey::default();
    let mut rows = source.by_stream();
    loop {
        let ended = next_streams(&mut rows, &mut streams, STREAMS_AT_ONCE).await?;
        if ended.is_empty() {
            break;
        }
        let recorded = ended.iter().map(|stream| of_log(import, &stream.stream));
        let recorded: Vec<(u64, [u8; 32])> = try_join_all(recorded).await?;
        for (stream, recorded) in ended.iter().zip(recorded) {
            compare(stream, recorded)?;
            again.add(stream);
        }
    }
    drop(rows);
    source.end_snapshot().await?;
    if again.sha256() != surveyed.sha256() {
        return differs("the source has changed while it was imported; stop what writes to it".to_owned());
    }
    for of_type in surveyed.types() {
        check_nothing_else(import.reader.as_ref(), of_type).await?;
    }
    Ok(())
}

fn compare(stream: &StreamSummary, (events, sha256): (u64, [u8; 32])) -> Result<(), PostgresEsError> {
    let StreamSummary { stream, events: expected, sha256: digest, .. } = stream;
    if events != *expected {
        return differs(format!("{stream} has {expected} events in the source and {events} in the log"));
    }
    if sha256 != *digest { differs(format!("{stream} has other content in the log")) } else { Ok(()) }
}

/// Count and digest of a stream in the log, up to its head of now.
async fn of_log(import: &PostgresEsImport, stream: &StreamName) -> Result<(u64, [u8; 32]), PostgresEsError> {
    let (mut digest, mut events) = (StreamDigest::default(), 0);
    let Some(head) = import.reader.stream_head(stream).await? else { return Ok((0, digest.finish())) };
    let mut next = StreamVersion::FIRST;
    while next <= head.version {
        let page = import.reader.read_stream(stream, next, Direction::Forward, PAGE).await?;
        if page.is_empty() {
            return differs(format!("version {next} of {stream} is not in the log"));
        }
        for record in &page {
            let ours = match record {
                Record::Event(recorded) => {
                    recorded.event.source == import.source
                        && recorded.event.id == format!("{stream}@{next}")
                        && digest.add_recorded(recorded)
                }
                Record::Removed(_) => false,
            };
            if record.version() != next || !ours {
                return differs(format!("version {next} of {stream} is not what this import writes"));
            }
            next = next.next();
            events += 1;
        }
    }
    Ok((events, digest.finish()))
}

/// The log has no other streams of the category than the source has of the type. That their events are the same, the
/// streams themselves have shown.
async fn check_nothing_else(log: &dyn LogReader, of_type: &TypeReport) -> Result<(), PostgresEsError> {
    let (mut streams, mut last) = (0, None);
    loop {
        let page = log.streams(&of_type.category, last.as_ref(), PAGE).await?;
        streams += u64::try_from(page.len()).expect("a page");
        match page.into_iter().next_back() {
            Some((stream, _)) => last = Some(stream),
            None => break,
        }
    }
    let TypeReport { aggregate_type, category, streams: expected, .. } = of_type;
    if streams != *expected {
        return differs(format!("{aggregate_type:?} has {expected} streams, the category {category} {streams}"));
    }
    Ok(())
}

fn differs<T>(what: String) -> Result<T, PostgresEsError> {
    Err(PostgresEsError::Differs { what })
}
