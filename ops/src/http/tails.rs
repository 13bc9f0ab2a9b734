//! The tails that are open, and up to where each was read: for the metrics alone. Nothing waits for any of it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use domain::Head;

use super::metrics::MetricsText;
use super::metrics::families::{HTTP_TAILS, HTTP_TAILS_LAG};

/// All tails of the process.
#[derive(Debug, Default)]
pub(super) struct Tails(Mutex<Vec<Weak<AtomicU64>>>);

/// One tail, for as long as its client listens.
#[derive(Debug, Clone)]
pub(super) struct Tail(Arc<AtomicU64>);

impl Tails {
    /// A tail whose client has everything up to `head`.
    pub(super) fn open(&self, head: Head) -> Tail {
        let at = Arc::new(AtomicU64::new(head.get()));
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that are closed are forgotten by the next one that opens, so there are never more than twice as many.
        all.retain(|tail| tail.strong_count() > 0);
        all.push(Arc::downgrade(&at));
        Tail(at)
    }

    /// How far each is behind `head`.
    pub(super) fn write(&self, text: &mut MetricsText, head: Option<Head>) {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let places: Vec<u64> = all.iter().filter_map(Weak::upgrade).map(|tail| tail.load(Ordering::Relaxed)).collect();
        drop(all);
        text.value(&HTTP_TAILS, &[], places.len());
        if let Some(head) = head {
            let slowest = places.into_iter().min().unwrap_or(head.get());
            text.value(&HTTP_TAILS_LAG, &[], head.get().saturating_sub(slowest));
        }
    }
}

impl Tail {
    /// Everything up to `head` was handed to the connection, or does not concern it.
    pub(super) fn at(&self, head: Head) {
        self.0.store(head.get(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(tails: &Tails, head: u64) -> Vec<String> {
        let mut text = MetricsText::default();
        tails.write(&mut text, Head::new(head));
        text.finish().lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    }

    #[test]
    fn the_slowest_tail_that_is_open_says_how_far_readers_are_behind() {
        let (tails, head) = (Tails::default(), |head| Head::new(head).expect("small"));
        assert_eq!(said(&tails, 9), ["coldstream_http_tails 0", "coldstream_http_tails_lag_events 0"]);
        let (slow, fast) = (tails.open(head(2)), tails.open(head(8)));
        assert_eq!(said(&tails, 9), ["coldstream_http_tails 2", "coldstream_http_tails_lag_events 7"]);
        slow.at(head(5));
        assert_eq!(said(&tails, 9)[1], "coldstream_http_tails_lag_events 4");
        drop(slow);
        assert_eq!(said(&tails, 9), ["coldstream_http_tails 1", "coldstream_http_tails_lag_events 1"]);
        drop(fast);
    }
}
