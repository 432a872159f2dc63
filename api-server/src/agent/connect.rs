//! A connection to a node controller that shows exactly the certificate in its Host.

use hyper::body::{Body, Bytes};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use kvmoor_crds::{Host, agent};
use tracing::Instrument;

use crate::error::BoxError;

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
    let stream = agent::endpoint(host)?.connect().await?;
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
