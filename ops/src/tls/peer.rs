//! TLS where this process is the client: which servers it believes, and what it shows to those that ask. To the other region
//! it talks for as long as it runs, so those files may change meanwhile; one that is broken leaves the client as it was.

use std::path::Path;
use std::sync::{PoisonError, RwLock};

use domain::Timestamp;
use domain::merkle::Hash;
use reqwest::{Certificate, Client, ClientBuilder, Identity};

use super::{Pem, TlsError, hash, no_client};
use crate::config::PeerConfig;
use crate::http::metrics::MetricsText;
use crate::http::metrics::families::TLS_PEER_NOT_AFTER;
use crate::http::status::unix_seconds;

/// The beginning of an HTTP client that believes and shows what the configuration says.
///
/// # Errors
/// A [`TlsError`] that names the setting.
pub fn client(config: &PeerConfig) -> Result<ClientBuilder, TlsError> {
    Files::read(config)?.client()
}

/// The beginning of an HTTP client that believes the authorities in `ca`, which `setting` names, or else the usual ones.
///
/// # Errors
/// A [`TlsError`] that names `setting`.
pub(crate) fn believing(setting: &'static str, ca: Option<&Path>) -> Result<ClientBuilder, TlsError> {
    believe(ca.map(|file| Pem::read(setting, file)).transpose()?.as_ref())
}

fn believe(authorities: Option<&Pem>) -> Result<ClientBuilder, TlsError> {
    let Some(pem) = authorities else { return Ok(Client::builder()) };
    pem.roots()?;
    let certificates = Certificate::from_pem_bundle(&pem.bytes).map_err(no_client(pem.setting))?;
    Ok(Client::builder().tls_certs_only(certificates))
}

/// The client that asks the other region, whose TLS may change while it runs.
pub struct PeerTls {
    files: PeerConfig,
    current: RwLock<Current>,
}

struct Current {
    http: Client,
    /// Of the files' bytes.
    hash: Hash,
    /// When the first of the certificates that are shown ends.
    not_after: Option<Timestamp>,
}

impl PeerTls {
    /// Reads the files.
    ///
    /// # Errors
    /// A [`TlsError`] that names the setting.
    pub fn open(files: &PeerConfig) -> Result<Self, TlsError> {
        let current = Current::of(&Files::read(files)?)?;
        Ok(Self { files: files.clone(), current: RwLock::new(current) })
    }

    /// Reads the files again, and believes and shows in new connections what is in them; a request under way goes on as it
    /// is. Returns whether anything is new.
    ///
    /// # Errors
    /// A [`TlsError`]; what was believed and shown before is on.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let read = Files::read(&self.files)?;
        if self.current.read().unwrap_or_else(PoisonError::into_inner).hash == read.hash() {
            return Ok(false);
        }
        let current = Current::of(&read)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = current;
        Ok(true)
    }

    /// For the next request.
    pub(crate) fn http(&self) -> Client {
        self.current.read().unwrap_or_else(PoisonError::into_inner).http.clone()
    }

    /// Writes its numbers.
    pub(crate) fn write_metrics(&self, text: &mut MetricsText) {
        if let Some(at) = self.current.read().unwrap_or_else(PoisonError::into_inner).not_after {
            text.value(&TLS_PEER_NOT_AFTER, &[], unix_seconds(at));
        }
    }
}

impl Current {
    fn of(read: &Files) -> Result<Self, TlsError> {
        let http = read.client()?.build().map_err(no_client("peer"))?;
        let not_after = read.pair.as_ref().map(|(certificate, _)| certificate.not_after()).transpose()?.flatten();
        Ok(Self { http, hash: read.hash(), not_after })
    }
}

/// What is in a client's files, read at one time.
struct Files {
    ca: Option<Pem>,
    /// Certificate and key.
    pair: Option<(Pem, Pem)>,
}

impl Files {
    fn read(config: &PeerConfig) -> Result<Self, TlsError> {
        let pair = match (&config.certificate, &config.key) {
            (Some(certificate), Some(key)) => {
                Some((Pem::read("peer.certificate", certificate)?, Pem::read("peer.key", key)?))
            }
            _ => None,
        };
        Ok(Self { ca: config.ca.as_ref().map(|file| Pem::read("peer.ca", file)).transpose()?, pair })
    }

    fn hash(&self) -> Hash {
        let (certificate, key) = self.pair.as_ref().map(|(certificate, key)| (certificate, key)).unzip();
        hash([self.ca.as_ref(), certificate, key])
    }

    fn client(&self) -> Result<ClientBuilder, TlsError> {
        let mut builder = believe(self.ca.as_ref())?;
        if let Some((certificate, key)) = &self.pair {
            let provider = rustls::crypto::ring::default_provider();
            rustls::sign::CertifiedKey::from_der(certificate.certificates()?, key.private_key()?, &provider)
                .map_err(|source| TlsError::Pair { setting: "peer.key", source })?;
            let both = [&certificate.bytes[..], b"\n", &key.bytes].concat();
            builder = builder.identity(Identity::from_pem(&both).map_err(no_client("peer.key"))?);
        }
        Ok(builder)
    }
}
