//! Where a region's objects are. Opens no connection and never prints a secret.

use std::fmt;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use aws_credential_types::Credentials;
use aws_smithy_http_client::tls::{TlsContext, TrustStore};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A text that is never printed: not by `Debug`, not by `Display`, not by serialisation.
#[derive(Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Takes a secret in.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself; for the one who signs requests.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}

/// A bucket, how to reach it and how long to wait for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StoreConfig {
    /// URL of the endpoint; absent: AWS's own for `region`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The region that requests are signed for. Endpoints other than AWS's mostly take any.
    #[serde(default = "default_region")]
    pub region: String,
    /// The bucket; it has to exist.
    pub bucket: String,
    /// Stands before every key; a `/` is put after it. Empty: the whole bucket is ours.
    #[serde(default)]
    pub prefix: String,
    /// The bucket's name in the path instead of the host name: needed by most endpoints that are not AWS's.
    #[serde(default)]
    pub path_style: bool,
    /// Who signs requests; absent, like its secret: credentials are found as AWS's own tools find them (environment, profile,
    /// web identity, container, instance), and asked for again before they end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_key_id: Option<String>,
    /// Its secret; where only one of the two is set, the other is `AWS_ACCESS_KEY_ID` or `AWS_SECRET_ACCESS_KEY` of the
    /// environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_access_key: Option<Secret>,
    /// File with the authorities, in PEM, that alone are believed for the endpoint; absent: those of the system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// Until a connection stands. A bigger value costs time before a dead endpoint is noticed.
    #[serde(default = "default_connect_timeout_seconds")]
    pub connect_timeout_seconds: NonZeroU32,
    /// For one attempt, body included. It has to be enough for a whole segment (some 20 MB) on this line.
    #[serde(default = "default_attempt_timeout_seconds")]
    pub attempt_timeout_seconds: NonZeroU32,
    /// How often a request is sent before it is Unavailable; the pause between them doubles, from 50 ms.
    #[serde(default = "default_attempts")]
    pub attempts: NonZeroU32,
}

fn default_region() -> String {
    "us-east-1".into()
}

const fn default_connect_timeout_seconds() -> NonZeroU32 {
    NonZeroU32::new(3).expect("not zero")
}

const fn default_attempt_timeout_seconds() -> NonZeroU32 {
    NonZeroU32::new(60).expect("not zero")
}

const fn default_attempts() -> NonZeroU32 {
    NonZeroU32::new(5).expect("not zero")
}

