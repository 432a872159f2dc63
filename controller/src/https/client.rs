//! Asking others of our own: over a connection that shows exactly the certificate that they have published.

use http::{Request, Response, header};
use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use kvmoor_crds::pinned::Endpoint;
use tokio_util::task::AbortOnDropHandle;

/// Does the work of a connection for as long as it is held.
pub type Connection = AbortOnDropHandle<Result<(), hyper::Error>>;

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
    let stream = endpoint.connect().await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = AbortOnDropHandle::new(tokio::spawn(connection));
    Ok((sender.send_request(request).await?, connection))
}
