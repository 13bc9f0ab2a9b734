//! What an operator may choose and should not forget: settings that cost safety. It refuses nothing.

use std::net::IpAddr;
use std::str::FromStr;

use reqwest::Url;
use sqlx::postgres::{PgConnectOptions, PgSslMode};

use super::{Config, CopiesConfig};

impl Config {
    /// What holds and should not be forgotten: settings that an operator may choose, and that cost safety.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.archive.copies == CopiesConfig::OneAcceptedByOperator {
            warnings.push("archive.copies: pruning trusts one copy, and a single broken disk then loses history");
        }
        if self.log.allow_superuser {
            warnings.push("log.allow_superuser: the service may run as a role that can change events (SEC-1)");
        }
        if self.replication.peer_url.as_deref().is_some_and(is_clear_text_abroad) {
            warnings.push("replication.peer_url: without https the token crosses the network in clear text");
        }
        if is_clear_text_database(self.log.url.reveal()) {
            warnings.push(
                "log.url: password and events may cross the network in clear text, and any server is believed: \
                 write sslmode=verify-full&sslrootcert=FILE",
            );
        }
        let stores = [
            (
                &self.archive.store,
                "archive.store.endpoint: without https the archive crosses the network in clear text",
            ),
            (
                &self.archive.peer_store,
                "archive.peer_store.endpoint: without https the archive crosses the network in clear text",
            ),
        ];
        for (store, warning) in stores {
            let endpoint = store.as_ref().and_then(|store| store.endpoint.as_deref());
            if endpoint.is_some_and(is_clear_text_abroad) {
                warnings.push(warning);
            }
        }
        warnings.into_iter().map(str::to_owned).collect()
    }
}

/// Whether what is sent to this URL can be read on its way.
pub(super) fn is_clear_text_abroad(url: &str) -> bool {
    let Ok(url) = Url::parse(url) else { return false };
    let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    url.scheme() == "http" && !is_near(host)
}

/// Whether what is sent to this database can be read on its way, or goes to whoever answers. A URL that is none is refused
/// by who opens it.
fn is_clear_text_database(url: &str) -> bool {
    let Ok(options) = PgConnectOptions::from_str(url) else { return false };
    let host = options.get_host().trim_start_matches('[').trim_end_matches(']');
    let verified = matches!(options.get_ssl_mode(), PgSslMode::VerifyCa | PgSslMode::VerifyFull);
    // A host that is a path is a socket's folder.
    !(verified || options.get_socket().is_some() || host.starts_with('/') || is_near(host))
}

fn is_near(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}
