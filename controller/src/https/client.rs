//! Asking others of our own: over a connection that shows exactly the certificate that they have published.

use std::sync::Arc;

use http::{Request, Response, header};
use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use kvmoor_crds::pinned;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

/// Does the work of a connection for as long as it is held.
pub type Connection = AbortOnDropHandle<Result<(), hyper::Error>>;

/// Somebody to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Address and port.
    pub address: String,
    /// The certificate, in PEM.
    pub certificate: String,
    /// The name that it is made for. What counts is the certificate itself.
    pub server_name: &'static str,
}

/// Gets what is at `path`, with a token as proof of oneself. The caller has a deadline.
///
/// # Errors
/// If there is no connection to whoever has the certificate's key, or it breaks off.
pub async fn get(
    endpoint: &Endpoint,
    path: &str,
    token: &str,
) -> Result<(Response<Incoming>, Connection), Box<dyn std::error::Error + Send + Sync>> {
    let request = Request::get(path)
        .header(header::HOST, endpoint.server_name)
        .header(header::AUTHORIZATION, format!("Bearer {}", token.trim()))
        .body(Empty::<Bytes>::new())?;
    let certificate = CertificateDer::from_pem_slice(endpoint.certificate.as_bytes())?;
    let stream = TcpStream::connect(&endpoint.address).await?;
    stream.set_nodelay(true)?;
    let connector = TlsConnector::from(Arc::new(pinned::client(certificate)?));
    let stream = connector.connect(ServerName::try_from(endpoint.server_name)?, stream).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = AbortOnDropHandle::new(tokio::spawn(connection));
    Ok((sender.send_request(request).await?, connection))
}
