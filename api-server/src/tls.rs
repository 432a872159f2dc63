//! The server's own certificate, for where nothing in front of it speaks TLS. It is read again and again: what issues
//! certificates renews them in their files, and nobody's connection is to end for that.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio_rustls::TlsAcceptor;

/// What a file holds.
const CERT: &str = "certificate";
/// How often the files are read.
const EVERY: Duration = Duration::from_secs(10);

/// Where the certificate and its key are, as PEM.
#[derive(Debug, Clone, clap::Args)]
pub struct Files {
    /// File with the certificate chain (PEM) to serve HTTPS with, the server's own certificate first. Without it HTTP is
    /// served.
    #[arg(long, env = "KVMOOR_TLS_CERT", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// File with the private key (PEM) of the certificate.
    #[arg(long, env = "KVMOOR_TLS_KEY", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

/// Why a certificate cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{} is no PEM file with a {what}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
        /// What is wrong.
        source: pem::Error,
    },
    /// The certificate and the key do not belong together, or cannot be used.
    #[error("the certificate in {} and the key in {} do not make a pair", cert.display(), key.display())]
    Pair {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What is wrong.
        source: rustls::Error,
    },
    /// TLS cannot be set up at all.
    #[error("cannot set up TLS")]
    Setup(#[source] rustls::Error),
}

/// The certificate in use.
pub struct Certificate {
    cert: PathBuf,
    key: PathBuf,
    current: RwLock<Pair>,
}

#[derive(Clone)]
struct Pair {
    /// What was in the files.
    bytes: (Vec<u8>, Vec<u8>),
    parsed: Arc<CertifiedKey>,
}

impl Files {
    /// Reads them, if they are given.
    pub async fn load(self) -> Result<Option<Arc<Certificate>>, TlsError> {
        let (Some(cert), Some(key)) = (self.tls_cert, self.tls_key) else { return Ok(None) };
        let current = parse(&cert, &key, read(&cert, &key).await?)?;
        Ok(Some(Arc::new(Certificate { cert, key, current: RwLock::new(current) })))
    }
}

impl Certificate {
    /// What decrypts connections with it, and with what it will be.
    pub fn acceptor(self: Arc<Self>) -> Result<TlsAcceptor, TlsError> {
        let config = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        let mut config = config.map_err(TlsError::Setup)?.with_no_client_auth().with_cert_resolver(self);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    /// Reads the files for ever. While they are missing or make no pair, as in the middle of a renewal, the last one is
    /// served.
    pub async fn keep_current(&self) {
        let mut complained = None;
        loop {
            tokio::time::sleep(EVERY).await;
            match self.renew().await {
                Ok(false) => complained = None,
                Ok(true) => {
                    complained = None;
                    tracing::info!(path = %self.cert.display(), "the certificate was renewed");
                }
                Err(error) => {
                    let error = crate::error::describe(&error);
                    if complained.as_ref() != Some(&error) {
                        tracing::warn!(error, "the certificate stays as it was");
                    }
                    complained = Some(error);
                }
            }
        }
    }

    /// Takes what the files hold now; whether it is something else.
    async fn renew(&self) -> Result<bool, TlsError> {
        let bytes = read(&self.cert, &self.key).await?;
        if self.current().bytes == bytes {
            return Ok(false);
        }
        let pair = parse(&self.cert, &self.key, bytes)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = pair;
        Ok(true)
    }

    fn current(&self) -> Pair {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current().parsed)
    }
}

/// Without the key.
impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("cert", &self.cert).finish_non_exhaustive()
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

async fn read(cert: &Path, key: &Path) -> Result<(Vec<u8>, Vec<u8>), TlsError> {
    let read = async |path: &Path| {
        tokio::fs::read(path).await.map_err(|source| TlsError::Read { path: path.to_owned(), source })
    };
    Ok((read(cert).await?, read(key).await?))
}

fn parse(cert: &Path, key: &Path, bytes: (Vec<u8>, Vec<u8>)) -> Result<Pair, TlsError> {
    let bad = |path: &Path, what| {
        let path = path.to_owned();
        move |source| TlsError::Pem { path, what, source }
    };
    let chain = CertificateDer::pem_slice_iter(&bytes.0).collect::<Result<Vec<_>, _>>().map_err(bad(cert, CERT))?;
    if chain.is_empty() {
        return Err(bad(cert, CERT)(pem::Error::NoItemsFound));
    }
    let private = PrivateKeyDer::from_pem_slice(&bytes.1).map_err(bad(key, "private key"))?;
    let parsed = CertifiedKey::from_der(chain, private, &provider())
        .and_then(|pair| pair.keys_match().map(|()| pair))
        .map_err(|source| TlsError::Pair { cert: cert.to_owned(), key: key.to_owned(), source })?;
    Ok(Pair { bytes, parsed: Arc::new(parsed) })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Pem {
        dir: PathBuf,
    }

    impl Pem {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("kvmoor-tls-{}-{name}", std::process::id()));
            std::fs::create_dir_all(&dir).unwrap();
            Self { dir }
        }

        fn files(&self) -> Files {
            Files { tls_cert: Some(self.dir.join("tls.crt")), tls_key: Some(self.dir.join("tls.key")) }
        }

        fn write(&self, cert: &str, key: &str) {
            std::fs::write(self.dir.join("tls.crt"), cert).unwrap();
            std::fs::write(self.dir.join("tls.key"), key).unwrap();
        }
    }

    impl Drop for Pem {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.dir).unwrap();
        }
    }

    fn made() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    async fn refused(pem: &Pem) -> String {
        crate::error::describe(&pem.files().load().await.unwrap_err())
    }

    #[tokio::test]
    async fn what_is_wrong_is_named() {
        let pem = Pem::new("wrong");
        assert!(refused(&pem).await.starts_with("cannot read "));
        let ((cert, key), (_, other)) = (made(), made());
        pem.write("", &key);
        assert!(refused(&pem).await.contains("tls.crt is no PEM file with a certificate"));
        pem.write(&cert, &cert);
        assert!(refused(&pem).await.contains("tls.key is no PEM file with a private key"));
        pem.write(&cert, &other);
        assert!(refused(&pem).await.contains("do not make a pair"));
        pem.write(&cert, &key);
        pem.files().load().await.unwrap().unwrap().acceptor().unwrap();
    }

    #[tokio::test]
    async fn a_renewal_is_taken_and_half_of_one_is_not() {
        let pem = Pem::new("renewal");
        let ((cert, key), (new_cert, new_key)) = (made(), made());
        pem.write(&cert, &key);
        let certificate = pem.files().load().await.unwrap().unwrap();
        assert!(!certificate.renew().await.unwrap());
        let served = |certificate: &Certificate| certificate.current().parsed.cert.clone();
        let before = served(&certificate);
        pem.write(&new_cert, &key);
        certificate.renew().await.unwrap_err();
        assert_eq!(served(&certificate), before);
        pem.write(&new_cert, &new_key);
        assert!(certificate.renew().await.unwrap());
        assert_ne!(served(&certificate), before);
    }

    #[tokio::test]
    async fn none_given_is_none() {
        assert!(Files { tls_cert: None, tls_key: None }.load().await.unwrap().is_none());
    }
}
