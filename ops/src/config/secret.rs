//! URLs that carry a password and must not show it, whatever prints them.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

/// What stands in the place of a secret.
const HIDDEN: &str = "***";

/// A URL that may carry a password. Everything but the password is shown.
#[derive(Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct SecretUrl(String);

impl SecretUrl {
    /// Keeps the password of `url` from being shown.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self(url.into())
    }

    /// The URL with its password.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// The URL as it may be shown: without the password and without the query, which may carry one too.
    #[must_use]
    pub fn shown(&self) -> String {
        let (address, query) = match self.0.split_once('?') {
            Some((address, _)) => (address, "?***"),
            None => (self.0.as_str(), ""),
        };
        let Some((scheme, rest)) = address.split_once("://") else {
            return HIDDEN.to_owned();
        };
        // The last '@': a password that was not percent-encoded may hold one.
        let Some((user, host)) = rest.rsplit_once('@') else {
            return format!("{scheme}://{rest}{query}");
        };
        match user.split_once(':') {
            Some((name, _)) => format!("{scheme}://{name}:{HIDDEN}@{host}{query}"),
            None => format!("{scheme}://{user}@{host}{query}"),
        }
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown())
    }
}

impl Serialize for SecretUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.shown())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_shows_everything_but_what_may_be_a_password() {
        let shown = |url: &str| SecretUrl::new(url).shown();
        assert_eq!(shown("postgres://app:p@ss@db:5432/log"), "postgres://app:***@db:5432/log");
        assert_eq!(shown("postgres://app@db/log?password=x"), "postgres://app@db/log?***");
        assert_eq!(shown("postgres:///log"), "postgres:///log");
        assert_eq!(shown("host=db password=x"), "***");
    }
}
