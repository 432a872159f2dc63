//! A connection to a node controller that shows exactly the certificate in its Host.

use std::sync::Arc;
use std::time::Duration;

use hyper::body::{Body, Bytes};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use kvmoor_crds::Host;
use kvmoor_crds::agent::SERVER_NAME;
use kvmoor_crds::pinned;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tracing::Instrument;

use crate::error::BoxError;

/// Probes of a connection on which nothing comes, so that a console whose host is gone ends.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// A connection.
pub struct Connection<B, D> {
    /// Sends requests.
    pub sender: SendRequest<B>,
    /// Does the work; it is to be spawned.
    pub driver: D,
}

/// Connects. The caller has a deadline.
pub async fn open<B>(host: &Host) -> Result<Connection<B, impl Future<Output = ()> + Send + use<B>>, BoxError>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let status = host.status.as_ref().ok_or("the Host has no status")?;
    let address = status.addresses.first().ok_or("the Host has no address")?;
    let certificate = status.certificate.as_ref().ok_or("the Host has no certificate")?;
    let certificate = CertificateDer::from_pem_slice(certificate.as_bytes())?;
    let port = u16::try_from(address.port)?;
    let stream = TcpStream::connect((address.address.as_str(), port)).await?;
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE).with_retries(3);
    SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    let connector = TlsConnector::from(Arc::new(pinned::client(certificate)?));
    let stream = connector.connect(ServerName::try_from(SERVER_NAME)?, stream).await?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let driver = async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(error = %crate::error::describe(&error), "a connection to a host broke off");
        }
    };
    // What it logs is of the request that it was made for.
    let driver = driver.in_current_span();
    Ok(Connection { sender, driver })
}
