//! What the configuration says of the door: how it is locked, and how much goes through it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jsonwebtoken::Algorithm;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::http::auth::TokenRole;

/// TLS of the API, 1.2 and newer. The files are read again when they change and at SIGHUP; a pair that is broken is
/// refused, and the one before it stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// File with the server's certificate and those between it and its authority, in PEM.
    pub certificate: PathBuf,
    /// File with its private key, in PEM.
    pub key: PathBuf,
    /// File with the authorities of clients' certificates, in PEM. Without one, no client is asked for a certificate. One
    /// that is shown opens nothing by itself: every request still carries a token (SEC-1).
    #[serde(default)]
    pub client_ca: Option<PathBuf>,
    /// Whether a client without a certificate is let in, where there is a `client_ca`.
    #[serde(default)]
    pub clients: ClientCertificates,
}

/// Whether clients show a certificate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ClientCertificates {
    /// They do, or there is no connection.
    #[default]
    Required,
    /// They may; one that is shown has to be good.
    Optional,
}

/// How this process speaks to servers of ours: to the other region, and as a command.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PeerConfig {
    /// File with the authorities, in PEM, that alone are believed; without one, those of the system.
    pub ca: Option<PathBuf>,
    /// File with the certificate, in PEM, that is shown to servers that ask for one.
    pub certificate: Option<PathBuf>,
    /// File with its private key, in PEM.
    pub key: Option<PathBuf>,
}

/// How much each token of a role may ask for, and how often anybody may try without a good one. A token may have rates of
/// its own (`coldstream token create`). What is more is answered with 429.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RatesConfig {
    /// Each token that appends.
    pub appender: RateConfig,
    /// Each token that reads.
    pub reader: RateConfig,
    /// Each token that operates.
    pub operator: RateConfig,
    /// Each token that reads everything.
    pub auditor: RateConfig,
    /// The other region.
    pub replicator: RateConfig,
    /// Requests a second from one address that carry no good token; 0: without limit. Not looked at behind a TLS proxy,
    /// where all come from its address.
    pub failures_per_second: u32,
}

impl Default for RatesConfig {
    fn default() -> Self {
        let [appender, reader, operator, auditor, replicator] = [RateConfig::default(); 5];
        Self { appender, reader, operator, auditor, replicator, failures_per_second: 10 }
    }
}

/// How much one token may ask for. What it does not ask for in a second it may ask for in the next one, and no later.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RateConfig {
    /// Requests a second; 0: without limit.
    pub requests_per_second: u32,
    /// Bytes of appends a second, unpacked; 0: without limit.
    pub append_bytes_per_second: u32,
}

/// Bearer tokens of an identity provider (JWTs, RFC 7519), beside our own. What its role may ask for (`http.rates`) is a
/// bearer's with all of its tokens together: they have no rates of their own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OidcConfig {
    /// Who issues them: `iss`, letter by letter.
    pub issuer: String,
    /// For whom: `aud` names it.
    pub audience: String,
    /// URL of the issuer's public keys (JWKS): `jwks_uri` of its `.well-known/openid-configuration`.
    pub keys_url: String,
    /// File with the authorities, in PEM, that alone are believed for that URL; without one, those of the system.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// The claim, a text or a list of texts, that says what its bearer is. One inside of others is named with dots between,
    /// such as `realm_access.roles`; one whose own name is written so, such as a URL, comes first.
    pub role_claim: String,
    /// Which of its values has which role. Who has none of them, or those of several roles, is refused.
    pub roles: BTreeMap<String, TokenRole>,
    /// The claim, found like the other one, that names the only categories that an appender or a reader opens; `*` alone is
    /// all of them. An appender or a reader without it is refused, and so is a bearer of another role who names some. Without
    /// this setting every bearer opens all categories.
    #[serde(default)]
    pub categories_claim: Option<String>,
    /// Algorithms that the issuer may sign with. There are none with shared secrets.
    #[serde(default = "OidcAlgorithm::usual")]
    pub algorithms: Vec<OidcAlgorithm>,
}

/// An algorithm of signatures (RFC 7518 §3.1, RFC 8037).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "the names are those of RFC 7518 and RFC 8037")]
pub enum OidcAlgorithm {
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    EdDSA,
}

impl OidcAlgorithm {
    fn usual() -> Vec<Self> {
        vec![Self::RS256, Self::ES256, Self::EdDSA]
    }

    /// The same, as who verifies calls it.
    #[must_use]
    pub fn named(self) -> Algorithm {
        match self {
            Self::RS256 => Algorithm::RS256,
            Self::RS384 => Algorithm::RS384,
            Self::RS512 => Algorithm::RS512,
            Self::PS256 => Algorithm::PS256,
            Self::PS384 => Algorithm::PS384,
            Self::PS512 => Algorithm::PS512,
            Self::ES256 => Algorithm::ES256,
            Self::ES384 => Algorithm::ES384,
            Self::EdDSA => Algorithm::EdDSA,
        }
    }
}
