//! Reads of streams and of the whole log, page by page, into cqrs-es's forms.

use std::sync::Arc;

use cqrs_es::persist::{PersistenceError, ReplayFeed, SerializedEvent};

use super::{PayloadForm, RepositoryError, category_of, payload};
use crate::log::{Direction, LogReader};
use crate::record::Record;
use crate::{Position, StreamName, StreamVersion};

/// Records asked for at a time. More costs memory, fewer costs round trips.
const PAGE_RECORDS: usize = 512;

/// A reader whose pages are checked: nothing is left out between them or inside them.
#[derive(Clone)]
pub(super) struct Pages {
    pub(super) reader: Arc<dyn LogReader>,
    /// What the events are given out as events of.
    pub(super) aggregate_type: &'static str,
    pub(super) form: PayloadForm,
}

impl Pages {
    /// All events of the stream from version `from` on.
    pub(super) async fn stream_after(
        &self,
        stream: &StreamName,
        from: StreamVersion,
    ) -> Result<Vec<SerializedEvent>, RepositoryError> {
        let mut events = Vec::new();
        let mut next = from;
        // The head says where the stream ends; a short page does not, because a reader may bound its bytes.
        let Some(head) = self.reader.stream_head(stream).await? else { return Ok(events) };
        while next <= head.version {
            let page = self.stream_page(stream, next).await?;
            next = after(&page, next);
            for record in &page {
                events.push(self.serialized(record)?);
            }
        }
        Ok(events)
    }

    /// Feeds the stream up to its head of now, and what goes wrong. A record that was removed is an error
    /// in its place; what comes after it follows. Any other error is the last thing fed.
    pub(super) async fn feed_stream(self, stream: StreamName, mut feed: ReplayFeed) {
        if let Err(error) = self.try_feed_stream(&stream, &mut feed).await {
            push(&mut feed, Err(error)).await;
        }
    }

    async fn try_feed_stream(&self, stream: &StreamName, feed: &mut ReplayFeed) -> Result<(), RepositoryError> {
        let Some(head) = self.reader.stream_head(stream).await? else { return Ok(()) };
        let mut next = StreamVersion::FIRST;
        while next <= head.version {
            let page = self.stream_page(stream, next).await?;
            next = after(&page, next);
            for record in page.iter().filter(|record| record.version() <= head.version) {
                if !self.feed_record(record, feed).await? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Feeds all events of the aggregate type in the order of the log, up to its head of now; errors as above.
    pub(super) async fn feed_category(self, mut feed: ReplayFeed) {
        if let Err(error) = self.try_feed_category(&mut feed).await {
            push(&mut feed, Err(error)).await;
        }
    }

    async fn try_feed_category(&self, feed: &mut ReplayFeed) -> Result<(), RepositoryError> {
        let category = category_of(self.aggregate_type);
        let head = self.reader.log_head().await?.head;
        let mut next = Position::FIRST;
        while head.includes(next) {
            let page = self.log_page(next).await?;
            next = page.last().map_or(next, |last| last.position().next());
            let ours = |record: &&Record| record.stream().category() == category && head.includes(record.position());
            for record in page.iter().filter(ours) {
                if !self.feed_record(record, feed).await? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn serialized(&self, record: &Record) -> Result<SerializedEvent, RepositoryError> {
        payload::to_serialized(self.aggregate_type, self.form, record)
    }

    /// Whether somebody still listens.
    async fn feed_record(&self, record: &Record, feed: &mut ReplayFeed) -> Result<bool, RepositoryError> {
        match self.serialized(record) {
            removed @ Err(RepositoryError::Removed { .. }) => Ok(push(feed, removed).await),
            event => Ok(push(feed, Ok(event?)).await),
        }
    }

    async fn stream_page(&self, stream: &StreamName, from: StreamVersion) -> Result<Vec<Record>, RepositoryError> {
        let page = self.reader.read_stream(stream, from, Direction::Forward, PAGE_RECORDS).await?;
        let mut expected = from;
        for record in &page {
            if record.version() != expected || record.stream() != stream {
                return Err(RepositoryError::Gap { what: format!("version {expected} of {stream}") });
            }
            expected = expected.next();
        }
        if page.is_empty() {
            return Err(RepositoryError::Gap { what: format!("version {from} of {stream}") });
        }
        Ok(page)
    }

    async fn log_page(&self, from: Position) -> Result<Vec<Record>, RepositoryError> {
        let page = self.reader.read_log(from, Direction::Forward, PAGE_RECORDS).await?;
        let mut expected = from;
        for record in &page {
            if record.position() != expected {
                return Err(RepositoryError::Gap { what: format!("position {expected}") });
            }
            expected = expected.next();
        }
        if page.is_empty() {
            return Err(RepositoryError::Gap { what: format!("position {from}") });
        }
        Ok(page)
    }
}

fn after(page: &[Record], from: StreamVersion) -> StreamVersion {
    page.last().map_or(from, |last| last.version().next())
}

/// Whether somebody still listens: a reader that went away needs no more.
async fn push(feed: &mut ReplayFeed, event: Result<SerializedEvent, RepositoryError>) -> bool {
    feed.push(event.map_err(PersistenceError::from)).await.is_ok()
}
