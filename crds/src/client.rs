//! How every component talks to the Kubernetes API: each call has a deadline, and nothing is retried behind its back.
//!
//! kube has had no deadline of its own since 4.0, and by default it repeats what was answered with 429, 503 or 504 up to
//! fifteen times, whatever the method. A controller has a back-off of its own, and a REST request has somebody waiting,
//! so both want to hear of a failure soon.

use std::time::Duration;

use kube::client::ClientBuilder;
use kube::{Client, Config};
use tower::timeout::TimeoutLayer;

/// How long a component waits for the head of an answer unless it has a reason for another time. It is shorter than
/// the usual 10 s, so that a log tells whose deadline it was.
pub const DEADLINE: Duration = Duration::from_secs(9);

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Neither a kubeconfig nor a service account was found, or it cannot be read.
    #[error("cannot find out how to reach the Kubernetes API: set KUBECONFIG, or run in a pod")]
    Infer(#[source] kube::config::InferConfigError),
    /// What was found is not usable.
    #[error("cannot make a client of the Kubernetes API")]
    Build(#[source] kube::Error),
}

/// A client with the identity of the kubeconfig or, in a pod, of the service account. `deadline` bounds the time to
/// the head of each answer; the body of a watch may stay open for longer.
pub async fn connect(deadline: Duration) -> Result<Client, ConnectError> {
    let config = Config::infer().await.map_err(ConnectError::Infer)?;
    from_config(config, deadline).map_err(ConnectError::Build)
}

/// A client as [`connect`] makes it, from a configuration that is at hand.
pub fn from_config(mut config: Config, deadline: Duration) -> Result<Client, kube::Error> {
    config.default_retry = false;
    Ok(ClientBuilder::try_from(config)?.with_layer(&TimeoutLayer::new(deadline)).build())
}
