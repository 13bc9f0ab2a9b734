//! What every peer is given: 300 bytes of payload and 100 bytes of metadata an event, and a stream that is new every
//! few requests, so that what a peer loads before it decides stays short. It must never give two peers different bytes.

use rand::SeedableRng;
use rand::distr::{Alphanumeric, SampleString};
use rand::rngs::StdRng;
use uuid::Uuid;

/// Bytes of an event's payload, as JSON.
pub(crate) const PAYLOAD_BYTES: usize = 300;
/// Bytes of an event's metadata, as JSON.
pub(crate) const METADATA_BYTES: usize = 100;
/// The payload's one member, and the metadata's.
pub(crate) const PAYLOAD_MEMBER: &str = "text";
pub(crate) const METADATA_MEMBER: &str = "trace";
/// A stream takes so many requests, then the writer begins another.
pub(crate) const REQUESTS_A_STREAM: u64 = 8;
/// The category of every stream.
pub(crate) const CATEGORY: &str = "bench";
/// The type of every event.
pub(crate) const EVENT_TYPE: &str = "bench.happened";

/// How many texts there are; a writer goes round them.
const TEXTS: usize = 64;
/// The same in every run.
const SEED: u64 = 20_260_101;

/// The texts, made once, so that making an event costs the load generator a copy and no more.
pub(crate) struct Texts {
    payload: Vec<String>,
    metadata: Vec<String>,
}

impl Texts {
    /// Texts whose JSON forms have the lengths above.
    pub(crate) fn new() -> Self {
        let mut random = StdRng::seed_from_u64(SEED);
        // {"member":"…"} has seven bytes that are neither the member nor the text.
        let mut some = |bytes: usize, member: &str| {
            (0..TEXTS).map(|_| Alphanumeric.sample_string(&mut random, bytes - member.len() - 7)).collect()
        };
        Self { payload: some(PAYLOAD_BYTES, PAYLOAD_MEMBER), metadata: some(METADATA_BYTES, METADATA_MEMBER) }
    }

    /// The text of the payload of event `number`.
    pub(crate) fn payload(&self, number: usize) -> &str {
        &self.payload[number % TEXTS]
    }

    /// The text of the metadata of event `number`.
    pub(crate) fn metadata(&self, number: usize) -> &str {
        &self.metadata[number % TEXTS]
    }
}

/// `{"member":"text"}`; the text is alphanumeric, so nothing is escaped.
pub(crate) fn object(member: &str, text: &str) -> String {
    format!(r#"{{"{member}":"{text}"}}"#)
}

/// Which stream a writer appends to, and where it stands in it.
#[derive(Debug)]
pub(crate) struct Course {
    run: Uuid,
    stream: String,
    requests: u64,
    /// Events that the stream has.
    pub(crate) version: u64,
}

impl Course {
    /// At the start of a stream that nobody else writes.
    #[expect(clippy::disallowed_methods, reason = "the load generator is a composition root: it makes its own ids")]
    pub(crate) fn new() -> Self {
        let run = Uuid::new_v4();
        Self { run, stream: format!("{}x0", run.simple()), requests: 0, version: 0 }
    }

    /// The stream of the next request, without its category.
    pub(crate) fn stream(&self) -> &str {
        &self.stream
    }

    /// The stream with its category in front.
    pub(crate) fn name(&self) -> String {
        format!("{CATEGORY}-{}", self.stream)
    }

    /// After `events` were acknowledged; says whether a new stream begins.
    pub(crate) fn acknowledged(&mut self, events: usize) -> bool {
        self.requests += 1;
        self.version += events as u64;
        let begins = self.requests.is_multiple_of(REQUESTS_A_STREAM);
        if begins {
            self.stream = format!("{}x{}", self.run.simple(), self.requests / REQUESTS_A_STREAM);
            self.version = 0;
        }
        begins
    }

    /// The id of event `index` of the next request: it never comes twice.
    pub(crate) fn id(&self, index: usize) -> String {
        format!("{}-{}", self.stream, self.version + index as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payload_and_metadata_have_the_lengths_that_the_table_names() {
        let texts = Texts::new();
        assert_eq!(object(PAYLOAD_MEMBER, texts.payload(7)).len(), PAYLOAD_BYTES);
        assert_eq!(object(METADATA_MEMBER, texts.metadata(7)).len(), METADATA_BYTES);
    }

    #[test]
    fn a_writer_begins_a_new_stream_every_few_requests() {
        let mut course = Course::new();
        let first = course.name();
        let begun: Vec<bool> = (0..REQUESTS_A_STREAM).map(|_| course.acknowledged(10)).collect();
        assert_eq!(begun.iter().filter(|begins| **begins).count(), 1);
        assert_ne!(course.name(), first);
        assert_eq!(course.version, 0);
    }
}
