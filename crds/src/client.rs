//! How every component talks to the Kubernetes API: each call has a deadline, and nothing is retried behind its back.
//!
//! kube has had no deadline of its own since 4.0, and by default it repeats what was answered with 429, 503 or 504 up to
//! fifteen times, whatever the method. A controller has a back-off of its own, and a REST request has somebody waiting,
//! so both want to hear of a failure soon.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::{Method, Request, Response, StatusCode};
use kube::client::ClientBuilder;
use kube::{Client, Config};
use tower::Service;
use tower::layer::layer_fn;
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

/// Hears how calls end.
pub trait Observer: Send + Sync {
    /// A call was answered with that status, or not at all, after that time.
    fn called(&self, method: &Method, answer: Option<StatusCode>, took: Duration);
}

/// A client as [`connect`] makes it, with somebody who hears how its calls end.
pub async fn connect_observed(deadline: Duration, observer: Arc<dyn Observer>) -> Result<Client, ConnectError> {
    let mut config = Config::infer().await.map_err(ConnectError::Infer)?;
    config.default_retry = false;
    let builder = ClientBuilder::try_from(config).map_err(ConnectError::Build)?;
    let observed = layer_fn(|inner| Observed { inner, observer: Arc::clone(&observer) });
    Ok(builder.with_layer(&TimeoutLayer::new(deadline)).with_layer(&observed).build())
}

struct Observed<S> {
    inner: S,
    observer: Arc<dyn Observer>,
}

impl<S, B, A> Service<Request<B>> for Observed<S>
where
    S: Service<Request<B>, Response = Response<A>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (method, begin) = (request.method().clone(), Instant::now());
        let (observer, answer) = (Arc::clone(&self.observer), self.inner.call(request));
        Box::pin(async move {
            let answer = answer.await;
            observer.called(&method, answer.as_ref().ok().map(Response::status), begin.elapsed());
            answer
        })
    }
}

/// A client as [`connect`] makes it, from a configuration that is at hand.
pub fn from_config(mut config: Config, deadline: Duration) -> Result<Client, kube::Error> {
    config.default_retry = false;
    Ok(ClientBuilder::try_from(config)?.with_layer(&TimeoutLayer::new(deadline)).build())
}