/// What is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StoreConfigError {
    /// There is no bucket's name.
    #[error("the object store's bucket has no name")]
    NoBucket,
    /// The endpoint is no URL.
    #[error("the object store's endpoint {0:?} does not start with http:// or https://")]
    Endpoint(String),
    /// One half of the credentials is missing.
    #[error("the object store has no {0}: set it in the configuration or in the environment")]
    NoCredentials(&'static str),
    /// The file of authorities is none.
    #[error("the object store's ca {file}: {reason}")]
    Authorities {
        /// The file.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl StoreConfig {
    /// A bucket behind an endpoint of its own, as development services and tests have it.
    #[must_use]
    pub fn at(endpoint: &str, bucket: &str, access_key_id: &str, secret_access_key: &str) -> Self {
        Self {
            endpoint: Some(endpoint.into()),
            region: default_region(),
            bucket: bucket.into(),
            prefix: String::new(),
            path_style: true,
            access_key_id: Some(access_key_id.into()),
            secret_access_key: Some(Secret::new(secret_access_key)),
            ca: None,
            connect_timeout_seconds: default_connect_timeout_seconds(),
            attempt_timeout_seconds: default_attempt_timeout_seconds(),
            attempts: default_attempts(),
        }
    }

    /// Checks what can be checked without the endpoint.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), StoreConfigError> {
        if self.bucket.is_empty() {
            return Err(StoreConfigError::NoBucket);
        }
        let url = |endpoint: &String| endpoint.starts_with("http://") || endpoint.starts_with("https://");
        match &self.endpoint {
            Some(endpoint) if !url(endpoint) => Err(StoreConfigError::Endpoint(endpoint.clone())),
            _ => Ok(()),
        }
    }

    /// The credentials, if one half of them stands here; the other half may be in `env`.
    pub(crate) fn credentials(
        &self,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Credentials>, StoreConfigError> {
        if self.access_key_id.is_none() && self.secret_access_key.is_none() {
            return Ok(None);
        }
        let id = self.access_key_id.clone().or_else(|| env("AWS_ACCESS_KEY_ID"));
        let id = id.ok_or(StoreConfigError::NoCredentials("access_key_id (AWS_ACCESS_KEY_ID)"))?;
        // A session token belongs to the environment's key pair; beside a configured secret it would be refused.
        let (secret, session) = match &self.secret_access_key {
            Some(secret) => (Some(secret.expose().to_owned()), None),
            None => (env("AWS_SECRET_ACCESS_KEY"), env("AWS_SESSION_TOKEN")),
        };
        let secret = secret.ok_or(StoreConfigError::NoCredentials("secret_access_key (AWS_SECRET_ACCESS_KEY)"))?;
        Ok(Some(Credentials::new(id, secret, session, None, "coldstream")))
    }

    /// Who is believed to be the endpoint. The file is looked through here: the SDK would panic at one that is none.
    pub(crate) fn tls(&self) -> Result<TlsContext, StoreConfigError> {
        let Some(file) = &self.ca else { return Ok(TlsContext::default()) };
        let wrong = |reason: String| StoreConfigError::Authorities { file: file.display().to_string(), reason };
        let pem = std::fs::read(file).map_err(|error| wrong(error.to_string()))?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
            roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
        }
        if roots.is_empty() {
            return Err(wrong("no certificate in PEM is in it".to_owned()));
        }
        let trust = TrustStore::empty().with_pem_certificate(pem);
        TlsContext::builder().with_trust_store(trust).build().map_err(|error| wrong(error.to_string()))
    }

    pub(crate) fn key_prefix(&self) -> String {
        let prefix = self.prefix.trim_matches('/');
        if prefix.is_empty() { String::new() } else { format!("{prefix}/") }
    }

    pub(crate) fn connect_timeout(&self) -> Duration {
        Duration::from_secs(self.connect_timeout_seconds.get().into())
    }

    pub(crate) fn attempt_timeout(&self) -> Duration {
        Duration::from_secs(self.attempt_timeout_seconds.get().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_configuration_is_enough_and_an_unknown_field_is_refused() {
        let config: StoreConfig = toml::from_str("bucket = \"archive\"").expect("a bucket is enough");
        assert_eq!((config.attempts.get(), config.region.as_str()), (5, "us-east-1"));
        assert_eq!(config.check(), Ok(()));
        assert!(toml::from_str::<StoreConfig>("bucket = \"archive\"\nbuckets = 2").is_err());
    }

    #[test]
    fn a_secret_is_never_printed() {
        let config = StoreConfig::at("http://127.0.0.1:9000", "b", "id", "hush");
        assert!(!format!("{config:?}").contains("hush"));
        assert!(!toml::to_string(&config).expect("serialises").contains("hush"));
    }

    #[test]
    fn credentials_come_from_the_configuration_or_else_from_the_environment() {
        let mut config = StoreConfig::at("http://127.0.0.1:9000", "b", "id", "hush");
        let env = |name: &str| Some(format!("env {name}"));
        let own = config.credentials(env).expect("complete").expect("configured");
        assert_eq!((own.secret_access_key(), own.session_token()), ("hush", None));
        config.secret_access_key = None;
        let other = config.credentials(env).expect("complete").expect("configured");
        assert_eq!(other.secret_access_key(), "env AWS_SECRET_ACCESS_KEY");
        assert_eq!(other.session_token(), Some("env AWS_SESSION_TOKEN"));
        assert!(config.credentials(|_| None).is_err());
        config.access_key_id = None;
        assert_eq!(config.credentials(|_| None), Ok(None), "they are found when they are needed");
    }

    #[test]
    fn a_file_of_authorities_has_some() {
        let folder = std::env::temp_dir();
        let mut config = StoreConfig::at("https://127.0.0.1:9000", "b", "id", "hush");
        assert!(config.tls().is_ok(), "those of the system");
        for (name, text) in [("none", ""), ("cut", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")] {
            let file = folder.join(format!("coldstream-{}-{name}.pem", std::process::id()));
            std::fs::write(&file, text).expect("written");
            config.ca = Some(file.clone());
            assert!(matches!(config.tls(), Err(StoreConfigError::Authorities { .. })), "{name}");
            std::fs::remove_file(file).expect("removed");
        }
        assert!(config.tls().is_err(), "it is gone");
    }

    #[test]
    fn an_endpoint_is_a_url() {
        let config = StoreConfig::at("127.0.0.1:9000", "b", "id", "hush");
        assert_eq!(config.check(), Err(StoreConfigError::Endpoint("127.0.0.1:9000".into())));
    }

    #[test]
    fn a_prefix_ends_with_one_slash() {
        let mut config = StoreConfig::at("http://127.0.0.1:9000", "b", "id", "hush");
        assert_eq!(config.key_prefix(), "");
        config.prefix = "/logs/a/".into();
        assert_eq!(config.key_prefix(), "logs/a/");
    }
}
