//! Configuration of the log on PostgreSQL: where it is and how much memory and how many connections it may take.

use std::fmt;

use serde::Deserialize;

/// Where the log is, and its limits.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PgConfig {
    /// `postgres://user:password@host:port/database`. Must reach the server directly: the log sets session parameters,
    /// which a pooler between would hand to others.
    pub url: String,
    /// Connections for reads and for the catalog. Each costs the server a process of some MiB. Appending and following
    /// take one more each.
    pub connections: u32,
    /// Most events that are committed together. More are faster in a bulk import, and hold the head for longer.
    pub group_events: usize,
    /// Most bytes that are committed together; a larger request goes alone. The server and this process each hold
    /// about twice as much while a group is written, and this process a second one that is built meanwhile.
    pub group_bytes: usize,
    /// Most bytes of requests that wait for their group or are in it; more are refused as Unavailable. One source may hold
    /// half of it and one client two thirds, less while others hold some. All of it may be in memory.
    pub queue_bytes: usize,
    /// Lets the service run as a superuser, who can switch off what keeps events from being changed (SEC-1).
    pub allow_superuser: bool,
}

impl Default for PgConfig {
    fn default() -> Self {
        Self {
            url: String::new(),
            connections: 8,
            group_events: 4096,
            group_bytes: 8 << 20,
            queue_bytes: 64 << 20,
            allow_superuser: false,
        }
    }
}

impl PgConfig {
    /// The defaults, at `url`.
    #[must_use]
    pub fn at(url: &str) -> Self {
        Self { url: url.into(), ..Self::default() }
    }
}

impl fmt::Debug for PgConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgConfig")
            .field("url", &without_password(&self.url))
            .field("connections", &self.connections)
            .field("group_events", &self.group_events)
            .field("group_bytes", &self.group_bytes)
            .field("queue_bytes", &self.queue_bytes)
            .field("allow_superuser", &self.allow_superuser)
            .finish()
    }
}

/// The URL with its password hidden, also one that a query parameter holds.
fn without_password(url: &str) -> String {
    let (main, query) = url.split_once('?').map_or((url, None), |(main, query)| (main, Some(query)));
    let main = match (main.split_once("://"), main.rfind('@')) {
        (Some((scheme, rest)), Some(at)) => {
            let host = &main[at..];
            let user = rest.split([':', '@']).next().unwrap_or_default();
            format!("{scheme}://{user}:***{host}")
        }
        _ => main.to_owned(),
    };
    match query {
        Some(_) => format!("{main}?***"),
        None => main,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_printed_configuration_holds_no_password() {
        for url in ["postgres://u:se@cret@h:5432/db", "postgres://u:x@h/db?password=secret", "postgres://u@h/db"] {
            let printed = format!("{:?}", PgConfig::at(url));
            assert!(!printed.contains("cret"), "{printed}");
            assert!(printed.contains("@h"), "{printed}");
        }
    }

    #[test]
    fn an_unknown_field_is_refused() {
        assert!(serde_json::from_str::<PgConfig>(r#"{"url":"postgres://h/db","conections":3}"#).is_err());
        assert!(serde_json::from_str::<PgConfig>(r#"{"url":"postgres://h/db","connections":3}"#).is_ok());
    }
}
