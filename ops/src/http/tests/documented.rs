//! The document against the answers that tests get.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use domain::append::LogHead;

use crate::http::metrics::{MetricsText, Numbers};
use crate::http::{ApiState, openapi};

/// There is no region behind this API.
pub(super) struct NoNumbers;

#[async_trait]
impl Numbers for NoNumbers {
    async fn write(&self, _text: &mut MetricsText, _head: Option<&LogHead>, _limit: Duration) {}
}

/// Whatever a test was about: the document has told every answer that it got.
pub(super) struct Documented(pub(super) Arc<ApiState>);

impl Drop for Documented {
    fn drop(&mut self) {
        let mut text = MetricsText::default();
        self.0.metrics.write(&mut text);
        let text = text.finish();
        let counts = text.lines().filter(|line| line.starts_with("coldstream_http_requests_total{"));
        for words in counts.map(|line| line.split('"').collect::<Vec<_>>()) {
            let (method, route, status) = (words[1], words[3], words[5]);
            let said = openapi::says(method, route, status);
            assert!(said || std::thread::panicking(), "{method} {route} was answered with {status}");
        }
    }
}
