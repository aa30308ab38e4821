//! The certificate of the listener, read again when its files change.
//!
//! A pair that does not load leaves the old one in place and says so: a half-written file must not end the service.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// How often the files are looked at.
pub const RELOAD_EVERY: Duration = Duration::from_secs(2);

/// Why a certificate does not load.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read as PEM.
    #[error("cannot read {what} from {path}")]
    Read {
        /// Certificate or key.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the reader said.
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    /// The certificate file holds none.
    #[error("{path} holds no certificate")]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The pair does not fit together, or the library refuses it.
    #[error("the certificate {path} and its key cannot be used")]
    Pair {
        /// The certificate file.
        path: PathBuf,
        /// What the library said.
        #[source]
        source: rustls::Error,
    },
}

/// A certificate and its key, kept up to date.
#[derive(Debug)]
pub struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    config: Arc<ServerConfig>,
    current: Arc<Current>,
    reload_every: Duration,
}

#[derive(Debug)]
struct Current(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

type Stamp = [Option<(SystemTime, u64)>; 2];

impl Tls {
    /// Loads a pair of PEM files.
    ///
    /// # Errors
    /// [`TlsError`] when they cannot be read or do not fit together.
    pub fn load(certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Result<Self, TlsError> {
        Self::load_with(certificate.into(), key.into(), RELOAD_EVERY)
    }

    pub(super) fn load_with(certificate: PathBuf, key: PathBuf, reload_every: Duration) -> Result<Self, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let current = Arc::new(Current(RwLock::new(read_pair(&certificate, &key, &provider)?)));
        let pair_error = |source| TlsError::Pair { path: certificate.clone(), source };
        let builder =
            ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(pair_error)?;
        let resolver: Arc<dyn ResolvesServerCert> = Arc::clone(&current) as _;
        let mut config = builder.with_no_client_auth().with_cert_resolver(resolver);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { config: Arc::new(config), certificate, key, current, reload_every })
    }

    pub(super) fn server_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }

    /// Reloads the pair whenever one of its files has changed; never returns.
    pub(super) async fn watch(&self) {
        let mut known = self.stamp();
        loop {
            tokio::time::sleep(self.reload_every).await;
            let now = self.stamp();
            if now == known {
                continue;
            }
            match read_pair(&self.certificate, &self.key, self.config.crypto_provider()) {
                Ok(pair) => {
                    *self.current.0.write().unwrap_or_else(PoisonError::into_inner) = pair;
                    known = now;
                    tracing::info!(certificate = %self.certificate.display(), "certificate reloaded");
                }
                Err(error) => {
                    // The other file may follow; `known` stays, so it is tried again.
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "the changed certificate cannot be used; the old one stays"
                    );
                }
            }
        }
    }

    fn stamp(&self) -> Stamp {
        [&self.certificate, &self.key].map(|path| {
            let data = std::fs::metadata(path).ok()?;
            Some((data.modified().ok()?, data.len()))
        })
    }
}

fn read_pair(certificate: &Path, key: &Path, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, TlsError> {
    let unread = |what, path: &Path| {
        let path = path.to_owned();
        move |source| TlsError::Read { what, path, source }
    };
    let chain = CertificateDer::pem_file_iter(certificate).map_err(unread("a certificate", certificate))?;
    let chain = chain.collect::<Result<Vec<_>, _>>().map_err(unread("a certificate", certificate))?;
    if chain.is_empty() {
        return Err(TlsError::Empty { path: certificate.to_owned() });
    }
    let key = PrivateKeyDer::from_pem_file(key).map_err(unread("a private key", key))?;
    let pair = CertifiedKey::from_der(chain, key, provider);
    pair.map(Arc::new).map_err(|source| TlsError::Pair { path: certificate.to_owned(), source })
}
