//! The tails that are open: how many there may be, and up to where each was read, for the metrics. Nothing waits for any of it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use domain::{ErrorKind, Head};

use super::metrics::MetricsText;
use super::metrics::families::{HTTP_TAILS, HTTP_TAILS_LAG};
use super::problem::Problem;

/// A reader that finds no room comes back after this time: tails are long, and room is rare.
const RETRY_AFTER_SECONDS: u32 = 5;

/// All tails of the process.
#[derive(Debug)]
pub(super) struct Tails {
    most: usize,
    open: Mutex<Vec<Weak<AtomicU64>>>,
}

/// One tail, for as long as its client listens.
#[derive(Debug, Clone)]
pub(super) struct Tail(Arc<AtomicU64>);

impl Tails {
    /// At most so many at a time.
    pub(super) fn new(most: usize) -> Self {
        Self { most, open: Mutex::default() }
    }

    /// A tail whose client has everything up to `head`; refused where there is no room for one more.
    pub(super) fn open(&self, head: Head) -> Result<Tail, Problem> {
        let at = Arc::new(AtomicU64::new(head.get()));
        let mut all = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that are closed are forgotten by the next one that opens, so what is remembered stays bounded.
        all.retain(|tail| tail.strong_count() > 0);
        if all.len() >= self.most {
            let detail = format!("{} readers follow already, and hold three quarters of the connections", all.len());
            return Err(Problem::new(ErrorKind::Unavailable, detail).after(RETRY_AFTER_SECONDS));
        }
        all.push(Arc::downgrade(&at));
        Ok(Tail(at))
    }

    /// How far each is behind `head`.
    pub(super) fn write(&self, text: &mut MetricsText, head: Option<Head>) {
        let all = self.open.lock().unwrap_or_else(PoisonError::into_inner);
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
        let (tails, head) = (Tails::new(2), |head| Head::new(head).expect("small"));
        assert_eq!(said(&tails, 9), ["coldstream_http_tails 0", "coldstream_http_tails_lag_events 0"]);
        let open = |at| tails.open(head(at)).expect("there is room");
        let (slow, fast) = (open(2), open(8));
        assert_eq!(said(&tails, 9), ["coldstream_http_tails 2", "coldstream_http_tails_lag_events 7"]);
        assert_eq!(tails.open(head(9)).expect_err("two are all").kind(), ErrorKind::Unavailable);
        slow.at(head(5));
        assert_eq!(said(&tails, 9)[1], "coldstream_http_tails_lag_events 4");
        drop(slow);
        assert_eq!(said(&tails, 9), ["coldstream_http_tails 1", "coldstream_http_tails_lag_events 1"]);
        let again = open(9);
        drop((fast, again));
    }
}
