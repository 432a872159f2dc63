//! Connections to exactly the one who has published a certificate where only it may: its own, and no authority's.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, InvalidDnsNameError, ServerName, UnixTime, pem};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Probes of a connection on which nothing comes, so that one whose other end is gone ends.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// Somebody to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// A name or an address, of either family.
    pub address: String,
    /// The port.
    pub port: u16,
    /// The certificate, in PEM.
    pub certificate: String,
    /// The name that it is made for. What counts is the certificate itself.
    pub server_name: &'static str,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// What was published is no certificate.
    #[error("the published certificate cannot be read")]
    Certificate(#[source] pem::Error),
    /// The certificate's name is none.
    #[error("the certificate is made for no name")]
    Name(#[source] InvalidDnsNameError),
    /// TLS 1.3 is not to be had.
    #[error("TLS 1.3 is not to be had")]
    Tls(#[source] Error),
    /// Nobody is there, or another than who has the certificate's key.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl Endpoint {
    /// Connects to whoever has the certificate's key, and to nobody else. The caller has a deadline.
    ///
    /// # Errors
    /// If nobody is there, or another.
    pub async fn connect(&self) -> Result<TlsStream<TcpStream>, ConnectError> {
        let certificate =
            CertificateDer::from_pem_slice(self.certificate.as_bytes()).map_err(ConnectError::Certificate)?;
        let name = ServerName::try_from(self.server_name).map_err(ConnectError::Name)?;
        let connector = TlsConnector::from(Arc::new(client(certificate).map_err(ConnectError::Tls)?));
        let stream = TcpStream::connect((self.address.as_str(), self.port)).await?;
        stream.set_nodelay(true)?;
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE).with_retries(3);
        SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
        Ok(connector.connect(name, stream).await?)
    }
}

fn client(certificate: CertificateDer<'static>) -> Result<ClientConfig, Error> {
    let provider = Arc::new(ring::default_provider());
    let verifier = Arc::new(Pinned { certificate, provider: provider.clone() });
    let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13])?;
    Ok(config.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

/// Takes one certificate and no other. Its names and times say nothing: what counts is who may publish it.
#[derive(Debug)]
struct Pinned {
    certificate: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if *end_entity == self.certificate {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
        }
    }

    /// Never asked: only TLS 1.3 is spoken.
    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
    }

    /// That the other side has the certificate's key.
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rustls::ServerConfig;
    use rustls::pki_types::PrivateKeyDer;
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    const NAME: &str = "kvmoor-test";

    /// Listens at that address with a certificate of its own, and says where and with which.
    async fn listen(address: &str) -> Endpoint {
        let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config = config.with_protocol_versions(&[&rustls::version::TLS13]).unwrap().with_no_client_auth();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let acceptor =
            TlsAcceptor::from(Arc::new(config.with_single_cert(vec![made.cert.der().clone()], key).unwrap()));
        let listener = TcpListener::bind((address, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // Whether the other end likes it is for the other end to say.
                drop(acceptor.accept(stream).await);
            }
        });
        Endpoint { address: address.to_owned(), port, certificate: made.cert.pem(), server_name: NAME }
    }

    #[tokio::test]
    async fn only_who_has_the_published_certificate_is_connected_to() {
        let (right, other) = (listen("127.0.0.1").await, listen("127.0.0.1").await);
        right.connect().await.unwrap();
        let forged = Endpoint { certificate: other.certificate, ..right.clone() };
        assert!(matches!(forged.connect().await.unwrap_err(), ConnectError::Io(_)));
        let unreadable = Endpoint { certificate: "none".into(), ..right };
        assert!(matches!(unreadable.connect().await.unwrap_err(), ConnectError::Certificate(_)));
    }

    #[tokio::test]
    async fn addresses_of_both_families_are_connected_to() {
        listen("::1").await.connect().await.unwrap();
    }
}
