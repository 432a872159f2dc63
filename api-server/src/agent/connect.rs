//! A connection to a node controller that shows exactly the certificate in its Host.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use kvmoor_crds::Host;
use kvmoor_crds::agent::SERVER_NAME;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::error::BoxError;

/// Probes of a connection on which nothing comes, so that a console whose host is gone ends.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// A connection.
pub struct Connection<D> {
    /// Sends requests.
    pub sender: SendRequest<Empty<Bytes>>,
    /// Does the work; it is to be spawned.
    pub driver: D,
}

/// Connects. The caller has a deadline.
pub async fn open(host: &Host) -> Result<Connection<impl Future<Output = ()> + Send + use<>>, BoxError> {
    let status = host.status.as_ref().ok_or("the Host has no status")?;
    let address = status.addresses.first().ok_or("the Host has no address")?;
    let certificate = status.certificate.as_ref().ok_or("the Host has no certificate")?;
    let certificate = CertificateDer::from_pem_slice(certificate.as_bytes())?;
    let port = u16::try_from(address.port)?;
    let stream = TcpStream::connect((address.address.as_str(), port)).await?;
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE).with_retries(3);
    SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    let connector = TlsConnector::from(Arc::new(tls(certificate)?));
    let stream = connector.connect(ServerName::try_from(SERVER_NAME)?, stream).await?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let driver = async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(error = %crate::error::describe(&error), "a connection to a host broke off");
        }
    };
    Ok(Connection { sender, driver })
}

fn tls(certificate: CertificateDer<'static>) -> Result<ClientConfig, Error> {
    let provider = Arc::new(ring::default_provider());
    let verifier = Arc::new(Pinned { certificate, provider: provider.clone() });
    let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13])?;
    Ok(config.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

/// Takes one certificate and no other. Its names and times say nothing: what counts is who may write it into the Host.
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
