//! TLS by rustls on ring, 1.2 and newer: what the API shows to its clients and asks of them, and which servers this process
//! believes. It reads the files that the configuration names. It must never log what is in them, and never leave a server
//! without a pair that works: one that is broken is refused, and the one before it stays.

mod expiry;
mod peer;

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use domain::merkle::Hash;
use domain::{ErrorKind, Timestamp};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use thiserror::Error;
use tokio_rustls::TlsAcceptor;

use crate::config::{ClientCertificates, TlsConfig};
use crate::http::metrics::MetricsText;
use crate::http::metrics::families::{TLS_FAILED, TLS_NOT_AFTER};
use crate::http::status::unix_seconds;
pub(crate) use peer::believing;
pub use peer::{PeerTls, client};

/// The API speaks nothing else.
const HTTP_1_1: &[u8] = b"http/1.1";

/// Why files are no TLS.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{setting}: cannot read {file}")]
    Read {
        /// The setting that names it.
        setting: &'static str,
        /// The file.
        file: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file is no PEM, or what is needed is not in it.
    #[error("{setting}: no {wanted} in PEM is in {file}")]
    Pem {
        /// The setting that names it.
        setting: &'static str,
        /// The file.
        file: String,
        /// What was looked for.
        wanted: &'static str,
        /// Why.
        #[source]
        source: pem::Error,
    },
    /// The key is not the certificate's, or one of the two cannot be used.
    #[error("{setting}: it does not go with the certificate, or one of them cannot be used")]
    Pair {
        /// The key's setting.
        setting: &'static str,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// A certificate cannot be an authority's.
    #[error("{setting}: a certificate in it is no authority's")]
    Authority {
        /// The setting.
        setting: &'static str,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// Clients cannot be verified.
    #[error("http.tls.client_ca: clients cannot be verified by it")]
    Clients(#[source] VerifierBuilderError),
    /// No client can be made of what is good in itself.
    #[error("{setting}: no TLS client can be made")]
    Client {
        /// The setting, or the settings above it.
        setting: &'static str,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
}

/// What a client cannot be made of.
pub(crate) fn no_client(setting: &'static str) -> impl FnOnce(reqwest::Error) -> TlsError {
    move |source| TlsError::Client { setting, source }
}

impl TlsError {
    /// What the caller has to do: give other files.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }
}

/// The TLS of a server, which may change while it serves.
pub struct ServerTls {
    files: TlsConfig,
    current: RwLock<Current>,
    failed: AtomicU64,
}

struct Current {
    config: Arc<ServerConfig>,
    /// Of the files' bytes.
    hash: Hash,
    /// When the first of the certificates that are shown ends.
    not_after: Option<Timestamp>,
}

impl ServerTls {
    /// Reads the files.
    ///
    /// # Errors
    /// A [`TlsError`] that names the setting.
    pub fn open(files: &TlsConfig) -> Result<Self, TlsError> {
        let read = Files::read(files)?;
        let current = Current { config: read.server(files.clients)?, hash: read.hash(), not_after: read.not_after()? };
        Ok(Self { files: files.clone(), current: RwLock::new(current), failed: AtomicU64::new(0) })
    }

    /// Reads the files again, and shows to new connections what is in them; those that stand go on as they are. Returns
    /// whether anything is new.
    ///
    /// # Errors
    /// A [`TlsError`]; what was shown before is shown on.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let read = Files::read(&self.files)?;
        let hash = read.hash();
        if self.current.read().unwrap_or_else(PoisonError::into_inner).hash == hash {
            return Ok(false);
        }
        let (config, not_after) = (read.server(self.files.clients)?, read.not_after()?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Current { config, hash, not_after };
        Ok(true)
    }

    /// Writes its numbers.
    pub(crate) fn write_metrics(&self, text: &mut MetricsText) {
        text.value(&TLS_FAILED, &[], self.failed.load(Ordering::Relaxed));
        if let Some(at) = self.current.read().unwrap_or_else(PoisonError::into_inner).not_after {
            text.value(&TLS_NOT_AFTER, &[], unix_seconds(at));
        }
    }

    /// A handshake has failed.
    pub(crate) fn failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    /// For the next connection.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.current.read().unwrap_or_else(PoisonError::into_inner).config.clone())
    }
}

/// What is in a server's files, read at one time.
struct Files {
    certificate: Pem,
    key: Pem,
    client_ca: Option<Pem>,
}

impl Files {
    fn read(files: &TlsConfig) -> Result<Self, TlsError> {
        Ok(Self {
            certificate: Pem::read("http.tls.certificate", &files.certificate)?,
            key: Pem::read("http.tls.key", &files.key)?,
            client_ca: files.client_ca.as_ref().map(|file| Pem::read("http.tls.client_ca", file)).transpose()?,
        })
    }

    fn hash(&self) -> Hash {
        hash([Some(&self.certificate), Some(&self.key), self.client_ca.as_ref()])
    }

    fn not_after(&self) -> Result<Option<Timestamp>, TlsError> {
        self.certificate.not_after()
    }

    fn server(&self, clients: ClientCertificates) -> Result<Arc<ServerConfig>, TlsError> {
        let (chain, key) = (self.certificate.certificates()?, self.key.private_key()?);
        let builder = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring has the ciphers of TLS 1.2 and 1.3");
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(authorities) => {
                let provider = Arc::new(rustls::crypto::ring::default_provider());
                let roots = Arc::new(authorities.roots()?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
                let verifier = match clients {
                    ClientCertificates::Required => verifier,
                    ClientCertificates::Optional => verifier.allow_unauthenticated(),
                };
                builder.with_client_cert_verifier(verifier.build().map_err(TlsError::Clients)?)
            }
        };
        let pair = |source| TlsError::Pair { setting: self.key.setting, source };
        let mut config = builder.with_single_cert(chain, key).map_err(pair)?;
        config.alpn_protocols = vec![HTTP_1_1.to_vec()];
        Ok(Arc::new(config))
    }
}

/// A file in PEM.
struct Pem {
    setting: &'static str,
    file: String,
    bytes: Vec<u8>,
}

impl Pem {
    fn read(setting: &'static str, file: &Path) -> Result<Self, TlsError> {
        let name = file.display().to_string();
        match fs::read(file) {
            Ok(bytes) => Ok(Self { setting, file: name, bytes }),
            Err(source) => Err(TlsError::Read { setting, file: name, source }),
        }
    }

    fn is_not(&self, wanted: &'static str) -> impl FnOnce(pem::Error) -> TlsError {
        let (setting, file) = (self.setting, self.file.clone());
        move |source| TlsError::Pem { setting, file, wanted, source }
    }

    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.bytes).collect();
        let some = all.and_then(|all| if all.is_empty() { Err(pem::Error::NoItemsFound) } else { Ok(all) });
        some.map_err(self.is_not("certificate"))
    }

    /// When the first of the certificates in it ends.
    fn not_after(&self) -> Result<Option<Timestamp>, TlsError> {
        Ok(self.certificates()?.iter().filter_map(|certificate| expiry::not_after(certificate)).min())
    }

    fn private_key(&self) -> Result<PrivateKeyDer<'static>, TlsError> {
        PrivateKeyDer::from_pem_slice(&self.bytes).map_err(self.is_not("private key"))
    }

    fn roots(&self) -> Result<RootCertStore, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in self.certificates()? {
            roots.add(certificate).map_err(|source| TlsError::Authority { setting: self.setting, source })?;
        }
        Ok(roots)
    }
}

/// Of the bytes of those files that there are.
fn hash(files: [Option<&Pem>; 3]) -> Hash {
    let hashes: Vec<u8> = files.into_iter().flatten().flat_map(|pem| Hash::of(&pem.bytes).0).collect();
    Hash::of(&hashes)
}

/// Tells one content of a file from another.
///
/// # Errors
/// `Read`, with the setting that names it.
pub(crate) fn hash_of(setting: &'static str, file: &Path) -> Result<Hash, TlsError> {
    Ok(Hash::of(&Pem::read(setting, file)?.bytes))
}
